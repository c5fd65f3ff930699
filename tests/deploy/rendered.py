"""Reads what was rendered."""

import dataclasses

COMPONENTS = ("gateway", "tokenizer", "generator")
PORTS = {"gateway": 50051, "tokenizer": 50061, "generator": 50071}
WORKLOAD_KINDS = ("Deployment", "StatefulSet", "LeaderWorkerSet")


def of_kind(documents, *kinds):
    return [d for d in documents if d["kind"] in kinds]


def find(documents, kind, name):
    found = [d for d in of_kind(documents, kind) if d["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


@dataclasses.dataclass
class Pod:
    """A pod template of a workload; a LeaderWorkerSet has two."""
    component: str
    model: str | None  # its key in the values
    node: str | None   # leader, worker, or None where a replica has one node
    workload: dict
    template: dict

    @property
    def name(self):
        return self.workload["metadata"]["name"]

    @property
    def spec(self):
        return self.template["spec"]

    @property
    def labels(self):
        return self.template["metadata"]["labels"]

    @property
    def container(self):
        assert len(self.spec["containers"]) == 1
        return self.spec["containers"][0]

    @property
    def flags(self):
        """The arguments as a dict; each is --name=value, and none occurs twice."""
        pairs = [argument.split("=", 1) for argument in self.container["args"]]
        assert all(len(pair) == 2 and pair[0].startswith("--") for pair in pairs)
        names = [name[2:] for name, _ in pairs]
        assert len(names) == len(set(names))
        return dict(zip(names, (value for _, value in pairs)))

    @property
    def ports(self):
        return {p["name"]: p["containerPort"] for p in self.container["ports"]}

    @property
    def mounts(self):
        return {m["mountPath"]: m for m in self.container.get("volumeMounts", [])}

    @property
    def volumes(self):
        return {v["name"]: v for v in self.spec.get("volumes", [])}

    def mounted(self, path):
        """The volume that is mounted at `path`."""
        return self.volumes[self.mounts[path]["name"]]


def all_pods(documents):
    """Those of our own programs and those of the front."""
    result = []
    for workload in of_kind(documents, *WORKLOAD_KINDS):
        spec = workload["spec"]
        if workload["kind"] == "LeaderWorkerSet":
            group = spec["leaderWorkerTemplate"]
            templates = [("leader", group["leaderTemplate"]), ("worker", group["workerTemplate"])]
        else:
            templates = [(None, spec["template"])]
        labels = workload["metadata"]["labels"]
        for node, template in templates:
            result.append(Pod(labels["app.kubernetes.io/component"], labels.get("qwenserve/model"), node, workload,
                              template))
    return result


def pods(documents, component=None, model=None):
    result = [p for p in all_pods(documents)
              if p.component in COMPONENTS and component in (None, p.component) and model in (None, p.model)]
    assert result, f"no pods of {component} {model}"
    return result


def pod(documents, component, model=None):
    found = pods(documents, component, model)
    assert len(found) == 1
    return found[0]


def selects(selector, labels):
    return selector.items() <= labels.items()
