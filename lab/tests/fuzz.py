#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: fuzz.py FUZZER DIRECTORY [RUNS [SEED]]

Run tap-local-fuzz, which "lab/build/qemu fuzz" builds, on inputs made from the
seeds of tap-local-seeds.py. Inputs vary a little even with one SEED. Write the
fuzzer's output and a failing input to DIRECTORY. Start it with lab/run-on-host.
Print TAP.
"""

import os
import re
import subprocess
import sys
import tempfile

from tap_output import Tap

FUZZ = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "../../qemu/tests/fuzz")
RUNS = 600000
LINES = 60      # of the output of a failing run

# Stop at the first report of UBSan. Use addr2line: there is no llvm-symbolizer.
ENV = dict(os.environ, ASAN_OPTIONS="print_legend=0:"
           "external_symbolizer_path=/usr/bin/addr2line",
           UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")


def run(command, path):
    """Return the exit status and the output, and keep the output in a file."""
    with open(path, "wb") as log:
        status = subprocess.run(command, env=ENV, check=False, stdout=log,
                                stderr=log, stdin=subprocess.DEVNULL)
    with open(path, encoding="utf-8", errors="replace") as log:
        return status.returncode, log.read()


def number(pattern, output):
    """Return the last match of PATTERN, a number, in libFuzzer's output."""
    found = re.findall(pattern, output, re.MULTILINE)
    return int(found[-1]) if found else 0


def main():
    """Run the fuzzer and print one result."""
    fuzzer, directory, *numbers = sys.argv[1:]
    runs, seed = [int(n) for n in numbers] + [RUNS, 1][len(numbers):]
    with tempfile.TemporaryDirectory() as corpus:
        subprocess.run([sys.executable, f"{FUZZ}/tap-local-seeds.py", corpus],
                       check=True)
        # Close stderr: QEMU refuses nearly all inputs and would say why.
        status, output = run(
            [fuzzer, f"-runs={runs}", f"-seed={seed}", "-keep_seed=1",
             f"-dict={FUZZ}/tap-local-fuzz.dict", "-close_fd_mask=2",
             "-timeout=60", "-print_final_stats=1",
             f"-artifact_prefix={directory}/", corpus],
            f"{directory}/fuzz.log")
    done = number(r"^Done (\d+) runs in ", output)
    added = number(r"^stat::new_units_added: +(\d+)$", output)
    tap = Tap()
    # A fuzzer that adds no input does not see the code's coverage.
    if not status and done == runs and added:
        tap.result(True, f"{done} runs of the fuzzer found nothing")
        return tap.end()

    why = (f"the fuzzer failed: exit status {status}, {done} of {runs} runs, "
           f"{added} inputs added")
    found = re.search(r"Test unit written to (\S+)$", output, re.MULTILINE)
    if found:
        done = number(r"^stat::number_of_executed_units: +(\d+)$", output)
        why = f"the fuzzer found a fault after {done} runs: {found[1]}"
        # Run the failing input again, with QEMU's messages.
        again, replayed = run([fuzzer, found[1]], f"{directory}/replay.log")
        if again:
            output = replayed
        else:
            why += ", which does nothing on its own"
    for line in output.splitlines()[-LINES:]:
        print(f"# {line}")
    tap.result(False, why)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
