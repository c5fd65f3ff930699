"""The haproxy before the gateways: its configuration, as the chart renders it, in a real haproxy with
real gateways, each on a loopback address of its own as pods have theirs."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest

from conftest import ALL_APIS, ROOT
from loopback import free_ports
from rendered import all_pods, find, of_kind, selects

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from dns_server import DnsServer  # noqa: E402
from proto_api import load_api  # noqa: E402
from server_process import DEMO_MODEL, ServerProcess  # noqa: E402

BIN = pathlib.Path(os.environ["QWENSERVE_BIN"])
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
PATIENCE = 120
NAME = "qwenserve-gateway-pods.inference.svc.cluster.local"
FRONT, GATEWAYS = "127.0.0.1", ("127.0.0.2", "127.0.0.3")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here")


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


class Front:
    """haproxy, two gateways and what they need. A gateway is in the name server's answer while ready."""

    def __init__(self, helm, folder, stack, tls=None):
        self.stack, self.folder, self.tls = stack, folder, tls
        self.grpc, self.http, self.ops = free_ports(3)
        self.dns = DnsServer()
        # Each connection takes two descriptors, and haproxy refuses to start without.
        values = {"front.enabled": True, "front.maxConnections": 1000, "gateway.maxRequestSeconds": 60,
                  "front.drain": {"delaySeconds": 3, "timeoutSeconds": 60}}
        if tls:
            values["front.tlsSecret"] = "tls"
        documents = helm.render(values=values)
        [config] = of_kind(documents, "ConfigMap")
        text = config["data"]["haproxy.cfg"]
        replaced = {":50051": f":{self.grpc}", ":8080": f":{self.http}", ":9090": f":{self.ops}",
                    "port 9090": f"port {self.ops}", "parse-resolv-conf": f"nameserver test {self.dns.address}"}
        if tls:
            replaced["/etc/qwenserve/tls"] = str(tls)
        for old, new in replaced.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "haproxy.cfg").write_text(text)
        [self.deployment] = [d for d in of_kind(documents, "Deployment") if d["metadata"]["name"] == "qwenserve-front"]
        self.workers = [self.server(role) for role in ("tokenizer", "generator")]
        self.gateways = {}

    def server(self, role):
        process = ServerProcess(role, "--model", DEMO_MODEL, "--served-model-name", "demo")
        self.stack.callback(process.kill)
        return process.wait_ready()

    def start_gateway(self, address):
        tokenizer, generator = [w.address for w in self.workers]
        self.gateways[address] = self.child(
            "gateway", BIN / "qwenserve-gateway", f"--listen={address}:{self.grpc}", f"--ops-listen={address}:{self.ops}",
            f"--http-listen={address}:{self.http}", f"--tokenizers={tokenizer}", f"--generators={generator}",
            "--drain-delay=10", "--log-level=warn")
        wait_for(lambda: self.status(address, "/readyz") == 200, f"gateway {address}")
        self.publish()

    def publish(self):
        self.dns.answers[NAME] = [a for a in self.gateways if self.status(a, "/readyz") == 200]

    def start(self):
        container = self.deployment["spec"]["template"]["spec"]["containers"][0]
        command = [HAPROXY if a == "haproxy" else a for a in container["command"]]
        command[command.index("/etc/qwenserve/front/haproxy.cfg")] = self.folder / "haproxy.cfg"
        self.proxy = self.child("haproxy", *command, POD_IP=FRONT)
        wait_for(lambda: self.proxy.poll() is not None or self.status(FRONT, "/livez") == 200, "haproxy")
        assert self.proxy.poll() is None, (self.folder / "haproxy.log").read_text()

    def child(self, name, *command, **environment):
        log = self.stack.enter_context(open(self.folder / f"{name}.log", "ab"))
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def status(self, address, path):
        try:
            with urllib.request.urlopen(f"http://{address}:{self.ops}{path}", timeout=10) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def metrics(self, address):
        with urllib.request.urlopen(f"http://{address}:{self.ops}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def completed(self, address):
        lines = self.metrics(address).splitlines()
        return sum(float(line.split()[-1]) for line in lines
                   if line.startswith("qwenserve_gateway_requests_total{") and 'method="complete"' in line.lower())

    def channel(self):
        address = f"{FRONT}:{self.grpc}"
        if not self.tls:
            return grpc.insecure_channel(address)
        credentials = grpc.ssl_channel_credentials((self.tls / "tls.crt").read_bytes())
        return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "front.example")])


@pytest.fixture(scope="session")
def api(tmp_path_factory):
    return load_api(tmp_path_factory.mktemp("proto"))


@pytest.fixture
def make_front(helm, tmp_path):
    with contextlib.ExitStack() as stack:
        def make(**options):
            front = Front(helm, tmp_path, stack, **options)
            for address in GATEWAYS:
                front.start_gateway(address)
            front.start()
            wait_for(lambda: front.status(FRONT, "/readyz") == 200, "a gateway at haproxy")
            return front
        yield make


def request(api, max_tokens=4):
    return api.CompleteRequest(text="the", options=api.GenerationOptions(max_tokens=max_tokens, ignore_eos=True))


def complete(api, channel, **options):
    return api.InferenceStub(channel).Complete(request(api, **options), timeout=PATIENCE, wait_for_ready=True)


def both_known(front):
    """haproxy has found both gateways ready."""
    return 'haproxy_backend_agg_check_status{proxy="grpc",state="L7OK"} 2' in front.metrics(FRONT)


def test_calls_of_one_connection_are_spread(make_front, api):
    front = make_front()
    wait_for(lambda: both_known(front), "both gateways at haproxy")
    with front.channel() as channel:
        for _ in range(10):
            assert complete(api, channel).choices[0].token_ids
    counts = [front.completed(address) for address in GATEWAYS]
    assert sum(counts) == 10 and min(counts) > 0


def test_streams_have_trailers_and_statuses(make_front, api):
    front = make_front()
    with front.channel() as channel:
        stub = api.InferenceStub(channel)
        events = list(stub.StreamComplete(request(api, 20), timeout=PATIENCE, wait_for_ready=True))
        assert sum(len(e.delta.token_ids) for e in events) == 20
        with pytest.raises(grpc.RpcError) as refused:
            stub.Complete(api.CompleteRequest(model="nobody's", text="x"), timeout=PATIENCE)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert any(key == "grpc-status-details-bin" for key, _ in refused.value.trailing_metadata())


def test_each_call_has_a_connection_of_its_own(make_front, api):
    """A kept one leads to the gateway that it was made for, whoever has that place in the list by now, and a call that
    meets the end of its drain is cancelled."""
    front = make_front()
    wait_for(lambda: both_known(front), "both gateways at haproxy")

    def connections():
        return sum(float(line.split()[-1]) for address in GATEWAYS for line in front.metrics(address).splitlines()
                   if line.startswith("qwenserve_grpc_connections_accepted_total"))
    before = connections()
    with front.channel() as channel:
        for _ in range(5):
            complete(api, channel)
    assert connections() - before == 5


def test_gateways_are_replaced_under_load(make_front, api):
    """What a rolling update does: a new gateway, then SIGTERM for an old one, one after the other."""
    front = make_front()
    wait_for(lambda: both_known(front), "both gateways at haproxy")
    stop, errors, done = threading.Event(), [], []

    def client():
        with front.channel() as channel:
            while not stop.is_set():
                try:
                    done.append(complete(api, channel))
                except grpc.RpcError as error:
                    errors.append(error)
    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        front.start_gateway("127.0.0.4")
        for address in GATEWAYS:
            process = front.gateways[address]
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: front.status(address, "/readyz") != 200, f"{address} to drain")
            front.publish()
            assert process.wait(PATIENCE) == 0
        before = len(done)
        wait_for(lambda: len(done) > before + 10, "calls at the new gateway")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors[0]
    assert front.completed("127.0.0.4") > 0


def test_a_stop_finishes_what_runs(make_front, api):
    front = make_front()
    with front.channel() as channel, front.channel() as late:
        stream = api.InferenceStub(channel).StreamComplete(request(api, 200), timeout=PATIENCE, wait_for_ready=True)
        first = next(stream)
        front.proxy.send_signal(signal.SIGUSR1)  # what the image names as its signal
        # Endpoints change late, so for a while there are new connections.
        assert complete(api, late).choices[0].token_ids
        events = [first, *stream]
        assert sum(len(e.delta.token_ids) for e in events) == 200
    assert front.proxy.wait(PATIENCE) == 0


def test_without_gateways_it_is_not_ready(make_front):
    front = make_front()
    assert front.status(FRONT, "/elsewhere") == 404
    for process in front.gateways.values():
        process.kill()
    wait_for(lambda: front.status(FRONT, "/readyz") == 503, "haproxy to see that nobody is there")
    assert front.status(FRONT, "/livez") == 200


def test_tls_ends_there(make_front, api, tmp_path):
    tls = tmp_path / "tls"
    tls.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", tls / "tls.key", "-out", tls / "tls.crt", "-subj", "/CN=front.example", "-addext",
                    "subjectAltName=DNS:front.example", "-days", "2"], check=True, capture_output=True)
    front = make_front(tls=tls)
    with front.channel() as channel:
        assert complete(api, channel).choices[0].token_ids
    trust = ssl.create_default_context(cafile=tls / "tls.crt")
    trust.check_hostname = False
    with urllib.request.urlopen(f"https://{FRONT}:{front.http}/v1/models", context=trust, timeout=PATIENCE) as reply:
        assert b'"demo"' in reply.read()
    with front.channel() as _, grpc.insecure_channel(f"{FRONT}:{front.grpc}") as plain:
        with pytest.raises(grpc.RpcError):
            api.InferenceStub(plain).Complete(request(api), timeout=5)


def test_manifests(helm):
    documents = helm.render("front")
    [this] = [p for p in all_pods(documents) if p.component == "front"]
    assert this.ports == {"grpc": 50051, "http": 8080, "ops": 9090}
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert this.container[probe]["httpGet"] == {"path": path, "port": "ops"}
    # The drain of the configuration, and time to stop after it.
    config = find(documents, "ConfigMap", "qwenserve-front")["data"]["haproxy.cfg"]
    [hard_stop] = re.findall(r"^ +hard-stop-after (\d+)s$", config, re.MULTILINE)
    assert this.spec["terminationGracePeriodSeconds"] == int(hard_stop) + 15
    # No mount inside another one: that one is read-only.
    paths = [pathlib.PurePosixPath(path) for path in this.mounts]
    assert not any(a in b.parents for a in paths for b in paths)
    assert this.mounted("/etc/qwenserve/front")["configMap"] == {"name": "qwenserve-front"}
    assert this.mounted("/etc/qwenserve/tls")["secret"] == {"secretName": "qwenserve-front-tls"}
    assert "/etc/qwenserve/front/haproxy.cfg" in this.container["command"]
    assert "crt /etc/qwenserve/tls/tls.crt" in config
    service = find(documents, "Service", "qwenserve-front")["spec"]
    assert selects(service["selector"], this.labels) and service["type"] == "LoadBalancer"
    assert [(p["port"], p["targetPort"], p["appProtocol"]) for p in service["ports"]] == [
        (50051, "grpc", "https"), (8080, "http", "https")]
    # The name that it resolves has the addresses of the gateways themselves.
    headless = find(documents, "Service", "qwenserve-gateway-pods")["spec"]
    assert headless["clusterIP"] == "None" and f"{NAME}:50051" in config


def test_routes_lead_to_it(helm):
    documents = helm.render("front", values={"routes": {"parentRefs": [{"name": "g"}], "http": {"enabled": True, "hostnames": ["h.example"]},
                                                        "grpc": {"enabled": True, "hostnames": ["g.example"]}}},
                            apis=ALL_APIS)
    for route in of_kind(documents, "GRPCRoute", "HTTPRoute"):
        assert [b["name"] for b in route["spec"]["rules"][0]["backendRefs"]] == ["qwenserve-front"]


def test_it_restarts_when_its_configuration_changes(helm):
    def annotation(**values):
        documents = helm.render(values={"front.enabled": True, **values})
        [this] = [d for d in of_kind(documents, "Deployment") if d["metadata"]["name"] == "qwenserve-front"]
        return this["spec"]["template"]["metadata"]["annotations"]["qwenserve/config"]
    assert annotation() == annotation(**{"front.replicas": 3}) != annotation(**{"front.maxConnections": 5})
