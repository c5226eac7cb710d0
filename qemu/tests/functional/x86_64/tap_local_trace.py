# System calls of a QEMU, as strace shows them
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import re

import tap_local_queue as tap


class Trace:
    """The log of strace for a QEMU"""

    COMMAND = ('strace', '-D', '-f', '-y', '--seccomp-bpf',
               '-e', 'trace=ioctl,read,readv,recvmsg', '-e', 'signal=none')
    # Changes of a TAP or a network device. strace prints the number of an ioctl
    # without a name: 0xe8 is TUNGETSTATE, 0xe9 TUNSETSTATE.
    CHANGE = re.compile(r'ioctl\(\d+<[^>]*>+, (TUNSET\w+|SIOCS\w+|VHOST_\w+|'
                        r'_IOC\([^()]*, 0x54, 0xe9, )')
    GETSTATE = re.compile(r'ioctl\(.*\b(0x54, 0xe8|TUNGETSTATE)\b')
    SETSTATE = re.compile(r'ioctl\(.*\b(0x54, 0xe9|TUNSETSTATE)\b')
    # Nearly all of tun's ioctls take RTNL
    TAP_IOCTL = re.compile(r'ioctl\(\d+<' + tap.TUN)
    READ = re.compile(r'readv?\(\d+<' + tap.TUN)
    GOT_FD = re.compile(r'recvmsg\(.*SCM_RIGHTS.*<' + tap.TUN)

    def __init__(self, path):
        self._path = path

    @property
    def command(self):
        return (*self.COMMAND, '-o', self._path)

    def calls(self, start=0):
        """Returns the completed system calls, without the first @start"""
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
