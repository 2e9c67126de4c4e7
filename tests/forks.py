"""Runs in processes of their own: of the command, that die, lack disk space or get signals; of code.

One server imports TensorFlow once and forks for each run: a second instead of five.  Run as a
script this file is the server: one JSON line in for each run, one out.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
DEADLINE = 120


def forked(
    *arguments: str,
    package: str = "vgg_normalize",
    root: Path | None = None,
    die_at: int = 0,
    begin: str = "",
    largest_file: int = 0,
    send: int = 0,
    when: Path | None = None,
    delay: float = 0,
) -> tuple[int, str]:
    """Exit code (minus the signal that killed it) and stderr of one run.

    Args:
        arguments: Of the command.
        package: Whose command: a package with `__main__`, or a module with `main`.
        root: Only changes of the disk below it count.
        die_at: kill -9 just before this change of the disk (0: never).
        begin: Count changes from the first one of a path that ends so.
        largest_file: No file can grow beyond so many bytes (0: no limit).
        send: A signal to send once `when` exists.
        when: See `send`.
        delay: Seconds from then to the signal.
    """
    job = {"arguments": arguments, "root": str(root), "die_at": die_at, "begin": begin}
    job |= {"largest_file": largest_file, "send": send, "when": str(when), "delay": delay}
    return _answer(job | {"package": package})


def program(code: str, *arguments: object) -> str:
    """What code prints last, run as a program in a process that has TensorFlow imported already."""
    job = {"code": code, "arguments": [str(argument) for argument in arguments]}
    code, told = _answer(job | dict.fromkeys(("send", "die_at", "largest_file", "begin"), 0))
    assert code == 0, told[-2000:]
    return told.splitlines()[-1]


def _answer(job: dict) -> tuple[int, str]:
    server = _server()
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    code, stderr = json.loads(server.stdout.readline())
    return code, stderr


@functools.cache
def _server() -> subprocess.Popen[str]:
    # What killed runs leave of their temporary files goes with this folder.
    folder = tempfile.mkdtemp()
    server = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "TMPDIR": folder},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(_end, server, folder)
    return server


def _end(server: subprocess.Popen[str], folder: str) -> None:
    server.stdin.close()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _serve() -> None:
    import matplotlib.figure
    from PIL import Image
    from processes import settle

    from style.cli import run_stylize, run_training  # noqa: F401
    from style.cli import run_transfer as style_job  # noqa: F401
    from vgg_normalize.cli import pipeline  # noqa: F401

    # What is imported and looked for only when a first picture is drawn or read.
    matplotlib.figure.Figure().savefig(io.BytesIO())
    Image.init()
    settle()
    for line in sys.stdin:
        # A pipe: a file would be subject to the limit on files.
        reader, writer = os.pipe()
        code = _fork(json.loads(line), writer)
        os.close(writer)
        with open(reader) as stderr:
            answer = json.dumps([code, stderr.read()])
        print(answer, flush=True)


def _fork(job: dict, stderr: int) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(stderr, 2)
        os.dup2(stderr, 1)
        _run(job)
    deadline, sent = time.monotonic() + DEADLINE, not job["send"]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if not sent and Path(job["when"]).exists():
            time.sleep(job["delay"])
            os.kill(child, job["send"])
            sent = True
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)


def _run(job: dict) -> None:
    if "code" in job:
        _execute(job)
    module = importlib.import_module(job["package"])
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{job['package']}.__main__")
    main = module.main
    count, counting = 0, not job["begin"]

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count, counting
        writes = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        if not (writes or event in CHANGES) or job["root"] not in str(arguments[0]):
            return
        counting = counting or str(arguments[0]).endswith(job["begin"])
        count += counting
        if count == job["die_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    if job["die_at"]:
        sys.addaudithook(hook)
    if job["largest_file"]:
        # Python ignores SIGXFSZ, so that a write beyond the limit fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"],) * 2)
    code = 99
    try:
        code = main([job["package"], *job["arguments"]])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _execute(job: dict) -> None:
    code = 1
    sys.argv = ["-c", *job["arguments"]]
    try:
        exec(compile(job["code"], "-c", "exec"), {"__name__": "__main__"})
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
