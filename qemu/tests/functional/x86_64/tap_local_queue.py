# TAP queues of a running process, and their state in the kernel
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import errno
import fcntl
import os
import re
import select
import struct

import tap_local_uapi as uapi

TUN = '/dev/net/tun'

# Groups that TUNGETSTATE reports without a buffer for an array
GROUPS = {name: bit for name, bit in uapi.GROUPS.items()
          if name not in ('sockfilter', 'flows', 'queues')}
ALL_GROUPS = sum(1 << bit for bit in GROUPS.values())


def _get_u32(fd, request):
    return struct.unpack('I', fcntl.ioctl(fd, request, bytes(4)))[0]


def set_u32(fd, request, value):
    """Change a numeric setting of the device of @fd"""
    fcntl.ioctl(fd, request, struct.pack('I', value))


def set_offload(fd, offload):
    fcntl.ioctl(fd, uapi.TUNSETOFFLOAD, offload)


def detach(fd):
    """Detach a queue from its device"""
    fcntl.ioctl(fd, uapi.TUNSETQUEUE,
                struct.pack('16xH22x', uapi.IFF_DETACH_QUEUE))


def _get_state(fd):
    """Returns a TunState, or None on a kernel without TUNGETSTATE"""
    state = uapi.TunState(mask=ALL_GROUPS)
    try:
        fcntl.ioctl(fd, uapi.TUNGETSTATE, state)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        if not state.supported & ALL_GROUPS:
            return None
        # macvtap has fewer groups
        state = uapi.TunState(mask=state.supported & ALL_GROUPS)
        fcntl.ioctl(fd, uapi.TUNGETSTATE, state)
    return state


def open_tap(name, flags=0):
    """Make a TAP, or one more queue of a TAP; returns its fd"""
    fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, uapi.TUNSETIFF, struct.pack(
            '16sH22x', name.encode(), uapi.IFF_TAP | uapi.IFF_NO_PI | flags))
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
    """A queue, through an fd that shares its open file"""

    def __init__(self, fd):
        self.fd = fd

    def _ifreq(self):
        return fcntl.ioctl(self.fd, uapi.TUNGETIFF, bytes(40))

    @property
    def ifname(self):
        """Name of the device, None if it was deleted"""
        try:
            return self._ifreq()[:16].rstrip(b'\0').decode()
        except OSError as e:
            if e.errno != errno.EBADFD:
                raise
            return None

    @property
    def flags(self):
        return struct.unpack_from('H', self._ifreq(), 16)[0]

    @property
    def attached(self):
        return not self.flags & uapi.IFF_DETACH_QUEUE

    @property
    def sndbuf(self):
        return _get_u32(self.fd, uapi.TUNGETSNDBUF)

    @property
    def vnet_hdr_len(self):
        return _get_u32(self.fd, uapi.TUNGETVNETHDRSZ)

    def has_packet(self):
        """Whether a packet waits to be read"""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return any(events & select.POLLIN for _, events in poll.poll(0))

    def nonblocking(self):
        return bool(fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_NONBLOCK)

    def held(self):
        """Returns the eBPF programs that the open file holds: name -> id"""
        with open(f'/proc/self/fdinfo/{self.fd}', encoding='ascii') as info:
            return {name: int(number) for name, number in
                    re.findall(r'(?m)^(\w+)-held:\t(\d+)$', info.read())}

    def state(self):
        """Returns a dict of all values that a hand-over must preserve"""
        kernel_state = _get_state(self.fd)
        if kernel_state is not None:
            # Each packet changes ring_len
            return {name: uapi.as_dict(getattr(kernel_state, name),
                                       without=['ring_len'])
                    for name, bit in GROUPS.items()
                    if kernel_state.mask & 1 << bit}

        state = {
            'ifname': self.ifname,
            'flags': f'{self.flags:#x}',
        }
        try:
            state['sndbuf'] = self.sndbuf
        except OSError:
            # A macvtap does not tell it
            pass
        if self.flags & uapi.IFF_VNET_HDR:
            state['vnet_hdr_len'] = self.vnet_hdr_len
            state['vnet_le'] = _get_u32(self.fd, uapi.TUNGETVNETLE)
            try:
                state['vnet_be'] = _get_u32(self.fd, uapi.TUNGETVNETBE)
            except OSError:
                # CONFIG_TUN_VNET_CROSS_LE is not set
                pass
        return state


class TapQueues:
    """
    The queues that process @pid has open, in the order of its fds

    @file: name of their open files

    Close the object soon: it keeps the devices from going away.
    """

    def __init__(self, pid, file=TUN):
        self._queues = []
        path = f'/proc/{pid}/fd'
        pidfd = os.pidfd_open(pid)
        try:
            for number in sorted(int(n) for n in os.listdir(path)):
                try:
                    if os.readlink(f'{path}/{number}') != file:
                        continue
                except FileNotFoundError:
                    continue
                self._queues.append(TapQueue(uapi.pidfd_getfd(pidfd, number)))
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
