"""Devices, and the environment of the process: what is missing is said in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from forks import forked
from helpers import TINY, command, pictures, refused

from vgg_normalize.errors import DevicesError, UsageError
from vgg_normalize.runtime import devices

pytestmark = pytest.mark.slow

AUDIT = (*TINY, "--task=measure")
CLUSTER = {"worker": ["host:1", "host:2"]}
# Environment, keras.json, and what the one line must name.
WRONG = {
    "torch": ({"KERAS_BACKEND": "torch"}, {}, "KERAS_BACKEND"),
    "jax": ({"KERAS_BACKEND": "jax"}, {}, "KERAS_BACKEND"),
    "channels_first": ({}, {"image_data_format": "channels_first"}, "channels_first"),
    "float16": ({}, {"floatx": "float16"}, "float16"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Exit code and stderr in each wrong environment; all started at once, to save time."""
    started = {}
    for name, (variables, config, _) in WRONG.items():
        home = tmp_path_factory.mktemp(name)
        (home / "keras.json").write_text(json.dumps(config))
        environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
        started[name] = subprocess.Popen(
            [sys.executable, "-m", "vgg_normalize", *AUDIT]
            + ["--images=sample", f"--output={home / 'out'}"],
            env={**environment, "KERAS_HOME": str(home), "CUDA_VISIBLE_DEVICES": "", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    told = {name: process.communicate()[0] for name, process in started.items()}
    return {name: (process.returncode, told[name]) for name, process in started.items()}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_environment_exits_1_with_one_line(answers, name):
    code, told = answers[name]
    assert code == 1, told
    assert "Traceback" not in told
    ours = [line for line in told.splitlines() if line.startswith("vgg-normalize: ")]
    assert len(ours) == 1 and told.endswith(ours[0] + "\n"), told
    assert WRONG[name][2] in ours[0]


def test_a_tpu_that_is_not_there_exits_5_with_a_hint(tmp_path):
    code, told = forked(*AUDIT, "--images=sample", f"--output={tmp_path / 'out'}", "--strategy=tpu")
    assert code == 5, told
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("vgg-normalize: Expected a TPU.")
    assert "--strategy=auto" in told and not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [None, "{}", '{"cluster": {}}', "not JSON", "[]", '"text"'])
def test_workers_without_a_cluster_exit_5_with_a_hint(capsys, tmp_path, monkeypatch, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    run = (*AUDIT, "--images=sample", f"--output={tmp_path / 'out'}", "--strategy=multiworker")
    assert "TF_CONFIG" in refused(capsys, 5, *run)
    assert list(tmp_path.iterdir()) == []


def test_splitting_the_cpu_too_late_exits_5(capsys, tmp_path):
    tf.constant(1.0)  # TensorFlow has started
    run = (*AUDIT, "--images=sample", f"--output={tmp_path / 'out'}", "--logical_cpus=3")
    assert "logical_cpus=3" in refused(capsys, 5, *run)


def measured(path: Path) -> dict[str, np.ndarray]:
    with np.load(path / "means.npz") as file:
        return {key: file[key] for key in file.files if key != "settings"}


def test_mirrored_runs_on_two_logical_cpus_and_agrees_with_one_device(tmp_path):
    # Seven images: the last batch is uneven, and one device gets none of it.
    run = (*TINY, f"--images={pictures(tmp_path / 'images', 7)}", "--formats=npz")
    two = ("--strategy=mirrored", "--logical_cpus=2", f"--output={tmp_path / 'two'}")
    code, told = forked(*run, *two)
    assert code == 0, told
    assert command(*run, "--strategy=one", f"--output={tmp_path / 'one'}") == 0
    one, two = measured(tmp_path / "one"), measured(tmp_path / "two")
    assert one.keys() == two.keys() and two["images"] == 7
    for key in one:
        np.testing.assert_allclose(two[key], one[key], rtol=1e-5)


def test_one_device_needs_no_strategy(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices.strategy("one") is None
    if len(tf.config.list_logical_devices("GPU")) < 2:
        assert devices.strategy("auto") is None


@pytest.mark.parametrize(("gpus", "taken"), [(0, "CPU"), (1, "GPU"), (3, "GPU")])
def test_mirrored_takes_all_gpus_or_else_all_logical_cpus(monkeypatch, gpus, taken):
    there = {
        kind: [tf.config.LogicalDevice(f"/{kind}:{i}", kind) for i in range(count)]
        for kind, count in (("CPU", 2), ("GPU", gpus))
    }
    monkeypatch.setattr(tf.config, "list_logical_devices", there.get)
    monkeypatch.setattr(tf.config, "list_physical_devices", there.get)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", list)
    expected = [device.name for device in there[taken]]
    assert devices.strategy("mirrored") == expected
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices.strategy("auto") == (expected if gpus > 1 else None)


def test_auto_takes_the_workers_of_the_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER}))
    monkeypatch.setattr(devices, "_multiworker", lambda: "workers")
    assert devices.strategy("auto") == "workers"


def test_workers_that_do_not_answer_are_an_error_of_devices(monkeypatch):
    def fail():
        raise tf.errors.UnavailableError(None, None, "connection\nrefused")

    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER}))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", fail)
    with pytest.raises(DevicesError, match="connection refused"):
        devices.strategy("multiworker")


def test_an_unknown_strategy_is_an_error_of_usage():
    with pytest.raises(UsageError, match="horovod"):
        devices.strategy("horovod")


def test_a_run_on_one_machine_writes_its_output():
    assert devices.is_chief(None)
    assert devices.is_chief(tf.distribute.get_strategy())
