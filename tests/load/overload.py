#!/usr/bin/env python3
"""Goodput and refusals of a real gateway under more load than its generators can take.

    tests/load/overload.py [--loads 0.8,1,2,5,10] [--seconds 30] [--warm-up 8] [--output FILE]

Starts a tokenizer, two generators with the simulated engine and a gateway on all cores but the last, and
a load generator on the last one: requests come at random times at `load` times what the generators can
do, wait for nobody, and have a deadline each. Prints JSON: for each load requests, those answered in
time, refused and late, good tokens per second (of answers in time), the time that refusals took, and the
share of a core that gateway and load generator had. A run whose load generator had 0.7 or more of its
core is void: `valid` is false then, and its refusals' times tell of the generator.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import grpc  # noqa: E402

from proto_api import load_api  # noqa: E402
from sim_cluster import SimCluster  # noqa: E402

STEP_MS = 20
RUNNING = 8
GENERATORS = 2
MEAN_TOKENS = 32
DEADLINES = (3.0, 8.0)
# Requests a second: each running sequence gets a token each step.
CAPACITY = GENERATORS * RUNNING * 1000 / STEP_MS / MEAN_TOKENS
CONNECTIONS = 8


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    """One level of load, from the load generator's process."""

    def __init__(self, api, stubs, rate, warm_up, seconds, seed):
        self.api, self.stubs, self.rate = api, stubs, rate
        self.warm_up, self.seconds = warm_up, seconds
        self.random = random.Random(seed)
        self.counts = {"in_time": 0, "refused": 0, "late": 0, "other": 0}
        self.good_tokens = 0
        self.refusals = []
        self.reasons = {}

    async def call(self, stub, measured):
        tokens = min(256, 1 + int(self.random.expovariate(1 / MEAN_TOKENS)))
        request = self.api.CompleteRequest(text="the model " * self.random.randint(1, 20))
        request.options.max_tokens = tokens
        request.options.ignore_eos = True
        begin = time.monotonic()
        try:
            await stub.Complete(request, timeout=self.random.choice(DEADLINES))
            kind = "in_time"
        except grpc.aio.AioRpcError as error:
            kind = {grpc.StatusCode.RESOURCE_EXHAUSTED: "refused",
                    grpc.StatusCode.DEADLINE_EXCEEDED: "late"}.get(error.code(), "other")
            if kind == "other":
                self.reasons[str(error.code())] = self.reasons.get(str(error.code()), 0) + 1
        if not measured:
            return
        self.counts[kind] += 1
        if kind == "in_time":
            self.good_tokens += tokens
        if kind == "refused":
            self.refusals.append(time.monotonic() - begin)

    async def run(self):
        calls = set()
        begin = time.monotonic()
        due, number, measuring_from = begin, 0, None
        while due < begin + self.warm_up + self.seconds:
            await asyncio.sleep(max(0, due - time.monotonic()))
            if measuring_from is None and due >= begin + self.warm_up:
                measuring_from = (time.monotonic(), time.process_time())
            call = asyncio.ensure_future(self.call(self.stubs[number % len(self.stubs)],
                                                   measuring_from is not None))
            calls.add(call)
            call.add_done_callback(calls.discard)
            number += 1
            due += self.random.expovariate(self.rate)
        share = (time.process_time() - measuring_from[1]) / (time.monotonic() - measuring_from[0])
        await asyncio.gather(*calls)
        self.refusals.sort()
        at = lambda part: round(1000 * self.refusals[int(part * len(self.refusals))], 1) if self.refusals else None
        return {"requests": sum(self.counts.values()), **self.counts, "other_codes": self.reasons,
                "good_tokens_per_second": round(self.good_tokens / self.seconds, 1),
                "refusal_ms": {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99)},
                "load_generator_cpu": round(share, 3), "valid": share < 0.7}


async def generate(options):
    """The load generator: a level of load for each line on stdin."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        api = load_api(folder)
        channels = [grpc.aio.insecure_channel(options.address, options=(("grpc.use_local_subchannel_pool", 1),))
                    for _ in range(CONNECTIONS)]
        stubs = [api.InferenceStub(channel) for channel in channels]
        for line in sys.stdin:
            load = Load(api, stubs, float(line) * CAPACITY, options.warm_up, options.seconds, options.seed)
            print(json.dumps(await load.run()), flush=True)
        for channel in channels:
            await channel.close()


def measure(loads, warm_up, seconds, seed=1):
    """The results as described above."""
    cores = sorted(os.sched_getaffinity(0))
    results = []
    generator = None
    try:
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[:-1])  # of the servers, which inherit it
        cluster = SimCluster(generators=GENERATORS, generator_flags=(
            "--sim-step-ms", STEP_MS, "--max-running", RUNNING, "--max-batch-tokens", 512))
        os.sched_setaffinity(0, cores)
        try:
            generator = subprocess.Popen(
                [sys.executable, __file__, "--address", cluster.gateway.address, "--seconds", str(seconds),
                 "--warm-up", str(warm_up), "--seed", str(seed)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for load in loads:
                begin, cpu = time.monotonic(), cpu_seconds(cluster.gateway.pid)
                generator.stdin.write(f"{load}\n")
                generator.stdin.flush()
                result = json.loads(generator.stdout.readline())
                share = (cpu_seconds(cluster.gateway.pid) - cpu) / (time.monotonic() - begin)
                results.append({"load": load, **result, "gateway_cpu": round(share, 3)})
                cluster.wait_idle()
            for _ in range(100):
                in_flight = cluster.gateway.metric("qwenserve_gateway_requests_in_flight")
                if in_flight == 0:
                    break
                time.sleep(0.05)
            sheds = {cause: cluster.gateway.metric("qwenserve_gateway_sheds_total", cause=cause)
                     for cause in ("deadline", "wait", "queue_full", "displaced", "requests", "bytes")}
            lost = cluster.gateway.metric("qwenserve_gateway_workers_lost_total")
            waits = {kind: round(cluster.gateway.metric(f"qwenserve_gateway_{kind}_seconds_sum")
                                 / max(1, cluster.gateway.metric(f"qwenserve_gateway_{kind}_seconds_count")), 3)
                     for kind in ("predicted_wait", "queue_wait")}
        finally:
            if generator is not None:
                generator.stdin.close()
                generator.wait(60)
            cluster.stop()
    finally:
        os.sched_setaffinity(0, cores)
    peak = max(result["good_tokens_per_second"] for result in results)
    for result in results:
        result["of_peak"] = round(result["good_tokens_per_second"] / peak, 3)
    return {"capacity_tokens_per_second": CAPACITY * MEAN_TOKENS, "deadlines_s": DEADLINES,
            "connections": CONNECTIONS, "cores": len(cores), "load_average": os.getloadavg()[0],
            "runs": results, "sheds": sheds, "workers_lost": lost, "mean_wait_s_of_queued": waits, "left_in_flight": in_flight}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="0.8,1,2,5,10", help="times the capacity")
    parser.add_argument("--seconds", type=float, default=30, help="measured, of each load")
    parser.add_argument("--warm-up", type=float, default=8, help="seconds before them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, help="a file for the JSON besides")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.address:
        asyncio.run(generate(options))
        return
    text = json.dumps(measure([float(load) for load in options.loads.split(",")], options.warm_up,
                              options.seconds, options.seed), indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
