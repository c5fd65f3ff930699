"""Checks objects against the schemas of Kubernetes and of custom resources, strictly: a field that
the schema does not have is an error, as it would silently be dropped."""

import copy
import json

import jsonschema
import kubernetes_validate

from conftest import ROOT


def closed(node):
    """Where a schema lists properties there are no others."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        node.setdefault("additionalProperties", False)
    return node


def load():
    schemas = {}
    for path in (ROOT / "third_party" / "crd_schemas").glob("*.json"):
        content = json.loads(path.read_text())
        schema = closed(content["schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[content["apiVersion"], content["kind"]] = jsonschema.Draft7Validator(schema)
    return schemas


CUSTOM = load()


def validate(document, kubernetes):
    """`kubernetes`: such as 1.29. Raises for what an API server would refuse or drop."""
    custom = CUSTOM.get((document["apiVersion"], document["kind"]))
    if custom is None:
        used = kubernetes_validate.validate(document, f"{kubernetes}.0", strict=True)
        assert used == kubernetes
        return
    custom.validate(document)
    if document["kind"] == "LeaderWorkerSet":
        group = document["spec"]["leaderWorkerTemplate"]
        for name in ("leaderTemplate", "workerTemplate"):
            validate({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"},
                      "template": copy.deepcopy(group[name])}, kubernetes)
