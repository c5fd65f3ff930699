#!/usr/bin/env python3
"""Lets the model compute with Python: the code that it writes runs here, on the client's side.

    python code_interpreter.py --address 127.0.0.1:50051 "How many primes are there below 1000?"

Every call runs in a process of its own: in an empty folder that is deleted afterwards, without this
process's environment, with limits on time, memory, file sizes and descriptors. That stops accidents, not
attacks: the code can still read files and use the network as the user who runs this. For code that you
do not trust, run this program in a container or a virtual machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
from typing import IO

from agent_loop import GrpcChat, HttpChat, Tool, run

TIMEOUT = 30.0  # seconds
CPU_SECONDS = 20
MEMORY = 1 << 30
FILE_SIZE = 16 << 20
DESCRIPTORS = 64
SHOWN = 8000  # characters of the output


def _limit() -> None:
    for kind, value in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY),
                        (resource.RLIMIT_FSIZE, FILE_SIZE), (resource.RLIMIT_NOFILE, DESCRIPTORS),
                        (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (value, value))


def _shown(file: IO[bytes]) -> str:
    file.seek(0)
    text = file.read(4 * SHOWN).decode(errors="replace")
    return text if len(text) <= SHOWN else text[:SHOWN] + "\n[cut]"


def execute(code: str, timeout: float = TIMEOUT) -> str:
    """What `code` prints, errors included."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        # Its output goes to a file, which RLIMIT_FSIZE bounds, and not to this process's memory.
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", code], cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, env={"HOME": folder, "PATH": os.defpath, "LANG": "C.UTF-8"},
            preexec_fn=_limit, start_new_session=True)
        try:
            child.wait(timeout)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            # Also what it has started and left behind in its session.
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
        text = _shown(output)
    if late:
        return text + f"\nTimeout: stopped after {timeout:g} s."
    if child.returncode < 0:
        return text + f"\nStopped by {signal.Signals(-child.returncode).name}."
    return text or "Finished execution."


CODE_INTERPRETER = Tool(
    "code_interpreter", "Runs Python code and returns what it prints. Each call starts anew.",
    {"type": "object", "properties": {"code": {"type": "string", "description": "The Python code."}},
     "required": ["code"]}, execute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--address", default=os.environ.get("QWENSERVE_ADDRESS", "127.0.0.1:50051"))
    parser.add_argument("--http", metavar="URL", help="base URL of the OpenAI API, instead of --address")
    parser.add_argument("--model", default="")
    options = parser.parse_args()
    tools = [CODE_INTERPRETER]
    chat = (HttpChat(options.http, tools, options.model) if options.http
            else GrpcChat(options.address, tools, options.model))
    print(run(chat, tools, options.question, lambda line: print(line, file=sys.stderr)))


if __name__ == "__main__":
    main()
