"""The access log, and that nothing of prompts and answers gets out of the processes."""

import contextlib
import http.client
import json
import os
import time

import grpc
import pytest

from security import bearer, key_line, write_keys

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CANARY = "xylophonecanary"


def lines(path, count=0):
    """The lines so far, once there are at least `count`."""
    deadline = time.monotonic() + 60
    while True:
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def post(address, path, body, headers=None):
    host, port = address.rsplit(":", 1)
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body),
                           {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


@pytest.fixture
def log(tmp_path):
    return tmp_path / "access.log"


def test_one_line_for_each_request(sim_cluster, tmp_path, log, api):
    keys = write_keys(tmp_path / "keys", key_line("key-a", "team-a"))
    cluster = sim_cluster(gateway_flags=("--api-keys", keys, "--access-log", log))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        request = api.CompleteRequest(text="hello", request_id='my "own" id', options=api.GenerationOptions(
            max_tokens=7, ignore_eos=True))
        metadata = (*bearer("key-a"), ("traceparent", TRACE))
        answer = stub.Complete(request, metadata=metadata)
        assert answer.started.request_id == 'my "own" id'
        line = lines(log, 1)[0]
        assert line.pop("time").endswith("Z") and line.pop("request_id").startswith("req-")
        assert len(line.pop("instance")) == 32
        assert 0 < line.pop("ttft_ms") <= line.pop("duration_ms")
        assert line == {
            "level": "info", "role": "gateway", "message": "request",
            "client_id": 'my "own" id', "tenant": "team-a", "method": "Complete", "model": "sim", "code": "OK",
            "prompt_tokens": answer.usage.prompt_tokens, "cached_tokens": 0, "completion_tokens": 7,
            "replicas": 1, "failovers": 0, "peer": "127.0.0.1", "traceparent": TRACE,
            "trace_id": TRACE.split("-")[1]}

        # Two requests of one name are two, and what is not a traceparent is none.
        list(stub.StreamComplete(request, metadata=(*bearer("key-a"), ("traceparent", TRACE + "x"))))
        second = lines(log, 2)[1]
        assert second["request_id"] != lines(log)[0]["request_id"] and second["client_id"] == 'my "own" id'
        assert second["method"] == "StreamComplete" and "traceparent" not in second

        with pytest.raises(grpc.RpcError):
            stub.Complete(request)
        with pytest.raises(grpc.RpcError):
            stub.Complete(api.CompleteRequest(text=""), metadata=bearer("key-a"))
        with pytest.raises(grpc.RpcError):
            stub.Complete(api.CompleteRequest(text="x", model="other"), metadata=bearer("key-a"))
        stub.ListModels(api.ListModelsRequest(), metadata=bearer("key-a"))
        stub.Tokenize(api.TokenizeRequest(text="a b"), metadata=bearer("key-a"))
        ends = [(line["method"], line["code"], line.get("reason"), line.get("tenant"))
                for line in lines(log, 7)[2:]]
        assert ends == [("Complete", "UNAUTHENTICATED", "API_KEY_MISSING", None),
                        ("Complete", "INVALID_ARGUMENT", "INVALID_FIELD", "team-a"),
                        ("Complete", "NOT_FOUND", "MODEL_NOT_FOUND", "team-a"),
                        ("ListModels", "OK", None, "team-a"), ("Tokenize", "OK", None, "team-a")]

    address = cluster.gateway.addresses["http"]
    assert post(address, "/v1/completions", {"model": "sim", "prompt": "x", "max_tokens": 3},
                {"Authorization": "Bearer key-a", "traceparent": TRACE})[0] == 200
    assert post(address, "/v1/completions", {"model": "sim", "prompt": "x"})[0] == 401
    assert post(address, "/no/such", {}, {"Authorization": "Bearer key-a"})[0] == 404
    done, refused, unknown = lines(log, 10)[7:]
    assert (done["method"], done["code"], done["tenant"], done["traceparent"]) == (
        "HttpComplete", "OK", "team-a", TRACE)
    assert (refused["method"], refused["code"], refused["peer"]) == ("Http", "UNAUTHENTICATED", "127.0.0.1")
    assert (unknown["code"], unknown["tenant"]) == ("NOT_FOUND", "team-a")
    assert len({line["request_id"] for line in lines(log)}) == 10
    cluster.gateway.await_metric(lambda lines: lines == 10, "qwenserve_gateway_access_log_lines_total", result="written")
    assert cluster.gateway.terminate() == 0
    assert len(lines(log)) == 10


def test_the_log_is_rotated_and_a_full_disk_harms_nobody(sim_cluster, log, api):
    cluster = sim_cluster(gateway_flags=("--access-log", log))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        stub.ListModels(api.ListModelsRequest())
        lines(log, 1)
        os.rename(log, f"{log}.1")
        stub.ListModels(api.ListModelsRequest())
        assert len(lines(log, 1)) == 1
    full = cluster.start_gateway(flags=("--access-log", "/dev/full"))
    with grpc.insecure_channel(full.address) as channel:
        stub = api.InferenceStub(channel)
        for _ in range(5):
            stub.ListModels(api.ListModelsRequest())
    deadline = time.monotonic() + 60
    while full.metric("qwenserve_gateway_access_log_lines_total", result="dropped") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_of_prompts_and_answers_gets_out(sim_cluster, tmp_path, log, api):
    """A word of the prompt and of the answer, over both protocols, in good and bad requests, with a replica
    that dies in between: in no log, metric, error or status of any process."""
    prompt, answer = CANARY + "prompt", CANARY + "answer"
    text = f"Tell me of {prompt}."
    out = tmp_path / "processes.log"
    texts = []  # what clients got besides answers
    with open(out, "w") as stream:
        cluster = sim_cluster(
            generators=2, log=stream, gateway_flags=("--access-log", log), generator_flags=("--sim-step-ms", 10),
            script=[{"when": "poison", "fault": "nan"},
                    {"when": prompt, "answer": f"It is {answer}. " * 40}])
        with cluster.channel() as channel:
            stub = api.InferenceStub(channel)
            messages = [api.ChatMessage(role=2, content=text)]
            seen = ""
            for event in stub.StreamChat(api.ChatRequest(input=api.ChatInput(messages=messages))):
                seen += event.delta.text
                if answer in seen and all(g.running() for g in cluster.generators):
                    next(g for g in cluster.generators if g.metric("qwenserve_sequences_running") > 0).kill()
            assert answer in seen
            cluster.restart_generator([g.running() for g in cluster.generators].index(False))
            options = api.GenerationOptions
            tool = api.Tool(name="t", parameters_json="{" + prompt)
            bad = [api.CompleteRequest(text=text, options=options(n=99)),
                   api.CompleteRequest(text=text + " poison"),
                   api.CompleteRequest(text=text, options=options(max_tokens=10**6)),
                   api.CompleteRequest(text=text * 60000),
                   api.CompleteRequest(text=text, options=options(stop=[prompt * 100])),
                   api.CompleteRequest(text=text + " " + "\x00" * 3, options=options(min_tokens=9, max_tokens=1))]
            bad.append(None)
            for request in bad:
                with pytest.raises(grpc.RpcError) as error:
                    if request is None:
                        stub.Chat(api.ChatRequest(input=api.ChatInput(messages=messages, tools=[tool])), timeout=30)
                    else:
                        stub.Complete(request, timeout=30)
                texts += [error.value.details(), repr(error.value.trailing_metadata())]
            with pytest.raises(grpc.RpcError) as error:
                stub.Complete(api.CompleteRequest(text=text, options=options(ignore_eos=True)), timeout=0.2)
            texts += [error.value.details(), repr(error.value.trailing_metadata())]

            address = cluster.gateway.addresses["http"]
            chat = {"model": "sim", "messages": [{"role": "user", "content": text}]}
            assert answer in post(address, "/v1/chat/completions", chat)[1]
            for body in ({**chat, "n": 99}, {**chat, "messages": [{"role": prompt, "content": text}]},
                         {**chat, "tools": [{"type": "function", "function": {"name": prompt, "parameters": prompt}}]},
                         {**chat, "messages": [{"role": "user", "content": text + " poison"}]},
                         {**chat, "messages": prompt}, {**chat, prompt[:5]: 1, "temperature": prompt},
                         {**chat, "stop": [prompt * 100]},
                         b'{"messages": [{"role": "user", "content": "' + prompt.encode() + b'" oops}]}'):
                status, reply = post(address, "/v1/chat/completions", body)
                assert status >= 400, body
                texts.append(reply)
        # The Admin service's view, while a request runs.
        processes = [cluster.gateway, *cluster.tokenizers, *cluster.generators]
        for process in processes:
            texts.append(process.http("/metrics")[1])
            with grpc.insecure_channel(process.address) as channel:
                raw = {"request_serializer": lambda m: m, "response_deserializer": lambda m: m}
                for method in ("GetStatus", "ListRequests"):
                    texts.append(repr(channel.unary_unary(f"/qwenserve.v1.Admin/{method}", **raw)(b"", timeout=10)))
        for process in processes:
            process.terminate()
    texts += [out.read_text(), log.read_text()]
    assert "[gateway]" in texts[-2] and "[generator]" in texts[-2] and len(lines(log)) >= 8
    for text in texts:
        assert CANARY not in text, text[:2000]
