#!/usr/bin/env python3
#
# Tests of the hand-over of a TAP between two versions of QEMU
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import subprocess

from qemu_test import QemuSystemTest

from tap_local_base import (LOCAL, QUEUES, VHOST_NET, TapLocalTestBase, nic,
                            source_netdev, target_netdev)

OTHER = 'QEMU_TEST_OTHER_BINARY'
MACHINE = 'pc-q35-10.0'
TUN_F_UDP_TUNNEL_GSO = 0x80


def has_tunnel_offloads():
    """Whether the kernel knows an offload that only newer QEMUs know"""
    major, minor = re.match(r'(\d+)\.(\d+)', os.uname().release).groups()
    return (int(major), int(minor)) >= (6, 17)


def machine_types(binary):
    """Returns the versioned machine types of a QEMU, as (family, version)"""
    output = subprocess.run([binary, '-M', 'help'], check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    return {(family, tuple(int(n) for n in version.split('.')))
            for family, version in
            re.findall(r'(?m)^pc-(i440fx|q35)-([\d.]+) ', output)}


class TapLocalVersions(TapLocalTestBase):

    def setUp(self):
        other = os.getenv(OTHER)
        if not other:
            self.skipTest(f'{OTHER} does not name a QEMU of another version')
        super().setUp()
        self.binaries = [self.qemu_bin, other]

    def choose_machine(self, name):
        """Use a machine type; returns the NIC for it"""
        self.set_machine(name)
        return nic(0, QUEUES, bus='pcie.0' if 'q35' in name else 'pci.0')

    def swap(self):
        """Let the next QEMU be of the other version"""
        self.binaries.reverse()
        self.qemu_bin = self.binaries[0]

    def version(self, vm):
        version = vm.cmd('query-version')['qemu']
        return version['major'], version['minor']

    def hop(self, vm, make_target, agent=None):
        """Hand over to a QEMU of the other version; returns it"""
        states = self.states(vm)
        self.swap()
        target = make_target()
        self.assertNotEqual(self.version(vm), self.version(target))
        self.hand_over(vm, target)
        sent = [agent.send()] if agent else []
        self.main_loop_turns(vm, target)
        self.assertEqual(self.states(target), states)
        self.quit(vm)
        self.cont(target)
        if agent:
            self.assert_answers(agent, *sent)
        self.main_loop_turns(target)
        self.assertEqual(self.states(target), states)
        return target

    def reset(self, vm):
        vm.cmd('system_reset')
        self.assertIsNotNone(vm.event_wait('RESET', timeout=self.timeout))

    def check_refusal(self, vm, make_target):
        """A target of the other version refuses, and the source resumes"""
        self.swap()
        target = make_target(vnet_hdr='off')
        self.assert_refused(vm, target, "netdev 'net0' queue 0", 'vnet_hdr')
        self.swap()

    # Combinations of options

    def do_versions(self, *options, swapped=False):
        """
        A guest that boots goes to the other version, boots again there,
        and goes back and forth

        @options: of source and target
        @swapped: begin with the other version
        """
        if 'vhost=on' in options:
            self.require_vhost()
        if 'kernel-state=on' in options:
            self.require_kernel_state()
        device = self.choose_machine(MACHINE)
        more = ','.join(options)

        def make_target(vnet_hdr='on'):
            return self.guest_target(target_netdev(
                more=f'incoming-fds=on,vnet_hdr={vnet_hdr},{more}'),
                device=device)

        if swapped:
            self.swap()
        vm, agent, _ = self.boot(source_netdev(more=f'{LOCAL},{more}'),
                                 device=device)
        self.check(vm, options)
        self.check_refusal(vm, make_target)
        self.assert_answers(agent)
        vm = self.hop(vm, make_target, agent)
        self.check(vm, options)
        self.reset(vm)
        agent.wait(self.timeout)
        for _ in range(2):
            vm = self.hop(vm, make_target, agent)
            self.check(vm, options)
            self.check_verified(vm, options)

    def check(self, vm, options):
        """Check that a target works as its options say"""
        self.assertEqual(self.open_files(vm).count(VHOST_NET),
                         QUEUES if 'vhost=on' in options else 0)
        self.assertEqual(self.attached(vm), [True] * QUEUES)
        if self.reports_state:
            supported = self.states(vm)[0]['offload']['supported']
            self.assertEqual(bool(supported & TUN_F_UDP_TUNNEL_GSO),
                             has_tunnel_offloads())

    def check_verified(self, vm, options):
        """Check that a target has verified the kernel's state, if it can"""
        unverified = self.tap_info(vm).get('unverified')
        if 'kernel-state=off' in options:
            self.assertEqual(unverified, 'kernel-state=off')
        elif self.reports_state:
            self.assertIsNone(unverified)
        else:
            self.assertIsNotNone(unverified)

    def test_kernel_state_on(self):
        self.do_versions('kernel-state=on')

    def test_kernel_state_auto(self):
        self.do_versions('kernel-state=auto')

    def test_kernel_state_off(self):
        self.do_versions('kernel-state=off')

    def test_vhost_kernel_state_on(self):
        self.do_versions('kernel-state=on', 'vhost=on')

    def test_vhost_kernel_state_auto(self):
        self.do_versions('kernel-state=auto', 'vhost=on')

    def test_vhost_kernel_state_off(self):
        self.do_versions('kernel-state=off', 'vhost=on')

    def test_swapped_kernel_state_on(self):
        self.do_versions('kernel-state=on', swapped=True)

    def test_swapped_kernel_state_auto(self):
        self.do_versions('kernel-state=auto', swapped=True)

    def test_swapped_kernel_state_off(self):
        self.do_versions('kernel-state=off', swapped=True)

    def test_swapped_vhost_kernel_state_on(self):
        self.do_versions('kernel-state=on', 'vhost=on', swapped=True)

    def test_swapped_vhost_kernel_state_auto(self):
        self.do_versions('kernel-state=auto', 'vhost=on', swapped=True)

    def test_swapped_vhost_kernel_state_off(self):
        self.do_versions('kernel-state=off', 'vhost=on', swapped=True)

    # Machine types

    def test_machine_types(self):
        """Machine types that both versions have, without a guest"""
        types = sorted(machine_types(self.binaries[0]) &
                       machine_types(self.binaries[1]))
        self.assertIn(('q35', (10, 0)), types)
        for family, version in types:
            name = f'pc-{family}-{".".join(map(str, version))}'
            self.log.info('machine type %s', name)
            device = self.choose_machine(name)
            vm = self.source(nic=device)
            for _ in range(2):
                vm = self.hop(vm, lambda: self.target(nic=device))
                self.reset(vm)
            self.quit(vm)


if __name__ == '__main__':
    QemuSystemTest.main()
