"""The committed demo model answers through real processes: gateway, tokenizer, generator of two ranks."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools" / "demo_model"))

import evaluate  # noqa: E402

BIN = pathlib.Path(os.environ["QWENSERVE_BIN"])


@pytest.fixture(scope="module")
def model():
    serve = subprocess.Popen(
        [BIN / "qwenctl", "serve", "--tp", "2", "--port", "0", "--ops-port", "0", "--log-level", "warn"],
        stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        address = None
        for line in serve.stdout:
            if line.startswith("gateway grpc "):
                address = line.split()[2]
                break
        assert address, f"the cluster did not start, exit code {serve.wait(10)}"
        yield evaluate.GatewayModel(str(BIN / "qwenctl"), address)
    finally:
        serve.send_signal(signal.SIGTERM)
        try:
            serve.wait(30)
        except subprocess.TimeoutExpired:
            serve.kill()
            raise


@pytest.mark.parametrize("name", evaluate.BARS)
def test_rate(model, name):
    questions = evaluate.read_questions(name)
    assert len(questions) >= 40
    assert evaluate.rate(model, name, verbose=False) >= evaluate.BARS[name]


def test_files_fit_the_budget():
    files = [f for f in (ROOT / "models" / "demo").iterdir() if f.is_file()]
    assert {f.name for f in files} >= {"config.json", "generation_config.json", "model.safetensors",
                                       "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert sum(f.stat().st_size for f in files) <= 12_000_000
