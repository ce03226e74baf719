"""The places of a worker's streams against servers of which each message may cross others."""

from __future__ import annotations

import asyncio
import random
from collections import deque

import pytest
from codeq import worker_places
from codeq.worker_places import Part, Places


class Stream:
    """One stream with its server: what the worker has sent, and what the server has answered, is on its way."""

    def __init__(self, places: Places) -> None:
        self.part = Part(lambda: None)
        self._places = places
        self._held = 0  # credits that the server has
        self._sent: deque[tuple[int, int]] = deque()  # credits granted, and asked for
        self._answers: deque[int | None] = deque()  # credits returned; None: a task
        self._is_open = False
        places.add(self.part)

    @property
    def expected(self) -> int:
        """Tasks that may still arrive."""
        return self._held + sum(granted for granted, _ in self._sent) + self._answers.count(None)

    def open(self) -> None:
        if not self._is_open:
            self._is_open = True
            self.part.credits_max = 65_536
            self.part.is_taking = not self.part.is_retiring

    def close(self) -> None:
        self._is_open = False
        self._held = 0
        self._sent.clear()
        self._answers.clear()
        self._places.closed(self.part)

    def send(self) -> None:
        if self._is_open:
            granted = self._places.granted(self.part) if self.part.is_taking else 0
            self._sent.append((granted, self.part.ask_back(all_credits=self.part.is_retiring)))

    def serve(self, *, tasks: int, kept: int = 0) -> None:
        """The server reads a message, keeps some of the credits that it should return, and delivers tasks."""
        if self._sent:
            granted, asked = self._sent.popleft()
            self._held += granted
            if asked:
                returned = min(asked, max(0, self._held - kept))
                self._held -= returned
                self._answers.append(returned)
        for _ in range(min(tasks, self._held)):
            self._held -= 1
            self._answers.append(None)

    def read(self) -> None:
        """The worker reads an answer."""
        if not self._answers:
            return
        answer = self._answers.popleft()
        if answer is None:
            self.part.credits -= 1
            self.part.running += 1
            self._places.balance()
        else:
            self._places.returned(self.part, answer)

    def end_task(self) -> None:
        if self.part.running:
            self.part.running -= 1
            self._places.freed(self.part)

    def settle(self, *, tasks: int = 0) -> None:
        """Exchanges messages until nothing is on its way."""
        self.send()
        while self._sent or self._answers:
            self.serve(tasks=tasks)
            self.read()


def step(stream: Stream, dice: random.Random) -> None:
    """Lets a stream do one thing."""
    match dice.randrange(12):
        case 0:
            stream.close()
        case 1 | 2:
            stream.open()
        case 3 | 4 | 5:
            stream.send()
        case 6 | 7:
            stream.serve(tasks=dice.randrange(4), kept=dice.randrange(2))
        case 8 | 9:
            stream.read()
        case _:
            stream.end_task()


@pytest.mark.parametrize("seed", range(20))
async def test_tasks_that_run_or_may_arrive_never_exceed_the_places_and_none_is_lost(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_places, "ASK_AGAIN_SECONDS", 0.0)
    dice = random.Random(seed)
    total = dice.randrange(8, 40)
    places = Places()
    streams = [Stream(places)]
    streams[0].part.places = total
    for turn in range(3000):
        if turn % 1000 == 100:  # other streams replace all of them
            old = [stream for stream in streams if not stream.part.is_retiring]
            streams += [Stream(places) for _ in range(dice.randrange(1, 5))]
            for stream in old:
                places.retire(stream.part)
        step(dice.choice(streams), dice)
        assert sum(stream.part.places for stream in streams) == total
        assert sum(stream.part.running + stream.expected for stream in streams) <= total
    for stream in streams:
        stream.open()
    for _ in range(5):
        await asyncio.sleep(0)  # one turn, so that streams which returned nothing may be asked again
        for stream in streams:
            stream.settle()
    for stream in streams:
        assert stream.part.credits == stream.expected
        assert not stream.part.is_retiring or stream.part.places == stream.part.running
    assert sum(stream.part.running + stream.expected for stream in streams) == total


async def test_all_places_but_one_for_each_other_stream_follow_the_work() -> None:
    places = Places()
    first, streams = Stream(places), [Stream(places) for _ in range(4)]
    first.part.places = 40
    first.open()
    first.settle()
    places.retire(first.part)  # it has granted all, and asks for them back
    assert [stream.part.places for stream in streams] == [0, 0, 0, 0]
    first.settle()
    assert [stream.part.places for stream in streams] == [10, 10, 10, 10]
    for stream in streams:
        stream.open()
        stream.settle()
    for _ in range(20):
        streams[0].settle(tasks=40)
        for stream in streams[1:]:
            stream.settle()
    assert [stream.part.running for stream in streams] == [37, 0, 0, 0]
    assert [stream.part.credits for stream in streams] == [0, 1, 1, 1]
    for _ in range(40):  # then all have work, and each place that becomes free goes to a stream with fewer
        for stream in streams:
            stream.settle(tasks=40)
        streams[0].end_task()
    assert all(9 <= stream.part.places <= 11 for stream in streams), [stream.part.places for stream in streams]
