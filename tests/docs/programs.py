"""What commands in the pages may say: the options of our programs and scripts, as these tell them."""

import functools
import os
import pathlib
import re
import shlex
import subprocess

from doc_blocks import ROOT

BIN = pathlib.Path(os.environ.get("QWENSERVE_BIN", ROOT / "build" / "bin"))
SERVERS = ("qwenserve-gateway", "qwenserve-tokenizer", "qwenserve-generator")
# Programs that are not ours and whose options are not known here.
FOREIGN = {"alias", "apt", "apt-get", "awk", "bash", "buildah", "cat", "cd", "chmod", "cmake", "coredumpctl", "cp",
           "cpack", "ctest", "curl", "cut", "dd", "docker", "dpkg", "echo", "eu-stack", "export", "find", "gdb",
           "git", "grep", "gzip", "head", "hostname", "install", "journalctl", "jq", "kill", "lintian", "ln",
           "loginctl", "ls", "mkdir", "mv", "ninja", "nslookup", "openssl", "pip", "podman", "printf", "prometheus",
           "promtool", "python", "python3", "rm", "sed", "sha256sum", "sleep", "sort", "sudo", "systemctl", "tail",
           "tar", "tee", "test", "true", "umask", "unzip", "wait", "wc", "wget", "xargs", "zcat"}
WORDS_BEFORE_A_COMMAND = {"sudo", "if", "then", "else", "do", "while", "until", "!", "time"}


class BadCommand(Exception):
    pass


def output(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True).stdout


@functools.cache
def subcommands():
    text = output(BIN / "qwenctl", "--help").split("Subcommands:")[1]
    return tuple(re.findall(r"^  ([\w-]+) ", text, re.M))


@functools.cache
def options_of(program, subcommand=""):
    """Names of options with their dashes, of `program` (qwenctl: and `subcommand`) or of a script of ours."""
    if program in SERVERS or program in ("qwenctl", "qwenserve_bench", "qwenserve_routing"):
        text = output(BIN / program, *([subcommand] if subcommand else []), "--help")
    else:
        text = (ROOT / program).read_text()
    return frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text)) | {"--help", "-h"}


@functools.cache
def all_options():
    """Of all our programs."""
    found = set()
    for program in SERVERS:
        found |= options_of(program)
    for subcommand in ("", *subcommands()):
        found |= options_of("qwenctl", subcommand)
    for script in ("test", "demo", "build", "gpu_check", "gpu_pack", "python_env", "install_packages"):
        found |= options_of(f"tools/{script}")
    return found


def logical_lines(text):
    """Lines with what a backslash continues, without comments and blank ones."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def commands(text):
    """Every simple command of a script, as words. Quoted text that spans lines stays one word."""
    joined = re.sub(r"\\\n\s*", " ", text)
    while found := re.search(r"\$\(([^()]*)\)", joined):  # what is substituted comes as commands of its own
        joined = f"{joined[:found.start()]}SUBSTITUTED{joined[found.end():]}\n{found[1]}\n"
    lexer = shlex.shlex(joined.replace("\n", "\n;"), posix=True, punctuation_chars=";|&()<>")
    lexer.whitespace_split = True
    result, words, skip = [], [], False
    for word in lexer:
        if word and set(word) <= set(";|&()"):
            result.append(words)
            words, skip = [], False
        elif word and set(word) <= set("<>&"):
            skip = True  # the file of a redirection
        elif skip:
            skip = False
        else:
            words.append(word)
    result.append(words)
    return [trimmed for trimmed in map(without_prefix, result) if trimmed]


def without_prefix(words):
    """Without assignments and keywords before the program; nothing of the head of a for."""
    if words and words[0] in ("for", "[[", "["):
        return []
    while words and (re.match(r"\w+=", words[0]) or words[0] in WORDS_BEFORE_A_COMMAND or words[0] in ("done", "fi")):
        words = words[1:]
    return words


def check_options(words, where):
    """BadCommand when a program of ours gets an option that it does not have, or does not exist."""
    program, rest = words[0], words[1:]
    name = program.removeprefix("build/bin/").removeprefix("/usr/bin/")
    if name in SERVERS or name in ("qwenctl", "qwenserve_bench", "qwenserve_routing"):
        subcommand = ""
        if name == "qwenctl" and rest and not rest[0].startswith("-"):
            subcommand = rest[0]
            if subcommand not in subcommands():
                raise BadCommand(f"{where}: qwenctl has no command {subcommand}")
        if name == "qwenserve_bench" and rest:
            subcommand = rest[0]
        known = options_of(name, subcommand)
    elif "/" in program and (ROOT / program).is_file():
        known = options_of(program)
        rest = rest[:rest.index("--")] if "--" in rest else rest
    elif name.endswith("_benchmark"):  # Google Benchmark's options
        return
    elif program.startswith("/tmp/") or "/" not in program and name in FOREIGN:  # made by a command before, or others'
        return
    else:
        raise BadCommand(f"{where}: {program} is no program of ours, nor one of those in tests/docs/programs.py")
    for word in rest:
        option = word.split("=", 1)[0]
        if re.match(r"--?[A-Za-z]", word) and option not in known:
            raise BadCommand(f"{where}: {name} has no option {option}")


def check_paths(words, made, where):
    """BadCommand for a path below a folder of the repository that is neither there nor among `made`."""
    for word in words:
        for path in re.findall(r"(?:^|=)([\w.][\w./-]*)", word):
            path = path.removeprefix("./")
            top = path.split("/")[0]
            if "/" in path and top != "build" and (ROOT / top).is_dir() and not (ROOT / path).exists() and path not in made:
                raise BadCommand(f"{where}: there is no {path}")


def check_script(text, where):
    syntax = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    if syntax.returncode:
        raise BadCommand(f"{where}: {syntax.stderr}")
    functions = re.findall(r"^(\w+)\(\) *{", text, re.M)
    for words in commands(text):
        if words[0] in functions or words[0] in "{}":
            continue
        check_options(words, where)
        check_paths(words, (), where)
