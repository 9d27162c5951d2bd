"""Whether a PromQL expression asks for metrics that the service has, by labels that they have."""

import re

# The macros of src/observe that make a metric: its kind, its name, its labels.
MADE = re.compile(r'\b(counter|gauge|histogram)!\(\s*"(\w+)"((?:[^()"]|"(?:[^"\\]|\\.)*"|\([^()]*\))*)\)')
LABEL = re.compile(r'"(\w+)"\s*=>')
# Prometheus' own, and the labels that it adds to what it scrapes.
OF_PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate"}}
OF_TARGETS = {"job", "instance", "namespace", "pod", "service"}
# What an expression is made of beside metrics and labels.
FUNCTIONS = set(
    "abs absent avg changes count delta deriv histogram_quantile increase max max_over_time min min_over_time or and"
    " unless on ignoring group_left group_right by without offset bool predict_linear quantile rate sum vector".split()
)
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
MATCHERS = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+|(?<![\w.])\d[\w.]*")
WORD = re.compile(r"[A-Za-z_:][\w:]*")


def known(root):
    """Every metric and its labels; a histogram is three."""
    result = dict(OF_PROMETHEUS)
    for file in sorted((root / "rust/telemetryx-ingestion/src").rglob("*.rs")):
        for kind, name, rest in MADE.findall(file.read_text()):
            labels = set(LABEL.findall(rest))
            names = [f"{name}{end}" for end in ("_bucket", "_sum", "_count")] if kind == "histogram" else [name]
            for made in names:
                le = {"le"} if made.endswith("_bucket") else set()
                result[made] = result.get(made, set()) | labels | le
    return result


def problems(expression, known_metrics):
    """What is wrong with the expression, in words."""
    found = []
    bare = TEXT.sub('""', expression)
    # Labels that are matched belong to the metric before the braces.
    for name, matchers in re.findall(r"([\w:]+)\s*\{([^}]*)\}", bare):
        for label in MATCHERS.findall(matchers):
            if name in known_metrics and label not in known_metrics[name] | OF_TARGETS:
                found.append(f"{name} has no label {label}")
    bare = re.sub(r"\{[^}]*\}", "", bare)
    grouped = {label.strip() for group in GROUPING.findall(bare) for label in group.split(",") if label.strip()}
    bare = RANGE.sub(" ", GROUPING.sub(" ", bare))
    names = {word for word in WORD.findall(bare) if word not in FUNCTIONS}
    found += [f"there is no metric {name}" for name in sorted(names - known_metrics.keys())]
    labels = set().union(OF_TARGETS, *(known_metrics.get(name, set()) for name in names))
    found += [f"none of its metrics has a label {label}" for label in sorted(grouped - labels)]
    return found
