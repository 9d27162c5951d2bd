"""``telemetryx-brain``: starts the server until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from telemetryx_brain.functions import load
from telemetryx_brain.server import Options, Server
from telemetryx_brain.zscore import ZScore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telemetryx_brain.functions import Analyze

log = logging.getLogger("telemetryx_brain")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="telemetryx-brain",
        description="A brain for TelemetryX. Without --module it is a rolling z-score detector, which answers with events "
        "of type brain.anomaly.",
    )
    parser.add_argument("--listen", default="127.0.0.1:50061", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--module", metavar="FILE|MODULE", help="my_brain.py or my_package.brain, with functions marked @brain")
    parser.add_argument("--max-in-flight", type=int, default=4, metavar="N", help="batches that may wait for their answer (4)")
    parser.add_argument("--grace", type=float, default=20.0, metavar="SECONDS", help="for answers after SIGTERM (20)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    secure = parser.add_argument_group("who may come")
    secure.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate of the brain")
    secure.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    secure.add_argument("--client-ca", type=Path, metavar="PEM", help="clients must have a certificate of this authority")
    secure.add_argument("--token-file", type=Path, metavar="FILE", help="clients must show this; or TELEMETRYX_BRAIN_TOKEN")
    detector = parser.add_argument_group("the z-score detector")
    detector.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="PATH",
        help="a number in payloads, such as engine.temperature; repeatable (all numbers at the top)",
    )
    detector.add_argument("--window", type=int, default=300, metavar="N", help="values that one is compared with (300)")
    detector.add_argument("--min-samples", type=int, default=30, metavar="N", help="values before anything is found (30)")
    detector.add_argument("--threshold", type=float, default=3.0, metavar="Z", help="standard deviations (3)")
    detector.add_argument("--max-series", type=int, default=10_000, metavar="N", help="series that are known at a time (10000)")
    return parser


def options_of(given: argparse.Namespace) -> Options:
    """What was given, with the files read.

    Raises OSError or ValueError.
    """
    if (given.tls_cert is None) != (given.tls_key is None):
        raise ValueError("--tls-cert and --tls-key go together")
    if given.client_ca is not None and given.tls_cert is None:
        raise ValueError("--client-ca needs --tls-cert and --tls-key")
    if not 1 <= given.max_in_flight <= 1000:
        raise ValueError("--max-in-flight lies between 1 and 1000")
    token = given.token_file.read_text().strip() if given.token_file else os.environ.get("TELEMETRYX_BRAIN_TOKEN")
    if token is not None and not token:
        raise ValueError("the token is empty")

    def content(path: Path | None) -> bytes | None:
        return None if path is None else path.read_bytes()

    return Options(
        listen=given.listen,
        max_in_flight=given.max_in_flight,
        token=token,
        tls_cert=content(given.tls_cert),
        tls_key=content(given.tls_key),
        client_ca=content(given.client_ca),
    )


def function_of(given: argparse.Namespace) -> Analyze:
    """The functions that were named, or the detector."""
    if given.module is not None:
        return load(given.module)
    return ZScore(
        fields=given.field,
        window=given.window,
        min_samples=given.min_samples,
        threshold=given.threshold,
        max_series=given.max_series,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; answer what has arrived, then end, with status 1 if a function did not return."""
    given = arguments().parse_args(argv)
    logging.basicConfig(level=given.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = Server(function_of(given), options_of(given))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"telemetryx-brain: {error}")
    host = given.listen.rsplit(":", 1)[0]
    log.info("ready on %s:%d", host, server.port)
    stop.wait()
    log.info("stopping")
    answered = server.stop(given.grace)
    if answered:
        log.info("stopped")
    else:
        log.error("stopped, and a function has not returned within %g s: its batch will come again", given.grace)
    logging.shutdown()
    # Not through the interpreter's own end, which waits for every thread.
    os._exit(0 if answered else 1)
