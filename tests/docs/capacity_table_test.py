"""The capacity tables are what qwenctl says, and what it says is what the shapes of the models come to."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "docs"))

import capacity_table  # noqa: E402
from capacity_table import CONTEXT, GIB, MODELS  # noqa: E402


@pytest.fixture(scope="module")
def plans():
    return {model: capacity_table.plan(model) for model in MODELS}


def test_the_page_has_these_tables():
    text = capacity_table.PAGE.read_text()
    inside = text.split(capacity_table.BEGIN)[1].split(capacity_table.END)[0]
    assert inside == f"\n{capacity_table.tables()}\n", "run tools/docs/capacity_table.py"


def shape(model):
    config = capacity_table.released_configs.config(model)
    heads = config["num_attention_heads"]
    head = config.get("head_dim", config["hidden_size"] // heads)
    first_generation = model in capacity_table.released_configs.QWEN1
    return {"hidden": config["hidden_size"], "layers": config["num_hidden_layers"], "vocab": config["vocab_size"],
            "queries": heads * head, "kv": config.get("num_key_value_heads", heads) * head,
            "kv_heads": config.get("num_key_value_heads", heads),
            "ffn": config["intermediate_size"] // (2 if first_generation else 1),
            "tables": 1 if config["tie_word_embeddings"] else 2}


@pytest.mark.parametrize("model", MODELS)
def test_the_arithmetic_of_the_page(model, plans):
    """By hand, as docs/capacity.md explains it."""
    s, row = shape(model), plans[model][1, "bf16", "bf16"]
    assert row["kv_bytes_per_token"] == 2 * s["layers"] * s["kv"] * 2
    layer = 2 * s["hidden"] * s["queries"] + 2 * s["hidden"] * s["kv"] + 3 * s["hidden"] * s["ffn"]
    parameters = s["layers"] * layer + s["tables"] * s["vocab"] * s["hidden"]
    assert row["weight_bytes"] == pytest.approx(2 * parameters, rel=0.002)  # norms and biases
    for weights, of_layer in (("int8", 1 + 1 / 64), ("int4", 1 / 2 + 1 / 64)):
        by_hand = of_layer * s["layers"] * layer + s["tables"] * s["vocab"] * s["hidden"]
        assert plans[model][1, weights, "bf16"]["weight_bytes"] == pytest.approx(by_hand, rel=0.003)
    in_int8 = plans[model][1, "bf16", "int8"]["kv_bytes_per_token"]
    assert in_int8 == row["kv_bytes_per_token"] // 2 + 4 * 2 * s["layers"] * s["kv_heads"]
    for card in row["cards"]:
        left = card["usable_bytes"] - row["weight_bytes"] - row["step_bytes"] - row["workspace_bytes"]
        tokens = left // row["kv_bytes_per_token"] // 16 * 16 if left > 0 else 0
        assert max(card["kv_tokens"], 0) == tokens


def test_every_cell_holds_a_context(plans):
    for rows in plans.values():
        for weights in capacity_table.WEIGHTS:
            cell = capacity_table.smallest(rows, weights, "bf16", 0)
            assert cell == "-" or rows[int(cell.split(":")[0]), weights, "bf16"]["cards"][0]["kv_tokens"] >= CONTEXT


def test_what_does_not_fit_is_a_dash(plans):
    """The first generation's 72B in bf16 has no room for a context on two cards of 80 GB."""
    rows = {key: row for key, row in plans["Qwen-72B"].items() if key[0] <= 2}
    eighty = [card["gigabytes"] for card in rows[1, "bf16", "bf16"]["cards"]].index(80)
    assert rows[1, "bf16", "bf16"]["weight_bytes"] > 80 * GIB
    assert capacity_table.smallest(rows, "bf16", "bf16", eighty) == "-"


def test_the_check_finds_a_changed_page(tmp_path, monkeypatch):
    page = tmp_path / "capacity.md"
    page.write_text(capacity_table.PAGE.read_text())
    monkeypatch.setattr(capacity_table, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["capacity_table.py", "--check"])
    assert capacity_table.main() == 0
    page.write_text(page.read_text().replace("| Qwen-7B | bf16 | 1: 12k |", "| Qwen-7B | bf16 | 1: 13k |", 1))
    assert capacity_table.main() == 1


def test_the_example_config_is_what_qwenctl_reads(tmp_path):
    """No model of the table is refused, or read as another family."""
    for model in MODELS:
        (tmp_path / "config.json").write_text(json.dumps(capacity_table.released_configs.config(model)))
        done = subprocess.run([capacity_table.qwenctl(), "doctor", tmp_path / "config.json", "--json"],
                              capture_output=True, text=True)
        told, = (check for check in json.loads(done.stdout) if check["check"] == "model")
        assert told["level"] == "ok", told
