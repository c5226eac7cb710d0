#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Install the packages on a plain Debian host while it runs a guest. Print TAP.

lab/tests/install-host runs this in the lab VM, once for each boot of the host:
"running" loads the live patch under a guest of Debian's QEMU, and updates that guest;
"rebooted" looks at the module, updates a guest, and removes the
packages under it.
"""

import contextlib
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import time

from tap_output import Tap
from testbed import (DEV, ERRORS, GUEST, HOST, Testbed, TestbedError, run,
                     testbed_parser)
from traffic import Traffic

# Without the repository: commands are those of the packages.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STOCK = "/usr/bin/qemu-system-x86_64"
PATCHED = "/tapstate/build/bin/qemu-system-x86_64"
SECOND = "/opt/qemu-system-x86_64"
LIVE_PATCH = "/usr/libexec/tapstate-livepatch-dkms/livepatch"
UNIT = "/usr/lib/systemd/system/tapstate-livepatch-dkms.service"
RELEASE = os.uname().release
OWN_TUN = f"/lib/modules/{RELEASE}/kernel/drivers/net/tun.ko.xz"
DKMS_TUN = f"/lib/modules/{RELEASE}/updates/dkms/tun.ko.xz"
# Packets of each queue that a stock QEMU may drop when it stops
TAKEN_OVER = 2


def output(*command):
    """Run a command; return its status and all that it wrote."""
    result = subprocess.run(command, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                            text=True, check=False)
    return result.returncode, result.stdout


def must(*command):
    status, text = output(*command)
    if status:
        raise TestbedError(f"{' '.join(command)} failed:\n{text}")
    return text


def apt(*words):
    return must("apt-get", "-q", "-y", *words)


def expect(text, regex):
    if not re.search(regex, text, re.MULTILINE):
        raise TestbedError(f"there is no '{regex}' in:\n{text}")


def loaded(module):
    return os.path.isdir(f"/sys/module/{module}")


def build_id_of_tun():
    """Return the note of the tun that is loaded."""
    with open("/sys/module/tun/notes/.note.gnu.build-id", "rb") as note:
        return note.read()


def expect_tun(path):
    """Expect that the tun that is loaded is that of a file, by its build ID."""
    with lzma.open(path) as module:
        if build_id_of_tun() not in module.read():
            raise TestbedError(f"the loaded tun is not that of {path}")


def expect_live_patch(wanted):
    if loaded("tun_state_live") != wanted:
        raise TestbedError(f"the live patch is {'not ' if wanted else ''}loaded")


def messages():
    """Return the kernel's messages of the live patch."""
    return [line for line in must("dmesg").splitlines() if "tun_state_live" in line]


class Host(Testbed):
    """A host whose guest is in Debian's QEMU at first"""

    def __init__(self, args, tap):
        super().__init__(args)
        self.tap = tap
        self.guest = None
        self.start = time.monotonic()

    @contextlib.contextmanager
    def step(self, text):
        """Print the result of a step; end at the first that fails."""
        start = time.monotonic()
        try:
            yield
        except (*ERRORS, subprocess.CalledProcessError):
            self.tap.result(False, text)
            raise
        now = time.monotonic()
        print(f"# at {now - self.start:.0f} s, took {now - start:.0f} s")
        self.tap.result(True, text)

    def run_guest(self, binary, more=""):
        # The lab's QEMU has no vmmouse.
        self.guest = self.vm(f"tap,id=net0,queues={self.queues},vnet_hdr=on,"
                             f"ifname={DEV},script=,downscript={more}",
                             "-machine", "vmport=off",
                             binary=binary, kind=self.updatable)
        self.guest.wait_console("tapstate-agent: ready", 300)
        self.start_traffic()

    def start_traffic(self):
        self.traffic = Traffic(HOST, GUEST, self.rate)
        self.traffic.start()
        self.progress()

    def expect_exact(self, most=0):
        """End the traffic: at most so many packets to the guest may be lost."""
        report = self.traffic.finish()
        self.traffic = None
        for line in report.table().splitlines():
            print(f"# {line}")
        lost = report.to_guest.lost
        problems = [p for p in report.problems() if most == 0 or not p.endswith(" lost")]
        if lost > most or report.to_host.lost or problems:
            raise TestbedError("; ".join(problems) or f"{lost} packets lost")
        return lost

    def expect_guest(self):
        """Expect that the guest runs, and packets both ways."""
        if not self.guest.is_running():
            raise TestbedError("the guest's QEMU has ended")
        self.progress()

    def expect_ioctls(self, wanted):
        status, text = output("tapstate", "show", DEV)
        if (status == 0) != wanted:
            raise TestbedError(f"tapstate show: {text}")

    def check(self, kernel):
        """Expect that the check says yes, and a line of it on the kernel."""
        text = must("tapstate", "check", "--qmp", self.guest.socket,
                    "--qemu", PATCHED)
        expect(text, rf"^\S+ +kernel +{kernel}")
        print("".join(f"# {line}\n" for line in text.splitlines()), end="")

    def update(self, binary):
        """Update the guest; expect the same state, and the binary."""
        before = self.saved_state("before")
        must("tapstate", "update", "--quiet", "--qmp", self.guest.socket,
             "--qemu", binary)
        pid = self.guest.get_pid()
        if os.readlink(f"/proc/{pid}/exe") != os.path.realpath(binary):
            raise TestbedError(f"process {pid} is not {binary}")
        self.progress()
        text = must("tapstate", "diff", "--device", before, self.saved_state("after"))
        print(f"# {text.splitlines()[-1]}")

    def saved_state(self, name):
        path = os.path.join(self.logs, f"{name}.json")
        text = must("tapstate", "show", "-j", DEV)
        json.loads(text)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def end_guest(self):
        self.guest.quit()
        self.made_tap = False
        run("ip", "link", "del", DEV)


def running(host):
    with host.step("a guest runs in Debian's QEMU, on Debian's tun, under traffic"):
        expect_tun(OWN_TUN)
        host.make_tap()
        host.run_guest(STOCK)
    with host.step("the check says what the kernel lacks"):
        host.check("tun does not report")
        host.expect_ioctls(False)
    with host.step("the command of the package's postinst loads the live patch"):
        expect(must(LIVE_PATCH, "install"),
               "^tapstate-livepatch-dkms: the live patch is loaded")
        expect_live_patch(True)
    with host.step("the TAP that was open has the ioctls, and the check is green"):
        host.expect_ioctls(True)
        host.check(r"tun reports its state \(live patch\)")
        host.expect_guest()
    with host.step("no packet is lost by that"):
        host.expect_exact()
    with host.step("update from Debian's QEMU to the patched one: the same state"):
        host.start_traffic()
        host.update(PATCHED)
        lost = host.expect_exact(TAKEN_OVER * host.queues)
        print(f"# {lost} packets lost")
    with host.step("update to a second copy of it: the same state, no packet lost"):
        host.start_traffic()
        shutil.copy(PATCHED, SECOND)
        host.update(SECOND)
        host.expect_exact()
    with host.step("remove the live patch from the kernel, and load it, under traffic"):
        host.start_traffic()
        must(LIVE_PATCH, "stop")
        expect_live_patch(False)
        host.expect_ioctls(False)
        expect(must(LIVE_PATCH, "start"), "the live patch is loaded")
        host.expect_ioctls(True)
        host.expect_exact()


def rebooted(host):
    with host.step("after a reboot tun is the module of dkms"):
        expect_tun(DKMS_TUN)
    with host.step("the unit of the live patch has nothing to do, and is silent"):
        with open(UNIT, encoding="utf-8") as file:
            command = re.search("^ExecStart=(.*)$", file.read(), re.MULTILINE)[1]
        text = must(*command.split())
        if text or messages() or loaded("tun_state_live"):
            raise TestbedError("\n".join([text, *messages()]))
    with host.step("a guest in the patched QEMU: the check is green"):
        host.make_tap()
        host.run_guest(PATCHED, ",local-migration-supported=on")
        host.check(r"tun reports its state \(module\)")
    with host.step("update it: the same state, no packet lost"):
        host.update(SECOND)
        host.expect_exact()
    with host.step("purge the module: the guest runs on, and the loaded tun stays"):
        host.start_traffic()
        build_id = build_id_of_tun()
        apt("purge", "tapstate-dkms")
        if os.path.exists(DKMS_TUN) or build_id_of_tun() != build_id:
            raise TestbedError("the module is still there, or tun was loaded again")
        host.expect_ioctls(True)
        host.expect_exact()
    with host.step("without a guest, tun is Debian's when it is loaded again"):
        host.end_guest()
        must("modprobe", "-r", "tun")
        must("modprobe", "tun")
        expect_tun(OWN_TUN)
    with host.step("the unit loads the live patch"):
        host.make_tap()
        host.run_guest(SECOND, ",local-migration-supported=on")
        expect(must(*command.split()), "the live patch is loaded")
        host.expect_ioctls(True)
    with host.step("purge all: the live patch is gone, the guest runs on"):
        apt("purge", "tapstate-livepatch-dkms")
        expect_live_patch(False)
        host.expect_ioctls(False)
        apt("purge", "tapstate")
        host.expect_guest()
        host.expect_exact()


def main():
    parser = testbed_parser(__doc__)
    parser.add_argument("part", choices=["running", "rebooted"])
    # Leave the emulated processor to the installation.
    parser.set_defaults(rate=20)
    args = parser.parse_args()
    os.environ.update(PATH=PATH, DEBIAN_FRONTEND="noninteractive")
    tap = Tap()
    with Host(args, tap) as host:
        try:
            globals()[args.part](host)
        except ERRORS as error:
            host.complain(error)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
