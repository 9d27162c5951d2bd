"""Drills of a fleet that changes under load: processes restarted one after the other, partitions added, passwords."""

import collections
import json
import threading
import time

import harness
from drill_fleet import TOPIC, Fleet
from drilling import Failed, drill, eventually

RUNBOOK, SCALING = "operations.md", "scaling.md"


class Loads:
    """`telemetryx load` on each door, which connects again after errors; their reports."""

    def __init__(self, drill, doors, seconds, rate=500):
        self.logs = [door.dir / f"acknowledged-{time.monotonic_ns()}" for door in doors]
        self.processes = [door.load_process(
            "--rate", rate, "--batch", 10, "--connections", 8, "--keep-going", "--ids", door.name, "--ack-log", log, "--duration",
            f"{seconds}s") for door, log in zip(doors, self.logs, strict=True)]
        for process in self.processes:
            drill.stack.callback(lambda process=process: process.poll() is None and process.kill())

    def finish(self):
        reports = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in self.processes]
        return reports, set().union(*(set(log.read_text().split()) for log in self.logs))


class Readings(threading.Thread):
    """The most that a route was behind, asked all the time."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service, self.most, self.stop = service, 0, threading.Event()
        self.start()

    def run(self):
        while not self.stop.wait(0.1):
            try:
                self.most = max(self.most, self.service.json("/ledger")["routes"]["store"]["pending"])
            except (OSError, ValueError, KeyError, RuntimeError):
                continue

    def end(self):
        self.stop.set()
        self.join()
        return self.most


def stored(fleet, promised):
    """What was promised and is not stored, and rows beyond their ids."""
    rows = fleet.postgres.sql("SELECT id FROM events").splitlines()
    return len(promised - set(rows)), len(rows) - len(set(rows))


@drill(RUNBOOK, "upgrade-and-roll-back")
def rolling_restart(drill):
    """every process of a fleet is restarted, one after the other, under load"""
    fleet = Fleet(drill)
    doors = [fleet["ingest-1"], fleet["ingest-2"]]
    loads = Loads(drill, doors, 45)
    time.sleep(3)
    for name in ("ingest-1", "deliver-1", "deliver-2"):
        behind = Readings(fleet["ingest-2"])
        begun = time.monotonic()
        fleet[name].terminate()
        stopped = time.monotonic() - begun
        ready = fleet[name].start()
        drill.looks(fleet[name], "/health", lambda health: health["status"] == "healthy")
        if name.startswith("deliver"):
            eventually("it reads its share", lambda name=name: fleet.reads(name) == 6)
        drill.note("seen", f"{name}: ended within {stopped:.1f} s, exit {fleet[name].exit}, ready again after {ready:.1f} s; "
                           f"all as before after {time.monotonic() - begun:.1f} s; store at most {behind.end():,} events behind")
    reports, promised = loads.finish()
    for door, report in zip(doors, reports, strict=True):
        drill.note("seen", f"clients of {door.name}: {report['statuses']}, errors {report['errors']}")
    drill.holds("errors of clients of the door that stayed", [reports[1]["errors"], list(reports[1]["statuses"])], [{}, ["202"]])
    books = fleet.settled()
    drill.holds("acknowledged and not stored; stored twice", stored(fleet, promised), (0, 0))
    drill.holds("differences", [route["difference"] for route in books["routes"].values()], [0, 0])


@drill(RUNBOOK, "kafkas-password")
def kafka_password(drill):
    """the user of Kafka changes, with its password: a second one beside it, every process restarted, the first taken out"""
    [port] = harness.free_ports(1)

    def jaas(*users):
        named = " ".join(f'user_{user}="{password}"' for user, password in users)
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return f"listener.name.clients.plain.sasl.jaas.config={module} required {named};"
    kafka = harness.Kafka(light=True)
    kafka.settings = [
        f"advertised.listeners=CLIENTS://127.0.0.1:{port},PLAINTEXT://{kafka.address}",
        f"listeners=CLIENTS://127.0.0.1:{port},PLAINTEXT://{kafka.address},CONTROLLER://127.0.0.1:{kafka.controller_port}",
        "listener.security.protocol.map=CLIENTS:SASL_PLAINTEXT,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms=PLAIN", jaas(("telemetryx-1", "old"))]
    drill.stack.enter_context(kafka)
    folder = drill.folder("passwords")
    for number, password in (1, "old"), (2, "new"):
        (folder / f"kafka-{number}").write_text(f"{password}\n")
    as_user = lambda number: (", security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: telemetryx-"
                              f"{number}, sasl.password_file: '{folder}/kafka-{number}'")
    fleet = Fleet(drill, kafka=kafka, journal=as_user(1), address=f"127.0.0.1:{port}")
    door = fleet["ingest-1"]
    door.accept("before", 200)
    drill.did("the brokers get a second user, and are restarted")
    kafka.kill()
    kafka.settings[-1] = jaas(("telemetryx-1", "old"), ("telemetryx-2", "new"))
    kafka.start()
    fleet.journal = as_user(2)
    for name in fleet.processes:
        fleet[name].terminate()
        fleet[name].start(fleet.config(name))
        drill.looks(fleet[name], "/health", lambda health: health["status"] == "healthy")
    door.accept("between", 200)
    drill.did("the brokers lose the first user, and are restarted")
    kafka.kill()
    kafka.settings[-1] = jaas(("telemetryx-2", "new"))
    kafka.start()
    door.accept("after", 200)
    drill.over("everything is delivered", fleet.settled)
    drill.did("a process that still has the first")
    fleet.journal = as_user(1)
    fleet["ingest-2"].terminate()
    fleet["ingest-2"].start(fleet.config("ingest-2"))
    drill.looks(fleet["ingest-2"], "/health", lambda health: health["status"] == "unhealthy")
    fleet.journal = as_user(2)
    fleet["ingest-2"].terminate()
    fleet["ingest-2"].start(fleet.config("ingest-2"))
    fleet.holds_all(600)


ARRIVALS = (
    "CREATE TABLE arrivals (number bigserial PRIMARY KEY, id text)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO arrivals (id) VALUES (NEW.id); RETURN NULL; END'",
    "CREATE TRIGGER note AFTER INSERT ON events FOR EACH ROW WHEN (NEW.id LIKE 'order.%') EXECUTE FUNCTION note()",
)


class Walkers(threading.Thread):
    """Events of sixty keys, numbered within each; each request again until it is taken."""

    def __init__(self, doors):
        super().__init__(daemon=True)
        self.doors, self.stop, self.numbers, self.fault = doors, threading.Event(), 0, None
        self.answers = collections.Counter()
        self.start()

    def run(self):
        try:
            while not self.stop.wait(0.1):
                events = [{"id": f"order.{key}.{self.numbers}", "partition_key": f"key-{key}"} for key in range(60)]
                while not self.taken(events) and not self.stop.is_set():
                    time.sleep(0.05)
                self.numbers += 1
        except Exception as error:  # Whatever it is, the drill has failed.
            self.fault = error

    def taken(self, events):
        for door in self.doors:
            try:
                status = door.send(*events)[0]
            except OSError:
                status = "no answer"
            self.answers[status] += 1
            if status == 202:
                return True
        return False

    def end(self):
        self.stop.set()
        self.join()
        if self.fault:
            raise self.fault


def out_of_order(fleet):
    """Arrivals before which a later one of their key came."""
    highest, wrong, keys = {}, 0, set()
    for line in fleet.postgres.sql("SELECT id FROM arrivals ORDER BY number").splitlines():
        _, key, number = line.split(".")
        if int(number) < highest.get(key, -1):
            wrong += 1
            keys.add(key)
        highest[key] = max(highest.get(key, -1), int(number))
    return wrong, len(keys)


def alter(fleet, partitions):
    line = f"kafka-topics.sh --bootstrap-server kafka-1:9092 --alter --topic {TOPIC} --partitions {partitions}"
    fleet.drill.note("typed", f"$ {line}")
    fleet.kafka.tool("TopicCommand", "--alter", "--topic", TOPIC, "--partitions", partitions)
    return time.monotonic()


@drill(SCALING, "growing-them")
def partitions_added(drill):
    """partitions are added under load while a sink is behind: what is seen, how soon, and what becomes of the order"""
    fleet = Fleet(drill)
    door = fleet["ingest-1"]
    eventually("the table is made", lambda: fleet.postgres.sql("SELECT to_regclass('events')"))
    fleet.postgres.sql(*ARRIVALS)
    walkers = Walkers([fleet["ingest-1"], fleet["ingest-2"]])
    time.sleep(2)
    drill.did("PostgreSQL away for some seconds, so that there is a backlog in the old partitions")
    fleet.postgres.kill()
    time.sleep(3)
    since = alter(fleet, 24)
    partitions = lambda: door.json("/status")["routes"]["store"]["partitions"]
    eventually("/status has 24 partitions", lambda: len(partitions()) == 24)
    drill.note("seen", f"/status has 24 partitions after {time.monotonic() - since:.1f} s")
    eventually("new partitions get events", lambda: any(it["lag_events"] for it in partitions() if it["partition"] >= 12))
    drill.note("seen", f"new partitions get events after {time.monotonic() - since:.1f} s")
    reads = lambda: fleet.reads("deliver-1") + fleet.reads("deliver-2")
    eventually("all 24 have a reader", lambda: reads() == 24)
    shares = f"{fleet.reads('deliver-1')} and {fleet.reads('deliver-2')}"
    drill.note("seen", f"each has a reader after {time.monotonic() - since:.1f} s: {shares}")
    fleet.postgres.start()
    drill.log(door, "the journal's topic is not as it should be",
              warning="has 24 partitions, journal.kafka.partitions is 12: the topic counts")
    drill.note("seen", f"the warning after {time.monotonic() - since:.1f} s")
    walkers.end()
    drill.note("seen", f"answers to those who send: {dict(walkers.answers)}")
    books = fleet.settled()
    drill.holds("rows in PostgreSQL", fleet.rows(), walkers.numbers * 60)
    drill.holds("differences", [route["difference"] for route in books["routes"].values()], [0, 0])
    wrong, keys = out_of_order(fleet)
    drill.note("seen", f"{wrong} of {walkers.numbers * 60} events came after a later one of their key; {keys} of 60 keys")
    if not wrong:
        raise Failed("no key lost its order: the backlog was too small to show it")


@drill(SCALING, "growing-them")
def partitions_added_in_order(drill):
    """the same by the steps of the page: the doors end, the routes drain, partitions are added, the doors start"""
    fleet = Fleet(drill)
    eventually("the table is made", lambda: fleet.postgres.sql("SELECT to_regclass('events')"))
    fleet.postgres.sql(*ARRIVALS)
    doors = [fleet["ingest-1"], fleet["ingest-2"]]
    walkers = Walkers(doors)
    time.sleep(3)
    begun = time.monotonic()
    drill.did("the doors are ended")
    for door in doors:
        door.terminate()
    drill.named("kafka_consumer_lag")
    lags = lambda: [line for line in fleet["deliver-1"].ask("/metrics")[1].splitlines() if line.startswith("kafka_consumer_lag")]
    # It is looked at once a second: what is told now may be of before.
    time.sleep(2)
    eventually("no route has anything before it", lambda: [line.rsplit(" ", 1)[1] for line in lags()] == ["0"] * 24)
    drill.note("seen", "kafka_consumer_lag is 0 for 2 routes and 12 partitions")
    alter(fleet, 24)
    drill.did("journal.kafka.partitions: 24; the doors are started, then those that deliver, one after the other")
    for name in ("ingest-1", "ingest-2", "deliver-1", "deliver-2"):
        if name.startswith("deliver"):
            fleet[name].terminate()
        fleet[name].start(fleet.config(name).replace(f"topic: {TOPIC}", f"topic: {TOPIC}, partitions: 24"))
        if name == "ingest-1":
            drill.note("seen", f"the doors were closed for {time.monotonic() - begun:.1f} s")
    drill.over("all 24 partitions have a reader", lambda: fleet.reads("deliver-1") + fleet.reads("deliver-2") == 24)
    time.sleep(2)
    walkers.end()
    books = fleet.settled()
    drill.holds("rows in PostgreSQL", fleet.rows(), walkers.numbers * 60)
    drill.holds("differences", [route["difference"] for route in books["routes"].values()], [0, 0])
    drill.holds("warnings", fleet["ingest-1"].json("/status")["journal"].get("warnings", []), [])
    drill.holds("came out of the order of their key", out_of_order(fleet)[0], 0)
