"""Kill points in short: 15 for simulated engines, and some for the demo model. QWENSERVE_KILL_POINTS=200
makes the first one long."""

import json
import os

import pytest

from kill_points import BARS, LATE, Run, gaps_too_long, make_schedule

KILL_POINTS = int(os.environ.get("QWENSERVE_KILL_POINTS", 0))
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
    assert result["streams_over_http"] > result["streams"] / 4
    assert result["machine_late"]["times"] > 100
    return result


@pytest.mark.skipif(KILL_POINTS > 0, reason="the long form instead")
def test_no_token_is_lost_wrong_or_doubled():
    check(Run(48, 1, lengths=(10, 24), double=1, stall=6, step_ms=25), SHORT)


@pytest.mark.skipif(KILL_POINTS == 0, reason="the short form instead")
def test_no_token_is_lost_wrong_or_doubled_in_hundreds_of_faults():
    run = Run(200, 1)
    result = check(run, make_schedule(KILL_POINTS, run.draw))
    assert result["retries_over_http"] > 0
    assert {f"generator {fault}" for fault in BARS} <= result["failover_gap"].keys()
    # A run whose gaps mean nothing has proved nothing, so it fails as well.
    assert result["gaps_too_long"] == []


def test_a_gap_that_is_too_long_is_told_whoever_is_to_blame():
    gaps = {"generator kill": {"p99_s": 1.2}, "generator stop": {"p99_s": 3.9}, "tokenizer kill": {"p99_s": 9}}
    missed, = gaps_too_long(gaps, {"p99_s": LATE / 2})
    void, = gaps_too_long(gaps, {"p99_s": LATE * 2})
    assert missed.startswith("kill") and missed.endswith("missed")
    assert void.startswith("kill") and "void" in void
    assert gaps_too_long({"generator kill": {"p99_s": 0.9}}, {"p99_s": LATE * 2}) == []


def test_with_a_real_engine():
    result = check(Run(14, 2, real=True, lengths=(800, 1200), double=0), [
        ("generator", "kill"), ("generator", "stop"), ("generator", "kill"), ("generator", "drain"), ("tokenizer", "kill"),
        ("gateway", "kill")])
    assert result["failovers"] > 0
