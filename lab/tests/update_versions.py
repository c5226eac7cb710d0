#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run "tapstate update" between two versions of QEMU. Print TAP.

$QEMU_TEST_OTHER_BINARY is the QEMU of another version.
"""

import os
import re
import subprocess

import update

OTHER = os.environ["QEMU_TEST_OTHER_BINARY"]


class Versions(update.UpdateTest):
    """Between two versions of QEMU"""

    def test_there_and_back(self):
        vm = self.vm(machine="pc-q35-10.0")
        for binary in OTHER, "qemu-system-x86_64", OTHER:
            pid = vm.get_pid()
            self.update(vm, "--qemu", binary)
            self.check_updated(vm, pid)

    def test_machine_of_a_newer_qemu(self):
        new, old = sorted((OTHER, "qemu-system-x86_64"), key=self.version,
                          reverse=True)
        vm = self.vm(binary=new)
        out = self.update(vm, "--qemu", old, status=1)
        self.assertIn("does not know machine type pc-q35-", out)
        self.update(vm, "--qemu", new)

    def version(self, binary):
        text = subprocess.run([binary, "--version"], check=True,
                              stdout=subprocess.PIPE, text=True).stdout
        return [int(part) for part in re.findall(r"\d+", text)[:3]]


if __name__ == "__main__":
    update.main()
