"""Whether memory and disk stay flat over a run: samples of all processes and directories, and what they must keep to.

Flat: the median of the last third of the run is not above that of the second one by more than a tenth and a slack; the
first third is for what has to fill up first. And there is a most that nothing may ever exceed."""

import contextlib
import statistics
import subprocess
import threading
import time

from fleet_counts import row

GROWTH, SLACK_MIB = 1.10, 16
# Below this a third is too short to tell growth from warming up: only the most counts.
TREND_SECONDS = 240
LINES = 24


class Sampler(threading.Thread):
    """Takes a sample of every gauge again and again. `gauges`: name to what gives MiB, or fails while there is nothing."""

    def __init__(self, gauges, every):
        super().__init__(name="samples", daemon=True)
        self.gauges, self.every, self.samples, self.ended = gauges, every, [], threading.Event()
        self.began = time.monotonic()

    def run(self):
        while not self.ended.wait(self.every):
            sample = {}
            for name, gauge in self.gauges.items():
                with contextlib.suppress(OSError, KeyError, ValueError, AttributeError, subprocess.SubprocessError):
                    sample[name] = gauge()
            self.samples.append((time.monotonic() - self.began, sample))

    def stop(self):
        self.ended.set()
        self.join()

    def series(self, name, begin=0.0, end=1.0):
        """What there is between two parts of the run."""
        whole = self.samples[-1][0]
        return [sample[name] for at, sample in self.samples if begin * whole <= at <= end * whole and name in sample]

    def show(self):
        """Some of the samples, evenly over the run, in MiB."""
        names = list(self.gauges)
        widths = [max(7, len(name)) for name in names]
        print("\n    s  " + "  ".join(name.rjust(width) for name, width in zip(names, widths)) + "   MiB")
        step = max(1, len(self.samples) // LINES)
        for at, sample in self.samples[::step]:
            figures = (f"{sample[name]:.1f}" if name in sample else "-" for name in names)
            print(f"{at:5.0f}  " + "  ".join(figure.rjust(width) for figure, width in zip(figures, widths)))

    def judge(self, most):
        """`most`: name to MiB that it must never exceed; these must be flat."""
        for name, limit in most.items():
            found = max(self.series(name), default=0)
            row(f"MiB of {name}: the most", round(found, 1), f"≤ {limit}", found <= limit)
            if self.samples[-1][0] < TREND_SECONDS:
                continue
            second, last = (statistics.median(self.series(name, *part) or [0]) for part in ((1 / 3, 2 / 3), (2 / 3, 1)))
            row(f"MiB of {name}: median of the last third, of the second", f"{last:.1f}, {second:.1f}",
                f"≤ {GROWTH} × {second:.1f} + {SLACK_MIB}", last <= GROWTH * second + SLACK_MIB)
