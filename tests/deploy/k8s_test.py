"""k8s/ is what the chart renders today."""

import subprocess

import kubernetes_validate
import yaml

from conftest import PROFILES, ROOT


def test_k8s_is_the_rendering_of_the_chart(tmp_path):
    done = subprocess.run([ROOT / "tools" / "render_k8s", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rendered = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "k8s").glob("*.yaml")}
    assert len(rendered) == len(PROFILES)
    assert sorted(committed) == sorted(rendered)
    for name, text in rendered.items():
        assert committed[name] == text, f"k8s/{name} differs: run tools/render_k8s"


def test_demo_applies_as_it_is():
    documents = [d for d in yaml.safe_load_all((ROOT / "k8s" / "demo.yaml").read_text()) if d]
    assert len(documents) == 6
    for document in documents:  # core kinds only: no operator is needed
        kubernetes_validate.validate(document, "1.29", strict=True)
