"""qwenctl with gateways that ask for keys, for TLS, or for both, and with those that fail."""

import json
import os
import re
import socket
import subprocess
import time

import grpc
import pytest

from authority import Authority
from fake_gateway import abort, fake_gateway
from security import key_line, write_keys
from server_process import BIN

KEY = "key-of-team-a"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("QWENSERVE_")}
ONE_ANSWER = ("--max-tokens", 4)
ONE_LOAD = ("--num-requests", 4, "--concurrency", 2, "--prompt-tokens", 8, "--max-tokens", 4)
# Every command that talks to a gateway's API, with what it needs.
COMMANDS = {
    "chat": ("--message", "Hello", *ONE_ANSWER),
    "complete": ("--prompt", "Hello", *ONE_ANSWER),
    "tokenize": ("--text", "Hello"),
    "detokenize": ("--token-ids", "1,2"),
    "models": (),
    "status": (),
    "bench": ONE_LOAD,
}


def qwenctl(command, *arguments, **environment):
    return subprocess.run([BIN / "qwenctl", command, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, env={**ENVIRONMENT, **environment})


def good(command, *arguments, **environment):
    result = qwenctl(command, *arguments, "--output", "json", **environment)
    assert result.returncode == 0, (command, result.stderr)
    assert "warning" not in result.stderr
    return json.loads(result.stdout)


def fails(status, hint, command, *arguments, **environment):
    result = qwenctl(command, *arguments, **environment)
    assert result.returncode == status and hint in result.stderr, (command, result.returncode, result.stderr)
    assert KEY not in result.stderr
    return result.stderr


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path / "ca", "ours")


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path / "keys", key_line(KEY, "team-a"))


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    return path


@pytest.fixture
def secured(sim_cluster, ca, keys):
    cert, key = ca.issue("gateway", "DNS:gateway.test,IP:127.0.0.1")
    return sim_cluster(gateway_flags=("--api-keys", keys, "--tls-cert", cert, "--tls-key", key)).gateway


def test_all_commands_reach_a_gateway_with_keys_and_tls(secured, ca, key_file):
    where = ("--address", secured.address, "--tls-ca", ca.cert)
    answers = {command: good(command, *where, "--api-key-file", key_file, *needs)
               for command, needs in COMMANDS.items()}
    assert answers["chat"]["token_ids"] and answers["complete"]["token_ids"] and answers["tokenize"]
    assert answers["models"][0]["id"] == answers["status"]["models"][0]["id"] == "sim"
    assert answers["status"]["serving"] is True
    # The other ways to give a key and the rest: the environment, and for all to see.
    environment = {"QWENSERVE_ADDRESS": secured.address, "QWENSERVE_CLIENT_TLS_CA": str(ca.cert)}
    for command, needs in COMMANDS.items():
        good(command, *needs, QWENSERVE_API_KEY=KEY, **environment)
    good("models", *where, "--api-key", KEY)
    good("models", *where, "--api-key", KEY, QWENSERVE_API_KEY="another")
    good("models", *where, "--api-key-file", key_file, QWENSERVE_API_KEY="another")
    # The name in the certificate need not be the address.
    good("models", *where, "--api-key-file", key_file, "--tls-server-name", "gateway.test")
    fails(3, "--tls-server-name", "models", *where, "--api-key-file", key_file, "--tls-server-name", "other.test")


def test_bench_over_https(secured, ca, key_file, tmp_path):
    def bench(*arguments):
        return ("bench", "--api", "http", "--address", secured.addresses["http"], *arguments, *ONE_LOAD)

    report = good(*bench("--tls-ca", ca.cert, "--api-key-file", key_file))
    assert report["succeeded"] == 4, report
    good(*bench("--tls-ca", ca.cert, "--api-key-file", key_file, "--tls-server-name", "gateway.test", "--chat"))
    stranger = Authority(tmp_path / "other", "other")
    fails(3, "--tls-server-name", *bench("--tls-ca", stranger.cert, "--api-key-file", key_file))
    fails(3, "--tls-server-name",
          *bench("--tls-ca", ca.cert, "--api-key-file", key_file, "--tls-server-name", "other.test"))
    fails(4, "--api-key-file", *bench("--tls-ca", ca.cert))
    fails(3, "give --tls-ca", *bench("--api-key-file", key_file))
    fails(4, "--tls-ca", *bench("--tls-ca", key_file, "--api-key-file", key_file))


def test_clients_show_certificates(sim_cluster, ca):
    cert, key = ca.issue("gateway", "IP:127.0.0.1")
    gateway = sim_cluster(gateway_flags=("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca.cert)).gateway
    own = ca.issue("client", "DNS:client.test")
    pair = ("--tls-ca", ca.cert, "--tls-cert", own[0], "--tls-key", own[1])
    grpc, http = ("--address", gateway.address), ("--api", "http", "--address", gateway.addresses["http"])
    good("chat", *grpc, *pair, *COMMANDS["chat"])
    good("bench", *http, *pair, *ONE_LOAD)
    fails(3, "--tls-cert", "models", *grpc, "--tls-ca", ca.cert)
    fails(3, "--tls-cert", "bench", *http, "--tls-ca", ca.cert, *ONE_LOAD)
    for half in (("--tls-cert", own[0]), ("--tls-ca", ca.cert, "--tls-cert", own[0]),
                 ("--tls-ca", ca.cert, "--tls-key", own[1]), ("--tls-server-name", "x")):
        fails(2, "--tls-", "models", *grpc, *half)


def test_errors_name_the_flag(secured, sim_cluster, ca, key_file, tmp_path):
    where = ("--address", secured.address, "--tls-ca", ca.cert)
    for command, needs in COMMANDS.items():
        if command == "status":
            continue
        missing = fails(4, "--api-key-file", command, *where, *needs)
        assert "API_KEY_MISSING" in missing and "QWENSERVE_API_KEY" in missing
        fails(4, "QWENSERVE_API_KEY or --api-key", command, *where, *needs, QWENSERVE_API_KEY="wrong")
        # TLS where it is wanted, and not elsewhere.
        fails(3, "give --tls-ca", command, "--address", secured.address, "--api-key-file", key_file, *needs)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    fails(4, f"--api-key-file {wrong}", "models", *where, "--api-key-file", wrong)
    plain = sim_cluster().gateway.address
    for command, needs in COMMANDS.items():
        fails(3, "leave out --tls-ca", command, "--address", plain, "--tls-ca", ca.cert, *needs)
    stranger = Authority(tmp_path / "other", "other")
    fails(3, str(stranger.cert), "models", "--address", secured.address, "--tls-ca", stranger.cert)
    # No guess about TLS where nobody is.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = "127.0.0.1:%d" % taken.getsockname()[1]
    assert "--tls-ca" not in fails(3, "no gateway at", "models", "--address", nobody)


def test_files_that_are_no_use_are_named_with_their_flags(ca, tmp_path):
    nobody = ("models", "--address", "127.0.0.1:1")
    cert, key = ca.issue("client", "DNS:client.test")
    other = ca.issue("other", "DNS:other.test")
    pair = {"--tls-ca": ca.cert, "--tls-cert": cert, "--tls-key": key}
    for flag in pair:
        flags = {**pair, flag: tmp_path / "none"}
        fails(4, f"{flag} {tmp_path / 'none'}", *nobody, *(word for both in flags.items() for word in both))
    mixed = fails(4, f"--tls-key {other[1]}: its key belongs to another", *nobody, "--tls-ca", ca.cert, "--tls-cert",
                  cert, "--tls-key", other[1])
    assert mixed.count("\n") == 1  # nothing of gRPC's own
    fails(4, f"--tls-ca {key}", *nobody, "--tls-ca", key)


def test_a_key_that_sees_no_model_is_told(sim_cluster, tmp_path):
    keys = write_keys(tmp_path / "keys", key_line(KEY, "team-a", models=["other"]))
    address = sim_cluster(gateway_flags=("--api-keys", keys)).gateway.address
    for command in ("chat", "complete", "tokenize", "detokenize"):
        fails(4, f"this key sees no model at {address}", command, "--address", address, *COMMANDS[command],
              QWENSERVE_API_KEY=KEY)
    fails(0, f"this key sees no model at {address}", "models", "--address", address, QWENSERVE_API_KEY=KEY)


def test_keys_that_cannot_be_sent(tmp_path):
    path = tmp_path / "key"
    nobody = ("--address", "127.0.0.1:1")
    for text, problem in (("", "holds no API key"), (f"{KEY}\n{KEY}\n", "one line"), (f"{KEY}\0", "one line"),
                          (f"{KEY}é", "one line")):
        path.write_text(text)
        fails(4, problem, "models", *nobody, "--api-key-file", path)
    fails(4, "one line", "models", *nobody, QWENSERVE_API_KEY=f"{KEY}\nx")
    fails(4, f"--api-key-file {tmp_path / 'none'}", "models", *nobody, "--api-key-file", tmp_path / "none")
    fails(2, "--api-key-file", "models", *nobody, "--api-key-file", path, "--api-key", "x")
    assert KEY not in qwenctl("models", "--help", QWENSERVE_API_KEY=KEY).stdout


def test_a_key_in_the_clear_is_warned_of(sim_cluster, ca):
    # 192.0.2.0/24 is nobody's.
    away = ("models", "--address", "192.0.2.1:1", "--timeout", 0.1)
    warned = qwenctl(*away, QWENSERVE_API_KEY=KEY)
    assert "unencrypted" in warned.stderr and KEY not in warned.stderr
    for arguments, environment in ((away, {}), ((*away, "--tls-ca", ca.cert), {"QWENSERVE_API_KEY": KEY}),
                                   (("models", "--address", "127.0.0.1:1"), {"QWENSERVE_API_KEY": KEY}),
                                   (("models", "--address", "[::1]:1"), {"QWENSERVE_API_KEY": KEY}),
                                   (("models", "--address", "localhost:1"), {"QWENSERVE_API_KEY": KEY})):
        assert "unencrypted" not in qwenctl(*arguments, **environment).stderr, arguments


@pytest.mark.parametrize("word, meant", [("chta", "chat"), ("model", "models"), ("servee", "serve"), ("foo", None)])
def test_an_unknown_command_is_named(word, meant):
    result = qwenctl(word, "--address", "127.0.0.1:1")
    assert result.returncode == 2 and not result.stdout
    assert f"no command '{word}'" in result.stderr
    assert f"did you mean '{meant}'?" in result.stderr if meant else "did you mean" not in result.stderr


def test_a_refusal_tells_when_to_try_again(api):
    def stream_chat(request, context):
        abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", "QUOTA_EXCEEDED", retry_ms=11500)
        yield

    with fake_gateway(api, stream_chat=stream_chat) as address:
        result = qwenctl("chat", "--address", address, "--message", "x")
    assert result.returncode == 6 and "[QUOTA_EXCEEDED]; try again in 12 s\n" in result.stderr


def test_a_rate_is_told_only_where_it_was_measured(api):
    def chat(*pauses):
        def stream_chat(request, context):
            for pause in pauses:
                time.sleep(pause)
                yield api.StreamChatResponse(delta=api.ChatDelta(token_ids=[1, 2, 3], text="x"))

        with fake_gateway(api, stream_chat=stream_chat) as address:
            return qwenctl("chat", "--address", address, "--message", "x").stderr

    assert chat(0).startswith("[3 tokens, first token")
    assert re.match(r"\[6 tokens, \d+\.\d tokens/s, first token", chat(0, 2))


def test_a_lost_gateway_is_told_from_none(sim_cluster):
    cluster = sim_cluster(generator_flags=("--sim-step-ms", 20))
    process = subprocess.Popen([BIN / "qwenctl", "complete", "--address", cluster.gateway.address, "--prompt", "x",
                                "--max-tokens", "10000", "--ignore-eos"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(1)
    cluster.gateway.kill()
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 3
    assert "the answer broke off: lost the gateway at" in errors and "no gateway" not in errors


def test_top_without_metrics_names_the_flag(sim_cluster):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = qwenctl("top", "--address", sim_cluster().gateway.address, "--once", "--interval", 0.1, "--ops-address",
                     "127.0.0.1:%d" % free.getsockname()[1])
    assert result.returncode == 0 and "--ops-address HOST:PORT" in result.stderr
