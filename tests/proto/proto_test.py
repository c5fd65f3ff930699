"""The wire keeps its style and never breaks an older client: buf lint and buf breaking."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUF = pathlib.Path(sys.executable).parent / "buf"
IMAGE = "proto/buf.image.binpb"


def buf(workspace, *arguments):
    return subprocess.run([BUF, *arguments], cwd=workspace, capture_output=True, text=True)


@pytest.fixture
def workspace(tmp_path):
    """A copy that a test may change."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    for folder in ("proto", "third_party"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_style():
    result = buf(ROOT, "lint")
    assert result.returncode == 0, result.stdout + result.stderr


def test_format():
    result = buf(ROOT, "format", "proto", "--diff", "--exit-code")
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_break_against_the_committed_image():
    result = buf(ROOT, "breaking", "proto", "--against", IMAGE)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_image_is_of_these_files(workspace):
    """An added field has to enter the image too, or removing it later would pass."""
    result = buf(workspace, "build", "proto", "--exclude-source-info", "-o", "new.json")
    assert result.returncode == 0, result.stderr
    assert buf(workspace, "build", IMAGE, "-o", "old.json").returncode == 0
    new, old = workspace / "new.json", workspace / "old.json"
    assert new.read_text() == old.read_text(), "see proto/README.md: renew the image"


def test_a_changed_type_is_caught(workspace):
    replace(workspace / "proto/qwenserve/v1/inference.proto", "uint64 seed = 2;", "uint32 seed = 2;")
    result = buf(workspace, "breaking", "proto", "--against", IMAGE)
    assert result.returncode != 0
    assert '"seed" on message "Started" changed type' in result.stdout


def test_a_bad_name_is_caught(workspace):
    replace(workspace / "proto/qwenserve/v1/admin.proto", "string role = 1;", "string Role = 1;")
    result = buf(workspace, "lint")
    assert result.returncode != 0
    assert "lower_snake_case" in result.stdout
