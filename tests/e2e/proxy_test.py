"""Clients behind proxies: whom the gateway takes them for."""

import contextlib
import json
import socket
import threading
import time

import grpc
import pytest


class Proxy:
    """A TCP relay that begins each connection to the server with `header`."""

    def __init__(self, target, header):
        self.target, self.header = target, header
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                host, port = self.target.rsplit(":", 1)
                server = socket.create_connection((host, int(port)))
                # In two pieces, as a network may cut it.
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.sendall(self.header[:9])
                time.sleep(0.05)
                server.sendall(self.header[9:])
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source, sink):
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                sink.sendall(part)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def v1(address):
    return f"PROXY TCP4 {address} 10.0.0.1 1234 443\r\n".encode()


def v2(address):
    return (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + socket.inet_aton(address) + socket.inet_aton("10.0.0.1")
            + b"\x12\x34\x01\xbb")


def list_models(api, address, timeout=15):
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        return api.InferenceStub(channel).ListModels(api.ListModelsRequest(), timeout=timeout, wait_for_ready=True)


def http_get(address, *headers, before=b""):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 20) as connection:
        lines = ["GET /v1/models HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        connection.sendall(before + "\r\n".join(lines).encode())
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(4096):
                answer += part
        return answer.split(b"\r\n")[0].decode()


class Log:
    def __init__(self, path):
        self.path, self.seen = path, 0

    def next_peer(self):
        deadline = time.monotonic() + 60
        while True:
            lines = self.path.read_text().splitlines()
            if len(lines) > self.seen:
                self.seen += 1
                return json.loads(lines[self.seen - 1])["peer"]
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def gateway_with(sim_cluster, tmp_path):
    def make(*flags):
        path = tmp_path / "access.log"
        gateway = sim_cluster(gateway_flags=("--access-log", path, *flags)).gateway
        return gateway, Log(path)
    return make


def test_proxy_headers_over_both_protocols(gateway_with, api):
    gateway, log = gateway_with("--trusted-proxies", "127.0.0.0/8,::1", "--proxy-protocol", "both")
    for make in (v1, v2):
        list_models(api, Proxy(gateway.address, make("203.0.113.5")).address)
        assert log.next_peer() == "203.0.113.5"
        proxy = Proxy(gateway.addresses["http"], make("203.0.113.6")).address
        assert http_get(proxy).startswith("HTTP/1.1 200")
        assert log.next_peer() == "203.0.113.6"
        # A client with a header of its own, through a proxy that leaves it in.
        assert http_get(proxy, "X-Forwarded-For: 9.9.9.9").startswith("HTTP/1.1 200")
        assert log.next_peer() == "203.0.113.6"
        # A proxy behind a proxy.
        inner = Proxy(gateway.addresses["http"], make("127.0.0.9")).address
        assert http_get(inner, "X-Forwarded-For: 9.9.9.9, 203.0.113.7").startswith("HTTP/1.1 200")
        assert log.next_peer() == "203.0.113.7"
    # Without a header there is no entry, and no call.
    assert http_get(gateway.addresses["http"]) == ""
    with pytest.raises(grpc.RpcError):
        list_models(api, gateway.address, timeout=2)
    gateway.await_metric(lambda count: count == 1, "qwenserve_http_connections_refused_total", cause="proxy_header")
    gateway.await_metric(lambda count: count >= 1, "qwenserve_grpc_connections_refused_total", cause="proxy_header")


def test_forwarded_for_counts_from_trusted_proxies_only(gateway_with, api):
    gateway, log = gateway_with("--trusted-proxies", "127.0.0.1,10.0.0.0/8")
    http = gateway.addresses["http"]
    for headers, peer in (((), "127.0.0.1"),
                          (("X-Forwarded-For: 203.0.113.1",), "203.0.113.1"),
                          (("X-Forwarded-For: 9.9.9.9, 203.0.113.1, 10.1.1.1",), "203.0.113.1"),
                          (("x-forwarded-for: 9.9.9.9", "X-Forwarded-For: 203.0.113.1:4711"), "203.0.113.1"),
                          (("X-Forwarded-For: [2001:db8::5]:80",), "2001:db8::5"),
                          (("X-Forwarded-For: 9.9.9.9, what, 10.1.1.1",), "10.1.1.1"),
                          (("X-Forwarded-For: 10.1.1.2, 10.1.1.1",), "10.1.1.2"),
                          (("X-Forwarded-For: ",), "127.0.0.1")):
        assert http_get(http, *headers).startswith("HTTP/1.1 200")
        assert log.next_peer() == peer, headers
    list_models(api, gateway.address)
    assert log.next_peer() == "127.0.0.1"


def test_nobody_else_is_believed(gateway_with, api):
    gateway, log = gateway_with("--trusted-proxies", "10.0.0.0/8", "--proxy-protocol", "both")
    http = gateway.addresses["http"]
    assert http_get(http, "X-Forwarded-For: 203.0.113.1").startswith("HTTP/1.1 200")
    assert log.next_peer() == "127.0.0.1"
    assert http_get(http, before=v1("203.0.113.1")).startswith("HTTP/1.1 400")
    list_models(api, gateway.address)
    assert log.next_peer() == "127.0.0.1"
    with pytest.raises(grpc.RpcError):
        list_models(api, Proxy(gateway.address, v1("203.0.113.1")).address, timeout=2)
