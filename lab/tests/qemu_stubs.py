#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: qemu_stubs.py      (in QEMU's build directory)

Compile the stub that QEMU has on other systems instead of the files of the
hand-over. It must define each function that the objects of tap.c and of NIC models
take from these files. The options of the hand-over must not exist there. Print TAP.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

from tap_output import Tap

STUB = "tap-local-stub"
FILES = ("tap-kstate", "tap-local", "tap-pending", "tap-restore", "tap-shared",
         "tap-stream")
# Files that other systems compile, too, and that call the hand-over
CALLERS = ("tap",)
# Options of -netdev tap, which QEMU refuses if they are unknown
OPTIONS = ("cpr", "incoming-fds", "kernel-state", "local-migration-supported",
           "shared-fds", "x-permit-local-migration")


def symbols(path, kinds):
    """Return the names of an object file's global symbols of certain kinds."""
    out = subprocess.run(["nm", "--extern-only", path], check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    return {line.split()[-1] for line in out.splitlines()
            if line.split()[-2] in kinds}


def compile_stub(command, scratch):
    """Compile the stub with the arguments of tap-local.c; return its object file."""
    compiled = os.path.join(scratch, f"{STUB}.o")
    words = [word.replace("/net/tap-local.c", f"/net/{STUB}.c")
             for word in shlex.split(command["command"])]
    words[words.index("-o") + 1] = compiled
    if subprocess.run(words, check=False).returncode:
        return None
    return compiled


def names_in(command, scratch):
    """Return the strings in a file of QEMU, on Linux and on other systems."""
    with open("config-host.h", encoding="utf-8") as f:
        config = f.read()
    found = []
    for define in "#define CONFIG_LINUX", "#undef CONFIG_LINUX":
        with open(os.path.join(scratch, "config-host.h"), "w", encoding="utf-8") as f:
            f.write(config.replace("#define CONFIG_LINUX", define))
        words = shlex.split(command["command"])
        words[words.index("-c")] = "-E"
        words[words.index("-o") + 1] = "-"
        words[words.index("-MF") + 1] = os.devnull
        at = words.index("-iquote")
        words[at:at] = ["-iquote", scratch]
        out = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        found.append(set(re.findall(r'"([^"\n]+)"', out.stdout)))
    return found


def main():
    """Compare the stub with the files that it stands for."""
    with open("compile_commands.json", encoding="utf-8") as f:
        everything = json.load(f)
    # The unit tests compile some of the files again.
    commands = {os.path.basename(c["file"])[:-2]: c for c in everything
                if "/net/tap" in c["file"] and "tests/" not in c["output"]}
    visit = next(c for c in everything if c["file"].endswith("qapi-visit-net.c"))
    tap = Tap()
    defined = set()
    for name in FILES:
        defined |= symbols(commands[name]["output"], "T")
    called = set()
    for name in CALLERS:
        called |= symbols(commands[name]["output"], "U")
    needed = defined & called
    with tempfile.TemporaryDirectory() as scratch:
        stub = compile_stub(commands["tap-local"], scratch)
        tap.result(bool(stub), f"{STUB}.c compiles")
        functions = symbols(stub, "T") if stub else set()
        for name in sorted(needed - functions):
            print(f"# {STUB}.c does not have {name}()")
        for name in sorted(functions - needed):
            print(f"# tap.c does not call {name}() of {STUB}.c")
        tap.result(len(needed) > 10 and functions == needed,
                   f"{STUB}.c has what tap.c calls, and nothing else")
        linux, others = names_in(visit, scratch)
        for name in sorted(others.intersection(OPTIONS)):
            print(f"# {name}= is an option on other systems, too")
        tap.result(linux.issuperset((*OPTIONS, "poll-us")) and "poll-us" in others and
                   others.isdisjoint(OPTIONS),
                   "the options of the hand-over are unknown on other systems")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
