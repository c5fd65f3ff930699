#!/usr/bin/env python3
"""What the gateway costs, beside one hop of plain gRPC in the same run.

    python3 tools/bench/relay/relay_bench.py cpu http latency prompts memory [--repeat 3] [--output FILE]
    python3 tools/bench/relay/relay_bench.py rss --seconds 600

cpu      CPU time per streamed token, 256 streams at 50 tokens/s, then 1,000 streams, on one connection
http     the first of these with the same streams over HTTP and SSE too, a connection each
latency  from a source's step to the client, 64 streams at steps of 20 ms
prompts  time between tokens of 64 streams with and without prompts of 1 MB all the time
memory   per open stream over 10,000 idle ones with prompts of 1,000 tokens
rss      memory of the gateway over a long run of short requests; exit status 1 when it is not within 5 % of its median
         after the first tenth

Needs no Python package. The binaries come from build/bin, or QWENSERVE_BIN.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
sys.modules.setdefault("grpc", types.ModuleType("grpc"))  # sim_cluster's, for what is not used here

from server_process import BIN  # noqa: E402
from sim_cluster import SimCluster, make_sim_model  # noqa: E402

SIM = ("--sim-mean-tokens", 0, "--sim-prefill-rate", 0, "--max-running", 12000, "--max-waiting", 12000,
       "--sim-kv-blocks", 2000000)


def cpu_seconds(pid):
    """Of all threads of another process, to the nanosecond: the clock's id as Linux makes it."""
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024


class RawRelay:
    """`relay_bench raw` before a cluster's first generator."""

    def __init__(self, generator):
        self.process = subprocess.Popen([BIN / "relay_bench", "raw", "--generator", generator],
                                        stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().split()[2]
        self.pid = self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()


class Load:
    """`qwenctl bench` as a context; the report after it."""

    def __init__(self, address, *flags):
        self.command = [BIN / "qwenctl", "bench", "--address", address, "--output", "json", *map(str, flags)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind, error, trace):
        if kind:
            self.process.kill()
            return
        self.report = json.loads(self.process.communicate()[0])

    def interrupt(self):
        self.process.send_signal(2)


def wait_running(cluster, count, patience=120):
    deadline = time.monotonic() + patience
    while (running := cluster.total("qwenserve_sequences_running")) < count:
        assert time.monotonic() < deadline, f"{running} of {count} run"
        time.sleep(0.2)


def measure_cpu(cluster, relay, streams, seconds, api="grpc"):
    """CPU seconds per token of a relay and of the client while all streams run."""
    address = relay.addresses["http"] if api == "http" else relay.address
    with Load(address, "--api", api, "--concurrency", streams, "--num-requests", streams, "--prompt-tokens", 16,
              "--max-tokens", 100000, "--timeout", 600) as load:
        wait_running(cluster, streams)
        time.sleep(1)
        pids = {"relay": relay.pid, "client": load.process.pid, "generator": cluster.generators[0].pid,
                "tokenizer": cluster.tokenizers[0].pid}
        tokens, start = cluster.total("qwenserve_generated_tokens_total"), time.monotonic()
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        tokens = cluster.total("qwenserve_generated_tokens_total") - tokens
        elapsed = time.monotonic() - start
        cpu = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        load.interrupt()
    cluster.wait_idle(60)
    return {"us_per_token": 1e6 * cpu["relay"] / tokens, "tokens_per_core_s": tokens / cpu["relay"],
            "tokens_per_s": tokens / elapsed, "tokens_per_message": load.report["tokens"] / load.report["messages"],
            "cores": {name: value / elapsed for name, value in cpu.items()}}


def compare_cpu(args, streams, apis):
    """Of `streams` through the raw relay, and through the gateway by each of `apis`, in turn."""
    cluster = SimCluster(generator_flags=("--sim-step-ms", 20, *SIM))
    raw = RawRelay(cluster.generators[0].address)
    seconds = args.seconds or 8
    rows = []
    for _ in range(args.repeat):
        row = {"raw": measure_cpu(cluster, raw, streams, seconds)}
        for api in apis:
            row[api] = measure_cpu(cluster, cluster.gateway, streams, seconds, api)
            row[f"{api} ratio"] = row[api]["us_per_token"] / row["raw"]["us_per_token"]
        rows.append(row)
    raw.stop()
    cluster.stop()
    return {**{f"{api} ratio": statistics.median(row[f"{api} ratio"] for row in rows) for api in apis}, "runs": rows}


def run_cpu(args):
    few, many = compare_cpu(args, 256, ("grpc",)), compare_cpu(args, 1000, ("grpc",))
    return {"256 streams": {"bar": "relay / raw <= 1.5", **few},
            "1000 streams": {"bar": "raw / relay >= 0.6", "tokens_per_core_ratio": 1 / many["grpc ratio"], **many}}


def run_http(args):
    return {"256 streams": compare_cpu(args, 256, ("grpc", "http"))}


def run_latency(args):
    """The source is in the client's process, and both relays have it as their generator."""
    tokenizers = SimCluster()
    probe = subprocess.Popen([BIN / "relay_bench", "latency", "--tokenizer", tokenizers.tokenizers[0].address],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    source = probe.stdout.readline().split()[1]
    raw = RawRelay(source)
    gateway = tokenizers.start_gateway(generators=[source])
    runs = []
    for _ in range(args.repeat):
        row = {}
        for name, relay in (("raw", raw), ("gateway", gateway)):
            print(relay.address, file=probe.stdin, flush=True)
            row[name] = json.loads(probe.stdout.readline())
        runs.append(row)
    probe.stdin.close()
    probe.wait()
    raw.stop()
    tokenizers.stop()
    ratio = {key: statistics.median(row["gateway"][key] / row["raw"][key] for row in runs)
             for key in ("p50_us", "p99_us")}
    return {"bar": "both <= 2", "ratio": ratio, "runs": runs}


def run_prompts(args):
    """The prompts go through the gateway, the streams through it or past it: what remains past it is the
    generator's and the machine's share."""
    folder = pathlib.Path(args.scratch) / "prompts_model"
    cluster = SimCluster(model=make_sim_model(folder, context=1 << 21),
                         generator_flags=("--sim-step-ms", 20, "--max-batch-tokens", 1 << 20, *SIM))
    raw = RawRelay(cluster.generators[0].address)
    runs = []
    flags = ("--concurrency", 64, "--num-requests", 64, "--prompt-tokens", 16, "--max-tokens", 500)
    for _ in range(args.repeat):
        row = {}
        for relay, name, beside in (("gateway", "without", False), ("gateway", "with", True), ("raw", "raw with", True)):
            with Load(raw.address if relay == "raw" else cluster.gateway.address, *flags) as load:
                if beside:
                    with Load(cluster.gateway.address, "--chat", "--prompt-tokens", 200000, "--max-tokens", 1,
                              "--duration", 9, "--num-requests", 100000) as prompts:
                        pass
                    row[f"{name}: prompts"] = {key: prompts.report[key] for key in ("succeeded", "errors", "prompt_tokens")}
            row[name] = load.report["inter_token_ms"]
        runs.append(row)
    raw.stop()
    cluster.stop()
    return {"bar": "p99 with / without <= 2", "runs": runs,
            **{key: statistics.median(row[name]["p99"] / row["without"]["p99"] for row in runs)
               for key, name in (("ratio", "with"), ("ratio past the gateway", "raw with"))}}


def run_memory(args):
    count = args.streams
    cluster = SimCluster(
        generator_flags=("--sim-step-ms", 60000, "--max-batch-tokens", 1 << 24, *SIM),
        gateway_flags=("--max-requests", 20000, "--max-waiting", 20000, "--max-inflight-bytes", 1 << 33))
    raw = RawRelay(cluster.generators[0].address)
    result = {}
    for name, relay in (("raw", raw), ("gateway", cluster.gateway)):
        before = resident_bytes(relay.pid)
        with Load(relay.address, "--concurrency", count, "--num-requests", count, "--connections", 20,
                  "--prompt-tokens", 1000, "--max-tokens", 100, "--timeout", 3600) as load:
            deadline = time.monotonic() + 300
            while cluster.total("qwenserve_sequences_running") + cluster.total("qwenserve_sequences_waiting") < count:
                assert time.monotonic() < deadline, "the streams do not open"
                time.sleep(0.5)
            time.sleep(5)
            result[name] = {"kb_per_stream": (resident_bytes(relay.pid) - before) / count / 1024,
                            "rss_mb": resident_bytes(relay.pid) / 2**20}
            load.interrupt()
        time.sleep(3)
    cluster.hung.append(cluster.generators[0])  # in a step of a minute
    raw.stop()
    cluster.stop()
    return {"bar": "gateway <= 25 KB", "streams": count, **result}


def run_rss(args):
    cluster = SimCluster(generator_flags=("--sim-step-ms", 5, *SIM))
    samples = []
    seconds = args.seconds or 600
    with Load(cluster.gateway.address, "--concurrency", 200, "--duration", seconds, "--prompt-tokens", "50:500",
              "--max-tokens", "20:200") as load:
        start = time.monotonic()
        while (now := time.monotonic() - start) < seconds:
            time.sleep(min(10, seconds / 20))
            samples.append((round(now, 1), resident_bytes(cluster.gateway.pid)))
    cluster.stop()
    # The first tenth is for buffers and caches to fill.
    settled = [value for when, value in samples if when > seconds / 10]
    middle = statistics.median(settled)
    lowest, highest = min(settled) / middle, max(settled) / middle
    return {"bar": "within 5 %", "kept": 0.95 <= lowest and highest <= 1.05 and not load.report["errors"],
            "rss_mb": middle / 2**20, "lowest": lowest, "highest": highest, "requests": load.report["requests"],
            "tokens": load.report["tokens"], "errors": load.report["errors"],
            "curve": [(when, round(value / 2**20, 2)) for when, value in samples]}


MODES = {"cpu": run_cpu, "http": run_http, "latency": run_latency, "prompts": run_prompts, "memory": run_memory, "rss": run_rss}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="+", choices=MODES)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0, help="of one measurement; 0: the mode's own")
    parser.add_argument("--streams", type=int, default=10000, help="of memory")
    parser.add_argument("--scratch", default="/tmp")
    parser.add_argument("--output", type=pathlib.Path)
    args = parser.parse_args()
    results = {"machine": next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line),
               "cores": os.cpu_count()}
    for mode in args.modes:
        load = os.getloadavg()[0]
        results[mode] = {**MODES[mode](args), "load_average_before": load}
        print(mode, json.dumps(results[mode]), flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(results[mode].get("kept", True) for mode in args.modes) else 1


if __name__ == "__main__":
    sys.exit(main())
