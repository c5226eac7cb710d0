#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Live-update a guest twice under traffic ('make demo').

The exit status is 0 only if the kernel's state of the TAP is the same after each
update as before it, and if every packet arrived once and in order.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time

from testbed import (DEV, ERRORS, GUEST, Testbed, TestbedError, run,
                     testbed_parser)
from traffic import link


# Port of the guest's counters
COUNTERS_PORT = 7002


def guest_counters():
    """Return the guest's interrupts by queue, and the drops of its eth0."""
    with socket.create_connection((GUEST, COUNTERS_PORT), 60) as sock:
        text = sock.makefile().read()
    interrupts = {
        (way, int(queue)): sum(map(int, counts.split()))
        for counts, way, queue in re.findall(
            r"^/proc/interrupts: *\d+:([ \d]+) .*-(input|output)\.(\d+)$",
            text, re.MULTILINE)}
    drops = re.findall(r"_(?:dropped|errors):(\d+)$", text, re.MULTILINE)
    return interrupts, sum(map(int, drops))


def set_what_differs():
    """Give the TAP values other than the defaults.

    A value that nobody set proves nothing when it comes out the same.
    """
    run("ethtool", "-C", DEV, "rx-frames", "8")
    run("ethtool", "-s", DEV, "msglvl", "0x4000")


class Demo:
    def __init__(self, testbed):
        self.start = time.monotonic()
        self.testbed = testbed
        self.problems = []
        self.moments = []

    def say(self, text):
        print(f"[{time.monotonic() - self.start:6.1f} s] {text}", flush=True)

    def state(self, name):
        text = run("tapstate", "show", "-j", DEV)
        path = os.path.join(self.testbed.logs, f"{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path, json.loads(text)

    def compare(self, before, after):
        result = subprocess.run(
            ["tapstate", "diff", "--device", before, after],
            stdout=subprocess.PIPE, text=True)
        if result.returncode > 1:
            raise TestbedError("tapstate diff failed")
        print("\n".join("    " + line for line in
                        result.stdout.splitlines()), flush=True)
        if result.returncode:
            self.problems.append(
                f"the state changed: {os.path.basename(before)}, "
                f"{os.path.basename(after)}")

    def check_holders(self, vm):
        """Check that this QEMU, and no other, has the queues."""
        _, state = self.state(f"held-by-{vm.name}")
        holders = [[h["pid"] for h in q["held_by"]] for q in state["queues"]]
        if holders != [[vm.get_pid()]] * self.testbed.queues:
            self.problems.append(f"{vm.name} does not hold every queue alone: "
                                 f"{holders}, it is {vm.get_pid()}")

    def hop(self, number, vm):
        before, _ = self.state(f"hop{number}-before")
        command = ["tapstate", "update", "--qmp", vm.socket]
        self.say(f"update {number}: {' '.join(command)}")
        start = time.time()
        subprocess.run([*command, "--quiet"], check=True)
        self.moments += [(start, f"the start of update {number}"),
                         (time.time(), f"the end of update {number}")]
        self.say(f"process {vm.get_pid()} runs the guest now")

        self.testbed.traffic.wait_progress(2 * self.testbed.rate)
        self.check_holders(vm)
        after, _ = self.state(f"hop{number}-after")
        self.say(f"kernel state of {DEV} before and after update {number}:")
        self.compare(before, after)

    def check_queues(self, before, after):
        """Check that each queue had traffic: an idle one proves nothing."""
        for way, name in ("rx", "input"), ("tx", "output"):
            counts = [after[queue] - before[queue] for queue in sorted(after)
                      if queue[0] == name]
            print(f"    interrupts of the guest's {way} queues:",
                  *counts, flush=True)
            if len(counts) != self.testbed.queues or not all(counts):
                self.problems.append(f"not every {way} queue had traffic")

    def explain_missing(self, report):
        for number, when in report.missing:
            near = min(self.moments, key=lambda m: abs(m[0] - when))
            self.problems.append(
                f"packet {number} to the guest is missing; it was sent "
                f"{(when - near[0]) * 1000:+.0f} ms from {near[1]}")

    def explain_drops(self, guest_drops):
        """Name the drops of the devices at either end, if any.

        Drops of the TAP the other way say nothing: nobody on the host listens
        to the RARP by which QEMU announces a guest.
        """
        if self.problems and guest_drops:
            self.problems.append(
                f"the guest's eth0 dropped {guest_drops} packets itself")
        dropped = link(DEV).tx_dropped - self.dropped
        if self.problems and dropped:
            self.problems.append(f"{DEV} dropped {dropped} packets on their "
                                 "way to the guest itself")

    def run(self):
        bed = self.testbed
        self.say(f"making {DEV}, {bed.queues} queues, with an owner, an MTU, and "
                 "more that is not the default")
        bed.make_tap("user", "65534", "group", "65534")
        set_what_differs()
        self.say("starting QEMU, the guest boots")
        vm = bed.start_guest(",sndbuf=1048576", kind=bed.updatable)
        traffic = bed.traffic
        interrupts, _ = guest_counters()
        traffic.start()
        self.say(f"the guest of {vm.name} (pid {vm.get_pid()}) is up; {bed.rate} "
                 "numbered UDP packets per second each way, in "
                 f"{traffic.flows} flows each way, and a ping")
        self.dropped = link(DEV).tx_dropped
        traffic.wait_progress(2 * bed.rate)

        self.hop(1, vm)
        self.hop(2, vm)

        self.say("stopping the traffic, letting everything arrive")
        report = traffic.finish()
        self.say("packets:")
        print("\n".join("    " + line for line in
                        report.table().splitlines()), flush=True)
        self.problems += report.problems()
        after, guest_drops = guest_counters()
        self.check_queues(interrupts, after)
        self.explain_missing(report)
        self.explain_drops(guest_drops)
        vm.quit()
        return report


def main():
    args = testbed_parser(__doc__).parse_args()

    for variable in "LAB_GUEST_KERNEL", "LAB_GUEST_INITRD":
        if variable not in os.environ:
            sys.exit(f"demo: {variable} is not set: this runs in the lab, as "
                     "'make demo'")

    with Testbed(args) as testbed:
        demo = Demo(testbed)
        try:
            report = demo.run()
        except (*ERRORS, subprocess.CalledProcessError) as error:
            testbed.complain(error)
            print(f"demo: failed: {error}", flush=True)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)

    if demo.problems:
        for problem in demo.problems:
            print(f"demo: {problem}", flush=True)
        print("demo: failed", flush=True)
        sys.exit(1)
    longest = max(report.to_guest.gap, report.to_host.gap)
    print("demo: 2 updates, state exact, "
          f"{report.to_guest.sent} packets each way, 0 lost, 0 duplicated, "
          f"0 reordered, longest gap {longest * 1000:.0f} ms")


if __name__ == "__main__":
    main()
