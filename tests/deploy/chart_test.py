"""What holds for the objects of every profile."""

import kubernetes_validate
import jsonschema
import pytest

from conftest import CHART, NEWEST, OLDEST, PROFILES, profile_path, requirements
from rendered import COMPONENTS, PORTS, WORKLOAD_KINDS, all_pods, find, of_kind, pod, pods, selects
from schemas import CUSTOM, validate


def minor_of(kubernetes):
    return int(kubernetes.split(".")[1])


ALL_KUBERNETES = [f"1.{minor}" for minor in range(minor_of(OLDEST), minor_of(NEWEST) + 1)]


def test_lint_is_strictly_clean(helm, profile):
    kubernetes, _ = requirements(profile)
    values = ["--values", profile_path(profile)] if profile else []
    # Lint knows of no APIs, so what needs some is linted without its check.
    done = helm.run("lint", "--strict", "--kube-version", f"{kubernetes}.0", CHART, *values)
    output = done.stdout + done.stderr
    if requirements(profile)[1]:
        assert "[WARNING]" not in output and output.count("[ERROR]") <= 1
        assert "install it first" in output or done.returncode == 0, output
    else:
        assert done.returncode == 0, output
        assert "[WARNING]" not in output and "[ERROR]" not in output


@pytest.mark.parametrize("kubernetes", ALL_KUBERNETES)
def test_objects_are_valid(helm, profile, kubernetes):
    least, apis = requirements(profile)
    if minor_of(kubernetes) < minor_of(least):
        return  # the profile says so, and test_kubernetes_that_is_too_old of values_schema_test why
    documents = helm.render(profile, kubernetes=kubernetes, apis=apis)
    assert {"Deployment", "Service", "NetworkPolicy"} <= {d["kind"] for d in documents}
    for document in documents:
        validate(document, kubernetes)


def test_the_validation_is_strict(helm):
    """It finds what an API server would drop, in core kinds and in custom ones."""
    service = of_kind(helm.render(), "Service")[0]
    service["spec"]["clusterIp"] = "None"
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(service, NEWEST)
    group = of_kind(helm.render("gpu-72b-two-nodes"), "LeaderWorkerSet")[0]
    group["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(group, NEWEST)
    group = of_kind(helm.render("gpu-72b-two-nodes"), "LeaderWorkerSet")[0]
    group["spec"]["leaderWorkerTemplate"]["sizes"] = 2
    with pytest.raises(jsonschema.ValidationError):
        validate(group, NEWEST)


def test_the_profiles_cover_every_custom_kind(rendered_profiles):
    rendered = {(d["apiVersion"], d["kind"]) for documents in rendered_profiles.values() for d in documents}
    assert set(CUSTOM) <= rendered


def test_older_kubernetes_is_refused(helm):
    done = helm.template(kubernetes="1.28")
    assert done.returncode != 0 and "1.29" in done.stderr


def test_no_object_twice_and_no_namespace_fixed(documents):
    keys = [(d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(keys) == len(set(keys))
    assert not any("namespace" in d["metadata"] for d in documents)


def test_every_object_says_whose_it_is(documents):
    for document in documents:
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "qwenserve"
        assert labels["app.kubernetes.io/name"] == "qwenserve"


def test_addresses_and_declared_ports_agree(documents):
    for this in pods(documents):
        given = this.flags
        # The public ports and those of metrics take connections on every address, for kubectl port-forward comes
        # in through loopback.
        host = "0.0.0.0" if this.component == "gateway" else "$(POD_IP)"
        ports = {"grpc": PORTS[this.component], "ops": 9090}
        assert given["listen"] == f"{host}:{ports['grpc']}"
        assert given["ops-listen"] == "0.0.0.0:9090"
        if this.component == "gateway":
            ports["http"] = 8080
            assert given["http-listen"] == "0.0.0.0:8080"
        if this.node:
            ports["nodes"] = 50081
            assert given["leader"].endswith(":50081")
        assert this.ports == ports
        assert this.container["env"][0] == {
            "name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def test_gateway_is_told_the_services_of_all_workers(documents):
    given = pod(documents, "gateway").flags
    for flag, component in (("tokenizers", "tokenizer"), ("generators", "generator")):
        addresses = given[flag].split(",")
        assert len(addresses) == len({p.model for p in pods(documents, component)})
        reached = set()
        for address in addresses:
            name, number = address.split(":")
            service = find(documents, "Service", name)
            assert service["spec"]["clusterIP"] == "None"
            # Only ready ones are in the names, so that a gateway meets no model that is loading.
            assert not service["spec"].get("publishNotReadyAddresses")
            assert [p["port"] for p in service["spec"]["ports"]] == [int(number)] == [PORTS[component]]
            found = [p for p in pods(documents) if selects(service["spec"]["selector"], p.labels)]
            # Of several nodes the leader alone.
            assert [(p.component, p.node in (None, "leader")) for p in found] == [(component, True)]
            reached.add(found[0].model)
        assert reached == {p.model for p in pods(documents, component)}


def test_probes_ask_the_ops_port(documents):
    for this in pods(documents):
        # A gateway's readiness has peers in it.
        start = "/livez" if this.component == "gateway" else "/readyz"
        for probe, path in (("startupProbe", start), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert this.container[probe]["httpGet"] == {"path": path, "port": "ops"}
            assert this.container[probe]["timeoutSeconds"] <= this.container[probe]["periodSeconds"]


def test_grace_covers_the_drain_and_nothing_runs_before_it(documents):
    for this in pods(documents):
        drain = int(this.flags["drain-delay"]) + int(this.flags["drain-timeout"])
        assert this.spec["terminationGracePeriodSeconds"] == drain + 15
    for this in all_pods(documents):
        assert "lifecycle" not in this.container  # the processes drain by themselves


def test_a_gateway_may_finish_the_longest_request(documents):
    flags = pod(documents, "gateway").flags
    assert int(flags["drain-timeout"]) >= int(flags["max-request-time"])


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("delay, timeout", [(10, 120), (0, 0), (7, 3600)])
def test_grace_is_computed(helm, component, delay, timeout):
    this = pod(helm.render(values={f"{component}.drain": {"delaySeconds": delay, "timeoutSeconds": timeout}}),
               component)
    assert (this.flags["drain-delay"], this.flags["drain-timeout"]) == (str(delay), str(timeout))
    assert this.spec["terminationGracePeriodSeconds"] == delay + timeout + 15


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("seconds, failures", [(5, 5), (1800, 1800), (1000000, 1000000)])
def test_startup_budget(helm, component, seconds, failures):
    probe = pod(helm.render(values={f"{component}.startupSeconds": seconds}), component).container["startupProbe"]
    assert probe["failureThreshold"] == failures
    assert probe["failureThreshold"] * probe["periodSeconds"] >= seconds


def test_an_update_waits_until_new_pods_are_known(documents):
    """A new pod must be in names and endpoints before the next old one leaves: as late as at a stop."""
    for this in all_pods(documents):
        if this.workload["kind"] != "LeaderWorkerSet":  # which has no such field
            delay = this.flags["drain-delay"] if this.component in COMPONENTS else 10
            assert this.workload["spec"]["minReadySeconds"] == int(delay) > 0


def test_workloads_select_their_own_pods_and_no_others(documents):
    everything = all_pods(documents)
    for this in everything:
        if this.workload["kind"] == "LeaderWorkerSet":  # selects by labels that it sets itself
            continue
        selector = this.workload["spec"]["selector"]["matchLabels"]
        assert [p.name for p in everything if selects(selector, p.labels)] == [this.name]
        # A selector cannot change, so nothing that a release changes may be in it.
        keys = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")}
        assert set(selector) == keys | ({"qwenserve/model"} if this.model else set())


def test_a_new_chart_version_restarts_no_pod(documents):
    for this in all_pods(documents):
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(this.labels)


def test_gateway_services(documents):
    this = pod(documents, "gateway")
    tls = "tls-cert" in this.flags
    for name in ("qwenserve-gateway", "qwenserve-gateway-pods"):
        service = find(documents, "Service", name)["spec"]
        assert selects(service["selector"], this.labels)
        assert service["ports"] == [
            {"name": "grpc", "port": 50051, "targetPort": "grpc",
             "appProtocol": "https" if tls else "kubernetes.io/h2c"},
            {"name": "http", "port": 8080, "targetPort": "http", "appProtocol": "https" if tls else "http"}]
    assert "clusterIP" not in find(documents, "Service", "qwenserve-gateway")["spec"]
    assert find(documents, "Service", "qwenserve-gateway-pods")["spec"]["clusterIP"] == "None"


def test_rolling_updates_keep_the_capacity(documents):
    for this in all_pods(documents):
        if this.workload["kind"] == "Deployment":
            assert this.workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        if this.workload["kind"] == "StatefulSet":
            assert this.workload["spec"]["podManagementPolicy"] == "Parallel"
            service = find(documents, "Service", this.workload["spec"]["serviceName"])
            assert selects(service["spec"]["selector"], this.labels)


def all_containers(documents):
    for spec in [p.spec for p in all_pods(documents)] + [d["spec"] for d in of_kind(documents, "Pod")]:
        for container in spec["containers"] + spec.get("initContainers", []):
            yield spec, container


def test_restricted_pod_security(documents):
    for spec, container in all_containers(documents):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        allowed = {"persistentVolumeClaim", "emptyDir", "secret", "configMap", "image"}
        assert all(set(volume) - {"name"} <= allowed for volume in spec.get("volumes", []))


def test_root_file_systems_are_read_only_but_for_gpus(documents):
    for this in pods(documents):
        gpu = this.flags.get("device") == "cuda"
        assert this.container["securityContext"]["readOnlyRootFilesystem"] is not gpu
        for container in this.spec.get("initContainers", []):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_service_links_do_not_look_like_configuration(documents):
    for spec, _ in all_containers(documents):
        assert spec["enableServiceLinks"] is False


def test_the_reason_of_an_end_is_in_the_pod(documents):
    for _, container in all_containers(documents):
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_every_container_has_memory_bounds(documents):
    for _, container in all_containers(documents):
        assert "memory" in container["resources"]["limits"]


def amount(quantity):
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    text = str(quantity)
    number = text.rstrip("mkMGTi")
    return float(number) * units.get(text[len(number):], 1)


def test_requests_are_within_limits(documents):
    for _, container in all_containers(documents):
        resources = container["resources"]
        for name, limit in resources["limits"].items():
            assert amount(resources.get("requests", {}).get(name, 0)) <= amount(limit), name


def test_no_secret_is_rendered(documents):
    assert not of_kind(documents, "Secret")
    assert {d["metadata"]["name"] for d in of_kind(documents, "ConfigMap")} <= {"qwenserve-front"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_image_has_the_name_of_the_process(helm, component):
    def image(values=None):
        return pod(helm.render(values=values), component).container["image"]
    name = f"qwenserve-{component}{'-cpu' if component == 'generator' else ''}"
    assert image() == f"{name}:0.1.0"
    assert image({"image.registry": "registry.example:5000/team/", "image.tag": "sha-1"}) == (
        f"registry.example:5000/team/{name}:sha-1")
    assert image({f"{component}.image": "registry.example/x@sha256:12", "image.tag": "y"}) == (
        "registry.example/x@sha256:12")


@pytest.mark.parametrize("component", COMPONENTS)
def test_pod_values_arrive(helm, component):
    toleration = {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}
    documents = helm.render(values={f"{component}.nodeSelector": {"disk": "fast"},
                                    f"{component}.tolerations": [toleration], f"{component}.replicas": 3,
                                    f"{component}.affinity": affinity, f"{component}.runtimeClassName": "gvisor",
                                    f"{component}.priorityClassName": "high",
                                    f"{component}.podLabels": {"team": "a"},
                                    f"{component}.podAnnotations": {"note": "b"},
                                    f"{component}.env": {"TZ": "UTC"},
                                    f"{component}.flags.max-connections": 1000000,
                                    "image.pullSecrets": ["registry"], "logLevel": "debug"})
    this = pod(documents, component)
    validate(this.workload, NEWEST)
    assert this.spec["nodeSelector"] == {"disk": "fast"}
    assert this.spec["tolerations"] == [toleration]
    assert this.spec["affinity"] == affinity
    assert this.spec["runtimeClassName"] == "gvisor"
    assert this.spec["priorityClassName"] == "high"
    assert this.spec["imagePullSecrets"] == [{"name": "registry"}]
    assert this.labels["team"] == "a"
    assert this.template["metadata"]["annotations"] == {"note": "b"}
    assert this.container["env"][1:] == [{"name": "TZ", "value": "UTC"}]
    assert this.flags["max-connections"] == "1000000"
    assert this.flags["log-level"] == "debug"
    assert this.workload["spec"]["replicas"] == 3
    for other in set(COMPONENTS) - {component}:
        assert not {"nodeSelector", "tolerations", "affinity", "runtimeClassName"} & set(pod(documents, other).spec)
        assert "max-connections" not in pod(documents, other).flags


def test_http_can_be_turned_off(helm):
    documents = helm.render(values={"gateway.http.enabled": False})
    assert pod(documents, "gateway").flags["http-listen"] == ""
    assert pod(documents, "gateway").ports == {"grpc": 50051, "ops": 9090}
    for name in ("qwenserve-gateway", "qwenserve-gateway-pods"):
        assert [p["name"] for p in find(documents, "Service", name)["spec"]["ports"]] == ["grpc"]
    policy = find(documents, "NetworkPolicy", "qwenserve-gateway")
    assert [p["port"] for p in policy["spec"]["ingress"][0]["ports"]] == [50051]


@pytest.mark.parametrize("given, expected", [
    (True, "on"), (False, "off"), ("auto", "auto"), ("off", "off")])
def test_flags_that_yaml_reads_as_booleans(helm, given, expected):
    """An unquoted on or off is true or false in YAML."""
    assert pod(helm.render(values={"gateway.flags.reflection": given}), "gateway").flags["reflection"] == expected


def test_flags_are_spelled_for_the_program(helm):
    given = {"max-inflight-bytes": 1073741824, "max-queue-wait": 0.5, "trusted-proxies": ["10.0.0.0/8", "::1"],
             "no-ui": True, "access-log": "-"}
    flags = pod(helm.render(values={"gateway.flags": given}), "gateway").flags
    assert {name: flags[name] for name in given} == {
        "max-inflight-bytes": "1073741824", "max-queue-wait": "0.5", "trusted-proxies": "10.0.0.0/8,::1",
        "no-ui": "true", "access-log": "-"}


def test_long_release_names_stay_valid(helm):
    release = "r" * 53  # the longest that helm takes
    values = {"models": {"m" * 20: {**{"source": {"pvc": {"claimName": "c"}}},
                                   "generator": {"resources": {"limits": {"memory": "1Gi"}}}},
                         "m" * 19 + "n": {"name": "other", "source": {"builtin": "demo"}}}}
    documents = helm.render(values=values, release=release)
    # A StatefulSet's pods carry its name and an 11-character revision in a label of at most 63.
    assert max(len(d["metadata"]["name"]) for d in of_kind(documents, *WORKLOAD_KINDS)) <= 52
    assert max(len(d["metadata"]["name"]) for d in documents) <= 63
    names = [(d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(names) == len(set(names))
    services = {d["metadata"]["name"] for d in of_kind(documents, "Service")}
    for flag in ("tokenizers", "generators"):
        assert {a.split(":")[0] for a in pod(documents, "gateway").flags[flag].split(",")} <= services


def notes(helm, *arguments):
    done = helm.run("install", "demo", CHART, "--dry-run=client", "--namespace", "inference", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("NOTES:")[1]


def test_notes_name_the_first_command(helm):
    text = notes(helm)
    assert "--namespace inference exec deployment/demo-qwenserve-gateway -- qwenctl chat" in text
    assert "service/demo-qwenserve-gateway 50051" in text
    assert "helm test demo --namespace inference" in text
    assert "Clients speak plaintext" in text and "Anyone who reaches the gateway may call it" in text
    assert "Gateway and workers speak plaintext to each other" in text and "NetworkPolicies let nobody else in" in text
    assert "to load" not in text  # the demo is there at once
    assert "Clients speak plaintext" in notes(helm, "--set", "front.tlsSecret=s")  # of a front that is not there
    text = notes(helm, "--set", "networkPolicy.enabled=false")
    assert "no NetworkPolicy keeps others away" in text


def test_notes_of_a_guarded_release(helm):
    text = notes(helm, "--set", "tls.edge.enabled=true,tls.edge.secretName=s,gateway.apiKeys.secretName=k")
    assert "Clients speak TLS" in text and "Clients need an API key" in text
    assert "https://127.0.0.1:8080" in text and "Bearer $KEY" in text
    assert "share no cached prompts over several gateways" in text
    assert "qwenctl chat" not in text and "helm test" not in text  # it speaks no TLS
    text = notes(helm, "--set", "gateway.http.enabled=false,gateway.apiKeys.secretName=k")
    assert "curl" not in text and "qwenctl chat --address 127.0.0.1:50051 --api-key-file FILE" in text
    text = notes(helm, "--set", "gateway.service.type=LoadBalancer")
    assert "kubectl --namespace inference get service demo-qwenserve-gateway" in text
    text = notes(helm, "--set", "front.enabled=true,front.tlsSecret=s")
    assert "demo-qwenserve-front.inference:50051" in text and "Clients speak TLS to the front" in text
