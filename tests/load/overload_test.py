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
    busy = result["load_average"] > 4 * result["cores"]
    for run in result["runs"]:
        # Workers that do not get to say in time that they live are taken to be lost.
        assert run["other"] == 0 or (busy and result["workers_lost"]), run
    assert result["left_in_flight"] == 0
    if busy:
        pytest.skip(f"the machine is too busy for goodput to mean anything: {result['runs']}")
    for run in result["runs"]:
        # The long form has the figure itself; a few seconds on a busy machine scatter.
        assert run["of_peak"] >= (0.9 if SECONDS >= 30 else 0.75), run
    assert result["runs"][1]["refused"] > result["runs"][1]["requests"] / 2
