"""The wall clock is put forward or back by an hour while answers are under way: nobody notices."""

import http.client
import json
import mmap
import os
import signal
import struct
import subprocess
import threading
import time

import grpc
import pytest

from server_process import BIN, SANITIZED

pytestmark = pytest.mark.skipif(SANITIZED, reason="a sanitizer must be loaded before everything else")
PATIENCE = 60
HOUR = 3600
TOKENS = 80


class WallClock:
    """That of all processes with this environment."""

    def __init__(self, folder):
        path = folder / "clock"
        path.write_bytes(bytes(8))
        with open(path, "r+b") as file:
            self._offset = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(BIN / "wall_clock.so"), "QWENSERVE_TEST_CLOCK": str(path)}

    def put(self, seconds):
        self._offset[:] = struct.pack("q", int(seconds * 1e9))


def request(api, seed):
    return api.CompleteRequest(text="the", options=api.GenerationOptions(
        max_tokens=TOKENS, ignore_eos=True, sampling=api.SamplingParams(temperature=1.0, seed=seed)))


def ask_http(gateway, seconds, max_tokens):
    """The events of a stream that the gateway should end after `seconds`."""
    connection = http.client.HTTPConnection(gateway.addresses["http"], timeout=PATIENCE)
    connection.request("POST", "/v1/completions", json.dumps({
        "prompt": "the", "max_tokens": max_tokens, "stream": True, "seed": 1}),
        {"Content-Type": "application/json", "X-Request-Timeout": str(seconds)})
    text = connection.getresponse().read().decode()
    connection.close()
    return [json.loads(line[len("data: "):]) for line in text.split("\n\n") if line.startswith("data: {")]


class Reader(threading.Thread):
    def __init__(self, stub, request):
        super().__init__(daemon=True)
        self.ids, self.code, self.begun = [], None, threading.Event()
        self._stream = stub.StreamComplete(request, timeout=PATIENCE)
        self.start()

    def run(self):
        try:
            for event in self._stream:
                self.ids += event.delta.token_ids
                if len(self.ids) >= 5:
                    self.begun.set()
            self.code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.code = error.code()
        self.begun.set()

    def answer(self):
        self.join(PATIENCE)
        assert self.code == grpc.StatusCode.OK, self.code
        return self.ids


def test_the_clock_of_a_process_can_be_put(tmp_path):
    """Or the tests below would prove nothing."""
    clock = WallClock(tmp_path)
    for seconds in (0, HOUR, -HOUR):
        clock.put(seconds)
        seen = subprocess.run(["date", "+%s"], env={**os.environ, **clock.environment}, capture_output=True, check=True)
        assert abs(int(seen.stdout) - time.time() - seconds) < HOUR / 2


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_answers_deadlines_and_losses_are_as_ever(api, sim_cluster, tmp_path, jump):
    clock = WallClock(tmp_path)
    cluster = sim_cluster(generators=2, environment=clock.environment,
                          generator_flags=("--sim-step-ms", 20, "--sim-mean-tokens", 0))
    gateway = cluster.gateway
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        whole = [stub.Complete.future(request(api, seed)) for seed in range(4)]
        expected = [list(answer.result(PATIENCE).choices[0].token_ids) for answer in whole]
        readers = [Reader(stub, request(api, seed)) for seed in range(4)]
        assert all(reader.begun.wait(PATIENCE) for reader in readers)
        # A jump may come at a moment at which nobody measures anything: six hours, one after the other.
        for hours in range(1, 7):
            clock.put(hours * jump)
            time.sleep(0.2)
        assert [reader.answer() for reader in readers] == expected
        assert gateway.metric("qwenserve_gateway_failovers_total") == 0
        assert gateway.metric("qwenserve_gateway_workers_lost_total") == 0
        # Long enough for the whole answer, then not; the gateway alone counts the time.
        assert "error" not in ask_http(gateway, 30, 5)[-1]
        assert ask_http(gateway, 1, 100000)[-1]["error"]["code"] == "deadline_exceeded"
        cluster.wait_idle(PATIENCE)
        readers = [Reader(stub, request(api, seed)) for seed in range(4)]
        assert all(reader.begun.wait(PATIENCE) for reader in readers)
        victim = max(cluster.generators, key=lambda p: p.metric("qwenserve_sequences_running"))
        victim.signal(signal.SIGSTOP)
        assert [reader.answer() for reader in readers] == expected
        assert gateway.metric("qwenserve_gateway_failovers_total", cause="silent") > 0
        victim.signal(signal.SIGCONT)
    for process in (gateway, *cluster.generators, *cluster.tokenizers):
        assert process.terminate(PATIENCE) == 0, process.role
