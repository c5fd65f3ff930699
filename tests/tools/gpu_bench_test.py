"""tools/bench/gpu_bench.py without a GPU, over a stand-in for qwenserve_bench; tools/gpu_check where there is none."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tools/bench/gpu_bench.py"
sys.path.insert(0, str(SCRIPT.parent))

import gpu_bench  # noqa: E402

FAST = {"decode_tok_s": 100, "decode_of_copy": 0.9, "prefill_tok_s": 5000}


def test_product_weights_are_those_of_the_layers():
    # Qwen-7B, 32 layers: 4096 x 4096 four times, 4096 x 11008 three times.
    assert gpu_bench.product_weights("Qwen-7B") == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    # Qwen2.5-7B, 28 layers: 28 heads of 128, 4 of keys and values.
    assert gpu_bench.product_weights("Qwen2.5-7B") == 28 * (
        2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944
    )


def test_judges_shares_and_peaks():
    result = dict(FAST)
    gpu_bench.judge("row", "share", 0.88, "Qwen-7B", result, None)
    assert result["value"] == 0.9 and result["reached"]
    gpu_bench.judge("row", "share", 0.91, "Qwen-7B", result, None)
    assert not result["reached"]
    flops = 2 * 5000 * gpu_bench.product_weights("Qwen-7B")
    gpu_bench.judge("row", "peak", 0.6, "Qwen-7B", result, 2 * flops)
    assert result["value"] == 0.5 and not result["reached"]


def test_what_was_not_measured_is_not_judged():
    for result in ({"skipped": "no memory"}, {}):
        for what in ("share", "peak"):
            gpu_bench.judge("row", what, 0.6, "Qwen-7B", result, None)
            assert "reached" not in result


def test_comparisons_are_of_the_rows_that_there_are():
    rows = {"decode 7B bf16": {"decode_tok_s": 95}, "decode 7B bf16 fast": {"decode_tok_s": 100},
            "decode Qwen2.5-7B bf16": {"decode_tok_s": 120},
            "transformers": {"eager_tok_s": 40, "cut_off": "took longer than 9 s"}}  # fmt: skip
    found = gpu_bench.comparisons(rows)
    assert found["exact/fast decode (>= 0.95)"] == 0.95
    assert found["ours/transformers eager (>= 3)"] == 3
    assert found["ours/transformers compiled (>= 1.15)"] is None
    assert found["int4/bf16 prefill (>= 0.85)"] is None


def test_a_process_that_hangs_is_ended_and_what_it_said_is_kept():
    script = 'print(\'{"eager_tok_s": 40}\', flush=True); import time; time.sleep(600)'
    status, out, errors = gpu_bench.finish([sys.executable, "-c", script], 5)
    assert status is None and errors == "took longer than 5 s"
    assert gpu_bench.last_json("[1]\n" + out + '{"half') == {"eager_tok_s": 40}
    assert gpu_bench.last_json("nothing") is None
    assert gpu_bench.finish(["/nowhere/program"], 5)[0] is None


@pytest.fixture
def stand_in(tmp_path):
    """A program that measures FAST, hangs at int8 weights and talks nonsense at int4 ones."""
    path = tmp_path / "qwenserve_bench"
    path.write_text(f"""#!{sys.executable}
import sys, time
weights = sys.argv[sys.argv.index("--weights") + 1]
if weights == "int8":
    open({str(tmp_path / "hangs")!r}, "w").close()
    time.sleep(600)
print("oops" if weights == "int4" else {json.dumps(FAST)!r})
""")
    path.chmod(0o755)
    return path


def command(stand_in, only, *more):
    return [sys.executable, SCRIPT, "--bench", stand_in, "--out", stand_in.parent / "out", "--only", only, *more]


def report_in(stand_in):
    (path,) = (stand_in.parent / "out").iterdir()
    return json.loads(path.read_text())


def test_rows_that_fail_or_hang_are_skipped(stand_in):
    subprocess.run(command(stand_in, "decode 7B", "--row-seconds", "5"), check=True, timeout=120)
    rows = report_in(stand_in)["rows"]
    assert rows["decode 7B bf16"]["reached"] and rows["decode 7B bf16 fast"]["value"] == 0.9
    assert rows["decode 7B int8"]["skipped"] == "took longer than 5 s"
    assert rows["decode 7B int4"]["skipped"] == "not JSON: oops"


def test_the_end_of_the_run_ends_the_row_and_leaves_the_others(stand_in):
    run = subprocess.Popen(command(stand_in, "decode 7B"))
    while not (stand_in.parent / "hangs").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 143
    report = report_in(stand_in)
    assert list(report["rows"]) == ["decode 7B bf16"] and report["rows"]["decode 7B bf16"]["reached"]


def test_no_row_begins_when_time_is_over(stand_in):
    subprocess.run(command(stand_in, "decode 1.8B", "--minutes", "0"), check=True, timeout=60)
    assert {row["skipped"] for row in report_in(stand_in)["rows"].values()} == {"no time left"}


@pytest.mark.parametrize("says", [None, "exit 6", "echo No devices were found; exit 6", "echo No devices were found"])
def test_gpu_check_without_a_gpu_says_so_in_one_line(tmp_path, says):
    # Only what the script uses before it has found a GPU.
    for tool in ("bash", "dirname", "sed", "awk", "timeout"):
        path = next(p for p in ("/usr/bin", "/bin") if os.path.exists(f"{p}/{tool}"))
        (tmp_path / tool).symlink_to(f"{path}/{tool}")
    if says is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    for half in ("build+test", "bench"):
        done = subprocess.run([tmp_path / "bash", ROOT / "tools/gpu_check", half, "--out", tmp_path / "out"],
                              env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)  # fmt: skip
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("gpu_check: no ") and done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
