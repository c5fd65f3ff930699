"""The dashboards as files and as ConfigMaps. What their expressions give: prometheus_live_test.py."""

import json
import re
import subprocess

import pytest
import yaml

from conftest import OLDEST, ROOT
from rendered import of_kind
from schemas import validate

FOLDER = ROOT / "helm" / "qwenserve" / "dashboards"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
RULES = ROOT / "k8s" / "prometheus" / "rules.yaml"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_files_are_what_the_source_renders(tmp_path):
    done = subprocess.run([ROOT / "tools" / "render_dashboards", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.stem for path in tmp_path.iterdir()) == NAMES == ["fleet", "gateway", "replica"]
    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_text() == (FOLDER / f"{name}.json").read_text(), (
            f"{name}.json differs: run tools/render_dashboards")


@pytest.mark.parametrize("name", NAMES)
def test_panels_explain_themselves(name):
    dashboard = load(name)
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
              if "alert" in rule}
    assert len(panels(dashboard)) >= 20
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        where = f"{name}: {panel['title']}"
        assert panel["description"].endswith("."), where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}", where
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", where
            assert target["expr"].count("(") == target["expr"].count(")"), where
        for link in panel["links"]:
            assert link["url"].startswith("${runbooks}#"), where
            assert link["url"].partition("#")[2] in {alert.lower() for alert in alerts}, where


def test_every_alert_is_linked_somewhere():
    linked = {link["url"] for other in NAMES for panel in panels(load(other)) for link in panel["links"]}
    alerts = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
              if "alert" in rule]
    # There is nothing to look at where nothing is scraped.
    missing = {alert for alert in alerts if "${runbooks}#" + alert.lower() not in linked}
    assert missing == {"QwenserveNoMetrics", "QwenserveScrapeFails"}


@pytest.mark.parametrize("name", NAMES)
def test_selectors_know_every_variable(name):
    dashboard = load(name)
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert {"datasource", "namespace", "release"} <= set(variables)
    for panel in panels(dashboard):
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval", "__range"}
            assert used <= set(variables), panel["title"]
            for selector in re.findall(r"\w+\{([^}]*)\}", target["expr"]):
                assert 'namespace=~"$namespace",release=~"$release"' in selector, panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_overlap(name):
    taken = set()
    for panel in load(name)["panels"]:
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        assert not taken & cells and box["x"] + box["w"] <= 24, panel["title"]
        taken |= cells


def test_dashboards_know_each_other():
    loaded = [load(name) for name in NAMES]
    assert len({d["uid"] for d in loaded}) == len({d["title"] for d in loaded}) == len(loaded)
    for dashboard in loaded:
        assert "qwenserve" in dashboard["tags"]
        assert any(link.get("tags") == ["qwenserve"] for link in dashboard["links"])


def test_config_maps(helm):
    assert not of_kind(helm.render(), "ConfigMap")
    documents = of_kind(helm.render(values={"dashboards": {"enabled": True, "annotations": {"grafana_folder": "Serving"}}}),
                        "ConfigMap")
    assert len(documents) == len(NAMES)
    for document, name in zip(documents, NAMES, strict=True):
        validate(document, OLDEST)
        assert document["metadata"]["name"] == f"qwenserve-dashboard-{name}"
        assert document["metadata"]["namespace"] == "inference"
        assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert document["metadata"]["annotations"] == {"grafana_folder": "Serving"}
        [(file, text)] = document["data"].items()
        assert file == f"qwenserve-{name}.json"
        assert json.loads(text) == load(name)
        # The most that a ConfigMap may have is a MiB.
        assert len(text) < 500_000


def test_values_reach_the_dashboards(helm):
    documents = of_kind(helm.render(values={
        "dashboards": {"enabled": True, "namespace": "monitoring", "labels": {"dash": "yes"}},
        "runbookUrl": "https://wiki.example/runbooks",
        "prometheusRule.slo": {"availability": 0.95, "firstToken": 0.999, "firstTokenSeconds": 10}}), "ConfigMap")
    for document in documents:
        assert document["metadata"]["namespace"] == "monitoring"
        assert document["metadata"]["labels"]["dash"] == "yes"
        assert "grafana_dashboard" in document["metadata"]["labels"]
        [text] = document["data"].values()
        constants = {v["name"]: v["query"] for v in json.loads(text)["templating"]["list"] if v["type"] == "constant"}
        assert constants["runbooks"] == "https://wiki.example/runbooks"
        if "availability" in constants:
            assert constants == {"availability": "0.95", "first_token": "0.999", "first_token_seconds": "10",
                                 "runbooks": "https://wiki.example/runbooks"}
    assert any('"availability"' in text for document in documents for text in document["data"].values())


def test_default_objectives_are_those_of_the_values():
    """The constants in the files, which a Grafana without the chart shows."""
    slo = yaml.safe_load((ROOT / "helm" / "qwenserve" / "values.yaml").read_text())["prometheusRule"]["slo"]
    constants = {v["name"]: v["query"] for v in load("gateway")["templating"]["list"] if v["type"] == "constant"}
    assert constants["availability"] == str(slo["availability"])
    assert constants["first_token"] == str(slo["firstToken"])
    assert constants["first_token_seconds"] == str(slo["firstTokenSeconds"])
