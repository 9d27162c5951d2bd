"""Who sends to a fleet, and gives nothing up: what it was promised, and what perhaps is there all the same."""

import collections
import hashlib
import hmac
import http.client
import itertools
import json
import threading
import time

from processes import ROOT

DELIVERIES = ROOT / "rust" / "telemetryx-ingestion" / "tests" / "data" / "github-webhooks.ndjson"
WEBHOOK_KEY = "It's a Secret to Everybody"
DAY = 24 * 3600


class Sender(threading.Thread):
    """Sends one request after the other, each again and again until a door has taken it: a client that gives up nothing."""

    def __init__(self, name, doors, requests, pause, stop):
        super().__init__(name=name, daemon=True)
        self.doors, self.requests, self.pause, self.stop = itertools.cycle(doors), requests, pause, stop
        # Ids that were promised to it, and those that were not and were perhaps taken all the same.
        self.promised, self.unsure, self.tries, self.receipts = set(), set(), 0, []
        self.fault, self.connection, self.statuses = None, None, collections.Counter()

    def run(self):
        try:
            for path, headers, body, ids in self.requests:
                if not self.deliver(path, headers, body, ids):
                    return
                self.stop.wait(self.pause)
                if self.stop.is_set():
                    return
        except Exception as error:  # Whatever it is, the run has failed.
            self.fault = error

    def deliver(self, path, headers, body, ids):
        """True once it is promised; false if it is time to end."""
        while True:
            self.tries += 1
            status, answer = self.post(path, headers, body)
            self.statuses[status or "no answer"] += 1
            if status in (200, 202):
                self.promised.update(ids)
                told = json.loads(answer)
                if told.get("accepted", len(ids)) != len(ids):
                    raise RuntimeError(f"{path} took a part only: {answer[:300]}")
                self.receipts.append(told.get("receipt"))
                return True
            self.unsure.update(ids)
            if status not in (None, 429, 503):
                raise RuntimeError(f"{path} answered {status}: {answer[:300]}")
            if self.stop.wait(0.1):
                return False

    def post(self, path, headers, body):
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", next(self.doors).port, timeout=20)
            self.connection.request("POST", path, body, headers)
            answer = self.connection.getresponse()
            status, text = answer.status, answer.read()
            if status == 503 or answer.will_close:
                self.hang_up()
            return status, text
        except (OSError, http.client.HTTPException):
            self.hang_up()
            return None, b""

    def hang_up(self):
        if self.connection:
            self.connection.close()
        self.connection = None


def webhooks(sent):
    """The deliveries, signed as GitHub signs them, round after round under other ids; `sent`: id to payload."""
    deliveries = [(event["type"].split(".")[0], payload) for event, payload in map(with_payload, open(DELIVERIES, "rb"))]
    for turn in itertools.count():
        for number, (kind, payload) in enumerate(deliveries):
            identifier = f"hook-{turn}-{number}"
            sent[identifier] = payload
            signature = hmac.new(WEBHOOK_KEY.encode(), payload, hashlib.sha256).hexdigest()
            headers = {"Content-Type": "application/json", "X-GitHub-Event": kind, "X-GitHub-Delivery": identifier,
                       "X-Hub-Signature-256": f"sha256={signature}"}
            yield "/webhooks/github", headers, payload, [identifier]


def with_payload(line):
    """An event, and the bytes of its payload as they stand in the line."""
    return json.loads(line), line[line.index(b'"payload":') + len(b'"payload":'):].rstrip()[:-1]


def in_order(key, batch=5):
    """Events of one key, numbered without end; of yesterday, so that no clock of the fleet takes them for the future's."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - DAY))
    for first in itertools.count(0, batch):
        ids = [f"order-{key}-{number}" for number in range(first, first + batch)]
        events = [{"id": identifier, "ts": now, "type": "step", "source": f"walker-{key % 3}", "partition_key": f"key-{key}",
                   "payload": {"n": first + n}} for n, identifier in enumerate(ids)]
        yield "/ingest", {"Content-Type": "application/json"}, json.dumps(events), ids
