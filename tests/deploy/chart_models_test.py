"""Models: where they come from, several in a release, GPUs and nodes."""

import pytest

from conftest import OLDEST, OWN_MODEL, NEWEST
from rendered import find, of_kind, pod, pods
from schemas import validate

LWS = ["leaderworkerset.x-k8s.io/v1"]


def own(**source):
    return {**OWN_MODEL, "source": source}


def test_the_demo_needs_no_volume(helm):
    documents = helm.render()
    for component in ("tokenizer", "generator"):
        flags = pod(documents, component).flags
        assert flags["model"] == "/opt/qwenserve/models/demo"
        assert flags["served-model-name"] == "demo"
    assert not pod(documents, "tokenizer").volumes
    assert list(pod(documents, "generator").volumes) == ["shm"]


def test_ones_own_model_takes_the_place_of_the_demo(helm):
    documents = helm.render(values={"models.own": OWN_MODEL})
    assert {p.model for p in pods(documents)} == {None, "own"}


@pytest.mark.parametrize("source, volume, sub_path", [
    ({"pvc": {"claimName": "c"}}, {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}, None),
    ({"pvc": {"claimName": "c", "subPath": "a/b"}}, {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
     "a/b"),
    ({"hostPath": {"path": "/data/m"}}, {"hostPath": {"path": "/data/m", "type": "Directory"}}, None),
    ({"image": {"reference": "r/m:1"}}, {"image": {"reference": "r/m:1", "pullPolicy": "IfNotPresent"}}, None),
    ({"image": {"reference": "r/m:1", "subPath": "x", "pullPolicy": "Always"}},
     {"image": {"reference": "r/m:1", "pullPolicy": "Always"}}, "x"),
])
def test_mounted_sources(helm, source, volume, sub_path):
    documents = helm.render(values={"models.own": own(**source)}, kubernetes="1.35")
    for component in ("tokenizer", "generator"):
        this = pod(documents, component)
        assert this.flags["model"] == "/model"
        assert this.flags["served-model-name"] == "Own"
        assert this.mounts["/model"]["readOnly"] is True
        assert this.mounts["/model"].get("subPath") == sub_path
        assert {k: v for k, v in this.mounted("/model").items() if k != "name"} == volume
        assert "initContainers" not in this.spec
        validate(this.workload, NEWEST)
    assert not pod(documents, "gateway").volumes


@pytest.mark.parametrize("claim", [None, "models"])
def test_copied_source(helm, claim):
    copy = {"image": "tools:1", "path": "/m" if claim is None else "m", "sha256": "0" * 64, "sizeLimit": "20Gi"}
    if claim:
        copy["claimName"] = claim
    documents = helm.render(values={"models.own": own(copy=copy)})
    for component in ("tokenizer", "generator"):
        this = pod(documents, component)
        validate(this.workload, OLDEST)
        # A tokenizer, which has no weights, fits on nodes without room for them.
        size = "1Gi" if component == "tokenizer" else "20Gi"
        assert this.mounted("/model") == {"name": "model", "emptyDir": {"sizeLimit": size}}
        assert this.mounts["/model"]["readOnly"] is True
        [init] = this.spec["initContainers"]
        environment = {e["name"]: e["value"] for e in init["env"]}
        assert environment == {"SOURCE": "/source/m" if claim else "/m", "LIST": "SHA256SUMS", "LIST_SHA256": "0" * 64,
                               "SKIP": "*.safetensors *.bin *.pt *.pth *.gguf *.h5 *.msgpack *.onnx" if component == "tokenizer" else ""}
        assert init["image"] == "tools:1"
        # So that only nodes with room for it are chosen.
        assert init["resources"]["requests"]["ephemeral-storage"] == size
        mounts = {m["mountPath"]: m for m in init["volumeMounts"]}
        assert not mounts["/model"].get("readOnly")
        if claim:
            assert mounts["/source"]["readOnly"] is True
            assert this.volumes["source"]["persistentVolumeClaim"]["claimName"] == claim
        else:
            assert list(mounts) == ["/model"]


def test_several_models_share_the_gateways(helm):
    documents = helm.render(values={
        "tokenizer.replicas": 2, "tokenizer.flags.threads": 8, "generator.flags": {"max-running": 32, "weights": "int8"},
        "models": {
            "a": {**own(pvc={"claimName": "c", "subPath": "a"}), "name": "Model-A", "chatTemplate": "qwen3",
                  "toolFormat": "hermes"},
            "b": {**own(pvc={"claimName": "c", "subPath": "b"}), "name": "Model-B",
                  "tokenizer": {"replicas": 3, "flags": {"max-prompt-tokens": 1000}},
                  "generator": {"replicas": 4, "tensorParallel": 2, "flags": {"weights": "int4"},
                                "resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "4Gi"}}}}}})
    assert pod(documents, "gateway").flags["tokenizers"] == "qwenserve-tokenizer-a:50061,qwenserve-tokenizer-b:50061"
    assert pod(documents, "gateway").flags["generators"] == "qwenserve-generator-a:50071,qwenserve-generator-b:50071"
    a, b = pod(documents, "tokenizer", "a"), pod(documents, "tokenizer", "b")
    assert (a.flags["served-model-name"], b.flags["served-model-name"]) == ("Model-A", "Model-B")
    assert (a.flags["chat-template"], b.flags["chat-template"]) == ("qwen3", "auto")
    assert (a.flags["tool-format"], b.flags["tool-format"]) == ("hermes", "auto")
    # The release's values, and those of the model over them.
    assert (a.workload["spec"]["replicas"], b.workload["spec"]["replicas"]) == (2, 3)
    assert (a.flags["threads"], b.flags["threads"]) == ("8", "8")
    assert ("max-prompt-tokens" in a.flags, b.flags["max-prompt-tokens"]) == (False, "1000")
    a, b = pod(documents, "generator", "a"), pod(documents, "generator", "b")
    assert (a.flags["weights"], b.flags["weights"]) == ("int8", "int4")
    assert (a.flags["max-running"], b.flags["max-running"]) == ("32", "32")
    assert (a.flags["tp"], b.flags["tp"]) == ("1", "2")
    assert (a.mounts["/model"]["subPath"], b.mounts["/model"]["subPath"]) == ("a", "b")
    # Resources are whole: half of one machine's and half of another's fit nowhere.
    assert b.container["resources"] == {"requests": {"memory": "4Gi"}, "limits": {"memory": "4Gi"}}


@pytest.mark.parametrize("size, rate, seconds", [
    (15, 200, 137),     # 15 GiB at 200 MiB/s are 76.8 s, and a minute
    (136, 500, 339),
    (0.5, 200, 63)])
def test_startup_budget_follows_the_size(helm, size, rate, seconds):
    documents = helm.render(values={"models.own": {**OWN_MODEL, "sizeGiB": size},
                                    "generator.loadMiBPerSecond": rate})
    probe = pod(documents, "generator").container["startupProbe"]
    assert 0 <= probe["failureThreshold"] * probe["periodSeconds"] - seconds < 5


def test_shared_memory(helm):
    this = pod(helm.render(values={"generator.sharedMemory": "1Gi"}), "generator")
    assert this.mounted("/dev/shm") == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}


@pytest.mark.parametrize("tp, pod_gpus, gpus", [(1, None, 1), (4, None, 4), (4, 8, 8)])
def test_gpus(helm, tp, pod_gpus, gpus):
    values = {"models.own": OWN_MODEL, "generator.device": "cuda", "generator.tensorParallel": tp}
    if pod_gpus:
        values["generator.gpusPerPod"] = pod_gpus
    this = pod(helm.render(values=values), "generator")
    validate(this.workload, OLDEST)
    assert this.flags["device"] == "cuda" and this.flags["tp"] == str(tp)
    # In limits only, as extended resources are asked for.
    assert this.container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": gpus}
    assert "nvidia.com/gpu" not in this.container["resources"].get("requests", {})
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in this.spec["tolerations"]
    assert this.container["image"] == "qwenserve-generator-cuda:0.1.0"
    assert this.container["securityContext"]["readOnlyRootFilesystem"] is False


def test_the_root_of_a_gpu_pod_can_be_read_only(helm):
    this = pod(helm.render(values={"models.own": OWN_MODEL, "generator.device": "cuda",
                                   "generator.readOnlyRootFilesystem": True}), "generator")
    assert this.container["securityContext"]["readOnlyRootFilesystem"] is True


def test_parts_of_gpus(helm):
    this = pod(helm.render(values={"models.own": OWN_MODEL, "generator.device": "cuda",
                                   "generator.gpuResource": "nvidia.com/mig-3g.40gb"}), "generator")
    assert this.container["resources"]["limits"]["nvidia.com/mig-3g.40gb"] == 1
    # Nodes are tainted by the name of whole ones even where there are only parts.
    assert [t["key"] for t in this.spec["tolerations"]] == ["nvidia.com/gpu", "nvidia.com/mig-3g.40gb"]


def test_no_gpu_is_asked_for_on_the_cpu(documents):
    for this in pods(documents):
        if this.flags.get("device") != "cuda":
            assert not any("gpu" in name for name in this.container["resources"]["limits"])
            assert "tolerations" not in this.spec


def test_claimed_devices(helm):
    claims = [{"name": "gpus", "resourceClaimTemplateName": "four"}]
    values = {"models.own": OWN_MODEL, "generator.device": "cuda", "generator.tensorParallel": 4,
              "generator.resourceClaims": claims}
    this = pod(helm.render(values=values, kubernetes="1.34"), "generator")
    validate(this.workload, NEWEST)
    assert this.spec["resourceClaims"] == claims
    assert this.container["resources"]["claims"] == [{"name": "gpus"}]
    assert this.container["resources"]["limits"] == {"memory": "8Gi"}


def two_nodes(helm, **values):
    documents = helm.render(values={"models.own": OWN_MODEL, "generator.device": "cuda", "generator.tensorParallel": 16,
                                    "generator.nodes": 2, **values}, apis=LWS)
    leader, worker = pods(documents, "generator")
    assert (leader.node, worker.node) == ("leader", "worker")
    return documents, leader, worker


def test_a_replica_on_two_nodes(helm):
    documents, leader, worker = two_nodes(helm)
    validate(leader.workload, OLDEST)
    group = leader.workload["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    # A group that has lost a node is started again as a whole, and its leader is ready only with all.
    assert group["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert leader.workload["spec"]["startupPolicy"] == "LeaderCreated"
    for this in (leader, worker):
        assert (this.flags["tp"], this.flags["num-nodes"]) == ("16", "2")
        assert this.flags["node-rank"] == "$(LWS_WORKER_INDEX)"
        assert this.container["resources"]["limits"]["nvidia.com/gpu"] == 8
    # The leader listens; its own name may not be known yet when it starts.
    assert leader.flags["leader"] == "$(POD_IP):50081"
    assert worker.flags["leader"] == "$(LWS_LEADER_ADDRESS):50081"
    differing = {k for k in leader.flags if leader.flags[k] != worker.flags[k]}
    assert differing == {"leader"} and set(leader.flags) == set(worker.flags)
    # LeaderWorkerSet makes a Service of its own name.
    assert leader.name not in {d["metadata"]["name"] for d in of_kind(documents, "Service")}
    assert find(documents, "Service", f"{leader.name}-leaders")["spec"]["selector"]["qwenserve/node"] == "leader"
    assert not of_kind(documents, "StatefulSet")


@pytest.mark.parametrize("profile, kind, tp, gpus, weights", [
    ("one-gpu", "StatefulSet", 1, 1, None), ("gpu-72b-tp2-int4", "StatefulSet", 2, 2, "int4"),
    ("gpu-72b-tp4-int8", "StatefulSet", 4, 4, "int8"), ("gpu-72b-tp8-bf16", "StatefulSet", 8, 8, "bf16"),
    ("gpu-72b-two-nodes", "LeaderWorkerSet", 8, 4, None)])
def test_profiles_are_what_their_names_say(rendered_profiles, profile, kind, tp, gpus, weights):
    for this in pods(rendered_profiles[profile], "generator"):
        assert this.workload["kind"] == kind
        assert (this.flags["device"], this.flags["tp"]) == ("cuda", str(tp))
        assert this.container["resources"]["limits"]["nvidia.com/gpu"] == gpus
        assert weights in (None, this.flags.get("weights", "bf16"))


def test_exclusive_topology(helm):
    _, leader, _ = two_nodes(helm, **{"generator.exclusiveTopology": "rack"})
    assert leader.workload["metadata"]["annotations"] == {
        "leaderworkerset.sigs.k8s.io/exclusive-topology": "rack"}


def test_one_node_is_a_stateful_set(helm):
    this = pod(helm.render(values={"models.own": OWN_MODEL, "generator.device": "cuda",
                                   "generator.tensorParallel": 8}), "generator")
    assert this.workload["kind"] == "StatefulSet"
    assert not {"num-nodes", "node-rank", "leader"} & set(this.flags)
