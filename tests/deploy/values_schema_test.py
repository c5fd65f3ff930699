"""A wrong value is refused before anything is rendered, by its path or with what to do instead."""

import json

import pytest
import yaml

from conftest import ALL_APIS, CHART, OWN_MODEL

WRONG = [
    ({"generators": {}}, "generators"),
    ({"gateway.replica": 2}, "replica"),
    ({"models.m.source.pvc.name": "x"}, "name"),
    ({"generator.drain.preStop": 1}, "preStop"),
    ({"generator.resources.limit": {}}, "limit"),
    ({"podMonitor.enable": True}, "enable"),
    ({"gateway.replicas": "2"}, "/gateway/replicas"),
    ({"gateway.replicas": -1}, "/gateway/replicas"),
    ({"gateway.maxRequestSeconds": 0}, "/gateway/maxRequestSeconds"),
    ({"gateway.apiKeys": "s"}, "/gateway/apiKeys"),
    ({"gateway.service.type": "Headless"}, "/gateway/service/type"),
    ({"gateway.env": {"A-B": "x"}}, "A-B"),
    ({"gateway.env": {"A": 1}}, "/gateway/env/A"),
    ({"tokenizer.drain.delaySeconds": 1.5}, "/tokenizer/drain/delaySeconds"),
    ({"tokenizer.drain.timeoutSeconds": -1}, "/tokenizer/drain/timeoutSeconds"),
    ({"tokenizer.drain": None}, "drain"),
    ({"generator.startupSeconds": 0}, "/generator/startupSeconds"),
    ({"generator.device": "gpu"}, "/generator/device"),
    ({"generator.nodes": 0}, "/generator/nodes"),
    ({"generator.workload": "Deployment"}, "/generator/workload"),
    ({"generator.tensorParallel": 0}, "/generator/tensorParallel"),
    ({"generator.tensorParallelMode": "mpi"}, "/generator/tensorParallelMode"),
    ({"generator.gpuResource": "gpu"}, "/generator/gpuResource"),
    ({"generator.sharedMemory": "lots"}, "/generator/sharedMemory"),
    ({"generator.resources.limits.memory": "2GB"}, "/generator/resources/limits/memory"),
    ({"generator.tolerations": [{"effect": "Never"}]}, "/generator/tolerations/0/effect"),
    ({"generator.nodeSelector": {"a": 1}}, "/generator/nodeSelector/a"),
    ({"generator.autoscaling.minReplicas": 0}, "/generator/autoscaling/minReplicas"),
    ({"generator.flags.max-model-len": "many"}, "/generator/flags/max-model-len"),
    ({"generator.flags.kv-dtype": "int4"}, "/generator/flags/kv-dtype"),
    ({"generator.flags.prefix-cache": "yes"}, "/generator/flags/prefix-cache"),
    ({"generator.flags.kv-cache-memory": "4 GiB"}, "/generator/flags/kv-cache-memory"),
    ({"generator.flags.gpu-memory-fraction": 1.5}, "/generator/flags/gpu-memory-fraction"),
    ({"generator.flags.max-model-length": 1}, "max-model-length"),
    ({"generator.flags.tp": 2}, "tp"),  # the chart's own
    ({"gateway.flags.listen": "0.0.0.0:1"}, "listen"),
    ({"gateway.flags.admin": "on"}, "/gateway/flags/admin"),
    ({"gateway.flags.access-log": "/log"}, "/gateway/flags/access-log"),
    ({"gateway.flags.trusted-proxies": "10.0.0.0/8"}, "/gateway/flags/trusted-proxies"),
    ({"tokenizer.flags.threads": 65}, "/tokenizer/flags/threads"),
    ({"front.image": ""}, "/front/image"),
    ({"front.connectionsPerAddress": 0}, "/front/connectionsPerAddress"),
    ({"logLevel": "verbose"}, "/logLevel"),
    ({"logFormat": "xml"}, "/logFormat"),
    ({"adminPort": 70000}, "/adminPort"),
    ({"tracing.enabled": True}, "/tracing/endpoint"),
    ({"tracing.endpoint": "http://collector:4317"}, "/tracing/endpoint"),
    ({"tracing.endpoint": "collector"}, "/tracing/endpoint"),
    ({"tracing.sampleRatio": 2}, "/tracing/sampleRatio"),
    ({"tracing.tls.secretName": "A_B"}, "/tracing/tls/secretName"),
    ({"tracing.collectors": [{}]}, "/tracing/collectors/0"),
    ({"image.pullPolicy": "Sometimes"}, "/image/pullPolicy"),
    ({"image.tag": "a b"}, "/image/tag"),
    ({"image.registry": "https://registry.example"}, "/image/registry"),
    ({"fullnameOverride": "Serving"}, "/fullnameOverride"),
    ({"commonLabels": {"a": 1}}, "/commonLabels/a"),
    ({"serviceAccount.name": "A_B"}, "/serviceAccount/name"),
    ({"podSecurityContext.runAsUser": 0}, "/podSecurityContext/runAsUser"),
    ({"podSecurityContext.runAsNonRoot": False}, "runAsNonRoot"),
    ({"gateway.env": {"A": {"valueFrom": {}}}}, "valueFrom"),
    ({"gateway.service.grpcPort": 0}, "/gateway/service/grpcPort"),
    ({"gateway.rollingUpdate.maxSurge": "some"}, "/gateway/rollingUpdate/maxSurge"),
    ({"gateway.extraVolumes": {"a": {}}}, "/gateway/extraVolumes"),
    ({"generator.partition": -1}, "/generator/partition"),
    ({"models.m": {**OWN_MODEL, "name": "a b"}}, "/models/m/name"),
    ({"models.m": {**OWN_MODEL, "chatTemplate": "llama"}}, "/models/m/chatTemplate"),
    ({"models.m": {**OWN_MODEL, "toolFormat": "xml"}}, "/models/m/toolFormat"),
    ({"models.m": {**OWN_MODEL, "generator": {"flags": {"isa": "sse"}}}}, "/models/m/generator/flags/isa"),
    ({"models.m.source.pvc.claimName": "A_B"}, "/models/m/source/pvc/claimName"),
    ({"models.m.source.pvc": {"claimName": "c", "subPath": "../etc"}}, "/models/m/source/pvc/subPath"),
    ({"models.m.source.pvc": {"claimName": "c", "subPath": "/m"}}, "/models/m/source/pvc/subPath"),
    ({"models.m.source.hostPath.path": "models"}, "/models/m/source/hostPath/path"),
    ({"models.m.source.copy": {"image": "i", "path": "p", "sizeLimit": "1Gi"}}, "sha256"),
    ({"models.m.source.builtin": "qwen"}, "/models/m/source/builtin"),
    ({"podMonitor.interval": "15"}, "/podMonitor/interval"),
    ({"prometheusRule.slo.availability": 99.9}, "/prometheusRule/slo/availability"),
    ({"prometheusRule.slo.firstToken": 0.9}, "/prometheusRule/slo/firstToken"),
    ({"prometheusRule.slo.firstTokenSeconds": 3}, "/prometheusRule/slo/firstTokenSeconds"),
    ({"prometheusRule.slo.errorCodes": ["NOT_OK"]}, "/prometheusRule/slo/errorCodes"),
    ({"prometheusRule.thresholds.notReady": 45}, "/prometheusRule/thresholds/notReady"),
    ({"prometheusRule.thresholds.kvUsageRatio": 95}, "/prometheusRule/thresholds/kvUsageRatio"),
    ({"prometheusRule.severities.page": "wake me"}, "/prometheusRule/severities/page"),
    ({"dashboards.labels": {"grafana_dashboard": None}}, "/dashboards/labels"),
    ({"runbookUrl": "https://x/#y"}, "/runbookUrl"),
    ({"tls.edge.certManager.duration": "90d"}, "/tls/edge/certManager/duration"),
    ({"networkPolicy.clients": [{}]}, "/networkPolicy/clients/0"),
    ({"routes.http.hostnames": ["Qwen_1"]}, "/routes/http/hostnames/0"),
    ({"prometheusAddress": "prometheus:9090"}, "/prometheusAddress"),
]

# What only several values together make wrong: the message says what to do.
CUDA = {"generator.device": "cuda"}
CONTRADICTIONS = [
    ({"models.Qwen": OWN_MODEL}, 'models: the key "Qwen" becomes part of object names, so it may have at most 20 of'),
    ({"models.a-name-that-is-too-long": OWN_MODEL}, "what clients ask for goes into its name"),
    ({"gateway.podLabels": {"app.kubernetes.io/name": "x"}}, "the chart itself sets the label app.kubernetes.io/name"),
    ({"commonLabels": {"qwenserve/model": "x"}}, "commonLabels: the chart itself sets the label qwenserve/model"),
    ({"tokenizer.env": {"POD_IP": "::1"}}, "the chart itself sets POD_IP"),
    ({"serviceAccount.annotations": {"a": "b"}}, "set serviceAccount.create"),
    ({"gateway.rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}, "gateway.rollingUpdate: with maxSurge and maxUn"),
    ({"gateway.service.externalTrafficPolicy": "Local"}, "and type is ClusterIP: set type to LoadBalancer or NodePort"),
    ({"front": {"enabled": True, "service": {"externalTrafficPolicy": "Local"}}}, "front.service.externalTrafficPolicy is"),
    ({"gateway.service.loadBalancerSourceRanges": ["10.0.0.0/8"]}, "need type LoadBalancer, and type is ClusterIP"),
    ({"gateway.service": {"type": "NodePort", "loadBalancerClass": "a"}}, "need type LoadBalancer, and type is NodePort"),
    ({"front.enabled": True, "gateway.replicas": 16}, "front.maxGateways is 16, and there may be 16 gateways and one more"),
    ({"front.enabled": True, "gateway.autoscaling": {"enabled": True, "maxReplicas": 40}}, "raise it to 41 or more"),
    ({"routes": {"parentRefs": [{"name": "g"}], "grpc": {"enabled": True, "hostnames": ["a.example", "b.example"]},
                 "http": {"enabled": True, "hostnames": ["b.example"]}}}, "b.example is in grpc.hostnames and in http"),
    ({"routes": {"parentRefs": [{"name": "g"}], "grpc": {"enabled": True}, "http": {"enabled": True}}},
     "each needs hostnames of its own"),
    ({"models.m": {"name": "m"}}, "models.m.source: say where the checkpoint is, by exactly one of"),
    ({"models.m": {**OWN_MODEL, "source": {"pvc": {"claimName": "c"}, "hostPath": {"path": "/m"}}}},
     "given: pvc, hostPath"),
    ({"models.demo": {**OWN_MODEL, "name": "demo"}}, "another name than demo"),
    ({"models": {"a": OWN_MODEL, "b": OWN_MODEL}}, 'both served as "Own"'),
    ({"models.m": {**OWN_MODEL, "generator": {}}}, "models.m.generator.resources: say what the model needs"),
    ({"models.m": {**OWN_MODEL, "generator": {"resources": {"requests": {"memory": "8Gi"}}}}},
     "models.m.generator.resources.limits.memory: say how much memory the model may take"),
    ({"models.m": {**OWN_MODEL, "queryHeads": 28}, "generator.tensorParallel": 32},
     "tensorParallel is 32, but the model has 28 query heads"),
    ({"generator.tensorParallel": 8}, "models.demo.generator.tensorParallel is 8, but the model has 4 query heads"),
    ({"generator.autoscaling.enabled": True, "generator.replicas": 0, "prometheusAddress": "http://p"},
     "replicas (0) and autoscaling are both set: leave replicas null and use autoscaling.minReplicas"),
    ({"models.m": OWN_MODEL, **CUDA, "generator.tensorParallel": 8, "generator.gpusPerPod": 4},
     "puts 8 ranks into a pod, but gpusPerPod is 4"),
    ({"generator.gpusPerPod": 4}, "gpusPerPod needs device: cuda"),
    ({"models.m": {**OWN_MODEL, "generator": {"resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}}}, **CUDA},
     "leave nvidia.com/gpu out"),
    ({"generator.tensorParallel": 4, "generator.nodes": 3}, "nodes (3) must cut tensorParallel (4) into equal parts"),
    ({"generator.tensorParallel": 4, "generator.nodes": 2, "generator.workload": "StatefulSet"},
     "workload StatefulSet keeps a replica on one node, and nodes is 2"),
    ({"generator.workload": "LeaderWorkerSet"}, "workload LeaderWorkerSet is for replicas on several nodes"),
    ({"generator.tensorParallel": 2, "generator.flags.engine": "sim"}, "sim has one rank"),
    ({"gateway.autoscaling.enabled": True, "gateway.replicas": 0}, "gateway: replicas (0) and autoscaling are both set"),
    ({"tokenizer.autoscaling.enabled": True, "tokenizer.replicas": 2}, "replicas (2) and autoscaling are both set"),
    ({"generator.autoscaling.enabled": True, "generator.replicas": 2, "prometheusAddress": "http://p"},
     "replicas (2) and autoscaling are both set"),
    ({"gateway.autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}, "minReplicas (9) is above maxReplicas"),
    ({"generator.autoscaling.enabled": True}, "needs prometheusAddress"),
    ({"gateway.flags.proxy-protocol": "grpc"}, "proxy-protocol needs trusted-proxies"),
    ({"tls.edge.enabled": True}, "tls.edge.enabled needs tls.edge.secretName"),
    ({"tls.edge": {"enabled": True, "secretName": "s", "certManager": {"issuer": {"name": "i"}}}}, "both set"),
    ({"tls.edge": {"enabled": True, "secretName": "s", "clientNames": ["a"]}}, "clientNames and adminNames need tls.edge.clientCa"),
    ({"tls.internal.enabled": True}, "tls.internal.enabled needs tls.internal.gatewaySecret"),
    ({"tls.internal": {"enabled": True, "gatewaySecret": "g"}}, "tls.internal.enabled needs"),
    ({"tls.internal": {"enabled": True, "gatewaySecret": "g", "workerSecret": "w"}}, "gatewayNames and workerNames say"),
    ({"tls.internal": {"enabled": True, "gatewaySecret": "g", "certManager": {"issuer": {"name": "i"}}}}, "both set"),
    ({"routes.grpc.enabled": True}, "routes need routes.parentRefs"),
    ({"routes": {"parentRefs": [{"name": "g"}], "http": {"enabled": True}}, "gateway.http.enabled": False},
     "routes.http needs gateway.http.enabled"),
    ({"adminPort": 9090}, "adminPort: 9090 is a port that a pod has already"),
    ({"inferencePool.enabled": True}, "inferencePool.endpointPicker.name"),
    ({"inferencePool": {"enabled": True, "endpointPicker": {"name": "p"}}, "front.enabled": True}, "enable one of the two"),
    ({"front.enabled": True, "tls.edge": {"enabled": True, "secretName": "s"}}, "so tls.edge must be off"),
]

# Of a cluster that lacks something.
MISSING = [
    ({"generator.tensorParallel": 2, "generator.nodes": 2}, "leaderworkerset.x-k8s.io/v1"),
    ({"generator.autoscaling.enabled": True, "prometheusAddress": "http://p"}, "keda.sh/v1alpha1"),
    ({"podMonitor.enabled": True}, "monitoring.coreos.com/v1"),
    ({"prometheusRule.enabled": True}, "monitoring.coreos.com/v1"),
    ({"tls.internal": {"enabled": True, "certManager": {"issuer": {"name": "i"}}}}, "cert-manager.io/v1"),
    ({"routes": {"parentRefs": [{"name": "g"}], "grpc": {"enabled": True}}}, "gateway.networking.k8s.io/v1"),
    ({"inferencePool": {"enabled": True, "endpointPicker": {"name": "p"}}}, "inference.networking.k8s.io/v1"),
]


@pytest.mark.parametrize("values, path", WRONG, ids=lambda item: json.dumps(item))
def test_wrong_value_is_refused(helm, values, path):
    done = helm.template(values=values, apis=ALL_APIS)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert path in done.stderr


@pytest.mark.parametrize("values, message", CONTRADICTIONS, ids=lambda item: json.dumps(item))
def test_contradiction_is_refused(helm, values, message):
    done = helm.template(values=values, apis=ALL_APIS)
    assert done.returncode != 0
    assert "specifications of the schema" not in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("values, api", MISSING, ids=lambda item: json.dumps(item))
def test_missing_api_is_named(helm, values, api):
    done = helm.template(values=values, apis=[a for a in ALL_APIS if a != api])
    assert done.returncode != 0
    assert f"the cluster has no {api}: install it first" in done.stderr
    assert helm.template(values=values, apis=[api]).returncode == 0


@pytest.mark.parametrize("values, kubernetes, before", [
    ({"models.m": {**OWN_MODEL, "source": {"image": {"reference": "r/m:1"}}}}, "1.33", "1.32"),
    ({"models.m": OWN_MODEL, **CUDA, "generator.resourceClaims": [{"name": "g", "resourceClaimName": "c"}]},
     "1.34", "1.33")])
def test_kubernetes_that_is_too_old_for_a_value(helm, values, kubernetes, before):
    assert helm.template(values=values, kubernetes=kubernetes).returncode == 0
    done = helm.template(values=values, kubernetes=before)
    assert done.returncode != 0 and f"needs Kubernetes {kubernetes} or newer" in done.stderr


def schema():
    return json.loads((CHART / "values.schema.json").read_text())


def objects(node, path=""):
    """Every part of the schema that describes an object, with its path."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, value in node.items():
            yield from objects(value, f"{path}/{key}")


def test_schema_is_closed():
    found = list(objects(schema()))
    assert len(found) > 30
    # Helm itself adds "global".
    assert [path for path, node in found if "additionalProperties" not in node] == ["/properties/global"]
    # What is handed on to Kubernetes as it is.
    assert [path for path, node in found if node.get("additionalProperties") is True] == [
        "/definitions/kubernetesObject"]


def test_schema_and_defaults_have_the_same_keys():
    values, known = yaml.safe_load((CHART / "values.yaml").read_text()), schema()

    def compare(value, node, path):
        if "allOf" in node:
            node = node["allOf"][0]
        if "$ref" in node:
            node = known["definitions"][node["$ref"].rsplit("/", 1)[1]]
        if isinstance(value, dict) and "properties" in node and not path.endswith("/flags") and value:
            assert set(value) == set(node["properties"]) - {"global"}, path
            for key, inner in value.items():
                compare(inner, node["properties"][key], f"{path}/{key}")
    compare(values, known, "")
