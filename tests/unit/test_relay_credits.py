"""Credits over several shards are neither lost nor doubled, and outcomes are reported in order: random histories."""

from __future__ import annotations

from typing import Any

import pytest
from codeq.v1 import error_pb2, worker_service_pb2
from codeq_server.core.errors import Rejection
from codeq_server.services.delivering import FRAME_BYTES_MAX
from codeq_server.services.relay_credits import TASK_BYTES_MAX, Credits, Pull
from codeq_server.services.relay_ledger import Ledger
from hypothesis import given
from hypothesis import strategies as st

SHARDS = 3
steps = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 700), st.integers(0, 3 << 20)),
        st.tuples(st.just("open"), st.integers(0, SHARDS - 1)),
        st.tuples(st.just("lose"), st.integers(0, SHARDS - 1)),
        st.tuples(st.just("hint"), st.integers(0, SHARDS - 1), st.integers(0, 9)),
        st.tuples(st.just("pull")),
        st.tuples(st.just("answer"), st.integers(0, SHARDS - 1), st.integers(0, 700), st.booleans(), st.integers(0, 4)),
    ),
    max_size=60,
)


@given(steps)
def test_credits_are_held_pulled_or_spent_whatever_happens(history: list[tuple[Any, ...]]) -> None:
    credits_ = Credits(SHARDS)
    granted = spent = bytes_granted = bytes_spent = 0
    counts_bytes = False
    pulls: dict[int, Pull] = {}
    for kind, *of in history:
        if kind == "grant":
            credits_.add(of[0], of[1])
            granted, bytes_granted = granted + of[0], bytes_granted + of[1]
            counts_bytes = counts_bytes or bool(of[1] and not pulls)
            if of[1] and not counts_bytes:
                return  # bytes are counted from now on, while pulls without a limit are in flight
        elif kind == "open" and of[0] not in pulls:
            credits_.open(of[0])
        elif kind == "lose":
            credits_.lose(of[0])
            pulls.pop(of[0], None)
        elif kind == "hint":
            credits_.hint(*of)
        elif kind == "pull" and (pull := credits_.next()) is not None:
            assert pull.shard not in pulls
            assert pull.tasks > 0
            assert 0 < pull.room <= FRAME_BYTES_MAX
            pulls[pull.shard] = pull
        elif kind == "answer" and (asked := pulls.pop(of[0], None)) is not None:
            count = min(of[1], asked.tasks)
            size = 0 if not count else min(asked.room + TASK_BYTES_MAX, of[3] * asked.room // 2 + 1)
            credits_.answer(of[0], count, size, is_ready=of[2], priority=0)
            spent, bytes_spent = spent + count, bytes_spent + size
        assert credits_.held >= 0
        assert credits_.held + credits_.pulling + spent == granted
        assert credits_.pulling == sum(pull.tasks for pull in pulls.values())
    if counts_bytes:
        assert bytes_spent <= bytes_granted + TASK_BYTES_MAX


def test_pull_leaves_credits_while_other_shards_may_have_tasks() -> None:
    credits_ = Credits(3)
    for shard in range(3):
        credits_.open(shard)
    credits_.add(60, 0)
    assert [credits_.next() for _ in range(4)] == [
        Pull(0, 20, FRAME_BYTES_MAX),
        Pull(1, 20, FRAME_BYTES_MAX),
        Pull(2, 20, FRAME_BYTES_MAX),
        None,
    ]
    for shard in range(3):
        credits_.answer(shard, 0, 0, is_ready=True, priority=9 if shard == 2 else 1)
    assert credits_.next() == Pull(2, 30, FRAME_BYTES_MAX)
    assert credits_.next() == Pull(0, 15, FRAME_BYTES_MAX)


def test_shard_asked_longest_ago_is_asked_first() -> None:
    credits_ = Credits(2)
    credits_.open(0)
    credits_.open(1)
    asked = []
    for _ in range(4):
        credits_.add(1, 0)
        pull = credits_.next()
        assert pull is not None
        asked.append(pull.shard)
        credits_.answer(pull.shard, 1, 10, is_ready=True, priority=0)
    assert asked[:2] != asked[:1] * 2
    assert asked == asked[:2] * 2


def test_few_bytes_go_to_one_shard_at_a_time() -> None:
    credits_ = Credits(2)
    credits_.open(0)
    credits_.open(1)
    credits_.add(10, 1000)
    assert credits_.next() == Pull(0, 5, 1000)
    assert credits_.next() is None
    credits_.answer(0, 1, 1500, is_ready=True, priority=0)
    assert (credits_.next(), credits_.held) == (None, 9)
    credits_.add(0, 100)
    assert credits_.next() == Pull(1, 5, 100)


def test_credits_beyond_the_limit_are_rejected() -> None:
    credits_ = Credits(2)
    credits_.open(0)
    credits_.add(65_536, 0)
    assert credits_.next() is not None
    with pytest.raises(Rejection):
        credits_.add(1, 0)


@given(st.data())
def test_outcomes_are_reported_once_in_order_with_the_numbers_of_the_client(data: st.DataObject) -> None:
    ledger = Ledger(SHARDS)
    open_: list[list[int]] = [[] for _ in range(SHARDS)]
    shard_number = [0] * SHARDS
    wrong: dict[int, int] = {}
    added = reported = 0
    told: dict[int, int] = {}
    settled: set[int] = set()

    def report() -> None:
        nonlocal reported
        answer = worker_service_pb2.WorkResponse()
        ledger.report(answer)
        reported += answer.settled
        numbers = [error.number for error in answer.outcome_errors]
        assert numbers == sorted(numbers)
        assert all(number <= reported for number in numbers)
        told.update({error.number: error.reason for error in answer.outcome_errors})
        assert reported == next((n - 1 for n in range(1, added + 2) if n not in settled), added)
        assert told == {number: reason for number, reason in wrong.items() if number <= reported}

    for _ in range(data.draw(st.integers(0, 40))):
        shard = data.draw(st.integers(0, SHARDS - 1))
        match data.draw(st.sampled_from(("add", "add", "settle", "lose"))):
            case "add":
                added += 1
                ledger.add(shard, f"t{added}")
                open_[shard].append(added)
            case "settle":
                count = data.draw(st.integers(0, len(open_[shard])))
                errors = []
                for index in range(count):
                    number = open_[shard][index]
                    if data.draw(st.booleans()):
                        wrong[number] = error_pb2.ERROR_REASON_STALE_LEASE_TOKEN
                        errors.append(
                            worker_service_pb2.OutcomeError(
                                number=shard_number[shard] + index + 1, reason=error_pb2.ERROR_REASON_STALE_LEASE_TOKEN
                            )
                        )
                settled.update(open_[shard][:count])
                del open_[shard][:count]
                shard_number[shard] += count
                ledger.settle(shard, count, errors)
            case "lose":
                unsent, keep = data.draw(st.integers(0, len(open_[shard]))), data.draw(st.booleans())
                sent = len(open_[shard]) - unsent
                lost = open_[shard][: sent if keep else None]
                for index, number in enumerate(lost):
                    wrong[number] = (
                        error_pb2.ERROR_REASON_OUTCOME_UNKNOWN
                        if index < sent
                        else error_pb2.ERROR_REASON_SERVER_UNREACHABLE
                    )
                settled.update(lost)
                del open_[shard][: len(lost)]
                shard_number[shard] = 0
                ledger.lose(shard, unsent, "gone", keep=keep)
        report()
    assert len(ledger) == added - reported
