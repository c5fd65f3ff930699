"""Kill points in short: 15 for simulated engines, and some for the demo model. QWENSERVE_KILL_POINTS=200
makes the first one long."""

import json
import os

import pytest

from kill_points import Run, make_schedule

KILL_POINTS = int(os.environ.get("QWENSERVE_KILL_POINTS", 0))
# Of the gaps that the loss of a replica may make; told where there are enough of them.
BARS = {"kill": 1.0, "stop": 4.0, "hole": 4.0, "hole_reset": 4.0}
SHORT = [
    ("generator", "kill"), ("tokenizer", "kill"), ("generator", "stop"), ("gateway", "kill"), ("generator", "drain"),
    ("gateway", "stop"), ("generator", "hole"), ("tokenizer", "hole_reset"), ("generator", "reset"), ("gateway", "drain"),
    ("generator", "kill"), ("tokenizer", "stop"), ("generator", "hole_reset"), ("gateway", "reset"), ("generator", "fragments")]


def check(run, schedule):
    try:
        result = run.run(schedule)
    finally:
        run.close()
    print(json.dumps(result, indent=2))
    assert result["rounds_with_complaints"] == []
    assert sum(result["faults"].values()) == len(schedule)
    assert result["hit in mid-stream"] > len(schedule)
    return result


@pytest.mark.skipif(KILL_POINTS > 0, reason="the long form instead")
def test_no_token_is_lost_wrong_or_doubled():
    check(Run(48, 1, lengths=(10, 24), double=1, stall=6, step_ms=25), SHORT)


@pytest.mark.skipif(KILL_POINTS == 0, reason="the short form instead")
def test_no_token_is_lost_wrong_or_doubled_in_hundreds_of_faults():
    run = Run(200, 1)
    result = check(run, make_schedule(KILL_POINTS, run.draw))
    if result["load_average"] > os.cpu_count():
        pytest.skip(f"the machine is too busy for gaps to mean anything: {result['failover_gap']}")
    for fault, bar in BARS.items():
        assert result["failover_gap"][f"generator {fault}"]["p99_s"] <= bar, (fault, result["failover_gap"])


def test_with_a_real_engine():
    result = check(Run(14, 2, real=True, lengths=(800, 1200), double=0), [
        ("generator", "kill"), ("generator", "stop"), ("generator", "kill"), ("generator", "drain"), ("tokenizer", "kill"),
        ("gateway", "kill")])
    assert result["failovers"] > 0
