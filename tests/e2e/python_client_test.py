"""The Python examples: built as a wheel, and run against simulated generators."""

import importlib
import socket
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version

import grpc
import pytest

from fake_gateway import abort, fake_gateway
from server_process import ROOT

EXAMPLES = ROOT / "examples" / "python"


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, unpacked. Its build must leave nothing in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # Where the proto files are two folders up, as in the repository.
    (source / "examples").mkdir(parents=True)
    (source / "proto").symlink_to(ROOT / "proto")
    subprocess.run(["cp", "-r", EXAMPLES, source / "examples"], check=True)
    subprocess.run([sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", folder], check=True,
                   cwd=source / "examples" / "python")
    archive, = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="session")
def client_module(wheel, api):
    # The stubs of conftest.py are loaded already under the same names.
    sys.path[:0] = [str(wheel), str(EXAMPLES)]
    return importlib.import_module("qwenserve_client")


def chat(client_module, text, **options):
    api = client_module.api
    return api.ChatRequest(
        input=api.ChatInput(messages=[api.ChatMessage(role=api.ROLE_USER, content=text)]),
        options=api.GenerationOptions(**options))


def test_the_wheel_is_complete(wheel):
    names = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    assert {"qwenserve_client/py.typed", "qwenserve_client/client.py", "qwenserve/v1/inference_pb2.py",
            "qwenserve/v1/inference_pb2.pyi", "qwenserve/v1/inference_pb2_grpc.py"} <= names
    metadata = next(wheel.glob("*.dist-info/METADATA")).read_text()
    assert f"Requires-Dist: protobuf>={version('protobuf')}" in metadata
    code = "import qwenserve_client; print(qwenserve_client.api.ChatRequest().model == '')"
    result = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(wheel)}, capture_output=True,
                            text=True, check=True)
    assert result.stdout == "True\n"


def test_a_stream_goes_on_at_another_gateway(client_module, sim_cluster):
    cluster = sim_cluster(gateways=2, generators=2, generator_flags=("--sim-step-ms", 5),
                          script=[{"when": "weather", "split": "bytes", "answer":
                                   "It is \U0001F600 nice. " * 4 + call("f", '{"a": "' + "x" * 150 + '"}')}])
    api = client_module.api
    request = chat(client_module, "weather", max_tokens=400)
    request.input.tools.add(name="f")
    with client_module.Client(cluster.gateways[1].address) as other:
        request.options.sampling.seed = 99
        whole = client_module.Answer.of(other.stream_chat(request))
        request.options.sampling.ClearField("seed")
    assert whole.finish_reason == api.FINISH_REASON_TOOL_CALLS
    events = []
    with client_module.Client([g.address for g in cluster.gateways], timeout=60) as client:
        for event in client.stream_chat(request):
            events.append(event)
            if len(events) == 150:
                cluster.gateways[0].kill()
    deltas = [e.delta for e in events if e.HasField("delta")]
    tokens = 0
    for delta in deltas:
        if delta.token_ids:
            assert delta.first_token_index == tokens
            tokens += len(delta.token_ids)
    assert tokens == events[-1].finished.choices[0].completion_tokens > 200
    assert [e.WhichOneof("event") for e in events].count("started") == 1
    answer = client_module.Answer.of(events)
    assert answer.message.content == whole.message.content
    assert [(c.name, c.arguments_json) for c in answer.message.tool_calls] == [
        (c.name, c.arguments_json) for c in whole.message.tool_calls]
    assert sum(1 for d in deltas for c in d.tool_calls if c.id) == 1
    assert answer.finish_reason == whole.finish_reason


def test_a_hashed_stream_goes_on_with_the_same_tokens(client_module, sim_cluster):
    cluster = sim_cluster(gateways=2, generator_flags=("--sim-step-ms", 2))
    request = chat(client_module, "hello", max_tokens=300, n=2, ignore_eos=True,
                   sampling=client_module.api.SamplingParams(temperature=1.0))
    with client_module.Client([g.address for g in cluster.gateways], timeout=60) as client:
        events, seed = [], None
        for event in client.stream_chat(request):
            events.append(event)
            if event.HasField("started"):
                seed = event.started.seed
            if len(events) == 100:
                cluster.gateways[0].kill()
        request.options.sampling.seed = seed
        again = list(client.stream_chat(request))

    def tokens(stream, choice):
        return [t for e in stream if e.HasField("delta") and e.delta.choice == choice for t in e.delta.token_ids]

    for choice in (0, 1):
        assert len(tokens(events, choice)) == 300
        assert tokens(events, choice) == tokens(again, choice)
    assert tokens(events, 0) != tokens(events, 1)


def test_another_answer_is_an_error_and_not_mixed(client_module, sim_cluster):
    cluster = sim_cluster(generators=2, gateways=0, generator_flags=("--sim-step-ms", 5), scripts={
        0: [{"answer": "aaaaaaaaaaaa " * 40, "split": "bytes"}],
        1: [{"answer": "aaaaaaaaaaab " * 40, "split": "bytes"}]})
    gateways = [cluster.start_gateway(generators=[p.address]) for p in cluster.generators]
    with client_module.Client([g.address for g in gateways], timeout=60) as client:
        with pytest.raises(client_module.ResumeError):
            for number, _ in enumerate(client.stream_chat(chat(client_module, "q", max_tokens=500))):
                if number == 100:
                    gateways[0].kill()


def test_a_busy_server_is_asked_again_when_it_says(client_module):
    api = client_module.api
    times = []

    def answer(_, context):
        times.append(time.monotonic())
        if len(times) <= 2:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", retry_ms=150)
        if len(times) == 4:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no use to ask again")
        return api.ChatResponse()

    # The first address has nobody: the client moves on.
    with fake_gateway(api, chat=answer) as address, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with client_module.Client(f"127.0.0.1:{nobody.getsockname()[1]},{address}") as client:
            client.chat(api.ChatRequest())
            assert len(times) == 3
            assert times[1] - times[0] >= 0.15 and times[2] - times[1] >= 0.15
            with pytest.raises(grpc.RpcError) as raised:
                client.chat(api.ChatRequest())
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert len(times) == 4


def test_the_sample_service_config_retries(client_module):
    api = client_module.api
    calls = []

    def answer(_, context):
        calls.append(1)
        if len(calls) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return api.ChatResponse()

    config = (EXAMPLES / "service_config.json").read_text()
    with fake_gateway(api, chat=answer) as address:
        # One attempt of ours: what is more comes from gRPC.
        with client_module.Client(address, attempts=1, options=[("grpc.service_config", config)]) as client:
            client.chat(api.ChatRequest(), timeout=60)
    assert len(calls) == 3


@pytest.mark.parametrize("code, messages", [("UNAVAILABLE", 1), ("RESOURCE_EXHAUSTED", 0), ("INTERNAL", 0)])
def test_the_sample_service_config_repeats_nothing_else(client_module, code, messages):
    api = client_module.api
    calls = []

    def stream(_, context):
        calls.append(1)
        for _ in range(messages):
            yield api.StreamChatResponse(started=api.Started(seed=7))
        context.abort(grpc.StatusCode[code], "no")

    config = (EXAMPLES / "service_config.json").read_text()
    with fake_gateway(api, stream_chat=stream) as address:
        with client_module.Client(address, attempts=1, options=[("grpc.service_config", config)]) as client:
            with pytest.raises(grpc.RpcError) as raised:
                list(client.stream_chat(api.ChatRequest(), timeout=60))
    assert raised.value.code() == grpc.StatusCode[code]
    assert len(calls) == 1


AGENT_SCRIPT = [
    {"when": "<tool_response>\n70.7", "answer": "It is 70.7 degrees Fahrenheit."},
    {"when": '"celsius": 21.5', "answer": call("calculate", '{"expression": "21.5 * 9 / 5 + 32"}')},
    {"when": "error: TypeError", "answer": call("temperature", '{"city": "Ulm"}')},
    {"when": "How warm", "answer": "I look.\n" + call("temperature", '{"town": "Ulm"}')},
]


def run_example(wheel, name, *arguments):
    return subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=120,
                          env={"PYTHONPATH": str(wheel), "PYTHONDONTWRITEBYTECODE": "1"})


@pytest.mark.parametrize("http", [False, True])
def test_the_agent_uses_its_tools_and_corrects_itself(wheel, sim_cluster, http):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 0), script=AGENT_SCRIPT)
    server = (("--http", f"http://{cluster.gateway.addresses['http']}/v1", "--model", "sim") if http
              else ("--address", cluster.gateway.address))
    result = run_example(wheel, "agent_loop.py", *server, "How warm is it in Ulm?")
    assert result.stdout == "It is 70.7 degrees Fahrenheit.\n", result.stderr
    steps = result.stderr.splitlines()
    assert [step.split("(")[0] for step in steps] == ["temperature", "temperature", "calculate"]
    assert steps[2].endswith("-> 70.7")


def test_the_code_interpreter_runs_the_models_code(wheel, sim_cluster):
    code = "print(sum(all(n % d for d in range(2, n)) for n in range(2, 100)))"
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 0), script=[
        {"when": "<tool_response>\n25", "answer": "There are 25."},
        {"when": "primes", "answer": call("code_interpreter", f'{{"code": "{code}"}}')}])
    result = run_example(wheel, "code_interpreter.py", "--address", cluster.gateway.address, "primes below 100?")
    assert result.stdout == "There are 25.\n", result.stderr


def test_code_runs_within_limits(client_module, tmp_path):
    execute = importlib.import_module("code_interpreter").execute
    assert execute("print(6 * 7)") == "42\n"
    assert execute("") == "Finished execution."
    assert "ZeroDivisionError" in execute("1 / 0")
    assert "Timeout" in execute("import time; print('x', flush=True); time.sleep(60)", timeout=1)
    assert "MemoryError" in execute("x = bytearray(1 << 31)")
    assert "File too large" in execute("open('f', 'wb').write(bytes(1 << 25))")
    assert execute("import os; print('PYTHONPATH' in os.environ, os.listdir('.'))") == "False []\n"
    assert len(execute("print('y' * 10**7)")) < 9000
    # A process that it leaves behind ends with it.
    mark = tmp_path / "mark"
    late = f"import time; time.sleep(1); open({str(mark)!r}, 'w')"
    execute(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {late!r}])")
    time.sleep(2)
    assert not mark.exists()
