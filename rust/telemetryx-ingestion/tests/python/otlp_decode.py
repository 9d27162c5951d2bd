"""Decodes what receiver.py took as the messages of opentelemetry-proto.

otlp_decode.py FILE: prints an array of the requests, each {"path", "request"} in the JSON mapping of protobuf.
"""

import base64
import gzip
import json
import sys

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

messages = {
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
}
requests = []
with open(sys.argv[1], encoding="utf-8") as lines:
    for line in lines:
        taken = json.loads(line)
        assert taken["headers"]["content-type"] == "application/x-protobuf", taken["headers"]
        body = base64.b64decode(taken["body"])
        if taken["headers"].get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request = messages[taken["path"]]()
        request.ParseFromString(body)
        requests.append({"path": taken["path"], "request": MessageToDict(request)})
print(json.dumps(requests))
