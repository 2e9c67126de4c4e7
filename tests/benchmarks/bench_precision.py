"""What bfloat16 saves: python tests/benchmarks/bench_precision.py --content=photo.jpg --style=painting.jpg

Steps of `style.iter_transfer` in float32 and in bfloat16 in turns: seconds of an evaluation (medians
over steps, without the first two, which trace), their ratio, and the losses reached.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import style
from style import models

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--content", required=True)
    parser.add_argument("--style", required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    model = models.load("vgg19")
    for size in options.sizes:
        content = style.load_image(options.content, size=size)
        picture = style.load_image(options.style)
        runs = {
            precision: style.iter_transfer(
                model, content, picture, steps=options.steps + 2, precision=precision
            )
            for precision in PRECISIONS
        }
        seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        results = {precision: next(run) for precision, run in runs.items()}
        for step in range(options.steps):
            for precision, run in runs.items():
                before, began = results[precision], time.perf_counter()
                results[precision] = next(run, before)
                taken = time.perf_counter() - began
                evaluations = results[precision].evaluations - before.evaluations
                if step and evaluations:
                    seconds[precision].append(taken / evaluations)
        exact, rounded = (statistics.median(seconds[precision]) for precision in PRECISIONS)
        losses = [f"{results[precision].loss:.5g}" for precision in PRECISIONS]
        print(
            f"{size} pixels: {exact:.3f} s an evaluation, in bfloat16 {rounded:.3f} s, ratio "
            f"{rounded / exact:.2f}; losses {' and '.join(losses)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
