"""A bare grpcio client of a brain, for scripts/bench: sends batches of the events on standard input (JSON lines, the first
5,000), as fast as there is credit, and prints how many events a second were answered.

brain-reference.py PORT SECONDS
"""

import itertools
import json
import queue
import sys
import time
from datetime import datetime

import grpc

from telemetryx_brain._proto import brain_pb2, events_pb2

EVENTS = 5_000


def nanoseconds(text):
    whole, _, rest = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(rest.ljust(9, "0") or 0)


def event(line):
    fields = json.loads(line)
    made = events_pb2.Event(id=fields["id"], time_unix_nano=nanoseconds(fields["ts"]), type=fields["type"], schema_version=1)
    made.source_name = str(fields["source"])
    made.attributes.update(fields.get("attributes", {}))
    made.payload = json.dumps(fields["payload"], separators=(",", ":")).encode()
    made.received_unix_nano = made.time_unix_nano
    return made


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def main():
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    events = events_pb2.EventBatch(events=[event(line) for line in itertools.islice(sys.stdin, EVENTS)])
    # The events are the same each time: field 6 of a batch.
    body = events.SerializeToString()
    body = b"\x32" + varint(len(body)) + body
    credit = queue.SimpleQueue()
    until = time.monotonic() + 3600

    def messages():
        yield brain_pb2.ToBrain(hello=brain_pb2.Hello(protocol=1, route=f"bare-{time.time()}")).SerializeToString()
        for sequence in itertools.count(1):
            credit.get()
            if time.monotonic() > until:
                return
            first = sequence * EVENTS
            head = brain_pb2.Batch(sequence=sequence, offsets=range(first, first + EVENTS))
            head.journal.log, head.journal.first, head.journal.end = "bare", first, first + EVENTS
            batch = head.SerializeToString() + body
            yield b"\x12" + varint(len(batch)) + batch

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", 64 << 20)]) as channel:
        analyze = channel.stream_stream("/telemetryx.v1.Brain/Analyze", None, brain_pb2.FromBrain.FromString)
        answered, begun = 0, None
        for message in analyze(messages()):
            if begun is None:
                begun = time.monotonic()
                until = begun + seconds
            answered += message.HasField("answer")
            for _ in range(message.credit):
                credit.put(None)
        print(answered * EVENTS / (time.monotonic() - begun))


main()
