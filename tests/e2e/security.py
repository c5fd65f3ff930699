"""Keys, protos and clients for tests of who may do what."""

import hashlib
import json
import os
import pathlib

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from server_process import ROOT


def key_line(key, tenant, **members):
    return json.dumps({"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": tenant, **members})


def write_keys(path, *lines):
    """Replaces the file of keys in one step."""
    new = pathlib.Path(f"{path}.new")
    new.write_text("\n".join(lines) + "\n")
    os.replace(new, path)
    return path


def bearer(key):
    return (("authorization", f"Bearer {key}"),)


def all_methods(folder):
    """{service: {method: server_streaming}} of every service in our protos."""
    out = pathlib.Path(folder) / "all.binpb"
    protos = sorted((ROOT / "proto" / "qwenserve" / "v1").glob("*.proto"))
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{ROOT / 'third_party' / 'googleapis'}",
                        f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}",
                        f"--descriptor_set_out={out}",
                        *[f"qwenserve/v1/{path.name}" for path in protos]]) == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    return {f"{file.package}.{service.name}": {m.name: (m.client_streaming, m.server_streaming)
                                               for m in service.method}
            for file in files.file for service in file.service}


def call_raw(channel, path, streaming=(False, False), metadata=None, message=b"", timeout=20):
    """The status code of one call with a message in bytes."""
    import grpc
    same = {"request_serializer": lambda m: m, "response_deserializer": lambda m: m}
    try:
        if streaming[0]:
            list(channel.stream_stream(path, **same)(iter([message]), metadata=metadata, timeout=timeout))
        elif streaming[1]:
            list(channel.unary_stream(path, **same)(message, metadata=metadata, timeout=timeout))
        else:
            channel.unary_unary(path, **same)(message, metadata=metadata, timeout=timeout)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK
