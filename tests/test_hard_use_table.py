"""Every row of docs/hard-use.md is run: the document says what the program does."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    SIGNS_OF_LIFE,
    command,
    draw_weights,
    encode,
    feed_forward,
    picture,
    pictures,
    save_model,
    stylise,
)

import vgg_normalize as vn
from style.feedforward import networks, saved_network
from style.objective import memory_budget
from style.synthesis import descent

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parent.parent / "docs" / "hard-use.md"
PROGRESS = re.compile(r".* \d+/\d+ (steps|images), ")
SPAN = "`([^`]+)`"
ANSWER = re.compile(rf"(\d)(?:, makes ((?:{SPAN}, )*{SPAN}))?: ((?:{SPAN}, then )*{SPAN})")


class Row(NamedTuple):
    """A hard case.

    Attributes:
        what: In words; files that it names are there too.
        command: As it is typed, less what the document says that every command has.
        code: The exit code.
        makes: What is new afterwards; below what ends with "/" anything may be.
        lines: What is printed besides signs of life; `...` stands for anything.
    """

    what: str
    command: str
    code: int
    makes: tuple[str, ...]
    lines: tuple[str, ...]


def spans(text: str | None) -> tuple[str, ...]:
    """What stands between backquotes."""
    return tuple(re.findall(SPAN, text or ""))


def rows() -> Iterator[Row]:
    """The rows of all tables of the document."""
    for line in DOCUMENT.read_text().splitlines():
        if not line.startswith("|") or line in ("| what | command | answer |", "|---|---|---|"):
            continue
        what, typed, answer = (cell.strip() for cell in line.split("|")[1:-1])
        found = ANSWER.fullmatch(answer)
        assert found, f"neither CODE: `LINE` nor CODE, makes `PATH`: `LINE`: {answer}"
        (given,) = spans(typed)
        yield Row(what, given, int(found[1]), spans(found[2]), spans(found[5]))


def shared() -> dict[str, list[str]]:
    """The flags that the document says each command has besides, by module."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("    python")]
    words = [shlex.split(line)[2:] for line in lines]
    return {module: given for module, *given in words}


# The files that the rows name.


def write(content: str | bytes) -> Callable[[Path], object]:
    content = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(content)


def image(kind: str, pixels: np.ndarray) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(encode(pixels, kind))


def holding(**files: str) -> Callable[[Path], object]:
    """What makes a folder with these files; `_` in their names stands for a dot."""

    def make(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("_", ".")).write_text(content)

    return make


def copy_of(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.copytree(made(name), path)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def flipped(path: Path) -> None:
    """A PNG of whose pixels one bit is wrong."""
    content = bytearray(encode(picture(40, 60, 1), "PNG"))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def deep(path: Path) -> None:
    """RGB in 16 bits."""
    pixels = picture(40, 60, 1).astype(np.uint16) * 257
    path.write_bytes(tf.io.encode_png(pixels).numpy())


def bomb(path: Path) -> None:
    """A PNG whose header says 100,000 x 100,000 pixels, and without any."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, b"IDAT")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def mixed(path: Path) -> None:
    """A folder with a picture, and with what is only named like one."""
    pictures(path, 1)
    (path / "folder.jpg").mkdir()
    (path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(path / "pipe.png")


def archive(path: Path) -> None:
    """The beginning of a .tar."""
    packed = pictures(path.with_name("packed"), 2)
    shutil.make_archive(str(path.with_suffix("")), "tar", packed)
    shutil.rmtree(packed)
    path.write_bytes(path.read_bytes()[:3000])


def weights(**changes: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """What writes an .npz of two convolutions, with its arrays of a kind changed."""

    def make(path: Path) -> None:
        layers = ("block1_conv1", "block1_conv2")
        model = vn.build("vgg19", weights="random", last_layer=layers[-1])
        arrays = {
            f"{name}/{kind}": changes.get(kind, np.asarray)(array)
            for name in layers
            for kind, array in zip(
                ("kernel", "bias"), model.get_layer(name).get_weights(), strict=True
            )
        }
        np.savez(path, **arrays)

    return make


def partly_no_number(array: np.ndarray) -> np.ndarray:
    array[0] = np.nan
    return array


def edited(path: Path) -> None:
    """A saved network whose means.json leaves out the last of its weights."""
    copy_of("net")(path)
    asset = path / "saved_model" / "assets" / "means.json"
    content = json.loads(asset.read_text())
    content["network"]["weights"].pop()
    asset.write_text(json.dumps(content))


def half_copied(path: Path) -> None:
    """A saved network whose file of variables ends too early."""
    copy_of("net")(path)
    (variables,) = path.rglob("variables.data-00000-of-00001")
    variables.write_bytes(variables.read_bytes()[:1000])


def edited_styliser(path: Path) -> None:
    copy_of("styliser")(path)
    (path / "assets" / "network.json").write_text("{")


def busy(path: Path) -> None:
    """A folder that another run holds, until the test ends."""
    path.mkdir()
    HELD.append(os.open(path / "lock", os.O_RDWR | os.O_CREAT))
    fcntl.flock(HELD[-1], fcntl.LOCK_EX)


HELD: list[int] = []  # descriptors of locks
PLACE: list[Path] = []  # of what is made once
FILES: dict[str, Callable[[Path], object]] = {
    # What the commands have besides.
    "photo.png": image("PNG", picture(40, 60, 1)),
    "painting.png": image("PNG", picture(50, 44, 2)),
    "photos": lambda path: pictures(path, 2),
    "paintings": lambda path: pictures(path, 2),
    "net": copy_of("net"),
    "styliser": copy_of("styliser"),
    # Pictures.
    "half.jpg": lambda path: path.write_bytes(encode(picture(200, 300, 1))[:5000]),
    "flipped.png": flipped,
    "text.jpg": write("<html>not found</html>"),
    "deep.png": deep,
    "float.tif": image("TIFF", 300 * picture(40, 60)[..., 0].astype(np.float32)),
    "signed.tif": image("TIFF", picture(40, 60)[..., 0].astype(np.int32)),
    "bomb.png": bomb,
    "tiny.png": image("PNG", picture(1, 90)),
    "line.png": image("PNG", picture(8, 70_000)),
    "black.png": image("PNG", np.zeros((40, 60), np.uint8)),
    "mask.png": image("PNG", np.full((40, 60), 255, np.uint8)),
    "folder.jpg": Path.mkdir,
    "pipe.png": os.mkfifo,
    "link.png": link_to("photo.png"),
    # Folders of pictures.
    "linked": link_to("photos"),
    "empty": Path.mkdir,
    "mixed": mixed,
    "cut.tar": archive,
    # Networks.
    "one.npz": weights(),
    "zeros.npz": weights(kernel=np.zeros_like, bias=np.zeros_like),
    "wide.npz": weights(kernel=lambda array: np.repeat(array, 2, axis=-1)),
    "nan.npz": weights(kernel=partly_no_number),
    "huge.npz": weights(kernel=lambda array: array * np.float32(1e38)),
    "strings.npz": weights(kernel=lambda array: array.astype(str)),
    "bools.npz": weights(bias=lambda array: array > 0),
    "complex.npz": weights(kernel=lambda array: array + 1j),
    "damaged.npz": write("PK and so on"),
    "pickle.pth": write(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."),
    "edited": edited,
    "cut": half_copied,
    "edited_styliser": edited_styliser,
    # Outputs and checkpoints.
    "done": holding(report_json="{}"),
    "out.last_good": holding(fingerprint_pb=""),
    "file": write("here"),
    "interrupted": copy_of("interrupted"),
    "interrupted_training": holding(training_npz="PK", lock=""),
    "damaged": holding(checkpoint_npz="PK"),
    "busy": busy,
    # Flags.
    "mark.cfg": write("\ufeff--images=photos\n"),
    "circle.cfg": write("--flagfile=circle.cfg\n"),
    "quoted.cfg": write("--content='photo.png'\n"),
}


@cache
def made(name: str) -> Path:
    """What takes long, made once."""
    return MAKERS[name](PLACE[0] / name)


def make_styliser(folder: Path) -> Path:
    """A network that was not trained."""
    model = draw_weights(vn.build("vgg19", weights="random", last_layer="block2_conv1"))
    saved_network.save(networks.adain(model), model, folder, styles=[], settings={})
    return folder


def make_interrupted(folder: Path) -> Path:
    """The checkpoint of a run that got a signal."""
    original = descent.minimize

    def minimize(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for count, state in enumerate(original(*args, **kwargs)):
            if count == 2:
                signal.raise_signal(signal.SIGTERM)
            yield state

    place = folder.with_name("interruption")
    place.mkdir()
    arguments = [*shared()["style"], f"--checkpoint={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descent, "minimize", minimize)
        patch.chdir(place)
        prepare(place, arguments)
        assert stylise(*arguments) == 128 + signal.SIGTERM
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "net": save_model,
    "styliser": make_styliser,
    "interrupted": make_interrupted,
}
RUN: dict[str, Callable[..., int]] = {
    "vgg_normalize": command,
    "style": stylise,
    "style.train": partial(feed_forward, "train"),
    "style.apply": partial(feed_forward, "apply"),
}


# Running the rows.


@pytest.fixture(scope="module", autouse=True)
def place_of_what_is_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    PLACE.append(tmp_path_factory.mktemp("made"))
    yield
    PLACE.clear()
    made.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a command is run, on a machine with 8 GiB to spare and no others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory_budget, "available", lambda: 8 * 2**30)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    yield tmp_path
    while HELD:
        os.close(HELD.pop())


def prepare(folder: Path, texts: Iterable[str]) -> None:
    """Make the files that these texts name."""
    for name in {name for text in texts for name in re.split("[=,]", text)} & FILES.keys():
        FILES[name](folder / name)


def snapshot(folder: Path) -> dict[str, object]:
    """Path to what is there: bytes and time of a file, the target of a link, None of the rest."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        content = (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        found[str(path.relative_to(folder))] = os.readlink(path) if path.is_symlink() else content
    return found


def of_life(line: str) -> bool:
    """Whether a line only says that the command is at work, and on what."""
    begins, ends = SIGNS_OF_LIFE[1:], SIGNS_OF_LIFE[0]
    return line.startswith(begins) or line.endswith(ends) or bool(PROGRESS.match(line))


def matches(pattern: str, line: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("..."))), line))


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a path is one of these, or below one of those that end with "/"."""
    return any(
        name == place.rstrip("/") or (place.endswith("/") and name.startswith(place))
        for place in places
    )


ROWS = list(rows())


def test_the_document_has_its_groups_and_each_case_once() -> None:
    titles = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("## ")]
    assert len(titles) == 5 and len(ROWS) >= 50
    for field in ("what", "command"):
        assert len({getattr(row, field) for row in ROWS}) == len(ROWS)
    assert shared().keys() == RUN.keys()


def test_every_file_is_of_a_row() -> None:
    texts = [text for row in ROWS for text in (*shlex.split(row.command), *spans(row.what))]
    texts += [text for given in shared().values() for text in given]
    assert FILES.keys() <= {name for text in texts for name in re.split("[=,]", text)}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command.replace("python -m ", ""))
def test_a_row_is_true(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    row: Row,
) -> None:
    words = shlex.split(row.command)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words[:2] == ["python", "-m"]
    arguments = [*shared()[words[2]], *words[3:]]
    prepare(folder, [*arguments, *spans(row.what)])
    before = snapshot(folder)
    capsys.readouterr()
    code = RUN[words[2]](*arguments)
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if not of_life(line)]
    assert (code, len(lines)) == (row.code, len(row.lines)), text
    for expected, line in zip(row.lines, lines, strict=True):
        assert matches(expected, line), line
    after = snapshot(folder)
    kept = {name for name in before if not within(name, row.makes)}
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    new = {name for name in after.keys() - before.keys() if after[name] is not None}
    assert all(within(name, row.makes) for name in new), new
    assert all((folder / place).exists() for place in row.makes)
    if not row.makes:
        assert after.keys() == before.keys()
