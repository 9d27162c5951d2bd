"""A batch as a function sees it: events, read from the message only when they are looked at, or a frame of columns."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from telemetryx_brain._proto import brain_pb2, events_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Cause:
    """Why a batch comes."""

    kind: Literal["journal", "replay", "redrive"]
    """The route reads on, or an operator has events delivered again, or one event that was refused."""
    log: str = ""
    """Which journal; offsets of different ones say nothing of each other."""
    first: int = 0
    end: int = 0
    """The part of the journal: from ``first`` up to ``end``."""
    part: int = 0
    """Which part of it by key, if parts come at the same time."""
    letter: int = 0
    """Number of the dead letter that is redriven."""

    @staticmethod
    def of(batch: brain_pb2.Batch) -> Cause:
        """The cause in a message."""
        match batch.WhichOneof("cause"):
            case "journal":
                at = batch.journal
                return Cause("journal", at.log, at.first, at.end, at.part)
            case "redrive":
                return Cause("redrive", batch.redrive.log, letter=batch.redrive.letter)
            case _:
                return Cause("replay")


class Event:
    """One event. Its payload is parsed when it is first asked for."""

    __slots__ = ("_message", "_payload", "index")

    index: int
    """Its place in the batch as it came."""

    def __init__(self, message: events_pb2.Event, index: int) -> None:
        self._message = message
        self.index = index

    @staticmethod
    def of(
        payload: Any = None, *, type: str = "event", source: str | int = "unknown", id: str = "", ts: int = 0, index: int = 0
    ) -> Event:
        """One of your own, to try a function with."""
        message = events_pb2.Event(id=id or f"event-{index}", type=type, time_unix_nano=ts, schema_version=1)
        if isinstance(source, int):
            message.source_number = source
        else:
            message.source_name = source
        message.payload = json.dumps(payload).encode()
        return Event(message, index)

    @property
    def id(self) -> str:
        """Unique name of the event."""
        return self._message.id

    @property
    def ts(self) -> int:
        """When it happened: nanoseconds since 1970, UTC."""
        return self._message.time_unix_nano

    @property
    def time(self) -> datetime:
        """When it happened, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self._message.time_unix_nano // 1000)

    @property
    def received_at(self) -> int:
        """When the service accepted it: nanoseconds since 1970, UTC."""
        return self._message.received_unix_nano

    @property
    def type(self) -> str:
        """What happened."""
        return self._message.type

    @property
    def source(self) -> str | int:
        """Who sent it: a name, or a number."""
        message = self._message
        return message.source_number if message.WhichOneof("source") == "source_number" else message.source_name

    @property
    def schema_version(self) -> int:
        """Version of the payload's schema."""
        return self._message.schema_version

    @property
    def partition_key(self) -> str | None:
        """Events of one key keep their order; ``None``: the source is the key."""
        return self._message.partition_key or None

    @property
    def attributes(self) -> Mapping[str, str]:
        """Small facts about the event."""
        return self._message.attributes

    @property
    def payload_text(self) -> str:
        """The payload as it was sent: JSON."""
        return self._message.payload.decode() or "null"

    @property
    def payload(self) -> Any:
        """The payload, parsed."""
        try:
            return self._payload
        except AttributeError:
            self._payload: Any = json.loads(self._message.payload or b"null")
            return self._payload

    def value(self, path: str) -> Any:
        """What the payload has at a path such as ``engine.temperature``; ``None`` if there is nothing."""
        found = self.payload
        for name in path.split("."):
            if not isinstance(found, dict):
                return None
            found = found.get(name)
        return found

    def number(self, path: str) -> float | None:
        """The number that the payload has at a path; ``None`` if there is none, or something else."""
        found = self.value(path)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            return None
        try:
            return float(found) if math.isfinite(found) else None
        except OverflowError:
            return None

    def __repr__(self) -> str:
        """Without the payload, which may be large."""
        return f"Event(id={self.id!r}, type={self.type!r}, source={self.source!r}, ts={self.ts})"


class Batch:
    """Events of one route, in order."""

    def __init__(self, route: str, message: brain_pb2.Batch, indices: Sequence[int] | None = None) -> None:
        """``indices``: only the events at these places."""
        self.route = route
        self.cause = Cause.of(message)
        self._message = message
        self._indices = indices

    @staticmethod
    def of(events: Iterable[Event], route: str = "brain") -> Batch:
        """One of your own, to try a function with."""
        message = brain_pb2.Batch()
        message.events.events.extend(event._message for event in events)
        count = len(message.events.events)
        message.offsets.extend(range(count))
        message.journal.end = count
        return Batch(route, message)

    def __len__(self) -> int:
        """How many events there are."""
        return len(self._message.events.events) if self._indices is None else len(self._indices)

    @property
    def indices(self) -> Sequence[int]:
        """Places of the events in the batch as it came."""
        return range(len(self)) if self._indices is None else self._indices

    @cached_property
    def events(self) -> list[Event]:
        """The events."""
        messages = self._message.events.events
        if self._indices is None:
            return [Event(message, index) for index, message in enumerate(messages)]
        return [Event(messages[index], index) for index in self._indices]

    def arrow(self, fields: Sequence[str] = ()) -> pa.Table:
        """The events as a table: a row each, with a column more for each path in ``fields``, taken from the payload."""
        import pyarrow as pa

        events = self.events
        utc = pa.timestamp("ns", tz="UTC")
        columns = {
            "id": pa.array([event.id for event in events], pa.string()),
            "ts": pa.array([event.ts for event in events], utc),
            "type": pa.array([event.type for event in events], pa.string()),
            "source": pa.array([str(event.source) for event in events], pa.string()),
            "schema_version": pa.array([event.schema_version for event in events], pa.uint32()),
            "partition_key": pa.array([event.partition_key for event in events], pa.string()),
            "attributes": pa.array([list(event.attributes.items()) for event in events], pa.map_(pa.string(), pa.string())),
            "payload": pa.array([event.payload_text for event in events], pa.string()),
            "received_at": pa.array([event.received_at for event in events], utc),
        }
        for field in fields:
            values = [event.value(field) for event in events]
            try:
                columns[field] = pa.array(values)
            except (pa.ArrowException, OverflowError):
                # Not all of one kind: as JSON, so that one odd event does not stop the others.
                columns[field] = pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
        return pa.table(columns)

    def pandas(self, fields: Sequence[str] = ()) -> pd.DataFrame:
        """The same as a frame of pandas, with ``attributes`` as dicts."""
        import pandas as pd

        events = self.events
        frame = pd.DataFrame(
            {
                "id": [event.id for event in events],
                "ts": pd.to_datetime([event.ts for event in events], unit="ns", utc=True),
                "type": [event.type for event in events],
                "source": [str(event.source) for event in events],
                "schema_version": [event.schema_version for event in events],
                "partition_key": [event.partition_key for event in events],
                "attributes": [dict(event.attributes) for event in events],
                "payload": [event.payload_text for event in events],
                "received_at": pd.to_datetime([event.received_at for event in events], unit="ns", utc=True),
            }
        )
        for field in fields:
            frame[field] = [event.value(field) for event in events]
        return frame
