"""Many streams from one process, over gRPC and over HTTP, and a log of what each received.

A client of a cluster with several gateways as it is meant to be written: when its gateway is lost, it
sends the request with the seed from Started to another one. It drops nothing: the log has all attempts,
one JSON object in a line,

    {"key": ..., "attempt": 0, "t": monotonic seconds, "event": "sent" | "started" | "delta" | "finished" | "status", ...}

which history.py judges. Reads batches of jobs from stdin, one JSON object in a line, and answers each
with a line when all its streams have ended:

    {"gateways": [{"grpc": ADDRESS, "http": ADDRESS}, ...], "log": PATH, "stall": seconds,
     "jobs": [{"key", "method", "request" (base64), "protocol", "gateway", "at" (seconds)}]}

Nothing for `stall` seconds: the gateway is taken to be lost. It should be well above what a lost replica
costs.
"""

import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import time
import zlib

import grpc
from google.rpc import error_details_pb2, status_pb2

from proto_api import load_api
from sse import SseCall, SseError, openai_request, read_stream

ATTEMPTS = 4
TIMEOUT = 90.0
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
                   ("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


def reason_of(error):
    """ErrorInfo.reason of a failed call, empty for what is not the gateway's own word."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return info.reason
    return ""


def delta_fields(delta):
    fields = {"choice": delta.choice, "first": delta.first_token_index, "ids": list(delta.token_ids),
              "text": delta.text}
    if delta.logprobs:
        fields["logprobs"] = [zlib.crc32(p.SerializeToString()) for p in delta.logprobs]
    if getattr(delta, "reasoning", ""):
        fields["reasoning"] = delta.reasoning
    if getattr(delta, "tool_calls", None):
        fields["calls"] = [[c.index, c.id, c.name, c.arguments_json] for c in delta.tool_calls]
    return fields


class Client:
    def __init__(self, api):
        self.api, self.channels, self.active, self.stall = api, {}, {}, None

    def channel(self, address):
        if address not in self.channels:
            self.channels[address] = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
        return self.channels[address]

    async def watch(self):
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            for call, state in list(self.active.items()):
                if now - state["last"] > self.stall:
                    state["stalled"] = True
                    call.cancel()

    async def sse_attempt(self, address, method, request, write):
        call = SseCall(address, *openai_request(method, request))
        state = self.active[call] = {"last": time.monotonic(), "stalled": False}
        try:
            async with asyncio.timeout(TIMEOUT):
                await read_stream(call, write, lambda: state.update(last=time.monotonic()))
            return "OK", ""
        except SseError as error:
            return ("STALLED", "") if state["stalled"] else (error.code, error.reason)
        except TimeoutError:
            return "DEADLINE_EXCEEDED", ""
        finally:
            del self.active[call]

    async def grpc_attempt(self, address, method, request, write):
        call = getattr(self.api.InferenceStub(self.channel(address)), method)(request, timeout=TIMEOUT)
        state = self.active[call] = {"last": time.monotonic(), "stalled": False}
        try:
            async for message in call:
                state["last"] = time.monotonic()
                kind = message.WhichOneof("event")
                if kind == "delta":
                    write("delta", **delta_fields(message.delta))
                elif kind == "started":
                    write("started", seed=message.started.seed)
                else:
                    write("finished", choices=[
                        [c.index, c.finish_reason, c.completion_tokens, c.stop_string]
                        for c in message.finished.choices])
            return "OK", ""
        except grpc.aio.AioRpcError as error:
            return error.code().name, reason_of(error)
        except asyncio.CancelledError:
            if not state["stalled"]:
                raise
            return "STALLED", ""
        finally:
            del self.active[call]

    async def run_job(self, job, gateways, log, begin):
        await asyncio.sleep(begin + job["at"] - time.monotonic())
        method = job["method"]
        kind = {"StreamChat": self.api.ChatRequest, "StreamComplete": self.api.CompleteRequest}[method]
        request = kind.FromString(base64.b64decode(job["request"]))
        gateway, protocol = job["gateway"], job["protocol"]
        ask = {"grpc": self.grpc_attempt, "http": self.sse_attempt}[protocol]
        for attempt in range(ATTEMPTS):
            def write(event, **fields):
                if event == "started":
                    request.options.sampling.seed = fields["seed"]  # of the next attempt
                log.write(json.dumps({"key": job["key"], "attempt": attempt, "t": time.monotonic(),
                                      "event": event, **fields}) + "\n")
            write("sent", gateway=gateway, protocol=protocol)
            code, reason = await ask(gateways[gateway][protocol], method, request, write)
            write("status", code=code, reason=reason)
            # What the gateway itself says is final, but for that it has just lost all workers: one that
            # was stopped does not find its sessions again. history.py allows it to no other.
            if code not in ("UNAVAILABLE", "STALLED", "CANCELLED") or reason not in ("", "NO_WORKER", "WORKER_LOST"):
                return
            gateway = (gateway + 1) % len(gateways)
            await asyncio.sleep(0.05)

    async def serve(self):
        watcher = asyncio.ensure_future(self.watch())
        loop = asyncio.get_running_loop()
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            batch = json.loads(line)
            self.stall = batch["stall"]
            # A gateway that came back may not have been tried again yet.
            for addresses in batch["gateways"]:
                await asyncio.wait_for(self.channel(addresses["grpc"]).channel_ready(), TIMEOUT)
            begin, cpu = time.monotonic(), time.process_time()
            with open(batch["log"], "w") as log:
                await asyncio.gather(*(self.run_job(job, batch["gateways"], log, begin) for job in batch["jobs"]))
            busy = (time.process_time() - cpu) / (time.monotonic() - begin)
            print(json.dumps({"begin": begin, "busy": busy}), flush=True)
        watcher.cancel()


class Streams:
    """The clients' process. start(batch), then wait() until all of its streams have ended."""

    def __init__(self):
        self._process = subprocess.Popen([sys.executable, __file__], text=True, bufsize=1,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout.readline() == "ready\n"

    def start(self, gateways, log, jobs, stall):
        batch = {"gateways": gateways, "log": str(log), "stall": stall, "jobs": jobs}
        self._process.stdin.write(json.dumps(batch) + "\n")

    def wait(self):
        """Share of a core that the process had."""
        return json.loads(self._process.stdout.readline())["busy"]

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)


async def main():
    with tempfile.TemporaryDirectory() as folder:
        await Client(load_api(folder)).serve()


if __name__ == "__main__":
    asyncio.run(main())
