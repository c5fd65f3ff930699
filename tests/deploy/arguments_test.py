"""The programs themselves accept the arguments of the chart."""

import json
import os
import pathlib
import subprocess

import pytest

from rendered import WORKLOADS, container, flags

BIN = pathlib.Path(os.environ["QWENSERVE_BIN"])


@pytest.mark.parametrize("component", WORKLOADS)
def test_program_accepts_its_arguments(documents, component):
    arguments = [a.replace("$(POD_IP)", "127.0.0.1") for a in container(documents, component)["args"]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QWENSERVE_")}
    done = subprocess.run([BIN / f"qwenserve-{component}", *arguments, "--print-config"], env=environment,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    config, given = json.loads(done.stdout), flags(documents, component)
    assert set(given) <= set(config)
    # Seconds on both sides, so that the grace period is computed in the program's unit.
    for name in ("drain-delay", "drain-timeout"):
        assert float(config[name]) == float(given[name])
    assert config["listen"] == given["listen"].replace("$(POD_IP)", "127.0.0.1")
