"""How commands import TensorFlow: quietly, late, and without what only plots need."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator

from vgg_normalize import errors
from vgg_normalize.runtime.progress import Heartbeat, one_line, say


@contextlib.contextmanager
def starting_tensorflow() -> Iterator[None]:
    """A context for imports of TensorFlow: failures become one line, and its notices are hidden.

    At the end a line says which devices there are.  TensorFlow writes half a page about the machine
    before any log level takes effect; it is shown only if the import fails.

    Raises:
        UsageError: Keras would not run on TensorFlow, channels last, in float32.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise errors.UsageError(
            f"Expected Keras to run on TensorFlow. Received: KERAS_BACKEND={backend}. Unset it."
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    Heartbeat.doing("starting TensorFlow")
    try:
        with _captured_stderr(), _uncollected():
            with _without("IPython", "matplotlib", "pandas"):
                import keras

            from vgg_normalize.runtime import devices

            description = devices.describe()
            yield
    except (ImportError, ValueError, RuntimeError) as error:
        if isinstance(error, errors.Error):
            raise
        raise errors.UsageError(
            f"Expected TensorFlow and Keras with the backend tensorflow. Received: "
            f"{one_line(error)}. Correct keras.json, or install the package again."
        ) from error
    configuration = {
        "backend": keras.config.backend(),
        "image_data_format": keras.config.image_data_format(),
        "floatx": keras.config.floatx(),
    }
    expected = {"backend": "tensorflow", "image_data_format": "channels_last", "floatx": "float32"}
    for key, value in expected.items():
        if configuration[key] != value:
            raise errors.UsageError(
                f"Expected Keras' {key} to be {value}. Received: {configuration[key]!r}. Unset "
                "KERAS_BACKEND and correct keras.json."
            )
    say(description)


@contextlib.contextmanager
def _without(*modules: str) -> Iterator[None]:
    """Let imports of these fail, as if they were not installed.

    Keras imports them for tables and plots that no command makes, which takes about a second.
    """
    absent = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection while TensorFlow is imported, nor afterwards of what that made.

    It would look again and again through hundreds of thousands of objects, all of which stay: a
    quarter of the time of the import.
    """
    if "keras" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Hide what is written to standard error, also by C++, and show it if an error is raised."""
    if sys.stderr is None:  # closed: 2>&-
        yield
        return
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(standard_error, captured.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
