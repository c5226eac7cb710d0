# Mutations of a recorded migration stream, for fuzzing a target
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import copy
import ctypes
import struct

import tap_local_uapi as uapi
from tap_local_stream import (FIELDS, SUBSECTIONS, HeldStream, counted,
                              subsection)

STATE_HEADER = uapi.offset_of('identity')
STATE_SIZE = ctypes.sizeof(uapi.TunState)
NET_BUFSIZE = 4096 + 65536
MAX_SENT = 16 * 1024 * 1024

# Around the limit of QEMU for one message (16), and that of Linux (253)
MANY_FDS = (2, 3, 16, 17, 253)


class Mutation:
    """
    A recording with errors in it

    The same @rng makes the same mutation.

    @log: descriptions of the errors
    @only_net_tap: all errors are inside of net-tap sections
    """

    # Values at and around limits that a target has to check
    BYTES = (0, 1, 5, 0x7e, 0x7f, 0x80, 0xff)
    WORDS = (0, 1, 2, 3, 4, 7, 8, STATE_HEADER - 1, STATE_HEADER,
             STATE_HEADER + 1, uapi.offset_of('netdev'), STATE_SIZE - 1,
             STATE_SIZE, STATE_SIZE + 1, 4095, 4096, 4097, NET_BUFSIZE - 1,
             NET_BUFSIZE, NET_BUFSIZE + 1, MAX_SENT - 1, MAX_SENT,
             MAX_SENT + 1, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)
    SIZES = (0, 1, 4, 9, 10, 11, 12, 13, 14, 60, 72, 1514, 4096, 65535,
             NET_BUFSIZE)

    def __init__(self, recording, fds, rng, count=None):
        self.parts = copy.deepcopy(recording.parts)
        self.rng = rng
        self.log = []
        self.only_net_tap = True
        self._fds = sorted(fds)
        self._stop = None

        if count is None:
            count = 1 if rng.random() < 0.6 else rng.randint(2, 5)
        for _ in range(count):
            if rng.random() < 0.85:
                self._mutate_net_tap()
            else:
                self._mutate_any()

    def __str__(self):
        return ', '.join(self.log)

    def stream(self, fds):
        """Returns a HeldStream; @fds: name -> fd, which stays open"""
        stream = HeldStream()
        for part in self.parts:
            start = 0
            for offset, names in sorted(part.fds.items()):
                stream.add(part.data[start:offset + 1],
                           [fds[name] for name in names])
                start = offset + 1
            stream.add(part.data[start:], [])
        if self._stop is not None:
            del stream.data[self._stop:]
            keep = len([m for m in stream.marks if m < self._stop])
            del stream.marks[keep:], stream.fds[keep:]
        return stream

    def _note(self, part, what):
        name = part.name.decode(errors='replace') or 'no section'
        self.log.append(f'{name}: {what}')

    # Bytes

    def _flip_bit(self, part, start, end):
        offset = self.rng.randrange(start, end)
        bit = 1 << self.rng.randrange(8)
        part.data[offset] ^= bit
        self._note(part, f'bit {bit:#x} of byte {offset}')

    def _set_byte(self, part, start, end):
        offset = self.rng.randrange(start, end)
        part.data[offset] = self.rng.choice(self.BYTES)
        self._note(part, f'byte {offset} is {part.data[offset]:#x}')

    def _set_word(self, part, start, end):
        offset = self.rng.randrange(start, max(start + 1, end - 3))
        word = self.rng.choice(self.WORDS)
        part.replace(offset, min(offset + 4, end), struct.pack('>I', word))
        self._note(part, f'word {offset} is {word:#x}')

    def _insert(self, part, start, end):
        offset = self.rng.randrange(start, end + 1)
        data = self.rng.randbytes(self.rng.choice((1, 2, 4, 100)))
        part.replace(offset, offset, data)
        self._note(part, f'{len(data)} bytes more at {offset}')

    def _delete(self, part, start, end):
        offset = self.rng.randrange(start, end)
        size = min(self.rng.choice((1, 2, 4, 100)), end - offset)
        part.replace(offset, offset + size, b'')
        self._note(part, f'{size} bytes less at {offset}')

    def _mutate_bytes(self, part, start, end):
        if start < end:
            self.rng.choice((self._flip_bit, self._flip_bit, self._set_byte,
                             self._set_word, self._insert,
                             self._delete))(part, start, end)

    # Sections

    def _remove(self, part):
        self.parts.remove(part)
        self._note(part, 'removed')

    def _duplicate(self, part):
        index = self.rng.choice((self.parts.index(part),
                                 self.rng.randrange(1, len(self.parts))))
        self.parts.insert(index, copy.deepcopy(part))
        self._note(part, f'again as part {index}')

    def _swap(self, part):
        other = self.rng.choice(self.parts)
        a, b = self.parts.index(part), self.parts.index(other)
        self.parts[a], self.parts[b] = other, part
        self._note(part, f'swapped with part {b}')

    def _rename(self, part):
        name = self.rng.choice((
            b'', b'net-tap', b'net0/net-tap', b'net0/0/net-tap',
            b'net0/1/net-tap', b'net0/2/net-tap', b'net1/0/net-tap',
            b'net0/00/net-tap', b'net0/-1/net-tap', b'ram', b'timer',
            b'x' * 255, self.rng.randbytes(8)))
        part.replace(5, 6 + len(part.name), counted(name))
        self._note(part, f'name is {name!r}')
        part.name = name

    def _mutate_header(self, part):
        start, size, what = self.rng.choice((
            (0, 1, 'type'), (1, 4, 'section id'),
            (part.body - 8, 4, 'instance'), (part.body - 4, 4, 'version'),
            (part.footer, 1, 'footer'),
            (part.footer + 1, 4, 'footer id')))
        value = self.rng.choice((*range(9), 0xff, 2**31, 2**32 - 1))
        part.data[start:start + size] = value.to_bytes(4, 'big')[-size:]
        self._note(part, f'{what} is {value:#x}')

    def _truncate(self, part):
        before = sum(len(p.data) for p in
                     self.parts[:self.parts.index(part)])
        self._stop = before + self.rng.randrange(len(part.data) + 1)
        self._note(part, f'stream ends at {self._stop}')

    def _structure(self, part):
        self.rng.choice((self._remove, self._duplicate, self._swap,
                         self._truncate))(part)

    def _mutate_any(self):
        part = self.rng.choice(self.parts)
        self.only_net_tap = self.only_net_tap and part.is_net_tap
        if not part.name:
            self._mutate_bytes(part, 0, min(64, len(part.data)))
        elif self.rng.random() < 0.7:
            self.only_net_tap = False
            self._structure(part)
        else:
            self._mutate_header(part)

    # Section net-tap

    def _mutate_net_tap(self):
        parts = [part for part in self.parts if part.is_net_tap]
        if not parts:
            return
        part = self.rng.choice(parts)
        mutate = self.rng.choice((
            self._field, self._field, self._fields_bytes, self._number_of_fds,
            self._kind_of_fd, self._kind_of_fd, self._place_of_fd,
            self._subsection, self._subsection, self._subsection,
            self._subsection_bytes, self._net_tap_section))
        mutate(part)

    def _net_tap_section(self, part):
        mutate = self.rng.choice((self._rename, self._mutate_header,
                                  self._structure))
        if mutate == self._structure:
            self.only_net_tap = False
        mutate(part)

    def _field(self, part):
        index = self.rng.randrange(len(FIELDS))
        offset = part.fields + index
        if FIELDS[index] == 'host_vnet_hdr_len':
            value = self.rng.choice((0, 4, 10, 11, 12, 13, 20, 24, 64,
                                     *self.WORDS))
            part.data[offset:offset + 4] = struct.pack('>I', value)
        else:
            value = self.rng.choice((0, 1, 2, 0xff))
            part.data[offset] = value
        self._note(part, f'{FIELDS[index]} is {value:#x}')

    def _fields_bytes(self, part):
        self._mutate_bytes(part, part.body, part.footer)

    def _subsection_bytes(self, part):
        self._mutate_bytes(part, min(part.subsections, part.footer),
                           part.footer)

    def _fd(self):
        return self.rng.choice(self._fds)

    def _number_of_fds(self, part):
        if not part.fds:
            return
        offset = self.rng.choice(list(part.fds))
        if self.rng.random() < 0.4:
            del part.fds[offset]
            self._note(part, f'no fd at {offset}')
            return
        count = self.rng.choice(MANY_FDS)
        names = part.fds[offset] + [self._fd() for _ in range(count)]
        part.fds[offset] = names[:MANY_FDS[-1]]
        self._note(part, f'{len(part.fds[offset])} fds at {offset}')

    def _kind_of_fd(self, part):
        if not part.fds:
            return
        offset = self.rng.choice(list(part.fds))
        part.fds[offset] = [self._fd()]
        self._note(part, f'fd at {offset} is {part.fds[offset][0]}')

    def _place_of_fd(self, part):
        if not part.fds:
            return
        offset = self.rng.choice(list(part.fds))
        names = part.fds.pop(offset)
        to = self.rng.choice((0, offset - 1, offset + 1, len(part.data) - 1))
        part.fds.setdefault(to, []).extend(names)
        self._note(part, f'fds of {offset} with byte {to}')

    def _received(self):
        size = self.rng.choice(self.SIZES)
        return struct.pack('>I', size) + self.rng.randbytes(size)

    def _sent(self):
        data = b''
        for _ in range(self.rng.randrange(5)):
            size = self.rng.choice(self.SIZES)
            claim = max(0, size + self.rng.choice((0, 0, 0, 0, -1, 1, -4, 4)))
            data += struct.pack('>I', claim) + self.rng.randbytes(size)
        return struct.pack('>I', len(data)) + data

    def _pending(self):
        if self.rng.random() < 0.3:
            return bytes(4) + self._sent()
        return self._received() + self._sent()

    def _kernel_state(self):
        size = self.rng.choice((0, 8, STATE_HEADER - 1, STATE_HEADER, 100,
                                STATE_SIZE, STATE_SIZE + 1, 4096, 4097))
        data = bytearray(self.rng.choice((bytes(size),
                                          self.rng.randbytes(size))))
        if size >= 8 and self.rng.random() < 0.7:
            data[:8] = struct.pack('=Q', 1 << self.rng.choice(
                sorted(uapi.GROUPS.values())))
        return struct.pack('>I', size) + data + self.rng.randbytes(1)

    def _subsection(self, part):
        name = self.rng.choice((*SUBSECTIONS, *SUBSECTIONS, 'net-tap/',
                                'net-tap/none', 'net-tap',
                                'net-tapx/pending', '',
                                'net-tap/' + 'x' * 247)).encode()
        data = self.rng.choice((self._received, self._sent, self._pending,
                                self._kernel_state))()
        if name == b'net-tap/pending' and self.rng.random() < 0.8:
            data = self._pending()
        elif name == b'net-tap/kernel-state' and self.rng.random() < 0.8:
            data = self._kernel_state()
        if self.rng.random() < 0.2:
            data = struct.pack('>I', self.rng.choice(self.WORDS)) + data[4:]
        version = self.rng.choice((1,) * 9 + (0, 2, 2**31, 2**32 - 1))
        times = self.rng.choice((1,) * 8 + (2, 100))
        where = self.rng.choice((part.footer, part.footer,
                                 min(part.subsections, part.footer)))
        part.replace(where, where, subsection(name, version, data) * times)
        self._note(part, f'subsection {name!r} version {version} at {where}: '
                   f'{len(data)} bytes, {data[:8].hex()}..., {times} times')
