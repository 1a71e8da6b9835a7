"""Ctrl-C is deferred until training can stop safely."""

import signal
import threading

import pytest

from pellucid.training.interrupt import deferred_interrupt


def test_the_first_signal_is_recorded_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_recorded_too():
    with deferred_interrupt() as interrupted:
        signal.raise_signal(signal.SIGTERM)
        assert interrupted()


def test_no_signal_is_recorded_outside_the_main_thread():
    seen = []

    def body():
        with deferred_interrupt() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]
