"""Which device a generator takes, and what it says about it."""

import json
import re
import signal
import subprocess

import pytest

from server_process import BIN, DEMO_MODEL

GENERATOR = BIN / "qwenserve-generator"


def start(device):
    return subprocess.Popen(
        [GENERATOR, "--model", DEMO_MODEL, "--device", device, "--listen", "127.0.0.1:0",
         "--ops-listen", "127.0.0.1:0", "--drain-delay", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def why_no_gpu():
    doctor = subprocess.run([BIN / "qwenctl", "doctor", "--output", "json"], capture_output=True,
                            text=True, timeout=60)
    gpus = [f for f in json.loads(doctor.stdout) if re.fullmatch(r"gpu( \d+)?", f["check"])]
    # One that is there and of no use must not pass for none.
    assert gpus and all(f["level"] == "ok" for f in gpus), gpus
    if not gpus[0]["text"].startswith("none: "):
        pytest.skip("this machine has a GPU")
    return gpus[0]["text"].removeprefix("none: ")


def test_cuda_without_a_gpu_names_what_is_missing_and_fails(why_no_gpu):
    generator = start("cuda")
    _, errors = generator.communicate(timeout=60)
    assert generator.returncode != 0
    lines = [line for line in errors.splitlines() if " error " in line]
    assert len(lines) == 1 and f"cannot start: device cuda: {why_no_gpu}" in lines[0]


def test_auto_without_a_gpu_starts_on_the_cpu_and_says_why_once(why_no_gpu):
    generator = start("auto")
    while generator.stdout.readline().strip() != "ready":
        assert generator.poll() is None
    generator.send_signal(signal.SIGTERM)
    _, errors = generator.communicate(timeout=60)
    assert generator.returncode == 0
    assert errors.count(f"device: cpu ({why_no_gpu})") == 1
    assert errors.count(why_no_gpu) == 1


def test_generator_and_qwenctl_list_what_their_gpu_kernels_are_for():
    for program in (GENERATOR, BIN / "qwenctl"):
        lines = subprocess.run([program, "--version"], capture_output=True, text=True,
                               timeout=60).stdout.splitlines()
        assert lines[0].startswith(f"{program.name} 0.") and lines[1].startswith("GPU kernels: ")
