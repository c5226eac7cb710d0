#!/usr/bin/env python3
#
# Tests of hand-overs of a TAP that fail: the source resumes
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import threading

from qemu_test import QemuSystemTest, skipIfMissingCommands

import tap_local_queue as tap
from tap_local_base import QUEUES, TapLocalTestBase, target_netdev
from tap_local_network import link_up, send_packet
from tap_local_proxy import FdProxy


class TapLocalResume(TapLocalTestBase):

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
            # The flag is of the open file, which both sides have
            os.set_blocking(queues[0].fd, True)
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
            # The source reads each queue when a migration is set up, when it
            # is saved, and when the VM starts again
            self.assertEqual(
                len([c for c in calls if trace.GETSTATE.match(c)]), 3 * QUEUES)

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
        self.assertNotIn(tap.TUN, self.open_files(target))
        self.assert_resumes(source, states)
        # The target refuses 'cont'
        target.qmp('cont')
        self.main_loop_turns(source, target)
        self.assertNotEqual(self.status(target), 'running')
        self.assertEqual(self.status(source), 'running')
        self.quit(target)
        self.assertEqual(self.states(source), states)

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

    def test_source_told_by_parameter(self):
        """Parameter local implies a return path: no capability is set"""
        source = self.source()
        states = self.states(source)
        for target in (self.target(target_netdev(QUEUES + 1)),
                       self.target(target_netdev(
                           more='vnet_hdr=off,incoming-fds=on'))):
            self.migrate(source, target)
            self.assert_fails(target, "netdev 'net0'")
            self.assertEqual(self.wait_migration(source)['status'], 'failed')
            self.wait_status(source, 'running')
            self.assertEqual(self.states(source), states)
        self.hand_over_and_run(source, self.target(), states)


if __name__ == '__main__':
    QemuSystemTest.main()
