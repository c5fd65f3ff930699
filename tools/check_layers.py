#!/usr/bin/env python3
"""Checks that the folders depend on each other only downwards.

    kernels <- engine <- services <- tools        (tests may use all of them)

and the parts of the gateway in the order of its README.

Looked at: the #include lines of kernels/, engine/, services/ and tools/, and the DEPS of every
qs_library in their CMakeLists.txt. Prints one line per violation and exits with 1 when there is any.

Usage: tools/check_layers.py [ROOT]
"""

import pathlib
import re
import sys

LAYERS = ("kernels", "engine", "services", "tools")
# Which folders of the project a layer may use.
ALLOWED = {
    "kernels": {"kernels"},
    "engine": {"kernels", "engine"},
    "proto": {"proto"},
    "services": {"kernels", "engine", "services", "proto"},
    "tools": {"kernels", "engine", "services", "tools", "proto"},
}
# Inside the gateway: which of its parts a part may use. What is not listed may use all of them.
GATEWAY = "services/gateway/"
GATEWAY_PARTS = {
    "metrics": set(),
    "auth": {"metrics"},
    "admission": {"auth", "metrics"},
    "answer": set(),
    "routing": {"admission", "auth", "metrics"},
    "workers": {"answer", "metrics", "routing"},
    "call": {"auth", "admission", "answer", "metrics", "routing"},
}
PROJECT_FOLDERS = set(LAYERS) | {"proto", "tests", "models", "helm", "k8s"}
SOURCE_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}

TRANSPORT = re.compile(
    r"(grpc|grpcpp|grpc\+\+|google/protobuf|google/rpc|prometheus|qwenserve/v\d+)/|.*\.pb\.h$")
CUDA = re.compile(
    r"(cuda|cublas|cub/|thrust/|cutlass/|cute/|nvml|nvtx|nvToolsExt|mma\.h|cooperative_groups)")
NCCL = re.compile(r"nccl")
JSON = re.compile(r"nlohmann/")
# (headers, folders that may include them, why)
EXTERNAL_HEADERS = (
    (TRANSPORT, ("services", "tools"), "protobuf, gRPC and prometheus stay in services and tools"),
    (NCCL, ("kernels/cuda/comm",), "NCCL stays in kernels/cuda/comm"),
    (CUDA, ("kernels/cuda",), "CUDA stays in kernels/cuda"),
    (JSON, ("engine/base",), "JSON enters through engine/base/json_reader.h"),
)
# (CMake targets of others, layers that may link them)
TRANSPORT_TARGETS = re.compile(r"(gRPC|protobuf|prometheus-cpp)::")
TRANSPORT_LAYERS = {"services", "tools", "proto"}

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
LIBRARY = re.compile(r"qs_library\s*\(([^)]*)\)", re.DOTALL)
PLAIN_LIBRARY = re.compile(r"add_library\s*\(\s*(\S+)")
KEYWORDS = {"NAME", "SRCS", "HDRS", "DEPS"}


def is_under(path, folders):
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def gateway_violation(path, header):
    part = path.removeprefix(GATEWAY).split("/", 1)[0]
    used = header.removeprefix(GATEWAY).split("/", 1)[0]
    allowed = GATEWAY_PARTS.get(part)
    if allowed is None or used == part or used in allowed:
        return None
    return f"the gateway's {part} may not use its {used}"


def include_violation(path, quote, header):
    """Why `path` (relative to the root) may not include `header`, or None."""
    layer = path.split("/", 1)[0]
    target = header.split("/", 1)[0]
    if header.startswith("../"):
        return "paths in #include lines start at the repository root"
    if target in PROJECT_FOLDERS and "/" in header:
        if target not in ALLOWED[layer]:
            return f"{layer} may not use {target}"
        if path.startswith(GATEWAY) and header.startswith(GATEWAY):
            return gateway_violation(path, header)
        # Benchmarks measure what is below the backend.
        if is_under(header, ("kernels/cuda",)) and not is_under(path, ("kernels", "tools/bench")):
            return "kernels/cuda is reached through kernels/backend.h"
        return None
    for pattern, folders, reason in EXTERNAL_HEADERS:
        if pattern.match(header) and not is_under(path, folders):
            return reason
    return None


def check_includes(root):
    for layer in LAYERS:
        for source in sorted((root / layer).rglob("*")):
            if source.suffix not in SOURCE_SUFFIXES:
                continue
            path = source.relative_to(root).as_posix()
            for number, line in enumerate(source.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                reason = match and include_violation(path, *match.groups())
                if reason:
                    yield f"{path}:{number}: includes {match.group(2)}: {reason}"


def parse_libraries(text):
    """The name and the dependencies of every qs_library in a CMakeLists.txt."""
    text = re.sub(r"#.*", "", text)
    for match in LIBRARY.finditer(text):
        fields, key = {}, None
        for word in match.group(1).split():
            if word in KEYWORDS:
                key = word
            else:
                fields.setdefault(key, []).append(word)
        yield fields["NAME"][0], fields.get("DEPS", [])


def check_libraries(root):
    libraries = []  # (file, layer, name, dependencies)
    for layer in (*LAYERS, "proto"):
        for file in sorted((root / layer).rglob("CMakeLists.txt")):
            path = file.relative_to(root).as_posix()
            for name, dependencies in parse_libraries(file.read_text()):
                libraries.append((path, layer, name, dependencies))
            for name in PLAIN_LIBRARY.findall(file.read_text()):
                libraries.append((path, layer, name, []))
    layer_of = {name: layer for _, layer, name, _ in libraries}
    for path, layer, name, dependencies in libraries:
        for dependency in dependencies:
            used = layer_of.get(dependency)
            if used and used not in ALLOWED[layer]:
                yield f"{path}: {name} depends on {dependency}: {layer} may not use {used}"
            if TRANSPORT_TARGETS.match(dependency) and layer not in TRANSPORT_LAYERS:
                yield f"{path}: {name} depends on {dependency}: {EXTERNAL_HEADERS[0][2]}"


def check(root):
    return [*check_includes(root), *check_libraries(root)]


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    violations = check(root)
    print("\n".join(violations) if violations else "check_layers: every dependency points down")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
