"""Drills of what is filled again: a lost PostgreSQL out of Kafka, a lost journal out of Parquet files. The programs that the
runbook shows are taken out of it and run as they stand there."""

import json
import re
import shutil
import subprocess
import time

from drill_fleet import Fleet
from drilling import EMBEDDED, ROOT, SOON, drill, eventually

RUNBOOK = "operations.md"


def program(name):
    """The block of code of the runbook that begins with a comment of this name."""
    text = (ROOT / "docs" / RUNBOOK).read_text()
    return re.search(rf"```\w+\n(# {re.escape(name)}.*?)```", text, re.DOTALL).group(1)


def python():
    """An interpreter that has DuckDB: that of the tests."""
    return subprocess.run([ROOT / "scripts" / "python-env"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@drill(RUNBOOK, "restoring-from-kafka")
def restore_from_kafka(drill):
    """PostgreSQL is lost whole; a replay by time, by offset, and a new group fill it again"""
    fleet = Fleet(drill)
    door, postgres = fleet["ingest-1"], fleet.postgres
    door.accept("old", 300)
    fleet.settled()
    time.sleep(1.2)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    door.accept("young", 200)
    fleet.holds_all(500)
    drill.did("PostgreSQL is ended, its directory removed; an empty server takes its place; senders go on")
    postgres.kill()
    shutil.rmtree(postgres.dir)
    postgres.__enter__()
    door.accept("later", 100)
    fleet.settled()
    drill.holds("rows: what came since", fleet.rows(), 100)
    books = drill.looks(door, "/ledger", lambda ledger: ledger["routes"]["store"]["delivered"] == 600)
    out = drill.types(door, "replay", "--route", "store", "--from", moment, says=("of 12 partitions", "Done: "))
    drill.holds("rows: what came after that moment", fleet.rows(), 300)
    drill.note("over", out.splitlines()[-1])
    drill.types(door, "replay", "--route", "store", "--from", "3:0", says="of partition 3")
    drill.types(door, "replay", "--route", "store", "--from", "2000-01-01T00:00:00Z", says="Done: 600 events delivered again.")
    drill.holds("rows", fleet.rows(), 600)
    drill.holds("books", door.json("/ledger")["routes"]["store"], books["routes"]["store"])

    drill.did("a route of another name, into another table, in the config of all; restart one after the other")
    again = (f"  - {{ name: store-2, sink: {{ kind: postgres, url: '{postgres.url()}', table: events_2 }}, {SOON} }}\nquery:")
    for name in fleet.processes:
        fleet[name].terminate()
        fleet[name].start(fleet.config(name).replace("query:", again))
    drill.over("the new group has read everything", lambda: fleet.settled()["routes"]["store-2"]["delivered"] == 600)
    drill.looks(door, "/ledger", lambda ledger: ledger["routes"]["store-2"]["delivered"] == 600)
    drill.holds("rows of the new table", postgres.sql("SELECT count(*) FROM events_2"), "600")


@drill(RUNBOOK, "restoring-from-parquet")
def restore_from_parquet(drill):
    """a data directory is lost; its events come back from the files of a Parquet route, through the door and by COPY"""
    interpreter, lake, work = python(), drill.folder("lake"), drill.folder("restore")
    route = f"  - {{ name: lake, sink: {{ kind: parquet, url: 'file://{lake}', roll: {{ age: 200ms }} }}, {SOON} }}\n"
    service = drill.service(EMBEDDED + route)
    for first in range(0, 300, 100):
        events = [{"id": f"e-{number}", "type": ("Order", "Login")[number % 2], "source": number % 7 if number % 3 else "shop",
                   "attributes": {"n": str(number)}, "payload": {"n": number, "π": 3.5}} for number in range(first, first + 100)]
        drill.holds("status", service.send(*events)[0], 202)
    service.settled()
    columns = ("id", "ts", "type", "source", "attributes", "payload")
    shown = lambda asked: sorted(json.dumps([event[column] for column in columns])
                                 for event in json.loads(asked.ask("/events?limit=1000")[1])["events"])
    before = shown(service)
    drill.did("the service is killed, its data directory removed; an empty one takes its place")
    service.kill()
    shutil.rmtree(service.dir / "data")
    service.start(EMBEDDED)
    (work / "to_ingest.py").write_text(program("to_ingest.py"))
    drill.shell(f"{interpreter} to_ingest.py {lake} http://127.0.0.1:{service.port}/ingest", cwd=work)
    service.settled()
    drill.holds("events that are as they were", sum(one == other for one, other in zip(before, shown(service), strict=True)), 300)

    postgres = drill.postgres()
    config = f"routes: [ {{ name: store, sink: {{ kind: postgres, url: '{postgres.url()}' }} }} ]"
    other = drill.service(f"otlp: {{ enabled: false }}\n{config}\n", "other")
    eventually("the table is made", lambda: postgres.sql("SELECT to_regclass('events')"))
    (work / "to_postgres.py").write_text(program("to_postgres.py"))
    drill.shell(f"{interpreter} to_postgres.py {lake} {postgres.url()}", cwd=work)
    drill.shell(f"{interpreter} to_postgres.py {lake} {postgres.url()}", cwd=work)
    drill.holds("rows in PostgreSQL, after two runs", postgres.sql("SELECT count(*) FROM events"), "300")
    drill.holds("events that are as they were", sum(one == two for one, two in zip(before, shown(other), strict=True)), 300)
