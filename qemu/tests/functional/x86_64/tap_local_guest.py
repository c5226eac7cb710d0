# Talk to a guest: to its agent by UDP, to its shell on the serial console
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re
import socket
import time

from tap_local_network import GUEST_IP

AGENT_PORT = 7000


class Agent:
    """The agent in the guest, which answers each UDP packet"""

    def __init__(self):
        self._count = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect((GUEST_IP, AGENT_PORT))

    def close(self):
        self._sock.close()

    @property
    def count(self):
        """Number of the last request"""
        return self._count

    def send(self):
        """Send a request; returns its number"""
        self._count += 1
        self._sock.send(b'%d hello' % self._count)
        return self._count

    def receive(self, timeout):
        """Returns the number of a request, and its answer as a dict"""
        self._sock.settimeout(timeout)
        number, status, *words = self._sock.recv(2048).decode().split(' ')
        assert status == 'ok', (status, words)
        return int(number), dict(word.split('=', 1) for word in words)

    def wait(self, timeout):
        """Send requests until one is answered; returns the answer"""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                # send() and receive() are refused before the agent runs
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
        """Send @text, and read until @pattern matches; returns the match"""
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
        """Run a command; returns its exit status and output"""
        end = time.monotonic() + timeout
        while True:
            # Input is lost before the shell is ready
            try:
                self._send('', b'# ', 1)
                break
            except TimeoutError:
                if time.monotonic() > end:
                    raise
        match = self._send(f'{command}; echo "ended: $?"',
                           rb'(?s)(.*)ended: (\d+)', timeout)
        return int(match[2]), match[1].decode(errors='replace')
