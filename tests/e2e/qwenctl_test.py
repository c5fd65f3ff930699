"""The command line, as scripts and people use it."""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import termios
import time
import urllib.request

import pytest

from server_process import BIN, DEMO_MODEL, ROOT

QWENCTL = BIN / "qwenctl"


def run(*arguments, **options):
    words = [word if isinstance(word, bytes) else str(word) for word in arguments]
    return subprocess.run([QWENCTL, *words], capture_output=True, text=True,
                          timeout=120, **options)


@pytest.fixture
def at(shared_cluster):
    def call(command, *arguments, **options):
        return run(command, "--address", shared_cluster.gateway.address, *arguments, **options)
    return call


def test_complete_prints_the_stable_json(at):
    result = at("complete", "--prompt", "qwenserve is", "--max-tokens", 8, "--temperature", 0,
                "--ignore-eos", "--output", "json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert len(answer["token_ids"]) == 8
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens"] > 0
    assert isinstance(answer["text"], str)


def test_complete_takes_token_ids_and_a_seed(at):
    ids = json.loads(at("tokenize", "--text", "the", "--output", "json").stdout)
    arguments = ("complete", "--token-ids", ",".join(map(str, ids)), "--max-tokens", 12,
                 "--temperature", 1.3, "--top-p", 0.9, "--top-k", 50, "--seed", 5, "--ignore-eos",
                 "--output", "json")
    first, second = json.loads(at(*arguments).stdout), json.loads(at(*arguments).stdout)
    assert first["token_ids"] == second["token_ids"]
    assert first["seed"] == 5


def test_logprobs_are_printed_on_request(at):
    flags = ("--prompt", "qwenserve is", "--max-tokens", 3, "--temperature", 0, "--logprobs", 2)
    answer = json.loads(at("complete", *flags, "--prompt-logprobs", 0, "--output", "json").stdout)
    assert [token["id"] for token in answer["logprobs"]] == answer["token_ids"]
    assert all(len(token["top"]) == 2 and token["logprob"] <= 0 for token in answer["logprobs"])
    assert "".join(token["token"] for token in answer["logprobs"]) == answer["text"]
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"] - 1
    text = at("complete", *flags)
    assert text.stdout.strip() == answer["text"].strip()
    assert text.stderr.count(" | ") == 6


def test_several_answers_are_told_apart(at):
    flags = ("complete", "--prompt", "qwenserve is", "--max-tokens", 6, "--temperature", 1.5, "--seed", 3, "--ignore-eos")
    one = json.loads(at(*flags, "--output", "json").stdout)
    answer = json.loads(at(*flags, "--n", 3, "--logprobs", 0, "--output", "json").stdout)
    choices = answer["choices"]
    assert len(choices) == 3 and len({tuple(choice["token_ids"]) for choice in choices}) == 3
    assert choices[0]["text"] == answer["text"] == one["text"] and "choices" not in one
    assert all(len(choice["token_ids"]) == len(choice["logprobs"]) == 6 for choice in choices)
    assert {choice["finish_reason"] for choice in choices} == {"length"}
    assert answer["usage"]["completion_tokens"] == 18
    text = at(*flags, "--n", 3)
    parts = re.split(r"--- answer (\d) of 3, length\n", text.stdout)
    assert parts[1::2] == ["1", "2", "3"]
    assert [part.removesuffix("\n") for part in parts[2::2]] == [choice["text"] for choice in choices]
    assert text.stderr.startswith("[18 tokens")


def test_biases_choose_tokens(at):
    flags = ("complete", "--prompt", "qwenserve is", "--max-tokens", 3, "--temperature", 0, "--ignore-eos",
             "--output", "json")
    free = json.loads(at(*flags).stdout)["token_ids"]
    kept_out = ",".join(f"{token}=-100" for token in free)
    assert not set(free) & set(json.loads(at(*flags, "--logit-bias", kept_out).stdout)["token_ids"])
    wanted = next(token for token in range(100, 200) if token not in free)
    assert json.loads(at(*flags, "--logit-bias", f"{wanted}=100").stdout)["token_ids"] == [wanted] * 3
    for wrong in ("7", "=5", "x=5", "7=x", "-1=5"):
        assert at(*flags, "--logit-bias", wrong).returncode == 2, wrong
    too_far = at(*flags, "--logit-bias", "7=101")
    assert too_far.returncode == 4 and "logit_bias[7]" in too_far.stderr


def test_an_answer_has_at_least_min_tokens(at):
    flags = ("chat", "--message", "What is qwenserve?", "--temperature", 0, "--max-tokens", 200, "--output", "json")
    short = json.loads(at(*flags).stdout)
    assert short["finish_reason"] == "stop"
    least = len(short["token_ids"]) + 3
    longer = json.loads(at(*flags, "--min-tokens", least).stdout)
    assert len(longer["token_ids"]) >= least
    assert at(*flags, "--min-tokens", 201).returncode == 4


def test_chat_prints_the_answer_and_the_speed_apart(at):
    result = at("chat", "--message", "What is qwenserve?", "--temperature", 0)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "first token" in result.stderr
    as_json = json.loads(at("chat", "--message", "What is qwenserve?", "--temperature", 0,
                            "--output", "json").stdout)
    assert as_json["text"] == result.stdout.rstrip("\n")
    assert as_json["finish_reason"] == "stop"


def test_chat_reads_its_question_from_a_pipe(at):
    result = at("chat", "--temperature", 0, input="What is qwenserve?")
    assert result.returncode == 0 and result.stdout.strip()


@pytest.mark.parametrize("question", ["", " \n"])
def test_chat_asks_nothing_when_the_pipe_is_empty(at, question):
    result = at("chat", input=question)
    assert result.returncode == 2 and "standard input is empty" in result.stderr
    assert result.stdout == ""


def test_tokenize_file_gives_one_array_per_line(at, tmp_path):
    texts = ["hello", "你好，世界", "a\nb", "", "<|im_start|>"]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(text) + "\n" for text in texts))
    result = at("tokenize", "--input-file", file, "--output", "json")
    ids = json.loads(result.stdout)
    assert len(ids) == len(texts) and ids[3] == []
    for text, line in zip(texts, ids):
        if line:
            back = at("detokenize", "--token-ids", ",".join(map(str, line)), "--output", "json")
            assert json.loads(back.stdout)["text"] == text


def test_models_and_status_describe_the_server(at):
    assert json.loads(at("models", "--output", "json").stdout)[0]["id"] == "demo"
    status = json.loads(at("status", "--output", "json").stdout)
    assert status["serving"] is True and status["models"][0]["ready_replicas"] == 1
    assert re.fullmatch(r"cpu \(\w+\), weights bf16, KV cache bf16, tp \d",
                        status["models"][0]["held_as"][0])
    assert status["models"][0]["held_as"][0] in at("models").stdout
    assert "SERVING" in at("status").stdout


def test_version_and_doctor_need_no_server():
    assert run("version").stdout.startswith("qwenctl ")
    assert run("--version").stdout == run("version").stdout
    result = run("doctor", DEMO_MODEL, "--output", "json")
    findings = {finding["check"]: finding for finding in json.loads(result.stdout)}
    assert result.returncode == 0, result.stdout
    assert findings["model"]["level"] == "ok"
    assert {"port 50051", "port 8080", "port 9090"} <= findings.keys()
    assert re.match(r"\w+, numerics cpu-", findings["kernels"]["text"])


def test_doctor_names_what_is_wrong_with_a_model(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    result = run("doctor", tmp_path)
    assert result.returncode == 1
    assert "LlamaForCausalLM" in result.stdout


def test_doctor_tells_the_memory_of_gpus_from_a_configuration_alone(tmp_path):
    config = {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 8192, "num_hidden_layers": 80,
              "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 29568,
              "vocab_size": 152064, "max_position_embeddings": 32768}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    result = run("doctor", tmp_path, "--json", "--max-model-len", 4096)
    assert result.returncode == 0, result.stdout
    findings = {finding["check"]: finding for finding in json.loads(result.stdout)}
    assert "without weights" in findings["model"]["text"]
    memory = findings["gpu memory"]["memory"]
    assert memory["max_model_len"] == 4096
    rows = {(row["tp"], row["weights"], row["kv"]): row for row in memory["rows"]}
    assert len(rows) == 4 * 3 * 2
    fits = {key: [card["gigabytes"] for card in row["cards"] if card["fits"]]
            for key, row in rows.items()}
    assert fits[1, "bf16", "bf16"] == [] and fits[2, "bf16", "bf16"] == [80, 141]
    assert fits[1, "int4", "bf16"] == [48, 80, 141] and fits[8, "int4", "int8"][0] == 24
    one, four = rows[1, "int8", "int8"], rows[4, "int8", "int8"]
    assert 3.9 < one["weight_bytes"] / four["weight_bytes"] < 4.1
    assert one["kv_bytes_per_token"] == 4 * four["kv_bytes_per_token"] == 80 * 8 * 2 * (128 + 4)

    text = run("doctor", file)
    assert text.returncode == 0
    assert re.search(r"^  2 +bf16 +bf16 +6\d\.\d\d ", text.stdout, re.MULTILINE)
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
    file.write_text(json.dumps(config | {"quantization_config": quantised}))
    text = run("doctor", file).stdout
    assert "GPTQ int4" in text and "  1   int8" not in text


def test_doctor_and_serve_follow_what_config_says_of_a_model(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    template = model / "tokenizer_config.json"
    template.write_text(template.read_text().replace("im_start", "im_begin"))
    doctor = run("doctor", model)
    assert doctor.returncode == 0 and "--chat-template" in doctor.stdout
    assert re.search(r"ok +weights .* with --weights int4", doctor.stdout)
    serve = Serve(model, "--chat-template", "qwen2")
    try:
        models = json.loads(run("models", "--address", serve.address, "--output", "json").stdout)
        assert models[0]["chat_template"] == "qwen2"
    finally:
        serve.process.terminate()
        serve.process.wait(40)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 640}))
    doctor = run("doctor", model)
    assert doctor.returncode == 1
    assert re.search(r"problem +weights .*gate_proj", doctor.stdout)


@pytest.mark.parametrize("role, flag, default", [
    ("gateway", "listen", "127.0.0.1:50051"), ("tokenizer", "drain-delay", "10"),
    ("generator", "kv-dtype", "bf16")])
def test_a_server_tells_its_defaults(role, flag, default):
    text, values = (
        subprocess.run([BIN / f"qwenserve-{role}", argument], capture_output=True, text=True,
                       timeout=120, check=True).stdout for argument in ("--help", "--print-config"))
    assert f"--{flag} TEXT={default}" in text
    assert str(json.loads(values)[flag]).startswith(default)


def test_a_bad_config_file_is_told_in_plain_words(tmp_path):
    (tmp_path / "config.json").write_text("{bad")
    result = subprocess.run([BIN / "qwenserve-generator", "--config", tmp_path / "config.json"],
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "config.json: bad JSON: byte 2: parse error at line 1, column 2" in result.stderr


def test_a_server_says_that_its_model_directory_is_missing(tmp_path):
    for role in "tokenizer", "generator":
        result = subprocess.run(
            [BIN / f"qwenserve-{role}", "--model", tmp_path / "missing", "--listen", "127.0.0.1:0",
             "--ops-listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=120)
        assert result.returncode == 1 and "missing: no such model directory" in result.stderr


def test_exit_status_tells_kinds_of_failure(at):
    assert run("complete").returncode == 2
    assert run("nonsense").returncode == 2
    assert run("--help").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    unreachable = run("models", "--address", nobody, "--timeout", 5)
    assert unreachable.returncode == 3 and nobody in unreachable.stderr
    refused = at("complete", "--prompt", "x", "--model", "other")
    assert refused.returncode == 4 and "other" in refused.stderr and not refused.stdout.strip()
    assert at("complete", "--prompt", "x", "--top-p", 7).returncode == 4
    late = at("complete", "--prompt", "the", "--max-tokens", 800, "--ignore-eos", "--timeout", 0.05)
    assert late.returncode == 5


def test_models_and_status_look_at_the_model_asked_for(at):
    for command in "models", "status":
        assert at(command, "--model", "demo").returncode == 0
        other = at(command, "--model", "other")
        assert other.returncode == 4 and "'other' is not served here" in other.stderr


@pytest.mark.parametrize("arguments, complaint", [
    (("complete", "--prompt", b"a\xff"), "not valid UTF-8 at byte 1"),
    (("chat", "--message", b"\xe4\xb8"), "not valid UTF-8 at byte 0"),
    (("tokenize", "--text", b"\xff"), "not valid UTF-8 at byte 0"),
    (("detokenize", "--token-ids", ""), "needs an id"),
    (("complete", "--token-ids", "", "--max-tokens", "1"), "needs an id"),
    (("tokenize", "--input-file", "/"), "directory"),
    (("models", "--address", "127.0.0.1:99999"), "'127.0.0.1:99999' is not HOST:PORT"),
    (("models", "--address", "nonsense"), "'nonsense' is not HOST:PORT"),
    (("models", "--address", "http://127.0.0.1:8080/v1"), "HOST:PORT without a scheme is wanted, such as 127.0.0.1:8080"),
    (("top", "--address", "127.0.0.1:1", "--ops-address", "9090"), "'9090' is not HOST:PORT"),
])
def test_bad_arguments_are_told_before_anything_is_sent(at, arguments, complaint):
    result = (run if "--address" in arguments else at)(*arguments)
    assert result.returncode == 2 and complaint in result.stderr and not result.stdout


def test_a_question_from_a_pipe_must_be_text(shared_cluster):
    result = subprocess.run([QWENCTL, "chat", "--address", shared_cluster.gateway.address],
                            input=b"a\xff", capture_output=True, timeout=120)
    assert result.returncode == 2 and b"not valid UTF-8 at byte 1" in result.stderr


def test_a_bad_line_of_an_input_file_is_named(at, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('"good"\nbad\n')
    result = at("tokenize", "--input-file", file)
    assert result.returncode == 1 and f"{file}:2: not a JSON string" in result.stderr


class Terminal:
    """A program that opens a chat, on a terminal of its own."""

    def __init__(self, *command, kind="dumb"):
        self.seen = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(command[0], [str(word) for word in command],
                      dict(os.environ, TERM=kind, QWENSERVE_BUILD=str(BIN.parent)))
        self.wait_for(b"(/help for commands)")
        self.wait_for_prompt()

    def wait_for(self, text):
        """Reads until `text` has come, and forgets what stood before its end."""
        deadline = time.monotonic() + 250
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 1)[0]:
                self.seen += os.read(self.master, 4096)
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, keys):
        os.write(self.master, keys)

    def wait_for_prompt(self):
        """The prompt comes before the line editor has the terminal; until then keys are lost."""
        self.wait_for(b"> ")
        deadline = time.monotonic() + 60
        while termios.tcgetattr(self.master)[3] & termios.ICANON:
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.01)

    def end(self, keys=b"\x04"):
        """Leaves by Ctrl-D or other keys; returns the exit status."""
        self.type(keys)
        deadline = time.monotonic() + 60
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid != 0:
                break
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.05)
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)


def test_ctrl_c_at_the_prompt_drops_what_was_typed(shared_cluster):
    terminal = Terminal(QWENCTL, "chat", "--address", shared_cluster.gateway.address)
    terminal.type(b"dropped")
    terminal.wait_for(b"dropped")
    terminal.type(b"\x03")
    terminal.wait_for(b"Ctrl-D leaves)")
    terminal.wait_for_prompt()
    terminal.type("你好\r".encode())
    terminal.wait_for(b"first token")
    terminal.wait_for_prompt()
    terminal.type(b"/history\r")
    history = terminal.wait_for(b"model: ")
    assert "you: 你好".encode() in history and b"dropped" not in history
    terminal.wait_for_prompt()
    assert terminal.end() == 0


def test_what_is_pasted_is_one_message(shared_cluster, tmp_path):
    file = tmp_path / "chat.json"
    terminal = Terminal(QWENCTL, "chat", "--address", shared_cluster.gateway.address, kind="xterm")
    terminal.type("~so: \x1b[200~one\rtwo ~\n\x07你好\x1b[201~, three\r".encode())
    terminal.wait_for(b"first token")
    terminal.wait_for_prompt()
    terminal.type(f"/save {file}\r".encode())
    terminal.wait_for(b"saved 2 messages")
    terminal.wait_for_prompt()
    assert json.loads(file.read_text())["messages"][0]["content"] == "~so: one\ntwo ~\n你好, three"
    assert terminal.end() == 0


def test_a_chat_is_answered_anew_edited_saved_and_loaded(shared_cluster, tmp_path):
    file = tmp_path / "chat.json"
    terminal = Terminal(QWENCTL, "chat", "--address", shared_cluster.gateway.address)

    def command(keys, seen):
        terminal.type(keys.encode() + b"\r")
        before = terminal.wait_for(seen)
        terminal.wait_for_prompt()
        return before

    command("/again", b"no answer yet")
    command("/edit hello", b"no message yet")
    command("/continue", b"no answer yet")
    command("/set max-tokens 5", b"set")
    command("What is qwenserve?", b", length]")
    command(f"/save {file}", b"saved 2 messages")
    first = json.loads(file.read_text())
    assert [m["role"] for m in first["messages"]] == ["user", "assistant"]
    assert first["settings"] == {"max_tokens": 5} and first["title"] == "What is qwenserve?"
    # Greedy: what is cut, and goes on, is what comes at once without the limit.
    command("/set max-tokens default", b"set")
    command("/continue", b", stop]")
    command(f"/save {file}", b"saved 2 messages")
    whole = json.loads(file.read_text())["messages"][1]["content"]
    assert whole.startswith(first["messages"][1]["content"]) and len(whole) > len(first["messages"][1]["content"])
    assert whole in command("/again", b"stop]").decode().replace("\r\n", "\n")
    command("/edit What is a tokenizer worker?", b"stop]")
    command("/set temperature 0.7", b"set")
    command("/system Be kind.", b"system message set")
    command("again from the start", b"stop]")
    command(f"/save {file}", b"saved 3 messages")
    saved = json.loads(file.read_text())
    assert saved["settings"] == {"temperature": 0.7, "system": "Be kind."}
    # As the chat page exports it: a list.
    saved["messages"][0]["content"] = "typed elsewhere"
    saved["settings"] = {"seed": 7, "thinking": "off"}
    file.write_text(json.dumps([saved]))
    shown = command(f"/load {file}", b"seed: 7")
    assert b"typed elsewhere" in shown and b"thinking: off" in shown and b"Be kind" not in shown
    command("/set thinking default", b"set")
    file.write_text('{"messages": [{"role": "robot"}]}')
    command(f"/load {file}", b"role is 'robot'")
    assert b"typed elsewhere" in command("/history", b"model: ")
    assert terminal.end() == 0


def test_the_address_comes_from_the_environment(shared_cluster):
    environment = dict(os.environ, QWENSERVE_ADDRESS=shared_cluster.gateway.address)
    assert run("models", env=environment).returncode == 0


@pytest.mark.parametrize("flag", ["--port", "--http-port", "--ops-port"])
def test_serve_names_a_busy_port_before_it_loads(flag):
    others = [other for other in ["--port", "--http-port", "--ops-port"] if other != flag]
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        result = run("serve", flag, port, others[0], 0, others[1], 0)
    assert result.returncode == 1
    assert f"{flag} {port}: " in result.stderr and "in use" in result.stderr
    assert "[tokenizer]" not in result.stderr


class Serve:
    """qwenctl serve, started and understood."""

    def __init__(self, *flags, program=QWENCTL, sizes=("--kv-cache-memory", "64M"), log_level="warn"):
        self.process = subprocess.Popen(
            [program, "serve", "--port", "0", "--http-port", "0", "--ops-port", "0",
             *sizes, "--log-level", log_level, *map(str, flags)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().split()[-1]
        self.children = {}
        self.ops = {}
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            words = line.split()
            if len(words) == 6 and words[2] == "ops" and words[4] == "pid":
                self.children[words[0]] = int(words[5])
                self.ops[words[0]] = words[3]
            if line.startswith("ready"):
                break


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pids):
    deadline = time.monotonic() + 60
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if alive(pid)]
        time.sleep(0.05)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_serve_answers_and_leaves_no_process_behind(number, status):
    serve = Serve("--tp", 2, "--tp-mode", "processes")
    assert set(serve.children) == {"gateway", "tokenizer", "generator"}
    answer = run("chat", "--address", serve.address, "--message", "What is qwenserve?")
    assert answer.returncode == 0 and answer.stdout.strip()
    serve.process.send_signal(number)
    assert serve.process.wait(40) == status
    wait_gone(serve.children.values())


def test_serve_says_how_to_end_at_once():
    serve = Serve()
    serve.process.send_signal(signal.SIGINT)
    assert "Ctrl-C again ends all at once" in serve.process.communicate(timeout=60)[1]
    assert serve.process.returncode == 0


def test_replicas_size_their_kv_caches_themselves():
    serve = Serve("--replicas", 2, sizes=(), log_level="info")
    serve.process.send_signal(signal.SIGINT)
    serve.process.communicate(timeout=60)
    assert len(re.findall(r"KV cache: .*\(what \d+ sequences of \d+ tokens need\)", serve.log)) == 2, serve.log
    assert "as told" not in serve.log


def test_serve_hands_flags_to_its_generators_and_tells_where_their_metrics_are():
    fingerprints = []
    for flags in (), ("--weights", "int8", "--kv-dtype", "int8", "--prefix-cache", "off"):
        serve = Serve(*flags)
        try:
            models = run("models", "--address", serve.address, "--output", "json")
            fingerprints.append(json.loads(models.stdout)[0]["fingerprints"])
            prompt = ",".join(["1"] * 100)
            for _ in range(2):
                assert run("complete", "--address", serve.address, "--token-ids", prompt,
                           "--max-tokens", 1).returncode == 0
            with urllib.request.urlopen(f"http://{serve.ops['generator']}/metrics") as reply:
                cached = re.search(r"^qwenserve_prefix_cache_hit_tokens_total\S* (\S+)$",
                                   reply.read().decode(), re.MULTILINE)
            assert (float(cached[1]) > 0) == (not flags)
        finally:
            serve.process.terminate()
            serve.process.wait(40)
    assert fingerprints[0] != fingerprints[1]
    result = run("serve", "--weights", "int3", "--port", 0, "--http-port", 0, "--ops-port", 0)
    assert result.returncode == 1
    assert "--weights: 'int3' is not one of" in result.stderr


def test_serve_starts_a_killed_worker_again():
    serve = Serve()
    try:
        os.kill(serve.children["generator"], signal.SIGKILL)
        deadline = time.monotonic() + 30
        while run("complete", "--address", serve.address, "--prompt", "x", "--max-tokens", 1,
                  "--timeout", 5).returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        serve.process.terminate()
        serve.process.wait(40)


def test_serve_ends_while_a_worker_starts_again(tmp_path):
    """A large model loads for minutes, and nobody waits for that to be let out."""
    shutil.copy(QWENCTL, tmp_path)
    for role in ("gateway", "tokenizer"):
        (tmp_path / f"qwenserve-{role}").symlink_to(BIN / f"qwenserve-{role}")
    generator = tmp_path / "qwenserve-generator"
    generator.write_text(f"#!/bin/sh\n[ -e {tmp_path}/again ] && exec sleep 600\n"
                         f"touch {tmp_path}/again\nexec {BIN}/qwenserve-generator \"$@\"\n")
    generator.chmod(0o755)
    serve = Serve(DEMO_MODEL, program=tmp_path / "qwenctl")
    try:
        os.kill(serve.children["generator"], signal.SIGKILL)
        assert any("starting it again" in line for line in serve.process.stderr)
        serve.process.send_signal(signal.SIGINT)
        assert serve.process.wait(40) == 0
        wait_gone(serve.children.values())
    finally:
        serve.process.kill()


def test_serve_says_what_is_wrong_with_a_model(tmp_path):
    missing = run("serve", tmp_path / "missing", "--port", 0, "--http-port", 0, "--ops-port", 0)
    assert missing.returncode == 2 and "missing" in missing.stderr
    result = run("serve", tmp_path, "--port", 0, "--http-port", 0, "--ops-port", 0)
    assert result.returncode == 1
    assert f"{tmp_path}: " in result.stderr and "tokenizer.json" in result.stderr


def test_demo_answers_once_and_stops(at):
    environment = dict(os.environ, QWENSERVE_BUILD=str(BIN.parent))
    result = subprocess.run([ROOT / "tools" / "demo", "--once", "What is qwenserve?"],
                            capture_output=True, text=True, timeout=250, env=environment)
    assert result.returncode == 0, result.stderr
    assert "first token" in result.stderr and "demo: gateway at" in result.stderr
    # The answer alone.
    assert result.stdout == at("chat", "--message", "What is qwenserve?").stdout


def test_demo_ends_well_after_ctrl_c_in_its_chat():
    terminal = Terminal(ROOT / "tools" / "demo")
    terminal.type(b"\x03")
    terminal.wait_for(b"Ctrl-D leaves)")
    terminal.wait_for_prompt()
    terminal.type(b"hello\r")
    # During the answer the key is a signal, to the script too.
    terminal.wait_for(b"hello")
    terminal.type(b"\x03")
    terminal.wait_for_prompt()
    # The answer may have ended before Ctrl-C came: then there is one prompt more, between whose
    # editors Ctrl-D would be lost.
    assert terminal.end(b"/exit\r") == 0
