"""What the tests share: batches, and a client that speaks the contract by itself."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from telemetryx_brain import Batch
from telemetryx_brain._proto import brain_pb2, events_pb2
from telemetryx_brain.functions import Analyze
from telemetryx_brain.server import PROTOCOL, Options, Server

TS = 1_767_225_600_000_000_000


def event(offset: int, payload: Any = None, kind: str = "reading", source: str | int = "s") -> events_pb2.Event:
    made = events_pb2.Event(id=f"e-{offset}", time_unix_nano=TS + offset, type=kind, schema_version=1)
    if isinstance(source, int):
        made.source_number = source
    else:
        made.source_name = source
    made.payload = json.dumps(payload).encode()
    return made


def batch(
    events: Iterable[events_pb2.Event],
    *,
    first: int = 0,
    end: int | None = None,
    sequence: int = 1,
    offsets: Iterable[int] | None = None,
    part: int = 0,
    log: str = "log",
) -> brain_pb2.Batch:
    """A part of the journal without gaps, unless `offsets` says otherwise."""
    listed = list(events)
    places = list(range(first, first + len(listed)) if offsets is None else offsets)
    made = brain_pb2.Batch(sequence=sequence, offsets=places, events=events_pb2.EventBatch(events=listed))
    made.journal.log = log
    made.journal.first = first
    made.journal.end = first + len(listed) if end is None else end
    made.journal.part = part
    return made


def numbers(values: Iterable[float], first: int = 0, source: str = "s") -> Batch:
    """One event a value."""
    events = [event(first + n, {"x": value}, source=source) for n, value in enumerate(values)]
    return Batch("r", batch(events, first=first))


class Client:
    """One stream, a message at a time."""

    def __init__(self, channel: grpc.Channel, token: str | None = None, timeout: float = 20) -> None:
        self._outgoing: queue.SimpleQueue[brain_pb2.ToBrain | None] = queue.SimpleQueue()
        call = channel.stream_stream(
            "/telemetryx.v1.Brain/Analyze",
            request_serializer=brain_pb2.ToBrain.SerializeToString,
            response_deserializer=brain_pb2.FromBrain.FromString,
        )
        metadata = [("authorization", f"Bearer {token}")] if token else []
        self._answers = call(iter(self._outgoing.get, None), metadata=metadata, timeout=timeout)

    def hello(self, protocol: int = PROTOCOL, route: str = "r", limits: brain_pb2.Limits | None = None) -> brain_pb2.FromBrain:
        hello = brain_pb2.Hello(protocol=protocol, route=route, version="test", limits=limits)
        self._outgoing.put(brain_pb2.ToBrain(hello=hello))
        return self.read()

    def send(self, *batches: brain_pb2.Batch) -> None:
        for one in batches:
            self._outgoing.put(brain_pb2.ToBrain(batch=one))

    def read(self) -> brain_pb2.FromBrain:
        answer: brain_pb2.FromBrain = next(self._answers)
        return answer

    def ask(self, one: brain_pb2.Batch) -> brain_pb2.Answer:
        self.send(one)
        answer = self.read()
        assert answer.credit == 1
        assert answer.answer.sequence == one.sequence
        return answer.answer

    def rest(self) -> list[brain_pb2.FromBrain]:
        return list(self._answers)

    def close(self) -> None:
        self._outgoing.put(None)


class Passing:
    """A port that passes one connection on to another, until it hangs: both ends stay, and hear nothing any more."""

    def __init__(self, to: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._to = to
        self._is_hung = False
        self._ends: list[socket.socket] = []

    def __enter__(self) -> Passing:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in [self._listener, *self._ends]:
            end.close()

    def hang(self) -> None:
        self._is_hung = True

    def _serve(self) -> None:
        client, server = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._to))
        self._ends = [client, server]
        threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
        self._pass(server, client)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._is_hung:
                    target.sendall(data)


@contextmanager
def serving(analyze: Analyze, **options: Any) -> Iterator[tuple[Server, grpc.Channel]]:
    """A brain with this function, and a channel to it."""
    server = Server(analyze, Options(listen="127.0.0.1:0", **options))
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield server, channel
    finally:
        server.stop(0)
