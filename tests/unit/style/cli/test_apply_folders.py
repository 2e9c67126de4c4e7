"""`python -m style.apply` on folders, on what is there already, and on too little memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from forks import program
from helpers import SIGNS_OF_LIFE, draw_weights, encode, feed_forward, picture
from PIL import Image

import vgg_normalize as vn
from style.cli import folder_outputs
from style.cli.settings import ApplySettings
from style.feedforward import blocks, networks, saved_network
from style.images import writing
from style.objective import memory_budget
from vgg_normalize.errors import OutputError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("networks_loaded_once")]

MIB = 2**20


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Untrained networks and a style; read only."""
    world = tmp_path_factory.mktemp("world")
    model = draw_weights(vn.build("vgg19", weights="random", last_layer="block2_conv1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCKS", 1)
        made = ((networks.adain(model), []), (networks.cin(2), ["a.png", "b.png"]))
    for network, styles in made:
        saved_network.save(network, model, world / network.method, styles=styles, settings={})
    (world / "style.png").write_bytes(encode(picture(40, 60, seed=3), "PNG"))
    return world


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder `in` with three pictures, and nothing else."""
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "c.png")):
        kind = "PNG" if name.endswith("png") else "JPEG"
        (tmp_path / "in" / name).write_bytes(encode(picture(24 + 4 * i, 30, seed=i), kind))
    return tmp_path


@pytest.fixture
def run(world, place, capsys):
    """Apply to the folder; the exit code and the lines.  Later flags win."""

    def run(*more: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = feed_forward(
            *("apply", f"--network={world / 'adain'}", f"--style={world / 'style.png'}"),
            *(f"--content={place / 'in'}", f"--output={place / 'out'}", *more),
        )
        lines = capsys.readouterr().err.splitlines()
        return code, [line for line in lines if not line.startswith(SIGNS_OF_LIFE)]

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def rgb(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB")) / 255


# What is read is never overwritten.


@pytest.mark.parametrize("output", ["in", "in/", "in/../in", "linked"])
def test_the_folder_of_contents_is_not_the_folder_of_outputs(run, place, output):
    (place / "linked").symlink_to("in")
    before = snapshot(place)
    code, lines = run(f"--output={place / output}", "--overwrite", "--network=nowhere")
    assert code == 1 and len(lines) == 1
    assert f"--output and --content are both {place / 'in'}" in lines[0]
    assert snapshot(place) == before


@pytest.mark.parametrize("flag", ["content", "style", "content_mask"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_single_output_is_no_picture_that_is_read(run, place, flag, linked):
    read = written = place / "in" / "a.png"
    if linked:
        written = place / "link.png"
        written.symlink_to(read)
    shared = (f"--content={place / 'in' / 'c.png'}", f"--output={written}")
    before = snapshot(place)
    code, lines = run(*shared, f"--{flag}={read}")
    assert code == 1 and len(lines) == 1 and f"--{flag} are both {read}" in lines[0]
    assert snapshot(place) == before


def test_links_to_outputs_and_styles_among_the_outputs_are_no_contents(run, place):
    (place / "out").mkdir()
    original = place / "out" / "a.png"
    original.write_bytes(encode(picture(30, 30), "PNG"))
    before = snapshot(place / "out")
    code, lines = run("--overwrite", f"--style={original}")
    assert code == 1 and f"one of --style are both {original}" in lines[-1]
    (place / "in" / "a.png").unlink()
    (place / "in" / "a.png").symlink_to(original)
    code, lines = run("--overwrite")
    assert code == 1 and f"one of --content are both {original}" in lines[-1]
    assert snapshot(place / "out") == before


# Failures.


def spoil(folder: Path) -> dict[str, str]:
    """What cannot be made, and a word of why."""
    whole = (folder / "a.png").read_bytes()
    (folder / "aa half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bb.jpg").mkdir()
    os.mkfifo(folder / "bc.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "small.png").write_bytes(encode(picture(5, 30), "PNG"))
    (folder / "text.jpg").write_text("not found")
    return {
        **{"aa half.png": "Received", "bb.jpg": "folder", "bc.png": "pipe"},
        **{"gone.png": "nowhere.png", "small.png": "at least 8", "text.jpg": "not an image"},
    }


@pytest.mark.timeout(120)
def test_what_fails_is_named_and_the_rest_is_made(run, place):
    bad = spoil(place / "in")
    code, lines = run()
    assert code == 2
    skipped = [line for line in lines if line.startswith("style.apply: skipped ")]
    assert len(skipped) == len(bad)
    for line, (name, why) in zip(skipped, bad.items(), strict=True):
        assert line.startswith(f"style.apply: skipped {name}: ") and why in line, line
    assert f"3 in {place / 'out'}, 6 skipped" in lines
    assert "at most 0 contents that fail. Received: 6 of 9" in lines[-1]
    assert names(place / "out") == ["a.png", "b.png", "c.png"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("most", "code"), [(5, 2), (6, 0), (99, 0)])
def test_some_failures_may_be_tolerated(run, place, most, code):
    spoil(place / "in")
    found, lines = run(f"--max_skipped={most}")
    assert found == code and f"3 in {place / 'out'}, 6 skipped" in lines
    assert names(place / "out") == ["a.png", "b.png", "c.png"]


def test_nothing_that_can_be_made_is_a_failure_however_many_are_tolerated(run, place):
    for path in (place / "in").iterdir():
        path.write_text("not found")
    code, lines = run("--max_skipped=9")
    assert code == 2 and "none of 3" in lines[-1]
    assert run()[0] == 2


def test_a_single_picture_that_fails_exits_at_once(run, place):
    spoil(place / "in")
    for name, why in (("small.png", "at least 8"), ("bb.jpg", "no pictures"), ("bc.png", "pipe")):
        code, lines = run(
            *(f"--content={place / 'in' / name}", "--max_skipped=9"),
            *(f"--output={place / 'o.png'}",),
        )
        assert (code, len(lines)) == (2, 1) and (why in lines[0] or "no images" in lines[0])
    assert not (place / "o.png").exists()


def test_a_full_disk_ends_the_run(run, place, monkeypatch):
    def full(path, content):
        raise OutputError("Expected to write. Received: no space. Make room.")

    monkeypatch.setattr(writing, "write_bytes", full)
    code, lines = run("--max_skipped=9")
    assert code == 4 and "no space" in lines[-1]


def test_memory_that_runs_out_is_one_failure(run, place, monkeypatch):
    transform = saved_network.SavedNetwork.transform

    def failing(self, content, code, **options):
        if content.shape[0] == 24:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return transform(self, content, code, **options)

    monkeypatch.setattr(saved_network.SavedNetwork, "transform", failing)
    code, lines = run("--max_skipped=1")
    assert code == 0 and names(place / "out") == ["b.png", "c.png"]
    assert any("skipped a.png: Expected enough memory" in line for line in lines)


# Names.


def test_only_those_whose_outputs_would_be_alike_keep_their_suffix(run, place):
    (place / "in" / "a.jpg").write_bytes((place / "in" / "b.jpg").read_bytes())
    (place / "in" / ".hidden.png").write_bytes(b"")
    (place / "in" / ".a.png.writing").write_bytes(b"")
    (place / "in" / "d.png.part").write_bytes(b"")
    assert run()[0] == 0
    expected = {"a.jpg.png": "a.jpg", "a.png.png": "a.png", "b.png": "b.jpg", "c.png": "c.png"}
    assert names(place / "out") == sorted(expected)
    for target, source in expected.items():
        assert rgb(place / "out" / target).shape == rgb(place / "in" / source).shape


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.png", "b.jpg"], ["a.png", "b.png"]),
        (["a.gif", "a.jpg", "a.png"], ["a.gif.png", "a.jpg.png", "a.png.png"]),
        (["A.jpg", "a.png"], ["A.jpg.png", "a.png.png"]),
        (["a.jpg", "a.jpg.jpg", "a.png"], ["a.jpg.png", "a.jpg.jpg.png", "a.png.png"]),
        (["a.b.png", "a.png"], ["a.b.png", "a.png"]),
    ],
)
def test_names_of_outputs_are_distinct(given, expected):
    found = folder_outputs._targets(given)
    assert found == expected and len(set(found)) == len(given)


def test_the_time_to_list_a_folder_grows_with_its_size(tmp_path):
    """Four times the pictures; where each was compared with all it took sixteen times as long."""

    def seconds(count: int) -> float:
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            (folder / f"{i:06}.jpg").touch()
        settings = ApplySettings("network", str(folder), str(tmp_path / "out"))
        found = []
        for _ in range(3):
            began = time.process_time()
            assert len(folder_outputs.plan_folder(settings, {}).pairs) == count
            found.append(time.process_time() - began)
        return min(found)

    small = seconds(2000)
    assert seconds(8000) < 8 * small + 0.02


# The folder of outputs.


def test_folders_of_outputs_are_made(run, place):
    code, lines = run(f"--output={place / 'new' / 'deep' / 'out'}")
    assert code == 0 and lines[-1] == f"3 in {place / 'new' / 'deep' / 'out'}"
    assert names(place / "new" / "deep" / "out") == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("code", "flags", "said"),
    [
        (1, ["--output={}/out.jpg"], "named like a picture"),
        (4, ["--output={}/in/a.png/out"], "a.png is none"),
        (3, ["--network={}/nowhere"], "--network"),
        (1, ["--bits=12"], "12"),
        (1, ["--max_skipped=-1"], "max_skipped"),
    ],
)
def test_a_refused_run_leaves_no_folder(run, place, code, flags, said):
    before = sorted(place.rglob("*"))
    found, lines = run(*(flag.format(place) for flag in flags))
    assert (found, len(lines)) == (code, 1) and said in lines[0]
    assert sorted(place.rglob("*")) == before


def test_a_folder_in_the_place_of_an_output_is_refused_before_any_work(run, place):
    (place / "out" / "b.png").mkdir(parents=True)
    code, lines = run()
    assert code == 4 and "b.png, a directory" in lines[-1]
    assert names(place / "out") == ["b.png"]


# Going on.


def test_what_is_there_is_left_and_counted(run, place):
    assert run()[0] == 0
    (place / "out" / "b.png").unlink()
    before = snapshot(place / "out")
    code, lines = run("--alpha=0.3")
    assert code == 0 and lines[0].startswith(f"2 in {place / 'out'} already; --overwrite")
    assert lines[-1] == f"1 in {place / 'out'}"
    after = snapshot(place / "out")
    assert len(after) == 3 and before.items() < after.items()
    assert run()[0] == 0 and snapshot(place / "out") == after
    code, lines = run("--overwrite", "--alpha=0.3")
    assert code == 0 and not any("already" in line for line in lines)
    changed = snapshot(place / "out")
    assert all(changed[name][1] != after[name][1] for name in after)


def test_a_run_after_failures_makes_what_was_missing(run, place):
    whole = (place / "in" / "c.png").read_bytes()
    (place / "in" / "c.png").write_bytes(whole[:99])
    assert run()[0] == 2
    assert run()[0] == 2 and names(place / "out") == ["a.png", "b.png"]
    (place / "in" / "c.png").write_bytes(whole)
    code, lines = run()
    assert code == 0 and lines[-1] == f"1 in {place / 'out'}"


def test_a_single_output_is_overwritten(run, place):
    single = (f"--content={place / 'in' / 'a.png'}", f"--output={place / 'o.png'}")
    (place / "o.png").write_bytes(b"old")
    code, lines = run(*single)
    assert code == 0 and lines[-1] == str(place / "o.png")
    assert rgb(place / "o.png").shape == (24, 30, 3)


def test_the_code_of_a_style_is_computed_once_for_a_folder(run, place, monkeypatch):
    calls = []
    code = saved_network.SavedNetwork.code
    monkeypatch.setattr(
        saved_network.SavedNetwork,
        "code",
        lambda self, *a, **k: calls.append(1) or code(self, *a, **k),
    )
    assert run()[0] == 0 and len(calls) == 1
    assert run("--overwrite", "--preserve_color=match")[0] == 0 and len(calls) == 1 + 3


# Memory.


@pytest.fixture
def large(run, place, monkeypatch):
    """Apply to one picture of 500 x 700 with so many MiB of memory."""
    path = place / "large.png"
    path.write_bytes(encode(picture(501, 703, seed=9), "PNG"))

    def large(room: int, *more: object, content: Path = path) -> tuple[int, list[str]]:
        monkeypatch.setattr(memory_budget, "available", lambda: room * MIB)
        return run(f"--content={content}", f"--output={place / 'large_out.png'}", *more)

    return large


def room_for(world: Path, tile: int) -> int:
    """MiB that suffice for these tiles of that picture."""
    network = saved_network.SavedNetwork(str(world / "adain"))
    return network.memory((501, 703), tile=tile, own_code=True) // MIB + 1


def test_adain_goes_to_tiles_by_itself(large, world, place):
    more = ("--alpha=0.7", "--style_size=64")
    assert large(9999, *more) == (0, [str(place / "large_out.png")])
    whole = rgb(place / "large_out.png")
    code, lines = large(room_for(world, 256), *more)
    assert code == 0 and len(lines) == 2
    assert "large.png: by tiles of 256 pixels" in lines[0] and "501 x 703" in lines[0]
    np.testing.assert_allclose(rgb(place / "large_out.png"), whole, atol=1.01 / 255)


def test_a_given_tile_that_is_too_large_names_one_that_fits(large, world):
    room = room_for(world, 256)
    code, lines = large(room, "--tile=600", "--style_size=64")
    assert (code, len(lines)) == (5, 1) and "Use --tile=256" in lines[0]
    assert large(room, "--tile=256", "--style_size=64")[0] == 0


def advised(line: str) -> int:
    return int(line.split("--size=")[1].split(",")[0])


@pytest.mark.parametrize("method", ["cin", "adain"])
def test_a_size_that_fits_is_named_where_tiles_do_not_help(large, world, place, method):
    style = "--style=a" if method == "cin" else "--style_size=64"
    more, room = (f"--network={world / method}", style), {"cin": 330, "adain": 228}[method]
    code, lines = large(room, *more)
    assert (code, len(lines)) == (5, 1) and "501 x 703 pixels" in lines[0], lines
    assert not (place / "large_out.png").exists()
    size = advised(lines[0])
    assert 200 < size < 703
    assert large(room, *more, f"--size={size}")[0] == 0
    assert large(room, *more, f"--size={size + 64}")[0] == 5


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_size_that_fits_is_named_at_once(large, size):
    """All tiles of all sizes below were made to see which fits: minutes."""
    began = time.process_time()
    code, lines = large(300, f"--size={size}", "--style_size=64")
    assert (code, len(lines)) == (5, 1) and "Use --size=" in lines[0]
    assert time.process_time() - began < 10


def test_a_style_is_refused_before_it_is_resized(run, monkeypatch):
    code, lines = run("--style_size=1000000")
    assert (code, len(lines)) == (5, 1) and "Lower --style_size" in lines[0]
    for flag in ("size", "style_size"):
        code, lines = run(f"--{flag}=3000000000")
        assert (code, len(lines)) == (1, 1) and f"--{flag}" in lines[0]


def test_too_large_a_picture_of_a_folder_is_one_failure(run, place, world, monkeypatch):
    (place / "in" / "b.png").write_bytes(encode(picture(501, 703, seed=9), "PNG"))
    monkeypatch.setattr(memory_budget, "available", lambda: 300 * MIB)
    code, lines = run(f"--network={world / 'cin'}", "--style=a")
    assert code == 2 and names(place / "out") == ["a.png", "b.jpg.png", "c.png"]
    assert any("skipped b.png: Expected enough memory" in line for line in lines)


def test_a_style_that_is_too_large_is_refused(run, place, monkeypatch):
    monkeypatch.setattr(memory_budget, "available", lambda: 300 * MIB)
    code, lines = run("--style_size=800")
    assert (code, len(lines)) == (5, 1) and "--style_size" in lines[0]


def test_where_the_memory_cannot_be_told_nothing_is_refused(run, monkeypatch):
    monkeypatch.setattr(memory_budget, "available", lambda: None)
    assert run()[0] == 0


@pytest.mark.parametrize("shape", [(64, 96), (61, 99)])
def test_the_code_by_tiles_is_that_of_the_whole(world, shape):
    network = saved_network.SavedNetwork(str(world / "adain"))
    pixels = picture(*shape).astype(np.float32) / 255
    expected = network.code(pixels).numpy()
    np.testing.assert_allclose(network.code(pixels, tile=17).numpy(), expected, rtol=2e-5)


PEAK = """
import sys
import numpy as np
import vgg_normalize as vn
from style.feedforward import blocks
from style.feedforward.saved_network import SavedNetwork

def status(key):
    lines = open("/proc/self/status")
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

height, width, tile = map(int, sys.argv[1:4])
network = SavedNetwork(sys.argv[4])
random = np.random.default_rng(0)
small = random.random((64, 64, 3), np.float32)
code = network.code(small)
network.transform(small, code)
before = status("VmRSS:")
large = random.random((height, width, 3), np.float32)
network.transform(large, code, tile=tile)
used, expected = status("VmHWM:") - before, network.memory((height, width), tile=tile)
print(used / expected)
"""


@pytest.fixture(scope="module")
def full_width(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("full") / "adain"
    model = vn.build("vgg19", weights="random", last_layer="block4_conv1")
    saved_network.save(networks.adain(model), model, folder, styles=[], settings={})
    return folder


@pytest.mark.parametrize(
    ("height", "width", "tile"),
    # In a row, for fewer windows; as many pixels as show that the whole would take more.
    [(800, 1000, 0), (256, 2800, 256)],
)
def test_the_memory_that_is_foreseen_is_about_what_is_taken(full_width, height, width, tile):
    found = float(program(PEAK, height, width, tile, full_width))
    # By tiles oneDNN's convolutions, which TensorFlow has on where there is AVX-512, take 0.31 of it.
    by_onednn = tile and "avx512f" in Path("/proc/cpuinfo").read_text()
    assert (0.25 if by_onednn else 0.4) < found < 1.1, found
