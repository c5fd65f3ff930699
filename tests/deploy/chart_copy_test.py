"""The init container that copies a checkpoint: its script, run by a shell."""

import hashlib
import re
import subprocess

import pytest

from conftest import OWN_MODEL
from rendered import pod

COPY = {"image": "tools:1", "claimName": "models", "path": "m", "sha256": "0" * 64, "sizeLimit": "1Gi"}


class Checkpoint:
    """A folder to copy from and one to copy to, and the command of the chart with both put in."""

    def __init__(self, folder, command):
        self.source, self.target = folder / "source", folder / "model"
        self.command = command
        self.target.mkdir()
        for name in ("config.json", "a b.txt", "deep/er/model.safetensors", "model.bin", "stray"):
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            (self.source / name).write_text(f"content of {name}")
        self.listed = ["config.json", "a b.txt", "deep/er/model.safetensors", "model.bin"]
        self.write_list()

    def write_list(self, flags=()):
        done = subprocess.run(["sha256sum", *flags, *self.listed], cwd=self.source, capture_output=True, check=True)
        (self.source / "SHA256SUMS").write_bytes(done.stdout)

    def run(self, component="generator", **environment):
        [init], digest = self.command[component], hashlib.sha256((self.source / "SHA256SUMS").read_bytes())
        values = {e["name"]: e["value"] for e in init["env"]}
        values |= {"SOURCE": str(self.source), "LIST_SHA256": digest.hexdigest(), "PATH": "/usr/bin:/bin"} | environment
        command = [re.sub(r"/model\b", str(self.target), a) for a in init["command"] + init["args"]]
        return subprocess.run(command, env=values, cwd="/", capture_output=True, text=True)

    def copied(self):
        return sorted(str(p.relative_to(self.target)) for p in self.target.rglob("*")
                      if p.is_file() and not p.name.startswith("."))


@pytest.fixture
def checkpoint(helm, tmp_path):
    documents = helm.render(values={"models.own": {**OWN_MODEL, "source": {"copy": COPY}}})
    return Checkpoint(tmp_path, {c: pod(documents, c).spec["initContainers"] for c in ("tokenizer", "generator")})


@pytest.mark.parametrize("flags", [[], ["--binary"]])
def test_what_is_listed_is_copied(checkpoint, flags):
    checkpoint.write_list(flags)
    done = checkpoint.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert checkpoint.copied() == sorted(checkpoint.listed)
    for name in checkpoint.listed:
        assert (checkpoint.target / name).read_text() == f"content of {name}"


def test_it_can_be_repeated(checkpoint):
    assert checkpoint.run().returncode == 0
    (checkpoint.target / "config.json").write_text("half of a copy that was interrupted")
    assert checkpoint.run().returncode == 0
    assert (checkpoint.target / "config.json").read_text() == "content of config.json"


def test_a_tokenizer_gets_no_weights(checkpoint):
    assert checkpoint.run("tokenizer").returncode == 0
    assert checkpoint.copied() == ["a b.txt", "config.json"]


def test_another_list_is_refused(checkpoint):
    done = checkpoint.run(LIST_SHA256="0" * 64)
    assert done.returncode != 0 and checkpoint.copied() == []
    assert "SHA256SUMS is not the one that the values name (source.copy.sha256)" in done.stdout


def test_a_file_that_differs_is_refused(checkpoint):
    (checkpoint.source / "config.json").write_text("tampered")
    done = checkpoint.run()
    assert done.returncode != 0
    assert "config.json: FAILED" in done.stdout and "what was copied is not what SHA256SUMS says" in done.stdout


def test_a_missing_file_is_named(checkpoint):
    (checkpoint.source / "config.json").unlink()
    done = checkpoint.run()
    assert done.returncode != 0 and "SHA256SUMS names config.json, and it is not there" in done.stdout


def test_a_missing_folder_is_named(checkpoint):
    done = checkpoint.run(SOURCE="/nowhere")
    assert done.returncode != 0 and "there is no folder /nowhere" in done.stdout


def test_a_missing_list_is_named(checkpoint):
    done = checkpoint.run(LIST="SUMS")
    assert done.returncode != 0 and "there is no SUMS in" in done.stdout
