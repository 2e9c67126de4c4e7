"""`python -m style.train`: train a feed-forward styliser.

For example: python -m style.train --flagfile configs/train_adain.cfg
"""

from __future__ import annotations

from typing import Any

from absl import flags

from style.cli.common_flags import MAX_SIDE, Add, define_checkpoint_flags
from style.cli.export_formats import EXPORT_FORMATS, parse_formats
from style.cli.settings import (
    NORMALIZATIONS,
    RECIPES,
    TRAINING_LOSSES,
    TrainSettings,
    parse_layers,
)
from style.synthesis.strength import require_strength
from vgg_normalize.errors import UsageError
from vgg_normalize.runtime import command
from vgg_normalize.runtime.paths import require_distinct
from vgg_normalize.runtime.progress import InterruptHandler, say
from vgg_normalize.runtime.starting import starting_tensorflow

DEFAULTS: dict[str, Any] = command.defaults(TrainSettings)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command, with the defaults of `TrainSettings`."""
    add = command.adder(values, DEFAULTS)
    string = flags.DEFINE_string
    add(flags.DEFINE_enum, "method", list(RECIPES["paper"]), "Kind of network to train.")
    add(
        flags.DEFINE_enum,
        "recipe",
        list(RECIPES),
        "What sets the flags that are not given. quick: small crops, higher learning rates and a "
        "strength in place of a style weight, for a machine without a GPU. paper: as published (Huang "
        "and Belongie 2017, Ghiasi et al. 2017, Dumoulin et al. 2017).",
    )
    add(
        string,
        "model",
        "VGG of the losses, and AdaIN's encoder: vgg19, vgg19_original, a directory that "
        "vgg_normalize saved, or a weights file.",
    )
    add(string, "content", "Content pictures: a folder, a .tar, or tfds:NAME/SPLIT.")
    add(
        string,
        "style",
        "Style pictures: a folder, a .tar, or tfds:NAME/SPLIT; with cin, each one becomes a style.",
    )
    add(string, "output", "Directory to save the network in.")
    _define_network_flags(add)
    _define_run_flags(add)
    _define_optimization_flags(add)
    _define_loss_flags(add)
    _define_device_flags(add)
    _define_export_flags(add)
    define_checkpoint_flags(add)


def _define_network_flags(add: Add) -> None:
    """Flags of the networks that have normalisations."""
    add(
        flags.DEFINE_enum,
        "normalization",
        list(NORMALIZATIONS),
        "Normalisation of the networks of encoder and cin, before the style's scale and offset.",
    )
    add(
        flags.DEFINE_bool,
        "spectral",
        "Divide the kernels of these networks by their spectral norms at each step.",
    )
    add(
        flags.DEFINE_bool,
        "skip",
        "Let these networks add the content, in logits, before their last normalisation.",
    )


def _define_run_flags(add: Add) -> None:
    """What is read, and what shows how a training goes."""
    string, integer = flags.DEFINE_string, flags.DEFINE_integer
    add(flags.DEFINE_bool, "overwrite", "Replace an existing output once the new one is complete.")
    add(
        integer,
        "size",
        f"Side of the random crops, in pixels {_by_recipe('size')}.",
        lower_bound=16,
    )
    add(
        integer,
        "resize",
        "Short side of the pictures before cropping, in pixels (default: twice --size).",
        lower_bound=1,
    )
    add(integer, "batch_size", f"Pictures per batch {_by_recipe('batch_size')}.", lower_bound=1)
    add(integer, "seed", "Random seed for weights, order and crops.", lower_bound=0)
    add(
        integer,
        "max_skipped",
        "Number of unreadable pictures to tolerate in each folder.",
        lower_bound=0,
    )
    add(string, "tensorboard", "Directory for TensorBoard logs.")
    add(string, "preview", "Picture file that shows fixed contents in fixed styles.")
    add(integer, "preview_every", "Steps between previews.", lower_bound=1)


def _define_device_flags(add: Add) -> None:
    """Which devices compute, and how precisely."""
    add(
        flags.DEFINE_enum,
        "precision",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "Precision of the networks' layers, by Keras' policies; weights, statistics and losses stay in "
        "float32, and so does what is saved.",
    )
    add(
        flags.DEFINE_enum,
        "strategy",
        ["auto", "one", "mirrored", "multiworker"],
        "Devices that share each batch. auto: all GPUs if there are several, the workers of TF_CONFIG "
        "if it is set, else one device.",
    )
    add(
        flags.DEFINE_integer,
        "logical_cpus",
        "Split the CPU into this many logical devices, to try --strategy=mirrored (0: do not split).",
        lower_bound=0,
    )


def _define_export_flags(add: Add) -> None:
    """In what forms the network is saved."""
    add(
        flags.DEFINE_list,
        "formats",
        f"Formats to save the network in, of {', '.join(EXPORT_FORMATS)}; saved_model is always "
        "written. onnx and litert need the extra of their name, and are compared with the SavedModel.",
    )
    add(
        flags.DEFINE_integer,
        "export_size",
        "Height and width in pixels of the pictures that onnx and litert take (default: any size for "
        "onnx, --size for litert, which takes one size only).",
        lower_bound=16,
        upper_bound=MAX_SIDE,
    )


def _define_optimization_flags(add: Add) -> None:
    add(flags.DEFINE_integer, "steps", f"Training steps {_by_recipe('steps')}.", lower_bound=1)
    add(
        flags.DEFINE_float,
        "learning_rate",
        f"Adam learning rate {_by_recipe('learning_rate')}.",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_float,
        "decay",
        f"Decay of the learning rate: rate / (1 + decay * step) {_by_recipe('decay')}.",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_integer,
        "warmup",
        f"Steps in which the learning rate rises to its full value {_by_recipe('warmup')}.",
        lower_bound=0,
    )


def _define_loss_flags(add: Add) -> None:
    number, names = flags.DEFINE_float, flags.DEFINE_list
    add(
        names,
        "content_layers",
        "Content layers, as LAYER:WEIGHT, ... (default: block4_conv2:1, or the deepest layer; not "
        "used by adain).",
    )
    add(
        names,
        "style_layers",
        "Style layers, as LAYER:WEIGHT, ... (default: blockK_conv1:1 for K = 1 to 5; adain: 1 to "
        "4).",
    )
    add(
        flags.DEFINE_enum,
        "style_loss",
        list(TRAINING_LOSSES),
        "Style loss (default: moments for adain, else gram).",
    )
    add(number, "content_weight", "Weight of the content loss.", lower_bound=0.0)
    add(
        number,
        "strength",
        "Strength of the style, above 0 and below 1, in place of --style_weight, which is computed from the "
        f"first pictures {_by_recipe('strength')}.",
    )
    add(
        number,
        "style_weight",
        f"Weight of the style loss {_by_recipe('style_weight')}.",
        lower_bound=0,
    )
    add(
        flags.DEFINE_bool,
        "balance",
        "Divide each style loss by its value at the unstylised content, so that all styles count alike.",
    )
    add(number, "tv_weight", "Weight of the total variation loss.", lower_bound=0.0)


def _by_recipe(name: str) -> str:
    """The defaults of a flag that depend on --recipe and --method, for its help."""
    texts = []
    for recipe, methods in RECIPES.items():
        values = {method: f"{own[name]:.10g}" for method, own in methods.items() if name in own}
        if len(set(values.values())) == 1:
            texts.append(f"{recipe}: {next(iter(values.values()))}")
        elif values:
            of_each = ", ".join(f"{method} {value}" for method, value in values.items())
            texts.append(f"{recipe}: {of_each}")
    return f"(default by --recipe: {'; '.join(texts)})"


def _with_recipe(settings: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """The settings with what the recipe says of flags that are not given.

    Raises:
        UsageError: --strength and --style_weight are both given, or --strength is out of range.
    """
    weights = {"strength", "style_weight"}
    if weights <= given:
        raise UsageError("Expected --strength or --style_weight. Received: both. Leave one out.")
    if settings["strength"] is not None:
        require_strength(settings["strength"])
    # One of the two, when given, takes the place of the recipe's; a weight is of the plain loss.
    fixed = given | weights if given & weights else given
    if "style_weight" in given:
        fixed = fixed | {"balance"}
    recipe = RECIPES[settings["recipe"]][settings["method"]]
    return settings | {name: value for name, value in recipe.items() if name not in fixed}


def _start(settings: dict[str, Any], given: set[str], stop: InterruptHandler) -> None:
    """Run with the parsed flags; TensorFlow is imported only now, so wrong flags fail at once."""
    values = _with_recipe(settings, given)
    if settings["method"] == "adain" and (
        settings["normalization"] != "instance" or settings["spectral"] or settings["skip"]
    ):
        raise UsageError(
            "Expected no --normalization, --spectral or --skip with --method=adain, whose decoder has "
            "none of them. Received: one. Leave it out, or use --method=encoder or cin."
        )
    for name in ("content_layers", "style_layers"):
        values[name] = parse_layers(name, settings[name])
    values["formats"] = parse_formats(settings["formats"], settings["export_size"])
    outputs = ("output", "log", "preview", "tensorboard", "checkpoint")
    require_distinct(
        {name: values[name] for name in ("content", "style", "model")},
        {name: values[name] for name in outputs},
    )
    say(
        f"training {settings['method']}: contents from {settings['content']}, styles from "
        f"{settings['style']}; starting TensorFlow"
    )
    with starting_tensorflow():
        from style.cli import run_training
    run_training.run(TrainSettings(**values), stop)


COMMAND = command.Command(
    name="style.train",
    usage=__doc__ or "",
    define_flags=define_flags,
    settings=TrainSettings,
    required=("model", "content", "style", "output"),
    work=_start,
    less_memory="Lower --size or --batch_size.",
)
main, console = COMMAND.main, COMMAND.console

if __name__ == "__main__":
    console()
