/*
 * Stubs of tap-kstate.c, for hosts without TUNGETSTATE
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local.h"
#include "tap-kstate.h"

#include "qapi/error.h"

bool tap_kstate_get(int fd, TapKState *ks, Error **errp)
{
    ks->size = 0;
    return true;
}

bool tap_kstate_hold(int fd, TapKState *ks, Error **errp)
{
    ks->size = 0;
    return true;
}

bool tap_kstate_check(int fd, const TapKState *ks, char **observed,
                      Error **errp)
{
    *observed = NULL;
    error_setg(errp, "this host does not report TAP state");
    return false;
}

bool tap_kstate_restore(int fd, const TapKState *ks, Error **errp)
{
    error_setg(errp, "this host does not report TAP state");
    return false;
}

bool tap_kstate_get_offload(int fd, int *offload)
{
    return false;
}

bool tap_kstate_get_supported(int fd, bool *ufo, bool *uso, bool *tunnel)
{
    return false;
}
