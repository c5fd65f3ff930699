"""qwenctl quantize and qwenctl perplexity, as scripts and people use them."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from server_process import BIN, DEMO_MODEL, ROOT

sys.path.insert(0, str(ROOT / "tests" / "demo_model"))

from dialogue_text import dialogue_text  # noqa: E402

QWENCTL = BIN / "qwenctl"


def run(*arguments):
    return subprocess.run([QWENCTL, *map(str, arguments)], capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Calibration text, and other text of the same kind to judge by."""
    folder = tmp_path_factory.mktemp("texts")
    for name, size, seed in (("calibration", 60000, 1), ("held_out", 20000, 2)):
        (folder / name).write_text(dialogue_text(size, seed), encoding="utf-8")
    return folder


def quantize(texts, out, *flags, model=DEMO_MODEL):
    return run("quantize", model, out, "--calibration", texts / "calibration",
               "--sequence-length", 256, *flags)


def perplexity(texts, model, *flags):
    result = run("perplexity", model, texts / "held_out", "--output", "json", *flags)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def int4(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("int4") / "model"
    result = quantize(texts, out, "--bits", 4)
    assert result.returncode == 0, result.stderr
    return out, result


def test_quantize_tells_its_progress_and_writes_a_whole_model(int4):
    out, result = int4
    lines = result.stderr.splitlines()
    assert lines[0].startswith("calibration: ") and "of 256 tokens" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == [str(layer) for layer in (1, 2, 3, 4) for _ in range(4)]
    assert "q_proj, k_proj, v_proj" in lines[1] and "error" in lines[1] and "left" in lines[1]
    assert "4 bits, group 128" in result.stdout
    assert {path.name for path in out.iterdir()} == {
        "config.json", "quantize_config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json"}
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "gptq"
    header = (out / "model.safetensors").read_bytes()
    names = json.loads(header[8:8 + int.from_bytes(header[:8], "little")])
    module = "model.layers.3.mlp.down_proj"
    assert names[f"{module}.qweight"]["shape"] == [512 // 8, 256]
    assert names[f"{module}.qzeros"]["shape"] == [4, 256 // 8]
    assert names[f"{module}.scales"] == {"dtype": "F16", "shape": [4, 256],
                                         "data_offsets": names[f"{module}.scales"]["data_offsets"]}
    assert names["model.layers.0.self_attn.q_proj.bias"]["dtype"] == "BF16"
    assert "model.layers.0.mlp.up_proj.bias" not in names


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_is_nearer_to_the_original_than_rounding_while_loading(texts, tmp_path, int4, bits):
    out = int4[0]
    if bits == 8:
        out = tmp_path / "int8"
        assert quantize(texts, out, "--bits", 8).returncode == 0
    gptq = perplexity(texts, out, "--against", DEMO_MODEL)
    nearest = perplexity(texts, DEMO_MODEL, "--weights", f"int{bits}", "--against", DEMO_MODEL)
    assert gptq["weights"] == nearest["weights"] == f"int{bits}"
    assert gptq["mean_kl"] < 0.8 * nearest["mean_kl"]


def test_perplexity_of_a_model_against_itself(texts):
    result = perplexity(texts, DEMO_MODEL, "--against", DEMO_MODEL, "--sequence-length", 100)
    assert result["mean_kl"] == 0 and result["same_top"] == 1
    assert result["perplexity"] == result["against"]["perplexity"] > 1
    assert result["weights"] == "bf16" and result["kv_cache"] == "bf16"
    result = perplexity(texts, DEMO_MODEL, "--against", DEMO_MODEL, "--sequence-length", 100,
                        "--kv-dtype", "int8", "--against-kv-dtype", "f32")
    assert result["kv_cache"] == "int8" and result["against"]["kv_cache"] == "f32"
    assert 0 < result["mean_kl"] < 0.1
    text = run("perplexity", DEMO_MODEL, texts / "held_out", "--max-tokens", 300)
    assert text.returncode == 0
    assert text.stdout.startswith("perplexity ") and "299 in windows of 512" in text.stdout


def test_names_of_control_tokens_in_the_text_are_control_tokens(tmp_path):
    file = tmp_path / "one"
    file.write_text("<|im_start|>user\n<|im_end|>")  # four tokens, three of them predicted
    result = run("perplexity", DEMO_MODEL, file, "--output", "json")
    assert json.loads(result.stdout)["tokens"] == 3


@pytest.mark.parametrize("flags, status, message", [
    (["--bits", "3"], 2, "--bits"),
    (["--group-size", "100"], 2, "--group-size"),
    (["--sequence-length", "4096"], 4, "--sequence-length is 4096, but the model has 2048"),
    (["--calibration", "/no/such/file"], 4, "/no/such/file"),
])
def test_quantize_refuses_wrong_arguments(texts, tmp_path, flags, status, message):
    arguments = ["quantize", DEMO_MODEL, tmp_path / "out"]
    if "--calibration" not in flags:
        arguments += ["--calibration", texts / "calibration"]
    result = run(*arguments, *flags)
    assert result.returncode == status
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_quantize_asks_for_enough_text(tmp_path):
    short = tmp_path / "short"
    short.write_text("What is qwenserve?")
    result = run("quantize", DEMO_MODEL, tmp_path / "out", "--calibration", short)
    assert result.returncode == 4
    assert "fewer than one piece of 512; give more text" in result.stderr


def test_quantize_leaves_a_folder_that_is_there_alone(texts, tmp_path):
    (tmp_path / "out").mkdir()
    result = quantize(texts, tmp_path / "out")
    assert result.returncode == 4
    assert "exists" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_quantize_refuses_a_quantized_model(texts, tmp_path, int4):
    result = quantize(texts, tmp_path / "twice", model=int4[0])
    assert result.returncode == 4
    assert "gptq" in result.stderr.lower()


def test_ctrl_c_leaves_nothing_behind(texts, tmp_path):
    process = subprocess.Popen(
        [QWENCTL, "quantize", DEMO_MODEL, tmp_path / "out", "--calibration", texts / "calibration",
         "--sequence-length", "64"], stderr=subprocess.PIPE, text=True)
    while not process.stderr.readline().startswith("layer 1"):
        assert process.poll() is None
    assert [path.name for path in tmp_path.iterdir()] == ["out.incomplete"]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.stderr.close()
    assert list(tmp_path.iterdir()) == []


def test_perplexity_refuses_another_tokenizer(texts, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(DEMO_MODEL, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"][0]["content"] = "<|renamed|>"
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    result = run("perplexity", DEMO_MODEL, texts / "held_out", "--against", other)
    assert result.returncode == 4
    assert "another tokenizer" in result.stderr
