"""The Dockerfile, the tree and the chart agree. image_test.py builds it."""

import json
import re

import pytest

from conftest import ROOT
from rendered import pod

DOCKERFILE = ROOT / "docker" / "Dockerfile"
# {target: the component of the chart that runs it}
SERVERS = {"gateway": "gateway", "tokenizer": "tokenizer", "generator-cpu": "generator",
           "generator-cuda": "generator", "generator-cuda-slim": "generator"}
TARGETS = [*SERVERS, "ctl"]


def stages():
    """{stage: [(instruction, arguments)]}, in the order of the file; "" is what precedes them."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n", " ", text)
    result, name = {"": []}, ""
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, arguments = line.split(None, 1)
        if instruction == "FROM":
            name = re.search(r" AS (\S+)$", arguments).group(1)
            result[name] = []
        result[name].append((instruction, arguments))
    return result


def values(stage, instruction):
    return [arguments for name, arguments in stages()[stage] if name == instruction]


def rendered(helm, target):
    """The documents and the pod of the component with this target's image."""
    device = {"generator.device": "cuda"} if "cuda" in target else {}
    documents = helm.render(values=device)
    return pod(documents, SERVERS[target])


def test_the_targets():
    assert set(TARGETS) == {name for name in stages() if values(name, "FROM")[:1] == [f"scratch AS {name}"]}
    assert "BASE=docker.io/library/debian:bookworm-slim" in values("", "ARG")
    assert "PROGRAMS=compiled" in values("", "ARG")
    assert values("compiler", "FROM") == ["${BASE} AS compiler"]
    assert values("runtime", "FROM") == ["${BASE} AS runtime"]


@pytest.mark.parametrize("target", SERVERS)
def test_server_image(helm, target):
    this = rendered(helm, target)
    assert json.loads(values(target, "ENTRYPOINT")[0]) == [f"/usr/bin/qwenserve-{SERVERS[target]}"]
    security = this.spec["securityContext"]
    assert values(target, "USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["runAsUser"] != 0
    assert values(target, "EXPOSE") == [" ".join(map(str, this.ports.values()))]
    name = target.removesuffix("-slim")  # a smaller stand-in, named by hand
    assert this.container["image"].split(":")[0] == f"qwenserve-{name}"


@pytest.mark.parametrize("target", TARGETS)
def test_final_stage_takes_layers_and_runs_nothing(target):
    roots = "roots-cuda" if "cuda" in target else "roots"
    copies = values(target, "COPY")
    assert copies[0] == f"--from={roots} /roots/libraries /" and copies[-1] == f"--from={roots} /roots/{target} /"
    # The last USER counts, so nothing may follow that runs or copies as another.
    names = [name for name, _ in stages()[target]]
    assert names.count("USER") == 1 and "RUN" not in names


@pytest.mark.parametrize("target", TARGETS)
def test_labels(target):
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', " ".join(values(target, "LABEL"))))
    version = re.search(r"project\(qwenserve VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())[1]
    assert (labels["title"], labels["version"]) == (f"qwenserve-{target}", version) and labels["description"]


@pytest.mark.parametrize("target", [t for t in SERVERS if t != "gateway"])
def test_the_demo_model_is_where_the_chart_looks(helm, target):
    this = rendered(helm, target)
    assert this.flags["model"] == "/opt/qwenserve/models/demo"
    assert '"opt/qwenserve/models/demo/' in (ROOT / "docker" / "collect_root").read_text().replace('f"', '"')
    assert any(copy.endswith("/roots/models /") for copy in values(target, "COPY"))
    assert "models/demo /models/demo" in values("runtime", "COPY")


def copied():
    sources = [source for stage in stages() for arguments in values(stage, "COPY")
               if not arguments.startswith("--from=") for source in arguments.split()[:-1]]
    return [source.replace("${PACKAGES}", "docker/runtime_packages.txt") for source in sources]


@pytest.mark.parametrize("source", sorted(set(copied())))
def test_copied_path_exists_and_is_sent_to_the_builder(source):
    assert (ROOT / source).exists()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert any(source == path or source.startswith(path + "/") for path in kept)


def test_every_folder_of_the_build_is_copied():
    # The image is built without tests.
    folders = re.findall(r"^\s*add_subdirectory\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert {"kernels", "services"} <= set(folders) <= {*copied(), "tests"}


def test_the_accounts_agree():
    user = values("gateway", "USER")[0].split(":")[0]
    assert f"\nUSER = {user}\n" in (ROOT / "docker" / "collect_root").read_text()
