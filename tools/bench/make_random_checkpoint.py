"""Writes a checkpoint of a released shape with random weights, for benchmarks.

    python tools/bench/make_random_checkpoint.py OUTPUT_DIR --shape 0.5b [--seed N] [--dtype bf16]
    python tools/bench/make_random_checkpoint.py OUTPUT_DIR --hidden 1024 --layers 24 --heads 16 ...

Needs numpy alone. It says nothing sensible, but computes, and uses memory, like the real one. The
weights are made in pieces: memory use stays below 100 MB whatever the shape. There is no tokenizer
in it: use `qwenctl complete --token-ids`.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from safetensors_writer import to_bf16, write_safetensors  # noqa: E402

# hidden, layers, query heads, KV heads, head_dim, FFN, vocabulary, tied
SHAPES = {
    "tiny": (64, 2, 4, 2, 16, 128, 512, True),
    "0.5b": (896, 24, 14, 2, 64, 4864, 151936, True),
    "1.5b": (1536, 28, 12, 2, 128, 8960, 151936, True),
    "3b": (2048, 36, 16, 2, 128, 11008, 151936, True),
    "7b": (3584, 28, 28, 4, 128, 18944, 152064, False),
}
PIECE = 1 << 22  # elements made at a time
DTYPES = {"bf16": (np.uint16, to_bf16), "fp16": (np.float16, np.float16),
          "fp32": (np.float32, np.asarray)}


def shapes_of(args):
    q, kv = args.heads * args.head_dim, args.kv_heads * args.head_dim
    shapes = {"model.embed_tokens.weight": (args.vocab, args.hidden)}
    for i in range(args.layers):
        at = f"model.layers.{i}."
        shapes[at + "input_layernorm.weight"] = (args.hidden,)
        for name, width in (("q", q), ("k", kv), ("v", kv)):
            shapes[at + f"self_attn.{name}_proj.weight"] = (width, args.hidden)
            shapes[at + f"self_attn.{name}_proj.bias"] = (width,)
        shapes[at + "self_attn.o_proj.weight"] = (args.hidden, q)
        shapes[at + "post_attention_layernorm.weight"] = (args.hidden,)
        shapes[at + "mlp.gate_proj.weight"] = (args.ffn, args.hidden)
        shapes[at + "mlp.up_proj.weight"] = (args.ffn, args.hidden)
        shapes[at + "mlp.down_proj.weight"] = (args.hidden, args.ffn)
    shapes["model.norm.weight"] = (args.hidden,)
    if not args.tied:
        shapes["lm_head.weight"] = (args.vocab, args.hidden)
    return shapes


def pieces_of(name, shape, random, convert):
    """Norms near 1 and weights that keep the size of what passes through them."""
    rows = max(1, PIECE // int(np.prod(shape[1:], dtype=np.int64)))
    for first in range(0, shape[0], rows):
        part = (min(rows, shape[0] - first), *shape[1:])
        values = random.standard_normal(part, dtype=np.float32)
        if name.endswith("norm.weight"):
            values = 1 + 0.02 * values
        else:
            values *= np.float32(shape[-1] ** -0.5 if len(shape) == 2 else 0.1)
        yield convert(values)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--max-positions", type=int, default=32768)
    for name in ("hidden", "layers", "heads", "kv-heads", "head-dim", "ffn", "vocab"):
        parser.add_argument("--" + name, type=int, help="instead of the shape's")
    parser.add_argument("--tied", action=argparse.BooleanOptionalAction)
    args = parser.parse_args(argv)
    names = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "tied")
    for name, value in zip(names, SHAPES[args.shape]):
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(argv=None):
    args = parse_arguments(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
              "hidden_size": args.hidden, "num_hidden_layers": args.layers,
              "num_attention_heads": args.heads, "num_key_value_heads": args.kv_heads,
              "head_dim": args.head_dim, "intermediate_size": args.ffn, "vocab_size": args.vocab,
              "max_position_embeddings": args.max_positions, "rms_norm_eps": 1e-6,
              "rope_theta": 1000000.0, "tie_word_embeddings": args.tied,
              "use_sliding_window": False}
    (args.output / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (args.output / "generation_config.json").write_text('{"eos_token_id": 0}\n')
    dtype, convert = DTYPES[args.dtype]
    shapes = shapes_of(args)
    random = np.random.Generator(np.random.PCG64(args.seed))
    write_safetensors(args.output / "model.safetensors",
                      {name: (dtype, shape) for name, shape in shapes.items()},
                      lambda name: pieces_of(name, shapes[name], random, convert))
    parameters = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    print(f"{args.output}: {parameters} parameters in {args.dtype}")


if __name__ == "__main__":
    main()
