"""Writes safetensors files with numpy alone, one tensor at a time.

bf16 is given as uint16 holding the upper half of a float32, because numpy has no such type.
"""

import json
import struct

import numpy as np

_DTYPES = {np.dtype(np.uint16): "BF16", np.dtype(np.float16): "F16", np.dtype(np.float32): "F32",
           np.dtype(np.int32): "I32"}


def to_bf16(values):
    """float32 -> uint16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    bits = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (bits >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits):
    """uint16 -> float32, exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def write_safetensors(path, shapes, make):
    """`shapes`: {name: (numpy dtype, shape)}. `make(name)` returns the tensor's array, or yields it
    in pieces along the first axis, so that a model larger than memory can be written."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _DTYPES[np.dtype(dtype)], "shape": list(shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in shapes.items():
            made = make(name)
            written = 0
            for piece in [made] if isinstance(made, np.ndarray) else made:
                piece = np.ascontiguousarray(piece)
                assert piece.dtype == np.dtype(dtype), f"{name}: {piece.dtype}"
                written += file.write(piece.tobytes())
            expected = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
            assert written == expected, f"{name}: {written} bytes, not {expected}"


def write_arrays(path, arrays):
    """{name: array} of uint16 (bf16), float16, float32 or int32."""
    write_safetensors(path, {name: (a.dtype, a.shape) for name, a in arrays.items()}, arrays.get)
