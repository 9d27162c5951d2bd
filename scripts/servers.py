"""PostgreSQL, Kafka and Redis as scripts/install-servers has installed them, as child processes."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from processes import TARGET, Child, free_ports


def children(parent):
    """The ids of the processes that this one has started."""
    with contextlib.suppress(OSError):
        return {int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}
    return set()


class Postgres(Child):
    """A PostgreSQL server with settings as one that has a machine to itself. The superuser `postgres` needs no password from
    this machine."""

    def __init__(self, port, *settings, clock=None):
        super().__init__("postgres", clock=clock)
        self.settings = settings
        found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
        if not found:
            raise RuntimeError("PostgreSQL is not installed: run scripts/install-servers")
        self.binaries = max(found, key=lambda path: int(path.parent.name))
        self.port = port

    def command(self, name, *arguments):
        """The server refuses to run as root."""
        become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        return [*become, self.binaries / name, *map(str, arguments)]

    def prepare(self):
        super().prepare()
        if os.geteuid() == 0:
            shutil.chown(self.dir, "postgres", "postgres")
        subprocess.run(self.command("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D",
                                    self.dir / "data"), check=True, stdout=subprocess.DEVNULL, cwd=self.dir)

    def start(self):
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=/tmp",
                    "shared_buffers=256MB", "max_wal_size=4GB", *self.settings]
        become = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        with open(self.dir / "log", "ab") as log:
            # Not under `runuser`, which stops with it and does not always go on with it.
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.dir / "data", *(word for setting in settings for word in ("-c", setting))],
                stdout=log, stderr=log, cwd=self.dir, env=self.environment(), **become)
        begun = time.monotonic()
        while subprocess.run(self.command("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port)).returncode:
            if self.process.poll() is not None or time.monotonic() - begun > 60:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)

    def kill(self):
        self.stop("immediate")

    def terminate(self):
        self.stop("fast")

    def stop(self, how):
        subprocess.run(self.command("pg_ctl", "-D", self.dir / "data", "-m", how, "-w", "stop"),
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.process = None

    def processes(self):
        """The server's own, and one a connection."""
        return [process for own in super().processes() for process in (own, *children(own))]

    def url(self, database="postgres"):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def sql(self, *statements):
        """Runs each as the superuser; the rows of all as text."""
        each = [word for statement in statements for word in ("-c", statement)]
        done = subprocess.run(self.command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", self.port,
                                           "-U", "postgres", *each), stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    def now(self):
        """Its wall clock, in seconds since 1970."""
        return float(self.sql("SELECT extract(epoch FROM clock_timestamp())"))

    def size(self, database):
        """What a database takes, in MiB."""
        asked = self.command("psql", "-XAtq", "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", "-c",
                             f"SELECT pg_database_size('{database}')")
        return int(subprocess.run(asked, capture_output=True, check=True, timeout=5).stdout) / (1 << 20)

    def copy_again(self, schema):
        """Copies the rows of `events` in this schema into a new table with the same key, indexes and partitions, in the
        order in which they came, from a file in the form of COPY. The seconds that the COPY took."""
        rows, again = self.dir / "rows", "again"
        columns = "id, ts, type, source, schema_version, partition_key, attributes, payload, received_at"
        parts = self.sql(f"SELECT inhrelid::regclass, pg_get_expr(relpartbound, inhrelid) FROM pg_inherits "
                         f"JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = '{schema}.events'::regclass")
        make = [f"CREATE TABLE {again}.events (LIKE {schema}.events INCLUDING ALL) PARTITION BY RANGE (ts)"]
        for part in parts.splitlines():
            name, bound = part.split("|")
            make.append(f"CREATE TABLE {again}.{name.split('.')[1]} PARTITION OF {again}.events {bound}")
        self.sql(f"DROP SCHEMA IF EXISTS {again} CASCADE", f"CREATE SCHEMA {again}", *make,
                 f"COPY (SELECT {columns} FROM {schema}.events) TO '{rows}' (FORMAT binary)", "CHECKPOINT")
        begun = time.monotonic()
        self.sql(f"COPY {again}.events ({columns}) FROM '{rows}' (FORMAT binary)")
        took = time.monotonic() - begun
        self.sql(f"DROP SCHEMA {again} CASCADE")
        rows.unlink()
        return took


class Kafka(Child):
    """An Apache Kafka: one broker, topics of 12 partitions. `settings` are added to its properties, and win. `light`: a Java
    that starts soon, and is not the fastest later."""

    def __init__(self, *settings, clock=None, light=False):
        super().__init__("kafka", clock=clock)
        self.settings, self.tools = settings, TARGET / "tools" / "kafka"
        self.soon = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
                     f"-XX:SharedArchiveFile={self.tools / 'classes.jsa'}", "-cp", self.tools / "libs" / "*"]
        self.java = ["java", "-Xmx512m", *self.soon] if light else ["java", "-Xmx1g", "-cp", self.tools / "libs" / "*"]
        # Further places for clients, by name: where it listens, and where it says that it does.
        self.listeners = {}
        if not (self.tools / "pom.xml").exists():
            raise RuntimeError("Kafka is not installed: run scripts/install-servers")
        self.port, self.controller_port = free_ports(2)
        self.address = f"127.0.0.1:{self.port}"

    def prepare(self):
        shutil.copytree(self.tools / "formatted", self.dir / "data")

    def properties(self):
        more = {f"CLIENT{number}": ports for number, ports in enumerate(self.listeners.values())}
        listeners = "".join(f",{name}://127.0.0.1:{port}" for name, (port, _) in more.items())
        advertised = "".join(f",{name}://127.0.0.1:{port}" for name, (_, port) in more.items())
        plain = "".join(f",{name}:PLAINTEXT" for name in more)
        return ["process.roles=broker,controller", "node.id=1", f"log.dirs={self.dir / 'data'}", "num.partitions=12",
                f"controller.quorum.voters=1@127.0.0.1:{self.controller_port}", "controller.listener.names=CONTROLLER",
                f"listeners=PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self.controller_port}{listeners}",
                f"advertised.listeners=PLAINTEXT://{self.address}{advertised}",
                f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{plain}",
                "inter.broker.listener.name=PLAINTEXT",
                "offsets.topic.replication.factor=1", "group.initial.rebalance.delay.ms=0",
                "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
                # A killed broker is refused until its session ends.
                "broker.session.timeout.ms=1500", "broker.heartbeat.interval.ms=300", *self.settings]

    def start(self):
        (self.dir / "properties").write_text("\n".join(self.properties()))
        with open(self.dir / "log", "wb") as log:
            self.process = subprocess.Popen([*self.java, "kafka.Kafka", self.dir / "properties"], stdout=log, stderr=log,
                                            env=self.environment())
        begun = time.monotonic()
        while "Kafka Server started" not in (self.dir / "log").read_text(errors="replace"):
            # Java takes its time where everything else is busy as well.
            if self.process.poll() is not None or time.monotonic() - begun > 180:
                raise RuntimeError("Kafka did not start")
            time.sleep(0.05)

    def tool(self, name, *arguments):
        """What one of Kafka's own tools says."""
        command = ["java", "-Xmx512m", *self.soon, f"org.apache.kafka.tools.{name}", "--bootstrap-server", self.address]
        done = subprocess.run([*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return done.stdout.decode(errors="replace")

    def end_offsets(self, topic):
        """The offset behind the newest message of each partition."""
        lines = self.tool("GetOffsetShell", "--topic", topic).split()
        return {int(partition): int(offset) for _, partition, offset in (line.rsplit(":", 2) for line in lines)}

    def headers(self, topic):
        """The headers of every message, partition by partition in order."""
        prints = ["print.headers=true", "print.partition=true", "print.offset=true", "print.value=false", "headers.separator=\x01"]
        given = [word for line in prints for word in ("--formatter-property", line)]
        out = self.tool("consumer.ConsoleConsumer", "--topic", topic, "--from-beginning", "--timeout-ms", 5000, *given)
        found = []
        for line in out.splitlines():
            if line.startswith("Partition:"):
                partition, offset, headers = line.split("\t", 2)
                named = dict(pair.split(":", 1) for pair in headers.split("\x01") if ":" in pair)
                found.append((int(partition.split(":")[1]), int(offset.split(":")[1]), named))
        return [named for _, _, named in sorted(found, key=lambda message: message[:2])]

    def topic_bytes(self, topic):
        return sum(file.stat().st_size for file in (self.dir / "data").glob(f"{topic}-*/*.log"))

    def perf_test(self, topic, records, size, compression):
        """Records a second that Kafka's own tool sends: so many, so large, lines of JSON as events are."""
        lines = self.dir / "lines"
        with open(lines, "w") as out:
            for number in range(10_000):
                head = (f'{{"id":"run-{number:012}","ts":"2026-11-21T08:41:15.{number % 1000:03}Z","type":"type-{number % 5:04}",'
                        f'"source":"source-{number % 1000:06}","payload":{{"temperature":21.5,"unit":"C","note":"')
                out.write(head.ljust(size - 3, "x") + '"}}\n')
        done = subprocess.run(
            ["java", "-Xmx512m", "-cp", self.tools / "libs" / "*", "org.apache.kafka.tools.ProducerPerformance",
             "--bootstrap-server", self.address, "--topic", topic, "--num-records", str(records), "--throughput", "-1",
             "--payload-file", lines, "--command-property", "acks=all", "enable.idempotence=true",
             f"compression.type={compression}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        last = [line for line in done.stdout.splitlines() if "records sent" in line][-1]
        return float(last.split(" records/sec")[0].split()[-1])


class Redis(Child):
    """A Redis. `fsync`: when what it has answered is on disk, `everysec` or `always`; more settings as `--name value`."""

    def __init__(self, fsync="everysec", *settings, clock=None):
        super().__init__("redis", clock=clock)
        [self.port] = free_ports(1)
        self.settings = ["--appendfsync", fsync, *settings]
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.dir, "--save", "", "--appendonly",
             "yes", "--logfile", "log", *self.settings], stdout=subprocess.DEVNULL, env=self.environment())
        begun = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                if self.ask("PING") == "PONG":
                    return
            if self.process.poll() is not None or time.monotonic() - begun > 20:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.01)

    def ask(self, *words):
        """The answer to one command: text, or a list of it; `None` if there is nothing."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock, sock.makefile("rb") as lines:
            each = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
            sock.sendall(b"*%d\r\n%s" % (len(words), each))
            return self.answer(lines)

    def now(self):
        """Its wall clock, in seconds since 1970."""
        return int(self.ask("TIME")[0])

    def answer(self, lines):
        line = lines.readline().decode().rstrip("\r\n")
        kind, rest = line[:1], line[1:]
        if kind == "$" and int(rest) >= 0:
            return lines.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == "*" and int(rest) >= 0:
            return [self.answer(lines) for _ in range(int(rest))]
        if kind in ("$", "*"):
            return None
        if kind in ("+", ":"):
            return rest
        raise OSError(f"Redis says {line!r}")
