"""Sampling parameters and log-probabilities over real processes."""

import math

import grpc
import pytest

from conftest import error_info

TEXT = "qwenserve is"


def complete(api, max_tokens=8, text=TEXT, temperature=0.0, prompt_logprobs=None, logit_bias=None,
             seed=None, **options):
    sampling = api.SamplingParams(temperature=temperature, logit_bias=logit_bias, seed=seed)
    return api.CompleteRequest(text=text, prompt_logprobs=prompt_logprobs,
                               options=api.GenerationOptions(sampling=sampling, max_tokens=max_tokens,
                                                             **options))


def test_logprobs_come_with_bytes_and_alternatives(api, stub):
    choice = stub.Complete(complete(api, top_logprobs=3)).choices[0]
    assert [token.token_id for token in choice.logprobs] == list(choice.token_ids)
    assert b"".join(token.token for token in choice.logprobs).decode() == choice.text
    for token in choice.logprobs:
        assert len(token.top) == 3
        assert token.top[0].token_id == token.token_id and token.top[0].logprob == token.logprob
        assert token.top[0].logprob >= token.top[1].logprob >= token.top[2].logprob
        assert sum(math.exp(top.logprob) for top in token.top) <= 1 + 1e-5


def test_a_stream_and_a_chat_have_the_same_logprobs(api, stub):
    whole = stub.Complete(complete(api, top_logprobs=2)).choices[0]
    streamed = [token for event in stub.StreamComplete(complete(api, top_logprobs=2))
                for token in event.delta.logprobs]
    assert streamed == list(whole.logprobs)
    message = api.ChatMessage(role=2, content="What is qwenserve?")
    request = api.ChatRequest(input=api.ChatInput(messages=[message]), options=api.GenerationOptions(
        sampling=api.SamplingParams(temperature=0.0), max_tokens=12, top_logprobs=1))
    choice = stub.Chat(request).choices[0]
    assert [token.token_id for token in choice.logprobs] == list(choice.token_ids)
    assert [token for event in stub.StreamChat(request) for token in event.delta.logprobs] == list(
        choice.logprobs)


def test_without_being_asked_for_there_are_none(api, stub):
    response = stub.Complete(complete(api))
    assert not response.choices[0].logprobs and not response.prompt_logprobs


def test_a_prompt_is_scored_as_its_answer_was(api, stub):
    answer = stub.Complete(complete(api, top_logprobs=2))
    prompt = list(stub.Tokenize(api.TokenizeRequest(text=TEXT)).token_ids)
    request = complete(api, max_tokens=1, prompt_logprobs=2)
    request.token_ids.ids.extend(prompt + list(answer.choices[0].token_ids))
    response = stub.Complete(request)
    scored = response.prompt_logprobs
    assert [token.token_id for token in scored] == prompt[1:] + list(answer.choices[0].token_ids)
    assert list(scored)[len(prompt) - 1:] == list(answer.choices[0].logprobs)
    assert response.usage.cached_prompt_tokens == 0
    events = [event.delta for event in stub.StreamComplete(request) if event.HasField("delta")]
    assert [token for delta in events for token in delta.prompt_logprobs] == list(scored)
    assert events[0].first_prompt_index == 1


def test_n_answers_differ_and_the_seed_repeats_them(api, stub):
    first = stub.Complete(complete(api, temperature=1.5, n=3, max_tokens=16, ignore_eos=True,
                                   top_logprobs=0, prompt_logprobs=0))
    answers = [tuple(choice.token_ids) for choice in first.choices]
    assert len(set(answers)) == 3
    assert len(first.prompt_logprobs) == first.usage.prompt_tokens - 1
    again = stub.Complete(complete(api, temperature=1.5, n=3, max_tokens=16, ignore_eos=True,
                                   top_logprobs=0, seed=first.started.seed))
    assert [tuple(choice.token_ids) for choice in again.choices] == answers
    assert [choice.logprobs for choice in again.choices] == [c.logprobs for c in first.choices]


def test_logit_bias_bans_and_forces(api, stub):
    free = list(stub.Complete(complete(api)).choices[0].token_ids)
    banned = list(stub.Complete(complete(api, logit_bias={free[0]: -100})).choices[0].token_ids)
    assert free[0] not in banned
    forced = list(stub.Complete(complete(api, logit_bias={5: 100}, max_tokens=4)).choices[0].token_ids)
    assert forced == [5] * 4


def first_repeat_free(ids):
    """The position of an id, not the first, that does not come before."""
    return next(i for i in range(2, len(ids)) if ids[i] not in ids[:i])


def test_stop_token_ids_end_an_answer_before_them(api, stub):
    free = list(stub.Complete(complete(api, max_tokens=12, ignore_eos=True)).choices[0].token_ids)
    at = first_repeat_free(free)
    for ignore_eos in (False, True):
        choice = stub.Complete(complete(api, max_tokens=12, ignore_eos=ignore_eos,
                                        stop_token_ids=[free[at]])).choices[0]
        assert list(choice.token_ids) == free[:at]
        assert choice.finish_reason == 1
    *_, last = stub.StreamComplete(complete(api, max_tokens=12, stop_token_ids=[free[at]]))
    assert last.finished.choices[0].finish_reason == 1
    assert last.finished.choices[0].completion_tokens == at


def test_min_tokens_holds_the_end_back(api, stub):
    free = list(stub.Complete(complete(api, max_tokens=12, ignore_eos=True)).choices[0].token_ids)
    at = first_repeat_free(free)
    short = stub.Complete(complete(api, max_tokens=40, stop_token_ids=[free[at]]))
    assert short.usage.completion_tokens == at
    longer = stub.Complete(complete(api, max_tokens=40, stop_token_ids=[free[at]],
                                    min_tokens=at + 5))
    assert longer.usage.completion_tokens >= at + 5
    assert free[at] not in list(longer.choices[0].token_ids)[:at + 5]


@pytest.mark.parametrize("field, options", [
    ("options.top_logprobs", {"top_logprobs": 21}),
    ("prompt_logprobs", {"prompt_logprobs": 21}),
    ("options.min_tokens", {"min_tokens": 9}),
    ("options.stop_token_ids", {"stop_token_ids": range(17)}),
    ("options.stop_token_ids[1]", {"stop_token_ids": [1, 4000000000]}),
    ("options.sampling.logit_bias[5]", {"logit_bias": {5: 101}}),
    ("options.sampling.logit_bias[4000000000]", {"logit_bias": {4000000000: 1}}),
])
def test_impossible_parameters_are_refused_by_name(api, stub, field, options):
    with pytest.raises(grpc.RpcError) as error:
        stub.Complete(complete(api, **options))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error.value)[1] == field
