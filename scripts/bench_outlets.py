"""The benches of outlets: from a full journal to each of them, and all of them at once."""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import harness
from benching import BARE, Server, busy_seconds, row, say, show_run
from harness import BINARY, ROOT, SCRATCH


def bench_postgres(options):
    """journal to PostgreSQL, against a plain binary COPY of the same rows into the same table"""
    seconds = 2 if options.quick else 5
    port, = harness.free_ports(1)
    url = f"postgres://postgres@127.0.0.1:{port}/postgres"
    keep_all = "journal: { embedded: { retain: { bytes: 64GiB } } }\n"
    with harness.Postgres(port) as postgres, Server("service", BARE + keep_all) as server:
        show_run("filling the journal", server.load("--rate", 400_000, "--connections", 64, "--batch", 100,
                                                    "--duration", f"{seconds}s"))
        ratios, ours, plain = [], [], []
        for turn in range(options.pairs):
            schema = f"run{turn}"
            # A route begins at the oldest event of the journal as often as it has a new name.
            route = f"{{ name: {schema}, sink: {{ kind: postgres, schema: {schema}, url: '{url}' }} }}"
            server.terminate()
            postgres.sql("CHECKPOINT")
            begun = time.monotonic()
            server.start(f"routes: [ {route} ]\n{keep_all}")
            while (books := server.ledger()["routes"][schema])["pending"] and time.monotonic() - begun < 300:
                time.sleep(0.02)
            took, events = time.monotonic() - begun, books["delivered"]
            server.terminate()
            ours.append(events / took)
            plain.append(events / postgres.copy_again(schema))
            ratios.append(ours[-1] / plain[-1])
            say(f"  route {ours[-1]:>9,.0f} events/s   COPY {plain[-1]:>9,.0f} rows/s   {events:,} events")
            server.start(BARE + keep_all)
        ratio = statistics.median(ratios)
        row("journal → PostgreSQL", "≥ 0.8 of a plain COPY",
            f"{ratio:.2f}  ({statistics.median(ours):,.0f} / {statistics.median(plain):,.0f} rows/s)", ratio >= 0.8)


def bench_redis(options):
    """journal to Redis: a full journal, then the route starts, in batches of 5,000"""
    seconds = 1 if options.quick else 3
    keep_all = "journal: { embedded: { retain: { bytes: 64GiB } } }\n"
    for sources in (100, 50_000):
        with harness.Redis() as redis, Server("service", BARE + keep_all) as server:
            show_run("filling the journal", server.load("--rate", 0, "--connections", 64, "--batch", 100,
                                                        "--source-count", sources, "--duration", f"{seconds}s"))
            server.terminate()
            server.start(keep_all + "routes: [ { name: counters, batch: { max_events: 5000, max_bytes: 64MiB },"
                         f" sink: {{ kind: redis, url: '{redis.url}', channel: bench }} }} ]\n"
                         "query: { counters_from: counters }\n")
            begun, first = time.monotonic(), server.ledger()["routes"]["counters"]["delivered"]
            while (books := server.ledger()["routes"]["counters"])["pending"] and time.monotonic() - begun < 180:
                time.sleep(0.02)
            rate = (books["delivered"] - first) / (time.monotonic() - begun)
            counted = json.loads(server.get("/stats")[1])["events_count"]
            exact = counted == server.ledger()["accepted"]
        # With 50,000 sources every event of a batch is of another one: the most that a batch can ask of Redis.
        aim = 200_000 if sources == 100 else 0
        row(f"journal → Redis, {sources:,} sources", "≥ 200 k events/s, exact" if aim else "exact",
            f"{rate:,.0f} events/s  ({counted:,} events{'' if exact else ', NOT ALL COUNTED'})", rate >= aim and exact)


def bench_kafka(options):
    """journal to Kafka, against Kafka's own producer performance tool with records as large"""
    seconds = 1 if options.quick else 3
    keep_all = "journal: { embedded: { retain: { bytes: 64GiB } } }\n"
    with harness.Kafka() as kafka, Server("service", BARE + keep_all) as server:
        show_run("filling the journal", server.load("--rate", 0, "--connections", 64, "--batch", 100,
                                                    "--duration", f"{seconds}s"))
        for compression in ("none", "zstd"):
            ratios, ours, theirs = [], [], []
            for turn in range(options.pairs):
                topic = f"{compression}-{turn}"
                route = (f"{{ name: {topic}, batch: {{ max_events: 20000, max_bytes: 16MiB }}, sink: {{ kind: kafka, "
                         f"brokers: '{kafka.address}', topic: {topic}, options: {{ compression.type: {compression} }} }} }}")
                server.terminate()
                # A route begins at the oldest event of the journal as often as it has a new name.
                begun = time.monotonic()
                server.start(f"routes: [ {route} ]\n{keep_all}")
                while (books := server.ledger()["routes"][topic])["pending"] and time.monotonic() - begun < 300:
                    time.sleep(0.02)
                took, events = time.monotonic() - begun, books["delivered"]
                server.terminate()
                if compression == "none":
                    # What a record takes beside its own key, value and headers.
                    size = kafka.topic_bytes(topic) // events - 10
                ours.append(events / took)
                theirs.append(kafka.perf_test(f"perf-{topic}", events, size, compression))
                ratios.append(ours[-1] / theirs[-1])
                say(f"  {compression}: route {ours[-1]:>9,.0f} events/s   producer-perf-test {theirs[-1]:>9,.0f} records/s"
                    f"   {events:,} of {size} bytes")
                server.start(BARE + keep_all)
            ratio = statistics.median(ratios)
            row(f"journal → Kafka, compression {compression}", "≥ 0.8 of kafka-producer-perf-test",
                f"{ratio:.2f}  ({statistics.median(ours):,.0f} / {statistics.median(theirs):,.0f} records/s)", ratio >= 0.8)


def bench_parquet(options):
    """journal to Parquet in a folder, on one core, against DuckDB writing the same rows with one thread"""
    seconds = 2 if options.quick else 5
    keep_all = "journal: { embedded: { retain: { bytes: 64GiB } } }\n"
    python = subprocess.run([ROOT / "scripts/python-env"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    reference = ROOT / "rust/telemetryx-ingestion/benches/parquet_reference.py"
    with Server("service", BARE + keep_all) as server:
        show_run("filling the journal", server.load("--rate", 0, "--connections", 64, "--batch", 100,
                                                    "--duration", f"{seconds}s"))
        accepted = server.ledger()["accepted"]
        server.core = 0
        ours, plain, counts = [], [], []
        for turn in range(options.pairs):
            # A route begins at the oldest event of the journal as often as it has a new name.
            name, folder = f"run{turn}", server.dir / f"run{turn}"
            folder.mkdir()
            server.terminate()
            server.start(f"routes: [ {{ name: {name}, sink: {{ kind: parquet, url: 'file://{folder}' }} }} ]\n{keep_all}")
            begun, taken = time.monotonic(), f'route_delivered_events_total{{route="{name}"}} {accepted}'
            while taken not in server.get("/metrics")[1].decode() and time.monotonic() - begun < 300:
                time.sleep(0.02)
            memory = server.memory()["VmHWM"]
            # It writes what it keeps, and ends.
            server.terminate()
            ours.append(accepted / (time.monotonic() - begun))
            done = subprocess.run([python, reference, folder, server.dir / "reference"], check=True, stdout=subprocess.PIPE,
                                  text=True)
            rows, took = done.stdout.split()
            counts.append(int(rows))
            plain.append(int(rows) / float(took))
            size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
            shutil.rmtree(folder)
            say(f"  route {ours[-1]:>9,.0f} events/s   DuckDB {plain[-1]:>9,.0f} rows/s   {rows} rows, "
                f"{size / int(rows):.0f} bytes each; peak of memory {memory:.0f} MiB")
            server.start(BARE + keep_all)
        rate, exact = statistics.median(ours), set(counts) == {accepted}
        row("journal → Parquet, one core", "≥ 500 k events/s, exact",
            f"{rate:,.0f} events/s  (DuckDB COPY {statistics.median(plain):,.0f}){'' if exact else ', NOT ALL ROWS'}",
            rate >= 500_000 and exact)


@contextlib.contextmanager
def silent_brain():
    """A brain in Python that only acknowledges; the Python, and its port."""
    made = subprocess.run([ROOT / "scripts" / "python-env", "brain"], check=True, stdout=subprocess.PIPE, text=True)
    python = Path(made.stdout.strip())
    [port] = harness.free_ports(1)
    folder = SCRATCH / f"brain-{os.getpid()}"
    folder.mkdir()
    module = folder / "silent.py"
    module.write_text("from telemetryx_brain import brain\n\n\n@brain(frame='batch')\ndef acknowledge(batch):\n    pass\n")
    command = [python.with_name("telemetryx-brain"), "--listen", f"127.0.0.1:{port}", "--module", module]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        begun = time.monotonic()
        while "ready on" not in (folder / "log").read_text():
            if process.poll() is not None or time.monotonic() - begun > 60:
                raise RuntimeError(f"the brain does not start: {(folder / 'log').read_text()}")
            time.sleep(0.02)
        yield python, port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def bench_brain(options):
    """journal to a brain in Python that only acknowledges, against a bare grpcio client that sends it the same batches"""
    seconds = 1 if options.quick else 3
    keep_all = "journal: { embedded: { retain: { bytes: 64GiB } } }\n"
    with silent_brain() as (python, port), Server("service", BARE + keep_all) as server:
        show_run("filling the journal", server.load("--rate", 400_000, "--connections", 64, "--batch", 100,
                                                    "--duration", f"{seconds}s"))
        ours, bare = [], []
        for turn in range(options.pairs):
            route = f"{{ name: run{turn}, sink: {{ kind: grpc, url: 'http://127.0.0.1:{port}' }} }}"
            server.terminate()
            begun = time.monotonic()
            server.start(f"routes: [ {route} ]\n{keep_all}")
            while (books := server.ledger()["routes"][f"run{turn}"])["pending"] and time.monotonic() - begun < 180:
                time.sleep(0.02)
            ours.append(books["delivered"] / (time.monotonic() - begun))
            server.terminate()
            cat = subprocess.Popen([BINARY, "--config", server.dir / "config.yaml", "journal", "cat"], stdout=subprocess.PIPE,
                                   env=os.environ | {"TELEMETRYX_DATA_DIR": str(server.dir / "data")})
            done = subprocess.run([python, ROOT / "scripts" / "brain-reference.py", str(port), str(seconds)],
                                  stdin=cat.stdout, capture_output=True, text=True)
            cat.kill()
            cat.wait()
            if done.returncode:
                raise RuntimeError(f"the bare client failed: {done.stderr[-500:]}")
            bare.append(float(done.stdout))
            say(f"  route {ours[-1]:>9,.0f} events/s   bare client {bare[-1]:>9,.0f} events/s   {books['delivered']:,} events")
            server.start(BARE + keep_all)
        rate, ratio = statistics.median(ours), statistics.median(a / b for a, b in zip(ours, bare))
        row("journal → brain that acknowledges", "≥ 100 k events/s",
            f"{rate:,.0f} events/s  ({ratio:.2f} of a bare client's {statistics.median(bare):,.0f})", rate >= 100_000)


def bench_outlets(options):
    """the door at 20 k events/s, and every outlet at once behind it"""
    seconds = 10 if options.quick else 60
    [port] = harness.free_ports(1)
    with (harness.Postgres(port), harness.Redis() as redis, harness.Kafka() as kafka, silent_brain() as (_, brain),
          Server("service", BARE) as server):
        sinks = {
            "stats": "kind: stats",
            "store": "kind: sqlite",
            "postgres": f"kind: postgres, url: 'postgres://postgres@127.0.0.1:{port}/postgres'",
            "redis": f"kind: redis, url: '{redis.url}'",
            "kafka": f"kind: kafka, brokers: '{kafka.address}', topic: outlets",
            "brain": f"kind: grpc, url: 'http://127.0.0.1:{brain}'",
            "parquet": f"kind: parquet, url: 'file://{server.dir}', roll: {{ age: 500ms }}",
        }
        server.terminate()
        server.start("routes: [ " + ", ".join(f"{{ name: {name}, sink: {{ {sink} }} }}" for name, sink in sinks.items()) + " ]\n")
        # Topics and tables are made, Java and Python are warm.
        server.load("--rate", 20_000, "--connections", 64, "--batch", 20, "--duration", "5s")
        process, busy, began = server.load_process("--rate", 20_000, "--connections", 64, "--batch", 20,
                                                   "--duration", f"{seconds}s"), busy_seconds(), time.monotonic()
        behind = dict.fromkeys(sinks, 0.0)
        while process.poll() is None:
            for line in server.get("/metrics")[1].decode().splitlines():
                if line.startswith("route_lag_seconds{"):
                    name = line.split('"')[1]
                    behind[name] = max(behind[name], float(line.rsplit(" ", 1)[1]))
            time.sleep(0.25)
        report, memory = json.loads(process.communicate()[0].strip().splitlines()[-1]), server.memory()
        machine = (busy_seconds() - busy) / (time.monotonic() - began)
        show_run("all outlets", report)
        say("  " + "  ".join(f"{name} {seconds:.2f} s" for name, seconds in behind.items())
            + f"   CPU of the machine {machine:.0%}")
        ended = time.monotonic()
        while any(server.pending().values()) and time.monotonic() - ended < 60:
            time.sleep(0.05)
        left = sum(server.pending().values())
    slowest = max(behind, key=behind.get)
    row("all outlets, 20 k events/s: the slowest behind", "≤ 1 s", f"{behind[slowest]:.2f} s ({slowest})", behind[slowest] <= 1)
    row("… the door's p99", "≤ 10 ms", f"{report['latency_ms']['p99']:.2f} ms", report["latency_ms"]["p99"] <= 10)
    row("… memory", "≤ 250 MiB", f"{memory['VmHWM']:.0f} MiB", memory["VmHWM"] <= 250)
    row("… events left after a minute", "0", f"{left:,}", left == 0)
