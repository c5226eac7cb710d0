# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest of a contender, in a network of its own, whose QEMUs write traces."""

import argparse
import contextlib
import os
import subprocess
import sys
import time

REPO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path[:0] = [os.path.join(REPO, "lab/tests"),
                os.path.join(REPO, "qemu/tests/functional/x86_64")]

from take_over import BRIDGE, STOCK, Round
from testbed import DEV, GUEST, GUEST_MAC, HOST, run
from traffic import Traffic

import traces
from calls import Watch
from probe import Reads

PATCHED = "qemu-system-x86_64"
# Seconds between the frames that show when a QEMU reads; in the lab VM, where strace
# stops it at each, it would do nothing else
TICK = 0.0005
TRACED_TICK = TICK if os.environ["LAB_KERNEL"] == "host" else 0.05


class Ticker:
    """Frames to the guest, at short intervals"""

    def __init__(self, interval=TICK):
        self.interval = interval

    def __enter__(self):
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(REPO, "bench/ticker.py"), BRIDGE,
             GUEST_MAC, str(self.interval)], stdin=subprocess.PIPE)
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        self.process.wait()


class Bed(Round):
    """A guest, and a way to move it; subclasses are the contenders"""

    binary = PATCHED
    vhost = False
    # Where it can run: on the build machine's kernel, in the lab VM
    grounds = ("host", "lab")
    # Options that all QEMUs of this contender have
    more = ()

    def __init__(self, settings):
        super().__init__(argparse.Namespace(
            rate=settings["rate"], queues=settings["queues"],
            nic="virtio-net-pci", vhost=self.vhost, hold=False))
        # A guest fills rings of 256 buffers for each queue.
        self.megabytes += 2 * self.queues
        self.logs = os.path.join(self.logs, f"{self.key}-{self.queues}")
        os.makedirs(self.logs, exist_ok=True)
        self.options_of_trace = traces.options(self.directory)
        self.guest = self.calls = None

    def vm(self, netdev, *more, **kinds):
        kinds.setdefault("binary", self.binary)
        vm = super().vm(netdev, *self.more, *more, *self.options_of_trace, **kinds)
        if self.calls:
            self.calls.watch(vm.get_pid())
        return vm

    def first(self):
        """Return a QEMU that starts the guest."""
        return self.vm(self.options() + f",ifname={DEV},script=,downscript=")

    def boot(self):
        self.make_network()
        self.guest = self.first()
        self.guest.wait_console("tapstate-agent: ready", 300)

    def incoming(self, *more, **kinds):
        """Return a QEMU that runs the guest as soon as it has arrived."""
        return self.vm(self.options() + ",incoming-fds=on", "-incoming", "defer",
                       *more, **kinds)

    def migrate_to(self, source, target, local=True):
        """Return what the source says of the migration."""
        self.migrate(source, target, local)
        return source.cmd("query-migrate")

    def move(self):
        """Move the guest; return both processes, and what QEMU says of it."""
        raise NotImplementedError

    def tidy(self):
        """Put the guest back to where the next round starts."""

    def move_timed(self):
        """Move the guest, and return the times that the traces tell."""
        with Reads() if self.vhost else contextlib.nullcontext() as probe:
            return self.move_watched(probe)

    def move_watched(self, probe):
        start = time.time()
        pids, info = self.move()
        figures = {"whole": time.time() - start}
        # The target may read its first packet after the answer to QMP.
        time.sleep(0.3)
        figures.update(traces.of_migration(info))
        if pids:
            figures.update(traces.figures(self.directory, *pids, probe))
        return figures

    def measure_still(self):
        """Move the guest without numbered packets, and return the figures."""
        with Ticker():
            time.sleep(0.2)
            figures = self.move_timed()
        self.tidy()
        traces.forget(self.directory, self.guest.get_pid())
        return figures

    def measure_calls(self):
        """Move the guest, and count the system calls of both QEMUs meanwhile."""
        with Watch(self.directory) as self.calls, Ticker(TRACED_TICK):
            self.calls.watch(self.guest.get_pid())
            figures = self.move_timed()
            calls, self.calls = self.calls, None
            self.tidy()
        traces.forget(self.directory, self.guest.get_pid())
        end = figures.get("first_read", figures["run"])
        return calls.count(figures["stop"], figures["stop"] + end)

    def measure(self):
        """Move the guest under traffic, and return the figures."""
        self.traffic = Traffic(HOST, GUEST, self.rate)
        try:
            self.traffic.start()
            self.progress()
            with Ticker():
                time.sleep(0.2)
                figures = self.move_timed()
            self.progress()
            figures.update(traces.of_traffic(self.traffic.finish()))
        finally:
            self.traffic.close()
            self.traffic = None
        self.tidy()
        traces.forget(self.directory, self.guest.get_pid())
        return figures

    def to_stock(self, dev):
        """Return a stock QEMU on TAP DEV that runs the guest as it arrives."""
        return self.vm(self.stock_options(dev), "-incoming", "defer",
                       binary=STOCK)


def to_bridge(dev, out=None):
    """Make DEV a port of the bridge, after OUT is none."""
    if out:
        run("ip", "link", "set", out, "nomaster")
    run("ip", "link", "set", dev, "master", BRIDGE)


def end(vm):
    """End a QEMU without ceremony: its guest is elsewhere."""
    with contextlib.suppress(ProcessLookupError):
        vm.kill()
