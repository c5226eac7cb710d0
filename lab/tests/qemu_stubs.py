#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: qemu_stubs.py      (in QEMU's build directory)

Compile the stubs that QEMU has on other systems instead of the Linux files of the
hand-over. Each stub must define all functions of its Linux file. Print TAP.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile

from tap_output import Tap

PAIRS = (("tap-kstate", "tap-kstate-stub"), ("tap-setting", "tap-setting-stub"),
         ("tap-linux", "tap-stub"))


def functions(path):
    """Return the names of the global functions of an object file."""
    out = subprocess.run(["nm", "--defined-only", "--extern-only", path],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    return {line.split()[2] for line in out.splitlines()
            if line.split()[1] == "T"}


def main():
    """Compile each stub with the arguments of its Linux file."""
    with open("compile_commands.json", encoding="utf-8") as f:
        commands = json.load(f)
    tap = Tap()
    with tempfile.TemporaryDirectory() as scratch:
        for linux, stub in PAIRS:
            command = next(c for c in commands if
                           c["file"].endswith(f"/net/{linux}.c"))
            compiled = os.path.join(scratch, f"{stub}.o")
            words = [w.replace(f"/net/{linux}.c", f"/net/{stub}.c")
                     for w in shlex.split(command["command"])]
            words[words.index("-o") + 1] = compiled
            good = subprocess.run(words, check=False).returncode == 0
            if good:
                missing = functions(command["output"]) - functions(compiled)
                good = not missing
                for name in sorted(missing):
                    print(f"# {stub}.c does not have {name}()")
            tap.result(good, f"{stub}.c instead of {linux}.c")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
