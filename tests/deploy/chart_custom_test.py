"""What a cluster's own rules ask for: names, labels, accounts, users, volumes, strategies, ports."""

import pytest

from conftest import NEWEST, OLDEST, OWN_MODEL
from rendered import COMPONENTS, WORKLOAD_KINDS, all_pods, find, of_kind, pod, pods
from schemas import validate

EVERYTHING = {"front.enabled": True, "podMonitor.enabled": True, "prometheusRule.enabled": True,
              "dashboards.enabled": True, "priorityClasses.create": True, "tests.enabled": True, "serviceAccount.create": True,
              "tls.internal": {"enabled": True, "certManager": {"issuer": {"name": "i"}}}}
APIS = ["cert-manager.io/v1", "monitoring.coreos.com/v1", "leaderworkerset.x-k8s.io/v1"]
TWO_NODES = {"models.own": OWN_MODEL, "generator.nodes": 2, "generator.tensorParallel": 2}


def valid(documents):
    for document in documents:
        for kubernetes in (OLDEST, NEWEST):
            validate(document, kubernetes)
    return documents


def test_a_name_of_ones_own(helm):
    documents = valid(helm.render(values={**EVERYTHING, "fullnameOverride": "llm"}, apis=APIS))
    for document in documents:
        name = document["metadata"]["name"]
        assert "llm" in name and "qwenserve" not in name, name
    # Rules and dashboards go by these.
    assert {p.labels["app.kubernetes.io/instance"] for p in all_pods(documents)} == {"qwenserve"}
    assert pod(documents, "gateway").flags["tokenizers"] == "llm-tokenizer-demo:50061"


def test_releases_with_the_same_long_beginning_keep_apart(helm):
    """In one namespace the second could not be installed, or would take the first one's objects."""
    names = [{(d["kind"], d["metadata"]["name"]) for d in helm.render(release="a-team-with-a-very-long-name-" + end)}
             for end in ("one", "two")]
    assert not names[0] & names[1]


def test_labels_on_everything(helm):
    documents = valid(helm.render(values={**EVERYTHING, "commonLabels": {"team": "ml"}, "tokenizer.podLabels": {"team": "t"}},
                                  apis=APIS))
    assert len({d["kind"] for d in documents}) >= 12
    for document in documents:
        assert document["metadata"]["labels"]["team"] == "ml"
    for this in all_pods(documents):
        assert this.labels["team"] == ("t" if this.component == "tokenizer" else "ml")
        assert "team" not in this.workload["spec"]["selector"]["matchLabels"]  # which can never be changed


@pytest.mark.parametrize("given, name, made", [
    ({}, None, False), ({"create": True}, "qwenserve", True), ({"name": "mine"}, "mine", False),
    ({"create": True, "name": "mine", "annotations": {"role": "r"}}, "mine", True)])
def test_service_account(helm, given, name, made):
    documents = valid(helm.render(values={"serviceAccount": given, "front.enabled": True}))
    assert [d["metadata"]["name"] for d in of_kind(documents, "ServiceAccount")] == ([name] if made else [])
    for account in of_kind(documents, "ServiceAccount"):
        assert account["metadata"].get("annotations", {}) == given.get("annotations", {})
        assert account["automountServiceAccountToken"] is False
    for spec in [p.spec for p in all_pods(documents)] + [d["spec"] for d in of_kind(documents, "Pod")]:
        assert spec.get("serviceAccountName") == name
        assert spec["automountServiceAccountToken"] is False


def test_users_of_the_cluster(helm, tmp_path):
    """OpenShift gives each namespace numbers of its own, too large for a float's short text."""
    file = tmp_path / "values.yaml"
    file.write_text("podSecurityContext: {runAsUser: 1000650000, runAsGroup: null, supplementalGroups: [1000650001]}\n")
    done = helm.run("template", "qwenserve", "helm/qwenserve", "--values", file)
    assert done.returncode == 0, done.stderr
    assert "runAsUser: 1000650000\n" in done.stdout and "- 1000650001\n" in done.stdout
    assert "runAsGroup" not in done.stdout and "fsGroup" not in done.stdout
    for this in all_pods(helm.render(values={"podSecurityContext.fsGroup": 7})):
        assert this.spec["securityContext"] == {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 7,
                                                "seccompProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize("component", [*COMPONENTS, "front"])
def test_environment_and_volumes(helm, component):
    source = {"secretKeyRef": {"name": "s", "key": "k"}}
    volume, mount = {"name": "more", "configMap": {"name": "c"}}, {"name": "more", "mountPath": "/more", "readOnly": True}
    documents = valid(helm.render(values={"front.enabled": True, f"{component}.env": {"A": "1", "B": source},
                                          f"{component}.extraVolumes": [volume], f"{component}.extraVolumeMounts": [mount]}))
    for this in all_pods(documents):
        if this.component == component:
            assert this.container["env"][1:] == [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": source}]
            assert this.mounts["/more"] == mount and this.mounted("/more") == volume
        else:
            assert "/more" not in this.mounts


def test_parts_of_a_core(helm):
    documents = valid(helm.render(values={"gateway.resources": {"requests": {"cpu": 0.5}, "limits": {"memory": "1Gi"}}}))
    assert pod(documents, "gateway").container["resources"]["requests"]["cpu"] == 0.5


@pytest.mark.parametrize("component", ["gateway", "tokenizer", "front"])
def test_strategy(helm, component):
    documents = valid(helm.render(values={"front.enabled": True,
                                          f"{component}.rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}))
    for this in all_pods(documents):
        if this.workload["kind"] == "Deployment":
            assert this.workload["spec"]["strategy"]["rollingUpdate"] == (
                {"maxSurge": "25%", "maxUnavailable": 1} if this.component == component else {"maxSurge": 1, "maxUnavailable": 0})


@pytest.mark.parametrize("values, field", [({}, "updateStrategy"), (TWO_NODES, "rolloutStrategy")])
def test_one_replica_first(helm, values, field):
    documents = valid(helm.render(values={**values, "generator.replicas": 3, "generator.partition": 2}, apis=APIS))
    strategy = pods(documents, "generator")[0].workload["spec"][field]
    assert strategy["type"] == "RollingUpdate"
    assert (strategy.get("rollingUpdate") or strategy["rollingUpdateConfiguration"])["partition"] == 2


@pytest.mark.parametrize("entry", ["gateway", "front"])
def test_ports_of_the_service(helm, entry):
    values = {"front.enabled": entry == "front",
              f"{entry}.service": {"type": "LoadBalancer", "grpcPort": 443, "httpPort": 80, "loadBalancerClass": "example.com/nlb"},
              "routes": {"parentRefs": [{"name": "g"}], "grpc": {"enabled": True, "hostnames": ["g.example"]},
                         "http": {"enabled": True, "hostnames": ["h.example"]}}}
    documents = valid(helm.render(values=values, apis=["gateway.networking.k8s.io/v1"]))
    service = find(documents, "Service", f"qwenserve-{entry}")["spec"]
    assert service["loadBalancerClass"] == "example.com/nlb"
    assert [(p["name"], p["port"], p["targetPort"]) for p in service["ports"]] == [("grpc", 443, "grpc"), ("http", 80, "http")]
    for kind, port in (("GRPCRoute", 443), ("HTTPRoute", 80)):
        [route] = of_kind(documents, kind)
        assert route["spec"]["rules"][0]["backendRefs"] == [{"name": f"qwenserve-{entry}", "port": port}]
    # Without an address of its own there is nothing that could translate ports.
    assert [p["port"] for p in find(documents, "Service", "qwenserve-gateway-pods")["spec"]["ports"]] == [50051, 8080]
    [test] = of_kind(documents, "Pod")
    asked = {a for c in test["spec"]["containers"] for a in c["command"] if a.startswith("--address=")}
    assert asked == {f"--address=qwenserve-gateway:{443 if entry == 'gateway' else 50051}"}
    done = helm.run("install", "demo", "helm/qwenserve", "--dry-run=client", "--set", "gateway.service.grpcPort=443")
    assert "service/demo-qwenserve-gateway 50051:443" in done.stdout and "demo-qwenserve-gateway.default:443 (gRPC)" in done.stdout


def test_nothing_of_it_is_there_by_default(documents):
    assert not of_kind(documents, "ServiceAccount")
    for workload in of_kind(documents, *WORKLOAD_KINDS):
        assert "updateStrategy" not in workload["spec"]
