"""How fast `style` is: python tests/benchmarks/bench_style.py --torch_python=PATH ...

Everything runs alternately in one run, with the same weights, objective, start and size, against
PyTorch (`torch.optim.LBFGS`, history 100, no line search, as neural-style-pt; Adam 0.02 as
crowsonkb/style-transfer-pytorch):

* --what=evaluation: one evaluation of the objective and its gradient, with the weights given, and
  with a random VGG19 to block5_conv1;
* --what=descent: the time and evaluations to the loss that PyTorch has after 200 evaluations;
* --what=adam: the same for Adam.

Prints the value reached, evaluations, seconds, ratio, and the peak memory of both processes.

What was tried, in evaluations to PyTorch's loss after 200, at 256 pixels with the first five layers
of the published network and style weight 100, on a photograph of a bridge with a cubist painting and
with a photograph of pebbles:

    no preconditioner, memory 20                            216   233
    fixed 1 / f^2a, memory 20: a = 0.25, 0.4, 0.5           144, 129, 129   over 250 each
    fixed a = 0.2, memory 50; 100                           148, 144   196, 187
    a gain learnt for each band of frequencies, memory 50   108   186
    C x C gains learnt for each band, memory 20; 50          91,  87   187, 163

At style weight 10 on the same two pairs a gain from s.y / y.y of each band took 157 evaluations and
did not get there on the second; the geometric mean 129 and 207; a fixed a = 0.25 162 and 217.  Beyond
30 pairs the recursion costs what the evaluations save.  A larger threshold for malloc's mmap: 0 to 8 %
of an evaluation, not worth a setting.  Backward convolutions as forward ones of the turned kernel,
whose reordering oneDNN keeps: 3 to 5 %, not worth a convolution of our own.  XLA for the two loops:
twice their time.

What helped an evaluation: weights as constants of the graph (a quarter of VGG19 to block5_conv1 at
256 pixels, nothing of the prefix; the process's peak rose from 0.92 to 1.84 GiB), and one product instead of two in the Gram matrix's derivative (a
tenth).
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from pytorch import Worker

import vgg_normalize as vn
from style import evaluation as evaluation_module
from style import image, synthesis
from vgg_normalize import export

ALL_STYLE = [f"block{block}_conv1" for block in range(1, 6)]


class Problem:
    """One pair of pictures at one size with one network, for both frameworks."""

    def __init__(self, weights, content, style, size, style_weight, worker, folder):
        arrays = np.load(weights)
        names = [key.split("/")[0] for key in arrays.files if key.endswith("/kernel")]
        self.style_layers = [name for name in ALL_STYLE if name in names]
        self.content_layers = ["block4_conv2" if "block4_conv2" in names else names[-1]]
        self.style_weight = style_weight
        self.model = vn.build("vgg19", weights=weights, last_layer=names[-1])
        self.content = image.fit(image.load(content).pixels, size)
        self.style = image.fit(image.load(style).pixels, size)
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
        terms = synthesis.content_terms(
            self.model, [(name, 1.0) for name in self.content_layers], 1.0, shape=shape
        )
        terms += synthesis.style_terms(
            self.model,
            [synthesis.Style(self.style)],
            [(name, 1.0) for name in self.style_layers],
            self.style_weight,
            shape=shape,
        )
        return evaluation_module.evaluator(self.model, terms, shape, content=self.start())

    def start(self):
        return synthesis.as_batch(self.content)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def evaluation(problem, rounds, label):
    evaluate = tf.function(problem.evaluate())
    x = problem.start()
    value, gradient, _ = evaluate(x)
    ours, theirs = [], []
    for _ in range(rounds):
        time.sleep(0.5)  # the threads of PyTorch's last evaluation still spin
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
        f"{float(tf.norm(gradient)):.6g} and {answer['gradient']:.6g}; peak "
        f"{peak() / 2**30:.2f} and {answer['peak_bytes'] / 2**30:.2f} GiB",
        flush=True,
    )


def descent(problem, label, options, evaluations=200):
    shape = problem.content.shape[:2]
    answer = problem.worker.ask("optimize", evaluations=evaluations, optimizer=options.optimizer)
    seconds, goal = answer["history"][evaluations - 1]
    for smoothing in options.smoothing:
        for memory in options.memory:
            began = time.perf_counter()
            method = synthesis.optimizer(
                options.optimizer, problem.evaluate(), shape, memory=memory, smoothing=smoothing
            )
            reached = None
            for state in synthesis.minimize(method, problem.start(), options.most):
                if float(state.value) <= goal:
                    reached = time.perf_counter() - began
                    break
            mine = reached or time.perf_counter() - began
            print(
                f"{options.optimizer} {label} smoothing {smoothing} memory {memory}: "
                f"{'reached' if reached else 'NOT reached'} {float(state.value):.6g} (PyTorch "
                f"{goal:.6g} after {evaluations} evaluations, {seconds:.1f} s) after "
                f"{int(state.evaluations)} evaluations, {mine:.1f} s, ratio {mine / seconds:.3f}; "
                f"peak {peak() / 2**30:.2f} and {answer['peak_bytes'] / 2**30:.2f} GiB",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--weights", required=True, help="an .npz, such as vgg_normalize saves")
    parser.add_argument("--pairs", nargs="+", required=True, help="CONTENT,STYLE ...")
    parser.add_argument("--what", nargs="+", default=["evaluation", "descent"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--style_weight", type=float, default=100.0)
    parser.add_argument("--smoothing", nargs="+", type=float, default=[0.25])
    parser.add_argument("--memory", nargs="+", type=int, default=[30])
    parser.add_argument("--most", type=int, default=250, help="evaluations at the most")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    worker = Worker(options.torch_python)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        deep = folder / "deep.npz"
        if "evaluation" in options.what:
            model = vn.build("vgg19", weights="random", last_layer="block5_conv1")
            means = vn.channel_means(model, [np.random.default_rng(0).random((1, 224, 224, 3))])
            np.savez(deep, **export.named_weights(vn.normalize(model, means)))
        for size in options.sizes:
            for i, pair in enumerate(options.pairs):
                common = (*pair.split(","), size, options.style_weight, worker, folder)
                label = f"{Path(pair.split(',')[0]).stem}/{Path(pair.split(',')[1]).stem} {size}"
                if "evaluation" in options.what and i == 0:
                    for name, weights in (("given", options.weights), ("block5_conv1", str(deep))):
                        evaluation(Problem(weights, *common), options.rounds, f"{name} {size}")
                for what, optimizer in (("descent", "lbfgs"), ("adam", "adam")):
                    if what in options.what:
                        options.optimizer = optimizer
                        descent(Problem(options.weights, *common), label, options)


if __name__ == "__main__":
    main()
