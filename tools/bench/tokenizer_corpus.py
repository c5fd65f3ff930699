"""Texts to measure tokenizers with, in which nothing comes twice.

A text that repeats flatters whatever remembers words: in real prompts most words are frequent ones,
but most pieces of Chinese, between two punctuation marks, are new. English and code are what a
Python installation holds (docstrings; sources); Chinese is drawn from the words of a vocabulary by
Zipf's law, with a share of characters at random; `all scripts` are the strings of the parity test.
"""

import ast
import inspect
import pathlib
import random
import re
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tokenizer_parity"))

import generate_text  # noqa: E402

HAN = re.compile("[\u4e00-\u9fff]+")
MEAN_STRING_BYTES = 60  # of generate_text, about; too few make another round
EXCERPT = 2000  # characters of one language in the mixed text


def python_sources():
    """Of the standard library, without its tests; always in the same order."""
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if parts[0] != "site-packages" and "test" not in parts and "tests" not in parts:
            yield path.read_text(encoding="utf-8", errors="ignore")


def is_prose(text: str) -> bool:
    return text.isascii() and text.count(" ") > 20 and text.count("\n    ") < text.count("\n") / 2


def english(size: int) -> str:
    parts, seen, total = [], set(), 0
    for source in python_sources():
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            text = inspect.cleandoc(node.value)
            if text in seen or not is_prose(text):
                continue
            seen.add(text)
            parts.append(text)
            total += len(text) + 2
            if total >= size:
                return "\n\n".join(parts)
    return "\n\n".join(parts)


def code(size: int) -> str:
    parts, total = [], 0
    for source in python_sources():
        parts.append(source)
        total += len(source)
        if total >= size:
            break
    return "\n".join(parts)


def chinese(size: int, ranks: dict[bytes, int]) -> str:
    words = []
    for token in sorted(ranks, key=ranks.__getitem__):
        try:
            word = token.decode()
        except UnicodeDecodeError:
            continue
        if HAN.fullmatch(word):
            words.append(word)
    weights = [1 / (10 + i) for i in range(len(words))]
    rng = random.Random(1)
    parts, characters = [], 0
    while 3 * characters < size:
        clause = rng.choices(words, weights, k=rng.randint(2, 9))
        if rng.random() < 0.2:
            clause.insert(rng.randrange(len(clause)), chr(rng.randint(0x4E00, 0x9FA5)))
        clause.append(rng.choices("，。、？！\n", [10, 6, 2, 1, 1, 1])[0])
        parts.extend(clause)
        characters += sum(map(len, clause))
    return "".join(parts)


def all_scripts(size: int) -> str:
    parts, total, seed = [], 0, 3
    while total < size:
        made = generate_text.generate(1 + (size - total) // MEAN_STRING_BYTES, seed)
        parts += made
        total += sum(len(text.encode()) + 1 for text in made)
        seed += 1
    return "\n".join(parts)


def cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def make(size: int, ranks: dict[bytes, int]) -> dict[str, str]:
    """Texts of `size` bytes, or of what there is: the first four, and one that takes turns in
    English, Chinese and code."""
    texts = {"english": english(size), "code": code(size), "chinese": chinese(size, ranks),
             "all scripts": all_scripts(size)}  # fmt: skip
    turns = [texts[name] for name in ("english", "chinese", "code")]
    shortest = min(map(len, turns))
    texts["mixed"] = "\n".join(
        text[i : i + EXCERPT] for i in range(0, shortest, EXCERPT) for text in turns
    )
    return {name: cut(text, size) for name, text in texts.items()}
