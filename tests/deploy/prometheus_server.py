"""A real Prometheus as a child process.

    with Prometheus(folder, targets, relabel_configs, rule_groups) as prometheus:
        prometheus.query("up")      # [{"metric": {...}, "value": [time, "1"]}]
"""

import contextlib
import json
import queue
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

PROGRAM = shutil.which("prometheus")
START_TIMEOUT = 60


class QueryError(Exception):
    """What Prometheus says about an expression that it cannot run."""


class Prometheus:
    """Scrapes every second. `targets`: (address, labels that discovery would give), `relabel_configs` as
    in its configuration, `rule_groups` as in a file of rules, evaluated every second."""

    def __init__(self, folder, targets, relabel_configs, rule_groups=()):
        folder.mkdir(exist_ok=True)
        rules = [{**group, "interval": "1s"} for group in rule_groups]
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yaml")],
            "scrape_configs": [{
                "job_name": "qwenserve", "relabel_configs": relabel_configs,
                "static_configs": [{"targets": [address], "labels": labels} for address, labels in targets]}]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._process = subprocess.Popen(
            [PROGRAM, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
             "--web.listen-address=127.0.0.1:0", "--log.level=info"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.url = f"http://{self._address()}"
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def _read(self):
        for line in self._process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def _address(self):
        said = []
        deadline = time.monotonic() + START_TIMEOUT
        while (line := self._lines.get(timeout=max(0.01, deadline - time.monotonic()))) is not None:
            said.append(line)
            if found := re.search(r'msg="?Listening on"? address=(\S+)', line):
                return found[1]
        raise RuntimeError("prometheus has ended:\n" + "".join(said))

    def _await_ready(self):
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=10).close()
                return
            assert time.monotonic() < deadline, "prometheus does not get ready"
            time.sleep(0.05)

    def api(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{parameters}: {json.load(error)['error']}") from None

    def query(self, expression, **parameters):
        return self.api("query", query=expression, **parameters)["result"]

    def label_values(self, label, selector):
        return self.api(f"label/{label}/values", **{"match[]": selector})

    def await_series(self, expression, patience=60):
        """What it gives, once it gives something."""
        deadline = time.monotonic() + patience
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"no series of {expression} within {patience} s"
            time.sleep(0.2)
        return found

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()
