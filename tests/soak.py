"""Searches for broken promises for a long time: in simulated lives, random work on the core, forks and renewed tokens.

`--memory 1` also loads a server of the checkout's build, interpreted or compiled, for an hour and watches its memory.

Each search resumes where it stopped if the commit is still the same; build/soak.json stores the progress. A part
that breaks a promise prints how to run it again, and the search continues.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS_OF_A_PART = 100
STEPS = {"sim": SEEDS_OF_A_PART, "cluster": SEEDS_OF_A_PART}
"""Seeds of a part of a search; 1 for the others."""
LINES_OF_A_PROBLEM = 60
CHILDREN_OF_A_CELL = 60
CALLS_OF_A_SEED = 20_000
TOKEN_SECONDS = 20
RENEWALS = 12
"""Renewals of a token, each halfway through its life: two minutes on one stream."""


class Search:
    """One of the searches: seeds numbered from 0, run in sequential parts, each in its own process."""

    def __init__(self, name: str, end: int, step: int, done: int) -> None:
        self.name, self.end, self.step, self.done = name, end, step, done
        self.bad = 0

    def command(self, count: int) -> tuple[list[str], dict[str, str]]:
        """Returns the command of the next part and its environment variables."""
        if self.name == "sim":
            return ["tests/sim/sim_run.py", "--seed", str(self.done), "--count", str(count)], {}
        if self.name == "forks":
            children = {"CODEQ_FORK_CHILDREN": str(CHILDREN_OF_A_CELL)}
            return ["-m", "pytest", "-q", "-n", "2", "tests/sdk/test_sdk_fork.py"], children
        if self.name == "cluster":
            return ["tests/simcluster/cluster_run.py", "--seed", str(self.done), "--count", str(count)], {}
        if self.name == "isolation":
            calls = {"CODEQ_ISOLATION_CALLS": str(CALLS_OF_A_SEED), "CODEQ_ISOLATION_SEED": str(self.done)}
            return ["-m", "pytest", "-q", "-n", "0", "tests/rights/test_isolation.py", "-k", "random_calls"], calls
        if self.name == "tokens":
            lives = {"CODEQ_TOKEN_SECONDS": str(TOKEN_SECONDS), "CODEQ_TOKEN_RENEWALS": str(RENEWALS)}
            tests = ["tests/sdk/test_tokens_that_end.py", "-k", "renew"]
            return ["-m", "pytest", "-q", "-n", "0", "--timeout", "600", *tests], lives
        if self.name == "memory":
            return ["bench/memory.py"], {}
        rounds = {"CODEQ_MODEL_SEED": str(self.done), "CODEQ_MODEL_ROUNDS": str(count), "CODEQ_SEARCH_SECONDS": "0"}
        tests = ["tests/model", "-k", "random_work or reference_model"]
        return ["-m", "pytest", "-q", "-n", "0", "--timeout", "0", *tests], rounds


class Soak:
    """All searches and their progress."""

    def __init__(self, state: Path, ends: Mapping[str, int]) -> None:
        self.state = state
        self.lock = threading.Lock()
        self.version = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        known = json.loads(state.read_text()) if state.exists() else {}
        known = known if known.get("version") == self.version else {}
        self.searches = [Search(name, end, STEPS.get(name, 1), known.get(name, 0)) for name, end in ends.items()]

    def run(self) -> int:
        """Runs all searches to the end; returns 1 if a promise was broken."""
        threads = [threading.Thread(target=self.go, args=(search,)) for search in self.searches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return int(any(search.bad for search in self.searches))

    def go(self, search: Search) -> None:
        """Runs the remaining parts of a search."""
        while search.done < search.end:
            count = min(search.step, search.end - search.done)
            command, environment = search.command(count)
            begin = time.monotonic()
            part = subprocess.run(
                [sys.executable, *command],
                check=False,
                cwd=ROOT,
                env=os.environ | environment,
                capture_output=True,
                text=True,
            )
            last = search.done + count - 1
            with self.lock:
                text = f"{search.name} {search.done} to {last} of {search.end}: {time.monotonic() - begin:.0f} s"
                if part.returncode:
                    search.bad += 1
                    lines = (part.stdout + part.stderr).splitlines()
                    text += ", BAD\n" + "\n".join(lines[-LINES_OF_A_PROBLEM:])
                search.done += count
                print(text, flush=True)
                self.state.parent.mkdir(exist_ok=True)
                done = {each.name: each.done for each in self.searches}
                self.state.write_text(json.dumps({"version": self.version, **done}))


def main(arguments: list[str]) -> int:
    """Runs the searches; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="simulated lives of a node")
    parser.add_argument("--clusters", type=int, default=1_000, help="simulated lives of clusters")
    parser.add_argument(
        "--rounds", type=int, default=100, help="rounds of random work on the core, 200 runs of each of 3 kinds"
    )
    parser.add_argument("--forks", type=int, default=1, help="rounds of forks under the SDK, 60 children per cell")
    parser.add_argument("--isolation", type=int, default=10, help="rounds of 20,000 random calls against a tenant")
    parser.add_argument("--tokens", type=int, default=1, help="rounds of streams with tokens of 20 s, 2 minutes each")
    parser.add_argument("--memory", type=int, default=0, help="hours of load under which memory stays flat")
    parser.add_argument("--state", type=Path, default=ROOT / "build/soak.json", help="progress of earlier runs")
    options = parser.parse_args(arguments)
    ends = {
        "sim": options.seeds,
        "cluster": options.clusters,
        "model": options.rounds,
        "forks": options.forks,
        "isolation": options.isolation,
        "tokens": options.tokens,
        "memory": options.memory,
    }
    return Soak(options.state, ends).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
