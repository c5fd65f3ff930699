"""One of our servers as a child process, with its ports read from its stdout."""

import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin"))
DEMO_MODEL = ROOT / "models" / "demo"
START_TIMEOUT = 120
# With a sanitizer processes end in an orderly way if they can, since leaks are told at the exit.
SANITIZED = bool(os.environ.get("QWENSERVE_SANITIZE"))
STOP_TIMEOUT = 20
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)

_watched = []


@contextlib.contextmanager
def sanitizer_reports():
    """A folder to which the sanitizers of all processes that begin meanwhile write, one file for each."""
    names = ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            os.environ[name] = ":".join(filter(None, (before[name], f"log_path={folder}/report")))
        try:
            yield pathlib.Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def check_sound(reports):
    """AssertionError with what sanitizers wrote into `reports`, and with the servers that a crash has ended,
    since the last call. One that was killed has not crashed."""
    found = []
    for path in sorted(reports.iterdir()):
        found.append(path.read_text(errors="replace"))
        path.unlink()
    for server in list(_watched):
        status = server.status()
        if status is not None:
            _watched.remove(server)
            if -status in CRASHES and -status not in server.signals:
                found.append(f"{server.role} {server.pid} was ended by {signal.Signals(-status).name}")
    assert not found, "\n".join(found)


class ServerProcess:
    def __init__(self, role, *flags, listen="127.0.0.1:0", http_listen=None, log=None, environment=None):
        """`listen`, `http_listen`: fixed addresses, to come back where another process was.
        `environment`: variables besides our own."""
        self.role = role
        self.flags = flags
        self.signals = []
        self.addresses = {}
        self._lines = queue.Queue()
        serves_http = role == "gateway" and "--http-listen" not in flags
        self._process = subprocess.Popen(
            [BIN / f"qwenserve-{role}", "--listen", listen, "--ops-listen", "127.0.0.1:0",
             *(["--drain-delay", "0"] if "--drain-delay" not in flags else []), "--log-level", "info" if log else "warn",
             *(["--http-listen", http_listen or "127.0.0.1:0"]
               if serves_http else []), *map(str, flags)],
            stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(environment or {})})
        _watched.append(self)
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

    def series(self):
        """All metrics: {name and labels: value}."""
        lines = [line for line in self.http("/metrics")[1].splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def metric(self, name, **labels):
        """Sum of the series of this name that have these labels."""
        found = [value for key, value in self.series().items() if key.split("{")[0] == name
                 and all(f'{label}="{word}"' in key for label, word in labels.items())]
        assert found, f"{self.role} has no metric {name} {labels}"
        return sum(found)

    def await_metric(self, check, name, patience=60, **labels):
        """Until check(value) holds: what counts a call may come after the call's answer."""
        deadline = time.monotonic() + patience
        while not check(value := self.metric(name, **labels)):
            assert time.monotonic() < deadline, (name, labels, value)
            time.sleep(0.05)

    def signal(self, number):
        self.signals.append(number)
        self._process.send_signal(number)

    def expect_crash(self):
        """The test lets it abort."""
        self.signals.append(signal.SIGABRT)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def stop(self):
        """Ends it, if it still runs: at the end of a test, where nothing depends on the way."""
        if SANITIZED and self.running():
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        if self.running():
            self.kill()

    def terminate(self, timeout=60):
        """SIGTERM; returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout)

    def wait(self, timeout=60):
        return self._process.wait(timeout)

    def running(self):
        return self._process.poll() is None

    def status(self):
        """None while it runs; the negative number of the signal that ended it."""
        return self._process.poll()
