# Base class of the tests of the hand-over of a TAP
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
import sys
import time

from qemu.machine import QEMUMachine
from qemu_test import QemuSystemTest, skipIfMissingCommands

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_bpf import bpf_load
from tap_local_guest import Agent, Shell
from tap_local_network import (GUEST_IP, GUEST_MAC, Capture, link_up,
                               send_packet, set_address)
from tap_local_proxy import FdProxy
from tap_local_trace import Trace

VHOST_NET = '/dev/vhost-net'
QUEUES = 4
LOCAL = 'local-migration-supported=on'
NIC = {
    'driver': 'virtio-net-pci',
    'id': 'nic0',
    'netdev': 'net0',
    'mac': GUEST_MAC,
    'mq': True,
    'vectors': 2 * QUEUES + 2,
    'romfile': '',
    'bus': 'pci.0',
    'addr': '0x4',
}

# The state of VAPIC refers to code in guest memory, which a target may lack,
# and which firmware may not have written yet
NO_VAPIC = ('-global', 'apic-common.vapic=off')

HELPER = '''#!{python}
import socket, sys
sys.dont_write_bytecode = True
sys.path.insert(0, {path!r})
import tap_local_queue as tap
import tap_local_uapi as uapi
args = dict(arg.partition('=')[::2] for arg in sys.argv[1:])
flags = uapi.IFF_VNET_HDR if '--use-vnet' in args else 0
with socket.socket(fileno=int(args['--fd'])) as sock:
    socket.send_fds(sock, [b'\\0'], [tap.open_tap('tap0', flags)])
'''


def source_netdev(queues=QUEUES, ifname='tap0', more=LOCAL, name='net0'):
    return (f'tap,id={name},ifname={ifname},queues={queues},script=,'
            f'downscript=,{more}').rstrip(',')


def target_netdev(queues=QUEUES, more='incoming-fds=on', name='net0'):
    return f'tap,id={name},queues={queues},{LOCAL},{more}'.rstrip(',')


def nic(number, queues=1, driver='virtio-net-pci', **more):
    """Options of NIC @number on netdev @number"""
    device = {**NIC, 'driver': driver, 'id': f'nic{number}',
              'netdev': f'net{number}', 'addr': hex(4 + number),
              'mac': NIC['mac'][:-1] + str(6 + number),
              'mq': queues > 1, 'vectors': 2 * queues + 2}
    if not driver.startswith('virtio-net'):
        del device['mq'], device['vectors']
    return {**device, **more}


@skipIfMissingCommands('ip')
class TapLocalTestBase(QemuSystemTest):

    timeout = 480
    memory = '128M'
    # Backend of the guest's RAM; by default a file that QEMUs share
    ram = None
    # Open file of a queue
    tap_file = tap.TUN

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
        """Give each test a network namespace, without any other traffic"""
        old = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
        self.addCleanup(os.close, old)
        try:
            os.unshare(os.CLONE_NEWNET)
        except PermissionError:
            self.skipTest('a new network namespace is not permitted')
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

    def require_vhost(self):
        try:
            os.close(os.open(VHOST_NET, os.O_RDWR))
        except OSError as e:
            self.skipTest(f'{VHOST_NET}: {e.strerror}')

    # QEMUs

    def unique(self, name):
        self.count += 1
        return f'{name}{self.count}'

    def create(self, name, netdev, *args, trace=None, nic=None, wrapper=()):
        """
        Returns a QEMU that is not launched yet

        @nic: replaces NIC
        @wrapper: command that QEMU runs under
        """
        name = self.unique(name)
        if trace or wrapper:
            self._vms[name] = QEMUMachine(self.qemu_bin, name=name,
                                          wrapper=wrapper or trace.command,
                                          base_temp_dir=self.workdir,
                                          log_dir=self.log_file())
            self._vms[name].set_machine(self.machine)
        vm = self.get_vm(name=name)
        ram = self.ram or ('memory-backend-file,share=on,mem-path=' +
                           self.scratch_file('ram'))
        vm.add_args('-nodefaults', '-m', self.memory, '-object',
                    f'{ram},id=ram,size={self.memory}',
                    '-machine', 'memory-backend=ram', *NO_VAPIC)
        if netdev:
            vm.add_args('-netdev', netdev, '-device', json.dumps(nic or NIC))
        vm.add_args(*args)
        return vm

    def strace(self):
        return Trace(self.log_file(self.unique('strace') + '.log'))

    def launch(self, vm, local=True, capabilities=()):
        vm.launch()
        vm.cmd('migrate-set-capabilities', capabilities=[
            {'capability': name, 'state': True}
            for name in ('events', 'x-ignore-shared', *capabilities)])
        if local:
            vm.cmd('migrate-set-parameters', local=True)
        return vm

    def source(self, netdev=source_netdev(), *args, local=True,
               capabilities=(), trace=None, nic=None):
        """Returns a QEMU whose guest runs"""
        vm = self.create('source', netdev, *args, trace=trace, nic=nic)
        return self.launch(vm, local, capabilities)

    def target(self, netdev=target_netdev(), *args, local=True,
               capabilities=(), trace=None, nic=None, wrapper=()):
        """Returns a QEMU that waits for a migration, and then stays paused"""
        vm = self.create('target', netdev, '-S', '-incoming', 'defer', *args,
                         trace=trace, nic=nic, wrapper=wrapper)
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
        """Wait for a target to exit; returns its exit code and its output"""
        def exited():
            # Read events only: writing to a QEMU that exits is an error
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

    def states(self, vm, ifname=None):
        """
        Returns the kernel's view of all queues of a QEMU, sorted

        @ifname: only the queues of this device
        """
        with tap.TapQueues(vm.get_pid(), self.tap_file) as queues:
            return sorted((queue.state() for queue in queues
                           if ifname in (None, queue.ifname)), key=repr)

    def attached(self, vm):
        """Returns a bool for each queue, in the order of the fds"""
        with tap.TapQueues(vm.get_pid(), self.tap_file) as queues:
            return [queue.attached for queue in queues]

    def open_files(self, vm):
        """Returns the names of all open files of a QEMU, TAPs among them"""
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
        """Let the main loop, which serves QMP and TAPs, turn a few times"""
        for _ in range(3):
            for vm in vms:
                vm.cmd('query-status')

    # Migrations

    def socket_path(self):
        return os.path.join(self.socket_dir().name, self.unique('sock'))

    def migrate(self, source, target, proxy=None):
        """Begin a migration; @proxy: arguments of a FdProxy, if any"""
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
        """Wait for the end of a migration; returns its query-migrate"""
        self.wait_for('waiting for the migration',
                      lambda: vm.cmd('query-migrate').get('status') in
                      ('completed', 'failed', 'cancelled'))
        return vm.cmd('query-migrate')

    def hand_over(self, source, target):
        """Migrate with success; neither side runs at the end"""
        self.migrate(source, target)
        self.wait_hand_over(source, target)

    def pass_fd(self, vm, fd):
        """Pass @fd to QEMU, for URI fd:stream"""
        vm.send_fd_scm(fd)
        vm.cmd('getfd', fdname='stream')

    def hand_over_by_fd(self, source, target):
        """Migrate through a pair of connected sockets"""
        for vm, sock in zip((target, source), socket.socketpair()):
            with sock:
                self.pass_fd(vm, sock.fileno())
        target.cmd('migrate-incoming', uri='fd:stream')
        source.cmd('migrate', uri='fd:stream')
        self.wait_hand_over(source, target)

    def wait_hand_over(self, source, target):
        for vm in source, target:
            info = self.wait_migration(vm)
            self.assertEqual(info['status'], 'completed', info)
        self.wait_status(source, 'postmigrate')
        self.wait_status(target, 'paused')

    def hand_over_and_run(self, source, target, states):
        """Hand over, and run the target, which has the given states"""
        self.hand_over(source, target)
        self.quit(source)
        self.cont(target)
        self.assertEqual(self.states(target), states)

    def assert_resumes(self, source, states, msg=None):
        """
        The source runs again, with all queues in the given states

        A source that had sent everything does not notice that its target
        failed: resume it with 'cont'.
        """
        info = self.wait_migration(source)
        if info['status'] == 'completed':
            self.wait_status(source, 'postmigrate')
            source.cmd('cont')
        self.wait_status(source, 'running')
        self.assertEqual(self.states(source), states, msg)
        with tap.TapQueues(source.get_pid(), self.tap_file) as queues:
            self.assertEqual(len(queues), len(states), msg)
            for queue in queues:
                self.assertTrue(queue.nonblocking(), msg)

    def assert_fails(self, target, *patterns, msg=None):
        """The target exits with status 1, and its log matches all patterns"""
        code, log = self.wait_refusal(target, msg)
        self.assertEqual(code, 1, f'{msg}: {log}')
        for pattern in patterns:
            self.assertRegex(log, pattern, msg)

    def assert_refused(self, source, target, *patterns, proxy=None, msg=None):
        """The target refuses the migration, and the source resumes"""
        states = self.states(source)
        files = self.open_files(source)
        proxy = self.migrate(source, target, proxy)
        self.assert_fails(target, *patterns, msg=msg)
        if proxy:
            proxy.close()
            self.assertIsNone(proxy.error, msg)
        self.assert_resumes(source, states, msg)
        self.assertEqual(self.open_files(source), files, msg)

    def assert_all_refused(self, source, cases):
        """
        Call assert_refused() for several targets of one source

        Then hand over to one more target, and end the source.

        @cases: tuples of name, target, patterns and, optionally, a function
            for the proxy that changes the stream
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

        link_up('tap0')
        states = self.states(source)
        target = self.target()
        self.hand_over(source, target)
        self.quit(source)
        send_packet('tap0')
        with tap.TapQueues(target.get_pid()) as queues:
            self.assertTrue(any(q.has_packet() for q in queues))
            self.cont(target)
            self.wait_for('waiting for the target to read',
                          lambda: not any(q.has_packet() for q in queues))
        self.assertEqual(self.states(target), states)

    def assert_not_begun(self, source, states, error, *patterns):
        """The source has refused to begin a migration"""
        for pattern in patterns:
            self.assertRegex(error, pattern)
        self.assertEqual(self.status(source), 'running')
        self.assertEqual(self.states(source), states)

    def assert_option_error(self, netdev, *patterns, args=()):
        """QEMU does not start, as its -netdev is wrong"""
        result = subprocess.run(
            [self.qemu_bin, '-M', 'none', '-nodefaults', '-display', 'none',
             '-S', '-netdev', netdev, *args], capture_output=True, text=True,
            timeout=self.timeout, close_fds=False)
        self.assertEqual(result.returncode, 1, netdev)
        for pattern in patterns:
            self.assertRegex(result.stderr, pattern, netdev)

    def event(self, vm, name):
        """Returns the data of the events of a QEMU with that name"""
        return [event['data'] for event in vm.get_qmp_events()
                if event['event'] == name]

    def tap_info(self, vm, netdev='net0'):
        """Returns the entry of query-tap-state for a netdev"""
        info, = vm.cmd('query-tap-state', id=netdev)
        return info

    def qmp_error(self, vm, command, **args):
        response = vm.qmp(command, **args)
        self.assertIn('error', response)
        return response['error']['desc']

    # Changes during a migration

    NOTICED = 'changed the TAP during the migration, which does no harm'

    def noticed(self, *vms):
        """Returns how often each QEMU, which has quit, has logged them"""
        return [vm.get_log().count(self.NOTICED) for vm in vms]

    def hand_over_changed(self, source, target, change):
        """Hand over; @change gets the stream before the target does"""
        proxy = self.migrate(source, target, (QUEUES, change))
        self.wait_hand_over(source, target)
        proxy.close()
        self.assertIsNone(proxy.error)

    # eBPF programs of other processes

    def set_program(self, vm, request, insns):
        try:
            prog = bpf_load(insns)
        except OSError as e:
            self.skipTest(f'bpf(): {e.strerror}')
        try:
            with tap.TapQueues(vm.get_pid(), self.tap_file) as queues:
                fcntl.ioctl(queues[0].fd, request, struct.pack('i', prog))
        finally:
            os.close(prog)

    # A guest that uses its NIC

    def guest_args(self, queues=QUEUES, shell=False):
        """Returns the path of the guest's console, and arguments for QEMU"""
        kernel = os.getenv('LAB_GUEST_KERNEL')
        initrd = os.getenv('LAB_GUEST_INITRD')
        for path in kernel, initrd:
            if not path or not os.access(path, os.R_OK):
                self.skipTest('LAB_GUEST_KERNEL and LAB_GUEST_INITRD do not '
                              'name a guest')
        path = self.socket_path()
        log = self.log_file(self.unique('guest') + '.log')
        return path, [
            '-accel', os.getenv('LAB_GUEST_ACCEL', 'tcg'),
            '-kernel', kernel, '-initrd', initrd, '-append',
            f'console=ttyS0 quiet tapstate.ip={GUEST_IP}/24 '
            f'tapstate.queues={queues}{" tapstate.shell" if shell else ""}',
            '-chardev', f'socket,id=console,path={path},server=on,wait=off,'
            f'logfile={log}', '-serial', 'chardev:console']

    def shell_ok(self, shell, command):
        """Run a command of a guest, which succeeds; returns its output"""
        status, output = shell.run(command, self.timeout)
        self.assertEqual(status, 0, output)
        return output

    def shell(self, path):
        """Returns the shell of a guest on the console @path"""
        shell = Shell(path)
        self.addCleanup(shell.close)
        return shell

    def agent(self, ifname='tap0'):
        """Wait for a guest to boot; returns its agent, reached by @ifname"""
        set_address(ifname)
        agent = Agent()
        self.addCleanup(agent.close)
        agent.wait(self.timeout)
        return agent

    def assert_answers(self, agent, *sent):
        """
        Exchange packets with the guest: none may be lost

        @sent: numbers of earlier requests that are still unanswered
        """
        sent = [*sent, *(agent.send() for _ in range(3))]
        got = []
        for _ in sent:
            try:
                number, answer = agent.receive(self.timeout)
            except TimeoutError:
                self.fail(f'requests {sent}: only {got} were answered')
            got.append(number)
        self.assertEqual(sorted(got), sent)
        return answer

    # Configurations

    def to_and_fro(self, vm, make_target=None, agent=None, hand_over=None,
                   check=None):
        """
        Hand over to a target, and from that to another one

        @make_target: launches a target
        @agent: agent of the guest, if there is one; gets requests while
            neither side runs, and afterwards
        @hand_over: given the source, launches a target and hands over to it;
            instead of @make_target
        @check: called with each target once it runs

        Returns: the last target, which runs
        """
        states = self.states(vm)
        self.assertNotEqual(states, [])
        files = None
        for _ in range(2):
            if hand_over:
                target = hand_over(vm)
            else:
                target = make_target()
                self.hand_over(vm, target)
            sent = [agent.send()] if agent else []
            self.main_loop_turns(vm, target)
            self.assertEqual(self.states(vm), states)
            self.assertEqual(self.states(target), states)
            self.quit(vm)
            self.cont(target)
            self.main_loop_turns(target)
            self.assertEqual(self.states(target), states)
            if agent:
                self.assert_answers(agent, *sent)
                self.assertEqual(self.states(target), states)
            if check:
                check(target)
            # No hand-over leaks a file
            self.assertEqual(self.open_files(target),
                             files or self.open_files(target))
            files = self.open_files(target)
            vm = target
        return vm

    def boot(self, netdev, *args, queues=QUEUES, device=None, ifname='tap0',
             shell=False):
        """Returns a source whose guest has booted, its agent and its shell"""
        path, guest = self.guest_args(queues, shell)
        vm = self.source(netdev, *guest, *args, nic=device)
        agent = self.agent(ifname)
        return vm, agent, self.shell(path) if shell else None

    def guest_target(self, netdev, *args, queues=QUEUES, device=None):
        return self.target(netdev, *self.guest_args(queues)[1], *args,
                           nic=device)

    def capture(self, ifname, match):
        """Returns a Capture of packets from now on"""
        capture = Capture(ifname, match)
        self.addCleanup(capture.close)
        return capture

    def pairs(self, devices, netdevs):
        """Returns arguments for several NICs and their netdevs"""
        return [arg for device, netdev in zip(devices, netdevs)
                for arg in ('-netdev', netdev, '-device', json.dumps(device))]

    def helper(self):
        """Returns a program for helper=, which opens tap0"""
        path = self.scratch_file('helper')
        with open(path, 'w', encoding='utf-8') as f:
            f.write(HELPER.format(python=sys.executable,
                                  path=os.path.dirname(tap.__file__)))
        os.chmod(path, 0o755)
        return path

    def inherit(self, fd):
        """Let QEMUs inherit @fd; close it when the test ends"""
        os.set_inheritable(fd, True)
        self.addCleanup(os.close, fd)
        return fd

    def tap_fds(self, fds, count):
        """Open queues for a QEMU, append them to @fds; returns its fds="""
        names = []
        for _ in range(count):
            fds.append(tap.open_tap('tap0', uapi.IFF_MULTI_QUEUE |
                                    uapi.IFF_VNET_HDR))
            os.set_inheritable(fds[-1], True)
            names.append(str(fds[-1]))
        return ':'.join(names)
