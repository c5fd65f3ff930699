"""Probes of a container: HTTP and gRPC, with the period, timeout and thresholds of the manifest."""

import http.client
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULTS = {"terminationGracePeriodSeconds": None, "initialDelaySeconds": 0, "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3,
            "successThreshold": 1}
ACTIONS = ("httpGet", "grpc")


def ask(ip, ports, probe):
    """Whether the answer is a good one."""
    timeout = probe["timeoutSeconds"]
    if "httpGet" in probe:
        action = probe["httpGet"]
        connection = http.client.HTTPConnection(ip, ports.get(action["port"], action["port"]), timeout=timeout)
        try:
            connection.request("GET", action["path"], headers={"User-Agent": "kube-probe/1.37", "Connection": "close"})
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
    action = probe["grpc"]  # its port is a number
    with grpc.insecure_channel(f"{ip}:{action['port']}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=action.get("service", "")), timeout=timeout)
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING


class Probe(threading.Thread):
    """One probe of a running container, until `over`. The first comes at once, as the kubelet's does; those that
    before() names start with the success of this one. A startup probe ends with it. `hurry`: how much shorter
    its period is than the manifest's."""

    def __init__(self, ip, container, kind, over, on_success=lambda: None, on_failure=lambda: None, hurry=1):
        super().__init__(daemon=True)
        given = container[kind]
        [action] = [name for name in ACTIONS if name in given]
        assert set(given) <= {action, *DEFAULTS}, given
        self.settings, self.kind = {**DEFAULTS, **given}, kind
        assert self.settings["initialDelaySeconds"] == 0 and self.settings["successThreshold"] == 1
        self.ip, self.over, self.period = ip, over, self.settings["periodSeconds"] / hurry
        self.ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        self.on_success, self.on_failure, self.after = on_success, on_failure, []
        self.error = None

    def before(self, *probes):
        self.after = probes

    def finish(self):
        """Raises what broke the probe itself."""
        if self.is_alive():
            self.join()
        if self.error is not None:
            raise self.error

    def run(self):
        try:
            self._ask_repeatedly()
        except BaseException as error:
            self.error = error
            self.over.set()

    def _ask_repeatedly(self):
        failed, due = 0, time.monotonic()
        while not self.over.wait(max(0, due - time.monotonic())):
            due = max(due + self.period, time.monotonic())
            good = ask(self.ip, self.ports, self.settings)
            if self.over.is_set():
                return
            failed = 0 if good else failed + 1
            if good:
                self.on_success()
                for probe in self.after:
                    probe.start()
                self.after = []
                if self.kind == "startupProbe":
                    return
            elif failed >= self.settings["failureThreshold"]:
                self.on_failure()
