#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Live-update a guest that reconfigures its NIC all the time. Print TAP.

The guest changes queues and offloads, and unbinds and binds the driver. Every fifth
target refuses. Each step of the guest succeeds, and it goes on after each attempt.
At the end the TAP is as after the same changes without a migration, no packet gets
lost any more, and nothing is left behind.
"""

import os
import socket
import sys
import time

from qemu_vm import hand_over
from rollback import KernelState, LaterSection, OtherName, Reverted, go_on
from soak import WARM_UP, check_flat, main, measure, migrate
from testbed import GUEST, HOST, TestbedError
from traffic import Stream, Traffic

# Port of lab/guest/init: a connection starts or ends the changes.
PORT = 7003
# Steps of one round of changes there
ROUND = 7
REFUSALS = OtherName, LaterSection, KernelState, Reverted
TIMEOUT = 120


def knock():
    socket.create_connection((GUEST, PORT), TIMEOUT).close()


def wait_steps(vm, count):
    """Wait until the guest has come to as many steps more."""
    def steps():
        return vm.console().count("tapstate guest: ")

    count += steps()
    deadline = time.monotonic() + TIMEOUT
    while steps() < count:
        if time.monotonic() > deadline:
            raise TestbedError(f"{vm.name}: the guest hangs in "
                               f"{vm.console().splitlines()[-1:]}")
        time.sleep(0.02)
    if "tapstate guest: failed" in vm.console():
        raise TestbedError(f"{vm.name}: a step of the guest failed")


def settle(vm):
    """Have the guest stop the changes, always with the same settings."""
    knock()
    vm.wait_console("tapstate guest: quiet")


def attempt(testbed, source, refusal):
    """Return the QEMU that runs the guest after an attempt to hand over."""
    target = testbed.target(refusal and refusal.netdev())
    if refusal:
        refusal.attempt(source, target)
        go_on(source)
        target.kill()
        source.get_qmp_events()
        return source
    hand_over(source, target, os.path.join(testbed.directory, "migrate"))
    target.cmd("cont")
    source.quit()
    return target


def reconfigure(testbed, migrations):
    """Return the problems that were found."""
    vm = testbed.boot()
    # Have the guest settle without a migration first.
    knock()
    wait_steps(vm, ROUND)
    settle(vm)
    state = testbed.state()
    for _ in range(WARM_UP):
        vm = migrate(testbed, vm)
    first = measure(vm)

    knock()
    for number in range(1, migrations + 1):
        refusal = None
        if number % 5 == 0:
            refusal = REFUSALS[number // 5 % len(REFUSALS)](testbed)
        # Stop the guest in another step each time.
        wait_steps(vm, 1 + number % ROUND)
        vm = attempt(testbed, vm, refusal)
        wait_steps(vm, ROUND)
    settle(vm)
    testbed.check_state(state, "for good")

    # Packets to a NIC without driver are lost: count afresh.
    for end in testbed.stream, testbed.traffic:
        end.close()
    testbed.traffic, testbed.stream = \
        Traffic(HOST, GUEST, testbed.rate), Stream(GUEST)
    for end in testbed.stream, testbed.traffic:
        end.start()
    vm = migrate(testbed, vm)
    problems = testbed.finish() + check_flat(first, measure(vm))
    vm.quit()
    return problems


if __name__ == "__main__":
    sys.exit(main(reconfigure, __doc__, 50))
