"""Policies of queues: where they are stored, to which queues they apply, and what they do to claims, ends and nacks."""

from __future__ import annotations

import itertools

import pytest
from codeq.v1 import task_pb2
from codeq.v1 import topic_service_pb2 as pb
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, policies, tenant_keys
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.limits import Limits
from codeq_server.core.new_task import NewTask
from codeq_server.core.policies import Put
from codeq_server.core.policy import NO_POLICY, Policy, fitted, policy_of
from codeq_server.core.redrive import redrive_task
from codeq_server.core.status import Outcome
from driven_shard import TENANT, DrivenShard

URL = "https://example.com/hook"


def put(shard: DrivenShard, command: str = "a", *, tenant: str = TENANT, **policy: object) -> Put:
    row = rows_pb2.PolicyRow(**policy)  # type: ignore[arg-type]
    return shard.shard.policies.put(tenant, command, row, shard.now.wall_ms)


def policy(shard: DrivenShard, command: str = "a") -> Policy | None:
    return shard.shard.policies.of(TENANT, command)


def reopen(shard: DrivenShard) -> None:
    shard.write()
    shard.reopen()


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard(retention_ms=1_000, dlq_retention_ms=1_000, queue_idle_ms=2_000)


# -- rows ----------------------------------------------------------------------------------------------------------


def test_row_of_a_policy_has_the_wire_form_of_the_public_message() -> None:
    for public, row in ((pb.QueuePolicy, rows_pb2.PolicyRow), (pb.Backoff, rows_pb2.BackoffRow)):
        assert [(f.number, f.name, f.type, f.has_presence, f.is_repeated) for f in public.DESCRIPTOR.fields] == [
            (f.number, f.name, f.type, f.has_presence, f.is_repeated) for f in row.DESCRIPTOR.fields
        ]


def test_every_field_of_a_row_changes_the_policy() -> None:
    values: dict[str, object] = {
        "priority_tiers": [1],
        "dead_letter_topic_ref": "b",
        "backoff": rows_pb2.BackoffRow(policy="fixed"),
        "at_key_limit": "drop_newest",
        "webhook": URL,
        "concurrency_key_path": "/a",
        "rate_key_path": "/a",
        "ordering_key_path": "/a",
        "payload_schema": b"{}",
    }
    for field in rows_pb2.PolicyRow.DESCRIPTOR.fields:
        row = rows_pb2.PolicyRow(**{field.name: values.get(field.name, 7)})  # type: ignore[arg-type]
        assert policy_of(row) != NO_POLICY, field.name


def test_new_topic_has_version_1_and_a_change_the_next_one(shard: DrivenShard) -> None:
    first = put(shard, max_attempts=3)
    assert first.before is None
    assert (first.row.version, first.row.created_ms, first.row.updated_ms) == (1, shard.wall, shard.wall)
    created_ms, shard.wall = shard.wall, shard.wall + 5
    second = put(shard, max_attempts=4)
    assert (second.row.version, second.row.created_ms, second.row.updated_ms) == (2, created_ms, shard.wall)


def test_same_policy_again_changes_nothing(shard: DrivenShard) -> None:
    put(shard, max_attempts=3)
    shard.write()
    shard.wall += 5
    again = put(shard, max_attempts=3)
    assert again.row.version == 1
    assert again.before == again.row
    assert not shard.shard.batch


def test_topic_survives_a_restart(shard: DrivenShard) -> None:
    put(shard, max_attempts=3)
    put(shard, "b", max_attempts=4)
    shard.create("b")
    reopen(shard)
    for command, attempts in (("a", 3), ("b", 4)):
        found = policy(shard, command)
        assert found is not None
        assert found.max_attempts == attempts
    assert shard.shard.policies.counts == {TENANT: 2}


def test_topics_of_one_tenant_do_not_apply_to_another(shard: DrivenShard) -> None:
    put(shard, tenant="other", max_attempts=3)
    assert policy(shard) is None
    assert shard.shard.policies.page(TENANT, "", 10) == ([], "")
    shard.create()
    assert shard.shard.by_name[TENANT, "a"].policy is None


def test_delete_is_idempotent_and_frees_the_queue_of_its_limit(shard: DrivenShard) -> None:
    put(shard, max_consumers=1)
    shard.create()
    shard.create()
    assert len(shard.claim(2)) == 1
    assert shard.shard.policies.delete(TENANT, "a") is not None
    assert shard.shard.policies.delete(TENANT, "a") is None
    assert shard.shard.policies.counts == {}
    assert len(shard.claim(2)) == 1
    reopen(shard)
    assert policy(shard) is None


def test_policy_set_before_the_queue_exists_applies_when_it_is_opened(shard: DrivenShard) -> None:
    put(shard, max_consumers=1)
    shard.create()
    shard.create()
    assert len(shard.claim(2)) == 1


def test_policy_outlives_the_removal_of_its_unused_queue(shard: DrivenShard) -> None:
    put(shard, max_consumers=1, completed_retention_seconds=1)
    shard.complete_one()
    for ms in (0, 1_000, 2_000):
        shard.write()
        shard.pass_time(ms)
    assert (TENANT, "a") not in shard.shard.by_name
    assert shard.shard.policies.retaining == {}
    shard.create()
    shard.create()
    assert len(shard.claim(2)) == 1
    assert len(shard.shard.policies.retaining) == 1


def test_tenant_at_its_limit_of_topics_gets_no_more(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "TOPICS_MAX", 1)
    put(shard, "a")
    put(shard, "a", max_attempts=1)
    with pytest.raises(Rejection) as caught:
        put(shard, "b")
    assert caught.value.reason is Reason.LIMIT_REACHED
    put(shard, "b", tenant="other")


def test_pages_of_topics_are_in_order_and_end_with_the_last_one(shard: DrivenShard) -> None:
    names = ["A", "a", "a.b", "a0", "b"]
    for name in reversed(names):
        put(shard, name)
    shard.write()
    found, after = [], ""
    while True:
        rows, after = shard.shard.policies.page(TENANT, after, 2)
        found += [row.command for row in rows]
        if not after:
            break
    assert found == names


def test_page_ends_at_its_limit_of_bytes(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "PAGE_BYTES", 1)
    put(shard, "a")
    put(shard, "b")
    shard.write()
    rows, after = shard.shard.policies.page(TENANT, "", 10)
    assert ([row.command for row in rows], after) == (["a"], "a")


@pytest.mark.parametrize(
    "row",
    [
        rows_pb2.TopicRow(tenant=TENANT, command="b"),
        rows_pb2.TopicRow(
            tenant=TENANT, command="a", policy=rows_pb2.PolicyRow(backoff=rows_pb2.BackoffRow(policy="x"))
        ),
    ],
    ids=["of another command", "with an unknown backoff"],
)
def test_unusable_row_stops_the_start(shard: DrivenShard, row: rows_pb2.TopicRow) -> None:
    shard.store.write({tenant_keys.topic_key(TENANT, "a"): row.SerializeToString()})
    with pytest.raises(CorruptRows):
        shard.reopen()


# -- new tasks -----------------------------------------------------------------------------------------------------


def fit(shard: DrivenShard, own: Policy, **task: object) -> NewTask:
    return fitted(own, NewTask("a", **{"payload": b"1", **task}), shard.now, "spec.")  # type: ignore[arg-type]


def test_task_that_names_nothing_gets_the_defaults_of_the_policy(shard: DrivenShard) -> None:
    task = fit(shard, Policy(default_priority=4, max_attempts=3, expire_ms=10, webhook=URL))
    assert (task.priority, task.max_attempts, task.expire_ms) == (4, 3, shard.wall + 10)
    assert task_pb2.Task.FromString(task.kept) == task_pb2.Task(webhook=URL)
    assert task.hooked
    assert task.misfit is None


def test_task_keeps_what_it_names(shard: DrivenShard) -> None:
    own = Policy(default_priority=4, max_attempts=3, expire_ms=10, webhook="https://other.example/")
    kept = task_pb2.Task(webhook=URL).SerializeToString()
    task = fit(shard, own, priority=5, max_attempts=2, expire_ms=7, kept=kept, hooked=True)
    assert (task.priority, task.max_attempts, task.expire_ms, task.kept) == (5, 2, 7, kept)
    assert task.hooked
    assert task.misfit is None


@pytest.mark.parametrize(
    ("own", "task", "field"),
    [
        (Policy(tiers=(1, 5)), {"priority": 2}, "spec.priority"),
        (Policy(tiers=(1, 5)), {}, "spec.priority"),
        (Policy(max_attempts=3), {"max_attempts": 4}, "spec.max_attempts"),
        (Policy(payload_bytes_max=3), {"payload": b"1234"}, "spec.payload"),
    ],
)
def test_task_that_a_policy_does_not_allow_is_refused_with_its_field(
    shard: DrivenShard, own: Policy, task: dict[str, object], field: str
) -> None:
    misfit = fit(shard, own, **task).misfit
    assert misfit is not None
    assert misfit.reason is Reason.POLICY_VIOLATION
    assert [name for name, _ in misfit.violations] == [field]


# -- maxConsumers --------------------------------------------------------------------------------------------------


def claimed(shard: DrivenShard, count: int = 10) -> int:
    return len(shard.claim(count))


def limited(shard: DrivenShard, most: int, tasks: int) -> list[str]:
    put(shard, max_consumers=most)
    return [shard.create(priority=index % 10) for index in range(tasks)]


def test_no_more_tasks_are_leased_than_the_policy_allows(shard: DrivenShard) -> None:
    limited(shard, 3, 30)
    assert [claimed(shard, 2), claimed(shard, 2), claimed(shard, 2)] == [2, 1, 0]
    assert shard.shard.by_name[TENANT, "a"].full


def test_other_commands_are_claimed_beside_a_full_one(shard: DrivenShard) -> None:
    limited(shard, 1, 5)
    for _ in range(5):
        shard.create("b")
    assert claimed(shard) == 6
    assert claimed(shard) == 0


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.NACK, Outcome.ABANDON])
def test_end_of_a_delivery_frees_its_slot_and_wakes_the_queue(shard: DrivenShard, outcome: Outcome) -> None:
    limited(shard, 1, 3)
    (held,) = shard.claim(5)
    shard.shard.take_effects()
    shard.settle(held.task_id, outcome, error="no" if outcome is Outcome.FAILED else "")
    effects = shard.shard.take_effects()
    assert effects is not None
    assert [queue.command for queue in effects.woken] == ["a"]
    assert claimed(shard) == 1


def test_expired_lease_frees_its_slot(shard: DrivenShard) -> None:
    limited(shard, 2, 5)
    assert claimed(shard) == 2
    shard.pass_time(3_600_000)
    assert shard.shard.by_name[TENANT, "a"].claimed == 0
    assert claimed(shard) == 2


def test_delayed_and_nacked_tasks_hold_no_slot(shard: DrivenShard) -> None:
    limited(shard, 1, 0)
    shard.create(delay=1_000)
    task_id = shard.create()
    shard.claim(1)
    shard.settle(task_id, Outcome.NACK, delay=1_000)
    shard.create()
    assert claimed(shard) == 1


def test_limit_holds_after_a_restart(shard: DrivenShard) -> None:
    limited(shard, 2, 5)
    (first, _) = shard.claim(5)
    reopen(shard)
    assert claimed(shard) == 0
    shard.settle(first.task_id)
    assert claimed(shard) == 1
    assert claimed(shard) == 0


def test_lowered_limit_admits_none_until_enough_have_ended(shard: DrivenShard) -> None:
    limited(shard, 3, 9)
    held = shard.claim(9)
    put(shard, max_consumers=1)
    for each in held[:2]:
        shard.settle(each.task_id)
        assert claimed(shard) == 0
    shard.settle(held[2].task_id)
    assert claimed(shard) == 1


def test_raised_limit_wakes_the_queue(shard: DrivenShard) -> None:
    limited(shard, 1, 5)
    assert claimed(shard) == 1
    shard.shard.take_effects()
    put(shard, max_consumers=3)
    effects = shard.shard.take_effects()
    assert effects is not None
    assert [queue.command for queue in effects.woken] == ["a"]
    assert claimed(shard) == 2


def test_paused_queue_stays_paused_when_a_slot_is_freed(shard: DrivenShard) -> None:
    limited(shard, 1, 3)
    (held,) = shard.claim(1)
    queue = shard.shard.by_name[TENANT, "a"]
    shard.shard.pause(queue)
    shard.settle(held.task_id)
    assert claimed(shard) == 0
    shard.shard.resume(queue)
    assert claimed(shard) == 1


def test_resumed_queue_at_its_limit_stays_hidden(shard: DrivenShard) -> None:
    limited(shard, 1, 3)
    shard.claim(1)
    queue = shard.shard.by_name[TENANT, "a"]
    shard.shard.pause(queue)
    shard.shard.resume(queue)
    assert claimed(shard) == 0


# -- retention and backoff -----------------------------------------------------------------------------------------


def test_ended_tasks_are_kept_as_their_policy_says(shard: DrivenShard) -> None:
    put(shard, retention_seconds=5, failed_retention_seconds=10, dlq_retention_seconds=20)
    ended = {}
    for outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.NACK):
        ended[outcome] = shard.create(attempts=1)
        shard.claim(1)
        shard.settle(ended[outcome], outcome, error="no" if outcome is not Outcome.COMPLETED else "")
    plain = shard.create("b")
    shard.claim(1)
    shard.settle(plain)
    shard.write()
    left, waited_ms = {plain, *ended.values()}, 0
    lives = ((1_000, plain), *zip((5_000, 10_000, 20_000), ended.values(), strict=True))
    for until_ms, gone in lives:  # counted from the seal of the batch
        shard.pass_time(until_ms - 1 - waited_ms)
        assert stored(shard, left) == left
        shard.pass_time(1)
        left = left - {gone}
        assert stored(shard, left | {gone}) == left
        waited_ms = until_ms
        shard.write()


def stored(shard: DrivenShard, task_ids: set[str]) -> set[str]:
    """Returns which of the tasks are still stored."""
    found = set()
    for task_id in task_ids:
        try:
            shard.view(task_id)
        except Rejection:
            continue
        found.add(task_id)
    return found


def test_policy_with_the_retention_of_the_server_shares_its_lists(shard: DrivenShard) -> None:
    put(shard, retention_seconds=1)
    for command in ("a", "b"):
        task_id = shard.create(command)
        shard.claim(1)
        shard.settle(task_id)
    shard.write()
    assert len(shard.keys(keys.ENDED)) == 1


def test_nack_without_a_delay_waits_as_the_policy_says(shard: DrivenShard) -> None:
    put(shard, backoff=rows_pb2.BackoffRow(policy="linear", base_seconds=7, max_seconds=10))
    task_id = shard.create()
    delays = []
    for _ in range(3):
        shard.claim(1)
        delays.append(shard.nack(task_id, None).delay_ms)
        shard.pass_time(20_000)
    assert delays == [7_000, 10_000, 10_000]


def test_backoff_that_names_only_the_base_keeps_the_rest_of_the_settings(shard: DrivenShard) -> None:
    put(shard, backoff=rows_pb2.BackoffRow(base_seconds=9))
    task_id = shard.create()
    shard.claim(1)
    assert shard.nack(task_id, None).delay_ms == 9_000


# -- dead-letter topics --------------------------------------------------------------------------------------------


def bury(shard: DrivenShard, task_id: str) -> None:
    """Delivers a task until it is dead."""
    while shard.status(task_id) != "DLQ":
        shard.claim(1, ["a"])
        shard.settle(task_id, Outcome.NACK, error="no luck", delay=0)


def test_dead_letter_leaves_a_task_with_payload_history_and_origin_to_its_topic(shard: DrivenShard) -> None:
    put(shard, dead_letter_topic_ref="graves")
    task_id = shard.create(attempts=2, priority=4, size=300)
    bury(shard, task_id)
    shard.write()
    reopen(shard)
    assert shard.status(task_id) == "DLQ"
    (heir,) = shard.claim(5, ["graves"])
    view = shard.view(str(heir.task_id))
    task = task_pb2.Task.FromString(heir.raw)
    assert (task.command, task.payload, task.priority, heir.attempts) == ("graves", b"1" * 300, 4, 1)
    assert (task.origin_task_id, task.origin_command, task.max_attempts) == (task_id, "a", 5)
    assert [each.error for each in view.deliveries] == ["no luck", "no luck"]
    shard.settle(str(heir.task_id))
    shard.write()
    assert [each.error for each in shard.view(str(heir.task_id)).deliveries][:2] == ["no luck", "no luck"]


def test_dead_letter_leaves_one_task_for_each_time_that_it_dies(shard: DrivenShard) -> None:
    put(shard, dead_letter_topic_ref="graves")
    task_id = shard.create(attempts=1)
    for deaths in (1, 2):
        bury(shard, task_id)
        shard.write()
        assert shard.queue("graves").ready == deaths
        redrive_task(shard.shard, TENANT, task_id, shard.now)


def test_expired_last_lease_leaves_a_task_and_wakes_its_queue(shard: DrivenShard) -> None:
    put(shard, dead_letter_topic_ref="graves")
    shard.create(attempts=1)
    shard.claim(1)
    shard.shard.take_effects()
    shard.pass_time(60_000)
    effects = shard.shard.take_effects()
    assert effects is not None
    assert [queue.command for queue in effects.woken] == ["graves"]


def test_task_of_a_dead_letter_fits_the_policy_of_its_queue(shard: DrivenShard) -> None:
    put(shard, dead_letter_topic_ref="graves")
    put(shard, "graves", priority_tiers=[2, 7], max_attempts=1, dead_letter_topic_ref="ashes", webhook=URL)
    task_id = shard.create(attempts=1, priority=3)
    bury(shard, task_id)
    (heir,) = shard.claim(1, ["graves"])
    task = task_pb2.Task.FromString(heir.raw)
    assert (task.priority, task.max_attempts, task.webhook) == (2, 1, URL)
    assert shard.queue("graves").hooked == 1
    shard.nack(str(heir.task_id))
    assert shard.queue("graves").outbox is not None
    assert shard.queue("ashes").ready == 1
    shard.write()


def test_burial_opens_the_queue_of_its_topic_beyond_the_limit_of_queues() -> None:
    shard = DrivenShard(queues_max=1, limits=Limits(queues_max=1))
    put(shard, dead_letter_topic_ref="graves")
    bury(shard, shard.create(attempts=1))
    assert shard.queue("graves").ready == 1


@pytest.mark.parametrize("chain", [["a"], ["b", "a"], ["b", "c", "a"]], ids=len)
def test_dead_letter_topics_that_lead_back_are_refused(shard: DrivenShard, chain: list[str]) -> None:
    for command, following in itertools.pairwise(chain):
        put(shard, command, dead_letter_topic_ref=following)
    with pytest.raises(Rejection) as caught:
        put(shard, "a", dead_letter_topic_ref=chain[0])
    assert caught.value.reason is Reason.INVALID_POLICY
    assert [field for field, _ in caught.value.violations] == ["policy.dead_letter_topic_ref"]
    assert policy(shard) is None


def test_chain_of_dead_letter_topics_is_bounded(shard: DrivenShard) -> None:
    names = [f"t{number}" for number in range(policies.CHAIN_MAX + 2)]
    for command, following in reversed(list(itertools.pairwise(names[1:]))):
        put(shard, command, dead_letter_topic_ref=following)
    with pytest.raises(Rejection):
        put(shard, names[0], dead_letter_topic_ref=names[1])
