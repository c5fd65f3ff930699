"""What stands between pods: who is ready, told to a name server and to haproxy, each after a while.

A headless Service is a name with the addresses of its pods; another one is an address of its own, at which haproxy
stands for what kube-proxy does: new connections go to a ready pod, those that are open stay where they are.
"""

import contextlib
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

from rendered import selects

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from dns_server import DnsServer  # noqa: E402

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
SLOTS = 16
PERIOD = 0.05


class Services:
    """`pods()` gives those that exist. `lateness`: seconds between a change of readiness and its effect, as the API
    server, its watchers and caches need them. `ttl`: of the name server's records, CoreDNS's 5 s by default."""

    def __init__(self, folder, pods, addresses, lateness=2.0, ttl=5):
        self.folder, self.pods, self.lateness = folder, pods, lateness
        self._addresses = addresses
        self.dns = DnsServer(ttl)
        self.services, self.vips = {}, {}
        self._pending, self._now = [], {}  # [(due, {service: addresses})]
        self._proxy, self._slots = None, {}
        self._over = threading.Event()
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, documents):
        """Those of the first rendering; later ones must have the same."""
        self.services = {d["metadata"]["name"]: d["spec"] for d in documents}
        for name, spec in self.services.items():
            if spec.get("clusterIP") != "None":
                self.vips[name] = self._addresses()
        self._start_proxy()
        self._thread.start()

    def stop(self):
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.dns.close()
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.wait()

    def address(self, service, port):
        """HOST:PORT of a Service's port, by its name."""
        [number] = [p["port"] for p in self.services[service]["ports"] if p["name"] == port]
        return f"{self.vips[service]}:{number}"

    def endpoints(self, service):
        """Addresses that the Service has at this moment, late as they are."""
        return self._now.get(service, [])

    def _ready(self, spec):
        ready = [p for p in self.pods() if selects(spec["selector"], p.labels)
                 and (p.ready or spec.get("publishNotReadyAddresses") and not p.gone.is_set())]
        return sorted(p.ip for p in ready)

    def _run(self):
        try:
            seen = {}
            while not self._over.wait(PERIOD):
                current = {name: self._ready(spec) for name, spec in self.services.items()}
                changed = {name: found for name, found in current.items() if seen.get(name, []) != found}
                if changed:
                    self._pending.append((time.monotonic() + self.lateness, changed))
                seen = current
                while self._pending and self._pending[0][0] <= time.monotonic():
                    self._publish(self._pending.pop(0)[1])
        except BaseException as error:
            self.error = error

    def _publish(self, changed):
        self._now.update(changed)
        for name, addresses in changed.items():
            if name in self.vips:
                self._balance(name, addresses)
                continue
            for suffix in ("", ".inference", ".inference.svc", ".inference.svc.cluster.local"):
                # A name without ready pods has no address.
                self.dns.answers[name + suffix] = random.sample(addresses, len(addresses))

    def _start_proxy(self):
        lines = ["global", f"  stats socket {self.folder}/haproxy.sock mode 600 level admin", "  maxconn 2000",
                 "defaults", "  mode tcp", "  timeout connect 2s", "  timeout client 1h", "  timeout server 1h"]
        self._slots = {name: [None] * SLOTS for name in self.vips}
        for name, vip in self.vips.items():
            for port in self.services[name]["ports"]:
                lines += [f"listen {name}-{port['name']}", f"  bind {vip}:{port['port']}", "  balance random",
                          f"  server-template s 1-{SLOTS} 127.0.0.1:1 disabled"]
        (self.folder / "haproxy.cfg").write_text("\n".join(lines) + "\n")
        with open(self.folder / "haproxy.log", "wb") as log:
            self._proxy = subprocess.Popen([HAPROXY, "-db", "-f", self.folder / "haproxy.cfg"], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._listens():
            assert self._proxy.poll() is None and time.monotonic() < deadline, (self.folder / "haproxy.log").read_text()
            time.sleep(0.02)

    def _listens(self):
        with contextlib.suppress(OSError):
            return bool(self._command("show info"))
        return False

    def _command(self, text):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(str(self.folder / "haproxy.sock"))
            control.sendall(text.encode() + b"\n")
            answer = b""
            while part := control.recv(65536):
                answer += part
        return answer.decode()

    def _balance(self, name, addresses):
        slots = self._slots[name]
        for number, ip in enumerate(slots):
            if ip is not None and ip not in addresses:
                self._set(name, number, "state maint")
                slots[number] = None
        for ip in addresses:
            if ip not in slots:
                number = slots.index(None)
                slots[number] = ip
                self._set(name, number, None, ip)
                self._set(name, number, "state ready")

    def _set(self, name, number, what, ip=None):
        for port in self.services[name]["ports"]:
            change = what or f"addr {ip} port {self._target(name, port)}"
            answer = self._command(f"set server {name}-{port['name']}/s{number + 1} {change}").strip()
            assert not answer or "changed" in answer or "no need" in answer, answer

    def _target(self, name, port):
        """The port of the containers behind it."""
        target = port.get("targetPort", port["port"])
        for pod in self.pods():
            if selects(self.services[name]["selector"], pod.labels):
                for candidate in pod.spec["containers"][0]["ports"]:
                    if candidate["name"] == target:
                        return candidate["containerPort"]
        return target
