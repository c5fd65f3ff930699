"""Clients of a small cluster (kube_cluster.py): the command of `helm test`, and streams."""

import subprocess

import grpc

from kube_cluster import BIN
from rendered import of_kind


def chat(helm, cluster, values=None, **environment):
    """The commands of `helm test`, one for each model, at the Service; ends with the first that fails."""
    [test] = of_kind(helm.render(values=values), "Pod")
    for container in test["spec"]["containers"]:
        _, *arguments = container["command"]
        assert "--address=qwenserve-gateway:50051" in arguments
        arguments = [a.replace("qwenserve-gateway:50051", cluster.address("qwenserve-gateway", "grpc")) for a in arguments]
        done = subprocess.run([BIN / "qwenctl", *arguments], env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            break
    return done


def wait_answering(helm, cluster, values=None):
    cluster.wait_reachable("qwenserve-gateway", 1)
    cluster.wait_for(lambda: chat(helm, cluster, values).returncode == 0, "an answer")


def the_pod(cluster, component):
    [pod] = cluster.pods(component)
    return pod


def stream(api, cluster, max_tokens, seed=1):
    channel = grpc.insecure_channel(cluster.address("qwenserve-gateway", "grpc"))
    options = api.GenerationOptions(max_tokens=max_tokens, ignore_eos=True,
                                    sampling=api.SamplingParams(temperature=1.0, seed=seed))
    return channel, api.InferenceStub(channel).StreamComplete(
        api.CompleteRequest(text="the", options=options), timeout=120, wait_for_ready=True)
