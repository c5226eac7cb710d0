#!/usr/bin/env python3
#
# Tests of the hand-over of a TAP with vhost-net and with RSS in the kernel
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os

from qemu_test import QemuSystemTest, skipIfMissingCommands

from tap_local_base import (LOCAL, QUEUES, VHOST_NET, TapLocalTestBase, nic,
                            source_netdev, target_netdev)
from tap_local_stream import FIELDS_SIZE, KERNEL_STATE_TAIL, pending
from tap_local_trace import Trace


def add_received(stream):
    """Add a pending packet to the section of the last queue"""
    last = QUEUES - 1
    state = stream.kernel_state(last)
    end = (sum(state) + KERNEL_STATE_TAIL if state else
           stream.marks[last] + 1 + FIELDS_SIZE)
    stream.data[end:end] = pending(received=bytes(72))


class TapLocalHost(TapLocalTestBase):

    # vhost-net

    def vhost_fds(self, fds, count):
        """Open fds for a QEMU, append them to @fds; returns its vhostfds="""
        names = []
        for _ in range(count):
            fds.append(os.open(VHOST_NET, os.O_RDWR))
            os.set_inheritable(fds[-1], True)
            names.append(str(fds[-1]))
        return ':'.join(names)

    def do_vhost(self, more, target_more, queues=QUEUES):
        """@more, @target_more: options; {vhost} stands for new vhost fds"""
        self.require_vhost()
        device = nic(0, queues)

        def launch(function, netdev):
            fds = []
            try:
                if '{vhost}' in netdev:
                    netdev = netdev.replace('{vhost}',
                                            self.vhost_fds(fds, queues))
                if '{tap}' in netdev:
                    netdev = netdev.replace('{tap}',
                                            self.tap_fds(fds, queues))
                return function(netdev, queues=queues, device=device)
            finally:
                for fd in fds:
                    os.close(fd)

        def check(vm, more=target_more):
            self.assertEqual(self.open_files(vm).count(VHOST_NET),
                             0 if more == 'vhost=off' else queues)
            self.assertEqual(self.attached(vm), [True] * queues)

        # QEMU accepts vhostfds= only together with fds=
        netdev = (f'tap,id=net0,fds={{tap}},{LOCAL},{more}'
                  if '{vhost}' in more else
                  source_netdev(queues, more=f'{LOCAL},{more}'))
        vm, agent, _ = launch(self.boot, netdev)
        check(vm, more)
        self.to_and_fro(vm, lambda: launch(self.guest_target, target_netdev(
            queues, more=f'incoming-fds=on,{target_more}')), agent,
            check=check)

    def test_vhost(self):
        self.do_vhost('vhost=on', 'vhost=on')

    def test_vhostforce(self):
        self.do_vhost('vhostforce=on', 'vhostforce=on')

    def test_vhostfd(self):
        self.do_vhost('vhost=on', 'vhost=on,vhostfd={vhost}', 1)

    def test_vhostfds(self):
        self.do_vhost('vhost=on,vhostfds={vhost}', 'vhost=on,vhostfds={vhost}')

    def test_vhostfds_of_source(self):
        self.do_vhost('vhost=on,vhostfds={vhost}', 'vhost=on')

    def test_vhost_queue_pairs_64(self):
        # The guest fills the ring of each queue with buffers
        self.memory = '256M'
        self.do_vhost('vhost=on', 'vhost=on', 64)

    def test_vhost_of_source(self):
        """Only the source uses vhost"""
        self.do_vhost('vhost=on', 'vhost=off')

    def test_vhost_of_target(self):
        """Only the target uses vhost"""
        self.do_vhost('vhost=off', 'vhost=on')

    def test_vhost_of_target_and_packet(self):
        """vhost cannot deliver a pending packet, so the target refuses it"""
        self.require_vhost()

        def target(*args):
            return self.target(target_netdev(more='incoming-fds=on,vhost=on'),
                               *args)

        vm, agent, _ = self.boot(source_netdev(more=f'{LOCAL},vhost=off'))
        self.assert_refused(vm, target(*self.guest_args()[1]),
                            f"netdev 'net0' queue {QUEUES - 1}: a packet came "
                            'with the migration stream', 'vhost=off',
                            proxy=(QUEUES, add_received))
        self.assert_answers(agent)
        vm = self.to_and_fro(vm, lambda: target(*self.guest_args()[1]), agent)
        self.quit(vm)

        # Without a driver, vhost does not start with the VM
        vm, other = self.source(), target()
        self.migrate(vm, other, (QUEUES, add_received))
        self.wait_hand_over(vm, other)
        self.quit(vm)
        self.cont(other)

    @skipIfMissingCommands('strace')
    def test_vhost_leaves_tap_alone(self):
        self.require_vhost()
        traces = [Trace(self.log_file(f'strace{i}.log')) for i in range(2)]
        source = self.source(source_netdev(more=f'{LOCAL},vhost=on'),
                             *self.guest_args()[1], trace=traces[0])
        agent = self.agent()
        target = self.target(target_netdev(more='incoming-fds=on,vhost=on'),
                             *self.guest_args()[1], trace=traces[1])
        starts = [len(trace.calls()) for trace in traces]
        self.hand_over(source, target)
        sent = agent.send()
        self.main_loop_turns(source, target)

        def calls(pattern, number):
            # VHOST_* ioctls do not change the TAP
            return [call for call in traces[number].calls(starts[number])
                    if pattern.match(call) and 'VHOST_' not in call]

        # The source reads at set-up and when it saves, the target to compare
        for number, reads in enumerate((2, 1)):
            self.assertEqual(calls(Trace.CHANGE, number), [])
            self.assertEqual(len(calls(Trace.GETSTATE, number)),
                             reads * QUEUES)
        self.quit(source)
        self.cont(target)
        self.assert_answers(agent, sent)
        self.assertEqual(self.open_files(target).count(VHOST_NET), QUEUES)
        self.assertEqual(calls(Trace.SETSTATE, 1), [])
        if self.reports_state:
            self.assertEqual(calls(Trace.CHANGE, 1), [])

    # QEMU's own steering program

    def steering_progs(self, vm):
        return [state['steering']['id'] for state in self.states(vm)]

    def test_rss(self):
        """The target attaches its own program, once it runs"""
        self.require_kernel_state()
        device = nic(0, QUEUES, rss=True)
        vm, agent, _ = self.boot(source_netdev(), device=device)
        progs = self.steering_progs(vm)
        self.assertNotIn(0, progs)

        for _ in range(2):
            target = self.guest_target(target_netdev(), device=device)
            self.hand_over(vm, target)
            self.main_loop_turns(vm, target)
            self.assertEqual(self.steering_progs(target), progs)
            self.quit(vm)
            self.cont(target)
            self.assert_answers(agent)
            after = self.steering_progs(target)
            self.assertNotIn(0, after)
            self.assertNotEqual(after, progs)
            vm, progs = target, after

    def test_rss_goes_on(self):
        """The source keeps its program if the target does not run"""
        self.require_kernel_state()
        device = nic(0, QUEUES, rss=True)
        vm, agent, _ = self.boot(source_netdev(), device=device)
        progs = self.steering_progs(vm)
        target = self.guest_target(target_netdev(), device=device)
        self.hand_over(vm, target)
        self.quit(target)
        self.cont(vm)
        self.assert_answers(agent)
        self.assertEqual(self.steering_progs(vm), progs)

    @skipIfMissingCommands('setpriv')
    def test_rss_without_bpf(self):
        """A target that cannot load a program leaves none of the source's"""
        self.require_kernel_state()
        device = nic(0, QUEUES, rss=True)
        vm, agent, _ = self.boot(source_netdev(more=f'{LOCAL},vhost=off'),
                                 device=device)
        progs = self.steering_progs(vm)
        self.assertNotIn(0, progs)
        drop = '-bpf,-perfmon,-sys_admin,-net_admin'
        target = self.target(
            target_netdev(more='incoming-fds=on,vhost=off'),
            *self.guest_args()[1], nic=device,
            wrapper=('setpriv', f'--bounding-set={drop}',
                     f'--inh-caps={drop}'))
        self.hand_over(vm, target)
        self.assertEqual(self.steering_progs(target), progs)
        self.quit(vm)
        self.cont(target)
        self.assert_answers(agent)
        self.assertEqual(self.steering_progs(target), [0] * QUEUES)
        # A target that can load one has its own
        vm = self.guest_target(target_netdev(), device=device)
        self.hand_over(target, vm)
        self.quit(target)
        self.cont(vm)
        self.assert_answers(agent)
        self.assertNotIn(0, self.steering_progs(vm))

    def test_rss_hash(self):
        """
        With hash=on QEMU selects queues, and attaches no program

        A target attaches one, as in a migration to another TAP. The device
        is as it was until then, and packets arrive.
        """
        self.require_kernel_state()
        device = nic(0, QUEUES, rss=True, hash=True)
        path, guest = self.guest_args(shell=True)
        vm = self.source(source_netdev(), *guest, nic=device)
        # With hash=on, packets that come earlier may stop the NIC for ever
        self.shell_ok(self.shell(path), 'true')
        agent = self.agent()
        states = self.states(vm)
        self.assertEqual(self.steering_progs(vm), [0] * QUEUES)
        target = self.guest_target(target_netdev(), device=device)
        self.hand_over(vm, target)
        self.assertEqual(self.states(target), states)
        self.quit(vm)
        self.cont(target)
        self.assert_answers(agent)


if __name__ == '__main__':
    QemuSystemTest.main()
