# Forward a migration stream with file descriptors, and tamper with it
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import select
import socket
import struct
import threading

# Each queue's section goes on with these behind the byte that the fd is on
FIELDS = ('using_vnet_hdr', 'has_ufo', 'has_uso', 'has_tunnel', 'enabled',
          'host_vnet_hdr_len')
FIELDS_SIZE = 5 + 4
SUBSECTION = b'\x05\x14net-tap/kernel-state' + struct.pack('>I', 1)

MAX_FDS = 16


class HeldStream:
    """
    The part of the stream that the proxy holds back

    @data: its bytes
    @marks: per message with fds, the index of its last byte
    @fds: per message with fds, a list of them, which are closed after use
    """

    # So much is to be behind the last fd: a whole section of a queue
    TAIL = 1024

    def __init__(self):
        self.data = bytearray()
        self.marks = []
        self.fds = []

    def add(self, data, fds):
        self.data += data
        if fds:
            self.marks.append(len(self.data) - 1)
            self.fds.append(fds)

    def has(self, messages):
        return (len(self.marks) >= messages and
                len(self.data) > self.marks[messages - 1] + self.TAIL)

    def field(self, queue, name):
        """(offset, size) of a field of a queue's section"""
        index = FIELDS.index(name)
        return self.marks[queue] + 1 + index, 4 if index == 5 else 1

    def kernel_state(self, queue):
        """(offset, size) of a queue's kernel state, or None"""
        offset = self.marks[queue] + 1 + FIELDS_SIZE
        if not self.data.startswith(SUBSECTION, offset):
            return None
        offset += len(SUBSECTION)
        return offset + 4, struct.unpack_from('>I', self.data, offset)[0]

    def replace_fd(self, queue, fd):
        """Pass @fd, which is closed after use, instead of the queue's"""
        os.close(self.fds[queue][0])
        self.fds[queue][0] = fd

    def resize_kernel_state(self, queue, size):
        """Cut the kernel state off, or fill it up with zeroes"""
        offset, old = self.kernel_state(queue)
        state = self.data[offset:offset + old][:size].ljust(size, b'\0')
        self.data[offset - 4:offset + old] = struct.pack('>I', size) + state
        for i in range(queue + 1, len(self.marks)):
            self.marks[i] += size - old

    def send(self, sock, messages=None):
        """Send all, or up to and including that many messages with fds"""
        start = 0
        for mark, fds in list(zip(self.marks, self.fds))[:messages]:
            sock.sendall(self.data[start:mark])
            socket.send_fds(sock, [self.data[mark:mark + 1]], fds)
            start = mark + 1
        if messages is None:
            sock.sendall(self.data[start:])

    def close(self):
        for fds in self.fds:
            for fd in fds:
                os.close(fd)
        self.fds = []


class FdProxy(threading.Thread):
    """
    Forward one connection from UNIX socket @listen to UNIX socket @connect

    From the first message with fds on, the stream is held back until there
    are @messages of those and what belongs to them. Then @tamper gets it, as
    a HeldStream. It returns None to let all pass, or the number of messages
    with fds that still pass before both connections are dropped. In between
    @sent is called.
    """

    def __init__(self, listen, connect, messages, tamper, sent=None):
        super().__init__(name='proxy', daemon=True)
        self.error = None
        self._connect = connect
        self._messages = messages
        self._tamper = tamper
        self._sent = sent
        self._ended, self._end = os.pipe()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(listen)
        self._server.listen(1)
        self.start()

    def close(self):
        """End forwarding, whatever is still to come"""
        if self._end is not None:
            os.close(self._end)
            self._end = None
            self.join()
            os.close(self._ended)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.close()

    def run(self):
        try:
            with self._server:
                if not self._wait(self._server):
                    return
                source = self._server.accept()[0]
            with source, socket.socket(socket.AF_UNIX) as target:
                target.connect(self._connect)
                self._forward(source, target)
        except (BrokenPipeError, ConnectionResetError):
            # One side went away, and the other one sees that now
            pass
        except Exception as e:
            self.error = e

    def _wait(self, *socks):
        """Those of @socks that can be read; none when we are to end"""
        ready = select.select([*socks, self._ended], [], [])[0]
        return [] if self._ended in ready else ready

    def _forward(self, source, target):
        held = HeldStream()
        try:
            while ready := self._wait(source, target):
                if target in ready:
                    data = target.recv(65536)
                    if not data:
                        return
                    source.sendall(data)
                if source in ready and not self._take(source, target, held):
                    return
        finally:
            held.close()

    def _take(self, source, target, held):
        data, fds, _, _ = socket.recv_fds(source, 65536, MAX_FDS)
        if not data:
            held.send(target)
            return False
        if not self._messages or not (fds or held.marks):
            target.sendall(data) if not fds else socket.send_fds(
                target, [data], fds)
            for fd in fds:
                os.close(fd)
            return True

        held.add(data, fds)
        if held.has(self._messages):
            passing = self._tamper(held)
            held.send(target, passing)
            if passing is not None:
                if self._sent:
                    self._sent()
                return False
            held.close()
            held.__init__()
            self._messages = 0
        return True
