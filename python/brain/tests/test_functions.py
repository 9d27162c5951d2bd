"""The decorator, frames, findings, and modules that are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support import TS, batch, event

from telemetryx_brain import Batch, Event, Finding, Refuse, brain, functions


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    functions._registered.clear()
    yield
    functions._registered.clear()


def some() -> Batch:
    payloads: list[Any] = [{"n": 1, "deep": {"x": 1.5}}, {"n": "odd"}, None, [1, 2]]
    return Batch("r", batch(event(n, payload, source=n) for n, payload in enumerate(payloads)))


def found(given: Batch) -> list[Finding]:
    return list(functions.together(functions._registered)(given) or ())


def test_a_function_gets_events_and_its_findings_say_what_they_are_about() -> None:
    @brain
    def odd(events: list[Event]) -> Iterator[Finding]:
        for one in events:
            if one.value("n") == "odd":
                yield Finding("odd", cause=one, payload={"id": one.id})

    @brain()
    def nothing(events: list[Event]) -> None:
        assert len(events) == 4

    [finding] = found(some())
    message = finding.message(some())
    assert (list(message.causes), message.event.type, message.event.payload) == ([1], "odd", b'{"id":"e-1"}')
    assert odd([]) is not None  # it is still the function


def test_an_event_is_what_was_sent() -> None:
    message = event(5, {"a": [1, {"b": None}]}, source=7)
    message.attributes["host"] = "h"
    message.received_unix_nano = TS
    one = Event(message, 3)
    assert (one.id, one.ts, one.type, one.source, one.schema_version) == ("e-5", TS + 5, "reading", 7, 1)
    assert one.time == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert (one.partition_key, dict(one.attributes), one.received_at) == (None, {"host": "h"}, TS)
    assert (one.payload, one.payload_text) == ({"a": [1, {"b": None}]}, '{"a": [1, {"b": null}]}')
    assert one.payload is one.payload
    assert one.value("a.b") is None
    assert "e-5" in repr(one)


def test_a_table_of_arrow_has_a_row_an_event_and_the_columns_asked_for() -> None:
    tables = []

    @brain(frame="arrow", fields=["deep.x", "n"])
    def rows(table: pa.Table) -> list[Finding]:
        tables.append(table)
        return [Finding("row", cause=np.int64(2))]

    [finding] = found(some())
    assert list(finding.message(some()).causes) == [2]
    [table] = tables
    assert table.num_rows == 4
    assert table.column("id").to_pylist() == ["e-0", "e-1", "e-2", "e-3"]
    assert table.column("source").to_pylist() == ["0", "1", "2", "3"]
    assert table.column("ts").type == pa.timestamp("ns", tz="UTC")
    assert table.column("ts").cast(pa.int64()).to_pylist() == [TS, TS + 1, TS + 2, TS + 3]
    assert table.column("deep.x").to_pylist() == [1.5, None, None, None]
    # Numbers and texts: JSON.
    assert table.column("n").to_pylist() == ["1", '"odd"', None, None]


def test_a_frame_of_pandas_has_a_row_an_event_also_where_only_some_are_looked_at() -> None:
    @brain(frame="pandas", fields=["deep.x"])
    def rows(frame: pd.DataFrame) -> list[Finding]:
        assert list(frame["id"]) == ["e-1", "e-3"]
        assert frame["ts"].dt.year.tolist() == [2026, 2026]
        return [Finding("row", cause=[1, 0], payload={"max": frame["received_at"].max().year})]

    whole = some()
    part = Batch("r", whole._message, [1, 3])
    [finding] = found(part)
    assert list(finding.message(part).causes) == [3, 1]


def test_numbers_of_numpy_and_times_are_json() -> None:
    payload = {"f": np.float64(1.5), "a": np.array([1, 2]), "t": datetime(2026, 1, 1, tzinfo=timezone.utc)}
    finding = Finding("x", cause=0, payload=payload, source="me", ts=datetime(2026, 1, 1, 0, 0, 1), attributes={"k": "v"})
    message = finding.message(some())
    assert json.loads(message.event.payload) == {"f": 1.5, "a": [1, 2], "t": "2026-01-01T00:00:00+00:00"}
    assert (message.event.time_unix_nano, message.event.source_name) == (TS + 1_000_000_000, "me")
    assert dict(message.event.attributes) == {"k": "v"}


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding("", cause=0), "kind"),
        (Finding("x" * 123, cause=0), "kind"),
        (Finding("x", cause=[]), "no cause"),
        (Finding("x", cause=4), "no row 4 in a batch of 4"),
        (Finding("x", cause=-1), "no row -1"),
        (Finding("x", cause=0, payload=float("nan")), "JSON"),
        (Finding("x", cause=0, payload={"x": object()}), "object is no JSON"),
        (Finding("x", cause=0, payload="\ud800"), "surrogates"),
        (Finding("x", cause=0, source=-1), "-1"),
    ],
)
def test_findings_that_cannot_be_sent_are_errors_that_say_why(finding: Finding, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        finding.message(some())


def test_a_refusal_names_its_events() -> None:
    batch = some()
    answer = Refuse([batch.events[1], 3], "cannot read it", code="unreadable").answer(batch)
    assert [(one.index, one.code, one.message) for one in answer.events] == [
        (1, "unreadable", "cannot read it"),
        (3, "unreadable", "cannot read it"),
    ]
    assert [one.index for one in Refuse(iter([2, 0, 2]), "x").answer(batch).events] == [2, 0]
    assert len(Refuse(0, "x" * 5000).answer(batch).events[0].message) == 1000


@pytest.mark.parametrize("nothing", [[], iter(()), pd.Index([]), np.array([], dtype=int)])
def test_a_refusal_of_nothing_is_a_mistake_and_not_one_of_everything(nothing: Any) -> None:
    with pytest.raises(ValueError, match="was given none"):
        Refuse(nothing, "one of them")


def test_events_and_batches_of_ones_own_are_as_those_that_come() -> None:
    events = [Event.of({"n": 1}, type="Order", source=7, index=0), Event.of("text", ts=TS, id="mine", index=1)]
    assert [(one.id, one.type, one.source, one.ts) for one in events] == [
        ("event-0", "Order", 7, 0),
        ("mine", "event", "unknown", TS),
    ]
    own = Batch.of(events)
    assert (len(own), own.cause.kind, own.events[1].payload) == (2, "journal", "text")
    assert own.pandas(["n"])["n"][0] == 1
    [finding] = Finding("x", cause=own.events[1]).message(own).causes
    assert finding == 1


def test_a_number_is_what_one_can_count_with() -> None:
    payload = {"i": 3, "f": 0.5, "b": True, "s": "3", "huge": 10**400, "nan": float("nan"), "none": None, "deep": {"x": -1}}
    one = Event.of(payload)
    names = ["i", "f", "deep.x", "b", "s", "huge", "nan", "none", "missing", "s.x"]
    assert [one.number(name) for name in names] == [3.0, 0.5, -1.0] + [None] * 7


ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("page", ["python/brain/README.md", "docs/sinks.md"])
def test_the_examples_of_the_pages_run_and_find_the_slow_order_among_odd_events(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    examples = [block for block in blocks if "@brain" in block]
    assert examples
    names: dict[str, Any] = {}
    payloads: list[Any] = [{"seconds": 4.5}, {"seconds": "?"}, {}, None, [1], {"seconds": True}, {"seconds": 1}]
    batch = Batch.of(Event.of(payload, type="Order", index=n) for n, payload in enumerate(payloads))
    for example in examples:
        functions._registered.clear()
        exec(example, names)
        assert [(list(one.message(batch).causes), one.payload) for one in found(batch)] == [([0], {"seconds": 4.5})], example


def test_a_file_or_a_module_is_loaded_with_all_its_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_brain.py").write_text("KIND = 'from_helper'\n")
    source = """
from helper_of_brain import KIND
from telemetryx_brain import Finding, brain
@brain
def one(events): return [Finding(KIND, cause=events[0])]
@brain(frame="batch")
def two(batch): return [Finding(batch.route, cause=0)]
"""
    (tmp_path / "some_brain.py").write_text(source)
    (tmp_path / "empty_brain.py").write_text("")
    loaded = functions.load(str(tmp_path / "some_brain.py"))
    assert [finding.kind for finding in loaded(some()) or ()] == ["from_helper", "r"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "some_brain")
    loaded = functions.load("some_brain")
    assert len(list(loaded(some()) or ())) == 2
    with pytest.raises(ValueError, match="no function"):
        functions.load(str(tmp_path / "empty_brain.py"))
    with pytest.raises(ValueError, match="no file"):
        functions.load(str(tmp_path / "missing.py"))
    with pytest.raises(ValueError, match="frame is"):
        brain(frame="polars")  # type: ignore[call-overload]
