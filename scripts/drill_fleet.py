"""Drills of a fleet: its journal, its sinks or one of its processes is away; an event that no sink takes."""

import json
import random
import signal
import subprocess
import time

import harness
from drilling import SOON, Failed, drill, eventually

RUNBOOK = "operations.md"
TOPIC = "telemetryx.events"
GROUPS = "consumer.group.ConsumerGroupCommand"


class Fleet:
    """Two processes that take in, two that deliver to PostgreSQL and Redis; the journal is in Kafka."""

    def __init__(self, drill, kafka=None, more="", journal="", store="", engine="", environment=None, address=None,
                 session_ms=6000):
        self.drill, self.session_ms = drill, session_ms
        self.kafka = kafka or drill.kafka()
        self.address = address or self.kafka.address
        self.postgres, self.redis = drill.postgres(), drill.redis()
        self.more, self.journal, self.store, self.engine = more, journal, store, engine
        self.environment = environment or {}
        self.processes = {name: drill.service(self.config(name), name, environment) for name in
                          ("ingest-1", "ingest-2", "deliver-1", "deliver-2")}
        eventually("every partition has a reader", lambda: sum(self.reads(name) for name in ("deliver-1", "deliver-2")) == 12)

    def config(self, name, more=None, store=None):
        roles = "ingest, query" if name.startswith("ingest") else "deliver"
        return f"""roles: [{roles}]
journal: {{ engine: kafka, kafka: {{ brokers: '{self.address}', topic: {TOPIC}, delivery_timeout: 5s{self.engine},
  options: {{ session.timeout.ms: {self.session_ms} {self.journal} }} }} }}
otlp: {{ enabled: false }}
routes:
  - {{ name: store, sink: {{ kind: postgres, url: '{self.postgres.url()}' }}, {SOON}{self.store if store is None else store} }}
  - {{ name: counters, sink: {{ kind: redis, url: '{self.redis.url}' }}, {SOON} }}
query: {{ events_from: store, counters_from: counters }}
{self.more if more is None else more}
"""

    def __getitem__(self, name):
        return self.processes[name]

    def reads(self, name, route="store"):
        """How many partitions a process reads."""
        partitions = self.processes[name].json("/status")["routes"][route].get("partitions") or []
        return sum(bool(partition.get("read_here")) for partition in partitions)

    def settled(self):
        return self.processes["ingest-2"].settled()

    def rows(self):
        return int(self.postgres.sql("SELECT count(*) FROM events"))

    def groups(self):
        """What Kafka's own tool says of the group of the store."""
        out = self.kafka.tool(GROUPS, "--describe", "--group", "telemetryx.store")
        line = "kafka-consumer-groups.sh --bootstrap-server kafka-1:9092 --describe --group telemetryx.store"
        self.drill.note("typed", f"$ {line}\n{out}")
        return out

    def holds_all(self, count):
        """Everything is delivered, once."""
        books = self.settled()
        self.drill.holds("accepted", books["accepted"], count)
        self.drill.holds("rows in PostgreSQL", self.rows(), count)
        self.drill.holds("counted", self["ingest-2"].json("/stats")["events_count"], count)
        self.drill.holds("differences", [route["difference"] for route in books["routes"].values()], [0, 0])


@drill(RUNBOOK, "kafka-is-away")
def kafka_away(drill):
    """the broker is killed, and started again"""
    fleet = Fleet(drill)
    door = fleet["ingest-1"]
    fleet.processes["ingest-2"].accept("before", 500)
    drill.did("kill -9 of the broker")
    fleet.kafka.kill()
    asked = time.monotonic()
    drill.answers(door, 503, "unavailable")
    drill.note("seen", f"the first answer after {time.monotonic() - asked:.1f} s")

    def at_once():
        """How long one waits, once that is less than a second."""
        asked = time.monotonic()
        status, _ = door.send({})
        took = time.monotonic() - asked
        return took if status == 503 and took < 1 else None
    drill.note("seen", f"later ones after {eventually('an answer at once', at_once):.3f} s")
    drill.log(door, "the journal cannot be written")
    for name in ("ingest-1", "deliver-1"):
        drill.looks(fleet[name], "/health", lambda health: health["status"] == "unhealthy")
    drill.holds("/healthz", door.ask("/healthz"), (200, "OK"))
    drill.did("the broker is started again")
    before = len(list(door.lines()))
    fleet.kafka.start()
    drill.over("events are taken again", lambda: door.send({})[0] == 202)
    for name in ("ingest-1", "deliver-1"):
        drill.looks(fleet[name], "/health", lambda health: health["status"] == "healthy")
    back = ("Kafka is there", "Kafka acknowledges events again")
    for words in back:
        drill.named(words)
    drill.note("seen", eventually("a line says so", lambda: [
        raw for raw, line in list(door.lines())[before:] if line["message"] in back])[-1])
    drill.over("everything is delivered", fleet.settled)


@drill(RUNBOOK, "kafka-is-away-and-doors-spill")
def kafka_away_with_spill(drill):
    """the same with `spill: embedded`: the door stays open, and hands over what it has when the broker is back"""
    fleet = Fleet(drill, engine=", spill: embedded")
    door = fleet["ingest-1"]
    door.accept("before", 300)
    fleet.settled()
    drill.did("kill -9 of the broker")
    fleet.kafka.kill()
    ids = door.accept("meanwhile", 500)
    drill.log(door, "Kafka is away: events are kept on this machine until it is back")
    drill.metric(door, "journal_spill_events", lambda events: events >= len(ids) - 100)
    drill.metric(door, "journal_spill_bytes", lambda size: size > 0)
    drill.looks(door, "/health", lambda health: health["status"] == "degraded" and health["journal"]["spill"]["events"])
    told = drill.answers(door, 202, '"durability":"fsynced"', {"id": "last"})
    drill.looks(door, f"/receipts/{told['receipt']}", lambda shown: shown["routes"]["store"]["state"] == "pending")
    drill.types(door, "journal", "inspect", "--data-dir", door.dir / "data" / "spill", says="kafka")
    drill.did("the broker is started again")
    fleet.kafka.start()
    drill.log(door, "Kafka has all that was spilled, and what comes now")
    drill.metric(door, "journal_spill_events", lambda events: events == 0)
    drill.looks(door, "/health", lambda health: health["status"] == "healthy")
    drill.looks(door, f"/receipts/{told['receipt']}", lambda shown: shown["routes"]["store"]["state"] == "delivered")
    fleet.holds_all(300 + len(ids) + 1)


@drill(RUNBOOK, "kafkas-disk-is-full")
def kafka_disk_full(drill):
    """the broker's disk is full; needs root, for a small file system"""
    kafka = harness.Kafka("log.segment.bytes=1048576", "log.index.size.max.bytes=4096", light=True)
    kafka.dir.mkdir()
    drill.stack.callback(lambda: subprocess.run(["umount", "--lazy", kafka.dir], check=False))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", kafka.dir], check=True)
    drill.stack.enter_context(kafka)
    fleet = Fleet(drill, kafka=kafka)
    door = fleet["ingest-1"]
    drill.did("a disk of 48 MiB for the broker; senders go on until it is full")
    chance = random.Random(1)

    def fills():
        events = [{"payload": chance.randbytes(4000).hex(), "partition_key": str(chance.random())} for _ in range(50)]
        return door.send(*events)[0] == 503
    eventually("the broker cannot write", fills, 120)
    drill.answers(door, 503, "unavailable")
    drill.log(door, "the journal cannot be written")
    lines = (kafka.dir / "log").read_text(errors="replace").splitlines()
    words = [line for line in lines if "No space left" in line or "log dirs" in line]
    drill.note("seen", "in the broker's log: " + "\n".join(line[:200] for line in words[:2] + words[-1:]))
    drill.shell(f"df -h {kafka.dir} | tail -1")
    drill.note("seen", f"the broker has ended: {kafka.process.poll()}")
    drill.did("the disk is made larger, the broker started again")
    subprocess.run(["mount", "-o", "remount,size=512m", kafka.dir], check=True)
    kafka.kill()
    kafka.start()
    drill.over("events are taken again", lambda: door.send({})[0] == 202)
    drill.over("everything is delivered", fleet.settled)


@drill(RUNBOOK, "a-sink-is-down")
def postgres_away(drill):
    """PostgreSQL is gone, the backlog's limit is reached, and it comes back"""
    fleet = Fleet(drill, more="admission: { overflow: { max_backlog_events: 2000 } }")
    door = fleet["ingest-1"]
    door.accept("before", 500)
    fleet.settled()
    drill.did("PostgreSQL is ended, as by a power cut")
    fleet.postgres.kill()
    door.accept("during", 500)
    name = next(name for name in ("deliver-1", "deliver-2") if fleet.reads(name))
    drill.log(fleet[name], "the sink is down; its events stay in the journal", event="batch_persist_failed", route="store")
    drill.looks(fleet[name], "/health", lambda health: health["routes"]["store"]["state"] == "down")
    drill.metric(fleet[name], 'route_breaker_open{route="store"}', lambda is_open: is_open == 1)
    drill.metric(door, 'kafka_consumer_lag{route="store",partition="0"}', lambda lag: lag > 0)
    drill.looks(door, "/ledger", lambda ledger: [route["pending"] for route in ledger["routes"].values()] == [500, 0])
    fleet.groups()
    drill.looks(door, "/stats", lambda stats: stats["events_count"] == 1000)
    drill.note("seen", "/events {} {}".format(*door.ask("/events?limit=1")))
    drill.did("senders go on until the backlog is full")
    sent = 0
    while door.send(*[{"partition_key": str(number)} for number in range(100)])[0] == 202:
        sent += 100
        time.sleep(0.2)
    drill.answers(door, 429, "backlog_full")
    drill.log(door, "backlog full: rejecting", event="queue_saturated")
    drill.metric(door, "ingestion_queue_depth", lambda depth: depth >= 2000)
    drill.did("PostgreSQL is started again")
    fleet.postgres.start()
    drill.over("events are taken again", lambda: door.send({})[0] == 202)
    drill.log(fleet[name], "the sink is back", route="store")
    fleet.holds_all(1000 + sent + 1)


@drill(RUNBOOK, "a-sink-is-down")
def redis_away(drill):
    """Redis is gone, and comes back"""
    fleet = Fleet(drill)
    door = fleet["ingest-1"]
    door.accept("before", 300)
    fleet.settled()
    eventually("counted", lambda: door.json("/stats")["events_count"] == 300)
    drill.did("kill -9 of Redis")
    fleet.redis.kill()
    door.accept("during", 300)
    drill.looks(door, "/stats", lambda stats: stats.get("behind", {}).get("events") == 300)
    eventually("the store goes on", lambda: fleet.rows() == 600)
    drill.did("Redis is started again")
    fleet.redis.start()
    drill.over("the counters are exact again", lambda: door.json("/stats") == {"sources_count": 1, "events_count": 600})
    fleet.holds_all(600)


@drill(RUNBOOK, "a-partition-is-stuck")
def process_hangs(drill):
    """a process that delivers hangs (SIGSTOP) for longer than its session, and goes on"""
    # Long enough to look around.
    fleet = Fleet(drill, session_ms=15_000)
    door, hangs, other = fleet["ingest-1"], fleet["deliver-1"], fleet["deliver-2"]
    eventually("both have half of the partitions", lambda: (fleet.reads("deliver-1"), fleet.reads("deliver-2")) == (6, 6))
    drill.did("SIGSTOP of one that delivers")
    hangs.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    door.accept("during", 600)
    drill.named("kafka_consumer_lag")

    def behind():
        """The readings of the store, once the others' partitions are read up."""
        lines = [line for line in door.ask("/metrics")[1].splitlines() if line.startswith('kafka_consumer_lag{route="store"')]
        return lines if sum(line.endswith(" 0") for line in lines) in range(1, 7) and len(lines) == 12 else None
    try:
        drill.note("seen", "\n".join(sorted(eventually("some partitions are behind, others not", behind))))
        eventually("the other has taken over", lambda: fleet.reads("deliver-2") == 12)
        drill.note("over", f"{time.monotonic() - stopped:.1f} s after SIGSTOP the other process reads all partitions")
        drill.log(other, "this process reads a partition", route="store")
        drill.over("everything is delivered", fleet.settled)
    finally:
        hangs.process.send_signal(signal.SIGCONT)
    drill.log(hangs, "the group gave a partition to another process: this one did not answer", route="store")
    drill.over("both read again", lambda: fleet.reads("deliver-1") == 6)
    fleet.holds_all(600)


@drill(RUNBOOK, "dead-letters")
def poison(drill):
    """a poison event and a message that is none, in a fleet: set aside, nothing is held up, sent again"""
    step = ", processors: [ { name: SchemaMigration, types: { Order: { 1: { rename: { total: amount } } } } } ]"
    fleet = Fleet(drill, store=step)
    door = fleet["ingest-1"]
    status, told = door.send({"id": "poison", "payload": "poison"}, {"id": "good", "payload": {"total": 3}})
    drill.note("seen", f"{status} {json.dumps(told)}")
    producer = ["java", "-Xmx256m", *fleet.kafka.soon, "org.apache.kafka.tools.ConsoleProducer",
                "--bootstrap-server", fleet.kafka.address, "--topic", TOPIC]
    subprocess.run(producer, input="this is no event\n", text=True, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    drill.did("somebody else writes `this is no event` into the topic")
    door.accept("after", 300)
    eventually("the rest is stored", lambda: fleet.rows() == 301)
    listed = lambda: door.command("dead-letters", "list")[1]
    letters = eventually("three letters", lambda: (out := listed()).endswith("3 dead letters.\n") and out)
    drill.types(door, "dead-letters", "list", says=("not_an_object", "unreadable"))
    counts = [line for name in ("deliver-1", "deliver-2") for line in fleet[name].ask("/metrics")[1].splitlines()
              if line.startswith("dead_letters_total")]
    drill.note("seen", "\n".join(counts))
    drill.holds("letters counted by the processes", sum(float(line.rsplit(" ", 1)[1]) for line in counts), 3.0)
    [number] = [line.split()[0] for line in letters.splitlines() if "not_an_object" in line]
    drill.types(door, "dead-letters", "show", number, says='"poison"')
    drill.did("the cause is mended in the config; those that deliver are restarted, one after the other")
    for name in ("deliver-1", "deliver-2"):
        fleet[name].terminate()
        fleet[name].start(fleet.config(name, store=""))
    drill.types(door, "dead-letters", "redrive", "--id", number, "--wait", says="1 sent again, 0 dead again.")
    eventually("it is stored", lambda: fleet.rows() == 302)
    if fleet.settled()["routes"]["store"]["dead"] != 1:
        raise Failed("the letter that is no event is still one")
