"""Every expression of dashboards, rules and runbooks, run by a real Prometheus that scrapes a live cluster under
load, in which a replica is lost and requests are turned away."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import yaml

from conftest import ROOT
from prometheus_server import PROGRAM, Prometheus
from rendered import find

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from authority import Authority  # noqa: E402
from security import key_line, write_keys  # noqa: E402
from server_process import BIN  # noqa: E402
from sim_cluster import SimCluster  # noqa: E402

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="prometheus (the package of that name) is not installed")

DASHBOARDS = sorted((ROOT / "helm" / "qwenserve" / "dashboards").glob("*.json"))
NAMESPACE, RELEASE = "inference", "qwenserve"
KEY = "a-key"


def pod_labels(component, number, model_key=None):
    """What discovery of pods would know about a process."""
    labels = {
        "__meta_kubernetes_namespace": NAMESPACE, "__meta_kubernetes_pod_name": f"{RELEASE}-{component}-{number}",
        "__meta_kubernetes_pod_container_name": component, "__meta_kubernetes_pod_container_port_name": "ops",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "qwenserve",
        "__meta_kubernetes_pod_label_app_kubernetes_io_instance": RELEASE,
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": component}
    return labels | ({"__meta_kubernetes_pod_label_qwenserve_model": model_key} if model_key else {})


def bench(address, rate, *flags, **environment):
    """Load until it is killed."""
    return subprocess.Popen(
        [BIN / "qwenctl", "bench", "--address", address, "--duration", "600", "--rate", str(rate), "--max-tokens", "20:60",
         "--prompt-tokens", "100:300", "--prefix-tokens", "64", "--output", "json", "--no-progress", *map(str, flags)],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Fleet:
    """A cluster, its Prometheus, and load for as long as somebody looks."""

    def __init__(self, folder, relabel_configs, rule_groups):
        authority = Authority(folder, "authority")
        cert, key = authority.issue("gateway", "DNS:localhost,IP:127.0.0.1")
        self.authority = authority
        self.keys = write_keys(folder / "keys", key_line(KEY, "tenant"))
        self.cluster = SimCluster(
            generators=3, tokenizers=2, generator_flags=("--sim-step-ms", 5, "--max-running", 4, "--max-waiting", 4),
            gateway_flags=("--max-waiting", 4, "--access-log", folder / "access.log"))
        self.open = self.cluster.gateway
        self.guarded = self.cluster.start_gateway(flags=(
            "--tls-cert", cert, "--tls-key", key, "--api-keys", self.keys, "--access-log", folder / "guarded.log"))
        targets = [(process.addresses["ops"], pod_labels(component, number, model_key))
                   for component, processes, model_key in (
                       ("gateway", [self.guarded, self.open], None),
                       ("tokenizer", self.cluster.tokenizers, "sim"), ("generator", self.cluster.generators, "sim"))
                   for number, process in enumerate(processes)]
        self.prometheus = Prometheus(folder / "prometheus", targets, relabel_configs, rule_groups)
        self._load = []

    def run(self):
        """Enough traffic, refusals and losses for every series to have moved; some load goes on."""
        self._load = [
            # More than three replicas, and still more than two, can do; so some of it is turned away.
            bench(self.open.address, 80), bench(self.open.addresses["http"], 10, "--api", "http", "--chat"),
            bench(self.guarded.address.replace("127.0.0.1", "localhost"), 5, "--tls-ca", self.authority.cert,
                  QWENSERVE_API_KEY=KEY)]
        self.prometheus.await_series('sum(rate(qwenserve_gateway_sheds_total{cause="queue_full"}[10s])) > 0')
        victim = self.cluster.generators.pop()
        victim.kill()
        self.prometheus.await_series("sum(qwenserve_gateway_failovers_total) > 0")
        self.prometheus.await_series('sum(rate(qwenserve_gateway_requests_total{method="HttpStreamChat"}[10s])) > 0')
        # It is not up any more, and every target has been scraped often enough for rates.
        self.prometheus.await_series('max by (pod) (up{component="generator"}) == 0')
        self.prometheus.await_series("min(count_over_time(up[1m])) >= 10")

    def stop(self):
        for process in self._load:
            process.kill()
            process.wait()
        self.prometheus.stop()
        self.cluster.stop()


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


def variables(dashboard, prometheus, everything):
    """What the dashboard's variables are: `everything`, or the first value of each."""
    # As Grafana makes it of a scrape every second, and an hour of which a minute has happened.
    values = {"__rate_interval": "20s", "__range": "1m"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "constant":
            values[variable["name"]] = variable["query"]
        elif variable["type"] == "query":
            query = substituted(variable["query"]["query"], values)
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
            found = prometheus.label_values(label, selector)
            assert found, f"the variable {variable['name']} has no value: {query}"
            values[variable["name"]] = ".*" if everything and variable["includeAll"] else found[0]
    return values


def substituted(expression, values):
    """Longest names first: $first_token is the beginning of $first_token_seconds."""
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${name}", values[name])
    return expression


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("everything", [True, False], ids=["all", "one"])
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_something(prometheus, path, everything):
    dashboard = json.loads(path.read_text())
    values = variables(dashboard, prometheus, everything)
    empty = []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expression = substituted(target["expr"], values)
            assert "$" not in expression
            series = prometheus.query(expression)
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            # Of histograms without observations quantiles are not a number.
            if not series or (everything and all(one["value"][1] == "NaN" for one in series)):
                empty.append(f"{panel['title']}: {expression}")
            for one in series:
                assert legend <= set(one["metric"]), f"{panel['title']}: {one['metric']} lacks labels of its legend"
    assert not empty, "\n".join(empty)


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
