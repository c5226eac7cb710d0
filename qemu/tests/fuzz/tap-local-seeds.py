#!/usr/bin/env python3
#
# Write the first inputs of tap-local-fuzz
#
# usage: tap-local-seeds.py DIRECTORY
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import struct
import sys

# Kind of fd, and number of copies times 16; see LLVMFuzzerTestOneInput()
TUN, TWO_QUEUES, NO_DEVICE, NULL = 0x10, 0x11, 0x12, 0x13
TAP, TWICE, NONE = 0x1f, 0x2f, 0x0f

NO_VNET_HDR, IFNAME, USING_VNET_HDR, NO_NIC = 0x04, 0x08, 0x10, 0x20

# Largest accepted sizes, TAP_KSTATE_MAX_SIZE and NET_BUFSIZE. A fuzzer takes
# long to reach them from short inputs. They cover no more code than short ones,
# so libFuzzer drops them unless it has -keep_seed=1.
KERNEL_STATE_MAX, PACKET_MAX = 4096, 4096 + 65536

# linux/if_tun_state.h: a group and its place, and the size of struct tun_state
TUN_STATE_IFF, IFF, TUN_STATE_SIZE = 1 << 2, 104, 360


def counted(data):
    return struct.pack('>I', len(data)) + data


def fields(using=False, enabled=True, hdr_len=10):
    return struct.pack('>c?????I', b' ', using, True, True, False, enabled,
                       hdr_len)


def subsection(name, data):
    return (b'\5' + bytes([len(name)]) + name.encode() +
            struct.pack('>I', 1) + counted(data))


def pending(received=b'', sent=b''):
    return subsection('net-tap/pending', received) + counted(sent)


RECEIVED = bytes(72)
SENT = counted(bytes(72)) + counted(bytes(60))


def kernel_state(size=TUN_STATE_SIZE, at=None):
    """@at: offset of a byte that is not zero"""
    state = bytearray(struct.pack('=Q', TUN_STATE_IFF) + bytes(size - 8))
    if at is not None:
        state[at] = 1
    return subsection('net-tap/kernel-state', state) + b'\0'


SEEDS = {
    'fields': (0, TAP, fields()),
    'virtio': (USING_VNET_HDR, TAP, fields(using=True)),
    'no-vnet-hdr': (NO_VNET_HDR, TAP, fields(hdr_len=0)),
    'ifname': (IFNAME, TAP, fields()),
    'detached': (0, TAP, fields(enabled=False)),
    'received': (0, TAP, fields() + pending(RECEIVED)),
    'received-max': (0, TAP, fields() + pending(bytes(PACKET_MAX))),
    'sent': (0, TAP, fields() + pending(sent=SENT)),
    'pending': (0, TAP, fields() + pending(RECEIVED, SENT)),
    'pending-twice': (0, TAP, fields() + pending(RECEIVED) +
                      pending(RECEIVED, SENT)),
    'pending-none': (0, TAP, fields() + pending()),
    'kernel-state': (0, TAP, fields() + kernel_state()),
    'kernel-state-max': (2, TAP, fields() + kernel_state(KERNEL_STATE_MAX)),
    'kernel-state-short': (0, TAP, fields() + kernel_state(IFF + 7)),
    'kernel-state-flags': (0, TAP, fields() + kernel_state(at=8)),
    'kernel-state-reserved': (0, TAP, fields() + kernel_state(at=IFF + 4)),
    'kernel-state-behind': (0, TAP, fields() + kernel_state(
        KERNEL_STATE_MAX, KERNEL_STATE_MAX - 1)),
    'all': (2, TAP, fields() + kernel_state() +
            pending(RECEIVED, SENT)),
    'no-nic': (NO_NIC, TAP, fields(using=True)),
    'tun': (0, TUN, fields()),
    'two-queues': (USING_VNET_HDR, TWO_QUEUES, fields(using=True, hdr_len=12)),
    'long-header': (0, TWO_QUEUES, fields(hdr_len=12)),
    'no-device': (0, NO_DEVICE, fields()),
    'null': (0, NULL, fields()),
    'two-fds': (0, TWICE, fields()),
    'no-fd': (0, NONE, fields()),
}


def main():
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)
    for name, (options, fd, section) in SEEDS.items():
        with open(os.path.join(directory, name), 'wb') as seed:
            seed.write(bytes([options, fd]) + section)


if __name__ == '__main__':
    main()
