"""A cluster whose every process is reached through a link that can go wrong, and what can happen to it."""

import math
import pathlib
import signal
import tempfile
import threading
import time

from fault_proxy import Links
from leaks import QUIET, SLACK, left_over, total
from server_process import DEMO_MODEL, ServerProcess
from sim_cluster import make_sim_model

PATIENCE = 60


class Slot:
    """A place for a process, with addresses that outlive it: each {"grpc": ..., "http": ...} of the process is
    behind a link. One thread at a time."""

    def __init__(self, world, role, flags):
        self.world, self.role, self.flags = world, role, flags
        self.process = ServerProcess(role, *flags)
        self.addresses = {name: world.links.add(address) for name, address in self._ports().items()}
        self.address = self.addresses["grpc"]

    def _ports(self):
        return {name: address for name, address in self.process.addresses.items() if name in ("grpc", "http")}

    def set_links(self, mode):
        for address in self.addresses.values():
            self.world.links.set(address, mode)

    def reset_links(self):
        for address in self.addresses.values():
            self.world.links.reset(address)

    def start(self):
        """Anew, where the old one has ended."""
        assert not self.process.running()
        self.process = ServerProcess(self.role, *self.flags)
        for name, address in self._ports().items():
            self.world.links.target(self.addresses[name], address)


class World:
    """`generators`, `tokenizers`, `gateways`: slots. `reference`: a gateway's process with workers of its
    own, which are left alone. real: with the demo model instead of simulated engines."""

    def __init__(self, generators=4, tokenizers=2, gateways=2, real=False, script=None, step_ms=50, max_running=128):
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        self.slots, self.links, self._others = [], Links(), []
        if real:
            tokenizer = ("--model", DEMO_MODEL)
            generator = reference = ("--model", DEMO_MODEL, "--kv-cache-memory", "64M", "--threads", 1)
        else:
            model = make_sim_model(folder / "sim")
            (folder / "script.json").write_text(script or "[]")
            tokenizer = ("--model", model, "--chat-template", "qwen3")
            generator = ("--model", model, "--engine", "sim", "--sim-script", folder / "script.json")
            reference = (*generator, "--sim-step-ms", 0, "--sim-prefill-rate", 0, "--max-running", 256)
            generator += ("--sim-step-ms", step_ms, "--max-running", max_running)
        try:
            # A drain hands its sequences over 10 s before the end: at once.
            self.generators = [self._slot("generator", (*generator, "--drain-timeout", 10)) for _ in range(generators)]
            self.tokenizers = [self._slot("tokenizer", tokenizer) for _ in range(tokenizers)]
            self.gateways = [self._slot("gateway", (
                "--tokenizers", ",".join(slot.address for slot in self.tokenizers),
                "--generators", ",".join(slot.address for slot in self.generators))) for _ in range(gateways)]
            self._others = [ServerProcess("tokenizer", *tokenizer), ServerProcess("generator", *reference)]
            self._others.append(ServerProcess("gateway", "--tokenizers", self._others[0].address,
                                              "--generators", self._others[1].address))
            for other in self._others:
                other.wait_ready()
            self.reference = self._others[2]
            self.wait_whole()
            self.baseline = {}
        except BaseException:
            self.stop()
            raise

    def _slot(self, role, flags):
        self.slots.append(Slot(self, role, flags))
        return self.slots[-1]

    def stop(self):
        for process in [slot.process for slot in self.slots] + self._others:
            process.stop()
        self.links.close()
        self._folder.cleanup()

    def wait_until(self, what, condition):
        deadline = time.monotonic() + PATIENCE
        while (left := condition()):
            assert time.monotonic() < deadline, f"not {what} within {PATIENCE} s: {left}"
            time.sleep(0.1)

    def wait_whole(self):
        """Until every gateway has all workers."""
        wanted = {"generator": len(self.generators), "tokenizer": len(self.tokenizers)}

        def lacking():
            return [f"{slot.process.address} has {have} of {count} {role}s"
                    for slot in self.gateways for role, count in wanted.items()
                    if (have := total(slot.process.series(), "qwenserve_gateway_workers_ready", f'role="{role}"')) < count]
        self.wait_until("whole", lacking)

    def _leaks(self):
        found = []
        for slot in self.slots:
            found += left_over(slot.process, self.baseline.get(slot.role, math.inf) + SLACK)
            if slot.role == "generator":
                sessions = slot.process.metric("qwenserve_generator_sessions")
                if sessions != len(self.gateways):
                    found.append(f"generator: {sessions} sessions")
        return found

    def wait_clean(self):
        """Until nothing is left of any request: no sequence, KV block, request in flight or descriptor."""
        self.wait_until("clean", self._leaks)

    def remember_descriptors(self):
        self.baseline = {role: max(slot.process.series()["process_open_fds"] for slot in self.slots if slot.role == role)
                         for role in QUIET}

    def failovers(self):
        return sum(total(slot.process.series(), "qwenserve_gateway_failovers_total", f'cause="{cause}"')
                   for slot in self.gateways for cause in ("ended", "silent", "stalled", "failed", "draining", "paused"))


FAULTS = ("kill", "stop", "drain", "hole", "hole_reset", "reset", "delay", "fragments")


class Strike(threading.Thread):
    """Lets `fault` happen to a slot after `delay` seconds, and ends it `hold` seconds later; finish() when
    the streams have ended. `when`: the moment of the fault."""

    def __init__(self, slot, fault, delay, hold):
        super().__init__(daemon=True)
        self.slot, self.fault, self.delay, self.hold = slot, fault, delay, hold
        self.when, self._over = None, threading.Event()
        self._error = None
        self.start()

    def run(self):
        try:
            time.sleep(self.delay)
            self.when = time.monotonic()
            self._begin()
            self._over.wait(self.hold)
            self._end()
        except BaseException as error:  # told by finish()
            self._error = error

    def _begin(self):
        slot = self.slot
        if self.fault == "kill":
            slot.process.kill()
        elif self.fault == "stop":
            slot.process.signal(signal.SIGSTOP)
        elif self.fault == "drain":
            slot.process.signal(signal.SIGTERM)
        elif self.fault == "reset":
            slot.reset_links()
        else:
            slot.set_links(self.fault.split("_")[0])

    def _end(self):
        slot = self.slot
        if self.fault == "stop":
            slot.process.signal(signal.SIGCONT)
        elif self.fault in ("kill", "drain"):
            status = slot.process.wait(PATIENCE)
            assert self.fault == "kill" or status == 0, f"a drained {slot.role} ended with status {status}"
            slot.start()
        elif self.fault == "hole_reset":
            slot.reset_links()
        if self.fault not in ("kill", "stop", "drain", "reset"):
            slot.set_links("pass")

    def finish(self):
        self._over.set()
        self.join(2 * PATIENCE)
        if self._error is not None:
            raise self._error
