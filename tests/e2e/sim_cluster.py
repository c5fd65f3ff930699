"""Clusters whose generators have a simulated engine: hundreds of streams on a small machine, faults on
demand, and tokens that show when one was lost. services/generator/README.md has the flags and scripts.

    cluster = SimCluster(generators=3, gateways=2, generator_flags=("--sim-step-ms", 5))
    with cluster.channel(gateway=1) as channel:
        api.InferenceStub(channel).Complete(...)
    cluster.generators[0].kill()              # or .signal(signal.SIGSTOP), .terminate()
    cluster.restart(cluster.generators, 0)    # at the same address
    cluster.wait_idle()                       # nothing runs, no KV block is in use

In tests use the fixture `sim_cluster` of conftest.py, which takes the same arguments and stops what it
made. stop() fails if anything is left of a request: leaks.py. Every process is a ServerProcess: address, addresses["ops"], http(path), metric(name, **labels),
pid, signal, kill, terminate, running.

Token i of an answer is a hash of the fingerprint, the prompt, all tokens before i, the sampling
parameters and i (and of seed and choice unless greedy): two answers to the same request are equal token
by token exactly when no token, and no parameter, was lost, doubled or changed on the way.
"""

import contextlib
import json
import pathlib
import shutil
import tempfile
import time

import grpc

import leaks
from server_process import DEMO_MODEL, ServerProcess

# As Qwen3 has them; special=false as in its tokenizer, so they are text.
QWEN3_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def make_sim_model(folder, context=131072):
    """A model folder without weights: the demo's tokenizer with Qwen3's tokens for thinking and tools
    added, and a configuration with a long context. Returns the folder."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("generation_config.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, folder / name)
    tokenizer = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    for offset, text in enumerate(QWEN3_TOKENS):
        tokenizer["added_tokens"].append({
            "id": config["vocab_size"] + offset, "content": text, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": False})
    config["vocab_size"] += len(QWEN3_TOKENS)
    config["max_position_embeddings"] = config["sliding_window"] = context
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class SimCluster:
    """`generators`, `tokenizers` and `gateways` on this machine; every gateway knows all the others.

    generator_flags, tokenizer_flags, gateway_flags: for all of a kind.
    each_generator: a list of flags for each generator, besides.
    script: rules of --sim-script for all generators; scripts: {number of a generator: its own rules}.
    log: an open file, which gets what every process logs at level info.
    environment: variables for all processes.
    model: the folder; default: that of make_sim_model, served as "sim".
    """

    def __init__(self, generators=1, tokenizers=1, gateways=1, generator_flags=(),
                 tokenizer_flags=("--chat-template", "qwen3"), gateway_flags=(), each_generator=None, script=None, scripts=None,
                 model=None, log=None, environment=None):
        self.stack = contextlib.ExitStack()
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.model = model or make_sim_model(self.folder / "sim")
        self._gateway_flags = gateway_flags
        self._log, self._environment = log, environment
        self._started = []
        self.hung = []  # processes that will never be done with what they have
        each = each_generator or [()] * generators
        assert len(each) == generators
        try:
            self.tokenizers = [self._start("tokenizer", ("--model", self.model, *tokenizer_flags))
                               for _ in range(tokenizers)]
            self.generators = [
                self._start("generator", (
                    "--model", self.model, "--engine", "sim", *generator_flags, *own,
                    *self._script_flags(number, (scripts or {}).get(number, script))))
                for number, own in enumerate(each)]
            self.gateways = [self.start_gateway(ready=False) for _ in range(gateways)]
            for process in [*self.tokenizers, *self.generators, *self.gateways]:
                leaks.remember(process.wait_ready())
        except BaseException:
            self.stack.close()
            raise

    def _script_flags(self, number, rules):
        if rules is None:
            return ()
        path = self.folder / f"script{number}.json"
        path.write_text(json.dumps(rules))
        return ("--sim-script", path)

    def _start(self, role, flags, **options):
        process = ServerProcess(role, *flags, log=self._log, environment=self._environment, **options)
        self.stack.callback(process.stop)
        self._started.append(process)
        return process

    def start_gateway(self, generators=None, flags=None, ready=True, listen="127.0.0.1:0"):
        """One more gateway; `generators`: the addresses that it knows instead of all; `listen`: of its gRPC port."""
        addresses = generators or [p.address for p in self.generators]
        gateway = self._start("gateway", (
            "--tokenizers", ",".join(p.address for p in self.tokenizers),
            "--generators", ",".join(addresses), *(self._gateway_flags if flags is None else flags)),
                              listen=listen)
        return leaks.remember(gateway.wait_ready()) if ready else gateway

    def restart(self, processes, number, *flags):
        """Starts processes[number], which must have ended, anew at its addresses, with its flags and
        these: restart(cluster.gateways, 0)."""
        old = processes[number]
        assert not old.running()
        processes[number] = self._start(old.role, (*old.flags, *flags), listen=old.address,
                                        http_listen=old.addresses.get("http")).wait_ready()
        return leaks.remember(processes[number])

    def restart_generator(self, number, *flags):
        return self.restart(self.generators, number, *flags)

    @property
    def gateway(self):
        return self.gateways[0]

    def channel(self, gateway=0, options=None):
        return grpc.insecure_channel(self.gateways[gateway].address, options=options)

    def total(self, name, processes=None, **labels):
        """A metric's sum over `processes`, by default the generators that run."""
        processes = self.generators if processes is None else processes
        return sum(p.metric(name, **labels) for p in processes if p.running())

    def idle(self):
        """Whether no generator has anything left: no sequence and no KV block."""
        return all(self.total(name) == 0 for name in (
            "qwenserve_sequences_running", "qwenserve_sequences_waiting", "qwenserve_kv_blocks_used"))

    def wait_idle(self, patience=60):
        deadline = time.monotonic() + patience
        while not self.idle():
            assert time.monotonic() < deadline, f"not idle within {patience} s"
            time.sleep(0.05)

    def stop(self):
        with self.stack:
            leaks.wait_clean([process for process in self._started if process not in self.hung])
