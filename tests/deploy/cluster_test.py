"""What the chart renders, run pod by pod as a kubelet runs it (kube_cluster.py): starts, losses and stops."""

import contextlib
import hashlib
import shutil
import signal
import subprocess

import grpc
import pytest

from conftest import ALL_APIS, OWN_MODEL, ROOT
from kube_cluster import BIN, Cluster
from kube_load import load_api
from kube_services import HAPROXY
from rendered import of_kind
from security import key_line, write_keys

DEMO = ROOT / "models" / "demo"
COMPONENTS = ("gateway", "tokenizer", "generator")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here")


@pytest.fixture
def make_cluster(tmp_path):
    with contextlib.ExitStack() as stack:
        def make(documents=None, **options):
            cluster = stack.enter_context(Cluster(tmp_path, **options))
            if documents:
                cluster.apply(documents)
            return cluster
        yield make


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    return load_api(tmp_path_factory.mktemp("proto"))


def chat(helm, cluster, values=None, **environment):
    """The command of `helm test`, at the Service."""
    [test] = of_kind(helm.render(values=values), "Pod")
    [container] = test["spec"]["containers"]
    _, *arguments = container["command"]
    assert "--address=qwenserve-gateway:50051" in arguments
    arguments = [a.replace("qwenserve-gateway:50051", cluster.address("qwenserve-gateway", "grpc")) for a in arguments]
    return subprocess.run([BIN / "qwenctl", *arguments], env=environment, capture_output=True, text=True, timeout=120)


def wait_answering(helm, cluster, values=None):
    cluster.wait_reachable("qwenserve-gateway", 1)
    cluster.wait_for(lambda: chat(helm, cluster, values).returncode == 0, "an answer")


def the_pod(cluster, component):
    [pod] = cluster.pods(component)
    return pod


def stream(api, cluster, max_tokens):
    channel = grpc.insecure_channel(cluster.address("qwenserve-gateway", "grpc"))
    options = api.GenerationOptions(max_tokens=max_tokens, ignore_eos=True)
    return channel, api.InferenceStub(channel).StreamComplete(
        api.CompleteRequest(text="the", options=options), timeout=120, wait_for_ready=True)


def test_the_demo_starts_answers_and_stops(helm, api, make_cluster):
    cluster = make_cluster(helm.render())
    cluster.wait_ready().wait_reachable("qwenserve-gateway", 1)
    done = chat(helm, cluster)
    assert done.returncode == 0 and done.stdout.strip(), done.stdout + done.stderr
    assert all(pod.restarts == 0 and not pod.ended for pod in cluster.pods())
    # Stopped, they finish what is under way, without anybody's help and in an orderly way.
    channel, answer = stream(api, cluster, 300)
    with channel:
        assert next(answer).HasField("started")
        pods = cluster.pods()
        cluster.workloads.clear()
        for pod in pods:
            pod.delete()
        assert sum(len(event.delta.token_ids) for event in answer) == 300
    for pod in pods:
        assert pod.gone.wait(pod.grace) and not pod.forced
        assert [end.exit_code for end in pod.ended] == [0], pod.describe()


@pytest.mark.parametrize("first", ["gateway", "generator"])
def test_the_order_of_starts_does_not_matter(helm, make_cluster, first):
    documents = helm.render()
    alone = [d for d in documents if d["kind"] not in ("Deployment", "StatefulSet") or f"-{first}" in d["metadata"]["name"]]
    cluster = make_cluster(alone)
    pod = the_pod(cluster, first)
    if first == "gateway":  # alive, and not ready as long as nobody is behind it
        asked = cluster.services.dns.asked
        cluster.wait_for(lambda: all(asked.get(f"qwenserve-{c}-demo", 0) >= 3 for c in ("tokenizer", "generator")),
                         "the gateway to look for workers")
        assert not pod.ready
    else:
        cluster.wait_for(lambda: pod.ready, f"the {first}")
    cluster.apply(documents)
    cluster.wait_ready()
    assert pod.restarts == 0
    wait_answering(helm, cluster)


def test_a_killed_container_is_started_again(helm, make_cluster):
    cluster = make_cluster(helm.render())
    cluster.wait_ready()
    for component in COMPONENTS:
        pod = the_pod(cluster, component)
        pod.kill()
        cluster.wait_for(lambda: pod.restarts == 1 and pod.ready, f"the {component} again")
        assert [end.exit_code for end in pod.ended] == [128 + signal.SIGKILL]
        wait_answering(helm, cluster)


def test_a_lost_pod_is_replaced(helm, make_cluster):
    """As when its node is drained; here there is one of each only, so that answers wait."""
    cluster = make_cluster(helm.render(values={f"{c}.drain.delaySeconds": 1 for c in COMPONENTS}))
    cluster.wait_ready()
    for component in COMPONENTS:
        lost = the_pod(cluster, component)
        lost.delete()
        cluster.wait_for(lost.gone.is_set, f"the end of {lost.name}")
        cluster.wait_ready()
        assert the_pod(cluster, component).ip != lost.ip
        wait_answering(helm, cluster)


def test_a_process_that_hangs_is_restarted(helm, make_cluster):
    cluster = make_cluster(helm.render(), hurry=5)
    cluster.wait_ready()
    pod = the_pod(cluster, "generator")
    pod.process.send_signal(signal.SIGSTOP)
    cluster.wait_for(lambda: pod.restarts == 1 and pod.ready, "the liveness probe to end it")
    assert pod.forced  # it did not hear SIGTERM
    wait_answering(helm, cluster)


def test_the_ops_port_takes_grpc_probes(helm, make_cluster):
    """For whom they suit better; without certificates, unlike the gRPC port."""
    documents = helm.render()
    for workload in of_kind(documents, "Deployment", "StatefulSet"):
        container = workload["spec"]["template"]["spec"]["containers"][0]
        for name in ("startupProbe", "readinessProbe"):
            del container[name]["httpGet"]
            container[name]["grpc"] = {"port": 9090, "service": ""}
        if container["name"] == "generator":
            container["readinessProbe"]["grpc"]["service"] = "demo"
        if container["name"] == "gateway":  # its readiness waits for the others
            container["startupProbe"]["failureThreshold"] = 600
    cluster = make_cluster(documents)
    cluster.wait_ready()
    assert all(pod.restarts == 0 for pod in cluster.pods())
    wait_answering(helm, cluster)


def test_a_pod_waits_for_its_secret(helm, make_cluster, tmp_path):
    values = {"gateway.apiKeys.secretName": "keys", "tests.apiKey.secretName": "mine"}
    cluster = make_cluster(helm.render(values=values))
    gateway = the_pod(cluster, "gateway")
    cluster.wait_for(lambda: gateway.waiting == 'FailedMount: secret "keys" not found', "the message of the pod")
    assert gateway.restarts == 0 and gateway.process is None
    (tmp_path / "secret").mkdir()
    write_keys(tmp_path / "secret" / "api-keys", key_line("right", "tenant"))
    cluster.secrets["keys"] = tmp_path / "secret"
    cluster.wait_ready().wait_reachable("qwenserve-gateway", 1)
    assert chat(helm, cluster, values, QWENSERVE_API_KEY="right").returncode == 0
    assert chat(helm, cluster, values, QWENSERVE_API_KEY="wrong").returncode != 0


def test_a_checkpoint_is_copied_and_checked_first(helm, make_cluster, tmp_path):
    claim = tmp_path / "claim"
    shutil.copytree(DEMO, claim / "demo", ignore=shutil.ignore_patterns("README.md"))
    names = sorted(path.name for path in (claim / "demo").iterdir())
    sums = subprocess.run(["sha256sum", *names], cwd=claim / "demo", capture_output=True, check=True).stdout
    (claim / "demo" / "SHA256SUMS").write_bytes(sums)
    copy = {"image": "tools:1", "claimName": "models", "path": "demo", "sha256": hashlib.sha256(sums).hexdigest(),
            "sizeLimit": "1Gi"}
    values = {"models.copied": {**OWN_MODEL, "name": "copied", "source": {"copy": copy}}}
    cluster = make_cluster(helm.render(values=values), claims={"models": claim})
    cluster.wait_ready()
    for component in ("tokenizer", "generator"):
        pod = the_pod(cluster, component)
        assert [end.exit_code for end in pod.ended] == [0] and pod.restarts == 0
        assert (pod.mounts["model"] / "config.json").read_bytes() == (DEMO / "config.json").read_bytes()
    wait_answering(helm, cluster, values)


@pytest.fixture
def two_nodes(helm):
    return helm.render(values={"generator.tensorParallel": 2, "generator.nodes": 2}, apis=ALL_APIS)


def test_a_group_of_nodes_starts_and_is_made_anew_together(helm, api, make_cluster, two_nodes):
    cluster = make_cluster(two_nodes)
    cluster.wait_ready()
    first = cluster.pods("generator")
    assert len(first) == 2
    wait_answering(helm, cluster)
    # Only the leader takes requests.
    assert cluster.services.endpoints("qwenserve-generator-demo-leaders") == [first[0].ip]
    # A worker's container that is lost ends the group, and a new one comes.
    first[1].kill()
    cluster.wait_for(lambda: all(p.gone.is_set() for p in first), "the end of the group")
    cluster.wait_ready()
    assert [end.exit_code for end in first[0].ended] == [1]
    assert "node" in first[0].ended[0].message
    wait_answering(helm, cluster)


def test_a_node_that_is_drained_cuts_no_answer(helm, api, make_cluster, two_nodes):
    """The machine of a worker goes: its pod alone is told to stop, and the group follows in order."""
    cluster = make_cluster(two_nodes)
    cluster.wait_ready()
    wait_answering(helm, cluster)
    leader, worker = cluster.pods("generator")
    cluster.workloads["qwenserve-generator-demo"].step = lambda: None  # no controller helps
    channel, answer = stream(api, cluster, 1000)
    with channel:
        assert next(answer).HasField("started")
        worker.delete()
        assert sum(len(event.delta.token_ids) for event in answer) == 1000
    cluster.wait_for(worker.gone.is_set, "the end of the worker")
    assert not worker.forced and [end.exit_code for end in worker.ended] == [0], worker.describe()
    cluster.wait_for(lambda: leader.ended, "the end of the leader")
    assert leader.ended[0].exit_code == 0, leader.describe()
