#!/usr/bin/env python3
#
# Tests of the hand-over of a TAP: success, failures, refusals
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import threading

from qemu_test import QemuSystemTest, skipIfMissingCommands, which

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (LOCAL, NIC, QUEUES, TapLocalTestBase, nic,
                            source_netdev, target_netdev)
from tap_local_bpf import bpf_drop, bpf_return
from tap_local_network import ETHERTYPE, ip, link_up, send_packet
from tap_local_proxy import FdProxy
from tap_local_stream import FIELDS
from tap_local_trace import Trace


class TapLocal(TapLocalTestBase):

    # The hand-over

    def strace(self):
        return Trace(self.log_file(self.unique('strace') + '.log'))

    def do_leaves_alone(self, source_trace, source, trace, target):
        """Hand over, and check the system calls of both sides"""
        states = self.states(source)
        start = len(source_trace.calls())
        self.hand_over(source, target)
        send_packet('tap0')
        self.main_loop_turns(source, target)
        calls = source_trace.calls(start)
        self.assertEqual([c for c in calls if Trace.CHANGE.match(c)], [])
        calls = trace.calls()
        self.assertEqual(len([c for c in calls if trace.GOT_FD.match(c)]),
                         QUEUES)
        self.assertEqual([c for c in calls if trace.CHANGE.match(c)], [])
        self.assertEqual([c for c in calls if trace.READ.match(c)], [])
        # It reads which offloads each queue has, and compares its state
        self.assertEqual(len([c for c in calls if trace.GETSTATE.match(c)]),
                         QUEUES * (2 if self.reports_state else 1))
        self.assertEqual(self.states(target), states)
        self.assertEqual(self.states(source), states)

        self.cont(target)
        self.wait_for('waiting for the target to read',
                      lambda: any(trace.READ.match(c)
                                  for c in trace.calls(len(calls))))
        self.main_loop_turns(target)
        self.assertEqual(self.states(target), states)
        return trace.calls(len(calls))

    @skipIfMissingCommands('strace')
    def test_target_leaves_tap_alone(self):
        source_trace, trace = self.strace(), self.strace()
        source = self.source(trace=source_trace)
        link_up('tap0')
        target = self.target(trace=trace)
        calls = self.do_leaves_alone(source_trace, source, trace, target)
        self.assertEqual([c for c in calls if trace.SETSTATE.match(c)], [])
        if self.reports_state:
            self.assertEqual([c for c in calls if trace.CHANGE.match(c)], [])

    @skipIfMissingCommands('strace')
    def test_changes_wait_for_start(self):
        trace = self.strace()
        source = self.source()
        target = self.target(target_netdev(more='incoming-fds=on,sndbuf=4096'),
                             trace=trace)
        states = self.states(source)
        self.hand_over(source, target)
        calls = trace.calls()
        self.assertEqual([c for c in calls if trace.CHANGE.match(c)], [])
        self.assertEqual(self.states(source), states)

        self.cont(target)
        self.main_loop_turns(target)
        calls = [c for c in trace.calls(len(calls)) if trace.CHANGE.match(c)]
        self.assertTrue(any('TUNSETSNDBUF' in c for c in calls), calls)
        self.assertNotEqual(self.states(target), states)

    def test_to_and_fro(self):
        vm = self.source()
        states = self.states(vm)
        self.assertEqual(len(states), QUEUES)
        files = None
        for _ in range(4):
            target = self.target()
            self.hand_over(vm, target)
            self.quit(vm)
            self.assertEqual(self.states(target), states)
            self.cont(target)
            self.main_loop_turns(target)
            self.assertEqual(self.states(target), states)
            self.assertEqual(self.open_files(target).count(tap.TUN), QUEUES)
            # No hand-over leaks a file
            self.assertEqual(self.open_files(target),
                             files or self.open_files(target))
            files = self.open_files(target)
            vm = target

    def test_private_ram(self):
        """The stream holds the RAM, too: it has many more parts"""
        source = self.source()
        target = self.target()
        for vm in source, target:
            vm.cmd('migrate-set-capabilities', capabilities=[
                {'capability': 'x-ignore-shared', 'state': False}])
        states = self.states(source)
        self.hand_over(source, target)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_single_queue(self):
        source = self.source(source_netdev(queues=1))
        states = self.states(source)
        target = self.target(target_netdev(queues=1))
        self.hand_over_and_run(source, target, states)

    def test_no_vnet_hdr(self):
        source = self.source(source_netdev(more=f'vnet_hdr=off,{LOCAL}'))
        states = self.states(source)
        target = self.target(target_netdev(
            more='vnet_hdr=off,incoming-fds=on'))
        self.hand_over_and_run(source, target, states)

    def test_fds_of_source(self):
        """The source got its fds from management"""
        fds = [tap.open_tap('tap0', uapi.IFF_MULTI_QUEUE | uapi.IFF_VNET_HDR)
               for _ in range(QUEUES)]
        for fd in fds:
            os.set_inheritable(fd, True)
            self.addCleanup(os.close, fd)
        source = self.source(
            f'tap,id=net0,fds={":".join(map(str, fds))},{LOCAL}')
        for fd in fds:
            os.set_inheritable(fd, False)
        states = self.states(source)
        target = self.target(target_netdev(
            more='ifname=tap0,incoming-fds=on'))
        self.hand_over_and_run(source, target, states)

    def test_kernel_state_off(self):
        source = self.source(source_netdev(more=f'{LOCAL},kernel-state=off'))
        states = self.states(source)
        held = []
        target = self.target()
        proxy = self.migrate(source, target, (QUEUES, lambda stream:
                             held.extend(stream.kernel_state(i)
                                         for i in range(QUEUES))))
        self.assertEqual(self.wait_migration(target)['status'], 'completed')
        proxy.close()
        self.assertIsNone(proxy.error)
        self.assertEqual(held, [None] * QUEUES)
        self.wait_migration(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_netdev_add(self):
        source = self.source()
        states = self.states(source)
        target = self.target(None)
        target.cmd('netdev_add', {'type': 'tap', 'id': 'net0',
                                  'queues': QUEUES,
                                  'local-migration-supported': True})
        target.cmd('device_add', NIC)
        self.assertNotIn(tap.TUN, self.open_files(target))
        self.hand_over_and_run(source, target, states)

    def test_nobody_reads_while_stopped(self):
        source = self.source()
        link_up('tap0')
        target = self.target()
        self.hand_over(source, target)
        send_packet('tap0')
        self.main_loop_turns(source, target)
        with tap.TapQueues(source.get_pid()) as queues:
            self.assertEqual([q.has_packet() for q in queues],
                             [q.attached for q in queues])
            self.cont(target)
            self.wait_for('waiting for the target to read',
                          lambda: not any(q.has_packet() for q in queues))

    def test_paused_source_does_not_read(self):
        source = self.source()
        link_up('tap0')
        source.cmd('stop')
        send_packet('tap0')
        self.main_loop_turns(source)
        with tap.TapQueues(source.get_pid()) as queues:
            self.assertTrue(any(q.has_packet() for q in queues))
            self.cont(source)
            self.wait_for('waiting for the source to read',
                          lambda: not any(q.has_packet() for q in queues))

    def test_downscript(self):
        log = self.scratch_file('downscript.log')
        script = self.scratch_file('downscript')
        with open(script, 'w', encoding='utf-8') as f:
            f.write(f'#!/bin/sh\necho "$1" >> {log}\n')
        os.chmod(script, 0o755)

        def runs():
            try:
                with open(log, encoding='utf-8') as f:
                    return f.read().split()
            except FileNotFoundError:
                return []

        source = self.source(source_netdev().replace('downscript=no',
                                                     f'downscript={script}'))
        netdev = target_netdev(more=f'incoming-fds=on,downscript={script}')
        # A target that never runs, and exits before the source
        target = self.target(netdev)
        self.hand_over(source, target)
        self.quit(target)
        self.assertEqual(runs(), [])
        self.cont(source)
        # A target that runs, and exits after the source
        target = self.target(netdev)
        self.hand_over(source, target)
        self.quit(source)
        self.assertEqual(runs(), [])
        self.cont(target)
        self.quit(target)
        self.assertEqual(runs(), ['tap0'])

    # A guest that uses its NIC
    def tapstate(self):
        """Returns a file with the output of "tapstate show", or None"""
        if not self.reports_state or not which('tapstate'):
            return None
        path = self.log_file(self.unique('tapstate') + '.json')
        with open(path, 'w', encoding='utf-8') as f:
            subprocess.run(['tapstate', 'show', '-j', 'tap0'], stdout=f,
                           check=True)
        return path

    @skipIfMissingCommands('strace')
    def test_guest(self):
        source_trace = self.strace()
        source = self.source(source_netdev(), *self.guest_args()[1],
                             trace=source_trace)
        agent = self.agent()
        self.assert_answers(agent)
        states = self.states(source)
        shown = self.tapstate()
        self.assertEqual(self.attached(source), [True] * QUEUES)

        for _ in range(2):
            trace = self.strace()
            target = self.target(target_netdev(), *self.guest_args()[1],
                                 trace=trace)
            calls = self.do_leaves_alone(source_trace, source, trace, target)
            self.assertEqual([c for c in calls if trace.SETSTATE.match(c)], [])
            if self.reports_state:
                self.assertEqual([c for c in calls if trace.CHANGE.match(c)],
                                 [])
            self.quit(source)
            self.assert_answers(agent)
            self.assertEqual(self.states(target), states)
            source, source_trace = target, trace

        again = self.tapstate()
        if not shown:
            self.skipTest('the comparison by tapstate was left out: it is not '
                          'installed, or not on this kernel')
        result = subprocess.run(['tapstate', 'diff', shown, again],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    # The source resumes

    def do_source_goes_on(self, end_target):
        source = self.source()
        link_up('tap0')
        states = self.states(source)
        target = self.target()
        self.hand_over(source, target)
        send_packet('tap0')
        self.main_loop_turns(source, target)
        end_target(target)

        with tap.TapQueues(source.get_pid()) as queues:
            self.assertTrue(any(q.has_packet() for q in queues))
            self.cont(source)
            self.wait_for('waiting for the source to read',
                          lambda: not any(q.has_packet() for q in queues))
            for queue in queues:
                self.assertTrue(queue.nonblocking())
        self.assertEqual(self.states(source), states)

        # Not a refusal: nothing was sent, as there is no target
        source.cmd('migrate', uri=f'unix:{self.socket_path()}')
        self.assertEqual(self.wait_migration(source)['status'], 'failed')
        target = self.target()
        self.hand_over(source, target)
        self.quit(source)
        self.assertNotIn('the migration failed with', source.get_log())
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_source_goes_on_after_quit(self):
        self.do_source_goes_on(self.quit)

    def test_source_goes_on_after_kill(self):
        self.do_source_goes_on(lambda vm: vm.kill())

    @skipIfMissingCommands('strace')
    def test_source_leaves_tap_alone(self):
        """A source that resumes changes nothing if nobody else did"""
        trace = self.strace()
        source = self.source(trace=trace)
        calls = trace.calls()
        self.assertTrue(any(trace.CHANGE.match(c) for c in calls), calls)
        self.assert_refused(source, self.target(target_netdev(queues=2)),
                            'net0/2')
        refused = trace.calls(len(calls))
        target = self.target()
        self.hand_over(source, target)
        self.quit(target)
        self.cont(source)
        self.main_loop_turns(source)
        left = trace.calls(len(calls) + len(refused))
        for calls in refused, left:
            self.assertEqual([c for c in calls if trace.CHANGE.match(c)], [])
        # TUNGETSTATE reads each queue that is saved, and again to compare it. A
        # target that refuses may be gone before the last queue is sent.
        reads = [len([c for c in calls if trace.GETSTATE.match(c)])
                 for calls in (refused, left)]
        times = 2 if self.reports_state else 1
        self.assertIn(reads[0], [times * n for n in range(2, QUEUES + 1)])
        self.assertEqual(reads[1], times * QUEUES)

    def test_cancel(self):
        """Cancel before the target has received everything"""
        source = self.source(capabilities=['return-path'])
        target = self.target(capabilities=['return-path'])
        states = self.states(source)
        reached = threading.Event()
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def tamper(stream):
            reached.set()
            go_on.wait()
            return 1

        proxy = self.migrate(source, target, (QUEUES, tamper))
        self.assertTrue(reached.wait(self.timeout))
        source.cmd('migrate_cancel')
        # 'failed' if the source first notices the end of its channel
        self.assertIn(self.wait_migration(source)['status'],
                      ('cancelled', 'failed'))
        go_on.set()
        self.assert_fails(target)
        proxy.close()
        self.assert_resumes(source, states)

        target = self.target(capabilities=['return-path'])
        self.hand_over(source, target)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_target_stays_after_failure(self):
        """With exit-on-error=off the target stays, and must not run"""
        source = self.source()
        target = self.target()
        states = self.states(source)
        path, listen = self.socket_path(), self.socket_path()
        target.cmd('migrate-incoming', {'uri': f'unix:{path}',
                                        'exit-on-error': False})
        with FdProxy(listen, path, QUEUES, lambda stream: 2):
            source.cmd('migrate', uri=f'unix:{listen}')
            self.assertEqual(self.wait_migration(target)['status'], 'failed')
        self.assert_resumes(source, states)
        # The target refuses 'cont'
        target.qmp('cont')
        self.main_loop_turns(source, target)
        self.assertNotEqual(self.status(target), 'running')
        self.assertEqual(self.status(source), 'running')
        self.quit(target)
        self.assertEqual(self.states(source), states)

    # Set-ups that are refused

    def test_parameter(self):
        vm = self.create('qemu', None)
        vm.launch()
        self.assertIs(vm.cmd('query-migrate-parameters')['local'], False)
        vm.cmd('migrate-set-parameters', local=True)
        self.assertIs(vm.cmd('query-migrate-parameters')['local'], True)

        def hmp(line):
            return vm.cmd('human-monitor-command', command_line=line)

        self.assertRegex(hmp('info migrate_parameters'), r'(?m)^local: on\r?$')
        self.assertEqual(hmp('migrate_set_parameter local off'), '')
        self.assertRegex(hmp('info migrate_parameters'),
                         r'(?m)^local: off\r?$')
        self.assertIs(vm.cmd('query-migrate-parameters')['local'], False)
        self.assertEqual(hmp('migrate_set_parameter local on'), '')
        self.assertIs(vm.cmd('query-migrate-parameters')['local'], True)

    def test_channel_without_fds(self):
        source = self.source()
        states = self.states(source)
        for uri in 'tcp:127.0.0.1:1', 'exec:cat', 'file:/dev/null':
            self.assert_not_begun(source, states,
                                  self.qmp_error(source, 'migrate', uri=uri),
                                  "'local'", '(?i)unix')
        target = self.target()
        self.assertRegex(self.qmp_error(target, 'migrate-incoming',
                                        uri='tcp:127.0.0.1:0'),
                         "(?is)'local'.*unix")
        # The refusals have no effect on source and target
        self.hand_over(source, target)

    def pass_fd(self, vm, fd):
        """Pass @fd to QEMU, for URI fd:stream"""
        vm.send_fd_scm(fd)
        vm.cmd('getfd', fdname='stream')

    def test_fd_of_unix_socket(self):
        source = self.source()
        states = self.states(source)
        target = self.target()
        for vm, sock in zip((target, source), socket.socketpair()):
            with sock:
                self.pass_fd(vm, sock.fileno())
        target.cmd('migrate-incoming', uri='fd:stream')
        source.cmd('migrate', uri='fd:stream')
        self.wait_hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_fd_without_fds(self):
        """The kind of a channel fd: shows only when the migration begins"""
        source = self.source()
        states = self.states(source)
        files = self.open_files(source)

        def pipe():
            ends = os.pipe()
            return [os.fdopen(ends[0], 'rb'), os.fdopen(ends[1], 'wb')]

        def tcp():
            # The loopback device of a new namespace is down
            link_up('lo')
            with socket.create_server(('127.0.0.1', 0)) as server:
                client = socket.create_connection(server.getsockname())
                return [server.accept()[0], client]

        for make in pipe, tcp:
            reader, writer = make()
            with reader, writer:
                self.pass_fd(source, writer.fileno())
                source.cmd('migrate', uri='fd:stream')
                info = self.wait_migration(source)
            self.assertEqual(info['status'], 'failed', make.__name__)
            self.assertRegex(info['error-desc'], "'local'.*channel that passes "
                             'file descriptors: use a UNIX socket')
            self.assert_resumes(source, states, make.__name__)
            self.assertEqual(self.open_files(source), files)
        target = self.target()
        self.hand_over_and_run(source, target, states)

    def test_postcopy(self):
        source = self.source()
        source.cmd('migrate-set-capabilities', capabilities=[
            {'capability': 'x-ignore-shared', 'state': False},
            {'capability': 'postcopy-ram', 'state': True}])
        states = self.states(source)
        uri = f'unix:{self.socket_path()}'
        self.assert_not_begun(source, states,
                              self.qmp_error(source, 'migrate', uri=uri),
                              '(?i)postcopy', "'local'")

    def test_background_snapshot(self):
        """Device state goes to a buffer first, which cannot hold fds"""
        source = self.source()
        caps = [{'capability': 'x-ignore-shared', 'state': False},
                {'capability': 'background-snapshot', 'state': True}]
        response = source.qmp('migrate-set-capabilities', capabilities=caps)
        if 'error' in response:
            self.skipTest(response['error']['desc'])
        states = self.states(source)
        uri = f'unix:{self.socket_path()}'
        self.assert_not_begun(source, states,
                              self.qmp_error(source, 'migrate', uri=uri),
                              '(?i)background snapshot', "'local'")

    def test_cpr_reboot(self):
        """A mode in which the host reboots"""
        source = self.source()
        source.cmd('migrate-set-parameters', mode='cpr-reboot')
        states = self.states(source)
        uri = f'unix:{self.socket_path()}'
        self.assert_not_begun(source, states,
                              self.qmp_error(source, 'migrate', uri=uri),
                              'cpr-reboot', "'local'", 'use normal')

    def test_source_told_of_what_is_missing(self):
        """This NIC model itself accepts a backend without an fd"""
        source = self.source(source_netdev(1, more=''), nic=nic(0, 1, 'e1000'),
                             capabilities=['return-path'])
        target = self.target(target_netdev(1), nic=nic(0, 1, 'e1000'),
                             capabilities=['return-path'])
        self.assert_refused(source, target, "netdev 'net0' queue 0",
                            f'0 of the 1 queues: on the source.*{LOCAL}')
        self.assertEqual(source.cmd('query-migrate')['status'], 'failed')

    def test_source_without_option(self):
        """The source does not hand over, and the target says why"""
        source = self.source(source_netdev(more=''))
        self.assert_refused(source, self.target(),
                            "netdev 'net0' queue 0",
                            f'on the source.*{LOCAL}')

    def test_source_without_parameter(self):
        source = self.source(local=False)
        self.assert_refused(source, self.target(),
                            "netdev 'net0' queue 0",
                            "on the source.*parameter 'local'")

    def test_source_without_both(self):
        source = self.source(source_netdev(more=''), local=False)
        self.assert_refused(source, self.target(),
                            "netdev 'net0' queue 0",
                            f'on the source.*{LOCAL}')

    def test_target_options(self):
        """Netdevs of targets that do not match the one of the source"""
        source = self.source()
        mine = 'script=no,downscript=no,ifname=tap1'
        other = json.dumps({**NIC, 'netdev': 'net1'})
        self.assert_all_refused(source, (
            (netdev, self.target(netdev) if 'net0' in netdev else
             self.target(None, '-netdev', netdev, '-device', other), patterns)
            for netdev, *patterns in (
                (f'tap,id=net0,queues={QUEUES},{mine}',
                 'net0', LOCAL, 'incoming-fds=on'),
                (target_netdev(more=mine),
                 "netdev 'net0' queue 0", 'incoming-fds=on'),
                (target_netdev(queues=2), 'net0/2', 'queues='),
                (target_netdev(queues=1), 'net0/1', 'queues='),
                (target_netdev(queues=8),
                 "netdev 'net0' queue 4", 'on the source.*queues='),
                (target_netdev().replace('net0', 'net1'), 'net0/0', 'id='),
                (target_netdev(more='vnet_hdr=off,incoming-fds=on'),
                 "netdev 'net0' queue 0", 'vnet_hdr=on', 'vnet_hdr=off'),
                (target_netdev(more='ifname=tap1,incoming-fds=on'),
                 "netdev 'net0' queue 0", 'tap0', 'ifname=tap1'),
            )))

    def test_target_without_kernel_state(self):
        self.require_kernel_state()
        source = self.source(source_netdev(more=f'{LOCAL},kernel-state=off'))
        target = self.target(target_netdev(
            more='incoming-fds=on,kernel-state=on'))
        self.assert_refused(source, target, "netdev 'net0' queue 0",
                            'on the source|source', 'kernel-state=on')

    def assert_option_error(self, netdev, *patterns, args=()):
        result = subprocess.run(
            [self.qemu_bin, '-M', 'none', '-nodefaults', '-display', 'none',
             '-S', '-netdev', netdev, *args], capture_output=True, text=True,
            timeout=self.timeout)
        self.assertEqual(result.returncode, 1, netdev)
        for pattern in patterns:
            self.assertRegex(result.stderr, pattern, netdev)

    def test_option_errors(self):
        incoming = ('-incoming', 'defer')
        self.assert_option_error('tap,id=net0,incoming-fds=on',
                                 "'net0'", LOCAL, args=incoming)
        self.assert_option_error(target_netdev(), "'net0'", '-incoming')
        self.assert_option_error(
            f'tap,id=net0,queues=1025,{LOCAL},incoming-fds=on',
            "'net0'", 'queues=1025', '1024', args=incoming)
        for other in 'fd=3', 'fds=3:4', 'helper=/bin/false':
            self.assert_option_error(
                f'tap,id=net0,{other},{LOCAL},incoming-fds=on',
                "'net0'", other.split('=')[0] + '=', 'incoming-fds=on',
                args=incoming)
        self.assert_option_error(source_netdev(more='kernel-state=auto'),
                                 "'net0'", LOCAL)
        for vhostfds, *patterns in (('vhostfds=3:4', 'vhostfds='),
                                    ('vhostfd=3', 'vhostfd=', 'vhostfds=')):
            self.assert_option_error(
                target_netdev(more=f'incoming-fds=on,{vhostfds}'),
                "'net0'", *patterns, str(QUEUES), args=incoming)

    def test_kernel_state_on(self):
        netdev = source_netdev(more=f'{LOCAL},kernel-state=on')
        if not self.reports_state:
            self.assert_option_error(netdev, "'net0'", 'TUNGETSTATE',
                                     'kernel-state=auto')
            return
        source = self.source(netdev)
        states = self.states(source)
        target = self.target(target_netdev(
            more='incoming-fds=on,kernel-state=on'))
        self.hand_over_and_run(source, target, states)

    def test_unverified(self):
        """Without kernel state each side warns once, not once a queue"""
        source = self.source()
        target = self.target()
        self.hand_over(source, target)
        self.cont(target)
        times = 0 if self.reports_state else 1
        for vm, warning in ((source, 'it is handed over unverified'),
                            (target, 'it is taken over unverified')):
            self.quit(vm)
            self.assertEqual(vm.get_log().count(warning), times, vm.get_log())

    # Streams that a proxy has changed

    def test_connection_dropped(self):
        source = self.source()
        self.assert_all_refused(source, (
            (f'after {messages} fds', self.target(), [],
             lambda stream, messages=messages: messages)
            for messages in range(QUEUES + 1)))

    def test_source_told_of_failure(self):
        """With a return path the source resumes by itself"""
        source = self.source(capabilities=['return-path'])
        states = self.states(source)
        target = self.target(capabilities=['return-path'])
        self.migrate(source, target, (QUEUES, lambda stream: QUEUES))
        self.assert_fails(target)
        self.assertEqual(self.wait_migration(source)['status'], 'failed')
        self.wait_status(source, 'running')
        self.assertEqual(self.states(source), states)

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
                 'sndbuf.size is 0x3039 instead of 0x7fffffff'),
                (lambda fd: tap.set_u32(fd, uapi.TUNSETCARRIER, 0),
                 'link.carrier is 0x0 instead of 0x1'),
                (lambda fd: tap.set_offload(fd, offload),
                 f'offload.enabled is {offload:#x} instead of 0x0'),
                (lambda fd: tap.set_u32(fd, uapi.TUNSETVNETHDRSZ, 24),
                 'the TAP has a vnet header of 24 bytes, and of 1[02] bytes '
                 'in the stream'),
                (tap.detach, 'the queue is detached, and attached in the '
                 'stream'),
            )))

    def test_places_of_queues(self):
        """Queues that somebody detached regain their places together"""
        self.require_kernel_state()
        vm, agent, _ = self.boot(source_netdev())
        states = self.states(vm)
        self.assertEqual(self.attached(vm), [True] * QUEUES)
        target = self.guest_target(target_netdev())
        self.hand_over(vm, target)
        with tap.TapQueues(vm.get_pid()) as queues:
            for number in 0, QUEUES - 1:
                tap.detach(queues[number].fd)
        self.quit(target)
        self.cont(vm)
        self.assertEqual(self.states(vm), states)
        self.assert_answers(agent)
        self.quit(vm)
        self.assertNotIn('cannot restore', vm.get_log())

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
            self.assertEqual(self.held(vm), [progs] * QUEUES)

            with tap.TapQueues(vm.get_pid()) as queues:
                for request in requests:
                    fcntl.ioctl(queues[0].fd, request, struct.pack('i', -1))
            # This process, the source, and the target have the same open files
            for state in self.states(vm):
                self.assertEqual([state[name]['id'] for name in progs], [0, 0])
            for qemu in vm, target:
                for info in qemu.cmd('query-tap-state'):
                    self.assertEqual(info['kernel-state']['filter-prog'], 0)
            self.assertEqual(self.held(vm), [progs] * QUEUES)

            self.quit(target)
            self.cont(vm)
            self.assertEqual(self.states(vm), states)
            # A target that runs holds the programs anew when it is a source
            target = self.target()
            self.hand_over_and_run(vm, target, states)
            vm = target

    # Settings that are an administrator's: (field, offset of a byte, bit)
    OBSERVED = (
        ('netdev.mtu', 0, 1), ('netdev.up', 0, 1), ('netdev.addr_len', 0, 1),
        ('netdev.name', 0, 1), ('netdev.addr', 0, 1), ('iff.flags', 1, 8),
        ('owner.uid', 0, 1), ('owner.gid', 0, 1), ('owner.flags', 0, 1),
        ('offload.wanted', 0, 1), ('offload.supported', 0, 1),
        ('link.msg_enable', 0, 1), ('coalesce.rx_frames', 0, 1),
        ('xdp.drv_prog_id', 0, 1), ('xdp.skb_prog_id', 0, 1),
        ('queue.ring_size', 0, 1))
    NOTICED = 'somebody changed the TAP during the migration, which does no harm'

    def noticed(self, *vms):
        """Returns how often each QEMU, which has quit, has logged them"""
        return [vm.get_log().count(self.NOTICED) for vm in vms]

    def hand_over_changed(self, source, target, change):
        """Hand over; @change gets the stream before the target does"""
        proxy = self.migrate(source, target, (QUEUES, change))
        self.wait_hand_over(source, target)
        proxy.close()
        self.assertIsNone(proxy.error)

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

        self.hand_over_changed(source, target, change)
        changed = self.states(source)
        for old, new in zip(before, changed):
            self.assertEqual(
                [new['netdev']['mtu'], new['owner']['uid'],
                 new['owner']['gid'], new['link']['msg_enable'],
                 new['iff']['flags'] ^ old['iff']['flags']],
                [1400, 4711, 4712, 0x4000, uapi.IFF_PERSIST])
            for name in old.keys() - {'netdev', 'owner', 'iff', 'link'}:
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

    def test_fields_changed(self):
        source = self.source()
        # Without kernel state, QEMU cannot read offload capabilities without
        # changing the device, and does not compare them. It refuses those
        # that it does not know itself.
        unknown = ['has_ufo', 'has_uso']
        version = source.cmd('query-version')['qemu']
        if (version['major'], version['minor']) >= (10, 2):
            unknown.append('has_tunnel')
        with tap.TapQueues(source.get_pid()) as queues:
            size = queues[0].vnet_hdr_len
        reasons = {
            'using_vnet_hdr': 'the NIC model (does not handle|handles) the '
                              'vnet header itself on the source',
            'has_ufo': r'the TAP has ufo=(\d) and uso=(\d), and '
                       r'ufo=(?!\1)\d and uso=\2 in the stream',
            'has_uso': r'the TAP has ufo=(\d) and uso=(\d), and '
                       r'ufo=\1 and uso=(?!\2)\d in the stream',
            'has_tunnel': 'takes (no )?GSO packets in UDP tunnels, ',
            'enabled': 'the queue is attached, and detached in the stream',
            'host_vnet_hdr_len': f'the TAP has a vnet header of {size} bytes, '
                                 f'and of {size ^ 1} bytes in the stream',
        }
        names = [name for name in FIELDS
                 if self.reports_state or name not in unknown]

        def flip(name):
            def tamper(stream):
                offset, size = stream.field(0, name)
                stream.data[offset + size - 1] ^= 1
            return tamper

        self.assert_all_refused(source, (
            (name, self.target(),
             [f"netdev 'net0' queue 0: .*{reasons[name]}"], flip(name))
            for name in names))

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

        def behind(stream):
            resize(4096)(stream)
            start, size = stream.kernel_state(0)
            stream.data[start + size - 1] = 1

        header = uapi.offset_of('identity')
        queue0 = "netdev 'net0' queue 0: "
        malformed = f'{queue0}the stream holds a kernel state of [0-9]+ bytes'

        def damaged(what):
            return f'{queue0}the kernel state of [0-9]+ bytes is damaged: {what}'

        def differs(name):
            return (f'{queue0}the kernel state is not the expected one: '
                    rf'{name} is (\w+) instead of (?!\1\b)\w+')

        self.assert_all_refused(source, (
            (msg, self.target(), [pattern], tamper)
            for msg, tamper, pattern in (
                ('size 0', resize(0), malformed),
                ('size 7', resize(7), f'{queue0}the kernel state has 7 bytes'),
                (f'size {header - 1}', resize(header - 1),
                 f'{queue0}the kernel state has {header - 1} bytes'),
                ('header only', resize(header),
                 damaged('identity.netns is missing')),
                ('cut in a group', resize(uapi.offset_of('iff') - 4),
                 damaged('netdev.addr is missing')),
                ('behind the groups', behind,
                 damaged('the part behind the groups is not zero')),
                ('size 4097', resize(4097), malformed),
                ('claims 4097', claim(4097), malformed),
                ('claims 2**32 - 1', claim(2**32 - 1), malformed),
                ('claims 0', claim(0), malformed),
                ('unknown group', flip(7, 0x80),
                 f'{queue0}the kernel state holds groups 0x80'),
                ('group with a pointer',
                 flip(1, 1 << (uapi.GROUPS['sockfilter'] - 8)),
                 f'{queue0}the kernel state holds groups 0x'),
                ('no group', lambda stream: stream.data.__setitem__(
                    slice(stream.kernel_state(0)[0],
                          stream.kernel_state(0)[0] + 8), bytes(8)),
                 f'{queue0}the kernel state holds groups 0x0,'),
                *((field, flip(uapi.offset_of(field), 1),
                   damaged(f'{field} is not zero'))
                  for field in ('flags', 'reserved', 'netdev.reserved',
                                'txfilter.reserved', 'filter.action')),
                *((field, flip(uapi.offset_of(field), 1), differs(field))
                  for field in ('identity.netns', 'identity.ifindex',
                                'identity.type', 'iff.flags', 'vnet.hdr_size',
                                'vnet.flags', 'offload.enabled', 'sndbuf.size',
                                'link.carrier', 'txfilter.count',
                                'txfilter.hash', 'txfilter.addr',
                                'steering.id', 'steering.type', 'steering.tag',
                                'filter.id', 'filter.type', 'filter.tag',
                                'queue.index', 'queue.flags')),
            )))

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
             [f"netdev 'net0' queue {queue}", 'queue.index'], tamper)
            for queue, tamper in ((1, swap), (2, twice))))

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
