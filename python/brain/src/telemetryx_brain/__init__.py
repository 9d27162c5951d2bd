"""A brain for TelemetryX: it is handed the batches of a route and answers with what it finds in them.

All that you write is one function::

    from telemetryx_brain import Event, Finding, brain

    @brain
    def slow_orders(events: list[Event]) -> list[Finding]:
        return [Finding("slow", cause=event, payload={"seconds": event.payload["seconds"]})
                for event in events
                if event.type == "Order" and event.payload["seconds"] > 3]

and start with ``telemetryx-brain --module my_brain.py``.
"""

from telemetryx_brain.batch import Batch, Cause, Event
from telemetryx_brain.findings import Finding, Refuse
from telemetryx_brain.functions import brain
from telemetryx_brain.zscore import RollingStats, ZScore

__all__ = ["Batch", "Cause", "Event", "Finding", "Refuse", "RollingStats", "ZScore", "brain"]
__version__ = "0.1.0"
