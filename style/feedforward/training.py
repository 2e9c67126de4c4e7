"""Training a `networks.Network` on the losses that `style` optimises pictures with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from style.feedforward import batch_losses
from style.feedforward.batch_losses import LossConfig
from style.feedforward.networks import Network
from style.objective.features import feature_extractor


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """learning_rate min(1, (t + 1) / warmup) / (1 + decay t) at step t.

    The decay is that of Huang and Belongie's program.  Without a warm-up a decoder's first steps, in
    which Adam moves every weight by the whole rate, can throw its pictures far out of range.

    Args:
        learning_rate: After the warm-up.
        decay: 0: constant.
        warmup: Steps; 0: none.
    """

    def __init__(self, learning_rate: float, decay: float = 0.0, warmup: int = 0) -> None:
        super().__init__()
        self._learning_rate, self._decay, self._warmup = learning_rate, decay, warmup

    def __call__(self, step: Any) -> tf.Tensor:
        t = tf.cast(step, tf.float32)
        rate = self._learning_rate / (1.0 + self._decay * t)
        return rate * tf.minimum(1.0, (t + 1.0) / max(self._warmup, 1))

    def get_config(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {
            "learning_rate": self._learning_rate,
            "decay": self._decay,
            "warmup": self._warmup,
        }


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
    terms = batch_losses.objective(network, model, config)
    loss = config.make_style_loss()
    extract = feature_extractor(
        model, [*network.code_layers, *(name for name, _ in config.style_layers)]
    )
    variables = network.variables
    optimizer.build(variables)

    def compute_gradients(content: tf.Tensor, style: tf.Tensor) -> Any:
        if targets is None:
            features = extract(style)
            of_batch = batch_losses.batch_targets(loss, features, config.style_layers)
        else:
            of_batch = tf.nest.map_structure(lambda part: tf.gather(part, style), targets)
        # What layers assign, they assign in this scope alone: a step may yet turn out not finite, and
        # devices that share a batch would overwrite each other's.
        with tf.GradientTape() as tape, keras.StatelessScope() as scope:
            if network.encode_features is None:
                code = tf.one_hot(style, network.transform.input["code"].shape[-1])
            else:
                code = network.encode_features(features)
            values = terms(content, code, of_batch)
            total = tf.add_n(list(values.values()))
            scaled = optimizer.scale_loss(total)
        current = [scope.get_current_value(v) for v in (*variables, *network.state)]
        assigned = {i: value for i, value in enumerate(current) if value is not None}
        return total, values, tape.gradient(scaled, [v.value for v in variables]), assigned

    return TrainingStep(compute_gradients, variables, network.state, optimizer, strategy)
