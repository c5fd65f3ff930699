"""Killing, stopping, cancelling: what a client sees, and what is freed."""

import os
import signal
import threading
import time

import grpc
import pytest

from conftest import error_info

PATIENCE = 60


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.05)


def long_request(api, max_tokens=800, seed=1):
    """An answer that goes on for long enough to be disturbed."""
    return api.CompleteRequest(text="the", options=api.GenerationOptions(
        max_tokens=max_tokens, ignore_eos=True,
        sampling=api.SamplingParams(temperature=1.0, seed=seed)))


def first_tokens(stream, count=3):
    """Reads the stream until so many tokens have come."""
    ids = []
    for event in stream:
        ids += event.delta.token_ids
        if len(ids) >= count:
            return ids
    raise AssertionError("the stream ended early")


def drained(generator):
    return generator.metric("qwenserve_kv_blocks_used") == 0


def test_a_cancelled_stream_frees_its_memory(api, make_cluster):
    cluster = make_cluster()
    generator = cluster.generators[0]
    with cluster.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(long_request(api))
        first_tokens(stream)
        assert generator.metric("qwenserve_kv_blocks_used") > 0
        stream.cancel()
        wait_until(lambda: drained(generator), "blocks freed")

        def stands():  # the step that was under way still counts
            steps = generator.metric("qwenserve_engine_steps_total")
            time.sleep(0.5)
            return generator.metric("qwenserve_engine_steps_total") == steps

        wait_until(stands, "no more steps")


def test_a_client_that_vanishes_frees_its_memory(api, make_cluster):
    cluster = make_cluster()
    channel = cluster.channel()
    stream = api.InferenceStub(channel).StreamComplete(long_request(api))
    first_tokens(stream)
    channel.close()
    wait_until(lambda: drained(cluster.generators[0]), "blocks freed")


def test_a_generator_killed_in_mid_stream_is_a_clear_error(api, make_cluster):
    cluster = make_cluster()
    with cluster.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(long_request(api))
        seen = len(first_tokens(stream))
        cluster.generators[0].kill()
        with pytest.raises(grpc.RpcError) as raised:
            for event in stream:
                seen += len(event.delta.token_ids)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    info, _ = error_info(raised.value)
    assert info.reason == "WORKER_LOST"
    assert int(info.metadata["tokens_sent"]) == seen


def test_without_a_generator_a_request_is_refused_at_once(api, make_cluster):
    cluster = make_cluster()
    cluster.generators[0].kill()
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)

        def refused():
            try:
                stub.Complete(long_request(api, max_tokens=2), timeout=10)
            except grpc.RpcError as error:
                return error.code() == grpc.StatusCode.UNAVAILABLE
            return False
        wait_until(refused, "UNAVAILABLE")
    # One replica's loss is no reason to restart the gateway.
    assert cluster.gateway.http("/livez")[0] == 200


def test_the_other_generator_takes_over_new_requests(api, make_cluster):
    cluster = make_cluster(generators=2)
    cluster.generators[0].kill()
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)

        def served():
            try:
                return len(stub.Complete(long_request(api, max_tokens=2)).choices[0].token_ids) == 2
            except grpc.RpcError:
                return False
        wait_until(served, "an answer")


def test_both_replicas_give_the_same_tokens(api, make_cluster):
    cluster = make_cluster(generators=2)
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        answers = {tuple(stub.Complete(long_request(api, 40)).choices[0].token_ids) for _ in range(6)}
        assert len(answers) == 1
        fingerprints = stub.GetModel(api.GetModelRequest(model="demo")).model.fingerprints
        assert len(fingerprints) == 1


def test_a_tokenizer_killed_in_mid_stream_goes_unnoticed(api, make_cluster):
    cluster = make_cluster(tokenizers=2)
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        undisturbed = stub.Complete(long_request(api, max_tokens=400)).choices[0]
        # Whichever of the two has the stream: one of the rounds hits it.
        for victim in (0, 1):
            cluster = make_cluster(tokenizers=2)
            with cluster.channel() as other:
                text, ids = "", []
                for event in api.InferenceStub(other).StreamComplete(long_request(api, 400)):
                    text += event.delta.text
                    ids += event.delta.token_ids
                    if len(ids) >= 3 and cluster.tokenizers[victim].running():
                        cluster.tokenizers[victim].kill()
            assert ids == list(undisturbed.token_ids)
            assert text == undisturbed.text


def test_a_killed_gateway_frees_what_it_had(api, make_cluster):
    cluster = make_cluster()
    with cluster.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(long_request(api))
        first_tokens(stream)
        cluster.gateway.kill()
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: drained(cluster.generators[0]), "blocks freed")
    assert cluster.generators[0].running()


def descendants(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(word) for word in file.read().split()]
    return found


def test_a_killed_rank_ends_its_generator_and_the_client_hears_why(api, make_cluster):
    cluster = make_cluster(generator_flags=("--tp", 2, "--tp-mode", "processes"))
    generator = cluster.generators[0]
    followers = descendants(generator.pid)
    assert len(followers) == 1
    with cluster.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(long_request(api))
        first_tokens(stream)
        os.kill(followers[0], signal.SIGKILL)
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert generator.wait(PATIENCE) != 0, "a group that lost a rank must be restarted"


def test_no_rank_survives_its_generator(make_cluster):
    cluster = make_cluster(generator_flags=("--tp", 2, "--tp-mode", "processes"))
    follower = descendants(cluster.generators[0].pid)[0]
    cluster.generators[0].kill()
    wait_until(lambda: not os.path.exists(f"/proc/{follower}")
               or open(f"/proc/{follower}/stat").read().split(") ")[1][0] == "Z", "follower gone")


@pytest.mark.parametrize("role", ["gateway", "generator"])
def test_sigterm_lets_a_stream_finish(api, make_cluster, role):
    cluster = make_cluster()
    process = cluster.gateway if role == "gateway" else cluster.generators[0]
    ids, finished = [], threading.Event()
    with cluster.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(long_request(api, max_tokens=300))
        ids += first_tokens(stream)
        process.signal(signal.SIGTERM)
        for event in stream:
            ids += event.delta.token_ids
            if event.HasField("finished"):
                finished.set()
    assert finished.is_set() and len(ids) == 300
    assert process.wait(PATIENCE) == 0


def test_an_idle_process_ends_on_sigterm(make_cluster):
    cluster = make_cluster()
    for process in (cluster.gateway, cluster.generators[0], cluster.tokenizers[0]):
        assert process.terminate(PATIENCE) == 0, process.role


def test_a_stopped_generator_is_noticed_and_comes_back(api, make_cluster):
    cluster = make_cluster()
    generator = cluster.generators[0]
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        stream = stub.StreamComplete(long_request(api))
        first_tokens(stream)
        generator.signal(signal.SIGSTOP)
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        generator.signal(signal.SIGCONT)

        def served():
            try:
                return len(stub.Complete(long_request(api, max_tokens=2)).choices[0].token_ids) == 2
            except grpc.RpcError:
                return False
        wait_until(served, "an answer after SIGCONT")
        wait_until(lambda: drained(generator), "the old stream's blocks freed")
