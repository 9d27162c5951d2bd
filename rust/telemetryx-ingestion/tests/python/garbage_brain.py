#!/usr/bin/env python3
"""A brain that breaks the contract.

garbage_brain.py --listen ADDRESS FILE      what it does wrong is the word in FILE, read for each stream and batch
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from telemetryx_brain._proto import brain_pb2

_, _, address, word_file = sys.argv

# What shows only when a stream begins.
OF_STREAMS = ("ends_at_once", "answers_first", "protocol", "no_credit", "endless_credit")


def word():
    return Path(word_file).read_text().strip()


def begin(wrong):
    ready = brain_pb2.Ready(protocol=1, brain="garbage", message_bytes_max=3000 if wrong == "small" else 0)
    if wrong == "protocol":
        ready.protocol = 99
    if wrong == "answers_first":
        return brain_pb2.FromBrain(answer=brain_pb2.Answer(sequence=1, done=brain_pb2.Done()))
    return brain_pb2.FromBrain(credit={"no_credit": 0, "endless_credit": 4_000_000_000}.get(wrong, 2), ready=ready)


def finding(count=1, **event):
    made = brain_pb2.Finding(causes=[0])
    made.event.type = "x"
    for name, value in event.items():
        setattr(made.event, name, value)
    return [made] * count


def answers(wrong, batch):
    answer = brain_pb2.Answer(sequence=batch.sequence)
    answer.done.SetInParent()
    if wrong == "sequence":
        answer.sequence += 7
    elif wrong == "nothing":
        answer.ClearField("done")
    elif wrong == "too_many":
        answer.done.findings.extend(finding(10_000))
    elif wrong == "far_too_many":
        answer.done.findings.extend([brain_pb2.Finding()] * 200_000)
    elif wrong == "too_large":
        answer.done.findings.extend(finding(payload=b"1" * (9 << 20)))
    elif wrong == "far_too_large":
        answer.done.findings.extend(finding(payload=b"1" * (40 << 20)))
    elif wrong == "no_cause":
        answer.done.findings.append(brain_pb2.Finding(event=finding()[0].event))
    elif wrong == "far_cause":
        answer.done.findings.append(brain_pb2.Finding(causes=[4_000_000_000], event=finding()[0].event))
    elif wrong == "no_type":
        answer.done.findings.extend(finding(type=""))
    elif wrong == "no_text":
        answer.done.findings.extend(finding(payload=b"\xff\xfe"))
    elif wrong == "far_refusal":
        answer.refused.events.add(index=1_000_000, code="x", message="y")
    elif wrong == "invalid":
        # Of all that becomes an event, this is what the rules of events refuse.
        answer.done.findings.extend(finding(payload=b"{no json"))
        answer.done.findings.extend(finding(type="t" * 200))
        answer.done.findings.extend(finding(time_unix_nano=4_000_000_000_000_000_000))
        answer.done.findings.extend(finding(payload=b'"' + b"x" * (2 << 20) + b'"'))
        answer.done.findings.extend(finding(type="fine"))
    yield brain_pb2.FromBrain(credit=1, answer=answer)
    if wrong == "twice":
        yield brain_pb2.FromBrain(answer=answer)
    if wrong == "ready_twice":
        yield begin("")


def analyze(requests, context):
    next(requests)
    began = word()
    if began == "ends_at_once":
        return
    yield begin(began)
    for request in requests:
        wrong = word()
        if wrong == "ends" or (wrong in OF_STREAMS and wrong != began):
            return
        if wrong == "raises":
            raise RuntimeError("a fault of the brain")
        if wrong == "silent":
            print("silent", file=sys.stderr, flush=True)
            time.sleep(3600)
        if wrong == "bytes":
            yield b"\xff\xff\xff\xff"
        yield from answers(wrong, request.batch)


def bytes_of(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


server = grpc.server(ThreadPoolExecutor(64))
handler = grpc.stream_stream_rpc_method_handler(analyze, brain_pb2.ToBrain.FromString, bytes_of)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("telemetryx.v1.Brain", {"Analyze": handler}),))
server.add_insecure_port(address)
server.start()
print("ready on", address, file=sys.stderr, flush=True)
server.wait_for_termination()
