"""Seeded strings of all scripts that stress the split rule, NFC and BPE."""

import random
import sys
import unicodedata

# Runs of neighbouring code points of one script, so that real merges happen.
BLOCKS = [
    (0x0021, 0x007E), (0x0041, 0x005A), (0x0061, 0x007A), (0x0030, 0x0039), (0x00A0, 0x00FF),
    (0x0100, 0x024F), (0x0250, 0x02FF), (0x0300, 0x036F), (0x0370, 0x03FF), (0x0400, 0x04FF),
    (0x0530, 0x058F), (0x0590, 0x05FF), (0x0600, 0x06FF), (0x0700, 0x074F), (0x0780, 0x07BF),
    (0x0900, 0x097F), (0x0980, 0x09FF), (0x0A00, 0x0A7F), (0x0B00, 0x0B7F), (0x0B80, 0x0BFF),
    (0x0C00, 0x0C7F), (0x0D00, 0x0D7F), (0x0D80, 0x0DFF), (0x0E00, 0x0E7F), (0x0E80, 0x0EFF),
    (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F),
    (0x13A0, 0x13FF), (0x1780, 0x17FF), (0x1800, 0x18AF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF),
    (0x2000, 0x206F), (0x2070, 0x209F), (0x2100, 0x214F), (0x2150, 0x218F), (0x2190, 0x22FF),
    (0x2460, 0x24FF), (0x2600, 0x27BF), (0x2E80, 0x2FDF), (0x3000, 0x303F), (0x3040, 0x30FF),
    (0x3100, 0x312F), (0x3130, 0x318F), (0x4E00, 0x9FFF), (0x4E00, 0x5FFF), (0xA000, 0xA48F),
    (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFEFF), (0xFF00, 0xFFEF),
    (0x10000, 0x1007F), (0x10330, 0x1034F), (0x1D100, 0x1D1FF), (0x1D400, 0x1D7FF),
    (0x1F100, 0x1F1FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF),
    (0x2F800, 0x2FA1F), (0xE0100, 0xE01EF), (0xE000, 0xF8FF),
]  # fmt: skip

# What the alternatives of the split rule turn on.
EDGES = [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", " \n", "\n ", " \n ", "\u00a0", "\u3000",
    "\u2028", "\u0085", "\u200b", "\x0b", "\x0c", "\x1c", "\x00", "'s", "'S", "'ll", "'LL", "'Re",
    "'ve", "'d", "'m", "'t", "'\u017f", "'", "''", "I'm", "don't", "\u017f", "0", "12", "\u0663",
    "\u2167", "\u00bd", "!", "!!", " !", "...\n", ":\n\n", "\u0301", "e\u0301", "\u0327\u0301",
    "\u1100\u1161\u11a8", "\uac00\u11a8", "\u212b", "\u2126", "\u0958", "\u0344", "\ufb01",
    "\u3042\u3099", "<|im_start|>", "<|endoftext|>", "<|im_end|>", "<tool_call>", "<think>",
    "<|extra_0|>", "\ufffd", "\U0001f9d1\u200d\U0001f680", "\U0001f44d\U0001f3fd",
]  # fmt: skip

WORDS = (
    "the of and Hello world system user assistant print function return import numpy self "
    "Observation: Panda transformers 你好 我们 模型 训练 北京 时间 привет мир спасибо "
    "こんにちは カタカナ 안녕하세요 세계 مرحبا שלום नमस्ते สวัสดี Việt Führer café naïve"
).split()


def assigned(code: int) -> bool:
    return unicodedata.category(chr(code)) not in ("Cn", "Cs")


def one(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        if kind < 0.35:
            parts.append(rng.choice(EDGES))
        elif kind < 0.55:
            parts.append(rng.choice(("", " ")) + rng.choice(WORDS))
        elif kind < 0.6:
            parts.append(rng.choice(EDGES + ["a", "ab", "的", "="]) * rng.randint(2, 40))
        else:
            low, high = rng.choice(BLOCKS)
            length = rng.randint(1, 8)
            codes = (rng.randint(low, high) for _ in range(length))
            parts.append("".join(chr(c) for c in codes if assigned(c)))
    return "".join(parts)


def every_code_point() -> list[str]:
    """Each assigned code point once, between letters, digits and spaces in turn."""
    texts = []
    for code in range(sys.maxunicode + 1):
        # One per 8 of the large uniform blocks is enough.
        if code > 0x3400 and code % 8 and not 0xF900 <= code <= 0xFFFF:
            continue
        if assigned(code):
            texts.append(f"a{chr(code)}b {chr(code)}{chr(code)} 1{chr(code)}\n")
    return ["".join(texts[i : i + 16]) for i in range(0, len(texts), 16)]


def generate(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [one(rng) for _ in range(count)]
