"""What a client has of a stream, so that a repetition of the request goes on behind it.

The same request with the seed that the server told gives the same tokens wherever the fingerprint is the
same, and so the same text. But its messages may be cut elsewhere, so what is known already is dropped by
position: tokens by their absolute index in the answer, text by its length.
"""

from __future__ import annotations

from typing import Dict, List, Optional

from qwenserve.v1 import inference_pb2 as api


class ResumeError(Exception):
    """The stream broke and the rest could not be had: no gateway answers with the same tokens."""


class _Piece:
    """A text that comes in pieces, maybe for a second time."""

    def __init__(self) -> None:
        self.known = ""
        self._at = 0  # of this time

    def restart(self) -> None:
        self._at = 0

    def take(self, piece: str) -> str:
        """What of `piece` is new."""
        overlap = min(len(piece), len(self.known) - self._at)
        if piece[:overlap] != self.known[self._at:self._at + overlap]:
            raise ResumeError("the repeated answer has another text")
        self._at += len(piece)
        self.known += piece[overlap:]
        return piece[overlap:]


class _Choice:
    def __init__(self) -> None:
        self.tokens: List[int] = []
        self.text = _Piece()
        self.reasoning = _Piece()
        self.arguments: List[_Piece] = []

    def restart(self) -> None:
        for piece in (self.text, self.reasoning, *self.arguments):
            piece.restart()

    def take(self, delta: api.ChatDelta) -> api.ChatDelta:
        at = delta.first_token_index
        ids = list(delta.token_ids)
        known = max(0, min(len(ids), len(self.tokens) - at))
        if at > len(self.tokens) or ids[:known] != self.tokens[at:at + known]:
            raise ResumeError("the repeated answer has other tokens")
        self.tokens += ids[known:]
        new = api.ChatDelta(choice=delta.choice, first_token_index=at + known, token_ids=ids[known:],
                            logprobs=delta.logprobs[known:], text=self.text.take(delta.text),
                            reasoning=self.reasoning.take(delta.reasoning))
        for call in delta.tool_calls:
            first = call.index == len(self.arguments)
            if first:
                self.arguments.append(_Piece())
            rest = self.arguments[call.index].take(call.arguments_json)
            if first or rest:
                new.tool_calls.add(index=call.index, arguments_json=rest, id=call.id if first else "",
                                   name=call.name if first else "")
        return new


class StreamState:
    """Of one request, over all its attempts."""

    def __init__(self) -> None:
        self.started: Optional[api.Started] = None
        self._choices: Dict[int, _Choice] = {}

    def begin_attempt(self, request: api.ChatRequest) -> api.ChatRequest:
        """The request to send: the first one, or its exact repetition."""
        for choice in self._choices.values():
            choice.restart()
        if self.started is None:
            return request
        repeated = api.ChatRequest()
        repeated.CopyFrom(request)
        repeated.model = self.started.model
        repeated.options.sampling.seed = self.started.seed
        return repeated

    def take(self, event: api.StreamChatResponse) -> Optional[api.StreamChatResponse]:
        """What of `event` is new to the caller; None: nothing."""
        kind = event.WhichOneof("event")
        if kind == "started":
            return self._take_started(event)
        if kind != "delta":
            return event
        choice = self._choices.setdefault(event.delta.choice, _Choice())
        delta = choice.take(event.delta)
        if not (delta.text or delta.reasoning or delta.token_ids or delta.tool_calls):
            return None
        return api.StreamChatResponse(delta=delta)

    def _take_started(self, event: api.StreamChatResponse) -> Optional[api.StreamChatResponse]:
        if self.started is None:
            self.started = event.started
            return event
        fingerprint = event.started.fingerprint
        if self._choices and (not fingerprint or fingerprint != self.started.fingerprint):
            raise ResumeError(f"the other replica is {fingerprint or 'one that promises nothing'}, the first "
                              f"was {self.started.fingerprint or 'one that promised nothing'}")
        return None
