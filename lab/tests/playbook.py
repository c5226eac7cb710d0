#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the playbook for a fleet on two plain Debian hosts. Print TAP.

A host is a root directory of Debian 13 of its own, which Ansible enters by its connection
"chroot". Real are Ansible, apt and DKMS with the packages of build/deb, the tool, and QEMUs,
whose guests have a BIOS, but no operating system. Not real: both hosts have this
machine's kernel, whose tun is not patched, and for which DKMS builds nothing.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import traceback

from commands import run
from qemu_vm import ERRORS, UpdatableVm
from tap_output import Tap

HOST = "/tapstate/build/host"
DEB = "/tapstate/build/deb"
PLAYBOOK = "/tapstate/packaging/ansible/update.yml"
QEMU = "/tapstate/build/bin/qemu-system-x86_64"
STOCK = "/usr/bin/qemu-system-x86_64"
NAMES = "tapstate", "tapstate-livepatch-dkms", "tapstate-dkms"
TOP = "/tmp/fleet"
ENVIRONMENT = {"ANSIBLE_HOME": f"{TOP}/ansible", "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8",
               "NO_COLOR": "1", "HOME": TOP}
# "one" comes first.
HOSTS = {"one": 3, "two": 3}
# Methods of Test, of which each also works alone
PARTS = ("lint", "wrong_input", "unverified", "guest_fails_check", "guest_fails_update",
         "no_connection", "update")


def process_start(pid):
    """Return when a process was started, in ticks of the kernel's clock."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])


class HostVm(UpdatableVm):
    """A guest of a host: its QEMU and its files are in the host's root"""

    def __init__(self, root, host, number, *more, binary=QEMU):
        name, self.device = f"vm{number}", f"{host}{number}"
        # The state of a new TAP differs from that.
        run("ip", "tuntap", "add", self.device, "mode", "tap", "multi_queue", "vnet_hdr")
        run("ip", "link", "set", self.device, "mtu", "1400", "up")
        run("ethtool", "-K", self.device, "tso", "off")
        option = ",local-migration-supported=on" if binary == QEMU else ""
        super().__init__(name, [
            "-m", "64", "-machine", "q35,vmport=off,memory-backend=mem", "-object",
            f"memory-backend-file,id=mem,size=64M,share=on,mem-path=/run/{name}.memory",
            "-netdev", f"tap,id=net0,ifname={self.device},queues=2,script=,downscript="
            f"{option}", "-device", "virtio-net-pci,netdev=net0,mq=on,romfile=", *more],
            "/run", binary)
        for path in "socket", "pid_file", "console_path", "log_path":
            setattr(self, path, root + getattr(self, path))
        self.start("chroot", root)

    def binary(self):
        return os.readlink(f"/proc/{self.get_pid()}/exe")

    def state(self):
        """Return the settings of the TAP, and the guest's as QEMU knows it."""
        return (run("ip", "-d", "link", "show", "dev", self.device),
                run("ethtool", "-k", self.device), self.cmd("query-status"),
                self.cmd("query-rx-filter"), self.cmd("query-pci"))


class Host:
    """A root directory with guests"""

    def __init__(self, name, guests):
        self.name, self.root = name, f"{TOP}/{name}"
        layers = f"{TOP}/layers/{name}"
        for path in self.root, f"{layers}/upper", f"{layers}/work":
            os.makedirs(path)
        run("mount", "-t", "overlay", name, "-o", f"lowerdir={HOST}/drawn-in:{HOST}/root,"
            f"upperdir={layers}/upper,workdir={layers}/work", self.root)
        for path in "dev", "proc", "tapstate":
            run("mount", "--rbind", f"/{path}", f"{self.root}/{path}")
        for path in "run", "tmp":
            run("mount", "-t", "tmpfs", path, f"{self.root}/{path}")
        self.vms = []
        for number in range(1, guests + 1):
            self.add_guest(number)

    def add_guest(self, number):
        """The second guest's target does not start once its file is gone."""
        more = []
        if number == 2:
            self.needed = f"{self.root}/run/needed"
            self.restore_needed()
            more = ["-fw_cfg", "name=opt/needed,file=/run/needed"]
        self.vms.append(HostVm(self.root, self.name, number, *more,
                               binary=STOCK if number == 3 else QEMU))

    def restore_needed(self):
        with open(self.needed, "w", encoding="ascii") as file:
            file.write("needed")

    def pids(self):
        return [vm.get_pid() for vm in self.vms]

    def states(self):
        return [vm.state() for vm in self.vms]

    def run(self, *command, status=0):
        return run("chroot", self.root, *command, status=status)

    def files(self):
        """Return all that was written to the host's disk."""
        return sorted(os.path.join(top, name)
                      for top, _, names in os.walk(f"{TOP}/layers/{self.name}/upper")
                      for name in names if not name.endswith(".pyc"))

    def has_packages(self):
        states = subprocess.run(
            ["chroot", self.root, "dpkg-query", "-W", "-f", "${db:Status-Status} ", *NAMES],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            check=False).stdout.split()
        return states == ["installed"] * len(NAMES)

    def all_run(self):
        """Return if each guest runs, and no file of an update is left."""
        return all(vm.cmd("query-status")["running"] for vm in self.vms) and \
            not [name for name in os.listdir(f"{self.root}/run") if ".tapstate" in name]

    def end(self):
        for vm in self.vms:
            vm.kill()


class Play:
    """A run of the playbook"""

    def __init__(self, *args, hosts=tuple(HOSTS), check=(), **variables):
        variables = {"packages": DEB, "qemu": QEMU, "sockets": "/run/*.qmp", **variables}
        inventory = f"{TOP}/hosts"
        with open(inventory, "w", encoding="ascii") as file:
            for name in hosts:
                file.write(f"{name} ansible_host={TOP}/{name} ansible_become=false"
                           " ansible_connection=community.general.chroot\n")
        result = subprocess.run(
            ["ansible-playbook", "-i", inventory, PLAYBOOK, *args, *check, "-e",
             json.dumps({k: v for k, v in variables.items() if v is not None})],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, check=False, env={**os.environ, **ENVIRONMENT})
        self.status, self.out = result.returncode, result.stdout

    def messages(self):
        return re.findall(r'^(?:fatal|failed): \[.*?"msg": "((?:[^"\\]|\\.)*)"', self.out,
                          re.MULTILINE)

    def says(self, text):
        """Return if it failed with this sentence, in the only message of a failure."""
        messages = self.messages()
        return self.status != 0 and len(messages) == 1 and text in messages[0]

    def results(self, task):
        """Return {host: result} of a task without a loop."""
        part = self.out.partition(f"TASK [{task}]")
        words = {}
        while part[1]:
            text, *rest = part[2].partition("TASK [")
            words.update((host, word) for word, host in re.findall(
                r"^(ok|changed|fatal|failed|skipping): \[(\w+)\]", text, re.MULTILINE))
            part = ("".join(rest)).partition(f"TASK [{task}]")
        return words

    def hosts(self):
        """Return the hosts of all results, in order, each once in a row."""
        names = re.findall(r"^(?:ok|changed|fatal|failed): \[(\w+)\]", self.out, re.MULTILINE)
        return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


class Test:
    def __init__(self, tap):
        self.tap = tap
        self.play = None
        self.hosts = {}

    def check(self, text, good):
        if not good and self.play:
            for line in self.play.out.splitlines()[-80:]:
                print(f"## {line}")
        self.tap.result(bool(good), text)

    def run(self, text, good, **variables):
        """Run the playbook, and check what it says, or that it succeeds."""
        self.play = Play(**variables)
        for message in self.play.messages():
            print(f"# {message}", flush=True)
        self.check(text, self.play.says(good) if good else self.play.status == 0)

    def lint(self):
        shutil.copytree(os.path.dirname(PLAYBOOK), f"{TOP}/lint")
        for name, *options in (
                ("ansible-lint", "--offline", "--strict", "--profile", "production"),
                ("ansible-playbook", "--syntax-check", "-i", "localhost,")):
            result = subprocess.run([name, *options, "update.yml"], cwd=f"{TOP}/lint", text=True, check=False,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                    env={**os.environ, **ENVIRONMENT})
            for line in result.stdout.splitlines():
                print(f"## {line}")
            self.check(f"{name} {options[0]}", result.returncode == 0)

    @contextlib.contextmanager
    def untouched(self, name, text, disk=True):
        """Check that a host's guests, and its disk, are as they were."""
        host = self.hosts[name]
        before = host.pids(), host.states(), host.files() if disk else None
        yield
        now = host.pids(), host.states(), host.files() if disk else None
        for old, new in zip(before, now):
            if old != new:
                print(f"# {name}: {old} != {new}")
        self.check(f"{text}: {name} is untouched", before == now)

    def wrong_input(self):
        empty, double, plain = f"{TOP}/empty", f"{TOP}/double", f"{TOP}/none"
        os.mkdir(empty)
        os.mkdir(double)
        for name in os.listdir(DEB):
            if name.endswith(".deb"):
                os.symlink(f"{DEB}/{name}", f"{double}/{name}")
        os.symlink(f"{DEB}/log", f"{double}/tapstate_0.1_amd64.deb")
        no_directory = "no such directory on this machine; name that of the packages"
        no_qemu = "no such program on one; install the patched QEMU there"
        no_socket = "matches no QMP socket on one; name those of its guests"
        for text, sentence, variables in (
                ("no directory given", no_directory, {"packages": None}),
                ("a directory that is not there", f"packages={plain}: {no_directory}",
                 {"packages": plain}),
                ("a relative directory", no_directory, {"packages": "build/deb"}),
                ("a directory without packages", f"{empty} has 0 files tapstate_*.deb, 0 files tapstate-livepatch-dkms_*.deb, "
                 "0 files tapstate-dkms_*.deb, and one of each is wanted",
                 {"packages": empty}),
                ("two versions of a package", f"{double} has 2 files tapstate_*.deb, and one of each",
                 {"packages": double}),
                ("no QEMU given", no_qemu, {"qemu": None}),
                ("a QEMU that is not there", f"qemu=/usr/bin/none: {no_qemu}",
                 {"qemu": "/usr/bin/none"}),
                ("a QEMU that is no program", no_qemu, {"qemu": "/etc/passwd"}),
                ("a pattern without sockets", f"sockets=/run/*.none {no_socket}",
                 {"sockets": "/run/*.none"}),
                ("a pattern of other files", no_socket, {"sockets": "/run/*.pid"}),
                ("a dry run", "--check cannot tell", {"check": ("--check",)})):
            with self.untouched("one", text), self.untouched("two", text):
                self.run(f"{text} is said", sentence, **variables)

    def unverified(self):
        text = "a kernel that does not report"
        with self.untouched("one", text, disk=False), self.untouched("two", text):
            self.run(f"{text}: the host and the remedy are named",
                     "one: its kernel does not report the state of TAPs, so that no update "
                     "would be verified (tapstate-livepatch-dkms: ")
            self.check(f"{text}: the variable is named",
                       self.play.says("-e accept_unverified=true"))
        self.check(f"{text}: the packages are on one", self.hosts["one"].has_packages())
        self.check(f"{text}: there are none on two", not self.hosts["two"].has_packages())

    def guest_fails_check(self):
        text = "a guest fails its check"
        guest = self.hosts["one"].vms[2]  # the last one: it is checked in time
        guest.cmd("stop")
        with self.untouched("one", text, disk=False), self.untouched("two", text):
            self.run(f"{text}: the guest and the remedy are named",
                     "one: /run/vm3.qmp cannot be updated: ", accept_unverified=True)
            self.check(f"{text}: the remedy is that of the tool", self.play.says("'cont'"))
        guest.cmd("cont")

    def guest_fails_update(self):
        text = "a guest fails its update"
        host = self.hosts["one"]
        count = "3 guests: 1 done, 1 failed, 1 not tried"
        os.unlink(host.needed)
        before, states = host.pids(), host.states()
        with self.untouched("two", text):
            self.run(f"{text}: the guest is named", "one: /run/vm2.qmp ",
                     accept_unverified=True)
            self.check(f"{text}: it is said that it was not updated",
                       self.play.says(count))
        pids = host.pids()
        self.check(f"{text}: the guest before it is in a new QEMU", pids[0] != before[0])
        self.check(f"{text}: it, and the guest after it, are in their old ones",
                   pids[1:] == before[1:])
        self.check(f"{text}: all run, with the same state",
                   host.all_run() and host.states() == states)
        host.restore_needed()

    def no_connection(self):
        text = "a host without connection"
        with self.untouched("two", text):
            self.run(f"{text} is named", f"{TOP}/gone", hosts=("gone", "two"),
                     accept_unverified=True)

    def update(self):
        hosts = self.hosts.values()
        for text in "update", "update again":
            words = {host.name: "ok" if host.has_packages() else "changed" for host in hosts}
            pids = {host.name: host.pids() for host in hosts}
            states = {host.name: host.states() for host in hosts}
            self.run(f"{text}: no failure", "", accept_unverified=True)
            self.check(f"{text}: one host after the other", self.play.hosts() == ["one", "two"])
            self.check(f"{text}: packages are installed where they were not",
                       self.play.results("Install the packages") == words)
            for host in hosts:
                name = f"{text}: {host.name}"
                self.check(f"{name}: has the packages", host.has_packages())
                self.check(f"{name}: all guests are in new QEMUs",
                           not set(pids[host.name]) & set(host.pids()))
                self.check(f"{name}: these are patched",
                           all(vm.binary().endswith(QEMU) for vm in host.vms))
                self.check(f"{name}: all guests run", host.all_run())
                self.check(f"{name}: their state is the same",
                           host.states() == states[host.name])
            self.check(f"{text}: all QEMUs of one are older than those of two",
                       max(map(process_start, self.hosts["one"].pids())) <
                       min(map(process_start, self.hosts["two"].pids())))

    def all(self, parts):
        for name, guests in HOSTS.items():
            self.hosts[name] = Host(name, guests)
        for part in parts:
            getattr(self, part)()


def main():
    parts = sys.argv[1:] or PARTS
    if set(parts) - set(PARTS):
        sys.exit(f"usage: playbook.py [PART...], of {', '.join(PARTS)}")
    if not os.path.exists(f"{DEB}/.built"):
        sys.exit("build/deb is not there: run make deb")
    os.makedirs(TOP)
    tap = Tap()
    test = Test(tap)
    try:
        test.all(parts)
    except (AssertionError, *ERRORS):
        for line in traceback.format_exc().splitlines():
            print(f"## {line}")
        tap.result(False, "no error")
    finally:
        for host in test.hosts.values():
            host.end()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
