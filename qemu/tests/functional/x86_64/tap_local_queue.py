# What the kernel says about the TAP queues of a running process
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import ctypes
import errno
import fcntl
import os
import select
import struct

TUN = '/dev/net/tun'

TUNSETIFF = 0x400454ca
TUNGETIFF = 0x800454d2
TUNSETOFFLOAD = 0x400454d0
TUNGETSNDBUF = 0x800454d3
TUNSETSNDBUF = 0x400454d4
TUNGETVNETHDRSZ = 0x800454d7
TUNSETVNETHDRSZ = 0x400454d8
TUNSETQUEUE = 0x400454d9
TUNGETVNETLE = 0x800454dd
TUNGETVNETBE = 0x800454df
TUN_STATE_SIZE = 360
TUNGETSTATE = 0xc00054e8 | TUN_STATE_SIZE << 16

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02

# Groups of struct tun_state: name -> (bit, offset, size), without those that
# need a buffer. The size of 'queue' ends before what changes with each packet.
GROUPS = {
    'identity': (0, 32, 72),
    'device': (1, 104, 8),
    'owner': (2, 112, 8),
    'vnet': (3, 120, 8),
    'offload': (4, 128, 8),
    'sndbuf': (5, 136, 8),
    'link': (6, 144, 16),
    'txfilter': (7, 160, 64),
    'steering': (9, 240, 24),
    'filter': (10, 264, 24),
    'xdp': (11, 288, 8),
    'queue': (13, 312, 12),
}
ALL_GROUPS = sum(1 << bit for bit, _, _ in GROUPS.values())

SYS_PIDFD_GETFD = 438


def _get_u32(fd, request):
    return struct.unpack('I', fcntl.ioctl(fd, request, bytes(4)))[0]


def set_u32(fd, request, value):
    """Change a setting of the device behind @fd that is a number"""
    fcntl.ioctl(fd, request, struct.pack('I', value))


def set_offload(fd, offload):
    fcntl.ioctl(fd, TUNSETOFFLOAD, offload)


def _get_state(fd):
    """Raw struct tun_state, or None on a kernel that does not report it"""
    state = bytearray(TUN_STATE_SIZE)
    struct.pack_into('Q', state, 0, ALL_GROUPS)
    try:
        fcntl.ioctl(fd, TUNGETSTATE, state)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        return None
    return state


def open_tap(name, flags=0):
    """Make a TAP, or one more queue of a TAP; returns its fd"""
    fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack('16sH22x', name.encode(),
                                               IFF_TAP | IFF_NO_PI | flags))
    except OSError:
        os.close(fd)
        raise
    return fd


def kernel_reports_state():
    """Whether this kernel has TUNGETSTATE"""
    fd = open_tap('probe%d')
    try:
        return _get_state(fd) is not None
    finally:
        os.close(fd)


class TapQueue:
    """A queue, through an fd of our own on the same open file"""

    def __init__(self, fd):
        self.fd = fd

    def _ifreq(self):
        return fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))

    @property
    def ifname(self):
        return self._ifreq()[:16].rstrip(b'\0').decode()

    @property
    def flags(self):
        return struct.unpack_from('H', self._ifreq(), 16)[0]

    @property
    def attached(self):
        return not self.flags & IFF_DETACH_QUEUE

    @property
    def sndbuf(self):
        return _get_u32(self.fd, TUNGETSNDBUF)

    @property
    def vnet_hdr_len(self):
        return _get_u32(self.fd, TUNGETVNETHDRSZ)

    def has_packet(self):
        """Whether a packet waits to be read"""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return any(events & select.POLLIN for _, events in poll.poll(0))

    def nonblocking(self):
        return bool(fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_NONBLOCK)

    def state(self):
        """All that should survive a hand-over, as a dict"""
        raw = _get_state(self.fd)
        if raw is not None:
            there = struct.unpack_from('Q', raw)[0]
            return {name: raw[offset:offset + size].hex()
                    for name, (bit, offset, size) in GROUPS.items()
                    if there & 1 << bit}

        state = {
            'ifname': self.ifname,
            'flags': f'{self.flags:#x}',
            'sndbuf': self.sndbuf,
        }
        if self.flags & IFF_VNET_HDR:
            state['vnet_hdr_len'] = self.vnet_hdr_len
            state['vnet_le'] = _get_u32(self.fd, TUNGETVNETLE)
            try:
                state['vnet_be'] = _get_u32(self.fd, TUNGETVNETBE)
            except OSError:
                # CONFIG_TUN_VNET_CROSS_LE is not set
                pass
        return state


class TapQueues:
    """
    The queues that process @pid has, in the order of its fds

    The devices stay alive as long as this is open, so close it soon.
    """

    def __init__(self, pid):
        self._queues = []
        libc = ctypes.CDLL(None, use_errno=True)
        path = f'/proc/{pid}/fd'
        pidfd = os.pidfd_open(pid)
        try:
            for number in sorted(int(n) for n in os.listdir(path)):
                try:
                    if os.readlink(f'{path}/{number}') != TUN:
                        continue
                except FileNotFoundError:
                    continue
                fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
                if fd < 0:
                    raise OSError(ctypes.get_errno(), 'pidfd_getfd')
                self._queues.append(TapQueue(fd))
        except OSError:
            self.close()
            raise
        finally:
            os.close(pidfd)

    def close(self):
        while self._queues:
            os.close(self._queues.pop().fd)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.close()

    def __iter__(self):
        return iter(self._queues)

    def __len__(self):
        return len(self._queues)

    def __getitem__(self, index):
        return self._queues[index]
