"""What /metrics of the three processes says: linted, documented, closed to what clients write, and under vLLM's names
where that is asked for."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import ssl
import subprocess
import time

import grpc
import pytest

from authority import Authority
from security import key_line, write_keys
from server_process import BIN, DEMO_MODEL, ROOT
from sim_cluster import SimCluster

PAGE = ROOT / "docs" / "metrics.md"
PROMTOOL = shutil.which("promtool")
KEY = "a-key-that-is-good"
CANARY = "xylophonecanary"
SERIES = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
HISTOGRAM_PARTS = re.compile(r"_(bucket|sum|count)$")


class Fleet:
    """Two gateways, one open and one with all that has metrics of its own; two simulated replicas; and a real one of
    two ranks in processes."""

    def __init__(self, folder, compat):
        authority = Authority(folder, "authority")
        cert, key = authority.issue("gateway", "DNS:localhost,IP:127.0.0.1")
        names = ("--metrics-compat", compat)
        self.cluster = SimCluster(
            generators=2, generator_flags=("--sim-step-ms", 1, "--sim-prefill-rate", 0, *names), gateway_flags=names)
        try:
            self.ranks = self.cluster._start("generator", (
                "--model", DEMO_MODEL, "--tp", 2, "--tp-mode", "processes", *names)).wait_ready()
            self.open = self.cluster.gateway
            addresses = [*[p.address for p in self.cluster.generators], self.ranks.address]
            tokenizer = self.cluster._start("tokenizer", ("--model", DEMO_MODEL)).wait_ready()
            self.cluster.tokenizers.append(tokenizer)
            self.guarded = self.cluster.start_gateway(generators=addresses, flags=(
                "--api-keys", write_keys(folder / "keys", key_line(KEY, "tenant")), "--tls-cert", cert, "--tls-key", key,
                "--access-log", folder / "access.log", "--otlp-endpoint", "127.0.0.1:1", *names))
            self.authority = authority
        except BaseException:
            self.cluster.stop()
            raise

    def roles(self):
        return {"gateway": [self.open, self.guarded], "tokenizer": self.cluster.tokenizers,
                "generator": [*self.cluster.generators, self.ranks]}

    def wait_idle(self):
        self.cluster.wait_idle()
        self.ranks.await_metric(lambda running: running == 0, "qwenserve_sequences_running")
        self.ranks.await_metric(lambda waiting: waiting == 0, "qwenserve_sequences_waiting")

    def processes(self):
        return [process for processes in self.roles().values() for process in processes]

    @contextlib.contextmanager
    def load(self):
        """Streams at both gateways, over both protocols, until the block ends."""
        common = ("--duration", "600", "--max-tokens", "5:40", "--prompt-tokens", "20:200", "--output", "json",
                  "--no-progress")
        commands = [("--address", self.open.address, "--rate", 40),
                    ("--address", self.open.addresses["http"], "--api", "http", "--chat", "--rate", 20),
                    ("--address", self.guarded.address.replace("127.0.0.1", "localhost"), "--tls-ca", self.authority.cert,
                     "--model", "sim", "--rate", 20),
                    ("--address", self.guarded.address.replace("127.0.0.1", "localhost"), "--tls-ca", self.authority.cert,
                     "--model", "demo", "--rate", 5)]
        running = [subprocess.Popen([BIN / "qwenctl", "bench", *common, *map(str, command)], stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL, env={**os.environ, "QWENSERVE_API_KEY": KEY})
                   for command in commands]
        try:
            for gateway in (self.open, self.guarded):
                gateway.await_metric(lambda count: count >= 20, "qwenserve_request_duration_seconds_count", model="sim")
            self.guarded.await_metric(lambda count: count >= 3, "qwenserve_request_duration_seconds_count", model="demo")
            yield
        finally:
            for process in running:
                process.kill()
                process.wait()


@pytest.fixture(scope="module", params=["none", "vllm"])
def fleet(request, tmp_path_factory):
    fleet = Fleet(tmp_path_factory.mktemp(request.param), request.param)
    fleet.compat = request.param
    try:
        yield fleet
    finally:
        fleet.cluster.stop()


def scrape(process):
    status, text = process.http("/metrics")
    assert status == 200
    return text


def types(text):
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))


def series_of(text):
    """[(name, {label: value})]."""
    found = []
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SERIES.fullmatch(line)
            assert match, line
            found.append((match[1], dict(LABEL.findall(match[2] or ""))))
    return found


def family(name, kinds):
    base = HISTOGRAM_PARTS.sub("", name)
    return base if name not in kinds and kinds.get(base) == "histogram" else name


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (the package prometheus) is not installed")
def test_promtool_has_nothing_to_say_under_load(fleet):
    with fleet.load():
        for process in fleet.processes():
            text = scrape(process)
            told = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True)
            complaints = (told.stdout + told.stderr).splitlines()
            ours = [line for line in complaints if not line.startswith("vllm:")]
            assert ours == [], (process.role, ours)
            if fleet.compat == "none" or process.role == "tokenizer":
                assert told.returncode == 0 and "vllm" not in text
                continue
            # Names that are not ours to choose.
            assert "vllm:" in text
            for line in complaints:
                assert re.fullmatch(r"vllm:\S+ metric names should not contain ':'"
                                    r'|vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix', line)


def rows(heading):
    """{metric: the cells beside it} of the tables under a heading of the page."""
    text = PAGE.read_text()
    part = re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], flags=re.M)[0]
    found = {}
    for line in part.splitlines():
        cells = [cell.strip() for cell in re.split(r"\|(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", line)[1:-1]]
        if line.startswith("| `"):
            name = cells[0].strip("` ")
            assert name not in found, name
            found[name] = cells[1:]
    return found


def label_names(cell):
    return {label.strip("` ") for label in cell.split(",") if label.strip("` ")}


def test_what_is_exported_is_documented_and_the_other_way_round(fleet):
    everywhere = rows("Every process")
    for role, processes in fleet.roles().items():
        documented = everywhere | rows(role.capitalize())
        exported, labels = {}, {}
        with fleet.load():
            for process in processes:
                text = scrape(process)
                kinds = types(text)
                exported |= kinds
                for name, of in series_of(text):
                    labels.setdefault(family(name, kinds), set()).update(of.keys() - {"le"})
        aliases = {name for name in exported if name.startswith("vllm:")}
        assert aliases == (set(vllm_rows(role)) if fleet.compat == "vllm" else set()), role
        for name in aliases:
            del exported[name]
        absent = {name for name, cells in documented.items() if "GPU only" in cells[2]}
        if role != "gateway":
            absent.add("qwenserve_tls_cert_not_after_seconds")
            absent.add("qwenserve_file_reloads_total")
            absent.add("qwenserve_trace_spans_total")
        assert set(exported) - set(documented) == set(), "not in docs/metrics.md"
        assert set(documented) - set(exported) - absent == set(), "in docs/metrics.md, but not exported"
        for name, kind in exported.items():
            assert (documented[name][0], label_names(documented[name][1])) == (kind, labels[name]), name
        for name, cells in documented.items():
            assert len(cells) == 4 and all(cells[2:]), f"{name}: meaning and use"


def vllm_rows(role):
    column = {"generator": 0, "gateway": 1, "tokenizer": None}[role]
    if column is None:
        return {}
    return {name: cells[column].strip("`") for name, cells in rows("Names of vLLM").items() if cells[column]}


def test_label_values_are_those_that_are_documented(fleet):
    """Nothing that a client can write is a label."""
    allowed = {name: re.compile(cells[0].strip("`").replace("\\|", "|")) for name, cells in rows("Labels").items()}
    with fleet.load():
        for process in fleet.processes():
            for name, labels in series_of(scrape(process)):
                for label, value in labels.items():
                    if not name.startswith("vllm:"):
                        assert allowed[label].fullmatch(value), (process.role, name, label, value)
                    elif label in ("model_name", "engine", "finished_reason"):
                        assert value in ("sim", "demo", "0", "stop", "length", "abort", "error")


def strange(number):
    """Text as a client might send it, never the same twice."""
    draw = random.Random(number)
    return CANARY + "".join(draw.choice('abc"\\\n\t{}=,~\u00fc\u4e2d\U0001f600') for _ in range(draw.randrange(1, 40))) + str(number)


def header(number):
    return f"{CANARY}{number}-" + "".join(random.Random(number).choice("abc{}=,;\"\\") for _ in range(10))


def hostile_requests(address, numbers):
    """Requests with names, users, ids, keys, paths, methods, stop strings and fields of their own; the statuses."""
    host, port = address.rsplit(":", 1)
    statuses = {}
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    for number in numbers:
        body = {"messages": [{"role": "user", "content": strange(number), "name": strange(number + 1)}], "max_tokens": 1,
                "user": strange(number), "seed": number, "stop": [strange(number)], "cache_salt": header(number),
                "metadata": {strange(number)[:20]: strange(number)}}
        path, method = "/v1/chat/completions", "POST"
        match number % 5:
            case 0:
                body["model"] = strange(number)
            case 1:
                path = f"/v1/models/{CANARY}{number}"
                method = "GET"
            case 2:
                body[strange(number)] = strange(number)
            case 3:
                path = f"/{CANARY}{number}"
                method = random.Random(number).choice(["PUT", "DELETE", f"X{number}"])
        try:
            connection.request(method, path, json.dumps(body), {
                "Content-Type": "application/json", "Authorization": f"Bearer {header(number)}", "X-Request-Id": header(number),
                "User-Agent": header(number), "Traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01",
                "Accept-Language": header(number)})
            reply = connection.getresponse()
            reply.read()
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
        except http.client.HTTPException:
            statuses["ended"] = statuses.get("ended", 0) + 1
            connection.close()
    connection.close()
    return statuses


def test_no_client_makes_the_set_of_series_grow(fleet, api):
    def names():
        return {process.pid: {(name, *sorted(labels.items())) for name, labels in series_of(scrape(process))}
                for process in fleet.processes()}

    before = names()
    statuses = {}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda part: hostile_requests(fleet.open.addresses["http"], part),
                            [range(first, 3000, 4) for first in range(4)]):
            for status, count in got.items():
                statuses[status] = statuses.get(status, 0) + count
    assert statuses.pop(200) >= 500 and statuses.pop(404) >= 500, statuses
    with fleet.cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        for number in range(500):
            request = api.CompleteRequest(
                text=strange(number), request_id=header(number), model="" if number % 2 else header(number),
                options=api.GenerationOptions(max_tokens=1, cache_salt=header(number)))
            with contextlib.suppress(grpc.RpcError):
                stub.Complete(request, timeout=120, metadata=(
                    ("authorization", f"Bearer {header(number)}"), (f"x-{CANARY}-{number}", header(number))))
    for number in range(200):  # keys that the other gateway does not know, over TLS
        with contextlib.suppress(OSError, http.client.HTTPException):
            context = ssl._create_unverified_context()
            host, port = fleet.guarded.addresses["http"].rsplit(":", 1)
            with contextlib.closing(http.client.HTTPSConnection(host, int(port), timeout=120, context=context)) as connection:
                connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {header(number)}"})
                assert connection.getresponse().status == 401
    fleet.wait_idle()
    after = names()
    for process in fleet.processes():
        assert after[process.pid] == before[process.pid], process.role
        assert CANARY not in scrape(process)
    assert fleet.guarded.metric("qwenserve_gateway_auth_failures_total", reason="unknown") >= 200


def test_vllm_aliases_say_the_same(fleet):
    if fleet.compat != "vllm":
        assert "vllm" not in scrape(fleet.open) + scrape(fleet.ranks)
        return
    with fleet.load():
        pass
    fleet.wait_idle()
    for role, processes in fleet.roles().items():
        for process in processes:
            text = scrape(process)
            kinds = types(text)
            values = process.series()
            for alias, native in vllm_rows(role).items():
                name, _, part = native.partition(" ")
                suffix = {"histogram": "_count"}.get(kinds[alias], "")
                # `sum of` a histogram is a counter.
                told = [v for key, v in values.items() if key.split("{")[0] == alias + suffix]
                real = [v for key, v in values.items() if key.split("{")[0] == name + ("_sum" if part else suffix)]
                assert told and real and sum(told) == sum(real), (role, alias, told, real)
    for process in (fleet.open, fleet.cluster.generators[0]):
        labels = dict(series_of(scrape(process)))["vllm:cache_config_info"]
        assert labels["block_size"] == "16" and int(labels["num_gpu_blocks"]) > 0 and labels["model_name"] == "sim"
        assert process.metric("vllm:request_success_total", finished_reason="length", model_name="sim", engine="0") > 0


def test_a_gateway_tells_what_endpoint_pickers_ask(sim_cluster, api):
    """One place in the batch, four requests: one runs, and the others wait, here or there."""
    cluster = sim_cluster(generators=1, generator_flags=("--sim-step-ms", 30, "--max-running", 1, "--max-waiting", 64))
    gateway = cluster.gateway

    def gauges():
        return [gateway.metric(f"qwenserve_gateway_model_{name}", model="sim")
                for name in ("running_requests", "queued_requests", "kv_cache_usage_ratio")]

    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        options = api.GenerationOptions(max_tokens=100000, ignore_eos=True)
        calls = [stub.StreamComplete(api.CompleteRequest(text="hello", options=options)) for _ in range(4)]
        deadline = time.monotonic() + 60
        while True:
            running, queued, usage = gauges()
            if (running, queued) == (1, 3) and usage > 0:
                break
            assert time.monotonic() < deadline, (running, queued, usage)
            time.sleep(0.05)
        generator = cluster.generators[0]
        info = dict(series_of(scrape(gateway)))["qwenserve_gateway_model_cache_info"]
        assert info == dict(series_of(scrape(generator)))["qwenserve_cache_info"]
        assert int(info["num_gpu_blocks"]) == generator.metric("qwenserve_kv_blocks")
        for call in calls:
            call.cancel()
        gateway.await_metric(lambda count: count >= 4, "qwenserve_gateway_cancels_total")
        assert gateway.metric("qwenserve_gateway_cancels_total", stage="running") >= 1
    deadline = time.monotonic() + 60
    while gauges() != [0, 0, 0]:
        assert time.monotonic() < deadline, gauges()
        time.sleep(0.05)
    cluster.generators[0].terminate()
    gateway.await_metric(lambda replicas: replicas == 0, "qwenserve_gateway_model_replicas", model="sim")


def test_every_rank_has_its_series(fleet):
    with fleet.load():
        pass
    for rank in ("0", "1"):
        assert fleet.ranks.metric("qwenserve_collective_seconds_total", rank=rank) > 0
        assert fleet.ranks.metric("qwenserve_rank_steps_total", rank=rank) > 0
        assert fleet.ranks.metric("qwenserve_rank_step_age_seconds", rank=rank) >= 0
    assert fleet.ranks.metric("qwenserve_sampled_rows_total", way="pairs") > 0
    # What a step computes and how many sequences share it.
    fleet.wait_idle()
    values = {name.split("{")[0]: value for name, value in fleet.ranks.series().items() if "_bucket" not in name}
    assert values["qwenserve_step_tokens_count"] == values["qwenserve_step_duration_seconds_count"] > 0
    assert 0 < values["qwenserve_step_sequences_sum"] <= values["qwenserve_step_tokens_sum"]
    assert values["qwenserve_engine_steps_total"] > 0
