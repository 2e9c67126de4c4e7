"""`python -m style.train`: what a user types, finds and is told."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from forks import forked
from helpers import feed_forward, python
from stylizers import (
    METHODS,
    STEPS,
    STYLES,
    arrays,
    flags_of,
    lines,
    loaded,
    photo,
    read,
    style_picture,
    trained,
    untimed,
)

from style import train
from style.cli.settings import RECIPES
from style.feedforward import saved_network, training
from vgg_normalize.data import sources
from vgg_normalize.runtime import progress, staging

pytestmark = pytest.mark.slow


def signal_at(monkeypatch, step: int, number: int) -> None:
    """Send this process a signal during this step."""
    original = training.step_function

    def step_function(*args, **kwargs):
        function, calls = original(*args, **kwargs), [0]

        def counted(*batch):
            calls[0] += 1
            if calls[0] == step:
                signal.raise_signal(number)
            return function(*batch)

        return counted

    monkeypatch.setattr(training, "step_function", step_function)


# Training.


@pytest.mark.parametrize("method", METHODS)
def test_training_leaves_a_network_a_log_and_a_preview(world, method):
    folder = trained(world, method)
    found = lines(Path(f"{folder}.jsonl"))
    assert [line["step"] for line in found] == list(range(STEPS))
    for line in found:
        assert line.keys() == {"step", "seconds", "loss", "terms"}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
    assert (np.diff([line["seconds"] for line in found]) > 0).all()
    assert read(Path(f"{folder}.png")).shape == (4 * 32, 4 * 32, 3)
    description = json.loads((folder / "assets" / "network.json").read_text())
    assert description["method"] == method
    assert description["styles"] == (list(STYLES) if method == "cin" else [])
    expected = {k: RECIPES["paper"][method][k] for k in ("learning_rate", "decay", "style_weight")}
    assert {k: description["settings"][k] for k in expected} == expected
    assert description["settings"]["style_loss"] == ("moments" if method == "adain" else "gram")
    assert not Path(f"{folder}.partial").exists()


LOAD = """
import sys
for name in ("style", "vgg_normalize", "keras"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
world, second, output = sys.argv[1:4]
made = {}
for path in sys.argv[4:]:
    network = tf.saved_model.load(path)
    for height, width in ((33, 47), (50, 35)):
        content = np.linspace(0, 1, height * width * 3, dtype=np.float32)
        content = content.reshape(1, height, width, 3)
        own = {"style": content[:, ::-1, :32]}
        if path.endswith("cin"):
            own = {"weights": np.array([[0.5, 0.0, 0.5]], np.float32)}
        own = {name: tf.constant(value) for name, value in own.items()}
        call = network.signatures["serving_default"]
        image = call(content=tf.constant(content), **own)["image"].numpy()
        assert image.shape == content.shape, image.shape
        assert np.isfinite(image).all() and 0 <= image.min() <= image.max() <= 1
        made[f"{path[-3:]}{height}"] = image
np.savez(output, **made)
"""


def test_the_networks_load_with_tensorflow_alone_at_any_size(world, tmp_path):
    folders = [trained(world, method) for method in METHODS]
    found = python(LOAD, world, "", tmp_path / "made.npz", *folders)
    assert found.returncode == 0, found.stderr[-2000:]
    with np.load(tmp_path / "made.npz") as file:
        assert len(file.files) == 6
        network = loaded(world, "adain")
        content = np.linspace(0, 1, 33 * 47 * 3, dtype=np.float32).reshape(33, 47, 3)
        expected = network.transform(content, network.code(content[::-1, :32]))
        np.testing.assert_allclose(file["ain33"][0], expected, atol=1e-5)


def test_the_defaults_are_those_of_the_quick_recipe():
    values = flags.FlagValues()
    train.define_flags(values)
    values(["train"])
    assert (values.method, values.recipe, values.resume) == ("adain", "quick", False)
    for own in RECIPES["quick"].values():
        assert (values.size, values.batch_size) == (own["size"], own["batch_size"])


def test_the_papers_recipes_are_the_papers():
    papers = RECIPES["paper"]
    assert papers["adain"] == {
        **{"size": 256, "batch_size": 8, "steps": 160000, "learning_rate": 1e-4, "decay": 5e-5},
        "style_weight": 10.0,
    }
    assert papers["cin"]["steps"] == 40000 and papers["cin"]["learning_rate"] == 1e-3
    assert papers["encoder"]["steps"] == 4000000


@pytest.mark.parametrize("module", ["train", "apply"])
def test_the_help_needs_nothing(module, capsys):
    assert feed_forward(module, "--help") == 0
    assert "--style" in capsys.readouterr().out


# Stopping and going on.


@pytest.fixture(scope="module")
def whole(world):
    """A run that nothing stopped, with batches that cross epochs."""
    return trained(world, "adain")


def assert_as(whole: Path, folder: Path, log: Path) -> None:
    assert arrays(folder) == arrays(whole)
    assert untimed(log) == untimed(Path(f"{whole}.jsonl"))


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, STEPS)])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    run, whole, tmp_path, monkeypatch, capsys, number, step
):
    place = (f"--checkpoint={tmp_path / 'state'}", f"--log={tmp_path / 'log.jsonl'}")
    with monkeypatch.context() as patch:
        signal_at(patch, step, number)
        assert run(*place) == 128 + number
    assert f"interrupted after {step} steps; go on with --resume" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "state"]
    assert len(lines(tmp_path / "log.jsonl")) == step
    assert run(*place, "--resume") == 0
    assert_as(whole, tmp_path / "out", tmp_path / "log.jsonl")


def test_a_killed_training_goes_on_to_the_same_bits(world, whole, tmp_path):
    log, state = tmp_path / "log.jsonl", tmp_path / "state"
    state.mkdir()
    # A checkpoint changes the disk three times, or twice the first time.
    flags = (
        *(*flags_of(world, tmp_path / "out"), f"--log={log}"),
        *(f"--checkpoint={state}", "--checkpoint_every=1"),
    )
    fork = functools.partial(forked, *flags, package="style.train")
    code, error = fork(root=state, die_at=5)
    assert code == -signal.SIGKILL, error
    assert not (tmp_path / "out").exists()
    code, error = fork("--resume")
    assert code == 0 and "going on after" in error, error
    assert not (tmp_path / "out.partial").exists()
    assert_as(whole, tmp_path / "out", log)


@pytest.fixture(scope="module")
def after_two_steps(world, tmp_path_factory):
    """Directory of an interrupted training with a checkpoint after two steps."""
    place = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 2, signal.SIGTERM)
        flags = (*flags_of(world, place / "out"), f"--checkpoint={place / 'state'}")
        assert feed_forward("train", *flags) == 143
    return place


@pytest.fixture
def stopped(after_two_steps, tmp_path):
    """Its flags, and a copy of it in the directory of the test."""
    shutil.copytree(after_two_steps, tmp_path, dirs_exist_ok=True)
    return f"--checkpoint={tmp_path / 'state'}"


def test_a_checkpoint_is_of_its_run_alone(no_training, stopped, capsys, run, tmp_path, world):
    for other, said in {
        "--seed=9": "seed (0, not 9)",
        "--style_weight=7": "style_weight (10.0, not 7.0)",
        "--batch_size=1": "batch_size (2, not 1)",
        "--method=encoder": "method (adain, not encoder)",
    }.items():
        line = no_training(4, stopped, "--resume", other)
        assert "other settings: " in line and said in line
    shutil.copytree(world / "contents", tmp_path / "fewer")
    (tmp_path / "fewer" / "a.png").unlink()
    no_training(4, stopped, "--resume", f"--content={tmp_path / 'fewer'}")
    assert "--resume" in no_training(4, stopped)
    assert "at least 2" in no_training(1, stopped, "--resume", "--steps=1")
    checkpoint = tmp_path / "state" / "training.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    capsys.readouterr()
    assert run(stopped, "--resume", "--steps=1") == 0
    said = capsys.readouterr().err
    assert "is damaged" in said and "starting afresh" in said


def test_a_training_that_goes_on_may_have_another_rate(stopped, run, tmp_path):
    def learnt() -> list[bytes]:
        with np.load(tmp_path / "state" / "training.npz") as file:
            kernels = [name for name in file.files if file[name].ndim == 4]
            # Before Adam's two moments of each.
            return [file[name].tobytes() for name in kernels[: len(kernels) // 3]]

    before = learnt()
    assert run(stopped, "--resume", "--learning_rate=0") == 0
    assert learnt() == before
    assert run(stopped, "--resume", "--overwrite", "--steps=5") == 0
    assert learnt() != before


@pytest.fixture(scope="module")
def two_steps(world, tmp_path_factory):
    """Directory of a training of two steps that is finished, with its checkpoint and its log."""
    place = tmp_path_factory.mktemp("two_steps")
    flags = (f"--checkpoint={place / 'state'}", f"--log={place / 'log.jsonl'}", "--steps=2")
    assert feed_forward("train", *flags_of(world, place / "out"), *flags) == 0
    return place


@pytest.fixture
def finished(two_steps, tmp_path):
    """Its flags, and a copy of it in the directory of the test."""
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    return (f"--checkpoint={tmp_path / 'state'}", f"--log={tmp_path / 'log.jsonl'}", "--steps=2")


def test_a_finished_training_may_be_replaced_and_goes_on_with_more_steps(
    run, tmp_path, whole, finished, capsys
):
    place = finished[0]
    capsys.readouterr()
    assert run(place, "--steps=2", "--resume", "--overwrite") == 0
    assert "finished after 2 steps; raise --steps" in capsys.readouterr().err
    assert run(place, "--resume", "--overwrite") == 0
    assert arrays(tmp_path / "out") == arrays(whole)
    shutil.rmtree(tmp_path / "out")
    assert run(place, "--seed=1", "--steps=1") == 0


def stamps(folder: Path) -> dict[str, int]:
    """When each file below a folder was written."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_finished_training_has_nothing_left_to_do(run, tmp_path, finished, capsys):
    before = stamps(tmp_path)
    capsys.readouterr()
    assert run(*finished, "--resume") == 0
    assert capsys.readouterr().err.endswith("out is finished: nothing to do.\n")
    assert stamps(tmp_path) == before


def test_a_training_killed_after_its_network_was_saved_is_marked_finished(
    run, tmp_path, finished, capsys
):
    """As it lies there after kill -9 between the renaming and the last checkpoint."""
    state = tmp_path / "state"
    names, before = sorted(tmp_path.rglob("*")), stamps(tmp_path / "out")
    with np.load(state / "training.npz") as file:
        kept = dict(file)
    for checkpoint in ("training.npz", "training.previous"):
        with (state / checkpoint).open("wb") as file:
            np.savez(file, **{**kept, "finished": np.array(False)})
    (state / "training.writing").write_bytes(b"half")
    (tmp_path / "out.partial" / "old").mkdir(parents=True)
    capsys.readouterr()
    assert run(*finished, "--resume") == 0
    assert "out is finished: nothing to do." in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == names and stamps(tmp_path / "out") == before
    with np.load(state / "training.npz") as file:
        assert bool(file["finished"])
        assert file["variable0"].tobytes() == kept["variable0"].tobytes()


def test_what_else_stands_in_the_place_of_a_trained_network_is_not_taken_for_it(
    no_training, finished, tmp_path, world
):
    assert "seed (0, not 1)" in no_training(4, *finished, "--resume", "--seed=1")
    assert "Use --overwrite" in no_training(4, *finished, "--resume", "--steps=3")
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(trained(world, "adain"), tmp_path / "out")
    assert "Use --overwrite" in no_training(4, *finished, "--resume")


def test_one_training_at_a_time_has_a_folder_of_checkpoints(no_training, tmp_path):
    with staging.locked(tmp_path / "state"):
        for more in ((), ("--resume",), ("--overwrite",)):
            line = no_training(4, f"--checkpoint={tmp_path / 'state'}", *more)
            assert "another run is writing" in line and "--checkpoint" in line


def test_a_finished_network_is_overwritten_only_on_demand(no_training, run, tmp_path, world):
    shutil.copytree(world / "styles", tmp_path / "out")
    assert "--overwrite" in no_training(4)
    assert run("--overwrite", "--steps=1") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert (tmp_path / "out" / "saved_model.pb").exists()


# A training that breaks.


def test_a_training_that_diverges_keeps_the_last_good_network(run, world, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    assert run("--learning_rate=1e15", f"--log={log}") == 6
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("style.train: Expected a finite loss.") and "out.last_good" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "out.last_good"]
    found = lines(log)
    assert 1 <= len(found) < STEPS and np.isfinite([line["loss"] for line in found]).all()
    # Not the one behind the step that was too wide.
    network = saved_network.SavedNetwork(str(tmp_path / "out.last_good"))
    code = network.code(style_picture(world))
    made = network.transform(photo(world), code)
    assert np.isfinite(made).all() and made.std() > 1e-3
    capsys.readouterr()
    assert run() == 4
    assert "last_good" in capsys.readouterr().err


# Bad input: one line, the right code, nothing left behind.


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (2, ["--content={}/empty"], "empty'. Check the path."),
        (2, ["--style={}/no_pictures"], "no_pictures'. Check the path."),
        (2, ["--content={}/nowhere"], "nowhere', which does not exist. Check --content."),
        (2, ["--style={}/nowhere"], "nowhere', which does not exist. Check --style."),
        (2, ["--content={}/broken"], "half.png"),
        (2, ["--size=48", "--content={}/styles"], "at least 48"),
        (3, ["--model={}/contents"], "contents"),
        (3, ["--style_layers=block7_conv1"], "block7_conv1"),
        (1, ["--resize=31"], "--resize"),
        (1, ["--resume"], "--checkpoint"),
        (1, ["--size=34", "--method=cin"], "multiple of 4"),
        (1, ["--style_layers=block1_conv1:much"], "'much'"),
        (1, ["--preview=preview"], "preview"),
        (1, ["--method=gan"], "gan"),
        (1, ["--skip"], "--skip with --method=adain"),
        (1, ["--steps=0"], "steps"),
        (1, ["--size=8"], "size"),
        (1, ["--content="], "--content"),
        (4, ["--log={}/nowhere/log"], "nowhere"),
        (4, ["--output={}/nowhere/out"], "nowhere"),
        (4, ["--output={}/photo.png"], "photo.png"),
        (4, ["--preview={}/nowhere/p.png"], "nowhere"),
        (4, ["--checkpoint={}/photo.png"], "photo.png"),
    ],
)
def test_bad_input_of_training(no_training, world, code, arguments, said):
    assert said in no_training(code, *(text.format(world) for text in arguments))


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="installed")
def test_tensorboard_that_is_missing(no_training, tmp_path):
    assert "pip install" in no_training(1, f"--tensorboard={tmp_path / 'board'}")


def test_unreadable_pictures_may_be_tolerated(run, world, capsys, monkeypatch):
    monkeypatch.setattr(training, "step_function", lambda *_, **__: lambda *_: {"loss": 1.0})
    assert run(f"--content={world / 'broken'}", "--max_skipped=1", "--batch_size=1") == 0
    assert capsys.readouterr().err.count("left out 'half.png'") == 1


def test_what_takes_long_before_the_first_step_is_named(run, monkeypatch):
    """A line says so every few seconds."""
    works, meanwhile, original = [], [], sources.open_source

    def open_source(*arguments):
        meanwhile.append(works[-1])
        return original(*arguments)

    monkeypatch.setattr(progress.Heartbeat, "doing", works.append)
    monkeypatch.setattr(sources, "open_source", open_source)
    monkeypatch.setattr(training, "step_function", lambda *_, **__: lambda *_: {"loss": 1.0})
    assert run("--steps=1") == 0
    assert meanwhile == ["listing the pictures"] * 2


@pytest.mark.parametrize(
    ("precision", "close"), [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)]
)
def test_half_precision_is_near_float32_and_saves_float32(run, whole, tmp_path, precision, close):
    log = tmp_path / "half.jsonl"
    assert run(f"--precision={precision}", f"--log={log}", "--steps=1") == 0

    saved = tf.train.list_variables(str(tmp_path / "out" / "variables" / "variables"))
    assert saved and not any("half" in name for name, _ in saved)
    half, single = lines(log)[0], lines(Path(f"{whole}.jsonl"))[0]
    assert half["loss"] != single["loss"]
    for name, value in single["terms"].items():
        assert half["terms"][name] == pytest.approx(value, rel=close), name
