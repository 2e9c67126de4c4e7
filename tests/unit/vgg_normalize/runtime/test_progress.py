"""What a command says while it would be silent."""

from __future__ import annotations

import time

import pytest

from vgg_normalize.runtime import progress
from vgg_normalize.runtime.progress import Heartbeat, Progress


@pytest.fixture
def impatient(monkeypatch):
    """A silence of 0.05 s is long."""
    monkeypatch.setattr(progress, "SILENCE", 0.05)


def test_long_work_is_named_until_it_ends(impatient, capfd):
    with Heartbeat():
        Heartbeat.doing("preparing the objective")
        time.sleep(0.3)
    lines = capfd.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 6
    assert all(line.startswith("preparing the objective: ") for line in lines)
    time.sleep(0.15)
    assert capfd.readouterr().err == ""


def test_what_is_said_postpones_it(impatient, capfd):
    with Heartbeat():
        for _ in range(15):
            progress.say("a step")
            time.sleep(0.01)
    assert set(capfd.readouterr().err.splitlines()) == {"a step"}


def test_progress_names_the_work(impatient, capfd):
    with Heartbeat():
        Progress(10, title="measuring")
        time.sleep(0.12)
    assert "measuring, image 1 of 10: " in capfd.readouterr().err


def test_a_closed_standard_error_is_no_matter(impatient, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with Heartbeat():
        time.sleep(0.12)


def test_outside_a_command_nothing_is_named(impatient, capfd):
    Heartbeat.doing("nothing")
    time.sleep(0.12)
    assert capfd.readouterr().err == ""
