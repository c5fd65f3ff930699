#!/usr/bin/env python3
"""Writes tests/demo_model/known.jsonl: the canonical question of every topic, English and Chinese
in turn, and dialogues whose last question needs the ones before it."""

import json

from topics import Topics
from train import TESTS

DIALOGUES = [  # language, topics of the turns, the last question
    ("en", ["start_server", "stop_server"], "and how do I stop it?"),
    ("en", ["gateway", "port_gateway"], "Which port does it listen on?"),
    ("en", ["tensor_parallel", "tp_set"], "How do I set it?"),
    ("en", ["hello", "own_model", "supported_models"], "which models?"),
    ("en", ["grpc_api", "call_python"], "and from Python?"),
    ("zh", ["start_server", "stop_server"], "怎么停止"),
    ("zh", ["generator", "port_generator"], "监听哪个端口？"),
    ("zh", ["supported_models", "unsupported_models"], "哪些不支持？"),
    ("zh", ["hello", "ports", "port_change"], "怎么改？"),
]


def main():
    topics = Topics().topics
    items = []
    for i, topic in enumerate(topics.values()):
        side = topic.sides["en" if i % 2 == 0 else "zh"]
        items.append(([{"role": "user", "content": side.question}], side.facts))
    for lang, names, last in DIALOGUES:
        messages = []
        for name in names[:-1]:
            side = topics[name].sides[lang]
            messages += [{"role": "user", "content": side.question},
                         {"role": "assistant", "content": side.answer}]
        items.append(([*messages, {"role": "user", "content": last}], topics[names[-1]].sides[lang].facts))
    with (TESTS / "known.jsonl").open("w", encoding="utf-8") as out:
        for messages, facts in items:
            out.write(json.dumps({"messages": messages, "facts": facts}, ensure_ascii=False) + "\n")
    print(len(items), "questions")


if __name__ == "__main__":
    main()
