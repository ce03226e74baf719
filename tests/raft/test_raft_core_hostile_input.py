"""No bytes from the network end the process: random bytes, random messages, or bytes known to make the crate panic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from codeq_raft_core import RaftNode, read_conf_state, snapshot_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raft_cluster import Cluster
from raft_victim import SELF, STATES, Script, Victim
from raft_wire import FORWARDS, LOCAL, TYPES, ConfState, Entry, Message, Snapshot, message

EXAMPLES = int(os.environ.get("CODEQ_RAFT_FUZZ_EXAMPLES", "400"))
"""Number of examples per search; more examples find rarer states."""
SEARCH = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    made = Victim()
    yield made
    made.close()


number = st.one_of(st.integers(0, 12), st.sampled_from([0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]))
small = st.integers(0, 12)
peer = st.sampled_from([2, 2, 3, 3, 4, 9, SELF, 0, 2**64 - 1])
ids = st.lists(st.sampled_from([1, 2, 3, 4, 5, 0]), max_size=4)
members = st.builds(
    ConfState,
    voters=ids,
    learners=ids,
    voters_outgoing=st.one_of(st.just([]), ids),
    learners_next=st.one_of(st.just([]), ids),
    auto_leave=st.booleans(),
)
snapshot = st.builds(
    lambda index, term, state: Snapshot(data=b"d", metadata={"index": index, "term": term, "conf_state": state}),
    number,
    number,
    st.one_of(st.just(ConfState(voters=[1, 2, 3])), members),
)
change = st.sampled_from([b"", b"\x12\x04\x08\x01\x10\x01", b"\x12\x02\x10\x04", b"\x08\x02", b"\x13" * 50, b"junk"])


@st.composite
def entries(draw: st.DrawFn, index: int, term: int) -> list[Any]:
    """Mostly consecutive entries behind an index."""
    found = []
    for offset in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([0, 0, 1, 2, 7]))
        data = draw(change) if kind else b"z"
        next_index = min(index + 1 + offset, 2**64 - 1)
        at = draw(st.one_of(st.just(next_index), st.just(next_index), st.integers(0, 8), number))
        found.append(Entry(entry_type=kind, term=draw(st.one_of(st.just(term), number)), index=at, data=data))
    return found


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message whose fields are plausible for a small group; now and then a field has any value."""
    kind = draw(st.sampled_from(TYPES))
    term, index, log_term = draw(st.integers(0, 3)), draw(st.integers(0, 4)), draw(st.sampled_from([1, 1, 1, 0, 2]))
    fields: dict[str, Any] = {"to": SELF, "from_": draw(peer), "term": term, "index": index, "log_term": log_term}
    fields["commit"] = draw(small)
    fields["entries"] = draw(entries(index, draw(st.integers(log_term, max(term, log_term)))))
    fields["reject"] = draw(st.booleans())
    fields["reject_hint"] = draw(small)
    if kind == "MsgSnapshot" or draw(st.integers(0, 9)) == 0:
        fields["snapshot"] = draw(snapshot)
    odd = {"term": number, "index": number, "log_term": number, "commit": number, "commit_term": number}
    odd |= {"reject_hint": number, "request_snapshot": number, "deprecated_priority": number, "to": peer}
    odd |= {"priority": st.integers(-3, 3), "context": st.sampled_from([b"r1", b"CampaignTransfer", b""])}
    for name in draw(st.lists(st.sampled_from(sorted(odd)), max_size=2)):
        fields[name] = draw(odd[name])
    return message(kind, **fields)


doing = st.one_of(
    st.tuples(st.just("step"), messages()),
    st.tuples(st.just("step"), messages()),
    st.tuples(st.just("ready"), st.none()),
    st.tuples(st.just("save"), st.none()),
    st.tuples(st.just("tick"), st.integers(1, 25)),
    st.tuples(st.just("propose"), st.integers(1, 9)),
    st.tuples(st.just("read"), st.integers(1, 3)),
    st.tuples(st.just("transfer"), st.integers(1, 4)),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(
        st.just("members"),
        st.lists(st.tuples(st.sampled_from(["voter", "learner", "remove"]), st.integers(1, 5)), min_size=1, max_size=3),
    ),
)
scripts = st.tuples(st.sampled_from(STATES), st.lists(doing, min_size=1, max_size=14))


@SEARCH
@given(script=scripts)
@pytest.mark.timeout(600)
def test_well_formed_messages_never_crash_the_process(victim: Victim, script: Script) -> None:
    assert victim.run(script) == ""


@SEARCH
@given(
    state=st.sampled_from(STATES),
    sent=messages(),
    damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 400),
)
@pytest.mark.timeout(600)
def test_damaged_messages_never_crash_the_process(
    victim: Victim, state: str, sent: bytes, damage: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(sent)
    for position, value in damage:
        if position < len(damaged):
            damaged[position] = value
    assert victim.run((state, [("step", bytes(damaged[:cut]))])) == ""


@SEARCH
@given(noise=st.binary(max_size=300))
def test_random_bytes_never_crash_the_process(victim: Victim, noise: bytes) -> None:
    assert victim.run(("follower", [("step", noise)])) == ""


def follower() -> RaftNode:
    """A follower of leader 2 in term 1 with entries 1 to 4, all committed, and entry 5 that is not."""
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(2)
    for data in (b"a", b"b", b"c"):
        leader.node.propose(data)
    cluster.settle()
    entry = Entry(term=1, index=5, data=b"d")
    cluster[1].node.step(message("MsgAppend", to=1, from_=2, term=1, index=4, log_term=1, commit=4, entries=[entry]))
    cluster.cut(1)
    cluster.settle()
    assert (cluster[1].status.commit, cluster[1].status.last_index) == (4, 5)
    return cluster[1].node


def leader() -> RaftNode:
    """A leader of term 1 with entries 1 and 2, committed."""
    cluster = Cluster([1, 2, 3])
    cluster.elect(1).node.propose(b"a")
    cluster.settle()
    return cluster[1].node


def behind(index: int, *terms: int) -> list[Any]:
    return [Entry(term=term, index=index + 1 + offset, data=b"e") for offset, term in enumerate(terms)]


def snap(index: int, term: int, **state: Any) -> Any:
    return Snapshot(metadata={"index": index, "term": term, "conf_state": state or {"voters": [1, 2, 3]}})


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("MsgHeartbeat", {"to": 2}, "for another id"),
    ("MsgHeartbeat", {"from_": 0}, "from is no peer"),
    ("MsgHeartbeat", {"from_": 1}, "from is no peer"),
    ("MsgHeartbeat", {"term": 0}, "term is 0"),
    ("MsgHeartbeat", {"term": 2**63}, "out of range"),
    ("MsgHeartbeat", {"commit": 2**64 - 1}, "out of range"),
    ("MsgHeartbeat", {"commit": 6}, "commit is beyond"),
    ("MsgHeartbeat", {"commit": 6, "term": 9}, "commit is beyond"),
    ("MsgAppendResponse", {"request_snapshot": 1}, "request_snapshot is not used"),
    ("MsgRequestPreVote", {"term": 9, "priority": -1}, "priority is not used"),
    ("MsgRequestVote", {"term": 9, "deprecated_priority": 1}, "priority is not used"),
    ("MsgAppend", {"index": 100, "log_term": 0, "entries": behind(100, 1)}, "log_term does not fit"),
    ("MsgAppend", {"index": 0, "log_term": 1}, "log_term does not fit"),
    ("MsgAppend", {"index": 5, "log_term": 2}, "log_term does not fit"),
    ("MsgAppend", {"index": 5, "log_term": 1, "entries": behind(7, 1)}, "not consecutive"),
    ("MsgAppend", {"index": 5, "log_term": 1, "entries": behind(1, 1)}, "not consecutive"),
    ("MsgAppend", {"index": 5, "log_term": 1, "entries": behind(5, 0)}, "not consecutive"),
    ("MsgAppend", {"index": 5, "log_term": 1, "entries": behind(5, 2)}, "not consecutive"),
    ("MsgAppend", {"term": 9, "index": 5, "log_term": 1, "entries": behind(5, 3, 2)}, "not consecutive"),
    ("MsgSnapshot", {"snapshot": snap(0, 1)}, "index of the snapshot"),
    ("MsgSnapshot", {"snapshot": snap(2**63, 1)}, "index of the snapshot"),
    ("MsgSnapshot", {"snapshot": snap(9, 0)}, "term of the snapshot"),
    ("MsgSnapshot", {"snapshot": snap(9, 2)}, "term of the snapshot"),
    ("MsgSnapshot", {"snapshot": snap(9, 1, learners=[1])}, "conf_state"),
    ("MsgSnapshot", {"snapshot": snap(9, 1, voters=[1], learners=[1])}, "conf_state"),
    ("MsgSnapshot", {"snapshot": snap(9, 1, voters=[1, 0])}, "conf_state"),
    ("MsgSnapshot", {"snapshot": snap(9, 1, voters=[1, 1])}, "conf_state"),
    ("MsgSnapshot", {"snapshot": snap(9, 1, voters=[1], learners_next=[2])}, "conf_state"),
    ("MsgSnapshot", {"snapshot": snap(9, 1, voters=[1], auto_leave=True)}, "conf_state"),
    ("MsgSnapshot", {"term": 5, "snapshot": snap(4, 3)}, "contradicts what is committed"),
]


@pytest.mark.parametrize(("kind", "fields", "fault"), REFUSED)
def test_message_that_no_correct_peer_would_send_is_rejected_and_changes_nothing(
    kind: str, fields: dict[str, Any], fault: str
) -> None:
    node = follower()
    before = node.status
    with pytest.raises(ValueError, match=fault):
        node.step(message(kind, **({"to": 1, "from_": 2, "term": 1} | fields)))
    assert node.status == before
    assert node.ready() is None


@pytest.mark.parametrize("fields", [{"index": 3}, {"index": 2, "reject": True, "reject_hint": 3}])
def test_reply_beyond_the_leaders_log_is_rejected(fields: dict[str, Any]) -> None:
    node = leader()
    before = node.progress()
    with pytest.raises(ValueError, match="beyond the last index"):
        node.step(message("MsgAppendResponse", to=1, from_=2, term=1, **fields))
    assert node.progress() == before


@pytest.mark.parametrize("kind", sorted(LOCAL | FORWARDS))
def test_message_of_a_local_type_is_dropped(kind: str) -> None:
    for node in (follower(), leader()):
        before = node.status
        node.step(message(kind, to=1, from_=2, term=1, entries=[Entry(data=b"forged")], reject=True))
        assert node.status == before
        assert node.ready() is None


def test_late_rejection_does_not_move_a_probe_below_the_matched_index() -> None:
    node = leader()
    node.report_unreachable(2)
    assert (node.progress()[1].state, node.progress()[1].matched, node.progress()[1].next_index) == ("probe", 2, 3)
    node.step(message("MsgAppendResponse", to=1, from_=2, term=1, index=2, reject=True, reject_hint=0))
    assert node.progress()[1].next_index == 3
    for data in (b"b", b"c"):
        node.propose(data)
    for index in (3, 4):
        node.step(message("MsgAppendResponse", to=1, from_=3, term=1, index=index))
    node.step(message("MsgHeartbeatResponse", to=1, from_=2, term=1))
    node.step(message("MsgAppendResponse", to=1, from_=2, term=1, index=2, reject=True, reject_hint=1, log_term=1))
    assert node.progress()[1].next_index == 3
    node.step(message("MsgAppendResponse", to=1, from_=2, term=1, index=4))
    assert (node.progress()[1].state, node.progress()[1].next_index) == ("replicate", 5)


@pytest.mark.parametrize("outer", [b"", b"\x3a", b"\x4a", b"\x4a\x12", b"\x4a\x12\x0a"])
def test_nested_groups_are_rejected(outer: bytes, victim: Victim) -> None:
    nested = b"\xa3\x01" * 300_000
    for tag in reversed(outer):
        size, varint = len(nested), b""
        while size > 127:
            varint += bytes([size & 127 | 128])
            size >>= 7
        nested = bytes([tag]) + varint + bytes([size]) + nested
    assert victim.run(("follower", [("step", nested)])) == ""
    for reader in (follower().step, snapshot_of):
        with pytest.raises(ValueError, match="not a raft message"):
            reader(nested)


@pytest.mark.parametrize("junk", [b"\xff", b"\x0a", b"\x08\x80", b"\x0b", b"\x07", b"\x80" * 11, b"\x12\x05ab"])
def test_bytes_that_are_not_protobuf_are_rejected(junk: bytes) -> None:
    for reader in (follower().step, snapshot_of, read_conf_state):
        with pytest.raises(ValueError, match=r"not a|no voter"):
            reader(junk)


def test_handover_to_a_node_with_unsaved_entries_starts_no_election(victim: Victim) -> None:
    appended = message("MsgAppend", to=1, from_=2, term=2, index=2, log_term=1, entries=behind(2, 2))
    handed_over = message("MsgTimeoutNow", to=1, from_=2, term=2)
    vote = message("MsgRequestVoteResponse", to=1, from_=3, term=3)
    received = [appended, handed_over, vote]
    assert victim.run(("follower", [("step", sent) for sent in received])) == ""
    assert victim.run(("follower", [("step", appended), ("ready", None), ("step", handed_over), ("step", vote)])) == ""


def test_victim_detects_a_process_that_ends() -> None:
    made = Victim()
    assert "KeyError: 'no such step'" in made.run(("follower", [("no such step", None)]))
    assert made.run(("follower", [])) == ""
    made.close()


def test_python_messages_match_the_encoding_of_the_node() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1).node.propose(b"a")
    cluster.settle()
    for _, to, kind, sent in cluster.seen:
        read = Message.FromString(sent)
        assert (read.to, TYPES[read.msg_type]) == (to, kind)
        assert Message.FromString(read.SerializeToString()) == read
