#!/usr/bin/env python3
#
# Tests of a TAP that somebody changes before or during its hand-over
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import fcntl
import json
import os
import socket
import struct
import subprocess

from qemu_test import QemuSystemTest, skipIfMissingCommands, which

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (LOCAL, QUEUES, TapLocalTestBase, nic,
                            source_netdev, target_netdev)
from tap_local_bpf import bpf_drop, bpf_return
from tap_local_network import ETHERTYPE, ip


class TapLocalChanged(TapLocalTestBase):

    def test_device_changed(self):
        """The target refuses a changed device, and the source repairs it"""
        self.require_kernel_state()
        source = self.source()
        offload = uapi.TUN_F_CSUM | uapi.TUN_F_TSO4

        self.assert_all_refused(source, (
            (patterns[0], self.target(), ["netdev 'net0' queue 0", *patterns],
             lambda stream, change=change: change(stream.fds[0][0]))
            for change, *patterns in (
                (lambda fd: tap.set_u32(fd, uapi.TUNSETSNDBUF, 12345),
                 'sndbuf.size is 12345 instead of 2147483647'),
                (lambda fd: tap.set_u32(fd, uapi.TUNSETCARRIER, 0),
                 'link.carrier is 0 instead of 1'),
                (lambda fd: tap.set_offload(fd, offload),
                 f'offload.enabled is {offload:#x} instead of 0x0'),
                (lambda fd: tap.set_u32(fd, uapi.TUNSETVNETHDRSZ, 24),
                 'the TAP has a vnet header of 24 bytes, and of 1[02] bytes '
                 'in the stream'),
                (tap.detach, 'the queue is detached, and attached in the '
                 'stream'),
            )))

    # Before the migration: somebody changes a TAP in use

    def test_put_back(self):
        """The source puts back its own settings when it sets up a migration"""
        vm, agent, _ = self.boot(source_netdev())
        states = self.states(vm)

        with tap.TapQueues(vm.get_pid()) as queues:
            size = queues[0].vnet_hdr_len
            tap.set_u32(queues[0].fd, uapi.TUNSETVNETHDRSZ, 10)
            self.assertNotEqual(size, 10)
            if self.reports_state:
                tap.set_offload(queues[0].fd, 0)
                tap.detach(queues[QUEUES - 1].fd)
        target = self.guest_target(target_netdev())
        self.hand_over_and_run(vm, target, states)
        self.assert_answers(agent)
        lines = [line for line in vm.get_log().splitlines()
                 if 'somebody changed the TAP of this guest' in line]
        self.assertEqual(len(lines), 1, vm.get_log())
        self.assertIn(f'vnet.hdr_size is 10 instead of {size}', lines[0])
        if self.reports_state:
            self.assertIn('offload.enabled is 0x0 instead of ', lines[0])
            self.assertIn('queue.flags is 0x10 instead of 0x11', lines[0])

    # While neither side runs

    def test_places_of_queues(self):
        """Queues that somebody detached regain their places together"""
        self.require_kernel_state()
        vm, agent, _ = self.boot(source_netdev())
        states = self.states(vm)
        places = self.places(vm)
        self.assertEqual(places, [*range(QUEUES)])
        self.assertEqual(self.attached(vm), [True] * QUEUES)
        target = self.guest_target(target_netdev())
        self.hand_over(vm, target)
        with tap.TapQueues(vm.get_pid()) as queues:
            for number in 0, QUEUES - 1:
                tap.detach(queues[number].fd)
        self.quit(target)
        self.cont(vm)
        self.assertEqual(self.states(vm), states)
        self.assertEqual(self.places(vm), places)
        self.assert_answers(agent)
        self.quit(vm)
        self.assertNotIn('cannot be restored', vm.get_log())

    def held(self, vm):
        """Returns the eBPF programs that the file of each queue holds"""
        with tap.TapQueues(vm.get_pid()) as queues:
            return [queue.held() for queue in queues]

    def test_programs_restored(self):
        """Nobody who reads the state takes from the source what it holds"""
        self.require_kernel_state()
        requests = uapi.TUNSETSTEERINGEBPF, uapi.TUNSETFILTEREBPF
        vm = self.source()
        self.assertEqual(self.held(vm), [{}] * QUEUES)
        for _ in range(2):
            # The kernel drops them with the last reference
            for request, insns in zip(requests,
                                      (bpf_return(2), bpf_drop(ETHERTYPE))):
                self.set_program(vm, request, insns)
            states = self.states(vm)
            progs = {name: states[0][name]['id']
                     for name in ('steering', 'filter')}
            self.assertNotIn(0, progs.values())
            target = self.target()
            self.hand_over(vm, target)
            held = [progs] + [{}] * (QUEUES - 1)
            self.assertEqual(self.held(vm), held)

            with tap.TapQueues(vm.get_pid()) as queues:
                for request in requests:
                    fcntl.ioctl(queues[0].fd, request, struct.pack('i', -1))
            # This process, the source, and the target have the same open files
            for state in self.states(vm):
                self.assertEqual([state[name]['id'] for name in progs], [0, 0])
            for qemu in vm, target:
                qemu.cmd('query-tap-state')
            self.assertEqual(self.held(vm), held)

            self.quit(target)
            self.cont(vm)
            self.assertEqual(self.states(vm), states)
            # A target that runs holds the programs anew when it is a source
            target = self.target()
            self.hand_over_and_run(vm, target, states)
            vm = target

    def test_programs_on_second_hop(self):
        """From A to B, and on to C, which refuses, or never runs"""
        self.require_kernel_state()
        first = self.source()
        for request, insns in ((uapi.TUNSETSTEERINGEBPF, bpf_return(2)),
                               (uapi.TUNSETFILTEREBPF, bpf_drop(ETHERTYPE))):
            self.set_program(first, request, insns)
        states = self.states(first)
        self.assertNotIn(0, [states[0][name]['id']
                             for name in ('steering', 'filter')])
        vm = self.target()
        self.hand_over_and_run(first, vm, states)
        self.assert_refused(vm, self.target(target_netdev(
            more='vnet_hdr=off,incoming-fds=on')), 'vnet_hdr')
        self.assertEqual(self.states(vm), states)
        target = self.target()
        self.hand_over(vm, target)
        target.kill()
        self.cont(vm)
        self.assertEqual(self.states(vm), states)
        self.assertNotIn('restored', self.tap_info(vm))

    def lose_program(self, vm):
        """
        Detach the programs of @vm, and have its open file forget one

        Only the filter can be restored then, which comes after it.
        """
        with tap.TapQueues(vm.get_pid()) as queues:
            prog = queues[0].state()['filter']['id']
            fcntl.ioctl(queues[0].fd, uapi.TUNSETSTEERINGEBPF,
                        struct.pack('i', -1))
            fcntl.ioctl(queues[0].fd, uapi.TUNGETSTATE, uapi.TunState(
                mask=1 << uapi.GROUPS['filter'], flags=uapi.TUN_STATE_F_HOLD))
            fcntl.ioctl(queues[0].fd, uapi.TUNSETFILTEREBPF,
                        struct.pack('i', -1))
        self.assertEqual(self.held(vm),
                         [{'filter': prog}] + [{}] * (QUEUES - 1))

    def change_all(self, vm):
        with tap.TapQueues(vm.get_pid()) as queues:
            tap.set_u32(queues[0].fd, uapi.TUNSETVNETHDRSZ, 24)
            tap.set_u32(queues[0].fd, uapi.TUNSETCARRIER, 0)
            tap.set_u32(queues[0].fd, uapi.TUNSETSNDBUF, 4096)
            tap.set_offload(queues[0].fd, uapi.TUN_F_CSUM)
            tap.detach(queues[1].fd)

    def test_restored_group_by_group(self):
        """A program and settings are lost: all of them come back"""
        self.require_kernel_state()
        vm, agent, _ = self.boot(source_netdev())
        self.set_program(vm, uapi.TUNSETSTEERINGEBPF, bpf_return(2))
        states = self.states(vm)
        target = self.guest_target(target_netdev())
        self.hand_over(vm, target)
        with tap.TapQueues(vm.get_pid()) as queues:
            fcntl.ioctl(queues[0].fd, uapi.TUNSETSTEERINGEBPF,
                        struct.pack('i', -1))
        self.change_all(vm)
        # Readers change nothing
        if which('tapstate'):
            subprocess.run(['tapstate', 'show', 'tap0'], check=True,
                           stdout=subprocess.DEVNULL)
        for qemu in vm, target:
            self.tap_info(qemu)
        target.kill()
        self.cont(vm)
        self.assertEqual(self.states(vm), states)
        self.assert_answers(agent)
        info = self.tap_info(vm)
        self.assertNotIn('restore-failed', info)
        for name in ('vnet.hdr_size', 'link.carrier', 'offload.enabled',
                     'steering.id', 'sndbuf.size', 'queue.flags'):
            self.assertIn(f'{name} is ', info['restored'])
        self.assertEqual(self.event(vm, 'NETDEV_TAP_RESTORE_FAILED'), [])
        self.to_and_fro(vm, lambda: self.guest_target(target_netdev()), agent)
        self.assertEqual(vm.get_log().count('restoring: '), 1)

    @skipIfMissingCommands('ethtool', 'setpriv')
    def test_restored_without_privileges(self):
        """QEMUs need no capability to restore what they may set"""
        self.require_kernel_state()
        user = ('setpriv', '--reuid=1000', '--regid=1000', '--clear-groups',
                '--inh-caps=-all', '--bounding-set=-all')
        ram = self.scratch_file('ram')
        with open(ram, 'wb'):
            os.chmod(ram, 0o666)
        fds = []
        vm = self.launch(self.create(
            'source', f'tap,id=net0,fds={self.tap_fds(fds, QUEUES)},{LOCAL}',
            wrapper=user))
        for fd in fds:
            os.close(fd)
        self.set_program(vm, uapi.TUNSETSTEERINGEBPF, bpf_return(2))
        states = self.states(vm)
        target = self.target(wrapper=user)
        self.hand_over_by_fd(vm, target)
        with tap.TapQueues(vm.get_pid()) as queues:
            fcntl.ioctl(queues[0].fd, uapi.TUNSETSTEERINGEBPF,
                        struct.pack('i', -1))
            tap.set_u32(queues[0].fd, uapi.TUNSETVNETHDRSZ, 24)
            tap.set_u32(queues[0].fd, uapi.TUNSETSNDBUF, 4096)
            tap.set_offload(queues[0].fd, uapi.TUN_F_CSUM)
            tap.detach(queues[0].fd)
        subprocess.run(['ethtool', '-C', 'tap0', 'rx-frames', '16'],
                       check=True)
        target.kill()
        self.cont(vm)
        self.assertNotIn('restore-failed', self.tap_info(vm))
        for state in states:
            state['coalesce']['rx_frames'] = 16
        self.assertEqual(self.states(vm), states)

    def test_restore_failed(self):
        """What cannot be restored is named, and does not keep the others"""
        self.require_kernel_state()
        vm, agent, _ = self.boot(source_netdev())
        self.set_program(vm, uapi.TUNSETSTEERINGEBPF, bpf_return(2))
        self.set_program(vm, uapi.TUNSETFILTEREBPF, bpf_drop(ETHERTYPE))
        states = self.states(vm)
        prog = states[0]['steering']['id']
        target = self.guest_target(target_netdev())
        self.hand_over(vm, target)
        self.lose_program(vm)
        self.change_all(vm)
        target.kill()
        self.cont(vm)
        reason = self.tap_info(vm)['restore-failed']
        self.assertRegex(reason, f'steering.id is 0 instead of {prog}')
        for name in 'vnet', 'filter', 'queue.flags':
            self.assertNotIn(name, reason)
        self.assertEqual(self.event(vm, 'NETDEV_TAP_RESTORE_FAILED'),
                         [{'netdev-id': 'net0', 'reason': reason}])
        # All but the program is as it was
        for state in states:
            state['steering'].update(id=0, type=0, tag='0' * 16)
        self.assertEqual(self.states(vm), states)
        self.assert_answers(agent)
        # The next migration succeeds
        target = self.guest_target(target_netdev())
        self.hand_over_and_run(vm, target, states)
        self.assert_answers(agent)
        self.assertEqual(vm.get_log().count('cannot be restored'), 1)

    def test_persist_dropped(self):
        """A source that resumes does not make a deleted device persistent"""
        self.require_kernel_state()
        ip('tuntap', 'add', 'tap0', 'mode', 'tap', 'multi_queue', 'vnet_hdr')
        source = self.source()
        self.assertTrue(self.states(source)[0]['iff']['flags'] &
                        uapi.IFF_PERSIST)
        target = self.target()
        self.hand_over(source, target)
        ip('tuntap', 'del', 'tap0', 'mode', 'tap', 'multi_queue')
        self.quit(target)
        self.cont(source)
        for state in self.states(source):
            self.assertFalse(state['iff']['flags'] & uapi.IFF_PERSIST)
        self.quit(source)
        self.assertNotIn('tap0', [name for _, name in socket.if_nameindex()])
        self.assertEqual(self.noticed(source), [1])

    def test_administration(self):
        """MTU, address, name and network namespace may change meanwhile"""
        source = self.source()
        # Another network namespace, which lives as long as this process
        with subprocess.Popen(['unshare', '--net', 'sh', '-c',
                               'echo; exec cat'], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as other:
            other.stdout.readline()

            def change(stream):
                ip('link', 'set', 'tap0', 'mtu', '1400')
                ip('link', 'set', 'tap0', 'address', '02:00:00:00:00:99')
                ip('link', 'set', 'tap0', 'name', 'left')
                ip('link', 'set', 'left', 'netns', str(other.pid))

            for resume in True, False:
                target = self.target()
                self.hand_over_changed(source, target,
                                       change if resume else lambda _: None)
                states = self.states(source)
                with tap.TapQueues(source.get_pid()) as queues:
                    self.assertEqual(queues[0].ifname, 'left')
                if resume:
                    self.quit(target)
                    self.cont(source)
                    self.assertEqual(self.states(source), states)
                    self.assertNotIn('restore-failed', self.tap_info(source))
            self.quit(source)
            self.cont(target)
            self.assertEqual(self.states(target), states)
            self.assertEqual(self.tap_info(target)['ifname'], 'left')
            self.quit(target)
            other.stdin.close()
        if self.reports_state:
            self.assertEqual(self.noticed(source), [1])

    def test_user_namespaces(self):
        """The owner of a TAP looks different from another user namespace"""
        self.require_kernel_state()
        source = self.source()
        with tap.TapQueues(source.get_pid()) as queues:
            for request in uapi.TUNSETOWNER, uapi.TUNSETGROUP:
                fcntl.ioctl(queues[0].fd, request, 4711)
        states = self.states(source)
        if subprocess.run(['unshare', '--user', '--map-root-user', 'true'],
                          check=False).returncode:
            self.skipTest('a new user namespace is not permitted')
        target = self.target(wrapper=('unshare', '--user', '--map-root-user'))
        self.hand_over_and_run(source, target, states)
        self.assertNotIn('unverified', self.tap_info(target))

    # The device is deleted

    def delete(self, *vms):
        ip('link', 'delete', 'tap0')
        for vm in vms:
            self.assertEqual([queue['gone'] for queue in
                              self.tap_info(vm)['queues']], [True] * QUEUES)

    def test_deleted_while_suspended(self):
        """Neither side aborts, and both say it"""
        for resumes in 'source', 'target':
            vms = {'source': self.source(), 'target': self.target()}
            self.hand_over(*vms.values())
            self.delete(*vms.values())
            vm = vms.pop(resumes)
            self.quit(*vms.values())
            self.cont(vm)
            self.main_loop_turns(vm)
            reason = self.tap_info(vm)['restore-failed']
            self.assertIn('the TAP is gone', reason)
            self.assertEqual(self.event(vm, 'NETDEV_TAP_RESTORE_FAILED'),
                             [{'netdev-id': 'net0', 'reason': reason}])
            self.quit(vm)

    def test_deleted_of_two(self):
        """The migration is refused, and the guest runs on"""
        other = nic(1, 2)
        vm = self.source(source_netdev(), '-netdev',
                         source_netdev(2, 'tap1', name='net1'), '-device',
                         json.dumps(other))
        states = self.states(vm, 'tap1')
        self.delete(vm)
        self.assertEqual([queue['gone'] for queue in
                          self.tap_info(vm, 'net1')['queues']], [False] * 2)
        path = self.socket_path()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(1)
            vm.cmd('migrate', uri=f'unix:{path}')
            info = self.wait_migration(vm)
        self.assertEqual(info['status'], 'failed')
        self.assertRegex(info['error-desc'], "netdev 'net0' queue 0: the TAP "
                         'is gone: use netdev_del')
        self.assertEqual(self.status(vm), 'running')
        self.assertEqual(self.states(vm, 'tap1'), states)

    # Queues of others

    def test_foreign_queue_closed(self):
        """Only the order of the netdev's own queues counts"""
        self.require_kernel_state()
        foreign = tap.open_tap('tap0', uapi.IFF_MULTI_QUEUE |
                               uapi.IFF_VNET_HDR)
        files = [foreign]
        self.addCleanup(lambda: [os.close(fd) for fd in files])
        tap.detach(foreign)
        source = self.source()
        places = self.places(source)
        self.assertEqual(places, [0, *range(1, QUEUES)])
        target = self.target()

        def close(stream):
            os.close(files.pop())

        self.hand_over_changed(source, target, close)
        self.quit(target)
        self.cont(source)
        self.assertEqual(self.places(source), [0, *range(QUEUES - 1)])
        self.assertNotIn('restored', self.tap_info(source))
        states = self.states(source)
        self.hand_over_and_run(source, self.target(), states)

    def places(self, vm):
        with tap.TapQueues(vm.get_pid()) as queues:
            return [queue.state()['queue']['index'] for queue in queues]

    @skipIfMissingCommands('ethtool')
    def test_observed_changed(self):
        """Both sides log them once, and neither restores them"""
        self.require_kernel_state()
        source = self.source()
        target = self.target()
        before = self.states(source)

        def change(stream):
            fd = stream.fds[0][0]
            ip('link', 'set', 'tap0', 'mtu', '1400')
            ip('link', 'set', 'tap0', 'address', '02:00:00:00:00:99')
            for request, value in ((uapi.TUNSETPERSIST, 1),
                                   (uapi.TUNSETOWNER, 4711),
                                   (uapi.TUNSETGROUP, 4712),
                                   (uapi.TUNSETDEBUG, 0x4000)):
                fcntl.ioctl(fd, request, value)
            subprocess.run(['ethtool', '-C', 'tap0', 'rx-frames', '16'],
                           check=True)

        self.hand_over_changed(source, target, change)
        changed = self.states(source)
        for old, new in zip(before, changed):
            self.assertEqual(
                [new['netdev']['mtu'], new['owner']['uid'],
                 new['owner']['gid'], new['link']['msg_enable'],
                 new['coalesce']['rx_frames'],
                 new['iff']['flags'] ^ old['iff']['flags']],
                [1400, 4711, 4712, 0x4000, 16, uapi.IFF_PERSIST])
            for name in old.keys() - {'netdev', 'owner', 'iff', 'link',
                                      'coalesce'}:
                self.assertEqual(new[name], old[name])
        self.quit(target)
        self.cont(source)
        self.main_loop_turns(source)
        self.assertEqual(self.states(source), changed)

        # Nothing is new to the next target
        other = self.target()
        self.hand_over(source, other)
        self.quit(source)
        self.cont(other)
        self.assertEqual(self.states(other), changed)
        self.quit(other)
        self.assertEqual(self.noticed(source, target, other), [1, 1, 0])

    def test_observed_changed_again(self):
        """The source logs a change in each migration"""
        self.require_kernel_state()
        source = self.source()
        for _ in range(2):
            target = self.target()
            self.hand_over(source, target)
            self.quit(target)
            ip('link', 'set', 'tap0', 'mtu', '1400')
            self.cont(source)
            ip('link', 'set', 'tap0', 'mtu', '1500')
        self.quit(source)
        self.assertEqual(self.noticed(source), [2])


if __name__ == '__main__':
    QemuSystemTest.main()
