#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the package's script for the live patch where it cannot just load or remove it.

A call of tun holds RTNL while it waits for a page of user memory, which userfaultfd keeps
from it. A task that closes a TAP then sleeps in a function that the live patch replaces.
Run it in the lab VM with --stock.
"""

import contextlib
import ctypes
import fcntl
import glob
import mmap
import os
import re
import select
import shutil
import struct
import subprocess
import tempfile
import threading
import unittest

import pycotap

from commands import wait
from live import LIVE, PATCH, SECONDS, in_transition, remove, served
from tapstate_tool import open_queue, run

SCRIPT = "packaging/dkms/livepatch"
MODULES = f"/lib/modules/{os.uname().release}"
INSTALLED = f"{MODULES}/updates/tun_state_live.ko"
TUNSETSNDBUF = 1 << 30 | 4 << 16 | ord("T") << 8 | 212
SYS_USERFAULTFD, UFFD_API, MODE_MISSING = 323, 0xaa, 1
WAITS = "the live patch waits for tasks that close TAPs"
NO_EFFECT = "the live patch is without effect, and stays loaded while tasks close TAPs"
LOADED = "the live patch is loaded, all TAPs have the ioctls"
OTHER_VERSION = "the live patch of another version stays loaded"


def uffdio(number, *values):
    """Return the arguments of an ioctl of userfaultfd."""
    data = struct.pack(f"{len(values)}Q", *values)
    return 3 << 30 | len(data) << 16 | UFFD_API << 8 | number, bytearray(data)


def sleeps_in(function, tasks="/proc/[0-9]*/task/*"):
    """Return if a task is in a function of the kernel."""
    for path in glob.glob(f"{tasks}/stack"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as stack:
            if f" {function}+" in stack.read():
                return True
    return False


class Thread(threading.Thread):
    def sleeps_in(self, function):
        return sleeps_in(function, f"/proc/self/task/{self.native_id}")


class HeldRtnl:
    """RTNL, which the queue of a TAP takes as soon as it can"""

    def __init__(self, queue):
        libc = ctypes.CDLL(None, use_errno=True)
        self.page = mmap.mmap(-1, mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        self.faults = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
        fcntl.ioctl(self.faults, *uffdio(0x3f, UFFD_API, 0, 0))
        fcntl.ioctl(self.faults, *uffdio(0, address, mmap.PAGESIZE, MODE_MISSING, 0))
        self.thread = Thread(target=libc.ioctl, args=(
            queue, ctypes.c_ulong(TUNSETSNDBUF), ctypes.c_void_p(address)))
        self.thread.start()

    def wait_until_held(self):
        """Wait until the call reads the page."""
        if not select.select([self.faults], [], [], SECONDS)[0]:
            raise AssertionError("the call does not read its argument")

    def release(self):
        if self.faults is not None:
            os.close(self.faults)
            self.faults = None
        self.thread.join()


class Script(unittest.TestCase):
    def setUp(self):
        self.queues = []
        self.addCleanup(self.clean)
        for i in range(3):
            self.queues.append(open_queue(f"t{i}"))
        # A host with few modules: depmod takes minutes for all.
        module, = glob.glob(f"{MODULES}/kernel/drivers/net/tun.ko*")
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        os.mkdir(f"{directory}/updates")
        shutil.copy(module, directory)
        shutil.copy(LIVE, f"{directory}/updates")
        for name in "order", "builtin", "builtin.modinfo":
            with open(f"{directory}/modules.{name}", "wb"):
                pass
        run("mount", "--bind", directory, MODULES)
        self.addCleanup(run, "umount", MODULES)
        run("depmod")

    def clean(self):
        if os.path.exists(PATCH):
            remove()
        for queue in self.queues:
            os.close(queue)

    def hold_rtnl(self, queue):
        held = HeldRtnl(queue)
        self.addCleanup(held.release)
        return held

    def script(self, command, seconds):
        return subprocess.Popen([SCRIPT, command], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT,
                                env={**os.environ, "TRANSITION": str(seconds)})

    def ends(self, script, status, sentence):
        """Expect an end of the script with one sentence."""
        text = script.communicate(timeout=2 * SECONDS)[0]
        for line in text.splitlines():
            print(f"# {line}", flush=True)
        self.assertEqual(status, script.returncode, text)
        self.assertEqual(1 if sentence else 0, len(text.splitlines()), text)
        self.assertIn(sentence, text)

    def close(self):
        """Close a TAP; return when that waits for RTNL."""
        thread = Thread(target=os.close, args=[self.queues.pop()])
        thread.start()
        wait(lambda: thread.sleeps_in("tun_chr_close"), "close()")
        return thread

    def test_waits(self):
        """Neither loading nor removal ends in time; both end once RTNL is free."""
        # The live patch takes RTNL, too, before its transition: have a call behind it
        # that takes RTNL next, and the close behind that.
        first = self.hold_rtnl(self.queues[0])
        first.wait_until_held()
        start = self.script("start", 1)
        wait(lambda: sleeps_in("register_netdevice_notifier"), "modprobe", SECONDS)
        second = self.hold_rtnl(self.queues[1])
        wait(lambda: second.thread.sleeps_in("__tun_chr_ioctl"), "a call of tun")
        closing = self.close()
        first.release()
        second.wait_until_held()
        self.ends(start, 1, WAITS)
        self.assertTrue(in_transition())
        self.ends(self.script("start", 1), 1, WAITS)
        second.release()
        closing.join()
        self.ends(self.script("start", SECONDS), 0, "")
        self.assertTrue(served(self.queues[0]))

        held = self.hold_rtnl(self.queues[0])
        held.wait_until_held()
        closing = self.close()
        self.ends(self.script("stop", 1), 1, NO_EFFECT)
        self.ends(self.script("start", 1), 1, NO_EFFECT)
        held.release()
        closing.join()
        self.ends(self.script("start", SECONDS), 0, LOADED)
        self.assertTrue(served(self.queues[0]))
        self.ends(self.script("stop", SECONDS), 0, "")
        self.assertFalse(served(self.queues[0]))
        self.assertFalse(os.path.exists("/sys/module/tun_state_live"))


    def test_other_version(self):
        """An upgrade of the package leaves the live patch that is loaded, and says it."""
        self.ends(self.script("start", SECONDS), 0, LOADED)
        self.ends(self.script("start", SECONDS), 0, "")
        with open(INSTALLED, "r+b") as module:
            before = re.search(rb"srcversion=(\w)", module.read())
            module.seek(before.start(1))
            module.write(b"0" if before[1] != b"0" else b"1")
        for command in "start", "install":
            self.ends(self.script(command, SECONDS), 0, OTHER_VERSION)
            self.assertTrue(served(self.queues[0]))
        self.ends(self.script("stop", SECONDS), 0, "")
        self.ends(self.script("start", SECONDS), 0, LOADED)
        self.ends(self.script("start", SECONDS), 0, "")


if __name__ == "__main__":
    unittest.main(testRunner=pycotap.TAPTestRunner())
