"""Runs the steps of `make test`, even if one fails, and prints the time of each and how many cores it used.

At the end it lists the ten slowest tests of all pytest runs.

A step is a target of the Makefile, or several joined by commas, of which two run at a time: while one waits, the other
computes. There are two exceptions. "test-python" is one pytest run for each suite, which is a folder of `tests`. The
suites that search for broken promises need time rather than speed: they run beside all other steps, on cores that those
leave idle, and their results come last. "check" is a set of quick checks, which run in parallel and take less than a
minute. The acceptance suite runs twice: with server and gateway in one process, then with a standalone gateway.
`tests/host` is not included: it needs root and has its own command.
"""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest"]
FEW = ["-n", "2", "--dist", "worksteal"]
"""Workers of one of two runs at the same time."""
WORKERS = ["-n", "4", "--dist", "worksteal"]
"""More workers than cores: most of a test is waiting for processes."""
AT_ONCE = 2
"""Commands of a step that run at the same time."""
ACCEPTANCE = Path("tests/acceptance")
APART = ["env", "SERVED_APART=1"]
ONE_PROCESS = [
    *("test_three_nodes.py", "test_bounds.py", "test_memory_of_mixes.py", "test_memory_of_refusals.py"),
    *("test_embedded_server.py", "test_hostile_flood.py", "test_raft_metrics.py", "test_run_in_docker.py"),
    *("test_grpcurl.py", "test_identity_provider.py", "test_known_defects_lost_work.py", "test_many_tenants.py"),
    *("test_callbacks.py", "test_known_defects_scale.py", "test_readme.py", "test_schedules.py", "test_signals.py"),
    *("test_known_defects_isolation.py", "test_known_defects_task_life.py", "test_audit.py", "test_expiry.py"),
    *("test_task_keys.py", "test_tenants.py", "test_operators.py", "test_topics.py", "test_task_control.py"),
    *("test_key_limits.py", "test_dead_letters.py", "test_purge.py", "test_queue_limits.py", "test_snooze.py"),
    *("test_metrics_by_command.py",),
]
"""Acceptance tests that run once: with a server process of their own, or about work of the server's that no gateway
changes; the others are about calls, bodies, waits, streams and limits, which a standalone gateway hands on."""
SEARCHES = [Path("tests/model"), Path("tests/sim"), Path("tests/simcluster")]
"""Suites whose time is simulated, so that waiting for a core fails none of them."""
LAST_IN_LINE = ["nice", "-n", "19"]
SEARCH_SECONDS_MAX = 3600
"""Bound of a test that gets only idle cores."""
LONGEST = ["tests/integration", "tests/acceptance", "tests/faults", "tests/sdk"]
"""Suites that begin first, so that none of them runs alone at the end."""
QUICK = ["tests/unit", "tests/raft/test_raft_apply.py"]
SHORT_SEARCH = ["env", "CODEQ_SEARCH_SECONDS=0", "CODEQ_MODEL_ROUNDS=1", "CODEQ_MODEL_EXAMPLES=60"]
COMPILED = ["tests/unit", "tests/gateway", "tests/acceptance", "tests/integration/test_wheels.py"]
"""Suites that `make test-compiled` runs on extensions, besides the model and the simulated node."""
COMPILED_QUICK = ["tests/unit", "tests/gateway", "tests/acceptance/test_contract_task_life.py"]
SLOWEST = 10


class Command(NamedTuple):
    """A command, and its name in the results."""

    title: str
    argv: list[str]


class Step(NamedTuple):
    """Commands of which several run at a time, and whether the next steps begin while they run."""

    commands: list[Command]
    beside_others: bool = False


class Outcome(NamedTuple):
    """The end of a command."""

    title: str
    seconds: float
    cores: float
    status: int


def suites() -> list[Path]:
    """Returns the folders with Python tests that do not need root, sorted by name."""
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    return [Path("tests", name) for name in sorted(folders - {"host"})]


def test_python() -> list[Command]:
    """Returns a command for each suite, those that take longest first."""
    names = [suite.as_posix() for suite in suites() if suite not in SEARCHES]
    names = [*LONGEST, *(name for name in names if name not in LONGEST)]
    apart = [*APART, *PYTEST, *FEW, ACCEPTANCE.as_posix()]
    apart += [f"--ignore={ACCEPTANCE}/{module}" for module in ONE_PROCESS]
    commands = [Command(name, [*PYTEST, *FEW, name]) for name in names]
    commands.insert(len(LONGEST), Command(f"{ACCEPTANCE}, standalone gateway", apart))
    return commands


def steps(names: list[str]) -> list[Step]:
    """Returns the steps with these names."""
    planned: list[Step] = []
    for name in names:
        if name == "check":
            short = [*SHORT_SEARCH, *PYTEST, "-n", "0", "tests/model", "-k", "reference_model"]
            quick = [*PYTEST, "-n", "2", "--dist", "worksteal", *QUICK]
            told = [("lint", ["make", "lint-changed"]), ("tests", quick), ("search", short)]
            planned.append(Step([Command(*each) for each in told]))
        elif name == "compiled":
            planned += [Step([Command(f"{suite}, compiled", [*PYTEST, *WORKERS, suite])]) for suite in COMPILED]
            for suite in ("tests/model", "tests/sim"):
                planned.append(Step([Command(f"{suite}, compiled", [*PYTEST, suite])]))
        elif name == "compiled-quick":
            quick = [*PYTEST, *WORKERS, *COMPILED_QUICK]
            planned.append(Step([Command(f"{' '.join(COMPILED_QUICK)}, compiled", quick)]))
            model = [*SHORT_SEARCH, *PYTEST, "-n", "2", "--dist", "worksteal", "tests/model"]
            nodes = [sys.executable, "tests/sim/sim_run.py", "--count", "20"]
            planned.append(Step([Command("tests/model, compiled", model), Command("tests/sim, compiled", nodes)]))
        else:
            targets, commands = name.split(","), list[Command]()
            for target in targets:
                commands += test_python() if target == "test-python" else [Command(target, ["make", target])]
            if "test-python" in targets:
                patient = [*LAST_IN_LINE, *PYTEST, f"--timeout={SEARCH_SECONDS_MAX}"]
                searches = [Command(f"{each}, beside all others", [*patient, each.as_posix()]) for each in SEARCHES]
                planned.insert(0, Step(searches, beside_others=True))
            planned.append(Step(commands))
    return planned


def run(command: Command, argv: list[str], output: Path) -> Outcome:
    """Runs a command, and prints its output once it has ended."""
    begin = time.monotonic()
    with output.open("wb") as log:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)  # tells what this one used, unlike `wait`
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begin
    print(f"\n=== {command.title}\n{output.read_text(errors='replace')}", end="", flush=True)
    return Outcome(command.title, seconds, (used.ru_utime + used.ru_stime) / seconds, process.returncode)


def durations(reports: Path) -> Iterator[tuple[float, str]]:
    """Yields seconds and name of each test in the reports of a folder."""
    for report in reports.iterdir():
        for case in ElementTree.parse(report).iter("testcase"):
            yield float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}"


def main(names: list[str]) -> int:
    """Runs the steps; returns 1 if a command failed."""
    outcomes: list[Outcome] = []
    beside: list[Future[Outcome]] = []
    all_began, numbers = time.monotonic(), count()
    with TemporaryDirectory() as folder, ThreadPoolExecutor(len(SEARCHES)) as others:
        reports = Path(folder, "reports")
        reports.mkdir()

        def start(pool: ThreadPoolExecutor, command: Command) -> Future[Outcome]:
            number = next(numbers)
            report = [f"--junitxml={reports}/{number}.xml"] if "pytest" in command.argv else []
            return pool.submit(run, command, [*command.argv, *report], Path(folder, f"{number}.log"))

        for step in steps(names):
            if step.beside_others:
                beside += [start(others, command) for command in step.commands]
                continue
            with ThreadPoolExecutor(AT_ONCE) as pool:
                outcomes += [each.result() for each in [start(pool, command) for command in step.commands]]
        outcomes += [each.result() for each in beside]
        slowest = heapq.nlargest(SLOWEST, durations(reports))
    print("\n    seconds  slowest tests")
    for seconds, name in slowest:
        print(f"    {seconds:7.1f}  {name}")
    print("\n    seconds  cores  step")
    for title, seconds, cores, status in outcomes:
        print(f"{'ok' if status == 0 else 'BAD':>3} {seconds:7.1f}  {cores:5.2f}  {title}")
    print(f"    {time.monotonic() - all_began:7.1f}         total")
    return int(any(outcome.status for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
