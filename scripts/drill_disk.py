"""Drills of one machine: its disk is full, fails or has damage; a start and an end that are not as usual."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess

import harness
from drilling import EMBEDDED, Failed, drill, eventually

RUNBOOK = "operations.md"
SMALL = f"journal: {{ embedded: {{ segment_size: 256KiB }} }}\n{EMBEDDED}"


@drill(RUNBOOK, "the-disk-is-full", quick=True)
def disk_full(drill):
    """the disk of the data directory is full, and has room again; needs root, for a small file system"""
    disk = drill.folder("disk")
    drill.stack.callback(lambda: subprocess.run(["umount", "--lazy", disk], check=False))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    service = drill.service(SMALL, environment={"TELEMETRYX_DATA_DIR": str(disk / "data")})
    drill.did("a disk of 6 MiB; senders go on until it is full")
    events = [{"payload": "x" * 1000}] * 100
    eventually("the disk is full", lambda: service.send(*events)[0] == 503)
    drill.answers(service, 503, "unavailable", *events)
    drill.looks(service, "/health", lambda health: health["journal"]["state"] == "no_space" and health["status"] == "unhealthy")
    drill.log(service, "the disk is full; appends are refused until there is room")
    drill.metric(service, "data_dir_free_bytes", lambda free: free < 2 << 20)
    drill.shell("df -h .", cwd=disk)
    drill.types(service, "journal", "inspect", "--data-dir", disk / "data", says="BEHIND")
    drill.did("the disk is made larger")
    subprocess.run(["mount", "-o", "remount,size=256m", disk], check=True)
    drill.over("events are taken again", lambda: service.send({})[0] == 202)
    drill.log(service, "the journal takes appends again")
    drill.looks(service, "/health", lambda health: health["status"] == "healthy")
    service.settled()


@drill(RUNBOOK, "a-sync-failed", quick=True)
def sync_failed(drill):
    """the device reports an error for each sync (by strace), and is well again"""
    service = drill.service()
    service.accept("before", 10)
    drill.did("from now on fdatasync returns EIO")
    inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"]
    fault = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", *inject, "-p", str(service.process.pid)])
    drill.stack.callback(fault.kill)
    drill.answers(service, 503, "unavailable")
    drill.log(service, "writing to the journal failed; appends are refused until it reopens", error="Input/output error")
    drill.looks(service, "/health", lambda health: health["journal"]["state"] == "unhealthy")
    drill.log(service, "the journal could not be read back yet")
    drill.did("syncs succeed again")
    fault.send_signal(signal.SIGINT)
    fault.wait()
    drill.over("events are taken again", lambda: service.send({})[0] == 202)
    drill.log(service, "the journal takes appends again")
    drill.looks(service, "/health", lambda health: health["status"] == "healthy")
    service.settled()
    drill.types(service, "journal", "verify", says="All is as it was written.")


@drill(RUNBOOK, "a-segment-is-damaged", quick=True)
def segment_damaged(drill):
    """a byte of a sealed segment is flipped; the backup's file is put in its place"""
    service = drill.service(SMALL.split("routes:")[0] + "routes: []\n")
    service.accept("kept", 500)
    service.terminate()
    service.start()
    service.accept("later", 10)
    service.terminate()
    segment = sorted((service.dir / "data" / "journal").glob("*.seg"))[0]
    backup = service.dir / "backup.seg"
    shutil.copy(segment, backup)
    drill.did(f"a byte of {segment.name} is flipped, a route reads past it")
    whole = bytearray(segment.read_bytes())
    whole[whole.index(b"kept-250")] ^= 1
    segment.write_bytes(whole)
    drill.types(service, "journal", "verify", code=1, says=f"DAMAGED: {segment.name} at byte")
    service.start(SMALL)
    drill.log(service, "damage in the journal", segment=segment.name)
    drill.looks(service, "/health", lambda health: health["status"] == "degraded" and health["journal"]["damage"])
    books = service.settled()
    drill.holds("expired of route store", books["routes"]["store"]["expired"], 100)
    drill.did("stop; the backup's file is put in its place")
    service.terminate()
    shutil.copy(backup, segment)
    drill.types(service, "journal", "verify", says="All is as it was written.")
    service.start()
    drill.over("/health is healthy", lambda: service.json("/health")["status"] == "healthy")
    drill.types(service, "replay", "--route", "store", "--from", 0, says="Done: 510 events delivered again.")


@drill(RUNBOOK, "back-up-and-restore", quick=True)
def back_up(drill):
    """a copy of a stopped service's directory, checked, and started elsewhere"""
    service = drill.service()
    service.accept("kept", 200)
    service.settled()
    drill.did("stop")
    service.terminate()
    drill.shell("cp -a data data-copy", cwd=service.dir)
    drill.types(service, "journal", "verify", "--data-dir", "data-copy", says="All is as it was written.")
    shutil.rmtree(service.dir / "data")
    (service.dir / "data-copy").rename(service.dir / "data")
    service.start()
    drill.over("what was accepted is there", lambda: service.json("/stats")["events_count"] == 200 and service.settled())
    drill.holds("/events", len(json.loads(service.ask("/events?limit=1000")[1])["events"]), 200)


@drill(RUNBOOK, "it-does-not-start", quick=True)
def does_not_start(drill):
    """every row of the table of starts that fail"""
    service = drill.service()
    service.accept("kept", 10)

    def fails(what, code, says, config=None, **environment):
        drill.named(f"| {code} |")
        again = drill.folder("second")
        (again / "config.yaml").write_text(config or service.config)
        port, = harness.free_ports(1)
        env = service.environment() | {"TELEMETRYX_HTTP__PORT": str(port), "TELEMETRYX_TCP__PORT": "0"}
        env |= {name: str(value) for name, value in environment.items()}
        done = subprocess.run([service.binary, "--config", again / "config.yaml"], env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, cwd=again)
        drill.note("seen", f"{what}: exit {done.returncode}\n{done.stdout.strip().splitlines()[-1]}")
        if done.returncode != code or says not in done.stdout:
            raise Failed(f"{what}: exit {done.returncode}: {done.stdout[-800:]}")
        drill.named(says)
    elsewhere = drill.folder("data")
    fails("an unknown key", 2, "unknown field", config=EMBEDDED.replace("kind: sqlite", "kind: sqlite, foo: 1"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails("a port that is taken", 1, "cannot listen on 127.0.0.1:", TELEMETRYX_HTTP__PORT=taken.getsockname()[1],
              TELEMETRYX_DATA_DIR=elsewhere)
    fails("a directory in use", 1, "the journal is in use by process", TELEMETRYX_DATA_DIR=service.dir / "data")
    file = elsewhere / "file"
    file.touch()
    fails("a directory that cannot be made", 1, "data_dir", TELEMETRYX_DATA_DIR=file / "data")
    service.terminate()
    control = sqlite3.connect(service.dir / "data" / "control.db")
    control.execute("PRAGMA user_version = 99")
    control.close()
    fails("a file of a newer version", 1, "this binary knows", TELEMETRYX_DATA_DIR=service.dir / "data")


@drill(RUNBOOK, "it-starts-slowly", quick=True)
def starts_after_a_kill(drill):
    """a start after kill -9"""
    service = drill.service()
    service.accept("kept", 200)
    drill.did("kill -9, start")
    before = len(list(service.lines()))
    service.kill()
    service.start()
    drill.log(service, "journal opened", before, recovery="not closed cleanly")
    drill.log(service, "ready", before)
    drill.types(service, "healthcheck")
    drill.over("everything is delivered", service.settled)


@drill(RUNBOOK, "it-takes-long-to-stop", quick=True)
def stops_slowly(drill):
    """the end with a sink that hangs, with a request that does not end, and by a second signal"""
    service = drill.service(EMBEDDED + "shutdown: { timeout: 2s }\n")
    eventually("the store has a file", (service.dir / "data" / "store.db").exists)
    lock = sqlite3.connect(service.dir / "data" / "store.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    service.accept("waits", 50)
    drill.did("SIGTERM while another program has locked the store's file")
    service.terminate()
    drill.log(service, "shutting down")
    drill.log(service, "the routes have not passed everything; they go on at the next start")
    drill.log(service, "stopped")
    drill.holds("exit", service.exit, 0)
    lock.close()

    def starts_with_a_request():
        service.start()
        slow = socket.create_connection(("127.0.0.1", service.port))
        slow.sendall(b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n ")
        eventually("it is under way", lambda: service.json("/status")["memory"]["used"] > 0)
        return slow, len(list(service.lines()))
    drill.did("SIGTERM while a request does not end")
    slow, before = starts_with_a_request()
    service.terminate()
    drill.log(service, "requests were still under way as shutdown.timeout ran out", before)
    drill.log(service, "stopped", before)
    drill.holds("exit", service.exit, 0)
    slow.close()
    drill.did("the same, and SIGTERM twice")
    slow, before = starts_with_a_request()
    os.kill(service.process.pid, signal.SIGTERM)
    drill.log(service, "shutting down", before)
    os.kill(service.process.pid, signal.SIGTERM)
    service.process.wait(10)
    drill.log(service, "second signal: ending at once; nothing acknowledged is lost", before)
    drill.holds("exit", service.process.returncode, 130)
    slow.close()
    service.start()
    drill.over("everything is delivered", service.settled)
