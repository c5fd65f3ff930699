"""Text and names that no well-meaning client sends, over both protocols: each gets an answer or an
error that names what is wrong, and the next request is served."""

import contextlib
import http.client
import json
import unicodedata

import grpc
import pytest

from conftest import error_info
from sim_cluster import SimCluster

INFERENCE = "/qwenserve.v1.Inference/"
RAW = {"request_serializer": lambda message: message, "response_deserializer": lambda message: message}


@pytest.fixture(scope="module")
def cluster():
    cluster = SimCluster(generator_flags=("--sim-step-ms", 1))
    yield cluster
    cluster.stop()


def post(cluster, path, body, headers=()):
    connection = http.client.HTTPConnection(cluster.gateway.addresses["http"], timeout=60)
    with contextlib.closing(connection):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json", **dict(headers)})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, json.loads(reply.read())


def text_field(number, value):
    """A length-delimited protobuf field, whatever is in it."""
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


@pytest.fixture
def healthy(cluster, api):
    yield
    with cluster.channel() as channel:
        answer = api.InferenceStub(channel).Complete(api.CompleteRequest(
            text="x", options=api.GenerationOptions(max_tokens=3, ignore_eos=True)), timeout=60)
    assert len(answer.choices[0].token_ids) == 3
    cluster.wait_idle()


INVALID = [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\x80abc"]


@pytest.mark.parametrize("text", INVALID)
def test_invalid_utf8(cluster, healthy, api, text):
    body = b'{"model": "sim", "max_tokens": 2, "prompt": "' + text + b'"}'
    status, _, answer = post(cluster, "/v1/completions", body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"
    body = b'{"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "' + text + b'"}]}'
    assert post(cluster, "/v1/chat/completions", body)[0] == 400
    assert post(cluster, "/tokenize", b'{"prompt": "' + text + b'"}')[0] == 400
    field = next(f.number for f in api.CompleteRequest.DESCRIPTOR.fields if f.name == "text")
    with cluster.channel() as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(INFERENCE + "Complete", **RAW)(text_field(field, text), timeout=60)
    # gRPC itself refuses what protobuf cannot parse, and calls it so in its callback API.
    assert error.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)
    assert text.decode("latin1") not in error.value.details()


@pytest.mark.parametrize("escape", [r"\ud800", r"\udc00", r"\udc00\ud800", r"\ud83dx", r"\ud83d\ud83d"])
def test_lone_surrogates(cluster, healthy, escape):
    for path, body in (("/v1/completions", '{"model": "sim", "max_tokens": 2, "prompt": "a%sb"}'),
                       ("/v1/chat/completions",
                        '{"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "a%sb"}]}'),
                       ("/v1/completions", '{"model": "sim", "max_tokens": 2, "prompt": "a", "stop": "%s"}')):
        status, _, answer = post(cluster, path, (body % escape).encode())
        assert status == 400 and answer["error"]["type"] == "invalid_request_error", (path, answer)


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ufeff", "\ufeffa", "a\ufeffb", "\ufffe\uffff", "\U0010ffff", "\x7f\x1b[2J",
                                  "\u202eabc", "e" + "\u0301" * 500])
def test_odd_but_valid_text_is_text(cluster, healthy, api, text):
    status, _, tokens = post(cluster, "/tokenize", {"prompt": text})
    assert status == 200
    status, _, back = post(cluster, "/detokenize", {"tokens": tokens["tokens"]})
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        ids = stub.Tokenize(api.TokenizeRequest(text=text), timeout=60).token_ids
        assert list(ids) == tokens["tokens"]
        over_grpc = stub.Detokenize(api.DetokenizeTextRequest(token_ids=ids), timeout=60).text
    assert status == 200 and back["prompt"] == over_grpc
    assert unicodedata.normalize("NFC", over_grpc) == unicodedata.normalize("NFC", text)
    for path, body in (("/v1/completions", {"prompt": text}),
                       ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})):
        assert post(cluster, path, {"model": "sim", "max_tokens": 2, **body})[0] == 200


def test_a_byte_order_mark_before_json_is_no_text(cluster, healthy):
    marked = post(cluster, "/tokenize", b"\xef\xbb\xbf" + b'{"prompt": "a"}')
    assert marked[0] == 200 and marked[2] == post(cluster, "/tokenize", {"prompt": "a"})[2]


def test_the_same_request_id_twice_at_a_time(cluster, healthy, api):
    """Names of clients are labels: nothing is looked up, merged or cancelled by them."""
    def request(seed):
        return api.CompleteRequest(text="x", request_id="mine",
                                   options=api.GenerationOptions(
                                       max_tokens=40, ignore_eos=True, sampling=api.SamplingParams(seed=seed, temperature=1)))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        alone = [list(stub.Complete(request(seed), timeout=60).choices[0].token_ids) for seed in (1, 2)]
        both = [stub.Complete.future(request(seed), timeout=60) for seed in (1, 2)]
        assert [list(call.result().choices[0].token_ids) for call in both] == alone
        first = stub.StreamComplete(request(1), timeout=60)
        second = stub.StreamComplete(request(2), timeout=60)
        next(first), next(second)
        first.cancel()
        assert list(second)  # not its namesake's end
    headers = (("X-Request-Id", "mine"),)
    body = {"model": "sim", "prompt": "x", "max_tokens": 2}
    ids = {post(cluster, "/v1/completions", body, headers)[1]["x-request-id"] for _ in range(2)}
    assert len(ids) == 2 and "mine" not in ids


@pytest.mark.parametrize("name", ["a\nb", "a\r\nX-Evil: 1", "\0", "\x1b[31m", "a\x7f", "né", "x" * 1_000_000])
def test_request_ids_that_are_no_names(cluster, healthy, api, name):
    with cluster.channel() as channel, pytest.raises(grpc.RpcError) as error:
        api.InferenceStub(channel).Complete(api.CompleteRequest(text="x", request_id=name), timeout=60)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error.value)[1] == "request_id"
    assert len(error.value.details()) < 1000 and name not in error.value.details()


def test_metadata_and_headers_beyond_their_limits(cluster, healthy, api):
    with cluster.channel() as channel, pytest.raises(grpc.RpcError) as error:
        api.InferenceStub(channel).ListModels(api.ListModelsRequest(), timeout=60,
                                              metadata=(("x-long", "x" * 40_000),))
    assert error.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE,
                                  grpc.StatusCode.INTERNAL)
    with cluster.channel() as channel:
        assert api.InferenceStub(channel).ListModels(api.ListModelsRequest(), timeout=60,
                                                     metadata=(("x-long", "x" * 4_000),)).models
    body = {"model": "sim", "prompt": "x", "max_tokens": 2}
    assert post(cluster, "/v1/completions", body, (("X-Long", "x" * 12_000),))[0] == 200
    status, _, answer = post(cluster, "/v1/completions", body, (("X-Long", "x" * 20_000),))
    assert status == 431 and "16384" in answer["error"]["message"]
