"""The commands of examples/http/README.md, run as they stand there."""

import http.server
import json
import re
import subprocess
import threading
import time

import pytest

from readme_commands import commands
from server_process import ROOT
from sim_cluster import SimCluster

README = "examples/http/README.md"
TOKEN = "A token is a piece of text."
SCRIPT = [
    {"when": "21.5", "answer": "It is 21.5 degrees."},
    {"when": "How warm", "answer": '<tool_call>\n{"name": "temperature", "arguments": {"city": "Ulm"}}\n</tool_call>'},
    {"when": "What is a token?", "answer": TOKEN, "split": "bytes"},
    {"when": "Once upon a time", "length": 20},
]


@pytest.fixture(scope="module")
def base():
    cluster = SimCluster(generator_flags=("--sim-step-ms", 1), script=SCRIPT)
    yield f"http://{cluster.gateway.addresses['http']}"
    cluster.stop()


def intro():
    """The two lines before the first heading, which set the variables."""
    return "".join(line[4:] + "\n" for line in (ROOT / README).read_text().split("\n## ")[0].splitlines()
                   if line.startswith("    "))


def run(heading, base):
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", intro() + commands(README, heading)],
                            env={"PATH": "/usr/bin:/bin", "QWENSERVE_HTTP": base}, capture_output=True, text=True,
                            timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def choice(output):
    return json.loads(output)["choices"][0]


def check_stream(output):
    lines = [line for line in output.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line[6:]) for line in lines[:-1]]
    assert "".join(c["delta"].get("content") or "" for e in events for c in e["choices"]) == TOKEN
    assert events[-1]["usage"]["completion_tokens"] == len(TOKEN)


def check_tools(output):
    function = choice(output)["message"]["tool_calls"][0]["function"]
    assert choice(output)["finish_reason"] == "tool_calls"
    assert (function["name"], json.loads(function["arguments"])) == ("temperature", {"city": "Ulm"})


def check_chat(output):
    assert choice(output)["message"]["content"] == TOKEN
    assert json.loads(output)["seed"] is not None and json.loads(output)["system_fingerprint"]


def same(actual, expected):
    assert actual == expected


CHECKS = {
    "Models": lambda out: same([model["id"] for model in json.loads(out)["data"]], ["sim"]),
    "Chat": check_chat,
    "Stream": check_stream,
    "Text of a stream": lambda out: same(out, TOKEN),
    "Tools": check_tools,
    "Result of a tool": lambda out: same(choice(out)["message"]["content"], "It is 21.5 degrees."),
    "Completion": lambda out: same(json.loads(out)["usage"]["completion_tokens"], 8),
    "Tokenize": lambda out: same(len(json.loads(out)["tokens"]) > 10, True),
    "Detokenize": lambda out: same(json.loads(out)["prompt"], "What"),
    "Retry when busy": lambda out: same(choice(out)["message"]["content"], TOKEN),
    "Health": lambda out: None,
}


def test_every_command_is_checked():
    assert re.findall(r"^## (.*)$", (ROOT / README).read_text(), re.M) == list(CHECKS)


@pytest.mark.parametrize("heading", CHECKS)
def test_the_command_works(heading, base):
    CHECKS[heading](run(heading, base))


def test_curl_comes_back_when_the_gateway_says(base):
    times = []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            times.append(time.monotonic())
            self.rfile.read(int(self.headers["Content-Length"]))
            busy = len(times) == 1
            body = json.dumps({"choices": [{"message": {"content": "later"}}]}).encode()
            self.send_response(429 if busy else 200)
            if busy:
                self.send_header("Retry-After", "2")
                body = b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *unused):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        output = run("Retry when busy", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert choice(output)["message"]["content"] == "later"
    assert len(times) == 2 and times[1] - times[0] >= 1.9  # after 1 s if the header is not heeded


def test_an_incomplete_stream_is_an_error(base):
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n')

        def log_message(self, *unused):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(AssertionError, match="half(.|\n)*not complete"):
            run("Text of a stream", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
