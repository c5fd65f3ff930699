"""Frames and messages that no gRPC library sends: the gateway stays up, bounded, and serves others."""

import pathlib
import socket
import struct
import time

import grpc
import pytest

from sim_cluster import SimCluster

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PATIENCE = 60
# What a flood may cost while it lasts, in bytes of the gateway's memory.
COST = 128 << 20


@pytest.fixture(scope="module")
def cluster():
    made = SimCluster(generator_flags=("--sim-step-ms", 5, "--sim-mean-tokens", 0))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def serves_others(cluster, api):
    """Before, beside and after: a client of its own connection is served, and nothing is left in the end."""
    def check():
        with cluster.channel(options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            answer = api.InferenceStub(channel).Complete(request(api, 3), timeout=PATIENCE)
            assert len(answer.choices[0].token_ids) == 3
    check()
    before = memory(cluster.gateway)
    yield check
    check()
    assert memory(cluster.gateway) - before < COST
    cluster.wait_idle(PATIENCE)


def request(api, max_tokens):
    return api.CompleteRequest(text="the", options=api.GenerationOptions(
        max_tokens=max_tokens, ignore_eos=True, sampling=api.SamplingParams(seed=1)))


def memory(process):
    return int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name, value):
    """A literal that no table remembers."""
    def text(data):
        assert len(data) < 127
        return bytes((len(data),)) + data
    return b"\0" + text(name) + text(value)


HEAD = b"".join(header(*pair) for pair in (
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/qwenserve.v1.Inference/StreamComplete"),
    (b":authority", b"x"), (b"content-type", b"application/grpc"), (b"te", b"trailers")))


class Connection:
    """Writes what it is told; what comes is read only if asked for."""

    def __init__(self, gateway, settings=b""):
        host, port = gateway.address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def flood(self, frames, times):
        """Returns whether all could be written; what the gateway says is read and dropped."""
        self.socket.setblocking(False)
        data, deadline = memoryview(frames * times), time.monotonic() + PATIENCE
        try:
            while data and time.monotonic() < deadline:
                try:
                    data = data[self.socket.send(data[:1 << 16]):]
                except BlockingIOError:
                    time.sleep(0.001)
                try:
                    if not self.socket.recv(1 << 16):
                        return False
                except BlockingIOError:
                    pass
        except OSError:
            return False
        return not data

    def close(self):
        self.socket.close()


@pytest.mark.parametrize("settings", [b"", struct.pack(">HI", 4, 0)], ids=["open", "no_window"])
def test_streams_that_are_begun_and_reset(cluster, serves_others, settings):
    connection = Connection(cluster.gateway, settings)
    for burst in range(4):
        # New numbers each time: an old one would end the connection.
        streams = [2 * (burst * 500 + number) + 1 for number in range(500)]
        frames = b"".join(frame(HEADERS, END_HEADERS, stream, HEAD) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
                          for stream in streams)
        if not connection.flood(frames, 1):
            break
    serves_others()
    connection.close()


@pytest.mark.parametrize("kind, flags, stream, payload", [
    (SETTINGS, 0, 0, struct.pack(">HI", 3, 100)), (PING, 0, 0, bytes(8)), (PING, ACK, 0, bytes(8)),
    (WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)), (DATA, 0, 1, b""), (0x70, 0, 0, bytes(100))],
    ids=["settings", "ping", "ping_ack", "window", "data_of_no_stream", "unknown"])
def test_floods_of_small_frames(cluster, serves_others, kind, flags, stream, payload):
    connection = Connection(cluster.gateway)
    connection.flood(frame(kind, flags, stream, payload), 50000)
    serves_others()
    connection.close()


def test_headers_without_an_end(cluster, serves_others):
    connection = Connection(cluster.gateway)
    connection.flood(frame(HEADERS, 0, 1, HEAD), 1)
    more = frame(CONTINUATION, 0, 1, header(b"x" * 100, b"y" * 100) * 50)
    connection.flood(more, 2000)  # 20 MB, which gRPC 1.51 keeps as long as the connection lasts
    serves_others()
    connection.close()


@pytest.mark.parametrize("bytes_sent", [
    b"\x16\x03\x01\x02\x00" + bytes(500), b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"x", PREFACE + b"\xff" * 100,
    PREFACE + frame(SETTINGS, 0, 0, b"12345"), PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 2, HEAD),
    PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"\xff" * 200),
    PREFACE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"short")],
    ids=["tls", "http1", "preface", "length", "settings", "even_stream", "hpack", "ping"])
def test_what_is_no_http2_ends_the_connection(cluster, serves_others, bytes_sent):
    host, port = cluster.gateway.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(bytes_sent)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass


def test_a_client_without_a_window_holds_up_nobody_and_leaves_nothing(cluster, serves_others, api):
    """Headers before the gateway's settings are acknowledged, and no room for an answer, ever."""
    message = request(api, 2000).SerializeToString()
    connection = Connection(cluster.gateway, struct.pack(">HI", 4, 0))
    connection.flood(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(
        DATA, END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message), 1)
    generator = cluster.generators[0]
    deadline = time.monotonic() + PATIENCE
    while generator.metric("qwenserve_sequences_running") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    serves_others()
    connection.close()


@pytest.mark.parametrize("message", [
    b"\0\xff\xff\xff\xff", b"\0\0\0\0\x05abc", b"\0\0\0\0\x03\x0a\xff\xff", b"\0\0\0\0\x02\x0d\x01", b"\x02\0\0\0\0",
    b"\0\0\0\0" + bytes((200,)) + b"\x23" * 100 + b"\x24" * 100],
    ids=["four_gigabytes", "truncated", "length_beyond", "wire_type", "flag", "deep_groups"])
def test_messages_that_cannot_be_read(cluster, serves_others, message):
    connection = Connection(cluster.gateway)
    connection.flood(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, END_STREAM, 1, message), 1)
    serves_others()
    connection.close()
    assert cluster.gateway.running()


def test_a_compressed_message_is_not_taken_for_its_small_size(cluster, api):
    """256 MB that were 256 KB on the way."""
    before = memory(cluster.gateway)
    with cluster.channel() as channel:
        call = channel.unary_unary("/qwenserve.v1.Inference/Complete", request_serializer=None, response_deserializer=None)
        with pytest.raises(grpc.RpcError) as raised:
            call(bytes(256 << 20), compression=grpc.Compression.Gzip, timeout=PATIENCE)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert memory(cluster.gateway) - before < COST
