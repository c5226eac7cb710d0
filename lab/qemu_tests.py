#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own tests that are about what the patches touch. Prints TAP.

Runs in lab/netns, in the directory where QEMU was built by lab/build-qemu and
they by lab/build-qemu-tests. None knows the new options: all must pass as they
do without the patches.
"""

import glob
import os
import re
import subprocess
import sys

from tap import Tap

QTESTS = ("qos-test", "netdev-socket", "migration-test", "device-plug-test",
          "device-introspect-test", "qmp-test", "qmp-cmd-test", "test-hmp")
# Nodes of these devices, of the many that qos-test has
QOS = ("virtio-net", "e1000")
UNIT = ("vmstate|io-channel|qmp|qobject|visitor|util-sockets|iov|coroutine|"
        "thread")


def programs(env):
    """Programs that print TAP, and their arguments"""
    unit = [path for path in sorted(glob.glob("tests/unit/test-*"))
            if os.path.isfile(path) and re.search(UNIT, path)]
    if not unit:
        raise SystemExit("no unit tests: run lab/build-qemu-tests")
    for path in unit:
        yield path, []
    for name in QTESTS:
        args = []
        if name == "qos-test":
            args = [a for d in nodes(env) for a in ("-p", d)]
        yield f"tests/qtest/{name}", args


def nodes(env):
    listed = subprocess.run(["tests/qtest/qos-test", "-l"], env=env, check=True,
                            text=True, stdout=subprocess.PIPE)
    return [line.removeprefix("# ") for line in listed.stdout.splitlines()
            if any(f"/{name}" in line for name in QOS)]


def main():
    """Run them in the build directory"""
    env = dict(os.environ, PYTHON=sys.executable,
               QTEST_QEMU_BINARY="./qemu-system-x86_64",
               G_TEST_SRCDIR="../src/tests/unit",
               G_TEST_BUILDDIR="tests/unit")
    tap = Tap()
    for path, args in programs(env):
        with subprocess.Popen([path, "--tap", "-k", *args], env=env, text=True,
                              stdin=subprocess.DEVNULL, errors="replace",
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as run:
            tap.take(os.path.basename(path), run)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
