"""TLS, keys, salts and the edges of the network."""

import pytest

from conftest import OLDEST, OWN_MODEL
from rendered import all_pods, find, of_kind, pod, pods, selects
from schemas import validate

CERT_MANAGER = ["cert-manager.io/v1"]
INTERNAL = {"enabled": True, "gatewaySecret": "gw", "workerSecret": "wk", "gatewayNames": ["gw.example"],
            "workerNames": ["spiffe://cluster/worker", "wk.example"]}


def secrets_of(this):
    """{mount path: Secret} of what is mounted read-only, as a folder: files that are mounted one by one
    never change."""
    result = {}
    for path, mount in this.mounts.items():
        volume = this.volumes[mount["name"]]
        if "secret" in volume:
            assert mount["readOnly"] is True and "subPath" not in mount
            result[path] = volume["secret"]["secretName"]
    return result


def test_every_file_that_a_flag_names_is_mounted(documents):
    for this in pods(documents):
        for name, value in this.flags.items():
            if value.startswith("/etc/"):
                assert value.rsplit("/", 1)[0] in secrets_of(this), f"{this.component} --{name}={value}"


def test_admin_is_for_those_in_the_pod(documents):
    for this in pods(documents):
        assert this.flags["admin-listen"] == "127.0.0.1:50091"
        assert 50091 not in this.ports.values()
    for document in of_kind(documents, "Service") + of_kind(documents, "NetworkPolicy"):
        assert "50091" not in str(document["spec"])


def test_admin_can_be_left_out(helm):
    for this in pods(helm.render(values={"adminPort": 0})):
        assert "admin-listen" not in this.flags
    for this in pods(helm.render(values={"adminPort": 7000})):
        assert this.flags["admin-listen"] == "127.0.0.1:7000"


def test_api_keys_and_salt(helm):
    this = pod(helm.render(values={"gateway.apiKeys.secretName": "keys", "gateway.cacheSalt.secretName": "salt"}),
               "gateway")
    validate(this.workload, OLDEST)
    assert this.flags["api-keys"] == "/etc/qwenserve/api-keys/api-keys"
    assert this.flags["cache-salt-secret-file"] == "/etc/qwenserve/cache-salt/salt"
    assert secrets_of(this) == {"/etc/qwenserve/api-keys": "keys", "/etc/qwenserve/cache-salt": "salt"}
    assert not {"api-keys", "cache-salt-secret-file"} & set(pod(helm.render(), "gateway").flags)


def test_edge_tls_from_a_secret(helm):
    documents = helm.render(values={"tls.edge.enabled": True, "tls.edge.secretName": "edge",
                                    "tls.edge.clientCa.secretName": "ca", "tls.edge.clientNames": ["a", "b"]})
    this = pod(documents, "gateway")
    assert this.flags["tls-cert"] == "/etc/qwenserve/tls/tls.crt"
    assert this.flags["tls-key"] == "/etc/qwenserve/tls/tls.key"
    assert this.flags["tls-client-ca"] == "/etc/qwenserve/client-ca/ca.crt"
    assert this.flags["tls-client-names"] == "a,b"
    assert secrets_of(this) == {"/etc/qwenserve/tls": "edge", "/etc/qwenserve/client-ca": "ca"}
    for component in ("tokenizer", "generator"):
        assert not any(name.startswith("tls") for name in pod(documents, component).flags)
    assert not of_kind(documents, "Certificate")
    # Probes stay plaintext on the ops port.
    assert this.container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "ops"}


def test_internal_tls_from_secrets(helm):
    documents = helm.render(values={"tls.internal": INTERNAL})
    gateway = pod(documents, "gateway")
    assert {n: v for n, v in gateway.flags.items() if "tls" in n} == {
        "worker-tls-ca": "/etc/qwenserve/worker-tls/ca.crt", "worker-tls-cert": "/etc/qwenserve/worker-tls/tls.crt",
        "worker-tls-key": "/etc/qwenserve/worker-tls/tls.key",
        "worker-tls-names": "spiffe://cluster/worker,wk.example"}
    assert secrets_of(gateway) == {"/etc/qwenserve/worker-tls": "gw"}
    for component in ("tokenizer", "generator"):
        worker = pod(documents, component)
        assert {n: v for n, v in worker.flags.items() if "tls" in n} == {
            "tls-cert": "/etc/qwenserve/tls/tls.crt", "tls-key": "/etc/qwenserve/tls/tls.key",
            "tls-client-ca": "/etc/qwenserve/tls/ca.crt", "tls-client-names": "gw.example"}
        assert secrets_of(worker) == {"/etc/qwenserve/tls": "wk"}
        service = find(documents, "Service", f"qwenserve-{component}-demo")
        assert service["spec"]["ports"][0]["appProtocol"] == "https"


def test_operators(helm):
    """They are let in by the list of clients, too, where there is one."""
    edge = {"enabled": True, "secretName": "e", "clientCa": {"secretName": "c"}, "adminNames": ["ops"]}
    flags = pod(helm.render(values={"tls.edge": edge}), "gateway").flags
    assert flags["admin-client-names"] == "ops" and "tls-client-names" not in flags
    documents = helm.render(values={"tls.edge": {**edge, "clientNames": ["app", "ops"]},
                                    "tls.internal": {**INTERNAL, "adminNames": ["ops"]}})
    assert pod(documents, "gateway").flags["tls-client-names"] == "app,ops"
    for component in ("tokenizer", "generator"):
        flags = pod(documents, component).flags
        assert flags["admin-client-names"] == "ops" and flags["tls-client-names"] == "gw.example,ops"


def test_internal_tls_by_cert_manager(helm):
    documents = helm.render(values={"tls.internal.enabled": True, "tls.internal.certManager.issuer.name": "ca"},
                            apis=CERT_MANAGER)
    made = {c["spec"]["secretName"]: c["spec"] for c in of_kind(documents, "Certificate")}
    gateway, worker = pod(documents, "gateway"), pod(documents, "generator")
    client = made[secrets_of(gateway)["/etc/qwenserve/worker-tls"]]
    server = made[secrets_of(worker)["/etc/qwenserve/tls"]]
    assert secrets_of(pod(documents, "tokenizer")) == secrets_of(worker)
    # Each side asks for the name that the other one's certificate has.
    assert client["dnsNames"] == [worker.flags["tls-client-names"]] == ["qwenserve-gateway.inference.svc"]
    assert server["dnsNames"] == [gateway.flags["worker-tls-names"]] == ["qwenserve-worker.inference.svc"]
    assert "client auth" in client["usages"] and "server auth" in server["usages"]
    assert "server auth" not in client["usages"] and "client auth" not in server["usages"]
    for spec in made.values():
        assert spec["issuerRef"] == {"name": "ca", "kind": "Issuer", "group": "cert-manager.io"}


@pytest.mark.parametrize("names", [[], ["qwen.example"]])
def test_edge_tls_by_cert_manager(helm, names):
    documents = helm.render(values={"tls.edge.enabled": True, "tls.edge.certManager.dnsNames": names,
                                    "tls.edge.certManager.issuer": {"name": "public", "kind": "ClusterIssuer"}},
                            apis=CERT_MANAGER)
    [certificate] = of_kind(documents, "Certificate")
    assert secrets_of(pod(documents, "gateway")) == {"/etc/qwenserve/tls": certificate["spec"]["secretName"]}
    assert certificate["spec"]["issuerRef"]["kind"] == "ClusterIssuer"
    services = ("qwenserve-gateway", "qwenserve-gateway-pods")
    default = [f"{service}.inference{end}" for service in services for end in ("", ".svc")]
    assert certificate["spec"]["dnsNames"] == (names or default)


# Who may open a connection to whom, read from the policies as a network would.


def applying(documents, labels, direction):
    return [p["spec"] for p in of_kind(documents, "NetworkPolicy")
            if direction in p["spec"]["policyTypes"] and selects(p["spec"]["podSelector"]["matchLabels"], labels)]


def allows(documents, labels, direction, peer, port, protocol="TCP"):
    """`peer`: labels of a pod of the same namespace; None: somebody elsewhere."""
    key, list_name = ("from", "ingress") if direction == "Ingress" else ("to", "egress")
    policies = applying(documents, labels, direction)
    assert policies, "nothing applies, so everything is allowed"
    for rule in [rule for policy in policies for rule in policy.get(list_name, [])]:
        ports = rule.get("ports")
        if ports and not any((p["protocol"], p["port"]) == (protocol, port) for p in ports):
            continue
        if key not in rule:
            return True
        for candidate in rule[key]:
            selector = candidate.get("podSelector", {}).get("matchLabels")
            if peer is not None and "namespaceSelector" not in candidate and selects(selector, peer):
                return True
    return False


def connects(documents, client, server, port):
    return (allows(documents, client, "Egress", server, port)
            and allows(documents, server, "Ingress", client, port))


def test_everything_is_denied_to_start_with(documents):
    for this in all_pods(documents):
        for direction in ("Ingress", "Egress"):
            assert any(not policy.get("ingress") and not policy.get("egress")
                       for policy in applying(documents, this.labels, direction))


def test_edges_of_the_network(documents):
    gateways, workers = pods(documents, "gateway"), pods(documents, "tokenizer") + pods(documents, "generator")
    [gateway] = gateways
    stranger = {"app": "stranger"}
    for worker in workers:
        port = worker.ports["grpc"]
        assert connects(documents, gateway.labels, worker.labels, port)
        assert not connects(documents, worker.labels, gateway.labels, 50051)
        assert not allows(documents, worker.labels, "Ingress", stranger, port)
        assert not allows(documents, worker.labels, "Ingress", None, port)
        for other in workers:
            same_replica = worker.node and (worker.component, worker.model) == (other.component, other.model)
            # NCCL takes ports of its own choice.
            assert connects(documents, worker.labels, other.labels, 40000) == bool(same_replica)
    for protocol in ("UDP", "TCP"):
        assert allows(documents, gateway.labels, "Egress", None, 53, protocol)
    assert not allows(documents, gateway.labels, "Egress", None, 443)
    for worker in workers:  # only nodes that look for their leader ask for names
        assert allows(documents, worker.labels, "Egress", None, 53, "UDP") == bool(worker.node)


def test_with_a_front_clients_reach_nothing_else(helm):
    friend = {"app": "friend"}
    documents = helm.render("front", values={"networkPolicy.clients": [{"podSelector": {"matchLabels": friend}}]})
    [front] = [p.labels for p in all_pods(documents) if p.component == "front"]
    gateway = pod(documents, "gateway").labels
    for port in (50051, 8080):
        assert allows(documents, front, "Ingress", friend, port)
        assert not allows(documents, front, "Ingress", {"app": "stranger"}, port)
        assert not allows(documents, gateway, "Ingress", friend, port)
        assert connects(documents, front, gateway, port)
    assert connects(documents, front, gateway, 9090)  # where it asks who is ready
    assert allows(documents, front, "Egress", None, 53, "UDP")
    for component in ("tokenizer", "generator"):
        this = pod(documents, component)
        assert not connects(documents, front, this.labels, this.ports["grpc"])


def test_scrapers_reach_every_pod(helm):
    documents = helm.render("front", values={"networkPolicy.scrapers": []})
    for this in all_pods(documents):
        assert allows(documents, this.labels, "Ingress", None, 9090)
    assert not allows(helm.render(), pod(helm.render(), "gateway").labels, "Ingress", None, 9090)


def test_clients_can_be_limited(helm):
    friend = {"app": "friend"}
    documents = helm.render(values={"networkPolicy.clients": [{"podSelector": {"matchLabels": friend}}]})
    gateway = pod(documents, "gateway").labels
    for port in (50051, 8080):
        assert allows(documents, gateway, "Ingress", friend, port)
        assert not allows(documents, gateway, "Ingress", {"app": "stranger"}, port)
        assert allows(helm.render(), gateway, "Ingress", {"app": "stranger"}, port)
    # The test of the release is a client too.
    test = of_kind(documents, "Pod")[0]["metadata"]["labels"]
    assert connects(documents, test, gateway, 50051)


def test_other_ports_of_name_servers(helm):
    documents = helm.render(values={"networkPolicy.dnsPorts": [53, 5353]})
    labels = pod(documents, "gateway").labels
    for protocol in ("UDP", "TCP"):
        assert allows(documents, labels, "Egress", None, 5353, protocol)
        assert not allows(helm.render(), labels, "Egress", None, 5353, protocol)


def test_network_policies_can_be_left_out(helm):
    assert not of_kind(helm.render(values={"networkPolicy.enabled": False}), "NetworkPolicy")


def test_the_test_asks_every_model(helm):
    [test] = of_kind(helm.render(values={"models": {"a": {**OWN_MODEL, "name": "A"}, "b": {**OWN_MODEL, "name": "B"}}}),
                     "Pod")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert [c["command"][:2] for c in test["spec"]["containers"]] == [["/usr/bin/qwenctl", "chat"]] * 2
    assert ["--model=A" in c["command"] for c in test["spec"]["containers"]] == [True, False]
    assert ["--model=B" in c["command"] for c in test["spec"]["containers"]] == [False, True]
    for container in test["spec"]["containers"]:
        assert "--address=qwenserve-gateway:50051" in container["command"]
        assert container["image"] == "qwenserve-gateway:0.1.0"
    gateway = pod(helm.render(), "gateway")
    selector = find(helm.render(), "Service", "qwenserve-gateway")["spec"]["selector"]
    assert selects(selector, gateway.labels) and not selects(selector, test["metadata"]["labels"])


def test_the_test_has_a_key_where_keys_are_asked_for(helm):
    keys = {"gateway.apiKeys.secretName": "keys"}
    assert not of_kind(helm.render(values=keys), "Pod")  # it would fail for want of one
    [test] = of_kind(helm.render(values={**keys, "tests.apiKey.secretName": "mine"}), "Pod")
    [container] = test["spec"]["containers"]
    assert container["env"] == [{"name": "QWENSERVE_API_KEY",
                                 "valueFrom": {"secretKeyRef": {"name": "mine", "key": "key"}}}]
    assert not of_kind(helm.render(values={"tests.enabled": False}), "Pod")


def test_only_with_tracing_a_collector_is_reached(helm):
    """By every process, TLS or not, and by nobody else; names need a name server."""
    collector = {"app": "collector"}
    values = {"tracing.enabled": True, "tracing.endpoint": "collector.monitoring:4318", "tracing.sampleRatio": 0.5}
    anywhere = helm.render("front", values=values)
    there = helm.render("front", values={
        **values, "tracing.collectors": [{"podSelector": {"matchLabels": collector}}],
        "tracing.tls": {"secretName": "t", "clientCertificate": True, "collectorNames": ["a", "b"]}})
    for this in all_pods(anywhere):
        ours = this.component in ("gateway", "tokenizer", "generator")
        assert allows(anywhere, this.labels, "Egress", None, 4318) == ours
        assert allows(there, this.labels, "Egress", collector, 4318) == ours
        assert not allows(there, this.labels, "Egress", None, 4318)
        assert not allows(there, this.labels, "Egress", collector, 4317)
        if ours:
            assert allows(there, this.labels, "Egress", None, 53, "UDP")
            assert this.flags["otlp-endpoint"] == "collector.monitoring:4318" and this.flags["otlp-sample-ratio"] == "0.5"
            assert "/etc/qwenserve/collector-tls" not in secrets_of(this)
    folder = "/etc/qwenserve/collector-tls"
    for component in ("gateway", "tokenizer", "generator"):
        this = pod(there, component)
        assert secrets_of(this)[folder] == "t"
        assert {n: v for n, v in this.flags.items() if n.startswith("otlp-tls")} == {
            "otlp-tls-ca": f"{folder}/ca.crt", "otlp-tls-cert": f"{folder}/tls.crt",
            "otlp-tls-key": f"{folder}/tls.key", "otlp-tls-names": "a,b"}
        off = pod(helm.render(), component)
        assert not any(name.startswith("otlp") for name in off.flags) and folder not in secrets_of(off)
        assert off.flags["log-format"] == "json"
