"""How fast training gets its pictures: python tests/benchmarks/bench_reading.py --pictures=FOLDER

* --what=start: seconds from Enter to the first step of `python -m style.train`, for --count links to
  the pictures of the folder;
* --what=input: the time of a step with crops as they are read, over that with one batch in memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def start(arguments: argparse.Namespace) -> None:
    """Make the links, and wait for the first line of the log."""
    pictures = sorted(Path(arguments.pictures).iterdir())
    with tempfile.TemporaryDirectory() as place:
        contents, log = Path(place, "contents"), Path(place, "log.jsonl")
        contents.mkdir()
        for i, picture in zip(range(arguments.count), itertools.cycle(pictures), strict=False):
            (contents / f"{i:07d}{picture.suffix}").symlink_to(picture.resolve())
        flags = (f"--content={contents}", f"--style={arguments.pictures}", f"--log={log}")
        flags += (f"--output={place}/out", "--size=64", "--batch_size=2", "--steps=1000")
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "style.train", *flags])
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        print(f"first step of {arguments.count} contents after {time.monotonic() - began:.1f} s")
        process.terminate()
        process.wait()


def compare_input(arguments: argparse.Namespace) -> None:
    """Steps with pictures that are read and with a batch that is there, in turn."""
    import keras
    import numpy as np

    from style import models
    from style.feedforward import batch_losses, networks, training
    from style.feedforward.crop_stream import CropStream, zip_batches
    from vgg_normalize.data.sources import open_source

    model = models.load(arguments.model)
    layers = [(name, 1.0) for name in networks.style_layers(model)[:4]]
    step = training.step_function(
        networks.adain(model),
        model,
        batch_losses.LossConfig((), layers),
        keras.optimizers.Adam(1e-4),
    )
    size = arguments.size
    streams = [
        CropStream(open_source(arguments.pictures), size=size, resize=2 * size, seed=seed)
        for seed in (0, 1)
    ]
    batches = zip_batches(streams[0], streams[1], (0, 0), arguments.batch_size)
    resident = next(batches)[:2]
    float(step(*resident)["loss"])
    times = []
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        float(step(*next(batches)[:2])["loss"])
        read = time.perf_counter()
        float(step(*resident)["loss"])
        times.append((read - began, time.perf_counter() - read))
    with_input, without = np.median(times, axis=0)
    print(
        f"step with input {with_input:.3f} s, with a resident batch {without:.3f} s, ratio "
        f"{np.median([a / b for a, b in times]):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=["start", "input"], default="start")
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--count", type=int, default=120_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    {"start": start, "input": compare_input}[arguments.what](arguments)


if __name__ == "__main__":
    main()
