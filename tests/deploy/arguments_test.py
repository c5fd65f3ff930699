"""The programs themselves accept the arguments of the chart, and the chart knows all of theirs."""

import json
import os
import pathlib
import re
import subprocess

import pytest

from conftest import ALL_APIS, CHART, OWN_MODEL
from rendered import COMPONENTS, pod, pods

BIN = pathlib.Path(os.environ["QWENSERVE_BIN"])
VARIABLES = {"$(POD_IP)": "127.0.0.1", "$(LWS_LEADER_ADDRESS)": "leader.group.inference", "$(LWS_WORKER_INDEX)": "1"}
# Set by the chart in some release or other, so not among the "flags" of its values.
COMMON = {"listen", "ops-listen", "admin-listen", "log-level", "log-format", "drain-delay", "drain-timeout",
          "tls-cert", "tls-key", "tls-client-ca", "tls-client-names", "admin-client-names", "otlp-endpoint",
          "otlp-sample-ratio", "otlp-tls-ca", "otlp-tls-cert", "otlp-tls-key", "otlp-tls-names"}
BY_THE_CHART = {
    "gateway": COMMON | {"tokenizers", "generators", "max-request-time", "http-listen", "api-keys",
                         "cache-salt-secret-file", "worker-tls-ca", "worker-tls-cert", "worker-tls-key",
                         "worker-tls-names"},
    "tokenizer": COMMON | {"model", "served-model-name", "chat-template", "tool-format"},
    "generator": COMMON | {"model", "served-model-name", "device", "tp", "tp-mode", "num-nodes", "node-rank", "leader"},
}
# Not for pods: a file of flags; a script, which would be a file too.
LEFT_OUT = {"gateway": {"config"}, "tokenizer": {"config"}, "generator": {"config", "sim-script"}}


def run(component, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QWENSERVE_")}
    return subprocess.run([BIN / f"qwenserve-{component}", *arguments], env=environment, capture_output=True,
                          text=True, timeout=60)


def config_of(this):
    arguments = list(this.container["args"])
    for variable, value in VARIABLES.items():
        arguments = [a.replace(variable, value) for a in arguments]
    assert not any("$(" in a for a in arguments)
    done = run(this.component, *arguments, "--print-config")
    assert done.returncode == 0, f"{this.name}: {done.stderr}"
    return json.loads(done.stdout)


def test_programs_accept_their_arguments(documents):
    for this in pods(documents):
        config, given = config_of(this), this.flags
        assert set(given) <= set(config)
        # Seconds on both sides, so that the grace period is computed in the program's unit.
        for name in ("drain-delay", "drain-timeout"):
            assert float(config[name]) == float(given[name])
        assert config["listen"] == given["listen"].replace("$(POD_IP)", "127.0.0.1")


def schema_flags(component):
    schema = json.loads((CHART / "values.schema.json").read_text())
    return schema["definitions"][component]["properties"]["flags"]["properties"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_flag_can_be_set(component):
    of_program = set(json.loads(run(component, *(["--model", "m"] if component != "gateway" else []),
                                    "--print-config").stdout)) | {"config"}
    listed = set(schema_flags(component))
    assert not listed & BY_THE_CHART[component]
    known = listed | BY_THE_CHART[component] | LEFT_OUT[component]
    assert of_program - known == set(), f"new flags: list them in values.schema.json, {component}.flags"
    assert known - of_program == set(), "flags that are gone"


def example(flag):
    """A value that the schema takes, other than the default if that is easy."""
    for choice in flag.get("anyOf", []):
        if choice.get("type") == "integer":
            return 1073741824
    if "enum" in flag:
        return flag["enum"][0]
    if "$ref" in flag:
        return {"names": ["10.0.0.0/8", "10.1.0.0/16"], "bytes": "2147483648"}[flag["$ref"].removeprefix("#/definitions/")]
    if flag["type"] == "boolean":
        return True
    if flag["type"] == "string":
        return {"^[0-9a-f.:\\[\\]]+:[0-9]+$": "10.0.0.10:53", "^/": "/opt/nccl", None: "x"}[flag.get("pattern")]
    if flag["type"] == "integer":
        return max(2, flag.get("minimum", 0))
    return 0.5


@pytest.mark.parametrize("component", COMPONENTS)
def test_all_flags_at_once_reach_the_program(helm, component):
    given = {name: example(flag) for name, flag in schema_flags(component).items()}
    this = pod(helm.render(values={f"{component}.flags": given}), component)
    config = config_of(this)
    for name, value in given.items():
        text = ",".join(value) if isinstance(value, list) else value
        seen = ",".join(config[name]) if isinstance(config[name], list) else config[name]
        assert str(seen) == str(text), name


def test_everything_that_the_chart_sets_is_a_flag(helm):
    """In a release that uses all of it."""
    internal = {"enabled": True, "gatewaySecret": "g", "workerSecret": "w", "gatewayNames": ["g"], "workerNames": ["w"],
                "adminNames": ["o"]}
    edge = {"enabled": True, "secretName": "e", "clientCa": {"secretName": "c"}, "clientNames": ["n"], "adminNames": ["o"]}
    collector = {"secretName": "t", "clientCertificate": True, "collectorNames": ["c"]}
    tracing = {"enabled": True, "endpoint": "collector.monitoring:4317", "tls": collector}
    documents = helm.render(values={
        "models.own": OWN_MODEL, "tracing": tracing, "tls": {"internal": internal, "edge": edge},
        "gateway.apiKeys.secretName": "k",
        "gateway.cacheSalt.secretName": "s", "generator.tensorParallel": 2, "generator.nodes": 2}, apis=ALL_APIS)
    for this in pods(documents):
        assert set(this.flags) == BY_THE_CHART[this.component]
        config_of(this)
