"""How far the run is: a bar on a terminal, plain lines elsewhere; and stopping it gently."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tqdm import tqdm

# Seconds between two plain lines.
INTERVAL = 3.0
# Seconds without a line after which one says what is being done.
SILENCE = 4.5
# Seconds that a second signal waits for Python's turn before the process is ended without it.
GRACE = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def say(line: str) -> None:
    """One line to whoever watches; nobody may (a closed standard error, a pipe that ended)."""
    Heartbeat.heard()
    if sys.stderr is not None:
        with contextlib.suppress(BrokenPipeError):
            tqdm.write(line, file=sys.stderr)


class Heartbeat:
    """While a command would be silent, a line every few seconds says what it is doing.

    A context; inside, `Heartbeat.doing` names the work.  Lines go to standard error as it was at the
    beginning, so that they are seen while TensorFlow's notices are kept back.
    """

    _current: Heartbeat | None = None  # of the command that runs in this process

    def __init__(self) -> None:
        self._work, self._since = "at work", time.monotonic()
        self._last = self._since
        self._stream: int | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Heartbeat:
        try:
            self._stream = os.dup(sys.stderr.fileno())
        except (AttributeError, OSError, ValueError):  # closed, or replaced by what is no file
            return self
        Heartbeat._current = self
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if Heartbeat._current is self:
            Heartbeat._current = None

    @classmethod
    def doing(cls, work: str) -> None:
        """What the next lines say, should they be needed; "": there are none."""
        if cls._current is not None:
            cls._current._work, cls._current._since = work, time.monotonic()

    @classmethod
    def heard(cls) -> None:
        """Something was said or shown."""
        if cls._current is not None:
            cls._current._last = time.monotonic()

    def _beat(self) -> None:
        stream = self._stream
        if stream is None:
            return
        clear = b"\r\x1b[2K" if os.isatty(stream) else b""  # of a progress bar
        wait = SILENCE
        while not self._ended.wait(wait):
            now = time.monotonic()
            if self._work and now - self._last >= SILENCE:
                self._last = now
                line = f"{self._work}: {now - self._since:.0f} s so far\n"
                with contextlib.suppress(OSError):
                    os.write(stream, clear + line.encode())
            wait = max(SILENCE - (now - self._last), 0.01)
        os.close(stream)


class Progress:
    """How many are done, how many a second, the time left, and a note."""

    def __init__(
        self, total: int, done: int = 0, title: str = "measuring", unit: str = "image"
    ) -> None:
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=unit,
            smoothing=0.1,
            disable=sys.stderr is None or not sys.stderr.isatty(),
        )
        self._title, self._unit, self._total = title, unit, total
        self._first = self._done = done
        self._name_work()
        self._began = self._said = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Say that so many are done, and a note."""
        if not self._bar.disable:
            Heartbeat.heard()
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._done)
        at_end, self._done = self._done < done == self._total, done
        self._name_work()
        now = time.monotonic()
        if self._bar.disable and (now - self._said >= INTERVAL or at_end):
            self._said = now
            rate = self.rate()
            left = f", {(self._total - done) / rate:.0f} s left" if rate else ""
            note = f", {note}" if note else ""
            say(
                f"{self._title} {done}/{self._total} {self._unit}s, {rate:.1f} {self._unit}s/s{left}{note}"
            )

    def _name_work(self) -> None:
        following = min(self._done + 1, self._total)
        Heartbeat.doing(f"{self._title}, {self._unit} {following} of {self._total}")

    def rate(self) -> float:
        """How many a second since the beginning."""
        seconds = time.monotonic() - self._began
        return (self._done - self._first) / seconds if seconds > 0 else 0.0

    def close(self) -> None:
        self._bar.close()


class Interrupted(BaseException):
    """The user or the system asked to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


class InterruptHandler:
    """Turns Ctrl-C and SIGTERM into `Interrupted`, or, inside `defer`, into a wish.

    A second signal is always obeyed at once, and inside C++ that is long at work, where Python
    hears of none, by ending the process: what is being written is beside its place.
    """

    _bell: tuple[int, int] | None = None  # the pipe of the last one installed in this process

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferring = False
        self._heard = 0

    def install(self) -> None:
        """Handle both signals; only the main thread may."""
        for signum in SIGNALS:
            signal.signal(signum, self._handle)
        if os.name != "posix":
            return
        # Python's own part of the handler writes each signal there at once, wherever it is.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if InterruptHandler._bell is not None and InterruptHandler._bell[0] == os.getpid():
            os.close(InterruptHandler._bell[1])
        InterruptHandler._bell = os.getpid(), writer
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _watch(self, reader: int) -> None:
        """End the process where Python does not come to obey a second signal."""
        came = 0
        while received := os.read(reader, 1):
            came += received[0] in SIGNALS
            if came < 2 or received[0] not in SIGNALS:
                continue
            time.sleep(GRACE)
            # Not where others handle signals by now.
            if self._heard < 2 and signal.getsignal(received[0]) == self._handle:
                os.write(2, b"ended at once\n")
                os._exit(128 + received[0])
        os.close(reader)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._heard += 1
        first = self.requested is None
        self.requested = signum
        if not (self._deferring and first):
            raise Interrupted(signum)

    @contextlib.contextmanager
    def defer(self) -> Iterator[InterruptHandler]:
        """Only note the first signal, in `requested`."""
        before, self._deferring = self._deferring, True
        try:
            yield self
        finally:
            self._deferring = before

    def raise_if_requested(self) -> None:
        """Obey a signal that was only noted."""
        if self.requested is not None:
            raise Interrupted(self.requested)


def one_line(*parts: Any) -> str:
    """Parts joined, on one line."""
    return " ".join(" ".join(str(part) for part in parts).split())
