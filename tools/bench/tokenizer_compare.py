"""MB per CPU second of our tokenizer, tiktoken and tokenizers, on the same texts in one run.

Usage: tokenizer_compare.py QWEN_TIKTOKEN [--build build] [--file TEXT ...] [--megabytes 4]

Without --file the texts are: English (this project's Markdown), code (its C++), generated text of
all scripts, and Chinese. tests/tokenizer_parity/fetch_qwen_tiktoken.py fetches the vocabulary.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

# One thread, also in the other libraries' own pools.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tokenizer_parity"))

import tokenizers  # noqa: E402

import generate_text  # noqa: E402
import qwen_vocab  # noqa: E402

PASSES = 5


def repository_text(*suffixes: str) -> str:
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    paths = [ROOT / name for name in names if name.endswith(suffixes)]
    return "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in paths)


def chinese_text() -> str:
    """Sentences of frequent words; no word order, but real piece lengths and merges."""
    words = (
        "我们 可以 使用 大规模 语言 模型 回答 问题 并且 创作 文字 表达 观点 编写 代码 北京 时间 今天 天气 "
        "很好 人工 智能 技术 发展 迅速 研究 人员 提出 新的 方法 通过 训练 数据 提高 性能 公司 发布 公告 "
        "的 了 在 是 和 与 对 为 中 上 下 不 也 都 就 年 月 日 第一 第二 经济 社会 文化 教育 历史 科学 世界"
    ).split()
    rng = random.Random(1)
    return "".join(rng.choice(words) + rng.choice(("", "", "", "", "，", "。\n")) for _ in range(200000))


def sample_texts(size: int) -> dict[str, str]:
    texts = {
        "english": repository_text(".md"),
        "code": repository_text(".cc", ".h", ".py"),
        "chinese": chinese_text(),
        "all scripts": "\n".join(generate_text.generate(20000, seed=3)),
    }
    texts["mixed"] = "\n".join(
        text[i : i + 2000] for i in range(0, 400000, 2000) for text in texts.values()
    )
    return {name: (text * (1 + size // max(1, len(text.encode()))))[:size] for name, text in texts.items()}


def best_rate(encode, text: str) -> tuple[float, int]:
    size = len(text.encode())
    best, count = 0.0, 0
    for _ in range(PASSES):
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
    print(f"{'MB per CPU second':20}{'ours':>10}{'tiktoken':>10}{'tokenizers':>12}{'tokens':>12}")
    for name, text in (texts or sample_texts(int(arguments.megabytes * 1e6))).items():
        ours, count = our_rate(
            arguments.build / "bin/tokenizer_benchmark", arguments.vocabulary.parent, text
        )
        tik, tik_count = best_rate(tiktoken_encode, text)
        hf_rate, _ = best_rate(lambda t: hf.encode(t, add_special_tokens=False).ids, text)
        # tiktoken does not normalise, so its count may be another on text that NFC changes.
        note = "" if count == tik_count else f" (tiktoken {tik_count})"
        print(f"{name:20}{ours:10.1f}{tik:10.1f}{hf_rate:12.1f}{count:12}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
