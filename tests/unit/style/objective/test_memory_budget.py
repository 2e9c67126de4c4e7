"""How much memory a run needs: the estimate against processes, and what the command says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from forks import program
from helpers import picture, refused_style, save_model, stylise
from PIL import Image

import vgg_normalize as vn
from style.images.resizing import shape_for
from style.objective import memory_budget

pytestmark = pytest.mark.slow

# Of the estimate: the least and the most that a process may take.
LEAST, MOST = 0.45, 1.1
# What a run takes at its peak beyond what it had before, and the estimate.
MEASURE = """
import os, sys
import numpy as np
import vgg_normalize as vn
from style.objective import memory_budget
from style.objective.value_and_gradient import make_value_and_gradient
from style.optimizers.history import InMemoryHistory
from style.synthesis import descent
from style.synthesis.picture_terms import Style, as_batch, content_terms, style_terms

side, tile, optimizer, pairs = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
model = vn.build("vgg19", weights="random", last_layer="block3_conv1")
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
layers = [(f"block{block}_conv1", 1.0) for block in (1, 2, 3)]
names, shape, random = [name for name, _ in layers], (side, side), np.random.default_rng(0)
estimate = memory_budget.estimate(
    *(model, names, [shape, (128, 128)]),
    optimizer=optimizer, history_size=pairs, tile=tile, compared=names[-1:],
)
terms = content_terms(model, layers[-1:], 1.0, shape=shape)
style = Style(random.random((128, 128, 3), np.float32))
terms += style_terms(model, [style], layers, 100.0, shape=shape, tile=tile)
start = as_batch(random.random((side, side, 3), np.float32))
evaluate = make_value_and_gradient(model, terms, shape, content=start, tile=tile)
method = descent.make_optimizer(optimizer, evaluate, shape, history=InMemoryHistory(max(pairs, 1)))
for state in descent.minimize(method, start, 3):
    pass
# Not ru_maxrss, which begins with what the parent had when it forked.
with open("/proc/self/status") as file:
    peak = 1024 * int(next(line.split()[1] for line in file if line.startswith("VmHWM")))
print(int(state.evaluations), peak - before, estimate)
"""
GIB = 2**30
PAIRS = 2
# A long side that a tile of 128 cuts into several; only the first layer is computed.
SIZE = 1000
SHALLOW = ("--content_layers=block1_conv1", "--style_layers=block1_conv1")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to measure with")
@pytest.mark.parametrize(
    ("side", "tile", "optimizer", "pairs"), [(384, 0, "lbfgs", 5), (384, 128, "adam", 0)]
)
def test_a_process_takes_about_what_was_estimated(side, tile, optimizer, pairs):
    """Bounds of 0.45 and 1.1 of the estimate.

    It takes a fifth more on processors without AVX-512 than with it.
    """
    found = program(MEASURE, side, tile, optimizer, pairs)
    evaluations, taken, estimate = map(int, found.split())
    assert evaluations >= 3
    assert LEAST * estimate <= taken <= MOST * estimate


@pytest.fixture(scope="module")
def network():
    return vn.build("vgg19", weights="random", last_layer="block3_conv1")


def estimate(network, shape=(512, 512), style=(64, 64), **options) -> int:
    names = ["image", "block1_conv1", "block3_conv1"]
    return memory_budget.estimate(network, names, [shape, style], **options)


def test_more_pixels_pairs_and_layers_take_more(network):
    sides = [estimate(network, (side, side)) for side in (64, 128, 512, 1024)]
    assert sides == sorted(set(sides))
    # Features of one layer of 64 channels are the least that a picture takes.
    assert sides[-1] - sides[-2] > 64 * 4 * (1024**2 - 512**2)
    pairs = [estimate(network, history_size=pairs) for pairs in (0, 5, 30)]
    assert np.diff(pairs) == pytest.approx([10 * 12 * 512**2, 50 * 12 * 512**2], abs=1)
    assert estimate(network, optimizer="adam", history_size=30) == estimate(
        network, optimizer="adam"
    )
    assert estimate(network, optimizer="adam") < pairs[0]
    shallow = memory_budget.estimate(network, ["block1_conv1"], [(512, 512)], history_size=30)
    assert (
        memory_budget.estimate(network, ["image"], [(512, 512)], history_size=30)
        < shallow
        < pairs[-1]
    )


def test_smaller_tiles_take_less_and_those_as_large_as_the_picture_are_none(network):
    tiles = [estimate(network, (700, 1000), tile=tile) for tile in (64, 128, 256, 512)]
    whole = estimate(network, (700, 1000))
    assert [*tiles, whole] == sorted({*tiles, whole})
    for tile in (1000, 4096):
        assert estimate(network, (700, 1000), tile=tile) == whole


def test_tiles_take_the_same_for_every_picture_but_for_the_pictures_themselves(network):
    small, large = (estimate(network, (s, s), tile=128, history_size=5) for s in (512, 1024))
    copies = memory_budget.PICTURES["lbfgs"] + 2 * 5
    assert large - small == pytest.approx(copies * 12 * (1024**2 - 512**2), abs=1)
    # The styles are cut too.
    assert estimate(network, tile=128, style=(640, 640)) == pytest.approx(
        estimate(network, tile=128, style=(4096, 4096)), abs=1
    )


def test_a_style_larger_than_the_result_counts(network):
    assert estimate(network, style=(512, 512)) == estimate(network)
    assert estimate(network, style=(1024, 768)) > 1.5 * estimate(network)


# How much there is.

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\nHugePages_Total:       0\n"
ALL = 8000000 * 1024
V1 = "/sys/fs/cgroup/memory/memory.{}_in_bytes"
V2 = "/sys/fs/cgroup/memory.{}"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ALL),
        ({V2.format("max"): "max\n", V2.format("current"): "100\n"}, ALL),
        ({V2.format("max"): "5000000\n", V2.format("current"): "1000000\n"}, 4000000),
        ({V2.format("max"): "50000000000\n", V2.format("current"): "1000000\n"}, ALL),
        ({V2.format("max"): "5000000\n"}, ALL),
        ({V1.format("limit"): "6000000\n", V1.format("usage"): "1000000\n"}, 5000000),
        # What version 1 says where there is no limit.
        ({V1.format("limit"): "9223372036854771712\n", V1.format("usage"): "1000000\n"}, ALL),
        # Taken back only later.
        ({V1.format("limit"): "1000000\n", V1.format("usage"): "1000001\n"}, 0),
        ({"/proc/meminfo": "MemTotal:       16000000 kB\n"}, None),
        ({"/proc/meminfo": "nothing of that kind\n"}, None),
        ({"/proc/meminfo": "MemAvailable:    many kB\n"}, None),
        ({"/proc/meminfo": None}, None),
    ],
)
def test_what_is_available(monkeypatch, files, expected):
    files = {"/proc/meminfo": MEMINFO, **files}

    def read_text(path: Path) -> str:
        text = files.get(str(path))
        if text is None:
            raise FileNotFoundError(str(path))
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert memory_budget.available() == expected


def test_this_machine_has_memory():
    found = memory_budget.available()
    assert found is None or 0 < found < 2**50


# The command.


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network of three convolutions and two pictures; nothing is written here."""
    folder = tmp_path_factory.mktemp("memory")
    save_model(folder / "model")
    Image.fromarray(picture(60, 90, seed=1)).save(folder / "content.png")
    Image.fromarray(picture(70, 60, seed=2)).save(folder / "style.png")
    return folder


@pytest.fixture
def run(folder, tmp_path):
    """Run the command; later flags win."""

    def run(*arguments: object, output: str = "out.png") -> int:
        return stylise(
            *(f"--model={folder / 'model'}", f"--content={folder / 'content.png'}"),
            *(f"--style={folder / 'style.png'}", f"--output={tmp_path / output}"),
            *(f"--memory={PAIRS}", *arguments),
        )

    return run


@pytest.fixture
def refused(run, capsys, tmp_path):
    """The one line with which the command refuses, writing nothing."""

    return lambda code, *arguments: refused_style(capsys, tmp_path, code, run, *arguments)


@pytest.fixture
def room(monkeypatch):
    """Say that so many bytes are available."""
    return lambda count: monkeypatch.setattr(memory_budget, "available", lambda: int(count))


@pytest.fixture(scope="module")
def need(folder):
    """What `memory.estimate` says of a run of `SIZE` with `SHALLOW`."""
    model = vn.load(folder / "model")
    shapes = [shape_for((*sides, 3), SIZE) for sides in ((60, 90), (70, 60))]

    def need(tile: int = 0, pairs: int = PAIRS, optimizer: str = "lbfgs") -> int:
        return memory_budget.estimate(
            *(model, ["block1_conv1"] * 2, shapes),
            optimizer=optimizer,
            history_size=pairs,
            tile=tile,
            compared=["block1_conv1"],
        )

    return need


def gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def test_a_run_that_does_not_fit_is_refused_with_the_tile_that_does(
    run, refused, room, need, tmp_path
):
    assert need(128) < need(256) < need(512) < need(1024) == need()
    for tile, smaller in ((256, 512), (512, 1024)):
        room(need(tile))
        said = refused(5, f"--size={SIZE}", *SHALLOW)
        assert f"Received: {gib(need(tile))}, and about {gib(need())} are needed" in said
        assert "for 667 x 1000 pixels" in said
        assert f"Use --tile={tile} ({gib(need(tile))})." in said, "the largest that fits"
        assert need(smaller) > need(tile)
    # A tile that is too large is answered with a smaller one.
    room(need(128))
    said = refused(5, f"--size={SIZE}", *SHALLOW, "--tile=512")
    assert f"about {gib(need(512))} are needed" in said and "Use --tile=128 (" in said
    assert run(f"--size={SIZE}", *SHALLOW, "--tile=128", "--steps=1") == 0
    assert (tmp_path / "out.png").exists()


def test_a_shorter_history_is_advised_where_a_long_one_takes_the_memory(refused, room):
    room(2**30)
    for flag in ("history_size", "memory"):
        said = refused(5, *SMALL, f"--{flag}=1000000000")
        assert "Use --history_size=30 (" in said and "--tile" not in said


def test_where_only_files_help_the_folder_is_named(run, refused, room, need, tmp_path):
    few = need(128, pairs=0)
    assert few < need(128) and need(256, pairs=0) > few
    room(few)
    flags = (f"--size={SIZE}", *SHALLOW)
    asked = f"Use --tile=128 and --memory_folder=DIR ({gib(few)})."
    assert asked in refused(5, *flags)
    assert asked in refused(5, *flags, "--tile=128")
    assert run(*flags, "--tile=128", f"--memory_folder={tmp_path / 'pairs'}", "--steps=1") == 0


@pytest.mark.parametrize("options", [(), ("--tile=128",), ("--memory_folder=nowhere",)])
def test_where_nothing_helps_the_size_is_to_be_lowered(refused, room, options):
    room(2**20)
    said = refused(5, f"--size={SIZE}", *SHALLOW, *options)
    assert said.endswith("Lower --size.") and "tile" not in said and "0.0 GiB" in said


def test_adam_keeps_no_pairs_for_files_to_hold(refused, room, need):
    room(need(128, optimizer="adam"))
    said = refused(5, f"--size={SIZE}", *SHALLOW, "--optimizer=adam")
    assert "Use --tile=128 (" in said and "memory_folder" not in said
    room(need(128, optimizer="adam") - 1)
    assert "Lower --size" in refused(5, f"--size={SIZE}", *SHALLOW, "--optimizer=adam")


def test_where_nothing_is_known_of_memory_every_run_is_tried(run, monkeypatch):
    monkeypatch.setattr(memory_budget, "available", lambda: None)
    assert run("--size=32", "--steps=1") == 0


# Pairs in files.

SMALL = ("--size=32", "--steps=8")


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file).astype(int)


def test_pairs_in_files_give_the_picture_of_pairs_in_memory(run, tmp_path):
    place = tmp_path / "pairs"
    assert run(*SMALL, output="memory.png") == 0
    assert run(*SMALL, f"--memory_folder={place}", output="files.png") == 0
    assert np.abs(read(tmp_path / "files.png") - read(tmp_path / "memory.png")).max() <= 1
    assert not place.exists()  # nothing is left, not the folder either


def test_a_folder_for_pairs_that_cannot_be_made_is_told(refused, tmp_path):
    (tmp_path / "file").touch()
    said = refused(4, *SMALL, f"--memory_folder={tmp_path / 'file'}")
    assert f"{tmp_path / 'file'}" in said and "choose another --memory_folder" in said


def test_going_on_without_the_files_of_the_pairs_is_refused(run, refused, tmp_path):
    place = tmp_path / "pairs"
    flags = (*SMALL, f"--memory_folder={place}", f"--checkpoint={tmp_path / 'state'}")
    assert run(*flags, "--checkpoint_every=2") == 0
    kept = sorted(file.suffix for file in place.rglob("pair*.*"))
    assert kept.count(".s") == kept.count(".y") >= PAIRS
    shutil.copytree(place, tmp_path / "kept")
    for file in place.rglob("pair*.s"):
        file.unlink()
    assert "Give the same --memory_folder" in refused(4, *flags, "--resume")
    shutil.rmtree(place)
    shutil.move(tmp_path / "kept", place)
    assert run(*flags, "--resume") == 0
