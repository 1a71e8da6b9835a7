"""Ctrl-C and SIGTERM are deferred until training can stop safely."""

import signal
import threading

import pytest

from pellucid.training.interrupt import Terminated, deferred_interrupt, sigterm_ignored, sigterm_raises


def test_the_first_signal_is_recorded_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert type(interrupted.error()) is KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_recorded_however_often_it_comes():
    with deferred_interrupt() as interrupted:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert interrupted()
        assert type(interrupted.error()) is Terminated


def test_sigterm_after_ctrl_c_counts_as_ctrl_c():
    """`torchrun` sends it to processes that have received Ctrl-C from the terminal already."""
    with deferred_interrupt() as interrupted:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert type(interrupted.error()) is KeyboardInterrupt


def test_sigterm_raises_within_a_command_only():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), sigterm_raises():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_stays_ignored_where_the_caller_ignores_it():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with sigterm_raises():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_is_ignored_while_the_end_is_recorded():
    with sigterm_raises():
        with sigterm_ignored():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)


def test_no_signal_is_recorded_outside_the_main_thread():
    seen = []

    def body():
        with sigterm_raises(), sigterm_ignored(), deferred_interrupt() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupt() as interrupted:
            signal.raise_signal(signal.SIGINT)
            interrupted.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
