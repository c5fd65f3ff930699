"""TLS and mTLS between all processes, with certificates that are replaced while they run."""

import json
import os
import socket
import ssl
import subprocess
import time

import grpc
import openai
import pytest

from authority import Authority
from security import all_methods, call_raw
from server_process import BIN, ServerProcess


class Mounted:
    """Certificate, key and authority in a folder whose content is swapped in one step."""

    def __init__(self, folder):
        self.folder, self.versions = folder, 0
        folder.mkdir()

    def swap(self, pair, ca):
        self.versions += 1
        version = self.folder / f"v{self.versions}"
        version.mkdir()
        for name, source in (("cert", pair[0]), ("key", pair[1]), ("ca", ca)):
            (version / name).write_bytes(source if isinstance(source, bytes) else source.read_bytes())
        os.symlink(version.name, self.folder / "new")
        os.rename(self.folder / "new", self.folder / "..data")
        for name in ("cert", "key", "ca"):
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        return self

    def flags(self, prefix="tls", ca="tls-client-ca"):
        return (f"--{prefix}-cert", self.folder / "cert", f"--{prefix}-key", self.folder / "key",
                f"--{ca}", self.folder / "ca")


def client(address, ca, pair=None, target="gateway.test"):
    credentials = grpc.ssl_channel_credentials(
        ca.cert.read_bytes(), *((pair[1].read_bytes(), pair[0].read_bytes()) if pair else ()))
    return grpc.secure_channel(address, credentials, (("grpc.ssl_target_name_override", target),
                                                      ("grpc.use_local_subchannel_pool", 1)))


def models(channel, api, timeout=10):
    with channel:
        return api.InferenceStub(channel).ListModels(api.ListModelsRequest(), timeout=timeout).models


def fails(channel, api):
    with pytest.raises(grpc.RpcError) as error:
        models(channel, api, timeout=5)
    assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def eventually(condition, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path / "ca", "ours")


def test_all_links_are_encrypted_and_both_ends_known(sim_cluster, ca, tmp_path, api):
    worker = Mounted(tmp_path / "worker").swap(ca.issue("worker", "DNS:worker.test"), ca.cert)
    gateway = Mounted(tmp_path / "gateway").swap(
        ca.issue("gateway", "DNS:gateway.test,URI:spiffe://cluster/gateway"), ca.cert)
    worker_flags = (*worker.flags(), "--tls-client-names", "spiffe://cluster/gateway")
    links = gateway.flags("worker-tls", "worker-tls-ca")
    cluster = sim_cluster(
        generator_flags=worker_flags, tokenizer_flags=("--chat-template", "qwen3", *worker_flags),
        gateway_flags=(*gateway.flags(), *links, "--worker-tls-names", "worker.test"))
    own = ca.issue("client", "DNS:client.test")
    address = cluster.gateway.address
    with client(address, ca, own) as channel:
        stub = api.InferenceStub(channel)
        answer = stub.Complete(api.CompleteRequest(text="x", options=api.GenerationOptions(max_tokens=3, ignore_eos=True)))
        assert len(answer.choices[0].token_ids) == 3
    # Plaintext, no certificate, one of another authority: no entry, at the gateway and at workers.
    stranger = Authority(tmp_path / "other", "other")
    for process, name in ((cluster.gateway, "gateway.test"), (cluster.generators[0], "worker.test"),
                          (cluster.tokenizers[0], "worker.test")):
        fails(grpc.insecure_channel(process.address), api)
        fails(client(process.address, ca, target=name), api)
        fails(client(process.address, ca, stranger.issue("client", "DNS:client.test,URI:spiffe://cluster/gateway"),
                     target=name), api)
    # A worker takes the gateway's name only; a client's certificate is not enough.
    fails(client(cluster.generators[0].address, ca, own, target="worker.test"), api)
    # A gateway takes its workers' names only, and never plaintext instead.
    for flags in (("--worker-tls-names", "other.test"), ()):
        other = cluster.start_gateway(flags=(*(links if flags else ()), *flags), ready=False)
        time.sleep(2)
        assert other.http("/readyz")[0] == 503
        other.kill()


def test_certificates_are_replaced_and_bad_ones_are_not(sim_cluster, ca, tmp_path, api):
    good = ca.issue("first", "DNS:gateway.test")
    mounted = Mounted(tmp_path / "gateway").swap(good, ca.cert)
    cluster = sim_cluster(gateway_flags=mounted.flags())
    gateway, own = cluster.gateway, ca.issue("client", "DNS:client.test")

    def reloads(result):
        return gateway.metric("qwenserve_file_reloads_total", file="tls", result=result)

    def serves(authority, pair=None):
        try:
            return len(models(client(gateway.address, authority, pair or own), api, timeout=20)) == 1
        except grpc.RpcError:
            return False

    assert serves(ca)
    end = gateway.metric("qwenserve_tls_cert_not_after_seconds", file="tls")
    assert 9 * 86400 < end - time.time() < 11 * 86400
    expired, other = ca.issue("expired", "DNS:gateway.test", days=-1), ca.issue("other", "DNS:gateway.test")
    bad = [(b"garbage", b"garbage"), (good[0], other[1]), (good[0], b""), expired,
           (good[0].read_bytes()[:200], good[1])]
    with client(gateway.address, ca, own) as before:
        stub = api.InferenceStub(before)
        stub.ListModels(api.ListModelsRequest())
        for pair in bad:
            failed = reloads("failed")
            mounted.swap(pair, ca.cert)
            eventually(lambda: reloads("failed") > failed)
            time.sleep(1.2)  # gRPC looks once a second
            assert serves(ca), pair
        failed = reloads("failed")
        mounted.swap(good, b"no authority")
        eventually(lambda: reloads("failed") > failed)
        assert serves(ca)

        # A longer one, and then another authority by way of both: no handshake fails on the way.
        mounted.swap(ca.issue("second", "DNS:gateway.test", days=20), ca.cert)
        eventually(lambda: gateway.metric("qwenserve_tls_cert_not_after_seconds", file="tls") > end + 86400)
        new = Authority(tmp_path / "new", "new")
        new_client = new.issue("client", "DNS:client.test")
        bundle = ca.cert.read_bytes() + new.cert.read_bytes()
        mounted.swap(ca.issue("third", "DNS:gateway.test"), bundle)
        eventually(lambda: serves(ca, new_client))
        for _ in range(10):
            assert serves(ca) and serves(ca, new_client)
        mounted.swap(new.issue("fourth", "DNS:gateway.test"), new.cert)
        eventually(lambda: serves(new, new_client))
        assert not serves(ca)
        # The connection from before is still there.
        stub.ListModels(api.ListModelsRequest())


def test_a_server_does_not_start_with_what_is_bad(ca, tmp_path):
    pair, other = ca.issue("a", "DNS:a"), ca.issue("b", "DNS:b")
    workers = ("--tokenizers", "127.0.0.1:1", "--generators", "127.0.0.1:1")
    for flags in (("--tls-cert", pair[0]), ("--tls-key", pair[1]), ("--tls-client-ca", ca.cert),
                  ("--tls-client-names", "a"), ("--tls-cert", pair[0], "--tls-key", other[1]),
                  ("--tls-cert", "/nowhere", "--tls-key", pair[1]),
                  ("--worker-tls-cert", pair[0], "--worker-tls-key", pair[1]), ("--worker-tls-names", "a"),
                  ("--worker-tls-ca", pair[1])):
        with pytest.raises(RuntimeError, match="ended with status 1"):
            ServerProcess("gateway", *workers, *flags)


def tls_context(authority, pair=None, protocols=("http/1.1",)):
    context = ssl.create_default_context(cafile=authority.cert)
    if pair:
        context.load_cert_chain(pair[0], pair[1])
    context.set_alpn_protocols(list(protocols))
    return context


def openai_over(gateway, context):
    return openai.OpenAI(base_url=f"https://{gateway.addresses['http']}/v1", api_key="none", max_retries=0,
                         timeout=30, http_client=openai.DefaultHttpxClient(verify=context))


def get(gateway, context, patience=60):
    """The head of the answer to one request over a connection of its own, and the certificate seen."""
    host, port = gateway.addresses["http"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), patience) as plain:
        with context.wrap_socket(plain, server_hostname=host) as connection:
            assert connection.selected_alpn_protocol() in ("http/1.1", None)
            certificate = connection.getpeercert()
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
            return answer, certificate


def refused(gateway, context):
    # A client of TLS 1.3 hears of a missing certificate only when it reads.
    try:
        return get(gateway, context)[0] == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_openai_clients_over_https_while_certificates_are_replaced(sim_cluster, ca, tmp_path):
    good = ca.issue("first", "IP:127.0.0.1")
    mounted = Mounted(tmp_path / "gateway").swap(good, ca.cert)
    cluster = sim_cluster(
        gateway_flags=("--tls-cert", mounted.folder / "cert", "--tls-key", mounted.folder / "key",
                       "--http-listen", "0.0.0.0:0"),
        generator_flags=("--sim-step-ms", 1))
    gateway = cluster.gateway
    gateway.addresses["http"] = gateway.addresses["http"].replace("0.0.0.0", "127.0.0.1")
    context = tls_context(ca)

    def serial():
        answer, certificate = get(gateway, context)
        assert answer.startswith(b"HTTP/1.1 200 ")
        return certificate["serialNumber"]

    first = serial()
    with openai_over(gateway, context) as kept:
        assert [model.id for model in kept.models.list()] == ["sim"]
        # Longer than a record in one direction, many small ones in the other.
        text = "word " * 40_000
        tokens = kept.post("/../tokenize", cast_to=object, body={"prompt": text})
        assert tokens["count"] > 1000
        back = kept.post("/../detokenize", cast_to=object, body={"tokens": tokens["tokens"]})
        assert back["prompt"] == text
        stream = kept.completions.create(model="sim", prompt="x", max_tokens=200, stream=True,
                                         extra_body={"ignore_eos": True}, stream_options={"include_usage": True})
        assert list(stream)[-1].usage.completion_tokens == 200
        failed = gateway.metric("qwenserve_file_reloads_total", file="tls", result="failed")
        mounted.swap((b"garbage", b"garbage"), ca.cert)
        eventually(lambda: gateway.metric("qwenserve_file_reloads_total", file="tls", result="failed") > failed)
        assert serial() == first
        mounted.swap(ca.issue("second", "IP:127.0.0.1"), ca.cert)
        eventually(lambda: serial() != first)
        kept.models.list()  # over the connection from before

    # Neither without TLS nor with another protocol on it.
    host, port = gateway.addresses["http"].rsplit(":", 1)
    before = gateway.metric("qwenserve_http_tls_handshakes_failed_total")
    with socket.create_connection((host, int(port)), 30) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert b"HTTP" not in plain.recv(4096)
        except ConnectionError:
            pass
    assert refused(gateway, tls_context(ca, protocols=("h2",)))
    gateway.await_metric(lambda count: count >= before + 2, "qwenserve_http_tls_handshakes_failed_total")
    # Who connects and says nothing, or half a greeting, is let go, and holds up nobody.
    with socket.create_connection((host, int(port)), 30) as silent, socket.create_connection((host, int(port)), 30) as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert serial() != first
        assert silent.recv(1) == b"" and half.recv(1) == b""
    eventually(lambda: gateway.metric("qwenserve_http_connections") == 0)


def test_http_clients_need_certificates_and_names(sim_cluster, ca, tmp_path):
    mounted = Mounted(tmp_path / "gateway").swap(ca.issue("gateway", "IP:127.0.0.1"), ca.cert)
    gateway = sim_cluster(gateway_flags=(*mounted.flags(), "--tls-client-names", "spiffe://team/app")).gateway
    named, other = ca.issue("named", "URI:spiffe://team/app"), ca.issue("other", "DNS:app.test")
    stranger = Authority(tmp_path / "other", "other").issue("stranger", "URI:spiffe://team/app")
    assert get(gateway, tls_context(ca, named))[0].startswith(b"HTTP/1.1 200 ")
    for pair in (None, other, stranger):
        assert refused(gateway, tls_context(ca, pair)), pair


def test_an_operator_comes_from_anywhere_by_certificate(sim_cluster, ca, tmp_path, api):
    mounted = Mounted(tmp_path / "gateway").swap(ca.issue("gateway", "DNS:gateway.test"), ca.cert)
    cluster = sim_cluster()
    named = (*mounted.flags(), "--admin-client-names", "spiffe://cluster/operator")
    operator = ca.issue("operator", "DNS:op.test,URI:spiffe://cluster/operator")
    tenant = ca.issue("tenant", "DNS:tenant.test,URI:spiffe://cluster/tenant")
    methods = all_methods(tmp_path)["qwenserve.v1.Admin"]

    def codes(address, pair):
        with client(address, ca, pair) as channel:
            return {call_raw(channel, f"/qwenserve.v1.Admin/{method}") for method in methods if method != "Drain"}

    def qwenctl(command, pair, *arguments):
        return subprocess.run(
            [BIN / "qwenctl", command, "--address", address, "--tls-ca", ca.cert, "--tls-cert", pair[0], "--tls-key",
             pair[1], "--tls-server-name", "gateway.test", "--output", "json", *arguments],
            capture_output=True, text=True, timeout=60)

    for listen in ("0.0.0.0:0", "127.0.0.1:0"):
        gateway = cluster.start_gateway(flags=named, listen=listen)
        address = "127.0.0.1:" + gateway.address.rpartition(":")[2]
        assert codes(address, tenant) == {grpc.StatusCode.PERMISSION_DENIED}
        with client(address, ca, tenant) as channel:
            assert call_raw(channel, "/qwenserve.v1.Admin/Drain") == grpc.StatusCode.PERMISSION_DENIED
        assert len(models(client(address, ca, tenant), api)) == 1  # still serves, and who is no operator too
        top = qwenctl("top", operator, "--ops-address", "", "--once", "--interval", "0.1")
        assert top.returncode == 0 and json.loads(top.stdout)["state"] == "SERVING", top.stderr
        assert json.loads(qwenctl("requests", operator).stdout) == {"total": 0, "requests": []}
        refused = qwenctl("requests", tenant)
        assert refused.returncode != 0 and "--admin-client-names" in refused.stderr
        gateway.kill()

    # Without names there is no Admin service but on loopback, whatever the certificate.
    gateway = cluster.start_gateway(flags=mounted.flags(), listen="0.0.0.0:0")
    address = "127.0.0.1:" + gateway.address.rpartition(":")[2]
    assert codes(address, operator) == {grpc.StatusCode.UNIMPLEMENTED}


def test_names_of_operators_need_an_authority():
    result = subprocess.run([BIN / "qwenserve-gateway", "--tokenizers", "127.0.0.1:1", "--generators", "127.0.0.1:1",
                             "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--admin-client-names", "a.test"],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "--admin-client-names needs --tls-client-ca" in result.stderr
