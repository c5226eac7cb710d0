#!/usr/bin/env python3
#
# Tests of the hand-over of a macvtap
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import fcntl
import os
import socket
import struct
import subprocess

from qemu_test import QemuSystemTest

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (LOCAL, QUEUES, TapLocalTestBase, nic,
                            target_netdev)
from tap_local_network import GUEST_MAC, link_up

FLAGS = (uapi.IFF_TAP | uapi.IFF_NO_PI | uapi.IFF_VNET_HDR |
         uapi.IFF_MULTI_QUEUE)


class TapLocalMacvtap(TapLocalTestBase):

    def make_macvtap(self):
        """Make a macvtap on a TAP, which is at the other end of its wire"""
        self.wire = tap.open_tap('lower')
        self.addCleanup(os.close, self.wire)
        link_up('lower')
        for command in (('modprobe', '-q', 'macvtap'),
                        ('ip', 'link', 'add', 'link', 'lower', 'name', 'tap0',
                         'address', GUEST_MAC, 'type', 'macvtap', 'mode',
                         'bridge')):
            if subprocess.run(command, check=False).returncode:
                self.skipTest('macvtap is not on this kernel')
        link_up('tap0')
        index = socket.if_nametoindex('tap0')
        self.tap_file = f'/dev/tap{index}'

    def start(self, queues):
        """Returns a QEMU that got the fds of a macvtap"""
        self.make_macvtap()
        fds = []
        for _ in range(queues):
            fds.append(os.open(self.tap_file, os.O_RDWR | os.O_NONBLOCK))
            os.set_inheritable(fds[-1], True)
            fcntl.ioctl(fds[-1], uapi.TUNSETIFF,
                        struct.pack('16sH22x', b'tap0', FLAGS))
        vm = self.source(f'tap,id=net0,fds={":".join(map(str, fds))},{LOCAL}',
                         nic=nic(0, queues))
        for fd in fds:
            os.close(fd)
        return vm

    def do_macvtap(self, queues):
        """Hand over to and fro; targets that refuse or do not run"""
        def target(more='incoming-fds=on'):
            return self.target(target_netdev(queues, more),
                               nic=nic(0, queues))

        vm = self.start(queues)
        self.assertEqual(len(self.states(vm)), queues)
        self.assert_refused(vm, target('incoming-fds=on,ifname=tap9'),
                            'ifname=tap9')
        self.assertNotIn('restored', self.tap_info(vm))
        vm = self.to_and_fro(vm, target)
        self.assert_refused(vm, target('incoming-fds=on,ifname=tap9'),
                            'ifname=tap9')
        other = target()
        self.hand_over(vm, other)
        self.quit(other)
        self.cont(vm)
        self.assertNotIn('restore-failed', self.tap_info(vm))

    def test_single_queue(self):
        self.do_macvtap(1)

    def test_in_firmware(self):
        """Only one of the queues is in use"""
        self.do_macvtap(QUEUES)

    def test_kernel_state_on(self):
        """The groups that the kernel reports are verified"""
        self.require_kernel_state()

        def target():
            return self.target(
                target_netdev(QUEUES, 'incoming-fds=on,kernel-state=on'),
                nic=nic(0, QUEUES))

        vm = self.to_and_fro(self.start(QUEUES), target)
        self.assertNotIn('unverified', self.tap_info(vm))
        self.to_and_fro(vm, lambda: self.target(target_netdev(),
                                                nic=nic(0, QUEUES)))


if __name__ == '__main__':
    QemuSystemTest.main()
