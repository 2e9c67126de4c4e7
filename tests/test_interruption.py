"""Runs of `python -m style` that are killed at random moments end with the bits of whole ones."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from forks import forked
from helpers import encode, picture, save_model

pytestmark = pytest.mark.slow

# One of a fresh run, one of a run that went on.
KILLS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network and two pictures."""
    folder = tmp_path_factory.mktemp("interruption")
    save_model(folder / "model")
    (folder / "content.png").write_bytes(encode(picture(45, 60, 1), "PNG"))
    (folder / "style.png").write_bytes(encode(picture(40, 40, 2), "PNG"))
    return folder


def arguments(folder, output, options):
    return (
        *(f"--model={folder / 'model'}", f"--content={folder / 'content.png'}"),
        *(f"--style={folder / 'style.png'}", f"--output={output}", "--size=60"),
        *("--steps=24", "--bits=16", "--style_weight=1"),
        *("--style_layers=block1_conv1,block2_conv1", *options),
    )


def logged(path):
    """The lines of a log without the seconds, which differ."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer=lbfgs", "--memory=5"),
        ("--optimizer=adam", "--scales=2"),
        ("--optimizer=lbfgs", "--memory=3", "--tile=24", "--style_loss=moments"),
        ("--optimizer=adam", "--tile=24", "--style_loss=mmd_gaussian"),
        ("--optimizer=lbfgs", "--scales=2", "--memory=3", "--memory_folder={}/pairs"),
    ],
    ids=lambda options: " ".join(options),
)
def test_killed_runs_go_on_to_the_same_bits(folder, tmp_path, options):
    own = tmp_path / "own"
    own.mkdir()
    whole = [option.format(own) for option in options]
    expected = own / "log.jsonl"
    flags = arguments(folder, own / "whole.png", (*whole, f"--log={expected}"))
    assert forked(*flags, package="style")[0] == 0
    options = [option.format(tmp_path) for option in options]
    log, state = tmp_path / "log.jsonl", tmp_path / "state"
    place = (f"--log={log}", f"--checkpoint={state}", "--checkpoint_every=2")
    run = arguments(folder, tmp_path / "out.png", (*options, *place))
    random = np.random.default_rng(len(" ".join(options)))
    codes = []
    for attempt in range(KILLS):
        code, error = forked(
            *run,
            *(("--resume",) if attempt else ()),
            package="style",
            send=signal.SIGKILL,
            when=state / "checkpoint.npz",
            delay=float(random.uniform(0, 0.4 + 1.2 * bool(attempt))),
        )
        codes.append(code)
        assert code in (0, -signal.SIGKILL), error
    assert codes[0] == -signal.SIGKILL
    code, error = forked(*run, "--resume", package="style")
    assert code == 0, error
    assert (tmp_path / "out.png").read_bytes() == (own / "whole.png").read_bytes()
    assert logged(log) == logged(expected)


# As many steps as the third checkpoint needs, and some to go on with.
FEW = ("--optimizer=adam", "--steps=6")


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """What a whole run of a few steps writes."""
    path = folder / "whole.png"
    assert forked(*arguments(folder, path, FEW), package="style")[0] == 0
    return path.read_bytes()


@pytest.mark.parametrize("change", range(1, 7))
def test_a_run_killed_while_it_writes_a_checkpoint_keeps_the_one_before(
    folder, uninterrupted, tmp_path, change
):
    """The sixth change of the disk is in the middle of the third checkpoint."""
    options = (*FEW, f"--checkpoint={tmp_path / 'state'}", "--checkpoint_every=1")
    run = arguments(folder, tmp_path / "out.png", options)
    root = tmp_path / "state"
    root.mkdir()
    assert forked(*run, package="style", root=root, die_at=change)[0] == -signal.SIGKILL
    code, error = forked(*run, "--resume", package="style")
    assert code == 0, error
    assert (tmp_path / "out.png").read_bytes() == uninterrupted
