# The kernel's TAP interface: flags, ioctl numbers and struct tun_state
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import ctypes
import os
import pathlib
import re

HEADER = (pathlib.Path(__file__).resolve().parents[3] /
          'linux-headers/linux/if_tun_state.h')
TYPES = {'__u8': ctypes.c_uint8, '__u16': ctypes.c_uint16,
         '__u32': ctypes.c_uint32, '__s32': ctypes.c_int32,
         '__aligned_u64': ctypes.c_uint64}


def _structs(header):
    """The structs of the header: name -> class"""
    code = re.sub(r'(?s)/\*.*?\*/', '', header)
    sizes = dict(re.findall(r'#define (\w+)\s+(\d+)\s', code))
    types = dict(TYPES)
    for name, body in re.findall(r'(?s)\bstruct (\w+) {(.*?)};', code):
        fields = []
        for base, field, dimensions in re.findall(
                r'(?:struct )?(\w+) (\w+)((?:\[\w+\])*);', body):
            kind = types[base]
            for size in reversed(re.findall(r'\w+', dimensions)):
                kind *= int(sizes.get(size, size))
            fields.append((field, kind))
        types[name] = type(name, (ctypes.Structure,), {'_fields_': fields})
    return types


def _groups(header):
    """The groups of struct tun_state: member -> bit"""
    return {member: int(bit) for bit, member in
            re.findall(r'\bFN\((\d+), \w+, (\w+)\)', header)}


_header = HEADER.read_text(encoding='utf-8')
TunState = _structs(_header)['tun_state']
GROUPS = _groups(_header)


def offset_of(path):
    """Offset in struct tun_state of a field such as 'queue.flags'"""
    struct, offset = TunState, 0
    for name in path.split('.'):
        offset += getattr(struct, name).offset
        struct = dict(struct._fields_)[name]
    return offset


def as_dict(struct, without=()):
    """The fields of a struct, arrays as hexadecimal digits"""
    fields = {name: getattr(struct, name) for name, _ in struct._fields_
              if name not in without}
    return {name: bytes(value).hex() if isinstance(value, ctypes.Array)
            else value for name, value in fields.items()}


# linux/ioctl.h, linux/if_tun.h

def _ioc(direction, number, kind):
    return (direction << 30 | ctypes.sizeof(kind) << 16 | ord('T') << 8 |
            number)


def _iow(number):
    return _ioc(1, number, ctypes.c_int)


def _ior(number):
    return _ioc(2, number, ctypes.c_int)


TUNSETIFF, TUNGETIFF = _iow(202), _ior(210)
TUNSETCARRIER = _iow(226)
TUNSETSNDBUF, TUNGETSNDBUF = _iow(212), _ior(211)
TUNSETVNETHDRSZ, TUNGETVNETHDRSZ = _iow(216), _ior(215)
TUNGETVNETLE, TUNGETVNETBE = _ior(221), _ior(223)
TUNSETOFFLOAD, TUNSETQUEUE = _iow(208), _iow(217)
# They set a program, but the kernel's header has _IOR
TUNSETSTEERINGEBPF, TUNSETFILTEREBPF = _ior(224), _ior(225)
TUNSETPERSIST, TUNSETDEBUG = _iow(203), _iow(201)
TUNSETOWNER, TUNSETGROUP = _iow(204), _iow(206)
TUNGETSTATE = _ioc(3, 232, TunState)

TUN_STATE_F_HOLD = 1

IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_PERSIST = 0x0800
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02

# System calls of x86-64 that Python does not offer

SYS_BPF = 321
SYS_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(*args):
    result = _libc.syscall(*args)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def pidfd_getfd(pidfd, fd):
    return _syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)


def bpf(command, attr):
    return _syscall(SYS_BPF, command, attr, len(attr))
