"""`python -m style.train` and `python -m style.apply`: what a user types, finds and is told."""

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
from helpers import SIGNS_OF_LIFE, encode, feed_forward, picture, python, save_model
from PIL import Image

from style import apply, colors, exported, image, networks, train, training
from style.settings import TRAINING
from vgg_normalize import output

METHODS = ("adain", "encoder", "cin")
STEPS = 4
STYLES = ("a.png", "b.png", "c.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A model, folders of pictures, and one trained network of each method; read only."""
    world = tmp_path_factory.mktemp("world")
    save_model(world / "model")
    for folder, shapes in {
        "contents": [(40, 60), (50, 45), (36, 36), (64, 48)],
        "mixed": [(40, 60), (20, 80)],  # the last is too small
        "styles": [(60, 44), (40, 40), (45, 70)],
    }.items():
        (world / folder).mkdir()
        for i, shape in enumerate(shapes):
            pixels = picture(*shape, seed=10 * len(folder) + i)
            (world / folder / f"{'abcde'[i]}.png").write_bytes(encode(pixels, "PNG"))
    halves = np.repeat([[255, 0]], 32, axis=1).repeat(40, axis=0).astype(np.uint8)
    for name, pixels in {
        "photo": picture(37, 51, seed=5),
        "left": halves,
        "right": 255 - halves,
        "small": picture(6, 40),
        "thin": picture(1, 90),
    }.items():
        (world / f"{name}.png").write_bytes(encode(pixels, "PNG"))
    (world / "empty").mkdir()
    (world / "no_pictures").mkdir()
    (world / "no_pictures" / "notes.txt").write_text("none")
    (world / "broken").mkdir()
    whole = (world / "contents" / "a.png").read_bytes()
    (world / "broken" / "good.png").write_bytes(whole)
    (world / "broken" / "half.png").write_bytes(whole[: len(whole) // 2])
    return world


def flags_of(world: Path, output: Path) -> tuple[str, ...]:
    return (
        *(f"--model={world / 'model'}", f"--content={world / 'contents'}"),
        *(f"--style={world / 'styles'}", f"--output={output}"),
        *("--size=32", "--batch_size=2", f"--steps={STEPS}"),
    )


@functools.cache
def trained(world: Path, method: str) -> Path:
    """A network with its log and its preview beside it."""
    folder = world / method
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "BLOCKS", 1)
        code = feed_forward(
            *("train", *flags_of(world, folder), f"--method={method}"),
            *(f"--log={folder}.jsonl", f"--preview={folder}.png", "--preview_every=3"),
        )
    assert code == 0
    return folder


@functools.cache
def loaded(world: Path, method: str) -> exported.Loaded:
    return exported.Loaded(str(trained(world, method)))


@pytest.fixture
def run(world, tmp_path):
    """Train; later flags win."""
    return lambda *more: feed_forward("train", *flags_of(world, tmp_path / "out"), *more)


@pytest.fixture
def stylise(world, tmp_path):
    """Apply; the picture that comes out, in [0, 1]."""

    def stylise(method: str, *more: object, output: str = "out.png", style="a") -> np.ndarray:
        code = feed_forward(
            *("apply", f"--network={trained(world, method)}", f"--output={tmp_path / output}"),
            *(f"--content={world / 'photo.png'}", *more),
            *([f"--style={world / 'styles' / style}.png"] if style else []),
        )
        assert code == 0
        return read(tmp_path / output) if output.endswith(".png") else np.empty(0)

    return stylise


@pytest.fixture
def refused(capsys, tmp_path):
    """The one line with which a command refuses, leaving nothing behind."""

    def refused(code: int, module: str, *arguments: object) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        capsys.readouterr()
        found = feed_forward(module, *arguments)
        *signs, last = capsys.readouterr().err.splitlines()
        assert (found, [one for one in signs if not of_life(one)]) == (code, []), (signs, last)
        assert last.startswith(f"style.{module}: "), last
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return last

    return refused


@pytest.fixture
def no_training(refused, world, tmp_path):
    """The line with which training is refused."""
    return lambda code, *more: refused(code, "train", *flags_of(world, tmp_path / "out"), *more)


def of_life(line: str) -> bool:
    return any(sign in line for sign in SIGNS_OF_LIFE)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file) / 255


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(path: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(path)]


def arrays(folder: Path) -> dict[str, bytes]:
    """What a network has learnt, and the VGG that goes with it, as bytes."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    found = {name: reader.get_tensor(name) for name in shapes if "OBJECT_GRAPH" not in name}
    return {name: np.asarray(value).tobytes() for name, value in found.items()}


def photo(world: Path) -> np.ndarray:
    return image.load(world / "photo.png").pixels


def style_picture(world: Path, name: str = "a") -> np.ndarray:
    """As it is looked at: its long side has 512 pixels."""
    return image.fit(image.load(world / "styles" / f"{name}.png").pixels, 512)


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
    expected = {k: TRAINING[method][k] for k in ("learning_rate", "decay", "style_weight")}
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


def test_the_defaults_are_the_papers():
    values = flags.FlagValues()
    train.define_flags(values)
    values(["train"])
    assert (values.method, values.size, values.resume) == ("adain", 256, False)
    assert TRAINING["adain"] | {"steps": 0} == {
        **{"steps": 0, "learning_rate": 1e-4, "decay": 5e-5, "style_weight": 10.0}
    }
    assert TRAINING["cin"]["steps"] == 40000 and TRAINING["cin"]["learning_rate"] == 1e-3


@pytest.mark.parametrize("module", ["train", "apply"])
def test_the_help_needs_nothing(module, capsys):
    assert feed_forward(module, "--help") == 0
    assert "--style" in capsys.readouterr().out


# Stopping and going on.


@pytest.fixture(scope="module")
def whole(world):
    """A run that nothing stopped, with batches that cross epochs."""
    folder = world / "whole"
    assert feed_forward("train", *flags_of(world, folder), f"--log={folder}.jsonl") == 0
    return folder


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


@pytest.fixture
def stopped(world, tmp_path):
    """The flags of an interrupted training with a checkpoint after two steps."""
    place = f"--checkpoint={tmp_path / 'state'}"
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 2, signal.SIGTERM)
        assert feed_forward("train", *flags_of(world, tmp_path / "out"), place) == 143
    return place


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


def test_a_finished_training_may_be_replaced_and_goes_on_with_more_steps(
    no_training, run, tmp_path, whole, capsys
):
    place = f"--checkpoint={tmp_path / 'state'}"
    assert run(place, "--steps=2") == 0
    capsys.readouterr()
    assert run(place, "--steps=2", "--resume", "--overwrite") == 0
    assert "finished after 2 steps; raise --steps" in capsys.readouterr().err
    assert run(place, "--resume", "--overwrite") == 0
    assert arrays(tmp_path / "out") == arrays(whole)
    shutil.rmtree(tmp_path / "out")
    assert run(place, "--seed=1", "--steps=1") == 0


def test_one_training_at_a_time_has_a_folder_of_checkpoints(no_training, tmp_path):
    with output.locked(tmp_path / "state"):
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
    network = exported.Loaded(str(tmp_path / "out.last_good"))
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
        (2, ["--content={}/empty"], "empty"),
        (2, ["--style={}/no_pictures"], "no_pictures"),
        (2, ["--style={}/nowhere"], "nowhere"),
        (2, ["--content={}/broken"], "half.png"),
        (2, ["--size=48", "--content={}/styles"], "at least 48"),
        (2, ["--style=tfds:mnist/test"], "tfds"),
        (3, ["--model={}/contents"], "contents"),
        (3, ["--style_layers=block7_conv1"], "block7_conv1"),
        (1, ["--resize=31"], "--resize"),
        (1, ["--resume"], "--checkpoint"),
        (1, ["--size=34", "--method=cin"], "multiple of 4"),
        (1, ["--style_layers=block1_conv1:much"], "'much'"),
        (1, ["--preview=preview"], "preview"),
        (1, ["--method=gan"], "gan"),
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
    assert "1 left out, for example 'half.png'" in capsys.readouterr().err


# Application.


@pytest.mark.parametrize("method", ["adain", "encoder"])
def test_a_picture_is_what_the_signature_makes(stylise, world, method):
    """37 x 51: no multiple of any stride."""
    call = tf.saved_model.load(str(trained(world, method))).signatures["serving_default"]
    content, style = (tf.constant(p[None]) for p in (photo(world), style_picture(world)))
    expected = call(content=content, style=style)["image"][0]
    assert expected.shape == (37, 51, 3)
    np.testing.assert_allclose(stylise(method), expected, atol=1.1 / 255 / 2)


def test_alpha_leads_from_the_content_to_the_style(stylise, world):
    network = loaded(world, "adain")
    own, other = network.code(photo(world)), network.code(style_picture(world))
    for alpha in (0.0, 0.5, 1.0):
        expected = network.transform(photo(world), alpha * other + (1 - alpha) * own)
        found = stylise("adain", f"--alpha={alpha}")
        np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)
    assert (stylise("adain", "--alpha=0") != stylise("adain", style="b", output="b.png")).any()


def test_styles_are_blended_by_their_weights(stylise, world):
    network = loaded(world, "adain")
    codes = [network.code(style_picture(world, name)) for name in "ab"]
    both = f"--style={world / 'styles' / 'a.png'},{world / 'styles' / 'b.png'}"
    for blend, shares in ((["--style_blend=3,1"], (0.75, 0.25)), ([], (0.5, 0.5))):
        found = stylise("adain", both, *blend, style=None)
        expected = network.transform(photo(world), shares[0] * codes[0] + shares[1] * codes[1])
        np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)
    alone = stylise("adain", both, "--style_blend=0,2", style=None)
    np.testing.assert_array_equal(alone, stylise("adain", style="b"))


def test_fixed_styles_are_found_by_name(stylise, refused, world, tmp_path):
    call = tf.saved_model.load(str(trained(world, "cin"))).signatures["serving_default"]
    content = tf.constant(photo(world)[None])
    for names, weights in (("b", (0, 1, 0)), ("c.png,paintings/a.jpg", (0.5, 0, 0.5))):
        expected = call(content=content, weights=tf.constant([weights], tf.float32))["image"][0]
        found = stylise("cin", f"--style={names}", style=None)
        np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)
    network = (f"--network={trained(world, 'cin')}", f"--output={tmp_path / 'new.png'}")
    shared = ("apply", *network, f"--content={world / 'photo.png'}")
    for named, received in (("--style=a,d", "d"), ("--style=", "none")):
        said = refused(1, *shared, named)
        assert f"Received: {received}." in said and all(name in said for name in STYLES)
    for flag in ("--alpha=0.5", "--tile=16", "--preserve_color=match"):
        assert "cin" in refused(1, *shared, "--style=a", flag)


def test_masks_say_where_each_style_goes(stylise, world):
    styles = f"--style={world / 'styles' / 'a.png'},{world / 'styles' / 'b.png'}"
    masks = f"--content_mask={world / 'left.png'},{world / 'right.png'}"
    found = stylise("adain", styles, masks, style=None)
    one, other = stylise("adain"), stylise("adain", style="b")
    np.testing.assert_allclose(found[:, :20], one[:, :20], atol=0.6 / 255)
    np.testing.assert_allclose(found[:, -20:], other[:, -20:], atol=0.6 / 255)
    # Where no mask is white the content shows.
    found = stylise("adain", f"--content_mask={world / 'left.png'}")
    np.testing.assert_allclose(found[:, :20], one[:, :20], atol=0.6 / 255)
    np.testing.assert_allclose(found[:, -20:], photo(world)[:, -20:], atol=0.6 / 255)


def test_colours_are_kept(stylise, world):
    grey = stylise("adain", "--preserve_color=luminance") - photo(world)
    inside = np.abs(grey).max(-1) > 0.02
    spread = np.ptp(np.where(np.abs(grey + photo(world) - 0.5) < 0.45, grey, np.nan), axis=-1)
    assert inside.any() and np.nanmax(spread) < 2 / 255
    network = loaded(world, "adain")
    matched = colors.match_colors(style_picture(world), photo(world))
    expected = network.transform(photo(world), network.code(matched))
    found = stylise("adain", "--preserve_color=match")
    np.testing.assert_allclose(found, expected, atol=1.1 / 255 / 2)


def test_a_folder_of_contents_gives_a_folder_of_pictures(stylise, refused, world, tmp_path):
    shared = f"--content={world / 'contents'}"
    (tmp_path / "many").mkdir()
    stylise("adain", shared, output="many")
    found = {path.name: read(path).shape[:2] for path in (tmp_path / "many").iterdir()}
    assert found == {
        **{"a.png": (40, 60), "b.png": (50, 45), "c.png": (36, 36), "d.png": (64, 48)},
    }
    alone = stylise("adain", f"--content={world / 'contents' / 'b.png'}")
    np.testing.assert_array_equal(read(tmp_path / "many" / "b.png"), alone)


def test_the_size_is_that_of_the_long_side_and_16_bits_are_kept(stylise, tmp_path):
    assert stylise("adain", "--size=40").shape == (29, 40, 3)
    stylise("adain", "--bits=16")
    values = tf.io.decode_png((tmp_path / "out.png").read_bytes(), dtype=tf.uint16).numpy()
    assert (values % 257 != 0).any()


@pytest.mark.parametrize("tile", [8, 17])
def test_tiles_leave_no_seams(stylise, tile):
    more = ("--size=45", "--alpha=0.7")
    np.testing.assert_allclose(
        stylise("adain", *more, f"--tile={tile}", output="tiles.png"),
        stylise("adain", *more),
        atol=1.01 / 255,
    )


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (3, ["--network={}/contents"], "--network"),
        (3, ["--network={}/model/saved_model"], "--network"),
        (1, ["--style_blend=1,2"], "--style_blend"),
        (1, ["--style_blend=0"], "zeros"),
        (1, ["--style_blend=-1"], "'-1'"),
        (1, ["--content_mask={0}/left.png,{0}/right.png"], "--content_mask"),
        (1, ["--alpha=2"], "alpha"),
        (1, ["--style="], "--style"),
        (1, ["--content="], "--content"),
        (1, ["--bits=12"], "12"),
        (1, ["--content={}/contents"], "a directory"),
        (1, ["--output={}/photo.bmp"], "photo.bmp"),
        (2, ["--content={}/broken/half.png"], "half.png"),
        (2, ["--content={}/nowhere.png"], "nowhere.png"),
        (2, ["--style={}/nowhere.png"], "nowhere.png"),
        (2, ["--content={}/small.png"], "at least 8"),
        (2, ["--style={}/thin.png", "--style_size=20"], "--style_size"),
        (2, ["--content={}/empty"], "no images"),
        (1, ["--content={}/empty", "--output={}/empty"], "--output and --content are both"),
        (2, ["--content_mask={}/nowhere.png"], "nowhere.png"),
        (4, ["--output={}/nowhere/out.png"], "nowhere"),
    ],
)
def test_bad_input_of_application(refused, world, tmp_path, code, arguments, said):
    good = (
        *(f"--network={trained(world, 'adain')}", f"--content={world / 'photo.png'}"),
        *(f"--style={world / 'styles' / 'a.png'}", f"--output={tmp_path / 'out.png'}"),
    )
    assert said in refused(code, "apply", *good, *(text.format(world) for text in arguments))


def test_tiles_of_an_encoder_network_are_refused(refused, world, tmp_path):
    said = refused(
        *(1, "apply", f"--network={trained(world, 'encoder')}", f"--output={tmp_path / 'o.png'}"),
        *(f"--content={world / 'photo.png'}", f"--style={world / 'styles' / 'a.png'}", "--tile=9"),
    )
    assert "looks" in said or "look at the whole picture" in said


def test_a_damaged_network_is_said_to_be(refused, world, tmp_path):
    folder = shutil.copytree(trained(world, "adain"), tmp_path / "damaged")
    (folder / "saved_model.pb").write_bytes(b"half")
    assert "damaged" in refused(
        *(3, "apply", f"--network={folder}", f"--output={tmp_path / 'out.png'}"),
        *(f"--content={world / 'photo.png'}", f"--style={world / 'styles' / 'a.png'}"),
    )


@pytest.mark.parametrize(
    "change", [{"stride": 0}, {"halo": -8}, {"halo": 3}, {"least_style": 0}, {"method": "magic"}]
)
def test_a_network_whose_description_makes_no_sense_is_damaged(refused, world, tmp_path, change):
    folder = shutil.copytree(trained(world, "adain"), tmp_path / "edited")
    asset = folder / "assets" / "network.json"
    asset.write_text(json.dumps({**json.loads(asset.read_text()), **change}))
    said = refused(
        *(3, "apply", f"--network={folder}", f"--output={tmp_path / 'out.png'}"),
        *(f"--content={world / 'photo.png'}", f"--style={world / 'styles' / 'a.png'}", "--tile=16"),
    )
    assert "damaged" in said and str(*change.values()) in said


def test_every_flag_of_the_contract_is_there():
    values = flags.FlagValues()
    apply.define_flags(values)
    wanted = ("network", "content", "style", "style_blend", "alpha", "output", "tile")
    assert all(name in values for name in wanted)
