"""What Grafana's JSON model of a dashboard needs, so that the dashboards themselves are lists of titles,
expressions and explanations."""

SCHEMA_VERSION = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
# Units of Grafana.
TOKENS_PER_SECOND = "suffix: tok/s"
REQUESTS_PER_SECOND = "reqps"
PER_SECOND = "suffix: /s"
SECONDS = "s"
BYTES = "bytes"
RATIO = "percentunit"
COUNT = "short"

GREEN, YELLOW, RED = "green", "yellow", "red"


def runbook(alert):
    """A link of a panel to what is to be done."""
    return {"title": f"Runbook: {alert}", "url": "${runbooks}#" + alert.lower(), "targetBlank": True}


def steps(*pairs):
    """Colours: steps(GREEN, (0.8, YELLOW), (0.95, RED))."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in
                                          ((None, pairs[0]), *pairs[1:])]}


def _targets(queries, instant=False, table=False):
    """`queries`: (expression, legend), or several of them in a list."""
    pairs = [queries] if isinstance(queries, tuple) else queries
    return [{"datasource": DATASOURCE, "refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend,
             "instant": instant, "range": not instant, "format": "table" if table else "time_series"}
            for number, (expression, legend) in enumerate(pairs)]


def _panel(kind, title, description, queries, unit, width, height, alerts, thresholds=None, **more):
    defaults = {"unit": unit}
    if thresholds:
        defaults["thresholds"] = thresholds
    defaults.update(more.pop("defaults", {}))
    return {
        "type": kind, "title": title, "description": description, "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": _targets(queries, **more.pop("query_options", {})),
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "links": [runbook(alert) for alert in alerts], **more}


def timeseries(title, description, queries, unit=COUNT, width=8, height=8, alerts=(), stack=False, top=None,
               thresholds=None):
    """Lines over time. `top`: the axis' upper end where it is known, such as 1 for ratios."""
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 20 if stack else 5, "showPoints": "never",
              "spanNulls": False, "stacking": {"mode": "normal" if stack else "none", "group": "A"}}
    defaults = {"min": 0, "custom": custom, **({"max": top} if top is not None else {})}
    if thresholds:
        custom["thresholdsStyle"] = {"mode": "line"}
    return _panel("timeseries", title, description, queries, unit, width, height, alerts, thresholds, defaults=defaults,
                  options={"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                           "tooltip": {"mode": "multi", "sort": "desc"}})


def stat(title, description, query, unit=COUNT, width=4, height=4, alerts=(), thresholds=None, decimals=None):
    """One number, or one for each series."""
    defaults = {"decimals": decimals} if decimals is not None else {}
    return _panel("stat", title, description, query, unit, width, height, alerts, thresholds or steps(GREEN),
                  defaults=defaults, query_options={"instant": True},
                  options={"colorMode": "value", "graphMode": "none", "textMode": "auto",
                           "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}})


def table(title, description, query, hidden=(), width=12, height=8, alerts=()):
    """The labels of an instant vector; `hidden`: those not to be shown."""
    drop = {name: True for name in ("Time", "Value", "__name__", "endpoint", "container", "job", "instance", *hidden)}
    return _panel("table", title, description, query, "none", width, height, alerts,
                  query_options={"instant": True, "table": True},
                  transformations=[{"id": "organize", "options": {"excludeByName": drop}}],
                  options={"showHeader": True})


def heatmap(title, description, expression, unit=SECONDS, width=12, height=8, alerts=()):
    """How observations spread over the buckets of a histogram; `expression` sums rates by le."""
    panel = _panel("heatmap", title, description, (expression, "{{le}}"), unit, width, height, alerts,
                   options={"calculate": False, "yAxis": {"unit": unit},
                            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                            "cellGap": 1, "tooltip": {"show": True, "yHistogram": True}})
    panel["targets"][0]["format"] = "heatmap"
    return panel


def variable(name, label, query, several=True):
    """Values of a label; with `several` also all at once, and then series without the label too."""
    return {"type": "query", "name": name, "label": label, "datasource": DATASOURCE, "refresh": 2, "sort": 1,
            "query": {"query": query, "refId": name}, "definition": query, "multi": several, "includeAll": several,
            **({"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}} if several else {})}


def constant(name, value):
    return {"type": "constant", "name": name, "query": value, "hide": 2, "skipUrlSync": True,
            "current": {"text": value, "value": value}}


def _laid_out(rows):
    """Panels from left to right, in rows under their headings."""
    panels, y, number = [], 0, 1
    for heading, members in rows:
        panels.append({"id": number, "type": "row", "title": heading, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        number, y, x, height = number + 1, y + 1, 0, 0
        for panel in members:
            size = panel["gridPos"]
            if x + size["w"] > WIDTH:
                x, y, height = 0, y + height, 0
            panels.append({"id": number, **panel, "gridPos": {"x": x, "y": y, **size}})
            number, x, height = number + 1, x + size["w"], max(height, size["h"])
        y += height
    return panels


def dashboard(uid, title, description, variables, rows):
    """`rows`: (heading, panels)."""
    return {
        "uid": uid, "title": title, "description": description, "tags": ["qwenserve"], "schemaVersion": SCHEMA_VERSION,
        "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "", "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["qwenserve"], "title": "qwenserve", "asDropdown": False,
                   "includeVars": True, "keepTime": True, "icon": "external link", "targetBlank": False, "url": ""},
                  {"type": "link", "title": "Runbooks", "url": "${runbooks}", "icon": "doc", "targetBlank": True,
                   "asDropdown": False, "includeVars": False, "keepTime": False, "tags": []}],
        "templating": {"list": [
            {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "refresh": 1},
            *variables, constant("runbooks", "docs/runbooks.md")]},
        "panels": _laid_out(rows)}
