"""A stream put together again."""

from __future__ import annotations

from typing import Iterable

from qwenserve.v1 import inference_pb2 as api


class Answer:
    """The first choice of a chat as it grows: `message` as it goes back into the conversation."""

    def __init__(self) -> None:
        self.message = api.ChatMessage(role=api.ROLE_ASSISTANT)
        self.finish_reason: int = api.FINISH_REASON_UNSPECIFIED
        self.usage = api.Usage()

    def add(self, event: api.StreamChatResponse) -> None:
        kind = event.WhichOneof("event")
        if kind == "finished":
            self.finish_reason = event.finished.choices[0].finish_reason
            self.usage = event.finished.usage
        elif kind == "delta" and event.delta.choice == 0:
            self.message.content += event.delta.text
            self.message.reasoning += event.delta.reasoning
            for call in event.delta.tool_calls:
                if call.index == len(self.message.tool_calls):
                    self.message.tool_calls.add(id=call.id, name=call.name)
                self.message.tool_calls[call.index].arguments_json += call.arguments_json

    @classmethod
    def of(cls, events: Iterable[api.StreamChatResponse]) -> "Answer":
        answer = cls()
        for event in events:
            answer.add(event)
        return answer
