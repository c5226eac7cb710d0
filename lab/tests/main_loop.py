# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold the main loop of a QEMU while its migration thread works.

The main loop of a stopped stock QEMU reads one more packet from each TAP queue. It
cannot while its thread is traced and stopped. Whoever may duplicate QEMU's file
descriptors may trace it, too; when the tracer dies, the thread goes on.
"""

import ctypes
import os
import platform

PTRACE_CONT, PTRACE_DETACH = 7, 17
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000
# In ppoll() the thread does not have the big QEMU lock, which others need.
PPOLL = "271" if platform.machine() == "x86_64" else "73"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p,
                         ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request, pid):
    if _libc.ptrace(request, pid, None, None):
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace: {os.strerror(error)}")


class MainLoop:
    """The main thread of process PID; all calls have to come from one thread"""

    def __init__(self, pid):
        self.pid = pid
        _ptrace(PTRACE_SEIZE, pid)

    def hold(self):
        """Stop the thread, and return True, if it waits in ppoll()."""
        _ptrace(PTRACE_INTERRUPT, self.pid)
        os.waitpid(self.pid, WALL)
        with open(f"/proc/{self.pid}/syscall", encoding="ascii") as file:
            if file.read().split()[0] == PPOLL:
                return True
        _ptrace(PTRACE_CONT, self.pid)
        return False

    def release(self):
        _ptrace(PTRACE_DETACH, self.pid)
