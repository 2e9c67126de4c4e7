"""No output lies where a run reads, and no two outputs at one place."""

from __future__ import annotations

import os

import pytest

from vgg_normalize.errors import UsageError
from vgg_normalize.runtime.paths import require_distinct


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a photograph, where paths are relative to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"picture")
    (tmp_path / "folder").mkdir()
    return tmp_path


def refusal(inputs, outputs) -> str:
    with pytest.raises(UsageError) as error:
        require_distinct(inputs, outputs)
    return str(error.value)


def test_places_that_differ_are_let_pass(place):
    require_distinct(
        {"content": "photo.png", "style": ["a.png", "folder"], "model": None, "mask": ()},
        {"output": place / "out.png", "log": "log.jsonl", "animation": None, "preview": ""},
    )


def test_the_message_names_both_flags_and_the_place(place):
    said = refusal({"content": "photo.png"}, {"log": "photo.png"})
    assert said == (
        "Expected every output at a place of its own. Received: --log and --content are both "
        f"{place / 'photo.png'}. Choose another --log."
    )


@pytest.mark.parametrize(
    "output", ["./photo.png", "folder/../photo.png", "link.png", "hard.png", "linked/photo.png"]
)
def test_one_place_by_two_paths_is_one(place, output):
    (place / "link.png").symlink_to("photo.png")
    os.link(place / "photo.png", place / "hard.png")
    (place / "linked").symlink_to(place)
    said = refusal({"style": ["other.png", place / "photo.png"]}, {"output": output})
    assert "--output and --style are both" in said


def test_an_output_at_the_end_of_a_link_to_nothing(place):
    (place / "later.png").symlink_to(place / "out.png")
    said = refusal({}, {"output": "out.png", "preview": "later.png"})
    assert said.endswith(f"are both {place / 'out.png'}. Choose another --preview.")


def test_folders_and_two_outputs(place):
    assert "folder" in refusal({"content": "folder/"}, {"output": place / "folder"})
    assert "--log and --output are both" in refusal({}, {"output": "new", "log": "./new"})
    # Two of one flag are that flag's own affair.
    require_distinct({"style": ["photo.png", "photo.png"]}, {"output": ["new", "new"]})


def test_an_input_that_is_not_there_is_left_to_who_reads_it(place):
    require_distinct({"content": "nowhere.png"}, {"output": "nowhere.png"})


def test_devices_may_be_given_twice():
    require_distinct({"content": os.devnull}, {"log": os.devnull, "preview": os.devnull})


def test_the_home_folder_is_resolved(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert "photo.png" in refusal({"content": "~/photo.png"}, {"output": "photo.png"})
