#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run QEMU's own tests of the code that the patches touch. Print TAP.

Start it with lab/run-on-host, in QEMU's build directory; lab/build/qemu-tests
builds the tests. None of them knows the new options: all pass without the patches.
In a build with QEMU's tools, which has neither vhost-net nor eBPF, run the iotests
instead, and the tests of the hand-over that need no guest.
"""

import glob
import os
import re
import subprocess
import sys

from tap_output import Tap

QTESTS = ("qos-test", "netdev-socket", "migration-test", "device-plug-test",
          "device-introspect-test", "qmp-test", "qmp-cmd-test", "test-hmp")
# Device nodes of qos-test to run; it has many more
QOS = ("virtio-net", "e1000")
UNIT = ("vmstate|io-channel|qmp|qobject|visitor|util-sockets|iov|coroutine|"
        "thread")


def programs(env):
    """Yield the commands to run, each of which prints TAP."""
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
    """Run all programs in the build directory."""
    env = dict(os.environ, PYTHON=sys.executable,
               QTEST_QEMU_BINARY="./qemu-system-x86_64",
               G_TEST_SRCDIR="../src/tests/unit",
               G_TEST_BUILDDIR="tests/unit")
    tap = Tap()
    for command in programs(env):
        name = os.path.basename(command[0])
        tap.run("iotests" if name == "sh" else name, command, env=env)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
