#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the migration streams of patched, stock and upstream QEMU. Print TAP.

Without the new options patched and stock are the same, byte for byte. With them and
kernel-state=off, the section of a queue is the one that QEMU 11.2 writes and reads.
"""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile

from testbed import run
from tap_output import Tap
from qemu_vm import Vm, set_up_migration

PATCHED, STOCK = "qemu-system-x86_64", "qemu-system-x86_64-stock"
ANALYZE = os.path.join(os.environ["LAB_QEMU_SOURCE"],
                       "scripts/analyze-migration.py")
SEVEN = ["stream.fd", "stream.using_vnet_hdr", "stream.has_ufo", "stream.has_uso",
         "stream.has_tunnel", "stream.enabled", "stream.host_vnet_hdr_len"]
# MIG_RP_MSG_SHUT, the length of its data, and the result of the load
RP_SHUT = struct.pack(">HHI", 1, 4, 0)
# End and footer of a section of RAM, and the header of its next part
RAM_BOUNDARY = re.compile(rb"\0{7}\x10\x7e(....)\x02\1", re.DOTALL)
# NIC models and their numbers of queue pairs
NICS = {"e1000": 1, "virtio-net-pci": 4}


def vm_args(nic, netdev):
    queues = ",mq=on,vectors=10" if nic.startswith("virtio") else ""
    return ["-machine", "pc", "-accel", "tcg", "-m", "16M", "-S",
            # A fixed clock: its value is in the stream of a VM that never ran.
            "-rtc", "base=2026-01-01,clock=vm",
            "-netdev", netdev, "-device", f"{nic},netdev=net0,romfile="
            f"{queues},mac=52:54:00:74:61:70"]


def record(vm, directory, return_path):
    """Return the bytes of a migration to a UNIX socket.

    A source with a return path waits for a message at its end: send it at once. QEMU
    ends a part of RAM after 50 ms, so a busy machine has more of them: join them.
    """
    path = os.path.join(directory, "record")
    data = bytearray()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        vm.cmd("migrate", uri=f"unix:{path}")
        with server.accept()[0] as sock:
            if return_path:
                sock.sendall(RP_SHUT)
            while True:
                part, fds, _, _ = socket.recv_fds(sock, 65536, 16)
                for fd in fds:
                    os.close(fd)
                if not part:
                    break
                data += part
    os.unlink(path)
    return RAM_BOUNDARY.sub(b"", bytes(data))


def description(stream, directory):
    """Return the JSON at the end of a stream, read by QEMU's own tool."""
    path = os.path.join(directory, "stream")
    with open(path, "wb") as f:
        f.write(stream)
    out = subprocess.run([sys.executable, ANALYZE, "-d", "desc", "-f", path],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def stream_of(binary, nic, netdev, directory, local):
    with Vm(binary, vm_args(nic, netdev), directory, binary) as vm:
        vm.start()
        if local:
            set_up_migration(vm)
        return record(vm, directory, local)


def queues_of(stream, directory):
    return [device for device in description(stream, directory)["devices"]
            if device["vmsd_name"] == "net-tap"]


def is_of_upstream(stream, number):
    """Tell if the section of a queue has the bytes that QEMU 11.2 reads.

    No guest runs: the NIC model handles the vnet header, and has detached all queues
    but the first.
    """
    section = re.search(
        rb"\x04(....)\x0enet0/%d/net-tap" % number +  # full section, its name
        struct.pack(">II", 0, 0) +                     # instance, version
        rb" \x01[\0\x01]{3}" +                         # fd, using_vnet_hdr, has_*
        struct.pack(">BI", number == 0, 10) +          # enabled, host_vnet_hdr_len
        rb"\x7e\1", stream, re.DOTALL)                 # footer
    return section is not None


def main():
    tap = Tap()
    run("ip", "tuntap", "add", "dev", "tap4", "mode", "tap", "multi_queue",
        "vnet_hdr")
    run("ip", "tuntap", "add", "dev", "tap1", "mode", "tap", "vnet_hdr")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for nic, queues in NICS.items():
            plain = (f"tap,id=net0,ifname=tap{queues},queues={queues},"
                     "script=,downscript=")
            streams = [stream_of(binary, nic, plain, directory, False)
                       for binary in (STOCK, PATCHED)]
            tap.result(streams[0] == streams[1] and len(streams[0]) > 1000,
                       f"{nic}: without the options the same as stock")
            option = stream_of(PATCHED, nic, plain +
                               ",local-migration-supported=on", directory,
                               False)
            # Compare names, not bytes: an omitted section uses up a number.
            tap.result(len(option) == len(streams[0]) and
                       description(option, directory) ==
                       description(streams[0], directory),
                       f"{nic}: without parameter 'local' the same sections")

        stream = stream_of(
            PATCHED, nic, plain + ",x-permit-local-migration=on,"
            "kernel-state=off", directory, True)
        queues = queues_of(stream, directory)
        names = [[field["name"] for field in queue["fields"]]
                 for queue in queues]
        print(f"# {names}")
        tap.result(names == [SEVEN] * 4 and
                   not any(queue.get("subsections") for queue in queues),
                   "kernel-state=off: the seven fields, and nothing else")
        tap.result(all(is_of_upstream(stream, i) for i in range(4)),
                   "kernel-state=off: the bytes of upstream's section")
    for name in "tap1", "tap4":
        run("ip", "link", "del", name)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
