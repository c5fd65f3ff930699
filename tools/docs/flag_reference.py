#!/usr/bin/env python3
"""Writes docs/flags.md: the flags of the servers, as their --help tells them.

    tools/docs/flag_reference.py           writes the page
    tools/docs/flag_reference.py --check   writes nothing, exits with 1 when it would change

QWENSERVE_BIN: where the programs are; default: build/bin.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "flags.md"
SERVERS = ("qwenserve-gateway", "qwenserve-tokenizer", "qwenserve-generator")
# Defaults that depend on the machine.
MACHINES = {("qwenserve-tokenizer", "--threads"): "processors"}
HEAD = """# Flags of the servers

Made from `--help` of the programs by `tools/docs/flag_reference.py`; a test compares. What they are for, in groups:
[operations](operations.md#flags). Those of `qwenctl`: [qwenctl](commands.md).

Every flag is also an environment variable (`--drain-delay` is `QWENSERVE_DRAIN_DELAY`) and a key of the JSON file given with `--config`. The
command line wins over the environment, that over the file. Lists are separated by commas. `--print-config` shows what is in force.
"""


def flags(program):
    """{name: (default, description)} in the order of --help."""
    path = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin")) / program
    text = subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout
    result = {}
    for entry in re.split(r"\n(?=  -)", text)[1:]:
        words = " ".join(entry.split())
        found = re.match(r"(?:-\w,)?(--[\w-]+)(?: (?:TEXT|UINT|INT|FLOAT)(?:=(\S*))?)? (.*)$", words)
        assert found, entry
        result[found[1]] = (MACHINES.get((program, found[1]), found[2] or ""), found[3])
    return result


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(rows):
    yield "| flag | default | |"
    yield "|---|---|---|"
    for name, (default, description) in rows.items():
        yield f"| `{name}` | {f'`{default}`' if default else ''} | {cell(description)} |"


def page():
    by_program = {program: flags(program) for program in SERVERS}
    # Of all three, and the same but for the default of --listen.
    shared = [name for name in by_program[SERVERS[0]]
              if len({of.get(name, ("", program))[1] for program, of in by_program.items()}) == 1]
    first = dict(by_program[SERVERS[0]])
    first["--listen"] = (", ".join(of["--listen"][0].removeprefix("127.0.0.1") for of in by_program.values()),
                         first["--listen"][1])
    lines = [HEAD, "## Every server", "", *table({name: first[name] for name in shared}),
             "", "The ports of `--listen` are those of gateway, tokenizer and generator, on 127.0.0.1.", ""]
    for program, of in by_program.items():
        lines += [f"## {program}", "", *table({name: flag for name, flag in of.items() if name not in shared}), ""]
    return "\n".join(lines).rstrip() + "\n"


def main():
    made = page()
    same = PAGE.exists() and PAGE.read_text() == made
    if "--check" in sys.argv[1:]:
        print("flag_reference: up to date" if same else "docs/flags.md: run tools/docs/flag_reference.py")
        return int(not same)
    PAGE.write_text(made)
    print("flag_reference: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
