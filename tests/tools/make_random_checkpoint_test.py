"""The benchmark's random checkpoint is one that another implementation reads and runs."""

import hashlib
import pathlib
import sys

import numpy as np
import safetensors.numpy
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "bench"))
import make_random_checkpoint  # noqa: E402


def test_transformers_reads_it(tmp_path):
    make_random_checkpoint.main([str(tmp_path), "--shape", "tiny"])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.num_hidden_layers == 2 and model.config.head_dim == 16
    logits = model(torch.arange(20)[None]).logits
    assert logits.shape == (1, 20, 512)
    assert 0.1 < logits.std() < 10


def test_the_seed_decides_the_bytes(tmp_path):
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_random_checkpoint.main([str(tmp_path / name), "--shape", "tiny", "--seed", str(seed)])
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        digests.append(hashlib.sha256(weights).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def unpack(words, bits):
    """int32 [..., n] -> the numbers of each word, the lowest bits first: [..., n, 32 / bits]."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return (words.view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)


def test_quantised_ones_have_the_layout_and_the_size_of_weights(tmp_path):
    for arguments, bits in ((["gptq", "--act-order"], 4), (["gptq", "--bits", "8"], 8), (["awq"], 4)):
        folder = tmp_path / "_".join(arguments)
        make_random_checkpoint.main([str(folder), "--shape", "tiny", "--group-size", "32",
                                     "--quantized", *arguments])
        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        at = "model.layers.0.mlp.down_proj."
        scales, per_word = tensors[at + "scales"].astype(np.float64), 32 // bits
        assert scales.shape == (4, 64)
        codes = unpack(tensors[at + "qweight"], bits)
        if arguments[0] == "awq":
            assert tensors[at + "qweight"].shape == (128, 8)
            assert (unpack(tensors[at + "qzeros"], 4) == 8).all()
            order = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])
            codes, groups = codes[..., order].reshape(128, 64), np.arange(128) // 32
        else:
            assert tensors[at + "qweight"].shape == (128 // per_word, 64)
            assert (unpack(tensors[at + "qzeros"], bits) == (1 << (bits - 1)) - 1).all()
            codes = codes.transpose(0, 2, 1).reshape(128, 64)
            groups = tensors[at + "g_idx"]
            assert (np.bincount(groups) == 32).all()
            assert (groups != np.arange(128) // 32).any() == ("--act-order" in arguments)
        weights = scales[groups] * (codes.astype(np.float64) - (1 << (bits - 1)))
        assert 0.7 * 128 ** -0.5 < weights.std() < 1.4 * 128 ** -0.5
