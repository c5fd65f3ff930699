"""Workers that come and go by DNS and by file, seen by a real gateway with real workers."""

import contextlib
import os
import time

import grpc
import pytest

from dns_server import DnsServer
from server_process import ServerProcess
from sim_cluster import make_sim_model

NAME = "generators.test"


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:
        def run(role, *flags, **options):
            process = ServerProcess(role, *flags, **options)
            stack.callback(process.stop)
            return process
        yield run


@pytest.fixture
def dns():
    server = DnsServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_sim_model(tmp_path_factory.mktemp("models") / "sim")


def wait_for(condition, what, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.05)


def ready(gateway, role="generator"):
    return gateway.metric("qwenserve_gateway_workers_ready", role=role)


def failures(gateway, source):
    return gateway.metric("qwenserve_gateway_discovery_failures_total", source=source)


def answers(api, gateway):
    with grpc.insecure_channel(gateway.address) as channel:
        request = api.CompleteRequest(text="hello", options=api.GenerationOptions(max_tokens=3))
        return api.InferenceStub(channel).Complete(request, timeout=20).usage.completion_tokens > 0


def start_generators(start, model, count):
    """At 127.0.0.2, .3, ... and one port, as behind a name."""
    flags = ("--model", model, "--engine", "sim", "--sim-step-ms", "1")
    for _ in range(20):
        first = start("generator", *flags, listen="127.0.0.2:0")
        port = first.address.rsplit(":", 1)[1]
        try:
            others = [start("generator", *flags, listen=f"127.0.0.{3 + i}:{port}") for i in range(count - 1)]
        except RuntimeError:  # the port is taken there
            first.kill()
            continue
        return port, [p.wait_ready() for p in [first, *others]]
    raise AssertionError("no port is free at all addresses")


def test_names_appear_change_and_fail(api, start, dns, model):
    port, generators = start_generators(start, model, 3)
    tokenizer = start("tokenizer", "--model", model).wait_ready()
    gateway = start("gateway", "--tokenizers", tokenizer.address, "--generators", f"{NAME}:{port}",
                    "--dns-server", dns.address)
    # Not there yet.
    wait_for(lambda: failures(gateway, "dns") >= 2, "the name is asked for again")
    assert ready(gateway) == 0
    # Appears, with one address, then with three.
    dns.answers[NAME] = ["127.0.0.2"]
    gateway.wait_ready()
    wait_for(lambda: ready(gateway) == 1, "one generator")
    dns.answers[NAME] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    wait_for(lambda: ready(gateway) == 3, "three generators")
    assert answers(api, gateway)
    # No way to fail takes anybody away.
    for failure in ("nxdomain", "servfail", "silent", "garbage", "other id", "cut", []):
        before = failures(gateway, "dns")
        dns.answers[NAME] = failure
        wait_for(lambda: failures(gateway, "dns") >= before + 2, f"failures by {failure}")
        assert gateway.metric("qwenserve_gateway_workers_listed", role="generator") == 3, failure
        assert ready(gateway) == 3, failure
        assert answers(api, gateway)
    # Vanishes from a good answer: no new work; the process itself is alone again.
    dns.answers[NAME] = ["127.0.0.4"]
    wait_for(lambda: ready(gateway) == 1, "one generator is left")
    generators[0].kill()
    generators[1].kill()
    assert answers(api, gateway)
    assert gateway.running()


def test_leaving_the_list_ends_no_answer(api, start, dns, model):
    port, _ = start_generators(start, model, 1)
    tokenizer = start("tokenizer", "--model", model).wait_ready()
    dns.answers[NAME] = ["127.0.0.2"]
    dns.answers["other.test"] = ["127.0.0.2"]
    slow = start("generator", "--model", model, "--engine", "sim", "--sim-step-ms", "20",
                 listen="127.0.0.1:0").wait_ready()
    slow_port = slow.address.rsplit(":", 1)[1]
    dns.answers["slow.test"] = ["127.0.0.1"]
    gateway = start("gateway", "--tokenizers", tokenizer.address, "--generators", f"slow.test:{slow_port}",
                    "--dns-server", dns.address).wait_ready()
    with grpc.insecure_channel(gateway.address) as channel:
        options = api.GenerationOptions(max_tokens=200, ignore_eos=True)
        stream = api.InferenceStub(channel).StreamComplete(
            api.CompleteRequest(text="hello", options=options), timeout=60)
        assert next(stream).HasField("started")
        # To where nobody is.
        dns.answers["slow.test"] = ["127.0.0.9"]
        wait_for(lambda: ready(gateway) == 0, "the address left the list")
        *_, last = stream
    assert last.finished.usage.completion_tokens == 200


def test_time_to_live_is_kept_to(start, dns, model):
    dns.ttl = 3600
    dns.answers = {"long.test": ["127.0.0.2"], "short.test": ["127.0.0.3"], "localhost.test": []}
    gateway = start("gateway", "--tokenizers", "127.0.0.1:9", "--generators", "long.test:1",
                    "--dns-server", dns.address)
    wait_for(lambda: gateway.metric("qwenserve_gateway_workers_listed", role="generator") == 1, "listed")
    asked = dns.asked["long.test"]
    dns.ttl = 0
    other = start("gateway", "--tokenizers", "127.0.0.1:9", "--generators", "short.test:1",
                  "--dns-server", dns.address)
    wait_for(lambda: dns.asked.get("short.test", 0) >= 6, "asked every second")
    assert dns.asked["long.test"] == asked
    assert other.running()


def test_a_watched_file(api, start, dns, model, tmp_path):
    port, generators = start_generators(start, model, 2)
    tokenizer = start("tokenizer", "--model", model).wait_ready()
    dns.answers[NAME] = ["127.0.0.3"]

    def publish(version, text):
        """As a ConfigMap is mounted: the name stays, the link behind it is swapped."""
        folder = tmp_path / version
        folder.mkdir()
        (folder / "generators").write_text(text)
        os.symlink(version, tmp_path / "..new")
        os.rename(tmp_path / "..new", tmp_path / "..data")

    publish("..1", f"127.0.0.2:{port}  # the first one\n")
    path = tmp_path / "generators"
    path.symlink_to("..data/generators")
    tokenizers = tmp_path / "tokenizers"
    tokenizers.write_text(tokenizer.address + "\n")
    gateway = start("gateway", "--tokenizers", f"file:{tokenizers}", "--generators", f"file:{path}",
                    "--dns-server", dns.address).wait_ready()
    wait_for(lambda: ready(gateway) == 1, "one generator")
    publish("..2", f"127.0.0.2:{port}\n{NAME}:{port}\n")
    wait_for(lambda: ready(gateway) == 2, "two generators, one by its name")
    for version, bad in (("..3", "garbage\n"), ("..4", "")):
        before = failures(gateway, "file")
        publish(version, bad)
        wait_for(lambda: failures(gateway, "file") > before, "a bad file is told")
        assert ready(gateway) == 2
    publish("..5", f"{NAME}:{port}\n")
    wait_for(lambda: ready(gateway) == 1, "one generator is left")
    generators[0].kill()
    assert answers(api, gateway)
    # The same for tokenizers.
    second = start("tokenizer", "--model", model).wait_ready()
    tokenizers.write_text(f"{tokenizer.address}\n{second.address}\n")
    wait_for(lambda: ready(gateway, "tokenizer") == 2, "two tokenizers")


def test_bad_sources_are_refused_at_the_start(start):
    for flags in (("--generators", "nonsense"), ("--generators", "file:"),
                  ("--generators", "a:1", "--dns-server", "a.name:53")):
        with pytest.raises(RuntimeError):
            start("gateway", "--tokenizers", "127.0.0.1:9", *flags)
