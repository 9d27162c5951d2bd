"""Sends with the OpenTelemetry SDK and says on standard output, a JSON object a line, what it sent.

otlp_sdk.py signals TRANSPORT ENDPOINT   all three signals once: {"signal", "request": base64 of the protobuf}
otlp_sdk.py batches TRANSPORT ENDPOINT N N batches of one log record each, one after the other: {"batch"} once it is taken
otlp_sdk.py load TRANSPORT ENDPOINT NAME batches of ten log records until standard input ends: {"first"} once one is taken

Ends with 1 if anything was given up. The SDK's own log, with its retries, is on standard error.
"""

import base64
import json
import logging
import sys
import threading
import time

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

# More than any wait that a test makes; the exporters' own is ten seconds.
TIMEOUT = 60

given_up = threading.Event()
speaking = threading.Lock()


def say(**what):
    with speaking:
        print(json.dumps(what), flush=True)


def exporters(transport, endpoint):
    """Exporters of logs, spans and metrics."""
    if transport == "grpc":
        from grpc import Compression
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        options = {"endpoint": endpoint, "insecure": True, "timeout": TIMEOUT, "compression": Compression.Gzip}
        return [OTLPLogExporter(**options), OTLPSpanExporter(**options), OTLPMetricExporter(**options)]
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    options = {"timeout": TIMEOUT, "compression": Compression.Gzip}
    return [
        OTLPLogExporter(f"{endpoint}/v1/logs", **options),
        OTLPSpanExporter(f"{endpoint}/v1/traces", **options),
        OTLPMetricExporter(f"{endpoint}/v1/metrics", **options),
    ]


def telling(exporter, success, tell):
    """The exporter, which tells of each batch that was taken."""
    export = exporter.export

    def export_and_tell(batch, *args, **kwargs):
        result = export(batch, *args, **kwargs)
        if result is success:
            tell(batch)
        else:
            given_up.set()
        return result

    exporter.export = export_and_tell
    return exporter


def resource(name):
    return Resource({
        "service.name": name, "host.name": "größe", "zone": "from resource", "cpus": 8, "load": 0.25, "cloud": True,
        "tags": ["a", "b"],
    })


def signals(transport, endpoint):
    def tell(signal, encode):
        return lambda batch: say(
            signal=signal, request=base64.b64encode(encode(batch).SerializeToString()).decode()
        )

    logs, spans, metrics = exporters(transport, endpoint)
    logs = telling(logs, LogRecordExportResult.SUCCESS, tell("logs", encode_logs))
    spans = telling(spans, SpanExportResult.SUCCESS, tell("traces", encode_spans))
    metrics = telling(metrics, MetricExportResult.SUCCESS, tell("metrics", encode_metrics))
    everywhere = resource(f"shop-{transport}")

    tracers = TracerProvider(resource=everywhere)
    tracers.add_span_processor(BatchSpanProcessor(spans))
    loggers = LoggerProvider(resource=everywhere)
    loggers.add_log_record_processor(BatchLogRecordProcessor(logs))
    exponential = View(instrument_name="size", aggregation=ExponentialBucketHistogramAggregation())
    reader = PeriodicExportingMetricReader(metrics, export_interval_millis=3_600_000)
    meters = MeterProvider(resource=everywhere, metric_readers=[reader], views=[exponential])

    tracer = tracers.get_tracer("shop.tracer", "1.2", schema_url="https://example.com/schema")
    logger = loggers.get_logger("shop.logger", "3.4", attributes={"zone": "from scope"})
    with tracer.start_as_current_span("checkout", kind=SpanKind.SERVER, attributes={"zone": "from span"}) as parent:
        for number in range(3):
            link = Link(parent.get_span_context(), {"why": "test"})
            with tracer.start_as_current_span(f"step {number}", links=[link], attributes={"number": number}) as span:
                span.add_event("tried", {"times": number})
                span.set_status(Status(StatusCode.ERROR, "no \"luck\"\n"))
                logger.emit(LogRecord(
                    timestamp=time.time_ns(), severity_number=SeverityNumber.WARN, severity_text="WARN",
                    body={"text": f"log {number}", "list": [1, 2.5, None, {"deep": b"\x00\xff"}]},
                    attributes={"number": number, "ratio": 0.5, "ok": True, "list": ["x", "y"]},
                ))
    meter = meters.get_meter("shop.meter", "5.6")
    meter.create_counter("orders", "1", "Orders").add(3, {"kind": "gift"})
    meter.create_counter("orders").add(4, {"kind": "own"})
    meter.create_up_down_counter("open").add(-2)
    meter.create_gauge("heat", "Cel").set(21.5)
    for value in (1, 2.5, 100):
        meter.create_histogram("delay", "ms").record(value)
        meter.create_histogram("size", "By").record(value)
    for provider in (tracers, loggers, meters):
        provider.shutdown()


def emitter(transport, endpoint, name, processor, tell):
    logs = telling(exporters(transport, endpoint)[0], LogRecordExportResult.SUCCESS, tell)
    loggers = LoggerProvider(resource=resource(name))
    loggers.add_log_record_processor(processor(logs))
    return loggers


def record(number):
    return LogRecord(timestamp=time.time_ns(), severity_number=SeverityNumber.INFO, body=f"{number}",
                     attributes={"number": number})


def batches(transport, endpoint, count):
    def tell(batch):
        for data in batch:
            say(batch=data.log_record.attributes["number"])

    loggers = emitter(transport, endpoint, "batches", SimpleLogRecordProcessor, tell)
    for number in range(int(count)):
        loggers.get_logger("test").emit(record(number))
    loggers.shutdown()


def load(transport, endpoint, name):
    """Hands batches to the exporter itself: a processor would drop records once its queue is full."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    kept = []

    class Keep:
        def on_emit(self, log_record):
            kept.append(log_record)

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=0):
            return True

    loggers = emitter(transport, endpoint, name, lambda logs: Keep(), lambda batch: None)
    logs = exporters(transport, endpoint)[0]
    first = 0
    while not stop.is_set():
        for number in range(first, first + 10):
            loggers.get_logger("test").emit(record(number))
        if logs.export(kept) is LogRecordExportResult.SUCCESS:
            say(first=first)
        kept.clear()
        first += 10
    logs.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    {"signals": signals, "batches": batches, "load": load}[sys.argv[1]](*sys.argv[2:])
    sys.exit(given_up.is_set())
