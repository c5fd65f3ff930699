"""A cluster on the demo model for the commands of the pages, and the real helm and kubectl."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "deploy")]

from server_process import DEMO_MODEL, ServerProcess  # noqa: E402

import live_page  # noqa: E402


@pytest.fixture(scope="session")
def live_ports():
    """Of a cluster that harms nobody, by the numbers that the pages have for them."""
    ports = dict(zip(live_page.PORTS, live_page.free_ports(len(live_page.PORTS))))
    started = []
    try:
        for role in ("tokenizer", "generator"):
            flags = ["--kv-cache-memory", "64M"] if role == "generator" else []
            started.append(ServerProcess(role, "--model", DEMO_MODEL, "--served-model-name", "demo", *flags))
        started.append(ServerProcess("gateway", "--tokenizers", started[0].address, "--generators", started[1].address))
        for process in started:
            process.wait_ready()
        for shown, process, name in ((50061, 0, "grpc"), (50071, 1, "grpc"), (50051, 2, "grpc"), (8080, 2, "http"),
                                     (9090, 2, "ops"), (9091, 0, "ops"), (9092, 1, "ops")):
            ports[shown] = int(started[process].addresses[name].rsplit(":", 1)[1])
        yield ports
    finally:
        for process in started:
            process.stop()


@pytest.fixture(scope="session")
def helm():
    done = subprocess.run([ROOT / "tools" / "fetch_helm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def kubectl(helm):
    beside = pathlib.Path(helm).with_name("kubectl")
    found = beside if beside.exists() else shutil.which("kubectl")
    assert found, f"no kubectl beside {helm} nor in the PATH"
    return found
