"""Reads topics/*.txt: what the demo model knows, one canonical answer per topic and language.

Line forms (LANG is en or zh):
  @name = a|b            a shared word list
  ## topic               starts a topic
  weight N               how often the topic is drawn (1 if absent)
  LANG? question         the canonical question
  LANG.noun pattern      a thing one may ask about ("what is ...")
  LANG.act pattern       something one may want to do ("how do I ...")
  LANG.ask pattern       whole questions
  LANG! answer           the canonical answer
  LANG= a|b ; c          facts of a right answer: one alternative of each group must occur
  LANG> topic : pattern  a follow-up question that only makes sense after this topic
"""

import collections
import dataclasses
import math
import pathlib
import random
import re
import unicodedata

from grammar import Grammar

FOLDER = pathlib.Path(__file__).parent / "topics"
LANGS = ("en", "zh")

# How a thing or an action is wrapped into a question; the number is the relative weight.
FRAMES = {
    ("en", "noun"): [
        ("<whatis> {}", 55), ("what does {} <whatdo>", 10), ("what do {} do", 2), ("{}", 14),
        ("how does {} work", 6), ("how do {} work", 2), ("why {}", 1), ("what {} is", 1),
        ("{} - what is (that|it)", 2), ("{} explained", 2), ("what is {} for", 3),
        ("how do i use {}", 2), ("why do i need {}", 2), ("i want to understand {}", 2),
        ("what is {} in (qwenserve|this project|simple words|short)", 2), ("{} meaning", 1),
    ],
    ("en", "act"): [
        ("<how> {}", 58), ("<want> {}", 22), ("{}", 7), ("what is the command to {}", 3),
        ("how {}", 2), ("{}, how", 2), ("what should i do to {}", 2), ("please {}", 2),
        ("{} - how does that work", 1), ("what is the trick to {}", 1), ("best way to {}", 2),
        ("is it hard to {}", 1), ("instructions to {}", 1), ("what if i need to {}", 1),
    ],
    ("zh", "noun"): [
        ("{}是什么", 16), ("什么是{}", 14), ("{}", 14), ("介绍一下{}", 7), ("请介绍{}", 3),
        ("讲讲{}", 3), ("解释一下{}", 5), ("{}是什么意思", 4), ("{}是怎么回事", 3),
        ("{}有什么用", 5), ("说说{}", 3), ("{}是做什么的", 5), ("{}是干什么的", 3),
        ("我想了解{}", 3), ("能解释一下{}吗", 3), ("{}呢", 2), ("关于{}", 2), ("{}怎么用", 2),
        ("{}是干嘛的", 2), ("(啥是{}|{}是啥)", 3), ("{}指的是什么", 2), ("{}怎么理解", 1),
        ("为什么需要{}", 1), ("不明白{}", 1), ("告诉我{}是什么", 2),
    ],
    ("zh", "act"): [
        ("<zhow>{}", 62), ("<zwant>{}", 14), ("{}", 8), ("{}怎么做", 4), ("{}的方法", 3),
        ("{}的命令", 3), ("{}怎么弄", 2), ("{}要怎么操作", 2), ("{}的步骤", 2), ("{}怎么办", 1),
        ("{}用什么命令", 2), ("怎么样才能{}", 2),
    ],
}
PERIOD = re.compile(r"[\W_]+")


@dataclasses.dataclass
class Side:
    """One language of a topic."""
    question: str = ""
    answer: str = ""
    facts: list[list[str]] = dataclasses.field(default_factory=list)
    patterns: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    follow_ups: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    weights: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Topic:
    name: str
    group: str
    weight: float = 1.0
    sides: dict[str, Side] = dataclasses.field(
        default_factory=lambda: {lang: Side() for lang in LANGS})


def normalise(text: str) -> str:
    """Letters, digits and nothing else: two questions that differ only in dress are equal."""
    return PERIOD.sub("", unicodedata.normalize("NFKC", text).lower())


class Topics:
    """All topics, and random questions about them."""

    def __init__(self, folder: pathlib.Path = FOLDER):
        self.macros: dict[str, str] = {}
        self.topics: dict[str, Topic] = {}
        for path in sorted(folder.glob("*.txt")):
            self._read(path)
        self.grammar = Grammar(self.macros)
        for topic in self.topics.values():
            for lang, side in topic.sides.items():
                self._finish(topic, lang, side)
        self.names = list(self.topics)
        self.weights = [self.topics[n].weight for n in self.names]
        self.groups = collections.defaultdict(list)
        for name, topic in self.topics.items():
            self.groups[topic.group].append(name)

    def _read(self, path: pathlib.Path):
        topic = None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("# "):
                continue
            if line.startswith("@"):
                name, pattern = line[1:].split(" = ", 1)
                self.macros[name] = pattern
                continue
            head, _, rest = line.partition(" ")
            if head == "##":
                if rest in self.topics:
                    raise ValueError(f"{path.name}:{number}: topic {rest} twice")
                topic = self.topics[rest] = Topic(rest, path.stem)
            elif head == "weight":
                topic.weight = float(rest)
            else:
                self._read_side(topic.sides[head[:2]], head[2:], rest, f"{path.name}:{number}")

    @staticmethod
    def _read_side(side: Side, kind: str, rest: str, where: str):
        if kind == "?":
            side.question = rest
        elif kind == "!":
            side.answer = rest
        elif kind == "=":
            side.facts = [[a.strip() for a in group.split("|")] for group in rest.split(" ; ")]
        elif kind == ">":
            target, pattern = rest.split(" : ", 1)
            side.follow_ups.append((target, pattern))
        elif kind in (".noun", ".act", ".ask"):
            side.patterns.append((kind[1:], rest))
        else:
            raise ValueError(f"{where}: unknown line kind {kind}")

    def _finish(self, topic: Topic, lang: str, side: Side):
        if not (side.question and side.answer and side.facts and side.patterns):
            raise ValueError(f"topic {topic.name} lacks a part in {lang}")
        if not is_right(side.answer, side.facts):
            raise ValueError(f"{topic.name}/{lang}: the answer lacks its own facts")
        for target, _ in side.follow_ups:
            if target not in self.topics:
                raise ValueError(f"{topic.name}: follow-up to unknown topic {target}")
        for kind, pattern in side.patterns:
            size = self.grammar.size(pattern) * (1 if kind == "ask" else 25)
            side.weights.append(1 + math.log(size))

    def question(self, name: str, lang: str, rng: random.Random) -> str:
        """A clean question, before any typing noise."""
        side = self.topics[name].sides[lang]
        if rng.random() < 0.08:
            return side.question
        kind, pattern = rng.choices(side.patterns, side.weights)[0]
        if kind != "ask":
            frames = FRAMES[lang, kind]
            frame = rng.choices([f for f, _ in frames], [w for _, w in frames])[0]
            pattern = frame.replace("{}", pattern)
        return self.grammar.expand(pattern, rng)


def is_right(answer: str, facts: list[list[str]]) -> bool:
    """True if, for each fact, one alternative occurs in the answer (any case)."""
    lower = answer.lower()
    return all(any(alternative.lower() in lower for alternative in fact) for fact in facts)
