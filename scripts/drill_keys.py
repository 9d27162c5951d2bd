"""Drills of what changes while nobody is turned away: keys, tokens, certificates, passwords; and of what can be seen of one
request everywhere."""

import hashlib
import hmac
import http.client
import json
import ssl
import subprocess
import time

from drilling import EMBEDDED, SOON, Service, drill, eventually

RUNBOOK = "operations.md"


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


@drill(RUNBOOK, "keys-and-certificates", quick=True)
def client_keys(drill):
    """an API key, a webhook's key and the admin token change; old and new side by side where both are known"""
    keys = lambda *names: ", ".join(f"{{ name: {name}, sha256: {sha256(name)} }}" for name in names)
    config = lambda api, hooks, token: (EMBEDDED + f"auth: {{ keys: [ {keys(*api)} ] }}\n"
                                        f"webhooks: {{ github: {{ keys: {json.dumps(hooks)} }} }}\nadmin: {{ token: {token} }}\n")
    service = drill.service(config(["old-key"], ["old-hook"], "old-token"))

    def hook(key):
        body = b'{"action":"opened"}'
        signature = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
        return service.ask("/webhooks/github", body, {"X-GitHub-Event": "issues", "X-GitHub-Delivery": key,
                                                       "X-Hub-Signature-256": f"sha256={signature}"})[0]
    status = lambda key: service.send({}, X_Api_Key=key)[0]

    def events(token):
        """Its answer once the store is open."""
        ask = lambda: service.ask("/events?limit=1", headers={"Authorization": f"Bearer {token}"})[0]
        return eventually("the store is open", lambda: (status := ask()) != 503 and status)
    found = lambda: [ask(name) for ask, names in ((status, ("old-key", "new-key")), (hook, ("old-hook", "new-hook")),
                                                  (events, ("old-token", "new-token"))) for name in names]
    drill.holds("old and new: key, webhook, token", found(), [202, 401, 202, 401, 200, 403])
    drill.metric(service, 'webhook_signature_failures_total{webhook="github",fault="wrong"}', lambda count: count == 1)
    drill.did("both keys in the config, and the new token; restart")
    service.terminate()
    service.start(config(["old-key", "new-key"], ["new-hook", "old-hook"], "new-token"))
    drill.holds("old and new: key, webhook, token", found(), [202, 202, 202, 202, 403, 200])
    drill.did("clients and senders have the new ones; the old ones are taken out; restart")
    service.terminate()
    service.start(config(["new-key"], ["new-hook"], "new-token"))
    drill.holds("old and new: key, webhook, token", found(), [401, 202, 401, 202, 403, 200])
    drill.log(service, "no API key, or one that is not known")


@drill(RUNBOOK, "keys-and-certificates", quick=True)
def certificates(drill):
    """the server's certificate is replaced while it runs; before that, by half a pair"""
    folder = drill.folder("tls")

    def make(name):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                        folder / f"{name}.key", "-out", folder / f"{name}.crt"], check=True, stderr=subprocess.DEVNULL)
    for name in ("old", "new"):
        make(name)
    certificate, key = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes((folder / "old.crt").read_bytes())
    key.write_bytes((folder / "old.key").read_bytes())

    class Tls(Service):
        """Asked over TLS, whatever it shows."""

        def get(self, path):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

        def ask(self, path, body=None, headers=None, method=None):
            status, text = self.get(path)
            return status, text.decode()

        def shown(self):
            shown = ssl.get_server_certificate(("127.0.0.1", self.port))
            return next(name for name in ("old", "new") if shown.split() == (folder / f"{name}.crt").read_text().split())
    config = EMBEDDED + f"http: {{ tls: {{ cert_file: '{certificate}', key_file: '{key}' }} }}\n"
    service = drill.stack.enter_context(Tls(config, drill.binary))
    drill.holds("it shows the certificate", service.shown(), "old")
    drill.did("the new certificate is written, its key is not")
    certificate.write_bytes((folder / "new.crt").read_bytes())
    drill.looks(service, "/status", lambda status: status["certificates"]["http.tls"]["state"] == "stale")
    drill.holds("it shows the certificate", service.shown(), "old")
    key.write_bytes((folder / "new.key").read_bytes())
    drill.over("the new certificate is shown, without a restart", lambda: service.shown() == "new")
    drill.looks(service, "/status", lambda status: status["certificates"]["http.tls"]["state"] == "in_use")
    drill.types(service, "healthcheck")


@drill(RUNBOOK, "keys-and-certificates")
def passwords(drill):
    """PostgreSQL's and Redis' passwords change under a running service"""
    postgres, redis, folder = drill.postgres(), drill.redis(), drill.folder("passwords")
    hba = postgres.dir / "data" / "pg_hba.conf"
    hba.write_text(f"host all telemetryx 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
    postgres.sql("CREATE ROLE telemetryx LOGIN PASSWORD 'old'", "CREATE SCHEMA telemetryx AUTHORIZATION telemetryx",
                 "SELECT pg_reload_conf()")
    redis.ask("ACL", "SETUSER", "telemetryx", "on", ">old", "~*", "&*", "+@all")
    files = {name: folder / name for name in ("postgres", "redis")}
    for file in files.values():
        file.write_text("old\n")
    urls = {"postgres": f"postgres://telemetryx@127.0.0.1:{postgres.port}/postgres", "redis": f"redis://telemetryx@127.0.0.1:{redis.port}"}
    sink = lambda name, more="": f"{{ kind: {name}, url: '{urls[name]}', password_file: '{files[name]}'{more} }}"
    service = drill.service(f"""otlp: {{ enabled: false }}
tcp: {{ port: 0 }}
routes:
  - {{ name: store, sink: {sink("postgres", ", schema: telemetryx")}, {SOON} }}
  - {{ name: counters, sink: {sink("redis")}, {SOON} }}
query: {{ events_from: store, counters_from: counters }}
""")
    service.accept("before", 100)
    service.settled()
    drill.did("ALTER ROLE telemetryx PASSWORD 'new'; connections are ended, as by a restart of the server")
    postgres.sql("ALTER ROLE telemetryx PASSWORD 'new'",
                 "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'telemetryx'")
    service.accept("between", 100)
    drill.log(service, "the circuit breaker opened", route="store", reason="password authentication failed")
    drill.did("the new password is written into the file")
    files["postgres"].write_text("new\n")
    drill.over("everything is delivered, without a restart", service.settled)
    drill.log(service, "the sink is back", route="store")
    drill.did("ACL SETUSER telemetryx >new; the file; CLIENT KILL; ACL SETUSER telemetryx <old")
    redis.ask("ACL", "SETUSER", "telemetryx", ">new")
    files["redis"].write_text("new\n")
    redis.ask("CLIENT", "KILL", "USER", "telemetryx")
    redis.ask("ACL", "SETUSER", "telemetryx", "<old")
    service.accept("after", 100)
    drill.over("everything is delivered", service.settled)
    drill.holds("counted in Redis", redis.ask("HGET", "{telemetryx}:totals", "events"), "300")
    drill.holds("rows in PostgreSQL", postgres.sql("SELECT count(*) FROM telemetryx.events"), "300")


@drill(RUNBOOK, "are-metrics-and-traces-there", quick=True)
def traces(drill):
    """one event and one span are looked for everywhere"""
    receiver = drill.service(EMBEDDED.replace("otlp: { enabled: false }", "otlp: { enabled: true }"), name="receiver")
    url = f"http://127.0.0.1:{receiver.listeners['otlp-http']}"
    sink = f"{{ kind: otlp, url: '{url}', protocol: http }}"
    config = EMBEDDED.replace("otlp: { enabled: false }", "otlp: { enabled: true }") + (
        f"  - {{ name: traces, filter: {{ types: [otel.span] }}, sink: {sink}, {SOON} }}\n")
    service = drill.service(config, environment={"RUST_LOG": "info,telemetryx_ingestion::ingress=debug"})
    status, told = service.send({"source": "deploy-check"}, X_Request_Id="trace-me")
    drill.note("seen", f"{status} {json.dumps(told)}")
    drill.holds("request_id of the answer", told["request_id"], "trace-me")
    drill.metric(service, "ingestion_requests_total", lambda count: count == 1)
    drill.looks(service, "/stats/deploy-check", lambda stats: stats["total_events"] == 1)
    drill.looks(service, f"/receipts/{told['receipt']}", lambda receipt: all(
        route["state"] == "delivered" for route in receipt["routes"].values()))
    for route in ("stats", "store"):
        drill.metric(service, f'route_lag_events{{route="{route}"}}', lambda lag: lag == 0)
        drill.metric(service, f'ledger_difference{{route="{route}"}}', lambda off: off == 0)
    raw = eventually("the span of the request", lambda: next(raw for raw, line in service.lines() if
                                                             line.get("span", {}).get("request_id") == "trace-me"))
    drill.note("seen", raw)
    now = time.time_ns()
    span = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "checkout", "kind": 2,
            "startTimeUnixNano": str(now), "endTimeUnixNano": str(now + 1_000_000)}
    body = {"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "deploy-check"}}]},
                               "scopeSpans": [{"spans": [span]}]}]}
    status, text = service.ask("/v1/traces", json.dumps(body))
    drill.note("seen", f"/v1/traces {status} {text}")
    named = f"{span['traceId']}-{span['spanId']}-server"
    for end in (service, receiver):
        drill.looks(end, "/events?type=otel.span&limit=1", lambda events: events["events"][0]["id"] == named)
    drill.metric(service, 'route_delivered_events_total{route="traces"}', lambda count: count == 1)
