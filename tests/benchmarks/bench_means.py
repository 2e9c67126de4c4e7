"""How fast the main job is: python tests/benchmarks/bench_means.py --torch_python=PATH

Compares, alternately in one run, on random VGG19 at 224 pixels with the same batch:

* the whole tool, from JPEG files to sums (decoding shares the cores with the network);
* the bare forward pass of the same keras.Model on a resident batch, in a tf.function;
* PyTorch's forward pass with the mean of every channel on a resident batch, in the layout that is
  faster there (`python -m venv T && T/bin/pip install torch==2.13.0 numpy`, then T/bin/python).

Prints the medians, their ratios, and the peak memory of this process.

What did not help on two cores: casting every activation to float64 before adding it up (0.86 to
0.90 of the bare speed; rows in float32 first: 0.94 to 0.99); folding the weights into the graph as
constants (the same within noise); a matrix product with ones in place of the sum (the same).
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image
from pytorch import Worker

import vgg_normalize as vn
from vgg_normalize import measurement
from vgg_normalize.cli.settings import Settings
from vgg_normalize.data import sources, synthetic
from vgg_normalize.weights import exporting


def jpegs(folder: Path, count: int) -> None:
    """Photographs' sizes, 500 x 375, from the synthetic pictures."""
    for i in range(count):
        picture = Image.fromarray(synthetic.picture(i)).resize((500, 375), Image.LANCZOS)
        picture.save(folder / f"{i:04d}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", default="", help="leave out to compare without PyTorch")
    parser.add_argument("--images", default="", help="a folder of JPEGs; default: synthetic ones")
    parser.add_argument("--count", type=int, default=80, help="images in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    batch = Settings.batch_size

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not options.images:
            jpegs(folder, options.count)
        source = sources.open_source(options.images or str(folder), max_images=options.count)
        model = vn.build("vgg19", weights="random")
        reading = measurement.InputOptions(batch_size=batch)
        bare = tf.function(lambda image: model(image, training=False))
        resident = tf.random.stateless_uniform([batch, 224, 224, 3], [1, 2])
        worker = None
        if options.torch_python:
            weights = folder / "weights.npz"
            np.savez(weights, **exporting.named_weights(model))
            worker = Worker(options.torch_python)
            worker.ask("network", weights=str(weights))
            worker.ask("means", batch=batch, repeats=1)

        def tool() -> float:
            began = time.perf_counter()
            states = measurement.measure(model, source, reading)
            done = 0.0
            for state in states:
                if done == 0 and state.sums.images:
                    # The first batch pays for tracing and for filling the pipeline.
                    began, done = time.perf_counter(), float(state.sums.images)
            return (float(state.sums.images) - done) / (time.perf_counter() - began)

        def forward() -> float:
            began, repeats = time.perf_counter(), max(options.count // batch, 1)
            for _ in range(repeats):
                bare(resident).numpy()
            return repeats * batch / (time.perf_counter() - began)

        bare(resident)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rates: dict[str, list[float]] = {"tool": [], "bare": [], "pytorch": []}
        for i in range(options.rounds):
            rates["bare"].append(forward())
            rates["tool"].append(tool())
            if worker is not None:
                answer = worker.ask("means", batch=batch, repeats=max(options.count // batch, 1))
                rates["pytorch"].append(batch / answer["seconds"])
            print(
                f"round {i + 1}:", {k: round(v[-1], 2) for k, v in rates.items() if v}, flush=True
            )
        medians = {name: float(np.median(values)) for name, values in rates.items() if values}
        paired = {
            other: float(np.median(np.array(rates["tool"]) / np.array(rates[other])))
            for other in medians
            if other != "tool"
        }
        print(f"batch {batch}, {source.total} JPEG images, images a second (medians):")
        for name, rate in medians.items():
            ratio = "" if name == "tool" else f"   tool / {name} = {paired[name]:.3f}"
            print(f"  {name:8} {rate:7.2f}{ratio}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"peak memory {peak / 2**20:.2f} GiB ({memory / 2**20:.2f} GiB after the bare pass)")


if __name__ == "__main__":
    main()
