#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Update a guest by "tapstate update" many times under traffic. Print TAP.

In every tenth update the tool or the target is killed at a random moment before
the target runs the guest, or the source after the target has all of it. Then
"tapstate update --resume" ends the update. Not a packet may be missing.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

from qemu_vm import UpdatableVm
from soak import main
from testbed import TestbedError

KILLED = "tool", "target", "source"
# System calls of the tool in an update; more than it makes does no harm
CALLS = 60


def running(path):
    """Return whether the QEMU at a QMP socket runs the guest."""
    vm = UpdatableVm("", [], "")
    vm.socket = path
    status = vm.try_cmd("query-status")
    return bool(status and status["running"])


def tool(*args):
    return subprocess.run(["tapstate", "update", *args], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=120)


def update(vm):
    result = tool("--json", "--qmp", vm.socket)
    if result.returncode:
        raise TestbedError(f"tapstate update: {result.stdout}")
    return json.loads(result.stdout.splitlines()[-1])


def journal(vm):
    """Return the journal of an update that goes on, or None."""
    try:
        with open(f"{vm.socket}.tapstate", encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def kill_tool(vm):
    """Kill the tool at a random one of its actions."""
    calls = "sendmsg,sendto,rename,link,unlink"
    subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e",
         f"inject={calls}:signal=KILL:when={random.randint(1, CALLS)}",
         "--", "tapstate", "update", "--qmp", vm.socket], check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)


def kill_qemu(vm, side, phase):
    """Kill a QEMU when the journal has got to a phase."""
    # pylint: disable=consider-using-with
    popen = subprocess.Popen(["tapstate", "update", "--qmp", vm.socket],
                             stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    while popen.poll() is None:
        found = journal(vm)
        if found and found[side] and found["phase"] == phase:
            os.kill(found[side], signal.SIGKILL)
            break
    popen.wait()


def disturb(vm, number):
    """Kill one of the three, and end the update; return what was killed."""
    which = KILLED[number % len(KILLED)]
    if which == "tool":
        kill_tool(vm)
    else:
        kill_qemu(vm, which, "run" if which == "source" else "start")
    found = journal(vm)
    if found:
        sides = [m[end] for m in found["moves"][:1] for end in ("from", "to")]
        if sum(map(running, sides)) > 1 and not found["phase"] == "run":
            raise TestbedError("both QEMUs run the guest")
        result = tool("--resume", "--qmp", vm.socket)
        if result.returncode not in (0, 1):
            raise TestbedError(f"tapstate update --resume: {result.stdout}")
    if not running(vm.socket):
        raise TestbedError(f"the guest does not run: {which} was killed")
    return which


def soak(testbed, updates):
    """Return the problems that were found."""
    vm = testbed.boot(kind=testbed.updatable)
    killed, downtimes, stayed = [], [], 0
    start = time.monotonic()
    for number in range(1, updates + 1):
        pid, before = vm.get_pid(), testbed.state()
        if number % 10:
            downtimes.append(update(vm)["downtime-ms"])
        else:
            killed.append(disturb(vm, number // 10))
            stayed += vm.get_pid() == pid
        testbed.check_state(before, f"in update {number}")
        if os.path.exists(f"/proc/{pid}/exe") and vm.get_pid() != pid:
            raise TestbedError(f"update {number}: process {pid} is left")
        testbed.progress()
        testbed.check_vhost(vm)
    print(f"# {updates} updates in {time.monotonic() - start:.0f} s; killed: "
          f"{', '.join(f'{killed.count(k)} {k}' for k in KILLED)}; {stayed} went "
          f"back; downtime: median {sorted(downtimes)[len(downtimes) // 2]:.1f} ms")
    problems = testbed.finish()
    vm.quit()
    return problems


if __name__ == "__main__":
    sys.exit(main(soak, __doc__, 30))
