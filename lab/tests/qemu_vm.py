# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU processes of the tests, built on QEMU's own qemu.machine."""

import contextlib
import os
import re
import signal
import subprocess
import time

from qemu.machine import QEMUMachine
from qemu.machine.machine import QEMUMachineError
from qemu.qmp.error import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

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


class UpdatableVm:
    """A guest whose QEMU "tapstate update" may replace by another process

    Its QMP socket serves one client at a time: connect for each command.
    """

    def __init__(self, name, args, log_dir, binary="qemu-system-x86_64",
                 run_dir=None):
        self.name = name
        base = os.path.join(log_dir, name)
        self.socket = os.path.join(run_dir or log_dir, f"{name}.qmp")
        self.pid_file = os.path.join(run_dir or log_dir, f"{name}.pid")
        self.console_path = f"{base}.console.log"
        self.log_path = f"{base}.log"
        self.args = [
            binary, "-nodefaults", "-no-user-config", "-display", "none",
            "-name", name, "-pidfile", self.pid_file,
            "-qmp", f"unix:{self.socket},server=on,wait=off",
            "-serial", f"file:{self.console_path}", *args]
        self.popen = None

    def start(self, *prefix, **options):
        """Start QEMU by a command, and wait until it has its QMP socket."""
        with open(self.log_path, "ab") as log:
            # pylint: disable=consider-using-with
            self.popen = subprocess.Popen(
                [*prefix, *self.args], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, **options)
        deadline = time.monotonic() + ANSWER
        while not os.path.exists(self.pid_file) or not self.try_cmd(
                "query-status"):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise VmError("\n".join(self.last_words()))
            time.sleep(0.02)
        return self

    def cmd(self, name, /, **args):
        """Run a QMP command."""
        qmp = QEMUMonitorProtocol(self.socket)
        try:
            qmp.settimeout(ANSWER)
            qmp.connect()
            return qmp.cmd(name, **args)
        finally:
            with contextlib.suppress(QMPError, OSError, EOFError):
                qmp.close()

    def try_cmd(self, name, /, **args):
        """Run a QMP command, and return None if nobody answers."""
        try:
            return self.cmd(name, **args)
        except (QMPError, OSError, EOFError):
            return None

    def get_pid(self):
        """Return the process that runs the guest now, by its pidfile."""
        with open(self.pid_file, encoding="ascii") as file:
            return int(file.read())

    def is_running(self):
        """Return whether a process has the guest."""
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{self.get_pid()}/stat", encoding="ascii") as stat:
                return stat.read().rpartition(")")[2].split()[0] not in "ZX"
        return False

    def signal(self, number):
        """Send a signal to the process that runs the guest."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.get_pid(), number)

    def wait_end(self):
        """Wait until no process has the guest, and reap the first one."""
        deadline = time.monotonic() + ANSWER
        while self.is_running() and time.monotonic() < deadline:
            if self.popen:
                self.popen.poll()
            time.sleep(0.02)
        if self.is_running():
            raise VmError(f"{self.name} does not end")
        if self.popen:
            self.popen.poll()

    def quit(self):
        """End QEMU in order."""
        self.cmd("quit")
        self.wait_end()

    def kill(self):
        """End QEMU at once."""
        self.signal(signal.SIGKILL)
        if self.popen and self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()

    console = Vm.console
    wait_console = Vm.wait_console
    last_words = Vm.last_words


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
