# Hand-over in mode cpr-transfer
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import socket
import threading
import time

import tap_local_queue as tap


class CprMixin:
    """Methods for classes derived from TapLocalTestBase"""

    CPR = ('-machine', 'aux-ram-share=on')

    def cpr_vm(self, name, netdev, *args):
        """Returns a QEMU that is not launched yet, and its second monitor"""
        path = self.socket_path()
        return self.create(name, netdev, *self.CPR, '-qmp',
                           f'unix:{path},server=on,wait=off', *args), path

    def channel(self, kind, address):
        return {'channel-type': kind, 'addr': address}

    def unix_address(self, path):
        return {'transport': 'socket', 'type': 'unix', 'path': path}

    def start_cpr(self, monitor, *channels):
        """
        Begin a migration on the QEMU with that monitor, in a thread

        The target answers its own monitor only after that.
        """
        def commands():
            yield 'qmp_capabilities', {}
            # Repeat until the target listens
            end = time.monotonic() + self.timeout
            while time.monotonic() < end:
                yield 'migrate', {'channels': channels}
                time.sleep(0.05)

        def begin():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(monitor)
                with sock.makefile('rw') as lines:
                    json.loads(lines.readline())
                    for command, arguments in commands():
                        lines.write(json.dumps({'execute': command,
                                                'arguments': arguments}))
                        lines.flush()
                        answer = {}
                        while not answer.keys() & {'return', 'error'}:
                            answer = json.loads(lines.readline())
                        if command == 'migrate' and 'return' in answer:
                            return

        thread = threading.Thread(target=begin, daemon=True)
        thread.start()
        return thread

    def hand_over_cpr(self, source, monitor, target_options, *args,
                      state='waiting'):
        """
        Launch a target, hand over; returns it and its second monitor

        @state: of the netdev before the hand-over
        """
        cpr, main = self.socket_path(), self.socket_path()
        source.cmd('migrate-set-parameters', mode='cpr-transfer')
        cpr_channel = self.channel('cpr', self.unix_address(cpr))
        thread = self.start_cpr(monitor, cpr_channel, self.channel(
            'main', self.unix_address(main)))
        target, monitor = self.cpr_vm('target', target_options, '-S',
                                      '-incoming', 'defer', '-incoming',
                                      json.dumps(cpr_channel), *args)
        self.launch(target, local=False)
        thread.join()
        self.assertEqual(
            {info['hand-over'] for info in target.cmd('query-tap-state')},
            {state})
        self.assertEqual(tap.TUN in self.open_files(target),
                         state != 'waiting')
        target.cmd('migrate-incoming', uri=f'unix:{main}')
        for vm in source, target:
            info = self.wait_migration(vm)
            self.assertEqual(info['status'], 'completed', info)
        self.wait_status(source, 'postmigrate')
        self.wait_status(target, 'paused')
        return target, monitor
