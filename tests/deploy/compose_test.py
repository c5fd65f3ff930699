"""docker/compose.yaml by the schema of the Compose specification, against the programs and the images."""

import json
import os
import pathlib
import re
import subprocess

import jsonschema
import pytest
import yaml

from conftest import ROOT
from rendered import COMPONENTS

BIN = pathlib.Path(os.environ["QWENSERVE_BIN"])
FILE = ROOT / "docker" / "compose.yaml"
VERSION = re.search(r"project\(qwenserve VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())[1]


def compose(**variables):
    """The file with its variables filled in as docker compose does, where they have defaults."""
    def value(match):
        return variables.get(match[1]) or match[2]
    return yaml.safe_load(re.sub(r"\$\{(\w+):-([^}]*)\}", value, FILE.read_text()))


def config_of(component):
    """What the program makes of its command."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QWENSERVE_")}
    done = subprocess.run([BIN / f"qwenserve-{component}", *compose()["services"][component]["command"], "--print-config"],
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def port(address):
    return int(address.rsplit(":", 1)[1])


def seconds(text):
    return sum(int(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"(\d+)([smh])", text))


def test_it_follows_the_specification():
    schema = json.loads((ROOT / "third_party/compose_spec/compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({"services": {"gateway": {"imagee": "x"}}})
    assert set(compose()["services"]) == set(COMPONENTS)
    assert "$" not in json.dumps(compose())


def test_images_are_targets_of_the_dockerfile():
    targets = set(re.findall(r"^FROM scratch AS (\S+)", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    for service in compose()["services"].values():
        name, tag = service["image"].split(":")
        assert name.removeprefix("qwenserve-") in targets and tag == VERSION
    image = compose(REGISTRY="registry.example/", TAG="1")["services"]["gateway"]["image"]
    assert image == "registry.example/qwenserve-gateway:1"


def test_the_gateway_finds_its_workers():
    gateway = config_of("gateway")
    for component in ("tokenizer", "generator"):
        config = config_of(component)
        assert gateway[f"{component}s"] == [f"{component}:{port(config['listen'])}"]
        # Reached from another container, so not on loopback alone.
        assert config["listen"].startswith("0.0.0.0:")
        assert set(compose()["services"]["gateway"]["networks"]) & set(compose()["services"][component]["networks"])
    assert config_of("tokenizer")["served-model-name"] == config_of("generator")["served-model-name"] == "demo"


def test_published_ports_are_of_this_machine_only():
    services, config = compose()["services"], config_of("gateway")
    assert sorted(services["gateway"]["ports"]) == sorted(
        f"127.0.0.1:{number}:{number}" for number in (port(config["listen"]), port(config["http-listen"])))
    for component in ("tokenizer", "generator"):
        assert "ports" not in services[component]
        assert all(compose()["networks"][name].get("internal") for name in services[component]["networks"])


@pytest.mark.parametrize("component", COMPONENTS)
def test_operators_look_in_from_the_container(component):
    assert config_of(component)["admin-listen"] == "127.0.0.1:50091"


@pytest.mark.parametrize("component", COMPONENTS)
def test_service_is_confined_checked_and_drained(component):
    service, config = compose()["services"][component], config_of(component)
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] == "65532:65532"
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert seconds(service["stop_grace_period"]) == config["drain-delay"] + config["drain-timeout"] + 15
    assert service["ulimits"]["nofile"] > 2 * config["max-connections"]
    test = service["healthcheck"]["test"]
    assert test[:3] == ["CMD", "/usr/bin/qwenctl", "status"]
    assert f"--address=127.0.0.1:{port(config['listen'])}" in test
    # Against nobody's server: the arguments are right, and what says so is status 3.
    address = "--address=127.0.0.1:1"
    done = subprocess.run([BIN / "qwenctl", "status", address, *[a for a in test[3:] if "--address" not in a]],
                          capture_output=True)
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize("component", ["tokenizer", "generator"])
def test_workers_read_the_model_that_is_mounted(component):
    source, target, mode = compose()["services"][component]["volumes"][0].split(":")
    assert (FILE.parent / source / "config.json").exists()
    assert config_of(component)["model"] == target and mode == "ro"
    own = compose(MODEL="/models/own", MODEL_NAME="own")["services"][component]
    assert own["volumes"] == ["/models/own:/model:ro"] and "--served-model-name=own" in own["command"]
