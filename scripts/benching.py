"""What the benches share: the table, the service with what it takes of the CPU, and how a run is shown."""

import json
import os
import time

import harness

BARE = "routes: []\n"
# As many types the load generator sends if nobody asks for another number.
LOAD_TYPES = 5

table = []
# Cores that other programs took, at the worst moment of a run.
others_most = 0.0


def say(text=""):
    print(text, flush=True)


def row(what, target, measured, ok):
    """A line of the final table; `ok` is True, False or None (no target, or not measured)."""
    table.append((what, target, measured, {True: "ok", False: "MISS", None: "-"}[ok]))
    say(f"  => {what}: {measured}  (target {target}) {table[-1][3]}")


def busy_seconds():
    """CPU time of the whole machine, also what its host took away."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Server(harness.Server):
    """Also says what it and others took of the CPU."""

    def load(self, *arguments, protocol="http"):
        """Runs the load generator to its end; its report, with what server and others took of the CPU (1: one core)."""
        begun, busy, cpu, children = time.monotonic(), busy_seconds(), self.cpu_seconds(), os.times()
        process = self.load_process(*arguments, protocol=protocol)
        try:
            out, errors = process.communicate()
        finally:
            if process.poll() is None:
                process.kill()
        if not out.strip():
            raise RuntimeError(f"the load generator failed: {errors[-500:]}")
        report, now = json.loads(out.strip().splitlines()[-1]), os.times()
        wall, server = time.monotonic() - begun, self.cpu_seconds() - cpu
        ours = server + sum(now[:4]) - sum(children[:4])
        report["server_cpu"] = server / wall
        report["others_cpu"] = max(0.0, (busy_seconds() - busy - ours) / wall)
        global others_most
        others_most = max(others_most, report["others_cpu"])
        return report


def full_load(options, batch, seconds=None):
    return ["--rate", 0, "--connections", 64, "--batch", batch, "--warm-up", f"{options.warm_up}s",
            "--duration", f"{seconds or options.seconds}s"]


def show_run(name, report):
    statuses = " ".join(f"{status}:{count}" for status, count in report["statuses"].items())
    latency = report["latency_ms"]
    cpu = " ".join(f"{who} {report[key] or 0:.0%}" for who, key in
                   (("server", "server_cpu"), ("load", "generator_cpu"), ("others", "others_cpu")) if key in report)
    say(f"  {name:<22} {report['events_per_second']:>12,.0f} events/s {report['requests_per_second']:>9,.0f} req/s"
        f"  p50 {latency['p50']:6.2f}  p99 {latency['p99']:6.2f} ms  CPU: {cpu}  [{statuses}]"
        + (f"  errors {report['errors']}" if report["errors"] else ""))


# --- the rows ---
