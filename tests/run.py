"""Runs the steps of `make test` in sequence, even if one fails, and prints the time of each and how many cores it used.

At the end it lists the ten slowest tests of all pytest runs.

A step is a target of the Makefile, with two exceptions. "test-python" is one pytest run for each suite, which is a
folder of `tests`; the suites that search for broken promises run in parallel. "check" is a set of quick checks, which
run in parallel and take less than a minute. The acceptance suite runs twice: with server and gateway in one process,
then with a standalone gateway. `tests/host` is not included: it needs root and has its own command.
"""

from __future__ import annotations

import heapq
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest"]
WORKERS = ["-n", "4", "--dist", "worksteal"]
"""More workers than cores: most of a test is waiting for processes."""
ACCEPTANCE = Path("tests/acceptance")
APART = ["env", "SERVED_APART=1"]
ONE_PROCESS = ["test_three_nodes.py", "test_bounds.py", "test_memory_of_mixes.py"]
"""Acceptance tests that always use one process: nodes of a cluster, limits of a process."""
SEARCHES = [Path("tests/model"), Path("tests/sim"), Path("tests/simcluster"), Path("tests/schema")]
QUICK = ["tests/unit", "tests/raft/test_raft_apply.py"]
SHORT_SEARCH = ["env", "CODEQ_SEARCH_SECONDS=0", "CODEQ_MODEL_ROUNDS=1", "CODEQ_MODEL_EXAMPLES=60"]
COMPILED = ["tests/unit", "tests/gateway", "tests/acceptance", "tests/integration/test_wheels.py"]
"""Suites that `make test-compiled` runs on extensions, besides the model and the simulated node."""
COMPILED_QUICK = ["tests/unit", "tests/gateway", "tests/acceptance/test_contract_task_life.py"]
SLOWEST = 10
Step = tuple[str, list[list[str]]]


def suites() -> list[Path]:
    """Returns the folders with Python tests that do not need root, sorted by name."""
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    return [Path("tests", name) for name in sorted(folders - {"host"})]


def steps(names: list[str]) -> list[Step]:
    """Returns the title of each step and its commands, which run in parallel."""
    planned: list[Step] = []
    for name in names:
        if name == "check":
            short = [*SHORT_SEARCH, *PYTEST, "-n", "0", "tests/model", "-k", "reference_model"]
            quick = [*PYTEST, "-n", "2", "--dist", "worksteal", *QUICK]
            planned.append((name, [["make", "lint-changed"], quick, short]))
        elif name == "test-python":
            alone = [suite for suite in suites() if suite not in SEARCHES]
            planned += [(suite.as_posix(), [[*PYTEST, *WORKERS, suite.as_posix()]]) for suite in alone]
            apart = [*APART, *PYTEST, *WORKERS, ACCEPTANCE.as_posix()]
            apart += [f"--ignore={ACCEPTANCE}/{module}" for module in ONE_PROCESS]
            planned.append((f"{ACCEPTANCE}, standalone gateway", [apart]))
            planned.append((" and ".join(map(str, SEARCHES)), [[*PYTEST, suite.as_posix()] for suite in SEARCHES]))
        elif name == "compiled":
            planned += [(f"{suite}, compiled", [[*PYTEST, *WORKERS, suite]]) for suite in COMPILED]
            planned.append(("tests/model, compiled", [[*PYTEST, "tests/model"]]))
            planned.append(("tests/sim, compiled", [[*PYTEST, "tests/sim"]]))
        elif name == "compiled-quick":
            planned.append((f"{' '.join(COMPILED_QUICK)}, compiled", [[*PYTEST, *WORKERS, *COMPILED_QUICK]]))
            planned.append(("tests/model, compiled", [[*SHORT_SEARCH, *PYTEST, *WORKERS, "tests/model"]]))
            planned.append(("tests/sim, compiled", [[sys.executable, "tests/sim/sim_run.py", "--count", "20"]]))
        else:
            planned.append((name, [["make", name]]))
    return planned


def run(commands: list[list[str]]) -> int:
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


def reported(commands: list[list[str]], reports: Path) -> list[list[str]]:
    """Returns the commands; each pytest command writes a report of its own to a folder."""
    before = len(list(reports.iterdir()))
    paths = [f"--junitxml={reports}/{before + number}.xml" for number in range(len(commands))]
    return [[*command, path] if "pytest" in command else command for command, path in zip(commands, paths, strict=True)]


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
    outcomes = []
    with TemporaryDirectory() as folder:
        for title, commands in steps(names):
            print(f"\n=== {title}", flush=True)
            begin, used = time.monotonic(), cpu_seconds()
            status = run(reported(commands, Path(folder)))
            seconds = time.monotonic() - begin
            outcomes.append((title, seconds, (cpu_seconds() - used) / seconds, status))
        slowest = heapq.nlargest(SLOWEST, durations(Path(folder)))
    print("\n    seconds  slowest tests")
    for seconds, name in slowest:
        print(f"    {seconds:7.1f}  {name}")
    print("\n    seconds  cores  step")
    for title, seconds, cores, status in outcomes:
        print(f"{'ok' if status == 0 else 'BAD':>3} {seconds:7.1f}  {cores:5.2f}  {title}")
    print(f"    {sum(seconds for _, seconds, _, _ in outcomes):7.1f}         total")
    return int(any(status for *_, status in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
