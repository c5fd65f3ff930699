#!/usr/bin/env python3
"""Checks the rules of style that a program can check.

- files stay within 600 lines (.cu and .cuh: 800), functions within 100;
- the guard of a header is its path;
- no left-over marks, no paths of somebody's machine;
- no std::string_view: on Debian 12 and Ubuntu absl::string_view is another type, and ours is that one.

Prints one line per violation and exits with 1 when there is any. The layout of C++ lines is
clang-format's business; tests/tools/style_test.py runs it.

Usage: tools/check_style.py [ROOT]
"""

import ast
import os
import pathlib
import re
import sys

FILE_CAP = {".h": 600, ".cc": 600, ".py": 600, ".proto": 600, ".cmake": 600, ".sh": 600,
            "": 600, ".cu": 800, ".cuh": 800}
FUNCTION_CAP = 100
CPP = {".h", ".cc", ".cu", ".cuh"}
TEXT = set(FILE_CAP) | {".txt", ".md", ".yaml", ".tpl"}
# Data, not written by hand.
SKIPPED_FOLDERS = {"third_party", "gpu-pack", "__pycache__", "models", "testdata", "goldens", "data"}

# Spelled in pieces so that this file passes its own check.
FORBIDDEN = (
    (re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b"), "left-over mark"),
    (re.compile(r"(?<![\w.$}])/(ho" + r"me|ro" + r"ot|wo" + r"rk|Us" + r"ers)/"), "path of one machine"),
)


def source_files(root):
    for folder, folders, files in os.walk(root):
        relative = pathlib.Path(folder).relative_to(root)
        folders[:] = sorted(
            f for f in folders
            if f not in SKIPPED_FOLDERS and not (f.startswith(".") and f != ".ci")
            and not (relative == pathlib.Path(".") and f.startswith("build")))
        for name in sorted(files):
            path = relative / name
            hidden = name.startswith(".")
            if not hidden and path.suffix in TEXT and (root / path).is_file():
                yield path


def cpp_functions(lines):
    """(first line, length) of every function at the margin, as clang-format lays them out: the body
    is indented, the closing brace is alone on its line."""
    start = None
    for number, line in enumerate(lines, 1):
        if line == "}" and start is not None:
            yield start, number - start + 1
        if line and line[0] not in " \t#/})":
            start = number


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.end_lineno - node.lineno + 1


def functions(path, text):
    if path.suffix in CPP:
        return cpp_functions(text.splitlines())
    if path.suffix == ".py" or text.startswith("#!/usr/bin/env python3"):
        return python_functions(text)
    return ()


def guard_violation(path, text):
    guard = "QWENSERVE_" + re.sub(r"\W", "_", path.as_posix()).upper() + "_"
    expected = [f"#ifndef {guard}", f"#define {guard}", f"#endif  // {guard}"]
    present = [line for line in text.splitlines() if guard in line]
    return None if present == expected else f"{path}:1: the header guard must be {guard}"


def line_violations(path, text):
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, reason in FORBIDDEN:
            if pattern.search(line):
                yield f"{path}:{number}: {reason}: {line.strip()[:80]}"
        if path.suffix in CPP and "std::string_view" in line.split("//")[0]:
            yield f"{path}:{number}: std::string_view; use absl::string_view"


def check_file(path, text):
    length = text.count("\n")
    if length > FILE_CAP.get(path.suffix, length):
        yield f"{path}: {length} lines, at most {FILE_CAP[path.suffix]}"
    for line, size in functions(path, text):
        if size > FUNCTION_CAP:
            yield f"{path}:{line}: a function of {size} lines, at most {FUNCTION_CAP}"
    if path.suffix in {".h", ".cuh"}:
        violation = guard_violation(path, text)
        if violation:
            yield violation
    yield from line_violations(path, text)


def check(root):
    for path in source_files(root):
        try:
            text = (root / path).read_text()
        except UnicodeDecodeError:
            if path.suffix:
                yield f"{path}: not UTF-8"
            continue  # a file without suffix may be binary
        yield from check_file(path, text)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    violations = list(check(root))
    print("\n".join(violations) if violations else "check_style: clean")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
