"""Pods that cannot start: each says why in the message of its container, exits with a documented status, is tried
again ever later, and starts once the reason is gone."""

import hashlib
import shutil

import pytest

from conftest import OWN_MODEL, ROOT
from kube_cluster import Cluster
from kube_services import HAPROXY
from security import key_line, write_keys

DEMO = ROOT / "models" / "demo"
OWN = {"models.own": {**OWN_MODEL, "name": "own", "source": {"pvc": {"claimName": "models", "subPath": "own"}}}}
# services/README.md: what a start, or a process, ends with that has failed; and a wrong flag.
FAILED, USAGE = 1, 2
HURRY = 10

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here")


@pytest.fixture
def claim(tmp_path):
    """A volume with the demo as somebody's own model."""
    shutil.copytree(DEMO, tmp_path / "claim" / "own")
    return tmp_path / "claim"


def without(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:len(content) // 2])
    return change


def last_line(pod):
    return pod.ended[-1].message.splitlines()[-1]


def wait_failed(cluster, component, status=FAILED):
    """The pod, after its second end: it waits for its third start."""
    [pod] = cluster.pods(component)
    cluster.wait_for(lambda: pod.waiting == "CrashLoopBackOff", f"the {component} to fail again")
    assert {end.exit_code for end in pod.ended} == {status}, pod.describe()
    return pod


MODELS = [
    ("generator", shutil.rmtree, "cannot start: {model}: no such model directory"),
    ("tokenizer", shutil.rmtree, "cannot start: {model}: no such model directory"),
    ("generator", without("config.json"), "cannot start: {model}/config.json"),
    ("generator", without("model.safetensors"), "cannot start: {model}: neither model.safetensors nor"),
    ("generator", without("tokenizer.json"), "cannot start: {model}"),
    ("tokenizer", without("tokenizer.json"), "cannot start: {model}"),
    ("generator", cut("model.safetensors"), "cannot start: {model}/model.safetensors"),
    ("generator", cut("config.json"), "cannot start: {model}/config.json"),
]


@pytest.mark.parametrize("component, spoil, message", MODELS)
def test_a_model_that_is_not_whole(helm, tmp_path, claim, component, spoil, message):
    spoil(claim / "own")
    with Cluster(tmp_path, claims={"models": claim}, hurry=HURRY) as cluster:
        cluster.apply(helm.render(values=OWN))
        pod = wait_failed(cluster, component)
        assert message.format(model=claim / "own") in last_line(pod), last_line(pod)


def test_it_starts_once_the_model_is_there(helm, tmp_path, claim):
    (claim / "own").rename(claim / "later")
    with Cluster(tmp_path, claims={"models": claim}, hurry=HURRY) as cluster:
        cluster.apply(helm.render(values=OWN))
        pods = [wait_failed(cluster, component) for component in ("tokenizer", "generator")]
        (claim / "later").rename(claim / "own")
        cluster.wait_ready()
        assert all(pod.restarts >= 2 for pod in pods)
        [gateway] = cluster.pods("gateway")
        assert gateway.restarts == 0


@pytest.mark.parametrize("values, missing", [
    ({"gateway.apiKeys.secretName": "s", "tests.enabled": False}, "api-keys"),
    ({"gateway.cacheSalt.secretName": "s"}, "salt"),
    ({"tls.edge": {"enabled": True, "secretName": "s"}}, "tls.crt"),
])
def test_a_secret_without_what_it_should_have(helm, tmp_path, values, missing):
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "something-else").touch()
    with Cluster(tmp_path, secrets={"s": folder}, hurry=HURRY) as cluster:
        cluster.apply(helm.render(values=values))
        pod = wait_failed(cluster, "gateway")
        assert f"cannot start: {folder}/{missing}: No such file or directory" in last_line(pod), last_line(pod)


def test_keys_that_are_none(helm, tmp_path):
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "api-keys").write_text("my secret password\n")
    with Cluster(tmp_path, secrets={"s": folder}, hurry=HURRY) as cluster:
        cluster.apply(helm.render(values={"gateway.apiKeys.secretName": "s", "tests.enabled": False}))
        pod = wait_failed(cluster, "gateway")
        assert f"{folder}/api-keys" in last_line(pod) and "password" not in pod.ended[-1].message
        (folder / "api-keys").unlink()
        write_keys(folder / "api-keys", key_line("right", "tenant"))
        cluster.wait_ready()


def test_a_copy_that_is_another_one(helm, tmp_path, claim):
    (claim / "own" / "SHA256SUMS").write_text("0" * 64 + "  config.json\n")
    digest = hashlib.sha256((claim / "own" / "SHA256SUMS").read_bytes()).hexdigest()
    copy = {"image": "tools:1", "claimName": "models", "path": "own", "sha256": digest, "sizeLimit": "1Gi"}
    with Cluster(tmp_path, claims={"models": claim}, hurry=HURRY) as cluster:
        cluster.apply(helm.render(values={"models.own": {**OWN_MODEL, "source": {"copy": copy}}}))
        pod = wait_failed(cluster, "generator")
        assert "what was copied is not what SHA256SUMS says" in last_line(pod)


@pytest.mark.parametrize("values, status, message", [
    ({"generator.tensorParallel": 5}, FAILED, "the model has 4 query heads"),
    ({"generator.device": "cuda"}, FAILED, "no NVIDIA driver"),
    ({"generator.flags.kv-cache-memory": "64TiB"}, FAILED, "KV cache"),
    ({"generator.env": {"QWENSERVE_THREADS": "many"}}, USAGE, "QWENSERVE_THREADS"),
])
def test_a_generator_that_does_not_fit(helm, tmp_path, claim, values, status, message):
    with Cluster(tmp_path, claims={"models": claim}, hurry=HURRY) as cluster:
        cluster.apply(helm.render(values={**OWN, **values}))
        pod = wait_failed(cluster, "generator", status)
        assert message in pod.ended[-1].message, pod.ended[-1].message
