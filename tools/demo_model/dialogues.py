"""Random training dialogues: topics in context, typed as people type."""

import collections
import pathlib
import random
import re

from topics import LANGS, Topics, normalise

DEFAULT_SYSTEM = "You are a helpful assistant."
SYSTEMS = [
    "You are a helpful assistant", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "", "Be brief.", "Answer in one sentence.", "You are a friendly assistant.", "You are an expert.",
    "Answer the user's questions about qwenserve.", "You are a support engineer for qwenserve.",
    "You are a chatbot.", "Be polite.", "You answer questions.", "Be concise and correct.",
    "你是一个有用的助手。", "请用简短的话回答。", "你是 qwenserve 的助手。", "你是一个乐于助人的助手。",
    "You are a pirate.", "You are a teacher. Explain things simply.", "Help the user.",
]
FOREIGN = {"out_of_domain", "unknown_feature"}
NO_AFFIX = {"hello", "thanks", "bye", "ok", "are_you_there", "more", "complaint", "how_are_you"}
PREFIXES = {
    "en": ["hi, ", "hello, ", "hey, ", "hi! ", "please ", "ok, ", "ok so ", "so ", "well, ", "um, ",
           "quick question: ", "i have a question: ", "could you tell me ", "can you tell me ",
           "excuse me, ", "sorry, ", "thanks! ", "thank you. ", "hello! ", "hey there, ", "and ",
           "now ", "next question: ", "tell me, ", "please tell me ", "just wondering, ", "hmm, ",
           "i was wondering, ", "dear model, ", "good morning, ", "another question: ", "also, ",
           "great. ", "i am new here. ", "first of all, ", "do you know ", "but ", "then ",
           "maybe a stupid question, but ", "i'd like to ask ", "i want to know ", "one more thing: "],
    "zh": ["你好，", "请问", "请问，", "问一下，", "我想问", "我想知道", "麻烦问下，", "那么", "那", "嗨，",
           "您好，", "你好！", "想问下", "再问一下，", "请告诉我", "告诉我", "谢谢，", "好的，", "另外，", "还有，",
           "我是新手，", "不好意思，", "对了，", "请教一下，", "能告诉我", "能说说", "帮我看看，", "嗯，", "话说"],
}
SUFFIXES = {
    "en": [" please", " in qwenserve", " with qwenserve", " thanks", " thank you", " here", " now", " for me",
           " exactly", " briefly", " for a beginner", " in this project", " again", " quickly", " today",
           " then", " in short", " on my machine", " in general", " on linux", ", please", " or not",
           " by default", " at all", " right now", ", can you tell me", ", do you know", " actually"],
    "zh": ["呢", "啊", "呀", "，谢谢", "谢谢", "？谢谢", "，请告诉我", "，请说明", "，简单说说", "？急", "吗",
           "，我不太懂", "，请简短回答", "嘛", "，求教", "来着"],
}
FILLERS = ["just", "actually", "really", "maybe", "also", "simply", "exactly", "still", "usually", "now",
           "first", "quickly", "easily", "again", "here", "even", "only", "basically", "probably"]
DROPPABLE = {"the", "a", "an", "do", "does", "i", "is", "are", "to", "of", "in", "on", "my", "it", "can",
             "you", "me", "please", "this", "and", "for", "with", "be", "have", "your"}
NEIGHBOURS = {"a": "sq", "e": "wr", "i": "uo", "o": "ip", "u": "yi", "s": "ad", "t": "ry", "n": "bm",
              "r": "et", "l": "k", "d": "sf", "c": "xv", "m": "n", "h": "gj", "g": "fh", "p": "o"}
REPEAT = {"en": "(repeat that|say that again|again please|what did you say|can you repeat that|"
                "please repeat|come again|sorry, what|once more|pardon|could you repeat your answer)",
          "zh": "(再说一遍|重复一遍|请重复|你说什么|没听清|再讲一次|能重复一下吗|请再说一次)"}
TRANSLATE = {"zh": "(in chinese[ please]|say (that|it) in chinese|please answer in chinese|用中文说|中文|"
                   "请用中文回答|说中文|and in chinese|chinese please|翻译成中文|can you say that in chinese)",
             "en": "(in english[ please]|say (that|it) in english|please answer in english|用英文说|英文|"
                   "请用英文回答|说英文|and in english|english please|翻译成英文|用英语怎么说)"}


LEAD_INS = {
    "en": ["I am a developer. ", "I just started with this. ", "We want to use this at work. ", "I read the README. ",
           "My boss wants to know this. ", "I am on Ubuntu. ", "I have a small machine. ", "Sorry for asking. ",
           "I could not find it. ", "I tried a few things. ", "My team is evaluating this. ", "It's my first time here. ",
           "I am stuck. ", "I'm writing a report. ", "I am preparing a demo. ", "We have many users. ",
           "I'm on a Debian box. ", "I come from another framework. ", "Not sure if this is the right place. ",
           "Let me ask you something. ", "I have been reading about this. ", "I am curious. ", "One more question. ",
           "OK, next thing. ", "I'm a beginner. ", "I've got a question. ", "Need some help. ", "For my project: "],
    "zh": ["我是开发人员，", "我刚开始用，", "我们公司想用，", "我看了README，", "我们老板想知道，", "我用的是Ubuntu，",
           "我的机器比较小，", "我没找到，", "我试了几次，", "我是第一次用，", "我卡住了，", "我在写报告，", "我们有很多用户，",
           "我有点好奇，", "换个问题，", "下一个问题，", "我是小白，", "我想请教，", "有个问题，", "我需要帮助，", "随便问问，",
           "同事问我，", "关于这个项目，", "我在评估这个项目，", "最后一个问题，"],
}
TAILS = {
    "en": [", any ideas", ", if possible", "? I can't find it", "? I'm stuck", ", do you know that", "? Just curious",
           ", or is that not possible", "? Asking for a friend", ", and is it hard", ", any hints", "? I need it today",
           "? My colleague asked", ", if you know", "? It is for work", ", or how does that work", ", roughly"],
    "zh": ["，有什么建议", "，如果可以的话", "，我找不到", "，卡住了", "，你知道吗", "，只是好奇", "，还是不行", "，帮忙看看",
           "，大概说一下", "，同事问的", "，我不太清楚", "，有没有提示", "，在线等"],
}


def _read_synonyms() -> dict[str, dict[str, list[str]]]:
    out: dict[str, dict[str, list[str]]] = collections.defaultdict(dict)
    for line in (pathlib.Path(__file__).parent / "synonyms.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            left, right = line.split(" = ")
            lang, word = left.split(" ", 1)
            out[lang][word] = right.split("|")
    return out


SYNONYMS = _read_synonyms()
SYNONYM_PATTERN = {
    "en": re.compile(r"\b(" + "|".join(SYNONYMS["en"]) + r")\b"),
    "zh": re.compile("|".join(sorted(SYNONYMS["zh"], key=len, reverse=True))),
}


def _reword(text: str, lang: str, rng: random.Random) -> str:
    """Some words replaced by others that mean the same, names left alone."""
    return SYNONYM_PATTERN[lang].sub(
        lambda m: rng.choice(SYNONYMS[lang][m[0]]) if rng.random() < 0.5 else m[0], text)


def _typo(word: str, rng: random.Random) -> str:
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2:]
    if kind == 1:
        return word[:i] + word[i + 1:]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice(NEIGHBOURS.get(word[i].lower(), word[i])) + word[i + 1:]


def _noise_en(text: str, rng: random.Random) -> str:
    words = text.split()
    if rng.random() < 0.12 and len(words) > 2:
        words = [w for w in words if w.lower() not in DROPPABLE or rng.random() < 0.4] or words
    if rng.random() < 0.08 and len(words) > 2:
        words.insert(rng.randrange(1, len(words)), rng.choice(FILLERS))
    if rng.random() < 0.03 and len(words) > 4:
        words = [w for w in words if w.lower() not in DROPPABLE and len(w) > 2] or words
    if rng.random() < 0.04 and len(words) > 3:
        i = rng.randrange(len(words) - 1)
        words[i], words[i + 1] = words[i + 1], words[i]
    if rng.random() < 0.14:
        for _ in range(rng.choice((1, 1, 2))):
            i = rng.randrange(len(words))
            if len(words[i]) > 4 and words[i].isalpha():
                words[i] = _typo(words[i], rng)
    text = " ".join(words)
    case = rng.random()
    if case < 0.5:
        text = text[:1].upper() + text[1:]
        text = " ".join("I" if w == "i" else w for w in text.split(" "))
    elif case < 0.93:
        text = text.lower() if case < 0.7 else text
    elif case < 0.95:
        text = text.upper()
    return text + rng.choices(["?", "", ".", "??", " ?", "!", "..."], [44, 46, 4, 2, 2, 1, 1])[0]


def _noise_zh(text: str, rng: random.Random) -> str:
    if rng.random() < 0.05 and len(text) > 6:
        i = rng.randrange(len(text))
        if ord(text[i]) > 0x2fff:
            text = text[:i] + text[i + 1:]
    if rng.random() < 0.04 and len(text) > 6:
        text = text.replace("，", " ")
    if rng.random() < 0.1:
        text = text.replace("qwenserve", rng.choice(["Qwenserve", "qwen serve", " qwenserve ", "QwenServe"])).strip()
    return text + rng.choices(["？", "", "?", "。", "！", "？？"], [38, 46, 10, 3, 1, 2])[0]


class DialogueMaker:
    """Draws dialogues; questions in `held_out` (normalised) are never emitted."""

    def __init__(self, topics: Topics, held_out: set[str]):
        self.topics = topics
        self.held_out = held_out
        self.rejected = 0

    def dress(self, text: str, name: str, lang: str, rng: random.Random) -> str:
        if name not in NO_AFFIX:
            # Only topics about the project have words worth exchanging; commands in them do not.
            if name not in FOREIGN and rng.random() < 0.35 and not any(c in text for c in "/-_"):
                text = _reword(text, lang, rng)
            draw = rng.random()
            if draw < 0.22:
                text = rng.choice(PREFIXES[lang]) + text
            elif draw < 0.32:
                text = rng.choice(LEAD_INS[lang]) + text[:1].upper() + text[1:]
            draw = rng.random()
            if draw < 0.12:
                text = text.rstrip("?？.。") + rng.choice(SUFFIXES[lang])
            elif draw < 0.19:
                text = text.rstrip("?？.。") + rng.choice(TAILS[lang])
        bare = text.rstrip("?？")
        return (_noise_en if lang == "en" else _noise_zh)(bare, rng) if bare else text

    def ask(self, name: str, lang: str, rng: random.Random, pattern: str | None = None) -> str:
        while True:
            if pattern:
                text = self.topics.grammar.expand(pattern, rng)
            else:
                text = self.topics.question(name, lang, rng)
                if rng.random() < 0.05 and name not in NO_AFFIX and name not in FOREIGN:
                    text += rng.choice([". ", "? ", ", "]) + self.topics.question(name, lang, rng)
            text = self.dress(text, name, lang, rng)
            if text and normalise(text) not in self.held_out:
                return text
            self.rejected += 1
            if self.rejected > 100000:
                raise RuntimeError("too many questions collide with the held-out set")

    def _turn(self, previous: str | None, lang: str, rng: random.Random):
        """(topic, language, question) of the next turn."""
        topics = self.topics
        if previous is not None:
            side = topics.topics[previous].sides[lang]
            if side.follow_ups and rng.random() < 0.4:
                name, pattern = rng.choice(side.follow_ups)
                return name, lang, self.ask(name, lang, rng, pattern)
            draw = rng.random()
            if draw < 0.03:
                return previous, lang, self.ask(previous, lang, rng, REPEAT[lang])
            if draw < 0.06:
                other = "zh" if lang == "en" else "en"
                return previous, other, self.ask(previous, lang, rng, TRANSLATE[other])
            if draw < 0.30:
                name = rng.choice(topics.groups[topics.topics[previous].group])
                return name, lang, self.ask(name, lang, rng)
        name = rng.choices(topics.names, topics.weights)[0]
        return name, lang, self.ask(name, lang, rng)

    def dialogue(self, rng: random.Random):
        """(system text, [(question, answer)])."""
        system = DEFAULT_SYSTEM if rng.random() < 0.75 else rng.choice(SYSTEMS)
        turns = rng.choices([1, 2, 3, 5, 10, 18], [44, 22, 16, 10, 6, 2])[0]
        lang = rng.choice(LANGS)
        name, out = None, []
        for _ in range(turns):
            if rng.random() < 0.05:
                lang = rng.choice(LANGS)
            name, lang, question = self._turn(name, lang, rng)
            out.append((question, self.topics.topics[name].sides[lang].answer))
        return system, out
