"""Fault tests share the cluster helpers of tests/e2e."""

import os
import pathlib
import sys

E2E = str(pathlib.Path(__file__).resolve().parents[1] / "e2e")
sys.path.insert(0, E2E)
os.environ["PYTHONPATH"] = E2E
