#!/usr/bin/env python3
"""Instructions per streamed token of the gateway, without gRPC: counted by callgrind, which is exact,
so a gate needs no quiet machine. From bytes of an engine's step to bytes of a client's message.

    python3 tools/bench/instructions/count.py            compares with instructions.json, +-5 %
    python3 tools/bench/instructions/count.py --update   writes it

Another compiler or another library makes other instructions: the figure is of what the file names,
and elsewhere the comparison is skipped. Status 77 means skipped, also where there is no valgrind.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin"))
FIGURES = pathlib.Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05
SKIPPED = 77


def compiled_with():
    """What the figure depends on, as the build has recorded it."""
    return (BIN / "count_instructions.made_with").read_text().strip()


def count():
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--collect-atstart=no",
             "--toggle-collect=qwenserve::Measured(qwenserve::TokenPath&)", BIN / "count_instructions"],
            capture_output=True, text=True, check=True)
    tokens = int(re.search(r"tokens (\d+)", result.stdout).group(1))
    instructions = int(re.search(r"Collected : (\d+)", result.stderr).group(1))
    assert instructions > tokens, "callgrind has not found what it should count"
    return instructions / tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: no valgrind")
        return SKIPPED
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    made_with = compiled_with()
    measured = count()
    print(f"{measured:.0f} instructions per token, made with {made_with}")
    if args.update:
        figures = {"instructions_per_token": round(measured), "made_with": made_with}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        return 0
    if figures.get("made_with") != made_with:
        print(f"skipped: the figure is of {figures.get('made_with')}")
        return SKIPPED
    expected = figures["instructions_per_token"]
    if abs(measured / expected - 1) <= TOLERANCE:
        return 0
    change = "more" if measured > expected else "fewer, which --update records"
    print(f"{100 * abs(measured / expected - 1):.1f} % {change} than the {expected} of {FIGURES.name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
