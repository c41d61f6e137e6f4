"""The flags that the original's manifests pass start our daemons unchanged, but for the paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemeter.config.server_options import Options as ServerOptions
from telemeter.tap import authorizer as stub
from telemeter.tap import client as agent
from telemeter.tap import server as central
from tests.fakes import Log
from tests.net.test_tls import certificate, pem
from tests.tap.world import FakeReactor

#: Of the server as the template deploys it. What is in $() comes from the environment.
SERVER = (
    "--listen=127.0.0.1:8443 --listen-internal=127.0.0.1:8081 --shared-key={files}/tls.key "
    "--tls-key={files}/tls.key --tls-crt={files}/tls.crt --internal-tls-key={files}/tls.key "
    "--internal-tls-crt={files}/tls.crt --authorize=$(AUTHORIZE_URL) --oidc-issuer=$(OIDC_ISSUER) "
    "--client-id=$(CLIENT_ID) --client-secret=$(CLIENT_SECRET) "
    "--memcached=memcached-0.memcached.telemeter.svc.cluster.local:11211 "
    "--memcached=memcached-1.memcached.telemeter.svc.cluster.local:11211 "
    '--whitelist={__name__=~"cluster:usage:.*"} --whitelist={__name__="count:up0"} '
    '--whitelist={__name__="alerts",alertstate="firing"} --elide-label=prometheus_replica'
)
#: Of the server for its benchmark.
BENCHMARK = (
    "--listen=127.0.0.1:8080 --listen-internal=127.0.0.1:8081 --shared-key={files}/tls.key "
    "--authorize=http://localhost:8083 --forward-url=http://benchmark-thanos-receive-default."
    "telemeter-benchmark.svc:19291/api/v1/receive "
    '--whitelist={__name__=~"cluster:usage:.*"} --whitelist={__name__="count:up0"}'
)
#: Of the server in its integration test.
INTEGRATION = (
    "--ratelimit=15s --authorize http://localhost:9001 --shared-key={files}/tls.key "
    '--listen localhost:9003 --listen-internal localhost:9004 --whitelist {_id="test"} '
    "--elide-label _elide --memcached=localhost:11211 "
    "--forward-url=http://localhost:9005/api/v1/receive -v"
)
#: Of the agent as OpenShift deploys it.
CLIENT = (
    "--id=$(ID) --from=$(FROM) --tls-cert-file={files}/tls.crt "
    "--tls-private-key-file={files}/tls.key --from-ca-file={files}/tls.crt "
    "--from-token-file={files}/token --to=$(TO) --to-token-file={files}/token "
    "--listen=localhost:8080 --anonymize-salt-file={files}/salt "
    "--anonymize-labels=$(ANONYMIZE_LABELS)"
)
#: Of the agent in the integration test.
CLIENT_INTEGRATION = (
    "--from http://localhost:9090 --to http://localhost:9003 --id test --to-token a --interval 5s "
    "--anonymize-labels instance --anonymize-salt a-unique-value "
    "--rename ALERTS=alerts --rename openshift_build_info=build_info "
    "--rename scrape_samples_scraped=scraped "
    '--match {__name__="ALERTS",alertstate="firing"} --match {__name__="scrape_samples_scraped"}'
)
#: What the manifests leave empty.
EMPTY = ("AUTHORIZE_URL", "OIDC_ISSUER", "CLIENT_ID", "CLIENT_SECRET", "ID", "ANONYMIZE_LABELS")
URLS = {
    "FROM": "https://prometheus-k8s.openshift-monitoring.svc:9092",
    "TO": "https://infogw.api.openshift.com",
}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifests set these to nothing."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv(name, "")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "tls.key").write_bytes(pem("ec"))
    (tmp_path / "tls.crt").write_bytes(certificate("ec"))
    (tmp_path / "token").write_text("token\n")
    (tmp_path / "salt").write_text("salt\n")
    (tmp_path / "tokens.json").write_text('[{"token": "a"}]')
    return tmp_path


def flags_of(line: str, files: Path, **values: str) -> list[str]:
    line = line.replace("{files}", str(files))
    for name, value in {**dict.fromkeys(EMPTY, ""), **URLS, **values}.items():
        line = line.replace(f"$({name})", value)
    assert "$(" not in line
    return line.split()


def server(line: str, files: Path, **values: str) -> ServerOptions:
    options = ServerOptions()
    options.parseOptions(flags_of(line, files, **values))
    central.makeService(options, FakeReactor())
    return options


def client(line: str, files: Path, **values: str) -> agent.Options:
    options = agent.Options()
    options.parseOptions(flags_of(line, files, **values))
    agent.makeService(options, FakeReactor())
    return options


def test_the_server_with_nothing_filled_in(files: Path, log: Log) -> None:
    options = server(SERVER, files)
    assert (options["authorize"], options["oidc-issuer"]) == ("", "")
    assert len(options.config.samples.whitelist.selectors) == 3
    assert len(log.of("--authorize is empty, and counts as not given")) == 1


def test_the_server(files: Path, log: Log) -> None:
    options = server(
        SERVER,
        files,
        AUTHORIZE_URL="https://api.openshift.com/api/accounts_mgmt/v1/cluster_registrations",
        OIDC_ISSUER="https://sso.redhat.com/auth/realms/redhat-external",
        CLIENT_ID="telemeter",
        CLIENT_SECRET="secret",
    )
    assert options["client-id"] == "telemeter"
    assert "is empty" not in "".join(log.lines)


@pytest.mark.parametrize("line", [BENCHMARK, INTEGRATION], ids=["benchmark", "integration"])
def test_other_servers(line: str, files: Path) -> None:
    assert server(line, files)["authorize"].startswith("http://localhost:")


def test_the_agent_with_nothing_filled_in(files: Path, log: Log) -> None:
    options = client(CLIENT, files)
    assert (options["id"], options["anonymize-labels"]) == ("", [])
    assert len(log.of("--anonymize-labels is empty, and counts as not given")) == 1


def test_the_agent(files: Path, log: Log) -> None:
    identifier = "2f6b4a3e-4a7e-4b44-9c43-2a1c3f0e5d6b"
    options = client(CLIENT, files, ID=identifier, ANONYMIZE_LABELS="instance,pod")
    assert options["anonymize-labels"] == ["instance", "pod"]
    sending = options.config.sending
    assert sending is not None
    assert sending.authorize_url == f"https://infogw.api.openshift.com/authorize?id={identifier}"
    assert "is empty" not in "".join(log.lines)
    assert client(CLIENT_INTEGRATION, files)["interval"] == 5


def test_the_stub_authorization_server(files: Path) -> None:
    options = stub.Options()
    options.parseOptions(["localhost:8083", str(files / "tokens.json")])
    assert options["listen"] == "localhost:8083"
