"""Herds of connections and few descriptors, on both ports: nobody who is served notices, and afterwards
all is as before."""

import resource
import selectors
import socket
import time

import grpc
import pytest

PATIENCE = 60
CAP = 300
SCRIPT = [{"when": "long", "length": 400}]


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.05)


def complete(api, text="long", **options):
    return api.CompleteRequest(text=text, options=api.GenerationOptions(max_tokens=400, ignore_eos=True, **options,
                               sampling=api.SamplingParams(seed=1)))


def herd(address, count):
    """Opens `count` connections at once and waits until each is open or refused. Returns those opened."""
    host, port = address.rsplit(":", 1)
    selector, sockets = selectors.DefaultSelector(), []
    for _ in range(count):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((host, int(port)))
        selector.register(connection, selectors.EVENT_WRITE)
        sockets.append(connection)
    deadline = time.monotonic() + PATIENCE
    while selector.get_map():
        assert time.monotonic() < deadline, "connections are neither taken nor refused"
        for key, _ in selector.select(1):
            selector.unregister(key.fileobj)
    return sockets


def counts(gateway, port):
    prefix = "qwenserve_grpc" if port == "grpc" else "qwenserve_http"
    return lambda name, **labels: gateway.metric(f"{prefix}_connections{name}", **labels)


@pytest.mark.parametrize("port", ["grpc", "http"])
def test_a_herd_of_connections(api, sim_cluster, port):
    flag = "--max-connections" if port == "grpc" else "--http-max-connections"
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 5), gateway_flags=(flag, CAP), script=SCRIPT)
    gateway, connections = cluster.gateway, counts(cluster.gateway, port)
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        expected = list(stub.Complete(complete(api)).choices[0].token_ids)
        stream, ids = stub.StreamComplete(complete(api)), []
        ids += next(event.delta.token_ids for event in stream if event.delta.token_ids)
        before = connections("")
        sockets = herd(gateway.addresses[port], 5000)
        wait_until(lambda: connections("_accepted_total") + connections("_refused_total") >= 5000, "all were looked at")
        assert connections("") <= CAP
        assert connections("_refused_total", cause="limit") > 0
        for event in stream:
            ids += event.delta.token_ids
        assert ids == expected
        for connection in sockets:
            connection.close()
        wait_until(lambda: connections("") <= before, "the live count returns")
    # A new client is served.
    with cluster.channel(options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        assert list(api.InferenceStub(channel).Complete(complete(api)).choices[0].token_ids) == expected
    cluster.wait_idle()


def test_descriptors_of_grpc_run_out_and_come_back(api, sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 5), script=SCRIPT)
    gateway, connections = cluster.gateway, counts(cluster.gateway, "grpc")
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        expected = list(stub.Complete(complete(api)).choices[0].token_ids)
        stream, ids = stub.StreamComplete(complete(api)), []
        ids += next(event.delta.token_ids for event in stream if event.delta.token_ids)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (256, 256))
        sockets = herd(gateway.address, 1000)
        for event in stream:
            ids += event.delta.token_ids
        assert ids == expected
        for connection in sockets:
            connection.close()
    wait_until(lambda: connections("") <= 1, "the live count returns")
    assert connections("_refused_total", cause="descriptors") > 0
    with cluster.channel(options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        assert list(api.InferenceStub(channel).Complete(complete(api)).choices[0].token_ids) == expected
    cluster.wait_idle()


def test_strings_that_are_no_utf8_are_refused_quietly(api, sim_cluster, capfd):
    cluster = sim_cluster()
    with cluster.channel() as channel:
        call = channel.unary_unary("/qwenserve.v1.Inference/Complete", request_serializer=None,
                                   response_deserializer=None)
        request = complete(api, text="canary?").SerializeToString().replace(b"canary?", b"canary\xff")
        for _ in range(20):
            with pytest.raises(grpc.RpcError) as raised:
                call(request)
            # What gRPC makes of a message that cannot be read differs among its versions.
            assert raised.value.code() in (
                grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
            assert "canary" not in raised.value.details()
        assert len(api.InferenceStub(channel).Complete(complete(api)).choices) == 1
    # A hostile client must not fill the disk, nor write lines that are not in the log's form.
    logged = [line for line in capfd.readouterr().err.splitlines() if "simulated" not in line]
    assert logged == []
