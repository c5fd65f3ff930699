"""Every expression of dashboards, rules and runbooks, run by a real Prometheus that scrapes a live cluster under
load, in which a replica is lost and requests are turned away."""

import contextlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest
import yaml

from conftest import ROOT
from prometheus_server import PROGRAM, Prometheus
from rendered import find

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from authority import Authority  # noqa: E402
from security import key_line, write_keys  # noqa: E402
from server_process import BIN, DEMO_MODEL, ServerProcess  # noqa: E402
from sim_cluster import SimCluster  # noqa: E402

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="prometheus (the package of that name) is not installed")

DASHBOARDS = sorted((ROOT / "helm" / "qwenserve" / "dashboards").glob("*.json"))
NAMESPACE, RELEASE = "inference", "qwenserve"
KEY = "a-key"


def pod_labels(name, model_key):
    """What discovery would know about the pod of a process."""
    component = name.partition("-")[0]
    labels = {
        "__meta_kubernetes_namespace": NAMESPACE, "__meta_kubernetes_pod_name": f"{RELEASE}-{name}",
        "__meta_kubernetes_pod_container_name": component, "__meta_kubernetes_pod_container_port_name": "ops",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "qwenserve",
        "__meta_kubernetes_pod_label_app_kubernetes_io_instance": RELEASE,
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": component}
    return labels | ({"__meta_kubernetes_pod_label_qwenserve_model": model_key} if model_key else {})


def bench(address, model, rate, *flags, **environment):
    """Load until it is killed."""
    return subprocess.Popen(
        [BIN / "qwenctl", "bench", "--address", address, "--model", model, "--duration", "600", "--rate", str(rate), "--max-tokens", "20:60",
         "--prompt-tokens", "100:300", "--prefix-tokens", "64", "--output", "json", "--no-progress", *map(str, flags)],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class RecordedReplica(http.server.BaseHTTPRequestHandler):
    """A replica with two GPUs, of which only its metrics are there."""
    text = (ROOT / "tests" / "deploy" / "data" / "gpu_replica.prom").read_bytes()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *args):
        pass


class Fleet:
    """Gateways, a simulated model, the demo with two ranks, a recorded replica with GPUs, and Prometheus."""

    def __init__(self, folder, relabel_configs, rule_groups):
        self.authority = Authority(folder, "authority")
        cert, key = self.authority.issue("gateway", "DNS:localhost,IP:127.0.0.1")
        self.keys = write_keys(folder / "keys", key_line(KEY, "tenant"))
        with contextlib.ExitStack() as stack:
            cluster = SimCluster(
                generators=3, tokenizers=1, gateways=0,
                generator_flags=("--sim-step-ms", 5, "--max-running", 4, "--max-waiting", 4),
                gateway_flags=("--max-waiting", 4, "--access-log", folder / "access.log"))
            stack.callback(cluster.stop)
            for role, processes, *flags in (
                    ("tokenizer", cluster.tokenizers),
                    ("generator", cluster.generators, "--tp", "2", "--kv-cache-memory", "32M", "--threads", "2")):
                process = ServerProcess(role, "--model", DEMO_MODEL, "--served-model-name", "demo", *flags)
                stack.callback(process.stop)
                processes.append(process.wait_ready())
            self.open = cluster.start_gateway()
            self.guarded = cluster.start_gateway(flags=(
                "--tls-cert", cert, "--tls-key", key, "--api-keys", self.keys, "--access-log", folder / "guarded.log"))
            recorded = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RecordedReplica)
            stack.callback(recorded.shutdown)
            threading.Thread(target=recorded.serve_forever, daemon=True).start()
            # In the order of the variables' values: the first gateway is the one with keys.
            targets = [("gateway-0", None, self.guarded.addresses["ops"]), ("gateway-1", None, self.open.addresses["ops"]),
                       ("generator-gpu-0", "gpu", "127.0.0.1:%d" % recorded.server_port)]
            for processes in (cluster.tokenizers, cluster.generators):
                *simulated, demo = processes
                targets += [(f"{p.role}-sim-{number}", "sim", p.addresses["ops"]) for number, p in enumerate(simulated)]
                targets.append((f"{demo.role}-demo-0", "demo", demo.addresses["ops"]))
            self.prometheus = stack.enter_context(Prometheus(
                folder / "prometheus", [(address, pod_labels(name, key)) for name, key, address in targets],
                relabel_configs, rule_groups))
            # More than three simulated replicas, and still more than two, can do; so some of it is turned away.
            for process in (
                    bench(self.open.address, "sim", 80), bench(self.open.address, "demo", 2),
                    bench(self.open.addresses["http"], "sim", 10, "--api", "http", "--chat"),
                    bench(self.guarded.address.replace("127.0.0.1", "localhost"), "sim", 5, "--tls-ca", self.authority.cert,
                          QWENSERVE_API_KEY=KEY)):
                stack.callback(process.wait)
                stack.callback(process.kill)
            self._victim = cluster.generators[0]
            self._stack = stack.pop_all()

    def run(self):
        """Until every series has moved. The load goes on."""
        self.prometheus.await_series('sum(rate(qwenserve_gateway_sheds_total{cause="queue_full"}[20s])) > 0')
        self._victim.kill()
        self.prometheus.await_series("sum(qwenserve_gateway_failovers_total) > 0")
        self.prometheus.await_series('sum(rate(qwenserve_gateway_requests_total{method="HttpStreamChat"}[20s])) > 0')
        self.prometheus.await_series('sum(rate(qwenserve_generated_tokens_total{model="demo"}[20s])) > 0')
        # It is not up any more, and every target has been scraped often enough for rates.
        self.prometheus.await_series('max by (pod) (up{component="generator"}) == 0')
        self.prometheus.await_series("min(count_over_time(up[1m])) >= 10")

    def stop(self):
        self._stack.close()


@pytest.fixture(scope="module")
def relabel_configs():
    """As an operator makes them of the PodMonitor; a test of the chart compares the two."""
    scrape, = yaml.safe_load((ROOT / "k8s" / "prometheus" / "scrape.yaml").read_text())
    return scrape["relabel_configs"]


@pytest.fixture(scope="module")
def groups(helm):
    documents = helm.render(values={"prometheusRule.enabled": True}, apis=["monitoring.coreos.com/v1"])
    return find(documents, "PrometheusRule", RELEASE)["spec"]["groups"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, relabel_configs, groups):
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), relabel_configs, groups)
    try:
        fleet.run()
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="module")
def prometheus(fleet):
    return fleet.prometheus


def variables(dashboard, prometheus):
    """The dashboard's variables, with the first value of each, as Grafana finds them."""
    # What Grafana makes of a scrape every second, and of an hour of which a minute has happened.
    values = {"__rate_interval": "20s", "__range": "1m"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "constant":
            values[variable["name"]] = variable["query"]
        elif variable["type"] == "query":
            query = substituted(variable["query"]["query"], values)
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
            found = prometheus.label_values(label, selector)
            assert found, f"the variable {variable['name']} has no value: {query}"
            values[variable["name"]] = found[0]
    return values


def substituted(expression, values):
    """Longest names first: $first_token is the beginning of $first_token_seconds."""
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${name}", values[name])
    return expression


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def empty_panels(dashboard, values, prometheus, numbers=False):
    """Titles and expressions of those that show nothing; with `numbers` also of those that show none, as
    quantiles of histograms without observations."""
    empty = []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expression = substituted(target["expr"], values)
            assert "$" not in expression
            series = prometheus.query(expression)
            if not series or (numbers and all(one["value"][1] == "NaN" for one in series)):
                empty.append((panel["title"], expression))
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for one in series:
                assert legend <= set(one["metric"]), f"{panel['title']}: {one['metric']} lacks labels of its legend"
    return empty


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_numbers(prometheus, path):
    dashboard = json.loads(path.read_text())
    values = variables(dashboard, prometheus) | {"namespace": ".*", "release": ".*", "model": ".*", "pod": ".*"}
    assert empty_panels(dashboard, values, prometheus, numbers=True) == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_something_for_one_of_each(prometheus, path):
    """One release, one model, one pod: the demo with its ranks, and the gateway that has keys."""
    dashboard = json.loads(path.read_text())
    values = variables(dashboard, prometheus)
    assert values["namespace"] == NAMESPACE and values["release"] == RELEASE and values["model"] == "demo"
    if path.stem != "fleet":
        assert values["pod"] in ("qwenserve-gateway-0", "qwenserve-generator-demo-0")
    assert {title for title, _ in empty_panels(dashboard, values, prometheus)} <= {"GPU memory", "GPU memory in use"}


def test_every_panel_of_a_replica_with_gpus(prometheus):
    dashboard = json.loads(next(path for path in DASHBOARDS if path.stem == "replica").read_text())
    values = variables(dashboard, prometheus) | {"model": "gpu", "pod": "qwenserve-generator-gpu-0"}
    assert empty_panels(dashboard, values, prometheus) == []


def test_labels_are_those_of_the_pods(prometheus):
    for series in prometheus.query("qwenserve_build_info"):
        labels = series["metric"]
        assert labels["namespace"] == NAMESPACE and labels["release"] == RELEASE
        assert labels["component"] == labels["role"]
        assert labels["pod"].startswith(f"{RELEASE}-{labels['component']}-")
        assert ("model_key" in labels) == (labels["component"] != "gateway")
        assert not [name for name in labels if name.startswith("exported_")]


def test_rules_are_evaluated(prometheus, groups):
    """Prometheus runs them itself: an error, such as a match of many to many, would show in their health."""
    prometheus.await_series("qwenserve:slow_first_tokens:ratio_rate3d")
    found = prometheus.api("rules")["groups"]
    rules = [rule for group in found for rule in group["rules"]]
    assert len(rules) == sum(len(group["rules"]) for group in groups)
    for rule in rules:
        assert rule["health"] == "ok", rule
        if rule["type"] == "recording":
            assert prometheus.query(rule["name"]), f"{rule['name']} records nothing"


def selectors(expression):
    """Each NAME{LABELS} of an expression."""
    return re.findall(r"\b[a-z][a-z0-9_:]*\{[^}]*\}", expression)


def test_selectors_of_rules_find_series(prometheus, groups):
    """An alert with a misspelt label would never fire."""
    for group in groups:
        for rule in group["rules"]:
            assert selectors(rule["expr"])
            for selector in selectors(rule["expr"]):
                assert prometheus.query(selector), f"{rule.get('alert', rule.get('record'))}: {selector} finds nothing"


def test_objectives_are_buckets(prometheus):
    """Of those that the values may name."""
    schema = json.loads((ROOT / "helm" / "qwenserve" / "values.schema.json").read_text())
    slo = schema["properties"]["prometheusRule"]["properties"]["slo"]["properties"]
    for seconds in slo["firstTokenSeconds"]["enum"]:
        assert prometheus.query(f'qwenserve_time_to_first_token_seconds_bucket{{le=~"{seconds}(\\\\.0)?"}}'), seconds
    for code in slo["errorCodes"]["items"]["enum"]:
        assert prometheus.query(f'qwenserve_gateway_requests_total{{code="{code}"}}'), code


def test_queries_of_the_runbooks(prometheus):
    """That they can be run, and that their metrics exist."""
    names = set(prometheus.api("label/__name__/values"))
    blocks = re.findall(r"^```promql check\n(.*?)^```", (ROOT / "docs" / "runbooks.md").read_text(), re.M | re.S)
    queries = [line for block in blocks for line in block.splitlines()]
    assert len(queries) >= 40
    for query in queries:
        prometheus.query(query)
        used = re.findall(r"\b(?:qwenserve|process)_\w+", query)
        assert used and set(used) <= names, query


def test_an_alert_fires_with_its_text(fleet):
    """From the file of keys that somebody breaks to the text that somebody reads."""
    assert fleet.prometheus.query('ALERTS{alertname="QwenserveReloadFails"}') == []
    fleet.keys.write_text("no JSON\n")
    found = fleet.prometheus.await_series('ALERTS{alertname="QwenserveReloadFails",alertstate="firing"}')
    assert [one["metric"]["file"] for one in found] == ["api_keys"]
    alerts = [alert for group in fleet.prometheus.api("rules")["groups"] for rule in group["rules"]
              for alert in rule.get("alerts", []) if rule["name"] == "QwenserveReloadFails"]
    assert [alert["annotations"]["summary"] for alert in alerts] == ["qwenserve-gateway-0 refuses the new api_keys"]
