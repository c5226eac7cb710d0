# SPDX-License-Identifier: GPL-2.0-or-later
"""When vhost of a QEMU read packets from its TAP, by a probe in the kernel.

QEMU sees no packet of a NIC with vhost.
"""

import os
import re
import time

TRACING = "/sys/kernel/tracing"
PROBE = "bench_read"
# A line of a thread of vhost, whose name has the process of its QEMU
LINE = re.compile(rf"vhost-(\d+)-\d+ .* (\d+\.\d+): {PROBE}: ")


def write(name, text):
    with open(os.path.join(TRACING, name), "w", encoding="ascii") as file:
        file.write(text)


class Reads:
    """A context in which the kernel notes the reads of vhost"""

    def __enter__(self):
        write("trace_clock", "mono")
        write("kprobe_events", f"r:{PROBE} tun_recvmsg length=$retval:s32")
        write(f"events/kprobes/{PROBE}/filter", "length > 0")
        write(f"events/kprobes/{PROBE}/enable", "1")
        write("trace", "")
        return self

    def __exit__(self, *exc):
        write(f"events/kprobes/{PROBE}/enable", "0")
        write("kprobe_events", "")

    def of(self, pid):
        """Return the times of the reads for a QEMU, by the clock of QEMU's traces."""
        offset = time.time() - time.monotonic()
        with open(os.path.join(TRACING, "trace"), encoding="utf-8",
                  errors="replace") as file:
            return [float(when) + offset for owner, when in LINE.findall(file.read())
                    if int(owner) == pid]
