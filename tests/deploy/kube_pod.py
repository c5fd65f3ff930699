"""A pod on this machine, run as the kubelet would run it.

What is the manifest's: command line, environment, mounts, init containers, probes with their periods and thresholds, the
grace period, the message of a container that has failed. What is this machine's: the pod has an address of its own on
loopback, but no network of its own, so 0.0.0.0 and 127.0.0.1 are that address; the programs are those of the build;
its mounts are folders, whose paths are put in place of the mounted ones; limits and users are not enforced.
"""

import dataclasses
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

from kube_probe import Probe

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What the kubelet shows of a log: docs of terminationMessagePolicy.
MESSAGE_BYTES, MESSAGE_LINES = 2048, 80
# Of a container that has failed again: doubled each time.
BACKOFF, MAX_BACKOFF = 10, 300
# A manifest that asks for more than this kubelet does must not pass.
POD_FIELDS = {"automountServiceAccountToken", "containers", "enableServiceLinks", "imagePullSecrets", "initContainers",
              "nodeSelector", "affinity", "priorityClassName", "resourceClaims", "runtimeClassName", "securityContext",
              "terminationGracePeriodSeconds", "tolerations", "topologySpreadConstraints", "volumes"}
CONTAINER_FIELDS = {"args", "command", "env", "image", "imagePullPolicy", "livenessProbe", "name", "ports", "readinessProbe",
                    "resources", "securityContext", "startupProbe", "terminationMessagePolicy", "volumeMounts"}


@dataclasses.dataclass
class Ended:
    """A container that has ended."""
    exit_code: int
    message: str


class Unmountable(Exception):
    """A volume that is not there: the kubelet waits for it."""


class KubePod:
    """`node`: where its volumes, images and name server are (kube_cluster.Cluster). Starts at once; delete() is what the
    API server's DELETE does. `hurry`: by what the periods of probes, the waits between restarts and the time to stop
    after a failed probe are shortened."""

    def __init__(self, node, name, ip, template, extra_env=None, hurry=1):
        self.node, self.name, self.ip, self.template = node, name, ip, template
        self.spec, self.labels = template["spec"], template["metadata"]["labels"]
        assert set(self.spec) <= POD_FIELDS, set(self.spec) - POD_FIELDS
        self.extra_env, self._hurry = extra_env or {}, hurry
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=node.folder))
        self.log = self.folder / "log"
        self.log.touch()
        self.created, self.ready_since, self.restarts = time.monotonic(), None, 0
        self.ended = []  # every end of a container, init containers too
        self.waiting = "ContainerCreating"
        self.process, self.flags = None, []
        self.deleting, self.gone = threading.Event(), threading.Event()
        self.forced = False  # SIGKILL after the grace period
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def ready(self):
        return self.ready_since is not None and not self.deleting.is_set()

    def available(self, seconds):
        """Ready for so long."""
        since = self.ready_since
        return self.ready and since is not None and time.monotonic() - since >= seconds

    @property
    def grace(self):
        return self.spec["terminationGracePeriodSeconds"]

    def delete(self):
        self.deleting.set()

    def kill(self):
        """As when the container is killed, for its memory say."""
        self.process.send_signal(signal.SIGKILL)

    def _run(self):
        try:
            self._live()
        except BaseException as error:  # a broken kubelet must fail the test
            self.error = error
        finally:
            self.ready_since = None
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.gone.set()

    def _live(self):
        if not self._mount():
            return
        for container in self.spec.get("initContainers", []):
            if not self._until_success(container):
                return
        [container] = self.spec["containers"]
        while not self.deleting.is_set():
            self._run_container(container)
            if not self.deleting.is_set() and not self._back_off():
                return

    def _mount(self):
        """False when the pod is deleted meanwhile."""
        while not self.deleting.wait(0.02):
            try:
                self.mounts = {volume["name"]: self.node.volume(volume, self.folder) for volume in self.spec.get("volumes", [])}
                return True
            except Unmountable as error:
                self.waiting = f"FailedMount: {error}"
        return False

    def _until_success(self, container):
        while not self.deleting.is_set():
            self._start(container)
            while self.process.poll() is None:
                if self.deleting.wait(0.02):
                    self.process.kill()
                    self.process.wait()
            if self._note_end().exit_code == 0:
                return True
            if not self._back_off():
                return False
        return False

    def _back_off(self):
        """At once after the first end, then ever later; False when the pod is deleted meanwhile."""
        self.restarts += 1
        wait = 0 if self.restarts == 1 else min(BACKOFF * 2 ** (self.restarts - 2), MAX_BACKOFF) / self._hurry
        self.waiting = "CrashLoopBackOff" if wait else None
        return not self.deleting.wait(wait)

    def environment(self, container):
        result = {"POD_IP": self.ip, **self.node.environment, **self.extra_env}
        for entry in container.get("env", []):
            source = entry.get("valueFrom")
            if source is None:
                result[entry["name"]] = self._here(entry["value"], container)
            else:
                assert source == {"fieldRef": {"fieldPath": "status.podIP"}}, source
        return result

    def _here(self, text, container):
        """With the paths of this machine."""
        places = {"/opt/qwenserve/models": ROOT / "models"}
        for mount in container.get("volumeMounts", []):
            folder = self.mounts[mount["name"]]
            if folder is not None:
                places[mount["mountPath"]] = folder / mount.get("subPath", "")
        for path in sorted(places, key=len, reverse=True):
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", str(places[path]), text)
        return text

    def command(self, container):
        assert set(container) <= CONTAINER_FIELDS, set(container) - CONTAINER_FIELDS
        variables = {"POD_IP": self.ip, **self.extra_env}

        def expand(text):
            text = re.sub(r"\$\(([A-Za-z_]\w*)\)", lambda found: variables.get(found[1], found[0]), text)
            text = re.sub(r"=(0\.0\.0\.0|127\.0\.0\.1):", f"={self.ip}:", text)
            return self._here(text, container)
        words = [expand(word) for word in container.get("command", []) + container.get("args", [])]
        if not container.get("command"):
            words = self.node.entrypoint(container["image"]) + words
            if words[0].endswith("-gateway") and not any(w.startswith("--dns-server") for w in words):
                words.append(f"--dns-server={self.node.name_server}")  # as /etc/resolv.conf would
        return words

    def _start(self, container):
        command = self.command(container)
        environment = self.environment(container)
        with open(self.log, "ab") as log:
            self.waiting, self._log_begin = None, log.tell()
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.started_at = time.monotonic()

    def _run_container(self, container):
        self._start(container)
        over, broken = threading.Event(), threading.Event()
        probes = [Probe(self.ip, container, kind, over, hurry=self._hurry, **hooks) for kind, hooks in (
            ("startupProbe", dict(on_failure=broken.set)),
            ("livenessProbe", dict(on_failure=broken.set)),
            ("readinessProbe", dict(on_success=self._now_ready, on_failure=self._not_ready)))]
        probes[0].before(*probes[1:])
        probes[0].start()
        while self.process.poll() is None and not self.deleting.is_set() and not broken.is_set():
            time.sleep(0.01)
        over.set()
        hung = broken.is_set() and not self.deleting.is_set()
        patience = container["livenessProbe"].get("terminationGracePeriodSeconds", self.grace) / self._hurry
        self._stop(patience if hung else self.grace)
        for probe in probes:
            probe.finish()
        self.ready_since = None
        self._note_end()

    def _now_ready(self):
        if self.ready_since is None:
            self.ready_since = time.monotonic()

    def _not_ready(self):
        self.ready_since = None

    def _stop(self, patience):
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.forced = True
            self.process.kill()
            self.process.wait()

    def _note_end(self):
        """As the status of the pod tells of it: 128 and the number of a signal that has ended it."""
        code = self.process.returncode
        code = 128 - code if code < 0 else code
        with open(self.log, "rb") as log:
            log.seek(self._log_begin)
            lines = log.read().decode(errors="replace").splitlines()[-MESSAGE_LINES:]
        [container] = self.spec["containers"]
        fallback = container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        message = "\n".join(lines)[-MESSAGE_BYTES:] if code and fallback else ""
        self.ended.append(Ended(code, message))
        return self.ended[-1]

    def describe(self):
        tail = self.log.read_text(errors="replace")[-1500:]
        return (f"{self.name} {self.ip} ready={self.ready} restarts={self.restarts} waiting={self.waiting} "
                f"error={self.error!r} ended={self.ended}\n{tail}")
