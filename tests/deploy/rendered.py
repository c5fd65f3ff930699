"""Reads what was rendered."""

WORKLOADS = {"gateway": "Deployment", "tokenizer": "Deployment", "generator": "StatefulSet"}


def find(documents, kind, name):
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def workload(documents, component, release="qwenserve"):
    return find(documents, WORKLOADS[component], f"{release}-{component}")


def pod(documents, component, **kwargs):
    return workload(documents, component, **kwargs)["spec"]["template"]["spec"]


def container(documents, component, **kwargs):
    containers = pod(documents, component, **kwargs)["containers"]
    assert len(containers) == 1
    return containers[0]


def flags(documents, component, **kwargs):
    """The arguments as a dict; each is --name=value, and none occurs twice."""
    pairs = [argument.split("=", 1) for argument in container(documents, component, **kwargs)["args"]]
    assert all(len(pair) == 2 and pair[0].startswith("--") for pair in pairs)
    names = [name[2:] for name, _ in pairs]
    assert len(names) == len(set(names))
    return dict(zip(names, (value for _, value in pairs)))


def port(container_, name):
    return {p["name"]: p["containerPort"] for p in container_["ports"]}[name]
