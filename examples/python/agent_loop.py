#!/usr/bin/env python3
"""An agent with two tools: asks the model, runs what it calls, shows it the results, until it answers.

    python agent_loop.py --address 127.0.0.1:50051 "How warm is it in Ulm, in Fahrenheit?"
    python agent_loop.py --http http://127.0.0.1:8080/v1 "How warm is it in Ulm, in Fahrenheit?"

--address speaks gRPC through qwenserve_client, --http the OpenAI API through nothing but Python.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import os
import sys
import urllib.request
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

MAX_TURNS = 8

Json = Dict[str, Any]


class Tool(NamedTuple):
    name: str
    description: str
    parameters: Json  # JSON Schema
    run: Callable[..., str]


class Call(NamedTuple):
    id: str
    name: str
    arguments: str  # as the model wrote it


class Turn(NamedTuple):
    text: str
    calls: List[Call]


TEMPERATURES = {"ulm": 21.5, "berlin": 18.0, "san francisco": 16.5}


def temperature(city: str) -> str:
    if city.lower() not in TEMPERATURES:
        return f"error: no data for {city}, there is {', '.join(TEMPERATURES)}"
    return json.dumps({"city": city, "celsius": TEMPERATURES[city.lower()]})


OPERATORS: Mapping[type, Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.USub: operator.neg}


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.operand))
    raise ValueError("only numbers and + - * / are allowed")


def calculate(expression: str) -> str:
    """Not eval(): what the model writes is input like any other."""
    return f"{_value(ast.parse(expression, mode='eval').body):g}"


TOOLS = [
    Tool("temperature", "Temperature in a city now, in degrees Celsius.",
         {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}, temperature),
    Tool("calculate", "Value of an arithmetic expression.",
         {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
         calculate),
]


def run_call(call: Call, tools: Sequence[Tool]) -> str:
    """The result for the model. Mistakes of the model are results too, so that it can do better."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return f"error: there is no function {call.name}"
    try:
        arguments = json.loads(call.arguments)
        if not isinstance(arguments, dict):
            return "error: the arguments are not a JSON object"
        return tool.run(**arguments)
    except Exception as error:  # whatever a tool raises concerns the model, not this program
        return f"error: {type(error).__name__}: {error}"


class GrpcChat:
    """The conversation over gRPC."""

    def __init__(self, addresses: str, tools: Sequence[Tool], model: str = "") -> None:
        from qwenserve_client import Answer, Client, api

        self._api, self._answer = api, Answer
        self._client = Client(addresses, api_key=os.environ.get("QWENSERVE_API_KEY"))
        self._request = api.ChatRequest(model=model)
        for tool in tools:
            self._request.input.tools.add(name=tool.name, description=tool.description,
                                          parameters_json=json.dumps(tool.parameters))

    def say(self, text: str) -> None:
        self._request.input.messages.add(role=self._api.ROLE_USER, content=text)

    def result(self, call: Call, text: str) -> None:
        self._request.input.messages.add(role=self._api.ROLE_TOOL, tool_call_id=call.id, name=call.name,
                                         content=text)

    def turn(self) -> Turn:
        message = self._answer.of(self._client.stream_chat(self._request)).message
        self._request.input.messages.append(message)
        return Turn(message.content, [Call(call.id, call.name, call.arguments_json) for call in message.tool_calls])


class HttpChat:
    """The same over the OpenAI API."""

    def __init__(self, base_url: str, tools: Sequence[Tool], model: str = "") -> None:
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._messages: List[Json] = []
        self._body = {"model": model, "messages": self._messages, "tools": [
            {"type": "function", "function": {"name": tool.name, "description": tool.description,
                                              "parameters": tool.parameters}} for tool in tools]}

    def say(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})

    def result(self, call: Call, text: str) -> None:
        self._messages.append({"role": "tool", "tool_call_id": call.id, "content": text})

    def turn(self) -> Turn:
        headers = {"content-type": "application/json"}
        if key := os.environ.get("QWENSERVE_API_KEY"):
            headers["authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(self._body).encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            message = json.load(response)["choices"][0]["message"]
        self._messages.append({key: value for key, value in message.items()
                               if key in ("role", "content", "tool_calls")})
        return Turn(message.get("content") or "", [
            Call(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or []])


def run(chat: Any, tools: Sequence[Tool], question: str, log: Callable[[str], None] = lambda line: None) -> str:
    """The model's answer to `question`. `chat` is a GrpcChat or an HttpChat with the same tools."""
    chat.say(question)
    for _ in range(MAX_TURNS):
        text, calls = chat.turn()
        if not calls:
            return text
        for call in calls:
            result = run_call(call, tools)
            log(f"{call.name}({call.arguments}) -> {result}")
            chat.result(call, result)
    raise RuntimeError(f"no answer after {MAX_TURNS} turns")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--address", default=os.environ.get("QWENSERVE_ADDRESS", "127.0.0.1:50051"),
                        help="gateways, separated by commas")
    parser.add_argument("--http", metavar="URL", help="base URL of the OpenAI API, instead of --address")
    parser.add_argument("--model", default="")
    options = parser.parse_args()
    chat = (HttpChat(options.http, TOOLS, options.model) if options.http
            else GrpcChat(options.address, TOOLS, options.model))
    print(run(chat, TOOLS, options.question, lambda line: print(line, file=sys.stderr)))


if __name__ == "__main__":
    main()
