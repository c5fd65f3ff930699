"""The alert rules: each fires when it should and is quiet when it should, by promtool, and has a runbook."""

import re
import shutil
import subprocess

import pytest
import yaml

from conftest import OLDEST, ROOT
from rendered import find, of_kind
from schemas import validate

APIS = ["monitoring.coreos.com/v1"]
CASES = yaml.safe_load((ROOT / "tests" / "deploy" / "alert_cases.yaml").read_text())
RELEASE = {"namespace": "inference", "release": "qwenserve"}


def render(helm, values=None):
    documents = helm.render(values={"prometheusRule.enabled": True, **(values or {})}, apis=APIS)
    return find(documents, "PrometheusRule", "qwenserve")


@pytest.fixture(scope="module")
def document(helm):
    return render(helm)


@pytest.fixture(scope="module")
def rules(document):
    return [rule for group in document["spec"]["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def alerts(rules):
    found = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert len(found) == sum("alert" in rule for rule in rules)
    return found


@pytest.fixture(scope="module")
def promtool():
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool (package prometheus) is not installed")
    return program


def test_object(document):
    validate(document, OLDEST)
    assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "qwenserve"


def test_rules_are_well_formed(document, promtool, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(document["spec"]))
    done = subprocess.run([promtool, "check", "rules", "--lint-fatal", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def with_release(series):
    """NAME or NAME{LABELS} with the labels of the release added."""
    name, _, labels = series.partition("{")
    labels = [*filter(None, [labels.rstrip("}")]), *(f'{key}="{value}"' for key, value in RELEASE.items())]
    return f"{name}{{{','.join(labels)}}}"


def seconds(duration):
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def promtool_case(alert, severity, case, rules_path, groups):
    """One file for `promtool test rules`. It asks for ALERTS, which has all labels and no texts. `groups`: their
    names; what alerts need is recorded before them, for where a step takes longer than a sample is remembered. One that fires has been
    pending before for as long as the case says."""
    interval = case.get("interval", "1m")
    expected, waited = [], []
    if "fires" in case:
        labels = {"alertname": alert, "severity": severity, **RELEASE, **case["fires"]}
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        expected = [{"labels": f'ALERTS{{alertstate="firing",{text}}}', "value": 1}]
        pending = f'alertstate="pending",{text}'
        steps = -(-seconds(case.get("waits", "0s")) // seconds(interval))
        waited = [{
            "expr": f"count_over_time(ALERTS{{{pending}}}[30d])", "eval_time": case["at"],
            "exp_samples": [{"labels": f"{{{pending}}}", "value": steps}] if steps else []}]
    return {
        "rule_files": [str(rules_path)], "evaluation_interval": interval, "group_eval_order": groups,
        "tests": [{
            "interval": interval,
            "input_series": [{"series": with_release(name), "values": str(values)}
                             for name, values in case["series"].items()],
            "promql_expr_test": [{
                "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}', "eval_time": case["at"],
                "exp_samples": expected}, *waited]}]}


def test_alerts_fire_and_are_quiet(document, alerts, promtool, tmp_path):
    rules_path = tmp_path / "rules.yaml"
    rules_path.write_text(yaml.safe_dump(document["spec"]))
    groups = [group["name"] for group in document["spec"]["groups"]]
    files = []
    for alert, cases in CASES.items():
        for number, case in enumerate(cases):
            assert ("fires" in case) != ("quiet" in case)
            path = tmp_path / f"{alert}-{number}-{'fires' if 'fires' in case else 'quiet'}.yaml"
            content = promtool_case(alert, alerts[alert]["labels"]["severity"], case, rules_path, groups)
            path.write_text(yaml.safe_dump(content))
            files.append(path)
    done = subprocess.run([promtool, "test", "rules", *files], capture_output=True, text=True)
    # It tells of each file, and what was wrong under its name.
    assert done.stdout.count("SUCCESS") == len(files) and done.returncode == 0, done.stdout + done.stderr


def test_text_without_a_release(promtool, tmp_path):
    """The rules for all releases: what absent() gives says nothing of one."""
    case = tmp_path / "case.yaml"
    case.write_text(yaml.safe_dump({
        "rule_files": [str(ROOT / "k8s" / "prometheus" / "rules.yaml")],
        "tests": [{"input_series": [], "alert_rule_test": [{
            "eval_time": "20m", "alertname": "QwenserveNoMetrics", "exp_alerts": [{
                "exp_labels": {"severity": "page", "component": "gateway"},
                "exp_annotations": {
                    "summary": "Prometheus sees no gateway",
                    "description": "All gateways are gone, or Prometheus cannot reach them, and then no other alert works.",
                    "runbook_url": "docs/runbooks.md#qwenservenometrics"}}]}]}]}))
    done = subprocess.run([promtool, "test", "rules", case], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_cases(alerts):
    assert list(CASES) == list(alerts)
    for alert, cases in CASES.items():
        assert any("fires" in case for case in cases), f"no case in which {alert} fires"
        assert any("quiet" in case for case in cases), f"no case in which {alert} is quiet"


def test_texts_use_labels_that_are_there(alerts):
    for name, alert in alerts.items():
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
        for case in CASES[name]:
            if "fires" in case:
                assert used <= {*RELEASE, *case["fires"]}, f"{name} tells of labels that it does not have"


def sections():
    """Headings of the runbooks and the text under each."""
    text = (ROOT / "docs" / "runbooks.md").read_text()
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


def test_every_alert_has_a_runbook(alerts):
    for name, alert in alerts.items():
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        section = sections()[name]
        for part in ("**Means**", "**Users see**", "**Check**", "**Do**"):
            assert part in section, f"the runbook of {name} lacks {part}"
        assert re.search(r"^```(sh|promql) ", section, re.MULTILINE), f"the runbook of {name} has no command"
    assert set(sections()) - {"First"} == set(alerts), "runbooks of alerts that do not exist"


def test_severities(helm, alerts):
    assert {alert["labels"]["severity"] for alert in alerts.values()} == {"page", "ticket"}
    named = render(helm, {"prometheusRule.severities": {"page": "critical", "ticket": "warning"}})
    for group in named["spec"]["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                expected = {"page": "critical", "ticket": "warning"}[alerts[rule["alert"]]["labels"]["severity"]]
                assert rule["labels"]["severity"] == expected


def test_values_reach_the_rules(helm):
    text = yaml.safe_dump(render(helm, {
        "prometheusRule.labels": {"a": "b"}, "runbookUrl": "https://wiki.example/runbooks",
        "prometheusRule.slo": {"availability": 0.99, "firstToken": 0.97, "firstTokenSeconds": 1, "minimumRequests": 1000000,
                               "errorCodes": ["INTERNAL", "UNKNOWN"]},
        "prometheusRule.thresholds": {"queueDepth": 77, "notReady": "2h", "stepAgeSeconds": 1.5, "rankSkewRatio": 0.4, "certificateDays": 8,
                                      "certificatePageDays": 3, "failoverRatio": 0.02, "sheddingRatio": 0.03,
                                      "kvUsageRatio": 0.9}}), width=10**6)
    for part in ("a: b", "14.4 * (1 - 0.99)", "14.4 * (1 - 0.97)", 'le=~"1(', ">= 1000000", "INTERNAL|UNKNOWN\"", ">= 77",
                 "for: 2h", "> 1.5", "< 8 * 86400", "< 3 * 86400", "> 0.02 *", "> 0.03", "> 0.9", "> 0.4",
                 "https://wiki.example/runbooks#qwenservenometrics"):
        assert part in text.replace('\\"', '"').replace("\\\\", "\\"), part
    assert "${" not in text


def test_a_load_may_take_as_long_as_the_values_say(helm):
    """Or models that are slow to load would page during each update."""
    model = {"name": "own", "source": {"hostPath": {"path": "/m"}}, "generator": {"resources": {"limits": {"memory": "4Gi"}}}}
    for startup, minutes in ((1800, 45), (7201, 136)):
        models = {"quick": model, "slow": {**model, "name": "slow", "generator": {**model["generator"], "startupSeconds": startup}}}
        rules = {rule["alert"]: rule for group in render(helm, {"models": models})["spec"]["groups"]
                 for rule in group["rules"] if "alert" in rule}
        assert rules["QwenserveModelNotServed"]["for"] == f"{minutes}m"


def test_default_thresholds_leave_no_word(document):
    assert "${" not in yaml.safe_dump(document)


def test_rules_of_a_release_are_about_it_alone(document, rules):
    """Two releases with rules of their own would else fire for each other."""
    for rule in rules:
        selectors = re.findall(r"\b(?:qwenserve_|process_|up\b|qwenserve:)\w*(?::\w+)*(\{[^}]*\})?", rule["expr"])
        assert selectors
        for selector in selectors:
            assert 'namespace="inference",release="qwenserve"' in selector, rule["expr"]


def test_plain_file_is_the_same_for_every_release(document):
    plain = yaml.safe_load((ROOT / "k8s" / "prometheus" / "rules.yaml").read_text())
    for ours, theirs in zip(document["spec"]["groups"], plain["groups"], strict=True):
        for rule in ours["rules"]:
            rule = {**rule, "expr": rule["expr"].replace('namespace="inference",release="qwenserve"', 'release!=""')}
            assert rule == theirs["rules"].pop(0)
        assert not theirs["rules"] and ours["name"] == theirs["name"]


def test_only_where_it_is_asked_for(helm):
    assert not of_kind(helm.render(), "PrometheusRule")
