"""Speed and memory of one GPU with random weights, against what the GPU itself can do.

    python3 tools/bench/gpu_bench.py --bench build-gpu/bin/qwenserve_bench --out FOLDER

Each row is one process of `qwenserve_bench engine --device cuda --load-format dummy`, which reads
the copy bandwidth before it loads. A decode row's share is (bytes of weights, scales, head and KV
that a step reads) * steps per second / copy bandwidth. Rows of models that don't fit are listed as
skipped with the arithmetic that the program prints. Beside them, where PyTorch is installed,
gpu_transformers.py measures transformers and the peak of a library's matrix product.

The result is FOLDER/gpu_NAME.json, rewritten after each row, so that a run that is cut off leaves
what it had. Every process has a time limit; a row that reaches its own is skipped. Standard library
only.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

from released_configs import config

HERE = pathlib.Path(__file__).resolve().parent
SHORT = {"prompt": 128, "decode": 256}

ROW_SECONDS = 180
OVERTIME = 45  # for the row that is under way when --minutes are over
PEER_PART = 0.4  # of --minutes, at most, for transformers

# (row, model, weights, options, what is compared, goal)
ROWS = [
    ("decode 7B bf16", "Qwen-7B", "bf16", SHORT, "share", 0.88),
    ("decode 7B int8", "Qwen-7B", "int8", SHORT, "share", 0.80),
    ("decode 7B int4", "Qwen-7B", "int4", SHORT, "share", 0.65),
    ("decode 1.8B bf16", "Qwen-1.8B", "bf16", SHORT, "share", 0.70),
    ("decode 1.8B int4", "Qwen-1.8B", "int4", SHORT, "share", 0.50),
    ("decode 14B int4", "Qwen-14B", "int4", SHORT, "share", 0.75),
    ("decode 72B int4, 2048 tokens", "Qwen-72B", "int4", {"prompt": 1, "decode": 2048}, "share", 0.72),
    ("decode 7B bf16 fast", "Qwen-7B", "bf16", {**SHORT, "mode": "fast"}, "share", None),
    ("batch 16 7B bf16", "Qwen-7B", "bf16", {**SHORT, "batch": 16}, "share", 0.75),
    ("batch 64 7B bf16", "Qwen-7B", "bf16", {**SHORT, "batch": 64}, "share", 0.75),
    ("prefill 2048 7B bf16 fast", "Qwen-7B", "bf16", {"prompt": 2048, "decode": 0, "mode": "fast"}, "peak", 0.60),
    ("prefill 2048 7B int4 fast", "Qwen-7B", "int4", {"prompt": 2048, "decode": 0, "mode": "fast"}, "peak", None),
    ("prefill 2048 7B bf16", "Qwen-7B", "bf16", {"prompt": 2048, "decode": 0}, "peak", None),
    ("decode 14B bf16", "Qwen-14B", "bf16", SHORT, "share", 0.88),
    ("decode 14B int8", "Qwen-14B", "int8", SHORT, "share", 0.80),
    ("decode Qwen2.5-7B bf16", "Qwen2.5-7B", "bf16", SHORT, "share", 0.88),
    ("decode Qwen2.5-72B int4", "Qwen2.5-72B", "int4", SHORT, "share", 0.75),
]  # fmt: skip


def product_weights(name):
    """Elements of all matrices that every row is multiplied with, the head left out."""
    c = config(name)
    heads = c["num_attention_heads"]
    kv_heads = c.get("num_key_value_heads", heads)
    hidden = c["hidden_size"]
    ffn = c["intermediate_size"] // (2 if c["model_type"] == "qwen" else 1)
    width = hidden // heads
    layer = hidden * width * (2 * heads + 2 * kv_heads) + 3 * hidden * ffn
    return layer * c["num_hidden_layers"]


def finish(command, seconds):
    """Exit status, stdout and stderr. Status None: it was not there, or was ended after `seconds`."""

    def text(output):
        return output.decode(errors="replace") if isinstance(output, bytes) else output or ""

    try:
        done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=seconds)  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return None, text(late.stdout), f"took longer than {seconds:.0f} s"
    except OSError as error:
        return None, "", str(error)
    return done.returncode, text(done.stdout), text(done.stderr)


def last_json(output):
    """The last line that is an object; None without one."""
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def nvidia_smi(fields):
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    status, out, _ = finish(command, 20)
    lines = out.splitlines()
    values = [value.strip() for value in lines[0].split(",")] if status == 0 and lines else []
    if len(values) != len(fields):
        return {field: "unknown" for field in fields}
    return dict(zip(fields, values))


class MemoryWatch:
    """The most device memory in use, in MiB, while it runs; less what was used before."""

    def __enter__(self):
        self.before = self.peak = self.used()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    @staticmethod
    def used():
        value = nvidia_smi(["memory.used"])["memory.used"]
        return int(value) if value.isdigit() else 0

    def watch(self):
        while not self.stop.wait(0.5):
            self.peak = max(self.peak, self.used())


def measure(args, folder, model, weights, options, seconds):
    directory = folder / model
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config(model)))
    command = [args.bench, "engine", "--device", args.device, "--load-format", "dummy",
               "--model", directory, "--weights", weights, "--gpu-mode", options.get("mode", "exact"),
               "--prompt", options["prompt"], "--decode", options["decode"],
               "--batch", options.get("batch", 1), "--repeat", args.repeat, "--output", "json"]  # fmt: skip
    with MemoryWatch() as memory:
        status, out, errors = finish(command, seconds)
    if status != 0:
        return {"skipped": errors.strip()[-1500:] or f"status {status}"}
    try:
        return {"memory_mib": memory.peak - memory.before, **json.loads(out)}
    except ValueError:
        return {"skipped": f"not JSON: {out.strip()[-500:]}"}


def judge(row, what, goal, model, result, peak):
    if "skipped" in result:
        return
    if what == "share":
        value = result.get("decode_of_copy")
    else:
        rate = result.get("prefill_tok_s")
        flops = 2 * product_weights(model) * rate if rate else None
        result["prefill_flops"] = flops
        value = flops / peak if peak and flops else None
    result.update({"compared": what, "value": value, "goal": goal})
    if goal is not None and value is not None:
        result["reached"] = value >= goal
    shown = "?" if value is None else f"{value:.3f}"
    print(f"{row}: {what} {shown}, goal {goal}", flush=True)


def transformers_rows(seconds):
    command = [sys.executable, HERE / "gpu_transformers.py", "--model", "Qwen2.5-7B"]
    status, out, errors = finish(command, seconds)
    result = last_json(out) or {}  # what it had measured until then
    if status != 0:
        result["cut_off" if result else "skipped"] = errors.strip()[-800:] or f"status {status}"
    return result


def comparisons(rows):
    """Ratios of one row to another, with the goals that they have."""

    def ratio(over, under, field):
        a, b = rows.get(over, {}).get(field), rows.get(under, {}).get(field)
        return a / b if a and b else None

    found = {
        "exact/fast decode (>= 0.95)": ratio("decode 7B bf16", "decode 7B bf16 fast", "decode_tok_s"),
        "exact/fast prefill (>= 0.75)": ratio("prefill 2048 7B bf16", "prefill 2048 7B bf16 fast", "prefill_tok_s"),
        "int4/bf16 prefill (>= 0.85)": ratio("prefill 2048 7B int4 fast", "prefill 2048 7B bf16 fast", "prefill_tok_s"),
        "ours/transformers eager (>= 3)": None,
        "ours/transformers compiled (>= 1.15)": None,
    }  # fmt: skip
    peers = rows.get("transformers", {})
    ours = rows.get("decode Qwen2.5-7B bf16", {}).get("decode_tok_s")
    for kind in ("eager", "compiled"):
        if ours and peers.get(f"{kind}_tok_s"):
            goal = "3" if kind == "eager" else "1.15"
            found[f"ours/transformers {kind} (>= {goal})"] = ours / peers[f"{kind}_tok_s"]
    return found


def write(path, report):
    """Whole or not at all: who ends us in the middle leaves what was there before."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(part, path)


def main():
    # So that what it had started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="qwenserve_bench")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=8.0, help="no row begins later than this")
    parser.add_argument("--row-seconds", type=float, default=ROW_SECONDS)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes

    gpu = nvidia_smi(["name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.mem",
                      "power.limit"])  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in gpu["name"].lower())
    path = args.out / f"gpu_{name}.json"
    report = {"gpu": gpu, "rows": {}}

    def save():
        report["comparisons"] = comparisons(report["rows"])
        write(path, report)

    if args.only in "transformers":
        report["rows"]["transformers"] = transformers_rows(max(1, PEER_PART * 60 * args.minutes))
        save()
    peak = report["rows"].get("transformers", {}).get("matmul_flops")
    with tempfile.TemporaryDirectory() as folder:
        for row, model, weights, options, what, goal in ROWS:
            if args.only not in row:
                continue
            if time.monotonic() > deadline:
                report["rows"][row] = {"skipped": "no time left"}
                continue
            seconds = min(args.row_seconds, deadline + OVERTIME - time.monotonic())
            result = measure(args, pathlib.Path(folder), model, weights, options, seconds)
            result["clocks_after"] = nvidia_smi(["clocks.sm", "clocks.mem", "temperature.gpu"])
            judge(row, what, goal, model, result, peak)
            report["rows"][row] = result
            save()
    save()
    for text, value in report["comparisons"].items():
        print(f"{text}: {'?' if value is None else f'{value:.2f}'}")
    print(path)


if __name__ == "__main__":
    main()
