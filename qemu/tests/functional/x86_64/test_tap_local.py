#!/usr/bin/env python3
#
# Hand-over of a TAP to another QEMU on the same host
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
import time

from qemu.machine import QEMUMachine
from qemu_test import QemuSystemTest, skipIfMissingCommands, which

import tap_local_queue as tap
from tap_local_proxy import FIELDS, FdProxy

QUEUES = 4
LOCAL = 'local-migration-supported=on'
NIC = {
    'driver': 'virtio-net-pci',
    'id': 'nic0',
    'netdev': 'net0',
    'mac': '52:54:00:12:34:56',
    'mq': True,
    'vectors': 2 * QUEUES + 2,
    'romfile': '',
    'bus': 'pci.0',
    'addr': '0x4',
}

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def source_netdev(queues=QUEUES, ifname='tap0', more=LOCAL):
    return (f'tap,id=net0,ifname={ifname},queues={queues},script=no,'
            f'downscript=no,{more}').rstrip(',')


def target_netdev(queues=QUEUES, more='incoming-fds=on'):
    return f'tap,id=net0,queues={queues},{LOCAL},{more}'.rstrip(',')


def link_up(ifname):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ifreq = fcntl.ioctl(sock, SIOCGIFFLAGS,
                            struct.pack('16s24x', ifname.encode()))
        flags = struct.unpack_from('H', ifreq, 16)[0] | IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS,
                    struct.pack('16sH22x', ifname.encode(), flags))


def send_packet(ifname):
    """Have the host send something that the guest would get"""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((ifname, 0))
        sock.send(bytes.fromhex('ffffffffffff 020000000001 88b5') + bytes(46))


class Trace:
    """What strace saw of a QEMU"""

    COMMAND = ('strace', '-D', '-f', '-y', '--seccomp-bpf',
               '-e', 'trace=ioctl,read,readv,recvmsg', '-e', 'signal=none')
    # A change of a TAP or a network device, except TUNSETSTATE, which need
    # not be one
    CHANGE = re.compile(r'ioctl\(\d+<[^>]*>+, (TUNSET\w+|SIOCS\w+|VHOST_\w+)')
    # In the way that strace prints an ioctl that it does not know
    SETSTATE = re.compile(r'ioctl\(.*\b(0x54, 0xe9|TUNSETSTATE)\b')
    READ = re.compile(r'readv?\(\d+<' + tap.TUN)
    GOT_FD = re.compile(r'recvmsg\(.*SCM_RIGHTS.*<' + tap.TUN)

    def __init__(self, path):
        self._path = path

    @property
    def command(self):
        return (*self.COMMAND, '-o', self._path)

    def calls(self, start=0):
        """System calls that are complete, without the first @start"""
        calls = []
        unfinished = {}
        with open(self._path, encoding='utf-8', errors='replace') as trace:
            for line in trace:
                pid, _, call = line.partition(' ')
                call = call.strip()
                if call.endswith('<unfinished ...>'):
                    unfinished[pid] = call[:-len('<unfinished ...>')]
                    continue
                resumed = re.match(r'<\.\.\. \w+ resumed>', call)
                if resumed:
                    call = unfinished.pop(pid, '') + call[resumed.end():]
                calls.append(call)
        return calls[start:]


class TapLocal(QemuSystemTest):

    timeout = 240

    def setUp(self):
        if not os.access(tap.TUN, os.R_OK | os.W_OK):
            self.skipTest(f'{tap.TUN} cannot be opened')
        if not hasattr(os, 'unshare'):
            self.skipTest('os.unshare() needs Python 3.12')
        self.enter_netns()
        super().setUp()
        self.set_machine('pc')
        self.reports_state = tap.kernel_reports_state()
        self.count = 0

    def enter_netns(self):
        """Keep the devices of each test to itself, and other traffic away"""
        old = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
        self.addCleanup(os.close, old)
        try:
            os.unshare(os.CLONE_NEWNET)
        except PermissionError:
            self.skipTest('a network namespace of our own is not permitted')
        self.addCleanup(os.setns, old, os.CLONE_NEWNET)
        try:
            with open('/proc/sys/net/ipv6/conf/default/disable_ipv6', 'w',
                      encoding='ascii') as sysctl:
                sysctl.write('1')
        except FileNotFoundError:
            pass
        except OSError as e:
            self.skipTest(f'IPv6 cannot be switched off: {e}')

    def require_kernel_state(self):
        if not self.reports_state:
            self.skipTest('this kernel does not report TAP state')

    # QEMUs

    def unique(self, name):
        self.count += 1
        return f'{name}{self.count}'

    def create(self, name, netdev, *args, trace=None):
        """A QEMU that is not launched yet"""
        name = self.unique(name)
        if trace:
            self._vms[name] = QEMUMachine(self.qemu_bin, name=name,
                                          wrapper=trace.command,
                                          base_temp_dir=self.workdir,
                                          log_dir=self.log_file())
            self._vms[name].set_machine(self.machine)
        vm = self.get_vm(name=name)
        ram = self.scratch_file('ram')
        vm.add_args('-nodefaults', '-m', '128M', '-object',
                    f'memory-backend-file,id=ram,size=128M,mem-path={ram},'
                    'share=on',
                    '-machine', 'memory-backend=ram')
        if netdev:
            vm.add_args('-netdev', netdev, '-device', json.dumps(NIC))
        vm.add_args(*args)
        return vm

    def launch(self, vm, local=True, capabilities=()):
        vm.launch()
        vm.cmd('migrate-set-capabilities', capabilities=[
            {'capability': name, 'state': True}
            for name in ('events', 'x-ignore-shared', *capabilities)])
        if local:
            vm.cmd('migrate-set-parameters', local=True)
        return vm

    def source(self, netdev=source_netdev(), *args, local=True,
               capabilities=()):
        """A QEMU that runs"""
        vm = self.create('source', netdev, *args)
        return self.launch(vm, local, capabilities)

    def target(self, netdev=target_netdev(), *args, local=True,
               capabilities=(), trace=None):
        """A QEMU that waits for a migration, and will not run by itself"""
        vm = self.create('target', netdev, '-S', '-incoming', 'defer', *args,
                         trace=trace)
        return self.launch(vm, local, capabilities)

    def wait_for(self, what, condition):
        end = time.monotonic() + self.timeout
        while not condition():
            self.assertLess(time.monotonic(), end, f'no end: {what}')
            time.sleep(0.05)

    def status(self, vm):
        return vm.cmd('query-status')['status']

    def wait_status(self, vm, status):
        self.wait_for(f'waiting for {status}',
                      lambda: self.status(vm) == status)

    def wait_refusal(self, vm, msg=None):
        """Returns the exit code of a target and all that it printed"""
        def exited():
            # Only listen: to write to a QEMU that exits is an error
            for event in vm.get_qmp_events():
                if event['event'] == 'MIGRATION':
                    self.assertNotEqual(event['data']['status'], 'completed',
                                        f'{msg}: was accepted')
            return not vm.is_running()

        self.wait_for('waiting for QEMU to exit', exited)
        vm.wait()
        return vm.exitcode(), vm.get_log()

    def quit(self, vm):
        vm.shutdown()
        self.assertEqual(vm.exitcode(), 0)

    def cont(self, vm):
        vm.cmd('cont')
        self.assertEqual(self.status(vm), 'running')

    def states(self, vm):
        """What the kernel says about all queues, in an order of their own"""
        with tap.TapQueues(vm.get_pid()) as queues:
            return sorted((queue.state() for queue in queues), key=repr)

    def open_files(self, vm):
        """What kinds of files a QEMU has open, and TAPs in particular"""
        path = f'/proc/{vm.get_pid()}/fd'
        files = []
        for fd in os.listdir(path):
            try:
                name = os.readlink(f'{path}/{fd}').split(':')[0]
            except FileNotFoundError:
                continue
            files.append('log' if name.endswith('.log') else name)
        return sorted(files)

    def main_loop_turns(self, *vms):
        """Commands are served by the loop that serves TAPs, too"""
        for _ in range(3):
            for vm in vms:
                vm.cmd('query-status')

    # Migrations

    def socket_path(self):
        return os.path.join(self.socket_dir().name, self.unique('sock'))

    def migrate(self, source, target, proxy=None):
        """Begin a migration, through a proxy with the arguments in @proxy"""
        path = self.socket_path()
        target.cmd('migrate-incoming', uri=f'unix:{path}')
        if proxy:
            listen = self.socket_path()
            proxy = FdProxy(listen, path, *proxy)
            self.addCleanup(proxy.close)
            path = listen
        source.cmd('migrate', uri=f'unix:{path}')
        return proxy

    def wait_migration(self, vm):
        """Returns what query-migrate says at the end"""
        self.wait_for('waiting for the migration',
                      lambda: vm.cmd('query-migrate').get('status') in
                      ('completed', 'failed', 'cancelled'))
        return vm.cmd('query-migrate')

    def hand_over(self, source, target):
        """A migration that succeeds; neither side runs at the end"""
        self.migrate(source, target)
        for vm in source, target:
            info = self.wait_migration(vm)
            self.assertEqual(info['status'], 'completed', info)
        self.wait_status(source, 'postmigrate')
        self.wait_status(target, 'paused')

    def assert_goes_on(self, source, states, msg=None):
        """
        The source runs again, by itself or when told so, and has what it had

        Whether a source learns that its target failed depends on whether it
        still had something to send.
        """
        info = self.wait_migration(source)
        if info['status'] == 'completed':
            self.wait_status(source, 'postmigrate')
            source.cmd('cont')
        self.wait_status(source, 'running')
        self.assertEqual(self.states(source), states, msg)
        with tap.TapQueues(source.get_pid()) as queues:
            self.assertEqual(len(queues), len(states), msg)
            for queue in queues:
                self.assertTrue(queue.nonblocking(), msg)

    def assert_fails(self, target, *patterns, msg=None):
        """The target ends in good order and says why"""
        code, log = self.wait_refusal(target, msg)
        self.assertEqual(code, 1, f'{msg}: {log}')
        for pattern in patterns:
            self.assertRegex(log, pattern, msg)

    def assert_refused(self, source, target, *patterns, proxy=None, msg=None):
        """A migration that the target refuses, after which @source goes on"""
        states = self.states(source)
        files = self.open_files(source)
        proxy = self.migrate(source, target, proxy)
        self.assert_fails(target, *patterns, msg=msg)
        if proxy:
            proxy.close()
            self.assertIsNone(proxy.error, msg)
        self.assert_goes_on(source, states, msg)
        self.assertEqual(self.open_files(source), files, msg)

    def assert_all_refused(self, source, cases):
        """
        assert_refused() for several targets of one source

        @cases: name, target, patterns, and what the proxy does, if anything
        """
        problems = []
        for msg, target, patterns, *tamper in cases:
            try:
                self.assert_refused(source, target, *patterns, msg=msg,
                                    proxy=(QUEUES, *tamper) if tamper else
                                    None)
            except AssertionError as e:
                problems.append(f'{msg}: {e}')
                target.kill()
                if self.wait_migration(source)['status'] == 'completed':
                    self.wait_status(source, 'postmigrate')
                    source.cmd('cont')
                self.wait_status(source, 'running')
        self.assertEqual(problems, [], '\n'.join(problems))

    def assert_not_begun(self, source, states, error, *patterns):
        """A migration that the source refuses"""
        for pattern in patterns:
            self.assertRegex(error, pattern)
        self.assertEqual(self.status(source), 'running')
        self.assertEqual(self.states(source), states)

    def qmp_error(self, vm, command, **args):
        response = vm.qmp(command, **args)
        self.assertIn('error', response)
        return response['error']['desc']

    # The hand-over

    def do_leaves_alone(self, trace, source, target, queues=QUEUES):
        """Hand over to a target under strace, and make it run"""
        states = self.states(source)
        self.hand_over(source, target)
        send_packet('tap0')
        self.main_loop_turns(source, target)
        calls = trace.calls()
        self.assertEqual(len([c for c in calls if trace.GOT_FD.match(c)]),
                         queues)
        self.assertEqual([c for c in calls if trace.CHANGE.match(c)], [])
        self.assertEqual([c for c in calls if trace.READ.match(c)], [])
        # One comparison per queue, and nothing is to be restored
        self.assertEqual(len([c for c in calls if trace.SETSTATE.match(c)]),
                         queues if self.reports_state else 0)
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
        trace = Trace(self.log_file('strace.log'))
        source = self.source()
        link_up('tap0')
        target = self.target(trace=trace)
        calls = self.do_leaves_alone(trace, source, target)
        self.assertEqual([c for c in calls if trace.SETSTATE.match(c)], [])
        if self.reports_state:
            self.assertEqual([c for c in calls if trace.CHANGE.match(c)], [])

    @skipIfMissingCommands('strace')
    def test_changes_wait_for_start(self):
        trace = Trace(self.log_file('strace.log'))
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
            # Each hop leaves the same behind, whatever QEMU opens at start
            self.assertEqual(self.open_files(target),
                             files or self.open_files(target))
            files = self.open_files(target)
            vm = target

    def test_private_ram(self):
        """Without x-ignore-shared the stream has many more parts"""
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
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_no_vnet_hdr(self):
        source = self.source(source_netdev(more=f'vnet_hdr=off,{LOCAL}'))
        states = self.states(source)
        target = self.target(target_netdev(
            more='vnet_hdr=off,incoming-fds=on'))
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_fds_of_source(self):
        """The source may have got its fds from management"""
        fds = [tap.open_tap('tap0', tap.IFF_MULTI_QUEUE | tap.IFF_VNET_HDR)
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
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

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
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

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
        # One that never runs, and goes first
        target = self.target(netdev)
        self.hand_over(source, target)
        self.quit(target)
        self.assertEqual(runs(), [])
        self.cont(source)
        # One that runs, and goes last
        target = self.target(netdev)
        self.hand_over(source, target)
        self.quit(source)
        self.assertEqual(runs(), [])
        self.cont(target)
        self.quit(target)
        self.assertEqual(runs(), ['tap0'])

    # A guest that uses its NIC

    def guest_args(self, name):
        kernel = os.getenv('LAB_GUEST_KERNEL')
        initrd = os.getenv('LAB_GUEST_INITRD')
        for path in kernel, initrd:
            if not path or not os.access(path, os.R_OK):
                self.skipTest('LAB_GUEST_KERNEL and LAB_GUEST_INITRD do not '
                              'name a guest')
        return ['-kernel', kernel, '-initrd', initrd, '-append',
                'console=ttyS0 quiet tapstate.ip=10.0.0.2/24 '
                f'tapstate.queues={QUEUES}',
                '-serial', f'file:{self.log_file(name)}']

    def ping(self):
        result = subprocess.run(['ping', '-c', '3', '-i', '0.2', '-W', '60',
                                 '10.0.0.2'], capture_output=True, text=True)
        self.assertRegex(result.stdout,
                         '3 packets transmitted, 3 (packets )?received',
                         result.stdout + result.stderr)

    def tapstate(self):
        """What the command-line tool shows, in a file; None without it"""
        if not self.reports_state or not which('tapstate'):
            return None
        path = self.log_file(self.unique('tapstate') + '.json')
        with open(path, 'w', encoding='utf-8') as f:
            subprocess.run(['tapstate', 'show', '-j', 'tap0'], stdout=f,
                           check=True)
        return path

    @skipIfMissingCommands('strace', 'ping', 'ip')
    def test_guest(self):
        first = self.source(source_netdev(), *self.guest_args('guest1.log'))
        subprocess.run('ip link set tap0 up && ip addr add 10.0.0.1/24 '
                       'dev tap0', shell=True, check=True)

        def up():
            with open(self.log_file('guest1.log'), encoding='utf-8',
                      errors='replace') as f:
                return 'tapstate guest: up' in f.read()

        self.wait_for('waiting for the guest', up)
        self.ping()
        states = self.states(first)
        shown = self.tapstate()
        with tap.TapQueues(first.get_pid()) as queues:
            self.assertEqual([q.attached for q in queues], [True] * QUEUES)

        source = first
        for number in 2, 3:
            trace = Trace(self.log_file(f'strace{number}.log'))
            target = self.target(target_netdev(),
                                 *self.guest_args(f'guest{number}.log'),
                                 trace=trace)
            calls = self.do_leaves_alone(trace, source, target)
            self.assertEqual([c for c in calls if trace.SETSTATE.match(c)], [])
            if self.reports_state:
                self.assertEqual([c for c in calls if trace.CHANGE.match(c)],
                                 [])
            self.quit(source)
            self.ping()
            self.assertEqual(self.states(target), states)
            source = target

        again = self.tapstate()
        if not shown:
            self.skipTest('all but the comparison by tapstate was done, which '
                          'is not there, or not on this kernel')
        result = subprocess.run(['tapstate', 'diff', shown, again],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    # The source goes on after all

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

        target = self.target()
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_source_goes_on_after_quit(self):
        self.do_source_goes_on(self.quit)

    def test_source_goes_on_after_kill(self):
        self.do_source_goes_on(lambda vm: vm.kill())

    def test_cancel(self):
        """Cancel while the target has not got all yet"""
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
        self.assertEqual(self.wait_migration(source)['status'], 'cancelled')
        go_on.set()
        self.assert_fails(target)
        proxy.close()
        self.assert_goes_on(source, states)

        target = self.target(capabilities=['return-path'])
        self.hand_over(source, target)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def test_target_stays_after_failure(self):
        """With exit-on-error=off the target still has some of the fds"""
        source = self.source()
        target = self.target()
        states = self.states(source)
        path, listen = self.socket_path(), self.socket_path()
        target.cmd('migrate-incoming', {'uri': f'unix:{path}',
                                        'exit-on-error': False})
        with FdProxy(listen, path, QUEUES, lambda stream: 2):
            source.cmd('migrate', uri=f'unix:{listen}')
            self.assertEqual(self.wait_migration(target)['status'], 'failed')
        self.assert_goes_on(source, states)
        # It cannot be made to run what it did not get
        target.qmp('cont')
        self.main_loop_turns(source, target)
        self.assertNotEqual(self.status(target), 'running')
        self.assertEqual(self.status(source), 'running')
        self.quit(target)
        self.assertEqual(self.states(source), states)

    # What does not fit together

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
        self.assertRegex(hmp('info migrate_parameters'), r'(?m)^local: off\r?$')
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
        # It can still be used
        self.hand_over(source, target)

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

    def test_source_without_option(self):
        source = self.source(source_netdev(more=''))
        states = self.states(source)
        target = self.target()
        self.migrate(source, target)
        info = self.wait_migration(source)
        self.assertEqual(info['status'], 'failed')
        self.wait_status(source, 'running')
        self.assert_not_begun(source, states, info['error-desc'],
                              "netdev 'net0'", LOCAL)
        self.assert_fails(target)

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
        """What only the target can see; all from the same source"""
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
        for vhost in 'vhost=on', 'vhostforce=on', 'vhostfd=3':
            self.assert_option_error(source_netdev(more=f'{LOCAL},{vhost}'),
                                     "'net0'", 'vhost=off')

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
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    # Streams that were tampered with

    def test_connection_dropped(self):
        source = self.source()
        self.assert_all_refused(source, (
            (f'after {messages} fds', self.target(), [],
             lambda stream, messages=messages: messages)
            for messages in range(QUEUES + 1)))

    def test_source_told_of_failure(self):
        """With a return path the source goes on by itself"""
        source = self.source(capabilities=['return-path'])
        states = self.states(source)
        target = self.target(capabilities=['return-path'])
        self.migrate(source, target, (QUEUES, lambda stream: QUEUES))
        self.assert_fails(target)
        self.assertEqual(self.wait_migration(source)['status'], 'failed')
        self.wait_status(source, 'running')
        self.assertEqual(self.states(source), states)

    def test_device_changed(self):
        """What changed on the way is seen, named, and put right again"""
        self.require_kernel_state()
        source = self.source()
        offload = tap.TUN_F_CSUM | tap.TUN_F_TSO4

        def detach(fd):
            fcntl.ioctl(fd, tap.TUNSETQUEUE,
                        struct.pack('16xH22x', tap.IFF_DETACH_QUEUE))

        self.assert_all_refused(source, (
            (patterns[0], self.target(), ["netdev 'net0' queue 0", *patterns],
             lambda stream, change=change: change(stream.fds[0][0]))
            for change, *patterns in (
                (lambda fd: tap.set_u32(fd, tap.TUNSETSNDBUF, 12345),
                 'sndbuf.device', '0x3039', '0x7fffffff'),
                (lambda fd: tap.set_offload(fd, offload),
                 'offload.enabled', f'{offload:#x}', 'instead of 0x0'),
                (lambda fd: tap.set_u32(fd, tap.TUNSETVNETHDRSZ, 24),
                 'header', '24|0x18', '10|12|0xa|0xc'),
                (detach, 'queue'),
            )))

    def test_fields_changed(self):
        source = self.source()
        # What a kernel accepts cannot be asked without changing the device
        names = [name for name in FIELDS
                 if self.reports_state or name not in ('has_ufo', 'has_uso')]

        def flip(name):
            def tamper(stream):
                offset, size = stream.field(0, name)
                stream.data[offset + size - 1] ^= 1
            return tamper

        self.assert_all_refused(source, (
            (name, self.target(), ["netdev 'net0' queue 0"], flip(name))
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

        queue0 = "netdev 'net0' queue 0"
        self.assert_all_refused(source, (
            (msg, self.target(), patterns, tamper)
            for msg, tamper, *patterns in (
                ('size 0', resize(0), '(?i)kernel-state|net0'),
                ('size 7', resize(7), queue0, '7 bytes'),
                ('size 31', resize(31), queue0, '31 bytes'),
                ('header only', resize(32), queue0),
                ('cut in a group', resize(100), queue0),
                ('size 4097', resize(4097), '(?i)kernel-state|net0'),
                ('claims 4097', claim(4097), '(?i)kernel-state|net0'),
                ('claims 2**32 - 1', claim(2**32 - 1), '(?i)kernel-state|net0'),
                ('claims 0', claim(0)),
                ('unknown group', flip(7, 0x80), queue0, 'groups'),
                ('group with a pointer', flip(1, 0x01), queue0, 'groups'),
                ('no group', lambda stream: stream.data.__setitem__(
                    slice(stream.kernel_state(0)[0],
                          stream.kernel_state(0)[0] + 8), bytes(8)), queue0),
                ('reserved', flip(12, 1), queue0),
                ('interface index', flip(40, 1), queue0, 'identity.ifindex'),
                ('name', flip(56, 1), queue0, 'identity.name', 'tap0'),
                ('owner', flip(112, 1), queue0, 'owner.uid'),
                ('header size', flip(120, 1), queue0, 'vnet.hdr_size'),
                ('offload', flip(128, 1), queue0, 'offload.enabled'),
                ('queue flags', flip(316, 1), queue0, 'queue.flags'),
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
                 lambda: tap.open_tap('tap9', tap.IFF_VNET_HDR)),
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
        """What nobody asked for is closed"""
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


if __name__ == '__main__':
    QemuSystemTest.main()
