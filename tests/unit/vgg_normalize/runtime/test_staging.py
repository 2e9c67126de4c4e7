"""All or nothing: whatever happens to a run, an output is whole, and a run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from forks import forked
from helpers import TINY, arrays, command, pictures, refused

from vgg_normalize import measurement_state, rescaling
from vgg_normalize.cli.settings import CHECKPOINT_KEYS
from vgg_normalize.errors import OutputError
from vgg_normalize.report import json_report
from vgg_normalize.runtime import staging
from vgg_normalize.runtime.progress import Interrupted, InterruptHandler, Progress

pytestmark = pytest.mark.slow

COUNT = 8
AUDIT = (*TINY, "--task=measure", "--checkpoint_every=2")
NORMALIZE = (*TINY, "--formats=saved_model,h5,npz", "--checkpoint_every=2")
# Quicker, where it does not matter how a network is saved.
NPZ = (*NORMALIZE, "--formats=npz")
# The changes of the disk in a directory in the making that are its last files, before the renames.
LAST_WRITES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folder) -> dict[str, bytes]:
    """The means of a run that nothing disturbed."""
    target = tmp_path_factory.mktemp("whole") / "out"
    assert command(*AUDIT, f"--images={folder}", f"--output={target}") == 0
    return arrays(target / "means.npz")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Images enough for a signal to come in time."""
    return pictures(tmp_path_factory.mktemp("many"), 200)


@pytest.fixture(scope="module")
def whole_of_many(tmp_path_factory, many) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("whole") / "out"
    assert command(*TINY, "--task=measure", f"--images={many}", f"--output={target}") == 0
    return arrays(target / "means.npz")


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def partial(tmp_path) -> Path:
    return tmp_path / "out.partial"


def signal_after(monkeypatch, images: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal once so many images are measured."""
    update = Progress.update

    def watched(self, done, error=None):
        update(self, done, error)
        if done == images and self._title == "measuring":
            signal.raise_signal(number)

    monkeypatch.setattr(Progress, "update", watched)


@pytest.fixture
def interrupted(folder, target, partial, monkeypatch) -> Path:
    """An output whose run was interrupted after four images."""
    with monkeypatch.context() as patch:
        signal_after(patch, 4)
        assert command(*AUDIT, f"--images={folder}", f"--output={target}") == 130
    assert (partial / "checkpoint.npz").exists() and not target.exists()
    return target


def resumed_from(target: Path) -> int:
    return json.loads((target / "report.json").read_text())["resumed_from"]


def snapshot(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# Interruption and going on.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_a_resumed_run_the_same_bits(
    capsys, monkeypatch, folder, target, partial, whole, number, code
):
    run = (*NPZ, f"--images={folder}", f"--output={target}", "--checkpoint_every=1000")
    with monkeypatch.context() as patch:
        signal_after(patch, 4, number)
        assert command(*run) == code
    assert "Traceback" not in capsys.readouterr().err
    assert (partial / "checkpoint.npz").exists() and not target.exists()
    assert command(*run, "--resume") == 0
    assert resumed_from(target) == 4
    assert arrays(target / "means.npz") == whole
    assert not partial.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside_stops_a_process_gently(
    many, whole_of_many, target, partial, number, code
):
    run = (*AUDIT, f"--images={many}", f"--output={target}")
    found, told = forked(*run, send=number, when=partial / "checkpoint.npz")
    assert found == code, told
    assert "Traceback" not in told and "--resume" in told
    found, told = forked(*run, "--resume", "--checkpoint_every=1000")
    assert found == 0, told
    assert 0 < resumed_from(target) < 200
    assert arrays(target / "means.npz") == whole_of_many


def test_a_signal_during_the_check_keeps_the_measurement(
    monkeypatch, folder, target, partial, whole
):
    def interrupt(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    run = (*NPZ, f"--images={folder}", f"--output={target}")
    with monkeypatch.context() as patch:
        patch.setattr(rescaling, "normalize", interrupt)
        assert command(*run) == 143
    assert not target.exists()
    assert command(*run, "--resume") == 0
    assert resumed_from(target) == COUNT and arrays(target / "means.npz") == whole


def test_a_leftover_checkpoint_is_not_overwritten_unasked(capsys, folder, interrupted):
    run = (*AUDIT, f"--images={folder}", f"--output={interrupted}")
    line = refused(capsys, 4, *run)
    assert "--resume" in line and "--overwrite" in line
    assert command(*run, "--resume") == 0
    assert resumed_from(interrupted) == 4


def test_overwrite_starts_afresh(folder, interrupted, whole):
    assert command(*AUDIT, f"--images={folder}", f"--output={interrupted}", "--overwrite") == 0
    assert resumed_from(interrupted) == 0 and arrays(interrupted / "means.npz") == whole


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("--seed=1", "seed (0, not 1)"),
        ("--image_size=33", "image_size (32, not 33)"),
        ("--pooling=avg", "pooling (max, not avg)"),
        ("--preprocessing=unit", "preprocessing (caffe, not unit)"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    capsys, folder, interrupted, partial, changed, said
):
    before = (partial / "checkpoint.npz").read_bytes()
    run = (*AUDIT, f"--images={folder}", f"--output={interrupted}", "--resume")
    capsys.readouterr()
    assert said in refused(capsys, 4, *run, changed)
    assert (partial / "checkpoint.npz").read_bytes() == before


def test_resuming_on_other_images_is_refused(capsys, tmp_path, folder, interrupted):
    images = shutil.copytree(folder, tmp_path / "images")
    pictures(images, COUNT + 1)
    refused(capsys, 4, *AUDIT, f"--images={images}", f"--output={interrupted}", "--resume")


def test_resuming_with_other_formats_or_check_goes_on(folder, interrupted, whole):
    changed = ("--task=normalize", "--formats=npz", "--check_images=2", "--checkpoint_every=3")
    run = (*AUDIT, f"--images={folder}", f"--output={interrupted}", "--resume")
    assert command(*run, *changed) == 0
    assert resumed_from(interrupted) == 4 and arrays(interrupted / "means.npz") == whole


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a file left open
@pytest.mark.parametrize("damage", ["truncated", "empty", "not a zip", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    capsys, folder, interrupted, partial, whole, damage
):
    path = partial / "checkpoint.npz"
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    kinds = {"truncated": content[:middle], "empty": b"", "not a zip": b"x" * 99}
    path.write_bytes(kinds.get(damage, flipped))
    run = (*AUDIT, f"--images={folder}", f"--output={interrupted}", "--resume")
    assert command(*run) == 0
    told = capsys.readouterr().err
    assert "is damaged" in told and "Traceback" not in told
    assert resumed_from(interrupted) == 2 and arrays(interrupted / "means.npz") == whole


def test_two_damaged_checkpoints_give_way_to_a_fresh_start(
    capsys, folder, interrupted, partial, whole
):
    for name in ("checkpoint.npz", "checkpoint.previous"):
        (partial / name).write_bytes(b"PK")
    run = (*AUDIT, f"--images={folder}", f"--output={interrupted}", "--resume")
    assert command(*run) == 0
    assert "starting afresh" in capsys.readouterr().err
    assert resumed_from(interrupted) == 0 and arrays(interrupted / "means.npz") == whole


def test_resume_with_nothing_to_go_on_from_starts_afresh(capsys, folder, target, whole):
    assert command(*AUDIT, f"--images={folder}", f"--output={target}", "--resume") == 0
    assert "starting afresh" in capsys.readouterr().err
    assert resumed_from(target) == 0 and arrays(target / "means.npz") == whole


def test_resume_on_a_finished_output_says_so(capsys, folder, target):
    run = (*AUDIT, f"--images={folder}", f"--output={target}")
    assert command(*run) == 0
    before = snapshot(target)
    capsys.readouterr()
    assert command(*run, "--resume") == 0
    assert "finished" in capsys.readouterr().err
    assert snapshot(target) == before


def test_an_interrupted_overwriting_run_goes_on(monkeypatch, folder, target, whole):
    run = (*AUDIT, f"--images={folder}", f"--output={target}", "--overwrite")
    assert command(*run, "--max_images=2") == 0
    with monkeypatch.context() as patch:
        signal_after(patch, 4)
        assert command(*run) == 130
    assert resumed_from(target) == 0  # the old one still stands
    assert command(*run, "--resume") == 0
    assert resumed_from(target) == 4 and arrays(target / "means.npz") == whole


def test_a_second_signal_is_obeyed_at_once():
    stop = InterruptHandler()
    with stop.defer():
        stop._handle(signal.SIGINT, None)
        assert stop.requested == signal.SIGINT
        with pytest.raises(Interrupted):
            stop._handle(signal.SIGINT, None)


# kill -9.


def test_killed_at_every_write_a_run_goes_on_to_the_same_bits(
    tmp_path, folder, target, partial, whole
):
    run = (*AUDIT, f"--images={folder}", f"--output={target}", "--resume")
    deaths = 0
    for step in range(1, 60):
        code, told = forked(*run, root=tmp_path, die_at=step)
        if code == 0:
            break
        assert code == -signal.SIGKILL, told
        deaths += 1
        if target.exists():  # then it is whole
            assert json_report.is_finished(str(target)) and arrays(target / "means.npz") == whole
    assert code == 0 and deaths >= 9, told
    assert arrays(target / "means.npz") == whole


def test_killed_while_replacing_the_old_or_the_new_is_whole(
    tmp_path, folder, target, partial, whole
):
    run = (*AUDIT, f"--images={folder}", f"--output={target}", "--overwrite")
    assert command(*run, "--max_images=2") == 0
    old = arrays(target / "means.npz")
    states = set()
    for step in range(LAST_WRITES, 20):
        # Counted from the directory in the making on: the checkpoints before have their own test.
        code, told = forked(*run, root=tmp_path, die_at=step, begin="out.partial/new")
        if code == 0:
            break
        assert code == -signal.SIGKILL, told
        kept = target if target.exists() else partial / "old"
        found = arrays(kept / "means.npz")
        assert found in (old, whole) and json_report.is_finished(str(kept))
        states.add((kept == target, found == old))
    assert code == 0, told
    # It died before, between and after the two renames.
    assert states == {(True, True), (False, True), (True, False)}
    assert arrays(target / "means.npz") == whole and not partial.exists()


def test_what_a_run_killed_after_its_commit_left_is_removed(folder, target, partial, tmp_path):
    run = (*AUDIT, f"--images={folder}", f"--output={target}")
    states = []
    for step in range(LAST_WRITES, 30):
        code, told = forked(*run, root=tmp_path, die_at=step, begin="out.partial/new")
        if code == 0:
            break
        assert code == -signal.SIGKILL, told
        assert step > LAST_WRITES or not target.exists(), "begins too late"
        if target.exists():
            states.append((partial / "checkpoint.npz").exists())
            before = snapshot(target)
            code, told = forked(*run, "--resume")
            assert code == 0 and "is finished" in told, told
            assert not partial.exists() and snapshot(target) == before
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
    assert code == 0, told
    assert set(states) == {True, False}  # it died before and after the checkpoint went


def test_what_another_run_holds_beside_a_finished_output_stays(folder, target, partial):
    run = (*AUDIT, f"--images={folder}", f"--output={target}")
    assert command(*run) == 0
    with staging.locked(partial):
        (partial / "mine.txt").write_text("mine")
        assert command(*run, "--resume") == 0
        assert (partial / "mine.txt").exists()
    assert command(*run, "--resume") == 0
    assert not partial.exists()


def test_the_checkpoint_of_an_interrupted_overwriting_run_is_no_leftover(
    monkeypatch, folder, target, partial
):
    run = (*AUDIT, f"--images={folder}", f"--output={target}")
    assert command(*run, "--max_images=2") == 0
    with monkeypatch.context() as patch:
        signal_after(patch, 4)
        assert command(*run, "--overwrite") == 130
    assert command(*run, "--resume") == 0  # of the old output, which is finished
    assert (partial / "checkpoint.npz").exists()
    assert command(*run, "--overwrite", "--resume") == 0
    assert resumed_from(target) == 4


def test_an_old_output_left_aside_by_a_killed_run_comes_back(capsys, folder, target, partial):
    run = (*AUDIT, f"--images={folder}", f"--output={target}")
    assert command(*run) == 0
    before = snapshot(target)
    partial.mkdir()
    target.rename(partial / "old")
    refused(capsys, 4, *run)
    assert snapshot(target) == before and not partial.exists()


def test_an_old_output_that_was_replaced_does_not_hinder_the_next_replacement(target, partial):
    for folder in (target, partial / "old"):
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_text("mine")
    (partial / "checkpoint.npz").touch()
    with staging.staging(str(target), overwrite=True, resume=True) as place:
        (place.empty_new() / "new.txt").write_text("new")
        place.commit()
    assert snapshot(target) == {"new.txt": b"new"} and not partial.exists()


def test_killed_while_the_network_is_written_nothing_stands_under_the_name(
    tmp_path, folder, target, partial, whole
):
    run = (*NORMALIZE, f"--images={folder}", f"--output={target}")
    when = partial / "new" / "saved_model" / "variables"
    code, told = forked(*run, send=signal.SIGKILL, when=when)
    assert code == -signal.SIGKILL, told
    assert not target.exists()
    assert command(*run, "--resume") == 0
    assert resumed_from(target) == COUNT and arrays(target / "means.npz") == whole
    assert (target / "saved_model" / "saved_model.pb").exists()


# An output that exists, cannot be written, or is being written.


def test_an_existing_output_is_refused_and_left_alone(capsys, folder, target, tmp_path):
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    run = (*AUDIT, f"--images={folder}", f"--output={target}")
    assert "--overwrite" in refused(capsys, 4, *run)
    assert "--overwrite" in refused(capsys, 4, *run, "--resume")
    assert snapshot(tmp_path) == {"out/mine.txt": b"mine"}


def test_an_empty_directory_may_be_the_output(folder, target):
    target.mkdir()
    assert command(*AUDIT, f"--images={folder}", f"--output={target}") == 0


@pytest.fixture
def unread(monkeypatch) -> None:
    """Fails the test if the images are as much as listed."""
    monkeypatch.setattr(
        "vgg_normalize.data.sources.open_source", lambda *a, **k: pytest.fail("read")
    )


def test_an_output_that_cannot_be_is_refused_before_any_image_is_read(
    capsys, folder, tmp_path, unread
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "file/below", "missing/parent/out", "link", "x" * 300):
        for more in ((), ("--overwrite",), ("--resume",)):
            run = (*AUDIT, f"--images={folder}", f"--output={tmp_path / name}", *more)
            refused(capsys, 4, *run)
    assert snapshot(tmp_path) == {"file": b"mine"}


def test_two_runs_at_once_one_fails_cleanly(capsys, folder, target, partial, unread):
    with staging.staging(str(target), overwrite=False, resume=False) as place:
        place.checkpoint.write_bytes(b"at work")
        for more in ((), ("--overwrite",), ("--resume",)):
            run = (*AUDIT, f"--images={folder}", f"--output={target}", *more)
            assert "another run" in refused(capsys, 4, *run)
        assert place.checkpoint.read_bytes() == b"at work"


def test_an_overwrite_that_fails_leaves_the_old_output(capsys, monkeypatch, folder, target):
    run = (*NORMALIZE, f"--images={folder}", f"--output={target}")
    assert command(*run) == 0
    before = snapshot(target)

    def full(self, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    capsys.readouterr()
    assert command(*run, "--overwrite") == 4
    told = capsys.readouterr().err
    assert "No space left" in told and "Traceback" not in told
    assert snapshot(target) == before


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_the_old_output(monkeypatch, tmp_path, failing):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    rename, calls = os.rename, []

    def fail(source, to):
        calls.append(to)
        if len(calls) == failing:
            raise OSError(16, "Device or resource busy")
        rename(source, to)

    with staging.staging(str(target), overwrite=True, resume=False) as place:
        place.empty_new()
        monkeypatch.setattr(os, "rename", fail)
        with pytest.raises(OutputError, match="busy"):
            place.commit()
    assert snapshot(target) == {"mine.txt": b"mine"}


# A full disk.


@pytest.mark.parametrize(
    ("task", "largest"),
    [("measure", 4000), ("measure", 20_000), ("normalize", 100_000)],
    ids=["checkpoint", "report", "network"],
)
def test_a_full_disk_exits_4_and_leaves_nothing_under_the_name(folder, target, task, largest):
    run = (*NORMALIZE, f"--images={folder}", f"--output={target}", f"--task={task}")
    code, told = forked(*run, largest_file=largest)
    assert code == 4, told
    assert "Traceback" not in told and "Make room" in told
    assert not target.exists()
    assert command(*run, "--resume") == 0  # there is room again


def test_a_full_disk_leaves_the_old_output(folder, target):
    run = (*NORMALIZE, f"--images={folder}", f"--output={target}")
    assert command(*run) == 0
    before = snapshot(target)
    code, told = forked(*run, "--overwrite", largest_file=100_000)
    assert code == 4, told
    assert snapshot(target) == before


# A failed proof.


@pytest.fixture
def wrong(monkeypatch) -> None:
    """A surgery that forgets one filter."""
    normalize = rescaling.normalize

    def almost(model, means):
        normal = normalize(model, means)
        kernel, bias = normal.get_layer("block1_conv1").get_weights()
        kernel[..., 5] *= 1.01
        normal.get_layer("block1_conv1").set_weights([kernel, bias])
        return normal

    monkeypatch.setattr(rescaling, "normalize", almost)


def test_a_failed_proof_exits_6_and_saves_only_the_report(capsys, folder, target, partial, wrong):
    assert command(*NPZ, f"--images={folder}", f"--output={target}") == 6
    told = capsys.readouterr().err
    assert "Traceback" not in told and str(target) in told.splitlines()[-1]
    assert {path.name for path in target.iterdir()} == {"report.json", "report.html"}
    said = json.loads((target / "report.json").read_text())
    assert said["check"]["passed"] is False and said["check"]["worst_feature_error"] > 1e-4
    assert not partial.exists() and not json_report.is_finished(str(target))


def test_a_failed_proof_leaves_the_old_output(folder, target, request):
    run = (*NPZ, f"--images={folder}", f"--output={target}")
    assert command(*run) == 0
    before = snapshot(target)
    request.getfixturevalue("wrong")
    assert command(*run, "--overwrite") == 6
    assert snapshot(target) == before
    failed = target.with_name("out.failed")
    assert {path.name for path in failed.iterdir()} == {"report.json", "report.html"}


def test_artefacts_that_differ_fail_the_proof(monkeypatch, folder, target):
    monkeypatch.setattr("vgg_normalize.weights.exporting.write_npz", _write_zeros)
    assert command(*NORMALIZE, f"--images={folder}", f"--output={target}") == 6
    assert not (target / "saved_model").exists()


def _write_zeros(model: keras.Model, path: Path) -> None:
    zeros = {f"{w.path}": np.zeros(w.shape, np.float32) for w in model.weights}
    np.savez(path, **{"/".join(name.split("/")[-2:]): array for name, array in zeros.items()})


def test_the_state_of_a_checkpoint_is_read_back_to_the_bit(tmp_path):
    channels = {"a": 3, "b": 2}
    state = measurement_state.initial_state(channels)
    state = state._replace(positions=np.array([5]), skipped=(1, 4))
    state.sums.s[:] = [0.1, 1 / 3, 1e-300, 0, 1e300]
    measurement_state.save_state(tmp_path / "c.npz", state, "settings")
    found, complaints = measurement_state.load_state(tmp_path / "c.npz", "settings", state.sums)
    assert complaints == [] and found.skipped == (1, 4) and found.positions.tolist() == [5]
    assert all(np.array_equal(x, y) for x, y in zip(found.sums, state.sums, strict=True))
    assert CHECKPOINT_KEYS  # what the settings of a checkpoint are made of
