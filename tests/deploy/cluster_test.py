"""What the chart renders, run pod by pod as a kubelet runs it (kube_cluster.py): starts, losses and stops."""

import hashlib
import json
import shutil
import signal
import subprocess

import grpc
import pytest

from conftest import OWN_MODEL, ROOT
from kube_client import chat, stream, the_pod, wait_answering
from kube_cluster import BIN
from kube_services import HAPROXY
from rendered import of_kind
from security import key_line, write_keys

DEMO = ROOT / "models" / "demo"
COMPONENTS = ("gateway", "tokenizer", "generator")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here")


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
        cluster.stop_controllers()
        for pod in pods:
            pod.delete()
        assert sum(len(event.delta.token_ids) for event in answer) == 300
    for pod in pods:
        assert pod.gone.wait(pod.grace) and not pod.forced
        assert [end.exit_code for end in pod.ended] == [0], pod.describe()


# A tokenizer has finished as soon as it has given back what it has.
@pytest.mark.parametrize("component, status", [("gateway", 1), ("tokenizer", 0), ("generator", 1)])
def test_who_cannot_finish_ends_within_the_grace_period(helm, api, make_cluster, component, status):
    """With an answer under way that takes longer than the drain may."""
    values = {"generator.flags": {"engine": "sim", "sim-step-ms": 1000}}
    values |= {f"{c}.drain": {"delaySeconds": 1, "timeoutSeconds": 2} for c in COMPONENTS}
    cluster = make_cluster(helm.render(values=values))
    cluster.wait_ready().wait_reachable("qwenserve-gateway", 1)
    channel, answer = stream(api, cluster, 1000)
    with channel:
        assert next(answer).HasField("started")
        pod = the_pod(cluster, component)
        assert pod.grace == 1 + 2 + 15
        cluster.stop_controllers()
        pod.delete()
        with pytest.raises(grpc.RpcError) as error:
            list(answer)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    cluster.wait_for(pod.gone.is_set, f"the end of the {component}")
    assert not pod.forced and [end.exit_code for end in pod.ended] == [status], pod.describe()
    assert ("drain timeout: 1 requests were cut off" in pod.ended[0].message) == (status == 1)


def test_every_pod_can_be_looked_into(helm, make_cluster):
    """From within, at its loopback, although its gRPC port is open to other machines."""
    cluster = make_cluster(helm.render())
    cluster.wait_ready()
    for component in COMPONENTS:
        pod = the_pod(cluster, component)

        def ctl(*arguments):
            return subprocess.run([BIN / "qwenctl", *arguments, "--address", f"{pod.ip}:50091"], capture_output=True,
                                  text=True, timeout=60)
        top = ctl("top", "--once", "--interval", "0.1", "--output", "json", "--ops-address", f"{pod.ip}:9090")
        assert top.returncode == 0 and json.loads(top.stdout)["role"] == component, top
        assert ctl("requests").returncode == 0
        assert ctl("log-level", "debug").returncode == 0
        cluster.wait_for(lambda: '"log level is debug now"' in pod.log.read_text(), f"the line of the {component}")


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


def programs_that_wait_first(folder, command):
    """A generator's first start is the command of a shell, until that ends or for ever."""
    folder.mkdir()
    for component in COMPONENTS:
        (folder / f"qwenserve-{component}").symlink_to(BIN.resolve() / f"qwenserve-{component}")
    program = folder / "qwenserve-generator"
    program.unlink()
    program.write_text(f'''#!/bin/sh
if [ ! -e "$0.begun" ]; then : > "$0.begun"; {command}; fi
exec {BIN.resolve()}/qwenserve-generator "$@"
''')
    program.chmod(0o755)
    return folder


def test_a_load_may_take_longer_than_the_liveness_probe_would_wait(helm, make_cluster, tmp_path):
    """Nothing but the startup probe counts before the end of the load."""
    hurry = 20
    values = {"image.tag": "slow", "generator.startupSeconds": 1800}
    documents = helm.render(values=values)
    [generator] = of_kind(documents, "StatefulSet")
    liveness = generator["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    load = 3 * liveness["periodSeconds"] * liveness["failureThreshold"] / hurry
    versions = {"slow": programs_that_wait_first(tmp_path / "bin", f"sleep {load}")}
    cluster = make_cluster(documents, versions=versions, hurry=hurry)
    cluster.wait_ready()
    assert the_pod(cluster, "generator").restarts == 0
    wait_answering(helm, cluster, values)


def test_a_load_that_hangs_is_tried_again(helm, make_cluster, tmp_path):
    values = {"image.tag": "hanging", "generator.startupSeconds": 100}
    versions = {"hanging": programs_that_wait_first(tmp_path / "bin", "exec sleep 1000")}
    cluster = make_cluster(helm.render(values=values), versions=versions, hurry=10)
    cluster.wait_ready()
    pod = the_pod(cluster, "generator")
    assert pod.restarts >= 1 and pod.ended[0].exit_code == 128 + signal.SIGTERM, pod.describe()
    wait_answering(helm, cluster, values)


def test_several_models_in_one_release(helm, make_cluster):
    """Each has its own workers and its own command of `helm test`."""
    values = {"models": {key: {"name": f"Model-{key}", "source": {"builtin": "demo"}} for key in ("a", "b")}}
    cluster = make_cluster(helm.render(values=values))
    cluster.wait_ready()
    assert {pod.labels.get("qwenserve/model") for pod in cluster.pods()} == {None, "a", "b"}
    wait_answering(helm, cluster, values)
    for key in ("a", "b"):
        assert cluster.metric("generator", "qwenserve_generated_tokens_total", model=f"Model-{key}") > 0


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
