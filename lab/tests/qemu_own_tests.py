#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own tests that are about what the patches touch. Prints TAP.

Runs by lab/run-on-host, in the directory where QEMU was built by lab/build/qemu
and they by lab/build/qemu-tests. None knows the new options: all must pass as
they do without the patches. Where QEMU's tools are built the iotests run
instead, and, as that QEMU has neither vhost-net nor eBPF, our tests that need no
guest.
"""

import glob
import os
import re
import subprocess
import sys

from tap_output import Tap

QTESTS = ("qos-test", "netdev-socket", "migration-test", "device-plug-test",
          "device-introspect-test", "qmp-test", "qmp-cmd-test", "test-hmp")
# Nodes of these devices, of the many that qos-test has
QOS = ("virtio-net", "e1000")
UNIT = ("vmstate|io-channel|qmp|qobject|visitor|util-sockets|iov|coroutine|"
        "thread")


def programs(env):
    """Commands that print TAP"""
    if os.path.exists("qemu-img"):
        for path in "unit/test-tap-local", "qtest/tap-local-test":
            yield [f"tests/{path}", "--tap", "-k"]
        for args in "-qcow2 -g migration", "-raw migration-permissions":
            yield ["sh", "-c", "cd tests/qemu-iotests && exec ./check -tap " +
                   args]
        return
    unit = [path for path in sorted(glob.glob("tests/unit/test-*"))
            if os.path.isfile(path) and re.search(UNIT, path)]
    if not unit:
        raise SystemExit("no unit tests: run lab/build/qemu-tests")
    for path in unit:
        yield [path, "--tap", "-k"]
    for name in QTESTS:
        args = []
        if name == "qos-test":
            args = [a for d in nodes(env) for a in ("-p", d)]
        yield [f"tests/qtest/{name}", "--tap", "-k", *args]


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
    for command in programs(env):
        with subprocess.Popen(command, env=env, text=True, errors="replace",
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as run:
            name = os.path.basename(command[0])
            tap.take("iotests" if name == "sh" else name, run)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
