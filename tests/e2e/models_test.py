"""Several models with tokenizers of their own behind one gateway."""

import contextlib
import json
import time

import grpc
import pytest

from conftest import error_info
from qwenctl_test import QWENCTL, Terminal, run
from server_process import DEMO_MODEL, ServerProcess
from sim_cluster import make_sim_model


def wait_for(condition, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    one, two = make_sim_model(folder / "one"), make_sim_model(folder / "two")
    # Another tokenizer: without the tokens for thinking and tools.
    (two / "tokenizer.json").write_text((DEMO_MODEL / "tokenizer.json").read_text())
    with contextlib.ExitStack() as stack:
        def start(role, *flags):
            process = ServerProcess(role, *flags)
            stack.callback(process.stop)
            return process
        workers = {"tokenizer": [], "generator": []}
        for model in (one, two):
            script = folder / f"{model.name}.json"
            script.write_text(json.dumps([{"answer": f"I am {model.name}"}]))
            workers["tokenizer"].append(start("tokenizer", "--model", model))
            workers["generator"].append(start("generator", "--model", model, "--engine", "sim",
                                              "--sim-step-ms", "1", "--sim-script", script))
        both = [process for processes in workers.values() for process in processes]
        gateway = start("gateway", *(flag for role, processes in workers.items() for flag in (
            f"--{role}s", ",".join(p.address for p in processes))))
        for process in [*both, gateway]:
            process.wait_ready()
        gateway.generators = workers["generator"]
        yield gateway


@pytest.fixture
def models(gateway, api):
    with grpc.insecure_channel(gateway.address) as channel:
        stub = api.InferenceStub(channel)
        wait_for(lambda: len(stub.ListModels(api.ListModelsRequest()).models) == 2)
        # A gateway is ready with one model, and lists those that have a tokenizer.
        wait_for(lambda: all(gateway.series().get(f'qwenserve_gateway_model_replicas{{model="{name}"}}') == 1
                             for name in ("one", "two")))
        yield stub


def chat(api, model):
    message = api.ChatMessage(role=api.ROLE_USER, content="who are you?")
    return api.ChatRequest(model=model, input=api.ChatInput(messages=[message]))


def test_each_model_answers(api, models, gateway):
    for name in ("one", "two", "one"):
        response = models.Chat(chat(api, name), timeout=30)
        assert response.choices[0].message.content == f"I am {name}"
    prompts = [generator.metric("qwenserve_prompt_tokens_total") for generator in gateway.generators]
    assert all(count > 0 for count in prompts)


def test_each_model_has_its_tokenizer(api, models):
    listed = {model.id: model for model in models.ListModels(api.ListModelsRequest()).models}
    assert sorted(listed) == ["one", "two"]
    assert listed["one"].tokenizer_hash != listed["two"].tokenizer_hash
    # Only the first one has a token of this number.
    first_added = json.loads((DEMO_MODEL / "config.json").read_text())["vocab_size"]
    request = api.DetokenizeTextRequest(model="one", token_ids=[first_added])
    assert models.Detokenize(request, timeout=30).text == "<think>"
    request.model = "two"
    assert models.Detokenize(request, timeout=30).text == ""


def test_which_model_must_be_said(api, models):
    with pytest.raises(grpc.RpcError) as error:
        models.Chat(chat(api, ""), timeout=30)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error.value)[1] == "model"


def test_unknown_models_are_not_found(api, models):
    for name in ("three", "ONE", "one "):
        with pytest.raises(grpc.RpcError) as error:
            models.Chat(chat(api, name), timeout=30)
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        assert error_info(error.value)[0].reason == "MODEL_NOT_FOUND"


def test_qwenctl_names_the_models_to_choose_from(gateway, models):
    def fails(*arguments):
        result = run(*arguments[:1], "--address", gateway.address, *arguments[1:])
        assert result.returncode == 4, result.stderr
        return result.stderr

    for question in (("complete", "--prompt", "x"), ("chat", "--message", "x"), ("tokenize", "--text", "x")):
        assert "which model? There are: one, two (--model)" in fails(*question)
        assert "'three' is not served here; there are: one, two" in fails(*question, "--model", "three")
    assert "'three' is not served here; there are: one, two" in fails("models", "--model", "three")


def test_a_chat_changes_its_model(gateway, models, tmp_path):
    file = tmp_path / "chat.json"
    terminal = Terminal(QWENCTL, "chat", "--address", gateway.address, "--model", "one")

    def command(keys, seen):
        terminal.type(keys.encode() + b"\r")
        terminal.wait_for(seen.encode())
        terminal.wait_for_prompt()

    command("who are you?", "I am one")
    command("/set model two", "set")
    command("who are you?", "I am two")
    command(f"/save {file}", "saved 4 messages")
    assert json.loads(file.read_text())["settings"]["model"] == "two"
    command("/set model default", "set")
    command("who are you?", "I am one")
    command(f"/load {file}", "model: two")
    command("/again", "I am two")
    command("/set model three", "set")
    command("who are you?", "there are: one, two")
    assert terminal.end() == 0


def test_one_model_goes_the_other_stays(api, models, gateway):
    gateway.generators[1].kill()
    wait_for(lambda: gateway.metric("qwenserve_gateway_workers_ready", role="generator") == 1)
    with pytest.raises(grpc.RpcError) as error:
        models.Chat(chat(api, "two"), timeout=30)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert models.Chat(chat(api, "one"), timeout=30).choices[0].message.content == "I am one"
