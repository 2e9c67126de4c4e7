"""Checkpoints of all commands: none is lost, two runs do not meet, and a full disk costs no picture."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from helpers import encode, picture, refused_style, save_model, stylise

from style.optimizers import history
from style.synthesis import descent
from vgg_normalize.errors import OutputError
from vgg_normalize.runtime import checkpoint, staging

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A network and pictures; read only."""
    world = tmp_path_factory.mktemp("world")
    save_model(world / "model")
    for name, shape in (("content", (40, 60)), ("style", (50, 44))):
        (world / f"{name}.png").write_bytes(encode(picture(*shape, len(name)), "PNG"))
    return world


def run_in(world, place: Path, *more: object, output: str = "out.png") -> int:
    return stylise(
        *(f"--model={world / 'model'}", f"--content={world / 'content.png'}"),
        *(f"--style={world / 'style.png'}", f"--output={place / output}", "--style_weight=1"),
        *("--size=32", f"--steps={STEPS}", "--memory=2", "--init=noise", "--bits=16", *more),
    )


@pytest.fixture
def run(world, tmp_path):
    """Make a picture; later flags win."""
    return partial(run_in, world, tmp_path)


@pytest.fixture
def refused(run, capsys, tmp_path):
    """The one line with which the command refuses, leaving nothing behind."""
    return lambda code, *more: refused_style(capsys, tmp_path, code, run, *more)


@pytest.fixture
def interrupt(run, monkeypatch):
    """A run that gets a signal after so many states."""

    def interrupt(states: int, *more: object) -> None:
        original, seen = descent.minimize, [0]

        def minimize(*args, **kwargs):
            for state in original(*args, **kwargs):
                seen[0] += 1
                if seen[0] == states:
                    signal.raise_signal(signal.SIGTERM)
                yield state

        with monkeypatch.context() as patch:
            patch.setattr(descent, "minimize", minimize)
            assert run(*more) == 143

    return interrupt


@pytest.fixture
def state(tmp_path) -> str:
    return f"--checkpoint={tmp_path / 'state'}"


ADAM = "--optimizer=adam"


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The bytes of the picture of a run that nothing stopped, made once for each set of flags."""

    @cache
    def whole(*flags: str) -> bytes:
        place = tmp_path_factory.mktemp("whole")
        assert run_in(world, place, *(flag.format(place) for flag in flags)) == 0
        return (place / "out.png").read_bytes()

    return whole


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# An interrupted run is not forgotten.


def test_an_interrupted_run_is_replaced_by_none_and_a_finished_one_may_be(
    run, refused, interrupt, state, tmp_path, capsys
):
    interrupt(3, ADAM, state)
    before = content(tmp_path / "state")
    line = refused(4, ADAM, state)
    assert "Use --resume to go on, or another --checkpoint, or remove it." in line
    assert content(tmp_path / "state") == before
    assert run(ADAM, state, "--resume") == 0
    assert run(ADAM, state, "--seed=1") == 0
    capsys.readouterr()
    assert run(ADAM, state, "--seed=1", "--resume") == 0
    assert f"finished after {STEPS} evaluations; raise --steps" in capsys.readouterr().err


def test_an_interrupted_run_of_another_layer_is_not_replaced_either(
    run, interrupt, state, tmp_path, capsys
):
    flags = ("--task=inversion", "--content_layers=block1_conv1,block2_conv1", ADAM, state)
    interrupt(STEPS + 3, *flags)  # in the second layer
    before = content(tmp_path / "state")
    assert run(*flags) == 4
    assert "checkpoint_block2_conv1" in capsys.readouterr().err.splitlines()[-1]
    assert content(tmp_path / "state") == before


def test_without_the_last_checkpoint_the_one_before_counts(refused, interrupt, state, tmp_path):
    interrupt(3, ADAM, state)
    place = tmp_path / "state" / "checkpoint.npz"
    place.rename(place.with_suffix(".previous"))
    assert "--resume" in refused(4, ADAM, state)
    place.write_bytes(b"damaged")
    assert "--resume" in refused(4, ADAM, state)


# More steps.


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_more_steps_are_more_of_the_same(run, interrupt, state, tmp_path, optimizer, whole):
    flags = (f"--optimizer={optimizer}", "--steps=9")
    interrupt(3, *flags, "--steps=7", state)
    assert run(*flags, state, "--resume", "--preview_every=2") == 0
    assert content(tmp_path)["out.png"] == whole(*flags)


def test_a_finished_run_goes_on_with_more_steps(run, refused, state, tmp_path, whole, capsys):
    assert run(ADAM, state) == 0
    capsys.readouterr()
    assert run(ADAM, state, "--steps=9", "--resume", "--bits=8", output="8.png") == 0
    assert f"going on after {STEPS} evaluations" in capsys.readouterr().err
    assert run(ADAM, state, "--steps=9", "--resume") == 0
    assert content(tmp_path)["out.png"] == whole(ADAM, "--steps=9")
    assert "at least 9" in refused(1, ADAM, state, "--resume", "--steps=8")


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 9])
def test_a_finished_lbfgs_run_goes_on_from_before_a_search_that_was_cut(
    run, state, tmp_path, steps, whole, capsys
):
    folder = f"--memory_folder={tmp_path / 'pairs'}"
    assert run(folder, state, f"--steps={steps}") == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert int(re.search(r"after (\d+) evaluations", said)[1]) <= steps
    assert run(folder, state, "--steps=12", "--resume") == 0
    assert content(tmp_path)["out.png"] == whole("--memory_folder={}/pairs", "--steps=12")


def test_more_steps_would_change_the_sizes_before(run, refused, interrupt, state, tmp_path):
    flags = (ADAM, "--scales=2")
    assert run(*flags, "--steps=8", output="whole.png") == 0
    interrupt(3, *flags, state)  # at the first size
    assert run(*flags, state, "--steps=8", "--resume") == 0
    assert content(tmp_path)["out.png"] == content(tmp_path)["whole.png"]
    line = refused(4, *flags, state, "--steps=9", "--resume")
    assert "other settings: steps (8, not 9)" in line


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("0" * 64, "by another version"),
        ('{"a": 1, "digest": "%s"}' % ("0" * 64), "a (1, not 2), b (null, not [3]), digest."),
    ],
)
def test_what_differs_is_told(tmp_path, found, said):
    wanted = checkpoint.fingerprint({"b": [3], "a": 2, "digest": "1" * 64})
    checkpoint.save(tmp_path / "c.npz", {}, found)
    with pytest.raises(OutputError) as caught:
        checkpoint.load(tmp_path / "c.npz", wanted, {})
    assert said in str(caught.value)


# Two runs at once.


def test_one_run_at_a_time_has_a_folder_of_checkpoints(run, refused, tmp_path, state):
    with staging.locked(tmp_path / "state"):
        for more in ((), ("--resume",)):
            line = refused(4, ADAM, state, *more)
            assert "another run is writing" in line and "another --checkpoint" in line
            assert "room" not in line
    assert not (tmp_path / "state").exists()
    # The file of a lock that nobody holds means nothing.
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / staging.LOCK).touch()
    assert run(ADAM, state) == 0


def test_a_lock_that_was_deleted_while_it_was_held_holds_nothing(tmp_path):
    folder = tmp_path / "out"
    with staging.locked(folder):
        with pytest.raises(OutputError, match="another run"), staging.locked(folder):
            pass
        shutil.rmtree(folder)
        with staging.locked(folder), pytest.raises(OutputError), staging.locked(folder):
            pass
    assert not folder.exists()


# Pairs in files.


def test_runs_share_a_folder_of_pairs_and_each_goes_on_to_its_bits(
    run, interrupt, tmp_path, state, whole
):
    folder = f"--memory_folder={tmp_path / 'pairs'}"
    interrupt(5, folder, state, "--steps=12")
    kept = list((tmp_path / "pairs").iterdir())
    assert run(folder, "--seed=1", output="other.png") == 0
    interrupt(3, folder, f"--checkpoint={tmp_path / 'second'}", "--seed=1")
    assert len(list((tmp_path / "pairs").iterdir())) == len(kept) + 1
    assert run(folder, state, "--steps=12", "--resume") == 0
    assert content(tmp_path)["out.png"] == whole("--memory_folder={}/pairs", "--steps=12")
    # A finished run's are deleted with it.
    assert run(folder, state, "--optimizer=adam") == 0
    assert len(list((tmp_path / "pairs").iterdir())) == 1


@pytest.mark.parametrize("ending", ["finished", "interrupted"])
def test_pairs_of_all_sizes_are_deleted(run, interrupt, tmp_path, ending):
    flags = ("--scales=2", f"--memory_folder={tmp_path / 'pairs'}")
    if ending == "finished":
        assert run(*flags) == 0
    else:
        interrupt(4, *flags)
    assert not (tmp_path / "pairs").exists()  # the run made it, and nothing is left in it


def test_checkpoints_keep_pairs_of_no_size_but_the_last(run, tmp_path, state):
    flags = ("--scales=2", f"--memory_folder={tmp_path / 'pairs'}", "--checkpoint_every=1")
    assert run(*flags, state) == 0
    (kept,) = (tmp_path / "pairs").iterdir()
    assert kept.name.endswith("_1")
    assert run(*flags, state, "--resume") == 0


@pytest.mark.parametrize("change", ["missing", "short"])
def test_pairs_that_change_under_a_run_are_told_in_one_line(
    run, tmp_path, monkeypatch, capsys, change
):
    add = history.DiskHistory._write_pair

    def changed(self, kept, s, y):
        after = add(self, kept, s, y)
        file = self._file(int(after.max()), "y")
        file.unlink() if change == "missing" else file.write_bytes(b"1234")
        return after

    monkeypatch.setattr(history.DiskHistory, "_write_pair", changed)
    assert run(f"--memory_folder={tmp_path / 'pairs'}") == 4
    *_, before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("style: Expected the pair ") and ".y" in last
    assert before.startswith("the picture so far is in ") and (tmp_path / "out.png").exists()


# A full disk.


@pytest.mark.parametrize("failing", [1, 3, STEPS + 1])
def test_a_checkpoint_on_a_full_disk_costs_no_picture(
    run, tmp_path, state, monkeypatch, whole, capsys, failing
):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run(ADAM, state, "--checkpoint_every=1") == 4
    assert "No space left on device. Make room" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out.png").exists()
    assert not list(tmp_path.rglob("*.writing"))
    assert run(ADAM, state, "--resume") == 0
    assert content(tmp_path)["out.png"] == whole(ADAM)


# Signals.


def test_an_interrupted_run_says_where_the_picture_is_and_how_to_go_on(
    interrupt, tmp_path, state, capsys
):
    said = f"interrupted after 3 evaluations; the picture so far is in {tmp_path / 'out.png'}; "
    interrupt(3, ADAM)
    assert f"{said}it cannot go on from there: use --checkpoint" in capsys.readouterr().err
    interrupt(3, ADAM, state)
    assert f"{said}go on with --resume\n" in capsys.readouterr().err


BUSY = """
import hashlib
from vgg_normalize.runtime.progress import InterruptHandler

stop = InterruptHandler()
stop.install()
with stop.defer():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # C alone, for half an hour
"""


@pytest.mark.skipif(os.name != "posix", reason="no wakeup descriptor")
def test_a_second_signal_ends_a_process_that_python_does_not_reach():
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
        assert "ended at once" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("change", ["missing", "misshaped"])
def test_a_checkpoint_with_wrong_arrays_is_refused_in_one_line(
    interrupt, run, capsys, state, tmp_path, change
):
    interrupt(3, state)
    path = tmp_path / "state" / "checkpoint.npz"
    arrays = dict(np.load(path))
    arrays["state0"] = arrays["state0"][:, :-1]
    if change == "missing":
        del arrays["state0"]
    np.savez(path, **arrays)
    capsys.readouterr()
    assert run(state, "--resume") == 4
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("style: Expected a whole checkpoint.") and "state0" in line


def test_a_sheet_says_which_flags_it_does_not_use(run, capsys, state, tmp_path):
    assert run("--sweep=seed:1,2", state, f"--log={tmp_path / 'log.jsonl'}", "--bits=8") == 0
    assert "--sweep does not use --checkpoint, --log" in capsys.readouterr().err
    assert not (tmp_path / "log.jsonl").exists() and not (tmp_path / "state").exists()
