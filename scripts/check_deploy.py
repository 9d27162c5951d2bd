"""The checks of scripts/check-deploy, which installs what they need. Each finding is a line; any makes the exit code 1."""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

sys.dont_write_bytecode = True
import metric_names

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CONFIG = ROOT / "rust" / "telemetryx-ingestion" / "config"
KUBERNETES = DEPLOY / "kubernetes"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
OVERLAYS = ("embedded", "kafka", "trial")
# kustomize reads nothing outside the directory of a kustomization, so these are copies.
COPIES = {
    KUBERNETES / "overlays/embedded/production.yaml": CONFIG / "production.yaml",
    KUBERNETES / "overlays/kafka/fleet.yaml": CONFIG / "fleet.yaml",
}
PROMETHEUS_RULE = KUBERNETES / "components/monitoring/prometheus-rule.yaml"
# Where containers find secrets.
SECRETS = "/run/secrets"
# Whose images write to their root file system.
WRITES_TO_ROOT = {"kafka", "minio"}
DURATION = re.compile(r"(\d+)(ms|s|m|h)")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}

findings = []


def found(where, what):
    """Notes that something is wrong."""
    findings.append(f"{where}: {what}")


def run(*command, where=None, **options):
    """The output of a command; that it fails is a finding, if `where` is given, told in its own words."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if where and result.returncode:
        found(where, (result.stdout + result.stderr).strip() or f"{command[0]} failed")
    return result


def seconds(text):
    """A duration such as `25s` or `1m30s`."""
    return sum(int(count) * SECONDS[unit] for count, unit in DURATION.findall(text))


def merged_rule():
    """The resource of the Prometheus operator that holds the alert rules."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "telemetryx",
            "namespace": "telemetryx",
            "labels": {"app.kubernetes.io/name": "telemetryx", "release": "prometheus"},
        },
        "spec": yaml.safe_load(ALERTS.read_text()),
    }
    head = "# Written by `scripts/check-deploy --write` from deploy/prometheus/alerts.yaml.\n"
    return head + yaml.safe_dump(rule, sort_keys=False, width=120)


def copies(write):
    """What is a copy of something else is one."""
    for copy, source in COPIES.items():
        if write:
            shutil.copyfile(source, copy)
        elif copy.read_text() != source.read_text():
            found(copy.relative_to(ROOT), f"differs from {source.relative_to(ROOT)}: scripts/check-deploy --write")
    if write:
        PROMETHEUS_RULE.write_text(merged_rule())
    elif PROMETHEUS_RULE.read_text() != merged_rule():
        found(PROMETHEUS_RULE.relative_to(ROOT), "is not what alerts.yaml makes: scripts/check-deploy --write")


def dockerfiles():
    """hadolint has nothing to say, but that Debian's packages have no versions: they are those of the base image's release."""
    for file in sorted((DEPLOY / "docker").glob("*ockerfile")):
        run(Path(sys.executable).with_name("hadolint"), "--ignore", "DL3008", file, where=file.relative_to(ROOT))


class Process:
    """A container with the service: what `telemetryx check` says of its configuration, in its environment."""

    def __init__(self, where, config, environment, secrets):
        self.where, self.config, self.environment, self.secrets = where, config, environment, secrets

    def check(self, binary, scratch):
        """Runs the check, and returns the configuration that results, or nothing."""
        directory = scratch / self.where.replace("/", "-").replace(" ", "-")
        (directory / "secrets").mkdir(parents=True)
        for path, value in self.secrets.items():
            (directory / "secrets" / Path(path).name).write_text(value)
        env = {"PATH": os.environ["PATH"]}
        for name, value in self.environment.items():
            env[name] = re.sub(rf"{SECRETS}(/telemetryx)?/", f"{directory}/secrets/", str(value if value is not None else ""))
        env["TELEMETRYX_DATA_DIR"] = str(directory / "data")
        # What the image says.
        env.setdefault("TELEMETRYX_HTTP__HOST", "0.0.0.0")
        (directory / "config.yaml").write_text(self.config)
        result = run(binary, "check", "--config", directory / "config.yaml", env=env, where=f"{self.where}, telemetryx check")
        return yaml.safe_load(result.stdout) if result.returncode == 0 else None


def compose(tools, binary, scratch):
    """Compose's parser takes the file, and each service in it is as narrow as it can be."""
    copy = scratch / "compose"
    shutil.copytree(DEPLOY, copy / "deploy", ignore=shutil.ignore_patterns("secrets"))
    shutil.copytree(CONFIG, copy / "rust/telemetryx-ingestion/config")
    run(copy / "deploy/make-secrets", where="deploy/make-secrets")
    for settings in ({}, {"BRAIN": "on"}):
        env = {"PATH": os.environ["PATH"], "COMPOSE_PROFILES": "worker,brain,monitoring", **settings}
        parsed = run(tools / "bin/compose-parser", copy / "deploy/compose.yaml", env=env, where="deploy/compose.yaml")
        if parsed.returncode:
            return
        model = json.loads(parsed.stdout)
        for name, service in model["services"].items():
            compose_service(name, service)
            if service["image"].startswith("telemetryx:"):
                environment = service.get("environment") or {}
                mounted = {item["target"]: model["configs"][item["source"]]["file"] for item in service["configs"]}
                secrets = {
                    item.get("target", item["source"]): Path(model["secrets"][item["source"]]["file"]).read_text()
                    for item in service["secrets"]
                }
                where = f"deploy/compose.yaml {name}{' with a brain' if settings else ''}"
                config = Path(mounted["/etc/telemetryx/config.yaml"]).read_text()
                result = Process(where, config, environment, secrets).check(binary, scratch)
                if result and seconds(service["stop_grace_period"]) <= seconds(result["shutdown"]["timeout"]):
                    found(where, "stop_grace_period is not longer than shutdown.timeout")
                if result and settings and name != "otel-worker" and not any(r["name"] == "brain" for r in result["routes"]):
                    found(where, "has no route to the brain")


def compose_service(name, service):
    """One service of Compose."""
    where = f"deploy/compose.yaml {name}"
    tag = service["image"].rpartition(":")[2]
    if "/" in tag or tag == "latest":
        found(where, "its image has no version")
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", []):
        found(where, "keeps rights that it does not need")
    if name not in WRITES_TO_ROOT and not service.get("read_only"):
        found(where, "its root file system can be written to")
    if not service.get("deploy", {}).get("resources", {}).get("limits", {}).get("memory"):
        found(where, "has no limit of memory")
    own = service["image"].startswith("telemetryx")  # the images have their own
    once = service.get("restart") == "no"
    if not (own or once or service.get("healthcheck")):
        found(where, "has no health check")
    if not service.get("restart"):
        found(where, "has no restart policy")
    for port in service.get("ports", []):
        if port.get("host_ip") != "127.0.0.1":
            found(where, f"port {port['published']} is published beyond this machine")


def operator_schemas(directory):
    """Strict JSON schemas of the Prometheus operator's resources, of which Kubernetes' own schemas know nothing."""
    from cloudcoil.models.prometheus_operator import v1

    def strict(schema):
        if isinstance(schema, dict):
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)
            for part in schema.values():
                strict(part)
        elif isinstance(schema, list):
            for part in schema:
                strict(part)
        return schema

    directory.mkdir()
    for model in (v1.ServiceMonitor, v1.PrometheusRule):
        schema = strict(model.model_json_schema(by_alias=True))
        (directory / f"{model.__name__.lower()}-monitoring-v1.json").write_text(json.dumps(schema))


def kubernetes(tools, schemas, binary, scratch):
    """Each overlay is built, fits the schemas, and holds together."""
    copy = scratch / "kubernetes"
    shutil.copytree(KUBERNETES, copy, ignore=shutil.ignore_patterns("secrets"))
    for overlay in ("embedded", "kafka"):
        run(DEPLOY / "make-secrets", overlay, cwd=copy / "overlays", where=f"deploy/make-secrets {overlay}")
    for overlay in OVERLAYS:
        directory = copy / "overlays" / f"{overlay}-monitored"
        directory.mkdir()
        kustomization = {"resources": [f"../{overlay}"], "components": ["../../components/monitoring"]}
        (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    operator_schemas(scratch / "operator")
    kustomize = next((tools / "bin").glob("kustomize-*"))
    kubeconform = next((tools / "bin").glob("kubeconform-*"))
    version = schemas.name.rpartition("-")[2]
    for overlay in [name + end for name in OVERLAYS for end in ("", "-monitored")]:
        where = f"deploy/kubernetes {overlay}"
        built = run(kustomize, "build", copy / "overlays" / overlay, where=where)
        if built.returncode:
            continue
        template = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
        places = [f"-schema-location={place}/{template}" for place in (schemas, scratch / "operator")]
        run(kubeconform, "-strict", "-kubernetes-version", version, *places, "-", input=built.stdout, where=where)
        objects = [item for item in yaml.safe_load_all(built.stdout) if item]
        if not overlay.endswith("-monitored"):
            cluster(where, objects, binary, scratch)


def cluster(where, objects, binary, scratch):
    """The objects of one overlay fit each other."""
    by_kind = {}
    for item in objects:
        by_kind.setdefault(item["kind"], {})[item["metadata"]["name"]] = item
        if item["metadata"].get("namespace") != "telemetryx":
            found(where, f"{item['kind']} {item['metadata']['name']} is in no namespace, or in another one")
    workloads = {**by_kind.get("Deployment", {}), **by_kind.get("StatefulSet", {})}
    labels = {name: item["spec"]["template"]["metadata"]["labels"] for name, item in workloads.items()}

    def selected(selector):
        return [name for name, has in labels.items() if selector.items() <= has.items()]

    for name, service in by_kind["Service"].items():
        chosen = selected(service["spec"]["selector"])
        if not chosen:
            found(where, f"service {name} selects nothing")
        for workload in chosen:
            ports = {
                port["name"] for box in workloads[workload]["spec"]["template"]["spec"]["containers"] for port in box["ports"]
            }
            for port in service["spec"]["ports"]:
                if port["targetPort"] not in ports:
                    found(where, f"{workload} has no port {port['targetPort']} for service {name}")
    for name, budget in by_kind.get("PodDisruptionBudget", {}).items():
        if len(selected(budget["spec"]["selector"]["matchLabels"])) != 1:
            found(where, f"PodDisruptionBudget {name} is not for one workload")

    for name, workload in workloads.items():
        pod = workload["spec"]["template"]["spec"]
        [box] = pod["containers"]
        if not pod["securityContext"].get("runAsNonRoot") or box["securityContext"]["capabilities"] != {"drop": ["ALL"]}:
            found(where, f"{name} has rights that it does not need")
        if labels[name].get("app.kubernetes.io/name") != "telemetryx":
            continue
        if not box["securityContext"].get("readOnlyRootFilesystem"):
            found(where, f"{name} can write to its root file system")
        result = process(where, name, pod, box, by_kind).check(binary, scratch)
        if result is None:
            continue
        needed = seconds(result["shutdown"]["timeout"]) + box["lifecycle"]["preStop"]["sleep"]["seconds"]
        if pod["terminationGracePeriodSeconds"] <= needed:
            found(where, f"{name}: terminationGracePeriodSeconds is not more than preStop and shutdown.timeout, {needed} s")
        for scaler in by_kind.get("HorizontalPodAutoscaler", {}).values():
            if scaler["spec"]["scaleTargetRef"]["name"] == name and "deliver" in name:
                partitions = result["journal"]["kafka"]["partitions"]
                if scaler["spec"]["maxReplicas"] > partitions:
                    found(where, f"{name}: more replicas than the topic has partitions, {partitions}")


def process(where, name, pod, box, by_kind):
    """The configuration and the environment of one container."""
    maps = {key: item["data"] for key, item in by_kind["ConfigMap"].items()}
    secrets = {key: decoded(item["data"]) for key, item in by_kind["Secret"].items()}
    environment = {}
    for source in box.get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]
    for variable in box["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        environment[variable["name"]] = secrets[reference["name"]][reference["key"]] if reference else variable["value"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    config = maps[volumes["config"]["configMap"]["name"]]["config.yaml"]
    return Process(f"{where} {name}", config, environment, secrets[volumes["secrets"]["secret"]["secretName"]])


def decoded(data):
    """The values of a secret."""
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def prometheus(tools):
    """promtool takes the files; its tests pass; each alert has one, and an entry in the runbook that is there."""
    promtool, where = tools / "bin" / "promtool", "deploy/prometheus"
    run(promtool, "check", "config", ALERTS.with_name("prometheus.yml"), where=where)
    run(promtool, "check", "rules", ALERTS, where=where)
    run(promtool, "test", "rules", ALERTS.with_name("alerts_test.yaml"), where=where)
    tests = ALERTS.with_name("alerts_test.yaml").read_text()
    tested = re.findall(r"Telemetryx[A-Za-z.*|]+", tests)
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            if not any(re.fullmatch(pattern, name) for pattern in tested):
                found(where, f"{name} has no test")
            file, _, anchor = rule["annotations"]["runbook"].partition("#")
            headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
            if anchor not in {re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in headings}:
                found(where, f"{name}: {file} has no entry #{anchor}")


def metrics():
    """Rules, dashboards and the adapter ask for metrics that there are, by labels that they have."""
    known = metric_names.known(ROOT)
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            for problem in metric_names.problems(rule["expr"], known):
                found(f"deploy/prometheus/alerts.yaml {rule['alert']}", problem)
    adapter = yaml.safe_load((ALERTS.parent / "adapter-values.yaml").read_text())
    for rule in adapter["rules"]["external"]:
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", "")
        for problem in metric_names.problems(query, known) + metric_names.problems(rule["seriesQuery"], known):
            found("deploy/prometheus/adapter-values.yaml", problem)
        wanted = rule["name"]["as"]
        if f"name: {wanted}\n" not in (KUBERNETES / "overlays/kafka/deliver.yaml").read_text():
            found("deploy/prometheus/adapter-values.yaml", f"nothing scales by {wanted}")
    for file in DASHBOARDS.glob("*.json"):
        dashboard(file.relative_to(ROOT), json.loads(file.read_text()), known)


def dashboard(where, content, known):
    """One dashboard of Grafana: its queries, and that its panels lie beside each other."""
    taken, ids = set(), [panel["id"] for panel in content["panels"]]
    if len(set(ids)) != len(ids):
        found(where, "two panels have one id")
    for panel in content["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        if cells & taken or max(x for x, _ in cells) > 23:
            found(where, f"panel {panel['title']!r} lies over another one, or beyond the edge")
        taken |= cells
        for target in panel.get("targets", []):
            for problem in metric_names.problems(target["expr"], known):
                found(f"{where} {panel['title']!r}", problem)
    for variable in content["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            for problem in metric_names.problems(f"sum by ({label}) ({metric})", known):
                found(f"{where} ${variable['name']}", problem)


def main():
    """Runs all checks."""
    parser = argparse.ArgumentParser(prog="scripts/check-deploy", description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--schemas", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--binary", type=Path, help="the service; else it is built")
    parser.add_argument("--write", action="store_true", help="bring up to date what is a copy")
    given = parser.parse_args()
    binary = given.binary
    if binary is None:
        subprocess.run(["cargo", "build", "--quiet", "-p", "telemetryx-ingestion", "--bin", "telemetryx"], cwd=ROOT, check=True)
        binary = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "telemetryx"
    copies(given.write)
    with tempfile.TemporaryDirectory() as scratch:
        dockerfiles()
        compose(given.tools, binary.resolve(), Path(scratch))
        kubernetes(given.tools, given.schemas, binary.resolve(), Path(scratch))
    prometheus(given.tools)
    metrics()
    for line in findings:
        print(line, file=sys.stderr)
    print(f"deploy/: {len(findings)} findings" if findings else "deploy/: all is well")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
