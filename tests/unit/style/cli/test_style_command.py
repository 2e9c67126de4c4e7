"""`python -m style`: what a user types, finds afterwards, and is told."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import signal
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from helpers import picture, python, refused_style, save_model, stylise
from PIL import Image

import vgg_normalize as vn
from style import __main__ as entry
from style.cli import run_transfer
from style.cli.read_inputs import read_inputs
from style.images import colors, reading, resizing, writing
from style.objective import value_and_gradient
from style.objective.losses import STYLE_LOSSES
from style.synthesis import descent, inputs

pytestmark = pytest.mark.slow

# The contract's, section 5.
DEFAULTS = {
    "task": "transfer",
    "model": "vgg19",
    "content": None,
    "style": [],
    "style_blend": [],
    "output": None,
    "size": 512,
    "style_scale": 1.0,
    "content_layers": [],
    "style_layers": [],
    "content_weight": 1.0,
    "strength": 0.5,
    "sweep": None,
    "style_weight": None,
    "tv_weight": None,
    "style_loss": "gram",
    "content_loss": "features",
    "wrap": False,
    "padding": None,  # the network's; zero for vgg19
    "interpolate": 0,
    "scale_factor": 2.0,
    "init": None,
    "seed": 0,
    "optimizer": "lbfgs",
    "steps": 500,
    "scales": 1,
    "preserve_color": "none",
    "content_mask": [],
    "style_mask": [],
    "tile": 0,
    "precision": "float32",
    "log": None,
    "animation": None,
    "checkpoint": None,
    "resume": False,
    "tv_beta": 2.0,
}
OTHERS = ("norm_weight", "preview_every", "checkpoint_every")  # of no stated default
CHOICES = {
    "task": ["transfer", "texture", "inversion", "amalgamation"],
    "content_loss": ["features", "neighbors"],
    "padding": ["zero", "reflect", "replicate", "wrap"],
    "optimizer": ["lbfgs", "adam"],
    "precision": ["float32", "bfloat16"],
    "preserve_color": ["none", "luminance", "match"],
}
KEYS = {"step", "evaluations", "seconds", "size", "loss", "terms"}
LAYERS = ["block1_conv1", "block1_conv2", "block2_conv1"]
STEPS = 6
LBFGS = "--optimizer=lbfgs"
CONTENT_SHAPE, STYLE_SHAPE = (21, 32), (32, 27)  # of the pictures below with a long side of 32


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Pictures to read; nothing is written here."""
    folder = tmp_path_factory.mktemp("pictures")
    arrays = {
        "content": picture(60, 90, seed=1),
        "style": picture(70, 60, seed=2),
        "other": picture(50, 80, seed=3),
        "left": np.repeat([[255, 0]], 32, axis=1).repeat(40, axis=0).astype(np.uint8),
        "right": np.repeat([[0, 255]], 32, axis=1).repeat(40, axis=0).astype(np.uint8),
        "black": np.zeros((40, 64), np.uint8),
        "flat": np.full((60, 90, 3), 77, np.uint8),
        "line": picture(1, 90),
    }
    for name, pixels in arrays.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "content.png").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def run_in(model, folder):
    """Run the command on small pictures, its output in a directory; later flags win.

    By Adam, whose graphs are quickly traced.
    """

    def run(place: Path, *arguments: object, output: str = "out.png") -> int:
        return stylise(
            *(f"--model={model}", f"--content={folder / 'content.png'}"),
            *(f"--style={folder / 'style.png'}", f"--output={place / output}"),
            *("--size=32", f"--steps={STEPS}", "--memory=2", "--optimizer=adam"),
            *arguments,
        )

    return run


@pytest.fixture
def run(run_in, tmp_path):
    """`run_in` a directory of the test's own."""
    return partial(run_in, tmp_path)


@pytest.fixture
def refused(run, capsys, tmp_path):
    """The one line with which the command refuses, leaving nothing behind."""

    def refused(code: int, *arguments: object, output: str = "out.png") -> str:
        return refused_style(capsys, tmp_path, code, run, *arguments, output=output)

    return refused


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def signal_after(monkeypatch, states: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal once so many states, of all sizes, were made."""
    original, seen = descent.minimize, [0]

    def minimize(*args, **kwargs):
        for state in original(*args, **kwargs):
            seen[0] += 1
            if seen[0] == states:
                signal.raise_signal(number)
            yield state

    monkeypatch.setattr(descent, "minimize", minimize)


# Flags.


def test_every_flag_of_the_contract_has_its_default():
    values = flags.FlagValues()
    entry.define_flags(values)
    values(["style"])
    assert {name: values[name].value for name in DEFAULTS} == DEFAULTS
    assert all(name in values for name in OTHERS)
    for name, choices in CHOICES.items():
        assert values[name].parser.enum_values == choices


def test_the_help_states_the_weights_and_needs_nothing(capsys):
    assert stylise("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in STYLE_LOSSES) and "--style_weight" in text
    assert "--strength" in text and "(default: '0.5')" in text


@pytest.mark.parametrize("module", ["style", "style.apply", "style.train", "vgg_normalize"])
def test_the_help_of_a_process_shows_every_flag_under_one_heading(module):
    """absl shows the flags of the main module only, where it has any, and two of its own."""
    code = f"import runpy, sys; sys.argv = ['it', '--help']; runpy.run_module({module!r}, None, "
    text = python(code + "'__main__')").stdout
    values = flags.FlagValues()
    name = module if "." in module else f"{module}.__main__"
    importlib.import_module(name).define_flags(values)
    for flag in values:
        assert f"--{flag}: " in text or f"--[no]{flag}: " in text, flag
    assert "--[no]debug: " in text and "undefok" not in text
    assert text.count("\nflags:\n") == 1 and ".py:" not in text and "runtime.command:" not in text


@pytest.mark.parametrize(("former", "name"), entry.ALIASES.items())
@pytest.mark.parametrize("value", ["3", "0.5"])
def test_former_names_of_flags_still_work_and_the_help_says_so(capsys, former, name, value):
    found = []
    for given in (former, name):
        values = flags.FlagValues()
        entry.define_flags(values)
        try:
            values(["style", f"--{given}={value}"])
        except flags.IllegalFlagValueError:
            found.append("refused")
        else:
            found.append(values[name].value)
    assert found[0] == found[1] == ("refused" if (name, value) == ("history_size", "0.5") else
                                    float(value))  # fmt: skip
    assert values[name].help.rstrip(".").endswith(f"ormerly --{former}")
    assert stylise("--help") == 0
    assert f"--{former}: Alias for --{name}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("former", "name", "value"),
    [("memory", "history_size", 3), ("smoothing", "preconditioner_exponent", 1)],
)
def test_both_names_of_a_flag_give_the_same_run(run, monkeypatch, former, name, value):
    """A run is what its settings say."""
    runs = []
    monkeypatch.setattr(run_transfer, "run", lambda *arguments: runs.append(arguments[0]))
    for given in (former, name):
        assert run(f"--{given}={value}") == 0
    assert runs[0] == runs[1] and getattr(runs[0], name) == value


def test_defaults_that_depend_on_task_and_network_are_filled_in(model):
    network = vn.load(model)

    def resolved(**given):
        given = {"content": "c", "style": ("s",), **given}
        return run_transfer.resolve_settings(
            entry.Settings(output="o", model="m", **given), network
        )

    found = {task: resolved(task=task) for task in CHOICES["task"]}
    assert [found[task].init for task in CHOICES["task"]] == ["content", "noise", "noise", "style"]
    assert found["transfer"].style_layers == (("block1_conv1", 1.0), ("block2_conv1", 1.0))
    assert found["transfer"].content_layers == (("block2_conv1", 1.0),)
    assert (found["transfer"].strength, found["transfer"].style_weight) == (0.5, None)
    assert resolved(style_weight=0.0).style_weight == 0
    assert (found["texture"].content, found["inversion"].style) == (None, ())


# The four tasks.


@pytest.mark.parametrize(
    ("task", "loss", "shape", "terms"),
    [
        ("transfer", "gram", CONTENT_SHAPE, {"content", "style"}),
        ("transfer", "wasserstein", CONTENT_SHAPE, {"content", "style"}),
        ("texture", "gram", STYLE_SHAPE, {"style"}),
        ("texture", "mmd_gaussian", STYLE_SHAPE, {"style"}),
        ("amalgamation", "gram", CONTENT_SHAPE, {"content", "style"}),
        ("amalgamation", "moments", CONTENT_SHAPE, {"content", "style"}),
        ("inversion", "gram", CONTENT_SHAPE, {"content", "tv", "norm"}),
    ],
)
def test_a_task_makes_its_picture_and_logs_every_step(run, tmp_path, task, loss, shape, terms):
    log = tmp_path / "log.jsonl"
    optimizer = LBFGS if loss == "gram" else "--optimizer=adam"
    assert run(f"--task={task}", f"--style_loss={loss}", f"--log={log}", optimizer) == 0
    assert read(tmp_path / "out.png").shape == (*shape, 3)
    found = lines(log)
    assert found[0].keys() - KEYS == ({"style_weight"} if "style" in terms else set())
    assert all(line.keys() == KEYS for line in found[1:])
    assert all(line["size"] == list(shape) and line["terms"].keys() == terms for line in found)
    assert [line["step"] for line in found] == list(range(len(found)))
    evaluations = [line["evaluations"] for line in found]
    assert evaluations[0] == 1 and (np.diff(evaluations) > 0).all()
    assert evaluations[-1] <= STEPS
    seconds = [line["seconds"] for line in found]
    assert seconds[0] > 0 and (np.diff(seconds) >= 0).all()
    for line in found:
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-6)
    assert found[-1]["loss"] < found[0]["loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "out.png"]


def test_inversion_makes_one_picture_for_each_layer(run, tmp_path):
    log, gif = tmp_path / "log.jsonl", tmp_path / "run.gif"
    log.write_text("of an earlier run\n")
    assert run(
        *("--task=inversion", "--content_layers=block1_conv1:1,block2_conv1:2"),
        *(f"--log={log}", f"--animation={gif}"),
    ) == 0  # fmt: skip
    names = {"out_block1_conv1.png", "out_block2_conv1.png"}
    names |= {"run_block1_conv1.gif", "run_block2_conv1.gif"}
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl"} | names
    found = lines(log)
    assert [line["layer"] for line in found if line["step"] == 0] == [
        "block1_conv1",
        "block2_conv1",
    ]
    assert all(line.keys() == KEYS | {"layer"} for line in found)
    pictures = [read(tmp_path / f"out_{name}.png") for name in ("block1_conv1", "block2_conv1")]
    assert (pictures[0] != pictures[1]).any()


def test_the_log_is_the_objective_as_it_is_defined(run, model, folder, tmp_path):
    """The start line, computed here once more from the contract's formulas."""
    log = tmp_path / "log.jsonl"
    assert run(
        *("--steps=1", f"--log={log}", "--init=style", "--content_weight=2", "--style_weight=3"),
        *("--tv_weight=5", "--content_layers=block1_conv2:0.5", "--style_layers=block1_conv1:4"),
    ) == 0  # fmt: skip
    layers = ["block1_conv1", "block1_conv2"]
    extract = vn.features(vn.load(model), layers)
    content = resizing.fit(reading.load(folder / "content.png").pixels, 32)
    style = reading.load(folder / "style.png").pixels
    x = np.clip(resizing.resize(style, *CONTENT_SHAPE), 0, 1)
    c, s, f = ({k: np.asarray(v[0], float) for k, v in extract(p[None]).items()} for p in (
        content, resizing.fit(style, 32), x))  # fmt: skip

    def gram(features):
        flat = features.reshape(-1, features.shape[-1])
        return flat.T @ flat / len(flat)

    expected = {
        "content": 2 * 0.5 * np.mean((f["block1_conv2"] - c["block1_conv2"]) ** 2),
        "style": 3 * 4 * np.mean((gram(f["block1_conv1"]) - gram(s["block1_conv1"])) ** 2),
        "tv": 5 * (np.sum(np.diff(x, axis=0) ** 2) + np.sum(np.diff(x, axis=1) ** 2)) / x.size,
    }
    (start,) = (line for line in lines(log) if line["step"] == 0)
    assert start["terms"] == pytest.approx(expected, rel=1e-4)
    assert start["loss"] == pytest.approx(sum(expected.values()), rel=1e-4)


# Options.


def test_unused_flags_are_ignored_with_a_line_that_says_so(run, tmp_path, capsys):
    assert run("--task=texture") == 0
    plain = read(tmp_path / "out.png")
    capsys.readouterr()
    assert run(
        *("--task=texture", "--content=nowhere.png", "--content_layers=nothing:3"),
        *("--preserve_color=luminance", "--content_mask=a.png,b.png", "--norm_weight=1"),
    ) == 0  # fmt: skip
    said = capsys.readouterr().err
    assert "--task=texture does not use " in said
    for name in ("content", "content_layers", "preserve_color", "content_mask", "norm_weight"):
        assert f"--{name}" in said.splitlines()[0]
    np.testing.assert_array_equal(read(tmp_path / "out.png"), plain)


@pytest.mark.parametrize("init", ["content", "style", "noise", "PATH"])
def test_the_run_begins_where_init_says(run, folder, tmp_path, monkeypatch, init):
    begun = []
    original = descent.minimize
    monkeypatch.setattr(
        descent, "minimize", lambda m, x, *a, **k: begun.append(x) or original(m, x, *a, **k)
    )
    assert run(f"--init={folder / 'other.png' if init == 'PATH' else init}", "--steps=1") == 0
    if init == "noise":
        expected = inputs.noise(CONTENT_SHAPE, 0)
    else:
        pixels = reading.load(folder / f"{'other' if init == 'PATH' else init}.png").pixels
        expected = np.clip(resizing.resize(pixels, *CONTENT_SHAPE), 0, 1)
    np.testing.assert_array_equal(begun[0][0], expected)


def test_scales_go_from_coarse_to_fine_and_log_both_sizes(run, tmp_path):
    log = tmp_path / "log.jsonl"
    assert run("--scales=2", f"--log={log}") == 0
    found = lines(log)
    sizes = [line["size"] for line in found]
    assert sizes == sorted(sizes) and sizes[0] == [10, 16] and sizes[-1] == [21, 32]
    assert [line["size"] for line in found if line["step"] == 0] == [[10, 16], [21, 32]]
    assert read(tmp_path / "out.png").shape == (21, 32, 3)


def test_coarse_sizes_at_which_the_style_is_too_small_are_left_out(run, tmp_path):
    log = tmp_path / "log.jsonl"
    assert run("--scales=2", "--style_scale=0.07", f"--log={log}") == 0
    assert {tuple(line["size"]) for line in lines(log)} == {CONTENT_SHAPE}


def test_preserved_luminance_keeps_the_contents_chroma(run, folder, tmp_path):
    assert run("--preserve_color=luminance", "--bits=16") == 0
    content = resizing.fit(reading.load(folder / "content.png").pixels, 32)
    found = tf.io.decode_png((tmp_path / "out.png").read_bytes(), dtype=tf.uint16).numpy() / 65535
    inside = (found > 0.001).all(-1) & (found < 0.999).all(-1)  # not clipped
    assert inside.mean() > 0.5

    def chroma(pixels):
        return (pixels - (pixels @ colors.LUMA)[..., None])[inside]

    np.testing.assert_allclose(chroma(found), chroma(content), atol=1e-4)
    assert np.abs(found - content)[inside].max() > 0.01


@pytest.mark.parametrize("color", ["luminance", "match"])
def test_the_style_is_recoloured(run, folder, color):
    settings = entry.Settings(
        output="o", content=str(folder / "content.png"), style=(str(folder / "style.png"),),
        style_blend=(1.0,), size=32, preserve_color=color, init="content",
    )  # fmt: skip
    (style,) = read_inputs(settings)[0].styles(CONTENT_SHAPE)
    content = read_inputs(settings)[0].content(CONTENT_SHAPE)
    found, wanted = style.pixels @ colors.LUMA, content @ colors.LUMA
    assert found.mean() == pytest.approx(wanted.mean(), abs=1e-4)
    assert found.std() == pytest.approx(wanted.std(), rel=1e-2)
    assert (color == "luminance") == bool((style.pixels == style.pixels[..., :1]).all())


def test_the_style_is_as_large_as_style_scale_says(folder):
    settings = entry.Settings(
        output="o", style=(str(folder / "style.png"),), style_blend=(1.0,), style_scale=1.5,
        size=32, init="noise", task="texture",
    )  # fmt: skip
    pictures = read_inputs(settings)[0]
    assert pictures.shape == STYLE_SHAPE
    assert pictures.styles(pictures.shape)[0].pixels.shape == (48, 41, 3)


def test_several_styles_with_masks_each_have_their_place(run, folder, tmp_path):
    styles = f"--style={folder / 'style.png'},{folder / 'other.png'}"
    masks = f"--content_mask={folder / 'left.png'},{folder / 'right.png'}"
    only_left = "--style_blend=1,0"
    shared = ("--content_weight=0", "--bits=16", "--smoothing=0")
    assert run(styles, masks, *shared) == 0
    both = read(tmp_path / "out.png").astype(int)
    assert run(styles, masks, only_left, *shared) == 0
    left = read(tmp_path / "out.png").astype(int)
    assert run(f"--init={folder / 'content.png'}", "--steps=1", *shared) == 0
    start = read(tmp_path / "out.png").astype(int)
    moved = np.abs(left - start).max(-1)
    assert moved[:, :12].max() > 5 and (moved[:, 24:] == 0).all()
    assert np.abs(both - start).max(-1)[:, 24:].max() > 5


def test_a_style_mask_is_used(run, folder, tmp_path):
    assert run(f"--style_mask={folder / 'left.png'}") == 0
    masked = read(tmp_path / "out.png")
    assert run() == 0
    assert (masked != read(tmp_path / "out.png")).any()


def test_a_blend_of_one_and_nothing_is_the_first_style(run, folder, tmp_path):
    assert run() == 0
    alone = read(tmp_path / "out.png")
    styles = f"--style={folder / 'style.png'},{folder / 'other.png'}"
    assert run(styles, "--style_blend=1,0") == 0
    np.testing.assert_array_equal(read(tmp_path / "out.png"), alone)
    assert run(styles) == 0
    assert (read(tmp_path / "out.png") != alone).any()


def test_previews_and_an_animation_are_written(run, tmp_path, monkeypatch):
    saved = []
    original = writing.save
    monkeypatch.setattr(
        writing, "save", lambda path, *a, **k: saved.append(path) or original(path, *a, **k)
    )
    flags = ("--preview_every=2", f"--animation={tmp_path / 'run.gif'}")
    assert run(*flags, "--scales=2") == 0
    assert saved == [str(tmp_path / "out.png")] * 5  # steps 2 and 4 of both sizes, and the end
    with Image.open(tmp_path / "run.gif") as file:
        assert file.size == (32, 21) and file.n_frames > 5


@pytest.mark.parametrize(("loss", "optimizer"), [("gram", "lbfgs"), ("mmd_gaussian", "adam")])
def test_16_bits_and_the_same_seed_the_same_bits(run, tmp_path, loss, optimizer):
    flags = (
        f"--style_loss={loss}",
        f"--optimizer={optimizer}",
        "--init=noise",
        "--bits=16",
        "--seed=3",
    )
    assert run(*flags) == 0
    first = (tmp_path / "out.png").read_bytes()
    values = tf.io.decode_png(first, dtype=tf.uint16).numpy()
    assert (values % 257 != 0).any()  # more than 8 bits
    assert run(*flags) == 0
    assert (tmp_path / "out.png").read_bytes() == first
    assert run(*flags, "--seed=4") == 0
    assert (tmp_path / "out.png").read_bytes() != first


@pytest.mark.parametrize("name", ["out.jpg", "out.tif"])
def test_the_suffix_is_the_format_and_the_contents_profile_is_kept(run, folder, tmp_path, name):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(folder / "content.png") as file:
        file.save(tmp_path / "profiled.png", icc_profile=profile)
    assert run(f"--content={tmp_path / 'profiled.png'}", "--steps=1", output=name) == 0
    with Image.open(tmp_path / name) as file:
        assert file.format == {"out.jpg": "JPEG", "out.tif": "TIFF"}[name]
        assert file.info["icc_profile"] == profile


@pytest.mark.parametrize("side", [31, 2])
def test_odd_and_tiny_results_are_made(run, tmp_path, side):
    assert run(f"--size={side}", f"--style={tmp_path.parent / 'none'}") == 2
    code = run(f"--size={side}", "--content_layers=block1_conv1", "--style_layers=block1_conv1")
    assert code == 0
    assert max(read(tmp_path / "out.png").shape[:2]) == side


# Stopping and going on.


@pytest.fixture(scope="module")
def whole_run(run_in, tmp_path_factory):
    """Directory of the picture and log of a run with these flags, made once."""

    @cache
    def whole_run(*flags: str) -> Path:
        place = tmp_path_factory.mktemp("whole")
        assert run_in(place, *flags, f"--log={place / 'log.jsonl'}") == 0
        return place

    return whole_run


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ((LBFGS,), 0),
        ((LBFGS,), 0.6),
        ((), 0.5),
        (("--scales=2",), 0.3),
        (("--scales=2",), 0.8),
        (("--style_loss=sliced_wasserstein", "--renew_every=3"), 0.7),
        (("--content_loss=neighbors", "--renew_every=3", "--scales=2"), 0.8),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    run, whole_run, tmp_path, monkeypatch, options, share
):
    shared = ("--init=noise", "--bits=16", "--steps=8", *options)
    whole, log = whole_run(*shared) / "log.jsonl", tmp_path / "log.jsonl"
    place = f"--checkpoint={tmp_path / 'state'}"
    number = signal.SIGINT if share else signal.SIGTERM
    states = 1 + int(share * (len(lines(whole)) - 1))
    with monkeypatch.context() as patch:
        signal_after(patch, states, number)
        assert run(*shared, place, f"--log={log}") == 128 + number
    assert len(lines(log)) == states
    assert read(tmp_path / "out.png").shape == (*lines(log)[-1]["size"], 3)  # so far
    assert run(*shared, place, f"--log={log}", "--resume") == 0
    assert (tmp_path / "out.png").read_bytes() == whole.with_name("out.png").read_bytes()

    def untimed(path):
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(path)]

    assert untimed(log) == untimed(whole)
    assert (np.diff([line["seconds"] for line in lines(log)]) >= 0).all()


def test_an_interrupted_inversion_goes_on_with_every_layer(run, tmp_path, monkeypatch):
    shared = ("--task=inversion", "--content_layers=block1_conv1,block2_conv1")
    assert run(*shared, f"--log={tmp_path / 'whole'}", output="whole.png") == 0
    shared += (f"--checkpoint={tmp_path / 'state'}", f"--log={tmp_path / 'log'}")
    with monkeypatch.context() as patch:
        signal_after(patch, STEPS + 3)  # in the second layer
        assert run(*shared, "--checkpoint_every=2") == 130
    assert run(*shared, "--resume") == 0
    for layer in ("block1_conv1", "block2_conv1"):
        paths = [tmp_path / f"{name}_{layer}.png" for name in ("whole", "out")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        steps = [
            [line["step"] for line in lines(tmp_path / name) if line["layer"] == layer]
            for name in ("whole", "log")
        ]
        assert steps[0] == steps[1]


NOISE = ("--init=noise",)


@pytest.fixture(scope="module")
def stopped(run_in, tmp_path_factory):
    """Directory of an interrupted run with two checkpoints."""
    place = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        signal_after(patch, 5)
        flags = (*NOISE, f"--checkpoint={place / 'state'}", "--checkpoint_every=2")
        assert run_in(place, *flags) == 130
    return place


@pytest.fixture
def interrupted(stopped, whole_run, tmp_path):
    """Flags of an interrupted run with two checkpoints, and the whole run's picture."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    expected = (whole_run(*NOISE) / "out.png").read_bytes()
    return (*NOISE, f"--checkpoint={tmp_path / 'state'}"), expected


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("--seed=9", "seed (0, not 9)"),
        ("--style_weight=7", "style_weight (null, not 7.0)"),
        ("--size=33", "size (32, not 33)"),
        ("--style_loss=moments", "style_loss (gram, not moments)"),
        ("picture", "pictures"),
    ],
)
def test_going_on_with_other_settings_is_refused_with_their_names(
    refused, folder, interrupted, other, said
):
    if other == "picture":
        other = f"--style={folder / 'other.png'}"
    line = refused(4, *interrupted[0], "--resume", other)
    assert f"made with other settings: {said}. Use" in line


def test_going_on_with_other_weights_is_refused(refused, model, interrupted, monkeypatch):
    network = vn.load(model)
    layer = network.get_layer("block1_conv1")
    layer.set_weights([2 * array for array in layer.get_weights()])
    monkeypatch.setattr(vn, "load", lambda path: network)
    refused(4, *interrupted[0], "--resume")


@pytest.mark.parametrize("damaged", [["checkpoint.npz"], ["checkpoint.npz", "checkpoint.previous"]])
def test_a_damaged_checkpoint_is_not_used_but_the_one_before_or_none(
    run, tmp_path, capsys, interrupted, damaged
):
    shared, expected = interrupted
    for name in damaged:
        path = tmp_path / "state" / name
        path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    assert run(*shared, "--resume") == 0
    said = capsys.readouterr().err
    assert said.count("is damaged") == len(damaged)
    assert ("starting afresh" in said) == (len(damaged) == 2)
    assert (tmp_path / "out.png").read_bytes() == expected


def test_a_second_signal_stops_at_once(run, tmp_path, monkeypatch):
    original = descent.minimize

    def minimize(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        yield from original(*args, **kwargs)

    monkeypatch.setattr(descent, "minimize", minimize)
    assert run() == 143
    assert not list(tmp_path.iterdir())


def test_lines_after_the_checkpoint_and_half_lines_are_logged_anew(
    run, whole_run, tmp_path, interrupted
):
    log, text = tmp_path / "log.jsonl", (whole_run(*NOISE) / "log.jsonl").read_text()
    whole = [json.loads(line) for line in text.splitlines()]
    log.write_text(text + '{"step": 6, "ev')  # as after kill -9
    assert run(*interrupted[0], "--resume", f"--log={log}") == 0
    assert [line["step"] for line in lines(log)] == [line["step"] for line in whole]


def test_resuming_with_nothing_to_go_on_from_starts_afresh(run, tmp_path, capsys):
    assert run(f"--checkpoint={tmp_path / 'state'}", "--resume") == 0
    assert "starting afresh" in capsys.readouterr().err
    assert (tmp_path / "out.png").exists()


def test_a_new_run_writes_its_log_anew(run, tmp_path):
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        assert run(f"--log={log}") == 0
    assert [line["step"] for line in lines(log)] == list(range(STEPS))


# Bad input: one line, the right code, nothing left behind.


@pytest.mark.parametrize("flag", ["content", "style", "init"])
@pytest.mark.parametrize("name", ["none.png", "broken.png"])
def test_missing_and_damaged_pictures(refused, folder, flag, name):
    assert name in refused(2, f"--{flag}={folder / name}")


def test_pictures_too_small_for_the_layers(refused, folder):
    assert "1 x 32" in refused(2, f"--content={folder / 'line.png'}")
    assert "at least 2 pixels" in refused(2, "--style_scale=0.04")


@pytest.mark.parametrize("flag", ["content_layers", "style_layers"])
def test_unknown_layers_are_refused_with_the_list(refused, flag):
    said = refused(3, f"--{flag}=block1_conv1:1,block7_conv1:1")
    assert all(name in said for name in LAYERS) and "Received: block7_conv1." in said


@pytest.mark.parametrize("flag", ["content_mask", "style_mask"])
def test_wrong_numbers_of_masks_and_empty_ones(refused, folder, flag):
    mask, black = folder / "left.png", folder / "black.png"
    assert f"--{flag}" in refused(1, f"--{flag}={mask},{mask}")
    assert "black" in refused(2, f"--{flag}={black}")
    refused(2, f"--{flag}={folder / 'none.png'}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--style_blend=1,2"], "--style_blend"),
        (["--style_blend=0"], "zeros"),
        (["--style_blend=-1"], "'-1'"),
        (["--style_blend=much"], "'much'"),
        (["--style_blend=nan"], "'nan'"),
        (["--style_layers=block1_conv1:much"], "'much'"),
        (["--content_layers=block1_conv1:-1"], "'-1'"),
        (["--content_weight=0", "--style_weight=0"], "weights of 0"),
        (["--resume"], "--checkpoint"),
        (["--bits=12"], "12"),
        (["--content="], "--content"),
        (["--style="], "--style"),
    ],
)
def test_wrong_usage(refused, arguments, said):
    assert said in refused(1, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size=0"],
        ["--steps=0"],
        ["--size=large"],
        ["--content_weight=-1"],
        ["--optimizer=sgd"],
        ["--task=painting"],
        ["--style_loss=nothing"],
        ["--preserve_color=red"],
        ["--nothing=1"],
        ["positional"],
        ["--model="],
    ],
)
def test_flags_that_cannot_be_parsed_are_usage_in_one_line(run, tmp_path, capsys, arguments):
    assert run(*arguments) == 1
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1 and text.startswith("style: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("output", "code"), [("out.bmp", 1), ("out", 1), ("none/out.png", 4)])
def test_outputs_that_cannot_be_written(refused, output, code):
    assert "out" in refused(code, output=output)


@pytest.mark.parametrize(("task", "init"), [("texture", "content"), ("inversion", "style")])
def test_a_picture_that_the_task_does_not_read_cannot_be_the_first(
    run, tmp_path, capsys, task, init
):
    assert run(f"--task={task}", f"--init={init}") == 1
    said = capsys.readouterr().err.splitlines()
    assert (
        f"does not use --{init}" in said[0]
        and f"picture for --init={init}. Received: none" in said[-1]
    )
    assert sum("Expected" in line for line in said) == 1 and not list(tmp_path.iterdir())


def test_16_bits_for_another_format(refused):
    assert ".png" in refused(1, "--bits=16", output="out.jpg")


@pytest.mark.parametrize("flag", ["log", "animation"])
def test_folders_that_are_missing(refused, tmp_path, flag):
    assert "none" in refused(4, f"--{flag}={tmp_path / 'none' / 'file'}")


@pytest.mark.parametrize("name", ["run.avi", "run", "run.gif.png"])
def test_an_animation_is_named_like_one(refused, run, tmp_path, name):
    assert name in refused(1, f"--animation={tmp_path / name}")


def test_an_animation_may_be_named_in_capitals(run, tmp_path):
    assert run(f"--animation={tmp_path / 'RUN.GIF'}") == 0
    assert (tmp_path / "RUN.GIF").read_bytes().startswith(b"GIF8")


def test_a_folder_for_pairs_needs_its_parent(refused, tmp_path):
    said = refused(4, LBFGS, f"--memory_folder={tmp_path / 'none' / 'pairs'}")
    assert f"Expected the folder of {tmp_path / 'none' / 'pairs'} to exist" in said


def test_a_folder_for_pairs_goes_again_if_the_run_made_it_and_nothing_is_in_it(run, tmp_path):
    pairs = tmp_path / "pairs"
    flags = (LBFGS, "--steps=3", f"--memory_folder={pairs}")
    assert run(*flags) == 0 and not pairs.exists()
    pairs.mkdir()
    assert run(*flags) == 0 and not list(pairs.iterdir())
    pairs.rmdir()
    assert run(*flags, f"--checkpoint={tmp_path / 'state'}") == 0
    assert list(pairs.iterdir()), "the checkpoint names these"


def test_places_that_are_taken_by_something_else(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert "folder" in refused(4, f"--log={tmp_path / 'folder'}")
    assert "file" in refused(4, f"--checkpoint={tmp_path / 'file'}")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_log_on_a_full_disk(refused):
    assert "No space left" in refused(4, "--log=/dev/full")


def test_a_full_disk_leaves_the_picture_from_before(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "out.png").write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run() == 4
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_directories_that_hold_no_model(refused, folder, model, tmp_path):
    refused(3, f"--model={folder}")
    refused(3, f"--model={folder / 'none'}")
    shutil.copytree(model, tmp_path / "damaged")
    (variables,) = (tmp_path / "damaged").rglob("variables.data-00000-of-00001")
    variables.write_bytes(variables.read_bytes()[:1000])
    refused(3, f"--model={tmp_path / 'damaged'}")


def test_a_model_with_nan_names_the_layer(refused, model, monkeypatch):
    network = vn.load(model)
    layer = network.get_layer("block1_conv2")
    kernel, bias = layer.get_weights()
    kernel[0, 0, 0, 0] = np.nan
    layer.set_weights([kernel, bias])
    monkeypatch.setattr(vn, "load", lambda path: network)
    assert "block1_conv2" in refused(3)


# An objective that breaks.


@pytest.fixture
def breaking(monkeypatch):
    """An objective that is not a number from the sixth evaluation on; the count so far."""
    count = tf.Variable(0)

    def evaluate(x):
        broken = tf.where(count.assign_add(1) > 5, np.float32("nan"), np.float32(0))
        value = tf.reduce_sum(tf.square(x - 0.5)) + broken
        return value, 2 * (x - 0.5), {"content": value}

    monkeypatch.setattr(value_and_gradient, "make_value_and_gradient", lambda *_, **__: evaluate)
    return count


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_broken_objective_keeps_the_last_good_picture(
    run, folder, tmp_path, capsys, breaking, optimizer
):
    log = tmp_path / "log.jsonl"
    assert run(f"--optimizer={optimizer}", "--steps=50", f"--log={log}") == 6
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("style: Expected a finite objective.") and "out.png" in said
    found = lines(log)
    assert np.isfinite([line["loss"] for line in found]).all()
    assert 1 <= found[-1]["step"] <= 4
    pixels = read(tmp_path / "out.png") / 255
    loss = np.sum((pixels - 0.5) ** 2)
    assert loss == pytest.approx(found[-1]["loss"], abs=0.01 * found[0]["loss"])
    assert loss < found[0]["loss"]


def test_no_finite_step_is_told_however_few_evaluations_there_are(run, tmp_path, capsys):
    for steps in (2, 4):
        assert run(LBFGS, "--content_weight=1e38", f"--steps={steps}") == 6
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("style: ") and "NaN or infinity after step 0. The last" in said
        (tmp_path / "out.png").unlink()
    assert run(LBFGS, "--content_weight=1e38", "--steps=60") == 0
    assert "no further descent was found" in capsys.readouterr().err.splitlines()[-1]


def test_the_evaluations_of_a_search_that_is_cut_are_counted(run, capsys, monkeypatch):
    """A gradient that points the wrong way: no step is accepted in the three evaluations."""

    def evaluate(x):
        value = tf.reduce_sum(tf.square(x - 0.5))
        return value, -2 * (x - 0.5), {"content": value}

    monkeypatch.setattr(value_and_gradient, "make_value_and_gradient", lambda *_, **__: evaluate)
    assert run(LBFGS, "--steps=3") == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert "after 3 evaluations" in said and "all requested steps are done" in said


def test_an_objective_broken_from_the_start_leaves_nothing(refused, breaking):
    breaking.assign(10)
    assert "first picture" in refused(6)
