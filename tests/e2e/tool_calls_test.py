"""Tools in both APIs, streamed and not, in the three formats, on simulated generators."""

import json
import urllib.request

import pytest

from sim_cluster import SimCluster


def hermes(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
NAMES = ("weather", "time")
BROKEN = '<tool_call>\n{"name": "weather", "arguments": {"city": Ulm}}\n</tool_call>'
SCRIPTS = {
    "hermes": [
        {"when": '<tool_call>\n{"name": "time", "arguments":', "answer": ' {"a": 1}}\n</tool_call>'},
        {"when": "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"", "answer": 'weather", "arguments": {}}\n</tool_call>'},
        {"when": "two calls", "answer": "So:\n" + hermes("weather", '{"city": "Ulm"}') + "\n" + hermes("time", "{}")},
        {"when": "broken", "answer": BROKEN},
        {"when": "unknown", "answer": hermes("launch", "{}")},
        {"when": "result", "answer": "Fine."}],
    "react": [
        {"when": "Observation: 21\nThought:", "answer": " I now know.\nFinal Answer: It is 21."},
        {"when": "Thought: \nAction: time\nAction Input:", "answer": ' {"a": 1}\nObservation: noon', "split": "bytes"},
        {"when": "look", "answer": 'Thought: I ask.\nAction: weather\nAction Input: {"city": "Ulm"}\nObservation: hot',
         "split": "bytes"}],
    "flower": [
        {"when": "✿RESULT✿: 21\n✿RETURN✿", "answer": ": It is 21."},
        {"when": "assistant\n✿FUNCTION✿: time\n✿ARGS✿:", "answer": ' {"a": 1}\n✿RESULT✿: noon', "split": "bytes"},
        {"when": "look", "answer": 'I ask.\n✿FUNCTION✿: weather\n✿ARGS✿: {"city": "Ulm"}\n✿RESULT✿: hot', "split": "bytes"}],
}
TEMPLATES = {"hermes": "qwen3", "react": "qwen1.5", "flower": "qwen2"}


@pytest.fixture(scope="module", params=["react", "flower"])
def any_cluster(request):
    cluster = SimCluster(generator_flags=("--sim-step-ms", 0), script=SCRIPTS[request.param],
                         tokenizer_flags=("--chat-template", TEMPLATES[request.param]))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def cluster():
    cluster = SimCluster(generator_flags=("--sim-step-ms", 0), script=SCRIPTS["hermes"])
    yield cluster
    cluster.stop()


class Answer:
    def __init__(self):
        self.text, self.reasoning, self.reason, self.calls = "", "", None, []  # calls: [id, name, arguments]


def ask_grpc(api, cluster, text, stream, choice=None, parallel=None, history=(), seed=None):
    """`history`: (role, content, calls)."""
    request = api.ChatRequest(input=api.ChatInput(messages=[api.ChatMessage(role=2, content=text)]))
    for role, content, calls in history:
        request.input.messages.add(role=role, content=content, tool_calls=[
            api.ToolCall(id=i, name=name, arguments_json=arguments) for i, name, arguments in calls])
    for name in NAMES:
        request.input.tools.add(name=name, parameters_json=json.dumps(PARAMETERS))
    if choice == "required":
        request.input.tool_choice.mode = 3
    elif choice:
        request.input.tool_choice.mode = 4
        request.input.tool_choice.function_name = choice
    if parallel is not None:
        request.parallel_tool_calls = parallel
    if seed is not None:
        request.options.sampling.seed = seed
    answer = Answer()
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        if not stream:
            whole, = stub.Chat(request, timeout=30).choices
            answer.text, answer.reasoning = whole.message.content, whole.message.reasoning
            answer.calls = [[c.id, c.name, c.arguments_json] for c in whole.message.tool_calls]
            answer.reason = {1: "stop", 2: "length", 3: "tool_calls"}[whole.finish_reason]
            return answer
        for event in stub.StreamChat(request, timeout=30):
            answer.text += event.delta.text
            answer.reasoning += event.delta.reasoning
            for c in event.delta.tool_calls:
                if c.name:
                    answer.calls.append([c.id, c.name, ""])
                answer.calls[c.index][2] += c.arguments_json
            if event.HasField("finished"):
                answer.reason = {1: "stop", 2: "length", 3: "tool_calls"}[event.finished.choices[0].finish_reason]
    return answer


def ask_http(api, cluster, text, stream, choice=None, parallel=None, history=(), seed=None):
    del api
    messages = [{"role": "user", "content": text}]
    for role, content, calls in history:
        message = {"role": {3: "assistant", 4: "tool"}[role], "content": content}
        if calls:
            message["tool_calls"] = [{"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
                                     for i, name, arguments in calls]
        if role == 4:
            message["tool_call_id"] = "c1"
        messages.append(message)
    body = {"model": "sim", "messages": messages, "stream": stream, "seed": seed, "tools": [
        {"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in NAMES]}
    if choice:
        body["tool_choice"] = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    if parallel is not None:
        body["parallel_tool_calls"] = parallel
    return post(cluster, body, stream)


def post(cluster, body, stream):
    request = urllib.request.Request(f"http://{cluster.gateway.addresses['http']}/v1/chat/completions",
                                     json.dumps(body).encode(), {"content-type": "application/json"})
    answer = Answer()
    with urllib.request.urlopen(request, timeout=30) as response:
        if stream:
            events = [json.loads(line[6:]) for line in response if line.startswith(b"data: {")]
        else:
            events = [json.load(response)]
    for event in events:
        choice = event["choices"][0]
        delta = choice.get("delta") or choice.get("message") or {}
        answer.text += delta.get("content") or ""
        answer.reasoning += delta.get("reasoning_content") or ""
        for c in delta.get("tool_calls") or ():
            if c["function"].get("name"):
                answer.calls.append([c["id"], c["function"]["name"], ""])
            answer.calls[c.get("index", -1)][2] += c["function"].get("arguments", "")
        if (delta.get("function_call") or {}).get("name"):
            answer.calls.append([None, delta["function_call"]["name"], delta["function_call"]["arguments"]])
        answer.reason = choice.get("finish_reason") or answer.reason
    return answer


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
apis = pytest.mark.parametrize("ask", [ask_grpc, ask_http], ids=["grpc", "http"])


def named(answer):
    return [(name, arguments) for _, name, arguments in answer.calls]


@both
@apis
def test_several_calls_or_only_one(api, cluster, ask, stream):
    answer = ask(api, cluster, "two calls", stream, seed=5)
    assert named(answer) == [("weather", '{"city": "Ulm"}'), ("time", "{}")]
    assert (answer.text, answer.reason) == ("So:", "tool_calls")
    ids = [i for i, _, _ in answer.calls]
    assert len(set(ids)) == 2
    assert [i for i, _, _ in ask(api, cluster, "two calls", stream, seed=5).calls] == ids
    assert [i for i, _, _ in ask(api, cluster, "two calls", stream, seed=6).calls] != ids
    answer = ask(api, cluster, "two calls", stream, parallel=False)
    assert named(answer) == [("weather", '{"city": "Ulm"}')] and answer.reason == "tool_calls"


@both
@apis
def test_a_call_can_be_asked_for(api, cluster, ask, stream):
    answer = ask(api, cluster, "hello", stream, choice="time")
    assert named(answer) == [("time", '{"a": 1}')] and answer.reason == "tool_calls"
    answer = ask(api, cluster, "hello", stream, choice="required")
    assert named(answer) == [("weather", "{}")] and answer.reason == "tool_calls"


@both
@apis
def test_calls_that_are_none(api, cluster, ask, stream):
    answer = ask(api, cluster, "unknown", stream)
    assert (answer.text, answer.calls, answer.reason) == (hermes("launch", "{}"), [], "stop")
    answer = ask(api, cluster, "broken", stream)
    if stream:
        assert named(answer) == [("weather", '{"city": Ulm}}\n')] and answer.text == ""
    else:
        assert (answer.text, answer.calls) == (BROKEN, [])
    assert answer.reason == "stop"
    # An agent may show the model what it wrote.
    history = [(3, "", [("c1", "weather", '{"city": Ulm}}')]), (4, "error in the result", [])]
    assert ask(api, cluster, "q", stream, history=history).text == "Fine."


@both
@apis
def test_every_format_calls_and_takes_results(api, any_cluster, request, ask, stream):
    name = request.node.callspec.params["any_cluster"]
    answer = ask(api, any_cluster, "look", stream)
    assert named(answer) == [("weather", '{"city": "Ulm"}')]
    assert (answer.text, answer.reason) == ("I ask.", "tool_calls")
    final = ask(api, any_cluster, "look", stream, history=[(3, answer.text, answer.calls), (4, "21", [])])
    assert (final.text, final.reason, final.calls) == ("It is 21.", "stop", [])
    assert final.reasoning == ("I now know." if name == "react" else "")
    answer = ask(api, any_cluster, "hello", stream, choice="time")
    assert named(answer) == [("time", '{"a": 1}')] and answer.reason == "tool_calls"


@both
def test_the_old_api_has_room_for_one_call(cluster, stream):
    body = {"model": "sim", "messages": [{"role": "user", "content": "two calls"}], "stream": stream,
            "functions": [{"name": name, "parameters": PARAMETERS} for name in NAMES]}
    answer = post(cluster, body, stream)
    assert [name for _, name, _ in answer.calls] == ["weather"] and answer.reason == "function_call"
