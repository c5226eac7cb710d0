# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMUs to test with: start, talk QMP, hand a guest over, clean up."""

import collections
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time


class QmpError(Exception):
    """What QEMU answered instead of a result"""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['desc']}")
        self.desc = error["desc"]
        self.error_class = error["class"]


class VmError(Exception):
    pass


class MigrationFailed(VmError):
    pass


class Qmp:
    """One end of a QMP monitor's socket"""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        self.ids = itertools.count(1)
        self.replies = {}
        self.events = collections.deque()

    def negotiate(self, timeout):
        deadline = time.monotonic() + timeout
        while "QMP" not in self.replies:
            self._read(deadline, "the QMP greeting")
        return self.cmd("qmp_capabilities")

    def _read(self, deadline, what):
        """Take in one message, or more"""
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise VmError(f"timeout, waiting for {what}")
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise VmError(f"QEMU is gone, waiting for {what}")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        message = json.loads(line)
        if "event" in message:
            self.events.append(message)
        elif "QMP" in message:
            self.replies["QMP"] = message
        else:
            self.replies[message.get("id")] = message

    def cmd(self, command, timeout=60, **arguments):
        """Arguments are written with _ for -"""
        ident = next(self.ids)
        message = {"execute": command, "id": ident}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v
                                    for k, v in arguments.items()}
        try:
            self.sock.sendall(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise VmError(f"QEMU is gone, before '{command}'") from None
        deadline = time.monotonic() + timeout
        while ident not in self.replies:
            self._read(deadline, f"the reply to '{command}'")
        reply = self.replies.pop(ident)
        if "error" in reply:
            raise QmpError(command, reply["error"])
        return reply["return"]

    def event(self, *names, match=lambda data: True, timeout=60):
        """The next event of that name, of which the ones before are dropped.
        Events of other names stay."""
        deadline = time.monotonic() + timeout
        kept = collections.deque()
        try:
            while True:
                while not self.events:
                    self._read(deadline, f"event {' or '.join(names)}")
                event = self.events.popleft()
                if event["event"] not in names:
                    kept.append(event)
                elif match(event.get("data", {})):
                    return event
        finally:
            kept.extend(self.events)
            self.events = kept

    def close(self):
        self.sock.close()


def event_time(event):
    stamp = event["timestamp"]
    return stamp["seconds"] + stamp["microseconds"] / 1e6


class Vm:
    """A QEMU, its monitor and its guest's serial console

    The monitor is a socket pair, so it needs neither a path nor a retry. The
    console is QEMU's standard output. What belongs to the process ends with
    it: use as a context manager, or call close().
    """

    def __init__(self, name, args, binary="qemu-system-x86_64", log_dir=None,
                 wrapper=(), pass_fds=()):
        self.name = name
        self.args = list(args)
        self.binary = binary
        self.log_dir = log_dir
        self.wrapper = list(wrapper)
        self.pass_fds = tuple(pass_fds)
        self.console = ""
        self.stderr = ""
        self.process = None
        self.qmp = None
        self._changed = threading.Condition()
        self._readers = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    @property
    def pid(self):
        return self.process.pid

    def start(self, timeout=60):
        ours, theirs = socket.socketpair()
        with theirs:
            command = [
                *self.wrapper, self.binary, "-nodefaults", "-no-user-config",
                "-display", "none", "-name", self.name,
                "-chardev", f"socket,id=qmp,fd={theirs.fileno()}",
                "-mon", "chardev=qmp,mode=control",
                "-chardev", "stdio,id=console,signal=off",
                "-serial", "chardev:console", *self.args]
            self.qmp = Qmp(ours)
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, start_new_session=True,
                pass_fds=(theirs.fileno(), *self.pass_fds))
        for attribute in ("console", "stderr"):
            stream = self.process.stdout if attribute == "console" \
                else self.process.stderr
            reader = threading.Thread(target=self._follow,
                                      args=(stream, attribute), daemon=True)
            reader.start()
            self._readers.append(reader)
        try:
            self.qmp.negotiate(timeout)
        except VmError as error:
            raise self.failed(str(error)) from None
        return self

    def _follow(self, stream, attribute):
        log = None
        if self.log_dir:
            path = os.path.join(self.log_dir, f"{self.name}.{attribute}.log")
            log = open(path, "w", encoding="utf-8")
        while data := os.read(stream.fileno(), 65536):
            text = data.decode(errors="replace")
            with self._changed:
                setattr(self, attribute, getattr(self, attribute) + text)
                self._changed.notify_all()
            if log:
                log.write(text)
                log.flush()
        if log:
            log.close()
        with self._changed:
            stream.close()
            self._changed.notify_all()

    def failed(self, what):
        """An exception that says all there is to know"""
        text = f"{self.name}: {what}"
        if self.process.poll() is not None:
            for reader in self._readers:
                reader.join()
            text += f" (exit status {self.process.returncode})"
        for title, output in (("QEMU", self.stderr), ("console", self.console)):
            lines = output.strip().splitlines()[-15:]
            if lines:
                text += "".join(f"\n  {title}: {line}" for line in lines)
        return VmError(text)

    def cmd(self, command, **kwargs):
        try:
            return self.qmp.cmd(command, **kwargs)
        except VmError as error:
            raise self.failed(str(error)) from None

    def event(self, *names, **kwargs):
        try:
            return self.qmp.event(*names, **kwargs)
        except VmError as error:
            raise self.failed(str(error)) from None

    def wait_console(self, pattern, timeout=120):
        """Until the guest printed something that matches"""
        with self._changed:
            found = self._changed.wait_for(
                lambda: re.search(pattern, self.console) or
                self.process.stdout.closed, timeout)
            match = re.search(pattern, self.console)
        if match:
            return match
        raise self.failed("ended" if found else
                          f"no '{pattern}' on the console in {timeout} s")

    def wait(self, timeout=60):
        """Until QEMU ended; its exit status"""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.failed(f"did not end in {timeout} s") from None

    def quit(self):
        """End QEMU in an orderly way, so that its clean-up is tested too"""
        self.cmd("quit")
        if status := self.wait():
            raise self.failed(f"quit with exit status {status}")
        self.close()

    def close(self):
        if self.process and self.process.poll() is None:
            # With a wrapper there are two; the session is ours alone
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for reader in self._readers:
            reader.join()
        if self.qmp:
            self.qmp.close()


def set_up_migration(vm, local=True):
    vm.cmd("migrate-set-capabilities", capabilities=[
        {"capability": "events", "state": True},
        {"capability": "x-ignore-shared", "state": True}])
    if local:
        vm.cmd("migrate-set-parameters", local=True)


def wait_migration(vm, timeout=60):
    event = vm.event(
        "MIGRATION", timeout=timeout,
        match=lambda data: data["status"] in ("completed", "failed"))
    if event["data"]["status"] == "failed":
        reason = vm.cmd("query-migrate").get("error-desc", "no reason given")
        raise MigrationFailed(f"{vm.name}: migration failed: {reason}")


def hand_over(source, target, path, timeout=60):
    """Migrate over a UNIX socket, with the guest's memory shared. After that,
    both are stopped, and 'cont' on the target continues."""
    for vm in source, target:
        set_up_migration(vm)
    target.cmd("migrate-incoming", uri=f"unix:{path}")
    source.cmd("migrate", uri=f"unix:{path}")
    for vm in source, target:
        wait_migration(vm, timeout)
