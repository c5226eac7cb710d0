# What tests of the hand-over of a TAP share: QEMUs, migrations, a guest
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
import time

from qemu.machine import QEMUMachine
from qemu_test import QemuSystemTest

import tap_local_queue as tap
from tap_local_proxy import FdProxy

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

# Its state is about code in the memory of the guest, which a target may lack,
# or which firmware may be about to write
NO_VAPIC = ('-global', 'apic-common.vapic=off')

# Of the guest, and what its agent listens on
MAC = NIC['mac']
HOST_IP = '10.0.0.1'
GUEST_IP = '10.0.0.2'
AGENT_PORT = 7000

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891c
SIOCSARP = 0x8955
IFF_UP = 1
ATF_COM = 2
ATF_PERM = 4
ARPHRD_ETHER = 1


def source_netdev(queues=QUEUES, ifname='tap0', more=LOCAL, name='net0'):
    return (f'tap,id={name},ifname={ifname},queues={queues},script=no,'
            f'downscript=no,{more}').rstrip(',')


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


def link_up(ifname):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ifreq = fcntl.ioctl(sock, SIOCGIFFLAGS,
                            struct.pack('16s24x', ifname.encode()))
        flags = struct.unpack_from('H', ifreq, 16)[0] | IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS,
                    struct.pack('16sH22x', ifname.encode(), flags))


def sockaddr_in(address):
    return struct.pack('=HH4s8x', socket.AF_INET, 0, socket.inet_aton(address))


def set_address(ifname):
    """The host's end of the guest's network, on @ifname"""
    link_up(ifname)
    name = ifname.encode()
    hwaddr = struct.pack('=H14s', ARPHRD_ETHER,
                         bytes.fromhex(MAC.replace(':', '')))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for request, address in ((SIOCSIFADDR, HOST_IP),
                                 (SIOCSIFNETMASK, '255.255.255.0')):
            fcntl.ioctl(sock, request, struct.pack(
                '16s16s8x', name, sockaddr_in(address)))
        # Nobody is to give up while a guest is stopped
        fcntl.ioctl(sock, SIOCSARP, struct.pack(
            '=16s16si16x16s', sockaddr_in(GUEST_IP), hwaddr,
            ATF_PERM | ATF_COM, name))


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


class Agent:
    """
    The guest's agent, asked in UDP packets

    Of each request that is answered, one packet went each way.
    """

    def __init__(self):
        self._count = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect((GUEST_IP, AGENT_PORT))

    def close(self):
        self._sock.close()

    def send(self):
        """Send a request; returns its number"""
        self._count += 1
        self._sock.send(b'%d hello' % self._count)
        return self._count

    def receive(self, timeout):
        """Returns the number of a request and the answer, as a dict"""
        self._sock.settimeout(timeout)
        number, status, *words = self._sock.recv(2048).decode().split(' ')
        assert status == 'ok', (status, words)
        return int(number), dict(word.split('=', 1) for word in words)

    def wait(self, timeout):
        """Ask until it is there; returns the answer"""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                # A guest without the agent refuses, here or in between
                number = self.send()
                while True:
                    answered, answer = self.receive(1)
                    if answered == number:
                        return answer
            except (TimeoutError, ConnectionRefusedError):
                pass
        raise TimeoutError('the guest does not answer')


class Shell:
    """A shell on the serial console of a guest"""

    def __init__(self, path):
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)

    def close(self):
        self._sock.close()

    def _send(self, text, pattern, timeout):
        """Returns the match of what is printed next"""
        end = time.monotonic() + timeout
        output = b''
        self._sock.sendall(text.encode() + b'\n')
        while not (match := re.search(pattern, output)):
            self._sock.settimeout(max(end - time.monotonic(), 0.001))
            data = self._sock.recv(4096)
            if not data:
                raise EOFError(output)
            output += data
        return match

    def run(self, command, timeout):
        """Returns exit status and output"""
        end = time.monotonic() + timeout
        while True:
            # What is typed before the shell is there gets lost
            try:
                self._send('', b'# ', 1)
                break
            except TimeoutError:
                if time.monotonic() > end:
                    raise
        match = self._send(f'{command}; echo "ended: $?"',
                           rb'(?s)(.*)ended: (\d+)', timeout)
        return int(match[2]), match[1].decode(errors='replace')


class TapLocalTestBase(QemuSystemTest):

    timeout = 480
    memory = '128M'

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

    def create(self, name, netdev, *args, trace=None, nic=None):
        """A QEMU that is not launched yet, with @nic instead of NIC"""
        name = self.unique(name)
        if trace:
            self._vms[name] = QEMUMachine(self.qemu_bin, name=name,
                                          wrapper=trace.command,
                                          base_temp_dir=self.workdir,
                                          log_dir=self.log_file())
            self._vms[name].set_machine(self.machine)
        vm = self.get_vm(name=name)
        ram = self.scratch_file('ram')
        vm.add_args('-nodefaults', '-m', self.memory, '-object',
                    f'memory-backend-file,id=ram,size={self.memory},'
                    f'mem-path={ram},share=on',
                    '-machine', 'memory-backend=ram', *NO_VAPIC)
        if netdev:
            vm.add_args('-netdev', netdev, '-device', json.dumps(nic or NIC))
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
               capabilities=(), trace=None, nic=None):
        """A QEMU that runs"""
        vm = self.create('source', netdev, *args, trace=trace, nic=nic)
        return self.launch(vm, local, capabilities)

    def target(self, netdev=target_netdev(), *args, local=True,
               capabilities=(), trace=None, nic=None):
        """A QEMU that waits for a migration, and will not run by itself"""
        vm = self.create('target', netdev, '-S', '-incoming', 'defer', *args,
                         trace=trace, nic=nic)
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

    def states(self, vm, ifname=None):
        """
        What the kernel says about all queues, in an order of their own

        Those of one device with @ifname.
        """
        with tap.TapQueues(vm.get_pid()) as queues:
            return sorted((queue.state() for queue in queues
                           if ifname in (None, queue.ifname)), key=repr)

    def attached(self, vm):
        """Which queues are attached, in the order of the fds"""
        with tap.TapQueues(vm.get_pid()) as queues:
            return [queue.attached for queue in queues]

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
        self.wait_hand_over(source, target)

    def wait_hand_over(self, source, target):
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

        The next attempt succeeds, which ends the source.

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
        """A migration that the source refuses"""
        for pattern in patterns:
            self.assertRegex(error, pattern)
        self.assertEqual(self.status(source), 'running')
        self.assertEqual(self.states(source), states)

    def qmp_error(self, vm, command, **args):
        response = vm.qmp(command, **args)
        self.assertIn('error', response)
        return response['error']['desc']

    # A guest that uses its NIC

    def guest_args(self, queues=QUEUES, shell=False):
        """For a guest, and the path of its console"""
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

    def shell(self, path):
        """The shell of a guest with that console"""
        shell = Shell(path)
        self.addCleanup(shell.close)
        return shell

    def agent(self, ifname='tap0'):
        """The agent of a guest that boots, whose host end is @ifname"""
        set_address(ifname)
        agent = Agent()
        self.addCleanup(agent.close)
        agent.wait(self.timeout)
        return agent

    def assert_answers(self, agent, *sent):
        """
        The guest gets packets and sends some: none may be lost

        @sent: numbers of requests whose answers are still to come
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

    def to_and_fro(self, vm, make_target, agent=None, hand_over=None,
                   check=None):
        """
        Hand over to a target, and from that to another one

        With a guest, it is asked while neither side runs, and afterwards.

        @make_target: launches a target
        @agent: of the guest, if there is one
        @hand_over: does it, given both sides
        @check: called with each target once it runs

        Returns: the last target, which runs
        """
        states = self.states(vm)
        self.assertNotEqual(states, [])
        files = None
        for _ in range(2):
            target = make_target()
            if hand_over:
                target = hand_over(vm, target)
            else:
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
            # Each hop leaves the same behind, whatever QEMU opens at start
            self.assertEqual(self.open_files(target),
                             files or self.open_files(target))
            files = self.open_files(target)
            vm = target
        return vm

    def boot(self, netdev, *args, queues=QUEUES, device=None, ifname='tap0',
             shell=False):
        """A source with a guest that uses its NIC; the agent and its shell"""
        path, guest = self.guest_args(queues, shell)
        vm = self.source(netdev, *guest, *args, nic=device)
        agent = self.agent(ifname)
        return vm, agent, self.shell(path) if shell else None

    def guest_target(self, netdev, *args, queues=QUEUES, device=None):
        return self.target(netdev, *self.guest_args(queues)[1], *args,
                           nic=device)

    def inherit(self, fd):
        """Let QEMUs have @fd until the test ends"""
        os.set_inheritable(fd, True)
        self.addCleanup(os.close, fd)
        return fd

    def tap_fds(self, fds, count):
        """The value of fds= for a QEMU; it has @fds from us then"""
        names = []
        for _ in range(count):
            fds.append(tap.open_tap('tap0', tap.IFF_MULTI_QUEUE |
                                    tap.IFF_VNET_HDR))
            os.set_inheritable(fds[-1], True)
            names.append(str(fds[-1]))
        return ':'.join(names)
