# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with one libvirtd or two, in namespaces of a test

libvirt has Debian's defaults, but gives QEMU no mount namespace: in a chroot that
would have the devices of another root directory. It writes to overlays of /etc and
/var, and has a /dev of its own, as it changes owners there.
"""

import contextlib
import os
import re
import signal
import subprocess

from commands import run, wait

NAME = "guest"
# What libvirt knows of the domain that runs
STATUS = f"/run/libvirt/qemu/{NAME}.xml"
# Directory of a second libvirtd
SECOND = "/tmp/second"
FIRST_URI = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
SECOND_URI = f"qemu+unix:///system?socket={SECOND}/libvirt-sock"

# Give the shell that runs this, and its libvirtd, files of their own.
VIEW = """set -e
view() { # DIRECTORY: where the files are
    for dir in etc var; do
        mkdir -p "$1/$dir" "$1/$dir.work"
        mount -t overlay overlay "/$dir" \\
            -o "lowerdir=/$dir,upperdir=$1/$dir,workdir=$1/$dir.work"
    done
    mount -t tmpfs -o mode=755 tmpfs /run
    rm -rf /var/lib/libvirt/qemu/domain-*
}
"""
# This shell is process 1, and reaps QEMUs whose libvirtd has ended.
INIT = VIEW + """mount -t proc proc /proc
view /tmp/first
mount -t tmpfs -o mode=755 tmpfs /dev
mkdir /dev/net /dev/pts /dev/shm
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" \\
        "net/tun 10 200"; do
    mknod -m 666 "/dev/${device%% *}" c ${device#* }
done
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
mount -t tmpfs tmpfs /dev/shm
echo 'namespaces = []' >>/etc/libvirt/qemu.conf
cp "$LAB_GUEST_KERNEL" /tmp/vmlinux
cp "$LAB_GUEST_INITRD" /tmp/initrd
virtlogd -d
python3 "$0" inside "$@"
exit $?
"""
INIT_SECOND = VIEW + f"""view {SECOND}
hostname second
cat >>/etc/libvirt/libvirtd.conf <<END
host_uuid = "5ec05ec0-0000-4000-8000-000000000002"
unix_sock_dir = "{SECOND}"
END
virtlogd -d
exec libvirtd -d -p {SECOND}/libvirtd.pid
"""


def enter_host(program, *args):
    """Run a program there, with the argument "inside"; return its status."""
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "unchanged", "--uts", "--pid",
         "--fork", "--kill-child", "sh", "-c", INIT, program, *args],
        check=False).returncode


def succeeds(*command):
    return subprocess.run(command, capture_output=True,
                          check=False).returncode == 0


def virsh(*args, uri=FIRST_URI, status=0):
    return run("virsh", "-q", "-c", uri, *args, status=status).strip()


def destroy(uri=FIRST_URI):
    """End the domain if it is there."""
    succeeds("virsh", "-c", uri, "destroy", NAME)


def start_libvirtd():
    run("libvirtd", "-d")
    wait(lambda: succeeds("virsh", "-c", FIRST_URI, "uri"), "libvirtd")


def start_second_libvirtd():
    run("unshare", "--mount", "--propagation", "unchanged", "--uts", "sh", "-c",
        INIT_SECOND)
    wait(lambda: succeeds("virsh", "-c", SECOND_URI, "uri"), "a second libvirtd")


def stop_libvirtd(directory="/run"):
    """Stop it; its domains run on."""
    with open(f"{directory}/libvirtd.pid", encoding="ascii") as file:
        pid = int(file.read())
    os.kill(pid, signal.SIGTERM)
    wait(lambda: not os.path.exists(f"/proc/{pid}"), "the end of libvirtd")


@contextlib.contextmanager
def stopped_libvirtd():
    stop_libvirtd()
    try:
        yield
    finally:
        start_libvirtd()


def find_in_status(pattern):
    with open(STATUS, encoding="utf-8") as file:
        return re.search(pattern, file.read()).group(1)


def pid_of_guest():
    return int(find_in_status(r"<domstatus [^>]*\bpid='(\d+)'"))


def monitor():
    return find_in_status(r"<monitor path='([^']*)'")
