"""Several processes measure as one; a lost worker ends the others, and --resume goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from clusters import start_workers
from helpers import TINY, command, pictures

from vgg_normalize.means import Means

pytestmark = pytest.mark.slow


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Pictures that do not divide evenly, one of them unreadable."""
    folder = pictures(tmp_path / "photographs", 11)
    sorted(folder.iterdir())[3].write_bytes(b"no picture")
    return folder


def test_two_workers_measure_as_one_and_only_the_chief_writes(tmp_path, photographs):
    common = (*TINY, "--max_skipped=1", f"--images={photographs}")
    assert command(*common, f"--output={tmp_path / 'one'}") == 0
    workers = start_workers("vgg_normalize", *common, f"--output={tmp_path / 'many'}")
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    one, many = (Means.load(tmp_path / name / "means.npz") for name in ("one", "many"))
    assert many.images == one.images == 10
    for layer, mean in one.mean.items():
        np.testing.assert_allclose(many.mean[layer], mean, rtol=1e-6)
        np.testing.assert_allclose(many.standard_error[layer], one.standard_error[layer], rtol=1e-5)
    found, alone = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("many", "one")
    )
    assert found["images"]["skipped"] == alone["images"]["skipped"] != []
    assert {path.name for path in tmp_path.iterdir()} == {"one", "many", "photographs"}


def test_a_lost_worker_ends_the_others_and_resume_goes_on(tmp_path):
    folder = pictures(tmp_path / "photographs", 400)
    output = tmp_path / "many"
    common = (*TINY, f"--images={folder}", f"--output={output}")
    arguments = (*common, "--checkpoint_every=16")
    chief, other = start_workers("vgg_normalize", *arguments, forks=True)
    place = tmp_path / "many.partial" / "checkpoint.npz"
    deadline = time.monotonic() + 90
    while not place.exists() and chief.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    other.send_signal(signal.SIGKILL)
    lost = time.monotonic()
    error = chief.communicate(timeout=60)[1]
    other.communicate()
    if chief.returncode == 0:
        pytest.skip("the run was over before the worker could be killed")
    assert time.monotonic() - lost < 30
    assert chief.returncode == 5, error
    assert "--resume" in error.splitlines()[-1]
    again = start_workers("vgg_normalize", *arguments, "--resume", forks=True)
    errors = [worker.communicate(timeout=120)[1] for worker in again]
    assert [worker.returncode for worker in again] == [0, 0], errors
    report = json.loads((output / "report.json").read_text())
    assert report["images"]["used"] == 400
    assert report["resumed_from"] > 0
