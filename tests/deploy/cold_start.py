#!/usr/bin/env python3
"""How long the demo takes from nothing to an answer: the three pods of the chart's default, started at once.

    QWENSERVE_BIN=build/bin .venv/bin/python tests/deploy/cold_start.py [--rounds 10]

Prints JSON, seconds since the start, the median and the worst of the rounds: for the programs, when /readyz of each
said yes, with names that are known at once; and for the pods as a cluster shows them, with the probes' periods and
names and endpoints that are two seconds late.
"""

import argparse
import http.client
import json
import pathlib
import subprocess
import tempfile
import time

import conftest
from kube_cluster import Cluster

COMPONENTS = ("tokenizer", "generator", "gateway")


def is_ready(pod):
    connection = http.client.HTTPConnection(pod.ip, 9090, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def programs(documents):
    with tempfile.TemporaryDirectory() as folder, Cluster(folder, lateness=0, hurry=100) as cluster:
        begin, times = time.monotonic(), {}
        cluster.apply(documents)
        while len(times) < len(COMPONENTS):
            cluster.check()
            for component in COMPONENTS:
                [pod] = cluster.pods(component)
                if component not in times and is_ready(pod):
                    times[component] = time.monotonic() - begin
            time.sleep(0.005)
        return times


def pods(documents):
    with tempfile.TemporaryDirectory() as folder, Cluster(folder) as cluster:
        begin = time.monotonic()
        cluster.apply(documents)
        cluster.wait_ready()
        times = {c: pod.ready_since - begin for c in COMPONENTS for pod in cluster.pods(c)}
        cluster.wait_reachable("qwenserve-gateway", 1)
        return {**times, "behind the Service": time.monotonic() - begin}


def summary(rounds):
    return {name: {"median_s": round(sorted(r[name] for r in rounds)[len(rounds) // 2], 2),
                   "worst_s": round(max(r[name] for r in rounds), 2)} for name in rounds[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    done = subprocess.run([conftest.ROOT / "tools" / "fetch_helm"], capture_output=True, text=True, check=True)
    documents = conftest.Helm(pathlib.Path(done.stdout.strip())).render()
    print(json.dumps({"programs": summary([programs(documents) for _ in range(rounds)]),
                      "pods": summary([pods(documents) for _ in range(rounds)])}, indent=1))


if __name__ == "__main__":
    main()
