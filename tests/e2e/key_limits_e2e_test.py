"""Limits of keys on the calls that generate nothing."""

import contextlib
import http.client
import json
import time

import grpc
import pytest

from conftest import error_info
from security import bearer, key_line, write_keys


def post(gateway, path, body, key):
    connection = http.client.HTTPConnection(gateway.addresses["http"], timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body),
                           {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
        reply = connection.getresponse()
        return reply.status, reply.getheader("Retry-After"), json.loads(reply.read())


def test_a_key_is_held_to_its_requests_in_the_small_calls_too(sim_cluster, api, tmp_path):
    keys = write_keys(tmp_path / "keys", key_line("key-a", "a", limits={"requests_per_minute": 4}),
                      key_line("key-b", "b"), key_line("key-c", "c", limits={"concurrent_requests": 1}))
    gateway = sim_cluster(gateway_flags=("--api-keys", keys)).gateway
    with grpc.insecure_channel(gateway.address) as channel:
        stub = api.InferenceStub(channel)

        def tokenize(key):
            return stub.Tokenize(api.TokenizeRequest(text="a b"), metadata=bearer(key), timeout=60).token_ids

        def detokenize(key, ids):
            return stub.Detokenize(api.DetokenizeTextRequest(token_ids=ids), metadata=bearer(key), timeout=60).text

        ids = tokenize("key-a")
        assert detokenize("key-a", ids) == "a b"
        assert post(gateway, "/tokenize", {"prompt": "a"}, "key-a")[0] == 200
        assert post(gateway, "/detokenize", {"tokens": list(ids)}, "key-a")[0] == 200
        for refused in (lambda: tokenize("key-a"), lambda: detokenize("key-a", ids)):
            with pytest.raises(grpc.RpcError) as error:
                refused()
            assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error_info(error.value)[0].reason == "QUOTA_EXCEEDED"
        for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": list(ids)})):
            status, retry_after, _ = post(gateway, path, body, "key-a")
            assert status == 429 and int(retry_after) >= 1
        # Others go on, and a place is given back after each call, refused ones too.
        for _ in range(10):
            assert detokenize("key-b", tokenize("key-b")) == "a b"
            assert detokenize("key-c", tokenize("key-c")) == "a b"
            with pytest.raises(grpc.RpcError) as error:
                detokenize("key-c", [4_000_000_000])
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_each_prompt_of_a_list_counts(sim_cluster, tmp_path):
    keys = write_keys(tmp_path / "keys", key_line("key-a", "a", limits={"requests_per_minute": 3}))
    gateway = sim_cluster(gateway_flags=("--api-keys", keys)).gateway
    body = {"prompt": ["x", "y", "z"], "max_tokens": 2}
    status, _, answer = post(gateway, "/v1/completions", body, "key-a")
    assert status == 200 and len(answer["choices"]) == 3
    assert post(gateway, "/v1/completions", body, "key-a")[0] == 429


def test_what_the_gateway_has_no_room_for_costs_a_key_nothing(sim_cluster, api, tmp_path):
    keys = write_keys(tmp_path / "keys", key_line("key-a", "a", limits={"requests_per_minute": 2}), key_line("key-b", "b"))
    cluster = sim_cluster(gateway_flags=("--api-keys", keys, "--max-requests", 1), generator_flags=("--sim-step-ms", 20))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        request = api.CompleteRequest(text="x", options=api.GenerationOptions(max_tokens=100000, ignore_eos=True))
        stream = stub.StreamComplete(request, metadata=bearer("key-b"), timeout=300)
        next(stream)
        calls = {"/tokenize": {"prompt": "a"}, "/v1/completions": {"prompt": "a", "max_tokens": 2}}
        for path, body in (*calls.items(), *calls.items()):
            status, _, answer = post(cluster.gateway, path, body, "key-a")
            assert status == 429 and answer["error"]["code"] == "queue_full", path
        stream.cancel()
        cluster.wait_idle()
        deadline = time.monotonic() + 30
        while cluster.gateway.metric("qwenserve_gateway_requests_in_flight") > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [post(cluster.gateway, path, body, "key-a")[0] for path, body in calls.items()] == [200, 200]
