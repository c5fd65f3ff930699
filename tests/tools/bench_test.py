"""qwenserve_bench on a checkpoint whose bytes are known."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = pathlib.Path(os.environ["QWENSERVE_BIN"]) / "qwenserve_bench"
MODEL = ROOT / "models/demo"
CONFIG = json.loads((MODEL / "config.json").read_text())
HIDDEN, LAYERS = CONFIG["hidden_size"], CONFIG["num_hidden_layers"]
KV_WIDTH = HIDDEN // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
LINEARS = LAYERS * HIDDEN * (2 * HIDDEN + 2 * KV_WIDTH + 3 * CONFIG["intermediate_size"])


def bench(*arguments):
    done = subprocess.run([BENCH, *arguments, "--output", "json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_engine_counts_what_a_step_reads():
    result = bench("engine", "--model", MODEL, "--threads", "1", "--prompt", "20", "--decode", "64",
                   "--batch", "3", "--repeat", "2")  # fmt: skip
    assert result["weight_bytes_per_step"] == 2 * (LINEARS + CONFIG["vocab_size"] * HIDDEN)
    assert result["kv_bytes_per_step"] == 3 * (20 + 64 // 2 + 1) * LAYERS * 2 * KV_WIDTH * 2
    assert len(result["prefill_tok_s_all"]) == len(result["decode_tok_s_all"]) == 2
    assert result["decode_of_streaming_read"] == pytest.approx(
        (result["weight_bytes_per_step"] + result["kv_bytes_per_step"]) * result["decode_tok_s"]
        / 3 / result["streaming_read_bytes_s"])  # fmt: skip


def test_load_counts_bytes():
    result = bench("load", "--model", MODEL, "--threads", "1", "--max-model-len", "64")
    assert result["source_bytes"] == (MODEL / "model.safetensors").stat().st_size
    assert result["kv_cache_bytes"] == 64 * LAYERS * 2 * KV_WIDTH * 2
    assert result["weight_bytes_held"] <= result["held_bytes"] <= result["peak_rss_bytes"]


def test_bad_flags_are_refused():
    done = subprocess.run([BENCH, "engine", "--model", MODEL, "--weights", "int3"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1 and 'weights "int3"' in done.stderr
    done = subprocess.run([BENCH, "engine"], capture_output=True, text=True)
    assert done.returncode == 2 and "--model is required" in done.stderr


def test_step_runs_the_whole_batch_without_kernels():
    result = bench("step", "--model", MODEL, "--threads", "1", "--batch", "1", "8", "--prompt",
                   "40", "--decode", "200", "--repeat", "2")  # fmt: skip
    assert [line["batch"] for line in result["step_overhead"]] == [1, 8]
    assert all(line["seconds"] > 0 for line in result["step_overhead"])
