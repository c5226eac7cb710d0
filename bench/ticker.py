#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Send short frames to a guest, which drops them, until the end of standard input.

usage: ticker.py DEV MAC INTERVAL

They show to within INTERVAL seconds when a QEMU reads from its TAP.
"""

import os
import select
import socket
import sys
import time

# IEEE 802's experimental ethertype: no guest has a receiver for it.
ETHERTYPE = 0x88b5
LENGTH = 60


def main():
    dev, mac, interval = sys.argv[1], sys.argv[2], float(sys.argv[3])
    mac = bytes.fromhex(mac.replace(":", ""))
    frame = mac + b"\2\0\0\0\0\1" + ETHERTYPE.to_bytes(2, "big")
    frame = frame.ljust(LENGTH, b"\0")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((dev, 0))
        sock.setblocking(False)
        due = time.monotonic()
        while not select.select([0], [], [], max(due - time.monotonic(), 0))[0]:
            try:
                sock.send(frame)
            except BlockingIOError:
                pass
            due = max(due, time.monotonic() - interval) + interval
    os.close(0)


if __name__ == "__main__":
    main()
