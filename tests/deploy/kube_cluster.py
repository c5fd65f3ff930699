"""A small cluster on loopback: runs what the chart renders, without a Kubernetes.

    with Cluster(folder, claims={"models": FOLDER}) as cluster:
        cluster.apply(helm.render(values=...))
        cluster.wait_done()
        cluster.address("qwenserve-gateway", "grpc")
        cluster.apply(helm.render(values=others))      # a rolling update of what changed

Pods are kube_pod's, Services kube_services', workloads kube_workloads'. Of other kinds nothing is done.
"""

import os
import pathlib
import random
import re
import threading
import time
import urllib.request

from kube_pod import ROOT, KubePod, Unmountable
from kube_services import Services
from kube_workloads import KINDS
from rendered import of_kind

BIN = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin"))
PATIENCE = 120
# Of whatever the programs were built with.
HANDED_ON = ("ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS", "LD_LIBRARY_PATH")


class Cluster:
    """`claims`, `secrets`: {name: folder}; what is missing can be added later. `versions`: {tag of an image: folder of
    its programs}. `lateness`, `ttl`: of Services. `hurry`: of pods."""

    def __init__(self, folder, claims=None, secrets=None, versions=None, lateness=2.0, ttl=5, hurry=1):
        self.folder = pathlib.Path(folder)
        self.claims, self.secrets, self.versions = claims or {}, secrets or {}, versions or {}
        self.hurry = hurry
        self.environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        self._network = f"127.{random.randint(16, 250)}.{random.randint(1, 250)}"
        self._last, self._numbers = 1, 0
        self.workloads, self.all_pods = {}, []
        self.services = Services(self.folder, self.pods, self.new_address, lateness, ttl)
        self.error, self._over = None, threading.Event()
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.services.stop()
        for pod in self.all_pods:
            if pod.process is not None and pod.process.poll() is None:
                pod.process.kill()
            pod.delete()
        for pod in self.all_pods:
            assert pod.gone.wait(PATIENCE)
        if kind is None:
            self.check()

    def check(self):
        """Raises what went wrong in this cluster's own threads."""
        for error in (self.error, self.services.error, *(pod.error for pod in self.all_pods)):
            if error is not None:
                raise error

    # What pods and workloads ask for.

    def new_address(self):
        self._last += 1
        return f"{self._network}.{self._last}"

    def unique(self):
        self._numbers += 1
        return f"{self._numbers:05d}"

    def create_pod(self, name, template, extra_env=None):
        ip = self.new_address()
        pod = KubePod(self, name, ip, template, extra_env(ip) if extra_env else None, self.hurry)
        self.all_pods.append(pod)
        return pod

    @property
    def name_server(self):
        return self.services.dns.address

    def entrypoint(self, image):
        """Of our images: the program of their name, which may end with the device."""
        name, _, tag = image.rpartition("/")[2].partition(":")
        return [str(self.versions.get(tag, BIN) / re.fullmatch(r"(qwenserve-[a-z]+)(-\w+)?", name)[1])]

    def volume(self, volume, pod_folder):
        """The folder that it is here; None: what the machine itself has."""
        if "emptyDir" in volume:
            if volume["emptyDir"].get("medium") == "Memory":
                return None
            folder = pod_folder / volume["name"]
            folder.mkdir(exist_ok=True)
            return folder
        for kind, key, known in (("persistentVolumeClaim", "claimName", self.claims), ("secret", "secretName", self.secrets)):
            if kind in volume:
                if volume[kind][key] not in known:
                    raise Unmountable(f'{kind} "{volume[kind][key]}" not found')
                return pathlib.Path(known[volume[kind][key]])
        return pathlib.Path(volume["hostPath"]["path"])

    # What a test does.

    def pods(self, component=None):
        """Those that exist, be they on their way out."""
        return [p for p in self.all_pods if not p.gone.is_set()
                and component in (None, p.labels["app.kubernetes.io/component"])]

    def apply(self, documents):
        first = not self.services.services
        with self._mutex:
            for document in of_kind(documents, *KINDS):
                name = document["metadata"]["name"]
                if name in self.workloads:
                    self.workloads[name].update(document)
                else:
                    self.workloads[name] = KINDS[document["kind"]](self, document)
                    self.workloads[name].step()
        services = of_kind(documents, "Service")
        if first:
            self.services.start(services)
            self._thread.start()
        else:
            assert {d["metadata"]["name"]: d["spec"] for d in services} == self.services.services

    def address(self, service, port):
        return self.services.address(service, port)

    def metric(self, component, name, **labels):
        """Sum over its pods of the series of this name that have these labels."""
        total = 0
        for pod in self.pods(component):
            with urllib.request.urlopen(f"http://{pod.ip}:9090/metrics", timeout=30) as reply:
                for line in reply.read().decode().splitlines():
                    if line.split("{")[0].split(" ")[0] == name and all(f'{k}="{v}"' in line for k, v in labels.items()):
                        total += float(line.rsplit(" ", 1)[1])
        return total

    def done(self):
        with self._mutex:
            return all(workload.done() for workload in self.workloads.values())

    def wait_done(self, patience=PATIENCE):
        """Until an update is over, and its pods are known."""
        self.wait_for(self.done, "every pod to be the newest and available", patience)
        return self

    def wait_ready(self, patience=PATIENCE):
        self.wait_for(lambda: sum(pod.ready for pod in self.pods()) == sum(w.size() for w in self.workloads.values()),
                      "every pod to be ready", patience)
        return self

    def wait_reachable(self, service, count, patience=PATIENCE):
        """Until Service and pods agree; wait_done says nothing of that."""
        self.wait_for(lambda: len(self.services.endpoints(service)) == count, f"{count} pods behind {service}", patience)

    def wait_for(self, condition, what, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while not condition():
            self.check()
            assert time.monotonic() < deadline, f"waited in vain for {what}\n" + "\n".join(
                pod.describe() for pod in self.pods())
            time.sleep(0.02)

    def stop_controllers(self):
        """From now on nobody replaces pods; those that there are live on."""
        with self._mutex:
            self.workloads.clear()

    def _run(self):
        try:
            while not self._over.wait(0.05):
                with self._mutex:
                    for workload in self.workloads.values():
                        workload.step()
        except BaseException as error:
            self.error = error
