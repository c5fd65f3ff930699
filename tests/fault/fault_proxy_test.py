"""Links do what their mode says, to connections old and new, and the next connection knows nothing of the
last one's fault."""

import socket
import threading
import time

import pytest

from fault_proxy import DELAY, Links

SILENCE = 0.3
PATIENCE = 60


@pytest.fixture
def link():
    """Links, the address of one, and behind it a server that sends everything back."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                pass

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
    links = Links()
    yield links, links.add("127.0.0.1:%d" % server.getsockname()[1])
    links.close()
    server.close()


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def echo(connection, text):
    connection.sendall(text)
    return receive(connection, len(text))


def receive(connection, size):
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        assert piece, "the end came too early"
        got += piece
    return got


def test_everything_arrives(link):
    _, address = link
    with connect(address) as connection:
        text = bytes(range(256)) * 8192
        sender = threading.Thread(target=connection.sendall, args=(text,))
        sender.start()
        assert receive(connection, len(text)) == text
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_what_falls_into_a_hole_arrives_when_it_is_closed(link):
    links, address = link
    with connect(address) as old:
        assert echo(old, b"before") == b"before"
        links.set(address, "hole")
        with connect(address) as new:
            for connection in (old, new):
                connection.sendall(b"late")
                connection.settimeout(SILENCE)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(PATIENCE)
            links.set(address, "pass")
            assert receive(old, 4) == receive(new, 4) == b"late"


def test_a_reset_ends_all_and_the_next_ones_are_whole(link):
    links, address = link
    for _ in range(30):
        connections = [connect(address) for _ in range(4)]
        for connection in connections:
            assert echo(connection, b"hello") == b"hello"
        links.reset(address)
        for connection in connections:
            with pytest.raises(ConnectionError):
                while connection.recv(1):
                    pass
                raise AssertionError("an orderly end")
            connection.close()


def test_a_reset_out_of_a_hole(link):
    links, address = link
    for _ in range(5):
        with connect(address) as connection:
            assert echo(connection, b"hello") == b"hello"
            links.set(address, "hole")
            connection.sendall(b"lost")
            time.sleep(0.02)
            links.reset(address)
            links.set(address, "pass")
            with pytest.raises(ConnectionError):
                connection.recv(1)
        with connect(address) as connection:
            assert echo(connection, b"again") == b"again"


def test_delays_and_fragments(link):
    links, address = link
    with connect(address) as connection:
        links.set(address, "delay")
        begin = time.monotonic()
        assert echo(connection, b"slow") == b"slow"
        assert time.monotonic() - begin >= 2 * DELAY
        links.set(address, "fragments")
        assert echo(connection, b"x" * 5000) == b"x" * 5000


def test_nobody_behind_it(link):
    links, address = link
    free = socket.create_server(("127.0.0.1", 0))
    links.target(address, "127.0.0.1:%d" % free.getsockname()[1])
    free.close()
    # The reset may come before the connection is set up.
    with pytest.raises(ConnectionError):
        with connect(address) as connection:
            connection.recv(1)
            raise AssertionError("an orderly end")
