"""Fails the test during which a program of ours crashed, or a sanitizer reported something about one.

Otherwise a server that dies in the middle of a test is just another lost replica, which the others make good.
"""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "e2e"))

import server_process  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def sound_to_the_end():
    """Begun before all others and ended after them: what clusters of the whole session leave."""
    with server_process.sanitizer_reports() as reports:
        yield reports
        server_process.check_sound(reports)


@pytest.fixture(autouse=True)
def sound(sound_to_the_end):
    yield
    server_process.check_sound(sound_to_the_end)
