#!/usr/bin/env python3
"""Kills processes and cuts links under hundreds of streams, at moments drawn from a seed, and checks what
each client received against the undisturbed answer.

    tests/fault/kill_points.py [--kill-points 200] [--streams 200] [--seed 1] [--real] [--output FILE]

Four generators, two tokenizers, two gateways, each behind a link of its own (fault_proxy.py), and a
process with the clients, every third of which asks over HTTP. In each round all streams begin within half a second, one fault, or two of
different roles, come at random moments in the middle of them, and what was lost comes back. At the end
of a round all logs must be right (history.py), and nothing may be left of any request (world.py).
Prints JSON: faults, streams, tokens, complaints, the gaps that readers noticed, and how late the machine ran a process that only sleeps.
A log that is not right is kept, and named in the complaints. Exit status 1 if there is one, or if a gap is too long, be it the machine's fault.
"""

import argparse
import base64
import collections
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
os.environ["PYTHONPATH"] = str(ROOT / "tests" / "e2e")

import grpc  # noqa: E402

import history  # noqa: E402
from lateness import Lateness  # noqa: E402
from proto_api import load_api  # noqa: E402
from streams import Streams  # noqa: E402
from world import Strike, World  # noqa: E402

STEP_MS = 50
GENERATORS, TOKENIZERS, GATEWAYS = 4, 2, 2
# Half of the load is at three replicas when one of four is lost, and they may then be 60 % full.
FULLNESS = 0.58
BEGIN_WITHIN = 0.5
# One of so many clients speaks HTTP.
EVERY_HTTP = 3
# Seconds without a message after which a client leaves its gateway.
STALL = 8.0

SCRIPT = json.dumps([
    {"when": "halt", "answer": "and " * 8 + "HALT no more", "split": "bytes"},
    {"when": "weather", "answer": '<tool_call>\n{"name": "weather", "arguments": {"city": "' + "Ulm " * 20 + '"}}\n</tool_call>'},
    {"when": "ponder", "answer": "<think>\n" + "hm " * 20 + "\n</think>\n\nyes it is"},
    {"when": "faces", "answer": "\U0001F600\U0001F680\u00e9 " * 4, "split": "bytes"}])

# How often each fault is drawn.
WEIGHTS = {
    "generator": {"kill": 6, "stop": 4, "drain": 3, "hole": 3, "hole_reset": 2, "reset": 2, "delay": 1, "fragments": 1},
    "tokenizer": {"kill": 2, "stop": 2, "drain": 1, "hole": 1, "hole_reset": 1, "reset": 1, "delay": 1, "fragments": 1},
    "gateway": {"kill": 3, "stop": 1, "drain": 2, "hole": 1, "hole_reset": 1, "reset": 2, "delay": 1, "fragments": 1},
}
# p99, in seconds, of the gaps that the loss of a generator may make.
BARS = {"kill": 1.0, "stop": 4.0, "hole": 4.0, "hole_reset": 4.0}
# A machine that runs processes so late at p99 proves nothing by a gap that is too long.
LATE = 0.02
# Faults of a gateway after which its clients may have to leave it.
LEAVING = ("kill", "stop", "drain", "hole", "hole_reset", "reset")


def make_requests(api, count, lengths, real, draw):
    """[(method, request)]: one kind after the other."""
    def options(**more):
        sampling = dict(temperature=1.0, seed=draw.getrandbits(62))
        sampling.update(more.pop("sampling", {}))
        return api.GenerationOptions(max_tokens=draw.randint(*lengths), sampling=api.SamplingParams(
            **{k: v for k, v in sampling.items() if v is not None}), **{"ignore_eos": True, **more})

    def complete(text, **more):
        return "StreamComplete", api.CompleteRequest(text=text, options=options(**more))

    def chat(text, tools=(), **more):
        more = {"max_tokens": 400, "ignore_eos": False, **more}
        limit = more.pop("max_tokens")
        request = api.ChatRequest(options=options(**more), input=api.ChatInput(
            tools=tools, messages=[api.ChatMessage(role=api.ROLE_USER, content=text)]))
        request.options.max_tokens = limit
        return "StreamChat", request

    def words():
        return " ".join(draw.choice(("the", "model", "of", "a", "token", "and", "to", "is")) for _ in range(12))
    tool = api.Tool(name="weather", parameters_json="{}")
    kinds = [
        lambda: complete(words(), sampling={"temperature": 0.0, "seed": None}),
        lambda: complete(words()),
        lambda: complete(words(), sampling=dict(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.4,
                                                top_k=50, top_p=0.9)),
        lambda: complete(words(), n=2),
        lambda: complete(words(), top_logprobs=3),
        lambda: complete(words(), sampling={"seed": None}),
    ]
    if real:
        kinds.append(lambda: complete(words(), stop=["the"]))
    else:
        # Prompts whose prefill takes a tenth of a second.
        kinds += [lambda: complete(words() * 160),
                  lambda: chat("halt", stop=["HALT"]), lambda: chat("weather", tools=[tool]),
                  lambda: chat("ponder"), lambda: chat("faces", top_logprobs=1)]
    return [kinds[number % len(kinds)]() for number in range(count)]


def make_schedule(count, draw):
    """[(role, fault)], as often as WEIGHTS say."""
    each = [(role, fault) for role, faults in WEIGHTS.items() for fault, weight in faults.items() for _ in range(weight)]
    schedule = []
    while len(schedule) < count:
        draw.shuffle(each)
        schedule += each
    return schedule[:count]


def gaps_too_long(gaps, late):
    """Complaints. That the machine is to blame makes a run void, which is no better than a miss."""
    blame = f"void, run it on a quiet machine: a process that wanted to run did so {late['p99_s']} s late at p99"
    return [f"{fault}: p99 {gaps[f'generator {fault}']['p99_s']} s, {bar} s are allowed; " +
            (blame if late["p99_s"] > LATE else "missed")
            for fault, bar in BARS.items() if f"generator {fault}" in gaps and gaps[f"generator {fault}"]["p99_s"] > bar]


class Run:
    """`lengths`: tokens of an answer, from and to. `double`: share of the rounds in which a process of
    another role is struck too, where the schedule has one next. `stall`: as in streams.py."""

    def __init__(self, streams=200, seed=1, real=False, lengths=(20, 60), double=0.35, stall=STALL,
                 step_ms=STEP_MS):
        self.draw = random.Random(seed)
        self.seed, self.real, self.double, self.stall, self.step_ms = seed, real, double, stall, step_ms
        self._folder = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._folder.name)
        self.api = load_api(self.folder)
        self.requests = make_requests(self.api, streams, lengths, real, self.draw)
        for number, (_, request) in enumerate(self.requests):
            # Half of those over HTTP tell each token, the others are text as most clients see it.
            if self.protocol(number) == "http" and number % 2 == 0 and not request.options.HasField("top_logprobs"):
                request.options.top_logprobs = 1
        self.sequences = sum(max(1, request.options.n) for _, request in self.requests)
        # A real engine is done soon: of two, each surely has something to lose.
        self.generators = 2 if real else GENERATORS
        self.max_running = int(self.sequences / (self.generators - 1) / FULLNESS) + 1
        self.duration = None
        self.world = World(self.generators, TOKENIZERS, GATEWAYS, real, SCRIPT, step_ms, self.max_running)
        self.streams, self.other, self.lateness = Streams(), Streams(), Lateness()
        self.rounds, self.complaints = -1, []  # the first one warms up
        self.faults = collections.Counter()
        self.sums, self.gaps, self.busy = collections.Counter(), collections.defaultdict(list), []

    def close(self):
        self.streams.close()
        self.other.close()
        self.lateness.stop()
        self.world.stop()
        self._folder.cleanup()

    def protocol(self, number):
        """Every kind of request comes over both, their numbers having no divisor in common."""
        return "http" if number % EVERY_HTTP == 2 else "grpc"

    def jobs(self, salt, number=None, seeds=None):
        """Of all requests, or of those in `seeds` with that seed."""
        jobs = []
        for number, (method, request) in enumerate(self.requests):
            if seeds is not None and number not in seeds:
                continue
            copy = type(request).FromString(request.SerializeToString())
            copy.options.cache_salt = salt  # or later rounds would have no prefill
            if seeds is not None and seeds[number] is not None:
                copy.options.sampling.seed = seeds[number]
            jobs.append({"key": number, "method": method, "protocol": self.protocol(number), "gateway": number % GATEWAYS,
                         "request": base64.b64encode(copy.SerializeToString()).decode(),
                         "at": 0 if seeds is not None else self.draw.uniform(0, BEGIN_WITHIN)})
        return jobs

    def undisturbed(self, seeds):
        """Answers of the cluster that is left alone."""
        log = self.folder / "undisturbed.jsonl"
        jobs = self.jobs("", seeds=seeds)
        for job in jobs:
            job["gateway"] = 0
        self.other.start([self.world.reference.addresses], log, jobs, 60)
        self.other.wait()
        found = history.by_attempt(history.read_log(log))
        return {key: history.answer_of(attempts[0]) for key, attempts in found.items()}

    def unseeded(self):
        return [number for number, (_, request) in enumerate(self.requests)
                if not request.options.sampling.HasField("seed") and request.options.sampling.temperature > 0]

    def warm_up(self):
        """Nothing happens: the answers must be the undisturbed ones, and what is open then is the measure."""
        self.expected = self.undisturbed({number: None for number in range(len(self.requests))})
        # What a round lasts when nothing happens, beginnings left aside.
        times = [event["t"] for event in self.round([])]
        self.duration = max(0, max(times) - min(times) - BEGIN_WITHIN)
        self.world.wait_clean()
        self.world.remember_descriptors()

    def round(self, faults):
        """`faults`: (role or slot, fault). Returns the clients' log."""
        log = self.folder / "round.jsonl"
        before = self.world.failovers()
        self.streams.start([slot.addresses for slot in self.world.gateways], log, self.jobs(f"round{self.rounds}"),
                           self.stall)
        strikes = []
        for role, fault in faults:
            slot = role
            if isinstance(role, str):
                slot = self.draw.choice([slot for slot in self.world.slots if slot.role == role])
            hold = {"kill": 2.0, "drain": 2.0}.get(fault, 6.0) * self.draw.random()
            if slot.role == "gateway" and fault in ("stop", "hole", "hole_reset") and self.draw.random() < 0.5:
                hold = 60.0  # until its clients have given it up
            # One in three while streams begin, or there would be few without a token.
            latest = BEGIN_WITHIN + (0 if self.draw.random() < 1 / 3 else 0.6 * self.duration)
            strikes.append(Strike(slot, fault, self.draw.uniform(0.05, latest), hold))
        self.busy.append(self.streams.wait())
        for strike in strikes:
            strike.finish()
        events = history.read_log(log)
        self.judge(events, strikes, log)
        self.world.wait_whole()
        self.world.wait_clean()
        # A restarted gateway counts anew.
        roles = [strike.slot.role for strike in strikes]
        count = 0 if "gateway" in roles else int(self.world.failovers() - before)
        self.sums["failovers"] += count
        by_http = {event["key"] for event in events if event["event"] == "sent" and event["protocol"] == "http"}
        self.sums["streams_over_http"] += len(by_http)
        self.sums["retries_over_http"] += sum(
            event["event"] == "sent" and event["attempt"] > 0 and event["key"] in by_http for event in events)
        if roles == ["generator"]:
            self.gaps["generator " + faults[0][1]] += history.longest_gaps(events, strikes[0].when, count)
        if roles == ["tokenizer"]:
            # Which worker had which stream is not known; half of them had this one.
            self.gaps["tokenizer " + faults[0][1]] += history.longest_gaps(
                events, strikes[0].when, self.sequences // TOKENIZERS)
        for strike in strikes:
            self.faults[f"{strike.slot.role} {strike.fault}"] += 1
            self.stages(events, strike.when)
        self.rounds += 1
        return events

    def judge(self, events, strikes, log):
        expected = dict(self.expected)
        # A request without a seed has the one that was told last.
        seeds = {event["key"]: event["seed"] for event in events if event["event"] == "started"}
        expected.update(self.undisturbed({number: seeds[number] for number in self.unseeded() if number in seeds}))
        lost = {self.world.gateways.index(strike.slot) for strike in strikes
                if strike.slot.role == "gateway" and strike.fault in LEAVING}
        verdict = history.check(events, expected, lost)
        for name in ("wrong", "missing", "doubled", "text", "endings", "streams", "tokens", "retries"):
            self.sums[name] += getattr(verdict, name)
        if verdict.complaints:
            kept = pathlib.Path(tempfile.gettempdir()) / f"kill_points-{os.getpid()}-{self.rounds}.jsonl"
            shutil.copy(log, kept)
            told = [f"{s.fault} of {s.slot.role} {s.slot.process.address} at {s.when:.3f}" for s in strikes]
            self.complaints.append({"round": self.rounds, "log": str(kept), "faults": told,
                                    "past_the_links": self.ask_past_the_links(), "complaints": verdict.complaints[:20]})
            print(json.dumps(self.complaints[-1]), file=sys.stderr, flush=True)

    def ask_past_the_links(self):
        """What each gateway says without a link in between: whose fault a silence is."""
        said = []
        for slot in self.world.gateways:
            with grpc.insecure_channel(slot.process.address) as channel:
                try:
                    self.api.InferenceStub(channel).Complete(self.api.CompleteRequest(
                        text="the", options=self.api.GenerationOptions(max_tokens=2)), timeout=10)
                    said.append("OK")
                except grpc.RpcError as error:
                    said.append(error.code().name)
        return said

    def stages(self, events, when):
        """Where streams were when it happened."""
        first, ended = {}, set()
        for event in events:
            if event["t"] > when:
                break
            key = event["key"]
            if event["event"] == "sent":
                first.setdefault(key, False)
            elif event["event"] == "delta" and (event["ids"] or "first" not in event):
                first[key] = True
            elif event["event"] == "status" and event["code"] == "OK":
                ended.add(key)
        self.sums["hit before their first token"] += sum(1 for key, has in first.items() if not has)
        self.sums["hit in mid-stream"] += sum(1 for key, has in first.items() if has and key not in ended)

    def run(self, schedule):
        """`schedule`: [(role, fault)], in this order."""
        self.warm_up()
        schedule = schedule[::-1]
        while schedule:
            faults = [schedule.pop()]
            if schedule and "generator" in (faults[0][0], schedule[-1][0]) and faults[0][0] != schedule[-1][0] \
                    and self.draw.random() < self.double:
                faults.append(schedule.pop())
            begin = time.monotonic()
            self.round(faults)
            print(f"round {self.rounds}: {faults} {time.monotonic() - begin:.1f} s, "
                  f"{self.sums['tokens']} tokens, {len(self.complaints)} complaints", file=sys.stderr, flush=True)
        return self.result()

    def result(self):
        def figures(gaps):
            gaps = sorted(gaps)
            at = lambda part: round(gaps[min(len(gaps) - 1, int(part * len(gaps)))], 3)
            return {"gaps": len(gaps), "p50_s": at(0.5), "p90_s": at(0.9), "p99_s": at(0.99), "max_s": round(gaps[-1], 3)}
        late = self.lateness.stop()
        gaps = {fault: figures(gaps) for fault, gaps in sorted(self.gaps.items()) if gaps}
        return {
            "seed": self.seed, "streams_at_a_time": len(self.requests), "engine": "demo model" if self.real else "sim", "kill_points": sum(self.faults.values()),
            "rounds": self.rounds, "faults": dict(sorted(self.faults.items())), **self.sums,
            "sequences_at_a_time": self.sequences, "step_ms": self.step_ms,
            "prefill_tokens_per_second": 20000, "survivors_loaded": round(
                self.sequences / (self.generators - 1) / self.max_running, 2),
            "failover_gap": gaps, "gaps_too_long": gaps_too_long(gaps, late), "machine_late": late,
            "clients_cpu": round(max(self.busy), 2), "load_average": round(os.getloadavg()[0], 1),
            "rounds_with_complaints": self.complaints}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill-points", type=int, default=200)
    parser.add_argument("--streams", type=int, default=200, help="at the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="the demo model instead of simulated engines")
    parser.add_argument("--output", type=pathlib.Path, help="a file for the JSON besides")
    options = parser.parse_args()
    run = Run(options.streams, options.seed, options.real)
    try:
        result = run.run(make_schedule(options.kill_points, run.draw))
    finally:
        run.close()
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    sys.exit(1 if result["rounds_with_complaints"] or result["gaps_too_long"] else 0)


if __name__ == "__main__":
    main()
