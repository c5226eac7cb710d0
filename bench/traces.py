# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of one move of a guest, from the traces of its two QEMUs."""

import glob
import os
import re

# Lines that the log backend writes with -msg timestamp=on
LINE = re.compile(r"\d+@(\d+\.\d+):(\w+) ?(.*)")
EVENTS = ("runstate_set", "migrate_set_state", "virtqueue_fill")
# A filled element of a queue to the guest has at least a vnet header and an Ethernet
# header; one of the others has a status byte or nothing.
FRAME = 26
FILL = re.compile(r"len (\d+)")
RUN_STATE = re.compile(r"\((\w[\w-]*)\) new_state \d+ \((\w[\w-]*)\)")


def options(directory):
    """Return options that have a QEMU write its trace to a file of its own."""
    result = ["-msg", "timestamp=on", "-D", os.path.join(directory, "trace-%d")]
    for event in EVENTS:
        result += ["-trace", event]
    return result


def files(directory, pid):
    return glob.glob(os.path.join(directory, f"trace-{pid}*"))


def forget(directory, keep):
    """Remove the traces of all QEMUs but one."""
    kept = files(directory, keep)
    for path in glob.glob(os.path.join(directory, "trace-*")):
        if path not in kept:
            os.unlink(path)


class Trace:
    """When a QEMU stopped, ran and read packets"""

    def __init__(self, directory, pid):
        self.stopped, self.ran, self.migrated, self.reads = [], [], [], []
        for path in files(directory, pid):
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    if match := LINE.match(line):
                        self.add(float(match[1]), match[2], match[3])

    def add(self, when, event, text):
        if event == "virtqueue_fill":
            if int(FILL.search(text)[1]) >= FRAME:
                self.reads.append(when)
        elif event == "migrate_set_state":
            if text.endswith("setup"):
                self.migrated.append(when)
        elif match := RUN_STATE.search(text):
            if match[1] == "running":
                self.stopped.append(when)
            elif match[2] == "running":
                self.ran.append(when)


def figures(directory, source, target, probe=None):
    """Return times in seconds after the stop of the source, and when that was."""
    old, new = Trace(directory, source), Trace(directory, target)
    if probe:
        old.reads, new.reads = probe.of(source), probe.of(target)
    stop = old.stopped[-1]
    result = {"stop": stop, "run": min(t for t in new.ran if t >= stop) - stop}
    if old.migrated:
        result["migrate"] = old.migrated[-1] - stop
    if before := [t for t in old.reads if t <= stop + 0.001]:
        result["last_read"] = before[-1] - stop
    if after := [t for t in new.reads if t >= stop + result["run"]]:
        result["first_read"] = after[0] - stop
    return result


def of_migration(info):
    """Return figures that QEMU itself tells."""
    result = {}
    if "downtime" in info:
        result["qemu_downtime"] = info["downtime"] / 1000
    if "ram" in info:
        result["bytes"] = info["ram"]["transferred"]
    return result


def of_traffic(report):
    """Return the fate of the numbered packets, each way."""
    result = {}
    for way, name in (report.to_guest, "to_guest"), (report.to_host, "to_host"):
        result[name] = {
            "sent": way.sent, "lost": way.lost, "duplicated": way.duplicated,
            "reordered": way.reordered, "corrupt": way.corrupt, "gap": way.gap}
    return result
