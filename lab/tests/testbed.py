# SPDX-License-Identifier: GPL-2.0-or-later
"""A TAP, a guest under traffic behind it, and QEMUs that take turns.

The demo and the tests beside it share it. lab/run-on-host runs it, too, without
the kernel's state.
"""

import argparse
import contextlib
import difflib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import qemu_vm
from traffic import Stream, Traffic, TrafficError, link

DEV = "tap0"
HOST, GUEST, PREFIX = "10.0.0.1", "10.0.0.2", 24
GUEST_MAC = "52:54:00:74:61:70"
MEMORY = 128
# Slab caches in which a hand-over could leave an object behind
SLABS = ("sock_inode_cache", "tun_flow_cache", "UNIX", "PING", "RAW", "TCP")
# Batch of the kernel's per-CPU counters, with up to 16 CPUs
FILES_BATCH = 32
# QEMUs whose logs go to $LAB_OUT: a soak test starts a thousand
KEPT_LOGS = 4


class TestbedError(Exception):
    pass


# Exceptions that a test with a Testbed ends with
ERRORS = (TestbedError, TrafficError, *qemu_vm.ERRORS)


def run(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    if result.returncode:
        raise TestbedError(f"'{' '.join(command)}' failed: "
                           f"{result.stderr.strip()}")
    return result.stdout


def open_files():
    """Count the open files of the whole system.

    The kernel counts on each CPU, up or down, and only adds a full batch to the
    sum that it shows: fill this CPU's.
    """
    def shown():
        with open("/proc/sys/fs/file-nr", encoding="ascii") as f:
            return int(f.read().split()[0])

    before = shown()
    with contextlib.ExitStack() as files:
        for count in range(2 * FILES_BATCH):
            if (now := shown()) != before:
                return now - count
            files.enter_context(open(os.devnull, "rb"))
    return before


def kernel_objects():
    """Count files, network devices and slab objects of the lab's kernel.

    Return {name: (number, error)}. On the build machine's kernel, which serves
    others, too, return nothing.
    """
    if os.environ.get("LAB_KERNEL") == "host":
        return {}
    cpus = os.cpu_count()
    objects = {"files": (open_files(), FILES_BATCH * (cpus - 1)),
               "devices": (len(os.listdir("/sys/class/net")), 0)}
    try:
        with open("/proc/slabinfo", encoding="ascii") as f:
            for line in f:
                name, *columns = line.split()
                if name in SLABS:
                    # Objects that a CPU keeps ready count as used.
                    objects[name] = int(columns[0]), int(columns[3]) * cpus
    except (FileNotFoundError, PermissionError):
        pass
    return objects


def kernel_problems(first, last):
    """Yield what the kernel has more of than before."""
    for name, (before, error) in first.items():
        after = last[name][0]
        print(f"# kernel: {before} {name}, then {after}")
        if after > before + 8 + error:
            yield f"the kernel had {before} {name} and has {after}"


def testbed_parser(doc):
    """Return a parser with the options of all programs that use a Testbed."""
    # End in order, as after any other error.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    result = argparse.ArgumentParser(description=doc.split("\n")[0])
    result.add_argument("--rate", type=int, default=100, metavar="N",
                        help="packets per second each way (default 100)")
    result.add_argument("--queues", type=int, default=4, metavar="N")
    result.add_argument("--nic", default="virtio-net-pci")
    result.add_argument("--vhost", action="store_true")
    return result


class Testbed:
    """A context manager: at the end it removes all it made"""

    megabytes = MEMORY

    def __init__(self, args):
        """args: those of testbed_parser"""
        self._temporary = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.directory = directory = self._temporary.name
        self.queues = args.queues
        self.rate = args.rate
        self.vhost = args.vhost
        self.nic = args.nic
        self.memory = os.path.join(directory, "memory")
        self.logs = os.environ.get("LAB_OUT", directory)
        self.count = 0
        self.vms = []
        self.made_tap = False
        self.traffic = self.stream = None
        self.reports_state = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for end in self.stream, self.traffic:
            if end:
                end.close()
        for vm in self.vms:
            vm.kill()
        if self.made_tap:
            subprocess.run(["ip", "link", "del", DEV])
        self._temporary.cleanup()

    def options(self, queues=None):
        options = (f"tap,id=net0,queues={queues or self.queues},vnet_hdr=on,"
                   "local-migration-supported=on")
        return options + ",vhost=on" if self.vhost else options

    def updatable(self, *args):
        """Return a guest for "tapstate update": its sockets are in /dev/shm."""
        return qemu_vm.UpdatableVm(*args, run_dir=self.directory)

    def nic_options(self, netdev):
        """Return the options of a TAP and its NIC."""
        queues = f",mq=on,vectors={2 * self.queues + 2}"
        return ["-netdev", netdev, "-device",
                f"{self.nic},netdev=net0,romfile=,mac={GUEST_MAC}" +
                (queues if "virtio" in self.nic else "")]

    def vm(self, netdev, *more, binary="qemu-system-x86_64", kind=qemu_vm.Vm):
        self.count += 1
        vm = kind(f"qemu{self.count}", [
            "-machine", "pc,memory-backend=mem", "-accel",
            os.environ.get("LAB_GUEST_ACCEL", "tcg"), "-m", f"{self.megabytes}M",
            "-object", f"memory-backend-file,id=mem,size={self.megabytes}M,"
            f"mem-path={self.memory},share=on",
            "-kernel", os.environ["LAB_GUEST_KERNEL"],
            "-initrd", os.environ["LAB_GUEST_INITRD"],
            # A check of the timer fails on a busy machine.
            "-append", "console=ttyS0 quiet panic=-1 no_timer_check "
            f"tapstate.ip={GUEST}/{PREFIX} tapstate.queues={self.queues} "
            f"tapstate.neighbour={HOST}/{link(DEV).mac}",
            # Keep a guest that crashed, for where()
            "-action", "reboot=shutdown,shutdown=pause",
            *self.nic_options(netdev), *more],
            self.logs if self.count <= KEPT_LOGS else self.directory, binary)
        self.vms = [v for v in self.vms if v.is_running()] + [vm]
        return vm.start()

    def target(self, netdev=None, *more):
        """Return a QEMU that waits for a migration, and then for cont."""
        return self.vm(netdev or self.options() + ",incoming-fds=on",
                       "-incoming", "defer", "-S", *more)

    def make_tap(self, *options):
        """Make the TAP; OPTIONS are more options of 'ip tuntap add'."""
        run("ip", "tuntap", "add", "dev", DEV, "mode", "tap", "vnet_hdr",
            *(["multi_queue"] if self.queues > 1 else []), *options)
        self.made_tap = True
        run("ip", "link", "set", DEV, "mtu", "1400")
        run("ip", "addr", "add", f"{HOST}/{PREFIX}", "dev", DEV)
        run("ip", "link", "set", DEV, "up")
        # Resolve the guest now: a packet that waits for ARP could be lost there.
        run("ip", "neigh", "replace", GUEST, "lladdr", GUEST_MAC, "nud",
            "permanent", "dev", DEV)

    def start_guest(self, options="", *more, **kinds):
        """Return a QEMU whose guest is up; OPTIONS go to its netdev."""
        vm = self.vm(self.options() +
                     f",ifname={DEV},script=,downscript={options}", *more,
                     **kinds)
        vm.wait_console("tapstate-agent: ready", 300)
        self.reports_state = subprocess.run(
            ["tapstate", "show", DEV], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL).returncode == 0
        self.traffic = Traffic(HOST, GUEST, self.rate)
        return vm

    def boot(self, **kinds):
        """Return a QEMU whose guest is up and has traffic."""
        self.make_tap()
        vm = self.start_guest(**kinds)
        self.stream = Stream(GUEST)
        self.traffic.start()
        self.stream.start()
        self.progress()
        return vm

    def complain(self, error):
        """Print an error, and the last words of each QEMU, as comments of TAP."""
        lines = str(error).splitlines() or [repr(error)]
        for vm in self.vms:
            lines += vm.last_words()
        for line in lines:
            print(f"# {line}", flush=True)

    def progress(self):
        """Wait until packets have arrived each way."""
        try:
            self.traffic.wait_progress(max(self.rate // 10, 1))
        except TrafficError as error:
            raise TestbedError("\n".join([str(error), *self.where()])) from None

    def where(self):
        """Yield lines that tell where packets got stuck."""
        stats = json.loads(run("ip", "-s", "-j", "link", "show", DEV))[0]
        yield f"{DEV}: {stats['operstate']}, " + ", ".join(
            f"{way} {count['packets']} packets and {count['dropped']} dropped"
            for way, count in stats["stats64"].items())
        try:
            status = self.traffic.agent.ask("status", timeout=5)
            time.sleep(1)
            later = self.traffic.agent.ask("status", timeout=5)
            status["clock after 1 s"] = later["clock"]
        except TrafficError as error:
            status = error
        yield f"the guest's agent: {status}"
        for vm in self.vms:
            if vm.is_running():
                try:
                    yield from self.where_in(vm)
                except qemu_vm.ERRORS as error:
                    yield f"{vm.name}: {error!r}"

    def where_in(self, vm):
        yield from vm.last_words(40)
        words = [vm.cmd("query-status")["status"]]
        for command in "info registers", "info lapic":
            text = vm.cmd("human-monitor-command", command_line=command)
            words += re.findall(r"RIP=\w+|HLT=\d|Timer.*|I[RS]R\t.*", text)
        yield f"{vm.name}: " + ", ".join(" ".join(w.split()) for w in words)
        if "virtio" not in self.nic:
            return
        path = vm.cmd("x-query-virtio")[0]["path"]
        rings = []
        for number in range(2 * self.queues):
            queue = vm.cmd("x-query-virtio-queue-status", path=path,
                           queue=number)
            # Read the guest's memory: QEMU does not know vhost's progress.
            rings.append(" ".join(
                vm.cmd("human-monitor-command",
                       command_line=f"xp /1hd {queue[ring] + 2}").split()[-1]
                for ring in ("vring-avail", "vring-used")))
        yield f"{vm.name}: avail and used: " + ", ".join(rings)

    def check_vhost(self, vm):
        """Check that vhost takes the packets, or does not, as wanted."""
        names = set()
        for task in os.listdir(f"/proc/{vm.get_pid()}/task"):
            with open(f"/proc/{vm.get_pid()}/task/{task}/comm",
                      encoding="ascii") as comm:
                names.add(comm.read().strip())
        if any(name.startswith("vhost-") for name in names) != self.vhost:
            raise TestbedError(
                f"vhost={'on' if self.vhost else 'off'}, and the threads of "
                f"{vm.name} are {sorted(names)}")

    def state(self):
        """Return the state that a hand-over keeps, as the kernel reports it."""
        if not self.reports_state:
            return run("ip", "-d", "link", "show", "dev", DEV) + \
                run("ethtool", "-k", DEV)
        state = json.loads(run("tapstate", "show", "-j", DEV))
        # Packets change these.
        state.pop("flows", None)
        for queue in state["queues"]:
            for volatile in "ring_len", "held_by":
                queue.pop(volatile, None)
        return json.dumps(state, sort_keys=True, indent=1)

    def check_state(self, before, when):
        after = self.state()
        if before != after:
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(),
                                         "before", "after", lineterm="", n=1)
            raise TestbedError("\n".join([f"the state changed {when}:", *lines]))

    def finish(self):
        """End the traffic, print its table, and return the problems."""
        problems = self.stream.finish()
        report = self.traffic.finish()
        for line in report.table().splitlines():
            print("# " + line)
        for number, sent in report.missing:
            print(f"# missing: packet {number}, sent at {sent:.3f}")
        print(f"# TCP: {self.stream.bytes_sent} bytes there and back",
              flush=True)
        return problems + report.problems()
