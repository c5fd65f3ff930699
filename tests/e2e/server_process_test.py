"""A server that crashes fails the test it crashes in; one that is killed does not."""

import os
import signal

import pytest

from server_process import SANITIZED, ServerProcess, check_sound


def start_gateway():
    return ServerProcess("gateway", "--tokenizers", "127.0.0.1:1", "--generators", "127.0.0.1:1")


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_is_told_once(sound_to_the_end, number):
    gateway = start_gateway()
    check_sound(sound_to_the_end)
    os.kill(gateway.pid, number)
    gateway.wait()
    with pytest.raises(AssertionError) as told:
        check_sound(sound_to_the_end)
    if SANITIZED and number == signal.SIGSEGV:
        assert "AddressSanitizer: SEGV" in str(told.value)
    else:
        assert f"gateway {gateway.pid} was ended by {number.name}" in str(told.value)
    check_sound(sound_to_the_end)


def test_a_report_of_a_process_that_goes_on_is_told(sound_to_the_end):
    (sound_to_the_end / "report.1").write_text("ERROR: AddressSanitizer: heap-use-after-free")
    with pytest.raises(AssertionError, match="heap-use-after-free"):
        check_sound(sound_to_the_end)
    check_sound(sound_to_the_end)


def test_what_the_test_did_is_no_crash(sound_to_the_end):
    killed, signalled, stopped, drained = [start_gateway() for _ in range(4)]
    killed.kill()
    signalled.signal(signal.SIGABRT)
    signalled.wait()
    stopped.signal(signal.SIGSTOP)
    stopped.stop()
    assert drained.terminate() == 0
    check_sound(sound_to_the_end)
