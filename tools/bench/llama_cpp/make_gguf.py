"""Writes random GGUF models of Qwen2.5-0.5B's shape, twins of what make_random_checkpoint.py makes.

    FOLDER/venv/bin/python tools/bench/llama_cpp/make_gguf.py OUTPUT_DIR [--formats q4_0 q8_0 bf16]

Needs gguf and numpy (build.sh makes a venv with both). The result is OUTPUT_DIR/q05-FORMAT.gguf:
    q4_0  linears Q4_0, embedding and head (one tensor) Q8_0, as llama.cpp itself chooses for a
          width that its K-quants don't divide
    q8_0  everything Q8_0
    bf16  everything BF16
Norms and biases are F32 in all. There is no vocabulary in it: llama-bench needs none.
"""

import argparse
import pathlib

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 896, 24, 14, 2, 64, 4864, 151936
BLOCK = 32  # elements per scale, of Q4_0 and Q8_0
Q = gguf.GGMLQuantizationType
FORMATS = {"q4_0": (Q.Q4_0, Q.Q8_0), "q8_0": (Q.Q8_0, Q.Q8_0), "bf16": (Q.BF16, Q.BF16)}
FILE_TYPES = {"q4_0": gguf.LlamaFileType.MOSTLY_Q4_0, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
              "bf16": gguf.LlamaFileType.MOSTLY_BF16}


def quantised(rows, columns, kind, random):
    """Uniform codes; the scale gives the weights the deviation 1 / sqrt(columns), as a trained
    linear has about, so that activations stay finite."""
    blocks, code_bytes = columns // BLOCK, 16 if kind == Q.Q4_0 else BLOCK
    deviation_of_codes = 4.6 if kind == Q.Q4_0 else 74.0
    out = np.empty((rows, blocks, 2 + code_bytes), dtype=np.uint8)
    out[:, :, 2:] = random.integers(0, 256, (rows, blocks, code_bytes), dtype=np.uint8)
    scale = np.array([columns**-0.5 / deviation_of_codes], dtype=np.float16)
    out[:, :, :2] = scale.view(np.uint8)
    return out.reshape(rows, -1)


def bf16(rows, columns, random):
    values = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(np.uint8)


def add_linear(writer, name, rows, columns, kind, random):
    made = bf16(rows, columns, random) if kind == Q.BF16 else quantised(rows, columns, kind, random)
    writer.add_tensor(name, made, raw_dtype=kind)


def add_vector(writer, name, size, centre, random):
    values = centre + 0.02 * random.standard_normal(size, dtype=np.float32)
    writer.add_tensor(name, values.astype(np.float32))


def write(path, format_name):
    linear, table = FORMATS[format_name]
    random = np.random.Generator(np.random.PCG64(1))
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(32768)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1000000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(FILE_TYPES[format_name])
    writer.add_tokenizer_model("none")

    add_linear(writer, "token_embd.weight", VOCAB, HIDDEN, table, random)
    for i in range(LAYERS):
        at = f"blk.{i}."
        add_vector(writer, at + "attn_norm.weight", HIDDEN, 1, random)
        add_vector(writer, at + "ffn_norm.weight", HIDDEN, 1, random)
        for name, rows, columns in (
            ("attn_q", HEADS * HEAD_DIM, HIDDEN), ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN), ("attn_output", HIDDEN, HEADS * HEAD_DIM),
            ("ffn_gate", FFN, HIDDEN), ("ffn_up", FFN, HIDDEN), ("ffn_down", HIDDEN, FFN),
        ):  # fmt: skip
            add_linear(writer, at + name + ".weight", rows, columns, linear, random)
            if name in ("attn_q", "attn_k", "attn_v"):
                add_vector(writer, at + name + ".bias", rows, 0, random)
    add_vector(writer, "output_norm.weight", HIDDEN, 1, random)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.formats:
        write(args.output / f"q05-{name}.gguf", name)


if __name__ == "__main__":
    main()
