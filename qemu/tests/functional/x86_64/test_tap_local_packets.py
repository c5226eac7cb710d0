#!/usr/bin/env python3
#
# Tests of the packets of a guest whose TAP is handed over
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import collections
import re

from qemu.machine.qtest import QEMUQtestProtocol
from qemu_test import QemuSystemTest

import tap_local_queue as tap
from tap_local_base import (QUEUES, TapLocalTestBase, nic, source_netdev,
                            target_netdev)
from tap_local_network import Capture, link_up

# Registers of e1000, e1000e
E1000_STATUS, E1000_STATUS_LU = 0x8, 0x2
E1000_RCTL, E1000_RCTL_EN = 0x100, 0x2


class TapLocalPackets(TapLocalTestBase):

    # A packet that QEMU has read, and that the NIC cannot take

    def kept_args(self):
        """Returns options of a QEMU whose NIC set_receive() is for"""
        self.qtest_path = self.socket_path()
        return (*self.guest_args(1)[1], '-qtest-log', '/dev/null', '-qtest',
                f'unix:{self.qtest_path},server=on,wait=off')

    def connect(self, vm):
        qtest = self.qtests[vm] = QEMUQtestProtocol(self.qtest_path)
        qtest.connect()
        self.addCleanup(qtest.close)
        return vm

    def boot_nic(self, driver, *args):
        """Returns a source whose guest has booted, and its agent"""
        self.require_device(f'"{driver}"')
        self.device = nic(0, 1, driver)
        self.qtests = {}
        vm = self.connect(self.source(source_netdev(1), *self.kept_args(),
                                      *args, nic=self.device))
        return vm, self.agent()

    def read_register(self, vm, offset):
        """Returns address and value of a register of the NIC"""
        address, = (region['address'] + offset for bus in vm.cmd('query-pci')
                    for device in bus['devices'] if device['qdev_id'] == 'nic0'
                    for region in device['regions'] if region['bar'] == 0)
        answer = self.qtests[vm].cmd(f'readl {address:#x}')
        return address, int(answer.split()[1], 16)

    def set_receive(self, vm, on):
        """Enable the receiver of the NIC, or disable it: the link stays up"""
        address, value = self.read_register(vm, E1000_RCTL)
        value = value | E1000_RCTL_EN if on else value & ~E1000_RCTL_EN
        self.qtests[vm].cmd(f'writel {address:#x} {value:#x}')

    def keep_packet(self, vm, agent):
        """Let QEMU read a request that the NIC cannot take; its number"""
        self.set_receive(vm, False)
        number = agent.send()
        with tap.TapQueues(vm.get_pid()) as queues:
            self.wait_for('waiting for the source to read',
                          lambda: not queues[0].has_packet())
        return number

    def assert_kept(self, vm):
        queue, = self.tap_info(vm)['queues']
        self.assertGreater(queue['pending-received'], 0)

    def hand_over_kept(self, vm, *args):
        """Hand over; returns the target, which runs"""
        target = self.connect(self.target(
            target_netdev(1), *self.kept_args(), *args, nic=self.device))
        self.hand_over(vm, target)
        self.quit(vm)
        self.cont(target)
        return target

    def do_kept(self, driver):
        """The guest gets the packet once, on the target"""
        vm, agent = self.boot_nic(driver)
        kept = self.keep_packet(vm, agent)
        vm.cmd('stop')
        self.assert_kept(vm)
        vm = self.hand_over_kept(vm)
        self.set_receive(vm, True)
        self.assert_answers(agent, kept)
        self.assert_answers(agent)
        self.assertEqual(self.tap_info(vm)['carried'], 1)

    def test_kept_e1000(self):
        self.do_kept('e1000')

    def test_kept_e1000e(self):
        self.do_kept('e1000e')

    def do_link_down(self, driver, *, running):
        """
        The guest does not get a packet that waited while the link was down

        @running: the link is set down while the guest runs
        """
        vm, agent = self.boot_nic(driver)
        self.keep_packet(vm, agent)
        if running:
            vm.cmd('set_link', name='net0', up=False)
        vm.cmd('stop')
        if not running:
            self.assert_kept(vm)
            vm.cmd('set_link', name='net0', up=False)
        # From now on, only the link keeps the NIC from receiving
        self.set_receive(vm, True)
        vm = self.hand_over_kept(vm)
        vm.cmd('set_link', name='net0', up=True)
        # The NIC drops packets until it has found out the speed
        self.wait_for('waiting for the link', lambda: self.read_register(
            vm, E1000_STATUS)[1] & E1000_STATUS_LU)
        # An old packet would come first
        sent = agent.send()
        number, _ = agent.receive(self.timeout)
        self.assertEqual(number, sent)
        self.assert_answers(agent)

    def test_link_down_e1000(self):
        self.do_link_down('e1000', running=True)

    def test_link_down_e1000_while_stopped(self):
        self.do_link_down('e1000', running=False)

    def test_link_down_e1000e(self):
        self.do_link_down('e1000e', running=True)

    def test_link_down_e1000e_while_stopped(self):
        self.do_link_down('e1000e', running=False)

    # Filters

    def filter_args(self, files):
        """Options of filters, which add what they see to @files"""
        dump, mirror = (self.scratch_file(self.unique(name))
                        for name in ('dump', 'mirror'))
        files['dump'].append(dump)
        files['mirror'].append(mirror)
        return ('-object', f'filter-dump,id=dump,netdev=net0,file={dump}',
                '-chardev', f'file,id=chr,path={mirror}', '-object',
                'filter-mirror,id=mirror,netdev=net0,queue=all,outdev=chr')

    def seen(self, paths):
        """Returns how often each request and answer is in the files"""
        counts = collections.Counter()
        for path in paths:
            with open(path, 'rb') as f:
                counts.update(re.findall(rb'(\d+ hello|\d+ ok)', f.read()))
        return {word.decode(): number for word, number in counts.items()}

    def test_filters(self):
        """Each packet passes the filters of one side, and once"""
        files = {'dump': [], 'mirror': []}
        vm, agent = self.boot_nic('e1000e', *self.filter_args(files))
        kept = self.keep_packet(vm, agent)
        waiting = agent.send()
        vm.cmd('stop')
        self.assert_kept(vm)
        vm = self.hand_over_kept(vm, *self.filter_args(files))
        self.set_receive(vm, True)
        self.assert_answers(agent, kept, waiting)
        self.quit(vm)
        # Requests are sent and lost before the guest's agent runs
        words = [f'{n} {word}' for n in range(kept, agent.count + 1)
                 for word in ('hello', 'ok')]
        for name, paths in files.items():
            seen = self.seen(paths)
            self.assertEqual({word: seen.get(word) for word in words},
                             dict.fromkeys(words, 1), name)
            self.assertEqual({*seen.values()}, {1}, name)

    def test_filter_buffer_of_target(self):
        """A packet that has passed the filters of the source is not held"""
        vm, agent = self.boot_nic('e1000e')
        kept = self.keep_packet(vm, agent)
        vm.cmd('stop')
        self.assert_kept(vm)
        vm = self.hand_over_kept(
            vm, '-object', 'filter-buffer,id=buffer,netdev=net0,queue=tx,'
            'interval=4000000000')
        self.set_receive(vm, True)
        self.assertEqual(agent.receive(self.timeout)[0], kept)
        vm.cmd('object-del', id='buffer')
        self.assert_answers(agent)

    # Announcements

    ROUNDS = {'announce-initial': 1, 'announce-step': 1, 'announce-max': 10,
              'announce-rounds': 1000}

    def two_nics(self, queues=QUEUES):
        """
        Returns options of two NICs, and of their netdevs on both sides

        The TAP of the second one is opened on both sides.
        """
        devices = [nic(0, queues), nic(1, 2)]
        other = source_netdev(2, 'tap1', '', 'net1')
        return (self.pairs(devices, [source_netdev(queues), other]),
                self.pairs(devices, [target_netdev(queues), other]))

    def do_announcements(self, vm, target, captures):
        """Hand over; the NIC whose TAP each side opened is announced"""
        target.cmd('migrate-set-parameters', self.ROUNDS)
        self.hand_over(vm, target)
        self.quit(vm)
        for capture in captures:
            self.assertEqual(capture.count(), 0)
        self.cont(target)
        # Those that waited for the start come together, and first
        waited = captures[1].count()
        self.wait_for('waiting for announcements',
                      lambda: captures[1].count() > waited + 2)
        self.assertEqual(captures[0].count(), 0)

    def assert_announces(self, vm, captures):
        """People may still ask for an announcement"""
        vm.cmd('announce-self', {
            name.removeprefix('announce-'): value
            for name, value in self.ROUNDS.items()} | {'rounds': 2})
        self.wait_for('waiting for an announcement',
                      lambda: captures[0].count() > 0)

    def test_announcement(self):
        """QEMU sends no RARP for a NIC whose TAP was handed over"""
        source, target = self.two_nics()
        vm = self.source(None, *source)
        captures = []
        for ifname in 'tap0', 'tap1':
            link_up(ifname)
            captures.append(self.capture(ifname, Capture.RARP))
        target = self.target(None, *target)
        self.do_announcements(vm, target, captures)
        self.assert_announces(target, captures)

    def test_announcement_of_guest(self):
        """The guest sends no ARP announcement for it either"""
        source, target = self.two_nics(1)
        path, guest = self.guest_args(1, shell=True)
        vm = self.source(None, *guest, *source)
        agent = self.agent()
        link_up('tap1')
        shell = self.shell(path)
        self.shell_ok(shell, 'ip link set eth1 up && '
                      'ip addr add 10.0.1.2/24 dev eth1')
        captures = [self.capture(ifname, Capture.GRATUITOUS_ARP)
                    for ifname in ('tap0', 'tap1')]
        target = self.target(None, *self.guest_args(1)[1], *target)
        self.do_announcements(vm, target, captures)
        self.assert_answers(agent)
        self.assertEqual(captures[0].count(), 0)
        self.assert_announces(target, captures)


if __name__ == '__main__':
    QemuSystemTest.main()
