"""The HTTP client of the kill points takes no stream for whole that is not."""

import asyncio
import json

import pytest

from sse import SseCall, SseError, read_stream

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(text):
    return b"%x\r\n%s\r\n" % (len(text), text)


def event(seed=5, **more):
    return chunk(b"data: " + json.dumps({"seed": seed, "choices": [], **more}).encode() + b"\n\n")


def choice(text, finish=None):
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, "stop_reason": None}]}


START = HEAD + event(**choice("a")) + event(**choice("b"))
FINISH = event(**choice("", "stop")) + event(usage={"completion_tokens": 2})
DONE, END = chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"


def answer(replied, leave_open=False):
    """Events, and the error, of a client that gets these bytes."""
    events = []

    async def reply(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(replied)
        await writer.drain()
        if not leave_open:
            writer.close()

    async def ask():
        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        call = SseCall("127.0.0.1:%d" % server.sockets[0].getsockname()[1], "/v1/completions", {})
        if leave_open:
            asyncio.get_running_loop().call_later(0.2, call.cancel)
        try:
            await read_stream(call, lambda kind, **fields: events.append((kind, fields)), lambda: None)
        except SseError as error:
            return error.code, error.reason
        finally:
            server.close()
        return None
    return asyncio.run(ask()), events


def test_a_whole_stream():
    whole = START + chunk(b": comment\n\n") + FINISH + DONE + END
    error, events = answer(whole)
    assert error is None
    assert [kind for kind, _ in events] == ["started", "delta", "delta", "finished"]
    assert events[0][1] == {"seed": 5} and events[2][1]["text"] == "b"
    assert events[3][1]["choices"] == [[0, "stop", None], ["tokens", 2]]


@pytest.mark.parametrize("replied, code", [
    (b"", "UNAVAILABLE"), (HEAD, "UNAVAILABLE"), (START, "UNAVAILABLE"), (START + FINISH + DONE, "UNAVAILABLE"),
    (START + FINISH[:-9], "UNAVAILABLE"), (START + FINISH + END, "ERROR"), (START + FINISH + DONE + END + b"x", "ERROR"),
    (START + FINISH + DONE + event() + END, "ERROR"), (START + chunk(b"data: {\n\n") + DONE + END, "ERROR"),
    (START + b"nonsense\r\n", "ERROR"), (HEAD.replace(b"text/event-stream", b"text/html") + END, "ERROR")])
def test_a_stream_that_breaks_off_or_is_none(replied, code):
    error, events = answer(replied)
    assert error[0] == code and "finished" not in [kind for kind, _ in events]


@pytest.mark.parametrize("name, wanted", [
    ("unavailable", ("UNAVAILABLE", "")), ("no_worker", ("UNAVAILABLE", "NO_WORKER")),
    ("worker_lost", ("UNAVAILABLE", "WORKER_LOST")), ("queue_full", ("ERROR", "QUEUE_FULL"))])
def test_errors(name, wanted):
    error = json.dumps({"error": {"message": "m", "type": "server_error", "param": None, "code": name}}).encode()
    assert answer(START + chunk(b"data: " + error + b"\n\n") + END)[0] == wanted
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(error)
    assert answer(head + error)[0] == wanted


def test_a_cancelled_stream_ends():
    error, events = answer(START, leave_open=True)
    assert error[0] == "UNAVAILABLE" and len(events) == 3
