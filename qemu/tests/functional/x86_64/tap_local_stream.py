# Format of a migration stream that hands over TAPs
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import re
import socket
import struct

EOF, START, PART, END, FULL = range(5)
SUBSECTION = 5
FOOTER = 0x7e

NET_TAP = b'/net-tap'
SUBSECTIONS = ('net-tap/kernel-state', 'net-tap/pending')

# Fields of section net-tap, behind the byte that carries the fd
FIELDS = ('using_vnet_hdr', 'has_ufo', 'has_uso', 'has_tunnel', 'enabled',
          'host_vnet_hdr_len')
FIELDS_SIZE = 5 + 4
# Fields that tell of capabilities of the device
CLAIMS = ('has_ufo', 'has_uso', 'has_tunnel')

# On the return path: MIG_RP_MSG_SHUT, the stream was loaded
LOADED = struct.pack('>HHI', 1, 4, 0)

# Limit of QEMU for one message
MAX_FDS = 16


def counted(name):
    return bytes([len(name)]) + name


def subsection(name, version, data):
    return (bytes([SUBSECTION]) + counted(name) + struct.pack('>I', version) +
            data)


def pending(received=b'', sent=b''):
    """Subsection of pending packets; @sent: each behind its length"""
    return subsection(b'net-tap/pending', 1,
                      struct.pack('>I', len(received)) + received +
                      struct.pack('>I', len(sent)) + sent)


KERNEL_STATE = subsection(b'net-tap/kernel-state', 1, b'')
# Bytes behind the state: the steering program is QEMU's own
KERNEL_STATE_TAIL = 1


class HeldStream:
    """
    A stream with file descriptors, or a part of one, as it was received

    @data: its bytes
    @marks: per message with fds, the index of its last byte
    @fds: per message with fds, a list of them, which are closed after use
    """

    # Bytes to wait for behind the last fd: more than the section of a queue
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
        """Returns (offset, size) of a field of a queue's section"""
        index = FIELDS.index(name)
        return self.marks[queue] + 1 + index, 4 if index == 5 else 1

    def kernel_state(self, queue):
        """Returns (offset, size) of a queue's kernel state, or None"""
        offset = self.marks[queue] + 1 + FIELDS_SIZE
        if not self.data.startswith(KERNEL_STATE, offset):
            return None
        offset += len(KERNEL_STATE)
        return offset + 4, struct.unpack_from('>I', self.data, offset)[0]

    def replace_fd(self, queue, fd):
        """Send @fd instead of the queue's own, and close it after use"""
        os.close(self.fds[queue][0])
        self.fds[queue][0] = fd

    def resize_kernel_state(self, queue, size):
        """Truncate the kernel state, or pad it with zeroes"""
        offset, old = self.kernel_state(queue)
        state = self.data[offset:offset + old][:size].ljust(size, b'\0')
        self.data[offset - 4:offset + old] = struct.pack('>I', size) + state
        for i in range(queue + 1, len(self.marks)):
            self.marks[i] += size - old

    def send(self, sock, messages=None):
        """Send the stream, or only its first @messages messages with fds"""
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


class Part:
    """
    A section of the stream, or the bytes between two sections

    @name: id of the section, empty for bytes between sections
    @data: the bytes
    @fds: fds that come with a byte: offset -> list of their names
    """

    def __init__(self, name, data, fds):
        self.name = name
        self.data = bytearray(data)
        self.fds = fds

    @property
    def is_net_tap(self):
        return self.name.endswith(NET_TAP)

    @property
    def body(self):
        """Offset of the device's data, which in net-tap begins with the fd"""
        return 1 + 4 + 1 + len(self.name) + 4 + 4

    @property
    def fields(self):
        """Offset of the first field behind the fd"""
        return self.body + 1

    @property
    def subsections(self):
        """Offset of the first subsection"""
        return self.fields + FIELDS_SIZE

    @property
    def footer(self):
        return len(self.data) - 5

    def replace(self, start, end, data):
        """Replace bytes @start to @end; fds stay with their bytes"""
        moved = len(data) - (end - start)
        self.data[start:end] = data
        fds = {}
        for offset, names in self.fds.items():
            if offset >= end:
                offset += moved
            elif offset >= start:
                offset = min(offset, start + max(len(data) - 1, 0))
            fds.setdefault(offset, []).extend(names)
        self.fds = fds


class Recording:
    """A complete stream, split into parts"""

    def __init__(self, stream):
        """@stream: a HeldStream with one fd in each message"""
        self.parts = []
        self.fds = {f'queue {i}': fds[0] for i, fds in enumerate(stream.fds)}
        self._data = bytes(stream.data)
        self._marks = {mark: [name]
                       for mark, name in zip(stream.marks, self.fds)}
        self._parse()

    def _add(self, name, start, end):
        fds = {mark - start: list(names)
               for mark, names in self._marks.items() if start <= mark < end}
        self.parts.append(Part(name, self._data[start:end], fds))

    def _end_of_section(self, start):
        """Find the footer that the next section follows"""
        footer = bytes([FOOTER]) + self._data[start + 1:start + 5]
        following = re.compile(
            rb'[\0\x02\x03]|[\x01\x04].{4}[\x01-\xff][!-~]', re.DOTALL)
        end = start + 5
        while True:
            end = self._data.index(footer, end) + len(footer)
            if following.match(self._data, end):
                return end

    def _parse(self):
        data = self._data
        # RAM has the first section
        start = re.search(rb'\x01.{4}\x03ram', data, re.DOTALL).start()
        self._add(b'', 0, start)
        while data[start] != EOF:
            end = self._end_of_section(start)
            name = b''
            if data[start] in (START, FULL):
                name = data[start + 6:start + 6 + data[start + 5]]
            self._add(name, start, end)
            start = end
        self._add(b'', start, len(data))
