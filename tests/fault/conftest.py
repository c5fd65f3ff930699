"""Fault tests share the cluster helpers of tests/e2e."""

import contextlib
import os
import pathlib
import sys

import pytest

E2E = str(pathlib.Path(__file__).resolve().parents[1] / "e2e")
sys.path.insert(0, E2E)
os.environ["PYTHONPATH"] = E2E


@pytest.fixture(scope="session")
def api(tmp_path_factory):
    from proto_api import load_api
    return load_api(tmp_path_factory.mktemp("proto"))


@pytest.fixture
def sim_cluster():
    """As in tests/e2e."""
    from sim_cluster import SimCluster
    with contextlib.ExitStack() as stack:
        def make(**options):
            cluster = SimCluster(**options)
            stack.callback(cluster.stop)
            return cluster
        yield make
