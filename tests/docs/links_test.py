"""What the pages point to is there: files, headings, flags, values of the chart, metrics."""

import pathlib
import re
import subprocess

import pytest
import yaml

import programs
from doc_blocks import PAGES, ROOT, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def markdown_files():
    told = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT,
                          capture_output=True, text=True)
    if told.returncode == 0 and told.stdout:
        files = told.stdout.split("\n")[:-1]
    else:  # an archive of the sources
        files = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.md")
                 if not any(part.startswith((".", "build")) for part in path.relative_to(ROOT).parts)]
    return sorted(path for path in files if not path.startswith("third_party/") and (ROOT / path).exists())


FILES = markdown_files()


def anchors(text):
    """As GitHub makes them of headings; a second one of a name gets -1."""
    found = {}
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", prose(text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        if count:
            found[f"{name}-{count}"] = 1
    return set(found)


def broken_links(page, text):
    for first, second in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(text))):
        link = first or second
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        relative = target.resolve().relative_to(ROOT.resolve()).as_posix() if path else page
        if not target.exists():
            yield f"{page}: {link}: there is no {relative}"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text() if path else text):
            yield f"{page}: {link}: there is no heading {anchor}"


@pytest.mark.parametrize("page", FILES)
def test_links(page):
    assert not list(broken_links(page, (ROOT / page).read_text()))


def inline_code(page):
    return re.findall(r"`([^`\n]+)`", prose((ROOT / page).read_text()))


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_the_text(page):
    """--names without a program of others before them are options of our programs."""
    unknown = set()
    for code in inline_code(page):
        first = code.split()[0]
        if first in programs.FOREIGN or first in ("helm", "kubectl", "buildah", "docker") or "Dcmake" in code:
            continue
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            known = programs.all_options() | FOREIGN_OPTIONS
            if option not in known and not (option.endswith("-") and any(k.startswith(option) for k in known)):
                unknown.add(option)
    assert not unknown


# Of others' programs, named alone.
FOREIGN_OPTIONS = {"--gpus", "--build-arg", "--build-context", "--timestamp", "--reset-then-reuse-values",
                   "--total-queued-requests-metric",
                   "--total-running-requests-metric", "--kv-cache-usage-percentage-metric", "--cache-info-metric",
                   "--model-server-metrics-port"}


def values_paths():
    text = yaml.safe_load((ROOT / "helm/qwenserve/values.yaml").read_text())

    def walk(node, prefix):
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
    return set(walk(text, ""))


@pytest.mark.parametrize("page", PAGES)
def test_values_of_the_chart_in_the_text(page):
    known = values_paths()
    tops = {path for path in known if "." not in path}
    open_ended = ("gateway.flags.", "tokenizer.flags.", "generator.flags.", "gateway.env.", "generator.env.", "models.")
    unknown = set()
    for code in inline_code(page):
        name = code.split("=")[0]
        if re.fullmatch(r"[a-z]\w*(\.\w[\w-]*)+", name) and name.split(".")[0] in tops \
                and not name.startswith(open_ended) and name not in known \
                and pathlib.Path(name).suffix not in (".md", ".proto", ".yaml", ".json", ".cc", ".h"):
            unknown.add(name)
    assert not unknown


def our_commands(text):
    """Commands of our programs in indented code, with the lines that a backslash continues."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return re.findall(r"^    ((?:qwenctl|qwenserve-\w+|build/bin/\w|tools/\w).*)$", joined, re.M)


@pytest.mark.parametrize("page", [page for page in FILES if page not in PAGES])
def test_options_in_other_readmes(page):
    """READMEs of folders are not run; what they say of our programs exists."""
    for command in our_commands((ROOT / page).read_text()):
        for words in programs.commands(re.sub(r"\[(-.*?)\]", r"\1", command)):
            programs.check_options(words, page)


def test_commands_of_other_readmes_are_found():
    text = "Text\n\n    qwenctl chat --a \\\n      --b\n    ls\n    tools/test -- -L unit\n"
    assert our_commands(text) == ["qwenctl chat --a  --b", "tools/test -- -L unit"]
    assert sum(len(our_commands((ROOT / page).read_text())) for page in FILES if page not in PAGES) >= 3


def test_tests_in_the_text():
    """Named in the pages and in the READMEs of the folders."""
    lists = "".join(path.read_text() for path in [*(ROOT / "tests").rglob("CMakeLists.txt")])
    known = set(re.findall(r"NAME (\w+)", lists)) | {path.stem for path in (ROOT / "tests").rglob("*.*")}
    known |= set(re.findall(r"\b(\w+_(?:test|fuzzer))\b", lists))
    for page in FILES:
        named = {name for code in inline_code(page) for name in re.findall(r"\b[a-z]\w*_(?:test|fuzzer)\b", code)}
        assert named <= known, (page, named - known)


def test_every_reason_of_an_error_is_explained():
    header = (ROOT / "services/common/errors/error_details.h").read_text()
    reasons = re.findall(r"kReason\w+\[\] = \"(\w+)\"", header)
    assert len(reasons) > 15
    text = (ROOT / "docs/operations.md").read_text()
    assert not [reason for reason in reasons if not re.search(rf"\b{reason}\b", text)]


def metric_names():
    """Of every name in the sources of the processes."""
    found = set()
    for path in (ROOT / "services").rglob("*.cc"):
        found |= set(re.findall(r"\"(qwenserve_[a-z0-9_]+)\"", path.read_text()))
    for path in (ROOT / "services").rglob("*.h"):
        found |= set(re.findall(r"\"(qwenserve_[a-z0-9_]+)\"", path.read_text()))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_metrics_in_the_text(page):
    known = metric_names()
    named = {re.sub(r"_(bucket|count|sum)$", "", name) if name not in known else name
             for code in inline_code(page) for name in re.findall(r"qwenserve_[a-z0-9_]+", code)
             if not name.endswith("_") and not name.startswith(("qwenserve_client", "qwenserve_bench", "qwenserve_routing"))}
    assert named <= known, sorted(named - known)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_is_an_orphan(page):
    """From README.md every page can be reached."""
    seen, todo = set(), ["README.md"]
    while todo:
        at = todo.pop()
        if at in seen or not (ROOT / at).exists():
            continue
        seen.add(at)
        for first, second in LINK.findall((ROOT / at).read_text()):
            path = (first or second).partition("#")[0]
            if path.endswith(".md") and not re.match(r"[a-z]+:", path):
                todo.append(((ROOT / at).parent / path).resolve().relative_to(ROOT.resolve()).as_posix())
    assert page in seen


def test_a_broken_link_is_told():
    text = "# One `two`: three\n[a](none.md) [b](#one-two-three) [c](#none) [d](README.md#test-it)\n```text\n[e](x.md)\n```\n"
    assert [line.split(": ", 1)[1] for line in broken_links("README.md", text)] == [
        "none.md: there is no none.md", "#none: there is no heading none"]
