"""A network as a chain of layers: reading it, copying it, and taking features from it.

A *stage* is one layer with weights (Conv2D or Dense) and what follows it up to the next one.  A
stage is *rectified* when a plain ReLU stands in it: then its filters have a mean activation, and
may be divided by it, because ReLU and pooling pass positive scales through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras

from vgg_normalize.errors import NetworkError
from vgg_normalize.networks.graph import ordered_layers

_WEIGHTED = (keras.layers.Conv2D, keras.layers.Dense)
_POSITIONWISE = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
)


class Stage(NamedTuple):
    """One layer with weights and the layer whose output is its activation.

    Attributes:
        layer: The Conv2D or Dense layer.
        activation: The layer whose output is the activation after ReLU, or the layer of the last
            activation (softmax, say) of a read-out; the layer itself where that is fused.
        rectified: Whether the activation is a plain ReLU.
        flattened: Whether a Flatten stands between the previous stage's activation and this layer,
            so that the input's scales repeat over positions, channel fastest.
    """

    layer: keras.Layer
    activation: keras.Layer
    rectified: bool
    flattened: bool


def layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a chain, in order, without inputs; nested models are opened.

    Raises:
        NetworkError: The model is not a chain; the message names the layer where it branches.
    """
    if isinstance(model, keras.Sequential) and not model.built:
        raise NetworkError(
            f"Expected a network that knows the shape of its images. Received: {model.name!r}, "
            "without one. Put keras.Input((None, None, 3)) first."
        )
    ordered = list(model.layers) if isinstance(model, keras.Sequential) else ordered_layers(model)
    opened: list[keras.Layer] = []
    for layer in ordered:
        opened += layers(layer) if isinstance(layer, keras.Model) else [layer]
    names = [layer.name for layer in opened]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise NetworkError(
            f"Expected layers with one name each. Received: {', '.join(repeated)} more than once. "
            "Rename them, or give layers weights of their own."
        )
    return opened


def is_weighted(layer: keras.Layer) -> bool:
    """Whether the layer is a plain convolution or a dense layer."""
    return isinstance(layer, _WEIGHTED) and not isinstance(layer, keras.layers.DepthwiseConv2D)


def _is_relu(layer: keras.Layer) -> bool:
    """Whether the layer is the plain ReLU (no maximum, slope or threshold)."""
    if isinstance(layer, keras.layers.ReLU):
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    return isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.relu


def _is_linear(layer: keras.Layer) -> bool:
    return (
        isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear
    )


def is_input_conversion(layer: keras.Layer) -> bool:
    """Whether the layer only converts pixel values, and so may stand before the first stage."""
    return isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)) or hasattr(
        layer, "preprocessing_mode"
    )


def stages(model: keras.Model | Sequence[keras.Layer]) -> list[Stage]:
    """The stages of a chain through which scales pass.

    Raises:
        NetworkError: A layer does not pass scales through (sigmoid in the middle, ReLU6, batch
            normalisation, addition ...); the message names it.
    """
    chain = layers(model) if isinstance(model, keras.Model) else list(model)
    stages: list[Stage] = []
    flattened = False
    read_out = None  # a layer with an activation other than ReLU: no weights may follow it
    for layer in chain:
        _require_channels_last(layer)
        if is_weighted(layer):
            if read_out is not None:
                raise _refusal(read_out, "in the middle of the network")
            stages.append(_stage(layer, flattened))
            flattened = False
            if layer.activation not in (keras.activations.relu, keras.activations.linear):
                read_out = layer
        elif not stages and is_input_conversion(layer):
            continue
        elif isinstance(layer, keras.layers.Flatten):
            flattened = True
        elif _is_relu(layer) and stages and read_out is None:
            if not stages[-1].rectified:
                if flattened:
                    raise _refusal(layer, "a ReLU after Flatten")
                stages[-1] = stages[-1]._replace(activation=layer, rectified=True)
        elif isinstance(layer, _POSITIONWISE) or _is_linear(layer):
            continue
        elif isinstance(layer, (keras.layers.Activation, keras.layers.Softmax)) and stages:
            if stages[-1].rectified:
                raise _refusal(layer, "after a ReLU, with no layer between to undo the scales")
            read_out = layer
            stages[-1] = stages[-1]._replace(activation=layer)
        else:
            raise _refusal(layer, "")
    if not stages:
        raise NetworkError(
            "Expected a network with at least one Conv2D or Dense layer. Received: none. "
            "Give the network that is to be normalised."
        )
    return stages


def _require_channels_last(layer: keras.Layer) -> None:
    data_format = getattr(layer, "data_format", "channels_last")
    if data_format != "channels_last":
        raise _refusal(layer, f"with data_format={data_format!r}")


def _stage(layer: keras.Layer, flattened: bool) -> Stage:
    """The stage of a layer with weights, as far as the layer itself tells."""
    if isinstance(layer, keras.layers.Conv2D) and layer.groups != 1:
        raise _refusal(layer, f"with groups={layer.groups}")
    return Stage(layer, layer, layer.activation is keras.activations.relu, flattened)


def _refusal(layer: keras.Layer, detail: str) -> NetworkError:
    what = type(layer).__name__
    fused = getattr(layer, "activation", None)
    if fused is not None and fused not in (keras.activations.relu, keras.activations.linear):
        what += f", activation {getattr(fused, '__name__', fused)}"
    remedy = "This network is not rescalable"
    if isinstance(layer, keras.layers.BatchNormalization):
        remedy += " as it is: fold it first with vgg_normalize.fold_batch_norm"
    return NetworkError(
        "Expected layers that pass the scale of a filter through (Conv2D, Dense, plain ReLU, max "
        f"or average pooling, Flatten, Dropout, zero padding). Received: layer {layer.name!r} "
        f"({what}{' ' + detail if detail else ''}). {remedy}."
    )


def copy_layer(layer: keras.Layer, **changes: Any) -> keras.Layer:
    """A fresh layer of the same class and options, `changes` applied, without weights."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.Normalization) and config["mean"] is None:
        # What adapt() computed; set as weights it would not reach what call() uses.
        config["mean"], config["variance"], _ = layer.get_weights()
    return type(layer).from_config({**config, **changes})


def image_shape(model: keras.Model) -> tuple[int | None, ...]:
    """The shape of one image that the model takes: (H, W, C), None where any size will do."""
    shape = model.input_shape
    if isinstance(shape, list):
        shape = shape[0]
    return tuple(shape[1:])


def assemble(chain: Iterable[keras.Layer], shape: tuple[int | None, ...], name: str) -> keras.Model:
    """A model of these layers, which must be fresh, on an input called "image"."""
    image = keras.Input(shape, name="image", dtype="float32")
    tensor = image
    for layer in chain:
        tensor = layer(tensor)
    return keras.Model(image, tensor, name=name)


def copy(
    model: keras.Model,
    without: Sequence[keras.Layer] = (),
    *,
    fresh_layer: Callable[[keras.Layer], keras.Layer] = copy_layer,
) -> keras.Model:
    """A new model of the same chain with its own copy of the weights.

    Args:
        model: A chain of layers.
        without: Layers that are left out.
        fresh_layer: Layer -> a new one that takes its place and its weights.
    """
    originals = [layer for layer in layers(model) if layer not in without]
    fresh = [fresh_layer(layer) for layer in originals]
    copied = assemble(fresh, image_shape(model), model.name)
    for new, old in zip(fresh, originals, strict=True):
        if is_weighted(new):
            new.set_weights(old.get_weights())
    return copied


def activations(model: keras.Model, names: Sequence[str] | None = None) -> dict[str, keras.Layer]:
    """Layer name to the layer whose output is its activation.

    Args:
        model: A chain.
        names: Layer names.  The activation of a convolution is that after ReLU, even if the ReLU
            is a layer of its own.  Default: every layer that is followed by a ReLU.

    Raises:
        NetworkError: The model has no such layer; the message lists those that it has.
    """
    chain = layers(model)
    outputs = {layer.name: layer for layer in chain}
    all_stages = stages(chain)
    outputs.update({stage.layer.name: stage.activation for stage in all_stages})
    if names is None:
        names = [stage.layer.name for stage in all_stages if stage.rectified]
    unknown = [name for name in names if name not in outputs]
    if unknown or not names:
        raise NetworkError(
            f"Expected names of layers. Received: {', '.join(unknown) or 'none'}. "
            f"This network has: {', '.join(outputs)}."
        )
    return {name: outputs[name] for name in names}


def layers_up_to(model: keras.Model, targets: Iterable[keras.Layer]) -> list[keras.Layer]:
    """The layers of a chain up to and including the deepest of the targets, in order."""
    chain = layers(model)
    return chain[: 1 + max(chain.index(layer) for layer in targets)]


def features(model: keras.Model, names: Sequence[str] | None = None) -> keras.Model:
    """The activations of some layers, computed no deeper than the deepest of them.

    Args:
        model: A chain; its weights are shared, not copied.
        names: See `activations`.

    Returns:
        A keras.Model from image [B, H, W, 3] to {name: activation [B, h, w, C]}.

    Raises:
        NetworkError: The model has no such layer; the message lists those that it has.
    """
    targets = activations(model, names)
    outputs = tensors(model)
    return keras.Model(
        model.inputs[0],
        {name: outputs[layer.name] for name, layer in targets.items()},
        name=f"{model.name}_features",
    )


def tensors(model: keras.Model) -> dict[str, Any]:
    """The output of each layer of a chain, as a function of the model's input."""
    tensor = model.inputs[0]
    outputs = {}
    for layer in layers(model):
        # Layers inside a nested model, or taken from another one, are connected to another input.
        tensor = layer.output if layer.input is tensor else layer(tensor)
        outputs[layer.name] = tensor
    return outputs


def min_image_size(model: keras.Model) -> int:
    """The smallest side of an image, in pixels, that still reaches the last layer with weights."""
    chain = layers(model)
    last = stages(chain)[-1].layer
    side = 1
    for layer in chain[: chain.index(last)]:
        if isinstance(layer, (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)):
            side *= layer.strides[0]
    return side
