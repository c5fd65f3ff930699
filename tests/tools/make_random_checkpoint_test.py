"""The benchmark's random checkpoint is one that another implementation reads and runs."""

import hashlib
import pathlib
import sys

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
