#!/usr/bin/env python3
"""Writes the tables of docs/capacity.md: what GPUs hold of the released models.

    tools/docs/capacity_table.py           writes them into the page, between its two marks
    tools/docs/capacity_table.py --check   writes nothing, exits with 1 when they would change

The numbers are those of `qwenctl doctor` from config.json alone, so of the plan by which a generator
allocates. No GPU is asked. QWENSERVE_BIN: where qwenctl is; default: build/bin.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "bench"))

import released_configs  # noqa: E402

PAGE = ROOT / "docs" / "capacity.md"
BEGIN, END = "<!-- capacity_table: begin -->\n", "<!-- capacity_table: end -->\n"
MODELS = (*released_configs.QWEN1, *released_configs.QWEN2, *released_configs.QWEN3)
CONTEXT, RUNNING, ROWS = 8192, 64, 2048
WEIGHTS = ("bf16", "int8", "int4")
GIB, KIB = 1 << 30, 1 << 10


def qwenctl():
    return pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin")) / "qwenctl"


def plan(model):
    """What `qwenctl doctor` tells of the memory of `model`, by (tp, weights, kv)."""
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "config.json"
        config.write_text(json.dumps(released_configs.config(model)))
        done = subprocess.run(
            [qwenctl(), "doctor", config, "--json", "--max-model-len", str(CONTEXT), "--max-running", str(RUNNING),
             "--max-batch-tokens", str(ROWS)], capture_output=True, text=True)
    memory, = (check["memory"] for check in json.loads(done.stdout) if "memory" in check)
    assert (memory["max_model_len"], memory["max_running"], memory["max_batch_tokens"]) == (CONTEXT, RUNNING, ROWS)
    return {(row["tp"], row["weights"], row["kv"]): row for row in memory["rows"]}


def count(tokens):
    return f"{tokens / 1e6:.1f}M" if tokens >= 1e6 else f"{tokens // 1000}k"


def smallest(rows, weights, kv, card):
    """"TPn tokens" of the fewest cards on which a whole context fits besides the weights."""
    for tp in (1, 2, 4, 8):
        row = rows.get((tp, weights, kv))
        if row is None:
            continue
        tokens = row["cards"][card]["kv_tokens"]
        if row["cards"][card]["fits"] and tokens >= CONTEXT:
            return f"{tp}: {count(tokens)}"
    return "-"


def sizes(plans):
    """Lines of the first table: bytes of weights and of a token in the KV cache."""
    yield "| model | weights bf16 | int8 | int4 | KV/token bf16 | int8 | step and workspace |"
    yield "|---|---|---|---|---|---|---|"
    for model, rows in plans.items():
        one = [rows[1, weights, "bf16"] for weights in WEIGHTS]
        cells = [f"{row['weight_bytes'] / GIB:.2f}" for row in one]
        cells += [f"{rows[1, 'bf16', kv]['kv_bytes_per_token'] / KIB:.1f}" for kv in ("bf16", "int8")]
        cells.append(f"{(one[0]['step_bytes'] + one[0]['workspace_bytes']) / GIB:.2f}")
        yield f"| {model} | {' | '.join(cells)} |"


def fits(plans, kv):
    """Lines of a table of cards."""
    first = next(iter(plans.values()))[1, "bf16", "bf16"]["cards"]
    cards = " | ".join(f"{card['gigabytes']} GB" for card in first)
    yield f"| model | weights | {cards} |"
    yield f"|---|---|{'---|' * len(first)}"
    for model, rows in plans.items():
        for weights in WEIGHTS:
            cells = [smallest(rows, weights, kv, card) for card in range(len(first))]
            yield f"| {model} | {weights} | {' | '.join(cells)} |"


def tables():
    plans = {model: plan(model) for model in MODELS}
    parts = ["### Sizes", "", "One GPU, weights in GiB, KV cache in KiB for each token, the rest in GiB.", "",
             *sizes(plans), "", "### KV cache in bf16", "", *fits(plans, "bf16"), "", "### KV cache in int8", "",
             *fits(plans, "int8"), ""]
    return "\n".join(parts)


def main():
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    new = head + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]
    if "--check" in sys.argv[1:]:
        print("capacity_table: up to date" if new == text else "docs/capacity.md: run tools/docs/capacity_table.py")
        return int(new != text)
    PAGE.write_text(new)
    print("capacity_table: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
