"""Renders the chart with the real helm."""

import json
import pathlib
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "qwenserve"
# The oldest Kubernetes that the chart is for, and the newest that the schemas know.
KUBERNETES_VERSIONS = ("1.29.0", "1.37.0")
# None is the default values.
PROFILES = (None, *sorted(path.name for path in (CHART / "ci").glob("*-values.yaml")))


class Helm:
    def __init__(self, program):
        self.program = program

    def run(self, *arguments):
        return subprocess.run([self.program, *map(str, arguments)], cwd=ROOT, capture_output=True,
                              text=True)

    def template(self, profile=None, values=None, release="qwenserve", kubernetes="1.29.0"):
        arguments = ["template", release, CHART, "--kube-version", kubernetes, "--namespace", "inference"]
        if profile:
            arguments += ["--values", CHART / "ci" / profile]
        for path, value in (values or {}).items():
            arguments += ["--set-json", f"{path}={json.dumps(value)}"]
        return self.run(*arguments)

    def render(self, *args, **kwargs):
        done = self.template(*args, **kwargs)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="session")
def helm():
    done = subprocess.run([ROOT / "tools" / "fetch_helm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Helm(done.stdout.strip())


@pytest.fixture(params=PROFILES, ids=lambda name: name or "default")
def documents(request, helm):
    """Every document of one profile."""
    return helm.render(request.param)
