#!/usr/bin/env python3
"""How long a scrape of a busy gateway takes, and of the generator and the tokenizer behind it.

    python3 tools/bench/metrics_scrape.py [--streams 1000] [--scrapes 200] [--compat none|vllm] [--output FILE]

So many streams of 50 tokens/s each go through one gateway; meanwhile each process is scraped so many times, one scrape after
the other, each over a connection of its own as by a Prometheus that keeps none. Milliseconds from the request to the
last byte. Also one line for the same with nothing running. Needs no Python package.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "bench" / "relay"))

from relay_bench import SIM, Load, SimCluster, wait_running  # noqa: E402


def scrape(process, times):
    taken, size = [], 0
    for _ in range(times):
        begin = time.monotonic()
        with urllib.request.urlopen(f"http://{process.addresses['ops']}/metrics", timeout=60) as reply:
            size = len(reply.read())
        taken.append(1000 * (time.monotonic() - begin))
        time.sleep(0.01)
    taken.sort()
    return {"median_ms": round(statistics.median(taken), 2), "p99_ms": round(taken[int(0.99 * len(taken))], 2),
            "max_ms": round(taken[-1], 2), "bytes": size}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--scrapes", type=int, default=200)
    parser.add_argument("--compat", default="none")
    parser.add_argument("--output", type=pathlib.Path)
    args = parser.parse_args()
    names = ("--metrics-compat", args.compat)
    cluster = SimCluster(generator_flags=("--sim-step-ms", 20, *SIM, *names), gateway_flags=names)
    processes = {"gateway": cluster.gateway, "generator": cluster.generators[0], "tokenizer": cluster.tokenizers[0]}
    result = {"streams": args.streams, "scrapes": args.scrapes, "compat": args.compat, "load_average": os.getloadavg()[0]}
    result["idle"] = {name: scrape(process, args.scrapes) for name, process in processes.items()}
    with Load(cluster.gateway.address, "--concurrency", args.streams, "--num-requests", args.streams, "--prompt-tokens", 16,
              "--max-tokens", 100000, "--timeout", 600) as load:
        wait_running(cluster, args.streams)
        time.sleep(1)
        tokens, begin = cluster.gateway.metric("qwenserve_gateway_completion_tokens_total"), time.monotonic()
        result["busy"] = {name: scrape(process, args.scrapes) for name, process in processes.items()}
        tokens = cluster.gateway.metric("qwenserve_gateway_completion_tokens_total") - tokens
        result["tokens_per_s"] = round(tokens / (time.monotonic() - begin))
        load.interrupt()
    cluster.wait_idle()
    cluster.stop()
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
