"""What was answered lately, so that what comes again is answered the same and not looked at twice.

A batch comes again if the service or the way to it broke before its answer was safe there; it may be cut elsewhere then. So
answers are remembered by event, up to a bound: events whose answer is forgotten are looked at again.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from telemetryx_brain._proto import brain_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPANS_MAX = 16_384
_BYTES_MAX = 64 << 20

Key: TypeAlias = int | str
"""An event's offset in the journal; its id, if it has none there."""
_Name: TypeAlias = tuple[str, str, str, int]
"""Whose events: of a route's journal, a part by key; or of one of its dead letters."""


def size_of(finding: brain_pb2.Finding) -> int:
    """The memory that it takes, about."""
    return finding.ByteSize() + 200


@dataclass(slots=True)
class _Found:
    finding: brain_pb2.Finding
    causes: list[Key]


@dataclass(slots=True)
class _Span:
    """One answered batch: the events that were looked at, and what was found."""

    name: _Name
    offsets: array[int]
    ids: list[str]
    found: dict[Key, list[_Found]] = field(default_factory=dict)
    size: int = 500

    def keys(self, first: int, last: int) -> Iterator[Key]:
        """Of its events; none if all offsets lie outside of these."""
        if self.offsets and self.offsets[0] <= last and first <= self.offsets[-1]:
            yield from self.offsets
        yield from self.ids


@dataclass(slots=True)
class _Log:
    """Answered batches of one name, the oldest first."""

    end: int = 0
    """Behind all of them."""
    spans: deque[_Span] = field(default_factory=deque)


class Memory:
    """Of one brain. Not for several threads at the same time."""

    def __init__(self, *, spans: int = _SPANS_MAX, size: int = _BYTES_MAX) -> None:
        """At most so many batches, and bytes of what is kept of them; the oldest is forgotten first."""
        self._spans_max = spans
        self._size_max = size
        self._size = 0
        self._spans: deque[_Span] = deque()
        self._logs: dict[_Name, _Log] = {}

    def recall(self, route: str, batch: brain_pb2.Batch) -> tuple[list[brain_pb2.Finding], Sequence[int] | None]:
        """What was found in those events of the batch that were answered, and the places of the others; ``None``: all."""
        log = self._logs.get(_name(route, batch))
        if log is None or (batch.HasField("journal") and batch.journal.first >= log.end):
            return [], None
        keys = _keys(batch)
        places = {key: place for place, key in enumerate(keys)}
        first, last = (batch.offsets[0], batch.offsets[-1]) if batch.offsets else (1, 0)
        known: set[Key] = set()
        found: list[brain_pb2.Finding] = []
        for span in log.spans:
            for key in span.keys(first, last):
                if key in places:
                    known.add(key)
                    found.extend(_again(one, places) for one in span.found.get(key, ()))
        return found, [place for place, key in enumerate(keys) if key not in known] if known else None

    def remember(
        self, route: str, batch: brain_pb2.Batch, places: Sequence[int], findings: Sequence[brain_pb2.Finding]
    ) -> None:
        """Keep that the events at these places are answered, and with what. A replay is not remembered."""
        if not places or batch.WhichOneof("cause") not in ("journal", "redrive"):
            return
        keys = _keys(batch)
        span = _Span(_name(route, batch), array("Q"), [])
        for place in places:
            key = keys[place]
            if isinstance(key, int):
                span.offsets.append(key)
            else:
                span.ids.append(key)
                span.size += len(key) + 100
        span.size += span.offsets.itemsize * len(span.offsets)
        for finding in findings:
            causes = [keys[place] for place in finding.causes]
            span.found.setdefault(causes[0], []).append(_Found(finding, causes))
            span.size += size_of(finding)
        log = self._logs.setdefault(span.name, _Log())
        log.end = max(log.end, batch.journal.end)
        log.spans.append(span)
        self._spans.append(span)
        self._size += span.size
        while len(self._spans) > self._spans_max or self._size > self._size_max:
            self._forget(self._spans.popleft())

    def _forget(self, oldest: _Span) -> None:
        self._size -= oldest.size
        log = self._logs[oldest.name]
        log.spans.popleft()
        if not log.spans:
            del self._logs[oldest.name]


def _name(route: str, batch: brain_pb2.Batch) -> _Name:
    if batch.HasField("redrive"):
        return route, "redrive", batch.redrive.log, batch.redrive.letter
    return route, "journal", batch.journal.log, batch.journal.part


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
