"""Disruption, scaling, spreading, routes and monitoring."""

import json
import re
import shutil

import pytest
import yaml

from conftest import CHART, OLDEST, OWN_MODEL, ROOT
from rendered import COMPONENTS, all_pods, find, of_kind, pod, pods, selects
from schemas import validate

KEDA = ["keda.sh/v1alpha1"]
ROUTES = ["gateway.networking.k8s.io/v1"]


def test_pod_disruption_budgets(documents):
    budgets = of_kind(documents, "PodDisruptionBudget")
    for this in all_pods(documents):
        mine = [b for b in budgets if selects(b["spec"]["selector"]["matchLabels"], this.labels)]
        assert len(mine) == 1  # two would forbid every eviction
        assert mine[0]["spec"]["maxUnavailable"] == 1
        assert mine[0]["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert len(budgets) == len({this.name for this in all_pods(documents)})


def test_budgets_can_be_left_out(helm):
    assert not of_kind(helm.render(values={"podDisruptionBudget.enabled": False}), "PodDisruptionBudget")


def test_pods_are_spread(documents):
    for this in all_pods(documents):
        constraints = this.spec.get("topologySpreadConstraints", [])
        if this.node:  # its place is LeaderWorkerSet's business
            assert not constraints
            continue
        assert [c["topologyKey"] for c in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        for constraint in constraints:
            # Else a node that is tainted for others counts as an empty one, and with DoNotSchedule the rest stays
            # unscheduled; and pods that an update replaces would decide where the new ones may go.
            assert constraint["nodeTaintsPolicy"] == "Honor"
            assert constraint.get("matchLabelKeys") == (
                ["pod-template-hash"] if this.workload["kind"] == "Deployment" else None)
            same = [p.name for p in all_pods(documents) if selects(constraint["labelSelector"]["matchLabels"], p.labels)]
            assert same == [this.name]


def test_spreading_can_be_left_out(helm):
    for this in pods(helm.render(values={"topologySpread.enabled": False})):
        assert "topologySpreadConstraints" not in this.spec


def test_priority_classes(helm):
    documents = helm.render(values={"priorityClasses": {"create": True, "generator": 7},
                                    "tokenizer.priorityClassName": "mine"})
    for component in COMPONENTS:
        this = pod(documents, component)
        if component == "tokenizer":
            assert this.spec["priorityClassName"] == "mine"
            continue
        # They belong to the whole cluster, so the namespace is in the name.
        made = find(documents, "PriorityClass", this.spec["priorityClassName"])
        assert "inference" in made["metadata"]["name"]
        assert made["value"] == (7 if component == "generator" else 100000)
    assert not of_kind(helm.render(), "PriorityClass")
    assert not any("priorityClassName" in this.spec for this in pods(helm.render()))


@pytest.mark.parametrize("component", ["gateway", "tokenizer"])
def test_scaling_by_cpu(helm, component):
    documents = helm.render(values={f"{component}.autoscaling": {
        "enabled": True, "minReplicas": 3, "maxReplicas": 9, "targetCpuPercent": 55}})
    this = pod(documents, component)
    # A number there would be set back with every upgrade.
    assert "replicas" not in this.workload["spec"]
    [scaler] = of_kind(documents, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": this.name}
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (3, 9)
    assert scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 55
    assert "cpu" in this.container["resources"]["requests"]  # the percentage is of it


@pytest.mark.parametrize("nodes, target", [
    (1, {"apiVersion": "apps/v1", "kind": "StatefulSet"}),
    (2, {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"})])
def test_scaling_by_requests(helm, nodes, target):
    documents = helm.render(values={
        "models": {"a": {**OWN_MODEL, "name": "Model-A"}, "b": {**OWN_MODEL, "name": "Model-B"}},
        "prometheusAddress": "http://prometheus:9090", "generator.nodes": nodes, "generator.tensorParallel": 2,
        "generator.autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 5, "waitingPerReplica": 3,
                                  "runningPerReplica": 50}}, apis=KEDA + ["leaderworkerset.x-k8s.io/v1"])
    scalers = of_kind(documents, "ScaledObject")
    assert len(scalers) == 2
    for scaler in scalers:
        validate(scaler, OLDEST)
        key = scaler["metadata"]["labels"]["qwenserve/model"]
        this = pods(documents, "generator", key)[0]
        assert "replicas" not in this.workload["spec"]
        assert scaler["spec"]["scaleTargetRef"] == {**target, "name": this.name}
        assert (scaler["spec"]["minReplicaCount"], scaler["spec"]["maxReplicaCount"]) == (2, 5)
        waiting, running = [t["metadata"] for t in scaler["spec"]["triggers"]]
        assert (waiting["threshold"], running["threshold"]) == ("3", "50")
        series = f'namespace="inference",model="{this.flags["served-model-name"]}"'
        for metric in ("qwenserve_gateway_queue_depth", "qwenserve_sequences_waiting"):
            assert f"{metric}{{{series}}}" in waiting["query"]
        assert f"qwenserve_sequences_running{{{series}}}" in running["query"]
        assert {waiting["serverAddress"], running["serverAddress"]} == {"http://prometheus:9090"}


def test_scaling_one_model_of_two(helm):
    scaled = {"autoscaling": {"enabled": True}, **OWN_MODEL["generator"]}
    documents = helm.render(values={
        "models": {"a": {**OWN_MODEL, "name": "A", "generator": scaled}, "b": {**OWN_MODEL, "name": "B"}},
        "prometheusAddress": "http://prometheus:9090"}, apis=KEDA)
    assert [d["metadata"]["labels"]["qwenserve/model"] for d in of_kind(documents, "ScaledObject")] == ["a"]
    assert "replicas" not in pod(documents, "generator", "a").workload["spec"]
    assert pod(documents, "generator", "b").workload["spec"]["replicas"] == 1


def test_routes(helm):
    parents = [{"name": "public", "namespace": "gateways"}]
    documents = helm.render(values={"routes": {
        "parentRefs": parents, "grpc": {"enabled": True, "hostnames": ["g.example"]},
        "http": {"enabled": True, "hostnames": ["h.example"]}}}, apis=ROUTES)
    [grpc], [http] = of_kind(documents, "GRPCRoute"), of_kind(documents, "HTTPRoute")
    for route, host, port in ((grpc, "g.example", 50051), (http, "h.example", 8080)):
        validate(route, OLDEST)
        assert route["spec"]["parentRefs"] == parents
        assert route["spec"]["hostnames"] == [host]
        [rule] = route["spec"]["rules"]
        [backend] = rule["backendRefs"]
        service = find(documents, "Service", backend["name"])
        assert backend["port"] == port in [p["port"] for p in service["spec"]["ports"]]
    # No time limit of the proxy's: answers take as long as the gateway allows.
    assert http["spec"]["rules"][0]["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    services = [m["method"]["service"] for m in grpc["spec"]["rules"][0]["matches"]]
    assert "qwenserve.v1.Inference" in services and "qwenserve.v1.Admin" not in services
    assert not of_kind(helm.render(apis=ROUTES), "GRPCRoute", "HTTPRoute")


@pytest.mark.parametrize("protocol, port, app_protocol", [
    ("http", 8080, "http"), ("grpc", 50051, "kubernetes.io/h2c")])
def test_inference_pool(helm, protocol, port, app_protocol):
    documents = helm.render(values={"inferencePool": {"enabled": True, "protocol": protocol, "endpointPicker": {
        "name": "picker", "port": 9002}}}, apis=["inference.networking.k8s.io/v1"])
    [pool] = of_kind(documents, "InferencePool")
    validate(pool, OLDEST)
    assert pool["spec"]["targetPorts"] == [{"number": port}]
    assert pool["spec"]["appProtocol"] == app_protocol
    assert pool["spec"]["endpointPickerRef"]["name"] == "picker"
    found = [p for p in pods(documents) if selects(pool["spec"]["selector"]["matchLabels"], p.labels)]
    assert [p.component for p in found] == ["gateway"]
    assert port in found[0].ports.values()


DOCUMENTED = set(re.findall(r"^\| `([\w:]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.M))


@pytest.mark.parametrize("names", ["none", "vllm"])
def test_endpoint_pickers_find_the_metrics(helm, names, tmp_path):
    values = {"inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}},
              "models": {"a": {**OWN_MODEL, "name": "Model-A"}, "b": {**OWN_MODEL, "name": "Model-B"}},
              "gateway.flags.metrics-compat": names}
    documents = helm.render(values=values, apis=["inference.networking.k8s.io/v1"])
    labels = pod(documents, "gateway").labels
    engine = {"none": "qwenserve", "vllm": "vllm"}[names]
    for label in ("inference.networking.k8s.io/engine-type", "llm-d.ai/engine-type"):
        assert labels[label] == engine
        assert label not in pod(documents, "tokenizer", "a").labels
        assert label not in pod(helm.render(), "gateway").labels
    # Only an installation has notes, and a client alone knows of no API that the pool needs.
    chart = shutil.copytree(CHART, tmp_path / "chart")
    (chart / "templates" / "inferencepool.yaml").unlink()
    done = helm.run("install", "demo", chart, "--dry-run=client", *[
        f"--set-json={path}={json.dumps(value)}" for path, value in values.items()])
    assert done.returncode == 0, done.stderr
    text = done.stdout.split("NOTES:")[1]
    assert "--model-server-metrics-port=9090" in text
    specs = dict(re.findall(r"(\w+Spec): '(\w+)\{model=\"Model-B\"\}'", text))
    if names == "vllm":
        assert not specs
        return
    assert set(specs) == {"queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec", "cacheInfoSpec"}
    assert set(specs.values()) <= DOCUMENTED
    assert text.count("engineConfigs:") == 1 and re.findall(r"- name: (\S+)", text) == ["qwenserve-a", "qwenserve-b"]


def test_autoscaling_uses_metrics_that_exist(helm):
    documents = helm.render(values={"prometheusAddress": "http://prometheus:9090", "generator.autoscaling": {"enabled": True}},
                            apis=KEDA)
    [scaler] = of_kind(documents, "ScaledObject")
    queries = " ".join(trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"])
    used = set(re.findall(r"qwenserve_\w+", queries))
    assert len(used) == 3 and used <= DOCUMENTED


def test_pod_monitor(helm):
    assert not of_kind(helm.render(), "PodMonitor")
    documents = helm.render(values={"podMonitor": {"enabled": True, "interval": "30s", "labels": {"a": "b"}}},
                            apis=["monitoring.coreos.com/v1"])
    monitor = find(documents, "PodMonitor", "qwenserve")
    assert monitor["metadata"]["labels"]["a"] == "b"
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("ops", "/metrics", "30s")
    # As the operator's own, and without it.
    plain, = yaml.safe_load((ROOT / "k8s" / "prometheus" / "scrape.yaml").read_text())
    relabelled = {(rule["target_label"], *rule["source_labels"]) for rule in plain["relabel_configs"]
                  if "target_label" in rule}
    assert {(rule["targetLabel"], *rule["sourceLabels"]) for rule in endpoint["relabelings"]} == {
        pair for pair in relabelled if "_pod_label_" in pair[1]}
    assert {label for label, _ in relabelled} >= {"namespace", "pod", "release", "component", "model_key"}
    for this in pods(documents):
        assert selects(monitor["spec"]["selector"]["matchLabels"], this.labels)
        assert this.ports["ops"] == 9090
        for label in ("app.kubernetes.io/instance", "app.kubernetes.io/component"):
            assert label in this.labels
        assert ("qwenserve/model" in this.labels) == (this.component != "gateway")


def test_gateway_service(helm):
    spec = find(helm.render(values={"gateway.service": {
        "type": "LoadBalancer", "annotations": {"a": "b"}, "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "externalTrafficPolicy": "Local"}}), "Service", "qwenserve-gateway")
    validate(spec, OLDEST)
    assert spec["metadata"]["annotations"] == {"a": "b"}
    assert spec["spec"]["type"] == "LoadBalancer"
    assert spec["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    assert spec["spec"]["externalTrafficPolicy"] == "Local"
