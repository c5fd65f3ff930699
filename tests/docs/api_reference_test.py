"""The pages of the gRPC APIs are what the comments in proto/ say, and nothing there is without one."""

import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "docs"))

import api_reference  # noqa: E402


@pytest.fixture(scope="module")
def made():
    return api_reference.pages()


def test_everything_has_a_comment(made):
    assert not made[1], "\n".join(made[1])


@pytest.mark.parametrize("page", api_reference.PAGES)
def test_the_page_is_of_these_files(page, made):
    assert (ROOT / page).read_text() == made[0][page], "run tools/docs/api_reference.py"


def test_every_name_of_the_wire_is_on_a_page(made):
    text = "".join(made[0].values())
    for file in api_reference.descriptors(ROOT / "proto").values():
        for name in api_reference.type_names(file):
            assert f"\n### {name}\n" in text
        for service in file.service:
            assert all(f"| `{method.name}` |" in text for method in service.method)


@pytest.fixture
def proto_copy(tmp_path):
    return pathlib.Path(shutil.copytree(ROOT / "proto", tmp_path / "proto"))


def change(proto_root, old, new):
    path = proto_root / api_reference.PACKAGE / "inference.proto"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("comment, what", [
    ("  // [-2, 2]. Built-in: 0.\n  optional float presence_penalty", "SamplingParams.presence_penalty"),
    ("// How tokens are chosen. A field that is not set comes from the checkpoint's\n"
     "// generation_config.json, else from the built-in value given here.\nmessage SamplingParams", "SamplingParams"),
    ("  // The token ids that Chat or Complete would give the model.\n  rpc Tokenize(", "Inference.Tokenize"),
    ("  // Refused.\n  ROLE_UNSPECIFIED", "Role.ROLE_UNSPECIFIED"),
])
def test_a_missing_comment_is_told(proto_copy, comment, what):
    change(proto_copy, comment, comment.splitlines()[-1])
    assert api_reference.pages(proto_copy)[1] == [f"qwenserve/v1/inference.proto: {what} has no comment"]


def test_a_changed_comment_changes_the_page(proto_copy, made):
    change(proto_copy, "Refused.", "Refused, with a | and <tags>.")
    text = api_reference.pages(proto_copy)[0]["docs/grpc-api.md"]
    assert text != made[0]["docs/grpc-api.md"]
    assert "| Refused, with a \\| and &lt;tags>. |" in text


def test_a_new_file_needs_a_page(proto_copy):
    folder = proto_copy / api_reference.PACKAGE
    (folder / "extra.proto").write_text((folder / "nodes.proto").read_text().replace("Node", "Extra"))
    assert api_reference.pages(proto_copy)[1] == [
        "qwenserve/v1/extra.proto is on no page (tools/docs/api_reference.py, PAGES)"]
