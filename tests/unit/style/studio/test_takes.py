"""Takes: what the page makes is what the command makes, stopped or not."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
from helpers import content_and_style, save_model, stylise
from PIL import Image

import vgg_normalize as vn
from style.cli.settings import Settings
from style.objective import memory_budget
from style.studio import flag_files
from style.studio.take_queue import TakeQueue
from style.studio.takes import Stage, Take, require_pictures
from vgg_normalize.errors import Error, ImagesError, UsageError

pytestmark = pytest.mark.slow

STEPS = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A network, two pictures and two masks; read only."""
    world = content_and_style(tmp_path_factory.mktemp("world"))
    save_model(world / "model")
    halves = np.repeat([[255, 0]], 32, axis=1).repeat(40, axis=0).astype(np.uint8)
    Image.fromarray(halves).save(world / "left.png")
    Image.fromarray(255 - halves).save(world / "right.png")
    return world


@pytest.fixture(scope="module")
def model(world):
    return vn.load(world / "model")


@pytest.fixture
def asked(world):
    """Settings as a form gives them."""
    return Settings(
        output="",
        model=str(world / "model"),
        content=str(world / "content.png"),
        style=(str(world / "style.png"),),
        size=48,
        steps=STEPS,
        history_size=2,  # each pair is a part of the graph
    )


@pytest.fixture
def queue(model, tmp_path):
    queue = TakeQueue(model, tmp_path / "takes")
    yield queue
    queue.close()


def until(condition) -> None:
    """Wait until a condition holds."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came about")


def take_of(folder, asked, number=1) -> Take:
    folder.mkdir()
    return Take(number, folder, asked)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def by_command(take, tmp_path) -> np.ndarray:
    """The picture that the command makes of a take's flag file."""
    output = tmp_path / "again.png"
    assert stylise(f"--flagfile={take.flagfile}", f"--output={output}") == 0
    return pixels(output)


@pytest.mark.parametrize(
    "changes",
    [
        {"strength": 0.8, "seed": 3, "style_loss": "moments", "preserve_color": "luminance"},
        {"task": "texture", "content": None, "seed": 4},
        {"task": "inversion", "style": (), "content_layers": (("block1_conv2", 1.0),)},
        {"task": "amalgamation", "style_layers": (("block1_conv1", 2.0), ("block2_conv1", 1.0))},
    ],
    ids=lambda changes: changes.get("task", "transfer"),
)
def test_the_flag_file_makes_the_picture_to_the_bit(model, asked, tmp_path, changes):
    take = take_of(tmp_path / "take_001", dataclasses.replace(asked, **changes))
    take.run(model, lambda: None)
    assert take.stage is Stage.FINISHED, take.message
    assert take.evaluations == STEPS and take.message.startswith("All requested steps")
    np.testing.assert_array_equal(by_command(take, tmp_path), pixels(take.picture))


def test_blends_and_masks_reach_the_command(model, world, asked, tmp_path):
    changed = dataclasses.replace(
        asked,
        style=(str(world / "style.png"), str(world / "content.png")),
        style_blend=(1.0, 3.0),
        content_mask=(str(world / "left.png"), str(world / "right.png")),
    )
    take = take_of(tmp_path / "take_001", changed)
    take.run(model, lambda: None)
    assert len(list(take.folder.glob("mask_*.png"))) == 2
    np.testing.assert_array_equal(by_command(take, tmp_path), pixels(take.picture))


def test_a_stopped_take_goes_on_to_the_same_bits(model, asked, tmp_path):
    whole = take_of(tmp_path / "whole", asked)
    whole.run(model, lambda: None)
    take = take_of(tmp_path / "take_001", asked)
    take.run(model, lambda: take.evaluations >= 3 and take.stop())
    assert take.stage is Stage.STOPPED and take.can_go_on
    assert 3 <= take.evaluations < STEPS
    assert f"--steps={take.evaluations}" in take.flagfile.read_text().splitlines()
    np.testing.assert_array_equal(by_command(take, tmp_path), pixels(take.picture))
    take.queue_again()
    take.run(model, lambda: None)
    assert take.stage is Stage.FINISHED and not take.can_go_on
    np.testing.assert_array_equal(pixels(take.picture), pixels(whole.picture))
    assert [p.evaluations for p in take.curve] == [p.evaluations for p in whole.curve]


def test_the_uploads_may_go(world, asked, tmp_path):
    upload = tmp_path / "upload.png"
    upload.write_bytes((world / "content.png").read_bytes())
    take = take_of(tmp_path / "take_001", dataclasses.replace(asked, content=str(upload)))
    upload.unlink()
    require_pictures(take.settings)


def test_a_take_that_fails_says_why_in_a_sentence(model, asked, tmp_path):
    wrong = dataclasses.replace(asked, style_layers=(("block9_conv9", 1.0),))
    take = take_of(tmp_path / "take_001", wrong)
    take.run(model, lambda: None)
    assert take.stage is Stage.FAILED and "block9_conv9" in take.message
    assert not take.picture.exists() and not take.can_go_on


def test_memory_is_foreseen_before_the_first_step(model, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_budget, "available", lambda: 2**20)
    take = take_of(tmp_path / "take_001", dataclasses.replace(asked, size=600))
    take.run(model, lambda: None)
    assert take.stage is Stage.FAILED and "memory" in take.message
    assert "Lower size." in take.message or "Use tile=" in take.message
    assert take.evaluations == 0


def test_what_is_missing_is_told_before_a_take_is_queued(queue, asked, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for changes, error in (
        ({"content": None}, UsageError),
        ({"style": ()}, UsageError),
        ({"content": str(text)}, ImagesError),
    ):
        with pytest.raises(error):
            queue.start(dataclasses.replace(asked, **changes))
    assert not queue.takes and not list(queue.folder.iterdir())


def test_takes_run_one_at_a_time_in_order(queue, asked):
    running: list[int] = []

    def look() -> None:
        while not ended.is_set():
            running.append(sum(take.stage is Stage.RUNNING for take in list(queue.takes)))
            time.sleep(0.005)

    ended = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()
    takes = [queue.start(dataclasses.replace(asked, steps=3)) for _ in range(3)]
    assert queue.before(takes[2]) >= 1
    until(lambda: all(take.stage is Stage.FINISHED for take in takes))
    ended.set()
    watcher.join()
    assert max(running) == 1
    assert [take.folder.name for take in takes] == ["take_001", "take_002", "take_003"]


def test_a_waiting_take_is_taken_from_the_queue(queue, asked):
    first = queue.start(dataclasses.replace(asked, steps=2000))
    second = queue.start(asked)
    queue.stop(second)
    assert second.stage is Stage.STOPPED and queue.before(second) == 0
    until(lambda: first.evaluations > 1)
    queue.stop(first)
    until(lambda: first.stage is Stage.STOPPED)
    assert second.evaluations == 0


def test_closing_saves_the_picture_that_is_being_made(queue, asked):
    take = queue.start(dataclasses.replace(asked, steps=2000))
    until(lambda: take.evaluations > 1)
    queue.close()
    assert take.stage is Stage.STOPPED and pixels(take.picture).shape[1] == 48


def test_folders_of_earlier_sessions_stay(model, asked, tmp_path):
    (tmp_path / "takes" / "take_001").mkdir(parents=True)
    queue = TakeQueue(model, tmp_path / "takes")
    assert queue.start(dataclasses.replace(asked, steps=1)).number == 2
    queue.close()


def test_a_folder_that_cannot_be_made_is_an_error(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="--takes"):
        TakeQueue(model, tmp_path / "file" / "takes")


def test_flags_are_written_as_they_are_read():
    settings = Settings(
        output="a b.png",
        style=("x.png", "y.png"),
        style_loss="gram:1,moments:0.1",
        style_layers=(("block1_conv1", (1.0, 0.5)), ("block2_conv1", 2.0)),
        style_blend=(1.0, 3.0),
        wrap=True,
    )
    lines = flag_files.flag_lines(settings)
    assert "--style=x.png,y.png" in lines and "--wrap" in lines and "--style_blend=1.0,3.0" in lines
    assert "--style_layers=block1_conv1:1.0/0.5,block2_conv1:2.0" in lines
    assert "'--output=a b.png'" in flag_files.command_line(settings)
    assert len(lines) == 6
