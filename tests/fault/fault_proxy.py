"""TCP links that go wrong on demand, between any two processes of a cluster.

    links = Links()                            # a process of its own
    address = links.add("127.0.0.1:50071")     # connect there instead
    links.set(address, "hole")                 # what went wrong
    links.set(address, "pass")                 # as it was; what was held back arrives now
    links.target(address, "127.0.0.1:50072")   # new connections go there
    links.reset(address)                       # ends all connections with RST
    links.close()

Modes: `pass`; `hole`: nothing arrives any more, in both directions, and nobody is told, as with a cable
that was pulled; `delay`: everything arrives 0.2 s later; `fragments`: every byte in a segment of its own.
All of a link's connections, old and new, follow its mode.
"""

import asyncio
import json
import socket
import struct
import subprocess
import sys

DELAY = 0.2
RECEIVE_BYTES = 1 << 16
# Chunks under way in one direction; then the sender's own buffers fill up.
MAX_CHUNKS = 64


def abort(writer):
    """Ends a connection with RST."""
    end = writer.get_extra_info("socket")
    if end.fileno() >= 0:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Link:
    def __init__(self, target):
        self.target, self.mode, self.writers = target, "pass", set()
        # The loop itself would let go of a connection that waits for something.
        self.connections = set()
        self.open = asyncio.Event()
        self.open.set()

    async def connect(self, reader, writer):
        """One connection, from its begin to its end."""
        self.connections.add(asyncio.current_task())
        self.writers.add(writer)
        other, pumps = None, []
        try:
            await self.open.wait()
            host, port = self.target.rsplit(":", 1)
            other_reader, other = await asyncio.open_connection(host, int(port))
            self.writers.add(other)
            pumps = [asyncio.create_task(self.pump(reader, writer, other)),
                     asyncio.create_task(self.pump(other_reader, other, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        except OSError:
            pass
        finally:
            # One direction has failed, or both have come to their end.
            for end in (writer, other):
                if end is not None:
                    abort(end)
                    self.writers.discard(end)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.connections.discard(asyncio.current_task())

    async def pump(self, reader, source, sink):
        chunks = asyncio.Queue(MAX_CHUNKS)
        writing = asyncio.create_task(self.write(chunks, source, sink))
        loop = asyncio.get_running_loop()
        try:
            data = b"-"
            while data:
                data = await reader.read(RECEIVE_BYTES)
                await chunks.put((loop.time(), data))
            await writing
        except OSError:
            # The other direction must not wait for what cannot come any more.
            abort(sink)
            raise
        finally:
            writing.cancel()

    async def write(self, chunks, source, sink):
        data = b"-"
        try:
            while data:
                came, data = await chunks.get()
                await self.pass_on(came, data, sink)
        except OSError:
            abort(source)
            abort(sink)
            while data:
                _, data = await chunks.get()

    async def pass_on(self, came, data, sink):
        """An orderly end as one."""
        if self.mode == "delay":
            await asyncio.sleep(came + DELAY - asyncio.get_running_loop().time())
        await self.open.wait()
        if not data:
            sink.write_eof()
        elif self.mode == "fragments":
            for byte in data:
                sink.write(bytes((byte,)))
                await sink.drain()
        else:
            sink.write(data)
            await sink.drain()

    def set(self, mode):
        self.mode = mode
        (self.open.clear if mode == "hole" else self.open.set)()


async def run():
    loop = asyncio.get_running_loop()
    links, servers = {}, []
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command, address, value = json.loads(line)
        if command == "add":
            link = Link(value)
            server = await asyncio.start_server(link.connect, "127.0.0.1", 0, backlog=1024)
            servers.append(server)
            address = "127.0.0.1:%d" % server.sockets[0].getsockname()[1]
            links[address] = link
        elif command == "target":
            links[address].target = value
        elif command == "set":
            links[address].set(value)
        elif command == "reset":
            for writer in list(links[address].writers):
                abort(writer)
        print(json.dumps(address), flush=True)
    for server in servers:
        server.close()
    for link in links.values():
        link.set("pass")
        for writer in list(link.writers):
            abort(writer)
        await asyncio.gather(*link.connections)


class Links:
    """The links' process, told one thing at a time."""

    def __init__(self):
        self._process = subprocess.Popen([sys.executable, __file__], text=True, bufsize=1,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _tell(self, command, address, value=None):
        self._process.stdin.write(json.dumps([command, address, value]) + "\n")
        return json.loads(self._process.stdout.readline())

    def add(self, target):
        return self._tell("add", "", target)

    def target(self, address, target):
        self._tell("target", address, target)

    def set(self, address, mode):
        self._tell("set", address, mode)

    def reset(self, address):
        self._tell("reset", address)

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)


if __name__ == "__main__":
    asyncio.run(run())
