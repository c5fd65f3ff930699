"""Makes the committed goldens again with torch and transformers and compares.

The checkpoints must come out byte for byte; the logits may differ by the roundings in which another
version of torch or another processor differs.
"""

import pathlib
import struct
import json
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import make_goldens  # noqa: E402

# float64 but for transformers' float32 norms and rotary tables: 48 positions and two layers of
# them, relative to the largest logit.
RELATIVE_TOLERANCE = 2e-6


def read_safetensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    types = {"I32": np.int32, "F32": np.float32}
    return {name: np.frombuffer(raw, types[entry["dtype"]],
                                offset=8 + length + entry["data_offsets"][0],
                                count=int(np.prod(entry["shape"]))).reshape(entry["shape"])
            for name, entry in header.items() if name != "__metadata__"}


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    output = tmp_path_factory.mktemp("goldens")
    make_goldens.main(output)
    return output


def relative_files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_same_files(remade):
    assert relative_files(remade) == relative_files(make_goldens.DATA)


def test_same_checkpoints(remade):
    for name in relative_files(remade):
        if name.endswith("golden.safetensors") or name == "SHA256SUMS":
            continue
        assert (remade / name).read_bytes() == (make_goldens.DATA / name).read_bytes(), name


@pytest.mark.parametrize("model", list(make_goldens.MODELS))
def test_same_logits(remade, model):
    new = read_safetensors(remade / model / "golden.safetensors")
    old = read_safetensors(make_goldens.DATA / model / "golden.safetensors")
    assert new.keys() == old.keys()
    for name, values in new.items():
        if name.startswith(("logits.", "int8_cache.")):
            error = np.abs(values - old[name]).max()
            print(f"{model} {name}: {error:.1e}")
            # A code at the border between two may fall to either.
            tolerance = 2e-3 if name.startswith("int8_cache.") else RELATIVE_TOLERANCE
            assert error <= tolerance * np.abs(old[name]).max(), name
        else:
            assert np.array_equal(values, old[name]), name


def test_formulas_and_library_agree_on_the_twins(remade):
    """Qwen1's formulas against transformers' Qwen2 on the same weights."""
    qwen1 = read_safetensors(remade / "qwen1_plain" / "golden.safetensors")["logits.48"]
    qwen2 = read_safetensors(remade / "qwen1_5" / "golden.safetensors")["logits.48"]
    assert np.abs(qwen1 - qwen2).max() <= RELATIVE_TOLERANCE * np.abs(qwen1).max()
