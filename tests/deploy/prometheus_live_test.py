"""Every expression of dashboards, rules and runbooks, run by a real Prometheus that scrapes a live cluster under
load, in which a replica is lost and requests are turned away."""

import json
import re
import sys
import time

import pytest

from conftest import ROOT
from prometheus_fleet import DASHBOARDS, NAMESPACE, RELEASE, Fleet, load_dashboard, substituted, variables
from prometheus_server import PROGRAM
from rendered import find

sys.path.insert(0, str(ROOT / "tools" / "dashboards"))

from preview import page  # noqa: E402

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="prometheus (the package of that name) is not installed")


@pytest.fixture(scope="module")
def groups(helm):
    documents = helm.render(values={"prometheusRule.enabled": True}, apis=["monitoring.coreos.com/v1"])
    return find(documents, "PrometheusRule", RELEASE)["spec"]["groups"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, groups):
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), groups)
    try:
        fleet.run()
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="module")
def prometheus(fleet):
    return fleet.prometheus


def empty_panels(panels, values, prometheus, numbers=False):
    """Titles and expressions of those that show nothing; with `numbers` also of those that show none, as
    quantiles of histograms without observations."""
    empty = []
    for panel in panels:
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
    dashboard, panels = load_dashboard(path)
    values = variables(dashboard, prometheus) | {"namespace": ".*", "release": ".*", "model": ".*", "pod": ".*"}
    assert empty_panels(panels, values, prometheus, numbers=True) == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_something_for_one_of_each(prometheus, path):
    """One release, one model, one pod: the demo with its ranks, and the gateway that has keys."""
    dashboard, panels = load_dashboard(path)
    values = variables(dashboard, prometheus)
    assert values["namespace"] == NAMESPACE and values["release"] == RELEASE and values["model"] == "demo"
    if path.stem != "fleet":
        assert values["pod"] in ("qwenserve-gateway-0", "qwenserve-generator-demo-0")
    assert {title for title, _ in empty_panels(panels, values, prometheus)} <= {"GPU memory", "GPU memory in use"}


def test_every_panel_of_a_replica_with_gpus(prometheus):
    dashboard, panels = load_dashboard(next(path for path in DASHBOARDS if path.stem == "replica"))
    values = variables(dashboard, prometheus) | {"model": "gpu", "pod": "qwenserve-generator-gpu-0"}
    assert empty_panels(panels, values, prometheus) == []


def test_the_recorded_replica_has_the_series_of_a_live_one(prometheus):
    def kinds(pod):
        return {(series["metric"]["__name__"], *sorted(series["metric"]))
                for series in prometheus.query(f'{{pod="{pod}",__name__=~"(qwenserve|process)_.*"}}')}

    recorded, live = kinds("qwenserve-generator-gpu-0"), kinds("qwenserve-generator-demo-0")
    assert live - recorded == set()
    assert {name for name, *_ in recorded - live} == {"qwenserve_gpu_memory_bytes", "qwenserve_gpu_memory_used_bytes"}


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


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_the_preview_draws_every_panel(prometheus, path):
    """tools/dashboard_screenshots, without the browser."""
    dashboard, panels = load_dashboard(path)
    values = variables(dashboard, prometheus) | {"model": ".*"}
    end = time.time()
    drawn, height = page(
        dashboard, lambda expression: prometheus.query(substituted(expression, values)),
        lambda expression: prometheus.api("query_range", query=substituted(expression, values), start=end - 20, end=end,
                                          step=1)["result"], end - 20, end, "a note")
    assert height > 1000 and "a note" in drawn
    assert drawn.count('class="panel"') == len(panels)
    lines = sum(panel["type"] == "timeseries" for panel in panels)
    assert drawn.count("<polyline") >= lines
