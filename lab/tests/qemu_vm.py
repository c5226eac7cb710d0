# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU processes of the tests, built on QEMU's own qemu.machine."""

import os
import re
import time

from qemu.machine import QEMUMachine
from qemu.machine.machine import QEMUMachineError
from qemu.qmp.error import QMPError

# Seconds for the answer to a command
ANSWER = 60


class VmError(Exception):
    pass


# Exceptions that the methods of Vm raise
ERRORS = (VmError, QEMUMachineError, QMPError, OSError)


class Vm(QEMUMachine):
    """A QEMU whose guest's serial console goes to a file

    Both that file and QEMU's own output are in the log directory, as
    NAME.console.log and NAME.log.
    """

    def __init__(self, name, args, log_dir, binary="qemu-system-x86_64"):
        self.name = name
        self.console_path = os.path.join(log_dir, f"{name}.console.log")
        super().__init__(binary, [
            "-nodefaults", "-no-user-config", "-name", name,
            "-serial", f"file:{self.console_path}", *args],
            name=name, log_dir=log_dir)

    def start(self):
        """Launch QEMU, and give up on commands that it does not answer."""
        self.launch()
        self._qmp.settimeout(ANSWER)
        return self

    def console(self):
        """Return the output of the guest's serial console."""
        try:
            with open(self.console_path, errors="replace",
                      encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def wait_console(self, pattern, timeout=120):
        """Wait until the guest has printed a match of PATTERN."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.console()):
            if not self.is_running():
                raise VmError(f"{self.name} ended")
            if time.monotonic() > deadline:
                raise VmError(f"{self.name}: no '{pattern}' on the console in "
                              f"{timeout} s")
            time.sleep(0.05)

    def event(self, name, *matches, timeout=60):
        """Wait for an event that has the members of one of MATCHES, if given.

        Other events stay queued.
        """
        try:
            return self.events_wait([(name, match) for match in matches or (None,)],
                                    timeout)
        except TimeoutError:
            raise VmError(f"{self.name}: no event {name} in {timeout} s") from None

    def quit(self):
        """End QEMU in order, so that its clean-up is tested, too."""
        self.shutdown(timeout=ANSWER)
        if self.exitcode():
            raise VmError(f"{self.name} quit with exit status {self.exitcode()}")

    def last_words(self, lines=15):
        """Yield the last lines of QEMU's output and of the console."""
        for path in self.console_path.replace(".console", ""), self.console_path:
            if os.path.exists(path):
                with open(path, errors="replace", encoding="utf-8") as file:
                    for line in file.read().splitlines()[-lines:]:
                        yield f"{os.path.basename(path)}: {line}"


def event_time(event):
    stamp = event["timestamp"]
    return stamp["seconds"] + stamp["microseconds"] / 1e6


def set_up_migration(vm, local=True):
    vm.cmd("migrate-set-capabilities", capabilities=[
        {"capability": "events", "state": True},
        {"capability": "x-ignore-shared", "state": True}])
    if local:
        vm.cmd("migrate-set-parameters", local=True)


def wait_migration(vm, timeout=60):
    """Wait until a migration has completed; raise VmError if it has failed."""
    event = vm.event("MIGRATION", *({"data": {"status": status}}
                                    for status in ("completed", "failed")),
                     timeout=timeout)
    if event["data"]["status"] == "failed":
        reason = vm.cmd("query-migrate").get("error-desc", "no reason given")
        raise VmError(f"{vm.name}: migration failed: {reason}")


def hand_over(source, target, path, timeout=60):
    """Migrate through a UNIX socket, with the guest's memory shared.

    Both are stopped after that, and "cont" on the target continues the guest.
    """
    for vm in source, target:
        set_up_migration(vm)
    target.cmd("migrate-incoming", uri=f"unix:{path}")
    source.cmd("migrate", uri=f"unix:{path}")
    for vm in source, target:
        wait_migration(vm, timeout)
