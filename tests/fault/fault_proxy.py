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


class Link:
    def __init__(self, target):
        self.target, self.mode, self.sockets = target, "pass", set()
        self.open = asyncio.Event()
        self.open.set()

    async def serve(self, listener):
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            asyncio.ensure_future(self.connect(client))

    async def connect(self, client):
        host, port = self.target.rsplit(":", 1)
        server = socket.socket()
        self.sockets |= {client, server}
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self.open.wait()
            await asyncio.get_running_loop().sock_connect(server, (host, int(port)))
            await asyncio.gather(self.pump(client, server), self.pump(server, client))
        except OSError:
            pass
        for end in (client, server):
            self.abort(end)

    async def pump(self, source, sink):
        """Both directions end when one fails; an orderly end of one is passed on."""
        chunks = asyncio.Queue(MAX_CHUNKS)
        writer = asyncio.ensure_future(self.write(chunks, sink))
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(source, RECEIVE_BYTES):
                if writer.done():
                    break
                await chunks.put((loop.time(), data))
            await chunks.put((loop.time(), b""))
            await writer
        except OSError:
            self.abort(source)
            self.abort(sink)
        finally:
            writer.cancel()

    async def write(self, chunks, sink):
        loop = asyncio.get_running_loop()
        try:
            while True:
                came, data = await chunks.get()
                if self.mode == "delay":
                    await asyncio.sleep(came + DELAY - loop.time())
                await self.open.wait()
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if self.mode == "fragments":
                    for byte in data:
                        await loop.sock_sendall(sink, bytes((byte,)))
                else:
                    await loop.sock_sendall(sink, data)
        except OSError:
            self.abort(sink)

    def abort(self, end):
        """Closes with RST, which wakes whoever reads or writes there."""
        if end not in self.sockets:
            return
        self.sockets.discard(end)
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            loop = asyncio.get_running_loop()
            loop.remove_reader(end.fileno())
            loop.remove_writer(end.fileno())
            # close() alone would leave the pumps waiting for a descriptor that is gone.
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()

    def set(self, mode):
        self.mode = mode
        (self.open.clear if mode == "hole" else self.open.set)()


async def run():
    loop = asyncio.get_running_loop()
    links = {}
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command, address, value = json.loads(line)
        if command == "add":
            listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            listener.setblocking(False)
            address = "127.0.0.1:%d" % listener.getsockname()[1]
            links[address] = Link(value)
            asyncio.ensure_future(links[address].serve(listener))
        elif command == "target":
            links[address].target = value
        elif command == "set":
            links[address].set(value)
        elif command == "reset":
            for end in list(links[address].sockets):
                links[address].abort(end)
        print(json.dumps(address), flush=True)


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
