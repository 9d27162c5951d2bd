"""What comes again is answered the same, and looked at once."""

from __future__ import annotations

import random

import pytest
from support import batch, event

from telemetryx_brain import Batch, Event, Finding
from telemetryx_brain._proto import brain_pb2
from telemetryx_brain.memory import Memory
from telemetryx_brain.server import Options, Servicer


class Counting:
    """Finds something in each third event, and notes how often it saw each."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def __call__(self, batch: Batch) -> list[Finding]:
        for one in batch.events:
            self.seen[one.id] = self.seen.get(one.id, 0) + 1
        return [Finding("third", cause=self.around(one, batch), payload=one.id) for one in batch.events if self.is_third(one)]

    @staticmethod
    def is_third(one: Event) -> bool:
        return int(one.id.removeprefix("e-").removeprefix("made-")) % 3 == 0

    @staticmethod
    def around(one: Event, batch: Batch) -> list[Event]:
        return [one, batch.events[0]]


def causes(answer: brain_pb2.Answer, message: brain_pb2.Batch) -> list[str]:
    """The ids of the causes, which must be those that the payloads say."""
    assert answer.WhichOneof("result") == "done", answer
    events = message.events.events
    ids = [events[finding.causes[0]].id for finding in answer.done.findings]
    assert [f'"{one}"'.encode() for one in ids] == [finding.event.payload for finding in answer.done.findings]
    return sorted(ids)


@pytest.mark.parametrize("seed", range(10))
def test_however_it_is_cut_when_it_comes_again_each_event_is_looked_at_once(seed: int) -> None:
    random_numbers = random.Random(seed)
    function = Counting()
    servicer = Servicer(function, Options())
    position, furthest = 0, 0
    for _ in range(60):
        end = position + random_numbers.randint(1, 30)
        # A filter of the route leaves some out.
        offsets = [offset for offset in range(position, end) if offset % 7]
        message = batch([event(offset) for offset in offsets], first=position, end=end, offsets=offsets)
        if offsets:
            expected = sorted(f"e-{offset}" for offset in offsets if offset % 3 == 0)
            assert causes(servicer._answer("r", message), message) == expected
        position, furthest = end, max(furthest, end)
        if random_numbers.random() < 0.4:
            # The service goes back to its last commit.
            position = random_numbers.randint(max(0, position - 50), position)
    assert set(function.seen.values()) == {1}
    assert len(function.seen) >= furthest - furthest // 7 - 31


def test_parts_routes_and_journals_are_apart() -> None:
    function = Counting()
    servicer = Servicer(function, Options())
    for route, part, log in [("r", 0, "a"), ("r", 1, "a"), ("q", 0, "a"), ("r", 0, "b")]:
        for _ in range(2):
            message = batch([event(n) for n in range(9)], part=part, log=log)
            assert len(causes(servicer._answer(route, message), message)) == 3
    assert set(function.seen.values()) == {4}


def test_events_made_by_a_processor_are_known_by_their_ids() -> None:
    function = Counting()
    servicer = Servicer(function, Options())
    made = event(0)
    made.id = "made-3"
    message = batch([event(4), event(5), made], first=4, end=6, offsets=[4, 5])
    for _ in range(2):
        assert causes(servicer._answer("r", message), message) == ["made-3"]
    assert function.seen == {"e-4": 1, "e-5": 1, "made-3": 1}


def test_a_redriven_letter_is_looked_at_once_and_a_replay_each_time() -> None:
    function = Counting()
    servicer = Servicer(function, Options())
    redriven = brain_pb2.Batch(sequence=1, redrive=brain_pb2.Redrive(log="a", letter=4))
    redriven.events.events.append(event(3))
    for _ in range(2):
        assert causes(servicer._answer("r", redriven), redriven) == ["e-3"]
    assert function.seen == {"e-3": 1}
    replayed = batch([event(3)])
    replayed.replay.SetInParent()
    for _ in range(2):
        assert causes(servicer._answer("r", replayed), replayed) == ["e-3"]
    assert function.seen == {"e-3": 3}


def test_a_batch_that_failed_is_not_remembered() -> None:
    seen = []

    def fails_once(batch: Batch) -> list[Finding]:
        seen.append(len(batch))
        if len(seen) == 1:
            raise RuntimeError("not yet")
        return []

    servicer = Servicer(fails_once, Options())
    message = batch([event(1)])
    assert servicer._answer("r", message).later.message == "RuntimeError: not yet"
    assert servicer._answer("r", message).WhichOneof("result") == "done"
    assert seen == [1, 1]


def test_memory_is_bounded_and_what_is_forgotten_is_looked_at_again() -> None:
    memory = Memory(spans=3, size=1 << 20)
    for n in range(10):
        memory.remember("r", batch([event(n)], first=n), [])
    [log] = memory._logs.values()
    assert (len(log.spans), log.low, log.end) == (3, 7, 10)
    assert memory.recall("r", batch([event(n) for n in range(5, 12)], first=5)) == ([], [0, 1, 5, 6])

    memory = Memory(spans=1000, size=10_000)
    for n in range(50):
        finding = brain_pb2.Finding(causes=[0])
        finding.event.payload = b"x" * 900
        memory.remember("r", batch([event(n)], first=n), [finding])
    [log] = memory._logs.values()
    assert len(log.spans) < 10
    assert log.size <= 10_000
