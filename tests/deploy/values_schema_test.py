"""A wrong value is refused before anything is rendered, by its path."""

import json

import pytest
import yaml

from conftest import CHART
from rendered import WORKLOADS

WRONG = [
    ({"generators": {}}, "generators"),
    ({"gateway.replica": 2}, "replica"),
    ({"model.pvc.name": "x"}, "name"),
    ({"generator.drain.preStop": 1}, "preStop"),
    ({"generator.resources.limit": {}}, "limit"),
    ({"podMonitor.enable": True}, "enable"),
    ({"gateway.replicas": "2"}, "/gateway/replicas"),
    ({"gateway.replicas": -1}, "/gateway/replicas"),
    ({"gateway.maxRequestSeconds": 0}, "/gateway/maxRequestSeconds"),
    ({"tokenizer.drain.delaySeconds": 1.5}, "/tokenizer/drain/delaySeconds"),
    ({"tokenizer.drain.timeoutSeconds": -1}, "/tokenizer/drain/timeoutSeconds"),
    ({"tokenizer.drain": None}, "drain"),
    ({"generator.startupSeconds": 0}, "/generator/startupSeconds"),
    ({"generator.tensorParallel": 0}, "/generator/tensorParallel"),
    ({"generator.tensorParallelMode": "mpi"}, "/generator/tensorParallelMode"),
    ({"generator.maxModelLen": 0}, "/generator/maxModelLen"),
    ({"generator.maxBatchTokens": "many"}, "/generator/maxBatchTokens"),
    ({"generator.kvDtype": "int4"}, "/generator/kvDtype"),
    ({"generator.maxStepMs": 0}, "/generator/maxStepMs"),
    ({"generator.prefixCache": "on"}, "/generator/prefixCache"),
    ({"generator.kvCacheMemory": "4 GiB"}, "/generator/kvCacheMemory"),
    ({"generator.sharedMemory": "lots"}, "/generator/sharedMemory"),
    ({"generator.resources.limits.memory": "2GB"}, "/generator/resources/limits/memory"),
    ({"generator.tolerations": [{"effect": "Never"}]}, "/generator/tolerations/0/effect"),
    ({"generator.nodeSelector": {"a": 1}}, "/generator/nodeSelector/a"),
    ({"logLevel": "verbose"}, "/logLevel"),
    ({"image.pullPolicy": "Sometimes"}, "/image/pullPolicy"),
    ({"image.tag": "a b"}, "/image/tag"),
    ({"image.registry": "https://registry.example"}, "/image/registry"),
    ({"model.name": "a b"}, "/model/name"),
    ({"model.chatTemplate": "llama"}, "/model/chatTemplate"),
    ({"model.name": "m", "model.pvc.claimName": "A_B"}, "/model/pvc/claimName"),
    ({"model.pvc.subPath": "../etc"}, "/model/pvc/subPath"),
    ({"model.pvc.subPath": "/models"}, "/model/pvc/subPath"),
    ({"model.pvc.claimName": "claim"}, "/model/name"),  # somebody's model under the demo's name
    ({"podMonitor.interval": "15"}, "/podMonitor/interval"),
]


@pytest.mark.parametrize("values, path", WRONG, ids=lambda item: json.dumps(item))
def test_wrong_value_is_refused(helm, values, path):
    done = helm.template(values=values)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert path in done.stderr


def objects(schema):
    """Every part of the schema that describes an object, with its path."""
    def walk(node, path):
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield path, node
            for key, value in node.items():
                yield from walk(value, f"{path}/{key}")
    return list(walk(schema, ""))


def test_schema_is_closed():
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = objects(schema)
    assert len(found) > 10
    # Helm itself adds "global".
    assert [path for path, node in found if "additionalProperties" not in node] == ["/properties/global"]
    assert [path for path, node in found if node.get("additionalProperties") is True] == []


def test_schema_and_defaults_have_the_same_keys():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    for section in ("image", "model", "podMonitor", "podDisruptionBudget", *WORKLOADS):
        assert set(values[section]) == set(schema["properties"][section]["properties"]), section
