#!/usr/bin/env python3
#
# Tests of the hand-over of a TAP in many configurations of QEMU
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import os
import re
import resource
import socket
import subprocess

from qemu_test import QemuSystemTest, skipIfMissingCommands

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (LOCAL, NIC, QUEUES, TapLocalTestBase, nic,
                            source_netdev, target_netdev)
from tap_local_bpf import bpf_drop, bpf_return
from tap_local_cpr import CprMixin
from tap_local_network import (ETHERTYPE, GUEST_IP, active_features, link_up,
                               make_bridge, send_packet, set_address)


class TapLocalConfigs(CprMixin, TapLocalTestBase):

    # Numbers of queues

    def do_queue_pairs(self, queues):
        device = nic(0, queues)
        vm = self.source(source_netdev(queues), nic=device)
        self.assertEqual(len(self.states(vm)), queues)
        # Before a driver is loaded, the NIC uses one queue
        attached = [True] + [False] * (queues - 1)
        self.assertEqual(self.attached(vm), attached)

        def check(vm):
            self.assertEqual(self.attached(vm), attached)

        self.to_and_fro(vm, lambda: self.target(target_netdev(queues),
                                                nic=device), check=check)

    def do_guest_queue_pairs(self, queues):
        device = nic(0, queues)
        vm, agent, _ = self.boot(source_netdev(queues), queues=queues,
                                 device=device)
        self.assertEqual(self.attached(vm), [True] * queues)

        def check(vm):
            answer = self.assert_answers(agent)
            self.assertEqual(answer['queues'], str(queues))
            self.assertEqual(self.attached(vm), [True] * queues)

        self.to_and_fro(vm, lambda: self.guest_target(
            target_netdev(queues), queues=queues, device=device), agent,
            check=check)

    def test_queue_pairs_1(self):
        self.do_guest_queue_pairs(1)

    def test_queue_pairs_2(self):
        self.do_guest_queue_pairs(2)

    def test_queue_pairs_4(self):
        self.do_guest_queue_pairs(4)

    def test_queue_pairs_16(self):
        self.do_guest_queue_pairs(16)

    def test_queue_pairs_64(self):
        # The guest fills the ring of each queue with buffers
        self.memory = '256M'
        self.do_guest_queue_pairs(64)

    def test_queue_pairs_256(self):
        self.do_queue_pairs(256)

    def test_queue_pairs_256_too_few_files(self):
        """RLIMIT_NOFILE of the target is too low for all queues"""
        device = nic(0, 256)
        vm = self.source(source_netdev(256), nic=device)

        def target():
            return self.target(target_netdev(256), nic=device)

        limited = target()
        files = len(self.open_files(limited)) + 100
        resource.prlimit(limited.get_pid(), resource.RLIMIT_NOFILE,
                         (files, files))
        # QEMU 11.1 refuses the section 'net0/N/net-tap' before it is complete
        self.assert_refused(vm, limited,
                            r"net0(' queue |/)[1-9]\d*(/net-tap')?: no file "
                            'descriptor came with the stream', 'RLIMIT_NOFILE')
        self.to_and_fro(vm, target)

    def test_mq_off(self):
        """The NIC uses only one of several queues"""
        device = {**NIC, 'mq': False}
        del device['vectors']
        vm = self.source(nic=device)
        self.to_and_fro(vm, lambda: self.target(nic=device))

    def do_queues_differ(self, here, there, *patterns):
        """The target stays, and query-migrate shows the reason"""
        source = self.source(source_netdev(here), nic=nic(0, here),
                             capabilities=['return-path'])
        target = self.target(target_netdev(there), nic=nic(0, there),
                             capabilities=['return-path'])
        states = self.states(source)
        path = self.socket_path()
        target.cmd('migrate-incoming', {'uri': f'unix:{path}',
                                        'exit-on-error': False})
        source.cmd('migrate', uri=f'unix:{path}')
        info = self.wait_migration(target)
        self.assertEqual(info['status'], 'failed')
        for pattern in patterns:
            self.assertRegex(info['error-desc'], pattern)
        self.assert_resumes(source, states)
        self.assertNotIn(tap.TUN, self.open_files(target))
        self.quit(target)
        self.assertEqual(self.states(source), states)
        self.assertEqual(source.cmd('query-migrate')['status'], 'failed')
        self.quit(source)
        self.assertRegex(source.get_log(), rf"netdev 'net0'.*its {here} queue.*"
                         'the target refused them.*queues=')

    def test_more_queues_on_source(self):
        self.do_queues_differ(4, 2, 'net0', 'queues=')

    def test_more_queues_on_target(self):
        self.do_queues_differ(2, 4, "netdev 'net0' queue 2",
                              'has 2 of the 4 queues',
                              'on the source.*queues=4')

    # Where the source's file descriptors come from

    def test_fd(self):
        fd = self.inherit(tap.open_tap('tap0', uapi.IFF_VNET_HDR))
        vm, agent, _ = self.boot(f'tap,id=net0,fd={fd},{LOCAL}', queues=1,
                                 device=nic(0))
        os.set_inheritable(fd, False)
        self.to_and_fro(vm, lambda: self.guest_target(
            target_netdev(1), queues=1, device=nic(0)), agent)

    def test_fds(self):
        fds = []
        vm = self.source(
            f'tap,id=net0,fds={self.tap_fds(fds, QUEUES)},{LOCAL}')
        for fd in fds:
            os.close(fd)
        self.to_and_fro(vm, self.target)

    def test_getfd(self):
        """fds= with names of fds that management passed by getfd"""
        vm = self.source(None)
        for i in range(QUEUES):
            fd = tap.open_tap('tap0', uapi.IFF_MULTI_QUEUE | uapi.IFF_VNET_HDR)
            vm.send_fd_scm(fd)
            vm.cmd('getfd', fdname=f'queue{i}')
            os.close(fd)
        vm.cmd('netdev_add', {
            'type': 'tap', 'id': 'net0', 'local-migration-supported': True,
            'fds': ':'.join(f'queue{i}' for i in range(QUEUES))})
        vm.cmd('device_add', NIC)
        self.to_and_fro(vm, self.target)

    def test_helper(self):
        vm, agent, _ = self.boot(f'tap,id=net0,helper={self.helper()},{LOCAL}',
                                 queues=1, device=nic(0))
        self.to_and_fro(vm, lambda: self.guest_target(
            target_netdev(1), queues=1, device=nic(0)), agent)

    # Options of the netdev

    def test_sndbuf(self):
        more = f'{LOCAL},sndbuf=65536'
        vm = self.source(source_netdev(more=more))
        with tap.TapQueues(vm.get_pid()) as queues:
            self.assertEqual([q.sndbuf for q in queues], [65536] * QUEUES)
        self.to_and_fro(vm, lambda: self.target(target_netdev(
            more='incoming-fds=on,sndbuf=65536')))

    def test_vnet_hdr_off(self):
        vm, agent, _ = self.boot(source_netdev(more=f'{LOCAL},vnet_hdr=off'))
        with tap.TapQueues(vm.get_pid()) as queues:
            self.assertFalse(queues[0].flags & uapi.IFF_VNET_HDR)
        self.to_and_fro(vm, lambda: self.guest_target(
            target_netdev(more='vnet_hdr=off,incoming-fds=on')), agent)

    def test_ifname(self):
        vm = self.source(source_netdev(ifname='left'))
        self.to_and_fro(vm, lambda: self.target(
            target_netdev(more='ifname=left,incoming-fds=on')))

    def test_ifname_given_by_kernel(self):
        """The kernel chose the name on the source"""
        vm = self.source(source_netdev(ifname='left%d'))
        self.to_and_fro(vm, self.target)

    # eBPF programs of other processes

    def packets_while_stopped(self, vm):
        """Returns a bool for each queue: it gets a packet from the host"""
        vm.cmd('stop')
        # Earlier packets have been read
        with tap.TapQueues(vm.get_pid()) as queues:
            before = [q.has_packet() for q in queues]
            send_packet('tap0')
            after = [q.has_packet() for q in queues]
        self.cont(vm)
        self.assertEqual(before, [False] * len(before))
        return after

    def test_steering_program(self):
        vm, agent, _ = self.boot(source_netdev())
        self.set_program(vm, uapi.TUNSETSTEERINGEBPF, bpf_return(2))
        expected = [i == 2 for i in range(QUEUES)]
        self.assertEqual(self.packets_while_stopped(vm), expected)

        def check(vm):
            self.assertEqual(self.packets_while_stopped(vm), expected)

        self.to_and_fro(vm, lambda: self.guest_target(target_netdev()), agent,
                        check=check)

    def test_filter_program(self):
        vm, agent, _ = self.boot(source_netdev())
        self.assertIn(True, self.packets_while_stopped(vm))
        self.set_program(vm, uapi.TUNSETFILTEREBPF, bpf_drop(ETHERTYPE))
        self.assertNotIn(True, self.packets_while_stopped(vm))

        def check(vm):
            self.assertNotIn(True, self.packets_while_stopped(vm))

        self.to_and_fro(vm, lambda: self.guest_target(target_netdev()), agent,
                        check=check)

    # Hot-plug

    NETDEV_ADD = {'type': 'tap', 'id': 'net0', 'queues': QUEUES,
                  'local-migration-supported': True}

    def plug_target(self, *args, **more):
        target = self.target(None, *args)
        target.cmd('netdev_add', {**self.NETDEV_ADD, **more})
        target.cmd('device_add', NIC)
        self.assertNotIn(tap.TUN, self.open_files(target))
        return target

    def plug(self, vm):
        vm.cmd('netdev_add', {**self.NETDEV_ADD, 'ifname': 'tap0',
                              'script': '', 'downscript': ''})
        vm.cmd('device_add', NIC)
        self.assertEqual(len(self.states(vm)), QUEUES)

    def plug_source(self):
        vm = self.source(None)
        self.plug(vm)
        return vm

    def unplug_nic(self, vm, guest=False):
        vm.cmd('device_del', id='nic0')
        if not guest:
            # Unplug without the cooperation of a guest
            vm.cmd('system_reset')
        self.assertIsNotNone(vm.event_wait(
            'DEVICE_DELETED', timeout=self.timeout,
            match={'data': {'device': 'nic0'}}))

    def unplug(self, vm, guest=False):
        self.unplug_nic(vm, guest)
        vm.cmd('netdev_del', id='net0')

    def test_hotplug(self):
        vm = self.to_and_fro(self.plug_source(), self.plug_target)
        self.unplug(vm)
        self.main_loop_turns(vm)
        self.assertNotIn(tap.TUN, self.open_files(vm))
        self.assertEqual(vm.cmd('query-tap-state'), [])
        self.assertNotIn('tap0', [name for _, name in socket.if_nameindex()])
        # The name can be used again
        self.plug(vm)
        self.to_and_fro(vm, self.plug_target)

    def test_hotplug_incoming_fds(self):
        self.to_and_fro(self.plug_source(), lambda: self.plug_target(
            **{'incoming-fds': True}))

    def test_hotplug_with_guest(self):
        """The guest gets the NIC on the source, and unplugs it on a target"""
        path, guest = self.guest_args(shell=True)
        vm = self.source(None, *guest)
        shell = self.shell(path)
        shell.run('true', self.timeout)
        self.plug(vm)
        status, output = shell.run(
            'until [ -e /sys/class/net/eth0 ]; do sleep 1; done; '
            f'ethtool -L eth0 combined {QUEUES} && '
            f'ip link set eth0 up && ip addr add {GUEST_IP}/24 dev eth0',
            self.timeout)
        self.assertEqual(status, 0, output)
        vm = self.to_and_fro(
            vm, lambda: self.plug_target(*self.guest_args(shell=True)[1]),
            self.agent())
        self.unplug(vm, guest=True)
        self.assertNotIn(tap.TUN, self.open_files(vm))
        self.assertEqual(self.status(vm), 'running')

    def test_netdev_without_nic(self):
        """The NIC was unplugged, and the netdev kept"""
        vm = self.to_and_fro(self.plug_source(), self.plug_target)
        self.unplug_nic(vm)
        vm = self.to_and_fro(vm, lambda: self.target(None, '-netdev',
                                                     target_netdev()))
        # A NIC that is plugged now works, and goes along
        vm.cmd('device_add', NIC)
        link_up('tap0')
        send_packet('tap0')
        with tap.TapQueues(vm.get_pid()) as queues:
            self.assertTrue(queues[0].attached)
            self.wait_for('waiting for the NIC', lambda: not any(
                q.has_packet() for q in queues))
        self.to_and_fro(vm, self.target)

    def test_netdev_without_nic_refused(self):
        """A source without a NIC, and a target that refuses"""
        vm = self.source(None, '-netdev', source_netdev())
        self.assert_refused(vm, self.target(None, '-netdev', target_netdev(
            more='incoming-fds=on,ifname=tap9')), 'ifname=tap9')
        self.to_and_fro(vm, lambda: self.target(None, '-netdev',
                                                target_netdev()))

    def failover_args(self, standby, primary):
        """Options of a failover pair, whose NICs have one MAC"""
        return ('-device', 'pcie-root-port,id=root0,chassis=1,addr=0x6',
                '-device', 'pcie-root-port,id=root1,chassis=2,addr=0x7',
                *self.pairs((
                    {**nic(0), 'bus': 'root0', 'addr': '0x0',
                     'failover': True},
                    {**nic(1, 1, 'e1000e'), 'mac': nic(0)['mac'],
                     'bus': 'root1', 'addr': '0x0',
                     'failover_pair_id': 'nic0'}), (standby, primary)))

    def failover_source(self, *args):
        self.set_machine('q35')
        return self.source(None, *args, *self.failover_args(
            source_netdev(1), source_netdev(1, 'tap1', name='net1')))

    def failover_target(self, *args):
        return self.target(None, *args, *self.failover_args(
            target_netdev(1), target_netdev(1, name='net1')))

    def test_failover(self):
        """Without a guest that wants it, the primary NIC stays hidden"""
        self.require_device('"e1000e"')
        vm = self.failover_source()
        self.assertEqual(len(self.states(vm)), 2)
        self.assert_refused(vm, self.target(
            None, *self.failover_args(target_netdev(1), target_netdev(
                1, 'incoming-fds=on,ifname=tap9', 'net1'))), 'ifname=tap9')
        self.to_and_fro(vm, self.failover_target)

    def nics(self, vm):
        return {device['qdev_id'] for bus in vm.cmd('query-pci')
                for device in self.devices(bus['devices'])} & {'nic0', 'nic1'}

    def devices(self, devices):
        for device in devices:
            yield device
            yield from self.devices(device.get('pci_bridge', {}).get(
                'devices', ()))

    def test_failover_with_guest(self):
        """The primary is unplugged, and plugged again on either side"""
        self.require_device('"e1000e"')
        vm = self.failover_source(*self.guest_args(1)[1])
        make_bridge('br0', 'tap0', 'tap1')
        agent = self.agent('br0')
        for _ in range(2):
            self.wait_for('waiting for the primary NIC',
                          lambda: self.nics(vm) == {'nic0', 'nic1'})
            agent.wait(self.timeout)
            target = self.failover_target(*self.guest_args(1)[1])
            self.hand_over(vm, target)
            self.assertEqual([data['device-id'] for data in
                              self.event(vm, 'UNPLUG_PRIMARY')], ['nic1'])
            self.quit(vm)
            self.cont(target)
            vm = target
        self.wait_for('waiting for the primary NIC',
                      lambda: self.nics(vm) == {'nic0', 'nic1'})
        agent.wait(self.timeout)

    def test_id_used_again(self):
        """A netdev that was deleted still serves its NIC"""
        device = nic(0, 1, 'e1000')
        vm = self.source(source_netdev(1), nic=device)
        vm.cmd('netdev_del', id='net0')
        self.assertEqual(vm.cmd('query-tap-state'), [])
        self.assertIn("'net0'", self.qmp_error(vm, 'query-tap-state',
                                               id='net0'))
        self.assertRegex(
            self.qmp_error(vm, 'netdev_add', **{
                **self.NETDEV_ADD, 'queues': 1, 'ifname': 'tap1',
                'script': '', 'downscript': ''}),
            "netdev 'net0'.*unplug the NIC first")
        # Without a netdev, the TAP is not handed over
        del device['netdev']
        target = self.target(None, '-device', json.dumps(device))
        self.hand_over(vm, target)
        self.quit(target)
        self.cont(vm)
        vm.cmd('device_del', id='nic0')
        vm.cmd('system_reset')
        self.assertIsNotNone(vm.event_wait(
            'DEVICE_DELETED', timeout=self.timeout,
            match={'data': {'device': 'nic0'}}))
        self.plug(vm)
        self.to_and_fro(vm, self.plug_target)

    def test_netdev_del_of_source(self):
        """netdev_del on the source leaves a TAP that was handed over alone"""
        source = self.source()
        states = self.states(source)
        target = self.target()
        self.hand_over(source, target)
        source.cmd('netdev_del', id='net0')
        self.main_loop_turns(source)
        self.assertEqual(self.states(target), states)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_netdev_del_while_waiting(self):
        source = self.source()
        states = self.states(source)

        def target():
            vm = self.target(None)
            vm.cmd('netdev_add', self.NETDEV_ADD)
            vm.cmd('netdev_del', id='net0')
            self.assertEqual(vm.cmd('query-tap-state'), [])
            return vm

        self.assert_refused(source, target(), 'net0/0', 'incoming-fds=on')
        # A new netdev may have the same id
        vm = target()
        vm.cmd('netdev_add', self.NETDEV_ADD)
        vm.cmd('device_add', NIC)
        self.hand_over_and_run(source, vm, states)

    # Several NICs

    def do_nics(self, *queues):
        devices = [nic(i, n) for i, n in enumerate(queues)]
        vm = self.source(None, *self.pairs(
            devices, [source_netdev(n, f'tap{i}', name=f'net{i}')
                      for i, n in enumerate(queues)]))
        for i, n in enumerate(queues):
            self.assertEqual(len(self.states(vm, f'tap{i}')), n)
        self.to_and_fro(vm, lambda: self.target(None, *self.pairs(
            devices, [target_netdev(n, name=f'net{i}')
                      for i, n in enumerate(queues)])))

    def test_two_nics(self):
        self.do_nics(QUEUES, 1)

    def test_three_nics(self):
        self.do_nics(1, 2, QUEUES)

    def test_nics_in_other_order(self):
        """Source and target match netdevs by id"""
        devices = [nic(0, 2), nic(1, 2)]
        vm = self.source(None, *self.pairs(
            devices, [source_netdev(2, 'tap0'),
                      source_netdev(2, 'tap1', name='net1')]))
        self.to_and_fro(vm, lambda: self.target(None, *self.pairs(
            devices[::-1], [
                target_netdev(2, 'ifname=tap1,incoming-fds=on', 'net1'),
                target_netdev(2, 'ifname=tap0,incoming-fds=on')])))

    def test_mix(self):
        """Only netdevs that support it are handed over"""
        devices = [nic(0, QUEUES), nic(1, 2), nic(2)]

        def others():
            """Netdevs that each side opens itself"""
            return [source_netdev(2, 'tap1', '', 'net1'),
                    f'dgram,id=net2,local.type=unix,'
                    f'local.path={self.socket_path()},remote.type=unix,'
                    f'remote.path={self.socket_path()}']

        vm = self.source(None, *self.pairs(
            devices, [source_netdev(), *others()]))
        states = self.states(vm, 'tap0')
        self.assertEqual(len(states), QUEUES)
        self.assertEqual(len(self.states(vm, 'tap1')), 2)
        for _ in range(2):
            target = self.target(None, *self.pairs(
                devices, [target_netdev(), *others()]))
            self.assertEqual(
                [(info['id'], info['hand-over'])
                 for info in target.cmd('query-tap-state')],
                [('net0', 'waiting')])
            self.hand_over(vm, target)
            self.quit(vm)
            self.cont(target)
            self.main_loop_turns(target)
            self.assertEqual(self.states(target, 'tap0'), states)
            self.assertEqual(len(self.states(target, 'tap1')), 2)
            vm = target

    # NIC models

    def do_nic_model(self, driver):
        self.require_device(f'"{driver}"')
        device = nic(0, driver=driver)
        vm = self.source(source_netdev(1), nic=device)
        # Without a guest, some NIC models take packets, and some do not
        link_up('tap0')
        send_packet('tap0')
        self.to_and_fro(vm, lambda: self.target(target_netdev(1), nic=device))

    def do_guest_nic_model(self, driver):
        self.require_device(f'"{driver}"')
        device = nic(0, driver=driver)
        path, guest = self.guest_args(1, shell=True)
        vm = self.source(source_netdev(1), *guest, nic=device)
        set_address('tap0')
        status, _ = self.shell(path).run('test -e /sys/class/net/eth0',
                                         self.timeout)
        if status:
            self.skipTest(f'the guest has no driver for {driver}')
        self.to_and_fro(vm, lambda: self.guest_target(
            target_netdev(1), queues=1, device=device), self.agent())

    def test_nic_e1000(self):
        self.do_nic_model('e1000')

    def test_nic_e1000e(self):
        self.do_nic_model('e1000e')

    def test_nic_igb(self):
        self.do_nic_model('igb')

    def test_nic_ne2k(self):
        self.do_nic_model('ne2k_pci')

    def test_nic_pcnet(self):
        self.do_nic_model('pcnet')

    def test_nic_rtl8139(self):
        self.do_nic_model('rtl8139')

    def test_nic_tulip(self):
        self.do_nic_model('tulip')

    def test_nic_vmxnet3(self):
        self.do_nic_model('vmxnet3')

    def test_guest_nic_e1000(self):
        self.do_guest_nic_model('e1000')

    def test_guest_nic_e1000e(self):
        self.do_guest_nic_model('e1000e')

    def test_guest_nic_rtl8139(self):
        self.do_guest_nic_model('rtl8139')

    def test_guest_nic_vmxnet3(self):
        self.do_guest_nic_model('vmxnet3')

    # A bridge

    def test_bridge(self):
        guest = self.guest_args()[1]
        vm = self.source(source_netdev(), *guest)
        try:
            make_bridge('br0', 'tap0')
        except subprocess.CalledProcessError as e:
            self.skipTest(f'a bridge cannot be made: {e}')
        # The host's address is on the bridge, so all packets pass it
        agent = self.agent('br0')
        self.to_and_fro(vm, lambda: self.guest_target(target_netdev()), agent)

    # cpr-transfer

    def do_cpr(self, option):
        netdev = source_netdev(more=option)
        vm, monitor = self.cpr_vm('source', netdev)
        self.launch(vm, local=False)
        self.assertEqual(len(self.states(vm)), QUEUES)

        def hand_over(vm):
            # Source and target have the same -netdev
            nonlocal monitor
            target, monitor = self.hand_over_cpr(vm, monitor, netdev)
            return target

        self.to_and_fro(vm, hand_over=hand_over)

    def test_cpr_transfer(self):
        self.do_cpr('cpr=on')

    def test_cpr_transfer_local(self):
        self.do_cpr(LOCAL)

    def boot_cpr(self, netdev):
        vm, monitor = self.cpr_vm('source', netdev, *self.guest_args()[1])
        self.launch(vm, local=False)
        return vm, monitor, self.agent()

    def do_guest_cpr(self, vm, monitor, netdev, agent):
        """Hand over, run the target; returns it and its second monitor"""
        states = self.states(vm)
        target, monitor = self.hand_over_cpr(vm, monitor, netdev,
                                             *self.guest_args()[1])
        sent = agent.send()
        self.main_loop_turns(vm, target)
        self.assertEqual(self.states(target), states)
        self.quit(vm)
        self.cont(target)
        self.assert_answers(agent, sent)
        self.assertEqual(self.states(target), states)
        self.assertEqual(self.attached(target), [True] * QUEUES)
        return target, monitor

    def test_cpr_transfer_guest(self):
        netdev = source_netdev(more='cpr=on')
        vm, monitor, agent = self.boot_cpr(netdev)
        for _ in range(2):
            vm, monitor = self.do_guest_cpr(vm, monitor, netdev, agent)

    def test_cpr_transfer_killed(self):
        """The source resumes, and can hand over again"""
        netdev = source_netdev(more='cpr=on')
        vm, monitor, agent = self.boot_cpr(netdev)
        states = self.states(vm)
        files = self.open_files(vm)
        target, _ = self.hand_over_cpr(vm, monitor, netdev,
                                       *self.guest_args()[1])
        sent = agent.send()
        target.kill()
        self.cont(vm)
        self.assert_answers(agent, sent)
        self.assertEqual(self.states(vm), states)
        self.assertEqual(self.open_files(vm), files)
        self.do_guest_cpr(vm, monitor, netdev, agent)

    def test_cpr_channel_without_fds(self):
        """cpr-transfer itself accepts a main channel without fds"""
        netdev = source_netdev(more='cpr=on')
        source, monitor = self.cpr_vm('source', netdev)
        self.launch(source, local=False)
        source.cmd('migrate-set-parameters', mode='cpr-transfer')
        states = self.states(source)
        cpr = self.channel('cpr', self.unix_address(self.socket_path()))
        # The loopback device of a new namespace is down
        link_up('lo')
        with socket.create_server(('127.0.0.1', 0)) as sock:
            port = sock.getsockname()[1]
        thread = self.start_cpr(monitor, cpr, self.channel(
            'main', {'transport': 'socket', 'type': 'inet',
                     'host': '127.0.0.1', 'port': str(port)}))
        target, _ = self.cpr_vm('target', netdev, '-S', '-incoming', 'defer',
                                '-incoming', json.dumps(cpr))
        self.launch(target, local=False)
        thread.join()
        target.cmd('migrate-incoming', uri=f'tcp:127.0.0.1:{port}')
        info = self.wait_migration(source)
        self.assertEqual(info['status'], 'failed')
        self.assertRegex(info['error-desc'], "netdev 'net0'.*UNIX socket")
        self.assert_fails(target)
        self.assert_resumes(source, states)

    # QMP and HMP

    def migration_events(self, vm):
        return [event['data']['status'] for event in vm.get_qmp_events()
                if event['event'] == 'MIGRATION']

    def test_events(self):
        vm = self.source()
        for _ in range(2):
            target = self.target()
            self.hand_over(vm, target)
            # A former target has events of that migration, too
            self.assertEqual(self.migration_events(vm)[-4:],
                             ['setup', 'active', 'device', 'completed'])
            self.quit(vm)
            self.cont(target)
            self.assertEqual(self.migration_events(target),
                             ['setup', 'active', 'completed'])
            vm = target

    def hmp(self, vm, line):
        return vm.cmd('human-monitor-command', command_line=line).replace(
            '\r', '')

    def test_hmp(self):
        source = self.source(local=False)
        target = self.target(local=False)
        states = self.states(source)
        path = self.socket_path()

        def tap_state(vm):
            return self.hmp(vm, 'info tap-state net0').splitlines()[0]

        for vm in source, target:
            self.assertEqual(self.hmp(vm, 'migrate_set_parameter local on'),
                             '')
        self.assertEqual(tap_state(source), 'net0: owner, may resume: yes, '
                         'may quit: no, tap tap0')
        self.assertEqual(tap_state(target), 'net0: waiting, may resume: no, '
                         'may quit: yes, tap -')
        self.assertEqual(self.hmp(target, f'migrate_incoming unix:{path}'), '')
        self.assertEqual(self.hmp(source, f'migrate -d unix:{path}'), '')
        for vm in source, target:
            self.assertEqual(self.wait_migration(vm)['status'], 'completed')
            self.assertRegex(self.hmp(vm, 'info migrate'),
                             r'(?mi)^(migration )?status:\s+completed')
        self.wait_status(target, 'paused')
        self.assertEqual(tap_state(source), 'net0: handed-over, may resume: '
                         'no, may quit: yes, tap tap0')
        self.assertEqual(tap_state(target), 'net0: arrived, may resume: yes, '
                         'may quit: yes, tap tap0')
        self.quit(source)
        self.assertEqual(self.hmp(target, 'cont'), '')
        self.assertEqual(tap_state(target), 'net0: owner, may resume: yes, '
                         'may quit: no, tap tap0')
        self.assertEqual(self.states(target), states)
        text = self.hmp(target, 'info tap-state').splitlines()
        self.assertEqual(
            [line for line in text if line.startswith('  queue ')],
            [f'  queue {i}: {"detached" if i else "attached"}, '
             '0 and 0 bytes pending' for i in range(QUEUES)])
        self.assertEqual([line for line in text if 'packets' in line],
                         ['  packets: 0 carried, 0 delivered'])
        self.assertEqual(len([line for line in text if 'unverified' in line]),
                         0 if self.reports_state else 1)
        self.assertRegex(self.hmp(target, 'info tap-state net9'), "'net9'")

    def query(self, vm):
        """Returns query-tap-state of the netdev, without its queues"""
        info, = vm.cmd('query-tap-state', id='net0')
        self.assertEqual(info.pop('id'), 'net0')
        # Before a driver is loaded, the NIC uses one queue
        self.assertEqual(info.pop('queues'), [
            {'enabled': i == 0, 'gone': False, 'pending-received': 0,
             'pending-sent': 0} for i in range(QUEUES)])
        return info

    def info(self, hand_over, may_resume, may_quit, **more):
        return {'hand-over': hand_over, 'may-resume': may_resume,
                'may-quit': may_quit, 'carried': 0, 'delivered': 0, **more}

    def test_query_tap_state(self):
        source = self.source()
        target = self.target()
        self.assertIn("'net9'", self.qmp_error(source, 'query-tap-state',
                                               id='net9'))
        owner = self.info('owner', True, False, ifname='tap0')
        self.assertEqual(self.query(source), owner)
        self.assertEqual(self.query(target),
                         self.info('waiting', False, True))
        self.hand_over(source, target)
        unverified = {} if self.reports_state else {
            'unverified': 'this kernel does not report TAP state '
                          '(TUNGETSTATE)'}
        self.assertEqual(self.query(source), self.info(
            'handed-over', False, True, ifname='tap0', **unverified))
        self.assertEqual(self.query(target), self.info(
            'arrived', True, True, ifname='tap0', **unverified))
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.query(target), {**owner, **unverified})

    def test_query_tap_state_of_source_that_goes_on(self):
        source = self.source()
        target = self.target()
        expected = self.query(source)
        self.hand_over(source, target)
        self.quit(target)
        self.cont(source)
        info = self.query(source)
        info.pop('unverified', None)
        self.assertEqual(info, expected)

    def test_query_tap_state_off(self):
        """A netdev that cannot be handed over is not shown"""
        vm = self.source(source_netdev(more=''))
        self.assertEqual(vm.cmd('query-tap-state'), [])
        self.assertRegex(self.qmp_error(vm, 'query-tap-state', id='net0'),
                         "no TAP netdev 'net0' that can be handed over")

    def test_trace_points(self):
        """They tell of each transition, and of each queue in the stream"""
        args = '-trace', 'tap_local_*', '-trace', 'tap_stream_*'
        source = self.source(source_netdev(), *args)
        target = self.target(target_netdev(), *args)
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.quit(target)
        for vm, section, states in (
                (source, 'save', ['owner -> suspended',
                                  'suspended -> handed-over']),
                (target, 'load', ['waiting -> arrived', 'arrived -> owner'])):
            log = vm.get_log()
            self.assertEqual(re.findall(
                r'tap_local_state netdev net0: (.*)', log), states)
            self.assertEqual(re.findall(
                rf'tap_stream_{section} netdev net0 queue (\d+): fd', log),
                [str(i) for i in range(QUEUES)])

    def test_query_tap_state_unverified(self):
        """The target says why it did not verify the device"""
        source = self.source()
        target = self.target(target_netdev(
            more='incoming-fds=on,kernel-state=off'))
        self.hand_over(source, target)
        self.assertEqual(self.query(target)['unverified'], 'kernel-state=off')

    # Scripts

    def script(self, name):
        """Returns a script that logs its name and argument to self.runs()"""
        path = self.scratch_file(name)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(f'#!/bin/sh\necho {name} "$1" >> '
                    f'{self.scratch_file("runs")}\n')
        os.chmod(path, 0o755)
        return path

    def runs(self):
        try:
            with open(self.scratch_file('runs'), encoding='utf-8') as f:
                return f.read().splitlines()
        except FileNotFoundError:
            return []

    def script_source(self):
        return self.source(
            f'tap,id=net0,ifname=tap0,queues={QUEUES},{LOCAL},'
            f'script={self.script("up-source")},'
            f'downscript={self.script("down-source")}')

    def script_target(self, number=1):
        return self.target(target_netdev(
            more='incoming-fds=on,'
            f'script={self.script(f"up-target{number}")},'
            f'downscript={self.script(f"down-target{number}")}'))

    def test_script(self):
        source = self.script_source()
        self.assertEqual(self.runs(), ['up-source tap0'])
        target = self.script_target()
        self.hand_over(source, target)
        self.cont(target)
        self.quit(source)
        self.assertEqual(self.runs(), ['up-source tap0'])
        last = self.script_target(2)
        self.hand_over(target, last)
        self.quit(target)
        self.cont(last)
        self.assertEqual(self.runs(), ['up-source tap0'])
        self.quit(last)
        self.assertEqual(self.runs(), ['up-source tap0', 'down-target2 tap0'])

    def test_downscript_of_source_without_target(self):
        """Each target exits before the source, in another way"""
        source = self.script_source()

        def never_runs(target):
            self.hand_over(source, target)
            self.quit(target)
            self.cont(source)

        def killed(target):
            self.hand_over(source, target)
            target.kill()
            self.cont(source)

        for number, end in enumerate((never_runs, killed, self.quit)):
            end(self.script_target(number))
            self.assertEqual(self.runs(), ['up-source tap0'])
        refusing = self.target(target_netdev(
            2, f'incoming-fds=on,downscript={self.script("down-refusing")}'))
        self.assert_refused(source, refusing)
        self.assertEqual(self.runs(), ['up-source tap0'])
        self.quit(source)
        self.assertEqual(self.runs(), ['up-source tap0', 'down-source tap0'])

    def test_downscript_of_target_that_is_left(self):
        """The source exits, is killed, or deletes the netdev"""
        def netdev_del(source):
            source.cmd('netdev_del', id='net0')
            self.quit(source)

        for end in self.quit, lambda vm: vm.kill(), netdev_del:
            source = self.script_source()
            target = self.script_target()
            self.hand_over(source, target)
            end(source)
            self.assertEqual(self.runs(), ['up-source tap0'])
            self.cont(target)
            self.assertEqual(self.runs(), ['up-source tap0'])
            self.quit(target)
            self.assertEqual(self.runs(),
                             ['up-source tap0', 'down-target1 tap0'])
            os.unlink(self.scratch_file('runs'))

    def test_downscript_at_unplug(self):
        source = self.script_source()
        target = self.script_target()
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.unplug(target)
        self.assertEqual(self.runs(), ['up-source tap0', 'down-target1 tap0'])
        self.quit(target)
        self.assertEqual(self.runs(), ['up-source tap0', 'down-target1 tap0'])

    def test_downscript_if_nobody_runs(self):
        """
        After a hand-over without a running guest, no side runs downscript

        To run it, a side would have to know that the other one is gone.
        """
        source = self.script_source()
        target = self.script_target()
        self.hand_over(source, target)
        self.quit(source)
        self.quit(target)
        self.assertEqual(self.runs(), ['up-source tap0'])

    # Changes that a guest makes at run time

    def test_guest_queue_count(self):
        vm, agent, shell = self.boot(source_netdev(), shell=True)

        def set_queues(count):
            status, output = shell.run(
                f'ethtool -L eth0 combined {count}', self.timeout)
            self.assertEqual(status, 0, output)

        self.assertEqual(self.attached(vm), [True] * QUEUES)
        for count in 2, QUEUES, 1, QUEUES - 1:
            set_queues(count)
            expected = [i < count for i in range(QUEUES)]
            self.assertEqual(self.attached(vm), expected)
            states = self.states(vm)
            path, guest = self.guest_args()
            target = self.target(target_netdev(), *guest)
            self.hand_over(vm, target)
            sent = agent.send()
            self.assertEqual(self.states(target), states)
            self.quit(vm)
            self.cont(target)
            answer = self.assert_answers(agent, sent)
            self.assertEqual(answer['queues'], str(count))
            self.assertEqual(self.states(target), states)
            self.assertEqual(self.attached(target), expected)
            shell = self.shell(path)
            vm = target

    def test_guest_reset_while_suspended(self):
        """
        Defer the settings of a reset while a target may use the TAP

        So the next target sees no difference, and a source that resumes has
        nothing to restore.
        """
        vm, agent, _ = self.boot(source_netdev())
        vm.cmd('stop')
        states = self.states(vm)
        target = self.guest_target(target_netdev(
            more='vnet_hdr=off,incoming-fds=on'))
        self.migrate(vm, target)
        self.assert_fails(target, "netdev 'net0' queue 0", 'vnet_hdr')
        self.wait_migration(vm)
        vm.cmd('system_reset')
        self.assertIsNotNone(vm.event_wait('RESET', timeout=self.timeout))
        self.assertEqual(self.states(vm), states)
        target = self.guest_target(target_netdev())
        self.migrate(vm, target)
        self.assertEqual(self.wait_migration(target)['status'], 'completed')
        self.assertEqual(self.states(target), states)
        self.quit(target)
        self.wait_status(vm, 'postmigrate')
        self.cont(vm)
        agent.wait(self.timeout)
        self.to_and_fro(vm, lambda: self.guest_target(target_netdev()), agent)
        self.assertNotIn('restoring:', vm.get_log())

    @skipIfMissingCommands('ethtool')
    def test_guest_offloads(self):
        vm, agent, shell = self.boot(source_netdev(), shell=True)
        checksum, tso = 'tx-checksumming', 'tcp-segmentation-offload'

        def features():
            return active_features('tap0') & {checksum, tso}

        self.assertEqual(features(), {checksum, tso})
        status, output = shell.run('which ethtool', self.timeout)
        if status:
            self.skipTest('the guest has no ethtool')
        for value, expected in (('off', {checksum}), ('on', {checksum, tso})):
            status, output = shell.run(f'ethtool -K eth0 rx-gro-hw {value}',
                                       self.timeout)
            self.assertEqual(status, 0, output)
            self.assertEqual(features(), expected)
            states = self.states(vm)
            path, guest = self.guest_args()
            target = self.target(target_netdev(), *guest)
            self.hand_over(vm, target)
            sent = agent.send()
            self.quit(vm)
            self.cont(target)
            self.assert_answers(agent, sent)
            self.assertEqual(self.states(target), states)
            self.assertEqual(features(), expected)
            shell = self.shell(path)
            status, output = shell.run('ethtool -k eth0', self.timeout)
            self.assertRegex(output, f'rx-gro-hw: {value}')
            vm = target


if __name__ == '__main__':
    QemuSystemTest.main()
