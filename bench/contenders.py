# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to give a guest another QEMU, a class each."""

import json
import os
import socket
import time

# This one finds the tests' modules, which are below.
from bed import PATCHED, REPO, Bed, end, to_bridge

from qemu_vm import VmError
from take_over import SECOND, STOCK
from tap_local_cpr import CprMixin
from tap_local_queue import TapQueues
from testbed import DEV, GUEST_MAC
from update_soak import update


class Control(Bed):
    """No move: what the traffic alone does"""
    key, name = "control", "no move"

    def move(self):
        time.sleep(0.5)
        return None, {}


class StopCont(Bed):
    key, name = "a", "stop and cont, the same QEMU"

    def move(self):
        pid = self.guest.get_pid()
        self.guest.cmd("stop")
        self.guest.cmd("cont")
        return (pid, pid), {}


class Patched(Bed):
    key, name = "c", "patched, hand-over"

    def move(self):
        source, target = self.guest, self.incoming()
        info = self.migrate_to(source, target)
        pids = source.get_pid(), target.get_pid()
        end(source)
        self.guest = target
        return pids, info


class Before(Patched):
    """An earlier version of the patched QEMU, if the user has put one there"""
    key, name = "before", "patched, an earlier version (build/bench/qemu-before)"
    binary = os.path.join(REPO, "build/bench/qemu-before")
    grounds = ()


class NoNic(Patched):
    key, name = "b", "migration of a guest without a NIC"

    def nic_options(self, netdev):
        return []

    def measure(self):
        return self.measure_still()


class NoKernelState(Patched):
    key, name = "d", "patched, kernel-state=off"

    def options(self, queues=None):
        return super().options(queues) + ",kernel-state=off"


class Vhost(Patched):
    key, name = "e", "patched, vhost, hand-over"
    vhost, grounds = True, ("lab",)


class VhostNoKernelState(NoKernelState):
    key, name = "e-off", "patched, vhost, kernel-state=off"
    vhost, grounds = True, ("lab",)


class SecondTap(Bed):
    """A stock QEMU on a TAP, and another one in the same bridge for the next"""
    binary = STOCK

    def boot(self):
        self.dev, self.other = DEV, SECOND
        super().boot()
        self.make_second_tap()

    def first(self):
        return self.vm(self.stock_options(DEV))

    def move(self):
        source = self.guest
        target = self.vm(self.stock_options(self.other), "-incoming", "defer",
                         *self.wait)
        info = self.move_between(source, target)
        pids = source.get_pid(), target.get_pid()
        end(source)
        self.guest = target
        self.dev, self.other = self.other, self.dev
        return pids, info

    wait = ()


class Switched(SecondTap):
    key, name = "f", "stock, second TAP switched in the bridge, then cont"
    wait = ("-S",)

    def move_between(self, source, target):
        info = self.migrate_to(source, target, local=False)
        to_bridge(self.other, self.dev)
        target.cmd("cont")
        return info


class SwitchedLate(SecondTap):
    key = "f-late"
    name = "stock, second TAP switched in the bridge after its announcement"

    def move_between(self, source, target):
        with Announcement(self.other) as announcement:
            info = self.migrate_to(source, target, local=False)
            announcement.wait()
        to_bridge(self.other, self.dev)
        return info


class Bridged(SecondTap):
    key, name = "g", "stock, both TAPs in the bridge"

    def boot(self):
        super().boot()
        to_bridge(self.other)

    def move_between(self, source, target):
        return self.migrate_to(source, target, local=False)


class Announcement:
    """The frame by which a guest that has moved tells its bridge where it is"""

    ETH_P_RARP, ETH_P_ALL = 0x8035, 3

    def __init__(self, dev):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                  socket.htons(self.ETH_P_ALL))
        self.sock.bind((dev, self.ETH_P_ALL))
        self.sock.settimeout(10)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def wait(self):
        source = bytes.fromhex(GUEST_MAC.replace(":", ""))
        while True:
            frame, address = self.sock.recvfrom(2048)
            if address[2] != socket.PACKET_OUTGOING and frame[6:12] == source:
                return


class Cpr(SecondTap, CprMixin):
    key, name = "h", "stock, cpr-transfer, both TAPs in the bridge"
    more = CprMixin.CPR
    timeout = 60

    def boot(self):
        self.monitors = 0
        super().boot()
        to_bridge(self.other)

    def socket_path(self, name):
        return os.path.join(self.directory, name)

    def vm(self, netdev, *more, **kinds):
        """Give each QEMU a second monitor, which starts the migration."""
        self.monitors += 1
        self.monitor = self.socket_path(f"monitor{self.monitors}")
        return super().vm(netdev, "-qmp",
                          f"unix:{self.monitor},server=on,wait=off", *more, **kinds)

    def move(self):
        source, monitor = self.guest, self.monitor
        path = self.socket_path("cpr")
        source.cmd("migrate-set-parameters", mode="cpr-transfer")
        channel = self.channel("cpr", self.unix_address(path))
        main = self.socket_path("migrate")
        thread = self.start_cpr(monitor, channel, self.channel(
            "main", self.unix_address(main)))
        target = self.vm(self.stock_options(self.other), "-incoming", "defer",
                         "-incoming", json.dumps(channel))
        thread.join()
        target.cmd("migrate-incoming", uri=f"unix:{main}")
        info = self.completed(source)
        self.completed(target)
        pids = source.get_pid(), target.get_pid()
        end(source)
        self.guest = target
        self.dev, self.other = self.other, self.dev
        return pids, info


    def completed(self, vm):
        """Return what a QEMU says of its migration when that has completed.

        Attempts before the target listens have failed, and events would say so.
        """
        deadline = time.monotonic() + self.timeout
        while (info := vm.cmd("query-migrate")).get("status") != "completed":
            if info.get("status") == "failed" or time.monotonic() > deadline:
                raise VmError(f"{vm.name}: cpr-transfer: {info}")
            time.sleep(0.002)
        return info


class TakeOver(SecondTap):
    key, name = "i", "from stock to patched on the same TAP (shared-fds)"

    def move(self):
        source = self.guest
        with TapQueues(source.get_pid()) as queues:
            target = self.vm(self.shared_options(queues), "-S", "-incoming",
                             "defer", binary=PATCHED)
        info = self.migrate_to(source, target, local=False)
        pids = source.get_pid(), target.get_pid()
        end(source)
        target.cmd("cont")
        self.guest = target
        return pids, info

    def tidy(self):
        """Move the guest back to a stock QEMU, on the second TAP."""
        source = self.guest
        target = self.vm(self.stock_options(self.other), "-S", "-incoming",
                         "defer")
        self.migrate_to(source, target, local=False)
        end(source)
        to_bridge(self.other, self.dev)
        target.cmd("cont")
        self.guest = target
        self.dev, self.other = self.other, self.dev


class Tool(Bed):
    key, name = "j", "tapstate update, the whole command"

    def first(self):
        return self.vm(self.options() + f",ifname={DEV},script=,downscript=",
                       kind=self.updatable)

    def move(self):
        said = update(self.guest)
        return (said["source"], said["target"]), {}


CONTENDERS = {kind.key: kind for kind in (
    Control, StopCont, NoNic, Patched, Before, NoKernelState, Vhost, VhostNoKernelState,
    Switched, SwitchedLate, Bridged, Cpr, TakeOver, Tool)}
