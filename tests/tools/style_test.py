"""The style check finds what it is for, this tree passes it, and clang-format has nothing to say."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import check_style  # noqa: E402

GUARDED = "#ifndef {0}\n#define {0}\n{1}\n#endif  // {0}\n"


def violations(tmp_path, path, text):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    return list(check_style.check(tmp_path))


def test_this_tree_is_clean():
    assert list(check_style.check(ROOT)) == []


def test_this_tree_was_really_read():
    files = {path.as_posix() for path in check_style.source_files(ROOT)}
    assert {"engine/base/json_reader.cc", "tools/python_env", "CMakeLists.txt"} <= files
    assert not any(path.startswith(("build", ".venv", "third_party")) for path in files)


def test_clang_format_has_nothing_to_change():
    """The pinned clang-format of tools/requirements, so that every system gives one answer."""
    sources = [str(path) for path in check_style.source_files(ROOT) if path.suffix in check_style.CPP]
    assert sources
    program = pathlib.Path(sys.executable).parent / "clang-format"
    done = subprocess.run([program, "--dry-run", "--Werror", "--style=file", *sources], cwd=ROOT,
                          capture_output=True, text=True)
    wrong = sorted({line.split(":")[0] for line in done.stderr.splitlines() if "error:" in line})
    assert done.returncode == 0, f"run clang-format -i on: {' '.join(wrong)}"


@pytest.mark.parametrize("path, text, count", [
    ("a.cc", "int a;\n" * 600, 0),
    ("a.cc", "int a;\n" * 601, 1),
    ("a.cu", "int a;\n" * 800, 0),
    ("a.cu", "int a;\n" * 801, 1),
    ("a.py", "a = 1\n" * 601, 1),
    ("tool", "#!/bin/sh\n" + "a=1\n" * 600, 1),
    ("third_party/a.cc", "int a;\n" * 601, 0),
])
def test_file_cap(tmp_path, path, text, count):
    assert len(violations(tmp_path, path, text)) == count


@pytest.mark.parametrize("body, count", [(98, 0), (99, 1)])
def test_function_cap(tmp_path, body, count):
    text = "namespace a {\n\nvoid F(int b,\n       int c) {\n" + "  G();\n" * (body - 1) + "}\n\n}  // namespace a\n"
    assert len(violations(tmp_path, "a.cc", text)) == count
    text = "def f():\n" + "    g()\n" * (body + 1)
    assert len(violations(tmp_path, "b.py", text)) == 2 * count


def test_header_guard_is_the_path(tmp_path):
    good = GUARDED.format("QWENSERVE_ENGINE_BASE_A_H_", "int a;")
    assert violations(tmp_path, "engine/base/a.h", good) == []
    wrong = violations(tmp_path, "engine/b.h", good)
    assert wrong == ["engine/b.h:1: the header guard must be QWENSERVE_ENGINE_B_H_"]
    assert len(violations(tmp_path, "engine/b.h", "#pragma once\n")) == 1


@pytest.mark.parametrize("line, count", [
    ("// TO" + "DO: later", 1),
    ("// FIX" + "ME", 1),
    ("// the AUTO" + "DOC format", 0),
    ("// see /ho" + "me/someone/notes", 1),
    ('Load("/ro' + 'ot/model");', 1),
    ('Load("build/wo' + 'rk/model");', 0),
    ("std::string_" + "view a;", 1),
    ("// std::string_" + "view is another type", 0),
])
def test_lines(tmp_path, line, count):
    assert len(violations(tmp_path, "a.cc", line + "\n")) == count


def test_command_line_exit_codes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check_style.py", str(tmp_path)])
    assert check_style.main() == 0
    (tmp_path / "a.cc").write_text("// TO" + "DO\n")
    assert check_style.main() == 1
    assert "a.cc:1: left-over mark" in capsys.readouterr().out
