"""What comes again is answered the same, and looked at once."""

from __future__ import annotations

import itertools
import random

import pytest
from support import batch, event

from telemetryx_brain import Batch, Event, Finding, Refuse
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


def test_what_was_refused_is_refused_again_when_it_comes_again() -> None:
    def picky(batch: Batch) -> None:
        bad = [one for one in batch.events if one.id == "e-2"]
        if bad:
            raise Refuse(bad, "cannot read it")

    servicer = Servicer(picky, Options())
    whole = batch([event(n) for n in range(4)])
    rest = batch([event(n) for n in (0, 1, 3)], offsets=[0, 1, 3], end=4)
    for _ in range(2):
        assert [one.index for one in servicer._answer("r", whole).refused.events] == [2]
        assert servicer._answer("r", rest).HasField("done")


def test_what_was_left_out_is_looked_at_when_it_comes_after_all() -> None:
    function = Counting()
    servicer = Servicer(function, Options())
    # The route gave up 10 to 19, and its filter left out the odd ones.
    for first in (0, 20):
        even = range(first, first + 10, 2)
        servicer._answer("r", batch([event(n) for n in even], first=first, end=first + 10, offsets=even))
    seen = set(function.seen)
    everything = batch([event(n) for n in range(30)])
    assert causes(servicer._answer("r", everything), everything) == sorted(f"e-{n}" for n in range(0, 30, 3))
    assert len(seen) == 10
    assert function.seen == {f"e-{n}": 1 for n in range(30)}


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
        memory.remember("r", batch([event(n)], first=n), [0], [])
    assert memory.recall("r", batch([event(n) for n in range(5, 12)], first=5)) == ([], [0, 1, 5, 6])
    # Whatever is remembered, it is forgotten: of other routes, of dead letters.
    for letter in range(3):
        redriven = brain_pb2.Batch(redrive=brain_pb2.Redrive(log="log", letter=letter))
        redriven.events.events.append(event(3))
        memory.remember("q", redriven, [0], [])
    assert memory.recall("r", batch([event(9)], first=9)) == ([], None)
    assert memory.recall("q", redriven) == ([], [])
    assert (len(memory._spans), len(memory._logs)) == (3, 3)


@pytest.mark.parametrize("kind", ["findings", "offsets", "ids"])
def test_the_bytes_of_all_that_is_remembered_are_bounded(kind: str) -> None:
    memory = Memory(spans=1000, size=20_000)
    for n in range(50):
        finding = brain_pb2.Finding(causes=[0])
        finding.event.payload = b"x" * 900
        events = [event(10 * n + m) for m in range(1 if kind == "findings" else 10)]
        offsets = [] if kind == "ids" else range(10 * n, 10 * n + len(events))
        message = batch(events, first=10 * n, end=10 * n + 10, offsets=offsets)
        memory.remember(f"route-{n % 7}", message, range(len(events)), [finding] if kind == "findings" else [])
    held = sum(span.size for span in memory._spans)
    assert memory._size == held <= 20_000
    assert sum(len(log.spans) for log in memory._logs.values()) == len(memory._spans) < 40


def limits(**given: int) -> brain_pb2.Limits:
    return brain_pb2.Limits(**{"answer_bytes_max": 1 << 20, "findings_per_event_max": 2, "findings_more_max": 100, **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (limits(findings_per_event_max=0, findings_more_max=2), "3 findings in 9 events: 2 are the most"),
        (limits(answer_bytes_max=100), "bytes: 100 are the most"),
    ],
)
def test_an_answer_over_the_limits_is_a_refusal_whose_halves_are_answered_without_another_look(
    given: brain_pb2.Limits, words: str
) -> None:
    function = Counting()
    servicer = Servicer(function, Options())
    found, parts = [], [range(9)]
    while parts:
        part = parts.pop()
        message = batch([event(n) for n in part], first=part[0])
        answer = servicer._answer("r", message, given)
        assert brain_pb2.FromBrain(credit=1, answer=answer).ByteSize() <= given.answer_bytes_max
        if answer.HasField("done"):
            found += causes(answer, message)
        else:
            assert not answer.refused.events
            assert len(part) < 9 or words in answer.refused.message
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
    assert found == ["e-0", "e-3", "e-6"]
    assert set(function.seen.values()) == {1}
    # Of a service that does not say, nothing is known.
    whole = batch([event(n) for n in range(9)])
    assert len(causes(servicer._answer("r", whole), whole)) == 3


def test_one_event_in_which_too_much_is_found_is_refused_with_words() -> None:
    servicer = Servicer(lambda given: [Finding("x", cause=0, payload="y" * 2000)] * len(given), Options())
    answer = servicer._answer("r", batch([event(1)]), limits(answer_bytes_max=1000))
    assert "1000 are the most" in answer.refused.message


def test_findings_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetryx_brain.server._FOUND_BYTES_MAX", 10_000)
    servicer = Servicer(lambda _: (Finding("x", cause=0) for _ in itertools.count()), Options())
    assert "more than 10000 bytes" in servicer._answer("r", batch([event(1)])).refused.message
