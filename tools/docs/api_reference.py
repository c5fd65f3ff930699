#!/usr/bin/env python3
"""Writes the reference of the gRPC APIs from the comments in proto/.

    tools/docs/api_reference.py           writes docs/grpc-api.md and docs/grpc-internal.md
    tools/docs/api_reference.py --check   writes nothing, exits with 1 when they would change

Every service, call, message, field, enum and value needs a comment: what has none is listed, and the
exit status is 1. Needs grpcio-tools and protobuf, as tools/python_env installs them.
"""

import pathlib
import re
import sys
import tempfile

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = "qwenserve/v1"
PAGES = {
    "docs/grpc-api.md": (
        "gRPC API",
        "What clients call (`Inference`, on the gateway's gRPC port) and what operators call (`Admin`, "
        "on the gRPC port of\nevery process). How the processes talk to each other is on "
        "[another page](grpc-internal.md).",
        ("inference", "admin")),
    "docs/grpc-internal.md": (
        "gRPC between the processes",
        "For those who change qwenserve or watch its traffic; clients need none of it. The rules behind "
        "the messages are in\n[services](../services/README.md). Clients use [the public API](grpc-api.md).",
        ("tokenizer", "generator", "nodes")),
}
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in Field.Type.items()}
# Numbers of the fields by which SourceCodeInfo names a place.
SYNTAX, MESSAGE, ENUM, SERVICE = 12, 4, 5, 6
FIELD, NESTED, NESTED_ENUM, ONEOF, VALUE, METHOD = 2, 3, 4, 8, 2, 2


def descriptors(proto_root):
    """FileDescriptorProto of every file of the package, by its name without folder and suffix."""
    files = sorted(path.relative_to(proto_root).as_posix() for path in (proto_root / PACKAGE).glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "set"
        well_known = pathlib.Path(protoc.__file__).parent / "_proto"
        includes = (proto_root, ROOT / "third_party" / "googleapis", ROOT / "third_party" / "grpc", well_known)
        status = protoc.main(["protoc", *(f"-I{include}" for include in includes), "--include_source_info",
                              f"--descriptor_set_out={out}", *files])
        if status:
            raise SystemExit(status)
        found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {pathlib.PurePath(file.name).stem: file for file in found}


class Reference:
    """One file's part of a page. `homes`: full name of a type -> address of its heading."""

    def __init__(self, file, homes):
        self.file, self.homes, self.missing = file, homes, []
        self.comments = {tuple(place.path): place for place in file.source_code_info.location}
        self.lines = []

    def comment(self, path, what):
        place = self.comments.get(path)
        text = (place.leading_comments or place.trailing_comments).strip() if place else ""
        if not text:
            self.missing.append(f"{self.file.name}: {what} has no comment")
        return plain("\n".join(line.strip() for line in text.splitlines()))

    def head(self):
        place = self.comments[(SYNTAX,)]
        text = "\n".join([*place.leading_detached_comments, place.leading_comments]).strip()
        if not text:
            self.missing.append(f"{self.file.name}: the file has no comment")
        return plain("\n".join(line.strip() for line in text.splitlines()))

    def add(self, *lines):
        self.lines += lines

    def type_text(self, name):
        short = name.split(".")[-1]
        home = self.homes.get(name)
        return f"[{short}]({home})" if home else f"`{name.lstrip('.')}`"

    def field_text(self, field, maps):
        if field.type_name in maps:
            key, value = maps[field.type_name].field
            return f"map of {self.field_text(key, {})} to {self.field_text(value, {})}"
        text = self.type_text(field.type_name) if field.type_name else SCALARS[field.type]
        if field.label == Field.LABEL_REPEATED:
            return f"repeated {text}"
        return f"optional {text}" if field.proto3_optional else text

    def service(self, service, path):
        self.add(f"## {service.name}", "", self.comment(path, service.name), "",
                 "| call | takes | gives | |", "|---|---|---|---|")
        for i, method in enumerate(service.method):
            text = self.comment((*path, METHOD, i), f"{service.name}.{method.name}")
            sides = [("stream of " if stream else "") + self.type_text(name) for stream, name in (
                (method.client_streaming, method.input_type), (method.server_streaming, method.output_type))]
            self.add(f"| `{method.name}` | {sides[0]} | {sides[1]} | {cell(text)} |")
        self.add("")

    def message(self, message, path, prefix=""):
        name = prefix + message.name
        self.add(f"### {name}", "", self.comment(path, name), "")
        maps = {f".{self.file.package}.{name}.{nested.name}": nested
                for nested in message.nested_type if nested.options.map_entry}
        if message.field:
            self.add("| field | type | |", "|---|---|---|")
        for i, field in enumerate(message.field):
            text = self.comment((*path, FIELD, i), f"{name}.{field.name}")
            if field.HasField("oneof_index") and not field.proto3_optional:
                text = f"One of `{message.oneof_decl[field.oneof_index].name}`. {text}"
            self.add(f"| `{field.name}` = {field.number} | {self.field_text(field, maps)} | {cell(text)} |")
        if message.field:
            self.add("")
        for i, nested in enumerate(message.enum_type):
            self.enum(nested, (*path, NESTED_ENUM, i), f"{name}.")
        for i, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                self.message(nested, (*path, NESTED, i), f"{name}.")

    def enum(self, enum, path, prefix=""):
        name = prefix + enum.name
        self.add(f"### {name}", "", self.comment(path, name), "", "| value | |", "|---|---|")
        for i, value in enumerate(enum.value):
            text = self.comment((*path, VALUE, i), f"{name}.{value.name}")
            self.add(f"| `{value.name}` = {value.number} | {cell(text)} |")
        self.add("")

    def write(self):
        head = self.head()
        for i, service in enumerate(self.file.service):
            self.service(service, (SERVICE, i))
        # What belongs to the whole file stands below the service's name.
        self.lines[2:2] = [f"[{self.file.name}](../proto/{self.file.name})", "", head, ""]
        for i, message in enumerate(self.file.message_type):
            self.message(message, (MESSAGE, i))
        for i, enum in enumerate(self.file.enum_type):
            self.enum(enum, (ENUM, i))
        return self


def cell(text):
    """A comment as one cell of a table; a blank line in it is a new line there."""
    return "<br>".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text)).replace("|", "\\|")


def plain(text):
    """As Markdown that shows it: tags would vanish, but not in what stands between backticks."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def anchor(heading):
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def type_homes(files):
    """Where every type of ours is described: full name -> (page, anchor)."""
    homes = {}
    for page, (_, _, stems) in PAGES.items():
        for stem in stems:
            for name in type_names(files[stem]):
                homes[f".{files[stem].package}.{name}"] = (page, anchor(name))
    return homes


def type_names(file):
    def walk(message, prefix):
        yield prefix + message.name
        yield from (f"{prefix}{message.name}.{enum.name}" for enum in message.enum_type)
        for nested in message.nested_type:
            if not nested.options.map_entry:
                yield from walk(nested, f"{prefix}{message.name}.")
    for message in file.message_type:
        yield from walk(message, "")
    yield from (enum.name for enum in file.enum_type)


def pages(proto_root=ROOT / "proto"):
    """({path: text}, what has no comment)."""
    files = descriptors(proto_root)
    undescribed = files.keys() - {stem for _, _, stems in PAGES.values() for stem in stems}
    missing = [f"{files[stem].name} is on no page (tools/docs/api_reference.py, PAGES)" for stem in sorted(undescribed)]
    homes, result = type_homes(files), {}
    for page, (title, intro, stems) in PAGES.items():
        near = {name: ("" if home == page else pathlib.PurePath(home).name) + f"#{heading}"
                for name, (home, heading) in homes.items()}
        parts = [Reference(files[stem], near).write() for stem in stems]
        missing += [line for part in parts for line in part.missing]
        made = "Made from the comments in [proto](../proto/README.md) by `tools/docs/api_reference.py`; a test compares."
        lines = [f"# {title}", "", intro, "", made, "", *(line for part in parts for line in part.lines)]
        result[page] = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
    return result, missing


def main():
    made, missing = pages()
    if missing:
        print("\n".join(missing), file=sys.stderr)
        return 1
    stale = [path for path, text in made.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    if "--check" in sys.argv[1:]:
        print("\n".join(f"{path}: run tools/docs/api_reference.py" for path in stale) or "api_reference: up to date")
        return 1 if stale else 0
    for path in stale:
        (ROOT / path).write_text(made[path])
    print(f"api_reference: {', '.join(stale) or 'nothing'} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
