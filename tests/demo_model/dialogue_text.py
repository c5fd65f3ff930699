"""Dialogues as the demo model was trained on, as text with control tokens."""

import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "demo_model"))

from dialogues import DialogueMaker  # noqa: E402
from topics import Topics  # noqa: E402


def render(system, turns):
    text = f"<|im_start|>system\n{system}<|im_end|>\n"
    for question, answer in turns:
        text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    return text


def dialogue_text(characters, seed):
    """At least so many characters of random dialogues; another seed gives other ones."""
    maker, rng = DialogueMaker(Topics(), set()), random.Random(seed)
    text = ""
    while len(text) < characters:
        text += render(*maker.dialogue(rng))
    return text


if __name__ == "__main__":
    print(dialogue_text(int(sys.argv[1]), int(sys.argv[2])), end="")
