"""MB per CPU second of our tokenizer, tiktoken and tokenizers, on the same texts in one run.

Usage: tokenizer_compare.py QWEN_TIKTOKEN [--build build] [--file TEXT ...] [--megabytes 4]

Without --file the texts are those of tokenizer_corpus.py, in which nothing repeats.
tests/tokenizer_parity/fetch_qwen_tiktoken.py fetches the vocabulary. Each figure is
the best of five passes in one thread. The other two are called from Python, as their users do.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

# One thread, also in the other libraries' own pools.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tokenizer_parity"))
sys.path.insert(0, str(ROOT / "tools/bench"))

import tokenizers  # noqa: E402

import qwen_vocab  # noqa: E402
import tokenizer_corpus  # noqa: E402

PASSES = 5


def cpu_name() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def best_rate(encode, text: str, passes: int = PASSES) -> tuple[float, int]:
    size = len(text.encode())
    best, count = 0.0, 0
    for _ in range(passes):
        start = time.process_time()
        count = len(encode(text))
        best = max(best, size / 1e6 / (time.process_time() - start))
    return best, count


def our_rate(benchmark: pathlib.Path, model_dir: pathlib.Path, text: str) -> tuple[float, int]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        done = subprocess.run(
            [benchmark, model_dir, f"--file={file.name}"], capture_output=True, check=True
        )
    result = json.loads(done.stdout)
    return result["mb_per_s"], result["tokens"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--file", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--megabytes", type=float, default=4)
    arguments = parser.parse_args()

    ranks = qwen_vocab.read_ranks(arguments.vocabulary)
    tiktoken_encode = qwen_vocab.tiktoken_encoding(ranks).encode_ordinary
    hf = tokenizers.Tokenizer.from_str(qwen_vocab.tokenizer_json(ranks, merge_pairs=True))
    texts = {path.name: path.read_text(encoding="utf-8") for path in arguments.file}
    texts = texts or tokenizer_corpus.make(int(arguments.megabytes * 1e6), ranks)
    print(f"{cpu_name()}, load average {os.getloadavg()[0]:.1f}")
    print(f"{'MB per CPU second':20}{'ours':>10}{'tiktoken':>10}{'ratio':>7}{'tokenizers':>12}{'tokens':>12}")
    for name, text in texts.items():
        ours, count = our_rate(
            arguments.build / "bin/tokenizer_benchmark", arguments.vocabulary.parent, text
        )
        tik, tik_count = best_rate(tiktoken_encode, text)
        # Slow, and here only for orientation.
        hf_rate, _ = best_rate(
            lambda t: hf.encode(t, add_special_tokens=False).ids, text[: len(text) // 8], passes=1
        )
        # tiktoken does not normalise, so its count may be another on text that NFC changes.
        note = "" if count == tik_count else f" (tiktoken {tik_count})"
        print(f"{name:20}{ours:10.1f}{tik:10.1f}{ours / tik:7.2f}{hf_rate:12.1f}{count:12}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
