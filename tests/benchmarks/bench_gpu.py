"""How fast it is on a GPU: python tests/benchmarks/bench_gpu.py --torch_python=PATH --weights=NPZ --pair=A,B

Prints one paragraph in Markdown, all of it measured on the first GPU, in a run of a few minutes:

* the time to the loss that PyTorch's L-BFGS has after 200 evaluations on the same card, in turns
  with it and in float32 on both sides (the race of `bench_style.py`);
* in float32, with TensorFloat-32 and in bfloat16: how much of the card's speed the network's
  convolutions reach, forward and back to the picture.  The speed is that of one large convolution
  or matrix product in the same precision, whichever is faster; the work is counted from the
  network, two operations for a multiplication with its addition.  Algorithms that need fewer
  multiplications, such as Winograd's, may reach more than all of it;
* images a second of `python -m vgg_normalize`, from JPEG files to sums.

--device=cpu runs the same on the CPU with sizes for a trial, for whoever changes this file.
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

import bench_style
import keras
import numpy as np
import tensorflow as tf
from bench_means import jpegs
from pytorch import Worker

import vgg_normalize as vn
from style.objective.features import feature_extractor
from vgg_normalize.networks import chain
from vgg_normalize.networks.precision import with_precision
from vgg_normalize.runtime import devices

# What each precision is called, Keras' policy, the type of the products, and TensorFloat-32.
PRECISIONS = (
    ("float32", "float32", tf.float32, False),
    ("TensorFloat-32", "float32", tf.float32, True),
    ("bfloat16", "mixed_bfloat16", tf.bfloat16, False),
)
# Pixels a side of the pictures, batch, entries a side of the matrices, and images to measure.
SIZES = {"gpu": (512, 4, 8192, 20_000), "cpu": (64, 1, 512, 16)}


def seconds(function, *arguments, rounds=10):
    """The median time of a call; the first two, which trace and choose algorithms, do not count.

    The function gives a scalar: to read it is to wait for all work before it.
    """
    times = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        float(function(*arguments))
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:]))


def fastest(side, dtype):
    """Operations a second of the faster of a matrix product and a convolution of 3 x 3.

    Args:
        side: Rows and columns of the matrices; a sixteenth is the convolution's channels, and a
            thirty-second its image's side.
        dtype: Of both.
    """
    channels, pixels = side // 16, side // 32
    shapes = [(side, side), (1, pixels, pixels, channels), (3, 3, channels, channels)]
    matrix, image, kernel = (
        tf.cast(tf.random.stateless_normal(shape, [0, 0]), dtype) for shape in shapes
    )

    @tf.function(autograph=False)
    def product(factor):
        return tf.reduce_sum(tf.matmul(matrix * factor, matrix)[0])

    @tf.function(autograph=False)
    def convolution(factor):
        return tf.reduce_sum(tf.nn.conv2d(image * factor, kernel, 1, "SAME")[0, 0])

    one = tf.ones([], dtype)
    work = ((product, 2 * side**3), (convolution, 2 * pixels**2 * 9 * channels**2))
    return max(operations / seconds(function, one) for function, operations in work)


def operations(model, size):
    """Multiplications and additions of the convolutions for one picture, forward and back to it."""
    shape, total = (1, size, size, 3), 0
    for layer in chain.layers(model):
        shape = layer.compute_output_shape(shape)
        if isinstance(layer, keras.layers.Conv2D):
            total += 2 * int(np.prod(layer.kernel.shape)) * shape[1] * shape[2]
    return 2 * total  # the way back to the picture is as much work


def share(model, options, precision):
    """Operations a second of the network and of the card in one precision."""
    _, policy, dtype, tf32 = precision
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    last = [layer.name for layer in chain.layers(model) if isinstance(layer, keras.layers.Conv2D)]
    extract = feature_extractor(with_precision(model, policy), last[-1:], kernels={})

    @tf.function(autograph=False)
    def there_and_back(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            total = tf.reduce_sum(tf.cast(extract(image)[last[-1]], tf.float32))
        return tf.reduce_sum(tape.gradient(total, image))

    batch = [options.batch, options.size, options.size, 3]
    image = tf.random.stateless_uniform(batch, [1, 2])
    network = options.batch * operations(model, options.size) / seconds(there_and_back, image)
    card = fastest(options.side, dtype)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return network, card


def images_a_second(options):
    """What `python -m vgg_normalize` says of itself, for VGG19 and photographs."""
    with tempfile.TemporaryDirectory() as folder:
        if not options.images:
            jpegs(Path(folder), min(options.count, 500))
        command = [sys.executable, "-m", "vgg_normalize", "--task=measure", "--weights=random"]
        command += [f"--images={options.images or folder}", f"--output={folder}/out", "--seed=0"]
        command += [f"--max_images={options.count}"]
        subprocess.run(command, check=True, capture_output=True)
        report = json.loads((Path(folder) / "out" / "report.json").read_text())
    return report["images_per_second"]


def race(options):
    """The sentence on the time to PyTorch's loss."""
    content, style = options.pair.split(",")
    worker = Worker(options.torch_python, {"gpu": "cuda"}.get(options.device, "cpu"))
    version = worker.ask("network", weights=options.weights)["version"]
    with tempfile.TemporaryDirectory() as folder:
        problem = bench_style.Problem(
            *(options.weights, content, style, options.size, options.style_weight, worker),
            Path(folder),
        )
        found = bench_style.race(problem, options)
    return (
        f"{Path(content).stem.capitalize()} with {Path(style).stem} at {options.size} pixels "
        f"{'reached' if found.reached else 'did NOT reach'} the loss of PyTorch {version}'s L-BFGS after "
        f"{bench_style.EVALUATIONS} evaluations in {found.seconds:.1f} s and {found.evaluations} "
        f"evaluations, where that took {found.torch_seconds:.1f} s (ratio "
        f"{found.seconds / found.torch_seconds:.2f}; float32 on both sides)."
    )


def shares(options):
    """The sentence on the card's speed."""
    with np.load(options.weights) as file:
        names = [key.split("/")[0] for key in file.files if key.endswith("/kernel")]
    model = vn.build("vgg19", weights=options.weights, last_layer=names[-1])
    parts = []
    for precision in PRECISIONS:
        network, card = share(model, options, precision)
        parts.append(
            f"{network / card:.0%} of it in {precision[0]} ({network / 1e12:.3g} of "
            f"{card / 1e12:.3g} TFLOP/s)"
        )
    return (
        f"Of the speed of one large convolution or matrix product, VGG19 to {names[-1]} reaches "
        f"forward and back, at {options.size} pixels and batch {options.batch}, {parts[0]}, "
        f"{parts[1]} and {parts[2]}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--weights", required=True, help="an .npz, such as vgg_normalize saves")
    parser.add_argument("--pair", required=True, help="CONTENT,STYLE")
    parser.add_argument("--images", default="", help="a folder of JPEGs; default: synthetic ones")
    parser.add_argument("--device", choices=list(SIZES), default="gpu")
    parser.add_argument("--size", type=int, help="pixels a side")
    parser.add_argument("--batch", type=int, help="pictures at a time, for the card's speed")
    parser.add_argument("--side", type=int, help="of the matrices, for the card's speed")
    parser.add_argument("--count", type=int, help="images that vgg_normalize measures")
    parser.add_argument("--style_weight", type=float, default=1.0)
    parser.set_defaults(optimizer="lbfgs", memory=30, smoothing=0.25, most=260)
    options = parser.parse_args()
    for name, size in zip(("size", "batch", "side", "count"), SIZES[options.device], strict=True):
        if getattr(options, name) is None:
            setattr(options, name, size)
    if options.device == "cpu":  # which TensorFlow reads when it looks for GPUs, as just below
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    gpus = tf.config.list_physical_devices("GPU")
    if options.device == "gpu" and not gpus:
        sys.exit("Expected a GPU that TensorFlow finds. Received: none. Or give --device=cpu.")
    for gpu in gpus:  # PyTorch and the command need room beside this process
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    rate = images_a_second(options)  # first, while this process holds nothing
    print(
        f"{devices.describe()}: {race(options)} {shares(options)} `python -m vgg_normalize` "
        f"measures {rate:.3g} images a second."
    )


if __name__ == "__main__":
    main()
