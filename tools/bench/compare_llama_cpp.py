"""Our engine against llama.cpp on the 0.5B shape, in alternating runs.

    tools/bench/llama_cpp/build.sh PEERS
    PEERS/venv/bin/python tools/bench/llama_cpp/make_gguf.py PEERS/models
    python tools/bench/make_random_checkpoint.py PEERS/models/q05-tied --shape 0.5b
    python tools/bench/compare_llama_cpp.py PEERS [--pairs 5] [--threads 2] [--only int4] [--name N]

A row is (instruction set, weight format, what is measured). Each of its pairs is one process of
ours and then one of theirs, each with its own warm-up; the figures are medians over the pairs.
`native` is what either picks on this CPU, `avx2` has both held to AVX2.

The result is tools/bench/results/NAME.json, written after each pair, and NAME.md, the table. Rows
that are complete in an existing NAME.json are not measured again. Standard library only.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = pathlib.Path(__file__).resolve().parent / "results"
GGUF = {"int4": "q05-q4_0.gguf", "int8": "q05-q8_0.gguf", "bf16": "q05-bf16.gguf"}
# What the ratio of ours to theirs has to reach, and the share of the streaming read.
BARS = {("int4", "decode"): 1.35, ("int8", "decode"): 1.3, ("bf16", "decode"): 1.15,
        ("int4", "batch8"): 1.7, ("int4", "prefill"): 2.0, ("int8", "prefill"): 1.4,
        ("bf16", "prefill"): 1.3}  # fmt: skip
READ_BARS = {"int4": 0.75, "int8": 0.75, "bf16": 0.8}
OURS = {"decode": ["--prompt", "16", "--decode", "64", "--batch", "1"],
        "batch8": ["--prompt", "32", "--decode", "32", "--batch", "8"],
        "prefill": ["--prompt", "512", "--decode", "0", "--batch", "1"]}
THEIRS = {"decode": ["llama-bench", "-p", "0", "-n", "64", "-r", "1", "-o", "json"],
          "batch8": ["llama-batched-bench", "-c", "2048", "-b", "2048", "-ub", "512",
                     "-npp", "32", "-ntg", "32", "-npl", "8", "--output-format", "jsonl"],
          "prefill": ["llama-bench", "-p", "512", "-n", "0", "-r", "1", "-o", "json"]}  # fmt: skip
ISA_OF_OURS = {"native": "auto", "avx2": "avx2"}


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def our_command(args, isa, weights, what):
    return [args.bench, "engine", "--model", args.peers / "models/q05-tied", "--weights", weights,
            "--threads", str(args.threads), "--isa", ISA_OF_OURS[isa], *OURS[what], "--repeat", "1",
            "--output", "json"]  # fmt: skip


def their_command(args, isa, weights, what):
    binary, *flags = THEIRS[what]
    threads = ["-t", str(args.threads)]
    if what == "batch8":
        threads += ["-tb", str(args.threads)]
    return [args.peers / f"build-{isa}/bin" / binary, "-m", args.peers / "models" / GGUF[weights],
            *flags, *threads]  # fmt: skip


def our_reading(args, row):
    result = json.loads(run(our_command(args, *row)))
    rate = result["prefill_tok_s" if row[2] == "prefill" else "decode_tok_s"]
    return rate, result


def their_reading(args, row):
    lines = run(their_command(args, *row)).strip()
    if row[2] != "batch8":
        return json.loads(lines)[0]["avg_ts"]
    (record,) = (json.loads(line) for line in lines.splitlines() if line.startswith("{"))
    return record["speed_tg"]


def shown(args, command):
    """Without the folders of this machine."""
    text = " ".join(map(str, command))
    return text.replace(str(args.bench), "qwenserve_bench").replace(str(args.peers), "PEERS")


def measure_row(args, row, record):
    record["ours_command"] = shown(args, our_command(args, *row))
    record["theirs_command"] = shown(args, their_command(args, *row))
    pairs = record.setdefault("pairs", [])
    while len(pairs) < args.pairs:
        ours, details = our_reading(args, row)
        theirs = their_reading(args, row)
        pairs.append({"ours": ours, "theirs": theirs, "isa": details["isa"],
                      "load_average": os.getloadavg()[0],
                      "streaming_read_bytes_s": details["streaming_read_bytes_s"],
                      "weight_bytes_per_step": details.get("weight_bytes_per_step"),
                      "kv_bytes_per_step": details.get("kv_bytes_per_step"),
                      "of_streaming_read": details.get("decode_of_streaming_read")})  # fmt: skip
        yield details


def summary(record, weights, what):
    pairs = record["pairs"]
    middle = {key: statistics.median(pair[key] for pair in pairs)
              for key in ("ours", "theirs", "load_average")}  # fmt: skip
    line = {**middle, "ratio": middle["ours"] / middle["theirs"],
            "ratio_range": [min(p["ours"] / p["theirs"] for p in pairs),
                            max(p["ours"] / p["theirs"] for p in pairs)],
            "bar": BARS.get((weights, what)), "isa": pairs[0]["isa"]}  # fmt: skip
    if what == "decode":
        line["of_streaming_read"] = statistics.median(p["of_streaming_read"] for p in pairs)
        line["read_bar"] = READ_BARS[weights]
    return line


def table(result):
    out = [f"# Ours against llama.cpp, {result['date']}", "",
           f"CPU: {result['cpu']}; {result['cores']} cores, {result['threads']} threads; "
           f"our commit {result['commit']}; medians of {result['pairs']} alternating pairs, tok/s. "
           "PEERS: see tools/bench/README.md.", "",
           "| held to | weights | what | ours | theirs | ratio (range) | bar | of streaming read |"
           " load |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    commands = []
    for key, record in result["rows"].items():
        isa, weights, what = key.split("/")
        if not record.get("pairs"):
            continue
        line = summary(record, weights, what)
        read = ""
        if what == "decode":
            read = f"{line['of_streaming_read']:.0%} (bar {line['read_bar']:.0%})"
        low, high = line["ratio_range"]
        out.append(f"| {isa} ({line['isa']}) | {weights} | {what} | {line['ours']:.1f} | "
                   f"{line['theirs']:.1f} | {line['ratio']:.2f} ({low:.2f}-{high:.2f}) | "
                   f"{line['bar'] or ''} | {read} | {line['load_average']:.1f} |")  # fmt: skip
        commands += [record["ours_command"], record["theirs_command"]]
    return "\n".join([*out, "", "Commands:", "```", *commands, "```", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=pathlib.Path, help="the folder of llama_cpp/build.sh")
    parser.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/bin/qwenserve_bench")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", nargs="+", choices=ISA_OF_OURS, default=list(ISA_OF_OURS))
    parser.add_argument("--only", nargs="+", choices=GGUF, default=list(GGUF), help="formats")
    parser.add_argument("--what", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--name", default="llama_cpp", help="of the files in results")
    args = parser.parse_args()
    args.peers, args.bench = args.peers.resolve(), args.bench.resolve()
    path = RESULTS / f"{args.name}.json"
    RESULTS.mkdir(exist_ok=True)
    result = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    result.update(date=time.strftime("%Y-%m-%d"), cores=os.cpu_count(), threads=args.threads,
                  pairs=args.pairs)  # fmt: skip
    result["commit"] = run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]).strip()
    for row in ((i, w, m) for i in args.isa for w in args.only for m in args.what):
        record = result["rows"].setdefault("/".join(row), {})
        for details in measure_row(args, row, record):
            result["cpu"] = details["cpu"]
            path.write_text(json.dumps(result, indent=1) + "\n")
        line = summary(record, *row[1:])
        print(f"{'/'.join(row):22} ours {line['ours']:8.1f} theirs {line['theirs']:8.1f} "
              f"ratio {line['ratio']:.2f}", flush=True)  # fmt: skip
    path.with_suffix(".md").write_text(table(result))
    print(path.with_suffix(".md"))


if __name__ == "__main__":
    main()
