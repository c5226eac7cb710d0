#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run "tapstate check" and "tapstate update" on real QEMUs. Print TAP.

Most QEMUs here have a TAP and a BIOS, but no operating system: they start at once.
update_soak.py has a guest under traffic. With strace, each command that the tool
sends to a QEMU, and each change of a file, is the last one of a tool that is killed.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import pycotap

from qemu_vm import UpdatableVm
from tapstate_tool import TOOL, run, tool

STOCK = "qemu-system-x86_64-stock"
DEV = "tap0"
# System calls by which the tool acts: on a QEMU, on files, on processes
ACTIONS = "sendmsg,sendto,rename,link,unlink,fork,clone,clone3,vfork"


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class UpdateTest(unittest.TestCase):
    """A TAP with two queues, and QEMUs"""

    maxDiff = None

    def setUp(self):
        # The path of a socket has at most 107 bytes.
        # pylint: disable=consider-using-with
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(self.directory.cleanup)
        run("ip", "tuntap", "add", DEV, "mode", "tap", "multi_queue", "vnet_hdr")
        self.addCleanup(run, "ip", "link", "del", DEV)
        run("ip", "link", "set", DEV, "up")
        self.vms = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for vm in self.vms:
            vm.kill()
        # Targets whose pidfile has not moved
        for name in os.listdir(self.directory.name):
            if ".pid" in name:
                with contextlib.suppress(OSError, ValueError), \
                        open(self.path(name), encoding="ascii") as file:
                    os.kill(int(file.read()), signal.SIGKILL)

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def vm(self, *more, name="vm", binary="qemu-system-x86_64", memory=True,
           machine="q35",
           netdev=f"tap,id=net0,ifname={DEV},queues=2,script=,downscript="
                  ",local-migration-supported=on"):
        """Start a QEMU whose memory is in a shared file, or private."""
        args = ["-m", "64", "-machine",
                machine + (",memory-backend=mem" if memory else "")]
        if memory:
            args += ["-object", "memory-backend-file,id=mem,size=64M,share=on,"
                     f"mem-path={self.path(name + '.memory')}"]
        if netdev:
            args += ["-netdev", netdev, "-device",
                     "virtio-net-pci,netdev=net0,mq=on,id=nic0,romfile="]
        vm = UpdatableVm(name, args + list(more), self.directory.name, binary)
        self.vms.append(vm)
        return vm.start()

    def update(self, vm, *args, status=0, **options):
        result = tool("update", "--qmp", vm.socket, *args, **options)
        self.assertEqual(result.returncode, status,
                         result.stdout + result.stderr +
                         "\n".join(vm.last_words()))
        return result.stdout + result.stderr

    def check_files(self, vm):
        """Check that only one QEMU's files are left."""
        left = [name for name in os.listdir(self.directory.name)
                if ".tapstate" in name]
        self.assertEqual(left, [])
        self.assertTrue(vm.cmd("query-status")["running"])

    def check_updated(self, vm, before):
        self.check_files(vm)
        self.assertNotEqual(vm.get_pid(), before)
        self.assertFalse(alive(before))

    def check_stayed(self, vm, pid):
        self.check_files(vm)
        self.assertEqual(vm.get_pid(), pid)
        self.assertTrue(alive(pid))

    def settings(self, vm):
        return (vm.cmd("query-migrate-capabilities"),
                vm.cmd("query-migrate-parameters"))


class Updates(UpdateTest):
    def test_again_and_again(self):
        vm = self.vm()
        settings = self.settings(vm)
        for _ in range(5):
            pid = vm.get_pid()
            result = json.loads(self.update(vm, "--json"))
            self.assertEqual((result["result"], result["source"],
                              result["target"], result["netdevs"][0]["id"]),
                             ("updated", pid, vm.get_pid(), "net0"))
            self.assertEqual(result["devices"][0]["device"], DEV)
            self.check_updated(vm, pid)
            self.assertEqual(self.settings(vm), settings)

    def test_state(self):
        run("ethtool", "-K", DEV, "tso", "off")
        vm = self.vm()
        out = self.update(vm)
        patched = tool("show", DEV).returncode == 0
        self.assertRegex(out, r"netdev net0: verified" if patched else
                         "not verified: this kernel does not report")
        self.assertRegex(out, "its state is as before" if patched else
                         "the kernel does not report its state")

    def test_copied_memory(self):
        vm = self.vm(memory=False)
        pid = vm.get_pid()
        self.assertIn("copied while the guest runs", self.update(vm))
        self.check_updated(vm, pid)

    def test_memory_of_a_memfd(self):
        vm = self.vm("-object", "memory-backend-memfd,id=mem,size=64M,share=on",
                     memory=False, machine="q35,memory-backend=mem")
        pid = vm.get_pid()
        self.update(vm)
        self.check_updated(vm, pid)

    def test_memory_in_a_directory(self):
        vm = self.vm("-object", "memory-backend-file,id=mem,size=64M,share=on,"
                     f"mem-path={self.directory.name}", memory=False,
                     machine="q35,memory-backend=mem")
        pid = vm.get_pid()
        self.assertIn("copied", self.update(vm))
        self.check_updated(vm, pid)

    def test_spellings_of_on(self):
        """To take a shared file for private memory would destroy the guest."""
        for on in "yes", "true", "y":
            vm = self.vm("-object", "memory-backend-file,id=mem,size=64M,"
                         f"share={on},mem-path={self.path('memory')}",
                         "-monitor", f"unix:{self.path('hmp')},server={on},wait=off",
                         memory=False, machine="q35,memory-backend=mem")
            out = tool("check", "--qmp", vm.socket).stdout
            self.assertIn("in a shared file: not copied", out)
            self.assertIn("hmp moves when the target runs", out)
            self.update(vm)
            self.check_files(vm)
            vm.quit()

    def test_files_of_the_caller(self):
        vm = self.vm()
        with open(self.path("lock"), "w", encoding="ascii") as lock:
            os.set_inheritable(lock.fileno(), True)
            self.update(vm, close_fds=False)
            fds = f"/proc/{vm.get_pid()}/fd"
            self.assertNotIn(lock.name, [os.readlink(f"{fds}/{fd}")
                                         for fd in os.listdir(fds)])

    def test_daemon(self):
        vm = self.vm()
        vm.quit()
        vm.args.append("-daemonize")
        subprocess.run(vm.args, check=True)
        pid = vm.get_pid()
        result = json.loads(self.update(vm, "--json"))
        self.assertEqual(result["target"], vm.get_pid())
        self.check_updated(vm, pid)
        self.assertEqual(os.getsid(vm.get_pid()), os.getsid(vm.get_pid()))
        self.assertEqual(os.readlink(f"/proc/{vm.get_pid()}/fd/2"), "/dev/null")

    def test_name_that_is_taken(self):
        """A directory where the pidfile was: say so, and keep the new file."""
        vm = self.vm()
        pid = vm.get_pid()
        os.unlink(vm.pid_file)
        os.mkdir(vm.pid_file)
        out = self.update(vm)
        self.assertRegex(out, r"pid.tapstate-1: .*; the guest runs, .*rename it")
        with open(f"{vm.pid_file}.tapstate-1", encoding="ascii") as file:
            self.assertNotEqual(int(file.read()), pid)
        self.assertTrue(vm.cmd("query-status")["running"])
        os.rmdir(vm.pid_file)
        os.rename(f"{vm.pid_file}.tapstate-1", vm.pid_file)

    def test_versioned_machine(self):
        vm = self.vm(machine="pc")
        self.assertIn("pc-i440fx-", self.update(vm, "--dry-run"))

    def test_disk(self):
        disk = self.path("disk,comma")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        vm = self.vm("-drive", f"file={disk.replace(',', ',,')},format=raw,"
                     "if=virtio")
        for _ in range(2):
            pid = vm.get_pid()
            self.update(vm)
            self.check_updated(vm, pid)
        self.assertEqual(
            vm.cmd("query-block")[0]["inserted"]["image"]["filename"], disk)

    def test_serial_file_is_kept(self):
        vm = self.vm()
        with open(vm.console_path, "a", encoding="ascii") as file:
            file.write("before\n")
        self.update(vm)
        self.assertIn("before", vm.console())

    def test_sockets_move(self):
        vm = self.vm("-chardev", f"socket,id=c,path={self.path('c')},server=on,"
                     "wait=off", "-device", "isa-serial,chardev=c",
                     "-monitor", f"unix:{self.path('hmp')},server,nowait")
        for _ in range(2):
            self.update(vm)
            self.check_files(vm)
        for name in "hmp", "c":
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path(name))
                if name == "hmp":
                    self.assertIn(b"QEMU", client.recv(100))

    def test_surroundings(self):
        vm = self.vm()
        vm.quit()
        vm.start("sh", "-c", "ulimit -n 500; umask 0027; cd /tmp; exec \"$@\"",
                 "vm", env={**os.environ, "MARK": "yes"})
        self.update(vm, cwd="/tapstate", env={"PATH": os.environ["PATH"]})
        pid = vm.get_pid()
        with open(f"/proc/{pid}/limits", encoding="ascii") as limits:
            self.assertRegex(limits.read(), r"Max open files +500 +500")
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            self.assertIn("Umask:\t0027", status.read())
        with open(f"/proc/{pid}/environ", encoding="ascii") as environ:
            self.assertIn("MARK=yes", environ.read())
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/tmp")

    def test_unprivileged_in_namespaces(self):
        """A source of another user, in a mount and network namespace."""
        vm = self.vm(netdev=None)
        vm.quit()
        run("chmod", "-R", "777", self.directory.name)
        vm.start("unshare", "--propagation", "unchanged", "--mount",
                 "--net", "--ipc", "setpriv",
                 "--reuid=65534", "--regid=65534", "--clear-groups",
                 "--bounding-set=-all", "--no-new-privs")
        pid = vm.get_pid()
        # The caller's mount namespace has the binary, too: it was asked.
        self.assertRegex(tool("check", "--qmp", vm.socket).stdout,
                         r"ok +target .*\(\d+\.\d+\.\d+\)")
        net = os.readlink(f"/proc/{pid}/ns/net")
        self.update(vm)
        self.check_updated(vm, pid)
        pid = vm.get_pid()
        self.assertEqual(os.readlink(f"/proc/{pid}/ns/net"), net)
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            text = status.read()
        for line in ("Uid:\t65534\t65534\t65534", "NoNewPrivs:\t1",
                     "CapBnd:\t0000000000000000"):
            self.assertIn(line, text)

    def test_user_namespace(self):
        """A user who is root in a namespace, with a TAP of his own."""
        if subprocess.run(["unshare", "--user", "true"], check=False).returncode:
            self.skipTest("user namespaces: not in a chroot")
        vm = self.vm()
        vm.quit()
        run("chmod", "-R", "777", self.directory.name)
        vm.start("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                 "unshare", "--user", "--map-root-user", "--net", "sh", "-c",
                 f"ip tuntap add {DEV} mode tap multi_queue vnet_hdr && "
                 f"ip link set {DEV} up && exec \"$@\"", "sh")
        for _ in range(2):
            pid = vm.get_pid()
            spaces = [os.readlink(f"/proc/{pid}/ns/{name}")
                      for name in ("user", "net")]
            self.assertRegex(self.update(vm), "netdev net0: (not )?verified")
            self.check_updated(vm, pid)
            self.assertEqual(spaces, [os.readlink(f"/proc/{vm.get_pid()}/ns/{name}")
                                      for name in ("user", "net")])

    def test_ambient_capabilities(self):
        """A QEMU that is not root may have a few rights of root."""
        vm = self.vm(netdev=None)
        vm.quit()
        run("chmod", "-R", "777", self.directory.name)
        vm.start("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                 "--inh-caps=-all,+net_admin", "--ambient-caps=+net_admin",
                 "--bounding-set=-all,+net_admin")
        for _ in range(2):
            pid = vm.get_pid()
            self.update(vm)
            self.check_updated(vm, pid)
        with open(f"/proc/{vm.get_pid()}/status", encoding="ascii") as status:
            text = status.read()
        for name in "Inh", "Prm", "Eff", "Bnd", "Amb":
            self.assertIn(f"Cap{name}:\t0000000000001000", text)

    def test_log(self):
        """No log takes the place of an earlier one."""
        vm = self.vm("-D", self.path("log"), "-d", "guest_errors")
        logs = ["log"]
        for _ in range(3):
            with open(self.path(logs[-1]), "a", encoding="ascii") as log:
                log.write(f"{logs[-1]}\n")
            logs.append(f"log.after-{vm.get_pid()}")
            self.update(vm)
        for name in logs[:-1]:
            with open(self.path(name), encoding="ascii") as log:
                self.assertIn(f"{name}\n", log.read())
        self.assertTrue(os.path.exists(self.path(logs[-1])))

    def test_memory_file_on_overlayfs(self):
        """/proc/PID/maps may have another device than the path."""
        for name in "upper", "work", "merged":
            os.mkdir(self.path(name))
        # A lower directory of another file system
        lower = tempfile.mkdtemp(dir="/tmp")
        self.addCleanup(shutil.rmtree, lower)
        with open(f"{lower}/memory", "wb") as file:
            file.truncate(64 << 20)
        run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},"
            f"upperdir={self.path('upper')},workdir={self.path('work')}",
            self.path("merged"))
        self.addCleanup(run, "umount", "-l", self.path("merged"))
        vm = self.vm("-object", "memory-backend-file,id=mem,size=64M,share=on,"
                     f"mem-path={self.path('merged/memory')}", memory=False,
                     machine="q35,memory-backend=mem")
        self.assertIn("in a shared file: not copied",
                      tool("check", "--qmp", vm.socket).stdout)
        self.update(vm)

    def test_target_arg(self):
        port = "tcp:127.0.0.1:7777,server,nowait"
        other = port.replace("7777", "7778")
        vm = self.vm("-monitor", port)
        out = self.update(vm, status=1)
        self.assertIn("two processes cannot listen on one port", out)
        self.update(vm, "--target-arg", f"{port}={other}")
        with socket.create_connection(("127.0.0.1", 7778)) as client:
            self.assertIn(b"QEMU", client.recv(100))
        self.update(vm, "--target-arg", "-monitor=")
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 7778))
        self.update(vm, "--target-arg", "nonsense=x", status=2)

    def test_target_arg_of_several(self):
        hmp = [f"unix:{self.path(f'm{i}')},server,nowait" for i in range(2)]
        vm = self.vm("-monitor", hmp[0], "-monitor", hmp[1])
        self.assertIn("has 2 of these", self.update(
            vm, "--target-arg", "-monitor=", status=2))
        self.update(vm, "--target-arg", f"{hmp[0]}=", "--target-arg", "=-monitor",
                    "--target-arg", f"=unix:{self.path('new')},server,nowait")
        for name, there in ("m0", False), ("m1", True), ("new", True):
            with socket.socket(socket.AF_UNIX) as client:
                self.assertEqual(client.connect_ex(self.path(name)) == 0, there,
                                 name)


class Stock(UpdateTest):
    """Take over from a QEMU that knows nothing of the hand-over"""

    def take_over(self, vm):
        pid = vm.get_pid()
        out = self.update(vm, "--qemu", "qemu-system-x86_64")
        self.assertIn("packets of each queue to the guest may be lost", out)
        self.check_updated(vm, pid)
        pid = vm.get_pid()
        self.assertNotIn("may be lost", self.update(vm))
        self.check_updated(vm, pid)

    def test_ifname(self):
        self.take_over(self.vm(binary=STOCK, netdev=f"tap,id=net0,queues=2,"
                               f"ifname={DEV},script=no,downscript=no"))

    def test_json(self):
        self.take_over(self.vm(binary=STOCK, netdev=json.dumps(
            {"type": "tap", "id": "net0", "ifname": DEV, "queues": 2,
             "script": "no", "downscript": "no"})))

    def test_downscript_is_not_run(self):
        script = self.path("down")
        with open(script, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\ntouch {self.path('ran')}\n")
        os.chmod(script, 0o755)
        self.take_over(self.vm(binary=STOCK, netdev="tap,id=net0,queues=2,"
                               f"ifname={DEV},script=no,downscript={script}"))
        self.assertFalse(os.path.exists(self.path("ran")))

    def test_patched_without_the_option(self):
        self.take_over(self.vm(netdev=f"tap,id=net0,queues=2,ifname={DEV},"
                               "script=,downscript="))

    def test_nic(self):
        self.take_over(self.vm("-nic", "tap,ifname=tap9,script=no,downscript=no,"
                               "model=e1000e,id=net9", binary=STOCK, netdev=None))

    def test_stock_target(self):
        vm = self.vm()
        pid = vm.get_pid()
        self.assertIn("cannot take a TAP", self.update(vm, "--qemu", STOCK,
                                                       status=1))
        self.check_stayed(vm, pid)


class Refusals(UpdateTest):
    """Each is one line with a remedy, and changes nothing"""

    def refused(self, vm, message, *args):
        settings = self.settings(vm)
        pid = vm.get_pid()
        out = self.update(vm, *args, status=1)
        self.assertRegex(out, message)
        self.assertEqual(self.settings(vm), settings)
        self.assertEqual(vm.get_pid(), pid)
        self.assertEqual([n for n in os.listdir(self.directory.name)
                          if ".tapstate" in n], [])
        result = tool("check", "--qmp", vm.socket)
        if not args:
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stdout, message)

    def test_states_of_the_guest(self):
        vm = self.vm()
        vm.cmd("stop")
        self.refused(vm, "does not run \\(paused\\); 'cont' it")
        vm.cmd("cont")
        vm.cmd("migrate-set-parameters", **{"max-bandwidth": 1})
        with socket.socket(socket.AF_UNIX) as sink:
            sink.bind(self.path("sink"))
            sink.listen()
            vm.cmd("migrate", uri=f"unix:{self.path('sink')}")
            self.refused(vm, "one is under way .*'migrate_cancel'")
            vm.cmd("migrate_cancel")
        self.update(vm)

    def test_postmigrate(self):
        vm = self.vm()
        vm.cmd("migrate", uri="exec:cat >/dev/null")
        while vm.cmd("query-status")["status"] != "postmigrate":
            time.sleep(0.05)
        self.refused(vm, "was migrated from this QEMU .*'cont'")

    def test_waits_for_a_migration(self):
        vm = self.vm("-incoming", "defer", netdev=None)
        self.refused(vm, "this QEMU waits for a migration")

    def test_hot_plugged_devices(self):
        vm = self.vm("-device", "pcie-root-port,id=rp", "-device",
                     "virtio-rng-pci,id=old,bus=pcie.0")
        vm.cmd("device_add", driver="virtio-rng-pci", id="new", bus="rp")
        self.refused(vm, "new +was added after the start; give its arguments")
        pid = vm.get_pid()
        self.update(vm, "--target-arg", "=-device", "--target-arg",
                    "=virtio-rng-pci,id=new,bus=rp")
        self.check_updated(vm, pid)
        self.assertIn("new", [d["name"] for d in vm.cmd(
            "qom-list", path="/machine/peripheral")])

    def test_hot_plugged_without_id(self):
        vm = self.vm("-device", "pcie-root-port,id=rp")
        vm.cmd("device_add", driver="virtio-rng-pci", bus="rp")
        self.refused(vm, "1 devices without id, and the command line has 0")

    def test_hot_plugged_netdev(self):
        vm = self.vm("-device", "pcie-root-port,id=rp", netdev=None)
        vm.cmd("netdev_add", type="tap", id="net1", ifname=DEV, queues=2,
               script="no", downscript="no",
               **{"local-migration-supported": True})
        self.refused(vm, "net1 +was added after the start")
        device = {"driver": "virtio-net-pci", "id": "nic1", "netdev": "net1",
                  "mq": True, "bus": "rp", "romfile": ""}
        vm.cmd("device_add", **device)
        pid = vm.get_pid()
        args = ["-netdev", "tap,id=net1", "-device", json.dumps(device)]
        out = self.update(vm, *[word for arg in args
                                for word in ("--target-arg", f"={arg}")])
        self.assertRegex(out, "netdev net1: (not )?verified")
        self.check_updated(vm, pid)

    def test_chardevs(self):
        vm = self.vm("-serial", "null")
        vm.cmd("chardev-add", id="more", backend={"type": "null", "data": {}})
        self.refused(vm, "more +was added after the start")
        vm.cmd("chardev-remove", id="more")
        self.update(vm)

    def disk(self, *options):
        with open(self.path("disk"), "wb") as file:
            file.truncate(1 << 20)
        return self.vm("-blockdev", "driver=file,node-name=file,filename="
                       f"{self.path('disk')}", "-device",
                       "virtio-blk-pci,drive=file,id=disk", *options)

    def test_export(self):
        vm = self.disk()
        vm.cmd("nbd-server-start", addr={"type": "unix", "data": {
            "path": self.path("nbd")}})
        vm.cmd("block-export-add", type="nbd", id="e", **{"node-name": "file"})
        self.refused(vm, "export e +the target would not have it")
        vm.cmd("block-export-del", id="e")
        self.update(vm)

    def test_bitmap(self):
        vm = self.disk()
        vm.cmd("block-dirty-bitmap-add", node="file", name="b")
        self.refused(vm, "bitmap 'b', which is not persistent")
        vm.cmd("block-dirty-bitmap-remove", node="file", name="b")
        self.update(vm)

    def test_limits_of_a_disk(self):
        vm = self.disk()
        limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd",
                                "iops_wr"), 0)
        disk = "/machine/peripheral/disk/virtio-backend"
        vm.cmd("block_set_io_throttle", id=disk, **{**limits, "iops_wr": 7})
        self.refused(vm, "its limit iops_wr was set after the start")
        vm.cmd("block_set_io_throttle", id=disk, **limits)
        self.update(vm)

    def test_objects(self):
        vm = self.vm()
        vm.cmd("object-add", **{"qom-type": "memory-backend-ram", "id": "more",
                                "size": 1 << 20})
        self.refused(vm, "more +was added after the start")

    def test_snapshot_of_a_disk(self):
        base = self.path("base")
        with open(base, "wb") as file:
            file.truncate(1 << 20)
        vm = self.vm("-drive", f"file={base},format=raw,if=virtio,id=d")
        vm.cmd("blockdev-snapshot-sync", device="d", format="qcow2",
               **{"snapshot-file": self.path("top")})
        self.refused(vm, "QEMU uses .*top, which its command line does not name")

    def test_memory_file_was_replaced(self):
        vm = self.vm()
        memory = self.path("vm.memory")
        os.unlink(memory)
        self.refused(vm, "is not the file that QEMU has mapped")
        with open(memory, "wb") as file:
            file.truncate(64 << 20)
        self.refused(vm, "is not the file that QEMU has mapped")

    def test_discard_data(self):
        vm = self.vm("-object", "memory-backend-file,id=mem,size=64M,share=on,"
                     f"discard-data=on,mem-path={self.path('m')}", memory=False,
                     machine="q35,memory-backend=mem")
        self.refused(vm, "discard-data=on: the source would erase")

    def test_options(self):
        for message, *options in (
                ("would not have", "-snapshot"),
                ("two processes cannot listen on one port", "-monitor",
                 "tcp:127.0.0.1:0,server,nowait"),
                ("two processes cannot listen on one port", "-s"),
                ("an abstract socket has no file", "-monitor",
                 "unix:xyz,server,nowait,abstract")):
            vm = self.vm(*options)
            self.refused(vm, message)
            vm.quit()

    def test_client_of_another_monitor(self):
        """Such as libvirt, which would take the guest for shut off."""
        path = self.path("mon")
        vm = self.vm("-chardev", f"socket,id=m,path={path},server=on,wait=off",
                     "-mon", "chardev=m,mode=control")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.recv(1000)
            self.refused(vm, f"a program that uses {path}.*--qmp {path} --pid "
                         f"{vm.get_pid()}")
        self.update(vm)

    def test_long_path(self):
        deep = self.path("d" * 80)
        os.mkdir(deep)
        vm = UpdatableVm("v" * (100 - len(deep)), ["-m", "64"], deep)
        self.vms.append(vm)
        vm.start()
        out = self.update(vm, status=1)
        self.assertIn("would be longer than 107 bytes", out)

    def test_few_files(self):
        vm = self.vm()
        pid = vm.get_pid()
        run("prlimit", f"--pid={pid}", "--nofile=40:40")
        self.refused(vm, "the target needs about .* open files")

    def test_not_qemu(self):
        vm = self.vm()
        self.refused(vm, "is this QEMU", "--qemu", "/bin/true")
        self.refused(vm, "No such file", "--qemu", self.path("none"))
        self.assertIn("there is no program", self.update(
            vm, "--qemu", "no-such-program", status=2))


class Errors(UpdateTest):
    """Exit status 2, one line"""

    def fails(self, message, *args):
        result = tool(*args)
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertRegex(result.stderr, message)

    def test_usage(self):
        for args in ((), ("--qmp", "a", "--all", "b"), ("x", "--qmp", "a"),
                     ("--qmp", "a", "--timeout", "0"),
                     ("--resume", "--qmp", "a", "--dry-run")):
            self.fails("usage: tapstate update", "update", *args)
        self.fails("usage: tapstate check", "check", "x")

    def test_sockets(self):
        for command in "check", "update":
            self.fails("No such file", command, "--qmp", self.path("none"))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self.path("silent"))
            server.listen()
            self.fails("another client may be connected", "check", "--qmp",
                       self.path("silent"))
        os.mkdir(self.path("empty"))
        self.fails("no QMP sockets; name their directory", "update", "--all",
                   self.path("empty"))
        self.fails("there is no update to resume", "update", "--resume",
                   "--qmp", self.path("none"))

    def test_busy(self):
        vm = self.vm()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(vm.socket)
            client.recv(1000)
            self.fails("another client may be connected", "update", "--qmp",
                       vm.socket)

    def test_process(self):
        self.fails("name one with --qmp", "check", "--pid", str(os.getpid()))
        self.fails("name the process of QEMU", "check", "--pid", "999999")

    def test_second_socket(self):
        vm = self.vm("-qmp", f"unix:{self.path('q2')},server=on,wait=off")
        with socket.socket(socket.AF_UNIX) as other:
            pid = vm.get_pid()
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                start = stat.read().rpartition(")")[2].split()[19]
            other.bind(f"\0tapstate-update-{pid}-{start}")
            self.fails("another tapstate updates process", "update", "--qmp",
                       self.path("q2"))
            self.assertEqual(vm.get_pid(), pid)
        self.update(vm)
        self.check_files(vm)

    def test_journal_of_another_user(self):
        vm = self.vm()
        with open(f"{vm.socket}.tapstate", "w", encoding="ascii"):
            os.chmod(f"{vm.socket}.tapstate", 0o666)
        self.fails("another user may have written it", "update", "--resume",
                   "--qmp", vm.socket)
        os.unlink(f"{vm.socket}.tapstate")

    def test_binary_of_another_user(self):
        vm = self.vm(netdev=None)
        vm.quit()
        binary = self.path("qemu-system-mine")
        shutil.copy(shutil.which("qemu-system-x86_64"), binary)
        os.chown(binary, 65534, 65534)
        vm.args[0] = binary
        vm.start()
        result = tool("check", "--qmp", vm.socket)
        self.assertEqual(result.returncode, 1)
        self.assertIn("belongs to another user", result.stdout)

    def test_damaged_journal(self):
        vm = self.vm()
        with open(f"{vm.socket}.tapstate", "w", encoding="ascii") as file:
            file.write("{}")
        for option in (), ("--resume",):
            self.fails("not the journal of a live update", "update", "--qmp",
                       vm.socket, *option)
        os.unlink(f"{vm.socket}.tapstate")

    def test_by_pid(self):
        vm = self.vm()
        result = tool("check", "--pid", str(vm.get_pid()))
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        result = tool("check", "-j", "--qmp", vm.socket)
        self.assertTrue(json.loads(result.stdout)["ready"])
        # This host alone
        self.assertEqual(tool("check").returncode, 0)
        self.assertEqual(tool("check", "--qemu", STOCK).returncode, 1)


class Failures(UpdateTest):
    """The guest stays in the source"""

    def test_target_does_not_start(self):
        vm = self.vm()
        pid = vm.get_pid()
        settings = self.settings(vm)
        out = self.update(vm, "--target-arg", "=-device", "--target-arg",
                          "=no-such-device", status=1)
        self.assertRegex(out, "still runs the guest: .*no-such-device")
        self.check_stayed(vm, pid)
        self.assertEqual(self.settings(vm), settings)
        self.update(vm)

    def test_target_refuses(self):
        vm = self.vm(memory=False)
        pid = vm.get_pid()
        settings = self.settings(vm)
        out = self.update(vm, "--target-arg", "64=96", status=1)
        self.assertRegex(out, "still runs the guest: the migration failed")
        self.check_stayed(vm, pid)
        self.assertEqual(self.settings(vm), settings)
        self.update(vm)

    def slow(self, vm, *args):
        """Start an update whose target waits for this test."""
        wrapper = self.path("qemu-slow")
        with open(wrapper, "w", encoding="ascii") as file:
            file.write("#!/bin/sh\ncase \"$*\" in *tapstate-[12]*)\n"
                       f"touch {self.path('started')}; read line <"
                       f"{self.path('go')} ;; esac\n"
                       "exec qemu-system-x86_64 \"$@\"\n")
        os.chmod(wrapper, 0o755)
        os.mkfifo(self.path("go"))
        popen = subprocess.Popen([TOOL, "update", "--qmp", vm.socket, "--qemu",
                                  wrapper, *args], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True)
        while not os.path.exists(self.path("started")):
            self.assertIsNone(popen.poll())
            time.sleep(0.02)
        return popen

    def test_interrupted(self):
        vm = self.vm()
        pid = vm.get_pid()
        popen = self.slow(vm)
        popen.send_signal(signal.SIGINT)
        out = popen.communicate(timeout=60)[0]
        self.assertEqual(popen.returncode, 1, out)
        self.assertIn("interrupted", out)
        self.check_stayed(vm, pid)

    def test_two_tools(self):
        vm = self.vm()
        popen = self.slow(vm)
        result = tool("update", "--qmp", vm.socket)
        self.assertEqual(result.returncode, 2, result.stdout)
        self.assertIn("--resume", result.stderr)
        with open(self.path("go"), "w", encoding="ascii") as file:
            file.write("\n")
        popen.communicate(timeout=60)
        self.assertEqual(popen.returncode, 0)
        self.check_files(vm)


class Killed(UpdateTest):
    """SIGKILL of the tool before each of its actions, and then --resume"""

    def kill_at(self, vm, number, actions=ACTIONS, only=()):
        """Return whether the tool got to its action of this number."""
        result = subprocess.run(
            ["strace", "-qq", "-o", "/dev/null", *only, "-e", f"trace={actions}",
             "-e", f"inject={actions}:signal=KILL:when={number}", "--", TOOL,
             "update", "--qmp", vm.socket], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=120)
        return result.returncode != 0

    def running(self, vm):
        """Return the processes in which the guest runs now."""
        found = []
        for path in (vm.socket, f"{vm.socket}.tapstate-1",
                     f"{vm.socket}.tapstate-2"):
            other = UpdatableVm("vm", [], self.directory.name)
            other.socket = path
            status = other.try_cmd("query-status")
            if status and status["running"]:
                with contextlib.suppress(OSError), \
                        socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    credentials = client.getsockopt(
                        socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                    found.append(int.from_bytes(credentials[:4], "little"))
        return set(found)

    def resume(self, vm):
        """End the update; return its exit status, or None without a journal."""
        if not os.path.exists(f"{vm.socket}.tapstate"):
            return None
        result = tool("update", "--resume", "--qmp", vm.socket)
        self.assertIn(result.returncode, (0, 1),
                      result.stdout + result.stderr)
        return result.returncode

    def check_settings(self, vm, expected):
        for now, then in zip(self.settings(vm), expected):
            if isinstance(now, dict):
                now, then = now.items(), then.items()
            self.assertEqual([n for n in now if n not in then], [])

    def each_action(self, vm):
        number, resumed = 1, {0: 0, 1: 0, None: 0}
        settings = self.settings(vm)
        while True:
            before = vm.get_pid()
            if not self.kill_at(vm, number):
                break
            self.assertLessEqual(len(self.running(vm)), 1, number)
            status = self.resume(vm)
            resumed[status] += 1
            self.assertEqual(self.running(vm), {vm.get_pid()},
                             f"action {number}, {status}")
            self.check_files(vm)
            self.check_settings(vm, settings)
            if vm.get_pid() != before:
                self.assertFalse(alive(before), number)
            number += 1
        print(f"# {number - 1} actions, resumed: {resumed}")
        # Each end was seen: before the update, back, and on
        self.assertTrue(all(resumed.values()), resumed)

    def test_patched_source(self):
        self.each_action(self.vm())

    def journal(self, vm):
        with contextlib.suppress(FileNotFoundError), \
                open(f"{vm.socket}.tapstate", encoding="ascii") as file:
            return json.load(file)
        return {}

    def kill_in_postmigrate(self, vm, other):
        """Kill the tool when the target has the guest, and was not told to run.

        It is about to write that to its journal. Return the target.
        """
        number = 1
        while self.kill_at(vm, number, "openat",
                           ("-P", f"{vm.socket}.tapstate.new")):
            journal = self.journal(vm)
            if (journal.get("phase") == "migrate" and
                    other.cmd("query-status")["status"] == "postmigrate"):
                return journal["target"]
            self.resume(vm)
            number += 1
        raise AssertionError(f"{number - 1} journals, none in postmigrate")

    def postmigrate(self):
        vm = self.vm("-qmp", f"unix:{self.path('q2')},server=on,wait=off")
        other = UpdatableVm("vm", [], self.directory.name)
        other.socket = self.path("q2")
        return vm, other, vm.get_pid(), self.kill_in_postmigrate(vm, other)

    def test_target_dies_in_postmigrate(self):
        vm, _, pid, target = self.postmigrate()
        os.kill(target, signal.SIGKILL)
        self.assertEqual(self.resume(vm), 1)
        self.check_stayed(vm, pid)

    def test_source_continued_by_hand(self):
        vm, other, pid, target = self.postmigrate()
        other.cmd("cont")
        self.assertEqual(self.resume(vm), 1)
        self.check_stayed(vm, pid)
        self.assertFalse(alive(target))


class Fleet(UpdateTest):
    def test_all(self):
        vms = [self.vm("-qmp", f"unix:{self.path(f'more{i}')},server,nowait",
                       name=f"vm{i}", netdev=None) for i in range(4)]
        # A directory may have other sockets.
        other = socket.socket(socket.AF_UNIX)
        self.addCleanup(other.close)
        other.bind(self.path("other"))
        pids = [vm.get_pid() for vm in vms]
        vms[1].cmd("stop")
        pattern = self.path("vm*.qmp")
        result = tool("update", "--all", pattern)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("4 guests: 1 done, 1 failed, 2 not tried", result.stdout)
        result = tool("update", "--all", pattern, "--parallel", "2",
                      "--keep-going")
        self.assertEqual(result.returncode, 1)
        self.assertIn("4 guests: 3 done, 1 failed, 0 not tried", result.stdout)
        self.assertRegex(result.stdout, r"vm1.qmp +refused .*'cont' it")
        self.assertEqual([vm.get_pid() == pid for vm, pid in zip(vms, pids)],
                         [False, True, False, False])
        vms[1].cmd("cont")
        result = tool("update", "--all", self.directory.name)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("4 guests: 4 done", result.stdout)
        self.assertEqual(result.stdout.count("another socket of a QEMU above"), 4)

    def test_no_process(self):
        """A guest whose process cannot be started has failed."""
        for i in range(4):
            self.vm(name=f"vm{i}", netdev=None)
        refused = 0
        for limit in range(8, 40):
            result = tool("update", "--all", self.path("vm*.qmp"), "--parallel", "4",
                          "--dry-run", "--keep-going",
                          preexec_fn=lambda limit=limit: resource.setrlimit(
                              resource.RLIMIT_NOFILE, (limit, limit)))
            if result.returncode == 0:
                break
            if re.search(r"vm\d\.qmp: .*Too many open files", result.stderr):
                self.assertRegex(result.stdout, r"vm\d\.qmp +refused *\n")
                refused += 1
            sums = re.search(r"4 guests: (\d) done, (\d) failed, 0 not tried", result.stdout)
            self.assertEqual(4, sum(map(int, sums.groups())), result.stdout)
        self.assertEqual(0, result.returncode, result.stderr)
        self.assertGreater(refused, 0)


def main():
    os.environ["PATH"] = f"{os.path.abspath('build/bin')}:{os.environ['PATH']}"
    unittest.main(testRunner=pycotap.TAPTestRunner(
        message_log=pycotap.LogMode.LogToYAML,
        test_output_log=pycotap.LogMode.LogToDiagnostics))


if __name__ == "__main__":
    main()
