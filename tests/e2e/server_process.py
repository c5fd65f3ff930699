"""One of our servers as a child process, with its ports read from its stdout."""

import os
import pathlib
import queue
import signal
import subprocess
import threading
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin"))
DEMO_MODEL = ROOT / "models" / "demo"
START_TIMEOUT = 120


class ServerProcess:
    def __init__(self, role, *flags, listen="127.0.0.1:0", http_listen=None, log=None):
        """`listen`, `http_listen`: fixed addresses, to come back where another process was."""
        self.role = role
        self.flags = flags
        self.addresses = {}
        self._lines = queue.Queue()
        serves_http = role == "gateway" and "--http-listen" not in flags
        self._process = subprocess.Popen(
            [BIN / f"qwenserve-{role}", "--listen", listen, "--ops-listen", "127.0.0.1:0",
             *(["--drain-delay", "0"] if "--drain-delay" not in flags else []), "--log-level", "info" if log else "warn",
             *(["--http-listen", http_listen or "127.0.0.1:0"]
               if serves_http else []), *map(str, flags)],
            stdout=subprocess.PIPE, stderr=log, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        while not {"grpc", *(["http"] if serves_http else [])} <= self.addresses.keys():
            self._take_line()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.split())
        self._lines.put(None)

    def _take_line(self):
        words = self._lines.get(timeout=START_TIMEOUT)
        if words is None:
            raise RuntimeError(f"{self.role} ended with status {self._process.wait()}")
        if words[0] == "listening":
            self.addresses[words[1]] = words[2]
        return words

    def wait_ready(self):
        while self._take_line() != ["ready"]:
            pass
        return self

    @property
    def address(self):
        return self.addresses["grpc"]

    @property
    def pid(self):
        return self._process.pid

    def http(self, path):
        """Status and body of a GET at the ops port."""
        try:
            with urllib.request.urlopen(f"http://{self.addresses['ops']}{path}", timeout=30) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """Sum of the series of this name that have these labels."""
        total, found = 0.0, False
        for line in self.http("/metrics")[1].splitlines():
            if line.startswith("#") or not line.startswith((name + "{", name + " ")):
                continue
            if all(f'{key}="{value}"' in line for key, value in labels.items()):
                total, found = total + float(line.rsplit(" ", 1)[1]), True
        assert found, f"{self.role} has no metric {name} {labels}"
        return total

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def terminate(self, timeout=60):
        """SIGTERM; returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout)

    def wait(self, timeout=60):
        return self._process.wait(timeout)

    def running(self):
        return self._process.poll() is None
