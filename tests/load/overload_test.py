"""Overload of real processes, in short; QWENSERVE_LOAD_SECONDS makes it long."""

import os

import pytest

import overload

SECONDS = float(os.environ.get("QWENSERVE_LOAD_SECONDS", 8))


def test_goodput_stays_at_its_peak():
    result = overload.measure([1, 10], warm_up=6, seconds=SECONDS)
    print(result)
    if not all(run["valid"] for run in result["runs"]):
        pytest.skip("the load generator was too busy for its figures to mean anything")
    for run in result["runs"]:
        assert run["other"] == 0, run
        # The long form has the figure itself; a few seconds on a busy machine scatter.
        assert run["of_peak"] >= (0.9 if SECONDS >= 30 else 0.75), run
    assert result["runs"][1]["refused"] > result["runs"][1]["requests"] / 2
    assert result["left_in_flight"] == 0
