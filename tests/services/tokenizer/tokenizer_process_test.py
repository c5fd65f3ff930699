"""qwenserve-tokenizer as a process: a Python gRPC client, real signals, real limits."""

import json
import os
import pathlib
import queue
import resource
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build/bin")) / "qwenserve-tokenizer"
TIMEOUT = 30


def byte_spellings():
    """The printable character of each byte in byte-level BPE."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spellings, spare = {}, 0x100
    for byte in range(256):
        if byte in printable:
            spellings[byte] = chr(byte)
        else:
            spellings[byte] = chr(spare)
            spare += 1
    return spellings


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A Qwen2 tokenizer of 256 bytes and the chat tokens."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    spellings = byte_spellings()
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
               r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": 256 + i, "content": text, "special": True} for i, text in enumerate(added)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                 "use_regex": False},
            ],
        },
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {spellings[b]: b for b in range(256)}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


class Server:
    """The process, and messages and methods as its reflection describes them."""

    def __init__(self, model_dir, *flags, max_descriptors=None):
        limit = max_descriptors and (lambda: resource.setrlimit(
            resource.RLIMIT_NOFILE, (max_descriptors, max_descriptors)))
        self.process = subprocess.Popen(
            [BINARY, "--model", model_dir, "--listen", "127.0.0.1:0", "--ops-listen",
             "127.0.0.1:0", "--chat-template", "qwen2.5", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        self.addresses = {}
        while (line := self.process.stdout.readline().strip()) != "ready":
            assert line.startswith("listening "), (line, self.process.poll())
            _, kind, address = line.split()
            self.addresses[kind] = address
        self.channel = grpc.insecure_channel(self.addresses["grpc"])
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def message(self, name, **fields):
        descriptor = self.pool.FindMessageTypeByName("qwenserve.v1." + name)
        return message_factory.GetMessageClass(descriptor)(**fields)

    def call(self, method, request, answer, timeout=TIMEOUT):
        stub = self.channel.unary_unary(
            "/qwenserve.v1.Tokenizer/" + method,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=type(self.message(answer)).FromString)
        return stub(request, timeout=timeout)

    def detokenize(self, requests):
        stub = self.channel.stream_stream(
            "/qwenserve.v1.Tokenizer/Detokenize",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=type(self.message("DetokenizeResponse")).FromString)
        return stub(requests, timeout=TIMEOUT)

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.addresses['ops']}/metrics", timeout=5) as page:
            return page.read().decode()

    def health(self, name):
        stub = health_pb2_grpc.HealthStub(self.channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT).status

    def stop(self):
        self.channel.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(model_dir, request):
    running = Server(model_dir, *getattr(request, "param", []))
    yield running
    running.stop()


def test_reflection_lists_what_is_served(server):
    assert set(server.database.get_services()) >= {
        "qwenserve.v1.Tokenizer", "grpc.health.v1.Health", "qwenserve.v1.Admin"}
    assert server.health("") == health_pb2.HealthCheckResponse.SERVING
    assert server.health("tiny") == health_pb2.HealthCheckResponse.SERVING


def test_text_to_ids_and_back(server):
    text = "Grüße 世界 😀"
    prepared = server.call("Prepare", server.message("PrepareRequest", text=text),
                           "PrepareResponse")
    assert list(prepared.prompt_ids) == list(text.encode())

    answered = threading.Semaphore(0)
    pending, parts = b"", []

    def one_id_at_a_time():
        nonlocal pending
        for step, token in enumerate(prepared.prompt_ids):
            item = server.message("DetokenizeItem", key=1, seq=step, ids=[token], pending=pending)
            yield server.message("DetokenizeRequest", step=step, items=[item])
            answered.acquire()

    for step, response in enumerate(server.detokenize(one_id_at_a_time())):
        assert response.step == step and response.results[0].seq == step
        pending = response.results[0].pending
        parts.append(response.results[0].text)
        answered.release()
    assert "".join(parts) == text
    counted = f"qwenserve_tokenizer_detokenize_tokens_total {len(text.encode())}\n"
    assert counted in server.metrics()


def test_errors_have_standard_details(server):
    chat = server.message("ChatInput")
    message = chat.messages.add()
    message.content = "no role"
    with pytest.raises(grpc.RpcError) as error:
        server.call("Prepare", server.message("PrepareRequest", chat=chat), "PrepareResponse")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
    unpacked = {}
    for any_detail in status_pb2.Status.FromString(details).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            if any_detail.Is(kind.DESCRIPTOR):
                unpacked[kind.__name__] = kind.FromString(any_detail.value)
    assert unpacked["ErrorInfo"].domain == "qwenserve"
    assert unpacked["ErrorInfo"].reason == "INVALID_FIELD"
    assert unpacked["BadRequest"].field_violations[0].field == "messages[0].role"


def future_prepare(server, text):
    return server.channel.unary_unary(
        "/qwenserve.v1.Tokenizer/Prepare",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=type(server.message("PrepareResponse")).FromString,
    ).future(server.message("PrepareRequest", text=text), timeout=120)


@pytest.mark.parametrize("server", [["--threads", "1", "--max-waiting-prompts", "2"]],
                         indirect=True)
def test_prompts_wait_in_a_bounded_queue_of_their_own(server):
    """Behind a prompt of 8 MB only two may wait, and tokens do not wait at all."""
    refused = 0
    for _ in range(20):  # until the long prompt, which takes longer to send, came first
        long_prompt = future_prepare(server, "\u732b\u72ac " * 1_100_000)
        short_prompts = [future_prepare(server, "x" * 200_000) for _ in range(8)]
        item = server.message("DetokenizeItem", ids=[65])
        answers = server.detokenize(iter([server.message("DetokenizeRequest", items=[item])]))
        assert next(answers).results[0].text == "A"
        codes = [prompt.code() for prompt in short_prompts]
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes.count(grpc.StatusCode.OK) >= 1
        refused += codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
        if long_prompt.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            refused += 1
        elif refused:
            break
    assert refused
    assert long_prompt.code() == grpc.StatusCode.INVALID_ARGUMENT  # too many tokens
    assert f'prepare_requests_total{{code="RESOURCE_EXHAUSTED"}} {refused}' in server.metrics()


@pytest.mark.parametrize("server", [["--drain-delay", "1"]], indirect=True)
def test_drain_answers_what_is_in_flight(server):
    future = future_prepare(server, "ab " * 300_000)
    watch = health_pb2_grpc.HealthStub(server.channel).Watch(
        health_pb2.HealthCheckRequest(service="tiny"), timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    server.process.send_signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    # Requests are still served within the delay.
    assert server.call("Prepare", server.message("PrepareRequest", text="x"),
                       "PrepareResponse").prompt_ids == [ord("x")]
    assert len(future.result().prompt_ids) == 900_000
    assert server.process.wait(timeout=60) == 0
    log = server.process.stderr.read()
    assert "drained" in log
    assert "ab ab" not in log


@pytest.mark.parametrize("server", [["--drain-delay", "0"]], indirect=True)
def test_drain_ends_idle_detokenize_streams(server):
    requests = queue.Queue()
    answers = server.detokenize(iter(requests.get, None))
    item = server.message("DetokenizeItem", ids=[65])
    requests.put(server.message("DetokenizeRequest", items=[item]))
    assert next(answers).results[0].text == "A"
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as error:
        next(answers)
    requests.put(None)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.process.wait(timeout=60) == 0


def test_serves_on_after_running_out_of_descriptors(model_dir):
    """A storm of connections takes every descriptor; afterwards all ports work as before."""
    server = Server(model_dir, max_descriptors=80)
    try:
        host, port = server.addresses["grpc"].split(":")
        storm = [socket.create_connection((host, int(port))) for _ in range(300)]
        for connection in storm:
            connection.close()
        server.channel.close()
        server.channel = grpc.insecure_channel(server.addresses["grpc"])
        grpc.channel_ready_future(server.channel).result(timeout=TIMEOUT)
        assert server.health("tiny") == health_pb2.HealthCheckResponse.SERVING
        for _ in range(100):  # the storm's connections leave one by one
            metrics = server.metrics()
            if "\nqwenserve_grpc_connections 1\n" in metrics:
                break
            time.sleep(0.1)
        assert "\nqwenserve_grpc_connections 1\n" in metrics
        refused = metrics.split('connections_refused_total{cause="descriptors"} ')[1].split()[0]
        assert int(refused) > 100
    finally:
        server.stop()


def run(*flags, **environment):
    return subprocess.run([BINARY, *flags], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **environment})


def test_a_missing_model_is_one_clear_line(tmp_path):
    result = run("--model", tmp_path, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
    assert result.returncode == 1
    assert "cannot start: " in result.stderr and str(tmp_path) in result.stderr


def test_usage_errors(tmp_path):
    result = run("--chat-template", "gpt", QWENSERVE_MODEL=str(tmp_path))
    assert result.returncode == 2
    assert "--chat-template: 'gpt' is not one of auto, qwen1" in result.stderr
    assert run().returncode == 2


def test_printed_config_shows_the_sources(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"listen": "127.0.0.1:7", "log-level": "warn"}))
    result = run("--model", "m", "--config", config, "--print-config",
                 QWENSERVE_LOG_LEVEL="debug")
    assert result.returncode == 0
    values = json.loads(result.stdout)
    assert (values["model"], values["listen"], values["log-level"], values["drain-delay"]) == (
        "m", "127.0.0.1:7", "debug", 10)
    assert run("--version").stdout.startswith("qwenserve-tokenizer 0.")
