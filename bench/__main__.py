"""What a request costs, next to other programs: `python -m bench` or `make bench`.

Prints the tables. With `--page` it also writes them into a page, between its two comments, and the
plot beside it. With `--quick` (`make bench QUICK=1`) it only shows that everything works: the
figures mean little then.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import agent, nginx, plan, plot, processes, report
from bench.measure import Bench
from demo.__main__ import stop_on_signals
from demo.stack import Stack, StackError
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEEDED = {"wrk": "wrk", "nginx": "nginx-light", "vmagent": "victoria-metrics"}


def machine() -> processes.Machine:
    """Describe this machine."""
    cpu = processes.parse_cpu_model(Path("/proc/cpuinfo").read_text())
    return processes.Machine(cpu, len(os.sched_getaffinity(0)), platform.python_version())


def measure(which: plan.Plan) -> report.Measured:
    """Measure everything of a plan.

    Raises:
        StackError: a program did not do what it should.
    """
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", file=sys.stderr, flush=True)

    others = processes.Others()
    with Stack("telemeter-bench-") as stack:
        results = iter(list(Bench(stack, say).run(which)))
    say("the agent's cycles")
    cycles = [
        agent.measure(rounds=which.agent_rounds, anonymizing=hides) for hides in (False, True)
    ]
    return report.Measured(
        [next(results) for _ in which.requests],
        [next(results) for _ in which.large],
        [next(results) for _ in which.rules],
        cycles,
        machine(),
        others.processors(),
        time.strftime("%Y-%m-%d", time.gmtime(SYSTEM_WALL_CLOCK.now())),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    parser.add_argument("--page", type=Path, help="the page to write the results into")
    given = parser.parse_args(arguments)
    page: Path | None = given.page
    missing = [p for command, p in _NEEDED.items() if not shutil.which(command, path=nginx.PATH)]
    if missing:
        print(f"the benchmark needs more: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    stop_on_signals()
    try:
        measured = measure(plan.quick() if given.quick else plan.full())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (StackError, OSError) as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    picture = plot.render(report.panels(measured))
    if page is None:
        print(report.markdown(measured, "performance.svg"))
        return 0
    picture_path = page.with_suffix(".svg")
    text = report.markdown(measured, picture_path.name)
    print(text)
    page.write_text(report.replace_measured(page.read_text(), text))
    picture_path.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
