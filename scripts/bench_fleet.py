"""The benches of what several machines share: the journal in Kafka or PostgreSQL, and a fleet on one machine."""

import contextlib
import json
import statistics
import time

import harness
from benching import Server, busy_seconds, full_load, row, say, show_run

# What the engines promise with a 202.
DURABLE = {"kafka": "replicated", "postgres": "committed"}


def kafka_journal(kafka, topic, extra=""):
    return f"journal: {{ engine: kafka, kafka: {{ brokers: '{kafka.address}', topic: {topic}{extra} }} }}\n"


def postgres_journal(port):
    url = f"postgres://postgres@127.0.0.1:{port}/postgres"
    return f"journal: {{ engine: postgres, postgres: {{ url: '{url}' }} }}\nadmission: {{ overflow: {{ max_backlog_events: 1000000000 }} }}\n"


def bench_journal_kafka(options):
    """the door with the journal in Kafka, against Kafka's own producer performance tool with records as large"""
    with harness.Kafka() as kafka:
        ratios, ours, theirs = [], [], []
        for turn in range(options.pairs):
            topic = f"events-{turn}"
            # Nobody reads: a route of its own would be measured with it.
            config = kafka_journal(kafka, topic) + "routes: []\n"
            with Server("service", config) as server:
                report = server.load(*full_load(options, 100))
                show_run(f"batches of 100, run {turn}", report)
                accepted = server.ledger()["accepted"]
            size = kafka.topic_bytes(topic) // accepted
            ours.append(report["accepted"] / report["seconds"])
            theirs.append(kafka.perf_test(f"perf-{turn}", min(accepted, 5_000_000), max(size, 200), "none"))
            ratios.append(ours[-1] / theirs[-1])
            say(f"  door {ours[-1]:>9,.0f} events/s   producer-perf-test {theirs[-1]:>9,.0f} records/s   {size} bytes stored a record")
        ratio = statistics.median(ratios)
        row("door, journal in Kafka, batches of 100", "≥ 0.7 of kafka-producer-perf-test",
            f"{ratio:.2f}  ({statistics.median(ours):,.0f} / {statistics.median(theirs):,.0f} records/s)", ratio >= 0.7)


def bench_journal_postgres(options):
    """the door with the journal in PostgreSQL: single events, batches of 100"""
    [port] = harness.free_ports(1)
    with harness.Postgres(port), Server("service", postgres_journal(port) + "routes: []\n") as server:
        for batch, target, what in ((1, 5_000, "single events"), (100, 50_000, "batches of 100")):
            report = server.load(*full_load(options, batch))
            show_run(what, report)
            rate = report["accepted"] / report["seconds"]
            row(f"door, journal in PostgreSQL, {what}", f"≥ {target:,} events/s",
                f"{rate:,.0f} events/s, p99 {report['latency_ms']['p99']:.2f} ms", rate >= target)


def bench_doors(options):
    """CPU of a door for an event: one alone, and two beside each other with twice the load, on one journal"""
    [port] = harness.free_ports(1)
    with harness.Postgres(port), harness.Kafka() as kafka:
        for engine, journal in (("Kafka", kafka_journal(kafka, "doors")), ("PostgreSQL", postgres_journal(port))):
            ratios, alone, beside = [], [], []
            for turn in range(options.pairs):
                # Which comes first changes, so that neither always follows the other.
                for doors in (1, 2) if turn % 2 == 0 else (2, 1):
                    micros = cpu_micros_per_event(options, journal + "routes: []\n", doors)
                    (alone if doors == 1 else beside).append(micros)
                ratios.append(beside[-1] / alone[-1])
                say(f"  {engine}: alone {alone[-1]:.2f} µs an event, each of two {beside[-1]:.2f} µs")
            ratio = statistics.median(ratios)
            row(f"CPU of a door for an event, journal in {engine}: each of two with twice the load", "≤ 1.15 of one alone",
                f"{ratio:.2f}  ({statistics.median(beside):.2f} / {statistics.median(alone):.2f} µs)", ratio <= 1.15)


def cpu_micros_per_event(options, config, doors):
    """Each of so many doors under the same load at the same time: what of their CPU one event took."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server("service", config)) for _ in range(doors)]
        rate = ["--rate", 10_000, "--connections", 16, "--batch", 10]
        for server in servers:
            server.load(*rate, "--duration", f"{options.warm_up}s")
        before = sum(server.cpu_seconds() for server in servers)
        loads = [server.load_process(*rate, "--duration", f"{options.seconds}s") for server in servers]
        reports = [json.loads(load.communicate()[0].strip().splitlines()[-1]) for load in loads]
        cpu = sum(server.cpu_seconds() for server in servers) - before
        accepted = sum(report["accepted"] for report in reports)
        wanted = sum(10_000 * report["seconds"] for report in reports)
        if accepted < 0.97 * wanted:
            raise RuntimeError(f"{accepted:,} of {wanted:,.0f} events were taken: the machine is too small for this rate")
        return cpu / accepted * 1e6


def bench_fleet(options):
    """Kafka, Postgres, Redis, two that take in and two that deliver, all on this machine, at 20 k events/s"""
    seconds = 10 if options.quick else 60
    [port] = harness.free_ports(1)
    with harness.Postgres(port), harness.Redis() as redis, harness.Kafka() as kafka, contextlib.ExitStack() as fleet:
        common = kafka_journal(kafka, "fleet") + (
            f"routes: [ {{ name: store, sink: {{ kind: postgres, url: 'postgres://postgres@127.0.0.1:{port}/postgres' }} }},"
            f" {{ name: counters, sink: {{ kind: redis, url: '{redis.url}' }} }} ]\n"
            "query: { events_from: store, counters_from: counters }\n")
        doors = [fleet.enter_context(Server("service", "roles: [ingest, query]\n" + common)) for _ in range(2)]
        for _ in range(2):
            fleet.enter_context(Server("service", "roles: [deliver]\n" + common))
        rate = ["--rate", 10_000, "--connections", 32, "--batch", 10]
        # Topics and tables are made, Java is warm, the partitions have found their readers.
        for door in doors:
            door.load(*rate, "--duration", "8s")
        busy, began = busy_seconds(), time.monotonic()
        loads = [door.load_process(*rate, "--duration", f"{seconds}s") for door in doors]
        reports = [json.loads(load.communicate()[0].strip().splitlines()[-1]) for load in loads]
        machine = (busy_seconds() - busy) / (time.monotonic() - began)
        for number, report in enumerate(reports):
            show_run(f"door {number}", report)
        say(f"  CPU of the machine {machine:.0%}")
        ended = time.monotonic()
        while any(doors[0].pending().values()) and time.monotonic() - ended < 120:
            time.sleep(0.2)
        ledger = doors[1].ledger()
        counted = json.loads(doors[0].get("/stats")[1])["events_count"]
    latency = {name: max(report["latency_ms"][name] for report in reports) for name in ("p95", "p99")}
    row("fleet at 20 k events/s: the doors' p95", "< 100 ms", f"{latency['p95']:.2f} ms", latency["p95"] < 100)
    row("… p99", "< 150 ms", f"{latency['p99']:.2f} ms", latency["p99"] < 150)
    behind = {name: route["pending"] for name, route in ledger["routes"].items()}
    exact = counted == ledger["accepted"] and not any(route["difference"] for route in ledger["routes"].values())
    row("… everything delivered and counted", "yes", f"{ledger['accepted']:,} accepted, {counted:,} counted, left {behind}",
        exact and not any(behind.values()))
