"""What happens to a fleet: every part killed in turn, or faults of all kinds at random. All of it follows from a seed."""

import collections
import contextlib
import datetime
import json
import time

from fleet_counts import eventually, say
from network import FINE, HUNG, REFUSED

# What may happen in a soak, each as often as the others.
KINDS = ("kill", "hang", "restart", "cut", "clock", "scale")
HOURS_MAX = 12
Fault = collections.namedtuple("Fault", "kind target length detail", defaults=(None,))


class Part:
    """What can break: a process of the fleet, or a server. `now`: what its wall clock says, in seconds since 1970."""

    def __init__(self, name, process, is_server, now=None):
        self.name, self.process, self.is_server, self.now = name, process, is_server, now
        self.is_there = process.is_there()

    def kill(self):
        self.is_there = False
        self.process.kill()

    def restore(self):
        if not self.is_there:
            self.process.start()
            self.is_there = True

    def restart(self):
        self.is_there = False
        self.process.terminate()
        self.restore()


def process_now(server):
    """What a process takes for the present minute, as it tells its rates."""
    status, body = server.get("/stats/rates?window=1m")
    if status != 200:
        raise RuntimeError(f"{server.name}: /stats/rates answered {status}")
    return datetime.datetime.fromisoformat(json.loads(body)["rates"][0]["minute"]).timestamp()


# --- every part in turn ---


def plan_kills(parts, kills, seconds, chance):
    """What happens and when: every part in turn, in an order of chance, so that none is left out."""
    names = []
    while len(names) < kills:
        names += chance.sample([part.name for part in parts], len(parts))
    each = seconds / max(kills, 1)
    for name in names[:kills]:
        hangs = chance.random() < 0.25
        yield chance.uniform(0.1, 0.5) * each, name, "hangs" if hangs else "is killed", chance.uniform(0.1, 0.5) * each


def kill_parts(parts, steps, senders):
    by_name = {part.name: part for part in parts}
    for pause, name, what, length in steps:
        time.sleep(pause)
        raise_fault(senders)
        part = by_name[name]
        say(f"{name} {what} for {length:.1f} s")
        if what == "hangs":
            part.process.hang(True)
            time.sleep(length)
            part.process.hang(False)
        else:
            part.kill()
            time.sleep(length)
            part.restore()
            say(f"{name} is there again")


def raise_fault(senders):
    if fault := next((sender.fault for sender in senders if sender.fault), None):
        raise fault


# --- faults of all kinds ---


def plan_faults(parts, ways, spare, count, every, session, chance):
    """So many faults. Of each kind there is one before any comes again."""
    kinds = [kind for kind in KINDS if spare or kind != "scale"]
    members, deck = [part.name for part in parts if not part.is_server], []
    for _ in range(count):
        deck = deck or chance.sample(kinds, len(kinds))
        kind, part = deck.pop(), chance.choice(parts)
        short, hours = chance.uniform(0.1, 0.5) * every, chance.uniform(1, HOURS_MAX) * chance.choice((1, -1))
        if kind == "hang" and part.name in members and chance.random() < 0.5:
            # Others have what it read by the time it goes on.
            yield Fault(kind, part.name, 1.3 * session)
        elif kind == "cut":
            yield Fault(kind, chance.choice(ways), short, chance.choice((REFUSED, HUNG)))
        elif kind == "clock":
            yield Fault(kind, chance.choice((part.name, part.name, "all")), 0, hours)
        elif kind == "scale":
            yield Fault(kind, spare.name, 0)
        else:
            yield Fault(kind, part.name, short)


class Breaker:
    """Lets faults happen to parts, of which one, the spare, comes and goes."""

    def __init__(self, parts, network, spare):
        self.parts, self.network, self.spare = {part.name: part for part in parts}, network, spare
        self.happened = collections.Counter()

    def run(self, faults, every, until, senders):
        """A fault as often as that; a longer one delays those after it, and the last of them never come."""
        due = time.monotonic() + every / 2
        for number, fault in enumerate(faults, 1):
            time.sleep(max(0, due - time.monotonic()))
            due = max(due, time.monotonic()) + every
            raise_fault(senders)
            if time.monotonic() > until:
                break
            say(f"fault {number}: {self.describe(fault)}")
            begun = time.monotonic()
            getattr(self, fault.kind)(fault)
            if (took := time.monotonic() - begun) > fault.length + 5:
                say(f"  over after {took:.1f} s")
            self.happened[fault.kind] += 1

    def describe(self, fault):
        how = {"kill": "is killed and away for {0.length:.1f} s", "hang": "is stopped for {0.length:.1f} s",
               "restart": "is ended and started again", "cut": "is {0.detail} for {0.length:.1f} s",
               "clock": "has its clock set to {0.detail:+.1f} h", "scale": "ends" if self.spare and self.spare.is_there else "joins"}
        return f"{fault.target} {how[fault.kind].format(fault)}"

    def kill(self, fault):
        part = self.parts[fault.target]
        part.kill()
        time.sleep(fault.length)
        part.restore()

    def hang(self, fault):
        process = self.parts[fault.target].process
        process.hang(True)
        time.sleep(fault.length)
        process.hang(False)

    def restart(self, fault):
        self.parts[fault.target].restart()

    def cut(self, fault):
        self.network.set(fault.target, fault.detail)
        time.sleep(fault.length)
        self.network.set(fault.target, FINE)

    def clock(self, fault):
        parts = list(self.parts.values()) if fault.target == "all" else [self.parts[fault.target]]
        for part in [*parts, self.spare] if fault.target == "all" and self.spare else parts:
            part.process.clock.set(fault.detail)
        for part in parts:
            if part.now:
                eventually(f"{part.name} goes by its clock", lambda part=part: self.is_told(part, fault.detail), 30)

    @staticmethod
    def is_told(part, hours):
        with contextlib.suppress(OSError):
            return abs(part.now() - time.time() - hours * 3600) < 120
        return False

    def scale(self, _fault):
        if self.spare.is_there:
            self.spare.is_there = False
            self.spare.process.terminate()
        else:
            self.spare.restore()
