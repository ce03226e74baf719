"""Compares two commands that each print a number: prints both medians and the median of the per-run ratios.

    bench/compare.py --runs 5 --ours '.venv/bin/python bench/run.py single' --reference './their-benchmark'

The number is the value of --key if the last line of the output is a JSON object that has it, else the last number in
the output. Alternating the runs exposes both commands to the same noise, so on a shared machine the ratio is steadier
than either figure.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from statistics import median
from typing import Final

_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class CompareError(Exception):
    """A command failed or printed no number; the text names the command."""


def number_of(output: str, key: str) -> float:
    """Returns the number in the output of a command.

    Raises:
        CompareError: The output contains no number.
    """
    lines = output.strip().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else None
    except ValueError:
        last = None
    if isinstance(last, dict) and isinstance(last.get(key), int | float):
        return float(last[key])
    numbers = _NUMBER.findall(output)
    if not numbers or isinstance(last, dict):
        raise CompareError(f"no number {key} in the output: {output[-400:]!r}")
    return float(numbers[-1])


def measure(command: str, key: str) -> float:
    """Runs a shell command and returns its number.

    Raises:
        CompareError: The command failed or printed no number.
    """
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)  # noqa: S602 - the caller's own
    if done.returncode != 0:
        raise CompareError(f"{command} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return number_of(done.stdout, key)


def main(arguments: list[str]) -> int:
    """Runs the comparison, prints one JSON line last, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Compares two commands that each print a number.")
    parser.add_argument("--ours", required=True, help="shell command")
    parser.add_argument("--reference", required=True, help="shell command")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--key", default="cycles_per_s", help="key in JSON output (default cycles_per_s)")
    parser.add_argument("--floor", type=float, help="fail when the median of the ratios is below this")
    options = parser.parse_args(arguments)
    ours: list[float] = []
    reference: list[float] = []
    try:
        for run in range(options.runs):
            ours.append(measure(options.ours, options.key))
            reference.append(measure(options.reference, options.key))
            print(f"run {run + 1}: ours {ours[-1]:g}, reference {reference[-1]:g}", file=sys.stderr, flush=True)
    except CompareError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    ratio = median(mine / theirs for mine, theirs in zip(ours, reference, strict=True))
    line = {
        "key": options.key,
        "ours": ours,
        "reference": reference,
        "median_ours": median(ours),
        "median_reference": median(reference),
        "median_ratio": round(ratio, 3),
    }
    print(json.dumps(line))
    return int(options.floor is not None and ratio < options.floor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
