#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""usage: show.py DEV

Print the state of a device, with libtapstate by ctypes.
"""

import ctypes
import json
import os
import sys


class GError(ctypes.Structure):
    _fields_ = [("domain", ctypes.c_uint32), ("code", ctypes.c_int),
                ("message", ctypes.c_char_p)]


if len(sys.argv) != 2:
    sys.exit(__doc__.splitlines()[0])
lib = ctypes.CDLL("libtapstate.so.0")
lib.tapstate_get_device.restype = ctypes.c_void_p
lib.tapstate_get_device.argtypes = [
    ctypes.c_char_p, ctypes.POINTER(ctypes.POINTER(GError))]
lib.tapstate_encode.restype = ctypes.c_void_p
lib.tapstate_encode.argtypes = [ctypes.c_void_p, ctypes.c_bool]
lib.tapstate_free.argtypes = lib.free.argtypes = [ctypes.c_void_p]

error = ctypes.POINTER(GError)()
device = lib.tapstate_get_device(os.fsencode(sys.argv[1]), ctypes.byref(error))
if not device:
    sys.exit(error.contents.message.decode())
text = lib.tapstate_encode(device, False)
state = json.loads(ctypes.string_at(text))
lib.free(text)
lib.tapstate_free(device)
print(json.dumps(state["netdev"]))
