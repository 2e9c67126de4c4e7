"""Processes of one cluster on this machine: whole ones, or forks that have TensorFlow already."""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

# A server of forks, which imports these once: a worker takes seconds less.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["style.cli.run_training", "vgg_normalize.cli.pipeline"])


class Worker(Protocol):
    """What the tests use of `subprocess.Popen`."""

    returncode: int | None

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str]:
        """Wait for the end; what was said on standard error comes second."""

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def send_signal(self, number: int) -> None:
        """Send a signal."""


def start_workers(
    module: str, *arguments: object, count: int = 2, forks: bool = False
) -> Sequence[Worker]:
    """Workers that run a module with --strategy=multiworker.

    Args:
        module: A package with `__main__`, or a module with `main`.
        arguments: Of the command.
        count: How many there are.
        forks: Fork them; a fork ends without the end of an interpreter.
    """
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    flags = (*map(str, arguments), "--strategy=multiworker")
    return [
        (_Fork if forks else _process)(
            module,
            flags,
            json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(count)
    ]


def _process(module: str, flags: Sequence[str], cluster: str) -> Worker:
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        env={**os.environ, "TF_CONFIG": cluster},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class _Fork:
    """A fork that runs a command."""

    def __init__(self, module: str, flags: Sequence[str], cluster: str) -> None:
        handle, name = tempfile.mkstemp()
        os.close(handle)
        self._said = Path(name)
        self._process = _FORKS.Process(target=_run, args=(module, flags, cluster, name))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str]:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(str(self._process.pid), timeout or 0)
        said = self._said.read_text()
        self._said.unlink()
        return None, said

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)


def _run(module: str, flags: Sequence[str], cluster: str, said: str) -> None:
    for name, descriptor in ((os.devnull, 1), (said, 2)):
        file = os.open(name, os.O_WRONLY)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ["TF_CONFIG"] = cluster
    _notice_sooner()
    command = importlib.import_module(module)
    if not hasattr(command, "main"):
        command = importlib.import_module(f"{module}.__main__")
    sys.exit(command.main([module, *flags]))


def _notice_sooner() -> None:
    """Take a worker for lost that has not been heard of for 4 seconds; TensorFlow waits for 10."""
    from tensorflow.python.eager.context import Context

    Context.configure_coordination_service = functools.partialmethod(
        Context.configure_coordination_service, heartbeat_timeout_in_ms=4000
    )
