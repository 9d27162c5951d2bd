#!/usr/bin/env python3
"""A network on this machine that can be cut: ways from one process to another, each a TCP proxy on a port of its own.

It runs as a process of its own, so that bytes do not wait for those who send and count. `Network` is what others use; the
rest is that process, which is told what to do by lines of JSON on standard input.
"""

import asyncio
import contextlib
import json
import subprocess
import sys

BUFFER_BYTES = 1 << 16
# What a way is like: everything passes; connections end as soon as they are there; they stay, and no byte passes.
FINE, REFUSED, HUNG = "fine", "refused", "hung"


class Network:
    """Ways by name. All end at the end of the block."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def open(self, name, port):
        """Where to come to for the way of this name to this port of 127.0.0.1. The server may come and go behind it."""
        return self.tell(open=name, port=port)["port"]

    def set(self, name, weather):
        """From now on a way is like this."""
        self.tell(set=name, weather=weather)

    def tell(self, **what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Way:
    def __init__(self, port):
        self.port, self.weather, self.connections, self.passes = port, FINE, set(), asyncio.Event()
        self.passes.set()

    def set(self, weather):
        self.weather = weather
        if weather == HUNG:
            self.passes.clear()
        else:
            self.passes.set()
        if weather == REFUSED:
            for connection in self.connections:
                connection.cancel()

    async def serve(self, reader, writer):
        """One connection, from its beginning to its end."""
        own = asyncio.current_task()
        self.connections.add(own)
        both = [writer]
        try:
            if self.weather == REFUSED:
                return
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.port)
            both.append(to_writer)
            await asyncio.gather(self.forward(reader, to_writer), self.forward(to_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.connections.discard(own)
            for end in both:
                with contextlib.suppress(OSError):
                    end.transport.abort()

    async def forward(self, reader, writer):
        while True:
            await self.passes.wait()
            data = await reader.read(BUFFER_BYTES)
            # What came while it hung waits as well.
            await self.passes.wait()
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


async def main():
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    ways = {}
    while line := await lines.readline():
        what, answer = json.loads(line), {}
        if name := what.get("open"):
            ways[name] = Way(what["port"])
            server = await asyncio.start_server(ways[name].serve, "127.0.0.1", 0)
            answer["port"] = server.sockets[0].getsockname()[1]
        else:
            ways[what["set"]].set(what["weather"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
