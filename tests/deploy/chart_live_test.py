"""What the chart tells others to do with the processes, done with real ones on loopback: the command of
`helm test`, and the queries by which generators are scaled."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import ALL_APIS, ROOT
from rendered import find, of_kind

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from security import key_line, write_keys  # noqa: E402
from server_process import DEMO_MODEL, ServerProcess  # noqa: E402

BIN = pathlib.Path(os.environ["QWENSERVE_BIN"])


@pytest.fixture
def cluster(request, tmp_path):
    """A gateway, a tokenizer and a generator of the demo, by name; with keys where a test asks for it."""
    started = {}
    with contextlib.ExitStack() as stack:
        def start(role, *flags):
            started[role] = ServerProcess(role, *flags)
            stack.callback(started[role].kill)
        for role in ("tokenizer", "generator"):
            start(role, "--model", DEMO_MODEL, "--served-model-name", "demo")
        keys = []
        if getattr(request, "param", None) == "keys":
            keys = ["--api-keys", write_keys(tmp_path / "keys", key_line("right", "tenant"))]
        start("gateway", "--tokenizers", started["tokenizer"].address, "--generators", started["generator"].address,
              *keys)
        for process in started.values():
            process.wait_ready()
        yield started


def run_hook(helm, gateway, values=None, **environment):
    [pod] = of_kind(helm.render(values=values), "Pod")
    [container] = pod["spec"]["containers"]
    program, *arguments = container["command"]
    assert program == "/usr/bin/qwenctl"  # where docker/collect_root puts it
    address = "--address=qwenserve-gateway:50051"
    assert address in arguments
    arguments = [f"--address={gateway.address}" if a == address else a for a in arguments]
    environment |= {k: v for k, v in os.environ.items() if not k.startswith("QWENSERVE_")}
    return subprocess.run([BIN / "qwenctl", *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_the_hook_chats(helm, cluster):
    done = run_hook(helm, cluster["gateway"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_hook_fails_without_an_answer(helm, cluster):
    cluster["generator"].kill()
    assert run_hook(helm, cluster["gateway"]).returncode != 0


@pytest.mark.parametrize("cluster", ["keys"], indirect=True)
def test_the_hook_with_keys(helm, cluster):
    values = {"gateway.apiKeys.secretName": "keys", "tests.apiKey.secretName": "mine"}
    done = run_hook(helm, cluster["gateway"], values, QWENSERVE_API_KEY="right")
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_hook(helm, cluster["gateway"], values, QWENSERVE_API_KEY="wrong").returncode != 0
    assert run_hook(helm, cluster["gateway"]).returncode != 0


def test_the_series_of_autoscaling_exist(helm, cluster):
    assert run_hook(helm, cluster["gateway"]).returncode == 0  # a model's series begin with its first request
    documents = helm.render(values={"generator.autoscaling.enabled": True, "prometheusAddress": "http://p"},
                            apis=ALL_APIS)
    scaler = find(documents, "ScaledObject", "qwenserve-generator-demo")
    queries = " ".join(t["metadata"]["query"] for t in scaler["spec"]["triggers"])
    names = re.findall(r"(qwenserve_\w+)\{namespace=\"inference\",model=\"demo\"\}", queries)
    assert len(names) == 3
    for name in names:
        role = "gateway" if "gateway" in name else "generator"
        assert cluster[role].metric(name, model="demo") >= 0
