#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Take guests over from stock QEMU under traffic, and count lost packets. Print TAP.

Each round boots a guest in stock QEMU, and moves it to the patched one: to
duplicates of its TAP queues (shared-fds=on), or with --second-tap in the classic way,
to a second TAP that takes the place of the first in a bridge. When it stops, a stock
QEMU drops a packet of each queue that the NIC did not take, and reads one more.
"""

import contextlib
import os
import select
import signal
import socket
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__),
                                "../../qemu/tests/functional/x86_64"))

from main_loop import MainLoop
from qemu_vm import set_up_migration, wait_migration
from tap_local_queue import TapQueues
from tap_output import Tap
from testbed import DEV, ERRORS, GUEST, GUEST_MAC, HOST, PREFIX, Testbed, \
    TestbedError, run, testbed_parser
from traffic import Traffic, link

STOCK = "qemu-system-x86_64-stock"
BRIDGE, SECOND = "br0", "tap1"
QUEUE_LENGTH = "10000"


class Round(Testbed):
    """A bridge with a TAP, and a stock QEMU"""

    def __init__(self, args):
        super().__init__(args)
        self.hold = args.hold

    def stock_options(self, dev):
        return (f"tap,id=net0,ifname={dev},script=,downscript=,"
                f"queues={self.queues},vhost={'on' if self.vhost else 'off'}")

    def make_network(self):
        """Make a bridge that has the TAP as a port."""
        self.make_tap()
        # The bridge takes over the TAP's address.
        run("ip", "link", "add", BRIDGE, "address", link(DEV).mac, "type", "bridge")
        run("ip", "addr", "flush", "dev", DEV)
        # Count packets that QEMU drops, not those that find the queue full.
        run("ip", "link", "set", DEV, "txqueuelen", QUEUE_LENGTH)
        run("ip", "link", "set", DEV, "master", BRIDGE)
        run("ip", "addr", "add", f"{HOST}/{PREFIX}", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        run("ip", "neigh", "replace", GUEST, "lladdr", GUEST_MAC, "nud",
            "permanent", "dev", BRIDGE)

    def make_second_tap(self):
        run("ip", "tuntap", "add", "dev", SECOND, "mode", "tap", "vnet_hdr",
            *(["multi_queue"] if self.queues > 1 else []))
        run("ip", "link", "set", SECOND, "txqueuelen", QUEUE_LENGTH, "mtu", "1400",
            "up")

    def boot(self):
        self.make_network()
        vm = self.vm(self.stock_options(DEV), binary=STOCK)
        vm.wait_console("tapstate-agent: ready", 300)
        self.traffic = Traffic(HOST, GUEST, self.rate)
        self.traffic.start()
        self.progress()
        return vm

    def migrate(self, source, target, local=False):
        for vm in source, target:
            set_up_migration(vm, local=local)
        path = os.path.join(self.directory, "migrate")
        target.cmd("migrate-incoming", uri=f"unix:{path}")
        source.cmd("migrate", uri=f"unix:{path}")
        for vm in source, target:
            wait_migration(vm)

    def shared_options(self, queues):
        """Return the netdev of a target that inherits QUEUES."""
        for queue in queues:
            os.set_inheritable(queue.fd, True)
        fds = ":".join(str(queue.fd) for queue in queues)
        return (f"tap,id=net0,{'fds' if len(queues) > 1 else 'fd'}={fds},"
                "local-migration-supported=on,shared-fds=on,"
                f"vhost={'on' if self.vhost else 'off'}")

    def take_over(self, source):
        """Move the guest to another QEMU on the same TAP."""
        with TapQueues(source.get_pid()) as queues:
            target = self.target(self.shared_options(queues))
        if self.hold:
            self.migrate_held(source, target)
        else:
            self.migrate(source, target)
            source.quit()
        target.cmd("cont")
        return target

    def migrate_held(self, source, target):
        """Migrate, and end the source, while its main loop does not run.

        The migration thread cannot end before the main loop is held: nobody reads
        from its small socket.
        """
        for vm in source, target:
            set_up_migration(vm, local=False)
        path = os.path.join(self.directory, "migrate")
        target.cmd("migrate-incoming", uri=f"unix:{path}")
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket(socket.AF_UNIX) as sink:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            source.send_fd_scm(theirs.fileno())
            source.cmd("getfd", fdname="stream")
            source.cmd("migrate", uri="fd:stream")
            sink.connect(path)
            main_loop = MainLoop(source.get_pid())
            while not main_loop.hold():
                # Let it leave a part that has the big QEMU lock.
                if select.select([ours], [], [], 0.01)[0]:
                    sink.sendall(ours.recv(4096))
            while True:
                if select.select([ours], [], [], 0.05)[0]:
                    sink.sendall(ours.recv(65536))
                elif target.cmd("query-migrate").get("status") in ("completed",
                                                                   "failed"):
                    break
        wait_migration(target)
        os.kill(source.get_pid(), signal.SIGKILL)

    def move_to_second_tap(self, source):
        """Move the guest to another QEMU on another TAP."""
        self.make_second_tap()
        target = self.target(self.stock_options(SECOND))
        self.migrate(source, target)
        run("ip", "link", "set", DEV, "nomaster")
        run("ip", "link", "set", SECOND, "master", BRIDGE)
        target.cmd("cont")
        source.quit()
        return target

    def __exit__(self, *exc):
        super().__exit__(*exc)
        for dev in BRIDGE, SECOND:
            with contextlib.suppress(TestbedError):
                run("ip", "link", "del", dev)


def one_round(args):
    """Return (lost on the way to the guest, to the host), and other problems."""
    with Round(args) as testbed:
        try:
            source = testbed.boot()
            testbed.check_vhost(source)
            move = (testbed.move_to_second_tap if args.second_tap else
                    testbed.take_over)
            target = move(source)
            testbed.progress()
            testbed.check_vhost(target)
            report = testbed.traffic.finish()
            target.quit()
        except ERRORS as error:
            testbed.complain(error)
            return (0, 0), [f"it ended early: {error!r}"]
        ways = report.to_guest, report.to_host
        return tuple(way.lost for way in ways), [
            f"{way.name}: {problem}" for way in ways
            for problem in way.problems() if not problem.endswith(" lost")]


def main():
    parser = testbed_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--second-tap", action="store_true")
    parser.add_argument("--hold", action="store_true",
                        help="hold the main loop of the source at the end")
    args = parser.parse_args()

    tap = Tap()
    lost, problems = [], []
    most = 0 if args.hold else 2 * args.queues
    for number in range(1, args.rounds + 1):
        counts, found = one_round(args)
        lost.append(counts)
        if not args.second_tap and (counts[0] > most or counts[1]):
            found.append(f"{counts[0]} lost to the guest, {counts[1]} to the host")
        problems += [f"round {number}: {problem}" for problem in found]
    for name, counts in zip(("guest", "host"), zip(*lost)):
        print(f"# lost to the {name}: {sum(counts)} in {len(counts)} rounds, median "
              f"{statistics.median(counts)}, at most {max(counts)}")
    for problem in problems:
        print("# " + problem.replace("\n", "\n# "))
    tap.result(not problems, f"{args.rounds} rounds, {args.queues} queues, "
               f"{args.rate} packets/s each way, "
               f"{'a second TAP' if args.second_tap else 'shared fds'}"
               f"{', vhost' if args.vhost else ''}")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
