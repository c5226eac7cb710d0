#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Update a VM that is the main process of a systemd unit. Print TAP.

The example unit runs a QEMU with a TAP, under a systemd that is process 1 of a
namespace. The lab VM has the cgroups for it.
"""

import json
import os
import signal
import subprocess
import sys
import unittest

import pycotap

from commands import run, wait

UNIT = "tapstate-vm@guest.service"
UNITS = "/run/systemd/system"
RUN = "/run/tapstate-vm/guest"
ARGS = ("-nodefaults -machine q35,memory-backend=mem -m 64 "
        f"-object memory-backend-file,id=mem,size=64M,share=on,mem-path={RUN}/mem "
        "-netdev tap,id=net0,ifname=tap0,script=,downscript="
        ",local-migration-supported=on "
        "-device virtio-net-pci,netdev=net0,romfile=")
# Drop-in of a unit whose main process is the one that systemd starts
SIMPLE = f"""[Service]
Type=simple
PIDFile=
ExecStart=
ExecStart=/usr/bin/qemu-system-x86_64 -display none \
-qmp unix:{RUN}/qmp,server=on,wait=off $ARGS
"""
# Process 1 runs no unit of the distribution. Its target refers to the unit: systemd
# would forget how an unreferenced one ended.
INIT = f"""set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p {UNITS} /etc/tapstate-vm
cp 'packaging/tapstate-vm@.service' {UNITS}
printf '[Unit]\\nDefaultDependencies=no\\nAfter={UNIT}\\n' >{UNITS}/lab.target
ln -sf "$PWD/build/bin/qemu-system-x86_64" /usr/bin/
echo '{"ARGS=" + ARGS}' >/etc/tapstate-vm/guest
exec env -i container=lab /usr/lib/systemd/systemd --system --unit=lab.target \
    --log-target=console --show-status=no
"""


def show(name):
    """Return a property of the unit."""
    return run("systemctl", "show", "-P", name, UNIT).strip()


def main_pid():
    return int(show("MainPID"))


def cgroup():
    """Return the processes of the unit."""
    path = "/sys/fs/cgroup" + show("ControlGroup") + "/cgroup.procs"
    with open(path, encoding="ascii") as file:
        return [int(line) for line in file]


class Systemd(unittest.TestCase):
    def setUp(self):
        run("ip", "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr")
        self.addCleanup(run, "ip", "link", "del", "tap0")
        self.addCleanup(run, "systemctl", "stop", UNIT)

    def start(self, drop_in=""):
        os.makedirs(f"{UNITS}/{UNIT}.d", exist_ok=True)
        with open(f"{UNITS}/{UNIT}.d/lab.conf", "w", encoding="ascii") as file:
            file.write(drop_in)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", UNIT)
        wait(lambda: os.path.exists(f"{RUN}/qmp"), "the QMP socket")
        return main_pid()

    def update(self, *args, status=0):
        return run("tapstate", "update", "--json", "--qmp", f"{RUN}/qmp", *args,
                   status=status)

    def check_runs(self, pid):
        """The unit has this process and no other one, and was not restarted."""
        self.assertEqual((show("ActiveState"), show("SubState"), main_pid(),
                          cgroup(), show("NRestarts")),
                         ("active", "running", pid, [pid], "0"))

    def updates(self):
        """Update twice: the second source was not started by systemd."""
        for _ in range(2):
            before = main_pid()
            result = json.loads(self.update())
            self.assertEqual(result["source"], before)
            self.assertNotEqual(result["target"], before)
            self.check_runs(result["target"])

    def test_unit_without_notify_access(self):
        """An update waits until systemd would take the new main process."""
        self.start("[Service]\nNotifyAccess=none\n" + SIMPLE.partition("\n")[2])
        pid = main_pid()
        out = self.update(status=1)
        self.assertIn(f"{UNIT} has NotifyAccess=none", out)
        self.check_runs(pid)
        with open(f"{UNITS}/{UNIT}.d/z.conf", "w", encoding="ascii") as file:
            file.write("[Service]\nNotifyAccess=all\n")
        self.addCleanup(os.unlink, file.name)
        run("systemctl", "daemon-reload")
        self.updates()

    def check_stop(self):
        pid = main_pid()
        run("systemctl", "stop", UNIT)
        self.assertFalse(os.path.exists(f"/proc/{pid}"))
        self.assertEqual((show("ActiveState"), show("Result"),
                          show("ExecMainCode"), show("ExecMainStatus")),
                         ("inactive", "success", str(os.CLD_EXITED), "0"))
        self.assertFalse(os.path.exists(RUN))

    def test_forking(self):
        self.start()
        self.updates()
        with open(f"{RUN}/pid", encoding="ascii") as file:
            self.assertEqual(int(file.read()), main_pid())
        self.check_stop()

    def test_simple(self):
        self.start(SIMPLE)
        self.updates()
        self.check_stop()

    def test_failed_update(self):
        pid = self.start()
        self.update("--target-arg", "=-device", "--target-arg",
                    "=no-such-device", status=1)
        self.check_runs(pid)
        self.updates()

    def test_restart(self):
        """systemd restarts the VM when the target ends, not the source."""
        self.start()
        self.updates()
        pid = main_pid()
        os.kill(pid, signal.SIGKILL)
        wait(lambda: show("NRestarts") == "1" and
             show("ActiveState") == "active", "a restart")
        self.assertNotIn(pid, cgroup())
        self.assertEqual(cgroup(), [main_pid()])


def outside():
    """Run the tests in the namespaces of a systemd."""
    with open(os.path.join(os.environ["LAB_OUT"], "systemd.log"), "wb") as log, \
            subprocess.Popen(["unshare", "--pid", "--mount", "--fork",
                              "--kill-child", "sh", "-c", INIT],
                             stdin=subprocess.DEVNULL, stdout=log,
                             stderr=log) as init:
        try:
            children = f"/proc/{init.pid}/task/{init.pid}/children"
            with open(children, encoding="ascii") as file:
                wait(lambda: file.seek(0) or file.read(), "a process 1")
                file.seek(0)
                enter = ["nsenter", "-p", "-m", "-t", file.read().strip()]
            wait(lambda: subprocess.run(
                [*enter, "systemctl", "is-active", "-q", "lab.target"],
                check=False).returncode == 0, "systemd")
            return subprocess.run([*enter, sys.executable, __file__, "inside",
                                   *sys.argv[1:]], check=False).returncode
        finally:
            init.kill()


if __name__ == "__main__":
    if sys.argv[1:2] != ["inside"]:
        sys.exit(outside())
    del sys.argv[1]
    unittest.main(testRunner=pycotap.TAPTestRunner(
        test_output_log=pycotap.LogMode.LogToError))
