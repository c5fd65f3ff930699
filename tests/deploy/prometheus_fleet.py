"""Gateways, models and a Prometheus that scrapes them with the labels of the chart's PodMonitor, under load; and
the dashboards' variables, as Grafana would fill them in."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import yaml

from prometheus_server import Prometheus

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from authority import Authority  # noqa: E402
from security import key_line, write_keys  # noqa: E402
from server_process import BIN, DEMO_MODEL, ServerProcess  # noqa: E402
from sim_cluster import SimCluster  # noqa: E402

DASHBOARDS = sorted((ROOT / "helm" / "qwenserve" / "dashboards").glob("*.json"))
NAMESPACE, RELEASE = "inference", "qwenserve"
KEY = "a-key"


def relabel_configs():
    """As an operator makes them of the PodMonitor; a test of the chart compares the two."""
    scrape, = yaml.safe_load((ROOT / "k8s" / "prometheus" / "scrape.yaml").read_text())
    return scrape["relabel_configs"]


def pod_labels(name, model_key):
    """What discovery would know about the pod of a process."""
    component = name.partition("-")[0]
    labels = {
        "__meta_kubernetes_namespace": NAMESPACE, "__meta_kubernetes_pod_name": f"{RELEASE}-{name}",
        "__meta_kubernetes_pod_container_name": component, "__meta_kubernetes_pod_container_port_name": "ops",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "qwenserve",
        "__meta_kubernetes_pod_label_app_kubernetes_io_instance": RELEASE,
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": component}
    return labels | ({"__meta_kubernetes_pod_label_qwenserve_model": model_key} if model_key else {})


def bench(address, model, rate, *flags, **environment):
    """Load until it is killed."""
    return subprocess.Popen(
        [BIN / "qwenctl", "bench", "--address", address, "--model", model, "--duration", "600", "--rate", str(rate), "--max-tokens", "20:60",
         "--prompt-tokens", "100:300", "--prefix-tokens", "64", "--output", "json", "--no-progress", *map(str, flags)],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class RecordedReplica(http.server.BaseHTTPRequestHandler):
    """A replica with two GPUs, of which only its metrics are there."""
    text = (ROOT / "tests" / "deploy" / "data" / "gpu_replica.prom").read_bytes()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *args):
        pass


class Fleet:
    """Gateways, a simulated model, the demo with two ranks, a recorded replica with GPUs, and Prometheus."""

    def __init__(self, folder, rule_groups, rate=80):
        """`rate`: requests a second for the simulated model. Its three replicas do about 45, two of them about 30."""
        self.authority = Authority(folder, "authority")
        cert, key = self.authority.issue("gateway", "DNS:localhost,IP:127.0.0.1")
        self.keys = write_keys(folder / "keys", key_line(KEY, "tenant"))
        with contextlib.ExitStack() as stack:
            cluster = SimCluster(
                generators=3, tokenizers=1, gateways=0,
                generator_flags=("--sim-step-ms", 5, "--max-running", 4, "--max-waiting", 4),
                gateway_flags=("--max-waiting", 4, "--access-log", folder / "access.log"))
            stack.callback(cluster.stop)
            for role, processes, *flags in (
                    ("tokenizer", cluster.tokenizers),
                    ("generator", cluster.generators, "--tp", "2", "--kv-cache-memory", "32M", "--threads", "2")):
                process = ServerProcess(role, "--model", DEMO_MODEL, "--served-model-name", "demo", *flags)
                stack.callback(process.stop)
                processes.append(process.wait_ready())
            self.open = cluster.start_gateway()
            self.guarded = cluster.start_gateway(flags=(
                "--tls-cert", cert, "--tls-key", key, "--api-keys", self.keys, "--access-log", folder / "guarded.log"))
            recorded = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RecordedReplica)
            stack.callback(recorded.shutdown)
            threading.Thread(target=recorded.serve_forever, daemon=True).start()
            # In the order of the variables' values: the first gateway is the one with keys.
            targets = [("gateway-0", None, self.guarded.addresses["ops"]), ("gateway-1", None, self.open.addresses["ops"]),
                       ("generator-gpu-0", "gpu", "127.0.0.1:%d" % recorded.server_port)]
            for processes in (cluster.tokenizers, cluster.generators):
                *simulated, demo = processes
                targets += [(f"{p.role}-sim-{number}", "sim", p.addresses["ops"]) for number, p in enumerate(simulated)]
                targets.append((f"{demo.role}-demo-0", "demo", demo.addresses["ops"]))
            self.prometheus = stack.enter_context(Prometheus(
                folder / "prometheus", [(address, pod_labels(name, key)) for name, key, address in targets],
                relabel_configs(), rule_groups))
            for process in (
                    bench(self.open.address, "sim", rate), bench(self.open.address, "demo", 2),
                    bench(self.open.addresses["http"], "sim", 10, "--api", "http", "--chat"),
                    bench(self.guarded.address.replace("127.0.0.1", "localhost"), "sim", 5, "--tls-ca", self.authority.cert,
                          QWENSERVE_API_KEY=KEY)):
                stack.callback(process.wait)
                stack.callback(process.kill)
            self._victim = cluster.generators[0]
            self._stack = stack.pop_all()

    def lose_replica(self):
        self._victim.kill()

    def run(self):
        """Until every series has moved. The load goes on, and is more than even three replicas can do."""
        self.prometheus.await_series('sum(rate(qwenserve_gateway_sheds_total{cause="queue_full"}[20s])) > 0')
        self.lose_replica()
        self.prometheus.await_series("sum(qwenserve_gateway_failovers_total) > 0")
        self.prometheus.await_series('sum(rate(qwenserve_gateway_requests_total{method="HttpStreamChat"}[20s])) > 0')
        self.prometheus.await_series('sum(rate(qwenserve_generated_tokens_total{model="demo"}[20s])) > 0')
        # It is not up any more, and every target has been scraped often enough for rates.
        self.prometheus.await_series('max by (pod) (up{component="generator"}) == 0')
        self.prometheus.await_series("min(count_over_time(up[1m])) >= 10")

    def stop(self):
        self._stack.close()


def load_dashboard(path):
    """The file's content, and its panels."""
    dashboard = json.loads(path.read_text())
    return dashboard, [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard, prometheus):
    """The dashboard's variables, with the first value of each, as Grafana finds them."""
    # What Grafana makes of a scrape every second, and of an hour of which a minute has happened.
    values = {"__rate_interval": "20s", "__range": "1m"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "constant":
            values[variable["name"]] = variable["query"]
        elif variable["type"] == "query":
            query = substituted(variable["query"]["query"], values)
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
            found = prometheus.label_values(label, selector)
            assert found, f"the variable {variable['name']} has no value: {query}"
            values[variable["name"]] = found[0]
    return values


def substituted(expression, values):
    """Longest names first: $first_token is the beginning of $first_token_seconds."""
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${name}", values[name])
    return expression
