#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest changes QEMU twice under traffic, and nothing else changes.

Runs in the lab ('make demo'), and is honest: the exit status is 0 only if the
kernel's state of the TAP is the same after each migration as before, and if
every packet arrived once and in order.
"""

import argparse
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

from traffic import Traffic, TrafficError, link
from qemu_vm import QmpError, Vm, VmError, event_time, hand_over

DEV = "tap0"
HOST, GUEST, PREFIX = "10.0.0.1", "10.0.0.2", 24
GUEST_MAC = "52:54:00:74:61:70"
QUEUES = 4
MEMORY = 128

SIOCETHTOOL = 0x8946
ETHTOOL_SMSGLVL = 8
ETHTOOL_GCOALESCE, ETHTOOL_SCOALESCE = 14, 15
TUNSETSNDBUF = 0x400454d4
SYS_pidfd_getfd = 438


class DemoError(Exception):
    pass


class Clock:
    def __init__(self):
        self.start = time.monotonic()

    def say(self, text):
        print(f"[{time.monotonic() - self.start:6.1f} s] {text}", flush=True)


def run(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    if result.returncode:
        raise DemoError(f"'{' '.join(command)}' failed: "
                        f"{result.stderr.strip()}")
    return result.stdout


def ethtool(dev, data):
    """What 'ethtool' would do, which need not be installed"""
    buffer = ctypes.create_string_buffer(data, len(data))
    ifreq = struct.pack("16sP16x", dev.encode(), ctypes.addressof(buffer))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, ifreq)
    return buffer.raw


def set_rx_frames(dev, frames):
    """ethtool -C DEV rx-frames N"""
    coalesce = bytearray(ethtool(dev, struct.pack("=I88x", ETHTOOL_GCOALESCE)))
    struct.pack_into("=I", coalesce, 0, ETHTOOL_SCOALESCE)
    struct.pack_into("=I", coalesce, 8, frames)
    ethtool(dev, bytes(coalesce))


def set_msglvl(dev, level):
    """ethtool -s DEV msglvl N"""
    ethtool(dev, struct.pack("=II", ETHTOOL_SMSGLVL, level))


def set_sndbuf(state, size):
    """TUNSETSNDBUF, through a descriptor of the QEMU that has the device"""
    holder = state["queues"][0]["held_by"][0]
    pidfd = os.pidfd_open(holder["pid"])
    fd = ctypes.CDLL(None, use_errno=True).syscall(
        SYS_pidfd_getfd, pidfd, holder["fd"], 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    fcntl.ioctl(fd, TUNSETSNDBUF, struct.pack("=i", size))
    os.close(fd)
    os.close(pidfd)


def set_up_tap():
    """As an operator would, with what differs from the defaults on purpose:
    what nobody set shows nothing when it comes out the same"""
    run("ip", "link", "set", DEV, "mtu", "1400")
    set_rx_frames(DEV, 8)
    set_msglvl(DEV, 0x4000)
    run("ip", "addr", "add", f"{HOST}/{PREFIX}", "dev", DEV)
    run("ip", "link", "set", DEV, "up")
    # A packet that waits for ARP could be lost for reasons of ARP
    run("ip", "neigh", "replace", GUEST, "lladdr", GUEST_MAC, "nud",
        "permanent", "dev", DEV)


def vm_args(memory, netdev, *more):
    return [
        "-machine", "pc,memory-backend=mem", "-accel",
        os.environ.get("LAB_GUEST_ACCEL", "tcg"), "-m", f"{MEMORY}M",
        "-object", f"memory-backend-file,id=mem,size={MEMORY}M,"
        f"mem-path={memory},share=on",
        "-kernel", os.environ["LAB_GUEST_KERNEL"],
        "-initrd", os.environ["LAB_GUEST_INITRD"],
        "-append", "console=ttyS0 quiet panic=-1 "
        f"tapstate.ip={GUEST}/{PREFIX} tapstate.queues={QUEUES}",
        "-netdev", netdev,
        "-device", "virtio-net-pci,netdev=net0,mq=on,romfile=,"
        f"vectors={2 * QUEUES + 2},mac={GUEST_MAC}", *more]


def source_netdev():
    return (f"tap,id=net0,ifname={DEV},queues={QUEUES},vnet_hdr=on,script=no,"
            "downscript=no,local-migration-supported=on")


def target_netdev():
    return (f"tap,id=net0,queues={QUEUES},vnet_hdr=on,"
            "local-migration-supported=on,incoming-fds=on")


class Demo:
    def __init__(self, directory, rate, meanwhile=None):
        self.clock = Clock()
        self.directory = directory
        self.logs = os.environ.get("LAB_OUT", directory)
        self.memory = os.path.join(directory, "memory")
        self.rate = rate
        self.meanwhile = meanwhile
        self.problems = []
        self.moments = []
        self.vms = []
        self.made_tap = False

    def say(self, text):
        self.clock.say(text)

    def vm(self, name, netdev, *more):
        vm = Vm(name, vm_args(self.memory, netdev, *more), log_dir=self.logs)
        self.vms.append(vm)
        return vm.start()

    def state(self, name):
        text = run("tapstate", "show", "-j", DEV)
        path = os.path.join(self.logs, f"{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path, json.loads(text)

    def compare(self, before, after):
        result = subprocess.run(
            ["tapstate", "diff", "--device", before, after],
            stdout=subprocess.PIPE, text=True)
        if result.returncode > 1:
            raise DemoError("tapstate diff failed")
        print("\n".join("    " + line for line in
                        result.stdout.splitlines()), flush=True)
        if result.returncode:
            self.problems.append(
                f"the state changed: {os.path.basename(before)}, "
                f"{os.path.basename(after)}")

    def check_holders(self, vm):
        """That the state was read through the QEMU it is to be about"""
        _, state = self.state(f"held-by-{vm.name}")
        holders = [[h["pid"] for h in q["held_by"]] for q in state["queues"]]
        if holders != [[vm.pid]] * QUEUES:
            self.problems.append(f"{vm.name} does not hold every queue alone: "
                                 f"{holders}, it is {vm.pid}")

    def hop(self, number, source, traffic):
        target = self.vm(f"qemu{number + 1}", target_netdev(), "-incoming",
                         "defer", "-S")
        self.say(f"started {target.name} (pid {target.pid}) with "
                 f"-incoming defer and incoming-fds=on")

        before, _ = self.state(f"hop{number}-before")
        self.say(f"migration {number}: {source.name} -> {target.name}")
        hand_over(source, target,
                  os.path.join(self.directory, f"migrate{number}"))
        if self.meanwhile and number == 1:
            subprocess.run(self.meanwhile, shell=True, check=False)
        target.cmd("cont")
        stop = source.event("STOP")
        resume = target.event("RESUME")
        downtime = event_time(resume) - event_time(stop)
        for event, vm in (stop, source), (resume, target):
            self.moments.append((event_time(event),
                                 f"{event['event']} of {vm.name}"))
        source.quit()
        self.say(f"migrated; {source.name} has quit; the guest was stopped "
                 f"for {downtime * 1000:.0f} ms")

        traffic.wait_progress(2 * self.rate)
        self.check_holders(target)
        after, _ = self.state(f"hop{number}-after")
        self.say(f"kernel state of {DEV} before and after migration {number}:")
        self.compare(before, after)
        return target

    def check_queues(self, report):
        """Traffic that avoided a queue proved nothing about it"""
        for way, counts in (("rx", report.rx_queues), ("tx", report.tx_queues)):
            print(f"    interrupts of the guest's {way} queues:",
                  *counts, flush=True)
            if len(counts) != QUEUES or not all(counts):
                self.problems.append(f"not every {way} queue had traffic")

    def explain_missing(self, report):
        for number, when in report.missing:
            near = min(self.moments, key=lambda m: abs(m[0] - when))
            self.problems.append(
                f"packet {number} to the guest is missing; it was sent "
                f"{(when - near[0]) * 1000:+.0f} ms from {near[1]}")
        if self.problems and report.device_drops:
            self.problems.append("the guest's eth0 dropped "
                                 f"{report.device_drops} packets itself")

    def explain_drops(self):
        """Losses have a cause outside of QEMU if the device counts them. What
        it received and dropped is not among them: nobody on the host listens
        to the RARP by which QEMU announces the guest."""
        dropped = link(DEV).tx_dropped - self.dropped
        if self.problems and dropped:
            self.problems.append(f"{DEV} dropped {dropped} packets on their "
                                 "way to the guest itself")

    def run(self):
        self.say(f"making {DEV}, {QUEUES} queues, with an owner, an MTU, and "
                 "more that is not the default")
        run("ip", "tuntap", "add", "dev", DEV, "mode", "tap", "multi_queue",
            "vnet_hdr", "user", "65534", "group", "65534")
        self.made_tap = True
        set_up_tap()
        vm = self.vm("qemu1", source_netdev())
        self.say(f"started {vm.name} (pid {vm.pid}), the guest boots")
        vm.wait_console("tapstate-agent: ready", 300)
        set_sndbuf(self.state("booted")[1], 1 << 20)

        traffic = Traffic(HOST, GUEST, link(DEV).mac, self.rate)
        try:
            traffic.start()
            self.say(f"the guest is up; {self.rate} numbered UDP packets per "
                     f"second each way, in {traffic.flows} flows each way, "
                     "and a ping")
            self.dropped = link(DEV).tx_dropped
            traffic.wait_progress(2 * self.rate)

            vm = self.hop(1, vm, traffic)
            vm = self.hop(2, vm, traffic)

            self.say("stopping the traffic, letting everything arrive")
            report = traffic.finish()
        finally:
            traffic.close()
        self.say("packets:")
        print("\n".join("    " + line for line in
                        report.table().splitlines()), flush=True)
        self.problems += report.problems()
        self.check_queues(report)
        self.explain_missing(report)
        self.explain_drops()
        vm.quit()
        return report

    def close(self):
        for vm in self.vms:
            vm.close()
        if self.made_tap:
            subprocess.run(["ip", "link", "del", DEV])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=int, default=100, metavar="N",
                        help="packets per second each way (default 100)")
    parser.add_argument("--meanwhile", metavar="COMMAND",
                        help="run it while the guest is stopped for the first "
                        "migration, to see that the demo notices")
    args = parser.parse_args()

    for variable in "LAB_GUEST_KERNEL", "LAB_GUEST_INITRD":
        if variable not in os.environ:
            sys.exit(f"demo: {variable} is not set: this runs in the lab, as "
                     "'make demo'")
    # So that the end is as clean as after any other error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="demo-") as shm:
        demo = Demo(shm, args.rate, args.meanwhile)
        try:
            report = demo.run()
        except (DemoError, VmError, QmpError, TrafficError, OSError) as error:
            print(f"demo: failed: {error}", flush=True)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            demo.close()

    if demo.problems:
        for problem in demo.problems:
            print(f"demo: {problem}", flush=True)
        print("demo: failed", flush=True)
        sys.exit(1)
    longest = max(report.to_guest.gap, report.to_host.gap)
    print("demo: 2 migrations, state exact, "
          f"{report.to_guest.sent} packets each way, 0 lost, 0 duplicated, "
          f"0 reordered, longest gap {longest * 1000:.0f} ms")


if __name__ == "__main__":
    main()
