#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Live-update a guest many times under traffic. Print TAP.

After each migration the TAP has the state it had. At the end no packet is missing,
and neither QEMU nor the kernel holds more than after the first migrations.
lab/run-on-host runs this, too, without the kernel's state.
"""

import os
import sys
import time

from testbed import (ERRORS, Testbed, TestbedError, kernel_objects,
                     kernel_problems, testbed_parser)
from tap_output import Tap
from qemu_vm import hand_over

# Migrations until allocators and caches have filled up
WARM_UP = 5


def fds(pid):
    """Count the open files of a process by kind."""
    kinds = {}
    path = f"/proc/{pid}/fd"
    for fd in os.listdir(path):
        try:
            # "socket" of "socket:[1234]", ".log" of a log's path
            file = os.readlink(f"{path}/{fd}").split(":")[0]
        except FileNotFoundError:
            continue
        kind = os.path.splitext(file)[1] or file
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def rss(pid):
    """Return the private memory of a process in KiB; the guest's is shared."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    raise TestbedError(f"process {pid} has no memory")


def migrate(testbed, source):
    target = testbed.target()
    before = testbed.state()
    hand_over(source, target, os.path.join(testbed.directory, "migrate"))
    testbed.check_state(before, "in the hand-over")
    target.cmd("cont")
    source.quit()
    testbed.check_state(before, "when the guest went on")
    testbed.progress()
    testbed.check_vhost(target)
    return target


def measure(vm):
    vm.cmd("query-status")
    return fds(vm.get_pid()), rss(vm.get_pid()), kernel_objects()


def check_flat(first, last):
    problems = []
    for kind in first[0].keys() | last[0].keys():
        before, after = first[0].get(kind, 0), last[0].get(kind, 0)
        if before != after:
            problems.append(f"QEMU had {before} fds of {kind}, has {after}")
    # Allow for some MiB: a process touches more or less of its heap.
    if last[1] > 1.5 * first[1]:
        problems.append(f"QEMU had {first[1]} KiB and has {last[1]}")
    return problems + list(kernel_problems(first[2], last[2]))


def soak(testbed, migrations):
    """Return the problems that were found."""
    vm = testbed.boot()
    first = None
    start = time.monotonic()
    for number in range(1, migrations + 1):
        vm = migrate(testbed, vm)
        if number == min(WARM_UP, migrations - 1):
            first = measure(vm)
        if number % 50 == 0:
            print(f"# {number} migrations, {time.monotonic() - start:.0f} s",
                  flush=True)
    seconds = time.monotonic() - start
    last = measure(vm)
    problems = testbed.finish() + check_flat(first, last)
    vm.quit()
    print(f"# {migrations} migrations in {seconds:.0f} s, kernel state: "
          f"{'yes' if testbed.reports_state else 'no'}, vhost: "
          f"{'yes' if testbed.vhost else 'no'}")
    print(f"# QEMU: {sum(first[0].values())} fds, then "
          f"{sum(last[0].values())}; {first[1]} KiB, then {last[1]}")
    return problems


def main(work=soak, doc=__doc__, migrations=20):
    parser = testbed_parser(doc)
    parser.add_argument("--migrations", type=int, default=migrations,
                        metavar="N")
    args = parser.parse_args()

    tap = Tap()
    with Testbed(args) as testbed:
        try:
            problems = work(testbed, args.migrations)
        except ERRORS as error:
            testbed.complain(error)
            problems = [f"it ended early: {error!r}"]
    for problem in problems:
        print("# " + problem.replace("\n", "\n# "))
    tap.result(not problems, f"{args.migrations} migrations, {args.nic}, "
               f"{args.queues} queues" + (", vhost" if args.vhost else ""))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
