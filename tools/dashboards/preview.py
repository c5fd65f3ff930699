"""Draws a dashboard as a web page with what a Prometheus answers: roughly as Grafana would, with far less care.
Lines, numbers, tables and heatmaps only."""

import html
import math
import re

COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#fade2a", "#1f60c4", "#fa6400")
NAMED = {"green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c"}
CELL, ROW, GAP = 52, 30, 8  # a dashboard is 24 cells wide
LEGEND = 43  # three lines
STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 12px/1.35 sans-serif; }
header { padding: 10px 16px; font-size: 15px } header small { color: #8e8e99; font-size: 12px; margin-left: 12px }
.panel { position: absolute; box-sizing: border-box; background: #181b1f; border: 1px solid #2c3235; border-radius: 2px;
         padding: 5px 8px; overflow: hidden }
.panel h3 { margin: 0 0 3px; font-size: 12px; font-weight: 500; white-space: nowrap }
.row { position: absolute; font-size: 14px; font-weight: 500; padding: 5px 8px }
.legend { position: absolute; bottom: 4px; left: 8px; right: 8px; height: LEGENDpx; overflow: hidden; color: #9fa7b3; font-size: 11px }
.legend i { display: inline-block; width: 10px; height: 3px; margin: 0 4px 3px 0 } .legend span { display: inline-block; margin-right: 10px }
.stat { display: flex; justify-content: space-around; align-items: center; height: calc(100% - 22px); text-align: center }
.stat b { display: block; font-size: 24px; font-weight: 500 } .stat small { color: #9fa7b3 }
table { border-collapse: collapse; width: 100%; font-size: 11px } td, th { text-align: left; padding: 2px 8px 2px 0; white-space: nowrap }
th { color: #5794f2; font-weight: 500 } svg text { fill: #9fa7b3; font-size: 10px }
""".replace("LEGEND", str(LEGEND))


def formatted(value, unit, decimals=None):
    """As Grafana writes a value of this unit."""
    if math.isnan(value):
        return "NaN"
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f}%"
    if unit == "s":
        for factor, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return "0 s"
    if unit == "bytes":
        for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return f"{value:.3g} B"
    ending = " req/s" if unit == "reqps" else unit.removeprefix("suffix:") if unit.startswith("suffix:") else ""
    for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {name}{ending}"
    return f"{value:.3g}{ending}"


def _legend(target, labels):
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), target["legendFormat"])


def _times(left, right, bottom, start, end):
    """What the ends of an axis of time are called."""
    return [f'<text x="{left}" y="{bottom + 13}">{formatted(start - end, "s")}</text>',
            f'<text x="{right}" y="{bottom + 13}" text-anchor="end">now</text>']


def _lines(panel, results, width, height, start, end):
    """`results`: [(target, series of a range query)]."""
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    unit = panel["fieldConfig"]["defaults"]["unit"]
    lines, below = [], {}
    for target, series in results:
        for one in series:
            points = [(t, float(v)) for t, v in one["values"] if v not in ("NaN", "+Inf", "-Inf")]
            if stacked:
                points = [(t, v + below.get(t, 0)) for t, v in points]
                below.update(points)
            lines.append((_legend(target, one["metric"]), points))
    top = max((v for _, points in lines for _, v in points), default=0) * 1.08 or 1
    top = max(top, panel["fieldConfig"]["defaults"].get("max", 0))
    left, bottom = 62, height - LEGEND - 48
    x = lambda t: left + (t - start) / (end - start) * (width - left - 14)
    y = lambda v: bottom - v / top * (bottom - 8)
    parts = []
    for part in range(4):
        value = top * part / 3
        parts.append(f'<line x1="{left}" x2="{width - 14}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#2c3235"/>'
                     f'<text x="{left - 5}" y="{y(value) + 3:.1f}" text-anchor="end">{html.escape(formatted(value, unit))}</text>')
    parts += _times(left, width - 14, bottom, start, end)
    for number, (_, points) in enumerate(lines):
        if points:
            path = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{COLORS[number % len(COLORS)]}" stroke-width="1.3"/>')
    legend = "".join(f'<span><i style="background:{COLORS[number % len(COLORS)]}"></i>{html.escape(name)}</span>'
                     for number, (name, _) in enumerate(lines))
    return f'<svg width="{width - 14}" height="{height - LEGEND - 30}">{"".join(parts)}</svg><div class="legend">{legend}</div>'


def _heatmap(panel, results, width, height, start, end):
    [(_, series)] = results
    unit = panel["fieldConfig"]["defaults"]["unit"]
    buckets = sorted(((float(one["metric"]["le"].replace("+Inf", "inf")), dict(one["values"])) for one in series),
                     key=lambda pair: pair[0])
    times = sorted({t for _, values in buckets for t in values})
    cells = []
    for number, (_, values) in enumerate(buckets):
        under = buckets[number - 1][1] if number else {}
        cells += [(t, number, max(0.0, float(values[t]) - float(under.get(t, 0)))) for t in times if t in values]
    most = max((value for *_, value in cells), default=0) or 1
    left, bottom = 62, height - 42
    tall = (bottom - 4) / max(1, len(buckets))
    wide = (width - left - 14) / max(1, len(times))
    parts = [f'<rect x="{left + (t - start) / (end - start) * (width - left - 14):.1f}" y="{bottom - (n + 1) * tall:.1f}" '
             f'width="{wide:.2f}" height="{tall:.1f}" fill="#ff9830" fill-opacity="{(value / most) ** 0.5:.2f}"/>'
             for t, n, value in cells if value > 0]
    parts += _times(left, width - 14, bottom, start, end)
    for number, (bound, _) in enumerate(buckets):
        if number % 3 == 0 and not math.isinf(bound):
            parts.append(f'<text x="{left - 5}" y="{bottom - number * tall - tall / 2 + 3:.1f}" text-anchor="end">'
                         f'{html.escape(formatted(bound, unit))}</text>')
    return f'<svg width="{width - 14}" height="{height - 26}">{"".join(parts)}</svg>'


def _stat(panel, results):
    defaults = panel["fieldConfig"]["defaults"]
    parts = []
    for target, series in results:
        for one in series:
            value = float(one["value"][1])
            color = NAMED[[step["color"] for step in defaults["thresholds"]["steps"]
                           if step["value"] is None or value >= step["value"]][-1]]
            name = f'<small>{html.escape(_legend(target, one["metric"]))}</small>' if len(series) > 1 else ""
            parts.append(f'<div><b style="color:{color}">{html.escape(formatted(value, defaults["unit"], defaults.get("decimals")))}'
                         f"</b>{name}</div>")
    return f'<div class="stat">{"".join(parts)}</div>'


def _table(panel, results):
    [(_, series)] = results
    hidden = panel["transformations"][0]["options"]["excludeByName"]
    names = sorted({name for one in series for name in one["metric"]} - set(hidden))
    rows = "".join("<tr>" + "".join(f'<td>{html.escape(one["metric"].get(name, ""))}</td>' for name in names) + "</tr>"
                   for one in series)
    return f'<table><tr>{"".join(f"<th>{name}</th>" for name in names)}</tr>{rows}</table>'


def page(dashboard, query, query_range, start, end, note):
    """`query(expression)` and `query_range(expression)` answer as Prometheus' API; times in seconds. Returns the
    page and its height."""
    parts, lowest = [], 0
    for panel in dashboard["panels"]:
        box = panel["gridPos"]
        left, top = 12 + box["x"] * CELL, 44 + box["y"] * (ROW + GAP)
        width, height = box["w"] * CELL - GAP, box["h"] * (ROW + GAP) - GAP
        lowest = max(lowest, top + height)
        if panel["type"] == "row":
            parts.append(f'<div class="row" style="left:{left}px;top:{top}px">▾ {html.escape(panel["title"])}</div>')
            continue
        ask = query if panel["type"] in ("stat", "table") else query_range
        results = [(target, ask(target["expr"])) for target in panel["targets"]]
        if panel["type"] == "timeseries":
            body = _lines(panel, results, width, height, start, end)
        elif panel["type"] == "heatmap":
            body = _heatmap(panel, results, width, height, start, end)
        else:
            body = (_stat if panel["type"] == "stat" else _table)(panel, results)
        parts.append(f'<div class="panel" style="left:{left}px;top:{top}px;width:{width}px;height:{height}px">'
                     f'<h3>{html.escape(panel["title"])}</h3>{body}</div>')
    return (f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><header>{html.escape(dashboard["title"])}'
            f'<small>{html.escape(note)}</small></header>{"".join(parts)}', lowest + 12)
