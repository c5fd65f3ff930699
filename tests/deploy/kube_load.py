"""An open-loop load of a Service of gateways: streams begin at times drawn beforehand, over gRPC and HTTP, whatever
becomes of those before them, and every token of each is compared with the undisturbed answer (tests/fault/history.py).

A stream that fails is not sent again: one that does is a failed request.
"""

import base64
import collections
import os
import pathlib
import random
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "fault"), str(ROOT / "tests" / "e2e")]
os.environ["PYTHONPATH"] = str(ROOT / "tests" / "e2e")

import history  # noqa: E402
from proto_api import load_api  # noqa: E402
from server_process import ServerProcess  # noqa: E402
from streams import Streams  # noqa: E402

# Every so many'th client speaks HTTP.
EVERY_HTTP = 3
WORDS = ("the", "model", "of", "a", "token", "and", "to", "is")


class Load:
    """`rate`: streams in a second; `lengths`: tokens of an answer, from and to. With `clients` of them, each
    keeps its one connection of gRPC for all its streams."""

    def __init__(self, folder, rate, seconds, lengths, model="sim", seed=1, clients=4):
        self.folder, self.model = folder, model
        self.api = load_api(folder)
        self.streams = [Streams() for _ in range(clients)]
        draw = random.Random(seed)
        self.jobs, at = [], 0.0
        while (at := at + draw.expovariate(rate)) < seconds:
            number = len(self.jobs)
            http = number % EVERY_HTTP == 2
            options = self.api.GenerationOptions(
                max_tokens=draw.randint(*lengths), ignore_eos=True,
                sampling=self.api.SamplingParams(temperature=1.0, seed=draw.getrandbits(62)))
            if http:
                options.top_logprobs = 1  # by which each token is known
            request = self.api.CompleteRequest(model=model, text=" ".join(draw.choice(WORDS) for _ in range(12)), options=options)
            self.jobs.append({"key": number, "method": "StreamComplete", "protocol": "http" if http else "grpc", "gateway": 0,
                              "request": base64.b64encode(request.SerializeToString()).decode(), "at": at})

    def close(self):
        for streams in self.streams:
            streams.close()

    def start(self, grpc_address, http_address):
        self.logs = []
        for number, streams in enumerate(self.streams):
            self.logs.append(self.folder / f"load{number}.jsonl")
            streams.start([{"grpc": grpc_address, "http": http_address}], self.logs[-1],
                          self.jobs[number::len(self.streams)], 60)
        self.begin = time.monotonic()

    def wait(self):
        """The events of all streams."""
        for streams in self.streams:
            streams.wait()
        return [event for log in self.logs for event in history.read_log(log)]

    def undisturbed(self, model_folder, *generator_flags):
        """Answers of a generator that is left alone, without waits."""
        flags = ("--model", model_folder, "--served-model-name", self.model)
        tokenizer = ServerProcess("tokenizer", *flags)
        generator = ServerProcess("generator", *flags, *generator_flags)
        gateway = ServerProcess("gateway", "--tokenizers", tokenizer.address, "--generators", generator.address)
        try:
            gateway.wait_ready()
            log = self.folder / "undisturbed.jsonl"
            self.streams[0].start([gateway.addresses], log, [{**job, "at": job["at"] / 20} for job in self.jobs], 60)
            self.streams[0].wait()
            found = history.by_attempt(history.read_log(log))
            return {key: history.answer_of(attempts[0]) for key, attempts in found.items()}
        finally:
            for process in (gateway, generator, tokenizer):
                process.stop()


def judge(events, *answers):
    """Complaints, and how many streams had each of the `answers`: every one must be wholly one of them."""
    complaints, counts = [], collections.Counter()
    for key, attempts in history.by_attempt(events).items():
        own = [event for attempt in attempts.values() for event in attempt]
        verdicts = [history.check(own, {key: expected[key]}) for expected in answers]
        if len(attempts) > 1:
            complaints.append(f"{key}: sent {len(attempts)} times: {attempts[0][-1]}")
        good = [number for number, verdict in enumerate(verdicts) if not verdict.faults()]
        if not good:
            complaints += verdicts[0].complaints
        counts[good[0] if good else None] += 1
    return complaints, counts


def longest_waits(events):
    """Seconds to the first token and between two, in the worst streams."""
    first, gap, last = 0.0, 0.0, {}
    for event in sorted(events, key=lambda e: e["t"]):
        if event["event"] == "sent":
            last[event["key"]] = (event["t"], True)
        elif event["event"] == "delta" and event["key"] in last:
            before, waiting = last[event["key"]]
            first, gap = (max(first, event["t"] - before), gap) if waiting else (first, max(gap, event["t"] - before))
            last[event["key"]] = (event["t"], False)
    return {"first_token_s": round(first, 2), "between_tokens_s": round(gap, 2)}
