"""A fleet and its servers, as one journal or another needs them, and as a soak needs them: with a network and clocks."""

import contextlib

import harness
from fleet_counts import TOPIC, say
from fleet_senders import WEBHOOK_KEY
from network import Network

MIB = harness.MIB
ROLES = {"ingest-1": "ingest, query", "ingest-2": "ingest, query", "deliver-1": "deliver, query", "deliver-2": "deliver, query"}
SPARE = "deliver-3"
# So small in a soak that they act while it runs; and so large that what waits for delivery fits in.
KAFKA_KEEPS = ("log.retention.bytes=1572864", "log.segment.bytes=1048576", "log.retention.check.interval.ms=1000",
               "log.segment.delete.delay.ms=1000", "log.index.size.max.bytes=65536", "group.min.session.timeout.ms=1000")
POSTGRES_KEEPS = ("max_wal_size=128MB", "min_wal_size=80MB", "wal_recycle=off", "checkpoint_timeout=30s")
REDIS_KEEPS = ("--auto-aof-rewrite-min-size", "1mb")
POSTGRES_JOURNAL_KEEPS = "piece_size: 4MiB, retain: { bytes: 16MiB }"
EMBEDDED_KEEPS = "segment_size: 4MiB, retain: { bytes: 32MiB }"


class Fleet:
    """Everything that runs, until the stack is unwound. `forgets`: the journal is so small that its oldest events go."""

    def __init__(self, options, binary, stack):
        self.options, self.binary, self.stack, self.forgets = options, binary, stack, bool(options.soak)
        # Beyond it a process that does not answer has lost what it read.
        self.session = 0.6 * options.fault_every
        self.network = stack.enter_context(Network()) if options.soak else None
        self.yesterday = self.clock("load")
        if self.yesterday:
            self.yesterday.set(-24)
        self.ways, self.addresses = [], {}
        roles = {"all": None} if options.engine == "embedded" else ROLES
        names = [*roles, SPARE] if options.soak and options.engine != "embedded" else list(roles)
        self.start_servers(names)
        self.servers = [self.process(name, role) for name, role in roles.items()]
        for server in self.servers:
            stack.enter_context(server)
            say(f"{server.name} is there: http://127.0.0.1:{server.port}")
        self.spare = self.process(SPARE, ROLES["deliver-1"]) if SPARE in names else None
        if self.spare:
            stack.callback(self.spare.__exit__)
        self.doors = [server for server in self.servers if not server.name.startswith("deliver")]

    def running(self):
        """The processes that are there."""
        return [server for server in [*self.servers, *([self.spare] if self.spare else [])] if server.is_there()]

    def explain(self, _kind, error, _trace):
        """The end of each log, if it ends with an error."""
        for server in self.servers if error else []:
            lines = (server.dir / "log").read_text(errors="replace").splitlines()
            told = [line[:400] for line in lines if '"level":"INFO"' not in line and "CONFWARN" not in line]
            say(f"the last that {server.name} complained of:\n  " + "\n  ".join(told[-6:]))

    def clock(self, name):
        """A clock of its own for each, in a soak."""
        if not self.options.soak:
            return None
        clock = harness.Clock(name)
        self.stack.callback(clock.remove)
        return clock

    def start_servers(self, names):
        soak, [port] = self.options.soak, harness.free_ports(1)
        self.postgres = harness.Postgres(port, "max_connections=300", *(POSTGRES_KEEPS if soak else ()),
                                         clock=self.clock("postgres"))
        self.redis = harness.Redis("always", *(REDIS_KEEPS if soak else ()), clock=self.clock("redis"))
        self.kafka = None
        if self.options.engine == "kafka":
            self.kafka = harness.Kafka(*(KAFKA_KEEPS if soak else ()), clock=self.clock("kafka"))
        ports = harness.free_ports(len(names))
        for name, port in zip(names, ports):
            self.addresses[name] = {"PostgreSQL": self.way(name, "PostgreSQL", self.postgres.port),
                                    "Redis": self.way(name, "Redis", self.redis.port)}
            if self.kafka:
                # A listener for each, since a broker names one address to all who come to the same one.
                self.addresses[name]["Kafka"] = self.way(name, "Kafka", port if soak else self.kafka.port)
                if soak:
                    self.kafka.listeners[name] = (port, self.addresses[name]["Kafka"])
        for server in filter(None, (self.postgres, self.redis, self.kafka)):
            self.stack.enter_context(server)
        if self.options.engine == "postgres":
            self.postgres.sql("CREATE DATABASE journal")

    def way(self, name, server, port):
        """The port by which a process comes to a server."""
        if not self.network:
            return port
        if name != SPARE:
            self.ways.append(f"{name} to {server}")
        return self.network.open(f"{name} to {server}", port)

    def process(self, name, role):
        config = (f"roles: [{role}]\n" if role else "") + self.config(self.addresses[name])
        return harness.Server("service", config, binary=self.binary, name=name, clock=self.clock(name))

    def config(self, ports):
        """The settings of a process that comes to its servers by these ports."""
        soak, store = self.options.soak, f"postgres://postgres@127.0.0.1:{ports['PostgreSQL']}"
        if self.options.engine == "kafka":
            options = (f", delivery_timeout: 5s, options: {{ session.timeout.ms: {int(self.session * 1000)}, "
                       f"heartbeat.interval.ms: {int(self.session * 200)} }}" if soak else "")
            journal = (f"engine: kafka, kafka: {{ brokers: '127.0.0.1:{ports['Kafka']}', topic: {TOPIC}, partitions: 12"
                       f"{options} }}")
        elif self.options.engine == "postgres":
            keeps = f", {POSTGRES_JOURNAL_KEEPS}, lease: {int(self.session * 1000)}ms" if soak else ""
            journal = f"engine: postgres, postgres: {{ url: '{store}/journal', max_backlog: 10000000{keeps} }}"
        else:
            journal = f"engine: embedded, embedded: {{ {EMBEDDED_KEEPS if soak else ''} }}"
        timeout = ", timeout: 3s" if soak else ""
        patience = "retry: { initial: 50ms, max: 1s }, breaker: { failures: 5, open_for: 500ms }"
        return f"""journal: {{ {journal} }}
otlp: {{ enabled: false }}
webhooks: {{ github: {{ keys: ["{WEBHOOK_KEY}"] }} }}
routes:
  - {{ name: store, sink: {{ kind: postgres, url: '{store}/postgres'{timeout} }}, {patience} }}
  - {{ name: counters, sink: {{ kind: redis, url: 'redis://127.0.0.1:{ports['Redis']}'{timeout} }}, {patience} }}
query: {{ events_from: store, counters_from: counters }}
"""

    def gauges(self):
        """What is looked at again and again, in MiB."""
        gauges = {}
        for server in [*self.servers, *([self.spare] if self.spare else [])]:
            gauges[server.name] = lambda server=server: server.memory()["VmRSS"]
        for server in self.servers:
            gauges[f"{server.name} disk"] = lambda server=server: disk(server.dir / "data")
        gauges["logs"] = lambda: sum((server.dir / "log").stat().st_size for server in self.servers) / MIB
        if self.kafka:
            gauges["topic"] = lambda: sum(disk(part) for part in (self.kafka.dir / "data").glob(f"{TOPIC}-*"))
            gauges["control"] = lambda: disk(self.kafka.dir / "data" / f"{TOPIC}.control-0")
        gauges["Redis disk"] = lambda: disk(self.redis.dir)
        gauges["WAL"] = lambda: disk(self.postgres.dir / "data" / "pg_wal")
        if self.options.engine == "postgres":
            gauges["queue"] = lambda: self.postgres.size("journal")
        # What is stored stays: it grows with every event, and is there to compare.
        gauges["store"] = lambda: self.postgres.size("postgres")
        return gauges

    def most(self):
        """Of each gauge that must be flat, what it must never exceed."""
        most = {server.name: 128 for server in self.servers}
        most |= {f"{server.name} disk": 64 for server in self.servers}
        most |= {"Redis disk": 32, "WAL": 512}
        if self.kafka:
            most |= {"topic": 12 * (1.5 + 2 * 1), "control": 32}
        if self.options.engine == "postgres":
            most |= {"queue": 64}
        return most


def disk(directory):
    """What the files in a directory take, in MiB."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):  # It may be gone by now.
            total += path.lstat().st_blocks * 512
    return total / MIB
