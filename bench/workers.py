# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that have a guest each, in a network namespace of its own."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import traceback

FORK = multiprocessing.get_context("fork")


class WorkerError(Exception):
    """A call in a worker failed; the text is its traceback."""


def serve(pipe, make):
    """Answer calls of methods of the object that MAKE returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.unshare(os.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with make() as thing:
        while True:
            name, args = pipe.recv()
            if not name:
                return
            try:
                pipe.send((True, getattr(thing, name)(*args)))
            except Exception:  # pylint: disable=broad-except
                pipe.send((False, traceback.format_exc()))


class Worker:
    """A process with an object; call() runs one of its methods there"""

    def __init__(self, make):
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=serve, args=(theirs, make))
        self.process.start()
        theirs.close()

    def start(self, name, *args):
        self.pipe.send((name, args))

    def result(self):
        try:
            good, value = self.pipe.recv()
        except EOFError:
            raise WorkerError("the worker has ended") from None
        if not good:
            raise WorkerError(value)
        return value

    def call(self, name, *args):
        self.start(name, *args)
        return self.result()

    def close(self):
        # Later workers have copies of the pipe, so closing it would not show there.
        with contextlib.suppress(BrokenPipeError):
            self.start(None)
        self.process.join()


@contextlib.contextmanager
def workers(makers):
    """Return a worker for each of MAKERS, as long as the context lasts."""
    result = []
    try:
        for make in makers:
            result.append(Worker(make))
        yield result
    finally:
        for worker in result:
            worker.close()
