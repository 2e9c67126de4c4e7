"""How fast stylisers are: python tests/benchmarks/bench_train.py --torch_python=PATH --weights=NPZ

Alternately in one run, with the same weights, sizes and losses, against a minimal AdaIN in PyTorch
(`torch_adain.py`):

* --what=step: one step of training (forward, losses, backward, Adam) at 256 pixels, batch 4;
* --what=apply: one picture of 512 x 512 pixels in a style of 512 x 512;
* --what=curve: ten minutes of `python -m style.train --method=adain` at 128 pixels on
  --content and --style (with --model, a directory that vgg_normalize saved): the loss as it falls,
  averaged over a twentieth of the steps; leaves the preview beside;
* --what=replicas: steps a second of `python -m style.train` on --content and --style with one device
  and with two that share each batch (GPUs, or logical CPUs), in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from pytorch import Worker

import vgg_normalize as vn
from style.feedforward import batch_losses, networks, saved_network, training


def measure(ours, theirs, rounds, label):
    """Print medians of interleaved runs and their ratio; the first of each does not count."""
    times = []
    for _ in range(rounds + 1):
        time.sleep(0.5)  # the threads of PyTorch's last run still spin
        began = time.perf_counter()
        ours()
        times.append((time.perf_counter() - began, theirs()["seconds"]))
    own, other = np.array(times[1:]).T
    print(
        f"{label}: {np.median(own):.3f} s, PyTorch {np.median(other):.3f} s, ratio "
        f"{np.median(own / other):.3f}",
        flush=True,
    )


def step(model, network, worker, rounds, size=256, batch=4):
    names = networks.style_layers(model)
    weights = batch_losses.LossConfig((), [(name, 1.0) for name in names])
    function = training.step_function(network, model, weights, keras.optimizers.Adam(1e-4))
    random = np.random.default_rng(0)
    content, style = (
        tf.constant(random.random((batch, size, size, 3), np.float32)) for _ in range(2)
    )
    measure(
        lambda: float(function(content, style)["loss"]),
        lambda: worker.ask("adain_step", size=size, batch=batch),
        rounds,
        f"one step at {size} pixels, batch {batch}",
    )


def apply(model, network, worker, rounds, size=512):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "network"
        saved_network.save(network, model, place, styles=[], settings={})
        loaded = saved_network.SavedNetwork(str(place))
        random = np.random.default_rng(0)
        content, style = (random.random((size, size, 3), np.float32) for _ in range(2))
        measure(
            lambda: loaded.transform(content, loaded.code(style)),
            lambda: worker.ask("adain_apply", size=size),
            rounds,
            f"one picture at {size} pixels",
        )


def logged(options, *flags):
    """The log of a training at 128 pixels, batch 4."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        command = [sys.executable, "-m", "style.train", f"--model={options.model}", "--size=128"]
        command += [f"--content={options.content}", f"--style={options.style}", "--batch_size=4"]
        command += [f"--output={folder}/network", f"--log={log}", f"--steps={options.steps}"]
        subprocess.run([*command, *flags], check=True, stderr=subprocess.DEVNULL)
        return [json.loads(line) for line in log.read_text().splitlines()]


def replicas(options):
    rates = {1: [], 2: []}
    split = () if len(tf.config.list_physical_devices("GPU")) > 1 else ("--logical_cpus=2",)
    for _ in range(options.rounds):
        for count, flags in ((1, ("--strategy=one",)), (2, ("--strategy=mirrored", *split))):
            lines = logged(options, *flags)[2:]  # the first steps trace
            seconds = lines[-1]["seconds"] - lines[0]["seconds"]
            rates[count].append((len(lines) - 1) / seconds)
    for count, of_count in rates.items():
        print(f"{count} replicas: {np.median(of_count):.3f} steps a second", flush=True)
    print(f"ratio {np.median(np.divide(rates[2], rates[1])):.3f}", flush=True)


def curve(options):
    lines = logged(options, "--learning_rate=1e-3", "--preview=curve.png", "--preview_every=100")
    print(f"step 0: loss {lines[0]['loss']:.4g}")
    for part in np.array_split(np.arange(1, len(lines)), 20):
        mean = np.mean([lines[i]["loss"] for i in part])
        print(f"steps {part[0]} to {part[-1]}, {lines[part[-1]]['seconds']:.0f} s: loss {mean:.4g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python")
    parser.add_argument("--weights", help="an .npz, such as vgg_normalize saves")
    parser.add_argument("--what", nargs="+", default=["step", "apply"])
    parser.add_argument("--rounds", type=int, default=7)
    for name in ("model", "content", "style"):
        parser.add_argument(f"--{name}", help="for --what=curve and replicas")
    parser.add_argument("--steps", type=int, default=900, help="for --what=curve and replicas")
    options = parser.parse_args()
    if "curve" in options.what:
        curve(options)
    if "replicas" in options.what:
        replicas(options)
    if {"step", "apply"} & set(options.what):
        worker = Worker(options.torch_python)
        worker.ask("adain", weights=options.weights)
        with np.load(options.weights) as file:
            names = [key.split("/")[0] for key in file.files if key.endswith("/kernel")]
        model = vn.build("vgg19", weights=options.weights, last_layer=names[-1])
        network = networks.adain(model, layer=names[-1])
        if "step" in options.what:
            step(model, network, worker, options.rounds)
        if "apply" in options.what:
            apply(model, network, worker, options.rounds)


if __name__ == "__main__":
    main()
