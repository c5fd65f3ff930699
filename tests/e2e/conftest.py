"""Real clusters on the demo model, and clients for them."""

import contextlib

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import leaks
from proto_api import load_api
from server_process import DEMO_MODEL, ServerProcess
from sim_cluster import SimCluster


@pytest.fixture(scope="session")
def api(tmp_path_factory):
    """Python classes generated from our protos."""
    return load_api(tmp_path_factory.mktemp("proto"))


class Cluster:
    """A gateway, tokenizers and generators on this machine."""

    def __init__(self, tokenizers=1, generators=1, generator_flags=(), gateway_flags=()):
        self.stack, self._started = contextlib.ExitStack(), []
        self.tokenizers = [self._start("tokenizer", "--model", DEMO_MODEL) for _ in range(tokenizers)]
        self.generators = [
            self._start("generator", "--model", DEMO_MODEL, "--kv-cache-memory", "64M", *generator_flags)
            for _ in range(generators)]
        self.gateway = self._start(
            "gateway", "--tokenizers", ",".join(p.address for p in self.tokenizers),
            "--generators", ",".join(p.address for p in self.generators), *gateway_flags)
        for process in [*self.tokenizers, *self.generators, self.gateway]:
            leaks.remember(process.wait_ready())

    def _start(self, role, *flags):
        process = ServerProcess(role, *flags)
        self.stack.callback(process.stop)
        self._started.append(process)
        return process

    def channel(self):
        return grpc.insecure_channel(self.gateway.address)

    def stop(self):
        """Fails if anything is left of a request."""
        with self.stack:
            leaks.wait_clean(self._started)


@pytest.fixture(scope="session")
def shared_cluster():
    """For tests that harm nobody."""
    cluster = Cluster(generator_flags=("--tp", 2))
    yield cluster
    cluster.stop()


@pytest.fixture
def make_cluster():
    """For tests that kill: a cluster of their own."""
    with contextlib.ExitStack() as stack:
        def make(**options):
            cluster = Cluster(**options)
            stack.callback(cluster.stop)
            return cluster
        yield make


@pytest.fixture
def sim_cluster():
    """Makes clusters of simulated generators: `sim_cluster(generators=2, script=[...])`, see
    sim_cluster.py."""
    with contextlib.ExitStack() as stack:
        def make(**options):
            cluster = SimCluster(**options)
            stack.callback(cluster.stop)
            return cluster
        yield make


@pytest.fixture
def stub(shared_cluster, api):
    with shared_cluster.channel() as channel:
        yield api.InferenceStub(channel)


def error_info(error):
    """ErrorInfo and the first violated field of a failed call."""
    info, field = error_details_pb2.ErrorInfo(), ""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            request = error_details_pb2.BadRequest()
            if detail.Unpack(info):
                continue
            if detail.Unpack(request):
                field = request.field_violations[0].field
    return info, field
