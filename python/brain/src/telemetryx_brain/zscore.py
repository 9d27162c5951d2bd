"""A rolling z-score: values that lie far from the others of their series.

A series is the values of one field in the events of one type and one source of one route. A value is compared with those
before it in its window, and then joins them.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from telemetryx_brain.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from telemetryx_brain.batch import Batch, Event


class RollingStats:
    """Mean and standard deviation of the last values, after Welford, in constant time a value."""

    __slots__ = ("_m2", "_since_exact", "_values", "_window", "mean")

    def __init__(self, window: int) -> None:
        """Over the last ``window`` values, at least 2."""
        if window < 2:
            raise ValueError(f"a window has at least 2 values, not {window}")
        self._window = window
        self._values: deque[float] = deque()
        self._m2 = 0.0
        self._since_exact = 0
        self.mean = 0.0

    def __len__(self) -> int:
        """How many values there are now."""
        return len(self._values)

    @property
    def std(self) -> float:
        """The sample standard deviation (n - 1); 0 for fewer than two values."""
        count = len(self._values)
        return math.sqrt(max(self._m2, 0.0) / (count - 1)) if count > 1 else 0.0

    def add(self, value: float) -> None:
        """Take in a value; the oldest goes if the window is full."""
        values = self._values
        if len(values) == self._window:
            gone = values.popleft()
            count = len(values)
            mean = self.mean - (gone - self.mean) / count
            self._m2 -= (gone - mean) * (gone - self.mean)
            self.mean = mean
            self._since_exact += 1
        values.append(value)
        delta = value - self.mean
        self.mean += delta / len(values)
        self._m2 += delta * (value - self.mean)
        if self._since_exact >= self._window:
            # What taking values away again has left behind in rounding does not add up.
            self._since_exact = 0
            self.mean = math.fsum(values) / len(values)
            self._m2 = math.fsum((one - self.mean) ** 2 for one in values)


class ZScore:
    """The detector: call it with a batch. Where a window's values are all equal, any other is found, with ``z`` null."""

    def __init__(
        self,
        *,
        fields: Sequence[str] = (),
        window: int = 300,
        min_samples: int = 30,
        threshold: float = 3.0,
        max_series: int = 10_000,
    ) -> None:
        """Watch the paths ``fields`` of payloads, or all numbers at their top.

        Nothing is found in a series before it has ``min_samples`` values. Of more than ``max_series`` series those that
        had no value for longest are forgotten.
        """
        if not 2 <= min_samples <= window:
            raise ValueError(f"min_samples lies between 2 and the window of {window}, not at {min_samples}")
        if not threshold > 0:
            raise ValueError(f"the threshold is above 0, not {threshold}")
        if max_series < 1:
            raise ValueError(f"there is at least 1 series, not {max_series}")
        self.fields = tuple(fields)
        self.window = window
        self.min_samples = min_samples
        self.threshold = threshold
        self.max_series = max_series
        self._series: OrderedDict[tuple[str, str, str | int, str], RollingStats] = OrderedDict()

    def __call__(self, batch: Batch) -> list[Finding]:
        """What is unusual in the batch. What an operator replays is judged by what is known now, and not counted again."""
        counts = batch.cause.kind != "replay"
        found = []
        for event in batch.events:
            for field, value in self._numbers(event):
                stats = self._stats((batch.route, event.type, event.source, field))
                finding = self._judge(event, field, value, stats)
                if finding is not None:
                    found.append(finding)
                if counts:
                    stats.add(value)
        return found

    def _stats(self, series: tuple[str, str, str | int, str]) -> RollingStats:
        stats = self._series.get(series)
        if stats is None:
            stats = self._series[series] = RollingStats(self.window)
            if len(self._series) > self.max_series:
                self._series.popitem(last=False)
        else:
            self._series.move_to_end(series)
        return stats

    def _judge(self, event: Event, field: str, value: float, stats: RollingStats) -> Finding | None:
        if len(stats) < self.min_samples:
            return None
        mean, std = stats.mean, stats.std
        # Below this a deviation is the rounding of equal values.
        if std <= 1e-12 * abs(mean):
            if math.isclose(value, mean, rel_tol=1e-9):
                return None
            z = None
        else:
            z = (value - mean) / std
            if abs(z) <= self.threshold:
                return None
        payload = {"field": field, "value": value, "mean": mean, "std": std, "z": z, "samples": len(stats)}
        return Finding("anomaly", cause=event, payload=payload, attributes={"field": field})

    def _numbers(self, event: Event) -> Iterator[tuple[str, float]]:
        if self.fields:
            values: Iterable[tuple[str, Any]] = ((path, event.value(path)) for path in self.fields)
        else:
            payload = event.payload
            values = payload.items() if isinstance(payload, dict) else [("", payload)]
        for name, value in values:
            number = _number(value)
            if number is not None:
                yield name, number


def _number(value: object) -> float | None:
    """A finite number whose square is one too, so that a series stays one of numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e150 else None
