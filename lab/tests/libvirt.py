#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Update and migrate guests of Debian's libvirt. Print TAP.

Documentation/libvirt.md has the commands and the messages.
"""

import json
import os
import sys
import unittest

import pycotap

from commands import run, wait
from libvirt_host import (
    FIRST_URI, NAME, SECOND, SECOND_URI, STATUS, destroy, enter_host, monitor,
    pid_of_guest, start_libvirtd, start_second_libvirtd, stop_libvirtd,
    stopped_libvirtd, virsh)
from traffic import Traffic

DEV, MAC = "tap0", "52:54:00:74:61:70"
HOST, GUEST = "10.0.0.1", "10.0.0.2"
BIN = os.path.abspath("build/bin")
PATCHED, STOCK = f"{BIN}/qemu-system-x86_64", f"{BIN}/qemu-system-x86_64-stock"
DOMAIN = f"""<domain type='qemu'
    xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{NAME}</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type machine='q35'>hvm</type>
    <kernel>/tmp/vmlinux</kernel><initrd>/tmp/initrd</initrd>
    <cmdline>quiet panic=-1 tapstate.ip={GUEST}/24 tapstate.queues=2</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>%s</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    %s
  </devices>
  %s
</domain>
"""
SERIAL = "<serial type='pty'/>"
INTERFACE = f"""<interface type='ethernet'>
  <target dev='{DEV}'/><mac address='{MAC}'/>
  <model type='virtio'/><driver queues='2'/>
</interface>
"""
NIC = ("-device", "virtio-net-pci,netdev=net0,mq=on,addr=0x10,romfile=,mac=" + MAC)
NETDEV = "tap,id=net0,queues=2,local-migration-supported=on,"
OPENED = f"{NETDEV}ifname={DEV},script=,downscript="
INCOMING = f"{NETDEV}incoming-fds=on"
CHANNEL = "--migrateuri", "unix:///tmp/migration"


def commandline(*args):
    return "<qemu:commandline>" + "".join(
        f"<qemu:arg value='{arg}'/>" for arg in args) + "</qemu:commandline>"


class LibvirtTest(unittest.TestCase):
    def setUp(self):
        self.traffic = None
        start_libvirtd()
        self.addCleanup(stop_libvirtd)

    def start(self, emulator, devices, extra=""):
        path = f"/tmp/{NAME}.xml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(DOMAIN % (emulator, devices, extra))
        virsh("create", path)
        self.addCleanup(destroy)

    def start_traffic(self):
        run("ip", "addr", "add", f"{HOST}/24", "dev", DEV)
        run("ip", "neigh", "replace", GUEST, "lladdr", MAC, "nud", "permanent",
            "dev", DEV)
        self.traffic = Traffic(HOST, GUEST)
        self.addCleanup(self.traffic.close)
        self.traffic.agent.ask("status", timeout=300)
        self.traffic.start()
        self.traffic.wait_progress(20)

    def finish_traffic(self):
        self.traffic.wait_progress(20)
        report = self.traffic.finish()
        print(report.table())
        self.assertEqual(report.problems(), [])


class Update(LibvirtTest):
    """By tapstate update"""

    def update(self):
        """Update while libvirtd is stopped, and tell it the new process."""
        source = pid_of_guest()
        with stopped_libvirtd():
            result = run("tapstate", "update", "--json", "--qmp", monitor(),
                         "--pid", str(source), "--qemu", PATCHED)
            target = json.loads(result)["target"]
            run("sed", "-i", f"s/^\\(<domstatus .*pid='\\)[0-9]*/\\1{target}/",
                STATUS)
        self.assertEqual(virsh("domstate", NAME), "running")
        self.assertEqual(pid_of_guest(), target)
        self.assertFalse(os.path.exists(f"/proc/{source}"))

    def test_stopped_libvirtd(self):
        """libvirt manages the guest after two updates as before."""
        self.start(STOCK, SERIAL + INTERFACE)
        self.update()
        self.start_traffic()
        self.update()
        self.finish_traffic()
        virsh("suspend", NAME)
        virsh("resume", NAME)
        pid = pid_of_guest()
        virsh("destroy", NAME)
        wait(lambda: not os.path.exists(f"/proc/{pid}"), "the end of QEMU")
        self.assertFalse(os.path.exists(f"/sys/class/net/{DEV}"))

    def test_running_libvirtd(self):
        path = "/var/lib/libvirt/qemu/second.qmp"
        self.start(PATCHED, SERIAL + INTERFACE, commandline(
            "-qmp", f"unix:{path},server=on,wait=off"))
        pid = pid_of_guest()
        self.assertIn("another client may be connected",
                      run("tapstate", "check", "--pid", str(pid), status=2))
        self.assertIn(f"use '--qmp {monitor()} --pid {pid}'",
                      run("tapstate", "update", "--qmp", path, status=1))
        self.assertEqual(virsh("domstate", NAME), "running")

    def test_serial_file(self):
        self.start(PATCHED, "<serial type='file'><source path='/tmp/s'/></serial>")
        pid = pid_of_guest()
        with stopped_libvirtd():
            self.assertIn("cannot get this file descriptor; use paths", run(
                "tapstate", "check", "--pid", str(pid), status=1))


class Migration(LibvirtTest):
    """By libvirt, from one libvirtd to another on this host"""

    def setUp(self):
        super().setUp()
        start_second_libvirtd()
        self.addCleanup(stop_libvirtd, SECOND)
        self.addCleanup(destroy, SECOND_URI)

    def start_patched(self):
        run("ip", "tuntap", "add", DEV, "mode", "tap", "multi_queue", "vnet_hdr",
            "user", "libvirt-qemu")
        self.addCleanup(run, "ip", "link", "del", DEV)
        run("ip", "link", "set", DEV, "up")
        self.start(PATCHED, SERIAL, commandline(
            "-netdev", OPENED, *NIC, "-global", "migration.local=on"))

    def xml_of_target(self):
        """Return a file of the domain whose TAP comes with the migration."""
        with open("/tmp/target.xml", "w", encoding="utf-8") as file:
            file.write(virsh("dumpxml", "--migratable", NAME).replace(
                OPENED, INCOMING))
        return file.name

    def migrate(self, *args, to=SECOND_URI, uri=FIRST_URI, status=0):
        return virsh("migrate", "--live", NAME, to, *args, uri=uri, status=status)

    def test_to_and_fro(self):
        self.start_patched()
        self.start_traffic()
        self.migrate(*CHANNEL, "--xml", self.xml_of_target())
        self.assertEqual(virsh("domstate", NAME, uri=SECOND_URI), "running")
        self.traffic.wait_progress(20)
        self.migrate(*CHANNEL, to=FIRST_URI, uri=SECOND_URI)
        self.assertEqual(virsh("domstate", NAME), "running")
        self.finish_traffic()

    def test_refusals(self):
        self.start_patched()
        target = "--xml", self.xml_of_target()
        for message, *args in (
                ("say incoming-fds=on to take it", SECOND_URI, *CHANNEL),
                ("transport that passes file descriptors", SECOND_URI, *target,
                 "--migrateuri", "tcp://127.0.0.1:4444"),
                ("channel that passes file descriptors", SECOND_URI, *target,
                 "--p2p", "--tunnelled"),
                ("Attempt to migrate guest to the same host", FIRST_URI, *target,
                 *CHANNEL)):
            self.assertIn(message, virsh("migrate", "--live", NAME, *args,
                                         status=1))
            self.assertEqual(virsh("domstate", NAME), "running")

    def test_interface_of_libvirt(self):
        self.start(PATCHED, SERIAL + INTERFACE)
        self.assertIn(f"The {DEV} interface already exists",
                      self.migrate(*CHANNEL, status=1))
        self.assertEqual(virsh("domstate", NAME), "running")


if __name__ == "__main__":
    if sys.argv[1:2] != ["inside"]:
        sys.exit(enter_host(__file__, *sys.argv[1:]))
    del sys.argv[1]
    unittest.main(testRunner=pycotap.TAPTestRunner(
        test_output_log=pycotap.LogMode.LogToDiagnostics))
