"""A replica, a tokenizer or a gateway is lost in the middle of answers, and the answers are the same."""

import collections
import signal
import threading
import time

import grpc
import pytest

from conftest import Cluster, error_info
from sim_cluster import SimCluster

PATIENCE = 60
FACES = "\U0001F600\U0001F680\u00e9 " * 60
CAUSES = {"kill": "ended", "stop": "silent", "drain": "draining"}


def requests(api, max_tokens):
    """One of each kind; what they ask for must survive the replica."""
    def request(text, temperature=1.0, sampling=None, **options):
        return api.CompleteRequest(text=text, options=api.GenerationOptions(
            max_tokens=max_tokens, ignore_eos=True, **options,
            sampling=api.SamplingParams(temperature=temperature, seed=11, **(sampling or {}))))
    return {
        "greedy": request("the", 0.0),
        "sampled": request("a model"),
        "penalties": request("the token", sampling=dict(
            repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.4, top_k=50, top_p=0.9)),
        "n": request("the prompt", n=2),
        "logprobs": request("of the", top_logprobs=3),
        "n_logprobs": request("and so", n=3, top_logprobs=1),
        "min_tokens": request("to be", min_tokens=max_tokens // 2),
    }


Answer = collections.namedtuple("Answer", "ids text logprobs finish stop")


def of_response(response):
    return [Answer(list(c.token_ids), c.text, [p.SerializeToString() for p in c.logprobs], c.finish_reason,
                   c.stop_string) for c in response.choices]


class Reader(threading.Thread):
    """Reads a stream to its end, and checks that no index is missing or comes twice."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.error, self.started, self.finished = stream, None, None, None
        self.ids, self.texts, self.logprobs = {}, {}, {}
        self.begun = threading.Event()
        self.start()

    def run(self):
        try:
            for event in self.stream:
                if event.HasField("started"):
                    self.started = event.started
                elif event.HasField("finished"):
                    self.finished = event.finished
                else:
                    self._take(event.delta)
        except BaseException as error:  # told to the test by answers()
            self.error = error
        self.begun.set()

    def _take(self, delta):
        ids = self.ids.setdefault(delta.choice, [])
        assert delta.first_token_index == len(ids)
        ids += delta.token_ids
        self.texts[delta.choice] = self.texts.get(delta.choice, "") + delta.text
        self.logprobs.setdefault(delta.choice, []).extend(p.SerializeToString() for p in delta.logprobs)
        if len(ids) >= 5:
            self.begun.set()

    def answers(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "the stream hangs"
        if self.error is not None:
            raise self.error
        return [Answer(self.ids[c.index], self.texts[c.index], self.logprobs[c.index], c.finish_reason,
                       c.stop_string) for c in self.finished.choices]


def failovers(gateway, **labels):
    return gateway.metric("qwenserve_gateway_failovers_total", **labels)


def busiest(generators):
    return max(generators, key=lambda p: p.metric("qwenserve_sequences_running"))


def harm(process, fault):
    {"kill": process.kill, "stop": lambda: process.signal(signal.SIGSTOP),
     "drain": lambda: process.signal(signal.SIGTERM)}[fault]()


@pytest.fixture(params=["sim", "demo"])
def cluster(request):
    # A drain hands over 10 s before its end: at once.
    drain = ("--drain-timeout", 10)
    if request.param == "sim":
        made = SimCluster(generators=3, generator_flags=("--sim-step-ms", 10, *drain))
        made.max_tokens = 250
    else:
        made = Cluster(generators=3, generator_flags=("--threads", 1, *drain))
        made.max_tokens = 800
    yield made
    made.stop()


@pytest.mark.parametrize("fault", ["kill", "stop", "drain"])
def test_answers_go_on_at_another_replica(api, cluster, fault):
    wanted = requests(api, cluster.max_tokens)
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        whole = {kind: stub.Complete.future(request) for kind, request in wanted.items()}
        expected = {kind: of_response(future.result(PATIENCE)) for kind, future in whole.items()}
        readers = {kind: Reader(stub.StreamComplete(request)) for kind, request in wanted.items()}
        for reader in readers.values():
            assert reader.begun.wait(PATIENCE)
        victim = busiest(cluster.generators)
        harm(victim, fault)
        for kind, reader in readers.items():
            assert reader.answers() == expected[kind], kind
    assert failovers(cluster.gateway, cause=CAUSES[fault]) > 0
    assert failovers(cluster.gateway) == failovers(cluster.gateway, cause=CAUSES[fault])
    if fault == "drain":
        assert victim.wait(PATIENCE) == 0


def test_stop_strings_and_calls_go_on_over_the_loss(api, sim_cluster):
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "' + "Ulm " * 60 + '"}}\n</tool_call>'
    rules = [{"when": "halt", "answer": "and " * 150 + "HALT no more", "split": "bytes"},
             {"when": "weather", "answer": call, "split": "tokens"},
             {"when": "ponder", "answer": "<think>\n" + "hm " * 100 + "\n</think>\n\nyes"},
             {"when": "faces", "answer": FACES, "split": "bytes"}]
    cluster = sim_cluster(generators=2, generator_flags=("--sim-step-ms", 5), script=rules)

    def chat(text, stop=(), tools=()):
        return api.ChatRequest(
            input=api.ChatInput(messages=[api.ChatMessage(role=api.ROLE_USER, content=text)], tools=tools),
            options=api.GenerationOptions(max_tokens=2000, stop=stop,
                                          sampling=api.SamplingParams(seed=3)))
    tool = api.Tool(name="weather", parameters_json="{}")
    wanted = [chat("halt", stop=["HALT"]), chat("weather", tools=[tool]), chat("ponder"), chat("faces")]

    def read(stub, request, begun):
        text, reasoning, arguments, ids, finished = "", "", "", [], None
        for event in stub.StreamChat(request):
            text += event.delta.text
            reasoning += event.delta.reasoning
            arguments += "".join(call.arguments_json for call in event.delta.tool_calls)
            ids += event.delta.token_ids
            finished = event.finished if event.HasField("finished") else finished
            if len(ids) >= 30:
                begun()
        return (text, reasoning, arguments, ids, finished.choices[0].finish_reason,
                finished.choices[0].stop_string)
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        expected = [read(stub, request, lambda: None) for request in wanted]
        assert expected[0][0] == "and " * 150 and expected[0][5] == "HALT"
        assert "Ulm" in expected[1][2] and expected[2][1] and expected[3][0] == FACES
        for number, request in enumerate(wanted):
            hit = []

            def once():
                if not hit:
                    hit.append(busiest(cluster.generators))
                    hit[0].kill()
            assert read(stub, request, once) == expected[number]
            cluster.restart(cluster.generators, cluster.generators.index(hit[0]))
    assert failovers(cluster.gateway, cause="ended") == len(wanted)


def test_a_replica_lost_in_its_prefill_is_replaced(api, sim_cluster):
    # The prompt takes seconds; nothing has come when the replica goes.
    cluster = sim_cluster(generators=2, generator_flags=("--sim-prefill-rate", 300))
    request = api.CompleteRequest(text="the model of the token " * 60, options=api.GenerationOptions(
        max_tokens=20, ignore_eos=True, sampling=api.SamplingParams(seed=5)))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        expected = of_response(stub.Complete(request))
    fresh = sim_cluster(generators=2, generator_flags=("--sim-prefill-rate", 300))
    with fresh.channel() as channel:
        reader = Reader(api.InferenceStub(channel).StreamComplete(request))
        while not any(p.metric("qwenserve_sequences_running") for p in fresh.generators):
            assert reader.is_alive()
        busiest(fresh.generators).kill()
        assert reader.answers() == expected
    assert failovers(fresh.gateway, cause="ended") == 1


def test_a_stalled_engine_is_left(api, sim_cluster):
    # Which of the two has it is not known beforehand: the gateway knows the second only afterwards.
    hang = [{"when": "the", "fault": "hang", "after": 20, "times": 1}]
    cluster = sim_cluster(generators=2, generator_flags=("--sim-step-ms", 5), scripts={0: hang, 1: None})
    cluster.hung.append(cluster.generators[0])
    addresses = cluster.folder / "generators"
    addresses.write_text(cluster.generators[0].address + "\n")
    gateway = cluster.start_gateway(generators=[f"file:{addresses}"])
    other = cluster.start_gateway(generators=[cluster.generators[1].address])
    request = requests(api, 60)["greedy"]
    with grpc.insecure_channel(other.address) as channel:
        expected = of_response(api.InferenceStub(channel).Complete(request))
    with grpc.insecure_channel(gateway.address) as channel:
        reader = Reader(api.InferenceStub(channel).StreamComplete(request))
        assert reader.begun.wait(PATIENCE)
        addresses.write_text("\n".join(p.address for p in cluster.generators) + "\n")
        assert reader.answers() == expected
    assert failovers(gateway, cause="stalled") == 1


def test_poison_takes_down_two_replicas_at_most(api, sim_cluster):
    cluster = sim_cluster(generators=4, generator_flags=("--sim-step-ms", 10),
                          script=[{"when": "poison", "fault": "crash", "after": 3}])
    for generator in cluster.generators:
        generator.expect_crash()
    wanted = requests(api, 250)
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        expected = {kind: of_response(stub.Complete(request)) for kind, request in
                    [("sampled", wanted["sampled"]), ("n", wanted["n"])]}
        readers = {kind: Reader(stub.StreamComplete(wanted[kind])) for kind in expected}
        assert all(reader.begun.wait(PATIENCE) for reader in readers.values())
        with pytest.raises(grpc.RpcError) as raised:
            stub.Complete(api.CompleteRequest(text="poison", options=wanted["sampled"].options), timeout=30)
        assert raised.value.code() == grpc.StatusCode.INTERNAL
        assert error_info(raised.value)[0].reason == "SUSPECTED_POISON"
        # A process lives a little longer than its connections.
        deadline = time.monotonic() + PATIENCE
        while sum(p.running() for p in cluster.generators) > 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sum(p.running() for p in cluster.generators) == 2
        # Who was beside it goes on, unless both of its replicas were taken down.
        for kind, reader in readers.items():
            try:
                assert reader.answers() == expected[kind]
            except grpc.RpcError as error:
                assert error_info(error)[0].reason == "SUSPECTED_POISON"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_tokenizer_lost_in_the_middle_of_a_character(api, sim_cluster, victim):
    cluster = sim_cluster(tokenizers=2, generator_flags=("--sim-step-ms", 5), script=[
        {"when": "faces", "answer": FACES, "split": "bytes"}])
    request = api.CompleteRequest(text="faces", options=api.GenerationOptions(max_tokens=2000))
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        readers = [Reader(stub.StreamComplete(request)) for _ in range(4)]
        assert all(reader.begun.wait(PATIENCE) for reader in readers)
        cluster.tokenizers[victim].kill()
        for reader in readers:
            answer, = reader.answers()
            assert answer.text == FACES and len(answer.ids) == len(FACES.encode())


def test_a_lone_replica_that_comes_back_goes_on(api, sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 10), gateway_flags=("--failover-wait", 30))
    request = requests(api, 150)["penalties"]
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        expected = of_response(stub.Complete(request))
        reader = Reader(stub.StreamComplete(request))
        assert reader.begun.wait(PATIENCE)
        cluster.generators[0].kill()
        cluster.restart(cluster.generators, 0)
        assert reader.answers() == expected


def test_a_gateway_that_was_stopped_blames_no_request(api, sim_cluster):
    # All of its sessions are gone when it goes on: an answer may meet with several dead ones in a row.
    # More is wanted than the generators may send without being asked again.
    cluster = sim_cluster(generators=4, generator_flags=("--sim-step-ms", 10), gateway_flags=("--credit-window", 32))
    wanted = requests(api, 250)
    with cluster.channel() as channel:
        stub = api.InferenceStub(channel)
        whole = {kind: stub.Complete.future(request) for kind, request in wanted.items()}
        expected = {kind: of_response(future.result(PATIENCE)) for kind, future in whole.items()}
        readers = {kind: Reader(stub.StreamComplete(request)) for kind, request in wanted.items()}
        for reader in readers.values():
            assert reader.begun.wait(PATIENCE)
        cluster.gateway.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while cluster.total("qwenserve_generator_sessions") > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster.gateway.signal(signal.SIGCONT)
        for kind, reader in readers.items():
            assert reader.answers() == expected[kind], kind
    assert failovers(cluster.gateway, cause="paused") > 0
    assert cluster.gateway.metric("qwenserve_gateway_suspected_poison_total") == 0


def test_another_gateway_gives_the_rest_of_an_answer(api, sim_cluster):
    cluster = sim_cluster(generators=2, gateways=2, generator_flags=("--sim-step-ms", 10))
    request = requests(api, 200)["sampled"]
    request.options.sampling.ClearField("seed")
    with cluster.channel(0) as channel:
        reader = Reader(api.InferenceStub(channel).StreamComplete(request))
        assert reader.begun.wait(PATIENCE)
        cluster.gateways[0].kill()
        with pytest.raises(grpc.RpcError):
            reader.answers()
    begun = reader.ids[0]
    assert 5 <= len(begun) < 200
    request.options.sampling.seed = reader.started.seed
    with cluster.channel(1) as channel:
        stub = api.InferenceStub(channel)
        again, = Reader(stub.StreamComplete(request)).answers()
        assert again.ids[:len(begun)] == begun
        assert again.ids == of_response(stub.Complete(request))[0].ids
    cluster.wait_idle()
