"""What workers hear of a client's trace, and connections that are full of calls."""

import time

import grpc

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def eventually(condition, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_hear_of_the_trace(sim_cluster, api, tmp_path):
    path = tmp_path / "log"
    with open(path, "w", encoding="utf-8") as log:
        cluster = sim_cluster(log=log)
        for process in (*cluster.generators, *cluster.tokenizers):
            with grpc.insecure_channel(process.address) as channel:
                channel.unary_unary("/qwenserve.v1.Admin/SetLogLevel",
                                    request_serializer=lambda message: message,
                                    response_deserializer=lambda message: message)(b"\n\x05debug", timeout=20)
        with cluster.channel() as channel:
            stub = api.InferenceStub(channel)
            stub.Complete(api.CompleteRequest(text="x", options=api.GenerationOptions(max_tokens=2)),
                          metadata=(("traceparent", TRACE),), timeout=60)
            stub.Tokenize(api.TokenizeRequest(text="x"), metadata=(("traceparent", "00-no-trace-01"),), timeout=60)
        eventually(lambda: path.read_text().count(", trace ") >= 3)
    lines = [line for line in path.read_text().splitlines() if ", trace " in line]
    trace_id = TRACE.split("-")[1]
    assert sum("[generator]" in line and trace_id in line for line in lines) == 1
    assert sum("[tokenizer]" in line and trace_id in line for line in lines) == 1
    assert not any("no-trace" in line for line in lines)


def test_a_connection_at_its_limit_of_calls_is_counted(sim_cluster, api):
    gateway = sim_cluster(gateway_flags=("--max-concurrent-streams", 3), generator_flags=("--sim-step-ms", 20)).gateway

    def at_limit():
        return gateway.metric("qwenserve_gateway_peers_at_stream_limit_total")

    request = api.CompleteRequest(text="x", options=api.GenerationOptions(max_tokens=500, ignore_eos=True))
    local = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(gateway.address, local) as full, grpc.insecure_channel(gateway.address, local) as other:
        streams = [api.InferenceStub(channel).StreamComplete(request, timeout=60) for channel in (full, full, other, other)]
        for stream in streams:
            next(stream)
        assert at_limit() == 0
        streams.append(api.InferenceStub(full).StreamComplete(request, timeout=60))
        next(streams[-1])
        assert at_limit() == 1
        # One that waits in its client is not there yet; it takes the place of one that ends.
        waiting = api.InferenceStub(full).StreamComplete(request, timeout=60)
        streams[0].cancel()
        next(waiting)
        assert at_limit() == 2
        for stream in (*streams, waiting):
            stream.cancel()
    eventually(lambda: gateway.metric("qwenserve_gateway_requests_in_flight") == 0)
