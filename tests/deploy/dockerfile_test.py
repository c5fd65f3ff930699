"""The Dockerfile, the tree and the chart agree. Building it is not part of the tests."""

import json
import re
import subprocess

import pytest

from conftest import ROOT
from rendered import COMPONENTS, pod

DOCKERFILE = ROOT / "docker" / "Dockerfile"
FINAL = sorted(COMPONENTS)


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


def test_a_target_per_process():
    assert list(stages()) == ["", "build", *sorted(FINAL, key=COMPONENTS.index)]
    assert values("", "ARG") == ["BASE=docker.io/library/debian:bookworm-slim"]
    assert values("build", "FROM") == ["${BASE} AS build"]


@pytest.mark.parametrize("stage", FINAL)
def test_final_stage(helm, stage):
    documents = helm.render()
    assert values(stage, "FROM") == [f"scratch AS {stage}"]
    assert json.loads(values(stage, "ENTRYPOINT")[0]) == [f"/usr/bin/qwenserve-{stage}"]
    security = pod(documents, stage).spec["securityContext"]
    assert values(stage, "USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["runAsUser"] != 0
    ports = pod(documents, stage).ports.values()
    assert values(stage, "EXPOSE") == [" ".join(map(str, ports))]
    assert f"--from=build /roots/{stage} /" in values(stage, "COPY")
    # The last USER counts, so nothing may follow that runs or copies as another.
    names = [name for name, _ in stages()[stage]]
    assert names.count("USER") == 1 and "RUN" not in names


@pytest.mark.parametrize("stage", ["tokenizer", "generator"])
def test_the_demo_model_is_where_the_chart_looks(helm, stage):
    model = pod(helm.render(), stage).flags["model"]
    assert f"--from=build /models {model.removesuffix('/demo')}" in values(stage, "COPY")
    assert "models/demo /models/demo" in values("build", "COPY")


def copied():
    return [arguments.split()[0] for stage in stages() for arguments in values(stage, "COPY")
            if not arguments.startswith("--from=")]


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
    assert f"qwenserve:x:{user}:{user}:" in (ROOT / "docker" / "collect_root").read_text()


def test_collect_root_makes_a_root_that_runs(tmp_path):
    """A program collected so finds all its libraries inside the folder."""
    root = tmp_path / "root"
    subprocess.run([ROOT / "docker" / "collect_root", root, "/usr/bin/protoc"], check=True)
    loader = next(path for path in root.rglob("ld-linux*"))
    libraries = ":".join({str(path.parent) for path in root.rglob("*.so.*")})
    listing = subprocess.run([loader, "--library-path", libraries, "--list", root / "usr/bin/protoc"],
                             check=True, capture_output=True, text=True).stdout
    paths = re.findall(r"=> (\S+)", listing)
    assert any("libprotobuf" in path for path in paths)
    assert all(path.startswith(str(root)) for path in paths)
    assert list(root.rglob("libprotobuf*/copyright")) or list(root.rglob("libproto*/copyright"))
