#!/usr/bin/env python3
#
# Tests of invalid migration streams: targets refuse them, the TAP is unchanged
#
# TAP_LOCAL_STREAMS is the number of streams, TAP_LOCAL_SEED selects others,
# and TAP_LOCAL_STREAM runs a single one.
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import collections
import contextlib
import fcntl
import json
import os
import random
import re
import socket
import struct

from qemu_test import QemuSystemTest

import tap_local_queue as tap
import tap_local_uapi as uapi
from tap_local_base import (NIC, NO_VAPIC, TapLocalTestBase, source_netdev,
                            target_netdev)
from tap_local_mutation import Mutation
from tap_local_network import ip, link_up
from tap_local_stream import (LOADED, MAX_FDS, HeldStream, Recording,
                              pending)
from tap_local_target import Gone, Target

STREAMS = int(os.environ.get('TAP_LOCAL_STREAMS', 200))
SEED = os.environ.get('TAP_LOCAL_SEED', '1')
STREAM = os.environ.get('TAP_LOCAL_STREAM')

# NIC without the options for several queues
E1000 = {key: value for key, value in NIC.items()
         if key not in ('mq', 'vectors')} | {'driver': 'e1000'}


class TapLocalStream(TapLocalTestBase):

    timeout = 60 + 10 * STREAMS
    # Seconds that a target may take to answer
    target_timeout = 60

    # Number of targets that are started in advance
    AHEAD = 2

    # Message without a reason
    BARE = re.compile(r'(\S+: )?load of migration failed: [^:]*$')
    BUG = re.compile(r'(?i)sanitizer|runtime error:|assert|should not be '
                     r'reached|core dumped|failed to allocate|'
                     r'(GLib|qemu)[\w-]*-(CRITICAL|ERROR|WARNING)')
    # Message of net-tap, with netdev, queue and reason
    NET_TAP = re.compile(r"netdev 'net0'( queue \d)?: .{10}")

    # File descriptors

    def open_fds(self, recording):
        """Open files of many kinds; returns name -> fd"""
        def pipe_end():
            ends = os.pipe()
            os.close(ends[0])
            return ends[1]

        def tun(name, flags):
            fd = os.open(tap.TUN, os.O_RDWR)
            fcntl.ioctl(fd, uapi.TUNSETIFF, struct.pack(
                '16sH22x', name, uapi.IFF_TUN | uapi.IFF_NO_PI | flags))
            return fd

        def deleted():
            fd = tap.open_tap('tap7')
            ip('link', 'delete', 'tap7')
            return fd

        fds = {
            'other tap': tap.open_tap('tap8', uapi.IFF_VNET_HDR |
                                      uapi.IFF_MULTI_QUEUE),
            'plain tap': tap.open_tap('tap9'),
            'tun': tun(b'tun8', uapi.IFF_VNET_HDR),
            'plain tun': tun(b'tun9', 0),
            'deleted tap': deleted(),
            'no device': os.open(tap.TUN, os.O_RDWR),
            'null': os.open('/dev/null', os.O_RDWR),
            'directory': os.open('/', os.O_RDONLY),
            'path': os.open('/', os.O_PATH),
            'file': os.open(__file__, os.O_RDONLY),
            'socket': socket.socket(socket.AF_UNIX).detach(),
            'udp': socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
            'memfd': os.memfd_create('memfd'),
            'pipe': pipe_end(),
        }
        for fd in fds.values():
            self.addCleanup(os.close, fd)
        # Set the length of vnet header that QEMU chose for its TAP
        size = fcntl.ioctl(recording.fds['queue 0'], uapi.TUNGETVNETHDRSZ,
                           bytes(4))
        for name in 'other tap', 'tun':
            fcntl.ioctl(fds[name], uapi.TUNSETVNETHDRSZ, size)
        fds.update(recording.fds)
        return fds

    def device_states(self):
        """Returns the state of all devices that a target could change"""
        devices = ('other tap', 'plain tap', 'tun', 'plain tun',
                   *self.recording.fds)
        return {name: tap.TapQueue(self.fds[name]).state()
                for name in devices}

    def held_devices(self, target):
        with tap.TapQueues(target.pid) as queues:
            return [(queue.ifname, queue.flags) for queue in queues]

    # Recording

    def record(self, source):
        """Let @source migrate into a socket; returns a Recording"""
        path = self.socket_path()
        stream = HeldStream()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(1)
            source.cmd('migrate', uri=f'unix:{path}')
            with server.accept()[0] as sock:
                # The source waits for the word of a target
                sock.sendall(LOADED)
                while True:
                    data, fds, _, _ = socket.recv_fds(sock, 65536, MAX_FDS)
                    if not data:
                        break
                    stream.add(data, fds)
        self.addCleanup(stream.close)
        self.assertEqual(self.wait_migration(source)['status'], 'completed')
        self.wait_status(source, 'postmigrate')
        return Recording(stream)

    # Targets

    def spawn(self):
        name = self.unique('target')
        ram = os.path.join(self.workdir, 'target-ram')
        return Target(
            [self.qemu_bin, '-display', 'none', '-vga', 'none', '-nodefaults',
             '-S', '-incoming', 'defer', '-m', '128M',
             '-object', f'memory-backend-file,id=ram,size=128M,mem-path={ram},'
             'share=on', '-machine', f'{self.machine},memory-backend=ram',
             '-netdev', target_netdev(self.queues),
             '-device', json.dumps(self.nic), *NO_VAPIC],
            os.path.join(self.socket_dir().name, name),
            os.path.join(self.workdir, f'{name}.log'), self.target_timeout)

    def next_target(self):
        while len(self.targets) <= self.AHEAD:
            self.targets.append(self.spawn())
        return self.targets.popleft()

    def tearDown(self):
        # Targets may still write files to the directory that is deleted now
        while self.targets:
            self.targets.pop().close()
        super().tearDown()

    def feed(self, target, stream):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(self.target_timeout)
            sock.connect(target.path)
            # A target may close the connection early
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                stream.send(sock)
                sock.shutdown(socket.SHUT_WR)
            # A target that exits closes QMP without an event
            with contextlib.suppress(Gone):
                return target.wait_loaded()
        return 'exited'

    # Checks of the outcome

    def check_reason(self, log, mutation):
        lines = [line for line in log.splitlines()
                 if line and ': warning: ' not in line]
        self.assertTrue(lines, 'no reason is given')
        if mutation.only_net_tap:
            self.assertFalse(all(self.BARE.match(line) for line in lines),
                             'only the result is given')

    def check_failed(self, target, mutation):
        """
        A target that stays: it answers, and has nothing of the source

        Returns the reason that it gives
        """
        self.assertEqual(target.cmd('query-status')['status'], 'inmigrate')
        info = target.cmd('query-migrate')
        self.assertEqual(info['status'], 'failed')
        self.assertEqual(self.held_devices(target), [])
        if mutation.only_net_tap:
            self.assertIn('error-desc', info)
        # QEMU 10.2 has no reason for a stream with an invalid beginning
        return info.get('error-desc', '')

    def check_accepted(self, target, mutation):
        """A target that succeeds: it has all queues of one TAP, and can run"""
        # Let the target close its channel, which it does after the event
        target.cmd('query-status')
        devices = self.held_devices(target)
        self.assertEqual(len(devices), self.queues)
        self.assertEqual(len({name for name, _ in devices}), 1, devices)
        for _, flags in devices:
            self.assertTrue(flags & uapi.IFF_TAP, devices)
        if mutation.only_net_tap:
            self.assertEqual(self.device_states(), self.states_before)
            target.cmd('cont')
            self.assertEqual(target.cmd('query-status')['status'], 'running')
            for _ in range(3):
                target.cmd('query-status')

    def check_stream(self, number):
        rng = random.Random(f'{SEED}/{number}')
        mutation = Mutation(self.recording, self.fds, rng)
        outcome, log = self.check_mutation(
            f'TAP_LOCAL_SEED={SEED} TAP_LOCAL_STREAM={number}', mutation,
            exit_on_error=rng.random() < 0.5)
        return mutation, outcome, log

    def check_mutation(self, name, mutation, exit_on_error):
        """Feed a mutation to a target; returns its outcome and its log"""
        target = self.next_target()
        try:
            target.listen(exit_on_error)
            self.assertEqual(self.held_devices(target), [])
            reason = ''
            outcome = self.feed(target, mutation.stream(self.fds))
            if outcome == 'failed' and exit_on_error:
                # The event precedes the exit
                outcome = 'exited'
            if outcome == 'exited':
                code = target.wait()
                self.assertTrue(exit_on_error, f'exit code {code}')
                self.assertEqual(code, 1)
            else:
                if outcome == 'failed':
                    reason = self.check_failed(target, mutation)
                else:
                    self.check_accepted(target, mutation)
                self.assertEqual(target.quit(), 0)
            log = f'{target.log()}\n{reason}'
            self.assertNotRegex(log, self.BUG)
            if outcome != 'completed':
                self.check_reason(log, mutation)
            self.assertEqual(self.device_states(), self.states_before)
            for name in self.recording.fds:
                self.assertTrue(
                    tap.TapQueue(self.fds[name]).nonblocking(), name)
        except Exception as e:
            raise AssertionError(
                f'{self.id()}: {name}: {mutation} '
                f'(exit-on-error={exit_on_error}): {e!r}\n{target.log()}'
            ) from e
        finally:
            target.close()
        return outcome, log

    def prepare(self, queues, nic):
        """Record a stream; returns its source"""
        self.queues = queues
        self.nic = nic
        self.targets = collections.deque()
        source = self.source(source_netdev(queues), nic=nic)
        link_up('tap0')
        self.recording = self.record(source)
        self.assertEqual(len(self.recording.fds), queues)
        self.assertEqual(len([part for part in self.recording.parts
                              if part.is_net_tap]), queues)
        self.fds = self.open_fds(self.recording)
        self.states_before = self.device_states()

        # A target accepts the recording itself
        outcome, log = self.check_mutation('unchanged', self.unchanged(), True)
        self.assertEqual(outcome, 'completed', log)
        return source

    def unchanged(self):
        return Mutation(self.recording, self.fds, random.Random(SEED), 0)

    def do_streams(self, queues, nic, count):
        source = self.prepare(queues, nic)
        states = self.states(source)
        files = self.open_files(source)

        outcomes = collections.Counter()
        problems = []
        numbers = range(count) if STREAM is None else [int(STREAM)]
        for number in numbers:
            try:
                mutation, outcome, log = self.check_stream(number)
                outcomes[outcome] += 1
                if outcome != 'completed' and mutation.only_net_tap:
                    outcomes['in net-tap'] += 1
                    outcomes['explained'] += bool(self.NET_TAP.search(log))
            except AssertionError as e:
                self.log.error(e)
                problems.append(str(e))
                self.states_before = self.device_states()
        self.log.info('seed %s: %s', SEED, dict(outcomes))

        self.assertEqual(self.status(source), 'postmigrate')
        self.assertEqual(self.states(source), states)
        self.cont(source)
        self.main_loop_turns(source)
        self.assertEqual(self.states(source), states)
        self.assertEqual(self.open_files(source), files)
        self.assertEqual(problems, [], f'{len(problems)} of {len(numbers)}:\n'
                         + '\n'.join(problems))
        if len(numbers) >= 100:
            # Expect enough of each outcome, and enough errors in net-tap
            self.assertGreater(outcomes['completed'], len(numbers) // 50)
            self.assertGreater(outcomes['failed'], len(numbers) // 10)
            self.assertGreater(outcomes['exited'], len(numbers) // 10)
            self.assertGreater(outcomes['in net-tap'], len(numbers) // 10)
            # In other cases QEMU does not recognize the section as net-tap
            self.assertGreater(outcomes['explained'],
                               outcomes['in net-tap'] // 4)

    def test_virtio_net(self):
        self.do_streams(2, NIC, STREAMS - STREAMS // 4)

    def test_e1000(self):
        """A NIC model that leaves the vnet header to the TAP"""
        self.do_streams(1, E1000, STREAMS // 4)

    def assert_refused_twice(self, change, *patterns):
        """Refused by a target that exits, and by one that stays"""
        for exit_on_error in True, False:
            mutation = self.unchanged()
            change(mutation, [part for part in mutation.parts
                              if part.is_net_tap])
            outcome, log = self.check_mutation(str(patterns), mutation,
                                               exit_on_error)
            self.assertEqual(outcome, 'exited' if exit_on_error else 'failed')
            for pattern in patterns:
                self.assertRegex(log, pattern)

    def test_section_twice(self):
        """The target closes the fd of the first section, too"""
        self.prepare(2, NIC)
        self.assert_refused_twice(
            lambda mutation, parts: mutation.parts.insert(
                mutation.parts.index(parts[1]), parts[0]),
            "netdev 'net0' queue 0: ", 'twice')

    def test_section_missing(self):
        self.prepare(2, NIC)
        self.assert_refused_twice(
            lambda mutation, parts: mutation.parts.remove(parts[1]),
            "netdev 'net0' queue 1: ")

    def test_tun(self):
        self.prepare(1, E1000)

        def change(_, parts):
            parts[0].fds = {parts[0].body: ['tun']}

        self.assert_refused_twice(change, "netdev 'net0' queue 0: ",
                                  'not a TAP')

    def test_received_too_short(self):
        """A packet that is shorter than its vnet header"""
        self.prepare(1, E1000)

        def change(_, parts):
            parts[0].replace(parts[0].footer, parts[0].footer,
                             pending(received=bytes(8)))

        self.assert_refused_twice(change, "netdev 'net0' queue 0: ",
                                  '8 bytes')


if __name__ == '__main__':
    QemuSystemTest.main()
