"""Replicas on two nodes, run pod by pod as the chart renders them: they start, are lost and are drained as one."""

import contextlib

import pytest

from conftest import ALL_APIS
from kube_client import stream, wait_answering
from kube_services import HAPROXY

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here")


@pytest.fixture
def two_nodes(helm):
    return helm.render(values={"generator.tensorParallel": 2, "generator.nodes": 2}, apis=ALL_APIS)


def test_a_group_of_nodes_starts_and_is_made_anew_together(helm, api, make_cluster, two_nodes):
    cluster = make_cluster(two_nodes)
    cluster.wait_ready()
    first = cluster.pods("generator")
    assert len(first) == 2
    wait_answering(helm, cluster)
    # Only the leader takes requests.
    assert cluster.services.endpoints("qwenserve-generator-demo-leaders") == [first[0].ip]
    # A worker's container that is lost ends the group, and a new one comes.
    first[1].kill()
    cluster.wait_for(lambda: all(p.gone.is_set() for p in first), "the end of the group")
    cluster.wait_ready()
    assert [end.exit_code for end in first[0].ended] == [1]
    assert "node" in first[0].ended[0].message
    wait_answering(helm, cluster)


def test_a_node_that_is_lost_costs_no_token(helm, api, make_cluster):
    """The worker of one of two groups is killed, in the middle of answers: they go on at the other group with the very
    tokens that they would have had, and the one that is made anew takes its share again."""
    cluster = make_cluster(helm.render(values={"generator.tensorParallel": 2, "generator.nodes": 2, "generator.replicas": 2},
                                       apis=ALL_APIS))

    def both_ready():
        return cluster.metric("gateway", "qwenserve_gateway_workers_ready", role="generator") == 2
    cluster.wait_ready().wait_reachable("qwenserve-gateway", 1)
    cluster.wait_for(both_ready, "both groups")

    def answers(count, disturb=lambda: None):
        streams = [stream(api, cluster, 600, seed) for seed in range(1, count + 1)]
        ids = [[] for _ in streams]
        with contextlib.ExitStack() as stack:
            for channel, _ in streams:
                stack.enter_context(channel)
            for number, (_, answer) in enumerate(streams):
                while not ids[number]:
                    ids[number] += next(answer).delta.token_ids
            disturb()
            for number, (_, answer) in enumerate(streams):
                for event in answer:
                    ids[number] += event.delta.token_ids
        return ids

    undisturbed = answers(4)
    assert [len(ids) for ids in undisturbed] == [600] * 4 and undisturbed[0] != undisturbed[1]
    groups = {number: [p for p in cluster.pods("generator") if p.group == number] for number in (0, 1)}
    assert answers(4, groups[0][1].kill) == undisturbed
    assert cluster.metric("gateway", "qwenserve_gateway_failovers_total") > 0
    cluster.wait_for(lambda: all(pod.gone.is_set() for pod in groups[0]), "the end of the group")
    cluster.wait_ready().wait_for(both_ready, "the group again")
    assert [p for p in cluster.pods("generator") if p.group == 1] == groups[1]
    assert all(pod.restarts == 0 for pod in groups[1])


def test_a_node_that_is_drained_cuts_no_answer(helm, api, make_cluster, two_nodes):
    """The machine of a worker goes: its pod alone is told to stop, and the group follows in order."""
    cluster = make_cluster(two_nodes)
    cluster.wait_ready()
    wait_answering(helm, cluster)
    leader, worker = cluster.pods("generator")
    cluster.stop_controllers()
    channel, answer = stream(api, cluster, 600)
    with channel:
        assert next(answer).HasField("started")
        worker.delete()
        assert sum(len(event.delta.token_ids) for event in answer) == 600
    cluster.wait_for(worker.gone.is_set, "the end of the worker")
    assert not worker.forced and [end.exit_code for end in worker.ended] == [0], worker.describe()
    cluster.wait_for(lambda: leader.ended, "the end of the leader")
    assert leader.ended[0].exit_code == 0, leader.describe()
