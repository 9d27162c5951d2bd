"""A brain for TelemetryX: it is handed the batches of a route and answers with what it finds in them.

All that you write is one function, in ``my_brain.py``:

>>> from telemetryx_brain import Event, Finding, brain
>>> @brain
... def slow_orders(events: list[Event]) -> list[Finding]:
...     return [
...         Finding("slow_order", cause=event, payload={"seconds": seconds})
...         for event in events
...         if event.type == "Order" and (seconds := event.number("seconds") or 0) > 3
...     ]

Started with ``telemetryx-brain --module my_brain.py`` it is called with what arrives. It is still a function to try:

>>> events = [Event.of({"seconds": 4.5}, type="Order"), Event.of({"seconds": None}, type="Order"), Event.of()]
>>> [finding.payload for finding in slow_orders(events)]
[{'seconds': 4.5}]
"""

from telemetryx_brain.batch import Batch, Cause, Event
from telemetryx_brain.findings import Finding, Refuse
from telemetryx_brain.functions import brain
from telemetryx_brain.zscore import RollingStats, ZScore

__all__ = ["Batch", "Cause", "Event", "Finding", "Refuse", "RollingStats", "ZScore", "brain"]
__version__ = "0.1.0"
