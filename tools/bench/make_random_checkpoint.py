"""Writes a checkpoint of a released shape with random weights, for benchmarks.

    python tools/bench/make_random_checkpoint.py OUTPUT_DIR --shape 0.5b [--seed N] [--dtype bf16]
    python tools/bench/make_random_checkpoint.py OUTPUT_DIR --hidden 1024 --layers 24 --heads 16 ...
    python tools/bench/make_random_checkpoint.py OUTPUT_DIR --shape 7b --quantized gptq [--bits 8]

--quantized gptq or awq draws the packed numbers of the layers' matrices in the layouts of those
checkpoints, everything else in fp16. Needs numpy alone. It says nothing sensible, but computes, and uses memory, like the real one. The
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


def modules_of(args):
    """{name: (out, in)} of the matrices that a quantised checkpoint packs."""
    return {name.removesuffix(".weight"): shape for name, shape in shapes_of(args).items()
            if len(shape) == 2 and "embed_tokens" not in name and "lm_head" not in name}


def quantized_shapes(args):
    """{name: (dtype, shape)} of a GPTQ or AWQ checkpoint."""
    shapes = {}
    modules = modules_of(args)
    per_word = 32 // args.bits
    for name, shape in shapes_of(args).items():
        module = name.removesuffix(".weight")
        if module not in modules:
            shapes[name] = (np.float16, shape)
            continue
        outputs, inputs = shape
        groups = 1 if args.group_size < 0 else -(-inputs // args.group_size)
        packed = ((inputs, outputs // per_word) if args.quantized == "awq"
                  else (inputs // per_word, outputs))
        shapes[module + ".qweight"] = (np.int32, packed)
        shapes[module + ".qzeros"] = (np.int32, (groups, outputs // per_word))
        shapes[module + ".scales"] = (np.float16, (groups, outputs))
        if args.quantized == "gptq":
            shapes[module + ".g_idx"] = (np.int32, (inputs,))
    return shapes


def quantized_pieces(args, name, shape, random):
    """Uniform codes, so that weights have the size of the float checkpoint's: a code of b bits has a
    standard deviation of 2^b / sqrt(12)."""
    middle = 1 << (args.bits - 1)
    if name.endswith(".g_idx"):
        size = shape[0] if args.group_size < 0 else args.group_size
        groups = (np.arange(shape[0]) // size).astype(np.int32)
        # Modules of equal inputs share their order, as the algorithm makes it.
        order = np.random.Generator(np.random.PCG64([args.seed, shape[0]]))
        yield order.permutation(groups) if args.act_order else groups
    elif name.endswith(".qzeros"):
        # Those of GPTQ are stored less one; symmetric, so all alike.
        zero = middle - 1 if args.quantized == "gptq" else middle
        word = sum(zero << shift for shift in range(0, 32, args.bits))
        yield np.full(shape, word, np.uint32).view(np.int32)
    elif name.endswith(".scales"):
        inputs = modules_of(args)[name.removesuffix(".scales")][1]
        scale = inputs ** -0.5 * 12 ** 0.5 / 2 ** args.bits
        yield (scale * random.uniform(0.5, 1.5, shape)).astype(np.float16)
    else:
        rows = max(1, PIECE // shape[1])
        for first in range(0, shape[0], rows):
            part = (min(rows, shape[0] - first), shape[1])
            yield random.integers(0, 1 << 32, part, np.uint32).view(np.int32)


def quantization_config(args):
    if args.quantized == "awq":
        return {"quant_method": "awq", "bits": args.bits, "group_size": args.group_size,
                "zero_point": True, "version": "gemm"}
    return {"quant_method": "gptq", "bits": args.bits, "group_size": args.group_size,
            "desc_act": args.act_order, "sym": True}


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
    parser.add_argument("--quantized", choices=("gptq", "awq"))
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--group-size", type=int, choices=(-1, 32, 64, 128), default=128)
    parser.add_argument("--act-order", action="store_true", help="GPTQ: inputs in a random order")
    parser.add_argument("--max-positions", type=int, default=32768)
    for name in ("hidden", "layers", "heads", "kv-heads", "head-dim", "ffn", "vocab"):
        parser.add_argument("--" + name, type=int, help="instead of the shape's")
    parser.add_argument("--tied", action=argparse.BooleanOptionalAction)
    args = parser.parse_args(argv)
    names = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "tied")
    for name, value in zip(names, SHAPES[args.shape]):
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.quantized == "awq" and (args.bits != 4 or args.act_order):
        parser.error("AWQ has 4 bits and no act-order")
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
    if args.quantized:
        config["quantization_config"] = quantization_config(args)
    (args.output / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (args.output / "generation_config.json").write_text('{"eos_token_id": 0}\n')
    random = np.random.Generator(np.random.PCG64(args.seed))
    dtype, convert = DTYPES["fp16" if args.quantized else args.dtype]
    shapes = shapes_of(args)
    written = (quantized_shapes(args) if args.quantized
               else {name: (dtype, shape) for name, shape in shapes.items()})

    def make(name):
        if name in shapes:
            return pieces_of(name, shapes[name], random, convert)
        return quantized_pieces(args, name, written[name][1], random)

    write_safetensors(args.output / "model.safetensors", written, make)
    parameters = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    print(f"{args.output}: {parameters} parameters in {args.quantized or args.dtype}")


if __name__ == "__main__":
    main()
