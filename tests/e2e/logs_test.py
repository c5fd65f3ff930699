"""Logs as JSON, joined by request and trace; and what a crash leaves on stderr."""

import ctypes
import datetime
import json
import signal
import socket
import subprocess

import grpc
import pytest

from access_log_test import lines as lines_of, post
from security import key_line, write_keys
from server_process import BIN, DEMO_MODEL, SANITIZED, ServerProcess

LEVELS = {"trace", "debug", "info", "warn", "error", "critical"}
ADMIN = {"request_serializer": lambda message: message, "response_deserializer": lambda message: message}


def parsed(path):
    """Every line, which must be an object with the fields that all lines have."""
    found = []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        assert isinstance(line, dict), text
        assert list(line)[:4] == ["time", "level", "role", "instance"] and "message" in line, text
        assert datetime.datetime.fromisoformat(line["time"]).utcoffset() == datetime.timedelta(0)
        assert line["level"] in LEVELS and len(line["instance"]) == 32
        found.append(line)
    return found


def test_json_lines_of_all_processes_join_by_trace(sim_cluster, tmp_path, api):
    path, access = tmp_path / "processes.log", tmp_path / "access.log"
    traces = [f"{number:032x}" for number in (0x17, 0x18)]
    flags = ("--log-format", "json")
    with open(path, "w") as log:
        cluster = sim_cluster(generator_flags=flags, gateway_flags=(*flags, "--access-log", access), log=log,
                              tokenizer_flags=("--chat-template", "qwen3", *flags))
        processes = [cluster.gateway, *cluster.tokenizers, *cluster.generators]
        for process in processes:
            with grpc.insecure_channel(process.address) as channel:
                channel.unary_unary("/qwenserve.v1.Admin/SetLogLevel", **ADMIN)(b"\n\x05debug", timeout=20)
        with cluster.channel() as channel:
            api.InferenceStub(channel).Complete(
                api.CompleteRequest(text="x", request_id='my "own" id', options=api.GenerationOptions(max_tokens=2)),
                metadata=(("traceparent", f"00-{traces[0]}-{1:016x}-01"),), timeout=60)
        assert post(cluster.gateway.addresses["http"], "/v1/chat/completions",
                    {"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
                    {"traceparent": f"00-{traces[1]}-{1:016x}-00"})[0] == 200
        lines_of(access, 2)
        for process in processes:
            assert process.terminate() == 0
    found = parsed(path) + parsed(access)
    assert {line["role"] for line in found} == {"gateway", "tokenizer", "generator"}
    assert len({(line["role"], line["instance"]) for line in found}) == 3
    for trace in traces:
        of_trace = [line for line in found if line.get("trace_id") == trace]
        assert {line["role"] for line in of_trace} == {"gateway", "tokenizer", "generator"}
        (request,) = {line["request_id"] for line in of_trace}
        assert request.startswith("req-")


def start(role, log, *flags, **options):
    model = ("--tokenizers", "127.0.0.1:1", "--generators", "127.0.0.1:1") if role == "gateway" else (
        "--model", DEMO_MODEL)
    server = ServerProcess(role, *model, *flags, log=log, **options)
    return server if role == "gateway" else server.wait_ready()


@pytest.mark.skipif(SANITIZED, reason="the sanitizers handle these signals themselves")
@pytest.mark.parametrize("role, number, log_format", [
    *((role, signal.SIGSEGV, "text") for role in ("gateway", "tokenizer", "generator")),
    *(("tokenizer", number, "json") for number in (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)),
])
def test_a_crash_leaves_a_stack_and_its_signal(role, number, log_format, tmp_path):
    with open(tmp_path / "log", "w+") as log:
        server = start(role, log, "--log-format", log_format)
        # As `kill` sends it, but to the main thread: others may meet it otherwise.
        server.signals.append(number)
        assert ctypes.CDLL(None).tgkill(server.pid, server.pid, number) == 0
        assert server.wait() == -number
        log.seek(0)
        text = log.read()
    assert f"*** {number.name} received" in text
    assert "qwenserve::RunServer()" in text and " main" in text, text


@pytest.mark.skipif(SANITIZED, reason="the sanitizers handle these signals themselves")
def test_a_crash_of_another_thread_shows_that_thread(sim_cluster, tmp_path, api):
    with open(tmp_path / "log", "w+") as log:
        cluster = sim_cluster(generator_flags=("--sim-crash-after-tokens", 5), log=log)
        (generator,) = cluster.generators
        generator.expect_crash()
        with cluster.channel() as channel, pytest.raises(grpc.RpcError):
            api.InferenceStub(channel).Complete(
                api.CompleteRequest(text="x", options=api.GenerationOptions(max_tokens=50, ignore_eos=True)), timeout=60)
        assert generator.wait() == -signal.SIGABRT
        log.seek(0)
        text = log.read()
    assert "*** SIGABRT received" in text and "qwenserve::SimReplica::" in text, text


@pytest.mark.parametrize("role", ["gateway", "tokenizer", "generator"])
def test_a_port_for_operators(role, tmp_path):
    """Whatever the gRPC port is for: here it is open to the network, and the gateway asks for keys."""
    flags = ["--admin-listen", "127.0.0.1:0", "--log-format", "json"]
    if role == "gateway":
        flags += ["--api-keys", write_keys(tmp_path / "keys", key_line("key-a", "team-a"))]
    with open(tmp_path / "log", "w+") as log:
        server = start(role, log, *flags, listen="0.0.0.0:0")

        def ctl(*arguments, port="admin"):
            address = server.addresses[port].replace("0.0.0.0", "127.0.0.1")
            return subprocess.run([BIN / "qwenctl", *arguments, "--address", address], capture_output=True, text=True,
                                  timeout=60)
        top = ctl("top", "--once", "--interval", "0.1", "--output", "json", "--ops-address", server.addresses["ops"])
        assert top.returncode == 0 and json.loads(top.stdout)["role"] == role, top
        requests = ctl("requests", "--output", "json")
        assert requests.returncode == 0 and json.loads(requests.stdout)["total"] == 0, requests
        assert ctl("log-level", "debug").returncode == 0
        assert ctl("log-level", "loud").returncode == 4
        for command in (("requests",), ("log-level", "info")):
            refused = ctl(*command, port="grpc")
            assert refused.returncode != 0 and "no Admin service" in refused.stderr, refused
        # Connections that stay hold up nobody.
        host, port = server.addresses["admin"].split(":")
        with grpc.insecure_channel(server.addresses["admin"]) as channel, socket.create_connection((host, port)):
            channel.unary_unary("/qwenserve.v1.Admin/GetStatus", **ADMIN)(b"", timeout=60)
            assert server.terminate() == 0
        log.seek(0)
        messages = [json.loads(line)["message"] for line in log.read().splitlines()]
    assert "log level is debug now" in messages and "log level is info now" not in messages


def test_the_port_for_operators_is_on_loopback(tmp_path):
    with open(tmp_path / "log", "w+") as log:
        with pytest.raises(RuntimeError):
            start("tokenizer", log, "--admin-listen", "0.0.0.0:0").stop()
        log.seek(0)
        assert "not a loopback address" in log.read()


@pytest.mark.parametrize("role", ["gateway", "tokenizer", "generator"])
def test_a_request_to_end_is_no_crash(role, tmp_path):
    with open(tmp_path / "log", "w+") as log:
        assert start(role, log).terminate() == 0
        log.seek(0)
        assert "***" not in log.read()
