"""Rolling updates under load: no request fails, and no token is wrong.

Prints JSON. QWENSERVE_ROLLING=long: with the delays of the default values and CoreDNS's time to live, all together
and each kind of pod by itself. QWENSERVE_OLD_BIN=FOLDER: programs of an older build, to be updated from;
QWENSERVE_OLD_CHART=FOLDER: the chart that they came with, helm/qwenserve at the time.
"""

import contextlib
import json
import os
import pathlib
import time

import pytest

from conftest import CHART
from kube_cluster import Cluster
from kube_load import Load, judge, longest_waits
from kube_services import HAPROXY
from sim_cluster import make_sim_model

LONG = os.environ.get("QWENSERVE_ROLLING") == "long"
OLD_BIN = os.environ.get("QWENSERVE_OLD_BIN")
OLD_CHART = pathlib.Path(os.environ.get("QWENSERVE_OLD_CHART", CHART))
# Seconds that endpoints and names change late, and that names are kept.
LATENESS, TTL = 2.0, 5 if LONG else 1
DELAY = 10 if LONG else 4
GENERATORS, GATEWAYS, TOKENIZERS = 4, 2, 2
STEP_MS, MAX_RUNNING, LENGTHS = 50, 8, (10, 50)
FULLNESS = 0.7
RATE = FULLNESS * GENERATORS * MAX_RUNNING * 1000 / STEP_MS / (sum(LENGTHS) / 2)

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here")


def values(tag="new", fingerprint="one", tags=None):
    """Of the release; `tags`: {component: tag}, of those that have another one."""
    result = {
        "models.sim": {"name": "sim", "source": {"pvc": {"claimName": "models"}}, "chatTemplate": "qwen3",
                       "generator": {"resources": {"limits": {"memory": "1Gi"}}}},
        "generator.flags": {"engine": "sim", "sim-step-ms": STEP_MS, "max-running": MAX_RUNNING, "sim-fingerprint": fingerprint},
        "image.tag": tag}
    for component, replicas in (("gateway", GATEWAYS), ("tokenizer", TOKENIZERS), ("generator", GENERATORS)):
        result[f"{component}.replicas"] = replicas
        if not LONG:
            result[f"{component}.drain.delaySeconds"] = DELAY
        if component in (tags or {}):
            result[f"{component}.image"] = f"qwenserve-{component}:{tags[component]}"
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_sim_model(tmp_path_factory.mktemp("models") / "sim")


@contextlib.contextmanager
def fleet(helm, model, folder, **given):
    versions = {"old": pathlib.Path(OLD_BIN)} if OLD_BIN else {}
    with Cluster(folder, claims={"models": model}, versions=versions, lateness=LATENESS, ttl=TTL) as cluster:
        cluster.apply(helm.render(values=values(**given), chart=OLD_CHART))
        cluster.wait_done()
        cluster.wait_reachable("qwenserve-gateway", GATEWAYS)
        cluster.wait_reachable("qwenserve-generator-sim", GENERATORS)
        yield cluster


def update_under_load(helm, model, folder, seconds, old, new, chart):
    """What the streams received meanwhile, judged: how many had the answers of each fingerprint; and the pods that
    were replaced. `chart`: that of the update."""
    load = Load(folder, RATE, seconds, LENGTHS)
    with contextlib.ExitStack() as stack:
        stack.callback(load.close)
        sim = ("--engine", "sim", "--sim-step-ms", 0, "--max-running", 256)
        answers = [load.undisturbed(model, *sim, "--sim-fingerprint", fingerprint) for fingerprint in
                   sorted({version.get("fingerprint", "one") for version in (old, new)})]
        cluster = stack.enter_context(fleet(helm, model, folder, **old))
        before = set(cluster.pods())
        load.start(cluster.address("qwenserve-gateway", "grpc"), cluster.address("qwenserve-gateway", "http"))
        cluster.wait_for(lambda: cluster.metric("generator", "qwenserve_sequences_running")
                         > 0.5 * FULLNESS * GENERATORS * MAX_RUNNING, "the load")
        begin = time.monotonic()
        cluster.apply(helm.render(values=values(**new), chart=chart))
        cluster.wait_done(600)
        updated = time.monotonic() - begin
        events = load.wait()
        replaced = before - set(cluster.pods())
        # Whoever was told to stop has stopped by itself, in time and in order.
        for pod in before:
            assert pod.restarts == 0, pod.describe()
        for pod in replaced:
            assert not pod.forced and [end.exit_code for end in pod.ended] == [0], pod.describe()
        complaints, counts = judge(events, *answers)
        assert not complaints, (len(complaints), complaints[:10])
        assert sum(counts.values()) == len(load.jobs)
        print(json.dumps({"streams": len(load.jobs), "failed": 0, "streams_by_fingerprint": [counts[i] for i in range(len(answers))],
                          "replaced": len(replaced), "load_s": seconds, "update_s": round(updated, 1), **longest_waits(events)}))
        return counts, replaced


def test_a_new_version_of_everything_with_other_numerics(helm, model, tmp_path):
    """As `helm upgrade` does it. What has begun ends where it is, for its tokens are no other replica's."""
    counts, replaced = update_under_load(helm, model, tmp_path, 100 if LONG else 45, {"tag": "old", "fingerprint": "one"},
                                         {"tag": "new", "fingerprint": "two"}, CHART)
    assert len(replaced) == GATEWAYS + TOKENIZERS + GENERATORS
    assert counts[0] and counts[1]


@pytest.mark.skipif(not LONG, reason="QWENSERVE_ROLLING is not long")
@pytest.mark.parametrize("component, count", [("gateway", GATEWAYS), ("tokenizer", TOKENIZERS), ("generator", GENERATORS)])
def test_a_new_version_of_one(helm, model, tmp_path, component, count):
    """The others stay at the old one, so that it works with the new one; and the chart, so that new programs take
    what it gives them."""
    everything = {c: "old" for c in ("gateway", "tokenizer", "generator")}
    _, replaced = update_under_load(helm, model, tmp_path, 100 if component == "generator" else 60, {"tags": everything},
                                    {"tags": {**everything, component: "new"}}, OLD_CHART)
    assert len(replaced) == count
    assert {pod.labels["app.kubernetes.io/component"] for pod in replaced} == {component}
