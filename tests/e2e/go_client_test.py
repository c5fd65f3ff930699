"""The Go example: built as its README says, run against simulated generators and a gateway of our own."""

import os
import pathlib
import re
import socket
import subprocess
import time

import grpc
import pytest

from fake_gateway import abort, answer, fake_gateway
from readme_commands import commands
from server_process import ROOT

SOURCE = ROOT / "examples" / "go"


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Where the build happens: a copy of what it needs, as it lies in the repository."""
    home = tmp_path_factory.mktemp("go")
    (home / "proto").symlink_to(ROOT / "proto")
    (home / "examples").mkdir()
    subprocess.run(["cp", "-r", SOURCE, home / "examples"], check=True)
    cache = os.environ.get("GOCACHE", str(pathlib.Path.home() / ".cache" / "go-build"))
    return {"PATH": os.environ["PATH"], "HOME": str(home), "GOCACHE": cache}


@pytest.fixture(scope="session")
def chat(environment):
    """The program."""
    script = commands("examples/go/README.md", "With Debian's packages alone")
    subprocess.run(["bash", "-euc", script], cwd=environment["HOME"], env=environment, check=True)
    return pathlib.Path(environment["HOME"]) / "chat"


def start(chat, addresses, *arguments):
    return subprocess.Popen([chat, "-address", addresses, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            bufsize=0)  # communicate() leaves out what a buffer holds


def read_some(process, count):
    """The beginning of the output, `count` bytes or more."""
    out = b""
    while len(out) < count:
        piece = process.stdout.read(count)
        assert piece, process.stderr.read()
        out += piece
    return out


def run(chat, addresses, *arguments):
    process = start(chat, addresses, *arguments)
    out, log = process.communicate(timeout=60)
    return process.returncode, out.decode(), log.decode()


def test_the_sources_are_tidy(chat, environment):
    assert subprocess.run(["gofmt", "-l", SOURCE], capture_output=True, text=True, check=True).stdout == ""
    path = {"GO111MODULE": "off", "GOPATH": f"{environment['HOME']}/go:/usr/share/gocode"}
    subprocess.run(["go", "vet", "qwenserve/client", "qwenserve/chat"], cwd=environment["HOME"],
                   env={**environment, **path}, check=True)


def test_a_stream_goes_on_at_another_gateway(chat, api, sim_cluster):
    cluster = sim_cluster(gateways=2, script=[{"when": "story", "length": 200, "step_delay": 0.01}])
    process = start(chat, ",".join(gateway.address for gateway in cluster.gateways), "-temperature", "1", "a story")
    beginning = read_some(process, 100)
    cluster.gateways[0].kill()
    rest, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    seed, = re.findall(r"model sim, seed (\d+)", log.decode())
    with cluster.channel(gateway=1) as channel:
        whole = api.InferenceStub(channel).Chat(api.ChatRequest(
            input=api.ChatInput(messages=[api.ChatMessage(role=api.ROLE_USER, content="a story")]),
            options=api.GenerationOptions(sampling=api.SamplingParams(temperature=1, seed=int(seed)))), timeout=60)
    assert (beginning + rest).decode() == whole.choices[0].message.content + "\n"
    assert "200 of the answer, FINISH_REASON_STOP" in log.decode()


def test_another_answer_is_an_error_and_not_mixed(chat, sim_cluster):
    cluster = sim_cluster(generators=2, gateways=0, generator_flags=("--sim-step-ms", 10), scripts={
        0: [{"answer": "aaaaaaaaaaaa " * 40, "split": "bytes"}],
        1: [{"answer": "aaaaaaaaaaab " * 40, "split": "bytes"}]})
    gateways = [cluster.start_gateway(generators=[p.address]) for p in cluster.generators]
    process = start(chat, ",".join(gateway.address for gateway in gateways), "question")
    beginning = read_some(process, 50)
    gateways[0].kill()
    rest, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"cannot be resumed" in log
    assert b"b" not in beginning + rest


def test_a_busy_gateway_is_asked_again_when_it_says(chat, api):
    times = []

    def stream(_, context):
        times.append(time.monotonic())
        if len(times) <= 2:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", "QUEUE_FULL", retry_ms=300)
        yield from answer(api, "there")

    # The first address has nobody: the client moves on.
    with fake_gateway(api, stream_chat=stream) as address, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        code, out, log = run(chat, f"127.0.0.1:{nobody.getsockname()[1]},{address}", "hi")
    assert (code, out) == (0, "there\n"), log
    assert len(times) == 3
    assert times[1] - times[0] >= 0.3 and times[2] - times[1] >= 0.3


def test_what_would_be_refused_again_is_not_repeated(chat, api):
    calls = []

    def stream(_, context):
        calls.append(1)
        abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many tokens a minute", "KEY_LIMIT")
        yield

    with fake_gateway(api, stream_chat=stream) as address:
        code, out, log = run(chat, address, "hi")
    assert (code, out, len(calls)) == (1, "", 1)
    assert "too many tokens a minute" in log and "reason KEY_LIMIT" in log


def test_one_deadline_holds_for_all_attempts(chat, api):
    told = []

    def stream(_, context):
        told.append(context.time_remaining())
        time.sleep(0.5)
        if len(told) == 2:
            time.sleep(5)
        abort(context, grpc.StatusCode.UNAVAILABLE, "no worker")
        yield

    with fake_gateway(api, stream_chat=stream) as address:
        code, _, log = run(chat, address, "-timeout", "3s", "hi")
    assert code == 1 and "DeadlineExceeded" in log
    assert len(told) == 2 and told[0] <= 3 and told[1] <= 2.5


def test_the_key_goes_with_the_call(chat, api, monkeypatch):
    keys = []

    def stream(_, context):
        keys.append(dict(context.invocation_metadata()).get("authorization"))
        yield from answer(api, "there")

    with fake_gateway(api, stream_chat=stream) as address:
        monkeypatch.setenv("QWENSERVE_API_KEY", "secret")
        run(chat, address, "hi")
        monkeypatch.delenv("QWENSERVE_API_KEY")
        run(chat, address, "hi")
    assert keys == ["Bearer secret", None]
