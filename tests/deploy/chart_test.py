"""The chart renders what the processes and Kubernetes expect."""

import kubernetes_validate
import pytest

from conftest import CHART, KUBERNETES_VERSIONS, PROFILES
from rendered import WORKLOADS, container, find, flags, pod, port, workload

COMMON_FLAGS = {"listen", "ops-listen", "log-level", "drain-delay", "drain-timeout"}
FLAGS = {
    "gateway": COMMON_FLAGS | {"tokenizers", "generators", "max-request-time", "http-listen"},
    "tokenizer": COMMON_FLAGS | {"model", "served-model-name", "chat-template"},
    "generator": COMMON_FLAGS | {
        "model", "served-model-name", "tp", "tp-mode", "device", "max-model-len", "kv-cache-memory",
        "threads", "max-batch-tokens", "max-running", "weights", "kv-dtype", "max-step-ms",
        "prefix-cache"},
}
PORTS = {"gateway": 50051, "tokenizer": 50061, "generator": 50071}
CUSTOM_KINDS = {"PodMonitor"}


@pytest.mark.parametrize("profile", PROFILES)
def test_lint_is_strictly_clean(helm, profile):
    values = ["--values", CHART / "ci" / profile] if profile else []
    done = helm.run("lint", "--strict", CHART, *values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kubernetes", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_objects_are_valid(helm, profile, kubernetes):
    documents = helm.render(profile, kubernetes=kubernetes)
    kinds = {document["kind"] for document in documents}
    assert {"Deployment", "StatefulSet", "Service"} <= kinds
    for document in documents:
        if document["kind"] not in CUSTOM_KINDS:
            used = kubernetes_validate.validate(document, kubernetes, strict=True)
            assert used == kubernetes.rsplit(".", 1)[0]


def test_older_kubernetes_is_refused(helm):
    done = helm.template(kubernetes="1.28.0")
    assert done.returncode != 0 and "1.29" in done.stderr


def test_no_object_twice_and_no_namespace_fixed(documents):
    keys = [(d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(keys) == len(set(keys))
    assert not any("namespace" in d["metadata"] for d in documents)


@pytest.mark.parametrize("component", WORKLOADS)
def test_arguments_are_flags_of_the_process(documents, component):
    assert set(flags(documents, component)) <= FLAGS[component]
    assert COMMON_FLAGS <= set(flags(documents, component))


@pytest.mark.parametrize("component", WORKLOADS)
def test_addresses_and_declared_ports_agree(documents, component):
    this = container(documents, component)
    given = flags(documents, component)
    # Only the public ports take connections on every address.
    host = "0.0.0.0" if component == "gateway" else "$(POD_IP)"
    assert given["listen"] == f"{host}:{PORTS[component]}"
    assert given["ops-listen"] == "$(POD_IP):9090"
    assert port(this, "grpc") == PORTS[component]
    if component == "gateway":
        assert given["http-listen"] == "0.0.0.0:8080" and port(this, "http") == 8080
    assert port(this, "ops") == 9090
    assert this["env"] == [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def test_gateway_is_told_the_services_of_the_workers(documents):
    given = flags(documents, "gateway")
    for flag, component in (("tokenizers", "tokenizer"), ("generators", "generator")):
        name, number = given[flag].split(":")
        service = find(documents, "Service", name)
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["ports"][0]["port"] == int(number) == PORTS[component]
        assert service["spec"]["selector"]["app.kubernetes.io/component"] == component


@pytest.mark.parametrize("component", WORKLOADS)
def test_probes_ask_the_ops_port(documents, component):
    this = container(documents, component)
    start = "/livez" if component == "gateway" else "/readyz"  # a gateway's readiness has peers in it
    for probe, path in (("startupProbe", start), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert this[probe]["httpGet"] == {"path": path, "port": "ops"}
        assert this[probe]["timeoutSeconds"] <= this[probe]["periodSeconds"]


@pytest.mark.parametrize("component", WORKLOADS)
@pytest.mark.parametrize("seconds, failures", [(5, 1), (6, 2), (1800, 360), (1801, 361)])
def test_startup_budget(helm, component, seconds, failures):
    probe = container(helm.render(values={f"{component}.startupSeconds": seconds}), component)["startupProbe"]
    assert probe["failureThreshold"] == failures
    assert probe["failureThreshold"] * probe["periodSeconds"] >= seconds


@pytest.mark.parametrize("component", WORKLOADS)
@pytest.mark.parametrize("delay, timeout", [(10, 120), (0, 0), (7, 3600)])
def test_grace_covers_the_drain(helm, component, delay, timeout):
    documents = helm.render(values={f"{component}.drain": {"delaySeconds": delay, "timeoutSeconds": timeout}})
    given = flags(documents, component)
    assert (given["drain-delay"], given["drain-timeout"]) == (str(delay), str(timeout))
    assert pod(documents, component)["terminationGracePeriodSeconds"] == delay + timeout + 15
    assert "lifecycle" not in container(documents, component)  # the process drains by itself


@pytest.mark.parametrize("component", WORKLOADS)
def test_selectors_match_one_workload_each(documents, component):
    this = workload(documents, component)
    labels = this["spec"]["template"]["metadata"]["labels"]
    selector = this["spec"]["selector"]["matchLabels"]
    service = find(documents, "Service", f"qwenserve-{component}")
    assert service["spec"]["selector"] == selector
    assert selector.items() <= labels.items()
    for other in set(WORKLOADS) - {component}:
        other_labels = workload(documents, other)["spec"]["template"]["metadata"]["labels"]
        assert not selector.items() <= other_labels.items()
    # A selector cannot change, so nothing that a release changes may be in it.
    assert set(selector) == {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")}


@pytest.mark.parametrize("component", WORKLOADS)
def test_service_ports(documents, component):
    service = find(documents, "Service", f"qwenserve-{component}")
    ports = [{"name": "grpc", "port": PORTS[component], "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"}]
    if component == "gateway":
        ports.append({"name": "http", "port": 8080, "targetPort": "http", "appProtocol": "http"})
    assert service["spec"]["ports"] == ports
    if component == "gateway":
        assert service["spec"]["type"] == "ClusterIP" and "clusterIP" not in service["spec"]
    else:
        assert service["spec"]["clusterIP"] == "None"


def test_generator_is_governed_by_its_service(documents):
    assert workload(documents, "generator")["spec"]["serviceName"] == "qwenserve-generator"


@pytest.mark.parametrize("component", WORKLOADS)
def test_restricted_pod_security(documents, component):
    this, spec = container(documents, component), pod(documents, component)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert this["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                       "capabilities": {"drop": ["ALL"]}}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not any("hostPath" in volume for volume in spec.get("volumes", []))


@pytest.mark.parametrize("component", WORKLOADS)
def test_service_links_do_not_look_like_configuration(documents, component):
    assert pod(documents, component)["enableServiceLinks"] is False


def test_no_secret_is_rendered(documents):
    assert not any(document["kind"] in {"Secret", "ConfigMap"} for document in documents)


@pytest.mark.parametrize("component", WORKLOADS)
def test_image_has_the_name_of_the_process(helm, component):
    plain = container(helm.render(), component)["image"]
    assert plain == f"qwenserve-{component}:0.1.0"
    values = {"image.registry": "registry.example:5000/team/", "image.tag": "sha-1"}
    assert container(helm.render(values=values), component)["image"] == (
        f"registry.example:5000/team/qwenserve-{component}:sha-1")


def test_every_container_has_memory_bounds(documents):
    for component in WORKLOADS:
        resources = container(documents, component)["resources"]
        assert "memory" in resources["requests"] and "memory" in resources["limits"]


def test_demo_model_needs_no_volume(helm):
    documents = helm.render()
    for component in ("tokenizer", "generator"):
        assert flags(documents, component)["model"] == "/opt/qwenserve/models/demo"
        assert flags(documents, component)["served-model-name"] == "demo"
    assert "volumes" not in pod(documents, "tokenizer")
    assert [v["name"] for v in pod(documents, "generator")["volumes"]] == ["shm"]


@pytest.mark.parametrize("sub_path", ["", "a/b"])
def test_claim_is_mounted_read_only(helm, sub_path):
    documents = helm.render(values={"model.name": "m", "model.pvc": {"claimName": "c", "subPath": sub_path}})
    mount = {"name": "model", "mountPath": "/model", "readOnly": True}
    if sub_path:
        mount["subPath"] = sub_path
    for component in ("tokenizer", "generator"):
        assert flags(documents, component)["model"] == "/model"
        assert flags(documents, component)["served-model-name"] == "m"
        assert mount in container(documents, component)["volumeMounts"]
        assert {"name": "model", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}} in (
            pod(documents, component)["volumes"])
    assert "volumes" not in pod(documents, "gateway")


def test_shared_memory(helm):
    documents = helm.render(values={"generator.sharedMemory": "1Gi"})
    assert {"name": "shm", "mountPath": "/dev/shm"} in container(documents, "generator")["volumeMounts"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in (
        pod(documents, "generator")["volumes"])


def test_optional_generator_flags(helm):
    optional = {"maxModelLen": ("max-model-len", 1048576), "maxBatchTokens": ("max-batch-tokens", 1000000),
                "maxRunning": ("max-running", 64), "kvDtype": ("kv-dtype", "int8"), "weights": ("weights", "int4"),
                "kvCacheMemory": ("kv-cache-memory", "4GiB"), "maxStepMs": ("max-step-ms", 50)}
    names = {name for name, _ in optional.values()}
    assert not (names | {"prefix-cache"}) & set(flags(helm.render(), "generator"))
    given = flags(helm.render(values={f"generator.{k}": v for k, (_, v) in optional.items()}), "generator")
    assert {name: given[name] for name in names} == {name: str(value) for name, value in optional.values()}
    for value, word in ((True, "on"), (False, "off")):
        assert flags(helm.render(values={"generator.prefixCache": value}), "generator")["prefix-cache"] == word


@pytest.mark.parametrize("component", WORKLOADS)
def test_scheduling_values_arrive(helm, component):
    toleration = {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
    documents = helm.render(values={f"{component}.nodeSelector": {"disk": "fast"},
                                    f"{component}.tolerations": [toleration], f"{component}.replicas": 3,
                                    "image.pullSecrets": ["registry"]})
    assert pod(documents, component)["nodeSelector"] == {"disk": "fast"}
    assert pod(documents, component)["tolerations"] == [toleration]
    assert pod(documents, component)["imagePullSecrets"] == [{"name": "registry"}]
    assert workload(documents, component)["spec"]["replicas"] == 3
    for other in set(WORKLOADS) - {component}:
        assert not {"nodeSelector", "tolerations"} & set(pod(documents, other))


def test_pod_monitor(helm):
    assert not [d for d in helm.render() if d["kind"] in {"PodMonitor", "PodDisruptionBudget"}]
    documents = helm.render(values={"podMonitor": {"enabled": True, "interval": "30s", "labels": {"a": "b"}}})
    monitor = find(documents, "PodMonitor", "qwenserve")
    assert monitor["metadata"]["labels"]["a"] == "b"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "ops", "path": "/metrics", "interval": "30s"}]
    for component in WORKLOADS:
        labels = workload(documents, component)["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert set(monitor["spec"]["podTargetLabels"]) <= set(labels)


def test_pod_disruption_budgets(helm):
    documents = helm.render(values={"podDisruptionBudget.enabled": True})
    for component in WORKLOADS:
        budget = find(documents, "PodDisruptionBudget", f"qwenserve-{component}")
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"] == workload(documents, component)["spec"]["selector"]


def test_long_release_names_stay_valid(helm):
    release = "r" * 53  # the longest that helm takes
    documents = helm.render(release=release)
    names = [d["metadata"]["name"] for d in documents]
    # A StatefulSet's pods carry its name and an 11-character revision in a label of at most 63.
    assert max(map(len, names)) <= 52
    assert flags(documents, "gateway", release="r" * 40)["tokenizers"].split(":")[0] in names


def test_notes_name_the_first_command(helm):
    done = helm.run("install", "demo", CHART, "--dry-run=client", "--namespace", "inference")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert "--namespace inference exec deployment/demo-qwenserve-gateway -- qwenctl chat" in notes
    assert "service/demo-qwenserve-gateway 50051" in notes
