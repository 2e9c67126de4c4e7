"""The log of a training for TensorBoard."""

from __future__ import annotations

import tensorflow as tf

from vgg_normalize.errors import UsageError


class TensorBoardWriter:
    """Writes scalars to a directory that TensorBoard shows.

    Args:
        directory: Where to write; None: nowhere.

    Raises:
        UsageError: A directory is given and TensorBoard is not installed.
    """

    def __init__(self, directory: str | None) -> None:
        self._writer = None
        if directory is None:
            return
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "Expected TensorBoard with --tensorboard. Received: none. Run pip install "
                "tensorboard, or use --log."
            ) from error
        self._writer = tf.summary.create_file_writer(directory)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars of one step."""
        if self._writer is not None:
            with self._writer.as_default(step):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
