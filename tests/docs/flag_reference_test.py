"""docs/flags.md is what the servers' --help says."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "docs"))

import flag_reference  # noqa: E402


def test_the_page_is_of_these_programs():
    assert flag_reference.PAGE.read_text() == flag_reference.page(), "run tools/docs/flag_reference.py"


def test_it_does_not_depend_on_the_machine():
    """Such as on its processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert flag_reference.PAGE.read_text() == flag_reference.page()
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("program", flag_reference.SERVERS)
def test_every_flag_is_in_its_table(program):
    text = flag_reference.PAGE.read_text()
    shared = text.split("## Every server")[1].split("\n## ")[0]
    own = text.split(f"## {program}\n")[1].split("\n## ")[0]
    flags = flag_reference.flags(program)
    assert len(flags) > 20
    for name in flags:
        assert f"\n| `{name}` |" in own or f"\n| `{name}` |" in shared


@pytest.mark.parametrize("program, needed", [
    ("qwenserve-gateway", {"tokenizers": "a:1", "generators": "b:1"}),
    ("qwenserve-tokenizer", {"model": "m"}), ("qwenserve-generator", {"model": "m"})])
def test_the_defaults_are_what_is_in_force_without_the_flag(program, needed):
    path = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin")) / program
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QWENSERVE_")}
    done = subprocess.run([path, *(f"--{name}={value}" for name, value in needed.items()), "--print-config"],
                          env=environment, check=True, capture_output=True, text=True)
    in_force = json.loads(done.stdout)
    told = flag_reference.flags(program)
    assert {f"--{name}" for name in in_force} <= set(told)
    for name, value in in_force.items():
        if name not in needed and (program, f"--{name}") not in flag_reference.MACHINES:
            text = value if isinstance(value, str) else json.dumps(value) if value != [] else ""
            assert told[f"--{name}"][0] == text, name


def test_every_flag_is_in_a_group():
    """docs/operations.md says when to touch which."""
    section = (ROOT / "docs" / "operations.md").read_text().split("\n## Flags\n")[1].split("\n## ")[0]
    grouped = set(re.findall(r"--[a-z][\w-]*", section))
    for program in flag_reference.SERVERS:
        for name in flag_reference.flags(program):
            assert name in grouped or name.startswith("--sim-"), f"{name} is in no group of docs/operations.md"


def test_a_new_flag_changes_the_page(tmp_path, monkeypatch):
    for program in flag_reference.SERVERS:
        script = tmp_path / program
        extra = "  --brand-new TEXT=7          Something | with <marks>\n" if "gateway" in program else ""
        script.write_text(f"#!/bin/sh\ncat {tmp_path}/{program}.txt\n")
        real = "\n".join(f"  {name} TEXT={default}  {text}" for name, (default, text)
                         in flag_reference.flags(program).items())
        (tmp_path / f"{program}.txt").write_text(f"Options:\n{real}\n{extra}")
        script.chmod(0o755)
    monkeypatch.setenv("QWENSERVE_BIN", str(tmp_path))
    assert "| `--brand-new` | `7` | Something \\| with &lt;marks> |" in flag_reference.page()
