"""Merges the metrics of several processes into one page: each sample gets a label that names its shard."""

from __future__ import annotations

from collections.abc import Mapping


class _Family:
    """The comments and samples of one metric."""

    def __init__(self) -> None:
        self.comments: list[str] = []
        self.samples: list[str] = []


def merged(pages: Mapping[int, bytes]) -> bytes:
    """Returns one page in the Prometheus text format.

    Args:
        pages: The page of each shard's process, in the same format.
    """
    families: dict[str, _Family] = {}
    for shard, page in sorted(pages.items()):
        _add(families, f'shard="{shard}"', page.decode())
    lines: list[str] = []
    for family in families.values():
        lines += family.comments
        lines += family.samples
    return "".join([f"{line}\n" for line in lines]).encode()


def _add(families: dict[str, _Family], label: str, page: str) -> None:
    """Adds the samples of a page to the families; the first page of a family describes it."""
    family, described = _Family(), ""
    has_comments = False
    for line in page.split("\n"):
        if line.startswith("#"):
            name = line.split(" ", 3)[2]
            if name != described:
                described = name
                known = families.get(name)
                has_comments = known is not None
                family = families[name] = known or _Family()
            if not has_comments:
                family.comments.append(line)
        elif line:
            family.samples.append(_labelled(line, label))


def _labelled(sample: str, label: str) -> str:
    """Returns a sample with one more label."""
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label},{rest}" if not rest.startswith("}") else f"{name}{{{label}{rest}"
    name, _, rest = sample.partition(" ")
    return f"{name}{{{label}}} {rest}"
