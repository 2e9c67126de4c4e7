"""The queue: takes are run one at a time, in the order in which they were asked for."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import keras

from style.cli.settings import Settings
from style.studio.takes import Stage, Take, require_pictures
from vgg_normalize.errors import OutputError

# Takes that keep the optimiser's memory while they are stopped; the oldest is let go.
KEPT = 3


class TakeQueue:
    """Takes, and the one thread that runs them.

    Args:
        model: The network.
        folder: Where each take gets a folder of its own; it is made if there is none.

    Attributes:
        takes: All of this session, in the order in which they were asked for.
        version: A number that changes whenever a take does.

    Raises:
        OutputError: The folder cannot be made.
    """

    def __init__(self, model: keras.Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Expected a folder for takes. Received: {folder} ({error.strerror}). Choose "
                "another --takes."
            ) from error
        self.takes: list[Take] = []
        self.version = 0
        self._due: list[Take] = []
        self._running: Take | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def start(self, asked: Settings) -> Take:
        """Queue a new take.

        Raises:
            UsageError: A picture that the task needs was not chosen.
            OutputError: Its folder cannot be written.
        """
        require_pictures(asked)
        with self._changed:
            try:
                number, folder = self._new_folder()
                take = Take(number, folder, asked)
            except OSError as error:
                raise OutputError(
                    f"Expected room in {self.folder}. Received: {error.strerror}. Make room, or "
                    "choose another --takes."
                ) from error
            self.takes.append(take)
            self._append(take)
        return take

    def go_on(self, take: Take) -> None:
        """Queue a stopped take again; it goes on with the bits that it would have had."""
        with self._changed:
            if take.can_go_on:
                take.queue_again()
                self._append(take)

    def stop(self, take: Take) -> None:
        """Stop a take after its current step, or take it from the queue."""
        with self._changed:
            if take in self._due:
                self._due.remove(take)
                take.stage = Stage.STOPPED
                self._notify()
            else:
                take.stop()

    def before(self, take: Take) -> int:
        """How many takes are run before this one."""
        with self._changed:
            if take not in self._due:
                return 0
            return self._due.index(take) + (self._running is not None)

    def close(self) -> None:
        """Stop and save the take that runs, drop those that wait, and end."""
        with self._changed:
            self._closed = True
            self._due.clear()
            if self._running is not None:
                self._running.stop()
            self._changed.notify_all()
        self._thread.join()

    def _append(self, take: Take) -> None:
        self._due.append(take)
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self.version += 1
            self._changed.notify_all()

    def _new_folder(self) -> tuple[int, Path]:
        """The first number that has no folder yet, and a folder."""
        for number in itertools.count(len(self.takes) + 1):
            folder = self.folder / f"take_{number:03}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return number, folder
        raise AssertionError

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._closed)
                if self._closed:
                    return
                self._running = self._due.pop(0)
            self._running.run(self.model, self._notify)
            with self._changed:
                self._running = None
                stopped = [take for take in self.takes if take.can_go_on]
                for take in stopped[:-KEPT]:
                    take.forget_state()
            self._notify()
