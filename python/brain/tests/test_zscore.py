"""The detector, against the standard library and numpy."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from support import batch, event, numbers

from telemetryx_brain import Batch, RollingStats, ZScore


@pytest.mark.parametrize("seed", range(20))
def test_rolling_statistics_are_those_of_the_standard_library_and_of_numpy(seed: int) -> None:
    random_numbers = random.Random(seed)
    window = random_numbers.randint(2, 40)
    scale = 10 ** random_numbers.randint(-6, 9)
    offset = random_numbers.choice([0, 1e6, -1e9])
    values = [offset + scale * random_numbers.gauss(0, 1) for _ in range(1000)]
    stats = RollingStats(window)
    for n, value in enumerate(values, 1):
        stats.add(value)
        last = values[max(0, n - window) : n]
        assert len(stats) == len(last)
        # As exact as the input: it has 16 digits, of which `offset` takes some.
        close = {"rel_tol": 1e-6, "abs_tol": 1e-9 * (abs(offset) + scale)}
        assert math.isclose(stats.mean, statistics.fmean(last), **close)
        if n > 1:
            assert math.isclose(stats.std, statistics.stdev(last), **close)
            assert math.isclose(stats.std, float(np.std(last, ddof=1)), **close)


def test_a_large_value_that_has_left_the_window_leaves_nothing_behind() -> None:
    stats = RollingStats(10)
    for value in [1e12] + [float(n % 3) for n in range(25)]:
        stats.add(value)
    last = [float(n % 3) for n in range(15, 25)]
    assert stats.mean == pytest.approx(statistics.fmean(last), abs=1e-9)
    assert stats.std == pytest.approx(statistics.stdev(last), abs=1e-9)


def test_what_is_found_is_what_numpy_says() -> None:
    random_numbers = random.Random(7)
    values = [random_numbers.gauss(20, 2) for _ in range(2000)]
    for spike in range(100, 2000, 97):
        values[spike] += 30
    detector = ZScore(window=50, min_samples=10)
    found = [finding for n in range(0, 2000, 130) for finding in detector(numbers(values[n : n + 130], first=n))]
    expected = []
    for n in range(10, 2000):
        window = np.array(values[max(0, n - 50) : n])
        z = (values[n] - window.mean()) / window.std(ddof=1)
        if abs(z) > 3:
            expected.append((values[n], window.mean(), window.std(ddof=1), z, len(window)))
    assert len(expected) >= 20
    assert len(found) == len(expected)
    for finding, (value, mean, std, z, samples) in zip(found, expected, strict=True):
        assert finding.kind == "anomaly"
        payload = finding.payload
        assert (payload["value"], payload["samples"], payload["field"]) == (value, samples, "x")
        assert payload["mean"] == pytest.approx(mean, rel=1e-9)
        assert payload["std"] == pytest.approx(std, rel=1e-6)
        assert payload["z"] == pytest.approx(z, rel=1e-6)


def test_nothing_is_found_before_there_are_enough_values() -> None:
    detector = ZScore(window=10, min_samples=5)
    assert detector(numbers([1, 2, 1, 2, 1000])) == []
    assert len(ZScore(window=10, min_samples=4)(numbers([1, 2, 1, 2, 1000]))) == 1


def test_after_equal_values_any_other_is_found_without_a_z() -> None:
    detector = ZScore(window=10, min_samples=5)
    [finding] = detector(numbers([0.1] * 30 + [0.1 + 1e-16, 0.2, 0.1]))
    assert (finding.payload["value"], finding.payload["z"], finding.payload["mean"]) == (0.2, None, pytest.approx(0.1))


def test_series_are_apart_by_route_type_source_and_field() -> None:
    detector = ZScore(window=10, min_samples=3)
    calm = [{"a": n % 2, "b": 100 + n % 2} for n in range(10)]
    pairs: list[tuple[str | int, str]] = [("s", "t"), ("s", "u"), (7, "t"), ("7", "t")]
    for source, kind in pairs:
        events = [event(n, payload, kind, source) for n, payload in enumerate(calm)]
        assert detector(Batch("r", batch(events))) == []
        assert detector(Batch("other", batch(events))) == []
    assert len(detector._series) == 2 * 4 * 2
    odd = Batch("r", batch([event(20, {"a": 100, "b": 100}, "t", "s")], first=20))
    assert [finding.payload["field"] for finding in detector(odd)] == ["a"]


def test_paths_reach_into_payloads_and_what_is_no_number_is_left_out() -> None:
    detector = ZScore(fields=["engine.t"], window=10, min_samples=3)
    others = [None, 3, "x", {"engine": 3}, {"engine": {"t": True}}, {"engine": {"t": "4"}}, {"engine": {"t": 10**400}}]
    payloads = [{"engine": {"t": n % 2}, "t": 10_000 * n} for n in range(9)] + others + [{"engine": {"t": 50}}]
    found = detector(Batch("r", batch(event(n, payload) for n, payload in enumerate(payloads))))
    assert [finding.payload["value"] for finding in found] == [50]
    plain = ZScore(window=10, min_samples=3)
    found = plain(Batch("r", batch(event(n, payload) for n, payload in enumerate([1, 2, 1, 2, 99]))))
    assert [finding.payload["field"] for finding in found] == [""]


def test_series_beyond_the_limit_are_forgotten_the_longest_unused_first() -> None:
    detector = ZScore(window=10, min_samples=3, max_series=2)
    for source in ["a", "b", "a", "c"]:
        detector(numbers([1, 2], source=source))
    assert [series[2] for series in detector._series] == ["a", "c"]


def test_a_replay_is_judged_and_not_counted() -> None:
    detector = ZScore(window=10, min_samples=5)
    detector(numbers([1, 2, 1, 2, 1, 2]))
    message = batch([event(n, {"x": 500}) for n in range(3)])
    message.replay.SetInParent()
    assert len(detector(Batch("r", message))) == 3
    assert len(next(iter(detector._series.values()))) == 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 1}, "min_samples"),
        ({"window": 10, "min_samples": 11}, "window of 10"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"max_series": 0}, "series"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ZScore(**settings)  # type: ignore[arg-type]
