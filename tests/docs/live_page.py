"""Runs the blocks of a page against servers on free ports."""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys

from doc_blocks import ROOT
from programs import BIN

# Ports as the pages name them.
PORTS = (50051, 50061, 50071, 50081, 50091, 8080, 9090, 9091, 9092)
PATIENCE = 120


def free_ports(count):
    """Below those that the system gives to connections, so that nobody takes them before a server does."""
    ports = []
    while len(ports) < count:
        port = random.randint(20000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port) if port not in ports else None
    return ports


def at_ports(text, ports):
    """`text` with the ports of the pages replaced by those of `ports`."""
    return re.sub(r"(?<![\d.])(%s)(?!\d)" % "|".join(map(str, PORTS)), lambda found: str(ports[int(found[0])]), text)


WRAPPERS = {
    # Without --port and the like these would take the ports of the pages, which others may have.
    "qwenctl": '''case "$1" in
  serve) set -- "$@" --port {50051} --http-port {8080} --ops-port {9090} ;;
  top) [[ " $* " == *" --ops-address "* ]] || set -- "$@" --ops-address 127.0.0.1:{9090} ;;
esac
exec "{bin}/qwenctl" "$@"''',
    # An error of the server is one of the command.
    "curl": 'exec /usr/bin/curl --fail-with-body "$@"',
}


class Folder:
    """A copy of the repository's root made of links, in which commands may write; programs as the pages call them."""

    def __init__(self, path, ports):
        self.path, self.ports = pathlib.Path(path), ports
        for entry in ROOT.iterdir():
            if entry.name not in ("build", ".git", ".venv"):
                (self.path / entry.name).symlink_to(entry)
        self.programs = self.path / "build" / "bin"
        self.programs.mkdir(parents=True)
        for program in BIN.iterdir():
            if re.match(r"qwenserve[-_][a-z]+$", program.name):
                (self.programs / program.name).symlink_to(program)
        for name, body in WRAPPERS.items():
            for port in PORTS:
                body = body.replace("{%d}" % port, str(ports[port]))
            wrapper = self.programs / name
            wrapper.write_text("#!/usr/bin/env bash\n" + body.replace("{bin}", str(BIN)) + "\n")
            wrapper.chmod(0o755)

    def environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("QWENSERVE_")}
        path = os.pathsep.join([str(self.programs), str(pathlib.Path(sys.executable).parent), kept["PATH"]])
        # HOME: no key or configuration of whoever runs the test.
        return kept | {"PATH": path, "HOME": str(self.path), "QWENSERVE_ADDRESS": f"127.0.0.1:{self.ports[50051]}",
                       "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, script, output):
        return subprocess.Popen(["bash", "-euo", "pipefail", "-c", at_ports(script, self.ports)], cwd=self.path,
                                env=self.environment(), stdin=subprocess.DEVNULL, stdout=output,
                                stderr=subprocess.STDOUT, start_new_session=True)

    def run(self, script, where):
        """AssertionError with all output unless the script ends with 0 in time."""
        log = self.path / ".output"  # servers that a script leaves behind hold it open
        with log.open("w") as output:
            process = self.start(script, output)
            try:
                status = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                status = f"none after {PATIENCE} s"
            finally:
                end_group(process)
        assert status == 0, f"{where}: status {status}\n{end_of(log)}"


def end_of(log):
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:])


def end_group(process):
    """All that a script has started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def script_of(blocks):
    """One script of a page's blocks, so that variables last; its output tells which block is at work."""
    parts = []
    for block in blocks:
        text = block.text
        if "exit" in block.options:
            text = f"status=0\n(\n{text}) || status=$?\n[[ $status == {block.options['exit']} ]]\n"
        parts.append(f"echo '=== {block.where}'\n{text}")
    return "".join(parts)


def serve(folder, block):
    """A command that runs until Ctrl-C: it answers, and then ends in order."""
    log = folder.path / ".serve"
    with log.open("w") as output:
        process = folder.start("exec " + block.text.strip(), output)
        try:
            folder.run("until qwenctl status; do sleep 0.1; done; qwenctl chat --message Hello", block.where)
            os.kill(process.pid, signal.SIGINT)
            status = process.wait(PATIENCE)
        finally:
            end_group(process)
    assert status in (0, 130), f"{block.where}: status {status}\n{end_of(log)}"
