"""What the drills share: servers whose log, metrics and answers are looked at, and the words that a drill is made of.

Whatever a drill looks for is looked up in the documentation first: a metric, a log line or a command that its page does not
name fails the drill, so that neither can change without the other."""

import contextlib
import http.client
import json
import shlex
import shutil
import subprocess
import time

import harness
from harness import ROOT

# How long anything that must come may take on a busy machine.
PATIENCE_SECONDS = 120
# Routes that try again soon, so that a drill takes seconds.
SOON = "retry: { initial: 50ms, max: 500ms }, breaker: { failures: 5, open_for: 500ms }"
EMBEDDED = f"""otlp: {{ enabled: false }}
tcp: {{ port: 0 }}
routes:
  - {{ name: stats, sink: {{ kind: stats }} }}
  - {{ name: store, sink: {{ kind: sqlite }}, {SOON} }}
"""
DRILLS = {}


class Failed(RuntimeError):
    """What the page promises was not seen."""


def drill(page, entry, quick=False):
    """Registers a drill: of which page and entry, and whether it is among those that CI runs."""
    def register(function):
        function.page, function.entry, function.quick = page, entry, quick
        DRILLS[function.__name__.replace("_", "-")] = function
        return function
    return register


def eventually(what, find, seconds=PATIENCE_SECONDS):
    """What `find` finds once it finds something; its errors are patience."""
    begun, error = time.monotonic(), None
    while time.monotonic() - begun < seconds:
        try:
            if found := find():
                return found
        except (OSError, http.client.HTTPException, ValueError, LookupError, RuntimeError) as this:
            error = this
        time.sleep(0.05)
    raise Failed(f"not within {seconds} s: {what}" + (f" ({error})" if error else ""))


class Service(harness.Server):
    """A process of TelemetryX as an operator and a client see it."""

    def __init__(self, config, binary, name="service", environment=None):
        super().__init__("service", config, binary=binary, name=name, environment=environment)

    def ask(self, path, body=None, headers=None, method=None):
        """Status and text of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            given = {"Content-Type": "application/json"} | (headers or {})
            connection.request(method or ("POST" if body is not None else "GET"), path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def json(self, path):
        status, text = self.ask(path)
        if status not in (200, 503):
            raise RuntimeError(f"{path} answered {status}: {text[:200]}")
        return json.loads(text)

    def send(self, *events, **headers):
        """One request; the status and the answer."""
        events = [{"ts": "2026-01-01T00:00:00Z", "type": "Order", "source": "drill"} | event for event in events]
        status, text = self.ask("/ingest", json.dumps(events), {name.replace("_", "-"): value for name, value in headers.items()})
        return status, json.loads(text)

    def accept(self, prefix, count):
        """Sends so many events, in requests of a hundred at most, until each is taken."""
        ids = [f"{prefix}-{number}" for number in range(count)]
        for first in range(0, count, 100):
            events = [{"id": name, "partition_key": name, "payload": {"total": 1}} for name in ids[first:first + 100]]
            eventually("events are taken", lambda events=events: self.send(*events)[0] == 202)
        return ids

    def lines(self):
        """The log, line by line; what is no JSON is left out."""
        for line in (self.dir / "log").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                yield line, json.loads(line)

    def command(self, *arguments):
        """`telemetryx` as an operator types it, with this config; its exit code and what it says."""
        command = [self.binary, "--config", self.dir / "config.yaml", *map(str, arguments)]
        done = subprocess.run(command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              cwd=self.dir, timeout=120)
        return done.returncode, done.stdout

    def terminate(self):
        """Ends it in order, and keeps its exit code."""
        process = self.process
        super().terminate()
        self.exit = process.returncode

    def settled(self):
        """Everything accepted is delivered; its books."""
        def delivered():
            books = self.ledger()
            return None if any(route["pending"] for route in books["routes"].values()) else books
        return eventually(f"all routes of {self.name} have delivered everything", delivered)


class Drill:
    """One run of one entry: what is seen, what is typed, how it is over. All servers end with it."""

    def __init__(self, function, binary, stack):
        self.page = " ".join((ROOT / "docs" / function.page).read_text().split())
        self.binary, self.stack, self.transcript, self.services = binary, stack, [], []
        self.begun = time.monotonic()

    # --- servers ---

    def service(self, config=EMBEDDED, name="service", environment=None):
        service = self.stack.enter_context(Service(config, self.binary, name, environment))
        self.services.append(service)
        return service

    def kafka(self, *settings):
        return self.stack.enter_context(harness.Kafka(*settings, light=True))

    def postgres(self, *settings):
        return self.stack.enter_context(harness.Postgres(harness.free_ports(1)[0], *settings))

    def redis(self):
        return self.stack.enter_context(harness.Redis(fsync="always"))

    def folder(self, name):
        folder = harness.SCRATCH / f"{name}-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    # --- words ---

    def note(self, kind, text):
        lines = str(text).rstrip().splitlines() or [""]
        at = f"{time.monotonic() - self.begun:6.1f}  {kind:<5}"
        self.transcript += [f"{at if not number else ' ' * len(at)}  {line}" for number, line in enumerate(lines)]

    def named(self, words):
        """Fails unless the page has these words."""
        if " ".join(words.split()) not in self.page:
            raise Failed(f"the page does not say `{words}`")

    def last_words(self):
        """Of a drill that failed: the end of each log."""
        for service in self.services:
            self.note("log", f"{service.name}\n" + "\n".join(raw for raw, _ in list(service.lines())[-8:]))

    def did(self, what):
        """What the drill itself does: the trouble, and what no command is needed for."""
        self.note("did", what)

    def answers(self, service, status, code, *events, **headers):
        """Events are answered so, sooner or later."""
        self.named(code)
        events = events or ({},)

        def find():
            found, told = service.send(*events, **headers)
            is_it = found == status and (status == 202 or told["error"]["code"] == code)
            return (found, told) if is_it else None
        found, told = eventually(f"the answer {status} {code}", find)
        self.note("seen", f"{found} {json.dumps(told, separators=(',', ':'))}")
        return told

    def metric(self, service, name, wanted):
        """A reading for which `wanted` holds; `name` with its labels."""
        self.named(name.split("{")[0])

        def find():
            for line in service.ask("/metrics")[1].splitlines():
                if line.startswith(name + " ") and wanted(float(line.rsplit(" ", 1)[1])):
                    return line
            return None
        line = eventually(f"metric {name}", find)
        self.note("seen", line)
        return float(line.rsplit(" ", 1)[1])

    def log(self, service, message, after=0, **fields):
        """A line of the log with this message and at least these fields; a text stands for all that it is a part of."""
        self.named(message)

        def fits(line):
            return line.get("message") == message and all(
                str(value) in str(line.get(name)) for name, value in fields.items())
        raw, line = eventually(f"log of {service.name}: {message}",
                               lambda: [pair for pair in list(service.lines())[after:] if fits(pair[1])][-1:], )[0]
        self.note("seen", f"{service.name}: {raw}" if service.name != "service" else raw)
        return line

    def looks(self, service, path, holds, seconds=PATIENCE_SECONDS):
        """What a path answers once `holds` holds for its JSON."""
        def find():
            status, text = service.ask(path)
            return (status, text) if holds(json.loads(text)) else None
        status, text = eventually(f"{path} of {service.name}", find, seconds)
        self.note("seen", f"{path} {status} {text.strip()}")
        return json.loads(text)

    def types(self, service, *arguments, code=0, says=()):
        """A command of `telemetryx`, its exit code, and words in what it says."""
        arguments = [str(argument) for argument in arguments]
        self.named("telemetryx " + " ".join(word for word in arguments[:2] if not word.startswith("-")))
        found, out = service.command(*arguments)
        self.note("typed", f"$ telemetryx {shlex.join(arguments)}\n{out}")
        wanted = (says,) if isinstance(says, str) else says
        missing = [words for words in wanted if words not in out]
        if found != code or missing:
            raise Failed(f"telemetryx {shlex.join(arguments)}: exit {found}, not {code}, or without {missing}:\n{out[-2000:]}")
        return out

    def shell(self, line, cwd=None, env=None):
        """A line for the shell."""
        done = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=env)
        self.note("typed", f"$ {line}\n{done.stdout}")
        if done.returncode:
            raise Failed(f"{line}: exit {done.returncode}: {done.stdout[-1000:]}")
        return done.stdout

    def over(self, what, find, seconds=PATIENCE_SECONDS):
        begun = time.monotonic()
        found = eventually(what, find, seconds)
        self.note("over", f"{what}, after {time.monotonic() - begun:.1f} s")
        return found

    def holds(self, what, found, wanted):
        """A number that must be so."""
        if found != wanted:
            raise Failed(f"{what}: {found}, not {wanted}")
        self.note("holds", f"{what}: {found}")
