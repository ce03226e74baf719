"""Ids that the server does not assign: idempotency keys, ids chosen by producers, atomic batches."""

from __future__ import annotations

import uuid

import pytest
from codeq_server.core import ids, keys, names
from codeq_server.core.claims import claim
from codeq_server.core.errors import Rejection
from codeq_server.core.lookup import find_home
from codeq_server.core.model import Caller, Name, id_of
from codeq_server.core.names import Created, Duplicate
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.outcomes import settle
from codeq_server.core.status import Outcome
from driven_shard import TENANT, DrivenShard

RETENTION_MS = 5_000
DIGEST, OTHER = b"d" * 16, b"o" * 16


def task(naming: Naming | None, *, command: str = "a", delay: int = 0, attempts: int = 0) -> NewTask:
    return NewTask(command, b"1", 0, attempts, delay, naming)


def create(driven: DrivenShard, naming: Naming, *, tenant: str = TENANT, delay: int = 0) -> Created | Duplicate:
    now = driven.now
    return names.create(driven.shard, tenant, task(naming, delay=now.wall_ms + delay if delay else 0), now)


def keyed(key: str = "k", digest: bytes = DIGEST, tenant: str = TENANT) -> Naming:
    return Naming(names.keyed_id(tenant, key), digest)


def batch(
    driven: DrivenShard, count: int, key: str = "b", digest: bytes = DIGEST
) -> list[Created] | list[Duplicate | None]:
    tasks = [task(Naming(names.keyed_id(TENANT, key, index), digest)) for index in range(count)]
    return names.create_all(driven.shard, TENANT, tasks, keyed(key, digest), driven.now)


def tables(driven: DrivenShard) -> set[bytes]:
    return {key[:1] for key, _ in driven.store.scan(b"", b"\xff" * 16, 1 << 20)}


def reason(refused: pytest.ExceptionInfo[Rejection]) -> str:
    return refused.value.reason.name


def test_keyed_id_is_a_version_5_uuid_of_tenant_and_key() -> None:
    found = uuid.UUID(names.keyed_id(TENANT, "k"))
    assert (found.version, str(found)) == (5, names.keyed_id(TENANT, "k"))
    others = {names.keyed_id("other", "k"), names.keyed_id(TENANT, "l"), names.keyed_id(TENANT, "k", 0)}
    assert str(found) not in others
    assert len(others) == 3


def test_keyed_id_never_changes() -> None:
    assert names.keyed_id("acme", "order-42") == "6cd69f63-1551-52f7-83ad-8c30aedf3a4a"


@pytest.mark.parametrize("durable", [False, True])
def test_repeated_request_with_a_key_finds_the_first_task_even_before_it_is_written(durable: bool) -> None:
    driven = DrivenShard()
    first = create(driven, keyed())
    if durable:
        driven.write()
        driven.reopen()
    rows = dict(driven.shard.batch.rows)
    assert create(driven, keyed()) == Duplicate(first.task_id)
    assert driven.shard.batch.rows == rows
    assert driven.queue().created_total == 1


def test_different_request_with_the_same_key_is_a_conflict_and_changes_nothing() -> None:
    driven = DrivenShard()
    create(driven, keyed())
    rows = dict(driven.shard.batch.rows)
    with pytest.raises(Rejection) as refused:
        create(driven, keyed(digest=OTHER))
    assert reason(refused) == "IDEMPOTENCY_CONFLICT"
    assert driven.shard.batch.rows == rows


def test_equivalent_request_finds_the_first_task_and_batch() -> None:
    driven = DrivenShard()
    first = create(driven, Naming(names.keyed_id(TENANT, "k"), DIGEST, b"m" * 16))
    assert create(driven, Naming(first.task_id, OTHER, b"m" * 16)) == Duplicate(first.task_id)
    with pytest.raises(Rejection) as refused:
        create(driven, Naming(first.task_id, OTHER, b"n" * 16))
    assert reason(refused) == "IDEMPOTENCY_CONFLICT"
    driven.write()


def test_key_from_an_earlier_server_matches_the_request_as_sent() -> None:
    driven = DrivenShard()
    first = create(driven, keyed())
    driven.write()
    (key,) = driven.keys(b"i")
    assert b"m" * 16 not in (driven.store.get(key) or b"")
    assert create(driven, Naming(first.task_id, DIGEST, b"m" * 16)) == Duplicate(first.task_id)
    with pytest.raises(Rejection):
        create(driven, Naming(first.task_id, OTHER, b"m" * 16))


def test_key_from_this_server_is_recognized_by_an_earlier_server() -> None:
    driven = DrivenShard()
    first = create(driven, Naming(names.keyed_id(TENANT, "k"), DIGEST, b"m" * 16))
    assert create(driven, keyed()) == Duplicate(first.task_id)


def test_two_tenants_can_use_the_same_idempotency_key() -> None:
    driven = DrivenShard()
    create(driven, keyed())
    assert isinstance(create(driven, keyed(tenant="other", digest=OTHER), tenant="other"), Created)


def test_idempotency_key_lasts_exactly_as_long_as_its_tasks_rows() -> None:
    driven = DrivenShard(retention_ms=RETENTION_MS)
    first = create(driven, keyed())
    driven.pass_time(100 * RETENTION_MS)
    assert isinstance(create(driven, keyed()), Duplicate)
    driven.claim()
    driven.settle(first.task_id)
    driven.write()
    driven.pass_time(RETENTION_MS - 1)
    assert isinstance(create(driven, keyed()), Duplicate)
    driven.pass_time(2)
    driven.write()
    assert tables(driven) == {b"m", b"q"}
    again = create(driven, keyed(digest=OTHER))
    assert isinstance(again, Created)
    assert again.task_id == first.task_id
    driven.write()


@pytest.mark.parametrize("delay", [0, 1000])
def test_named_task_goes_through_the_same_states_as_any_other(delay: int) -> None:
    driven = DrivenShard(retention_ms=RETENTION_MS)
    create(driven, Naming("my-id"), delay=delay)
    assert driven.status("my-id") == ("SCHEDULED" if delay else "PENDING")
    driven.write()
    driven.reopen()
    driven.pass_time(delay)
    (delivered,) = driven.claim()
    assert id_of(delivered.task_id) == "my-id"
    driven.heartbeat("my-id", 90_000)
    driven.write()
    driven.reopen()
    assert driven.status("my-id") == "CLAIMED"
    driven.nack("my-id")
    assert [id_of(each.task_id) for each in driven.claim()] == ["my-id"]
    driven.settle("my-id", Outcome.ABANDON)
    assert [id_of(each.task_id) for each in driven.claim()] == ["my-id"]
    driven.settle("my-id", result=b"7")
    assert driven.view("my-id").result == b"7"
    driven.write()
    driven.pass_time(RETENTION_MS + 1)
    driven.write()
    assert tables(driven) == {b"m", b"q"}


def test_named_dead_letter_leaves_no_row_after_its_retention() -> None:
    driven = DrivenShard(dlq_retention_ms=RETENTION_MS)
    names.create(driven.shard, TENANT, task(Naming("dead"), attempts=1), driven.now)
    driven.claim()
    driven.nack("dead")
    assert driven.status("dead") == "DLQ"
    driven.write()
    driven.pass_time(RETENTION_MS + 1)
    driven.write()
    assert tables(driven) == {b"m", b"q"}


def test_id_in_use_is_rejected_however_it_was_assigned() -> None:
    driven = DrivenShard()
    create(driven, Naming("x"))
    key = keyed()
    create(driven, key)
    for taken in ("x", key.task_id):
        with pytest.raises(Rejection) as refused:
            create(driven, Naming(taken))
        assert reason(refused) == "TASK_ID_TAKEN"
    other = keyed("l")
    create(driven, Naming(other.task_id))
    with pytest.raises(Rejection) as refused:
        create(driven, other)
    assert reason(refused) == "IDEMPOTENCY_CONFLICT"


def test_two_tenants_run_tasks_with_the_same_id_at_the_same_time() -> None:
    driven = DrivenShard()
    callers = [Caller(TENANT, "w", "w"), Caller("other", "w", "w")]
    tokens = []
    for caller in callers:
        create(driven, Naming("x"), tenant=caller.tenant)
        taken = claim(driven.shard, caller, None, 1, 1 << 20, 60_000, driven.now)
        assert taken is not None
        assert taken[1][0].task_id == Name(caller.tenant, "x")
        tokens.append(taken[0].token)
    with pytest.raises(Rejection) as refused:
        settle(driven.shard, callers[0], "x", tokens[1], Outcome.COMPLETED, None, "", None, 0, driven.now)
    assert reason(refused) == "STALE_LEASE_TOKEN"
    for caller, token in zip(callers, tokens, strict=True):
        settle(driven.shard, caller, "x", token, Outcome.COMPLETED, None, "", None, 0, driven.now)
    driven.write()


def test_named_task_cannot_be_found_by_any_other_id() -> None:
    driven = DrivenShard()
    create(driven, Naming("x"))
    home, position = find_home(driven.shard, TENANT, "x")
    with pytest.raises(Rejection) as refused:
        find_home(driven.shard, TENANT, home.id_of(position, driven.epoch))
    assert reason(refused) == "TASK_NOT_FOUND"
    with pytest.raises(Rejection):
        find_home(driven.shard, "other", "x")


def test_repeated_batch_returns_the_tasks_of_the_first() -> None:
    driven = DrivenShard()
    first = batch(driven, 3)
    driven.write()
    driven.reopen()
    assert [each and each.task_id for each in batch(driven, 3)] == [each and each.task_id for each in first]
    assert driven.queue().ready == 3
    for count, digest in ((3, OTHER), (2, DIGEST)):
        with pytest.raises(Rejection) as refused:
            batch(driven, count, digest=digest)
        assert reason(refused) == "IDEMPOTENCY_CONFLICT"
    with pytest.raises(Rejection) as refused:
        create(driven, keyed("b"))
    assert reason(refused) == "IDEMPOTENCY_CONFLICT"


def test_batch_key_lasts_as_long_as_the_last_task_of_the_batch() -> None:
    driven = DrivenShard(retention_ms=RETENTION_MS)
    batch(driven, 2)
    driven.settle(id_of(driven.claim()[0].task_id))
    driven.write()
    driven.pass_time(RETENTION_MS + 1)
    driven.write()
    left = batch(driven, 2)
    assert left == [None, Duplicate(names.keyed_id(TENANT, "b", 1))]
    with pytest.raises(Rejection):
        find_home(driven.shard, TENANT, names.keyed_id(TENANT, "b"))
    driven.settle(id_of(driven.claim()[0].task_id))
    driven.write()
    driven.pass_time(RETENTION_MS + 1)
    driven.write()
    assert tables(driven) == {b"m", b"q"}
    assert all(isinstance(each, Created) for each in batch(driven, 2, digest=OTHER))


@pytest.mark.parametrize("ids", [["a", "b", "taken"], ["a", "b", "a"]])
def test_atomic_batch_with_a_taken_id_creates_nothing(ids: list[str]) -> None:
    driven = DrivenShard()
    create(driven, Naming("taken"))
    rows = dict(driven.shard.batch.rows)
    with pytest.raises(Rejection, match=r"tasks\[2\]") as refused:
        names.create_all(driven.shard, TENANT, [task(Naming(each)) for each in ids], None, driven.now)
    assert reason(refused) == "TASK_ID_TAKEN"
    assert driven.shard.batch.rows == rows
    assert driven.queue().ready == 1


def test_atomic_batch_with_too_many_new_queues_creates_nothing() -> None:
    driven = DrivenShard(queues_max=2)
    tasks = [task(None, command=command) for command in "abac"]
    with pytest.raises(Rejection) as refused:
        names.create_all(driven.shard, TENANT, tasks, None, driven.now)
    assert reason(refused) == "TOO_MANY_QUEUES"
    assert not driven.shard.batch
    assert len(names.create_all(driven.shard, TENANT, tasks[:3], None, driven.now)) == 3


@pytest.mark.parametrize("durable", [False, True])
def test_repeated_request_on_a_nearly_full_disk_still_finds_the_first_task(durable: bool) -> None:
    driven = DrivenShard()
    first, members = create(driven, keyed()), batch(driven, 2)
    create(driven, Naming("chosen"))
    if durable:
        driven.write()
    driven.shard.storage_full = True
    rows = dict(driven.shard.batch.rows)
    assert create(driven, keyed()) == Duplicate(first.task_id)
    assert [each and each.task_id for each in batch(driven, 2)] == [each and each.task_id for each in members]
    refusals = [
        (lambda: create(driven, keyed(digest=OTHER)), "IDEMPOTENCY_CONFLICT"),
        (lambda: create(driven, Naming("chosen")), "TASK_ID_TAKEN"),
        (lambda: create(driven, keyed("new")), "STORAGE_FULL"),
        (lambda: create(driven, Naming("new")), "STORAGE_FULL"),
        (lambda: batch(driven, 2, key="new"), "STORAGE_FULL"),
    ]
    for request, expected in refusals:
        with pytest.raises(Rejection) as refused:
            request()
        assert reason(refused) == expected
    assert driven.shard.batch.rows == rows


def test_home_of_a_named_task_contains_id_and_task_bytes() -> None:
    for head in (keys.home_head(5 | keys.NAMED_EPOCH), keys.parked_head(5 | keys.NAMED_EPOCH, 99, 3)):
        value = head + keys.name_head("x.1") + b"task"
        assert (keys.name_of(value), keys.task_bytes(value), keys.home_epoch(value)) == ("x.1", b"task", 5)
    assert keys.name_of(keys.home_head(5) + b"task") == ""


@pytest.mark.parametrize(("others", "is_found"), [(names._LED_MAX - 1, True), (names._LED_MAX, False)])
def test_ids_chosen_beside_that_of_a_key_hide_its_task_only_beyond_a_limit(others: int, is_found: bool) -> None:
    driven = DrivenShard()
    head = names.keyed_id(TENANT, "k")[: ids.LED_DIGITS]
    first = create(driven, Naming(f"{head}ff00", DIGEST))  # as another number of shards had it
    for number in range(others):
        create(driven, Naming(f"{head}00{number:02x}"))
    driven.write()
    driven.shard.resharded = True
    again = create(driven, Naming(f"{head}ff01", DIGEST))
    assert (again == Duplicate(first.task_id)) == is_found
