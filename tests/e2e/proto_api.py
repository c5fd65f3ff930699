"""Python classes generated from our protos."""

import importlib
import pathlib
import sys

from grpc_tools import protoc

from server_process import ROOT


def load_api(out):
    """All messages and stubs of the public API as attributes of one object; `out`: an empty folder."""
    names = ["inference"]
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{ROOT / 'third_party' / 'googleapis'}",
                 f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}",
                 f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main(arguments + [f"qwenserve/v1/{name}.proto" for name in names]) == 0
    sys.path.insert(0, str(out))
    merged = {}
    for name in names:
        for suffix in ("_pb2", "_pb2_grpc"):
            module = importlib.import_module(f"qwenserve.v1.{name}{suffix}")
            merged.update({key: value for key, value in vars(module).items() if key[0].isupper()})
    return type("Api", (), {key: staticmethod(value) for key, value in merged.items()})
