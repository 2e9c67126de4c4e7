"""The flags of `python -m style`, grouped by what they decide."""

from __future__ import annotations

from absl import flags

from style.cli.common_flags import MAX_SIDE, Add
from style.synthesis.options import CHOICES, PADDINGS, RANGE_WEIGHT, TASKS
from style.synthesis.strength import FACTORS


def define_picture_flags(add: Add) -> None:
    """What is made, of which pictures and with which network."""
    add(
        flags.DEFINE_enum,
        "task",
        list(TASKS),
        "What to make: transfer puts the content in the style, texture is made of the style alone, "
        "inversion shows what layers keep of the content, amalgamation is a transfer that begins "
        "with the style.",
    )
    add(
        flags.DEFINE_string,
        "model",
        "Network to compare pictures by: vgg19 (trained on ImageNet, normalised by the means that "
        "come with this package), vgg19_original (not normalised), a directory that vgg_normalize "
        "saved, or a file of weights.",
    )
    add(
        flags.DEFINE_string,
        "content",
        "Path of the content picture, or of a folder of them; then --output is a folder too.",
    )
    add(flags.DEFINE_list, "style", "Paths of the style pictures, separated by commas.")
    add(
        flags.DEFINE_list,
        "style_blend",
        "Weights of the styles, one number of 0 or more for each; equal by default.",
    )
    add(
        flags.DEFINE_integer,
        "interpolate",
        "Number of pictures interpolated from the first style to the last, written to OUTPUT_1.png and "
        "so on; 0 for one picture.",
        lower_bound=0,
        upper_bound=10_000,
    )
    add(flags.DEFINE_string, "output", "Path of the picture, .png, .jpg or .tif, or of a folder.")
    add(
        flags.DEFINE_list,
        "style_mask",
        "Paths of grey pictures, one for each style: the style is taken from where they are white.",
    )


def define_start_flags(add: Add) -> None:
    """The size of the result, and the picture that a run begins with."""
    add(
        flags.DEFINE_integer,
        "size",
        "Long side of the result in pixels.",
        lower_bound=1,
        upper_bound=MAX_SIDE,
    )
    add(
        flags.DEFINE_float,
        "style_scale",
        "Long side of the style as a multiple of --size.",
        lower_bound=0.01,
        upper_bound=100.0,
    )
    add(
        flags.DEFINE_string,
        "init",
        "Picture to begin with: content, style, noise or a path. By default content for transfer, "
        "style for amalgamation, and noise for texture and inversion.",
    )
    add(
        flags.DEFINE_bool,
        "wrap",
        "Make a picture that tiles without seams (implies --padding=wrap). Its sides must be multiples of "
        "the deepest layer's stride, 16 by default.",
    )
    add(
        flags.DEFINE_enum,
        "padding",
        list(PADDINGS),
        "What convolutions see beyond the border of a picture: zeros, its reflection, its edge, or "
        "its opposite side; by default what the network was made with, zero for vgg19.",
    )
    add(
        flags.DEFINE_integer,
        "seed",
        "Random seed of the noise, and of the positions and directions that style losses draw.",
        lower_bound=0,
    )


def define_layer_flags(add: Add) -> None:
    """Where content and style are compared."""
    add(
        flags.DEFINE_list,
        "content_layers",
        "LAYER:WEIGHT,...: layers at which the content is compared; omitted weights are 1. By default "
        "block4_conv2, with --content_loss=neighbors block1_conv1 to block4_conv1, or the deepest layer "
        "of a network that has none of these.",
    )
    add(
        flags.DEFINE_list,
        "style_layers",
        "LAYER:WEIGHT,...: layers at which the style is compared; omitted weights are 1, and "
        "WEIGHT/WEIGHT gives one to each loss of a sum. By default block1_conv1 to block5_conv1, as far "
        "as the network has them.",
    )


def define_objective_flags(add: Add) -> None:
    """How content and style are compared, and how much each counts."""
    add(
        flags.DEFINE_enum,
        "content_loss",
        list(CHOICES["content_loss"]),
        "What the content is compared with: features, its own, or neighbors, the features of the style "
        "that are nearest to them. With neighbors --strength moves from the content's own features to "
        "the style's, and there is no style loss unless --style_weight is given.",
    )
    add(flags.DEFINE_float, "content_weight", "Factor of the content loss.", lower_bound=0.0)
    add(
        flags.DEFINE_float,
        "strength",
        "Strength of the style, above 0 and below 1, on a scale that is alike for all pictures and "
        "style losses.",
    )
    add(
        flags.DEFINE_float,
        "style_weight",
        "Factor of the style loss, in place of --strength; by default --strength decides (texture: "
        "1).",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_string,
        "style_loss",
        f"Loss that compares the features of the result with those of the style: {', '.join(FACTORS)}, "
        "or a sum of them with a weight for each, gram:1,moments:0.1.",
    )


def define_regularization_flags(add: Add) -> None:
    """What keeps the picture smooth and within its range."""
    add(
        flags.DEFINE_float,
        "tv_weight",
        "Factor of the total variation; by default 0.03 for inversion, 50 for --content_loss=neighbors, "
        "and 0 for everything else.",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_float,
        "tv_beta",
        "Exponent beta of the total variation (dx^2 + dy^2)^(beta / 2).",
        lower_bound=0.5,
    )
    add(
        flags.DEFINE_float,
        "norm_weight",
        "Factor of the alpha norm of the pixels, for inversion only.",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_float,
        "range_weight",
        "Factor of the mean square by which pixels leave the range from 0 to 1, to which the result is "
        f"clipped; with the default network and weights {RANGE_WEIGHT:g} nearly keeps them there.",
        lower_bound=0.0,
    )


def define_optimizer_flags(add: Add) -> None:
    """How the objective is minimised."""
    add(flags.DEFINE_enum, "optimizer", ["lbfgs", "adam"], "Optimiser: L-BFGS or Adam.")
    add(
        flags.DEFINE_integer,
        "steps",
        "Evaluations of the objective and its gradient at the last size.",
        lower_bound=1,
    )
    add(
        flags.DEFINE_integer,
        "history_size",
        "Number of pairs (s, y) of differences that L-BFGS remembers; formerly --memory.",
        lower_bound=1,
    )
    add(
        flags.DEFINE_string,
        "memory_folder",
        "Directory for the pairs that L-BFGS remembers, to save memory; by default they are kept in "
        "memory.",
    )
    add(
        flags.DEFINE_float,
        "preconditioner_exponent",
        "Exponent a of the first preconditioner of L-BFGS, 1 / f^(2a) at spatial frequency f; 0 for "
        "none. Formerly --smoothing.",
        lower_bound=0.0,
    )
    add(
        flags.DEFINE_float,
        "learning_rate",
        "Learning rate of Adam, for pixels in [0, 1].",
        lower_bound=0.0,
    )


def define_scale_flags(add: Add) -> None:
    """Sizes from coarse to fine, and what is chosen anew on the way."""
    add(
        flags.DEFINE_list,
        "coarse_steps",
        "Evaluations at the sizes before the last, from the coarsest; the last number is repeated for "
        "any remaining sizes. By default --steps.",
    )
    add(
        flags.DEFINE_integer,
        "renew_every",
        "Evaluations after which the directions of sliced_wasserstein and the nearest neighbours are "
        "chosen again; 0 for once at each size. By default 0, or 50 for --content_loss=neighbors.",
        lower_bound=0,
    )
    add(
        flags.DEFINE_integer,
        "scales",
        "Number of sizes, from coarse to fine: each has --scale_factor times the long side of the one "
        "before, the last has --size.",
        lower_bound=1,
        upper_bound=20,
    )
    add(
        flags.DEFINE_float,
        "scale_factor",
        "Long side of each size as a multiple of that of the one before.",
        lower_bound=1.1,
    )


def define_run_flags(add: Add) -> None:
    """What bounds the memory, and what shows how a run goes."""
    add(
        flags.DEFINE_integer,
        "tile",
        "Side in pixels of the tiles in which the objective is computed, to save memory; 0 computes "
        "the whole picture at once.",
        lower_bound=0,
    )
    add(
        flags.DEFINE_enum,
        "precision",
        list(CHOICES["precision"]),
        "Precision of the network's convolutions; sums, losses and the optimiser always use float32. "
        "bfloat16 is faster where the processor or GPU supports it; the error of the gradient is "
        "printed.",
    )
    add(
        flags.DEFINE_integer,
        "preview_every",
        "Steps between two previews, written to --output; 0 for no previews.",
        lower_bound=0,
    )
    add(
        flags.DEFINE_string,
        "animation",
        "Path of an animation of the run, of about 60 frames: .gif, .webp, or .mp4 with the extra "
        "[video]; by default none is written.",
    )
