"""Tortures clusters of real processes, fault by fault, and reports acknowledged, missing and duplicated tasks.

    tests/torture.py                            every fault, all rounds (hours)
    tests/torture.py kill-leader --rounds 20    one fault, fewer rounds
    tests/torture.py --list

A repeated run resumes where the last one stopped if the product is unchanged; build/torture.json stores the progress.
Each run has several rounds, starts with a new cluster and ends with a verdict on that cluster. Once all rounds of a
fault are over, a JSON line is appended to bench/results/torture.jsonl. Exit code 1: a promise was broken; the run's
folder is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "host")]

from callback_faults import CALLBACK_FAULTS  # noqa: E402
from fault_kinds import FAULTS, Fault, play  # noqa: E402
from group_faults import GROUP_FAULTS  # noqa: E402
from host_faults import HOST_FAULTS  # noqa: E402
from key_faults import KEY_FAULTS  # noqa: E402
from member_faults import MEMBER_FAULTS  # noqa: E402
from run import describe_commit, describe_machine  # noqa: E402

PRODUCT: Final = ("server", "gateway", "cli", "proto", "sdks/python")
STATE: Final = ROOT / "build" / "torture.json"
RESULTS: Final = ROOT / "bench" / "results" / "torture.jsonl"
PROBLEMS_KEPT: Final = 20
FAULTS_OF_ALL: Final = (*FAULTS, *GROUP_FAULTS, *MEMBER_FAULTS, *KEY_FAULTS, *HOST_FAULTS, *CALLBACK_FAULTS)
KINDS: Final = {fault.name: fault for fault in FAULTS_OF_ALL}


def product() -> str:
    """Returns a fingerprint of the product's version."""
    command = ["git", "rev-parse", *(f"HEAD:{part}" for part in PRODUCT)]
    trees = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return " ".join(tree[:10] for tree in trees)


class Torture:
    """The faults and their progress."""

    def __init__(self, state: Path, results: Path | None, folder: Path) -> None:
        self._state, self._results, self._folder = state, results, folder
        self._product = product()
        known = json.loads(state.read_text()) if state.exists() else {}
        self._faults: dict[str, Any] = known.get("faults", {}) if known.get("product") == self._product else {}

    def go(self, kind: type[Fault], rounds: int) -> bool:
        """Plays the remaining rounds of a fault; returns whether every promise was kept."""
        row = self._faults.setdefault(kind.name, _nothing())
        if row["reported"] >= rounds:
            return not row["broken"]
        while row["rounds"] < rounds:
            count = min(kind.rounds_of_run, rounds - row["rounds"])
            self._play(kind, row, len(row["seeds"]) + len(row["broken"]), count)
        row["reported"] = row["rounds"]
        self._save()
        line = _report(kind.name, row)
        print(json.dumps(line), flush=True)
        if self._results is not None:
            more = {"commit": describe_commit(), "machine": describe_machine(ROOT)}
            with self._results.open("a") as file:
                file.write(json.dumps(line | more) + "\n")
        return not row["broken"]

    def _play(self, kind: type[Fault], row: dict[str, Any], seed: int, count: int) -> None:
        """Plays one run and adds its results to a row."""
        began = time.monotonic()
        directory = self._folder / f"{kind.name}-{seed}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        fault = kind(seed)
        problems: list[str] = []
        try:
            verdict, _ = asyncio.run(play(fault, directory, seed, count))
            row["acknowledged"] += verdict.acknowledged
            row["ended"] += verdict.ended
            row["missing"] += len(verdict.missing)
            row["doubled"] += len(verdict.doubled)
            problems = verdict.problems[:PROBLEMS_KEPT]
            if kind.must_break:
                problems = [] if verdict.missing else ["nothing was lost, although this fault must lose something"]
        except Exception as problem:  # noqa: BLE001 - any failure is reported, and the next run continues
            print(problem)
            what = str(problem).partition("\n")[0]
            problems = [] if kind.must_break else [f"{type(problem).__name__}: {what}"]
        row["rounds"] += count
        row["seeds"].append(seed)
        row["create_gaps"] += fault.gaps.creates
        row["delivery_gaps"] += fault.gaps.deliveries
        seconds = time.monotonic() - began
        row["seconds"] += seconds
        print(f"{kind.name}: rounds {row['rounds']}, seed {seed}, {seconds:.0f} s", flush=True)
        if problems:
            row["broken"].append({"seed": seed, "rounds": count, "problems": problems})
            print("\n".join([f"BAD: {directory}", *problems]), flush=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        self._save()

    def _save(self) -> None:
        self._state.parent.mkdir(parents=True, exist_ok=True)
        draft = self._state.with_suffix(".new")
        draft.write_text(json.dumps({"product": self._product, "faults": self._faults}))
        draft.replace(self._state)


def _nothing() -> dict[str, Any]:
    counts = dict.fromkeys(("rounds", "reported", "acknowledged", "ended", "missing", "doubled"), 0)
    return {**counts, "seconds": 0.0, "seeds": [], "create_gaps": [], "delivery_gaps": [], "broken": []}


def _report(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Returns the report of a fault after all its rounds."""
    told = {key: row[key] for key in ("rounds", "seeds", "acknowledged", "ended", "missing", "doubled")}
    for what in ("create", "delivery"):
        gaps = row[f"{what}_gaps"]
        if gaps:
            told[f"{what}_gap_p50_s"] = round(statistics.median(gaps), 3)
            told[f"{what}_gap_max_s"] = round(max(gaps), 3)
    return {"bench": "torture", "fault": name, **told, "broken": row["broken"], "seconds": round(row["seconds"])}


def main(arguments: list[str]) -> int:
    """Plays the faults; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "faults",
        nargs="*",
        choices=[[], *KINDS],
        metavar="FAULT",
        help="faults that --list shows; default: all that this user can cause",
    )
    parser.add_argument("--rounds", type=int, help="rounds per fault, instead of its default")
    parser.add_argument("--list", action="store_true", help="only list the faults and their rounds")
    parser.add_argument("--state", type=Path, default=STATE, help="progress of earlier runs")
    parser.add_argument("--no-save", action="store_true", help="append nothing to bench/results/torture.jsonl")
    options = parser.parse_args(arguments)
    rooted = os.geteuid() == 0
    names = options.faults or [name for name, kind in KINDS.items() if rooted or not kind.needs_root]
    if options.list:
        width = max(map(len, names))
        for name in names:
            print(f"{name:{width}} {KINDS[name].rounds:4}  {(KINDS[name].__doc__ or '').splitlines()[0]}")
        return 0
    torture = Torture(options.state, None if options.no_save else RESULTS, ROOT / "build" / "torture")
    good = [torture.go(KINDS[name], options.rounds or KINDS[name].rounds) for name in names]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
