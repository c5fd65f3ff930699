"""A client of the OpenAI HTTP edge that hides nothing: one connection for a request, server-sent events as
they come, and an error for every stream that does not end as it should.

    call = SseCall("127.0.0.1:8080", *openai_request("StreamChat", request))
    async for chunk in call:    # JSON objects; returns after [DONE] and the end of the body
        ...

Raises SseError. call.cancel() from another task ends the connection, and with it the stream.
"""

import asyncio
import json
import zlib

# Roles in the order of the proto's enum.
ROLES = (None, "system", "user", "assistant", "tool")
SAMPLING = ("temperature", "seed", "repetition_penalty", "presence_penalty", "frequency_penalty", "top_k", "top_p")


class SseError(Exception):
    """`code`: UNAVAILABLE or CANCELLED where another gateway may be asked; `reason`: the gateway's own word,
    empty when it said nothing."""

    def __init__(self, code, reason=""):
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


def openai_request(method, request):
    """Path and body of a streamed request that asks for what `request` of the gRPC API does."""
    options = request.options
    body = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": options.max_tokens,
            "ignore_eos": options.ignore_eos, "stop": list(options.stop), "n": max(1, options.n)}
    body.update((name, getattr(options.sampling, name)) for name in SAMPLING if options.sampling.HasField(name))
    if options.cache_salt:
        body["cache_salt"] = options.cache_salt
    logprobs = options.top_logprobs if options.HasField("top_logprobs") else None
    if method == "StreamComplete":
        return "/v1/completions", {**body, "prompt": request.text, "logprobs": logprobs}
    body["messages"] = [{"role": ROLES[message.role], "content": message.content} for message in request.input.messages]
    if request.input.tools:
        body["tools"] = [{"type": "function", "function": {"name": tool.name, "parameters": json.loads(tool.parameters_json)}}
                         for tool in request.input.tools]
    if logprobs is not None:
        body.update(logprobs=True, top_logprobs=logprobs)
    return "/v1/chat/completions", body


def error_of(body):
    """The SseError of an OpenAI error object, None when there is none."""
    error = body.get("error")
    if error is None:
        return None
    code = error["code"].upper()
    if code in ("UNAVAILABLE", "CANCELLED"):
        return SseError(code)
    return SseError("UNAVAILABLE" if code in ("NO_WORKER", "WORKER_LOST") else "ERROR", code)


class SseCall:
    def __init__(self, address, path, body):
        self._address, self._writer, self._cancelled = address, None, False
        data = json.dumps(body).encode()
        self._request = (f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
                         f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n").encode() + data

    def cancel(self):
        self._cancelled = True
        if self._writer is not None:
            self._writer.transport.abort()

    async def __aiter__(self):
        try:
            host, port = self._address.rsplit(":", 1)
            self._reader, self._writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
            if self._cancelled:
                raise SseError("CANCELLED")
            self._writer.write(self._request)
            await self._check_head()
            done, text = False, b""
            while piece := await self._chunk():
                text += piece
                *events, text = text.split(b"\n\n")
                for event in events:
                    if event.startswith(b":"):
                        continue
                    if done or not event.startswith(b"data: "):
                        raise SseError("ERROR", f"AN EVENT THAT IS NONE: {event[:40]}")
                    if event == b"data: [DONE]":
                        done = True
                        continue
                    body = json.loads(event[len(b"data: "):])
                    if error := error_of(body):
                        raise error
                    yield body
            if text or not done:
                raise SseError("ERROR", "A BODY THAT ENDS WITHOUT [DONE]")
            if await self._reader.read(1):
                raise SseError("ERROR", "BYTES BEHIND THE BODY")
        except (OSError, asyncio.IncompleteReadError):
            # The connection has gone before the end of the body.
            raise SseError("UNAVAILABLE") from None
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise SseError("ERROR", f"WHAT IS NO HTTP, OR NO JSON: {error}") from error
        finally:
            if self._writer is not None:
                self._writer.transport.abort()

    async def _check_head(self):
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        status = int(head[0].split(" ")[1])
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        if status != 200:
            raise error_of(json.loads(await self._reader.readexactly(int(fields["content-length"]))))
        if fields.get("transfer-encoding") != "chunked" or fields["content-type"].split(";")[0] != "text/event-stream":
            raise SseError("ERROR", f"NO STREAM: {head}")

    async def _chunk(self):
        """The next piece of the body, empty at its end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:size]


def tokens_of(choice):
    """Names for the tokens of a chunk's choice that has log-probabilities, and what was said of each."""
    logprobs = choice.get("logprobs")
    if not logprobs:
        return [], []
    if "content" in logprobs:
        tokens = [(entry["bytes"], entry) for entry in logprobs["content"]]
    else:
        tokens = [(name, (logprobs["token_logprobs"][i], logprobs["top_logprobs"][i], logprobs["text_offset"][i]))
                  for i, name in enumerate(logprobs["tokens"])]
    crc = lambda value: zlib.crc32(json.dumps(value).encode())
    return [crc(name) for name, _ in tokens], [crc(entry) for _, entry in tokens]


async def read_stream(call, write, alive):
    """Writes the events of history.py; `alive` is called whenever something came. Raises SseError."""
    started, choices, usage = False, {}, None
    async for chunk in call:
        alive()
        if not started:
            started = True
            write("started", seed=chunk["seed"])
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            number, delta = choice["index"], choice.get("delta", choice)
            if choice["finish_reason"] is not None:
                choices[number] = [number, choice["finish_reason"], choice["stop_reason"]]
            fields = {"text": delta.get("text") or delta.get("content") or ""}
            fields["ids"], fields["logprobs"] = tokens_of(choice)
            if delta.get("reasoning_content"):
                fields["reasoning"] = delta["reasoning_content"]
            if delta.get("tool_calls"):
                fields["calls"] = [[call["index"], call.get("id", ""), call["function"].get("name", ""),
                                    call["function"]["arguments"]] for call in delta["tool_calls"]]
            if any(fields.values()):
                write("delta", choice=number, **fields)
    write("finished", choices=[*sorted(choices.values()), ["tokens", usage and usage["completion_tokens"]]])
