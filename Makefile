# Everything runs in a virtual environment in .venv, which is made on first use and made anew when
# the package's dependencies change.

PYTHON ?= python3
# For pytest, for example: make test ARGS="-k selector -x"
ARGS ?=
# ONCE=1 ends the demo as soon as everything has arrived; TLS=1 encrypts and authenticates every hop.
# SOURCE=builtin shows it without a Prometheus, also where there is one.
ONCE ?=
TLS ?=
SOURCE ?=
# QUICK=1 only shows that the benchmark works, and writes nothing; of the matrix, of the bad day and of
# the hostile input it runs a part.
QUICK ?=
# Only one target of the fuzzing, and for how many seconds each: make fuzz TARGET=text SECONDS=600
TARGET ?=
SECONDS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
PROTO := telemeter/samples/proto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-matrix check-lowest coverage screenshots check news bench chaos fuzz proto clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: NEEDS := $(if $(TLS),prometheus=prometheus node=nodejs npm=npm)
demo: .venv/.run ## Show the whole path live on real input (ONCE=1: end when done; TLS=1: secure; SOURCE=builtin)
	@demo/need.sh commands $(NEEDS)
	@$(BIN)/python -m demo $(if $(TLS),--tls) $(if $(ONCE),--once) $(if $(SOURCE),--source $(SOURCE))

NEEDS_OF_TESTS := prometheus=prometheus promtool=prometheus victoria-metrics=victoria-metrics vmagent=victoria-metrics
NEEDS_OF_TESTS += memcached=memcached systemd-analyze=systemd tinyproxy=tinyproxy-bin haproxy=haproxy
NEEDS_OF_TESTS += logrotate=logrotate faketime=faketime openssl=openssl
NEEDS_OF_TESTS += prometheus-node-exporter=prometheus-node-exporter
NEEDS_OF_TESTS += node=nodejs npm=npm chromium=chromium

test: NEEDS := $(NEEDS_OF_TESTS)
test: .venv/.test ## Run all tests (ARGS="..." for pytest)
	@demo/need.sh commands $(NEEDS)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

# The unit tests that differ most without compiled modules.
QUICK_MATRIX := tests/web tests/agent tests/server tests/upstream

test-matrix: NEEDS := $(NEEDS_OF_TESTS)
test-matrix: .venv/.dev ## Run all tests on every Python here, compiled or not, with old and new libraries
	@$(if $(QUICK),,demo/need.sh commands $(NEEDS))
	$(BIN)/nox --no-error-on-missing-interpreters $(if $(QUICK),--session python_alone -- --numprocesses 2 $(QUICK_MATRIX),$(if $(ARGS),-- $(ARGS)))

coverage: NEEDS := $(NEEDS_OF_TESTS)
coverage: .venv/.test ## Run all tests, and show which lines and branches they reach
	@demo/need.sh commands $(NEEDS)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report term $(ARGS)

screenshots: NEEDS := chromium=chromium node=nodejs npm=npm
screenshots: .venv/.test ## Take the pictures in docs/images anew
	@demo/need.sh commands $(NEEDS)
	SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser

check: .venv/.dev ## Lint, formatting, types, news
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/towncrier build --draft > /dev/null

check-lowest: .venv/.dev ## What check does, and tests of Twisted's private names, with the lowest versions of the libraries
	$(BIN)/nox --session check_lowest

news: .venv/.dev ## Show what is new since the last release
	@$(BIN)/towncrier build --draft

bench: NEEDS := wrk=wrk nginx=nginx-light vmagent=victoria-metrics
bench: .venv/.run ## Measure, and write docs/performance.md and the recovery in docs/agent.md (QUICK=1: see that it works)
	@demo/need.sh commands $(NEEDS)
	@$(BIN)/python -m bench $(if $(QUICK),--quick,--page docs/performance.md)
	@$(BIN)/python -m bench.recovery $(if $(QUICK),--agents 300,--page docs/agent.md)

chaos: NEEDS := victoria-metrics=victoria-metrics prometheus=prometheus memcached=memcached nginx=nginx-light
chaos: NEEDS += prometheus-node-exporter=prometheus-node-exporter faketime=faketime
chaos: .venv/.run ## Break things while senders write, and show that nothing acknowledged is lost (QUICK=1: some of it)
	@demo/need.sh commands $(NEEDS)
	@$(BIN)/python -m chaos $(if $(QUICK),--quick,--page docs/reliability.md)
	@$(if $(QUICK),,$(BIN)/python -m chaos.gaps --page docs/reliability.md)
	@$(if $(QUICK),,$(BIN)/python -m chaos.soak --page docs/reliability.md)

fuzz: .venv/.fuzz ## Feed every decoder hostile input (TARGET=NAME, SECONDS=N each; QUICK=1: a minute in all)
	@$(BIN)/python -m fuzz $(if $(QUICK),--quick) $(if $(TARGET),--target $(TARGET)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(QUICK)$(TARGET),,--page docs/security.md)

proto: .venv/.dev ## Generate the protobuf code anew
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. $(PROTO)/*.proto

clean: ## Remove what was built
	rm -rf .venv .nox build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .fuzz _trial_temp
	rm -f twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made: setup.py pyproject.toml demo/need.sh
	@demo/need.sh venv .venv $(PYTHON) $(NEEDS)
	@touch $@

.venv/.run: .venv/.made
	@echo "installing telemeter[demo] into .venv"
	@$(PIP) --editable '.[demo]'
	@touch $@

# There are wheels of atheris for few Pythons; without it, inputs are made by chance. The next time it
# is tried again.
.venv/.fuzz: .venv/.test
	@echo "installing telemeter[fuzz] into .venv"
	@if $(PIP) --editable '.[fuzz]'; then touch $@; \
	else echo "atheris cannot be installed here, see above: going on without it"; fi

.venv/.test .venv/.dev: .venv/.%: .venv/.made
	@echo "installing telemeter[$*] into .venv"
	@$(PIP) --editable '.[$*]'
	@touch $@
