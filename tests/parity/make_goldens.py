"""Makes the random tiny checkpoints of tests/parity/data and the logits that they must give.

    .venv/bin/python tests/parity/make_goldens.py [OUTPUT_DIR]

Needs the packages of tools/requirements/full.txt. Logits of Qwen2, 2.5 and 3 come from the
transformers library, which reads the very files written here; those of Qwen1 from
qwen1_formulas.py. Both compute in float64 where they can.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools" / "bench"), str(ROOT / "tests" / "parity")]
import qwen1_formulas  # noqa: E402
from safetensors_writer import from_bf16, to_bf16, write_arrays  # noqa: E402

DATA = ROOT / "tests" / "parity" / "data"
LENGTH = 48
POSITIONS = [0, 1, 7, 15, 16, 17, 23, 31, 32, 33, 40, 47]

QWEN1 = {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "layer_norm_epsilon": 1e-6,
         "rotary_pct": 1.0, "no_bias": True, "scale_attn_weights": True,
         "max_position_embeddings": 64, "tie_word_embeddings": False}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
         "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 64,
         "use_sliding_window": False}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
         "attention_bias": False}

# name -> (config.json, element type, shards, prompt lengths to test with). Sizes are small and odd
# on purpose: uneven shares of heads, FFN and vocabulary at two and four ranks.
MODELS = {
    "qwen1": ({**QWEN1, "hidden_size": 64, "num_attention_heads": 4, "kv_channels": 16,
               "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 101,
               "rotary_emb_base": 10000, "seq_length": 16, "use_dynamic_ntk": True,
               "use_logn_attn": True}, "BF16", 1, [LENGTH, 20, 10]),
    "qwen1_plain": ({**QWEN1, "hidden_size": 32, "num_attention_heads": 4, "kv_channels": 8,
                     "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 101,
                     "rotary_emb_base": 1000000, "seq_length": 64, "use_dynamic_ntk": False,
                     "use_logn_attn": False}, "BF16", 1, [LENGTH]),
    # Its weights are those of qwen1_plain under the names and in the cuts of Qwen2.
    "qwen1_5": ({**QWEN2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4,
                 "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 101,
                 "tie_word_embeddings": False}, "BF16", 1, [LENGTH]),
    "qwen2": ({**QWEN2, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2,
               "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 101,
               "tie_word_embeddings": True}, "F16", 1, [LENGTH]),
    "qwen2_5": ({**QWEN2, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2,
                 "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 61,
                 "tie_word_embeddings": False}, "BF16", 2, [LENGTH]),
    "qwen2_5_yarn": ({**QWEN2, "hidden_size": 32, "num_attention_heads": 4,
                      "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32,
                      "vocab_size": 61, "tie_word_embeddings": False,
                      "rope_scaling": {"type": "yarn", "factor": 4.0,
                                       "original_max_position_embeddings": 16}},
                     "F32", 1, [LENGTH]),
    "qwen3": ({**QWEN3, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
               "head_dim": 16, "num_hidden_layers": 2, "intermediate_size": 64,
               "vocab_size": 101, "tie_word_embeddings": True}, "BF16", 1, [LENGTH]),
}


def is_qwen1(config):
    return config["model_type"] == "qwen"


def tensor_shapes(config):
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    heads, ffn = config["num_attention_heads"], config["intermediate_size"]
    if is_qwen1(config):
        ffn //= 2
        shapes = {"transformer.wte.weight": (vocab, hidden)}
        for i in range(config["num_hidden_layers"]):
            at = f"transformer.h.{i}."
            shapes |= {at + "ln_1.weight": (hidden,), at + "attn.c_attn.weight": (3 * hidden, hidden),
                       at + "attn.c_attn.bias": (3 * hidden,),
                       at + "attn.c_proj.weight": (hidden, hidden), at + "ln_2.weight": (hidden,),
                       at + "mlp.w1.weight": (ffn, hidden), at + "mlp.w2.weight": (ffn, hidden),
                       at + "mlp.c_proj.weight": (hidden, ffn)}
        return shapes | {"transformer.ln_f.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    dim = config.get("head_dim", hidden // heads)
    widths = {"q": heads * dim, "k": config["num_key_value_heads"] * dim}
    widths["v"] = widths["k"]
    shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        shapes[at + "input_layernorm.weight"] = (hidden,)
        for name, width in widths.items():
            shapes[at + f"self_attn.{name}_proj.weight"] = (width, hidden)
            if config["model_type"] == "qwen2":
                shapes[at + f"self_attn.{name}_proj.bias"] = (width,)
            elif name != "v":
                shapes[at + f"self_attn.{name}_norm.weight"] = (dim,)
        shapes |= {at + "self_attn.o_proj.weight": (hidden, widths["q"]),
                   at + "post_attention_layernorm.weight": (hidden,),
                   at + "mlp.gate_proj.weight": (ffn, hidden),
                   at + "mlp.up_proj.weight": (ffn, hidden),
                   at + "mlp.down_proj.weight": (hidden, ffn)}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def random_weights(config, dtype, random):
    """Large enough that every part moves the logits: a part left out or misplaced is far outside
    any tolerance."""
    arrays = {}
    for name, shape in tensor_shapes(config).items():
        values = random.standard_normal(shape)
        if len(shape) == 2 and "embed" not in name and "wte" not in name:
            values *= 2 / np.sqrt(shape[1])
        elif name.endswith("bias"):
            values *= 0.5
        elif len(shape) == 1:
            values = 1 + 0.25 * values
        arrays[name] = {"BF16": to_bf16, "F16": np.float16, "F32": np.float32}[dtype](values)
    return arrays


def twin_weights(qwen1):
    """The weights of a Qwen1 checkpoint under the names and in the cuts of Qwen2."""
    renames = {"transformer.wte": "model.embed_tokens", "transformer.ln_f": "model.norm",
               "transformer.h.": "model.layers.", "ln_1": "input_layernorm",
               "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj",
               "mlp.w2": "mlp.gate_proj", "mlp.w1": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
    arrays = {}
    for name, array in qwen1.items():
        for old, new in renames.items():
            name = name.replace(old, new)
        if "attn.c_attn" in name:
            for part, piece in zip("qkv", np.split(array, 3)):
                arrays[name.replace("attn.c_attn", f"self_attn.{part}_proj")] = piece
        else:
            arrays[name] = array
    return arrays


def write_checkpoint(folder, config, arrays, shards):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}\n')
    if shards == 1:
        write_arrays(folder / "model.safetensors", arrays)
        return
    names, weight_map = list(arrays), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[len(names) * shard // shards:len(names) * (shard + 1) // shards]
        write_arrays(folder / file, {name: arrays[name] for name in part})
        weight_map |= {name: file for name in part}
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def transformers_logits(folder, ids):
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.from_numpy(ids[None])).logits[0].numpy()


def expected_logits(folder, config, arrays, ids, prompt_tokens, int8_cache=False):
    if not is_qwen1(config):
        return transformers_logits(folder, ids)
    weights = {name: (from_bf16(a) if a.dtype == np.uint16 else a).astype(np.float64)
               for name, a in arrays.items()}
    return qwen1_formulas.logits(config, weights, ids, prompt_tokens, int8_cache)


def make_model(output, name, seed, arrays=None):
    """Writes one checkpoint with its golden.safetensors and returns its weights."""
    config, dtype, shards, prompt_lengths = MODELS[name]
    random = np.random.Generator(np.random.PCG64(seed))
    ids = random.integers(0, config["vocab_size"], LENGTH)
    drawn = random_weights(config, dtype, random)
    arrays = drawn if arrays is None else arrays
    write_checkpoint(output / name, config, arrays, shards)
    golden = {"ids": ids.astype(np.int32), "positions": np.array(POSITIONS, np.int32)}
    for prompt_tokens in prompt_lengths:
        every = expected_logits(output / name, config, arrays, ids, prompt_tokens)
        golden[f"logits.{prompt_tokens}"] = every[POSITIONS].astype(np.float32)
        if is_qwen1(config):
            every = expected_logits(output / name, config, arrays, ids, prompt_tokens, True)
            golden[f"int8_cache.{prompt_tokens}"] = every[POSITIONS].astype(np.float32)
    write_arrays(output / name / "golden.safetensors", golden)
    return arrays


def write_checksums(output):
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(output)}\n"
             for path in sorted(output.rglob("*")) if path.is_file() and path.parent != output]
    (output / "SHA256SUMS").write_text("".join(lines))


def main(output=DATA):
    seeds = {name: 20240101 + i for i, name in enumerate(MODELS)}
    seeds["qwen1_5"] = seeds["qwen1_plain"]  # the same ids
    weights = {}
    for name in MODELS:
        given = twin_weights(weights["qwen1_plain"]) if name == "qwen1_5" else None
        weights[name] = make_model(output, name, seeds[name], given)
        print(f"{name}: {sum(a.nbytes for a in weights[name].values())} bytes of weights")
    write_checksums(output)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DATA)
