"""The offline checker and the rows that lead from names to tasks: it reports the key of each corrupt row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys, names
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.storage.check import check
from driven_shard import TENANT, DrivenShard

Rows = dict[bytes, bytes]
DIGEST = b"d" * 16
KEYED, CHOSEN = names.keyed_id(TENANT, "key"), "chosen"
BATCH, MEMBER = names.keyed_id(TENANT, "batch"), names.keyed_id(TENANT, "batch", 1)


def consistent_rows() -> Rows:
    """Returns rows of a keyed task, a task with an id from its producer, a keyed batch of two, and an unnamed task."""
    driven = DrivenShard()
    for naming in (Naming(KEYED, DIGEST), Naming(CHOSEN), None):
        names.create(driven.shard, TENANT, NewTask("a", b"1", 0, 0, 0, naming), driven.now)
    later = driven.wall + 9_000
    members = [
        NewTask("a", b"1", 0, 0, later, Naming(names.keyed_id(TENANT, "batch", index), DIGEST)) for index in (0, 1)
    ]
    names.create_all(driven.shard, TENANT, members, Naming(BATCH, DIGEST), driven.now)
    driven.write()
    return dict(driven.store.scan(b"", b"\xff" * 16, 1 << 20))


def key_of(task_id: str, tenant: str = TENANT) -> bytes:
    return keys.name_key(tenant, task_id)


def home_of(task_id: str) -> Callable[[Rows], bytes]:
    return lambda rows: next(key for key, value in rows.items() if key[:1] == b"t" and keys.name_of(value) == task_id)


def change(task_id: str, **fields: object) -> Callable[[Rows], None]:
    def mutate(rows: Rows) -> None:
        row = rows_pb2.NameRow.FromString(rows[key_of(task_id)])
        row.MergeFrom(rows_pb2.NameRow(**fields))
        rows[key_of(task_id)] = row.SerializeToString()

    return mutate


def drop(task_id: str) -> Callable[[Rows], None]:
    return lambda rows: rows.__delitem__(key_of(task_id))


def move(task_id: str, key: bytes) -> Callable[[Rows], None]:
    return lambda rows: rows.__setitem__(key, rows.pop(key_of(task_id)))


def lead(task_id: str, to: str) -> Callable[[Rows], None]:
    return lambda rows: rows.__setitem__(key_of(task_id), rows[key_of(to)])


def queue_key(_: Rows) -> bytes:
    return keys.queue_key(1)


SPOILT: dict[str, tuple[Callable[[Rows], None], Callable[[Rows], bytes]]] = {
    "key's row is missing": (drop(KEYED), home_of(KEYED)),
    "chosen id's row is missing": (drop(CHOSEN), home_of(CHOSEN)),
    "row of a member is missing": (drop(MEMBER), home_of(MEMBER)),
    "row of a batch is missing": (drop(BATCH), lambda _: key_of(BATCH)),
    "row of another tenant": (move(CHOSEN, key_of(CHOSEN, "other")), home_of(CHOSEN)),
    "row under another id": (move(CHOSEN, key_of("another")), home_of(CHOSEN)),
    "row without an id": (move(CHOSEN, key_of("")), lambda _: key_of("")),
    "row that leads to no task": (change(CHOSEN, home=keys.pack_home(9, 99)), lambda _: key_of(CHOSEN)),
    "row that leads to a queue that never was": (change(CHOSEN, queue=77), lambda _: key_of(CHOSEN)),
    "row that leads to a task of another epoch": (change(CHOSEN, epoch=99), home_of(CHOSEN)),
    "row that leads to a task with the server's id": (change(CHOSEN, home=keys.pack_home(9, 3)), home_of(CHOSEN)),
    "two rows that lead to one task": (lead(CHOSEN, KEYED), lambda _: key_of(CHOSEN)),
    "digest that is too short": (change(KEYED, digest=b"d"), lambda _: key_of(KEYED)),
    "batch that counts too few": (change(BATCH, batch_left=1), lambda _: key_of(BATCH)),
    "batch that counts more than it had": (change(BATCH, batch_left=3), lambda _: key_of(BATCH)),
    "member of another batch": (change(MEMBER, batch="nobody"), lambda _: key_of("nobody")),
    "home that forgot its name": (
        lambda rows: rows.__setitem__(home_of(CHOSEN)(rows), keys.home_head(1) + b"x"),
        lambda _: b"t",
    ),
    "queue that counts too many": (
        lambda rows: rows.__setitem__(
            keys.queue_key(1), rows[keys.queue_key(1)] + rows_pb2.QueueRow(named=9).SerializeToString()
        ),
        queue_key,
    ),
    "unreadable row": (
        lambda rows: rows.__setitem__(key_of(CHOSEN), b"\xff\xff"),
        lambda _: key_of(CHOSEN),
    ),
}


def test_check_of_consistent_names_finds_nothing() -> None:
    rows = consistent_rows()
    assert sum(key[:1] == b"i" for key in rows) == 5
    assert list(check(sorted(rows.items()))) == []


@pytest.mark.parametrize("name", SPOILT)
def test_corrupt_name_row_is_reported(name: str) -> None:
    spoil, key = SPOILT[name]
    rows = consistent_rows()
    expected = key(rows)
    spoil(rows)
    found = list(check(sorted(rows.items())))
    assert any(difference.key.startswith(expected) for difference in found), found


def test_id_that_leads_to_another_shard_is_reported() -> None:
    driven = DrivenShard(route=ids.Route(1, 4))
    for number in range(8):
        name = f"mine-{number}"
        names.create(driven.shard, TENANT, NewTask("a", b"1", 0, 0, 0, Naming(name)), driven.now)
        driven.write_unchecked()
        found = [each.problem for each in check(driven.store.scan(b"", b"\xff", 1 << 30))]
        strays = [number for number in range(number + 1) if ids.shard_of(f"mine-{number}", 4) != 1]
        assert len(found) == len(strays)
        assert all("but this is shard 1" in problem for problem in found)
    assert strays
