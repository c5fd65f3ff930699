"""What the chart asks of others, done with real processes on loopback: the command of `helm test`, the
queries by which generators are scaled, certificates between gateway and workers, nodes that join."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import ALL_APIS, ROOT
from loopback import free_ports
from rendered import find, of_kind, pod, pods

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from security import key_line, write_keys  # noqa: E402
from server_process import DEMO_MODEL, ServerProcess  # noqa: E402

BIN = pathlib.Path(os.environ["QWENSERVE_BIN"])


@pytest.fixture
def cluster(request, tmp_path):
    """A gateway, a tokenizer and a generator of the demo, by name; with keys where a test asks for it."""
    started = {}
    with contextlib.ExitStack() as stack:
        def start(role, *flags):
            started[role] = ServerProcess(role, *flags)
            stack.callback(started[role].kill)
        for role in ("tokenizer", "generator"):
            start(role, "--model", DEMO_MODEL, "--served-model-name", "demo")
        keys = []
        if getattr(request, "param", None) == "keys":
            keys = ["--api-keys", write_keys(tmp_path / "keys", key_line("right", "tenant"))]
        start("gateway", "--tokenizers", started["tokenizer"].address, "--generators", started["generator"].address,
              *keys)
        for process in started.values():
            process.wait_ready()
        yield started


def run_hook(helm, gateway, values=None, **environment):
    [test] = of_kind(helm.render(values=values), "Pod")
    [container] = test["spec"]["containers"]
    program, *arguments = container["command"]
    assert program == "/usr/bin/qwenctl"  # where docker/collect_root puts it
    address = "--address=qwenserve-gateway:50051"
    assert address in arguments
    arguments = [f"--address={gateway.address}" if a == address else a for a in arguments]
    environment |= {k: v for k, v in os.environ.items() if not k.startswith("QWENSERVE_")}
    return subprocess.run([BIN / "qwenctl", *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_the_hook_chats(helm, cluster):
    done = run_hook(helm, cluster["gateway"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_hook_fails_without_an_answer(helm, cluster):
    cluster["generator"].kill()
    assert run_hook(helm, cluster["gateway"]).returncode != 0


@pytest.mark.parametrize("cluster", ["keys"], indirect=True)
def test_the_hook_with_keys(helm, cluster):
    values = {"gateway.apiKeys.secretName": "keys", "tests.apiKey.secretName": "mine"}
    done = run_hook(helm, cluster["gateway"], values, QWENSERVE_API_KEY="right")
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_hook(helm, cluster["gateway"], values, QWENSERVE_API_KEY="wrong").returncode != 0
    assert run_hook(helm, cluster["gateway"]).returncode != 0


def test_the_series_of_autoscaling_exist(helm, cluster):
    assert run_hook(helm, cluster["gateway"]).returncode == 0  # a model's series begin with its first request
    documents = helm.render(values={"generator.autoscaling.enabled": True, "prometheusAddress": "http://p"},
                            apis=ALL_APIS)
    scaler = find(documents, "ScaledObject", "qwenserve-generator-demo")
    queries = " ".join(t["metadata"]["query"] for t in scaler["spec"]["triggers"])
    names = re.findall(r"(qwenserve_\w+)\{namespace=\"inference\",model=\"demo\"\}", queries)
    assert len(names) == 3
    for name in names:
        role = "gateway" if "gateway" in name else "generator"
        assert cluster[role].metric(name, model="demo") >= 0


def rendered_flags(this, **replaced):
    """The arguments of a pod, but for those that ServerProcess gives itself, with texts in them replaced."""
    left_out = {"listen", "ops-listen", "http-listen", "drain-delay", "drain-timeout", "log-level", "admin-listen",
                "tokenizers", "generators"}
    result = []
    for name, value in this.flags.items():
        if name not in left_out:
            for old, new in replaced.items():
                value = value.replace(PLACES[old], str(new))
            assert "$(" not in value
            result += [f"--{name}", value.replace("/opt/qwenserve/models/demo", str(DEMO_MODEL))]
    return result


PLACES = {"tls": "/etc/qwenserve/tls", "worker_tls": "/etc/qwenserve/worker-tls", "pod_ip": "$(POD_IP)",
          "leader": "$(LWS_LEADER_ADDRESS)", "index": "$(LWS_WORKER_INDEX)", "port": ":50081"}
OPENSSL_USAGES = {"digital signature": "digitalSignature", "server auth": "serverAuth", "client auth": "clientAuth"}


def issue(certificate, folder):
    """What cert-manager's own authority makes of a Certificate: tls.crt, tls.key and ca.crt in `folder`/NAME."""
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    ca = folder / "ca"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    if not ca.exists():
        ca.mkdir()
        openssl("req", "-x509", *curve, "-keyout", ca / "tls.key", "-out", ca / "tls.crt", "-subj", "/CN=ca", "-days", 2)
    spec, out = certificate["spec"], folder / certificate["spec"]["secretName"]
    out.mkdir()
    usages = [OPENSSL_USAGES[u] for u in spec["usages"]]
    (out / "extensions").write_text(
        "subjectAltName=" + ",".join(f"DNS:{n}" for n in spec["dnsNames"])
        + "\nkeyUsage=" + ",".join(u for u in usages if not u.endswith("Auth"))
        + "\nextendedKeyUsage=" + ",".join(u for u in usages if u.endswith("Auth")) + "\n")
    openssl("req", *curve, "-keyout", out / "tls.key", "-out", out / "request", "-subj", "/")
    openssl("x509", "-req", "-in", out / "request", "-CA", ca / "tls.crt", "-CAkey", ca / "tls.key", "-CAcreateserial",
            "-extfile", out / "extensions", "-days", 2, "-out", out / "tls.crt")
    (out / "ca.crt").write_bytes((ca / "tls.crt").read_bytes())


def checked(address, folder, ca=None):
    """The status of a health check by a client with the certificate in `folder`; None: it was answered."""
    parts = [(folder / name).read_bytes() for name in ("tls.key", "tls.crt")] if folder else [None, None]
    credentials = grpc.ssl_channel_credentials((ca or folder / "ca.crt").read_bytes(), *parts)
    with grpc.secure_channel(address, credentials,
                             [("grpc.ssl_target_name_override", "qwenserve-worker.inference.svc")]) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        except grpc.RpcError as error:
            return error.code()
    return None


def test_certificates_of_the_chart_are_taken_by_both_sides(helm, tmp_path):
    documents = helm.render(values={"tls.internal.enabled": True, "tls.internal.certManager.issuer.name": "ca"},
                            apis=ALL_APIS)
    for certificate in of_kind(documents, "Certificate"):
        issue(certificate, tmp_path)
    with contextlib.ExitStack() as stack:
        def start(component, path, volume, *flags):
            this = pod(documents, component)
            folder = tmp_path / this.mounted(path)["secret"]["secretName"]
            process = ServerProcess(component, *rendered_flags(this, **{volume: folder}), *flags)
            stack.callback(process.kill)
            return process
        workers = [start(c, "/etc/qwenserve/tls", "tls") for c in ("tokenizer", "generator")]
        gateway = start("gateway", "/etc/qwenserve/worker-tls", "worker_tls",
                        "--tokenizers", workers[0].address, "--generators", workers[1].address)
        for process in (*workers, gateway):
            process.wait_ready()
        assert run_hook(helm, gateway).returncode == 0
        # The workers' own certificate is no pass: with it one worker could drive another.
        assert checked(workers[1].address, tmp_path / "qwenserve-gateway-internal-tls") is None
        for name in ("qwenserve-worker-internal-tls", None):
            refusal = checked(workers[1].address, tmp_path / name if name else None, ca=tmp_path / "ca" / "tls.crt")
            assert refusal == grpc.StatusCode.UNAVAILABLE


def test_nodes_of_the_chart_join_their_leader(helm):
    """The leader listens at its address, and the others know it by a name."""
    documents = helm.render(values={"generator.tensorParallel": 2, "generator.nodes": 2}, apis=ALL_APIS)
    [port] = free_ports(1)
    found = {}
    with contextlib.ExitStack() as stack:
        def start(this, index):
            flags = rendered_flags(this, pod_ip="127.0.0.1", leader="localhost", index=index, port=f":{port}")
            found[this.node] = process = ServerProcess("generator", *flags)
            stack.callback(process.kill)
        # Neither opens its ports before both are there.
        threads = [threading.Thread(target=start, args=(this, index))
                   for index, this in enumerate(pods(documents, "generator"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) == {"leader", "worker"}
        tokenizer = ServerProcess("tokenizer", *rendered_flags(pod(documents, "tokenizer")))
        stack.callback(tokenizer.kill)
        gateway = ServerProcess("gateway", "--tokenizers", tokenizer.address, "--generators", found["leader"].address)
        stack.callback(gateway.kill)
        for process in (tokenizer, *found.values(), gateway):
            process.wait_ready()
            # What the probes of both kinds of pods ask.
            assert process.http("/readyz")[0] == process.http("/livez")[0] == 200
        assert run_hook(helm, gateway).returncode == 0
