"""k8s/ is what the chart renders today."""

import subprocess

import yaml

from conftest import OLDEST, PROFILES, ROOT, requirements
from schemas import CUSTOM, validate

# By hand.
WRITTEN = ("kustomization.yaml", "scrape.yaml")


def test_k8s_is_the_rendering_of_the_chart(tmp_path):
    done = subprocess.run([ROOT / "tools" / "render_k8s", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rendered = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.yaml")}
    committed = {path.relative_to(ROOT / "k8s"): path.read_text() for path in (ROOT / "k8s").rglob("*.yaml")
                 if path.name not in WRITTEN}
    assert len(rendered) == len(PROFILES) + 1
    assert sorted(committed) == sorted(rendered)
    for name, text in rendered.items():
        assert committed[name] == text, f"k8s/{name} differs: run tools/render_k8s"


def documents(name):
    return [d for d in yaml.safe_load_all((ROOT / "k8s" / f"{name}.yaml").read_text()) if d]


def test_demo_applies_as_it_is():
    for document in documents("demo"):  # core kinds only: no operator is needed
        assert (document["apiVersion"], document["kind"]) not in CUSTOM
        validate(document, OLDEST)


def test_files_say_what_they_need():
    for profile in PROFILES:
        kubernetes, apis = requirements(profile)
        kinds = {(d["apiVersion"], d["kind"]) for d in documents(profile or "demo")} & set(CUSTOM)
        assert {api for api, _ in kinds} == set(apis)
        head = (ROOT / "k8s" / f"{profile or 'demo'}.yaml").read_text().splitlines()[1]
        assert f"Kubernetes {kubernetes} or newer" in head
        assert all(api in head for api in apis)


def test_nothing_of_helm_itself_is_left():
    for profile in PROFILES:
        for document in documents(profile or "demo"):
            assert "helm.sh/hook" not in document["metadata"].get("annotations", {})


def kustomize(kubectl, folder):
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [d for d in yaml.safe_load_all(done.stdout) if d]


def key(document):
    return document["kind"], document["metadata"]["name"]


def test_k8s_is_a_base_for_kustomize(kubectl):
    assert sorted(kustomize(kubectl, ROOT / "k8s"), key=key) == sorted(documents("demo"), key=key)


def test_an_overlay_of_it(kubectl, tmp_path):
    for name in ("demo.yaml", "kustomization.yaml"):
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / name).write_bytes((ROOT / "k8s" / name).read_bytes())
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({
        "resources": ["base"], "namespace": "inference",
        "images": [{"name": "qwenserve-gateway", "newName": "registry.example/gateway", "newTag": "2"}],
        "replicas": [{"name": "qwenserve-generator-demo", "count": 3}]}))
    made = {key(d): d for d in kustomize(kubectl, tmp_path)}
    assert {d["metadata"]["namespace"] for d in made.values()} == {"inference"}
    gateway = made["Deployment", "qwenserve-gateway"]["spec"]["template"]["spec"]["containers"][0]
    assert gateway["image"] == "registry.example/gateway:2"
    assert made["StatefulSet", "qwenserve-generator-demo"]["spec"]["replicas"] == 3
    for document in made.values():
        validate(document, OLDEST)
