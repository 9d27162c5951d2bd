"""The server, by the contract and over real streams."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import Client, Passing, batch, event, numbers, serving

from telemetryx_brain import Batch, Finding, Refuse, ZScore
from telemetryx_brain._proto import brain_pb2
from telemetryx_brain.server import MESSAGE_BYTES_MAX, Options, Server


def wait_until_arrived(server: Server, count: int) -> None:
    """So many batches wait on the one stream, behind the one that is at work."""
    [arrived] = server._servicer._streams
    until = time.monotonic() + 20
    while arrived.qsize() < count:
        assert time.monotonic() < until
        time.sleep(0.005)


def silent(_: Batch) -> None:
    """A brain that only acknowledges."""


def test_a_stream_is_hello_ready_batches_and_answers() -> None:
    with serving(lambda given: [Finding("x", cause=given.events[-1])], max_in_flight=3) as (_, channel):
        client = Client(channel)
        ready = client.hello()
        assert ready.credit == 3
        assert (ready.ready.protocol, ready.ready.message_bytes_max) == (1, MESSAGE_BYTES_MAX)
        client.send(*(batch([event(n), event(n + 100)], sequence=n, first=10 * n) for n in (1, 2, 3)))
        for sequence in (1, 2, 3):
            answer = client.read()
            assert (answer.credit, answer.answer.sequence) == (1, sequence)
            [finding] = answer.answer.done.findings
            assert (list(finding.causes), finding.event.type) == ([1], "x")
        client.close()
        assert client.rest() == []


def test_a_function_that_raises_makes_the_batch_come_later(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Batch) -> None:
        raise RuntimeError("model not loaded" + "!" * 5000)

    with serving(fails) as (_, channel):
        client = Client(channel)
        client.hello()
        later = client.ask(batch([event(0)])).later.message
        assert later.startswith("RuntimeError: model not loaded!")
        assert len(later) == 1000
        # The stream goes on.
        assert client.ask(batch([event(0)], sequence=2)).HasField("later")
        client.close()
    assert "Traceback" in caplog.text
    assert len(caplog.text) < 30_000


def test_what_is_over_the_limits_of_the_service_is_refused() -> None:
    with serving(lambda given: [Finding("x", cause=0)] * (2 * len(given) + 101)) as (_, channel):
        client = Client(channel)
        client.hello(limits=brain_pb2.Limits(answer_bytes_max=1 << 20, findings_per_event_max=2, findings_more_max=100))
        refused = client.ask(batch([event(0)])).refused
        assert "103 findings in 1 events: 102 are the most" in refused.message
        client.close()


def test_what_cannot_be_sent_makes_the_batch_come_later() -> None:
    with serving(lambda _: [Finding("x", cause=7)]) as (_, channel):
        client = Client(channel)
        client.hello()
        assert "no row 7" in client.ask(batch([event(0)])).later.message
        client.close()


def test_a_service_that_has_gone_without_a_word_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetryx_brain.server._PING_MS", 300)
    monkeypatch.setattr("telemetryx_brain.server._PING_WAIT_MS", 300)
    with serving(silent) as (server, _), Passing(server.port) as way:  # noqa: SIM117 (it goes before the proxy)
        with grpc.insecure_channel(f"127.0.0.1:{way.port}") as channel:
            Client(channel, timeout=300).hello()
            way.hang()
            until = time.monotonic() + 20
            while server._servicer._streams:
                assert time.monotonic() < until, "the stream is still there"
                time.sleep(0.01)


def test_refused_events_are_named() -> None:
    def picky(given: Batch) -> None:
        bad = [one for one in given.events if one.payload == "bad"]
        if bad:
            raise Refuse(bad, "cannot read it", code="bad")

    with serving(picky) as (_, channel):
        client = Client(channel)
        client.hello()
        refused = client.ask(batch(event(n, word) for n, word in enumerate(["ok", "bad", "ok", "bad"]))).refused
        assert [one.index for one in refused.events] == [1, 3]
        # The others come again, with the offsets that they had.
        rest = batch([event(0, "ok"), event(2, "ok")], sequence=2, end=4, offsets=[0, 2])
        assert client.ask(rest).HasField("done")
        client.close()


@pytest.mark.parametrize(
    ("first", "code", "words"),
    [
        (brain_pb2.ToBrain(batch=batch([event(0)])), grpc.StatusCode.INVALID_ARGUMENT, "begins with `hello`"),
        (brain_pb2.ToBrain(), grpc.StatusCode.INVALID_ARGUMENT, "begins with `hello`"),
        (brain_pb2.ToBrain(hello=brain_pb2.Hello(protocol=2)), grpc.StatusCode.FAILED_PRECONDITION, "version 1 .* not 2"),
    ],
)
def test_a_stream_that_begins_otherwise_is_ended(first: brain_pb2.ToBrain, code: grpc.StatusCode, words: str) -> None:
    with serving(silent) as (_, channel):
        client = Client(channel)
        client._outgoing.put(first)
        with pytest.raises(grpc.RpcError, match=words) as error:
            client.read()
        assert error.value.code() == code


def test_more_batches_than_there_was_credit_for_end_the_stream() -> None:
    going = threading.Event()

    def waits(_: Batch) -> None:
        going.wait(20)

    with serving(waits, max_in_flight=2) as (server, channel):
        client = Client(channel)
        client.hello()
        client.send(*(batch([event(n)], sequence=n, first=n) for n in range(1, 6)))
        wait_until_arrived(server, 4)
        going.set()
        with pytest.raises(grpc.RpcError, match="more batches than there was credit for"):
            for _ in range(20):
                client.read()


def test_only_who_has_the_token_is_let_in() -> None:
    with serving(silent, token="s3cret") as (_, channel):
        for wrong in (None, "other", "s3cret2"):
            with pytest.raises(grpc.RpcError) as error:
                Client(channel, wrong).hello()
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        client = Client(channel, "s3cret")
        assert client.hello().credit == 4
        client.close()


def test_a_stop_answers_what_has_arrived() -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def slow(_: Batch) -> None:
        at_work.set()
        go_on.wait(20)

    with serving(slow, max_in_flight=3) as (server, channel):
        client = Client(channel)
        client.hello()
        client.send(*(batch([event(n)], sequence=n, first=n) for n in (1, 2, 3)))
        assert at_work.wait(20)
        wait_until_arrived(server, 2)
        stopping = threading.Thread(target=server.stop, args=(20,))
        stopping.start()
        while not server._servicer._stopping:
            threading.Event().wait(0.005)
        go_on.set()
        assert [answer.answer.sequence for answer in client.rest()] == [1, 2, 3]
        stopping.join(20)
        assert not stopping.is_alive()


def test_two_streams_are_served_and_the_detector_keeps_their_routes_apart() -> None:
    with serving(ZScore(window=10, min_samples=3)) as (_, channel):
        clients = [Client(channel), Client(channel)]
        for name, client in zip("ab", clients, strict=True):
            client.hello(route=name)
            answer = client.ask(numbers([1, 2, 1, 2, 50])._message)
            assert [finding.event.type for finding in answer.done.findings] == ["anomaly"]
        for client in clients:
            client.close()


def test_the_health_service_answers() -> None:
    with serving(silent) as (_, channel):
        for service in ("", "telemetryx.v1.Brain"):
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def certificate(folder: Path, name: str, signer: str | None = None) -> tuple[bytes, bytes]:
    """A certificate for localhost and its key, by openssl; signed by itself or by `signer`."""
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} -keyout {name}.key"
    )
    command += f" -out {name}.pem -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    if signer:
        command += f" -CA {signer}.pem -CAkey {signer}.key -addext basicConstraints=CA:FALSE"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return (folder / f"{name}.pem").read_bytes(), (folder / f"{name}.key").read_bytes()


def test_with_a_client_authority_only_its_clients_are_let_in(tmp_path: Path) -> None:
    authority, _ = certificate(tmp_path, "authority")
    cert, key = certificate(tmp_path, "server", "authority")
    client_cert, client_key = certificate(tmp_path, "client", "authority")
    foreign_cert, foreign_key = certificate(tmp_path, "foreign")
    server = Server(silent, Options(listen="127.0.0.1:0", tls_cert=cert, tls_key=key, client_ca=authority))
    try:
        for pair, is_let_in in [
            ((client_key, client_cert), True),
            ((foreign_key, foreign_cert), False),
            ((None, None), False),
        ]:
            credentials = grpc.ssl_channel_credentials(authority, *pair)
            with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
                client = Client(channel)
                if is_let_in:
                    assert client.hello().credit == 4
                    client.close()
                else:
                    with pytest.raises(grpc.RpcError):
                        client.hello()
    finally:
        server.stop(0)


def test_an_address_in_use_is_an_error() -> None:
    with serving(silent) as (server, _), pytest.raises(OSError, match="cannot listen"):
        Server(silent, Options(listen=f"127.0.0.1:{server.port}"))
