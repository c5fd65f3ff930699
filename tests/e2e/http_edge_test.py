"""The HTTP port as a browser, a proxy, a probe or an attacker meets it: real processes, raw requests."""

import http.client
import json
import resource
import signal
import socket
import threading
import time

import pytest

from sim_cluster import SimCluster

SCRIPT = [
    {"when": "hello", "answer": "Hello there, friend."},
    {"when": "paced", "step_delay": 0.02, "length": 400},
    {"when": "late", "delay": 16, "answer": "at last"},
]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def sim():
    cluster = SimCluster(generator_flags=("--sim-step-ms", 1), script=SCRIPT,
                         gateway_flags=("--http-allowed-origins", "https://app.example"))
    yield cluster
    cluster.stop()


class Reply:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.body)


def call(gateway, method, path, body=None, headers=None, timeout=60):
    connection = http.client.HTTPConnection(gateway.addresses["http"], timeout=timeout)
    try:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, data, headers if headers is not None else (JSON if data else {}))
        return Reply(connection.getresponse())
    finally:
        connection.close()


def chat(text, **more):
    return {"model": "sim", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def open_stream(gateway, body):
    """A socket with a streamed chat on it, of which nothing is read yet."""
    return open_chat(gateway, {**body, "stream": True})


def open_chat(gateway, body):
    host, port = gateway.addresses["http"].rsplit(":", 1)
    data = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(data) + data)
    return connection


def read_until(connection, text, limit=1 << 24):
    received = b""
    while text not in received and len(received) < limit:
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    return received


def test_tokenize_and_back(sim):
    reply = call(sim.gateway, "POST", "/tokenize", {"prompt": "hello there", "return_token_strs": True})
    tokens = reply.json()["tokens"]
    assert reply.status == 200 and reply.json()["count"] == len(tokens) > 0
    assert reply.json()["max_model_len"] == 131072 and "".join(reply.json()["token_strs"]) == "hello there"
    assert call(sim.gateway, "POST", "/detokenize", {"tokens": tokens}).json() == {"prompt": "hello there"}
    whole = call(sim.gateway, "POST", "/tokenize", {"messages": chat("hello")["messages"]}).json()
    start = call(sim.gateway, "POST", "/tokenize", {"messages": chat("hello")["messages"], "add_generation_prompt": False}).json()
    assert whole["tokens"][:start["count"]] == start["tokens"] and whole["count"] > start["count"]
    usage = call(sim.gateway, "POST", "/v1/chat/completions", chat("hello")).json()["usage"]
    assert usage["prompt_tokens"] == whole["count"]


@pytest.mark.parametrize("path, body, param", [
    ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"), ("/detokenize", {}, "tokens"),
    ("/detokenize", {"tokens": [99999999]}, "tokens[0]"), ("/detokenize", {"tokens": ["x"]}, "tokens[0]")])
def test_what_tokenize_refuses(sim, path, body, param):
    reply = call(sim.gateway, "POST", path, body)
    assert reply.status == 400 and reply.json()["error"]["param"] == param


@pytest.mark.parametrize("method, path, headers, status", [
    ("GET", "/nothing", {}, 404), ("GET", "/v1/chat/completions", {}, 405), ("POST", "/v1/models", JSON, 405),
    ("POST", "/v1/chat/completions", {"Content-Type": "text/plain"}, 415),
    ("POST", "/v1/chat/completions", {}, 415),
    ("POST", "/v1/chat/completions", {**JSON, "Content-Encoding": "gzip"}, 415),
    ("DELETE", "/", {}, 405), ("GET", "/health", {}, 200), ("HEAD", "/health", {}, 200), ("GET", "/", {}, 200),
    ("GET", "/v1/models/%73im", {}, 200), ("GET", "/../v1/models", {}, 404)])
def test_methods_paths_and_types(sim, method, path, headers, status):
    reply = call(sim.gateway, method, path, b"{}" if method == "POST" else None, headers)
    assert reply.status == status and reply.headers["x-request-id"].startswith("req-")
    if status >= 400:
        assert reply.json()["error"]["type"] == "invalid_request_error"
    if status == 405:
        assert reply.headers["Allow"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": "a", "model": "b"}', b"[" * 100000, b"{\"messages\": 1e999}"])
def test_bodies_that_are_no_request(sim, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        reply = call(sim.gateway, "POST", path, body, JSON)
        assert reply.status == 400, path
        assert reply.json()["error"]["message"]


def test_pages_of_other_origins(sim):
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    allowed = call(sim.gateway, "OPTIONS", "/v1/chat/completions", None, ask)
    assert allowed.status == 204 and allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    # OpenAI's library sends many headers of its own; the asterisk does not stand for Authorization.
    assert allowed.headers["Access-Control-Allow-Headers"].split(", ") == ["*", "Authorization"]
    other = call(sim.gateway, "OPTIONS", "/v1/chat/completions", None, {**ask, "Origin": "https://evil.example"})
    assert other.status == 403 and other.headers["Access-Control-Allow-Origin"] is None
    answers = [call(sim.gateway, "POST", "/v1/chat/completions", chat("hello", stream=stream), {**JSON, **ask}) for stream in (False, True)]
    answers.append(call(sim.gateway, "POST", "/v1/chat/completions", chat("hello", n=0), {**JSON, **ask}))
    answers.append(call(sim.gateway, "GET", "/nothing", None, ask))
    assert [answer.headers["Access-Control-Allow-Origin"] for answer in answers] == ["https://app.example"] * 4


@pytest.mark.parametrize("method, path", [("GET", "/"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions"),
                                          ("OPTIONS", "/v1/chat/completions"), ("POST", "/tokenize")])
def test_pages_whose_name_was_made_to_point_here(sim, method, path):
    """DNS rebinding: to its browser such a page is of our own origin, and only Host tells."""
    body = chat("hello") if method == "POST" else None
    host = sim.gateway.addresses["http"]
    for name, origin, status in (("evil.example", None, 421), ("evil.example:8080", "http://evil.example:8080", 421),
                                 (host, "http://evil.example", 403), (host, "null", 403)):
        headers = {**JSON, "Host": name, **({"Origin": origin} if origin else {})}
        reply = call(sim.gateway, method, path, body, headers)
        assert reply.status == status and reply.headers["Access-Control-Allow-Origin"] is None
        assert reply.json()["error"]["message"] and reply.headers["x-request-id"]
    for name, origin in ((host, None), (host, f"http://{host}"), ("localhost", "http://localhost"), ("[::1]:80", None)):
        headers = {**JSON, "Host": name, **({"Origin": origin} if origin else {})}
        assert call(sim.gateway, method, path, body, headers).status in (200, 204)


def test_hosts_are_allowed_by_a_flag(sim_cluster):
    def statuses(*flags):
        gateway = cluster.start_gateway(flags=flags)
        return [call(gateway, "GET", path, None, {"Host": "chat.example"}).status for path in ("/v1/models", "/health")]
    cluster = sim_cluster()
    assert statuses() == [421, 200]
    assert statuses("--allowed-hosts", "other.example,chat.example") == [200, 200]
    assert statuses("--allowed-hosts", "*") == [200, 200]
    assert statuses("--http-listen", "0.0.0.0:0") == [200, 200]
    assert statuses("--http-listen", "0.0.0.0:0", "--allowed-hosts", "other.example") == [421, 200]


def test_headers_of_a_stream(sim):
    reply = call(sim.gateway, "POST", "/v1/chat/completions", chat("hello", stream=True))
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert reply.headers["Cache-Control"] == "no-cache" and reply.headers["X-Accel-Buffering"] == "no"
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_a_long_body_is_parsed_elsewhere(sim):
    text = "hello " * 200000
    reply = call(sim.gateway, "POST", "/tokenize", {"prompt": text})
    assert reply.status == 200 and reply.json()["count"] > 100000
    reply = call(sim.gateway, "POST", "/v1/chat/completions", {**chat("x" * 40000), "stop": [7]})
    assert reply.status == 400 and reply.json()["error"]["param"] == "stop[0]"
    # Above what a request may have, below what a body may have.
    reply = call(sim.gateway, "POST", "/v1/chat/completions", chat("x" * (5 << 20)))
    assert reply.status == 400 and "bytes" in reply.json()["error"]["message"]


def test_a_body_above_the_limit(sim):
    host, port = sim.gateway.addresses["http"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 16777217\r\n\r\n")
        assert b" 413 " in read_until(connection, b"\r\n\r\n")


def test_a_client_that_closes_frees_its_sequences(sim):
    connections = [open_stream(sim.gateway, chat("paced", n=2)) for _ in range(8)]
    for connection in connections:
        assert b'"content"' in read_until(connection, b'"content"')
        connection.close()
    sim.wait_idle()


def test_a_client_that_leaves_before_its_whole_answer(sim):
    connection = http.client.HTTPConnection(sim.gateway.addresses["http"])
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("paced")), JSON)
    deadline = time.monotonic() + 60
    while sim.total("qwenserve_sequences_running") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    connection.close()
    sim.wait_idle()


def test_a_comment_comes_while_nothing_else_does(sim):
    connection = open_stream(sim.gateway, chat("late"))
    received = read_until(connection, b"data: [DONE]")
    assert received.index(b": waiting\n\n") < received.index(b'"content":"at')
    connection.close()


def test_a_whole_answer_counts_until_it_is_sent(sim):
    body = chat("any", max_tokens=1000, n=16, logprobs=True, top_logprobs=20, ignore_eos=True)
    connection = open_chat(sim.gateway, body)
    head, begin = read_until(connection, b"\r\n\r\n").split(b"\r\n\r\n", 1)
    left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(begin)
    # Far more than the sockets hold.
    assert left > 10_000_000
    # The gateway tells the number of requests a few times a second, and it stays.
    deadline = time.monotonic() + 60
    while sim.gateway.metric("qwenserve_gateway_requests_in_flight") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    assert sim.gateway.metric("qwenserve_gateway_requests_in_flight") == 1
    while left > 0:
        left -= len(connection.recv(1 << 20))
    connection.close()
    deadline = time.monotonic() + 60
    while sim.gateway.metric("qwenserve_gateway_requests_in_flight") > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_client_that_does_not_read_is_dropped(sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 0, "--sim-mean-tokens", 0),
                          gateway_flags=("--slow-client-timeout", 1))
    with open_stream(cluster.gateway, chat("x", max_tokens=100000, n=4)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deadline = time.monotonic() + 60
        while cluster.gateway.metric("qwenserve_http_abandoned_requests_total") == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    cluster.wait_idle()
    cluster.gateway.await_metric(lambda running: running == 0, "qwenserve_http_requests_in_flight")


def slow_consumers(gateway):
    return gateway.metric("qwenserve_gateway_sheds_total", cause="slow_consumer")


def test_a_stream_that_is_not_read_ends_as_slow(sim_cluster, tmp_path):
    """By the connection's own clock, which is up first: in the log and the metrics as over gRPC."""
    log = tmp_path / "access"
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 0, "--sim-mean-tokens", 0),
                          gateway_flags=("--slow-client-timeout", 1, "--access-log", log))
    for _ in range(4):
        with open_stream(cluster.gateway, chat("x", max_tokens=100000, n=4)) as connection:
            before = cluster.gateway.metric("qwenserve_http_abandoned_requests_total")
            deadline = time.monotonic() + 60
            while cluster.gateway.metric("qwenserve_http_abandoned_requests_total") == before:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    cluster.wait_idle(20)
    assert slow_consumers(cluster.gateway) == 4
    cluster.gateway.terminate()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["code"], line["reason"]) for line in lines] == [("RESOURCE_EXHAUSTED", "SLOW_CONSUMER")] * 4


def test_a_whole_answer_that_is_read_too_slowly_frees_its_memory(sim_cluster):
    """Something within each time-out does not help."""
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 1, "--sim-mean-tokens", 0),
                          gateway_flags=("--slow-client-timeout", 1, "--min-read-rate", "64M"))
    gateway = cluster.gateway
    with open_chat(gateway, chat("any", max_tokens=1000, n=16, logprobs=True, top_logprobs=20)) as connection:
        assert b" 200 " in read_until(connection, b"\r\n\r\n")
        deadline = time.monotonic() + 60
        connection.setblocking(False)
        while gateway.metric("qwenserve_gateway_requests_in_flight") > 0:
            assert time.monotonic() < deadline
            try:
                connection.recv(32768)
            except BlockingIOError:
                pass
            time.sleep(0.02)
        deadline = time.monotonic() + 60
        while slow_consumers(gateway) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gateway.await_metric(lambda count: count == 1, "qwenserve_http_timeouts_total")


def test_health_is_unavailable_while_it_drains(sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 1), script=SCRIPT)
    cluster.gateway.terminate()
    gateway = cluster.start_gateway(flags=("--drain-delay", 60))
    assert call(gateway, "GET", "/health").json() == {"status": "ok"}
    gateway.signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while (reply := call(gateway, "GET", "/health")).status == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert reply.status == 503 and reply.json() == {"status": "draining"}
    # Requests are still taken, until whoever balances has seen it.
    assert call(gateway, "POST", "/v1/chat/completions", chat("hello")).status == 200
    gateway.kill()


def test_sigterm_finishes_streams_and_refuses_nobody(sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 1), script=SCRIPT)
    streams = [open_stream(cluster.gateway, chat("paced", max_tokens=60)) for _ in range(4)]
    idle = socket.create_connection(cluster.gateway.addresses["http"].rsplit(":", 1))
    for stream in streams:
        read_until(stream, b'"content"')
    cluster.gateway.signal(signal.SIGTERM)
    assert idle.recv(1) == b"", "a connection without a request is closed"
    for stream in streams:
        received = read_until(stream, b"[DONE]")
        assert b'"finish_reason":"length"' in received and b"data: [DONE]" in received
    assert cluster.gateway.wait() == 0


def test_descriptors_run_out_and_come_back(sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 1), script=SCRIPT)
    gateway = cluster.gateway
    limit = int(gateway.metric("process_open_fds")) + 60
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (limit, limit))
    host, port = gateway.addresses["http"].rsplit(":", 1)
    connections, refused = [], 0
    for _ in range(300):
        try:
            connection = socket.create_connection((host, int(port)), timeout=20)
            connections.append(connection)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            refused += b"200 OK" not in connection.recv(4096)
        except ConnectionError:
            refused += 1
    assert 0 < refused < 300
    for connection in connections:
        connection.close()
    deadline = time.monotonic() + 60
    while True:
        try:
            if call(gateway, "POST", "/v1/chat/completions", chat("hello")).status == 200:
                break
        except OSError:
            pass
        assert time.monotonic() < deadline, "it serves again when they are closed"
        time.sleep(0.05)
    assert gateway.metric("qwenserve_http_connections_refused_total", cause="descriptors") > 0


def test_long_bodies_do_not_hold_up_streams(sim):
    """A megabyte of JSON is parsed by another thread than the one that sends tokens; both finish."""
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            call(sim.gateway, "POST", "/tokenize", {"prompt": "hello " * 180000})

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        replies = [call(sim.gateway, "POST", "/v1/chat/completions", chat("hello", stream=True)) for _ in range(20)]
    finally:
        stop.set()
        flooder.join()
    assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)


def test_metrics_count_http(sim):
    before = sim.gateway.metric("qwenserve_gateway_requests_total", method="HttpChat", code="OK")
    call(sim.gateway, "POST", "/v1/chat/completions", chat("hello"))
    call(sim.gateway, "POST", "/v1/chat/completions", chat("hello", n=0))
    sim.gateway.await_metric(lambda count: count == before + 1, "qwenserve_gateway_requests_total", method="HttpChat", code="OK")
    sim.gateway.await_metric(lambda count: count >= 1, "qwenserve_gateway_requests_total", method="HttpChat", code="INVALID_ARGUMENT")
    for name in ("accepted_total", "refused_total"):
        assert sim.gateway.metric(f"qwenserve_http_connections_{name}") >= 0
    deadline = time.monotonic() + 60
    while sim.gateway.metric("qwenserve_http_connections") > 0:
        assert time.monotonic() < deadline, "connections are counted down"
        time.sleep(0.05)


def test_content_is_in_no_error_log_or_metric(sim):
    canary = "zebracanary"
    call(sim.gateway, "POST", "/v1/chat/completions", chat(canary))
    for body in (chat(canary, n=canary), chat(canary, stop=[canary * 100]), {"messages": canary}):
        assert canary not in call(sim.gateway, "POST", "/v1/chat/completions", body).body.decode()
    assert canary not in sim.gateway.http("/metrics")[1]
