/*
 * Stubs of tap-setting.c, for hosts that cannot report settings
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-setting.h"

bool tap_is_tap(int fd)
{
    return true;
}

bool tap_setting_read(int fd, TapSetting setting, int *value)
{
    return false;
}

bool tap_setting_has(int fd, TapSetting setting, int value)
{
    return false;
}
