"""What the scripts share: the service as a child process, the load generator, and the questions asked of the service."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = TARGET / "release" / "telemetryx"
REFERENCE = TARGET / "release" / "examples" / "reference"
SCRATCH = TARGET / "bench"
MIB, GIB = 1 << 20, 1 << 30

# Listeners besides that of HTTP, by protocol, and the setting that says their port.
LISTENERS = {"tcp": "TELEMETRYX_TCP__PORT", "otlp-http": "TELEMETRYX_OTLP__HTTP_PORT", "otlp-grpc": "TELEMETRYX_OTLP__GRPC_PORT"}
# What `telemetryx load` speaks. Notifications of Ring go to the port of HTTP.
PROTOCOLS = ("http", "ring", *LISTENERS)


def free_ports(count):
    """All taken before the first is given back, so that they differ."""
    with contextlib.ExitStack() as taken:
        socks = [taken.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


class Server:
    """The service or the reference, in a fresh directory. Killed, and its directory removed, at the end of the block."""

    def __init__(self, kind, config="", keep=None, binary=BINARY, core=None, name=None):
        self.kind, self.config, self.binary, self.core = kind, config, binary, core
        self.name = name or kind
        self.port, *others = free_ports(1 + len(LISTENERS))
        self.listeners = dict(zip(LISTENERS, others))
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self.dir = keep or SCRATCH / f"{self.name}-{os.getpid()}-{time.monotonic_ns()}"
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, config=None):
        """Starts it and returns the seconds until it answered."""
        self.config = self.config if config is None else config
        self.dir.mkdir(parents=True, exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TELEMETRYX_", "OTEL_"))}
        if self.kind == "service":
            env |= {"TELEMETRYX_DATA_DIR": str(self.dir / "data"), "TELEMETRYX_HTTP__PORT": str(self.port)}
            env |= {LISTENERS[protocol]: str(port) for protocol, port in self.listeners.items()}
            (self.dir / "config.yaml").write_text(self.config or "{}\n")
            command = [self.binary, "--config", self.dir / "config.yaml", "serve"]
        else:
            command = [REFERENCE, str(self.port), self.dir] + (["--null"] if self.kind == "null" else [])
        if self.core is not None:
            command = ["taskset", "--cpu-list", str(self.core), *command]
        begun = time.monotonic()
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=self.dir)
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/healthz")[0] == 200:
                    return time.monotonic() - begun
            if self.process.poll() is not None:
                tail = (self.dir / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} ended at its start, code {self.process.returncode}:\n{tail}")
            if time.monotonic() - begun > 120:
                raise RuntimeError(f"{self.name} was not ready within 120 s")
            time.sleep(0.001)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()
        self.process = None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ledger(self):
        status, body = self.get("/ledger")
        if status != 200:
            raise RuntimeError(f"/ledger answered {status}: {body[:200]}")
        return json.loads(body)

    def pending(self):
        return {name: books["pending"] for name, books in self.ledger()["routes"].items()}

    def memory(self):
        """VmRSS, VmHWM, RssAnon in MiB."""
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def disk_bytes(self):
        return sum(p.stat().st_blocks * 512 for p in self.dir.rglob("*") if p.is_file())

    def load_process(self, *arguments, protocol="http", niceness=0):
        """Starts the load generator."""
        url = f"http://127.0.0.1:{self.listeners.get(protocol, self.port)}"
        command = ["nice", "-n", str(niceness), self.binary, "load", "--url", url, "--protocol", protocol, "--json"]
        command += map(str, arguments)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Postgres:
    """A PostgreSQL server of one's own in a fresh directory, with settings as one that has a machine to itself. Ended, and
    its directory removed, at the end of the block. The superuser `postgres` needs no password from this machine."""

    def __init__(self, port, *settings):
        self.settings = settings
        found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
        if not found:
            raise RuntimeError("PostgreSQL is not installed: run scripts/install-servers")
        self.binaries = max(found, key=lambda path: int(path.parent.name))
        self.port, self.process = port, None
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self.dir = SCRATCH / f"postgres-{os.getpid()}-{time.monotonic_ns()}"

    def command(self, name, *arguments):
        """The server refuses to run as root."""
        become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        return [*become, self.binaries / name, *map(str, arguments)]

    def __enter__(self):
        self.dir.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.dir, "postgres", "postgres")
        subprocess.run(self.command("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D",
                                    self.dir / "data"), check=True, stdout=subprocess.DEVNULL, cwd=self.dir)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        """Starts it, again where it was, and waits until it takes connections."""
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=/tmp",
                    "shared_buffers=256MB", "max_wal_size=4GB", *self.settings]
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.command("postgres", "-D", self.dir / "data", *(word for setting in settings for word in ("-c", setting))),
                stdout=log, stderr=log, cwd=self.dir)
        begun = time.monotonic()
        while subprocess.run(self.command("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port)).returncode:
            if self.process.poll() is not None or time.monotonic() - begun > 60:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)

    def kill(self):
        """Ends it as if the power failed: nothing is finished or written out."""
        subprocess.run(self.command("pg_ctl", "-D", self.dir / "data", "-m", "immediate", "-w", "stop"),
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def url(self, database="postgres"):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def sql(self, *statements):
        """Runs each as the superuser; the rows of all as text."""
        each = [word for statement in statements for word in ("-c", statement)]
        done = subprocess.run(self.command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", self.port,
                                           "-U", "postgres", *each), stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

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


class Kafka:
    """An Apache Kafka of one's own in a fresh directory: one broker, topics of 12 partitions. Killed, and its directory
    removed, at the end of the block."""

    def __init__(self):
        self.tools, self.process = TARGET / "tools" / "kafka", None
        if not (self.tools / "pom.xml").exists():
            raise RuntimeError("Kafka is not installed: run scripts/install-servers")
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self.dir = SCRATCH / f"kafka-{os.getpid()}-{time.monotonic_ns()}"
        self.port, self.controller_port = free_ports(2)
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self):
        shutil.copytree(self.tools / "formatted", self.dir / "data")
        settings = ["process.roles=broker,controller", "node.id=1", f"log.dirs={self.dir / 'data'}", "num.partitions=12",
                    f"controller.quorum.voters=1@127.0.0.1:{self.controller_port}", "controller.listener.names=CONTROLLER",
                    f"listeners=PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self.controller_port}",
                    "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                    "offsets.topic.replication.factor=1", "group.initial.rebalance.delay.ms=0",
                    "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
                    # A killed broker is refused until its session ends.
                    "broker.session.timeout.ms=1500", "broker.heartbeat.interval.ms=300"]
        (self.dir / "properties").write_text("\n".join(settings))
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        """Starts it, again where it was, and waits until it says that it is there."""
        with open(self.dir / "log", "wb") as log:
            self.process = subprocess.Popen(["java", "-Xmx1g", "-cp", self.tools / "libs" / "*", "kafka.Kafka",
                                             self.dir / "properties"], stdout=log, stderr=log)
        begun = time.monotonic()
        while "Kafka Server started" not in (self.dir / "log").read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() - begun > 60:
                raise RuntimeError("Kafka did not start")
            time.sleep(0.05)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def tool(self, name, *arguments):
        """What one of Kafka's own tools says."""
        done = subprocess.run(["java", "-Xmx512m", "-cp", self.tools / "libs" / "*", f"org.apache.kafka.tools.{name}",
                               "--bootstrap-server", self.address, *map(str, arguments)],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
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


class Redis:
    """A Redis of one's own in a fresh directory. Killed, and its directory removed, at the end of the block. `fsync`: when
    what it has answered is on disk, `everysec` or `always`."""

    def __init__(self, fsync="everysec"):
        [self.port] = free_ports(1)
        self.fsync, self.process = fsync, None
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self.dir = SCRATCH / f"redis-{os.getpid()}-{time.monotonic_ns()}"
        self.url = f"redis://127.0.0.1:{self.port}"

    def __enter__(self):
        self.dir.mkdir()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        """Starts it, again where it was, and waits until it answers."""
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.dir, "--save", "", "--appendonly",
             "yes", "--appendfsync", self.fsync, "--logfile", "log"], stdout=subprocess.DEVNULL)
        begun = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                if self.ask("PING") == "PONG":
                    return
            if self.process.poll() is not None or time.monotonic() - begun > 20:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.01)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def ask(self, *words):
        """The answer to one command: text, or a list of it; `None` if there is nothing."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock, sock.makefile("rb") as lines:
            each = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
            sock.sendall(b"*%d\r\n%s" % (len(words), each))
            return self.answer(lines)

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
