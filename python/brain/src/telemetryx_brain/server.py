"""The gRPC server: streams of batches in, answers out.

A stream has a thread that reads and one that answers. Credit bounds how many batches wait between the two; functions are
called for one batch at a time, whatever stream it is of.
"""

from __future__ import annotations

import hmac
import importlib.util
import logging
import queue
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from telemetryx_brain._proto import brain_pb2
from telemetryx_brain.batch import Batch
from telemetryx_brain.findings import WORDS_MAX, Refuse
from telemetryx_brain.memory import Memory, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telemetryx_brain.functions import Analyze

log = logging.getLogger("telemetryx_brain")

PROTOCOL = 1
SERVICE = "telemetryx.v1.Brain"
MESSAGE_BYTES_MAX = 64 << 20
_STREAMS_MAX = 64
_FOUND_BYTES_MAX = 64 << 20
"""Of the findings in one batch, in memory."""
_TRACEBACK_MAX = 8000
_PING_MS = 60_000
_PING_WAIT_MS = 20_000
_PINGED_MS = 500
"""A service that has gone without a word is pinged; the service may ping this often, libraries let it be five minutes."""


@dataclass(frozen=True)
class Options:
    """How the server runs."""

    listen: str = "127.0.0.1:50061"
    max_in_flight: int = 4
    """Batches of one stream that may wait for their answers."""
    token: str | None = None
    """What callers must show."""
    tls_cert: bytes | None = None
    tls_key: bytes | None = None
    client_ca: bytes | None = None
    """Authorities of clients' certificates; with it, clients must have one."""


class Server:
    """A running brain."""

    def __init__(self, analyze: Analyze, options: Options) -> None:
        """Listens from here on.

        Raises OSError if the address cannot be used.
        """
        self._servicer = Servicer(analyze, options)
        handler = grpc.stream_stream_rpc_method_handler(
            self._servicer.analyze,
            request_deserializer=brain_pb2.ToBrain.FromString,
            response_serializer=brain_pb2.FromBrain.SerializeToString,
        )
        # One thread more a stream than may be open, for health checks.
        self._server = grpc.server(
            ThreadPoolExecutor(_STREAMS_MAX + 8, thread_name_prefix="stream"),
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", _PING_MS),
                ("grpc.keepalive_timeout_ms", _PING_WAIT_MS),
                ("grpc.http2.ping_timeout_ms", _PING_WAIT_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", _PINGED_MS),
            ],
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Analyze": handler}),))
        _add_health(self._server)
        try:
            self.port = self._bind(options)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {options.listen}: {error}") from error
        self._server.start()

    def _bind(self, options: Options) -> int:
        if options.tls_cert is None:
            return int(self._server.add_insecure_port(options.listen))
        credentials = grpc.ssl_server_credentials(
            [(options.tls_key, options.tls_cert)],
            root_certificates=options.client_ca,
            require_client_auth=options.client_ca is not None,
        )
        return int(self._server.add_secure_port(options.listen, credentials))

    def stop(self, grace: float) -> bool:
        """Answer what has arrived, for at most so many seconds, then end. False if a function has not returned by then."""
        done = self._server.stop(grace)
        self._servicer.stop()
        done.wait(grace + 1)
        return not self._servicer.is_busy()


class Servicer:
    """Answers streams."""

    def __init__(self, analyze: Analyze, options: Options) -> None:
        self._analyze = analyze
        self._options = options
        self._memory = Memory()
        self._one_at_a_time = threading.Lock()
        self._streams: set[queue.SimpleQueue[brain_pb2.Batch | None]] = set()
        self._streams_lock = threading.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Let every stream end behind what has arrived on it."""
        with self._streams_lock:
            self._stopping = True
            for arrived in self._streams:
                arrived.put(None)

    def is_busy(self) -> bool:
        """Whether a function is at work."""
        return self._one_at_a_time.locked()

    def analyze(self, requests: Iterator[brain_pb2.ToBrain], context: Any) -> Iterator[brain_pb2.FromBrain]:
        """Serve one stream."""
        self._check_token(context)
        hello = next(requests, brain_pb2.ToBrain())
        if not hello.HasField("hello"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a stream begins with `hello`")
        if hello.hello.protocol != PROTOCOL:
            words = f"this brain speaks version {PROTOCOL} of the contract, not {hello.hello.protocol}"
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, words)
        route, limits = hello.hello.route, hello.hello.limits if hello.hello.HasField("limits") else None
        arrived: queue.SimpleQueue[brain_pb2.Batch | None] = queue.SimpleQueue()
        with self._streams_lock:
            if self._stopping or len(self._streams) >= _STREAMS_MAX:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the brain is stopping, or has too many streams")
            self._streams.add(arrived)
        log.info("route %s of TelemetryX %s is connected from %s", route, hello.hello.version, context.peer())
        try:
            ready = brain_pb2.Ready(protocol=PROTOCOL, brain="telemetryx-brain", message_bytes_max=MESSAGE_BYTES_MAX)
            yield brain_pb2.FromBrain(credit=self._options.max_in_flight, ready=ready)
            threading.Thread(target=_read, args=(requests, arrived), name="reader", daemon=True).start()
            while (batch := arrived.get()) is not None:
                if arrived.qsize() > self._options.max_in_flight:
                    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "more batches than there was credit for")
                yield brain_pb2.FromBrain(credit=1, answer=self._answer(route, batch, limits))
        finally:
            with self._streams_lock:
                self._streams.discard(arrived)
            log.info("route %s is gone", route)

    def _check_token(self, context: Any) -> None:
        if self._options.token is None:
            return
        shown = dict(context.invocation_metadata()).get("authorization", "")
        if not hmac.compare_digest(str(shown).encode(), f"Bearer {self._options.token}".encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")

    def _answer(self, route: str, message: brain_pb2.Batch, limits: brain_pb2.Limits | None = None) -> brain_pb2.Answer:
        answer = brain_pb2.Answer(sequence=message.sequence)
        with self._one_at_a_time:
            known, places = self._memory.recall(route, message)
            batch = Batch(route, message, places)
            try:
                found = self._look_at(batch)
            except _TooMuch as too_much:
                answer.refused.message = str(too_much)
            except Refuse as refuse:
                try:
                    answer.refused.CopyFrom(refuse.answer(batch))
                except Exception as error:
                    answer.later.message = _explain(error)
            except Exception as error:
                answer.later.message = _explain(error)
            else:
                # Also if it is too much to say at once: the halves are answered from memory.
                self._memory.remember(route, message, batch.indices, found)
                answer.done.findings.extend(known)
                answer.done.findings.extend(found)
        excess = limits and _excess(answer, len(message.events.events), limits)
        if excess:
            answer = brain_pb2.Answer(sequence=message.sequence, refused=brain_pb2.Refused(message=excess))
        if answer.HasField("refused") and not answer.refused.events:
            log.warning("route %s: %s; it comes again in halves", route, answer.refused.message)
        return answer

    def _look_at(self, batch: Batch) -> list[brain_pb2.Finding]:
        found, size = [], 0
        for finding in (self._analyze(batch) or ()) if len(batch) else ():
            found.append(finding.message(batch))
            size += size_of(found[-1])
            if size > _FOUND_BYTES_MAX:
                raise _TooMuch(f"the findings in {len(batch)} events take more than {_FOUND_BYTES_MAX} bytes of memory")
        return found


class _TooMuch(Exception):
    """The findings of one batch are more than there is memory for."""


def _excess(answer: brain_pb2.Answer, events: int, limits: brain_pb2.Limits) -> str | None:
    """Why the service would not take it."""
    findings, findings_max = len(answer.done.findings), limits.findings_per_event_max * events + limits.findings_more_max
    if findings > findings_max:
        return f"{findings} findings in {events} events: {findings_max} are the most"
    size = brain_pb2.FromBrain(credit=1, answer=answer).ByteSize()
    if size > limits.answer_bytes_max:
        return f"the answer to {events} events takes {size} bytes: {limits.answer_bytes_max} are the most"
    return None


def _read(requests: Iterator[brain_pb2.ToBrain], arrived: queue.SimpleQueue[brain_pb2.Batch | None]) -> None:
    """Until the stream ends, by whoever's hand."""
    try:
        for request in requests:
            if request.HasField("batch"):
                arrived.put(request.batch)
    except Exception as error:
        log.debug("the stream broke: %r", error)
    finally:
        arrived.put(None)


def _explain(error: Exception) -> str:
    text = "".join(traceback.format_exception(error, limit=-20))
    log.error("the batch comes again later:\n%s", text[-_TRACEBACK_MAX:])
    return f"{type(error).__name__}: {error}"[:WORDS_MAX]


def _add_health(server: Any) -> None:
    """The health service of gRPC, if `grpcio-health-checking` is installed."""
    if importlib.util.find_spec("grpc_health") is None:
        return
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.HealthServicer()
    for name in ("", SERVICE):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
