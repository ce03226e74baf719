"""Messages between nodes over real connections."""

from __future__ import annotations

from pathlib import Path

from raft_nodes import Node, connected, eventually


async def test_transport_three_nodes_messages_reach_all_in_order(tmp_path: Path) -> None:
    nodes = [Node(name, number) for number, name in enumerate(("a", "b", "c"), 1)]
    async with connected(tmp_path, *nodes) as transports:
        pairs = [(node, there) for node in nodes for there in nodes if there is not node]
        for number in range(1000):
            for node, there in pairs:
                words = f"{node.me.name} {number}".encode()
                transports[node.me.raft_id - 1].send(there.me.raft_id, number % 5, words)
        for node, there in pairs:
            sent = [(number % 5, f"{node.me.name} {number}".encode()) for number in range(1000)]
            await eventually(lambda there=there: len(there.received) == 2000)
            assert [got for got in there.received if got[1].startswith(node.me.name.encode())] == sent
            assert node.me in {peer for peer, _ in there.met_peers}
        counters = [transport.counters for transport in transports]
        # Two peers; everything of one turn of the loop went in one frame.
        assert [(c.messages_sent, c.frames_sent, c.dropped, c.refused) for c in counters] == [(2000, 2, 0, 0)] * 3
