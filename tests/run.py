"""Runs the steps of `make test` in sequence, even if one fails, and prints the time of each and how many cores it used.

At the end it lists the ten slowest tests of all pytest runs.

A step is a target of the Makefile, or several that run in parallel, joined by commas. There are two exceptions.
"test-python" is one pytest run for each suite, which is a folder of `tests`; some that mostly wait run in parallel. The
suites that search for broken promises need time rather than speed: they run beside all other steps, on cores that those
leave idle, and their results come last. "check" is a set of quick checks, which run in parallel and take less
than a minute. The acceptance suite runs twice: with server and gateway in one process, then with a standalone gateway.
`tests/host` is not included: it needs root and has its own command.
"""

from __future__ import annotations

import heapq
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest"]
WORKERS = ["-n", "4", "--dist", "worksteal"]
"""More workers than cores: most of a test is waiting for processes."""
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
WAITING = [
    [Path("tests/bench"), Path("tests/traces"), Path("tests/loadtest"), Path("tests/schema")],
    [Path("tests/sdk"), Path("tests/tls"), Path("tests/clients")],
]
"""Suites that leave a core idle alone; those of a group run in parallel, each with two workers."""
QUICK = ["tests/unit", "tests/raft/test_raft_apply.py"]
SHORT_SEARCH = ["env", "CODEQ_SEARCH_SECONDS=0", "CODEQ_MODEL_ROUNDS=1", "CODEQ_MODEL_EXAMPLES=60"]
COMPILED = ["tests/unit", "tests/gateway", "tests/acceptance", "tests/integration/test_wheels.py"]
"""Suites that `make test-compiled` runs on extensions, besides the model and the simulated node."""
COMPILED_QUICK = ["tests/unit", "tests/gateway", "tests/acceptance/test_contract_task_life.py"]
SLOWEST = 10
Commands = list[list[str]]


class Step(NamedTuple):
    """Commands that run in parallel, and whether the next steps begin while they run."""

    title: str
    commands: Commands
    beside_others: bool = False


class Outcome(NamedTuple):
    """The end of a step."""

    title: str
    seconds: float
    cores: float
    status: int


class Beside:
    """A step that runs beside others. Its output is kept until it ends."""

    def __init__(self, title: str, commands: Commands, folder: Path) -> None:
        self._title, self._begin = title, time.monotonic()
        self._output = folder / "beside.log"
        with self._output.open("ab") as log:
            self._processes = [subprocess.Popen(each, cwd=ROOT, stdout=log, stderr=log) for each in commands]

    def end(self) -> Outcome:
        """Waits for the end of the commands, and prints their output."""
        print(f"\n=== {self._title}", flush=True)
        used = cpu_seconds()
        codes = [process.wait() for process in self._processes]
        seconds = time.monotonic() - self._begin
        sys.stdout.write(self._output.read_text(errors="replace"))
        return Outcome(self._title, seconds, (cpu_seconds() - used) / seconds, int(any(codes)))


def suites() -> list[Path]:
    """Returns the folders with Python tests that do not need root, sorted by name."""
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    return [Path("tests", name) for name in sorted(folders - {"host"})]


def steps(names: list[str]) -> list[Step]:
    """Returns the steps with these names."""
    planned: list[Step] = []
    for name in names:
        if name == "check":
            short = [*SHORT_SEARCH, *PYTEST, "-n", "0", "tests/model", "-k", "reference_model"]
            quick = [*PYTEST, "-n", "2", "--dist", "worksteal", *QUICK]
            planned.append(Step(name, [["make", "lint-changed"], quick, short]))
        elif name == "test-python":
            together = [SEARCHES, *WAITING]
            alone = [suite for suite in suites() if not any(suite in group for group in together)]
            planned += [Step(suite.as_posix(), [[*PYTEST, *WORKERS, suite.as_posix()]]) for suite in alone]
            for group in WAITING:
                few = [*PYTEST, "-n", "2", "--dist", "worksteal"]
                planned.append(Step(" and ".join(map(str, group)), [[*few, str(suite)] for suite in group]))
            apart = [*APART, *PYTEST, *WORKERS, ACCEPTANCE.as_posix()]
            apart += [f"--ignore={ACCEPTANCE}/{module}" for module in ONE_PROCESS]
            planned.append(Step(f"{ACCEPTANCE}, standalone gateway", [apart]))
            patient = [*LAST_IN_LINE, *PYTEST, f"--timeout={SEARCH_SECONDS_MAX}"]
            searches = [[*patient, suite.as_posix()] for suite in SEARCHES]
            planned.insert(0, Step(f"{' and '.join(map(str, SEARCHES))}, beside all others", searches, True))
        elif name == "compiled":
            planned += [Step(f"{suite}, compiled", [[*PYTEST, *WORKERS, suite]]) for suite in COMPILED]
            planned.append(Step("tests/model, compiled", [[*PYTEST, "tests/model"]]))
            planned.append(Step("tests/sim, compiled", [[*PYTEST, "tests/sim"]]))
        elif name == "compiled-quick":
            planned.append(Step(f"{' '.join(COMPILED_QUICK)}, compiled", [[*PYTEST, *WORKERS, *COMPILED_QUICK]]))
            model = [*SHORT_SEARCH, *PYTEST, "-n", "2", "--dist", "worksteal", "tests/model"]
            nodes = [sys.executable, "tests/sim/sim_run.py", "--count", "20"]
            planned.append(Step("tests/model and tests/sim, compiled", [model, nodes]))
        else:
            planned.append(Step(name, [["make", target] for target in name.split(",")]))
    return planned


def run(commands: Commands) -> int:
    """Runs commands in parallel; returns 0 if all succeed. The output of several is printed as each one ends."""
    if len(commands) == 1:
        return subprocess.run(commands[0], cwd=ROOT, check=False).returncode
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for command in commands
    ]
    status = 0
    for process in started:
        output, _ = process.communicate()
        sys.stdout.buffer.write(output)
        sys.stdout.flush()
        status |= process.returncode
    return status


def reported(commands: Commands, reports: Path, numbers: Iterator[int]) -> Commands:
    """Returns the commands; each pytest command writes a report of its own to a folder."""
    return [
        [*command, f"--junitxml={reports}/{next(numbers)}.xml"] if "pytest" in command else command
        for command in commands
    ]


def durations(reports: Path) -> Iterator[tuple[float, str]]:
    """Yields seconds and name of each test in the reports of a folder."""
    for report in reports.iterdir():
        for case in ElementTree.parse(report).iter("testcase"):
            yield float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}"


def cpu_seconds() -> float:
    """Returns the CPU time that ended child processes used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(names: list[str]) -> int:
    """Runs the steps; returns 1 if one failed."""
    outcomes: list[Outcome] = []
    all_began, beside, numbers = time.monotonic(), [], count()
    with TemporaryDirectory() as folder:
        reports = Path(folder, "reports")
        reports.mkdir()
        for title, commands, beside_others in steps(names):
            told = reported(commands, reports, numbers)
            if beside_others:
                beside.append(Beside(title, told, Path(folder)))
                continue
            print(f"\n=== {title}", flush=True)
            begin, used = time.monotonic(), cpu_seconds()
            status = run(told)
            seconds = time.monotonic() - begin
            outcomes.append(Outcome(title, seconds, (cpu_seconds() - used) / seconds, status))
        outcomes += [each.end() for each in beside]
        slowest = heapq.nlargest(SLOWEST, durations(reports))
    print("\n    seconds  slowest tests")
    for seconds, name in slowest:
        print(f"    {seconds:7.1f}  {name}")
    print("\n    seconds  cores  step")
    for title, seconds, cores, status in outcomes:
        print(f"{'ok' if status == 0 else 'BAD':>3} {seconds:7.1f}  {cores:5.2f}  {title}")
    print(f"    {time.monotonic() - all_began:7.1f}         total")
    return int(any(status for *_, status in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
