#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure "tapstate list" with 1,000 TAPs and "show" of 256 queues. Write JSON."""

import json
import os
import re
import resource
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../qemu/tests/functional/x86_64"))

import tap_local_uapi as uapi
from tap_local_queue import open_tap

REPEATS = 5


def system_calls(command):
    """Return how many system calls a command makes."""
    path = "/tmp/calls"
    subprocess.run(["strace", "-f", "-qq", "-c", "-o", path, "--", *command],
                   check=True, stdout=subprocess.DEVNULL)
    with open(path, encoding="ascii") as file:
        total = re.search(r"^\s*100\.00\s.*total$", file.read(), re.M)[0].split()
    return int(total[3])


def cpu_time(command):
    """Return the processor time of a command in seconds, and its memory in bytes."""
    # pylint: disable=consider-using-with
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def measure(what, *command):
    times, memory = zip(*(cpu_time(command) for _ in range(REPEATS)))
    return {"what": what, "calls": system_calls(command), "cpu": min(times),
            "memory": max(memory)}


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
    flags = uapi.IFF_VNET_HDR | uapi.IFF_MULTI_QUEUE
    fds = [open_tap("wide", flags) for _ in range(256)]
    result = [measure("tapstate list, 1 TAP of 256 queues", "tapstate", "list"),
              measure("tapstate show, 256 queues", "tapstate", "show", "wide")]
    fds += [open_tap(f"crowd{n}", flags) for n in range(999)]
    result.append(measure("tapstate list, 1,000 TAPs", "tapstate", "list"))
    for fd in fds:
        os.close(fd)
    path = os.path.join(os.environ["LAB_OUT"], "tool.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
