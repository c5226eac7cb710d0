#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: qemu_stubs.py      (in QEMU's build directory)

Compile the stub that QEMU has on other systems instead of the files of the
hand-over. It must define each function that the objects of tap.c and of NIC models
take from these files. Print TAP.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile

from tap_output import Tap

STUB = "tap-local-stub"
FILES = ("tap-kstate", "tap-local", "tap-pending", "tap-restore", "tap-stream")
# Files that other systems compile, too, and that call the hand-over
CALLERS = ("tap",)


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


def main():
    """Compare the stub with the files that it stands for."""
    with open("compile_commands.json", encoding="utf-8") as f:
        # The unit tests compile some of the files again.
        commands = {os.path.basename(c["file"])[:-2]: c for c in json.load(f)
                    if "/net/tap" in c["file"] and "tests/" not in c["output"]}
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
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
