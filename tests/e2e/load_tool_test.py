"""qwenctl bench, top and requests against a cluster with a simulated engine."""

import json
import signal
import subprocess
import time

import pytest

from server_process import BIN

QWENCTL = BIN / "qwenctl"


def qwenctl(*arguments):
    return subprocess.run([QWENCTL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def bench(address, *arguments, status=0):
    result = qwenctl("bench", "--address", address, "--output", "json", *arguments)
    assert result.returncode == status, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def cluster(sim_cluster):
    return sim_cluster(generator_flags=("--sim-step-ms", 2, "--sim-mean-tokens", 0))


@pytest.fixture
def slow_cluster(sim_cluster):
    return sim_cluster(generator_flags=("--sim-step-ms", 200, "--sim-mean-tokens", 0, "--max-running", 8))


@pytest.mark.parametrize("chat", [(), ("--chat",)])
@pytest.mark.parametrize("api", ["grpc", "http"])
def test_closed_loop_gets_every_token(cluster, api, chat):
    address = cluster.gateway.addresses["grpc" if api == "grpc" else "http"]
    report = bench(address, "--api", api, *chat, "--concurrency", 8, "--num-requests", 40, "--max-tokens", 25)
    assert (report["requests"], report["succeeded"], report["errors"]) == (40, 40, {})
    assert report["tokens"] == 40 * 25 == cluster.gateway.metric("qwenserve_gateway_completion_tokens_total")
    assert report["prompt_tokens"] == cluster.gateway.metric("qwenserve_gateway_prompt_tokens_total")
    assert 0 < report["ttft_ms"]["p50"] <= report["ttft_ms"]["p99"] <= report["e2e_ms"]["max"]


def test_open_loop_keeps_its_rate_whatever_the_server_does(slow_cluster):
    report = bench(slow_cluster.gateway.address, "--rate", 40, "--num-requests", 40, "--max-tokens", 4)
    assert report["succeeded"] == 40
    # Eight at a time, a second each: were a request sent only after an earlier one's end, none would wait.
    assert report["ttft_ms"]["max"] > 2000


def test_lengths_and_prefixes_reach_the_server(cluster):
    report = bench(cluster.gateway.address, "--num-requests", 20, "--concurrency", 1, "--prompt-tokens", "200:300",
                   "--prefix-tokens", 160, "--prefix-groups", 1, "--max-tokens", 1)
    assert 4000 <= report["prompt_tokens"] <= 6000
    assert cluster.total("qwenserve_cached_prompt_tokens_total") >= 19 * 160


def test_a_missed_limit_is_the_exit_status(cluster):
    flags = ("--num-requests", 5, "--max-tokens", 5)
    kept = bench(cluster.gateway.address, *flags, "--goodput", "e2e:60s")
    assert kept["goodput"]["share"] == 1 and kept["goodput"]["kept"]
    missed = bench(cluster.gateway.address, *flags, "--goodput", "ttft:1us", status=7)
    assert missed["goodput"]["share"] == 0 and not missed["goodput"]["kept"]


def test_errors_are_counted_by_code(sim_cluster):
    cluster = sim_cluster(script=[{"fault": "refuse"}])
    report = bench(cluster.gateway.address, "--num-requests", 6, "--max-tokens", 5, "--goodput", "e2e:60s", status=7)
    assert report["succeeded"] == 0 and report["goodput"]["share"] == 0
    assert sum(report["errors"].values()) == 6
    assert all(name.startswith("RESOURCE_EXHAUSTED") for name in report["errors"])


def test_an_interrupt_ends_the_run_and_reports(slow_cluster):
    process = subprocess.Popen([QWENCTL, "bench", "--address", slow_cluster.gateway.address, "--concurrency", "4",
                                "--duration", "600", "--max-tokens", "1000", "--output", "json"],
                               stdout=subprocess.PIPE, text=True)
    while slow_cluster.total("qwenserve_sequences_running") < 4:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    report = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 130
    assert report["errors"] == {"CANCELLED": 4}
    slow_cluster.wait_idle()


def test_an_interrupt_ends_streams_over_http_between_any_two_reads(sim_cluster):
    """Hundreds of streams, so that some have just read when it comes."""
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 2, "--sim-mean-tokens", 0, "--max-running", 256,
                                           "--sim-kv-blocks", 2000000))
    for _ in range(3):
        process = subprocess.Popen([QWENCTL, "bench", "--api", "http", "--address", cluster.gateway.addresses["http"],
                                    "--concurrency", "200", "--duration", "600", "--max-tokens", "100000", "--output",
                                    "json"], stdout=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + 60
            while cluster.total("qwenserve_sequences_running") < 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            report = json.loads(process.communicate(timeout=60)[0])
        finally:
            process.kill()
        assert report["errors"] == {"CANCELLED": 200}
        cluster.wait_idle(60)


def test_nobody_there_is_unavailable():
    for api in ("grpc", "http"):
        result = qwenctl("bench", "--address", "127.0.0.1:1", "--api", api, "--timeout", 5)
        assert result.returncode == 3, result.stderr


def until_heartbeats_tell(gateway):
    """Of eight sequences, and of two steps since the first of them: their prompts have been computed then."""
    first_step = None
    deadline = time.monotonic() + 60
    while True:
        live = json.loads(qwenctl("top", "--address", gateway.address, "--ops-address", "", "--once", "--interval", 0.1,
                                  "--output", "json").stdout)
        generator, = (worker for worker in live["workers"] if worker["role"] == "generator")
        if generator["engine"]["running"] == 8:
            first_step = generator["engine"]["step"] if first_step is None else first_step
            if generator["engine"]["step"] >= first_step + 2:
                return
        assert time.monotonic() < deadline, live


def test_top_and_requests_show_what_runs(slow_cluster):
    gateway = slow_cluster.gateway
    process = subprocess.Popen([QWENCTL, "bench", "--address", gateway.address, "--concurrency", "10",
                                "--duration", "600", "--max-tokens", "1000", "--prompt-tokens", "77"],
                               stdout=subprocess.DEVNULL)
    try:
        while slow_cluster.total("qwenserve_sequences_running") < 8:
            time.sleep(0.05)
        until_heartbeats_tell(gateway)
        result = qwenctl("top", "--address", gateway.address, "--ops-address", gateway.addresses["ops"], "--once",
                         "--interval", 1.5, "--output", "json")
        assert result.returncode == 0, result.stderr
        live = json.loads(result.stdout)
        assert live["state"] == "SERVING" and live["in_flight"] == 10
        assert live["rates"]["tokens_per_s"] > 0 and live["rates"]["inter_token_ms"]["p50"] > 0
        generator, = (worker for worker in live["workers"] if worker["role"] == "generator")
        assert generator["engine"]["running"] == 8 and generator["engine"]["kv_blocks_used"] > 0
        assert generator["engine"]["steps_per_s"] > 0
        # Eight sequences in steps of 200 ms, whose prompts were computed before.
        assert generator["engine"]["tokens_per_s"] == pytest.approx(8 * generator["engine"]["steps_per_s"])
        assert generator["engine"]["prompt_tokens_per_s"] == 0

        requests = json.loads(qwenctl("requests", "--address", gateway.address, "--output", "json").stdout)
        assert requests["total"] == 10
        assert {one["prompt_tokens"] for one in requests["requests"]} == {77}
        assert qwenctl("top", "--address", gateway.address, "--ops-address", "", "--once", "--interval",
                       0.2).stdout.count("SERVING") == 3
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
