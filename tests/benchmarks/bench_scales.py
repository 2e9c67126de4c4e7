"""What coarse to fine gains: the objective at the last size against seconds, for 1 to 4 scales.

    python tests/benchmarks/bench_scales.py --content=photo.jpg --style=painting.jpg --size=1024

Each number of scales has the same seconds of the processor (what other programs take is not
counted).  At each coarse size there are `--coarse_steps` evaluations, at the last as many as there is
time for.  The objective is that of the last size, so the numbers of a column may be compared.
"""

from __future__ import annotations

import argparse
import time

import style


def descend(
    arguments: argparse.Namespace, scales: int, marks: list[float]
) -> list[tuple[float, int] | None]:
    """The objective at the last size, and evaluations there, when each mark has passed."""
    content = style.load_image(arguments.content, size=arguments.size)
    painting = style.load_image(arguments.style, size=arguments.size)
    reached: list[tuple[float, int] | None] = []
    best: tuple[float, int] | None = None
    began = time.process_time()
    for result in style.iter_transfer(
        arguments.model,
        content,
        painting,
        steps=10_000,
        scales=scales,
        scale_factor=arguments.scale_factor,
        coarse_steps=(arguments.coarse_steps,),
    ):
        seconds = time.process_time() - began
        while len(reached) < len(marks) and seconds > marks[len(reached)]:
            reached.append(best)
        if len(reached) == len(marks):
            break
        if result.image.shape == content.shape:
            best = (result.loss, result.evaluations)
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--content", required=True)
    parser.add_argument("--style", required=True)
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--scale_factor", type=float, default=2.0)
    parser.add_argument("--coarse_steps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 2, 3, 4])
    arguments = parser.parse_args()
    marks = [arguments.seconds * part for part in (0.25, 0.5, 0.75, 1.0)]
    print("scales " + "".join(f"{mark:>16.0f} s" for mark in marks), flush=True)
    for scales in arguments.scales:
        reached = descend(arguments, scales, marks)
        cells = ["-" if r is None else f"{r[0]:.5g} ({r[1]})" for r in reached]
        print(f"{scales:6} " + "".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
