"""What the scripts share: the service as a child process, the load generator, and the questions asked of the service; and
the servers that it needs."""

import contextlib
import http.client
import json
import os
import subprocess
import time
from pathlib import Path

from processes import ROOT, SCRATCH, TARGET, Child, Clock, free_ports  # noqa: F401
from servers import Kafka, Postgres, Redis  # noqa: F401

BINARY = TARGET / "release" / "telemetryx"
REFERENCE = TARGET / "release" / "examples" / "reference"
MIB, GIB = 1 << 20, 1 << 30

# Listeners besides that of HTTP, by protocol, and the setting that says their port.
LISTENERS = {"tcp": "TELEMETRYX_TCP__PORT", "otlp-http": "TELEMETRYX_OTLP__HTTP_PORT", "otlp-grpc": "TELEMETRYX_OTLP__GRPC_PORT"}
# What `telemetryx load` speaks. Notifications of Ring go to the port of HTTP.
PROTOCOLS = ("http", "ring", *LISTENERS)


class Server(Child):
    """The service or the reference."""

    def __init__(self, kind, config="", keep=None, binary=BINARY, core=None, name=None, environment=None, clock=None):
        super().__init__(name or kind, keep, clock)
        self.kind, self.config, self.binary, self.core, self.more = kind, config, binary, core, environment or {}
        self.port, *others = free_ports(1 + len(LISTENERS))
        self.listeners = dict(zip(LISTENERS, others))

    def environment(self):
        """Nothing of ours, its own directory and ports, and what was asked for."""
        env = {k: v for k, v in super().environment().items() if not k.startswith(("TELEMETRYX_", "OTEL_"))}
        if self.kind == "service":
            env |= {"TELEMETRYX_DATA_DIR": str(self.dir / "data"), "TELEMETRYX_HTTP__PORT": str(self.port)}
            env |= {LISTENERS[protocol]: str(port) for protocol, port in self.listeners.items()}
        return env | self.more

    def start(self, config=None):
        """Starts it and returns the seconds until it answered."""
        self.config = self.config if config is None else config
        self.dir.mkdir(parents=True, exist_ok=True)
        if self.kind == "service":
            (self.dir / "config.yaml").write_text(self.config or "{}\n")
            command = [self.binary, "--config", self.dir / "config.yaml", "serve"]
        else:
            command = [REFERENCE, str(self.port), self.dir] + (["--null"] if self.kind == "null" else [])
        if self.core is not None:
            command = ["taskset", "--cpu-list", str(self.core), *command]
        begun = time.monotonic()
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, cwd=self.dir)
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/healthz")[0] == 200:
                    return time.monotonic() - begun
            ended = self.process.poll() is not None
            if ended or time.monotonic() - begun > 120:
                what = f"ended at its start, code {self.process.returncode}" if ended else "was not ready within 120 s"
                tail = (self.dir / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} {what}:\n{tail}")
            time.sleep(0.001)

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

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def load_process(self, *arguments, protocol="http", niceness=0, clock=None):
        """Starts the load generator, which gives events the time of its clock."""
        url = f"http://127.0.0.1:{self.listeners.get(protocol, self.port)}"
        command = ["nice", "-n", str(niceness), self.binary, "load", "--url", url, "--protocol", protocol, "--json"]
        command += map(str, arguments)
        env = os.environ | (clock.environment if clock else {})
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
