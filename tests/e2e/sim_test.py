"""The simulated engine behind a real gateway and a real tokenizer."""

import signal

import grpc
import pytest

from conftest import error_info

EMOJI = "well done \U0001F600\U0001F680!"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'


def request(api, text="the model", max_tokens=40, seed=7, temperature=1.0, ignore_eos=True, **more):
    return api.CompleteRequest(text=text, options=api.GenerationOptions(
        max_tokens=max_tokens, ignore_eos=ignore_eos, **more,
        sampling=api.SamplingParams(temperature=temperature, seed=seed)))


def complete(api, cluster, gateway=None, **options):
    with grpc.insecure_channel((gateway or cluster.gateway).address) as channel:
        return api.InferenceStub(channel).Complete(request(api, **options), timeout=30)


def chat(api, cluster, text, **more):
    with cluster.channel() as channel:
        return api.InferenceStub(channel).Chat(api.ChatRequest(input=api.ChatInput(
            messages=[api.ChatMessage(role=api.ROLE_USER, content=text)], **more)), timeout=30).choices[0]


def tokens(answer):
    return list(answer.choices[0].token_ids)


def test_replicas_agree_and_everything_that_matters_changes_the_tokens(api, sim_cluster):
    cluster = sim_cluster(generators=2, generator_flags=("--sim-step-ms", 0))
    one, other = [cluster.start_gateway(generators=[p.address]) for p in cluster.generators]
    base = tokens(complete(api, cluster, one))
    assert len(base) == 40
    assert base == tokens(complete(api, cluster, other))
    assert base != tokens(complete(api, cluster, one, seed=8))
    assert base != tokens(complete(api, cluster, one, text="the models"))
    greedy = tokens(complete(api, cluster, one, temperature=0.0, seed=1))
    assert greedy == tokens(complete(api, cluster, other, temperature=0.0, seed=2)) != base


def test_answers_are_words_and_end_by_themselves(api, sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 0, "--sim-mean-tokens", 20))
    lengths = set()
    for seed in range(1, 9):
        answer = complete(api, cluster, seed=seed, max_tokens=1000, ignore_eos=False).choices[0]
        assert answer.finish_reason == 1  # STOP
        assert len(answer.text.split()) == len(answer.token_ids)
        lengths.add(len(answer.token_ids))
    assert len(lengths) > 3
    cluster.wait_idle()


def test_scripts_answer(api, sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 0), script=[
        {"when": "face", "answer": EMOJI, "split": "bytes"},
        {"when": "weather", "answer": [CALL[:30], CALL[30:]]},
        {"when": "halt", "answer": "go on HALT no more", "split": "bytes"},
        {"when": "ponder", "answer": "<think>\nhm\n</think>\n\nyes"},
        {"when": "long", "length": 33},
        {"when": "ids", "ids": [300, 301, 302]}])
    face = complete(api, cluster, text="a face", ignore_eos=False).choices[0]
    assert face.text == EMOJI and len(face.token_ids) == len(EMOJI.encode())
    assert len(tokens(complete(api, cluster, text="long", max_tokens=99, ignore_eos=False))) == 33
    assert tokens(complete(api, cluster, text="ids", ignore_eos=False)) == [300, 301, 302]
    assert complete(api, cluster, text="halt", stop=["HALT"]).choices[0].text == "go on "
    answer = chat(api, cluster, "ponder this")
    assert (answer.message.reasoning.strip(), answer.message.content) == ("hm", "yes")
    answer = chat(api, cluster, "weather?", tools=[api.Tool(name="weather", parameters_json="{}")])
    assert [(c.name, c.arguments_json) for c in answer.message.tool_calls] == [
        ("weather", '{"city": "Ulm"}')]


def test_cached_prompts_are_counted(api, sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 0))
    text = "the model of the token " * 20
    assert complete(api, cluster, text=text).usage.cached_prompt_tokens == 0
    again = complete(api, cluster, text=text).usage
    assert again.cached_prompt_tokens == (again.prompt_tokens - 1) // 16 * 16 > 0


@pytest.mark.parametrize("rule, code, reason", [
    ({"fault": "refuse"}, grpc.StatusCode.RESOURCE_EXHAUSTED, None),
    ({"fault": "nan", "after": 3}, grpc.StatusCode.INTERNAL, "NUMERIC")])
def test_a_fault_of_one_request_spares_the_others(api, sim_cluster, rule, code, reason):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 1), script=[{"when": "poison", **rule}])
    with pytest.raises(grpc.RpcError) as raised:
        with cluster.channel() as channel:
            api.InferenceStub(channel).Complete(request(api, text="poison"), timeout=60)
    assert raised.value.code() == code
    if reason:
        assert error_info(raised.value)[0].reason == reason
    assert len(tokens(complete(api, cluster))) == 40


def test_a_crash_ends_the_process_at_that_prompt_only(api, sim_cluster):
    cluster = sim_cluster(script=[{"when": "poison", "fault": "crash", "after": 2}])
    complete(api, cluster, max_tokens=5)
    generator = cluster.generators[0]
    generator.expect_crash()
    with pytest.raises(grpc.RpcError):
        complete(api, cluster, text="poison")
    assert generator.wait() == -signal.SIGABRT
    cluster.restart(cluster.generators, 0)
    assert cluster.generators[0].address == generator.address


def test_a_hanging_step_shows_in_the_metrics(api, sim_cluster):
    cluster = sim_cluster(script=[{"when": "poison", "fault": "hang"}])
    generator = cluster.generators[0]
    cluster.hung.append(generator)
    with cluster.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(request(api, text="poison"))
        ages = []
        while len(ages) < 2 or ages[-1] <= 0.2:
            ages.append(generator.metric("qwenserve_step_age_seconds"))
            assert len(ages) < 20000
        stream.cancel()
    assert generator.metric("qwenserve_engine_steps_total") == 0
