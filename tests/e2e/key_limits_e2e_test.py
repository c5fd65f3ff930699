"""Limits of keys on the calls that generate nothing."""

import contextlib
import http.client
import json

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
    keys = write_keys(tmp_path / "keys", key_line("key-a", "a", limits={"requests_per_minute": 4}))
    gateway = sim_cluster(gateway_flags=("--api-keys", keys)).gateway
    body = {"prompt": ["x", "y", "z"], "max_tokens": 2}
    status, _, answer = post(gateway, "/v1/completions", body, "key-a")
    assert status == 200 and len(answer["choices"]) == 3
    assert post(gateway, "/v1/completions", body, "key-a")[0] == 429
