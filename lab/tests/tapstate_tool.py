#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the tapstate command and the library's examples on real devices.

Run it in the lab VM. With --stock as the first argument it expects a tun driver
without TUNGETSTATE.
"""

import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import pycotap

TOOL = "build/bin/tapstate"
TOOLS = "build/tools/tools/tapstate"
SCHEMA = "tools/tapstate/lib/tapstate-2.schema.json"
STOCK = "--stock" in sys.argv[1:2]

TUNSETIFF, TUNSETQUEUE, TUNGETIFF = 0x400454ca, 0x400454d9, 0x800454d2
TUNSETPERSIST, TUNSETOWNER = 0x400454cb, 0x400454cc
TUNSETOFFLOAD, TUNSETSNDBUF = 0x400454d0, 0x400454d4
TUNATTACHFILTER, TUNSETVNETHDRSZ = 0x401054d5, 0x400454d8
TUNSETTXFILTER, TUNSETSTEERINGEBPF = 0x400454d1, 0x800454e0
TUN, TAP, NO_PI, MULTI, VNET = 1, 2, 0x1000, 0x100, 0x4000
ATTACH, DETACH = 0x200, 0x400
NOBODY = 65534
BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_XDP = 1, 6

# As qemu-bridge-helper: pass a queue through the socket in --fd
HELPER = """\
#!/usr/bin/env python3
import socket, sys
sys.path.insert(0, "lab/tests")
import tapstate_tool
fd = int(next(a for a in sys.argv if a.startswith("--fd="))[5:])
queue = tapstate_tool.open_queue("{device}", tapstate_tool.TAP
                                 | tapstate_tool.NO_PI | tapstate_tool.VNET)
socket.send_fds(socket.socket(fileno=fd), [b" "], [queue])
"""


def ifreq(name, flags):
    return struct.pack("16sH22x", os.fsencode(name), flags)


def open_queue(name, flags=TAP | NO_PI | MULTI | VNET):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, ifreq(name, flags))
    return fd


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.PIPE)


def tool(*args, **options):
    options.setdefault("timeout", 120)
    return subprocess.run([TOOL, *args], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False,
                          errors="surrogateescape", **options)


def valid(schema, value):
    """Return the reason why a value does not match, or None.

    This is the part of JSON schema that the schema of the state uses.
    """
    types = {"object": dict, "array": list, "string": str, "integer": int,
             "boolean": bool, "null": type(None)}
    if "oneOf" in schema:
        reasons = [valid(s, value) for s in schema["oneOf"]]
        return None if reasons.count(None) == 1 else str(reasons)
    if "const" in schema:
        return None if schema["const"] == value else f"{value}"
    if type(value) is not types[schema["type"]]:
        return f"{value} is no {schema['type']}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""),
                                                value):
        return f"{value} does not match {schema['pattern']}"
    if isinstance(value, int) and not isinstance(value, bool) and not (
            schema.get("minimum", value) <= value
            <= schema.get("maximum", value)):
        return f"{value} is out of range"
    parts = []
    if isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            return "too many"
        parts = [(schema["items"], v) for v in value]
    if isinstance(value, dict):
        unknown = value.keys() - schema["properties"].keys()
        missing = set(schema["required"]) - value.keys()
        if unknown or missing:
            return f"unknown {unknown}, missing {missing}"
        parts = [(schema["properties"][k], v) for k, v in value.items()]
    return next(filter(None, (valid(*p) for p in parts)), None)


class ToolTest(unittest.TestCase):
    """Devices t0 (two queues) and others, open in this process"""

    maxDiff = None

    def setUp(self):
        self.fds = []
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.addCleanup(self.close)

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def open(self, *args):
        fd = open_queue(*args)
        self.fds.append(fd)
        return fd

    def ok(self, *args, status=0, **options):
        result = tool(*args, **options)
        self.assertEqual(result.stderr, "")
        self.assertEqual(result.returncode, status, result.stdout)
        return result.stdout

    def fails(self, message, *args, **options):
        result = tool(*args, **options)
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertRegex(result.stderr, message)
        self.assertTrue(result.stderr.startswith("tapstate: "))
        return result.stderr

    def one_line(self, message, *args, **options):
        self.assertEqual(self.fails(message, *args, **options).count("\n"), 1)

    def state(self, device):
        return json.loads(self.ok("show", "-j", device))

    def listed(self, device):
        return [q for q in json.loads(self.ok("list", "-j"))
                if q["device"] == device]


@unittest.skipIf(STOCK, "needs TUNGETSTATE")
class ListTest(ToolTest):
    def test_tap(self):
        first, second = self.open("t0"), self.open("t0")
        fcntl.ioctl(first, TUNSETQUEUE, ifreq("", DETACH))
        with open("/proc/self/comm", encoding="ascii") as f:
            comm = f.read().strip()
        index = socket.if_nametoindex("t0")
        netns = os.stat("/proc/self/ns/net").st_ino
        common = {"device": "t0", "type": "tap", "ifindex": index,
                  "netns": netns, "pid": os.getpid(), "comm": comm,
                  "patched": True, "netdev": None, "queue": 0}
        self.assertEqual(self.listed("t0"),
                         [{**common, "fd": second, "attached": True},
                          {**common, "fd": first, "attached": False}])

    def test_text(self):
        fd = self.open("t1", TUN | NO_PI)
        self.assertRegex(
            self.ok("list"),
            rf"(?m)^t1 +tun +0 +attached +\S+ +{os.getpid()} +{fd} +\d+ +yes"
            r" +-$")

    def test_unattached_and_other_files(self):
        self.fds.append(os.open("/dev/net/tun", os.O_RDWR))
        self.fds.append(os.open("/dev/null", os.O_RDWR))
        self.assertFalse([q for q in json.loads(self.ok("list", "-j"))
                          if q["pid"] == os.getpid()])

    def test_netns(self):
        code = ("import os,sys; sys.path.insert(0, 'lab/tests');"
                "import tapstate_tool as t; fd = t.open_queue('t2');"
                "print(fd, flush=True); sys.stdin.read()")
        with subprocess.Popen(["unshare", "-n", "python3", "-c", code],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as other:
            fd = int(other.stdout.readline())
            queue, = self.listed("t2")
            self.assertEqual((queue["pid"], queue["fd"]), (other.pid, fd))
            self.assertNotEqual(queue["netns"],
                                os.stat("/proc/self/ns/net").st_ino)
            self.one_line("no device 't2' in this network", "show", "t2")
            self.open("t2", TAP | NO_PI)
            os.close(self.fds.pop())
            run("ip", "tuntap", "add", "t2", "mode", "tap")
            self.one_line(rf"nsenter -n -t {other.pid} tapstate show t2",
                          "show", "t2")
            run("ip", "link", "del", "t2")
            state = json.loads(self.ok("show", "-j", "--pid", str(other.pid)))
            self.assertEqual(state["netdev"]["name"], "t2")
            other.stdin.close()

    def as_nobody(self, *args):
        copy = self.path("tapstate")
        os.chmod(self.directory.name, 0o755)
        run("cp", TOOL, copy)
        return subprocess.run([copy, *args], user=NOBODY, group=NOBODY,
                              extra_groups=[], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False)

    def test_no_rights(self):
        self.open("t3")
        result = self.as_nobody("list")
        self.assertEqual(result.returncode, 0)
        self.assertNotIn("t3", result.stdout)
        self.assertIn("CAP_SYS_PTRACE", result.stderr)
        result = self.as_nobody("show", "t3")
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr, "closed to you; .*CAP_SYS_PTRACE\n$")

    def test_no_right_to_borrow(self):
        """Yama lets a user look at the descriptors of a process, not more."""
        fd = self.open("t4")
        run("sysctl", "-q", "kernel.yama.ptrace_scope=1")
        self.addCleanup(run, "sysctl", "-q", "kernel.yama.ptrace_scope=0")
        with subprocess.Popen(["sleep", "600"], user=NOBODY, group=NOBODY,
                              extra_groups=[], pass_fds=[fd]) as holder:
            try:
                queue, = json.loads(self.as_nobody("list", "-j").stdout)
                self.assertEqual(queue, {
                    "device": "t4", "type": None, "ifindex": None,
                    "netns": None, "queue": None, "attached": None,
                    "pid": holder.pid, "fd": fd, "comm": "sleep",
                    "patched": None, "netdev": None})
                result = self.as_nobody("show", "t4")
                self.assertEqual(result.returncode, 2)
                self.assertRegex(
                    result.stderr, f"not permitted to use file descriptor {fd}"
                    f" of process {holder.pid}; .*CAP_SYS_PTRACE\n$")
            finally:
                holder.kill()

    def test_macvtap(self):
        run("modprobe", "macvtap")
        run("ip", "link", "add", "d0", "type", "dummy")
        self.addCleanup(run, "ip", "link", "del", "d0")
        run("ip", "link", "add", "link", "d0", "name", "m0", "type",
            "macvtap")
        node = f"/dev/tap{socket.if_nametoindex('m0')}"
        self.fds.append(os.open(node, os.O_RDWR))
        queue, = self.listed("m0")
        self.assertEqual((queue["type"], queue["fd"], queue["patched"]),
                         ("macvtap", self.fds[0], True))
        state = self.state("m0")
        self.assertNotIn("owner", state)
        self.assertNotIn("vnet", state)
        self.assertIn("vnet", state["queues"][0])
        with open(SCHEMA, encoding="utf-8") as f:
            self.assertIsNone(valid(json.load(f), state))
        saved = self.path("m0.json")
        self.ok("save", "m0", "-o", saved)
        fcntl.ioctl(self.fds[0], TUNSETVNETHDRSZ, struct.pack("i", 20))
        self.assertIn("queues.0.vnet.hdr_size", self.ok(
            "diff", saved, "m0", status=1))
        self.ok("restore", saved, "m0")
        self.ok("diff", saved, "m0")
        self.one_line("macvtap or ipvtap; make it with 'ip link",
                      "restore", "--create", saved, "m1")

    def test_odd_names(self):
        for name, shown in (b"a\xff\x01", r"a\xff\x01"), (b'a"\\', 'a"\\x5c'):
            fd = os.open("/dev/net/tun", os.O_RDWR)
            self.fds.append(fd)
            fcntl.ioctl(fd, TUNSETIFF,
                        struct.pack("16sH22x", name, TAP | NO_PI))
            self.assertEqual(len(self.listed(shown)), 1)
            saved = self.path("odd.json")
            self.ok("save", os.fsdecode(name), "-o", saved)
            self.ok("diff", saved, f"{os.getpid()}:{fd}")

    def wait_for_qmp(self, sock, qemu):
        """Wait until QEMU greets: it binds its socket long before."""
        deadline = time.monotonic() + 60
        while True:
            self.assertIsNone(qemu.poll())
            self.assertLess(time.monotonic(), deadline)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                try:
                    client.connect(sock)
                except (FileNotFoundError, ConnectionRefusedError):
                    time.sleep(0.1)
                    continue
                self.assertIn(b"QMP", client.recv(100))
                return

    def test_qmp(self):
        run("modprobe", "vhost_net")
        sock = self.path("qmp")
        with subprocess.Popen(
                ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none",
                 "-qmp", f"unix:{sock},server=on,wait=off",
                 "-netdev", "tap,id=hn0,ifname=q0,script=no,downscript=no,"
                 "queues=4,vhost=on", "-device",
                 "virtio-net-pci,netdev=hn0,mq=on",
                 "-netdev", "tap,id=hn1,ifname=q1,script=no,downscript=no",
                 "-device", "e1000e,netdev=hn1"]) as qemu:
            try:
                self.wait_for_qmp(sock, qemu)
                text = self.ok("list", "-j", "--qmp", sock)
                ids = [(q["device"], q["netdev"], q["pid"])
                       for q in json.loads(text)]
                self.assertEqual(ids, [("q0", "hn0", qemu.pid)] * 4 +
                                 [("q1", "hn1", qemu.pid)])
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(sock)
                    client.recv(100)
                    self.one_line("another client may be connected", "list",
                                  "--qmp", sock)
                self.one_line("several devices open; choose one", "show",
                              "--pid", str(qemu.pid))
                self.assertRegex(self.ok("show", "q0"), r"qemu-system-x86\[")
            finally:
                qemu.send_signal(signal.SIGTERM)

    def netdevs(self, binary, *options, pass_fds=()):
        """Pairs of device and netdev that list reports for a QEMU."""
        sock = self.path("qmp")
        with subprocess.Popen(
                [binary, "-S", "-nodefaults", "-display", "none",
                 "-qmp", f"unix:{sock},server=on,wait=off", *options],
                pass_fds=pass_fds) as qemu:
            try:
                self.wait_for_qmp(sock, qemu)
                return {(q["device"], q["netdev"])
                        for q in json.loads(self.ok("list", "-j", "--qmp",
                                                    sock))
                        if q["pid"] == qemu.pid}
            finally:
                qemu.terminate()

    def helper(self, device):
        """Options of a netdev whose device QEMU does not name."""
        path = self.path(f"helper-{device}")
        with open(path, "w", encoding="utf-8") as f:
            f.write(HELPER.format(device=device))
        os.chmod(path, 0o755)
        return f"tap,id=hn-{device},helper={path}"

    def test_qmp_without_ifname(self):
        fd = self.open("q0", TAP | NO_PI)
        named = ["-netdev", "tap,id=hn1,ifname=q1,script=no,downscript=no",
                 "-netdev", f"tap,id=hn0,fd={fd}"]
        for binary in "qemu-system-x86_64", "qemu-system-x86_64-stock":
            self.assertEqual(
                self.netdevs(binary, *named, "-netdev", self.helper("q2"),
                             pass_fds=[fd]),
                {("q0", "hn0"), ("q1", "hn1"), ("q2", "hn-q2")})
            # Two that QEMU does not name: better no id than a wrong one
            self.assertEqual(
                self.netdevs(binary, "-netdev", self.helper("q2"), "-netdev",
                             self.helper("q3")),
                {("q2", None), ("q3", None)})
        # query-tap-state names these
        option = ",local-migration-supported=on"
        self.assertEqual(
            self.netdevs("qemu-system-x86_64",
                         "-netdev", self.helper("q2") + option,
                         "-netdev", self.helper("q3") + option),
            {("q2", "hn-q2"), ("q3", "hn-q3")})

    def test_qmp_queue_is_full(self):
        path = self.path("socket")
        with socket.socket(socket.AF_UNIX) as server, \
                socket.socket(socket.AF_UNIX) as client:
            server.bind(path)
            server.listen(0)
            client.connect(path)
            self.one_line("another client may be connected", "list", "--qmp",
                          path)

    def test_not_qmp(self):
        path = self.path("socket")
        self.one_line("No such file.*; use the socket of QEMU's option -qmp",
                      "list", "--qmp", path)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            pid = os.fork()
            if not pid:
                connection, _ = server.accept()
                connection.send(b'{"greeting": 1}\n')
                connection.recv(100)
                os._exit(0)
            self.one_line("not a QMP server", "list", "--qmp", path)
            os.waitpid(pid, 0)

    def served(self, name, data, pause):
        """Path of a socket that sends data for ever to its first client."""
        path = self.path(name)
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(path)
        server.listen()
        pid = os.fork()
        if not pid:
            try:
                connection, _ = server.accept()
                while True:
                    connection.sendall(data)
                    time.sleep(pause)
            finally:
                os._exit(0)
        self.addCleanup(os.waitpid, pid, 0)
        return path

    def test_qmp_without_end(self):
        """Neither all memory nor all time is for one socket."""
        self.one_line("not a QMP server", "list", "--qmp",
                      self.served("line", b"a" * 65536, 0))
        for pause in 0, 1:
            self.one_line("no answer of a QMP server", "list", "--qmp",
                          self.served(f"events-{pause}", b'{"event": 1}\n',
                                      pause))


@unittest.skipIf(STOCK, "needs TUNGETSTATE")
class ShowTest(ToolTest):
    def test_schema(self):
        fd = self.open("t0")
        self.filter(fd)
        with open(SCHEMA, encoding="utf-8") as f:
            self.assertIsNone(valid(json.load(f), self.state("t0")))

    def filter(self, fd):
        insns = b"".join(struct.pack("HBBI", *i) for i in (
            (0x28, 0, 0, 12), (0x15, 0, 1, 0x800), (6, 0, 0, 65535),
            (6, 0, 0, 0)))
        self.buffer = bytearray(insns)
        address = (struct.pack("H6xP", 4, self.address(self.buffer)))
        fcntl.ioctl(fd, TUNATTACHFILTER, address)

    @staticmethod
    def address(buffer):
        return ctypes.addressof(ctypes.c_char.from_buffer(buffer))

    def test_text(self):
        fd = self.open("t0")
        self.filter(fd)
        text = self.ok("show", "t0")
        self.assertRegex(text, r"(?m)^netdev +name +t0$")
        self.assertRegex(text, r"(?m)^ +mtu +1500 bytes$")
        self.assertRegex(text, r"(?m)^iff +flags +tap multi_queue no_pi")
        self.assertIn("(001) jeq      #0x800           jt 2\tjf 3\n", text)
        self.assertRegex(text, rf"(?m)\[{os.getpid()}\]:{fd}$")

    def test_pid(self):
        fd = self.open("t0")
        pid = str(os.getpid())
        text = self.ok("show", "-j", "--pid", pid)
        self.assertEqual(text, self.ok("show", "-j", "--pid", pid, "--fd",
                                       str(fd)))
        self.open("t1")
        self.one_line("several devices", "show", "--pid", pid)

    def test_usage(self):
        usage = r"\nusage: tapstate show \[-j"
        for message, *args in (
                ("--pid needs the number", "--pid", "0"),
                ("--pid needs the number", "--pid", "-5"),
                ("--fd needs a descriptor", "--fd", "3"),
                ("--fd needs a descriptor", "--pid", "1", "--fd", "-1"),
                ("Unknown option --nosuch", "--nosuch"),
                ("name one device", "t0", "t1")):
            self.fails(message + ".*" + usage, "show", *args)

    def test_output_is_full(self):
        self.open("t0")
        for args in ["show", "t0"], ["show", "-w", "t0"], ["list"], ["--help"]:
            with open("/dev/full", "w", encoding="ascii") as full:
                result = subprocess.run(
                    [TOOL, *args], stdout=full, stderr=subprocess.PIPE,
                    text=True, check=False, timeout=120)
            self.assertEqual(result.returncode, 2, args)
            self.assertEqual(result.stderr, "tapstate: standard output: "
                             "No space left on device\n")

    def test_watch(self):
        fd = self.open("t0")
        with subprocess.Popen([TOOL, "show", "--watch", "t0"], text=True,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as watch:
            for line in watch.stdout:
                if line.startswith("queue "):
                    watch.stdout.readline()
                    break
            fcntl.ioctl(fd, TUNSETOWNER, 1234)
            self.assertRegex(watch.stdout.readline(),
                             r"^\d\d:\d\d:\d\d owner.uid none -> 1234$")
            self.close()
            # The command holds no queue, so the device is gone
            deadline = time.monotonic() + 30
            while os.path.exists("/sys/class/net/t0"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.1)
            self.assertEqual(watch.wait(60), 2)
            self.assertRegex(watch.stderr.read(), "no device 't0'")

    def test_errors(self):
        for args, message in (
                (["show", "nosuch"], "no device 'nosuch' .*; see 'ip link'"),
                (["show", "lo"], "not a tun/tap device; see 'ip tuntap'"),
                (["show", "0123456789abcdef"], "1 to 15 bytes"),
                (["show", ""], "1 to 15 bytes"),
                (["show", "--pid", "4194999", "--fd", "3"], "No such process"),
                (["show", "--pid", "4194999"], "No such process"),
                (["show", "--pid", str(os.getpid()), "--fd", "999"],
                 "no file descriptor 999; see /proc"),
                (["show", "--pid", str(os.getpid()), "--fd", "0"],
                 "not a tun/tap queue|lacks TUNGETSTATE|TUNGETSTATE failed"),
                (["nosuch"], "no command 'nosuch'")):
            self.one_line(message, *args)
        for args in (["show"], ["show", "-x"], ["show", "--fd", "3", "a"],
                     [], ["diff", "a"], ["list", "a"], ["save", "a"],
                     ["restore", "a"]):
            self.fails("\nusage: tapstate ", *args)

    def test_nobody_has_it(self):
        run("ip", "tuntap", "add", "t9", "mode", "tap")
        self.addCleanup(run, "ip", "link", "del", "t9")
        self.one_line("no process has it open", "show", "t9")

    def test_help(self):
        for args in [], ["list"], ["show"], ["diff"], ["save"], ["restore"]:
            text = self.ok(*args, "--help")
            self.assertEqual(text.strip().splitlines()[-1],
                             "See tapstate(8).")

    def test_256_queues(self):
        for _ in range(256):
            self.open("t0")
        state = self.state("t0")
        self.assertEqual(len(state["queues"]), 256)
        self.assertEqual({len(q["held_by"]) for q in state["queues"]}, {1})

    def syscalls(self, *args):
        trace = self.path("trace")
        run("strace", "-f", "-o", trace, TOOL, *args)
        with open(trace, encoding="utf-8", errors="replace") as f:
            return sum(1 for _ in f)

    def test_syscalls_of_a_queue(self):
        """Each further queue or device costs a few calls, and no more."""
        for command in ["show", "t0"], ["list"]:
            counts = []
            for n in 1, 50, 99:
                while len(self.fds) < n:
                    self.open("t0")
                counts.append(self.syscalls(*command))
            self.close()
            first, second = (b - a for a, b in zip(counts, counts[1:]))
            self.assertLess(second, 49 * 8, command)
            self.assertLess(abs(second - first), 49 * 2, command)


@unittest.skipIf(STOCK, "needs TUNGETSTATE")
class DiffTest(ToolTest):
    def test_sources(self):
        fd = self.open("t0")
        source = f"{os.getpid()}:{fd}"
        saved = self.path("t0.json")
        self.ok("save", "t0", "-o", saved)
        for a in "t0", source, saved:
            for b in "t0", source, saved:
                self.assertRegex(self.ok("diff", a, b),
                                 r"^\d+ fields equal, 0 differ\n$")
        fcntl.ioctl(fd, TUNSETOWNER, 77)
        run("ip", "link", "set", "t0", "mtu", "1400")
        self.assertRegex(
            self.ok("diff", saved, source, status=1),
            r"^netdev.mtu +1500 +!= +1400 +\(device\)\n"
            r"owner.uid +none +!= +77\n\d+ fields equal, 1 differ\n$")
        self.assertRegex(self.ok("diff", "-d", saved, "t0", status=1),
                         "2 differ\n$")
        self.assertRegex(self.ok("diff", "-a", saved, "t0", status=1),
                         "(?m)^owner.gid +none +=  +none$")

    def test_errors(self):
        self.open("t0")
        bad = self.path("bad")
        with open(bad, "w", encoding="ascii") as f:
            f.write("{}")
        self.one_line("bad: not the state of a device", "diff", "t0", bad)
        self.one_line("no device 'none' in this network namespace, and no "
                      "file", "diff", "none", "t0")
        self.one_line("no device 'before-update.json'.* and no file", "diff",
                      "t0", "before-update.json")
        self.one_line(r"a\\x0ab: No such file", "diff", "t0",
                      self.path("a\nb"))
        self.one_line("/dev/zero: too large", "diff", "t0", "/dev/zero")
        self.one_line("No such file", "diff", "t0", self.path("none"))


@unittest.skipIf(STOCK, "needs TUNGETSTATE")
class RestoreTest(ToolTest):
    def prepare(self):
        """Return the file of a device with two queues and other values."""
        fds = [self.open("t0") for _ in range(3)]
        fcntl.ioctl(fds[1], TUNSETQUEUE, ifreq("", DETACH))
        fcntl.ioctl(fds[0], TUNSETVNETHDRSZ, struct.pack("i", 12))
        fcntl.ioctl(fds[0], TUNSETSNDBUF, struct.pack("i", 99999))
        fcntl.ioctl(fds[0], TUNSETOFFLOAD, 1 | 2)
        fcntl.ioctl(fds[0], TUNSETTXFILTER, bytearray(
            struct.pack("HH6s", 0, 1, b"\x52\x54\0\0\0\1")))
        fcntl.ioctl(fds[0], TUNSETOWNER, 55)
        run("ip", "link", "set", "t0", "mtu", "1300", "txqueuelen", "70",
            "address", "52:54:00:00:00:01", "up")
        run("ethtool", "-C", "t0", "rx-frames", "8")
        saved = self.path("t0.json")
        self.ok("save", "t0", "-o", saved)
        self.assertEqual(os.stat(saved).st_mode & 0o777, 0o600)
        return fds, saved

    def change(self, fds):
        fcntl.ioctl(fds[1], TUNSETQUEUE, ifreq("", ATTACH))
        fcntl.ioctl(fds[0], TUNSETQUEUE, ifreq("", DETACH))
        fcntl.ioctl(fds[0], TUNSETVNETHDRSZ, struct.pack("i", 20))
        fcntl.ioctl(fds[2], TUNSETSNDBUF, struct.pack("i", 4096))
        fcntl.ioctl(fds[0], TUNSETOFFLOAD, 0)
        fcntl.ioctl(fds[0], TUNSETTXFILTER, bytearray(12))
        fcntl.ioctl(fds[0], TUNSETOWNER, 66)

    def test_same_device(self):
        fds, saved = self.prepare()
        self.change(fds)
        check = self.ok("restore", saved, "t0", "--check")
        self.assertRegex(check, "(?m)^would set +owner.uid +66 +-> +55$")
        self.assertRegex(check, "(?m)^would set +vnet.hdr_size +20 +-> +12$")
        self.assertRegex(self.ok("diff", saved, "t0", status=1), "owner.uid")
        self.assertEqual(self.ok("restore", saved, "t0"), "")
        self.ok("diff", "-d", saved, "t0")
        # By its holders each queue is where it was, not just any
        queues = self.state("t0")["queues"]
        self.assertEqual([q["held_by"][0]["fd"] for q in queues],
                         [fds[0], fds[2], fds[1]])

    def test_groups(self):
        fds, saved = self.prepare()
        self.change(fds)
        self.assertEqual(self.ok("restore", saved, "t0", "--groups",
                                 "vnet,offload"), "")
        state = self.state("t0")
        self.assertEqual(state["vnet"]["hdr_size"], 12)
        self.assertEqual(state["offload"]["enabled"], ["csum", "tso4"])
        self.assertEqual(state["owner"]["uid"], 66)
        self.one_line("no group 'vnets'", "restore", saved, "t0", "--groups",
                      "vnets")
        self.one_line("never sets the group 'netdev'", "restore", saved, "t0",
                      "--groups", "netdev")
        self.one_line("--groups names no group", "restore", saved, "t0",
                      "--groups", "")

    def test_report_only(self):
        _, saved = self.prepare()
        run("ip", "link", "set", "t0", "mtu", "1301")
        run("ethtool", "-C", "t0", "rx-frames", "9")
        text = self.ok("restore", saved, "t0")
        self.assertRegex(text, r"(?m)^not restored +netdev.mtu +1300 +!= +1301"
                               " +set it with 'ip link'$")
        self.assertRegex(text, r"(?m)^not restored +coalesce.rx_frames +8 +!= "
                               "+9 +set it with 'ethtool -C'$")
        self.assertEqual(self.ok("restore", saved, "t0", "--check"), text)

    def test_create(self):
        _, saved = self.prepare()
        self.one_line("t0: .*there is a device of that name", "restore",
                      "--create", saved, "t0")
        text = self.ok("restore", "--create", saved, "t7")
        self.addCleanup(run, "ip", "link", "del", "t7")
        self.assertNotIn("not restored", text)
        self.open("t7")
        state, old = self.state("t7"), self.state("t0")
        for group in "owner", "vnet", "offload", "txfilter", "coalesce":
            self.assertEqual(state[group], old[group], group)
        self.assertEqual(state["netdev"], {**old["netdev"], "name": "t7"})
        self.assertEqual(state["queues"][0]["ring_size"], 70)
        self.assertIn("persist", state["iff"]["flags"])

    def test_check_create(self):
        """Nothing is made here, not even for a moment."""
        _, saved = self.prepare()
        self.open("t5")
        before = socket.if_nametoindex("t5")
        self.assertEqual(
            self.ok("restore", "--check", "--create", saved, "t7"),
            "would make the device, with 3 queues\n")
        with open(saved, encoding="utf-8") as f:
            good = json.load(f)
        bad = self.path("bad.json")

        def edit(**groups):
            with open(bad, "w", encoding="utf-8") as f:
                json.dump({**good, **groups}, f)

        edit(steering={"id": 999999, "type": "socket_filter",
                       "tag": "0123456789abcdef"}, netdev={
                           **good["netdev"], "mtu": 7})
        self.assertRegex(
            self.ok("restore", "--check", "--create", bad, "t7", status=1),
            r"(?m)^not restored: steering: no access[^\n]*\n"
            r"not restored: netdev: Invalid argument; set it with 'ip link'\n"
            "would make the device, with 3 queues$")
        edit(vnet={**good["vnet"], "hdr_size": 3})
        self.one_line("queue 0, vnet: Invalid", "restore", "--check",
                      "--create", bad, "t7")
        self.one_line("there is a device 't0': check it without --create",
                      "restore", "--check", "--create", saved, "t0")
        self.open("t6")
        self.assertEqual(socket.if_nametoindex("t6"), before + 1)

    def test_cannot(self):
        fds, saved = self.prepare()
        with open(saved, encoding="utf-8") as f:
            good = json.load(f)

        def edited(**groups):
            path = self.path("edited.json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump({**good, **groups}, f)
            return path

        before = self.state("t0")
        prog = {"id": 999999, "type": "socket_filter",
                "tag": "0123456789abcdef"}
        for group, value, why in (
                ("owner", {"uid": "unmapped", "gid": 5}, "unmapped: "),
                ("steering", prog, "no access to the program with id 999999")):
            path = edited(**{group: value})
            for option in [], ["--check"]:
                text = self.ok("restore", path, "t0", *option, status=1)
                self.assertRegex(text, f"(?m)^not restored: {group}: {why}")
                self.assertRegex(text, f"(?m)^not restored +{group}")
                self.assertNotIn("would set", text)
        text = self.ok("restore", edited(steering={**prog, "pinned": "/\n\33"}),
                       "t0", status=1)
        self.assertIn(r"nor at /\x0a\x1b; load it", text)
        for group, value, why in (
                ("vnet", {**good["vnet"], "hdr_size": 3}, "vnet: Invalid"),
                ("iff", {"flags": ["tap"]}, "iff: Invalid"),
                ("sockfilter", ["0 0 0 0"], "sockfilter: Invalid"),
                ("offload", {**good["offload"], "enabled": ["0x80000000"]},
                 "offload: Invalid")):
            path = edited(**{group: value})
            self.one_line(f"queue 0, {why}.*nothing of this queue", "restore",
                          path, "t0")
            self.assertEqual(self.state("t0"), before)
        for group, value in (("iff", {"flags": ["tap"]}),
                             ("sockfilter", ["0 0 0 0"])):
            self.assertRegex(
                self.ok("restore", "--check", edited(**{group: value}), "t0",
                        status=1), f"(?m)^not restored: {group}: ")
        self.one_line("3 queues, of which 3 are there, .* had 2", "restore",
                      edited(queues=good["queues"][:2]), "t0")
        self.one_line("format 3", "restore", edited(tapstate=3), "t0")
        with open(saved, encoding="utf-8") as f:
            text = f.read()
        with open(saved, "w", encoding="utf-8") as f:
            f.write(text[:-30])
        self.one_line("not JSON, or cut off", "restore", saved, "t0")
        self.assertEqual(self.state("t0"), before)
        self.assertEqual(len(fds), 3)

    def test_programs(self):
        """By its pin, by its id, by what is attached; never another."""
        fd = self.open("t0")
        bpffs = "/sys/fs/bpf"
        run("mount", "-t", "bpf", "bpf", bpffs)
        self.addCleanup(run, "umount", bpffs)
        progs = [self.load(n) for n in (1, 2)]
        self.fds += progs
        fcntl.ioctl(fd, TUNSETSTEERINGEBPF, struct.pack("i", progs[0]))
        by_id, by_pin = self.path("id.json"), self.path("pin.json")
        self.ok("save", "t0", "-o", by_id)
        self.pin(progs[0], f"{bpffs}/first")
        self.ok("save", "t0", "-o", by_pin)
        with open(by_pin, encoding="utf-8") as f:
            state = json.load(f)
        self.assertEqual(state["steering"]["pinned"], f"{bpffs}/first")
        self.assertEqual(state["steering"]["name"], "prog1")
        self.assertRegex(self.ok("show", "t0"), r"(?m)^ +name +prog1$")
        for path in by_id, by_pin:
            for other in progs[1], -1:
                fcntl.ioctl(fd, TUNSETSTEERINGEBPF, struct.pack("i", other))
                self.ok("diff", path, "t0", status=1)
                self.ok("restore", path, "t0")
                self.ok("diff", path, "t0")
        # Another id, as after a reboot: only the pin leads to the program
        state["steering"]["id"] = 999999
        with open(by_pin, "w", encoding="utf-8") as f:
            json.dump(state, f)
        fcntl.ioctl(fd, TUNSETSTEERINGEBPF, struct.pack("i", -1))
        self.assertEqual(self.ok("restore", by_pin, "t0"), "")
        self.assertEqual(self.state("t0")["steering"]["tag"],
                         state["steering"]["tag"])
        # A program that was loaded anew, with another tag
        self.pin(progs[1], f"{bpffs}/second")
        for name in f"{bpffs}/second", str(self.id_of(progs[1])):
            fcntl.ioctl(fd, TUNSETSTEERINGEBPF, struct.pack("i", -1))
            self.assertEqual(self.ok("restore", by_pin, "t0", "--steering",
                                     name, "--groups", "vnet"), "")
            self.assertEqual(self.state("t0")["steering"]["name"], "prog2")
            self.ok("restore", by_pin, "t0", "--filter", name)
            self.assertEqual(self.state("t0")["filter"]["name"], "prog2")
        xdp = self.load(1, BPF_PROG_TYPE_XDP)
        self.fds.append(xdp)
        for name in (f"{bpffs}/none", str(self.id_of(xdp)), "999999", "0", "x",
                     "-1", "4294967296"):
            self.one_line(f"{name} is neither the pin nor the id of a program "
                          "of type socket_filter", "restore", by_pin, "t0",
                          f"--filter={name}")
        # Another program at the pin
        fcntl.ioctl(fd, TUNSETSTEERINGEBPF, struct.pack("i", -1))
        os.unlink(f"{bpffs}/first")
        self.pin(progs[1], f"{bpffs}/first")
        self.assertRegex(self.ok("restore", by_pin, "t0", status=1),
                         "(?m)^not restored: steering: no access to the "
                         "program with id 999999 and its tag, nor at "
                         f"{bpffs}/first")
        self.assertIsNone(self.state("t0")["steering"])

    @staticmethod
    def bpf(command, attr):
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(attr, 128)
        result = libc.syscall(321, command, buffer, 128)
        if result < 0:
            raise OSError(ctypes.get_errno(), "bpf")
        return result

    @staticmethod
    def id_of(fd):
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as f:
            return int(re.search(r"prog_id:\s*(\d+)", f.read())[1])

    def load(self, value, prog_type=BPF_PROG_TYPE_SOCKET_FILTER):
        insns = ctypes.create_string_buffer(
            struct.pack("<BBhi", 0xb7, 0, 0, value) +
            struct.pack("<BBhi", 0x95, 0, 0, 0))
        text = ctypes.create_string_buffer(b"GPL")
        return self.bpf(5, struct.pack(
            "IIQQIIQII16s", prog_type, 2, ctypes.addressof(insns),
            ctypes.addressof(text), 0, 0, 0, 0, 0, b"prog%d" % value))

    def pin(self, fd, path):
        name = ctypes.create_string_buffer(path.encode())
        self.bpf(6, struct.pack("QI", ctypes.addressof(name), fd))

    def test_create_fails(self):
        """No device is left behind."""
        _, saved = self.prepare()
        with open(saved, encoding="utf-8") as f:
            state = json.load(f)
        state["iff"]["flags"].append("persist")
        state["vnet"]["hdr_size"] = 3
        with open(saved, "w", encoding="utf-8") as f:
            json.dump(state, f)
        self.one_line("vnet: Invalid", "restore", "--create", saved, "t7")
        self.assertFalse(os.path.exists("/sys/class/net/t7"))
        state["vnet"]["hdr_size"] = 12
        # The first queue is restored, with "persist", and the second is not
        state["queues"][1]["sockfilter"] = True
        with open(saved, "w", encoding="utf-8") as f:
            json.dump(state, f)
        self.one_line("queue 1, queue: Invalid", "restore", "--create", saved,
                      "t7")
        self.assertFalse(os.path.exists("/sys/class/net/t7"))

    def test_save_fails(self):
        self.open("t0")
        self.one_line("No such file", "save", "t0", "-o", "/nosuch/file")
        self.one_line("no device 'none'", "save", "none", "-o",
                      self.path("x"))
        self.assertFalse(os.path.exists(self.path("x")))
        null, link, file = (self.path(n) for n in ("null", "link", "file"))
        os.mknod(null, 0o020600, os.makedev(1, 3))
        os.symlink(null, link)
        for path in null, link, self.directory.name:
            self.one_line("not a regular file; '-o -' writes", "save", "t0",
                          "-o", path)
        self.assertTrue(os.path.islink(link))
        self.ok("save", "t0", "-o", file)
        # save reads no file
        self.one_line("not the name of a network device", "save", file, "-o",
                      self.path("x"))

    def test_pipe(self):
        self.open("t0")
        text = self.ok("save", "t0", "-o", "-")
        self.ok("diff", "/proc/self/fd/0", "t0", input=text)


@unittest.skipIf(STOCK, "needs TUNGETSTATE")
class ExampleTest(ToolTest):
    def test_c(self):
        self.open("t0")
        text = subprocess.run([f"{TOOLS}/copy-state", "t0"], check=True,
                              stdout=subprocess.PIPE, text=True).stdout
        self.assertEqual(json.loads(text)["netdev"]["name"], "t0")
        result = subprocess.run([f"{TOOLS}/copy-state", "none"], check=False,
                                stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("no device 'none'", result.stderr)

    def test_python(self):
        self.open("t0")
        command = ["python3", "tools/tapstate/examples/show.py"]
        env = {**os.environ, "LD_LIBRARY_PATH": TOOLS}
        text = subprocess.run([*command, "t0"], check=True, env=env,
                              stdout=subprocess.PIPE, text=True).stdout
        self.assertEqual(json.loads(text)["name"], "t0")
        result = subprocess.run([*command, "none"], check=False, env=env,
                                stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("no device 'none'", result.stderr)

    def test_probe(self):
        lib = ctypes.CDLL(f"{TOOLS}/libtapstate.so.0")
        groups = ctypes.c_uint64()
        self.assertTrue(lib.tapstate_probe(ctypes.byref(groups), None))
        self.assertEqual(groups.value, (1 << 17) - 1)


@unittest.skipUnless(STOCK, "needs a stock tun")
class StockTest(ToolTest):
    def test_list(self):
        first, second = self.open("t0"), self.open("t0")
        fcntl.ioctl(second, TUNSETQUEUE, ifreq("", DETACH))
        queues = self.listed("t0")
        netns = os.stat("/proc/self/ns/net").st_ino
        self.assertEqual(
            [(q["fd"], q["attached"], q["queue"], q["type"], q["patched"],
              q["netns"], q["ifindex"]) for q in queues],
            [(first, True, None, "tap", False, netns, None),
             (second, False, None, "tap", False, netns, None)])

    def test_show(self):
        fd = self.open("t0")
        message = ("lacks TUNGETSTATE; load the patched tun module or the live "
                   "patch")
        self.one_line(message, "show", "t0")
        self.one_line(message, "show", "--pid", str(os.getpid()))
        self.one_line(message, "show", "--pid", str(os.getpid()), "--fd",
                      str(fd))
        self.one_line(message, "save", "t0", "-o", self.path("x"))

    def test_probe(self):
        lib = ctypes.CDLL(f"{TOOLS}/libtapstate.so.0")
        groups = ctypes.c_uint64(1)
        self.assertTrue(lib.tapstate_probe(ctypes.byref(groups), None))
        self.assertEqual(groups.value, 0)


def load_tests(loader, _tests, _pattern):
    """Only the tests for this tun: a skip counts as a failure in the lab."""
    suite = unittest.TestSuite()
    for case in ([StockTest] if STOCK else
                 [ListTest, ShowTest, DiffTest, RestoreTest, ExampleTest]):
        suite.addTests(loader.loadTestsFromTestCase(case))
    return suite


if __name__ == "__main__":
    if STOCK:
        del sys.argv[1]
    unittest.main(testRunner=pycotap.TAPTestRunner())
