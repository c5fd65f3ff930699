"""One replica over two nodes, which are two processes that meet over loopback."""

import os
import signal
import socket
import subprocess
import threading
import time

import grpc
import pytest

from server_process import BIN, DEMO_MODEL, ServerProcess

PATIENCE = 30


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def request(api, max_tokens, seed=1):
    return api.CompleteRequest(text="the", options=api.GenerationOptions(
        max_tokens=max_tokens, ignore_eos=True,
        sampling=api.SamplingParams(temperature=1.0, seed=seed)))


@pytest.fixture
def make_pair(make_cluster):
    """A cluster whose generator is two nodes; returns it and the second node."""
    started = []

    def make(tp=2, node_flags=()):
        leader = free_address()
        flags = ("--tp", tp, "--num-nodes", 2, "--leader", leader)

        def start_node():
            started.append(ServerProcess("generator", "--model", DEMO_MODEL, "--node-rank", 1, *flags, *node_flags))
        # The second node's ports open only when both are ready.
        node = threading.Thread(target=start_node)
        node.start()
        cluster = make_cluster(generator_flags=flags)
        node.join()
        return cluster, started[-1].wait_ready()
    yield make
    for process in started:
        process.stop()


def first_tokens(stream, count=3):
    ids = []
    for event in stream:
        ids += event.delta.token_ids
        if len(ids) >= count:
            return ids
    raise AssertionError("the stream ended early")


@pytest.mark.parametrize("tp", [2, 4])
def test_two_nodes_give_the_tokens_of_one_and_end_together(api, make_cluster, make_pair, tp):
    alone = make_cluster(generator_flags=("--tp", tp))
    pair, node = make_pair(tp)
    with alone.channel() as one, pair.channel() as two:
        for seed in range(3):
            answers = [api.InferenceStub(channel).Complete(request(api, 40, seed)).choices[0].token_ids
                       for channel in (one, two)]
            assert len(answers[0]) == 40 and list(answers[0]) == list(answers[1])
        fingerprints = [api.InferenceStub(channel).GetModel(
            api.GetModelRequest(model="demo")).model.fingerprints for channel in (one, two)]
        assert list(fingerprints[0]) == list(fingerprints[1])
    assert node.http("/readyz")[0] == 200
    assert pair.generators[0].terminate(PATIENCE) == 0
    assert node.wait(PATIENCE) == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_node_ends_the_replica_and_the_client_hears_why(api, make_pair, how):
    pair, node = make_pair()
    with pair.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(request(api, 1500))
        first_tokens(stream)
        node.signal(how)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert pair.generators[0].wait(PATIENCE) != 0, "a replica that lost a node must be restarted"
    assert time.monotonic() - began < PATIENCE


def test_a_node_that_is_told_to_stop_lets_the_replica_drain(api, make_pair):
    pair, node = make_pair()
    with pair.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(request(api, 500))
        ids = first_tokens(stream)
        node.signal(signal.SIGTERM)
        for event in stream:
            ids += event.delta.token_ids
    assert len(ids) == 500
    assert pair.generators[0].wait(PATIENCE) == 0
    assert node.wait(PATIENCE) == 0


def test_a_node_waits_for_its_leader_no_longer_than_it_may(api, make_pair):
    pair, node = make_pair(node_flags=("--drain-timeout", 1))
    with pair.channel() as channel:
        stream = api.InferenceStub(channel).StreamComplete(request(api, 1900))
        first_tokens(stream)
        node.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(stream)
    assert node.wait(PATIENCE) == 1
    pair.generators[0].wait(PATIENCE)


def test_a_lost_leader_ends_the_other_node(make_pair):
    pair, node = make_pair()
    pair.generators[0].kill()
    assert node.wait(PATIENCE) != 0, "its supervisor is to start it again"


def run_generator(*flags):
    return subprocess.run(
        [BIN / "qwenserve-generator", "--model", DEMO_MODEL, "--listen", "127.0.0.1:0",
         "--ops-listen", "127.0.0.1:0", *map(str, flags)],
        capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("flags, complaint", [
    (("--num-nodes", 2, "--tp", 3, "--leader", "127.0.0.1:1"), "--num-nodes is 2"),
    (("--num-nodes", 2, "--tp", 2), "needs --leader"),
    (("--num-nodes", 2, "--tp", 2, "--node-rank", 2, "--leader", "127.0.0.1:1"), "--node-rank is 2"),
    (("--num-nodes", 2, "--tp", 2, "--leader", "nowhere"), "HOST:PORT"),
])
def test_flags_that_contradict_each_other_are_a_usage_error(flags, complaint):
    result = run_generator(*flags)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_a_node_of_another_group_is_refused(make_pair):
    leader = free_address()
    process = subprocess.Popen(
        [BIN / "qwenserve-generator", "--model", DEMO_MODEL, "--listen", "127.0.0.1:0",
         "--ops-listen", "127.0.0.1:0", "--tp", "2", "--num-nodes", "2", "--leader", leader],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        result = run_generator("--tp", 3, "--num-nodes", 3, "--node-rank", 1, "--leader", leader)
        assert result.returncode == 1
        assert "of 3 nodes, the leader is version" in result.stderr
    finally:
        process.kill()
        process.wait()
