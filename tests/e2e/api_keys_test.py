"""API keys: on every method, reloaded while the gateway runs, and between tenants."""

import contextlib
import http.client
import json
import re
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server_process import ROOT
from security import all_methods, bearer, call_raw, key_line, write_keys

INFERENCE = "qwenserve.v1.Inference"


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path / "keys", key_line("key-a", "team-a"), key_line("key-b", "team-b"))


@pytest.fixture
def cluster(sim_cluster, keys):
    return sim_cluster(gateway_flags=("--api-keys", keys))


def test_every_method_asks_for_a_key(cluster, tmp_path):
    methods = all_methods(tmp_path)
    assert {"qwenserve.v1.Admin", "qwenserve.v1.Generator"} < set(methods)
    assert len(methods[INFERENCE]) >= 8
    bad = (None, bearer("no-key"), (("authorization", "Bearer"),), (("authorization", "key-a"),),
           (("authorization", "Basic a2V5LWE="),), (*bearer("key-a"), *bearer("key-a")))
    with cluster.channel() as channel:
        for name, streaming in methods[INFERENCE].items():
            path = f"/{INFERENCE}/{name}"
            for metadata in bad:
                assert call_raw(channel, path, streaming, metadata) == grpc.StatusCode.UNAUTHENTICATED, (
                    name, metadata)
            code = call_raw(channel, path, streaming, bearer("key-a"))
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT), (name, code)
        # Nothing else of ours is there at all, with a key or without.
        for service in set(methods) - {INFERENCE}:
            for name, streaming in methods[service].items():
                for metadata in (None, bearer("key-a")):
                    assert call_raw(channel, f"/{service}/{name}", streaming, metadata) == (
                        grpc.StatusCode.UNIMPLEMENTED), (service, name)
        for path in ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                     "/grpc.channelz.v1.Channelz/GetServers"):
            assert call_raw(channel, path, (True, True)) == grpc.StatusCode.UNIMPLEMENTED
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert cluster.gateway.metric("qwenserve_gateway_auth_failures_total", reason="unknown") >= 8
    assert cluster.gateway.metric("qwenserve_gateway_auth_failures_total", reason="missing") >= 16


def http_routes():
    """Every fixed path of the HTTP API, from the table that serves them: (path, POST, endpoint)."""
    table = (ROOT / "services" / "gateway" / "http" / "http_router.cc").read_text()
    return [(path, post == "true", endpoint) for path, endpoint, post in
            re.findall(r'{"(/[^"]*)", Endpoint::(k\w+), (true|false)}', table)]


def http_status(address, path, post, headers, method=None):
    """Status of a request, over a connection of its own."""
    host, port = address.rsplit(":", 1)
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.putrequest(method or ("POST" if post else "GET"), path)
        body = b"{}" if post else b""
        for name, value in (*headers, ("Content-Length", str(len(body))), ("Content-Type", "application/json")):
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status


def test_every_http_path_asks_for_a_key(cluster):
    address = cluster.gateway.addresses["http"]
    routes = http_routes()
    assert len(routes) >= 6 and [r for r in routes if r[2] == "kHealth"]
    routes += [("/v1/models/sim", False, "kModel"), ("/v1/embeddings", True, "kNone"),
               ("/metrics", False, "kNone"), ("/v1/../v1/models", False, "kNone"), ("//v1/models", False, "kNone")]
    bad = ((), (("Authorization", "Bearer no-key"),), (("Authorization", "Bearer"),),
           (("Authorization", "key-a"),), (("X-Api-Key", "key-a"),),
           (("Authorization", "Bearer key-a"), ("Authorization", "Bearer key-a")))
    for path, post, endpoint in routes:
        for headers in bad:
            for method in ("POST" if post else "GET", "PUT", "HEAD"):
                status = http_status(address, path, post, headers, method)
                if endpoint == "kHealth":
                    assert status in (200, 405)
                else:
                    assert status == 401, (path, method, headers)
        status = http_status(address, path, post, (("Authorization", "Bearer key-a"),))
        assert status == (404 if endpoint == "kNone" else 400 if post else 200), path
        # A key in the query would end in the logs of proxies.
        if endpoint != "kHealth":
            assert http_status(address, f"{path}?api_key=key-a", post, ()) == 401
    assert http_status(address, "/", False, ()) == 200


def test_a_bad_key_is_answered_the_same_everywhere(sim_cluster, tmp_path, api):
    """Unknown, expired and almost right are one answer, on every path; what is there shows only to keys."""
    keys = write_keys(tmp_path / "keys", key_line("key-a", "a"),
                      key_line("key-old", "a", expires="2001-01-01T00:00:00Z"))
    cluster = sim_cluster(gateway_flags=("--api-keys", keys))
    address, answers = cluster.gateway.addresses["http"], set()
    for path, post, endpoint in (*http_routes(), ("/v1/models/sim", False, ""), ("/v1/models/no", False, ""),
                                 ("/no/such/path", False, "")):
        if endpoint == "kHealth":
            continue
        for key in ("key-b", "key-old", "key-aa", "KEY-A", "x" * 4000):
            with contextlib.closing(http.client.HTTPConnection(address, timeout=20)) as connection:
                connection.request("POST" if post else "GET", path, "{}" if post else None,
                                   {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
                reply = connection.getresponse()
                headers = {name: value for name, value in reply.getheaders()
                           if name not in ("Date", "x-request-id", "Connection")}
                answers.add((reply.status, reply.read(), tuple(sorted(headers.items()))))
    assert len(answers) == 1 and answers.pop()[0] == 401
    details = set()
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        for key in ("key-b", "key-old", "key-aa", "KEY-A"):
            for call, request in ((stub.ListModels, api.ListModelsRequest()), (stub.GetModel, api.GetModelRequest(model="x")),
                                  (stub.Tokenize, api.TokenizeRequest(text="x")), (stub.Chat, api.ChatRequest())):
                with pytest.raises(grpc.RpcError) as error:
                    call(request, metadata=bearer(key))
                details.add((error.value.code(), error.value.details()))
    assert len(details) == 1 and details.pop()[0] == grpc.StatusCode.UNAUTHENTICATED


def test_a_connection_has_no_more_calls_at_a_time_than_it_may(sim_cluster, api):
    """The third call of a connection waits until one of the two ends; another connection need not."""
    cluster = sim_cluster(gateway_flags=("--max-concurrent-streams", "2"))
    request = api.CompleteRequest(text="x", options=api.GenerationOptions(max_tokens=100000, ignore_eos=True))
    with cluster.channel() as channel, cluster.channel(options=(("grpc.use_local_subchannel_pool", 1),)) as other:
        stub = api.InferenceStub(channel)
        running = [stub.StreamComplete(request) for _ in range(2)]
        for call in running:
            next(call)
        with pytest.raises(grpc.RpcError) as error:
            stub.ListModels(api.ListModelsRequest(), timeout=1)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        api.InferenceStub(other).ListModels(api.ListModelsRequest(), timeout=60)
        running[0].cancel()
        stub.ListModels(api.ListModelsRequest(), timeout=60)
        running[1].cancel()


def test_without_keys_all_is_as_before(sim_cluster):
    with sim_cluster().channel() as channel:
        assert call_raw(channel, f"/{INFERENCE}/ListModels") == grpc.StatusCode.OK
        assert call_raw(channel, "/qwenserve.v1.Admin/GetStatus") == grpc.StatusCode.OK
        assert call_raw(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                        (True, True)) == grpc.StatusCode.OK


def test_a_key_sees_only_its_models(sim_cluster, tmp_path, api):
    keys = write_keys(tmp_path / "keys", key_line("all", "a"), key_line("some", "b", models=["sim"]),
                      key_line("none", "c", models=["other"]))
    cluster = sim_cluster(gateway_flags=("--api-keys", keys))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)

        def models(key):
            return [m.id for m in stub.ListModels(api.ListModelsRequest(), metadata=bearer(key)).models]
        assert models("all") == models("some") == ["sim"]
        assert models("none") == []
        for call, request in ((stub.GetModel, api.GetModelRequest(model="sim")),
                              (stub.Tokenize, api.TokenizeRequest(text="x")),
                              (stub.Detokenize, api.DetokenizeTextRequest(token_ids=[1])),
                              (stub.Complete, api.CompleteRequest(text="x"))):
            call(request, metadata=bearer("some"))

            def refusal(model):
                request.model = model
                with pytest.raises(grpc.RpcError) as error:
                    call(request, metadata=bearer("none"))
                trailers = {key: value.replace(model.encode(), b"NAME") if isinstance(value, bytes) else value
                            for key, value in error.value.trailing_metadata()}
                return error.value.code(), error.value.details().replace(model, "NAME"), trailers
            # Nobody can tell a model of others from one that is not there.
            assert refusal("sim") == refusal("mis")
            assert refusal("sim")[0] == grpc.StatusCode.NOT_FOUND
    for method, path, body in (("GET", "/v1/models/{}", None),
                               ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
                               ("POST", "/v1/completions", {"prompt": "x"}), ("POST", "/tokenize", {"prompt": "x"}),
                               ("POST", "/detokenize", {"tokens": [1]})):
        def answer(model, key):
            with contextlib.closing(http.client.HTTPConnection(cluster.gateway.addresses["http"])) as connection:
                connection.request(method, path.format(model), json.dumps({**body, "model": model}) if body else None,
                                   {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
                reply = connection.getresponse()
                return reply.status, reply.read().decode().replace(model, "NAME")
        assert answer("sim", "some")[0] == 200
        assert answer("sim", "none") == answer("mis", "none")
        assert answer("sim", "none")[0] == 404
    with cluster.channel() as channel, pytest.raises(grpc.RpcError) as error:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        health.Check(health_pb2.HealthCheckRequest(service="sim"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_keys_are_reloaded(cluster, keys, api):
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)

        def works(key):
            try:
                stub.ListModels(api.ListModelsRequest(), metadata=bearer(key))
                return True
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED
                return False

        def eventually(condition):
            deadline = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.05)

        assert works("key-a") and not works("key-c")
        write_keys(keys, key_line("key-c", "team-c"))
        eventually(lambda: works("key-c"))
        assert not works("key-a")
        write_keys(keys, key_line("key-a", "team-a"), "{oops")
        eventually(lambda: cluster.gateway.metric("qwenserve_file_reloads_total", file="api_keys",
                                                  result="failed") > 0)
        assert works("key-c") and not works("key-a")


PROMPT = "What two tenants have in common. " * 200


def cached(stub, api, key, salt="", prompt=PROMPT, max_tokens=2):
    request = api.CompleteRequest(text=prompt, options=api.GenerationOptions(
        max_tokens=max_tokens, cache_salt=salt))
    return stub.Complete(request, metadata=bearer(key), timeout=60).usage.cached_prompt_tokens


def test_tenants_never_share_cached_prompts(sim_cluster, tmp_path, api):
    keys = write_keys(tmp_path / "keys", key_line("a1", "team-a"), key_line("a2", "team-a"),
                      key_line("b", "team-b"))
    secret = tmp_path / "secret"
    secret.write_text("a secret of the whole cluster\n")
    cluster = sim_cluster(gateways=2, gateway_flags=("--api-keys", keys, "--cache-salt-secret-file", secret))
    with cluster.channel(0) as one, cluster.channel(1) as two:
        first, second = api.InferenceStub(one), api.InferenceStub(two)
        assert cached(first, api, "a1") == 0
        assert cached(first, api, "a1") > 0
        assert cached(first, api, "a2") > 0, "two keys of one tenant"
        assert cached(second, api, "a1") > 0, "through another gateway with the same secret"
        assert cached(first, api, "b") == 0
        assert cached(second, api, "b") > 0
        # A salt of one's own keeps prompts apart within the tenant, and opens no other's.
        assert cached(first, api, "a1", salt="mine") == 0
        assert cached(first, api, "a1", salt="mine") > 0
        assert cached(first, api, "b", salt="mine") == 0


def test_a_resumed_answer_keeps_its_tenants_salt(sim_cluster, tmp_path, api):
    """Whatever replica goes on with an answer knows the prompt under the same name afterwards."""
    keys = write_keys(tmp_path / "keys", key_line("a", "team-a"), key_line("b", "team-b"))
    cluster = sim_cluster(generators=2, gateway_flags=("--api-keys", keys),
                          generator_flags=("--sim-step-ms", 20))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        request = api.CompleteRequest(text=PROMPT, options=api.GenerationOptions(
            max_tokens=200, ignore_eos=True))
        call = stub.StreamComplete(request, metadata=bearer("a"), timeout=60)
        tokens = 0
        for message in call:
            tokens += len(message.delta.token_ids)
            running = [g for g in cluster.generators
                       if g.running() and g.metric("qwenserve_sequences_running") > 0]
            if tokens > 5 and len(cluster.generators) == sum(g.running() for g in cluster.generators):
                running[0].kill()
        assert tokens == 200
        assert cached(stub, api, "b") == 0
        assert cached(stub, api, "a") > 0
