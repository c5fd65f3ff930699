"""The official client of OpenAI against real processes: a simulated engine that answers by a script,
and the demo model where the tokens matter."""

import json
import threading

import openai
import pytest

from sim_cluster import SimCluster

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
EMOJI = "\U0001f600é"
SCRIPT = [
    {"when": "two calls", "answer": CALL + "\n" + CALL_2},
    {"when": "the weather", "answer": CALL},
    # Paced, since a client that is behind gets several tokens as one piece.
    {"when": "cut call", "answer": CALL, "split": "bytes", "step_delay": 0.02},
    {"when": "a face", "answer": EMOJI, "split": "bytes"},
    {"when": "halt", "answer": "go on HALT no more", "split": "bytes"},
    {"when": "ponder", "answer": "<think>\nhm, well\n</think>\n\nyes"},
    {"when": "quotes", "answer": "a \"quoted\" \\ line\nand a tab\t."},
    {"when": "poison", "fault": "nan", "after": 3},
    {"when": "refuse", "fault": "refuse"},
    {"when": "slow", "step_delay": 0.1, "length": 200},
    {"when": "hello", "answer": "Hello there, friend."},
]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS}},
         {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}]
FUNCTIONS = [tool["function"] for tool in TOOLS]


@pytest.fixture(scope="module")
def sim():
    cluster = SimCluster(generator_flags=("--sim-step-ms", 1), script=SCRIPT)
    yield cluster
    cluster.stop()


def client_of(gateway, **options):
    return openai.OpenAI(base_url=f"http://{gateway.addresses['http']}/v1", api_key="none", max_retries=0,
                         timeout=60, **options)


@pytest.fixture(scope="module")
def client(sim):
    with client_of(sim.gateway) as client:
        yield client


@pytest.fixture(scope="module")
def demo(shared_cluster):
    with client_of(shared_cluster.gateway) as client:
        yield client


class Answer:
    """What a request came to, whether it was streamed or not."""

    def __init__(self, content="", reasoning="", calls=(), function=None, reason=None, usage=None, logprobs=()):
        self.content, self.reasoning, self.calls, self.function = content, reasoning, list(calls), function
        self.reason, self.usage, self.logprobs = reason, usage, list(logprobs)


def whole(client, **request):
    response = client.chat.completions.create(**request)
    answers = []
    for index, choice in enumerate(response.choices):
        assert choice.index == index
        message = choice.message
        assert message.role == "assistant"
        answers.append(Answer(
            message.content or "", getattr(message, "reasoning_content", None) or "",
            [(call.function.name, call.function.arguments) for call in message.tool_calls or ()],
            message.function_call and (message.function_call.name, message.function_call.arguments),
            choice.finish_reason, response.usage, choice.logprobs.content if choice.logprobs else ()))
    return answers


def streamed(client, **request):
    answers, usage = {}, None
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **request):
        assert chunk.object == "chat.completion.chunk" and usage is None
        if not chunk.choices:
            usage = chunk.usage
        for choice in chunk.choices:
            assert chunk.usage is None
            answer = answers.setdefault(choice.index, Answer())
            assert answer.reason is None, "nothing follows a choice's finish"
            delta = choice.delta
            answer.content += delta.content or ""
            answer.reasoning += getattr(delta, "reasoning_content", None) or ""
            for call in delta.tool_calls or ():
                if call.index == len(answer.calls):
                    assert call.id and call.type == "function"
                    answer.calls.append((call.function.name, ""))
                name, arguments = answer.calls[call.index]
                answer.calls[call.index] = (name, arguments + (call.function.arguments or ""))
            if delta.function_call is not None:
                name, arguments = answer.function or ("", "")
                answer.function = (name + (delta.function_call.name or ""),
                                   arguments + (delta.function_call.arguments or ""))
            answer.logprobs += choice.logprobs.content if choice.logprobs else []
            answer.reason = choice.finish_reason
    for answer in answers.values():
        answer.usage = usage
    return [answers[index] for index in sorted(answers)]


both = pytest.mark.parametrize("ask", [whole, streamed])


def user(text):
    return [{"role": "user", "content": text}]


def base(text="hello", **more):
    return {"model": "sim", "messages": user(text), "temperature": 0, "extra_body": {}, **more}


@both
def test_an_answer(client, ask):
    answer, = ask(client, **base())
    assert answer.content == "Hello there, friend." and answer.reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens > 0


@both
def test_max_tokens_under_both_names(client, ask):
    for name in ("max_tokens", "max_completion_tokens"):
        answer, = ask(client, **base("long", **{name: 7}))
        assert answer.reason == "length" and answer.usage.completion_tokens == 7


@both
def test_several_answers(client, ask):
    answers = ask(client, **base("any", n=3, max_tokens=8, temperature=1, seed=5))
    assert len(answers) == 3 and len({answer.content for answer in answers}) == 3
    assert answers[0].usage.completion_tokens == 24


@both
def test_a_seed_repeats_an_answer(client, ask):
    request = base("any", max_tokens=12, temperature=1)
    first, = ask(client, **request, seed=11)
    again, = ask(client, **request, seed=11)
    other, = ask(client, **request, seed=12)
    assert first.content == again.content != other.content


def test_the_echoed_seed_repeats_an_answer_that_had_none(client):
    request = base("any", max_tokens=12, temperature=1)
    first = client.chat.completions.create(**request)
    again = client.chat.completions.create(**request, seed=first.seed)
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.system_fingerprint == again.system_fingerprint and first.system_fingerprint


@both
@pytest.mark.parametrize("stop", ["HALT", ["never", "HALT"]])
def test_stop_strings_that_span_tokens(client, ask, stop):
    answer, = ask(client, **base("halt", stop=stop))
    assert answer.content == "go on " and answer.reason == "stop"


def test_the_stop_string_is_told(client):
    choice = client.chat.completions.create(**base("halt", stop=["x", "HALT"])).choices[0]
    assert choice.stop_reason == "HALT"


@both
def test_characters_that_span_tokens(client, ask):
    answer, = ask(client, **base("a face"))
    assert answer.content == EMOJI


@both
def test_what_json_must_escape(client, ask):
    answer, = ask(client, **base("quotes"))
    assert answer.content == "a \"quoted\" \\ line\nand a tab\t."


@both
def test_reasoning(client, ask):
    answer, = ask(client, **base("ponder"))
    assert answer.content.strip() == "yes" and answer.reasoning.strip() == "hm, well"
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens


@both
@pytest.mark.parametrize("extra", [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_thinking_is_switched_off(client, ask, extra):
    on, = ask(client, **base("hello"))
    off, = ask(client, **base("hello", **{"extra_body": extra}))
    # The prompt then holds an empty block of thoughts.
    assert off.usage.prompt_tokens > on.usage.prompt_tokens


@both
def test_logprobs(client, ask):
    answer, = ask(client, **base(max_tokens=3, logprobs=True, top_logprobs=2))
    assert len(answer.logprobs) == 3
    text = b"".join(bytes(token.bytes) for token in answer.logprobs).decode()
    assert text == answer.content and all(len(token.top_logprobs) == 2 for token in answer.logprobs)
    assert all(token.logprob <= 0 for token in answer.logprobs)


@both
def test_logprobs_of_parts_of_a_character(client, ask):
    answer, = ask(client, **base("a face", logprobs=True))
    assert b"".join(bytes(token.bytes) for token in answer.logprobs) == EMOJI.encode()
    assert answer.logprobs[0].token == "\ufffd" and answer.content == EMOJI


@both
def test_logit_bias_with_text_keys(client, ask, demo):
    answer, = ask(demo, **base("hello", **{"model": "demo"}, max_tokens=3, logit_bias={"1563": 100}))
    assert answer.content == "hello" * 3


@both
@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_penalties_reach_the_engine(client, ask, field):
    plain, = ask(client, **base("any", max_tokens=8))
    penalised, = ask(client, **base("any", max_tokens=8, **{field: 1.5}))
    assert plain.content != penalised.content


@both
@pytest.mark.parametrize("extra", [{"repetition_penalty": 1.5}, {"top_k": 3}, {"min_p": 0.3}, {"top_p": 0.5}])
def test_further_sampling_reaches_the_engine(client, ask, extra):
    request = base("any", max_tokens=8, temperature=1, seed=4)
    plain, = ask(client, **request)
    request["extra_body"] = extra
    changed, = ask(client, **request)
    assert plain.content != changed.content


@both
def test_ignore_eos_and_min_tokens(client, ask):
    answer, = ask(client, **base("hello", max_tokens=30, extra_body={"ignore_eos": True}))
    assert answer.usage.completion_tokens == 30 and answer.reason == "length"


@both
def test_stop_token_ids(client, demo, ask):
    answer, = ask(demo, **base("hello", **{"model": "demo"}, max_tokens=5, logit_bias={"1563": 100},
                               extra_body={"stop_token_ids": [1563]}))
    assert answer.content == "" and answer.reason == "stop"


@both
def test_a_tool_call(client, ask):
    answer, = ask(client, **base("the weather", tools=TOOLS))
    (name, arguments), = answer.calls
    assert name == "weather" and json.loads(arguments) == {"city": "Köln", "days": 2}
    assert answer.reason == "tool_calls" and answer.content.strip() == ""


@both
def test_a_tool_call_in_pieces(client, ask):
    answer, = ask(client, **base("cut call", tools=TOOLS, tool_choice="auto"))
    (name, arguments), = answer.calls
    assert name == "weather" and json.loads(arguments) == {"city": "Köln", "days": 2}


def test_arguments_are_streamed(client):
    pieces = [call.function.arguments
              for chunk in client.chat.completions.create(**base("cut call", tools=TOOLS), stream=True)
              for call in chunk.choices[0].delta.tool_calls or ()]
    assert len([piece for piece in pieces if piece]) > 3


@both
def test_parallel_tool_calls(client, ask):
    answer, = ask(client, **base("two calls", tools=TOOLS))
    assert [name for name, _ in answer.calls] == ["weather", "time"]


@both
def test_one_tool_call_at_a_time(client, ask):
    answer, = ask(client, **base("two calls", tools=TOOLS, parallel_tool_calls=False))
    assert [name for name, _ in answer.calls] == ["weather"] and answer.reason == "tool_calls"


@both
def test_tool_choice_none_hides_the_tools(client, ask):
    answer, = ask(client, **base("the weather", tools=TOOLS, tool_choice="none"))
    assert not answer.calls and "<tool_call>" in answer.content and answer.reason == "stop"


@both
def test_functions_of_the_old_api(client, ask):
    answer, = ask(client, **base("the weather", functions=FUNCTIONS))
    name, arguments = answer.function
    assert name == "weather" and json.loads(arguments)["days"] == 2
    assert answer.reason == "function_call" and not answer.calls


@both
def test_results_of_tools_reach_the_prompt(client, ask):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Köln\"}"}}
    messages = [*user("what is it?"), {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "hello from the tool"}]
    answer, = ask(client, **{**base(tools=TOOLS), "messages": messages})
    assert answer.content == "Hello there, friend."


@both
def test_content_in_parts(client, ask):
    parts = [{"type": "text", "text": "say"}, {"type": "text", "text": "hello"}]
    answer, = ask(client, **{**base(), "messages": [{"role": "user", "content": parts}]})
    assert answer.content == "Hello there, friend."


@both
@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions(client, ask, role):
    messages = [{"role": role, "content": "hello is the word"}, *user("now")]
    answer, = ask(client, **{**base(), "messages": messages})
    assert answer.content == "Hello there, friend."


@both
def test_harmless_fields_are_accepted(client, ask):
    answer, = ask(client, **base(user="u1", metadata={"a": "b"}, store=False, service_tier="auto",
                                 response_format={"type": "text"}, parallel_tool_calls=True,
                                 extra_body={"a_field_of_tomorrow": [1, {"x": 2}]}))
    assert answer.content == "Hello there, friend."


def test_a_client_that_leaves_frees_its_sequence(sim, client):
    stream = client.chat.completions.create(**base("slow", max_tokens=200), stream=True)
    next(iter(stream))
    stream.close()
    sim.wait_idle()
    sim.gateway.await_metric(lambda count: count >= 1, "qwenserve_gateway_requests_total", method="HttpStreamChat", code="CANCELLED")


def test_many_streams_at_once(client):
    answers = {}

    def ask(number):
        answers[number], = streamed(client, **base("any", max_tokens=20, temperature=1, seed=number % 4))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 32
    for number, answer in answers.items():
        assert answer.content == answers[number % 4].content


# Completions.

@pytest.mark.parametrize("prompt", ["hello there", ["hello there"], [1563, 839], [[1563, 839]]])
def test_completions_of_every_kind_of_prompt(demo, prompt):
    answer = demo.completions.create(model="demo", prompt=prompt, max_tokens=6, temperature=0)
    text = demo.completions.create(model="demo", prompt="hello there", max_tokens=6, temperature=0).choices[0].text
    assert answer.object == "text_completion" and answer.choices[0].text == text and text
    assert answer.usage.prompt_tokens == 2 and answer.choices[0].finish_reason == "length"


def test_a_streamed_completion_is_the_same(demo):
    request = dict(model="demo", prompt="hello there", max_tokens=12, temperature=0)
    pieces = list(demo.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.text for p in pieces for c in p.choices) == demo.completions.create(**request).choices[0].text
    assert pieces[-1].usage.completion_tokens == 12 and pieces[-2].choices[0].finish_reason == "length"


def test_echo(demo):
    request = dict(model="demo", prompt="hello there", max_tokens=4, temperature=0)
    plain = demo.completions.create(**request).choices[0].text
    assert demo.completions.create(**request, echo=True).choices[0].text == "hello there" + plain
    pieces = demo.completions.create(**request, echo=True, stream=True)
    assert "".join(p.choices[0].text for p in pieces) == "hello there" + plain


def test_logprobs_of_a_completion(demo):
    choice = demo.completions.create(model="demo", prompt="hello there", max_tokens=4, temperature=0,
                                     logprobs=2, echo=True).choices[0]
    lists = choice.logprobs
    assert "".join(lists.tokens) == choice.text and lists.token_logprobs[0] is None
    assert all(value <= 0 for value in lists.token_logprobs[1:])
    assert [choice.text[begin:begin + len(token)] for token, begin in zip(lists.tokens, lists.text_offset)] == lists.tokens
    assert all(token in top for token, top in zip(lists.tokens[1:], lists.top_logprobs[1:]))


def test_streamed_logprobs_of_a_completion(demo):
    request = dict(model="demo", prompt="hello there", max_tokens=6, temperature=0, logprobs=1)
    expected = demo.completions.create(**request).choices[0].logprobs
    pieces = [p.choices[0].logprobs for p in demo.completions.create(**request, stream=True) if p.choices[0].logprobs]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert sum((getattr(piece, name) for piece in pieces), []) == getattr(expected, name)


def test_several_completions(demo):
    choices = demo.completions.create(model="demo", prompt="hello", max_tokens=4, n=2, best_of=2, temperature=1,
                                      seed=3).choices
    assert [choice.index for choice in choices] == [0, 1]


PROMPTS = ["hello there", "what is", [1563, 839], "hello there"]


def test_several_prompts(demo):
    request = dict(model="demo", max_tokens=6, temperature=0, n=2)
    answer = demo.completions.create(**request, prompt=PROMPTS)
    alone = [demo.completions.create(**request, prompt=prompt) for prompt in PROMPTS]
    assert [choice.index for choice in answer.choices] == list(range(8))
    assert [choice.text for choice in answer.choices] == [choice.text for one in alone for choice in one.choices]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(answer.usage, field) == sum(getattr(one.usage, field) for one in alone)
    texts, reasons, pieces = [""] * 8, [None] * 8, list(demo.completions.create(
        **request, prompt=PROMPTS, stream=True, stream_options={"include_usage": True}))
    for choice in (choice for piece in pieces for choice in piece.choices):
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in answer.choices] and reasons == ["length"] * 8
    assert len({piece.id for piece in pieces}) == 1 and pieces[-1].usage == answer.usage


def test_logprobs_of_several_prompts(demo):
    request = dict(model="demo", max_tokens=3, temperature=0, logprobs=2, echo=True)
    prompts = ["hello there", "what is", "a"]
    choices = demo.completions.create(**request, prompt=prompts).choices
    for prompt, choice in zip(prompts, choices):
        alone = demo.completions.create(**request, prompt=prompt).choices[0]
        assert choice.logprobs.tokens == alone.logprobs.tokens and choice.text == alone.text
        assert choice.logprobs.text_offset == alone.logprobs.text_offset
        assert choice.logprobs.token_logprobs == pytest.approx(alone.logprobs.token_logprobs, abs=1e-3, nan_ok=True) \
            if None not in alone.logprobs.token_logprobs else choice.logprobs.token_logprobs[0] is None
    assert len(choices) == 3


def test_the_same_prompt_several_times_has_several_answers(client):
    request = dict(model="sim", prompt=["x", "x", "x"], max_tokens=12, temperature=1)
    for stream in (False, True):
        answers = []
        for extra in ({}, {"seed": None}):
            if answers:
                extra = {"seed": answers[0][1]}
            pieces = client.completions.create(**request, **extra, stream=stream)
            texts = [""] * 3
            for piece in pieces if stream else [pieces]:
                for choice in piece.choices:
                    texts[choice.index] += choice.text
            answers.append((texts, piece.seed))
        assert answers[0] == answers[1] and len(set(answers[0][0])) == 3


def test_one_bad_prompt_ends_the_others(sim, demo, client):
    for stream in (False, True):
        with pytest.raises(openai.APIError) as raised:
            list(demo.completions.create(model="demo", prompt=["hello", "word " * 3000], stream=stream))
        assert raised.value.code == "context_length_exceeded" and raised.value.param == "prompt[1]"
        with pytest.raises(openai.APIError) as raised:
            list(client.completions.create(model="sim", prompt=["slow", "poison", "slow"], stream=stream,
                                           max_tokens=10000))
        assert raised.value.code == "numeric"
    sim.wait_idle()


# Models, ids, and what goes wrong.

def test_models(client):
    model, = client.models.list().data
    assert model.id == "sim" and model.object == "model" and model.max_model_len == 131072
    assert client.models.retrieve("sim").id == "sim"


def test_a_model_that_is_not_served(client):
    for ask in (lambda: client.models.retrieve("other"), lambda: client.chat.completions.create(**{**base(), "model": "other"})):
        with pytest.raises(openai.NotFoundError) as raised:
            ask()
        assert raised.value.code == "model_not_found"


def test_request_ids_are_ours(client):
    responses = [client.chat.completions.with_raw_response.create(**base(), extra_headers={"X-Request-Id": "mine"})
                 for _ in range(2)]
    ids = [response.headers["x-request-id"] for response in responses]
    assert ids[0] != ids[1] and "mine" not in ids
    assert responses[0].parse().id == ids[0]


REFUSED = [
    ({"temperature": -1}, "temperature"),
    ({"temperature": "warm"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 99}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"stop": ["a", 7]}, "stop[1]"),
    ({"stop": [""]}, "stop[0]"),
    ({"logit_bias": {"x": 1}}, "logit_bias[x]"),
    ({"logit_bias": {"999999999": 1}}, "logit_bias[999999999]"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "pope", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ({"extra_body": {"guided_json": {}}}, "guided_json"),
    ({"extra_body": {"chat_template": "{{ x }}"}}, "chat_template"),
    ({"extra_body": {"chat_template_kwargs": {"x": 1}}}, "chat_template_kwargs.x"),
    ({"extra_body": {"use_beam_search": True}}, "use_beam_search"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"seed": -1}, "seed"),
]


@pytest.mark.parametrize("change, param", REFUSED, ids=[f"{param}-{i}" for i, (_, param) in enumerate(REFUSED)])
def test_a_refusal_names_the_field(client, change, param):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(**{**base(), **change}, stream=stream)
        assert raised.value.param == param and raised.value.type == "invalid_request_error"
        assert raised.value.body["message"].startswith(param)


@pytest.mark.parametrize("change, param", [
    ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of"), ({"prompt": ["a", 7]}, "prompt[1]"),
    ({"prompt": ["a", ""]}, "prompt[1]"), ({"prompt": ["a"] * 129}, "prompt"), ({"prompt": ["a"] * 20, "n": 16}, "n"),
    ({"prompt": [[1], [99999999]]}, "prompt[1][0]"), ({"max_tokens": 0, "echo": True, "logprobs": 1}, "max_tokens"),
    ({"prompt": 7}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": [1, -2]}, "prompt[1]"),
    ({"logprobs": 50}, "top_logprobs"), ({"logprobs": True}, "logprobs")])
def test_a_refused_completion_names_the_field(client, change, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(**{"model": "sim", "prompt": "x", **change})
    assert raised.value.param == param


def test_a_prompt_beyond_the_context(demo):
    with pytest.raises(openai.BadRequestError) as raised:
        demo.chat.completions.create(**base("word " * 3000, **{"model": "demo"}))
    assert raised.value.code == "context_length_exceeded"


def test_an_error_before_the_first_token_has_its_status(client):
    with pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(**base("refuse"))
    assert raised.value.type == "rate_limit_error"


def test_an_error_in_a_stream_is_an_event(client):
    stream = client.chat.completions.create(**base("poison"), stream=True)
    with pytest.raises(openai.APIError) as raised:
        for chunk in stream:
            assert chunk.choices
    assert raised.value.type == "server_error"


def test_an_error_of_a_whole_answer(client):
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(**base("poison"))
    assert raised.value.code == "numeric"


def test_a_deadline_in_a_header(client):
    for stream in (False, True):
        with pytest.raises(openai.APIError) as raised:
            answer = client.chat.completions.create(**base("slow", max_tokens=100), stream=stream,
                                                    extra_headers={"X-Request-Timeout": "0.5"})
            list(answer)
        assert raised.value.code == "deadline_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**base(), extra_headers={"X-Request-Timeout": "soon"})


def test_the_asynchronous_client(sim):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"http://{sim.gateway.addresses['http']}/v1", api_key="x") as client:
            stream = await client.chat.completions.create(**base(), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask()) == "Hello there, friend."
