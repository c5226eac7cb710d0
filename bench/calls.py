# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls of two QEMUs while their guest is stopped, by strace."""

import os
import re
import subprocess
import time

# A line of "strace -f -ttt -y", not the end of one that was interrupted
CALL = re.compile(r"\d+ +(\d+\.\d+) (\w+)\((.*)")
ON_TUN = re.compile(r"\d+</dev/net/tun.*?>, (\w+\([^)]*\)|\w+)")
# The one ioctl of tun that does not take RTNL
WITHOUT_RTNL = "TUNGETFEATURES"


class Watch:
    """A context in which processes are traced: watch(pid)"""

    def __init__(self, directory):
        self.directory = directory
        self.tracers = {}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for tracer in self.tracers.values():
            tracer.terminate()
            tracer.wait()

    def path(self, pid):
        return os.path.join(self.directory, f"calls-{pid}")

    def watch(self, pid):
        # pylint: disable=consider-using-with
        self.tracers[pid] = subprocess.Popen(
            ["strace", "-f", "-ttt", "-y", "-qq", "-p", str(pid), "-o",
             self.path(pid)], stderr=subprocess.DEVNULL)
        while not self.attached(pid):
            time.sleep(0.01)

    @staticmethod
    def attached(pid):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as file:
                if "\nTracerPid:\t0\n" in file.read():
                    return False
        return True

    def count(self, start, end):
        """Count the calls in a time; remove the files."""
        result = {"calls": 0, "tun": 0, "rtnl": 0}
        for pid in self.tracers:
            with open(self.path(pid), encoding="utf-8", errors="replace") as file:
                for when, name, text in CALL.findall(file.read()):
                    if start <= float(when) <= end:
                        result["calls"] += 1
                        call = name == "ioctl" and ON_TUN.match(text)
                        result["tun"] += bool(call)
                        result["rtnl"] += bool(call) and call[1] != WITHOUT_RTNL
            os.unlink(self.path(pid))
        return result
