"""A small collector of traces: OTLP over gRPC, everything kept in memory.

    with Collector(otlp) as collector:       # otlp: the fixture of tracing_test.py
        ServerProcess(..., "--otlp-endpoint", collector.address)
        spans = collector.wait(lambda spans: len(spans) >= 3)
"""

import concurrent.futures
import importlib
import pathlib
import sys
import threading
import time

import grpc
from grpc_tools import protoc

from server_process import ROOT

NAMES = ("common/v1/common", "resource/v1/resource", "trace/v1/trace", "collector/trace/v1/trace_service")


def load_otlp(out):
    """The classes of OTLP's trace service as attributes of one module; `out`: an empty folder."""
    arguments = ["protoc", f"-I{ROOT / 'third_party' / 'opentelemetry-proto'}", f"--python_out={out}",
                 f"--grpc_python_out={out}"]
    assert protoc.main(arguments + [f"opentelemetry/proto/{name}.proto" for name in NAMES]) == 0
    sys.path.insert(0, str(pathlib.Path(out)))
    service = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    stubs = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    return type("Otlp", (), {**{key: value for key, value in vars(service).items() if key[0].isupper()},
                             "Servicer": stubs.TraceServiceServicer,
                             "add": staticmethod(stubs.add_TraceServiceServicer_to_server)})


def plain(value):
    """What an attribute's value is in Python."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


class Span:
    def __init__(self, wire, resource):
        self.wire, self.resource, self.name = wire, resource, wire.name
        self.trace, self.id, self.parent = wire.trace_id.hex(), wire.span_id.hex(), wire.parent_span_id.hex()
        self.attributes = {item.key: plain(item.value) for item in wire.attributes}
        self.events = [(event.name, {item.key: plain(item.value) for item in event.attributes}) for event in wire.events]
        self.start, self.end = wire.start_time_unix_nano, wire.end_time_unix_nano
        self.service = resource["service.name"]

    def __repr__(self):
        return f"{self.service}:{self.name}({self.id}<-{self.parent} {self.attributes} {self.events})"


class Collector:
    """`answer`: called with each request, may sleep or abort with its context; `address`, `credentials`: of its port."""

    def __init__(self, otlp, answer=None, address="127.0.0.1:0", credentials=None):
        self._otlp, self._answer, self._lock, self._requests = otlp, answer, threading.Lock(), []
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        otlp.add(self._service(), self._server)
        if credentials:
            port = self._server.add_secure_port(address, credentials)
        else:
            port = self._server.add_insecure_port(address)
        assert port
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def _service(self):
        collector = self

        class Service(self._otlp.Servicer):
            def Export(self, request, context):
                reply = collector._answer(request, context) if collector._answer else None
                with collector._lock:
                    collector._requests.append(request)
                return reply or collector._otlp.ExportTraceServiceResponse()

        return Service()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._server.stop(0).wait()

    @property
    def spans(self):
        with self._lock:
            requests = list(self._requests)
        found = []
        for request in requests:
            for part in request.resource_spans:
                resource = {item.key: plain(item.value) for item in part.resource.attributes}
                found += [Span(wire, resource) for scope in part.scope_spans for wire in scope.spans]
        return found

    @property
    def bytes(self):
        """All that has come, as it came."""
        with self._lock:
            return b"".join(request.SerializeToString() for request in self._requests)

    def wait(self, check, patience=60):
        """The spans, once check(spans) holds."""
        deadline = time.monotonic() + patience
        while not check(spans := self.spans):
            assert time.monotonic() < deadline, spans
            time.sleep(0.05)
        return spans
