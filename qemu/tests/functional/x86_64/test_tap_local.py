#!/usr/bin/env python3
#
# Tests of the hand-over of a TAP: the target gets it as it is
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import subprocess

from qemu_test import QemuSystemTest, skipIfMissingCommands, which

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (LOCAL, NIC, QUEUES, TapLocalTestBase,
                            source_netdev, target_netdev)
from tap_local_network import link_up, send_packet
from tap_local_trace import Trace


class TapLocal(TapLocalTestBase):

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
        self.assertEqual(len([c for c in calls if trace.GETSTATE.match(c)]),
                         QUEUES)
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
    def test_calls_in_downtime(self):
        """RTNL is taken twice for a queue: to compare it, and at the start"""
        self.require_kernel_state()
        trace = self.strace()
        source, agent, _ = self.boot(source_netdev())
        target = self.target(target_netdev(), *self.guest_args()[1],
                             trace=trace)
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assert_answers(agent)
        calls = [c for c in trace.calls() if trace.TAP_IOCTL.match(c)]
        self.assertEqual(len([c for c in calls if trace.GETSTATE.match(c)]),
                         2 * QUEUES, calls)
        self.assertEqual(len(calls), 2 * QUEUES, calls)

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

    def test_unverified(self):
        """Without kernel state each side warns once, not once a queue"""
        source = self.source()
        target = self.target()
        self.hand_over(source, target)
        self.cont(target)
        times = 0 if self.reports_state else 1
        for vm in source, target:
            self.quit(vm)
            self.assertEqual(vm.get_log().count('it is handed over unverified'),
                             times, vm.get_log())

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

        source = self.source(source_netdev().replace('downscript=',
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


if __name__ == '__main__':
    QemuSystemTest.main()
