"""A replica that fails, is slow or has just come gets little work or none, and its share when it is well."""

import itertools
import time

import grpc

PATIENCE = 120
EJECTIONS, OUT = "qwenserve_gateway_generator_ejections_total", "qwenserve_gateway_generators_out"
# Replica 0 answers so; the others, which have no script, with words of their own.
SICK = "it was me"


def until(condition, what, meanwhile=lambda: time.sleep(0.02)):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        meanwhile()


class Asker:
    def __init__(self, api, channel):
        self._api, self._stub, self._numbers = api, api.InferenceStub(channel), itertools.count()

    def begin(self, word, max_tokens=12):
        """A request with a prompt of its own, which begins with `word`."""
        return self._stub.Complete.future(self._api.CompleteRequest(
            text=f"{word} {next(self._numbers)}", options=self._api.GenerationOptions(
                max_tokens=max_tokens, sampling=self._api.SamplingParams(temperature=0.0))), timeout=PATIENCE)

    def by_replica_0(self, count=1):
        """How many of so many new requests."""
        calls = [self.begin("quick") for _ in range(count)]
        return sum(call.result().choices[0].text == SICK for call in calls)


def test_the_breaker_opens_and_one_trial_at_a_time_closes_it(api, sim_cluster):
    # Five failures in a row, a trial that fails too, and it is well.
    cluster = sim_cluster(generators=2, generator_flags=("--sim-step-ms", 2),
                          scripts={0: [{"fault": "nan", "times": 6, "answer": SICK}], 1: None})
    gateway, failed, healed = cluster.gateway, [], []
    with cluster.channel() as channel:
        asker = Asker(api, channel)

        def one_more():
            try:
                healed.extend([True] * asker.by_replica_0())
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INTERNAL
                failed.append(error)
        until(lambda: gateway.metric(EJECTIONS, reason="breaker") >= 1, "open", one_more)
        assert len(failed) >= 5
        until(lambda: gateway.metric(EJECTIONS, reason="breaker") == 2, "open again", one_more)
        assert len(failed) == 6 and not healed
        until(lambda: gateway.metric(OUT, state="breaker_open") == 0, "closed", one_more)
        until(lambda: len(healed) > 1, "requests for who is well again", one_more)
    assert len(failed) == 6 and gateway.metric(EJECTIONS, reason="breaker") == 2


def test_a_slow_replica_is_out_for_a_while(api, sim_cluster):
    rules = [{"when": "slow", "step_delay": 0.3}, {"when": "quick", "answer": SICK}]
    cluster = sim_cluster(generators=4, generator_flags=("--sim-step-ms", 20, "--sim-mean-tokens", 0),
                          gateway_flags=("--ejection-time", 2), scripts={0: rules, 1: None, 2: None, 3: None})
    gateway, under_way = cluster.gateway, []
    with cluster.channel() as channel:
        asker = Asker(api, channel)

        def keep_all_busy():
            under_way[:] = [call for call in under_way if not call.done()]
            under_way.extend(asker.begin("slow", 40) for _ in range(24 - len(under_way)))
            time.sleep(0.02)

        def new_requests_avoid_it():
            """Whether it was out before and after them, else nothing was shown."""
            if gateway.metric(OUT, state="ejected") == 0:
                return False
            count = gateway.metric(EJECTIONS, reason="latency")
            taken = asker.by_replica_0(12)
            if gateway.metric(OUT, state="ejected") == 0 or gateway.metric(EJECTIONS, reason="latency") != count:
                return False
            assert taken == 0
            return True
        until(new_requests_avoid_it, "out", keep_all_busy)
        for call in under_way:
            call.cancel()
        until(lambda: gateway.metric(OUT, state="ejected") == 0, "back")
        until(lambda: asker.by_replica_0() > 0, "requests for who is well again")


def test_who_comes_back_begins_slowly(api, sim_cluster):
    slow_start, streams = 6, 40
    # Requests of so many tokens that the loads of the two are what decides.
    cluster = sim_cluster(generators=2, gateways=0, generator_flags=("--sim-step-ms", 50, "--sim-mean-tokens", 0))
    listed = cluster.folder / "generators"

    def listing(generators):
        listed.with_suffix(".new").write_text("\n".join(p.address for p in generators) + "\n")
        listed.with_suffix(".new").rename(listed)
        until(lambda: gateway.metric("qwenserve_gateway_workers_ready", role="generator") == len(generators), "listed")
    listed.write_text(cluster.generators[1].address + "\n")
    gateway = cluster.start_gateway(generators=[f"file:{listed}"], flags=("--slow-start", slow_start))
    cluster.gateways.append(gateway)
    others_start = time.monotonic()

    def spread():
        """How many of so many streams either replica has; they end with that."""
        calls = [asker.begin("the model", 4000) for _ in range(streams)]

        def running():
            return [p.metric("qwenserve_sequences_running") for p in cluster.generators]
        until(lambda: sum(running()) == streams, "all placed")
        found = running()
        for call in calls:
            call.cancel()
        cluster.wait_idle(PATIENCE)
        return found

    def slow_at_first():
        """Whether it was, None if it was looked at so late that nothing was shown."""
        listing(cluster.generators[1:])
        cluster.generators[0].kill()
        cluster.restart(cluster.generators, 0)
        until(lambda: time.monotonic() > others_start + slow_start, "the other's start is over")
        begin = time.monotonic()  # before the gateway can know it
        listing(cluster.generators)
        came, other = spread()
        if time.monotonic() > begin + 0.4 * slow_start:
            return None
        assert came < other / 2, "whoever came got about as much as the other one"
        return True
    with cluster.channel() as channel:
        asker = Asker(api, channel)
        until(slow_at_first, "a look in time")
        until(lambda: min(spread()) >= streams / 4, "its whole share")
