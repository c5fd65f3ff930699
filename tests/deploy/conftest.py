"""Renders the chart with the real helm."""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "qwenserve"
# The oldest Kubernetes that the chart is for, and the newest that the schemas know.
OLDEST, NEWEST = "1.29", "1.37"
# None is the default values.
PROFILES = (None, *sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml")))
ALL_APIS = ("cert-manager.io/v1", "gateway.networking.k8s.io/v1", "inference.networking.k8s.io/v1",
            "keda.sh/v1alpha1", "leaderworkerset.x-k8s.io/v1", "monitoring.coreos.com/v1")
# Enough to be accepted as a model of one's own.
OWN_MODEL = {"name": "Own", "source": {"pvc": {"claimName": "models"}},
             "generator": {"resources": {"limits": {"memory": "8Gi"}}}}


def profile_path(profile):
    return CHART / "ci" / f"{profile}-values.yaml"


def requirements(profile):
    """What the head of a profile's file says: the oldest Kubernetes, and the APIs."""
    if profile is None:
        return OLDEST, []
    text = profile_path(profile).read_text()
    kubernetes = re.findall(r"^# Kubernetes: (\d+\.\d+)$", text, re.MULTILINE)
    assert len(kubernetes) == 1, f"{profile} does not say for which Kubernetes it is"
    return kubernetes[0], " ".join(re.findall(r"^# APIs: (.*)$", text, re.MULTILINE)).split()


class Helm:
    def __init__(self, program):
        self.program = program

    def run(self, *arguments):
        return subprocess.run([self.program, *map(str, arguments)], cwd=ROOT, capture_output=True,
                              text=True)

    def template(self, profile=None, values=None, release="qwenserve", kubernetes=None, apis=None,
                 show=None, chart=CHART):
        """`values`: by dotted path. `kubernetes`, `apis`: of the cluster; default: the least that the
        profile asks for."""
        least, needed = requirements(profile)
        arguments = ["template", release, chart, "--kube-version", f"{kubernetes or least}.0",
                     "--namespace", "inference"]
        for api in needed if apis is None else apis:
            arguments += ["--api-versions", api]
        if show:
            arguments += ["--show-only", show]
        if profile:
            arguments += ["--values", profile_path(profile)]
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


@pytest.fixture(scope="session")
def kubectl(helm):
    """Comes with helm, unless that is one of the machine's own."""
    program = pathlib.Path(helm.program).with_name("kubectl")
    program = program if program.exists() else shutil.which("kubectl")
    assert program, f"no kubectl beside {helm.program} nor in the PATH"
    return program


@pytest.fixture(scope="session")
def rendered_profiles(helm):
    return {profile: helm.render(profile) for profile in PROFILES}


@pytest.fixture(params=PROFILES, ids=lambda name: name or "default")
def profile(request):
    return request.param


@pytest.fixture
def documents(profile, rendered_profiles):
    """Every document of one profile."""
    return rendered_profiles[profile]


@pytest.fixture
def make_cluster(tmp_path):
    """make_cluster(documents, **options of kube_cluster.Cluster)"""
    from kube_cluster import Cluster

    with contextlib.ExitStack() as stack:
        def make(documents, **options):
            cluster = stack.enter_context(Cluster(tmp_path, **options))
            cluster.apply(documents)
            return cluster
        yield make


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The messages and stubs of the proto files."""
    from kube_load import load_api

    return load_api(tmp_path_factory.mktemp("proto"))
