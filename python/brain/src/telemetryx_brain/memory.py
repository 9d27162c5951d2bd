"""What was answered lately, so that what comes again is answered the same and not looked at twice.

A batch comes again if the service or the way to it broke before its answer was safe there; it may be cut elsewhere then. So
answers are remembered by event, up to a bound: events that came before what is remembered are looked at again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from telemetryx_brain._proto import brain_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROUTES_MAX = 1024
_SPANS_MAX = 4096
_BYTES_MAX = 32 << 20
_LETTERS_MAX = 4096

Key: TypeAlias = int | str
"""An event's offset in the journal; its id, if a processor made it."""


@dataclass(slots=True)
class _Found:
    finding: brain_pb2.Finding
    causes: list[Key]


@dataclass(slots=True)
class _Span:
    """One answered batch."""

    end: int
    found: dict[Key, list[_Found]]
    made: list[str]
    """Ids of the events in it that processors made."""
    size: int


@dataclass(slots=True)
class _Log:
    """Answered batches of one part of one route's journal: everything from ``low`` up to ``end``."""

    low: int
    end: int
    size: int = 0
    spans: deque[_Span] = field(default_factory=deque)
    made: set[str] = field(default_factory=set)


class Memory:
    """Of one brain. Not for several threads at the same time."""

    def __init__(self, *, spans: int = _SPANS_MAX, size: int = _BYTES_MAX) -> None:
        """At most so many batches, and bytes of findings, for each route."""
        self._spans_max = spans
        self._size_max = size
        self._logs: OrderedDict[tuple[str, str, int], _Log] = OrderedDict()
        self._letters: OrderedDict[tuple[str, str, int], list[brain_pb2.Finding]] = OrderedDict()

    def recall(self, route: str, batch: brain_pb2.Batch) -> tuple[list[brain_pb2.Finding], Sequence[int] | None]:
        """What was found in those events of the batch that came before, and the places of the others; ``None``: all."""
        if batch.HasField("redrive"):
            letter = self._letters.get((route, batch.redrive.log, batch.redrive.letter))
            return ([], None) if letter is None else (letter, [])
        at = batch.journal
        log = self._logs.get((route, at.log, at.part)) if batch.HasField("journal") else None
        if log is None or at.first >= log.end:
            return [], None
        keys = _keys(batch)
        known = {
            key: place
            for place, key in enumerate(keys)
            if (key in log.made if isinstance(key, str) else log.low <= key < log.end)
        }
        found = [_again(one, known) for span in log.spans for key in span.found if key in known for one in span.found[key]]
        places = set(known.values())
        return found, [place for place in range(len(keys)) if place not in places]

    def remember(self, route: str, batch: brain_pb2.Batch, findings: Sequence[brain_pb2.Finding]) -> None:
        """All events of the batch are answered; ``findings`` are those that were not recalled."""
        if batch.HasField("redrive"):
            self._letters[route, batch.redrive.log, batch.redrive.letter] = list(findings)
            if len(self._letters) > _LETTERS_MAX:
                self._letters.popitem(last=False)
            return
        if not batch.HasField("journal"):
            return
        at = batch.journal
        name = (route, at.log, at.part)
        log = self._logs.setdefault(name, _Log(low=at.first, end=at.first))
        self._logs.move_to_end(name)
        if len(self._logs) > _ROUTES_MAX:
            self._logs.popitem(last=False)
        made = [event.id for event in batch.events.events[len(batch.offsets) :]]
        span = _Span(max(at.end, log.end), {}, made, 0)
        keys = _keys(batch) if findings else []
        for finding in findings:
            causes = [keys[place] for place in finding.causes]
            span.found.setdefault(causes[0], []).append(_Found(finding, causes))
            span.size += finding.ByteSize() + 200
        log.spans.append(span)
        log.end = span.end
        log.size += span.size
        log.made.update(made)
        while len(log.spans) > self._spans_max or log.size > self._size_max:
            forgotten = log.spans.popleft()
            log.low = forgotten.end
            log.size -= forgotten.size
            log.made.difference_update(forgotten.made)


def _keys(batch: brain_pb2.Batch) -> list[Key]:
    offsets: list[Key] = list(batch.offsets)
    return offsets + [event.id for event in batch.events.events[len(offsets) :]]


def _again(found: _Found, places: dict[Key, int]) -> brain_pb2.Finding:
    """The finding with the places that its causes have now; further ones may be of another batch."""
    finding = brain_pb2.Finding()
    finding.CopyFrom(found.finding)
    finding.ClearField("causes")
    finding.causes.extend(places[key] for key in found.causes if key in places)
    return finding
