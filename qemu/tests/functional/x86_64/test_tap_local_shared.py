#!/usr/bin/env python3
#
# Tests of the take-over of a TAP from a QEMU that does not hand it over
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import fcntl
import os
import re
import struct
import subprocess

from qemu_test import QemuSystemTest, skipIfMissingCommands

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (LOCAL, QUEUES, TapLocalTestBase, nic,
                            source_netdev, target_netdev)
from tap_local_cpr import CprMixin
from tap_local_network import Capture, link_up, send_packet
from tap_local_trace import Trace

# A QEMU without the options of the hand-over, or else one that is not given any
STOCK = 'QEMU_TEST_STOCK_BINARY'


class TapLocalShared(CprMixin, TapLocalTestBase):

    def setUp(self):
        super().setUp()
        self.patched = self.qemu_bin
        self.stock = os.getenv(STOCK, self.qemu_bin)

    def source(self, netdev=source_netdev(more=''), *args, local=False, **more):
        """Returns a stock QEMU whose guest runs"""
        self.qemu_bin = self.stock
        try:
            return super().source(netdev, *args, local=local, **more)
        finally:
            self.qemu_bin = self.patched

    def shared_netdev(self, queues, more=''):
        """Let QEMUs inherit @queues; returns a netdev that shares them"""
        fds = []
        for queue in queues:
            os.set_inheritable(queue.fd, True)
            fds.append(str(queue.fd))
        name = 'fds' if len(fds) > 1 else 'fd'
        return (f'tap,id=net0,{name}={":".join(fds)},{LOCAL},'
                f'shared-fds=on,{more}').rstrip(',')

    def shared_target(self, source, *args, options='', **more):
        with tap.TapQueues(source.get_pid(), self.tap_file) as queues:
            return self.target(self.shared_netdev(queues, options), *args,
                               local=False, **more)

    def take_over(self, source, *args, agent=None, **more):
        """Take over from a source, end it, and run the target"""
        states = self.states(source)
        target = self.shared_target(source, *args, **more)
        self.assertEqual(self.tap_info(target)['hand-over'], 'arrived')
        self.hand_over(source, target)
        self.quit(source)
        self.assertEqual(self.states(target), states)
        self.cont(target)
        self.assertEqual(self.tap_info(target)['hand-over'], 'owner')
        if agent:
            self.assert_answers(agent)
        return target

    def hand_over_again(self, vm, agent, *args, queues=QUEUES, device=None):
        """A TAP that was taken over can be handed over"""
        vm.cmd('migrate-set-parameters', local=True)
        vm = self.to_and_fro(vm, lambda: self.target(
            target_netdev(queues), *args, nic=device), agent)
        self.quit(vm)

    # The device is left alone until the guest runs

    @skipIfMissingCommands('strace')
    def test_target_leaves_tap_alone(self):
        trace = self.strace()
        source = self.source()
        link_up('tap0')
        states = self.states(source)
        with tap.TapQueues(source.get_pid()) as queues:
            fds = [queue.fd for queue in queues]
            target = self.target(self.shared_netdev(queues), trace=trace,
                                 local=False)
        changes = re.compile('|'.join(rf'ioctl\({fd}<' for fd in fds))

        def changed(calls):
            return [c for c in calls if Trace.CHANGE.match(c) and
                    (changes.match(c) or 'SIOCS' in c)]

        self.hand_over(source, target)
        # Each queue of the stopped source reads a packet that comes now
        self.main_loop_turns(source, target)
        calls = trace.calls()
        self.assertEqual(changed(calls), [])
        self.assertEqual([c for c in calls if Trace.READ.match(c)], [])
        self.assertEqual(self.states(source), states)
        self.quit(source)
        self.cont(target)
        send_packet('tap0')
        self.wait_for('waiting for the target to read',
                      lambda: any(Trace.READ.match(c)
                                  for c in trace.calls(len(calls))))
        self.assertEqual(self.states(target), states)
        if self.reports_state:
            self.assertEqual(changed(trace.calls(len(calls))), [])

    def test_differences_are_written(self):
        """Settings of the NIC model that the device lacks, when it starts"""
        source = self.source()
        target = self.shared_target(source, options='sndbuf=4096')
        states = self.states(source)
        self.hand_over(source, target)
        self.quit(source)
        with tap.TapQueues(target.get_pid()) as queues:
            for queue in queues:
                tap.set_u32(queue.fd, uapi.TUNSETVNETHDRSZ, 24)
            self.cont(target)
            # Without a driver in the guest, the others are detached
            self.assertEqual(queues[0].sndbuf, 4096)
            tap.set_u32(queues[0].fd, uapi.TUNSETSNDBUF, 2 ** 31 - 1)
        self.assertEqual(self.states(target), states)

    @skipIfMissingCommands('ethtool')
    def test_observed(self):
        """Somebody else changes the device while the target waits"""
        self.require_kernel_state()
        source = self.source()
        target = self.shared_target(source)
        self.hand_over(source, target)
        self.quit(source)
        subprocess.run(['ethtool', '-C', 'tap0', 'rx-frames', '16'],
                       check=True)
        states = self.states(target)
        self.cont(target)
        self.assertIn('coalesce', self.tap_info(target)['observed'])
        self.assertEqual(self.states(target), states)
        self.quit(target)
        self.assertEqual(self.noticed(target), [1])

    # Sources

    def do_guest(self, netdev, queues, device, *args, options='',
                 capabilities=(), fds=()):
        vm, agent, _ = self.boot(netdev, *args, queues=queues, device=device)
        for fd in fds:
            os.close(fd)
        guest = self.guest_args(queues)[1]
        match = Capture.RARP if device['driver'] != 'virtio-net-pci' else \
            Capture.GRATUITOUS_ARP
        capture = self.capture('tap0', match)
        if capabilities:
            vm.cmd('migrate-set-capabilities', capabilities=[
                {'capability': name, 'state': True} for name in capabilities])
        vm = self.take_over(vm, *guest, agent=agent, nic=device,
                            options=options, capabilities=capabilities)
        self.assertEqual(self.attached(vm), [True] * queues)
        # The TAP has not moved
        self.assertEqual(capture.count(), 0)
        if capabilities:
            vm.cmd('migrate-set-capabilities', capabilities=[
                {'capability': name, 'state': False} for name in capabilities])
        self.hand_over_again(vm, agent, *guest, queues=queues, device=device)

    def test_guest(self):
        self.do_guest(source_netdev(more=''), QUEUES, nic(0, QUEUES))

    def test_guest_single_queue(self):
        self.do_guest(source_netdev(1, more=''), 1, nic(0))

    def test_guest_queue_pairs_64(self):
        self.memory = '256M'
        self.do_guest(source_netdev(64, more=''), 64, nic(0, 64))

    def test_guest_e1000e(self):
        self.do_guest(source_netdev(1, more=''), 1, nic(0, driver='e1000e'))

    def test_guest_fds(self):
        fds = []
        self.do_guest(f'tap,id=net0,fds={self.tap_fds(fds, QUEUES)}',
                      QUEUES, nic(0, QUEUES), fds=fds)

    def test_guest_helper(self):
        self.do_guest(f'tap,id=net0,helper={self.helper()}', 1, nic(0))

    def test_guest_return_path(self):
        self.do_guest(source_netdev(1, more=''), 1, nic(0),
                      capabilities=('return-path',))

    def test_guest_multifd(self):
        self.do_guest(source_netdev(1, more=''), 1, nic(0),
                      capabilities=('multifd',))

    def do_guest_vhost(self, source, target):
        self.require_vhost()
        self.do_guest(source_netdev(more=f'vhost={source}'), QUEUES,
                      nic(0, QUEUES), options=f'vhost={target}')

    def test_guest_vhost(self):
        self.do_guest_vhost('on', 'on')

    def test_guest_vhost_of_source(self):
        self.do_guest_vhost('on', 'off')

    def test_guest_vhost_of_target(self):
        self.do_guest_vhost('off', 'on')

    def test_guest_reconfigures(self):
        """The guest changes queues and offloads after the target was made"""
        vm, agent, shell = self.boot(source_netdev(more=''), shell=True)
        path, guest = self.guest_args(shell=True)
        target = self.shared_target(vm, *guest)
        self.shell_ok(shell, 'ethtool -L eth0 combined 2')
        self.shell_ok(shell, 'ethtool -K eth0 rx-gro-hw off')
        self.wait_for('waiting for the source',
                      lambda: self.attached(vm) == [True, True, False, False])
        states = self.states(vm)
        self.hand_over(vm, target)
        self.quit(vm)
        self.cont(target)
        self.assertEqual(self.states(target), states)
        self.assert_answers(agent)
        self.assertNotIn('observed', self.tap_info(target))
        shell = self.shell(path)
        self.shell_ok(shell, f'ethtool -L eth0 combined {QUEUES}')
        self.wait_for('waiting for the target',
                      lambda: self.attached(target) == [True] * QUEUES)
        self.assert_answers(agent)

    def test_private_ram(self):
        source = self.source()
        target = self.shared_target(source)
        for vm in source, target:
            vm.cmd('migrate-set-capabilities', capabilities=[
                {'capability': 'x-ignore-shared', 'state': False}])
        states = self.states(source)
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_cpr_transfer(self):
        """Guest memory in a memfd, which mode cpr-transfer passes on"""
        self.ram = 'memory-backend-memfd,share=on'
        self.qemu_bin = self.stock
        source, monitor = self.cpr_vm('source', source_netdev(more=''),
                                      *self.guest_args()[1])
        self.qemu_bin = self.patched
        self.launch(source, local=False)
        agent = self.agent()
        states = self.states(source)
        with tap.TapQueues(source.get_pid()) as queues:
            target, _ = self.hand_over_cpr(source, monitor,
                                           self.shared_netdev(queues),
                                           *self.guest_args()[1],
                                           state='arrived')
        self.quit(source)
        self.cont(target)
        self.assert_answers(agent)
        self.assertEqual(self.states(target), states)

    def test_memfd_without_cpr(self):
        """
        x-ignore-shared does not take a memfd for shared

        The source sends what the target, which opened it by name, has already.
        """
        self.ram = 'memory-backend-memfd,share=on'
        source = self.source()
        states, files = self.states(source), self.open_files(source)
        with tap.TapQueues(source.get_pid()) as queues:
            path = f'/proc/{source.get_pid()}/fd'
            memfd, = (name for name in os.listdir(path) if
                      os.readlink(f'{path}/{name}').startswith('/memfd:'))
            self.ram = f'memory-backend-file,share=on,mem-path={path}/{memfd}'
            target = self.target(self.shared_netdev(queues), local=False)
        self.migrate(source, target)
        self.assert_fails(target, 'block ram should not be migrated')
        self.assert_runs_on(source, states, files)

    @skipIfMissingCommands('setpriv')
    def test_unprivileged(self):
        """A target that may not make a TAP to ask the kernel"""
        vm, agent, _ = self.boot(source_netdev(more=''))
        os.chmod(self.scratch_file('ram'), 0o666)
        user = ('setpriv', '--bounding-set=-all', '--inh-caps=-all')
        vm = self.take_over(vm, *self.guest_args()[1], agent=agent,
                            wrapper=user)
        self.assertEqual(self.attached(vm), [True] * QUEUES)

    # Failures

    def assert_runs_on(self, source, states, files, agent=None):
        """A stock source resumes with everything that it had"""
        if self.wait_migration(source)['status'] == 'completed':
            self.wait_status(source, 'postmigrate')
        if self.status(source) != 'running':
            source.cmd('cont')
        self.wait_status(source, 'running')
        self.assertEqual(self.states(source), states)
        self.assertEqual(self.open_files(source), files)
        # The source keeps a packet that it reads while it is stopped
        if agent:
            self.assert_answers(agent)

    def test_failures(self):
        """After each failure the source runs on, and another try works"""
        source, agent, _ = self.boot(source_netdev(more=''))
        guest = self.guest_args()[1]
        states, files = self.states(source), self.open_files(source)

        # Killed before the stream
        self.shared_target(source, *guest).kill()
        self.assertEqual(self.states(source), states)
        self.assert_answers(agent)

        # Refused: another number of queues
        with tap.TapQueues(source.get_pid()) as queues:
            target = self.target(
                self.shared_netdev(list(queues)[:2]), *guest, local=False,
                nic=nic(0, 2))
        self.migrate(source, target)
        self.assert_fails(target)
        self.assert_runs_on(source, states, files, agent)

        # Killed during the stream: nobody answers behind the socket
        target = self.shared_target(source, *guest)
        target.cmd('migrate-incoming', uri=f'unix:{self.socket_path()}')
        target.kill()
        self.assertEqual(self.states(source), states)

        # Cancelled while it cannot go on
        target = self.shared_target(source, *guest)
        for vm in source, target:
            vm.cmd('migrate-set-capabilities', capabilities=[
                {'capability': 'x-ignore-shared', 'state': False}])
        source.cmd('migrate-set-parameters', **{'max-bandwidth': 4096})
        self.migrate(source, target)
        self.wait_for('waiting for the stream', lambda: source.cmd(
            'query-migrate')['status'] == 'active')
        source.cmd('migrate_cancel')
        self.assert_fails(target)
        self.assert_runs_on(source, states, files, agent)
        source.cmd('migrate-set-parameters', **{'max-bandwidth': 2 ** 30})
        source.cmd('migrate-set-capabilities', capabilities=[
            {'capability': 'x-ignore-shared', 'state': True}])

        # Killed, and told to quit, when all has been sent
        for end in 'kill', 'quit':
            target = self.shared_target(source, *guest)
            self.hand_over(source, target)
            if end == 'kill':
                target.kill()
            else:
                self.quit(target)
            self.assert_runs_on(source, states, files, agent)

        target = self.take_over(source, *guest, agent=agent)
        self.assertEqual(self.states(target), states)

    def test_target_stays_after_failure(self):
        """With exit-on-error=off the target stays, and leaves the TAP alone"""
        source = self.source()
        states, files = self.states(source), self.open_files(source)
        with tap.TapQueues(source.get_pid()) as queues:
            target = self.target(self.shared_netdev(list(queues)[:2]),
                                 local=False, nic=nic(0, 2))
        path = self.socket_path()
        target.cmd('migrate-incoming', {'uri': f'unix:{path}',
                                        'exit-on-error': False})
        source.cmd('migrate', uri=f'unix:{path}')
        self.assertEqual(self.wait_migration(target)['status'], 'failed')
        self.assertEqual(self.tap_info(target)['hand-over'], 'arrived')
        # The target refuses 'cont'
        target.qmp('cont')
        self.main_loop_turns(source, target)
        self.assertNotEqual(self.status(target), 'running')
        self.assert_runs_on(source, states, files)
        self.quit(target)
        self.assertEqual(self.states(source), states)

    def test_handed_over_as_well(self):
        """A source that hands over its TAP"""
        self.qemu_bin = self.patched
        source = super().source()
        self.assert_refused(source, self.shared_target(source),
                            "netdev 'net0' queue 0: ", 'incoming-fds=on')

    # Options

    def test_option_errors(self):
        incoming = ('-incoming', 'defer')
        fd = self.inherit(tap.open_tap('tap7', uapi.IFF_VNET_HDR))
        netdev = f'tap,id=net0,fd={fd},{LOCAL},shared-fds=on'
        self.assert_option_error(netdev, "'net0'", '-incoming')
        self.assert_option_error(netdev.replace(f'{LOCAL},', ''), "'net0'",
                                 LOCAL, args=incoming)
        for more in ('incoming-fds=on', 'ifname=tap7', 'script=no',
                     'downscript=no', 'vnet_hdr=on', 'queues=1', 'br=br0',
                     'helper=/bin/false', f'fds={fd}'):
            self.assert_option_error(
                f'{netdev},{more}', "'net0': shared-fds=on",
                more.split('=')[0] + '=', args=incoming)
        self.assert_option_error(f'tap,id=net0,{LOCAL},shared-fds=on',
                                 'either fd= or fds=', args=incoming)

    def test_fd_errors(self):
        incoming = ('-incoming', 'defer')
        fd = self.inherit(tap.open_tap('tap7', uapi.IFF_VNET_HDR |
                                       uapi.IFF_MULTI_QUEUE))
        same = self.inherit(os.dup(fd))
        other = self.inherit(tap.open_tap('tap8', uapi.IFF_VNET_HDR))
        tun = self.inherit(os.open(tap.TUN, os.O_RDWR))
        fcntl.ioctl(tun, uapi.TUNSETIFF,
                    struct.pack('16sH22x', b'tun0', uapi.IFF_TUN))
        null = self.inherit(os.open('/dev/null', os.O_RDWR))
        for fds, *patterns in (
                (f'{fd}:{same}', 'queue 1: its file descriptor is that of '
                 'queue 0'),
                (f'{fd}:{other}', "queue 1: it belongs to TAP 'tap8'"),
                (f'{null}', 'queue 0: its file descriptor is not a queue of'),
                (f'{tun}', 'queue 0: .* TUN device'),
                (f'{fd}:', 'queue 1: '), (f'{fd}:999', 'queue 1: '),
                (':'.join(['3'] * 1025), '1025 file descriptors')):
            self.assert_option_error(
                f'tap,id=net0,fds={fds},{LOCAL},shared-fds=on',
                "netdev 'net0'", *patterns, args=incoming)
        vnet_hdr = [queue.vnet_hdr_len for queue in (tap.TapQueue(fd),)]
        self.assertEqual(vnet_hdr, [10])

    def test_kernel_state(self):
        """kernel-state= on and off"""
        source = self.source()
        with tap.TapQueues(source.get_pid()) as queues:
            netdev = self.shared_netdev(queues, 'kernel-state=on')
            if not self.reports_state:
                self.assert_option_error(netdev, "'net0'", 'TUNGETSTATE',
                                         args=('-incoming', 'defer'))
            for value in 'on' if self.reports_state else 'auto', 'off':
                netdev = self.shared_netdev(queues, f'kernel-state={value}')
                target = self.target(netdev, local=False)
                self.assertEqual(self.tap_info(target)['unverified'],
                                 'kernel-state=off' if value == 'off' else
                                 'shared-fds=on')
                self.quit(target)


if __name__ == '__main__':
    QemuSystemTest.main()
