#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Live-update a guest under TCP at full speed both ways. Print TAP.

After each migration packets of many segments pass the TAP in both directions. The
stream comes back as it was sent, and no other packet is missing.
"""

import socket
import sys
import time

from soak import main, migrate
from testbed import DEV, GUEST, TestbedError
from traffic import Stream

ETH_P_ALL = 3
# Bytes of a packet that has to be segmented; the limit of GSO is 64 KiB.
LARGE = 32768
# Large packets to wait for in each direction
ENOUGH = 20


class FullSpeed(Stream):
    CHUNK = 1 << 18

    def __init__(self, guest):
        super().__init__(guest, float("inf"))


def wait_large_packets(timeout=60):
    """Wait until enough large packets have passed the TAP; return the largest two."""
    # Lengths to the host and to the guest
    ways = [], []
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(timeout)
        sock.bind((DEV, ETH_P_ALL))
        while min(map(len, ways)) < ENOUGH:
            packet, (_, _, kind, *_) = sock.recvfrom(1 << 17)
            if len(packet) > LARGE:
                ways[kind == socket.PACKET_OUTGOING].append(len(packet))
            if time.monotonic() > deadline:
                raise TestbedError(f"only {len(ways[1])} and {len(ways[0])} large "
                                   f"packets to the guest and host in {timeout} s")
    return list(map(max, ways))


def full_speed(testbed, migrations):
    """Return the problems that were found."""
    vm = testbed.boot()
    stream = FullSpeed(GUEST)
    stream.start()
    largest = [wait_large_packets()]
    for _ in range(migrations):
        vm = migrate(testbed, vm)
        largest.append(wait_large_packets())
    problems = stream.finish() + testbed.finish()
    vm.quit()
    to_host, to_guest = map(max, zip(*largest))
    print(f"# TCP at full speed: {stream.bytes_sent} bytes there and back, in packets "
          f"of up to {to_guest} bytes to the guest and {to_host} to the host")
    return problems


if __name__ == "__main__":
    sys.exit(main(full_speed, __doc__, 20))
