#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Let hand-overs fail at every point, with a guest under traffic. Print TAP.

After each failure the source runs, the TAP has the state it had, packets flow, and
the next attempt succeeds. At the end no packet is missing. lab/run-on-host runs
this, too, without the kernel's state.
"""

import errno
import os
import re
import resource
import signal
import sys
import threading
import time

from testbed import (ERRORS, Testbed, TestbedError, kernel_objects,
                     kernel_problems, testbed_parser)
from tap_output import Tap
from qemu_vm import hand_over, set_up_migration, wait_migration

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../../qemu/tests/functional/x86_64"))
# pylint: disable=wrong-import-position
from tap_local_proxy import FdProxy  # noqa: E402
from tap_local_uapi import offset_of  # noqa: E402


def until(condition, what, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"timeout, waiting until {what}")
        time.sleep(0.02)


def status(vm):
    return vm.cmd("query-status")["status"]


def migrate_status(vm):
    return vm.cmd("query-migrate").get("status")


def tap_fds(vm):
    path = f"/proc/{vm.get_pid()}/fd"
    return sum(os.readlink(f"{path}/{fd}") == "/dev/net/tun"
               for fd in os.listdir(path))


class Failure:
    """Base class of failing attempts; subclasses say where and how they fail

    attempt() returns when the source has ended the migration.
    """

    reason = "."            # pattern of the target's error
    return_path = False     # does the target answer the source?

    def __init__(self, testbed):
        self.testbed = testbed
        self.queues = testbed.queues

    def netdev(self):
        """Return wrong options of the target, or None."""

    def tamper(self, stream, target):
        """Change the stream; see tamper of FdProxy."""

    def sent(self, target):
        """Act when the target was sent its part of the stream."""

    def meanwhile(self, source, target):
        """Act while the migration is under way."""

    def prepare(self, target):
        """Act before the migration."""

    def attempt(self, source, target):
        self.source = source
        directory = self.testbed.directory
        path, listen = (os.path.join(directory, name)
                        for name in ("failing", "proxy"))
        for vm in source, target:
            set_up_migration(vm)
            vm.cmd("migrate-set-capabilities", capabilities=[
                {"capability": "return-path", "state": self.return_path}])
        for old in path, listen:
            if os.path.exists(old):
                os.unlink(old)
        target.cmd("migrate-incoming", uri=f"unix:{path}",
                   exit_on_error=False)
        self.prepare(target)
        proxy = FdProxy(listen, path, self.queues,
                        lambda stream: self.tamper(stream, target),
                        lambda: self.sent(target))
        source.cmd("migrate", uri=f"unix:{listen}")
        self.meanwhile(source, target)
        until(lambda: migrate_status(source) in
              ("completed", "failed", "cancelled"), "the migration ended")
        self.after(source, target)
        proxy.close()
        if proxy.error:
            raise proxy.error

    def after(self, source, target):
        """Check that a target that is still there failed and has no TAP."""
        if target.is_running():
            until(lambda: migrate_status(target) == "failed",
                  "the target failed")
            reason = target.cmd("query-migrate").get("error-desc", "")
            if not re.search(self.reason, reason):
                raise TestbedError(f"the target's reason is: {reason}")
            if count := tap_fds(target):
                raise TestbedError(f"the target still has {count} fds of TAPs")
            target.kill()


def dropped_after(messages):
    class Dropped(Failure):
        __doc__ = f"connection closed after {messages} fds"

        def tamper(self, stream, target):
            return messages
    return Dropped


def killed_after(messages):
    class Killed(Failure):
        __doc__ = f"target killed after {messages} fds"

        def tamper(self, stream, target):
            return messages

        def sent(self, target):
            until(lambda: tap_fds(target) == messages, "the fds arrived")
            os.kill(target.get_pid(), signal.SIGKILL)

        def after(self, source, target):
            until(lambda: not target.is_running(), "the target was killed")
            target.kill()
    return Killed


class LaterSection(Failure):
    """a section after the TAPs' is broken"""

    def tamper(self, stream, target):
        name = self.testbed.nic.removesuffix("-pci").encode()
        at = stream.data.rfind(name)
        if at < stream.marks[-1]:
            raise TestbedError("the section of the NIC is not where it was")
        stream.data[at:at + len(name)] = b"n" * len(name)


class LaterSectionReturnPath(LaterSection):
    """a section after the TAPs' is broken, with return-path"""
    return_path = True


class Truncated(Failure):
    """the stream ends in the section of the last TAP queue"""

    def tamper(self, stream, target):
        del stream.data[stream.marks[-1] + 4:]
        return self.queues


class KernelState(Failure):
    """the kernel's state in the stream is not the device's"""

    @property
    def reason(self):
        return f"^netdev 'net0' queue {self.queues - 1}: the "

    def tamper(self, stream, target):
        where = stream.kernel_state(self.queues - 1)
        if where:
            stream.data[where[0] + offset_of("vnet.hdr_size")] ^= 1
        else:
            offset, size = stream.field(self.queues - 1, "host_vnet_hdr_len")
            stream.data[offset + size - 1] ^= 1


class NoFds(Failure):
    """the target may not have more open files"""
    # or, from QEMU 11.1 on, "... 'net0/0/net-tap': no file descriptor came"
    reason = r"net0(' queue |/)\d(/net-tap')?: no file descriptor came"

    def prepare(self, target):
        # Leave a number for the connection, and one too few for the queues.
        used = os.listdir(f"/proc/{target.get_pid()}/fd")
        free = [fd for fd in range(512) if str(fd) not in used]
        resource.prlimit(target.get_pid(), resource.RLIMIT_NOFILE,
                         (free[self.queues],) * 2)


class DiskFull(Failure):
    """the source's disk is full when the VM stops"""

    def prepare(self, target):
        self.source.cmd(
            "blockdev-add", driver="blkdebug", node_name="full",
            image={"driver": "null-co"}, inject_error=[
                {"event": "none", "iotype": "flush", "errno": errno.ENOSPC}])
        # Write something that has to be flushed.
        self.source.cmd("human-monitor-command",
                        command_line='qemu-io full "write 0 4k"')

    def after(self, source, target):
        # query-migrate has no reason for this failure.
        if migrate_status(source) != "failed":
            raise TestbedError("the disk was not full")
        source.cmd("blockdev-del", node_name="full")
        super().after(source, target)


class FewerQueues(Failure):
    """the target has fewer queues"""

    @property
    def reason(self):
        return f"^net0/{self.queues // 2}/net-tap: "

    def netdev(self):
        return self.testbed.options(self.queues // 2) + ",incoming-fds=on"


class MoreQueues(Failure):
    """the target has more queues"""

    @property
    def reason(self):
        return f"^netdev 'net0' queue {self.queues}: its file descriptor is not in"

    def netdev(self):
        return self.testbed.options(self.queues * 2) + ",incoming-fds=on"


class OtherName(Failure):
    """the target wants another device"""
    reason = "^netdev 'net0' queue 0: the TAP is '.*ifname=other0"

    def netdev(self):
        return self.testbed.options() + ",incoming-fds=on,ifname=other0"


class Cancelled(Failure):
    """migrate_cancel when the target has some of the fds"""
    return_path = True

    def __init__(self, testbed):
        super().__init__(testbed)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def tamper(self, stream, target):
        self.reached.set()
        self.go_on.wait(60)
        return self.queues // 2

    def meanwhile(self, source, target):
        if not self.reached.wait(60):
            raise TestbedError("the stream never came to the fds")
        source.cmd("migrate_cancel")
        self.go_on.set()


class Completed(Failure):
    """the target is killed before it runs, after 'completed'"""

    def after(self, source, target):
        wait_migration(target)
        target.kill()


class Reverted(Failure):
    """the management goes back to the source after 'completed'"""

    def after(self, source, target):
        wait_migration(target)
        target.quit()


def failures(queues):
    """Return the classes of failures that a NIC with QUEUES can have."""
    fds = sorted({0, 1, queues})
    some = [FewerQueues, Cancelled] if queues > 1 else []
    return (
        *map(dropped_after, fds), *map(killed_after, fds),
        LaterSection, LaterSectionReturnPath, Truncated, KernelState, NoFds,
        DiskFull, *some, MoreQueues, OtherName, Completed, Reverted)


def go_on(source):
    """Wait until the source runs again, by itself or after cont."""
    until(lambda: status(source) in ("running", "postmigrate"),
          "the source decided")
    if status(source) == "postmigrate":
        source.cmd("cont")
    if status(source) != "running":
        raise TestbedError(f"the source is {status(source)}")


def fail(testbed, source, failure):
    """Let one attempt fail, and check that it left nothing behind."""
    state, files = testbed.state(), len(os.listdir(f"/proc/{source.get_pid()}/fd"))
    target = testbed.target(failure.netdev())
    failure.attempt(source, target)
    go_on(source)
    testbed.check_state(state, "by the failure")
    testbed.progress()
    testbed.check_state(state, "when the source went on")
    if len(os.listdir(f"/proc/{source.get_pid()}/fd")) != files:
        raise TestbedError("the source has other fds than before")
    target.kill()
    return source


def succeed(testbed, source, kill=False):
    target = testbed.target()
    state = testbed.state()
    # Forget the events of the failure.
    source.get_qmp_events()
    for vm in source, target:
        vm.cmd("migrate-set-capabilities", capabilities=[
            {"capability": "return-path", "state": False}])
    hand_over(source, target, os.path.join(testbed.directory, "migrate"))
    if kill:
        source.kill()
    target.cmd("cont")
    if not kill:
        source.quit()
    testbed.check_state(state, "by the migration")
    testbed.progress()
    testbed.check_vhost(target)
    return target


def expect_none(problems):
    if text := "\n".join(problems):
        raise TestbedError(text)
    return True


def main():
    tap = Tap()
    with Testbed(testbed_parser(__doc__).parse_args()) as testbed:
        def step(text, work, *arguments):
            result = None
            try:
                result = work(*arguments)
            except ERRORS as error:
                testbed.complain(error)
            tap.result(bool(result), text)
            return result

        vm = step("the guest is up", testbed.boot)
        if not vm:
            return tap.end()
        objects = kernel_objects()
        for failure in failures(testbed.queues):
            if not step(f"goes on: {failure.__doc__}", fail, testbed, vm,
                        failure(testbed)):
                return tap.end()
            vm = step("and then succeeds", succeed, testbed, vm)
            if not vm:
                return tap.end()
        vm = step("goes on: source killed after the hand-over", succeed,
                  testbed, vm, True)
        if vm:
            if objects:
                step("nothing is left in the kernel", lambda: expect_none(
                    kernel_problems(objects, kernel_objects())))
            step("no packet is missing",
                 lambda: expect_none(testbed.finish()))
            vm.quit()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
