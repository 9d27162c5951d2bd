"""What all child processes of the scripts have in common, and a wall clock that can be set under one of them."""

import contextlib
import os
import shutil
import signal
import socket
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
SCRATCH = TARGET / "bench"


def free_ports(count):
    """All taken before the first is given back, so that they differ."""
    with contextlib.ExitStack() as taken:
        socks = [taken.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


def scratch(name):
    """A directory that nobody else has; not made yet."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    return SCRATCH / f"{name}-{os.getpid()}-{time.monotonic_ns()}"


class Clock:
    """The wall clock of a process that is started with its `environment`: the machine's until it is set. The clock that
    measures how long things take is never touched. See rust/telemetryx-testkit/clock/clock.c."""

    def __init__(self, name):
        self.file, self.library, self.hours = scratch(f"clock-{name}"), TARGET / "tools" / "clock.so", 0.0
        if not self.library.exists():
            raise RuntimeError("the clock is not built: run scripts/install-servers")
        self.file.touch()
        self.set(0)

    @property
    def environment(self):
        return {"LD_PRELOAD": str(self.library.resolve()), "CLOCK_OFFSET_FILE": str(self.file.resolve())}

    def set(self, hours):
        """So far ahead of the machine's from now on, or behind it."""
        self.hours = hours
        with open(self.file, "r+b") as file:
            file.write(int(hours * 3600 * 10**9).to_bytes(8, "little", signed=True))

    def remove(self):
        self.file.unlink(missing_ok=True)


class Child:
    """A process of one's own in a fresh directory. Killed, and its directory removed, at the end of the block.

    Whoever is one says how to `start` it, again where it was, and that waits until it answers."""

    def __init__(self, name, directory=None, clock=None):
        self.name, self.process, self.clock = name, None, clock
        self.dir = directory or scratch(name)

    def __enter__(self):
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def prepare(self):
        """What must be there before its first start."""
        self.dir.mkdir(parents=True, exist_ok=True)

    def start(self):
        raise NotImplementedError

    def environment(self):
        return os.environ | (self.clock.environment if self.clock else {})

    def is_there(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """As if the power failed: nothing is finished or written out."""
        if self.is_there():
            self.process.kill()
        if self.process:
            self.process.wait()
        self.process = None

    def terminate(self):
        """Ends it in order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process = None

    def hang(self, on):
        """Stops it where it is, or lets it go on: its connections stay."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP if on else signal.SIGCONT)

    def processes(self):
        """The ids of all that belong to it."""
        return [self.process.pid] if self.process else []

    def memory(self):
        """VmRSS, VmHWM, RssAnon in MiB."""
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}

    def disk_bytes(self, pattern="*"):
        """What its files take, of those that match."""
        total = 0
        for path in self.dir.rglob(pattern):
            with contextlib.suppress(OSError):  # It may be gone by now.
                total += path.lstat().st_blocks * 512
        return total
