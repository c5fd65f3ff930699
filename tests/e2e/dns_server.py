"""A DNS server for tests: A records over UDP, and every way to fail."""

import ipaddress
import socket
import struct
import threading

TYPE_A, TYPE_AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2


class DnsServer:
    """Names without a record do not exist. `answers[name]` is a list of IPv4 addresses (empty: the name
    has no address), or one of "nxdomain", "servfail", "silent", "garbage", "other id", "cut"."""

    def __init__(self, ttl=0):
        self.answers = {}
        self.ttl = ttl
        self.asked = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                query, peer = self._socket.recvfrom(4096)
                reply = self._reply(query)
                if reply is not None:
                    self._socket.sendto(reply, peer)
            except OSError:  # closed
                return

    def _reply(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12:at + 5]
        kind = struct.unpack(">H", query[at + 1:at + 3])[0]
        name = ".".join(labels).lower()
        self.asked[name] = self.asked.get(name, 0) + 1
        answer = self.answers.get(name, "nxdomain")
        if answer == "silent":
            return None
        if answer == "garbage":
            return query[:2] + b"\xff" * 40
        code = NXDOMAIN if answer == "nxdomain" else SERVFAIL if answer == "servfail" else 0
        cut = answer == "cut"
        if answer == "other id":
            query = bytes([query[0] ^ 0xff]) + query[1:]
        if isinstance(answer, str):
            answer = ["127.0.0.99"] if code == 0 else []
        records = [ipaddress.IPv4Address(text).packed for text in answer] if kind == TYPE_A else []
        reply = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0) + question
        for packed in records:
            reply += b"\xc0\x0c" + struct.pack(">HHIH", TYPE_A, 1, self.ttl, 4) + packed
        return reply[:-3] if cut else reply

    def close(self):
        self._socket.close()
