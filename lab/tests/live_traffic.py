#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Load and remove the live patch under the traffic of a guest with vhost. Print TAP.

A thread calls TUNGETSTATE all the time, on a queue of the guest's QEMU. Not a packet may
be missing, and the state stays what it was. Run it in the lab VM with --stock.
"""

import contextlib
import ctypes
import os
import sys

import live
from tap_output import Tap
from testbed import ERRORS, Testbed, TestbedError, testbed_parser

SYS_PIDFD_GETFD = 438


def queue_of(pid):
    """Return a copy of a queue's descriptor of a process."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/net/tun":
                pidfd = os.pidfd_open(pid)
                libc = ctypes.CDLL(None, use_errno=True)
                copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(fd), 0)
                os.close(pidfd)
                if copy >= 0:
                    return copy
    raise TestbedError(f"process {pid} has no queue")


def load_and_remove(testbed, cycles):
    """Return the problems that were found."""
    vm = testbed.boot()
    testbed.check_vhost(vm)
    fd = queue_of(vm.get_pid())
    live.load()
    testbed.reports_state = True
    before = testbed.state()
    gets = live.Gets(fd, live.steady(live.state(fd)))
    try:
        for number in range(1, cycles + 1):
            gets.wait_for_more()
            testbed.check_state(before, f"before removal {number}")
            live.remove()
            testbed.progress()
            live.load()
        testbed.check_state(before, "at the end")
    finally:
        gets.finish()
    problems = testbed.finish() + gets.wrong[:5]
    print(f"# TUNGETSTATE: {gets.known} answers, {gets.unknown} times not there")
    if not gets.unknown:
        problems.append("TUNGETSTATE was always there")
    vm.quit()
    os.close(fd)
    live.remove()
    return problems


def main():
    parser = testbed_parser(__doc__)
    parser.add_argument("--cycles", type=int, default=50, metavar="N")
    parser.set_defaults(vhost=True)
    args = parser.parse_args()

    tap = Tap()
    with Testbed(args) as testbed:
        try:
            problems = load_and_remove(testbed, args.cycles)
        except (*ERRORS, OSError) as error:
            testbed.complain(error)
            problems = [f"it ended early: {error!r}"]
    for problem in problems:
        print("# " + problem.replace("\n", "\n# "))
    tap.result(not problems, f"{args.cycles} times loaded and removed under traffic, "
               f"{args.queues} queues, vhost")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
