"""The fenced blocks of the pages for users, and what is done with them: see README.md here."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Pages whose blocks are run or checked. Clients' pages (examples/) have tests of their own.
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
         "helm/README.md", "k8s/README.md", "docker/README.md", "packaging/README.md")
# Language -> what may be done with a block of it.
MODES = {
    "sh": ("run", "own", "serve", "cluster", "check"),
    "python": ("run", "check"),
    "yaml": ("values", "manifest", "check"),
    "json": ("check",),
    "ini": ("check",),
    "promql": ("check",),
    "text": (None,),
    "mermaid": (None,),
}


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int           # of its first line
    language: str
    mode: str | None
    options: dict
    text: str

    @property
    def where(self):
        return f"{self.page}:{self.line}"


class BadBlock(Exception):
    pass


def parse_info(info, where):
    words = info.split()
    language = words[0] if words else ""
    if language not in MODES:
        raise BadBlock(f"{where}: a block in {language or 'no language'}; known are {', '.join(MODES)}")
    mode = words[1] if len(words) > 1 else None
    if mode not in MODES[language]:
        raise BadBlock(f"{where}: a block in {language} says what is done with it: "
                       + " or ".join(f"{language} {known}" if known else language for known in MODES[language]))
    options = dict(word.partition("=")[::2] for word in words[2:])
    if (language, mode) == ("sh", "check") and "why" not in options:
        raise BadBlock(f"{where}: sh check says why it is not run: why=root, network, gpu, docker, build")
    return language, mode, options


def blocks_of(page, text):
    """All fenced blocks. BadBlock for one without a known annotation, that does not end, or for indented code."""
    result, opened, info, before = [], None, None, ""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{page}:{number}"
        fence = re.match(r"( *)```+ *(.*)$", line)
        if opened is None:
            if fence:
                opened, info = number + 1, parse_info(fence[2], where)
            elif line.startswith("    ") and not before.strip() and not in_list(lines[:number - 1]):
                raise BadBlock(f"{where}: indented code; put it between fences that say what is done with it")
        elif fence and not fence[2]:
            indent = len(fence[1])
            inside = "\n".join(row[indent:] for row in lines[opened - 1:number - 1])
            result.append(Block(page, opened, *info, inside + "\n"))
            opened = None
        before = line
    if opened is not None:
        raise BadBlock(f"{page}:{opened}: the block has no end")
    return result


def in_list(lines):
    """Whether what comes after these lines may belong to an item of a list."""
    for line in reversed(lines):
        if re.match(r" *([-*]|\d+\.) ", line):
            return True
        if line.strip() and not line.startswith(" "):
            return False
    return False


def page_blocks(page):
    return blocks_of(page, (ROOT / page).read_text())


def good_blocks(page):
    """None of a page with a bad one: a test of its own tells that."""
    try:
        return page_blocks(page)
    except BadBlock:
        return []


def prose(text):
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^ *```+ *$", "", text, flags=re.M | re.S)
