"""Three nodes on this machine, each with a process for each of several shards, which Raft groups replicate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from server_process import LOOPBACK, ServerProcess, raft_variables, reserved_port
from static_cluster import Trust, ask, served, until

NAMES = ("a", "b", "c")
SHARDS = 3


@contextmanager
def raft_groups(
    folder: Path, env: Mapping[str, str] | None = None, trust: Trust = True, shards: int = SHARDS
) -> Iterator[list[ServerProcess]]:
    """Yields the nodes once each sees all shards served, and has a vote in each group.

    Args:
        folder: Where their files are kept.
        env: Variables of all nodes in addition to a plain environment.
        trust: Authorities of their certificates.
        shards: Number of shards.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(reserved_port()) for _ in NAMES]
        places = {name: f"{LOOPBACK}:{port.getsockname()[1]}" for name, port in zip(NAMES, held, strict=True)}
        nodes = [
            ServerProcess(folder / name, env=raft_variables(shards, places, name) | dict(env or {}), apart=False)
            for name in NAMES
        ]
        for node in nodes:
            stack.callback(node.close)
            node.spawn()
        for node in nodes:
            node.wait_until_ready()
        until(lambda: all(serves_all(node, trust) for node in nodes))
        until(lambda: all(voting(nodes, name, trust) == {*range(shards)} for name in NAMES))
        yield nodes


def serves_all(node: ServerProcess, trust: Trust = True) -> bool:
    """Whether a node takes calls, and sees all shards served."""
    try:
        return served(node, trust) == {"served"}
    except httpx.HTTPError:
        return False


def voting(nodes: Sequence[ServerProcess], name: str, trust: Trust = True) -> set[int]:
    """Returns the groups in which a member has a vote and answers, as those of some nodes say that lead them."""
    groups = [group for node in nodes for group in ask(node, "GET", "/v1/codeq/raft/status", trust).json()["groups"]]
    return {
        group["shardIdx"]
        for group in groups
        if group["isLeader"]
        for member in group["members"]
        if member["id"] == name and member["voter"] and (member.get("active") or member["isSelf"])
    }


def leaders(node: ServerProcess, trust: Trust = True) -> dict[int, str]:
    """Returns the name of the leader of each group, as a node sees them; empty: unknown."""
    groups = ask(node, "GET", "/v1/codeq/raft/status", trust).json()["groups"]
    return {group["shardIdx"]: group["leaderId"] for group in groups}
