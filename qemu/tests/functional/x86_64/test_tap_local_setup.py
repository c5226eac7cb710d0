#!/usr/bin/env python3
#
# Tests of set-ups in which a TAP cannot be handed over: refused with a reason
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import json
import os
import re
import socket

from qemu_test import QemuSystemTest, skipIfMissingCommands

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (LOCAL, NIC, QUEUES, TapLocalTestBase, nic,
                            source_netdev, target_netdev)
from tap_local_network import link_up


class TapLocalSetup(TapLocalTestBase):

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

    def test_room_for_file_descriptors(self):
        """The kernel need not enlarge the table while the guest is stopped"""
        queues = 64
        target = self.target(target_netdev(queues),
                             nic={**NIC, 'vectors': 2 * queues + 2})
        with open(f'/proc/{target.get_pid()}/status',
                  encoding='ascii') as status:
            size = int(re.search(r'FDSize:\s*(\d+)', status.read())[1])
        self.assertGreater(size, 6 * queues)

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

    def test_tls(self):
        """A channel with TLS passes no file descriptors"""
        source = self.source()
        states = self.states(source)
        target = self.target()
        uri = f'unix:{self.socket_path()}'
        for vm in source, target:
            vm.cmd('migrate-set-parameters', {'tls-creds': 'tls0'})
        self.assert_not_begun(source, states,
                              self.qmp_error(source, 'migrate', uri=uri),
                              "'local'", 'no TLS')
        self.assertRegex(self.qmp_error(target, 'migrate-incoming', uri=uri),
                         "'local'.*no TLS")
        for vm in source, target:
            vm.cmd('migrate-set-parameters', {'tls-creds': ''})
        self.hand_over(source, target)

    def test_fd_of_unix_socket(self):
        source = self.source()
        states = self.states(source)
        target = self.target()
        self.hand_over_by_fd(source, target)
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

    def test_incoming_fd_without_fds(self):
        """migrate-incoming refuses a channel fd: that is no UNIX socket"""
        def pipe():
            return [os.fdopen(fd, mode) for fd, mode in
                    zip(os.pipe(), ('rb', 'wb'))]

        def file():
            return [open(self.scratch_file('stream'), 'w+b')]

        def tcp():
            # The loopback device of a new namespace is down
            link_up('lo')
            with socket.create_server(('127.0.0.1', 0)) as server:
                client = socket.create_connection(server.getsockname())
                return [server.accept()[0], client]

        source = self.source()
        states = self.states(source)
        target = self.target()
        for make in pipe, file, tcp:
            with contextlib.ExitStack() as stack:
                ends = [stack.enter_context(end) for end in make()]
                self.pass_fd(target, ends[0].fileno())
                # QEMU 11.1 refuses any migration by fd: from a file
                self.assertRegex(
                    self.qmp_error(target, 'migrate-incoming',
                                   uri='fd:stream'),
                    "(?is)'local'.*unix socket" +
                    ("|to a file is not supported" if make is file else ''),
                    make.__name__)
                target.qmp('closefd', fdname='stream')
        # A right attempt succeeds
        self.hand_over_by_fd(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_incoming_without_S(self):
        """A target that starts the guest by itself warns"""
        text = "parameter 'local' is set, and this QEMU starts the guest"

        def warnings(*args, local=True):
            vm = self.launch(self.create('target', target_netdev(), *args,
                                         '-incoming', 'defer'), local)
            self.assertNotIn(text, vm.get_log() or '')
            vm.cmd('migrate-incoming', uri=f'unix:{self.socket_path()}')
            self.quit(vm)
            return vm.get_log().count(text)

        self.assertEqual(warnings(), 1)
        self.assertEqual(warnings('-S'), 0)
        self.assertEqual(warnings(local=False), 0)

    def test_no_warning_after_refusal(self):
        """A refusal with a reason leaves no file descriptors over"""
        source = self.source()
        for target in (self.target(target_netdev(2)),
                       self.target(target_netdev(2 * QUEUES)),
                       self.target(target_netdev(
                           more='vnet_hdr=off,incoming-fds=on')),
                       self.target(target_netdev(
                           more='ifname=tap1,incoming-fds=on')),
                       self.target(source_netdev(
                           ifname='tap1', more=f'{LOCAL},incoming-fds=off'))):
            self.assert_refused(source, target, 'net0')
            self.assertNotIn('never claimed', target.get_log())

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
        mine = 'script=,downscript=,ifname=tap1'
        other = json.dumps({**NIC, 'netdev': 'net1'})
        self.assert_all_refused(source, (
            (netdev, self.target(netdev) if 'net0' in netdev else
             self.target(None, '-netdev', netdev, '-device', other), patterns)
            for netdev, *patterns in (
                (f'tap,id=net0,queues={QUEUES},{mine}',
                 'net0', LOCAL, 'incoming-fds=on'),
                (target_netdev(more=f'incoming-fds=off,{mine}'),
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

    def test_incoming_with_ifname(self):
        """A target that is started like the source must not open the TAP"""
        source = self.source()
        states = self.states(source)
        reason = "netdev 'net0'.*'tap0'.*incoming-fds=on.*incoming-fds=off"
        self.assert_option_error(source_netdev(), reason,
                                 args=('-incoming', 'defer'))
        self.assertEqual(self.states(source), states)

        target = self.target(None, local=False)
        netdev = {'type': 'tap', 'id': 'net0', 'queues': QUEUES,
                  'local-migration-supported': True, 'ifname': 'tap0',
                  'script': '', 'downscript': ''}
        self.assertRegex(self.qmp_error(target, 'netdev_add', **netdev),
                         reason)
        self.assertNotIn(tap.TUN, self.open_files(target))
        self.assertEqual(self.states(source), states)
        # A right attempt succeeds
        target.cmd('migrate-set-parameters', local=True)
        target.cmd('netdev_add', netdev)
        target.cmd('device_add', NIC)
        self.hand_over_and_run(source, target, states)

    def test_incoming_fds_off(self):
        """A target may open another TAP, if it says so"""
        target = self.target(source_netdev(
            ifname='tap1', more=f'{LOCAL},incoming-fds=off'))
        self.assertEqual(len(self.states(target, 'tap1')), QUEUES)
        self.assertEqual(self.tap_info(target)['hand-over'], 'owner')

    def migrate_and_pause(self, while_paused):
        """
        Hand over; call @while_paused between set-up and the first section

        Returns: source, target, and the states before
        """
        source = self.source(capabilities=('pause-before-switchover',))
        target = self.target()
        states = self.states(source)
        self.migrate(source, target)
        self.wait_for('waiting for pre-switchover',
                      lambda: source.cmd('query-migrate').get('status') ==
                      'pre-switchover')
        while_paused(source)
        source.cmd('migrate-continue', state='pre-switchover')
        self.wait_hand_over(source, target)
        return source, target, states

    def test_netdev_during_migration(self):
        """The migration thread walks the list of netdevs"""
        netdev = {'type': 'tap', 'id': 'net1', 'ifname': 'tap1',
                  'script': '', 'downscript': '',
                  'local-migration-supported': True}

        def add_and_delete(source):
            self.assertRegex(self.qmp_error(source, 'netdev_add', **netdev),
                             "'net1' cannot be added during a migration")
            self.assertRegex(self.qmp_error(source, 'netdev_del', id='net0'),
                             "'net0' cannot be deleted during a migration")

        source, target, states = self.migrate_and_pause(add_and_delete)
        self.quit(target)
        self.cont(source)
        self.assertEqual(self.states(source, 'tap0'), states)
        source.cmd('netdev_add', netdev)
        source.cmd('netdev_del', id='net1')

    def test_parameter_during_migration(self):
        """What is handed over is decided when the migration begins"""
        source, target, states = self.migrate_and_pause(
            lambda vm: vm.cmd('migrate-set-parameters', local=False))
        self.assertEqual(self.tap_info(source)['hand-over'], 'handed-over')
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_cpr_exec(self):
        """The new QEMU would have no TAP, and the guest would be gone"""
        source = self.source(None, '-machine', 'aux-ram-share=on', local=False)
        response = source.qmp('migrate-set-parameters', mode='cpr-exec')
        version = source.cmd('query-version')['qemu']
        if (version['major'], version['minor']) < (10, 2):
            self.assertIn('error', response)
            return
        source.cmd('netdev_add', {
            'type': 'tap', 'id': 'net0', 'ifname': 'tap0', 'script': '',
            'downscript': '', 'local-migration-supported': True})
        source.cmd('migrate-set-parameters', {'cpr-exec-command': ['false']})
        states = self.states(source)
        uri = f'file:{self.scratch_file("exec")}'
        response = source.qmp('migrate', uri=uri)
        error = (response['error']['desc'] if 'error' in response else
                 self.wait_migration(source)['error-desc'])
        self.wait_status(source, 'running')
        self.assert_not_begun(source, states, error, "'net0'", 'cpr-transfer')
        source.cmd('migrate-set-parameters', local=True)
        self.assert_not_begun(source, states,
                              self.qmp_error(source, 'migrate', uri=uri),
                              "'local'", 'unix')
        self.assert_not_begun(source, states, self.qmp_error(
            source, 'migrate', uri=f'unix:{self.socket_path()}'),
                              'cpr-exec', "'local'", 'cpr-transfer')
        # The refusals have no effect on the next migration
        source.cmd('migrate-set-parameters', mode='normal')
        target = self.target(None, '-machine', 'aux-ram-share=on', '-netdev',
                             target_netdev(1))
        self.hand_over_and_run(source, target, states)

    def test_savevm(self):
        """A snapshot of a paused VM holds no TAP, with the parameter, too"""
        source = self.source()
        states = self.states(source)
        path = self.scratch_file('disk')
        size = 1 << 20

        def job(command, **args):
            source.cmd(command, {'job-id': 'job', **args})
            self.wait_for('waiting for a job', lambda: [
                j for j in source.cmd('query-jobs')
                if j['status'] == 'concluded'])
            info, = source.cmd('query-jobs')
            self.assertNotIn('error', info)
            source.cmd('job-dismiss', id='job')

        job('blockdev-create', options={
            'driver': 'file', 'filename': path, 'size': 0})
        source.cmd('blockdev-add', {'driver': 'file', 'node-name': 'file',
                                    'filename': path})
        job('blockdev-create', options={
            'driver': 'qcow2', 'file': 'file', 'size': size})
        source.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'disk',
                                    'file': 'file'})
        for state in 'running', 'paused':
            if state == 'paused':
                source.cmd('stop')
            job('snapshot-save', tag=state, vmstate='disk', devices=['disk'])
            self.assertEqual(self.status(source), state)
            self.assertEqual(self.tap_info(source)['hand-over'], 'owner')
            job('snapshot-load', tag=state, vmstate='disk', devices=['disk'])
            self.assertEqual(self.states(source), states)
        self.cont(source)
        target = self.target()
        source.cmd('blockdev-del', {'node-name': 'disk'})
        source.cmd('blockdev-del', {'node-name': 'file'})
        self.hand_over_and_run(source, target, states)

    def test_target_without_kernel_state(self):
        self.require_kernel_state()
        source = self.source(source_netdev(more=f'{LOCAL},kernel-state=off'))
        target = self.target(target_netdev(
            more='incoming-fds=on,kernel-state=on'))
        self.assert_refused(source, target, "netdev 'net0' queue 0",
                            'on the source|source', 'kernel-state=on')

    def test_option_errors(self):
        incoming = ('-incoming', 'defer')
        self.assert_option_error('tap,id=net0,incoming-fds=on',
                                 "'net0'", LOCAL, args=incoming)
        self.assert_option_error(target_netdev(), "'net0'", '-incoming')
        self.assert_option_error(
            f'tap,id=net0,queues=1025,{LOCAL},incoming-fds=on',
            "'net0'", 'queues=1025', '1024', args=incoming)
        for netdev in (source_netdev(0), target_netdev(0)):
            self.assert_option_error(netdev, "'net0': queues=0", '1024',
                                     args=incoming if 'incoming' in netdev
                                     else ())
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

    def traced_close(self):
        """A QEMU, and the file that will have its calls of close()"""
        path = self.log_file('strace.log')
        return self.launch(self.create('qemu', None, wrapper=(
            'strace', '-D', '-f', '-e', 'trace=close', '-e', 'signal=none',
            '-o', path))), path

    def assert_closed_once(self, vm, path):
        self.quit(vm)
        with open(path, encoding='utf-8', errors='replace') as trace:
            calls = trace.read()
        self.assertIn('close(', calls)
        self.assertNotIn('EBADF', calls)

    @skipIfMissingCommands('strace')
    def test_option_errors_close_once(self):
        """
        An error in an option closes no file descriptor twice

        On the command line, QEMU would exit before it does.
        """
        vm, path = self.traced_close()
        fd = tap.open_tap('tap5', uapi.IFF_VNET_HDR)
        self.addCleanup(os.close, fd)
        for options in ({'fd': 'tap'}, {'helper': self.helper()},
                        {'ifname': 'tap0', 'script': '',
                         'downscript': ''}):
            for more in {}, {'local-migration-supported': True}:
                if 'fd' in options:
                    vm.send_fd_scm(fd)
                    vm.cmd('getfd', fdname='tap')
                self.assertIn("'missing'", self.qmp_error(vm, 'netdev_add', **{
                    'type': 'tap', 'id': 'net0', 'vhost': True,
                    'vhostfd': 'missing', **options, **more}))
        self.assertNotIn(tap.TUN, self.open_files(vm))
        self.assert_closed_once(vm, path)

    @skipIfMissingCommands('strace')
    def test_vhostfds_errors_close_once(self):
        """A file for vhost that is none of vhost, for a TAP with two queues"""
        flags = uapi.IFF_VNET_HDR | uapi.IFF_MULTI_QUEUE
        vm, path = self.traced_close()
        files = {'tap0': tap.open_tap('tap5', flags),
                 'tap1': tap.open_tap('tap5', flags),
                 'vhost0': os.open('/dev/null', os.O_RDWR),
                 'vhost1': os.open('/dev/null', os.O_RDWR)}
        for fd in files.values():
            self.addCleanup(os.close, fd)
        for more in {}, {'local-migration-supported': True}:
            for name, fd in files.items():
                vm.send_fd_scm(fd)
                vm.cmd('getfd', fdname=name)
            self.assertIn('vhost-net', self.qmp_error(vm, 'netdev_add', **{
                'type': 'tap', 'id': 'net0', 'fds': 'tap0:tap1',
                'vhostfds': 'vhost0:vhost1', **more}))
            # Some versions have taken those of the second queue, too
            for name in files:
                vm.qmp('closefd', fdname=name)
        self.assertNotIn(tap.TUN, self.open_files(vm))
        self.assert_closed_once(vm, path)

    def test_option_twice(self):
        """All names of the option together, one of them twice; an id twice"""
        vm = self.source(source_netdev(
            more=f'{LOCAL},{LOCAL},cpr=on,x-permit-local-migration=on'))
        states = self.states(vm)
        self.hand_over_and_run(vm, self.target(), states)
        self.assert_option_error(
            source_netdev(ifname='tap1'), "(?i)duplicate ID 'net0'",
            args=('-netdev', source_netdev(ifname='tap2')))

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


if __name__ == '__main__':
    QemuSystemTest.main()
