"""Question patterns: a tiny grammar that turns one line into hundreds of phrasings.

`(a|b)` picks one alternative, `[x]` is optional, `<name>` picks from the shared word list `name`.
"""

import functools
import math
import random
import re

_TOKEN = re.compile(r"[()\[\]|]|<[a-z_]+>|[^()\[\]|<]+|<")


class Grammar:
    """Expands patterns with the shared word lists of `macros` (name -> pattern)."""

    def __init__(self, macros: dict[str, str]):
        self._macros = macros

    def expand(self, pattern: str, rng: random.Random) -> str:
        out: list[str] = []
        self._emit(self._parse(pattern), rng, out)
        return re.sub(r"\s+", " ", "".join(out)).strip()

    def size(self, pattern: str) -> float:
        """How many expansions the pattern has (an upper bound: duplicates count)."""
        return self._size(self._parse(pattern))

    @functools.cache
    def _parse(self, pattern: str):
        tokens = _TOKEN.findall(pattern)
        node, rest = self._alternatives(tokens, 0)
        if rest != len(tokens):
            raise ValueError(f"unbalanced pattern: {pattern}")
        return node

    def _alternatives(self, tokens, i):
        options, sequence = [], []
        while i < len(tokens) and tokens[i] not in ")]":
            token = tokens[i]
            if token == "|":
                options.append(sequence)
                sequence = []
            elif token in "([":
                node, i = self._alternatives(tokens, i + 1)
                if i >= len(tokens) or tokens[i] != (")" if token == "(" else "]"):
                    raise ValueError("unbalanced pattern: " + "".join(tokens))
                sequence.append(("opt", node) if token == "[" else node)
            elif token.startswith("<") and len(token) > 1:
                sequence.append(("macro", token[1:-1]))
                if token[1:-1] not in self._macros:
                    raise ValueError(f"no word list {token}")
            else:
                sequence.append(token)
            i += 1
        options.append(sequence)
        return ("alt", options), i

    def _emit(self, node, rng, out):
        if isinstance(node, str):
            out.append(node)
            return
        kind, value = node
        if kind == "alt":
            for child in rng.choice(value):
                self._emit(child, rng, out)
        elif kind == "macro":
            self._emit(self._parse(self._macros[value]), rng, out)
        elif rng.random() < 0.4:
            self._emit(value, rng, out)

    def _size(self, node) -> float:
        if isinstance(node, str):
            return 1
        kind, value = node
        if kind == "alt":
            return sum(math.prod(self._size(c) for c in option) for option in value)
        if kind == "macro":
            return self._size(self._parse(self._macros[value]))
        return 1 + self._size(value)
