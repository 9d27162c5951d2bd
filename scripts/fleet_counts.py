"""What must agree at the end of a run of a fleet: what senders were told, and what is found everywhere, to the event."""

import collections
import hashlib
import http.client
import json
import random
import re
import time

TOPIC = "telemetryx.events"
PATIENCE_SECONDS = 180

# Notes in which order rows come: the table itself does not say.
ARRIVALS = (
    "CREATE TABLE arrivals (number bigserial PRIMARY KEY, id text, transaction bigint DEFAULT txid_current())",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO arrivals (id) VALUES (NEW.id); RETURN NULL; END'",
    "CREATE TRIGGER note AFTER INSERT ON events FOR EACH ROW WHEN (NEW.id LIKE 'order-%') EXECUTE FUNCTION note()",
)

started = time.monotonic()
table = []


def say(text=""):
    print(f"{time.monotonic() - started:7.1f}  {text}" if text else "", flush=True)


def row(what, found, wanted, ok=None):
    """A line of the final table."""
    ok = found == wanted if ok is None else ok
    table.append((what, found, wanted, "ok" if ok else "DIFFERS"))



def eventually(what, find, seconds=PATIENCE_SECONDS):
    """What `find` finds once it finds something; its errors are patience."""
    begun, error = time.monotonic(), None
    while time.monotonic() - begun < seconds:
        try:
            if found := find():
                return found
        except (OSError, http.client.HTTPException, RuntimeError, ValueError, KeyError) as this:
            error = this
        time.sleep(0.1)
    raise RuntimeError(f"not within {seconds} s: {what}" + (f" ({error})" if error else ""))


def asked(server, path):
    status, body = server.get(path)
    if status != 200:
        raise RuntimeError(f"{server.name}: {path} answered {status}: {body[:200]}")
    return json.loads(body)


def settled(servers):
    """The ledger, once no route has anything before it and all tell the same."""
    ledgers = [asked(server, "/ledger") for server in servers]
    books = [(ledger["accepted"], ledger["routes"]) for ledger in ledgers]
    done = all(route["pending"] == 0 for _, routes in books for route in routes.values())
    return books[0] if done and all(each == books[0] for each in books) else None


def place_of(identifier):
    """Of an event whose order can be seen: its key, and its place in the order."""
    _, key, number = identifier.split("-")
    return key, int(number)


def out_of_order(ids):
    """Places of which a later one came first, of events whose order can be seen."""
    highest, seen, wrong = {}, set(), 0
    for identifier in ids:
        if identifier in seen or not identifier.startswith("order-"):
            continue
        seen.add(identifier)
        key, place = place_of(identifier)
        wrong += place < highest.get(key, -1)
        highest[key] = max(highest.get(key, -1), place)
    return wrong


def ids_in_events(server):
    """The ids of everything that `/events` streams."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request("GET", "/events", headers={"Accept": "application/x-ndjson"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"/events answered {answer.status}")
        return sorted(json.loads(line)["id"] for line in answer.read().splitlines())
    finally:
        connection.close()


def compare(fleet, senders, loads, hooks):
    """Fills the table. `loads`: reports of the load generators, each with the ids `promised` to it; `hooks`: id to payload of
    each webhook."""
    say("what was promised, and what is where")
    servers = fleet.running()
    accepted, routes = eventually("every process tells that every route has delivered everything", lambda: settled(servers))
    promised = set().union(*(sender.promised for sender in senders), *(load["promised"] for load in loads))
    sure = promised.union(*(sender.unsure for sender in senders))
    doubtful = sum(sender.tries for sender in senders)
    row("acknowledged events", len(promised), "> 0", len(promised) > 0)
    for name, books in sorted(routes.items()):
        row(f"/ledger, route {name}: delivered", books["delivered"], accepted)
        row(f"/ledger, route {name}: dead, expired, difference",
            [books["dead"], books["expired"], books["difference"]], [0, 0, 0])
    if fleet.kafka:
        row("Kafka: end offsets", sum(fleet.kafka.end_offsets(TOPIC).values()), accepted)
    totals = fleet.redis.ask("HGET", "{telemetryx}:totals", "events")
    row("Redis: total", int(totals or 0), accepted)
    types = fleet.redis.ask("HGETALL", "{telemetryx}:types") or []
    row("Redis: sum of all types", sum(map(int, types[1::2])), accepted)
    for server in servers:
        row(f"/stats of {server.name}", asked(server, "/stats")["events_count"], accepted)
    stored, rows = compare_rows(fleet, promised, sure, hooks)
    row("events taken twice, because an answer was lost", accepted - len(stored), f"0 to {doubtful}",
        0 <= accepted - len(stored) <= doubtful)
    if fleet.kafka:
        compare_messages(fleet, stored, accepted)
    for server in (servers[0], servers[-1]):
        found = ids_in_events(server)
        row(f"/events of {server.name}: ids as in PostgreSQL", len(set(found) ^ stored) + len(found) - rows, 0)
    compare_receipts(fleet, senders)
    for server in servers:
        row(f"/health of {server.name}", server.get("/health")[0], 200)


def compare_rows(fleet, promised, sure, hooks):
    """What is in PostgreSQL: its ids, and the number of its rows."""
    sql = fleet.postgres.sql
    counts = collections.Counter(sql("SELECT id FROM events").splitlines())
    stored, rows = set(counts), counts.total()
    # The table's key is id and time. GitHub's webhooks have no time of their own, only that of each receipt.
    again = sum(count > 1 and not (name in hooks and name in sure) for name, count in counts.items())
    row("PostgreSQL: ids with several rows", again, 0)
    row("PostgreSQL: acknowledged, and not there", len(promised - stored), 0)
    strange = [identifier for identifier in stored - sure if not identifier.startswith("load-")]
    row("PostgreSQL: there, and never sent", len(strange), 0)
    # What one transaction brings comes at once, in whichever order its rows lie.
    at_once = {}
    for line in sql("SELECT transaction, id FROM arrivals ORDER BY number").splitlines():
        transaction, identifier = line.split("|")
        at_once.setdefault(transaction, []).append(identifier)
    came = [identifier for together in at_once.values() for identifier in sorted(together, key=place_of)]
    row("PostgreSQL: came out of the order of their key", out_of_order(came), 0)
    row("PostgreSQL: came, of those whose order can be seen", len(came), sum(name.startswith("order-") for name in stored))
    kept = [line.split("|") for line in sql("SELECT id, md5(payload::text) FROM events WHERE id LIKE 'hook-%'").splitlines()]
    wrong = sum(hashlib.md5(hooks[identifier]).hexdigest() != digest for identifier, digest in kept)
    row("PostgreSQL: webhooks whose payload is not byte for byte", wrong, 0)
    row("webhooks stored", len(kept), "> 0", len(kept) > 0)
    return stored, rows


def compare_messages(fleet, stored, accepted):
    ids = [headers.get("event_id") for headers in fleet.kafka.headers(TOPIC)]
    if fleet.forgets:
        row("Kafka: messages that it still has", len(ids), f"1 to {accepted}", 1 <= len(ids) <= accepted)
        row("Kafka: ids that are not in PostgreSQL", len(set(ids) - stored), 0)
    else:
        row("Kafka: messages", len(ids), accepted)
        row("Kafka: distinct ids, the same as in PostgreSQL", len(set(ids) ^ stored), 0)
    row("Kafka: out of the order of their key", out_of_order(ids), 0)


def compare_receipts(fleet, senders):
    """Where the events of a 202 are, asked of a process that had no part in taking them in."""
    receipts = [[receipt for receipt in sender.receipts if receipt] for sender in senders]
    if fleet.forgets:
        # Those of events that are no longer in the journal are forgotten with them.
        receipts = [each[-20:] for each in receipts]
    every = [receipt for each in receipts for receipt in each]
    some = random.Random(fleet.options.seed).sample(every, min(200, len(every)))
    askers = [server for server in fleet.running() if not server.name.startswith("ingest")]
    states = collections.Counter()
    for number, receipt in enumerate(some):
        told = asked(askers[number % len(askers)], f"/receipts/{receipt}")
        states.update({route["state"] for route in told["routes"].values()} or {"no routes"})
    row(f"/receipts of others, of {len(every)}", dict(states), {"delivered": len(some)})


def check_logs(server):
    log = (server.dir / "log").read_text(errors="replace")
    panics = re.findall(r"panicked at [^\n]*", log)
    row(f"panics of {server.name}", len(panics), 0)
    for panic in panics[:3]:
        say(panic)


def show(options):
    columns = [("", "found", "must be", "")] + [tuple(map(str, line)) for line in table]
    widths = [max(len(line[column]) for line in columns) for column in range(4)]
    print()
    for line in columns:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    wrong = sum(line[3] != "ok" for line in table)
    print(f"\n{'EVERYTHING AGREES' if not wrong else f'{wrong} DIFFER'}; --seed {options.seed} does the same again", flush=True)
    return 1 if wrong else 0
