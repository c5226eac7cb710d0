# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that tests run, and events that they wait for"""

import subprocess
import time


def run(*command, status=0, timeout=300):
    """Run a command, which must end with this status; return what it wrote."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.STDOUT, timeout=timeout, check=False)
    if result.returncode != status:
        raise AssertionError(f"{command}: status {result.returncode}: "
                             f"{result.stdout}")
    return result.stdout


def wait(condition, what, seconds=60):
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not in {seconds} s")
        time.sleep(0.05)
