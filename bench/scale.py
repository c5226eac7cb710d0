#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Move 1, 2, 4 and 8 guests at once, by the hand-over. Write JSON.

The time of a move includes the start of the target. model.py goes on from here.
"""

import argparse
import json
import os
import sys
import time

import traces
from contenders import CONTENDERS
from hand_over import describe, maker
from workers import workers

AT_ONCE = 1, 2, 4, 8
Patched = CONTENDERS["c"]


def cpu_seconds():
    """Return the processor time that all of this machine has used so far."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, idle, iowait, *rest = map(int, file.readline().split()[1:])
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """Return the private memory of a QEMU in bytes; that of the guest is shared."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no memory")


class Crowd(Patched):
    """One of the guests that move at once"""

    def measure(self):
        start = time.time()
        figures = self.move_timed()
        figures["all"] = time.time() - start
        figures["memory"] = memory(self.guest.get_pid())
        traces.forget(self.directory, self.guest.get_pid())
        return figures


def at_once(crew):
    """Move the guests of all workers, and return the figures."""
    before, start = cpu_seconds(), time.time()
    for worker in crew:
        worker.start("measure")
    moves = [worker.result() for worker in crew]
    return {"total": time.time() - start, "cpu": cpu_seconds() - before,
            "moves": moves}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    args = parser.parse_args()
    args.rate, args.queues = 0, 4
    CONTENDERS["crowd"] = Crowd
    result = describe(args)
    result["points"] = {count: [] for count in AT_ONCE}
    with workers([maker(args, "crowd")] * max(AT_ONCE)) as crew:
        for worker in crew:
            worker.call("boot")
        for _ in range(args.rounds):
            for count in AT_ONCE:
                point = at_once(crew[:count])
                print(f"# {count} at once: {point['total']:.2f} s", flush=True)
                result["points"][count].append(point)
    path = os.path.join(os.environ["LAB_OUT"], "scale.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
