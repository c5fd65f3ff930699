"""What metrics count: known traffic gives known numbers at all three processes."""

import contextlib
import json
import socket
import time
import urllib.request

import grpc
import pytest

from authority import Authority
from sim_cluster import SimCluster, make_sim_model

STREAMS, STREAM_TOKENS, SAMPLES, SAMPLE_TOKENS, HTTP_TOKENS = 3, 9, 3, 7, 5
TOKENS = STREAMS * STREAM_TOKENS + SAMPLES * SAMPLE_TOKENS + HTTP_TOKENS
SEQUENCES = STREAMS + SAMPLES + 1
CALLS = STREAMS + 2
STEP = 0.02


@pytest.fixture(scope="module")
def traffic(api):
    """The cluster after three streams, one call with three answers and one over HTTP, and two that are refused; and the
    prompt tokens of each call."""
    cluster = SimCluster(generator_flags=("--sim-step-ms", 1000 * STEP))
    try:
        yield cluster, make_traffic(cluster, api)
    finally:
        cluster.stop()


def make_traffic(cluster, api):
    prompts = []
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        for number in range(STREAMS):
            options = api.GenerationOptions(max_tokens=STREAM_TOKENS, ignore_eos=True)
            *_, last = stub.StreamComplete(api.CompleteRequest(text=f"{number} is a number", options=options), timeout=60)
            prompts.append(last.finished.usage.prompt_tokens)
        options = api.GenerationOptions(max_tokens=SAMPLE_TOKENS, ignore_eos=True, n=SAMPLES)
        answer = stub.Complete(api.CompleteRequest(text="three answers", options=options), timeout=60)
        prompts.append(answer.usage.prompt_tokens)
        for bad, code in ((api.CompleteRequest(text=""), grpc.StatusCode.INVALID_ARGUMENT),
                          (api.CompleteRequest(text="x", model="another"), grpc.StatusCode.NOT_FOUND)):
            with pytest.raises(grpc.RpcError) as error:
                stub.Complete(bad, timeout=60)
            assert error.value.code() == code
    body = {"model": "sim", "messages": [{"role": "user", "content": "over HTTP"}], "max_tokens": HTTP_TOKENS, "ignore_eos": True}
    with urllib.request.urlopen(urllib.request.Request(
            f"http://{cluster.gateway.addresses['http']}/v1/chat/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json"}), timeout=60) as reply:
        prompts.append(json.load(reply)["usage"]["prompt_tokens"])
    cluster.wait_idle()
    for process, name in ((cluster.gateway, "qwenserve_request_duration_seconds_count"),
                          (cluster.generators[0], "qwenserve_sequence_duration_seconds_count")):
        process.await_metric(lambda count: count >= {cluster.gateway: CALLS}.get(process, SEQUENCES), name)
    return prompts


def check(process, expected):
    """`expected`: {name: value} or {(name, label, value, ...): value}."""
    found = {}
    for key in expected:
        name, *labels = key if isinstance(key, tuple) else (key,)
        found[key] = process.metric(name, **dict(zip(labels[::2], labels[1::2], strict=True)))
    assert found == expected


def histogram(name, count):
    """That it has so many observations, and all of them in its buckets."""
    return {f"{name}_count": count, (f"{name}_bucket", "le", "+Inf"): count}


def test_gateway(traffic):
    cluster, prompts = traffic
    calls = "qwenserve_gateway_requests_total"
    durations = "qwenserve_gateway_request_duration_seconds_count"
    check(cluster.gateway, {
        (calls, "method", "StreamComplete", "code", "OK"): STREAMS, (calls, "method", "Complete", "code", "OK"): 1,
        (calls, "method", "HttpChat", "code", "OK"): 1, (calls, "code", "INVALID_ARGUMENT"): 1, (calls, "code", "NOT_FOUND"): 1,
        calls: CALLS + 2, (durations, "method", "StreamComplete"): STREAMS, (durations, "method", "Complete"): 3, durations: CALLS + 2,
        **histogram("qwenserve_time_to_first_token_seconds", CALLS), **histogram("qwenserve_request_duration_seconds", CALLS),
        **histogram("qwenserve_gateway_queue_wait_seconds", CALLS),
        **histogram("qwenserve_request_prompt_tokens", CALLS), "qwenserve_request_prompt_tokens_sum": sum(prompts),
        **histogram("qwenserve_request_completion_tokens", CALLS), "qwenserve_request_completion_tokens_sum": TOKENS,
        "qwenserve_gateway_prompt_tokens_total": sum(prompts), "qwenserve_gateway_completion_tokens_total": TOKENS,
        ("qwenserve_gateway_answers_finished_total", "reason", "length"): SEQUENCES,
        "qwenserve_gateway_answers_finished_total": SEQUENCES, "qwenserve_gateway_placements_total": CALLS,
        "qwenserve_gateway_sheds_total": 0, "qwenserve_gateway_cancels_total": 0, "qwenserve_gateway_failovers_total": 0,
        "qwenserve_gateway_retry_budget_exhausted_total": 0, "qwenserve_gateway_requests_in_flight": 0,
        "qwenserve_http_requests_total": 1, "qwenserve_http_connections_accepted_total": 1,
        "qwenserve_http_malformed_requests_total": 0, "qwenserve_grpc_connections_accepted_total": 1})


def test_time_between_tokens_is_that_of_one_answer(traffic):
    """Three answers side by side are not three times as fast."""
    cluster, _ = traffic
    for process, name in ((cluster.gateway, "qwenserve_inter_token_seconds"),
                          (cluster.generators[0], "qwenserve_sequence_inter_token_seconds")):
        check(process, histogram(name, TOKENS - SEQUENCES))
        assert process.metric(f"{name}_sum") >= 0.9 * STEP * (TOKENS - SEQUENCES)


def test_generator(traffic):
    cluster, prompts = traffic
    (generator,) = cluster.generators
    *singles, samples, chat = prompts
    whole = sum(singles) + SAMPLES * samples + chat
    ended = "qwenserve_sequences_finished_total"
    check(generator, {
        (ended, "reason", "length"): SEQUENCES, ended: SEQUENCES, "qwenserve_sequences_rejected_total": 0,
        "qwenserve_generated_tokens_total": TOKENS, "qwenserve_preemptions_total": 0, "qwenserve_generator_sessions": 1,
        **histogram("qwenserve_queue_duration_seconds", SEQUENCES), **histogram("qwenserve_sequence_prefill_seconds", SEQUENCES),
        **histogram("qwenserve_sequence_first_token_seconds", SEQUENCES), **histogram("qwenserve_sequence_decode_seconds", SEQUENCES),
        **histogram("qwenserve_sequence_duration_seconds", SEQUENCES),
        **histogram("qwenserve_sequence_prompt_tokens", SEQUENCES), "qwenserve_sequence_prompt_tokens_sum": whole,
        **histogram("qwenserve_sequence_generated_tokens", SEQUENCES), "qwenserve_sequence_generated_tokens_sum": TOKENS})
    assert generator.metric("qwenserve_prompt_tokens_total") + generator.metric("qwenserve_cached_prompt_tokens_total") == whole
    assert generator.metric("qwenserve_prefix_cache_hit_tokens_total") == generator.metric("qwenserve_cached_prompt_tokens_total")
    assert 0 < generator.metric("qwenserve_prefix_cache_queried_tokens_total") <= whole
    assert generator.metric("qwenserve_engine_steps_total") >= STREAM_TOKENS
    assert generator.metric("qwenserve_step_duration_seconds_sum") >= 0.9 * STEP * generator.metric("qwenserve_step_duration_seconds_count")


def test_tokenizer(traffic):
    cluster, prompts = traffic
    (tokenizer,) = cluster.tokenizers
    prepared = "qwenserve_tokenizer_prepare_requests_total"
    check(tokenizer, {
        (prepared, "code", "OK"): CALLS, "qwenserve_tokenizer_prompt_tokens_total": sum(prompts),
        "qwenserve_tokenizer_detokenize_streams": 1, "qwenserve_tokenizer_detokenize_item_errors_total": 0,
        "qwenserve_tokenizer_prepare_duration_seconds_count": tokenizer.metric(prepared)})
    assert tokenizer.metric("qwenserve_tokenizer_detokenize_steps_total") > 0


def test_every_process_tells_of_itself(traffic):
    cluster, _ = traffic
    for process in (cluster.gateway, *cluster.tokenizers, *cluster.generators):
        assert 0 <= time.time() - process.metric("process_start_time_seconds") < 3600
        cpu = process.metric("process_cpu_seconds_total")
        assert 0 < cpu <= process.metric("process_cpu_seconds_total") < 3600
        assert process.metric("qwenserve_ready") == 1


def test_a_full_kv_cache_puts_sequences_back(sim_cluster, api, tmp_path):
    """Eight answers of 25 blocks in a cache of 64; and others, which need what they have left there."""
    cluster = sim_cluster(model=make_sim_model(tmp_path / "sim", context=1024), generator_flags=("--sim-step-ms", 0, "--sim-kv-blocks", 64))
    options = api.GenerationOptions(max_tokens=400, ignore_eos=True, n=8)
    with cluster.channel() as channel:
        for number in range(2):
            api.InferenceStub(channel).Complete(api.CompleteRequest(text=f"{number} x", options=options), timeout=120)
    cluster.wait_idle()
    (generator,) = cluster.generators
    assert generator.metric("qwenserve_preemptions_total") > 0
    assert generator.metric("qwenserve_prefix_cache_evictions_total") > 0
    check(generator, {"qwenserve_kv_blocks": 64, "qwenserve_kv_blocks_used": 0, "qwenserve_kv_cache_usage_ratio": 0,
                      "qwenserve_generated_tokens_total": 2 * 8 * 400})


def test_clients_that_speak_no_http_or_no_tls(sim_cluster, tmp_path):
    cert, key = Authority(tmp_path, "authority").issue("gateway", "DNS:localhost")
    cluster = sim_cluster()
    secret = cluster.start_gateway(flags=("--tls-cert", cert, "--tls-key", key))
    for gateway, expected in ((cluster.gateway, "malformed_requests"), (secret, "tls_handshakes_failed")):
        host, port = gateway.addresses["http"].rsplit(":", 1)
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(b"this is no HTTP\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    while connection.recv(4096):
                        pass
        gateway.await_metric(lambda count: count == 3, f"qwenserve_http_{expected}_total")
        check(gateway, {f"qwenserve_http_{name}_total": 3 if name == expected else 0
                        for name in ("malformed_requests", "tls_handshakes_failed", "timeouts", "requests")})


def test_workers_that_go_in_order_are_no_loss(sim_cluster):
    """An update must wake nobody; what vanishes counts."""
    cluster = sim_cluster(generators=3, tokenizers=3)
    gateway = cluster.gateway
    ready, lost = "qwenserve_gateway_workers_ready", "qwenserve_gateway_workers_lost_total"
    kinds = {"generator": cluster.generators, "tokenizer": cluster.tokenizers}
    for role, processes in kinds.items():
        gateway.await_metric(lambda count: count == 3, ready, role=role)
        for process in processes[:2]:
            assert process.terminate() == 0
        gateway.await_metric(lambda count: count == 1, ready, role=role)
    for role, processes in kinds.items():
        processes[2].kill()
        gateway.await_metric(lambda count: count == 0, ready, role=role)
        # Had one of the others counted, it would be there by now.
        gateway.await_metric(lambda count: count >= 1, lost, role=role)
        assert gateway.metric(lost, role=role) == 1
