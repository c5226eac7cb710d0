#!/usr/bin/env python3
#
# Tests of the hand-over of a TAP in the way of QEMU 11.2
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import threading
import time

from qemu_test import QemuSystemTest

import tap_local_queue as tap
from tap_local_base import NIC, QUEUES, TapLocalTestBase
from tap_local_network import ip, make_bridge


class Pinger(threading.Thread):
    """Sends a request to the guest whenever the last one was answered"""

    def __init__(self, agent, timeout):
        super().__init__(daemon=True)
        self.answers = 0
        self.gap = 0
        self.error = None
        self._agent = agent
        self._timeout = timeout
        self._end = False

    def run(self):
        last = time.monotonic()
        try:
            while not self._end:
                self._agent.send()
                self._agent.receive(self._timeout)
                now = time.monotonic()
                self.gap = max(self.gap, now - last)
                last = now
                self.answers += 1
        except Exception as e:
            self.error = e

    def stop(self):
        self._end = True
        self.join()


class TapLocalUpstream(TapLocalTestBase):
    """
    Netdevs come by netdev_add. A target that was given parameter "local" before
    takes them from the stream, without incoming-fds.
    """

    BRIDGE = ('-device', 'pcie-pci-bridge,id=bridge,bus=pcie.0')

    def setUp(self):
        super().setUp()
        self.set_machine('q35')

    def launch_vm(self, name, vhost, *args, local=True, **netdev):
        vm = self.create(name, None, '-S', *self.BRIDGE,
                         *self.guest_args()[1], *args)
        self.launch(vm, local)
        vm.cmd('netdev_add', {'type': 'tap', 'id': 'net0', 'queues': QUEUES,
                              'x-permit-local-migration': True, 'script': '',
                              'downscript': '', 'vhost': vhost, **netdev})
        vm.cmd('device_add', {**NIC, 'bus': 'bridge', 'addr': '0x1',
                              'disable-legacy': 'off'})
        return vm

    def do_sequence(self, vhost):
        source = self.launch_vm('source', vhost, ifname='tap0')
        make_bridge('br0', 'tap0')
        self.cont(source)
        agent = self.agent('br0')
        states = self.states(source)

        pinger = Pinger(agent, self.timeout)
        pinger.start()
        target = self.launch_vm('target', vhost, '-incoming', 'defer')
        self.assertNotIn(tap.TUN, self.open_files(target))
        before = pinger.answers
        self.hand_over(source, target)
        self.cont(target)
        self.quit(source)
        self.wait_for('waiting for answers', lambda: pinger.error or
                      pinger.answers > before + 10)
        pinger.stop()
        # A request that was lost would not have been answered
        self.assertIsNone(pinger.error)
        self.log.info('%d answers, longest gap %.0f ms', pinger.answers,
                      1000 * pinger.gap)
        self.assertEqual(self.states(target), states)

        # Once more, to a TAP that the target opens
        source = target
        source.cmd('migrate-set-parameters', local=False)
        target = self.launch_vm('target', vhost, '-incoming', 'defer',
                                local=False, ifname='tap1',
                                **{'incoming-fds': False})
        self.hand_over(source, target)
        ip('link', 'set', 'tap0', 'nomaster')
        ip('link', 'set', 'tap1', 'master', 'br0', 'up')
        self.cont(target)
        self.quit(source)
        agent.wait(self.timeout)
        self.assertEqual({info['ifname'] for info in
                          target.cmd('query-tap-state')}, {'tap1'})

    def test_sequence(self):
        self.do_sequence(False)

    def test_sequence_vhost(self):
        self.require_vhost()
        self.do_sequence(True)


if __name__ == '__main__':
    QemuSystemTest.main()
