"""A receiver of batches over HTTP that keeps what it takes in a file, and does what it is told.

receiver.py PORT FILE [KEY]: every POST is one line of FILE, on disk before it is answered. With a KEY, batches must be
signed as standardwebhooks has it; what is not is answered 401. `PUT /behaviour` says what happens to the next batches:
{"do": "ok"|"answer"|"lose"|"hang"|"garbage"|"cut"|"endless"|"refuse"|"together", ...}.
"""

import base64
import gzip
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

behaviour = {"do": "ok"}
present = 0
changed = threading.Condition()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # The head of an answer goes before its body.

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        global behaviour
        with changed:
            behaviour = json.loads(self.body())
            changed.notify_all()
        self.answer(200)

    def wait_for_others(self, count):
        """Returns once so many are here at a time; from then on, nobody waits."""
        global behaviour, present
        with changed:
            present += 1
            if present >= count:
                behaviour = {"do": "ok"}
                changed.notify_all()
            changed.wait_for(lambda: behaviour["do"] != "together")
            present -= 1

    def keep(self, body):
        headers = {name.lower(): value for name, value in self.headers.items()}
        line = {"path": self.path, "headers": headers, "body": base64.b64encode(body).decode()}
        os.write(kept, (json.dumps(line) + "\n").encode())

    def do_POST(self):
        body = self.body()
        if len(body) < int(self.headers.get("content-length", 0)):
            self.close_connection = True  # Cut off on its way.
            return None
        if keys:
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                for key in keys:
                    Webhook(key).verify(body, headers, json_parse=False)
            except Exception as error:
                return self.answer(401, f"{type(error).__name__}: {error}".encode())
        told = dict(behaviour)
        if told["do"] == "answer":
            headers = list(told.get("headers", {}).items())
            return self.answer(told["status"], told.get("body", "").encode(), headers)
        if told["do"] == "refuse":
            text = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            if told["poison"].encode() in text:
                return self.answer(told["status"], f"there is {told['poison']} in it".encode())
        if told["do"] == "hang":
            with changed:
                changed.wait_for(lambda: behaviour["do"] != "hang")
            self.close_connection = True
            return None
        if told["do"] == "together":
            self.wait_for_others(told["count"])
        if told["do"] == "garbage":
            self.wfile.write(b"\x00\xff this is no HTTP\r\n\r\n")
            self.close_connection = True
            return None
        self.keep(body)
        if told["do"] == "lose":
            self.close_connection = True
        elif told["do"] == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")
            self.close_connection = True
        elif told["do"] == "endless":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            except OSError:
                pass
        else:
            self.answer(200, b"thanks")
        return None


port, file, *keys = sys.argv[1:]
kept = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer.request_queue_size = 64
ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver).serve_forever()
