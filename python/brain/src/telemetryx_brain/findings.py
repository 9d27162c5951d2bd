"""What a function answers: findings, which become events, and refusals, which become dead letters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from telemetryx_brain._proto import brain_pb2
from telemetryx_brain.batch import Event

if TYPE_CHECKING:
    from telemetryx_brain.batch import Batch

Where: TypeAlias = Event | SupportsIndex
"""An event, or the number of its row."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_KIND_BYTES_MAX = 128 - len("brain.")
WORDS_MAX = 1000
"""Letters of a reason that are sent."""


@dataclass(slots=True)
class Finding:
    """Something found. It becomes an event of type ``brain.<kind>`` that links to its cause."""

    kind: str
    cause: Where | Iterable[Where]
    """What it is about; of several, the first is linked as the cause."""
    payload: Any = None
    """Anything that is JSON; numbers of numpy too."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    source: str | int | None = None
    """Default: that of the cause."""
    ts: int | datetime | None = None
    """Nanoseconds since 1970, or a time. Default: that of the cause."""
    schema_version: int = 1

    def message(self, batch: Batch) -> brain_pb2.Finding:
        """As it is sent.

        Raises ValueError or TypeError if it cannot be.
        """
        if not self.kind or len(self.kind.encode()) > _KIND_BYTES_MAX:
            raise ValueError(f"the kind of a finding has 1 to {_KIND_BYTES_MAX} bytes, not {self.kind!r}")
        found = brain_pb2.Finding(causes=places(self.cause, batch))
        if not found.causes:
            raise ValueError(f"the finding {self.kind!r} has no cause")
        event = found.event
        event.type = self.kind
        if isinstance(self.source, int):
            event.source_number = self.source
        elif self.source is not None:
            event.source_name = self.source
        if self.ts is not None:
            event.time_unix_nano = self.ts if isinstance(self.ts, int) else _nanoseconds(self.ts)
        event.schema_version = self.schema_version
        event.attributes.update(self.attributes)
        if self.payload is not None:
            text = json.dumps(self.payload, ensure_ascii=False, allow_nan=False, default=_plain, separators=(",", ":"))
            event.payload = text.encode()
        return found


class Refuse(Exception):
    """Raise it for events that can never be handled: they become dead letters, and the others come again without them."""

    def __init__(self, events: Where | Iterable[Where], message: str, code: str = "refused") -> None:
        """``message`` is for people, ``code`` a word for programs.

        Raises ValueError if there are no events: whoever forgot to ask whether there are any would refuse all.
        """
        super().__init__(message)
        self.events: list[Where] = list(events) if isinstance(events, Iterable) else [events]
        if not self.events:
            raise ValueError("Refuse is for some events, and was given none")
        self.message = message[:WORDS_MAX]
        self.code = code[:WORDS_MAX]

    def answer(self, batch: Batch) -> brain_pb2.Refused:
        """As it is sent."""
        indices = dict.fromkeys(places(self.events, batch))
        each = (brain_pb2.RefusedEvent(index=index, code=self.code, message=self.message) for index in indices)
        return brain_pb2.Refused(events=each, message=self.message)


def places(where: Where | Iterable[Where], batch: Batch) -> list[int]:
    """Places in the batch as it came."""
    if isinstance(where, Event):
        return [where.index]
    if isinstance(where, Iterable):
        return [place for one in where for place in places(one, batch)]
    indices = batch.indices
    row = index(where)
    if not 0 <= row < len(indices):
        raise ValueError(f"there is no row {row} in a batch of {len(indices)}")
    return [indices[row]]


def _nanoseconds(time: datetime) -> int:
    since = (time if time.tzinfo else time.replace(tzinfo=timezone.utc)) - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _plain(value: Any) -> Any:
    """A number or an array of numpy as Python has it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")
