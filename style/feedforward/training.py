"""Training a `networks.Network` on the losses that `style` optimises pictures with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style.feedforward.networks import Network
from style.objective import losses
from style.objective.features import feature_extractor
from style.objective.losses import SAMPLES, StyleLoss
from style.objective.terms import exact_sums
from style.objective.tiling import IMAGE

Layers = Sequence[tuple[str, float]]


class LossConfig(NamedTuple):
    """The objective of training: that of a single picture, averaged over a batch.

    Attributes:
        content_layers: (name, weight) of each layer at which the picture should have the content's
            features; ignored for AdaIN, whose only one is its `target_layer`.
        style_layers: (name, weight) of each layer at which it should have the style's statistics.
        content_weight: Factor of the content term.
        style_weight: Factor of the style term.
        tv_weight: Factor of the total variation.
        style_loss: A key of `losses.STYLE_LOSSES`.
    """

    content_layers: Layers
    style_layers: Layers
    content_weight: float = 1.0
    style_weight: float = 10.0
    tv_weight: float = 0.0
    style_loss: str = "moments"

    def make_style_loss(self) -> StyleLoss:
        """The loss that `style_loss` names."""
        return losses.STYLE_LOSSES[self.style_loss]()


def schedule(learning_rate: float, decay: float) -> keras.optimizers.schedules.LearningRateSchedule:
    """learning_rate / (1 + decay t) at step t, as in Huang and Belongie's program; decay 0: constant."""
    return keras.optimizers.schedules.InverseTimeDecay(learning_rate, 1, decay)


def style_targets(
    model: keras.Model, config: LossConfig, styles: Sequence[np.ndarray]
) -> list[Any]:
    """The statistics of fixed styles: for each style layer, stacked over the styles, [S, ...].

    Args:
        model: The normalised VGG of the losses.
        config: The objective.
        styles: Pictures [H, W, 3] in [0, 1], each of any size.
    """
    extract = precise_features(model, [name for name, _ in config.style_layers])
    loss = config.make_style_loss()
    function = tf.function(
        lambda x: _targets(loss, extract(x), config.style_layers),
        input_signature=[tf.TensorSpec([1, None, None, 3])],
        autograph=False,
    )
    targets = [function(tf.constant(style[None], tf.float32)) for style in styles]
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *targets)


def precise_features(
    model: keras.Model, names: Sequence[str]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Image -> features of these layers in float32, in whatever precision the model computes."""
    extract = feature_extractor(model, names)
    return lambda image: {
        name: tf.cast(layer, tf.float32) for name, layer in extract(image).items()
    }


def _targets(loss: StyleLoss, features: Any, layers: Layers) -> list[Any]:
    """The targets [B, ...] of a batch of styles, one for each layer."""
    return [
        tf.nest.map_structure(
            lambda *parts: tf.stack(parts),
            *(loss.target(_sums(loss, image)) for image in tf.unstack(features[name])),
        )
        for name, _ in layers
    ]


def _sums(loss: StyleLoss, features: tf.Tensor) -> Any:
    """The sums of one image's features [h, w, C], in float64 where many are added."""
    flat = tf.reshape(features, [-1, features.shape[-1]])
    if loss.sampled:
        last = tf.cast(tf.shape(flat)[0] - 1, tf.float32)
        positions = tf.cast(tf.round(tf.linspace(0.0, 1.0, SAMPLES) * last), tf.int32)
        return loss.sums(tf.gather(flat, positions))
    return exact_sums(loss, flat)


def objective(
    network: Network, model: keras.Model, config: LossConfig
) -> Callable[..., dict[str, tf.Tensor]]:
    """(content [B, H, W, 3], code [B, D], style targets) -> the value of each term.

    With the picture y of content c, the features F_l of layer l, AdaIN's target t, the statistics
    S_l of each style and the loss's distance d, all averaged over the batch:

        content   content_weight sum_l w_l mean((F_l(y) - F_l(c))^2);  AdaIN: mean((F(y) - t)^2)
        style     style_weight sum_l w_l d(S_l(y), S_l(style))
        tv        tv_weight TV(y) / (B H W 3)

    Reference: Huang and Belongie 2017, equations 11 to 13.
    """
    content_layers = (
        [(network.target_layer, 1.0)] if network.target_layer else list(config.content_layers)
    )
    content_names = [str(name) for name, _ in content_layers]
    style_names = [name for name, _ in config.style_layers]
    extract = precise_features(model, [*content_names, *style_names])
    extract_content = precise_features(model, content_names)
    loss = config.make_style_loss()

    def terms(content: tf.Tensor, code: tf.Tensor, targets: list[Any]) -> dict[str, tf.Tensor]:
        outputs = network.transform({"content": content, "code": code}, training=True)
        outputs = {name: tf.cast(output, tf.float32) for name, output in outputs.items()}
        features = extract(outputs["image"])
        if network.target_layer:
            expected = {network.target_layer: outputs["target"]}
        else:
            expected = extract_content(content)
        content_terms = [
            weight * tf.reduce_mean(tf.square(features[name] - tf.stop_gradient(expected[name])))
            for name, weight in content_layers
        ]
        # Checked here: ReLU makes zeros of NaN, and the terms of a broken picture may be finite.
        finite = tf.reduce_all(tf.math.is_finite(outputs["image"]))
        content_term = config.content_weight * tf.add_n(content_terms)
        values = {
            "content": tf.where(finite, content_term, float("nan")),
            "style": config.style_weight
            * _style_term(loss, features, targets, config.style_layers),
        }
        if config.tv_weight:
            variation = losses.total_variation(features[IMAGE])
            values["tv"] = config.tv_weight * variation / tf.cast(tf.size(content), tf.float32)
        return values

    return terms


def _style_term(loss: StyleLoss, features: Any, targets: list[Any], layers: Layers) -> tf.Tensor:
    """sum_l w_l d(S_l(y), target_l), averaged over the batch, of features [B, h, w, C] by layer."""
    distances = []
    for (name, weight), stacked in zip(layers, targets, strict=True):
        for b, image in enumerate(tf.unstack(features[name])):
            target = tf.nest.map_structure(lambda part, b=b: part[b], stacked)
            distance = tf.cast(loss.distance(_sums(loss, image), target), tf.float32)
            distances.append(weight * distance / features[name].shape[0])
    return tf.add_n(distances)


class TrainingStep:
    """One step of training, as a graph: (content, style) -> the loss and its terms before the step.

    A step whose objective or gradient is not finite changes nothing, and its loss is NaN; then
    `restore_last_good` undoes the step before, which led there.  For that each good step copies the
    weights inside the graph before it changes them: one copy on the device and none in Python.

    Args:
        compute_gradients: (content, style) -> total, {term: value}, gradients, and the values that
            the forward pass gives variables, {index in variables and state: value}.
        variables: The weights that are learnt.
        state: What else changes.
        optimizer: Built for `variables`.
        strategy: Devices that share each batch equally, of which each computes the gradients of its
            part; their mean is that of the batch.  All processes then take the same step.
    """

    def __init__(
        self,
        compute_gradients: Callable[..., tuple[Any, ...]],
        variables: list[Any],
        state: list[Any],
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self._compute_gradients, self._optimizer = compute_gradients, optimizer
        self._strategy = strategy
        self._variables, self._changed = variables, [*variables, *state]
        self._last_good: list[tf.Variable] = []
        self._graph = tf.function(self._step, autograph=False)

    def __call__(self, content: tf.Tensor, style: tf.Tensor) -> dict[str, tf.Tensor]:
        if not self._last_good:
            # Only now: a checkpoint may have been loaded since this was made.
            self._last_good = [tf.Variable(v.value, trainable=False) for v in self._changed]
        return self._graph(self._share(content), self._share(style))

    def _share(self, batch: tf.Tensor) -> Any:
        """A batch [B, ...], or with a strategy the part of each device."""
        if self._strategy is None:
            return batch
        size = batch.shape[0] // self._strategy.num_replicas_in_sync

        def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            first = context.replica_id_in_sync_group * size
            return batch[first : first + size]

        return self._strategy.experimental_distribute_values_from_function(part)

    def _mean_gradients(self, content: Any, style: Any) -> Any:
        """What `compute_gradients` gives, averaged over the devices."""
        if self._strategy is None:
            return self._compute_gradients(content, style)
        of_each = self._strategy.run(self._compute_gradients, (content, style))
        mean = tf.distribute.ReduceOp.MEAN
        return tf.nest.map_structure(
            lambda value: self._strategy.reduce(mean, value, axis=None), of_each
        )

    def _step(self, content: tf.Tensor, style: tf.Tensor) -> dict[str, tf.Tensor]:
        total, terms, gradients, assigned = self._mean_gradients(content, style)
        # A loss that is scaled may overflow: its optimizer then skips the step and lowers the scale.
        finite = tf.constant(True)
        if not isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer):
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])

        def update() -> tf.Tensor:
            for copy, variable in zip(self._last_good, self._changed, strict=True):
                copy.assign(variable.value)
            for index, value in assigned.items():
                self._changed[index].assign(value)
            self._optimizer.apply(gradients, self._variables)
            return tf.constant(True)

        updated = tf.cond(finite & tf.math.is_finite(total), update, lambda: tf.constant(False))
        return {"loss": tf.where(updated, total, float("nan")), **terms}

    def restore_last_good(self) -> None:
        """Put back the weights that the last finite loss was computed with."""
        for variable, copy in zip(self._changed, self._last_good, strict=True):
            variable.assign(copy)


def step_function(
    network: Network,
    model: keras.Model,
    config: LossConfig,
    optimizer: keras.optimizers.Optimizer,
    *,
    targets: list[Any] | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> TrainingStep:
    """A step of training of a network.

    Args:
        network: The network to train.
        model: The normalised VGG of the losses.
        config: The objective.
        optimizer: A Keras optimizer; it is built here.
        targets: What `style_targets` gives for fixed styles; the step then takes the styles'
            indices [B] in place of pictures [B, H, W, 3].
        strategy: Devices that share each batch.
    """
    terms = objective(network, model, config)
    loss = config.make_style_loss()
    extract = precise_features(
        model, [*network.code_layers, *(name for name, _ in config.style_layers)]
    )
    variables = network.variables
    optimizer.build(variables)

    def compute_gradients(content: tf.Tensor, style: tf.Tensor) -> Any:
        if targets is None:
            features = extract(style)
            batch_targets = _targets(loss, features, config.style_layers)
        else:
            batch_targets = tf.nest.map_structure(lambda part: tf.gather(part, style), targets)
        # What layers assign, they assign in this scope alone: a step may yet turn out not finite, and
        # devices that share a batch would overwrite each other's.
        with tf.GradientTape() as tape, keras.StatelessScope() as scope:
            if network.encode_features is None:
                code = tf.one_hot(style, network.transform.input["code"].shape[-1])
            else:
                code = network.encode_features(features)
            values = terms(content, code, batch_targets)
            total = tf.add_n(list(values.values()))
            scaled = optimizer.scale_loss(total)
        current = [scope.get_current_value(v) for v in (*variables, *network.state)]
        assigned = {i: value for i, value in enumerate(current) if value is not None}
        return total, values, tape.gradient(scaled, [v.value for v in variables]), assigned

    return TrainingStep(compute_gradients, variables, network.state, optimizer, strategy)
