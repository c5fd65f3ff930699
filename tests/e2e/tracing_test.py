"""Traces: one for each request through all processes, sent to a collector that may be slow or away."""

import contextlib
import re
import socket
import time

import grpc
import pytest

from access_log_test import CANARY, post
from authority import Authority
from collector import Collector, load_otlp
from server_process import ROOT, ServerProcess

TRACE_ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{PARENT}-01", f"00-{TRACE_ID}-{PARENT}-00"


@pytest.fixture(scope="session")
def otlp(tmp_path_factory):
    return load_otlp(tmp_path_factory.mktemp("otlp"))


def documented():
    """Attributes that docs/debugging.md tells of."""
    text = (ROOT / "docs" / "debugging.md").read_text()
    return set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", text.partition("\n## Traces\n")[2].partition("\n## ")[0]))


@pytest.fixture
def collector(otlp):
    with Collector(otlp) as collector:
        yield collector
    for span in collector.spans:
        unknown = {*span.attributes, *span.resource} - documented() - {"service.namespace"}
        assert not unknown, f"{span.name} of {span.service}: not in docs/debugging.md"


@pytest.fixture
def traced(sim_cluster, collector):
    """A cluster of which all processes send to `collector`: traced(ratio, **options of SimCluster)."""
    def make(ratio=1, **options):
        flags = ("--otlp-endpoint", collector.address, "--otlp-sample-ratio", ratio)
        for kind in ("generator", "tokenizer", "gateway"):
            options[f"{kind}_flags"] = (*options.get(f"{kind}_flags", ()), *flags)
        return sim_cluster(**options)
    return make


def ended(name, count=1):
    """For Collector.wait: so many spans of this name are there."""
    return lambda spans: sum(span.name == name for span in spans) >= count


def tree(spans, trace=None):
    """Spans of one trace by (service without prefix, name), each a list in order of their start; checks
    that there is one root, that every other parent is among them, and that no part outlasts its whole."""
    spans = [span for span in spans if trace is None or span.trace == trace]
    assert len({span.trace for span in spans}) == 1, spans
    by_id = {span.id: span for span in spans}
    assert len(by_id) == len(spans)
    roots = [span for span in spans if span.parent not in by_id]
    assert len(roots) == 1, roots
    found = {}
    for span in sorted(spans, key=lambda span: span.start):
        assert span.start <= span.end
        found.setdefault((span.service.removeprefix("qwenserve-"), span.name), []).append(span)
    return roots[0], found


def check_request(spans, entry, trace=None):
    """The spans of one request without failover."""
    root, found = tree(spans, trace)
    assert root.name == entry and root.service == "qwenserve-gateway"
    assert {key: len(value) for key, value in found.items()} == {
        ("gateway", entry): 1, ("gateway", "qwenserve.v1.Tokenizer/Prepare"): 1, ("gateway", "queue"): 1,
        ("gateway", "attempt"): 1, ("tokenizer", "qwenserve.v1.Tokenizer/Prepare"): 1, ("generator", "generate"): 1,
        ("generator", "queue"): 1, ("generator", "prefill"): 1, ("generator", "decode"): 1}
    (prepare,), (queue,), (attempt,) = (found["gateway", name] for name in (
        "qwenserve.v1.Tokenizer/Prepare", "queue", "attempt"))
    (prepared,), (generate,) = found["tokenizer", "qwenserve.v1.Tokenizer/Prepare"], found["generator", "generate"]
    assert {prepare.parent, queue.parent, attempt.parent} == {root.id}
    assert prepared.parent == prepare.id and generate.parent == attempt.id
    assert all(found["generator", name][0].parent == generate.id for name in ("queue", "prefill", "decode"))
    assert prepare.end <= queue.start <= queue.end <= attempt.start <= attempt.end <= root.end
    assert generate.start == found["generator", "queue"][0].start
    assert found["generator", "queue"][0].end == found["generator", "prefill"][0].start
    assert found["generator", "prefill"][0].end == found["generator", "decode"][0].start
    assert [name for name, _ in root.events] == ["first_token"]
    assert root.attributes["qwenserve.request_id"] == prepared.attributes["qwenserve.request_id"]
    assert root.attributes["qwenserve.request_id"].startswith(generate.attributes["qwenserve.request_id"])
    return root, prepared, attempt, generate


def test_one_request_is_one_trace_through_all_processes(traced, collector, api):
    cluster = traced()
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        request = api.CompleteRequest(text="hello there", options=api.GenerationOptions(max_tokens=9, ignore_eos=True))
        answer = list(stub.StreamComplete(request))[-1]
    entry = "qwenserve.v1.Inference/StreamComplete"
    spans = collector.wait(lambda spans: ended(entry)(spans) and ended("generate")(spans) and
                           ended("qwenserve.v1.Tokenizer/Prepare", 2)(spans))
    root, prepared, attempt, generate = check_request(spans, entry)
    tokens = answer.finished.usage.prompt_tokens
    assert root.parent == ""
    wire = root.attributes
    assert (wire["rpc.system"], wire["rpc.service"], wire["rpc.method"], wire["rpc.grpc.status_code"]) == (
        "grpc", "qwenserve.v1.Inference", "StreamComplete", 0)
    assert (wire["gen_ai.operation.name"], wire["gen_ai.request.model"]) == ("text_completion", "sim")
    for span in (root, generate):
        assert (span.attributes["gen_ai.usage.input_tokens"], span.attributes["gen_ai.usage.output_tokens"]) == (tokens, 9)
    assert prepared.attributes["gen_ai.usage.input_tokens"] == tokens
    assert attempt.attributes["qwenserve.finish"] == generate.attributes["qwenserve.finish"] == "length"
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 9
    assert attempt.attributes["qwenserve.replica"] == generate.resource["service.instance.id"]
    assert {(s.wire.kind, s.wire.flags & 0x200 != 0) for s in (root, prepared, attempt, generate)} == {
        (2, False), (2, True), (3, False)}
    for span in spans:
        assert span.resource["service.namespace"] == "qwenserve" and span.resource["service.version"]


def test_http_and_the_callers_own_trace(traced, collector, api):
    """A sampled caller is the parent, whatever the ratio; one that is not sampled is left out; without
    one the ratio 0 leaves all out. Errors have their code, and no part of the request."""
    cluster = traced(ratio=0)
    address = cluster.gateway.addresses["http"]
    chat = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    for headers in ({}, {"traceparent": UNSAMPLED}, {"traceparent": SAMPLED}):
        assert post(address, "/v1/chat/completions", {**chat, "stream": True}, headers)[0] == 200
    entry = "POST /v1/chat/completions"
    spans = collector.wait(lambda spans: ended(entry)(spans) and ended("generate")(spans) and
                           ended("qwenserve.v1.Tokenizer/Prepare", 2)(spans))
    root, *_ = check_request(spans, entry, TRACE_ID)
    assert root.parent == PARENT and root.wire.flags & 0x200
    assert (root.attributes["http.request.method"], root.attributes["http.route"]) == ("POST", "/v1/chat/completions")

    sampled = {"traceparent": SAMPLED}
    assert post(address, "/v1/completions", {"model": "sim", "prompt": ["a", "b c"], "max_tokens": 3}, sampled)[0] == 200
    spans = collector.wait(ended("POST /v1/completions", 3))
    whole, *parts = sorted((s for s in spans if s.name == "POST /v1/completions"), key=lambda s: s.start)
    assert whole.parent == PARENT and {part.parent for part in parts} == {whole.id}
    assert whole.attributes["qwenserve.prompts"] == 2

    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        for request, code in ((api.CompleteRequest(text=""), grpc.StatusCode.INVALID_ARGUMENT),
                              (api.CompleteRequest(text="x", model="other"), grpc.StatusCode.NOT_FOUND)):
            with pytest.raises(grpc.RpcError) as error:
                stub.Complete(request, metadata=(("traceparent", SAMPLED),))
            assert error.value.code() == code
        stub.Tokenize(api.TokenizeRequest(text="a b"), metadata=(("traceparent", SAMPLED),))
        stub.ListModels(api.ListModelsRequest(), metadata=(("traceparent", SAMPLED),))
    spans = collector.wait(lambda spans: ended("qwenserve.v1.Inference/ListModels")(spans) and
                           ended("qwenserve.v1.Inference/Complete", 2)(spans))
    refused = [s for s in spans if s.name == "qwenserve.v1.Inference/Complete"]
    assert sorted((s.attributes["qwenserve.code"], s.attributes["error.type"]) for s in refused) == [
        ("INVALID_ARGUMENT", "INVALID_FIELD"), ("NOT_FOUND", "MODEL_NOT_FOUND")]
    assert all(s.wire.status.code == 0 for s in refused)  # the caller's fault
    assert {s.trace for s in spans} == {TRACE_ID}


def test_attempts_of_a_failover_stand_beside_each_other(traced, collector, api):
    cluster = traced(generators=2, generator_flags=("--sim-step-ms", 10))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        request = api.CompleteRequest(text="hello", options=api.GenerationOptions(max_tokens=200, ignore_eos=True))
        for number, event in enumerate(stub.StreamComplete(request)):
            if number == 5:
                next(g for g in cluster.generators if g.metric("qwenserve_sequences_running") > 0).kill()
    spans = collector.wait(lambda spans: ended("qwenserve.v1.Inference/StreamComplete")(spans) and
                           ended("generate")(spans))
    root, found = tree(spans)
    first, second = found["gateway", "attempt"]
    assert {first.parent, second.parent} == {root.id}
    assert first.attributes["qwenserve.lost"] == "ended" and first.wire.status.code == 2
    assert "qwenserve.lost" not in second.attributes and second.attributes["qwenserve.attempt"] == 1
    sent = [span.attributes["gen_ai.usage.output_tokens"] for span in (first, second)]
    assert sum(sent) == 200 and second.attributes["qwenserve.resumed_tokens"] == sent[0] > 0
    assert first.attributes["qwenserve.replica"] != second.attributes["qwenserve.replica"]
    # The one that was killed has sent nothing.
    (generate,) = found["generator", "generate"]
    assert generate.parent == second.id
    assert len(found["gateway", "queue"]) == 2
    assert ("replica_lost", {"cause": "ended", "sample": 0, "tokens": sent[0]}) in root.events
    assert (root.attributes["qwenserve.failovers"], root.attributes["qwenserve.replicas"]) == (1, 2)
    cluster.restart_generator([g.running() for g in cluster.generators].index(False))


def test_no_content(traced, collector, api):
    """Of prompts, answers, and texts that clients choose nothing is in any span."""
    prompt, answer = CANARY + "prompt", CANARY + "answer"
    cluster = traced(script=[{"when": "poison", "fault": "nan"}, {"when": prompt, "answer": f"It is {answer}."}])
    address = cluster.gateway.addresses["http"]
    chat = {"model": "sim", "messages": [{"role": "user", "content": prompt}], "user": CANARY}
    assert answer in post(address, "/v1/chat/completions", chat)[1]
    for bad in ({"model": CANARY}, {"stop": [CANARY * 100]}, {"messages": [{"role": CANARY, "content": "x"}]},
                {"messages": [{"role": "user", "content": prompt + " poison"}]}, {"tools": CANARY}):
        assert post(address, "/v1/chat/completions", {**chat, **bad})[0] >= 400
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        stub.Tokenize(api.TokenizeRequest(text=prompt))
        stub.Complete(api.CompleteRequest(text=prompt, request_id=CANARY))
        with pytest.raises(grpc.RpcError):
            stub.Complete(api.CompleteRequest(text=prompt, request_id="\x01" + CANARY, model=CANARY))
    spans = collector.wait(ended("generate", 3))
    numeric = [span for span in spans if span.attributes.get("error.type") == "NUMERIC"]
    assert {span.service for span in numeric} >= {"qwenserve-generator"}
    for process in (*cluster.gateways, *cluster.tokenizers, *cluster.generators):
        process.terminate()
    assert len(collector.spans) > 20
    assert CANARY.encode() not in collector.bytes


def silent_port():
    """A port whose connections are never answered."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    return listener, f"127.0.0.1:{listener.getsockname()[1]}"


def test_nobody_waits_for_a_collector_that_is_slow_or_away(sim_cluster, otlp, api):
    """Requests go on, spans are dropped and counted, and the end of a process is not held up."""
    listener, silent = silent_port()
    with contextlib.closing(listener):
        cluster = sim_cluster(gateway_flags=("--otlp-endpoint", silent), generator_flags=("--sim-step-ms", 0))
        with cluster.channel() as channel:
            stub = api.InferenceStub(channel)
            deadline = time.monotonic() + 120
            name = "qwenserve_trace_spans_total"
            while cluster.gateway.metric(name, result="dropped_queue_full") == 0:
                for _ in range(500):
                    stub.ListModels(api.ListModelsRequest(), timeout=30)
                assert time.monotonic() < deadline
        assert cluster.gateway.metric(name, result="sent") == 0
        began = time.monotonic()
        assert cluster.gateway.terminate() == 0
        assert time.monotonic() - began < 30


def test_a_collector_that_comes_late_gets_what_waits(sim_cluster, otlp, api):
    """Tried again while it is away or says that it is busy; what it rejects is counted."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = sim_cluster(gateway_flags=("--otlp-endpoint", address))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        stub.ListModels(api.ListModelsRequest())
        answers = iter(["busy", "partial"])

        def answer(request, context):
            what = next(answers, None)
            if what == "busy":
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            if what == "partial":
                reply = otlp.ExportTraceServiceResponse()
                reply.partial_success.rejected_spans = 1
                return reply

        with Collector(otlp, answer, address=address) as collector:
            collector.wait(ended("qwenserve.v1.Inference/ListModels"), patience=120)
            name = "qwenserve_trace_spans_total"
            cluster.gateway.await_metric(lambda count: count == 1, name, result="rejected")
            # What has ended just before the process leaves with it.
            stub.Tokenize(api.TokenizeRequest(text="x"))
            assert cluster.gateway.terminate() == 0
            assert ended("qwenserve.v1.Inference/Tokenize")(collector.spans)


def test_tls_to_the_collector(sim_cluster, otlp, tmp_path, api):
    authority = Authority(tmp_path, "authority")
    cert, key = authority.issue("gateway", "DNS:gateway")
    theirs, theirs_key = authority.issue("collector", "DNS:collector")
    credentials = grpc.ssl_server_credentials(
        [(theirs_key.read_bytes(), theirs.read_bytes())], root_certificates=authority.cert.read_bytes(),
        require_client_auth=True)
    with Collector(otlp, credentials=credentials) as collector:
        flags = ("--otlp-endpoint", collector.address, "--otlp-tls-ca", authority.cert, "--otlp-tls-cert", cert,
                 "--otlp-tls-key", key)
        cluster = sim_cluster(gateway_flags=(*flags, "--otlp-tls-names", "collector"))
        with cluster.channel() as channel:
            api.InferenceStub(channel).ListModels(api.ListModelsRequest())
        collector.wait(ended("qwenserve.v1.Inference/ListModels"))
        # One with another name is not believed.
        other = cluster.start_gateway(flags=(*flags, "--otlp-tls-names", "another"))
        with grpc.insecure_channel(other.address) as channel:
            api.InferenceStub(channel).Tokenize(api.TokenizeRequest(text="x"))
        other.terminate()
        assert not ended("qwenserve.v1.Inference/Tokenize")(collector.spans)


@pytest.mark.parametrize("flags, message", [
    (("--otlp-endpoint", "http://x:4317"), "--otlp-endpoint"),
    (("--otlp-sample-ratio", "1.5"), "--otlp-sample-ratio is 1.5"),
    (("--otlp-sample-ratio", "nan"), "--otlp-sample-ratio"),
    (("--otlp-endpoint", "127.0.0.1:1", "--otlp-tls-cert", "x"), "need --otlp-tls-ca"),
])
def test_wrong_flags_are_told(flags, message, tmp_path):
    with open(tmp_path / "log", "w+") as log:
        with pytest.raises(RuntimeError):
            ServerProcess("gateway", "--tokenizers", "127.0.0.1:1", "--generators", "127.0.0.1:1", *flags, log=log)
        log.seek(0)
        assert message in log.read()
