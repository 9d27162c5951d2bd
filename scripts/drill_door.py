"""Drills of one machine: what clients are told, and sinks and events that make trouble."""

import json
import shutil
import socket
import sqlite3

from drilling import EMBEDDED, SOON, drill, eventually

RUNBOOK = "operations.md"
# A store whose folder can be taken away and put back.
MOVABLE = f"""otlp: {{ enabled: false }}
tcp: {{ port: 0 }}
routes:
  - {{ name: stats, sink: {{ kind: stats }} }}
  - {{ name: store, sink: {{ kind: sqlite, path: store/store.db }}, {SOON} }}
"""


@drill(RUNBOOK, "the-backlog-is-full", quick=True)
def backlog(drill):
    """queue saturation: the slowest route is down, the backlog reaches its limit"""
    service = drill.service(MOVABLE + "admission: { overflow: { max_backlog_events: 500 } }\n")
    drill.did("the folder of the store is not there; senders go on")
    service.accept("before", 500)
    drill.answers(service, 429, "backlog_full")
    drill.log(service, "backlog full: rejecting", event="queue_saturated", reason="queue_full_reject")
    drill.metric(service, "ingestion_queue_depth", lambda depth: depth >= 500)
    drill.metric(service, 'route_lag_seconds{route="store"}', lambda seconds: seconds > 0)
    drill.metric(service, 'route_breaker_open{route="store"}', lambda is_open: is_open == 1)
    drill.looks(service, "/status", lambda status: status["overload"]["queue_saturated"]["count"] > 0)
    drill.did("mkdir store")
    (service.dir / "store").mkdir()
    drill.over("ingestion_queue_depth is 0 again", lambda: "\ningestion_queue_depth 0\n" in service.ask("/metrics")[1])
    drill.holds("status of the next request", service.send({})[0], 202)


@drill(RUNBOOK, "the-memory-budget-is-spent", quick=True)
def memory_budget(drill):
    """slow clients hold the memory for requests under way"""
    service = drill.service(EMBEDDED + "http: { max_body: 1MiB, body_timeout: 60s }\nadmission: { memory_budget: 4MiB }\n")
    head = b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1048576\r\n\r\n"
    drill.did("four clients send the first 1,000,000 bytes of a body each, and no more")
    holders = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(4)]
    for holder in holders:
        holder.sendall(head + b" " * 1_000_000)
    drill.metric(service, "ingestion_memory_bytes", lambda taken: taken > 3.5 * 2**20)
    drill.answers(service, 429, "memory_budget_spent", {"payload": "x" * 500_000})
    drill.log(service, "memory budget spent: rejecting", event="processing_paused", reason="buffer_full")
    drill.did("the clients go")
    for holder in holders:
        holder.close()
    drill.over("ingestion_memory_bytes is 0", lambda: "\ningestion_memory_bytes 0\n" in service.ask("/metrics")[1])
    drill.holds("status of the same request", service.send({"payload": "x" * 500_000})[0], 202)


@drill(RUNBOOK, "a-sink-is-down", quick=True)
def sink_down(drill):
    """the folder of the store is gone"""
    service = drill.service(MOVABLE)
    service.accept("waits", 200)
    drill.looks(service, "/health", lambda health: (health["status"], health["routes"]["store"]["state"]) == ("degraded", "down"))
    drill.log(service, "the sink is down; its events stay in the journal", event="batch_persist_failed", route="store")
    drill.log(service, "the circuit breaker opened", route="store")
    drill.metric(service, 'route_breaker_open{route="store"}', lambda is_open: is_open == 1)
    drill.metric(service, 'route_lag_events{route="store"}', lambda lag: lag == 200)
    drill.metric(service, 'route_retries_total{route="store"}', lambda count: count > 0)
    eventually("the other route goes on", lambda: service.json("/stats")["events_count"] == 200)
    drill.did("mkdir store")
    (service.dir / "store").mkdir()
    drill.over("everything is delivered", service.settled)
    drill.log(service, "the sink is back", route="store")
    drill.metric(service, 'route_lag_events{route="store"}', lambda lag: lag == 0)


@drill(RUNBOOK, "dead-letters", quick=True)
def dead_letters(drill):
    """a refused event and a poison event: set aside, the rest goes on, sent again once the cause is mended"""
    step = "{ name: SchemaMigration, types: { Order: { 1: { rename: { total: amount } } } } }"
    config = lambda more, processors: f"""otlp: {{ enabled: false }}
tcp: {{ port: 0 }}
routes:
  - {{ name: stats, sink: {{ kind: stats }} }}
  - {{ name: store, sink: {{ kind: sqlite }}, {SOON}{processors} }}
{more}
"""
    denied = "validation: { plugins: [ { name: EventType, denied: [Debug] } ] }"
    service = drill.service(config(denied, f", processors: [ {step} ]"))
    status, told = service.send({"type": "Debug", "id": "refused"}, {"id": "poison", "payload": "poison"},
                                {"id": "good", "payload": {"total": 3}})
    drill.note("seen", f"{status} {json.dumps(told)}")
    drill.metric(service, 'dead_letters_total{route="store",stage="processing",code="not_an_object"}', lambda count: count == 1)
    drill.metric(service, 'dead_letters_total{route="",stage="validation",code="not_allowed"}', lambda count: count == 1)
    drill.looks(service, f"/receipts/{told['receipt']}", lambda receipt: receipt["routes"]["store"]["state"] == "partial")
    eventually("the rest is stored", lambda: '"good"' in service.ask("/events")[1])
    drill.types(service, "dead-letters", "list", says=("not_an_object", "not_allowed", "2 dead letters."))
    drill.types(service, "dead-letters", "show", 2, says=("code        not_an_object", '"poison"'))
    drill.did("both causes are mended in the config; restart")
    service.terminate()
    service.start(config("", ""))
    drill.types(service, "dead-letters", "redrive", "--all", "--wait", says="2 sent again, 0 dead again.")
    drill.types(service, "dead-letters", "list", says="No dead letters.")
    drill.over("everything is delivered", service.settled)
    stored = eventually("all three are stored", lambda: (text := service.ask("/events")[1]) and all(
        f'"{name}"' in text for name in ("refused", "poison", "good")) and text)
    drill.holds("events stored", len(json.loads(stored)["events"]), 3)


@drill(RUNBOOK, "the-store-is-lost", quick=True)
def store_lost(drill):
    """the store's file is gone: it is filled again from the journal"""
    service = drill.service()
    service.accept("kept", 300)
    service.settled()
    drill.did("stop; rm store.db*; start")
    service.terminate()
    for file in (service.dir / "data").glob("store.db*"):
        file.unlink()
    service.start()
    books = drill.looks(service, "/ledger", lambda ledger: ledger["routes"]["store"]["delivered"] == 300)
    drill.looks(service, "/events?limit=1", lambda events: events["events"] == [])
    out = drill.types(service, "replay", "--route", "store", "--from", 0, says="to route `store`")
    drill.holds("the command ended with", out.splitlines()[-1], "Done: 300 events delivered again.")
    with sqlite3.connect(f"file:{service.dir / 'data' / 'store.db'}?mode=ro", uri=True) as store:
        drill.holds("rows", store.execute("SELECT count(*) FROM events").fetchone()[0], 300)
    drill.holds("books", service.ledger()["routes"]["store"], books["routes"]["store"])


@drill(RUNBOOK, "a-cursor-is-damaged", quick=True)
def cursor_damaged(drill):
    """one slot of a position, then both"""
    service = drill.service()
    service.accept("first", 100)
    service.settled()
    service.accept("second", 100)
    service.settled()
    service.terminate()
    slots = [service.dir / "data" / "journal" / "cursors" / f"store.{side}" for side in "ab"]

    def damage(*files):
        for file in files:
            drill.did(f"40 bytes of {file.name} are written over")
            with open(file, "r+b") as bytes_of:
                bytes_of.seek(20)
                bytes_of.write(b"\xff" * 40)
    damage(slots[0])
    service.start()
    drill.log(service, "one of two cursor slots is damaged; the other one is used")
    drill.looks(service, "/health", lambda health: health["status"] == "healthy")
    service.accept("third", 100)
    service.settled()
    service.terminate()
    damage(*slots)
    service.start()
    drill.log(service, "the route is stopped", route="store", error="cursors/store.a")
    drill.looks(service, "/health", lambda health: health["routes"]["store"]["state"] == "stopped")
    drill.did("stop; mkdir cursors.damaged; mv data/journal/cursors/store.? cursors.damaged/; start")
    service.terminate()
    aside = service.dir / "cursors.damaged"
    aside.mkdir()
    for slot in slots:
        shutil.move(slot, aside)
    service.start()
    drill.over("the route is up, its lag 0", lambda: service.json("/health")["status"] == "healthy" and service.settled())
    events = json.loads(service.ask("/events?limit=1000")[1])["events"]
    drill.holds("events stored", len(events), 300)
