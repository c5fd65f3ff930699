"""The Java example: compiled as its README says, run against simulated generators and a gateway of our own."""

import pathlib
import subprocess
import time
import xml.etree.ElementTree

import grpc
import pytest

from fake_gateway import abort, answer, fake_gateway
from readme_commands import commands
from server_process import ROOT

SERVICE_CONFIG = ROOT / "examples" / "python" / "service_config.json"


@pytest.fixture(scope="session")
def chat(tmp_path_factory):
    """The command of the program."""
    out = tmp_path_factory.mktemp("java")
    build, call = commands("examples/java/README.md", "With Debian's packages alone").rsplit("java -cp", 1)
    assert "qwenserve.examples.Chat" in call
    result = subprocess.run(["bash", "-euc", f'out={out}\n{build}\necho "$classpath"'], cwd=ROOT, check=True,
                            stdout=subprocess.PIPE, text=True)
    classpath = result.stdout.split()[-1]
    missing = [path for path in classpath.split(":") if not pathlib.Path(path).exists()]
    assert not missing
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", classpath, "qwenserve.examples.Chat"]


def run(chat, address, question, seconds=60):
    result = subprocess.run([*chat, address, SERVICE_CONFIG, str(seconds), question], capture_output=True, text=True,
                            timeout=120)
    return result.returncode, result.stdout, result.stderr


def test_the_answer_is_streamed(chat, sim_cluster):
    text = "Tokens are pieces of text \U0001F600. " * 5
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 1), script=[
        {"when": "token", "answer": text, "split": "bytes"}, {"when": "slow", "length": 400, "step_delay": 0.05}])
    code, out, log = run(chat, cluster.gateway.address, "What is a token?")
    assert (code, out) == (0, text + "\n"), log
    assert f"{len(text.encode())} of the answer, FINISH_REASON_STOP" in log
    process = subprocess.Popen([*chat, cluster.gateway.address, SERVICE_CONFIG, "60", "slow"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.read(20)  # long before the end, 20 s away
    assert cluster.total("qwenserve_sequences_running") == 1
    process.kill()
    process.communicate()
    cluster.wait_idle()


def test_the_service_config_retries_before_the_first_message(chat, api):
    calls = []

    def stream(_, context):
        calls.append(1)
        if len(calls) <= 2:
            abort(context, grpc.StatusCode.UNAVAILABLE, "no worker")
        yield from answer(api, "there")

    with fake_gateway(api, stream_chat=stream) as address:
        assert run(chat, address, "hi")[:2] == (0, "there\n")
    assert len(calls) == 3


def test_nothing_is_retried_behind_the_first_message(chat, api):
    calls = []

    def stream(_, context):
        calls.append(1)
        yield from list(answer(api, "half"))[:2]
        abort(context, grpc.StatusCode.UNAVAILABLE, "gone")

    with fake_gateway(api, stream_chat=stream) as address:
        code, out, log = run(chat, address, "hi")
    assert (code, out, len(calls)) == (1, "half", 1)
    assert "UNAVAILABLE: gone" in log


def test_a_busy_gateway_is_asked_again_when_it_says(chat, api):
    times = []

    def stream(_, context):
        times.append(time.monotonic())
        if len(times) == 2:
            yield from answer(api, "there")
        else:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", "QUEUE_FULL",
                  retry_ms=300 if len(times) == 1 else None)

    with fake_gateway(api, stream_chat=stream) as address:
        assert run(chat, address, "hi")[:2] == (0, "there\n")
        assert times[1] - times[0] >= 0.3
        code, _, log = run(chat, address, "hi")
    assert (code, len(times)) == (1, 3)
    assert "reason QUEUE_FULL" in log


def test_the_deadline_is_told_to_the_server(chat, api):
    told = []

    def stream(_, context):
        told.append(context.time_remaining())
        time.sleep(6)
        yield

    with fake_gateway(api, stream_chat=stream) as address:
        code, _, log = run(chat, address, "hi", seconds=3)
    assert code == 1 and "DEADLINE_EXCEEDED" in log
    assert len(told) == 1 and told[0] <= 3


def test_the_maven_file_is_xml():
    root = xml.etree.ElementTree.parse(ROOT / "examples" / "java" / "pom.xml").getroot()
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    used = {node.text for node in root.findall(".//m:dependency/m:artifactId", space)}
    assert {"grpc-netty-shaded", "grpc-protobuf", "grpc-stub", "protobuf-java", "gson"} <= used
