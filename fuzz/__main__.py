"""Hostile input for every decoder: `python -m fuzz` or `make fuzz`.

Each target is a process of its own. With atheris, inputs are made by what they reach; without it,
by chance alone. Kept inputs come first. An input that breaks a promise is written down, and the
exit status is 1; `python -m fuzz FILE...` tries such files again.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import math
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz import corpus, quiet
from fuzz.blind import Slate
from fuzz.guided import Guide
from fuzz.target import Target
from fuzz.targets import TARGETS

ROOT: Final = Path(__file__).parents[1]
_SECONDS: Final = 60.0
#: How many seconds all targets together take in a short run, roughly: most go to start processes.
_QUICK_SECONDS: Final = 30.0
#: After so many seconds without a new input, one takes too long: it may never end.
_STUCK: Final = 60.0
_MEMORY_MB: Final = 2048
_LINES: Final = 25
_BEGIN, _END = "<!-- fuzz -->", "<!-- /fuzz -->"
_NO_ATHERIS: Final = (
    "atheris is not installed (pip install '.[fuzz]'): inputs are made by chance, not by what they "
    "reach"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a target.

    Attributes:
        target: its name.
        runs: how many inputs it was fed.
        seconds: how long that took.
        fault: what was said of a broken promise; empty: none was.
    """

    target: str
    runs: int
    seconds: float
    fault: str = ""


# --- By chance ------------------------------------------------------------------------------------


def run_blind(target: Target, seconds: float, runs: int, seed: int) -> Outcome:
    """Feed a target in a process of its own, by chance."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        slate, said = Path(folder, "slate"), Path(folder, "said")
        command = [sys.executable, "-m", "fuzz.blind", target.name, "--slate", str(slate)]
        command += ["--seconds", str(seconds), "--runs", str(runs), "--seed", str(seed)]
        with said.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
            why = _wait(process, slate)
        number, data = Slate.read(slate) if slate.exists() else (0, b"")
        if not process.returncode:
            return Outcome(target.name, number, time.monotonic() - began)
        text = "\n".join(said.read_text(errors="replace").splitlines()[-_LINES:])
    path = corpus.keep_found(target.name, data)
    fault = f"{text}\n{why or f'exit status {process.returncode}'}\n{_shown(path)}"
    return Outcome(target.name, number, time.monotonic() - began, fault)


def _shown(path: Path) -> str:
    """Return where an input is, and what it is: where this runs, files may not be kept."""
    return f"the input is in {path}, in base64: {base64.b64encode(path.read_bytes()).decode()}"


def _wait(process: subprocess.Popen[bytes], slate: Path) -> str:
    """Wait until a process ends; end it if it is stuck, and say so."""
    last, since = -1, time.monotonic()
    while True:
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            number = Slate.read(slate)[0] if slate.exists() else -1
            if number != last:
                last, since = number, time.monotonic()
            elif time.monotonic() - since > _STUCK:
                process.kill()
                process.wait()
                return f"an input takes longer than {_STUCK:.0f} seconds"
        else:
            return ""


# --- By what is reached ---------------------------------------------------------------------------


def run_guided(guide: Guide, target: Target, seconds: float, runs: int, seed: int) -> Outcome:
    """Have atheris feed a target; new inputs stay in `.fuzz`."""
    began = time.monotonic()
    work = corpus.WORK / target.name
    corpus.write(work, target.seeds())
    corpus.FOUND.mkdir(parents=True, exist_ok=True)
    before = set(corpus.FOUND.iterdir())
    with tempfile.TemporaryDirectory() as folder:
        options = [*_options(target, Path(folder)), f"-max_total_time={math.ceil(seconds)}"]
        options += [f"-runs={runs or -1}", f"-seed={seed}", f"-timeout={_STUCK:.0f}"]
        options += [f"-rss_limit_mb={_MEMORY_MB}", "-print_final_stats=1"]
        options += [f"-artifact_prefix={corpus.FOUND}/{target.name}-", str(work)]
        options += [str(each) for each in corpus.folders(target.name) if each.is_dir()]
        said = Path(folder, "said")
        status = guide.run(target.name, options, said)
        text = said.read_text(errors="replace")
    counted = re.search(r"number_of_executed_units: *(\d+)", text)
    number = int(counted[1]) if counted else 0
    if number and not status:
        return Outcome(target.name, number, time.monotonic() - began)
    found = map(_shown, set(corpus.FOUND.iterdir()) - before)
    lines = [line for line in text.splitlines() if not re.match(r"#\d+|stat::|INFO:", line)]
    fault = "\n".join([*lines[-2 * _LINES :], f"exit status {status}", *found])
    return Outcome(target.name, number, time.monotonic() - began, fault)


def _options(target: Target, folder: Path) -> list[str]:
    """Return the options of libFuzzer that go with a target."""
    words = folder / "words"
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words if len(word) < 64)
    words.write_text("".join(f'"{line}"\n' for line in lines))
    return [f"-max_len={target.longest}", f"-dict={words}"]


def keep(guide: Guide, target: Target) -> int:
    """Make the kept corpus of a target anew, as small as reaches the same; return its size.

    It is made of what is kept and of what runs have left.
    """
    kept = corpus.KEPT / target.name
    inputs = [*corpus.read(kept), *target.seeds(), *corpus.read(corpus.WORK / target.name)]
    with tempfile.TemporaryDirectory() as folder:
        old, new, said = (Path(folder, name) for name in ("old", "new", "said"))
        corpus.write(old, inputs)
        new.mkdir()
        options = [*_options(target, Path(folder)), "-merge=1", str(new), str(old)]
        if guide.run(target.name, options, said):
            raise RuntimeError(said.read_text(errors="replace")[-2000:])
        smallest = corpus.read(new)
    for path in kept.iterdir() if kept.is_dir() else ():
        path.unlink()
    corpus.write(kept, smallest)
    return sum(map(len, smallest))


# --- Command line ---------------------------------------------------------------------------------


def replay(paths: Sequence[Path]) -> int:
    """Try files again that a run has written down; their names begin with that of the target."""
    for path in paths:
        names = [name for name in TARGETS if path.name.startswith(f"{name}-")]
        target = TARGETS[max(names, key=len) if names else path.parent.name]
        print(f"{target.name}: {path}")
        target.check(path.read_bytes())
    return 0


def write_page(page: Path, outcomes: Sequence[Outcome], how: str) -> None:
    """Write the table into a page, between its two comments."""
    text = page.read_text()
    if _BEGIN not in text:
        raise ValueError(f"{page} has no place for the figures: {_BEGIN}")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    rows = "\n".join(
        f"| `{each.target}` | {each.runs:,} | {each.seconds:.0f} |" for each in outcomes
    )
    head = "| target | inputs | seconds |\n| --- | --- | --- |"
    total = f"| all | {sum(each.runs for each in outcomes):,} | |"
    page.write_text(f"{before}{_BEGIN}\n{how}\n\n{head}\n{rows}\n{total}\n{_END}{after}")


def feed(
    targets: Sequence[Target],
    guides: Sequence[Guide],
    jobs: int,
    seconds: float,
    runs: int,
    seed: int,
) -> Iterator[Outcome]:
    """Feed targets, some at a time, and yield what becomes of them, in their order.

    Args:
        targets: what is fed.
        guides: what has atheris do it; none: it is done by chance.
        jobs: how many at a time.
        seconds: for each; 0: as long as it takes.
        runs: how many inputs for each; 0: as many as there is time for.
        seed: what is made by chance depends on it.
    """
    free: queue.SimpleQueue[Guide] = queue.SimpleQueue()
    for guide in guides:
        free.put(guide)

    def run(target: Target) -> Outcome:
        if not guides:
            return run_blind(target, seconds, runs, seed)
        guide = free.get()
        try:
            return run_guided(guide, target, seconds, runs, seed)
        finally:
            free.put(guide)

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(run, targets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Feed the targets; return 1 if one has broken a promise."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="inputs to try again, and nothing else")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one")
    parser.add_argument("--seconds", type=float, default=0.0, help="for each target")
    parser.add_argument("--runs", type=int, default=0, help="so many inputs for each, at most")
    parser.add_argument("--seed", type=int, default=0, help="by chance: decides on all inputs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--quick", action="store_true", help="about a minute in all")
    parser.add_argument("--by-chance", action="store_true", help="also where atheris is installed")
    parser.add_argument("--keep", action="store_true", help="make the kept corpus anew")
    parser.add_argument("--page", type=Path, help="the page to write good figures into")
    given = parser.parse_args(arguments)
    if given.files:
        return replay(given.files)
    targets = [TARGETS[name] for name in given.target or TARGETS]
    if given.keep:
        with Guide() as guide:
            for target in targets:
                print(f"{target.name}: {keep(guide, target)} bytes", flush=True)
        return 0
    is_guided = importlib.util.find_spec("atheris") is not None and not given.by_chance
    if not is_guided and not given.by_chance:
        print(_NO_ATHERIS, flush=True)
    seconds = given.seconds or (0.0 if given.runs else _SECONDS)
    if given.quick:
        seconds = given.jobs * _QUICK_SECONDS / len(TARGETS)
    outcomes = []
    with ExitStack() as stack:
        guides = [stack.enter_context(Guide()) for _ in range(given.jobs)] if is_guided else []
        for outcome in feed(targets, guides, given.jobs, seconds, given.runs, given.seed):
            outcomes.append(outcome)
            speed = outcome.runs / max(outcome.seconds, 0.001)
            verdict = "FAULT" if outcome.fault else "ok"
            figures = f"{outcome.runs:10,} inputs {speed:8,.0f}/s"
            print(f"{outcome.target:18} {figures}  {verdict}", flush=True)
    faults = [each for each in outcomes if each.fault]
    for each in faults:
        print(f"\n== {each.target}\n{each.fault}")
    total = sum(each.runs for each in outcomes)
    way = "by what they reach (atheris)" if is_guided else "by chance"
    print(f"{total:,} inputs made {way}; {len(faults)} of {len(outcomes)} targets broke a promise")
    if given.page is not None and not faults:
        how = f"`python -m fuzz {' '.join(sys.argv[1:])}`, inputs made {way}:"
        write_page(given.page, outcomes, how)
    return 1 if faults else 0


if __name__ == "__main__":
    quiet.begin()
    sys.exit(main())
