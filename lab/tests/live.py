#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Load and remove the live patch of tun: what it refuses, what it leaves behind.

Run it in the lab VM with --stock: it loads and removes modules itself. --cycles N loads
the live patch N times under traffic.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

import pycotap

from commands import wait
from tapstate_tool import (DETACH, TUNATTACHFILTER, TUNSETIFF, TUNSETQUEUE,
                           TUNSETSTEERINGEBPF, ifreq, open_queue, run)

KERNEL = os.environ["LAB_KERNEL"]
LIVE = f"build/live/{KERNEL}/tun_state_live.ko"
PATCHED = f"build/modules/{KERNEL}/tun.ko"
PATCH = "/sys/kernel/livepatch/tun_state_live"
SIZE = 360
# Offsets of the mask of failed groups, of a group, and of a field
FAILED, FILTER, STEERING_ID = 24, 240, 256
TUNGETSTATE = 3 << 30 | SIZE << 16 | ord("T") << 8 | 232
TUNSETSTATE = TUNGETSTATE + 1
IFF, SOCKFILTER, STEERING, QUEUE = 1 << 2, 1 << 10, 1 << 11, 1 << 15
HOLD = 1
# Groups without an array
PLAIN = sum(1 << group for group in range(17)) & ~(SOCKFILTER | 1 << 14 | 1 << 16)
# A field that changes by itself
RING_LEN = slice(340, 344)
BPF_PROG_LOAD, BPF_PROG_GET_FD_BY_ID, SYS_BPF = 5, 13, 321
PACKETS_PER_SECOND = 200
VNET_HEADER = 10
# Calls of TUNGETSTATE while the live patch is loaded, and the time between two
ANSWERS, GET_PAUSE = 100, 0.001
SECONDS = 300
cycles = 3


def state(fd, mask=PLAIN, flags=0):
    """Return the struct of TUNGETSTATE."""
    args = bytearray(struct.pack("QI348x", mask, flags))
    fcntl.ioctl(fd, TUNGETSTATE, args)
    return args


def served(fd):
    """Return if the kernel knows the ioctl."""
    try:
        state(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def steady(answer):
    """Return an answer without its length of the ring."""
    answer = bytearray(answer)
    answer[RING_LEN] = bytes(4)
    return answer


def bpf(command, attributes):
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    fd = libc.syscall(SYS_BPF, command, buffer, len(attributes))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return fd


def load_program():
    """Return a descriptor of a program for steering, and its id."""
    insns = ctypes.create_string_buffer(
        struct.pack("<BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0))
    text = ctypes.create_string_buffer(b"GPL")
    fd = bpf(BPF_PROG_LOAD, struct.pack("IIQQ", 1, 2, ctypes.addressof(insns),
                                        ctypes.addressof(text)) + bytes(48))
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        return fd, int(re.search(r"prog_id:\s*(\d+)", info.read())[1])


def is_alive(program):
    """Return if there is a program with this id; a dead one goes after a while."""
    for _ in range(100):
        try:
            os.close(bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("I", program) + bytes(12)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        time.sleep(0.05)
    return True


def kernel_log():
    return subprocess.run(["dmesg"], stdout=subprocess.PIPE, text=True,
                          check=True).stdout.splitlines()


def command(*words):
    """Run a command; return its status and what it wrote."""
    result = subprocess.run(words, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, check=False)
    return result.returncode, result.stdout


def in_transition():
    with open(f"{PATCH}/transition", encoding="ascii") as file:
        return file.read().strip() == "1"


def load():
    """Load the live patch, and wait until all tasks run it."""
    run("insmod", LIVE)
    wait(lambda: not in_transition(), "the transition", SECONDS)


def remove():
    """Remove the live patch, as the documentation says."""
    with open(f"{PATCH}/enabled", "w", encoding="ascii") as file:
        file.write("0")
    wait(lambda: not os.path.exists(PATCH), "the transition", SECONDS)
    run("rmmod", "tun_state_live")


class Echo:
    """UDP packets to an address behind a TAP, which this process sends back"""

    def __init__(self, fd, name):
        self.fd, self.sent, self.received, self.stop = fd, 0, set(), False
        run("ip", "addr", "add", "10.77.0.1/24", "dev", name)
        run("ip", "link", "set", name, "up")
        run("ip", "neigh", "replace", "10.77.0.2", "lladdr", "02:00:00:00:77:02", "dev", name)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("10.77.0.1", 0))
        self.socket.settimeout(0.2)
        self.threads = [threading.Thread(target=target) for target in
                        (self.send, self.answer, self.receive)]
        for thread in self.threads:
            thread.start()

    def send(self):
        while not self.stop:
            self.socket.sendto(struct.pack("I", self.sent), ("10.77.0.2", 9))
            self.sent += 1
            time.sleep(1 / PACKETS_PER_SECOND)

    def answer(self):
        """Send each packet back, with the addresses of both ends exchanged."""
        while True:
            frame = os.read(self.fd, 2048)[VNET_HEADER:]
            if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
                continue
            if frame[42:] == b"end":
                return
            # The checksums are sums: an exchange leaves them as they are.
            os.write(self.fd, bytes(VNET_HEADER) + frame[6:12] + frame[:6] +
                     frame[12:26] + frame[30:34] + frame[26:30] +
                     frame[36:38] + frame[34:36] + frame[38:])

    def receive(self):
        while True:
            try:
                self.received.add(struct.unpack("I", self.socket.recv(64))[0])
            except TimeoutError:
                if self.stop:
                    return

    def finish(self):
        """Return how many packets were sent, and how many are missing."""
        self.stop = True
        self.threads[0].join()
        self.threads[2].join()
        self.socket.sendto(b"end", ("10.77.0.2", 9))
        self.threads[1].join()
        self.socket.close()
        return self.sent, self.sent - len(self.received)


class Gets:
    """TUNGETSTATE in a loop: it must be as at first, or not be there"""

    def __init__(self, fd, first):
        self.fd, self.first = fd, first
        self.known = self.unknown = 0
        self.wrong, self.stop = [], False
        self.thread = threading.Thread(target=self.loop)
        self.thread.start()

    def loop(self):
        while not self.stop:
            try:
                if steady(state(self.fd)) != self.first:
                    self.wrong.append("another state")
                self.known += 1
                time.sleep(GET_PAUSE)
            except OSError as error:
                self.unknown += 1
                if error.errno != errno.EINVAL:
                    self.wrong.append(str(error))

    def wait_for_more(self):
        goal = self.known + ANSWERS
        wait(lambda: self.known >= goal or self.wrong, "TUNGETSTATE", SECONDS)

    def finish(self):
        self.stop = True
        self.thread.join()


class Live(unittest.TestCase):
    """A device t0 with two queues that was there before the live patch"""

    def setUp(self):
        self.files = contextlib.ExitStack()
        self.addCleanup(self.clean)
        if not os.path.exists("/sys/module/tun"):
            run("modprobe", "tun")
        self.fd, self.other = self.open("t0"), self.open("t0")

    def open(self, name):
        fd = open_queue(name)
        self.files.callback(os.close, fd)
        return fd

    def clean(self):
        if os.path.exists(PATCH):
            remove()
        self.files.close()

    def refused(self, module, message):
        """Expect a module not to load, and the kernel to say why."""
        before = len(kernel_log())
        status, text = command("insmod", module)
        self.assertNotEqual(0, status, text)
        if message:
            self.assertIn(message, "\n".join(kernel_log()[before:]))

    def test_not_there(self):
        """Without the live patch, tun does not know the ioctls."""
        self.assertFalse(served(self.fd))

    def test_open_before(self):
        """A device that was there before is reported, and keeps its state after."""
        load()
        self.assertTrue(served(self.fd))
        fcntl.ioctl(self.fd, TUNSETSTATE, state(self.fd, IFF))
        remove()
        self.assertFalse(served(self.fd))

    def test_no_tun(self):
        """tun is not loaded."""
        self.files.close()
        run("rmmod", "tun")
        self.refused(LIVE, "tun_state_live: tun is not loaded: load it first")
        run("modprobe", "tun")

    def test_another_tun(self):
        """The build ID is that of another tun."""
        self.files.close()
        run("rmmod", "tun")
        run("insmod", PATCHED)
        fd = self.open("t0")
        self.assertTrue(served(fd))
        self.refused(LIVE, "tun_state_live: not built for the tun that is loaded")
        self.assertTrue(served(fd))
        self.files.close()
        run("rmmod", "tun")
        run("modprobe", "tun")

    def test_twice(self):
        """A second load is refused, and the first goes on."""
        load()
        self.refused(LIVE, None)
        self.assertTrue(served(self.fd))

    def test_pinned(self):
        """Neither tun nor the live patch can be removed while it is enabled."""
        load()
        self.files.close()
        for module in "tun", "tun_state_live":
            status, text = command("rmmod", module)
            self.assertNotEqual(0, status)
            self.assertIn("in use", text)
        remove()
        run("rmmod", "tun")

    def hold(self):
        """Let self.fd hold a program that nothing else keeps; return its id."""
        program, number = load_program()
        fcntl.ioctl(self.fd, TUNSETSTEERINGEBPF, struct.pack("i", program))
        os.close(program)
        answer = state(self.fd, STEERING, HOLD)
        self.assertEqual(number, struct.unpack_from("I", answer, STEERING_ID)[0])
        fcntl.ioctl(self.fd, TUNSETSTEERINGEBPF, struct.pack("i", -1))
        self.held = answer
        return number

    def put_back(self):
        self.held[8:12] = bytes(4)
        fcntl.ioctl(self.fd, TUNSETSTATE, self.held)

    def test_hold(self):
        """A held program can be put back, and is freed on close."""
        load()
        number = self.hold()
        self.put_back()
        self.assertEqual(number, struct.unpack_from(
            "I", state(self.fd, STEERING), STEERING_ID)[0])
        fcntl.ioctl(self.fd, TUNSETSTEERINGEBPF, struct.pack("i", -1))
        self.assertTrue(is_alive(number))
        self.files.close()
        self.assertFalse(is_alive(number))

    def test_hold_and_remove(self):
        """Programs that a file holds are freed with the live patch."""
        load()
        number = self.hold()
        remove()
        self.assertFalse(is_alive(number))
        load()
        with self.assertRaises(OSError) as raised:
            self.put_back()
        self.assertEqual(errno.EBADF, raised.exception.errno)

    def test_hold_and_delete(self):
        """They are freed with the device, so that no other device gets them."""
        load()
        number = self.hold()
        run("ip", "link", "del", "t0")
        self.assertFalse(is_alive(number))
        fcntl.ioctl(self.fd, TUNSETIFF, ifreq("t1", 0x5102))
        with self.assertRaises(OSError) as raised:
            self.put_back()
        self.assertEqual(errno.EBADF, raised.exception.errno)

    def test_hold_and_move(self):
        """A device that moves to another network namespace is the same device."""
        load()
        number = self.hold()
        run("ip", "netns", "add", "other")
        self.addCleanup(run, "ip", "netns", "del", "other")
        run("ip", "link", "set", "t0", "netns", "other")
        self.assertTrue(is_alive(number))
        self.put_back()

    def test_attach(self):
        """A queue that is detached is attached again at its place."""
        load()
        before = state(self.fd, QUEUE)
        fcntl.ioctl(self.fd, TUNSETQUEUE, ifreq("", DETACH))
        fcntl.ioctl(self.fd, TUNSETSTATE, before)
        self.assertEqual(steady(before), steady(state(self.fd, QUEUE)))

    def attach_filter(self, fd, result):
        """Attach a classic filter of one instruction; return its bytes."""
        insn = struct.pack("HBBI", 6, 0, 0, result)
        buffer = ctypes.create_string_buffer(insn)
        fcntl.ioctl(fd, TUNATTACHFILTER,
                    struct.pack("HxxxxxxQ", 1, ctypes.addressof(buffer)))
        return insn

    @staticmethod
    def filter_state(insns, count):
        """Return a struct with the group of the classic filter alone."""
        args = bytearray(struct.pack("QI348x", SOCKFILTER, 0))
        struct.pack_into("QII", args, FILTER, ctypes.addressof(insns), count, 8)
        return args

    def test_filter(self):
        """A classic filter is reported, not set; queues that disagree are an error."""
        load()
        insns = ctypes.create_string_buffer(80)
        insn = self.attach_filter(self.fd, 1000)
        answer = self.filter_state(insns, 10)
        fcntl.ioctl(self.fd, TUNGETSTATE, answer)
        self.assertEqual((1, insn), (struct.unpack_from("I", answer, FILTER + 8)[0],
                                     insns.raw[:8]))
        # In force already, and another one
        fcntl.ioctl(self.fd, TUNSETSTATE, self.filter_state(insns, 1))
        insns[4] = 0
        with self.assertRaises(OSError) as raised:
            fcntl.ioctl(self.fd, TUNSETSTATE, self.filter_state(insns, 1))
        self.assertEqual(errno.EINVAL, raised.exception.errno)

        fcntl.ioctl(self.other, TUNSETQUEUE, ifreq("", DETACH))
        self.attach_filter(self.fd, 2000)
        answer = self.filter_state(insns, 10)
        with self.assertRaises(OSError) as raised:
            fcntl.ioctl(self.fd, TUNGETSTATE, answer)
        self.assertEqual((errno.EINVAL, SOCKFILTER),
                         (raised.exception.errno,
                          struct.unpack_from("Q", answer, FAILED)[0]))

    def test_traffic(self):
        """Load and remove it under traffic, with TUNGETSTATE in a loop."""
        fd = self.open("t1")
        echo = Echo(fd, "t1")
        load()
        gets = Gets(fd, steady(state(fd)))
        for _ in range(cycles):
            gets.wait_for_more()
            remove()
            load()
        gets.finish()
        sent, lost = echo.finish()
        print(f"# {cycles} cycles, {sent} packets sent, {lost} lost; TUNGETSTATE: "
              f"{gets.known} answers, {gets.unknown} times not there", flush=True)
        self.assertEqual([], gets.wrong[:5])
        self.assertEqual(0, lost)
        self.assertGreater(sent, 100)
        self.assertTrue(gets.known and gets.unknown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=cycles)
    args, rest = parser.parse_known_args()
    cycles = args.cycles
    unittest.main(argv=[sys.argv[0], *rest], testRunner=pycotap.TAPTestRunner())
