"""``python -m telemetryx_brain`` is ``telemetryx-brain``."""

from telemetryx_brain.cli import main

main()
