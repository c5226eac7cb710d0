# A QEMU that loads one migration stream, and starts fast
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import contextlib
import json
import os
import select
import socket
import subprocess


class Gone(Exception):
    """QEMU has closed the QMP connection"""


class Target:
    """
    A QEMU that waits for one stream

    Tests need thousands of targets, so it starts faster than QEMUMachine: the
    monitor is an inherited socket, and nothing waits for the start.
    """

    def __init__(self, command, path, log, timeout):
        self.path = path
        self._timeout = timeout
        self._log = log
        self._received = b''
        self._events = []
        # Leak detection reports false leaks when QEMU exits in a coroutine
        options = f"{os.environ.get('ASAN_OPTIONS', '')}:detect_leaks=0"
        self._qmp, theirs = socket.socketpair()
        with theirs, open(log, 'wb') as output:
            self._process = subprocess.Popen(
                [*command, '-chardev', f'socket,id=qmp,fd={theirs.fileno()}',
                 '-mon', 'chardev=qmp,mode=control'],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output,
                env={**os.environ, 'ASAN_OPTIONS': options.lstrip(':')})

    def listen(self, exit_on_error):
        self._read()                # the greeting
        self.cmd('qmp_capabilities')
        self.cmd('migrate-set-capabilities', capabilities=[
            {'capability': name, 'state': True}
            for name in ('events', 'x-ignore-shared')])
        self.cmd('migrate-incoming', uri=f'unix:{self.path}',
                 **{'exit-on-error': exit_on_error})

    def _read(self):
        while b'\n' not in self._received:
            if not select.select([self._qmp], [], [], self._timeout)[0]:
                raise TimeoutError('QMP is silent')
            try:
                data = self._qmp.recv(65536)
            except ConnectionResetError:
                data = b''
            if not data:
                raise Gone()
            self._received += data
        line, _, self._received = self._received.partition(b'\n')
        return json.loads(line)

    def cmd(self, name, **arguments):
        try:
            self._qmp.sendall(json.dumps(
                {'execute': name, 'arguments': arguments}).encode())
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Gone() from e
        while 'event' in (message := self._read()):
            self._events.append(message)
        if 'error' in message:
            raise RuntimeError(f'{name}: {message["error"]["desc"]}')
        return message['return']

    def wait_loaded(self):
        """Wait for the end of the load: 'completed' or 'failed'"""
        while True:
            while self._events:
                event = self._events.pop(0)
                if (event['event'] == 'MIGRATION' and
                        event['data']['status'] in ('completed', 'failed')):
                    return event['data']['status']
            message = self._read()
            if 'event' in message:
                self._events.append(message)

    def quit(self):
        """Returns the exit code of QEMU"""
        with contextlib.suppress(Gone):
            self.cmd('quit')
        return self.wait()

    def wait(self):
        return self._process.wait(self._timeout)

    @property
    def pid(self):
        return self._process.pid

    def log(self):
        with open(self._log, encoding='utf-8', errors='replace') as log:
            return log.read()

    def close(self):
        self._qmp.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for path in self.path, self._log:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
