#!/usr/bin/env python3
#
# Tests of migration streams that a proxy changes on the way
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import socket
import struct

from qemu_test import QemuSystemTest

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import QUEUES, TapLocalTestBase, target_netdev
from tap_local_stream import CLAIMS, FIELDS


class TapLocalTampered(TapLocalTestBase):

    # Settings of an administrator that share a group with others: (field,
    # offset of a byte, bit)
    OBSERVED = (('identity.netns', 0, 1), ('iff.flags', 1, 8),
                ('offload.wanted', 0, 1), ('link.msg_enable', 0, 1))

    def test_observed_in_stream(self):
        """The target logs them once, and does not set what the stream says"""
        self.require_kernel_state()
        source = self.source()
        target = self.target()
        states = self.states(source)

        def tamper(stream):
            for queue in range(QUEUES):
                start, _ = stream.kernel_state(queue)
                for name, byte, bit in self.OBSERVED:
                    stream.data[start + uapi.offset_of(name) + byte] ^= bit

        self.hand_over_changed(source, target, tamper)
        self.quit(source)
        self.cont(target)
        self.main_loop_turns(target)
        self.assertEqual(self.states(target), states)
        self.quit(target)
        noticed = [line for line in target.get_log().splitlines()
                   if self.NOTICED in line]
        self.assertEqual(len(noticed), 1, target.get_log())
        for name, *_ in self.OBSERVED:
            self.assertRegex(noticed[0],
                             rf'{name} is (\S+) instead of (?!\1[,\s])\S+')

    def test_groups_in_stream(self):
        """An administrator's settings do not travel"""
        self.require_kernel_state()
        source = self.source()
        target = self.target()
        masks = []

        def look(stream):
            for queue in range(QUEUES):
                start, _ = stream.kernel_state(queue)
                masks.append(struct.unpack_from('=Q', stream.data, start)[0])
                for name in 'netdev.name', 'owner.uid', 'coalesce.rx_frames':
                    offset = start + uapi.offset_of(name)
                    self.assertEqual(stream.data[offset:offset + 4], bytes(4))

        self.hand_over_changed(source, target, look)
        self.assertEqual(masks, [sum(
            1 << uapi.GROUPS[name] for name in (
                'identity', 'iff', 'vnet', 'offload', 'sndbuf', 'link',
                'txfilter', 'steering', 'filter', 'queue'))] * QUEUES)

    def flip_field(self, name, queues=(0,)):
        def tamper(stream):
            for queue in queues:
                offset, size = stream.field(queue, name)
                stream.data[offset + size - 1] ^= 1
        return tamper

    def test_fields_changed(self):
        source = self.source()
        with tap.TapQueues(source.get_pid()) as queues:
            size = queues[0].vnet_hdr_len
        reasons = {
            'using_vnet_hdr': 'the NIC model (does not handle|handles) the '
                              'vnet header itself on the source',
            'enabled': 'the queue is attached, and detached in the stream',
            'host_vnet_hdr_len': f'the TAP has a vnet header of {size} bytes, '
                                 f'and of {size ^ 1} bytes in the stream',
        }
        self.assertEqual({*FIELDS}, {*reasons, *CLAIMS})
        if not self.reports_state:
            # TUNGETIFF of macvtap does not tell of a detached queue
            del reasons['enabled']
        self.assert_all_refused(source, (
            (name, self.target(), [f"netdev 'net0' queue 0: .*{reason}"],
             self.flip_field(name)) for name, reason in reasons.items()))

    def test_claims_of_offloads(self):
        """Both sides see the capabilities of the device, so they may differ"""
        source = self.source()
        states = self.states(source)
        # The NIC model has one of its own for UFO, and refuses it where the
        # target cannot see what the device accepts
        for name in CLAIMS if self.reports_state else CLAIMS[1:]:
            target = self.target()
            self.hand_over_changed(source, target,
                                   self.flip_field(name, range(QUEUES)))
            self.quit(source)
            self.cont(target)
            self.assertEqual(self.states(target), states, name)
            source = target

    def test_kernel_state_changed(self):
        self.require_kernel_state()
        source = self.source()

        def resize(size):
            return lambda stream: stream.resize_kernel_state(0, size)

        def claim(size):
            def tamper(stream):
                offset, _ = stream.kernel_state(0)
                struct.pack_into('>I', stream.data, offset - 4, size)
            return tamper

        def flip(offset, bit):
            def tamper(stream):
                start, _ = stream.kernel_state(0)
                stream.data[start + offset] ^= bit
            return tamper

        header = uapi.offset_of('identity')
        queue0 = "netdev 'net0' queue 0: "
        malformed = (f'{queue0}the stream holds a kernel state of [0-9]+ '
                     'bytes, which no kernel reports')

        def damaged(what):
            return f'{queue0}the kernel state of [0-9]+ bytes is damaged: {what}'

        def differs(name):
            return (f'{queue0}the kernel state is not the expected one: '
                    rf'{name} is (\w+) instead of (?!\1\b)\w+')

        self.assert_all_refused(source, (
            (msg, self.target(), [pattern], tamper)
            for msg, tamper, pattern in (
                *((f'size {size}', resize(size), malformed)
                  for size in (0, 7, header - 1, 4097)),
                *((f'claims {size}', claim(size), malformed)
                  for size in (0, header - 1, 4097, 2**32 - 1)),
                ('header only', resize(header),
                 damaged('identity.netns is missing')),
                ('cut before a group', resize(uapi.offset_of('iff')),
                 damaged('iff.flags is missing')),
                ('cut in a group', resize(uapi.offset_of('txfilter.addr') + 4),
                 damaged('txfilter.addr is missing')),
                *((field, flip(uapi.offset_of(field), 1), differs(field))
                  for field in ('identity.ifindex', 'identity.type',
                                'iff.flags', 'vnet.hdr_size', 'vnet.flags',
                                'offload.enabled', 'sndbuf.size',
                                'link.carrier', 'txfilter.count',
                                'txfilter.hash', 'txfilter.addr',
                                'steering.id', 'steering.type', 'steering.tag',
                                'filter.id', 'filter.type', 'filter.tag',
                                'queue.flags')),
            )))

    # Groups that a kernel or a QEMU does not know

    def change_mask(self, change):
        def tamper(stream):
            for queue in range(QUEUES):
                start, _ = stream.kernel_state(queue)
                mask, = struct.unpack_from('=Q', stream.data, start)
                struct.pack_into('=Q', stream.data, start, change(mask))
        return tamper

    def masks(self):
        """Returns functions that change the mask of groups in the stream"""
        return {
            'fewer groups': lambda mask: mask & ~(1 << uapi.GROUPS['filter']),
            'no group': lambda mask: 0,
            'an unknown group': lambda mask: mask | 1 << 63,
            'a group with a pointer':
                lambda mask: mask | 1 << uapi.GROUPS['sockfilter'],
        }

    def test_other_groups(self):
        """With kernel-state=auto they are taken, and it is said once"""
        self.require_kernel_state()
        source = self.source()
        states = self.states(source)
        for name, change in self.masks().items():
            target = self.target()
            self.hand_over_changed(source, target, self.change_mask(change))
            self.quit(source)
            self.assertIn('do not know the same parts',
                          self.tap_info(target)['unverified'], name)
            self.cont(target)
            self.assertEqual(self.states(target), states, name)
            source = target
        self.hand_over_and_run(source, self.target(), states)
        self.assertEqual(source.get_log().count('unverified'), 1)

    def test_other_groups_verified(self):
        """Groups that both sides know are compared all the same"""
        self.require_kernel_state()
        source = self.source()

        def tamper(stream):
            self.change_mask(self.masks()['fewer groups'])(stream)
            start, _ = stream.kernel_state(0)
            stream.data[start + uapi.offset_of('sndbuf.size')] ^= 1

        self.assert_refused(source, self.target(), 'sndbuf.size is ',
                            proxy=(QUEUES, tamper))

    def test_other_groups_refused(self):
        """With kernel-state=on they are refused"""
        self.require_kernel_state()
        source = self.source()
        netdev = target_netdev(more='incoming-fds=on,kernel-state=on')
        self.assert_all_refused(source, (
            (name, self.target(netdev),
             ["netdev 'net0' queue 0: kernel-state=on, but "],
             self.change_mask(change))
            for name, change in self.masks().items()))

    def test_other_fds(self):
        source = self.source()
        self.assert_all_refused(source, (
            (msg, self.target(), ["netdev 'net0' queue 1", *patterns],
             lambda stream, replace=replace: stream.replace_fd(1, replace()))
            for msg, replace, *patterns in (
                ('/dev/null', lambda: os.open('/dev/null', os.O_RDWR), 'TAP'),
                ('a socket', lambda: socket.socket(socket.AF_UNIX).detach(),
                 'TAP'),
                ('no device', lambda: os.open(tap.TUN, os.O_RDWR), 'TAP'),
                ('other device',
                 lambda: tap.open_tap('tap9', uapi.IFF_VNET_HDR)),
            )))

    def test_fds_in_other_order(self):
        self.require_kernel_state()
        source = self.source()

        def swap(stream):
            stream.fds[1], stream.fds[2] = stream.fds[2], stream.fds[1]

        def twice(stream):
            stream.replace_fd(2, os.dup(stream.fds[1][0]))

        self.assert_all_refused(source, (
            (tamper.__name__, self.target(),
             ["netdev 'net0'.*: ", pattern], tamper)
            for tamper, pattern in (
                (swap, 'queue [12] is in the place of queue [12]'),
                (twice, 'queues 1 and 2 are the same'))))

    def test_fd_missing(self):
        source = self.source()

        def tamper(stream):
            os.close(stream.fds[1].pop())

        self.assert_refused(source, self.target(), "netdev 'net0'",
                            proxy=(QUEUES, tamper))

    def test_fd_too_many(self):
        """The target closes and reports an fd that no device claims"""
        source = self.source()
        states = self.states(source)
        target = self.target()
        files = self.open_files(target)

        def tamper(stream):
            stream.fds[-1].append(os.open('/dev/null', os.O_RDWR))

        proxy = self.migrate(source, target, (QUEUES, tamper))
        self.assertEqual(self.wait_migration(target)['status'], 'completed')
        proxy.close()
        self.assertIsNone(proxy.error)
        self.wait_migration(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)
        self.assertEqual(self.open_files(target).count('/dev/null'),
                         files.count('/dev/null'))
        self.quit(target)
        self.assertEqual(len(re.findall(r'received fd \d+ was never claimed',
                                        target.get_log())), 1)


if __name__ == '__main__':
    QemuSystemTest.main()
