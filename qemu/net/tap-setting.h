/*
 * Settings of a TAP queue that are in force
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_TAP_SETTING_H
#define NET_TAP_SETTING_H

#include "tap-local.h"

/**
 * tap_is_tap: return true for a TAP, false for a TUN device
 *
 * @fd: the queue
 */
bool tap_is_tap(int fd);

/**
 * tap_setting_read: read a setting that is in force
 *
 * @fd: the queue
 * @setting: the setting
 * @value: set to its value, as for tap_local_defer()
 *
 * Returns: false when the kernel cannot report it
 */
bool tap_setting_read(int fd, TapSetting setting, int *value);

/**
 * tap_setting_has: return true if a value is in force already
 *
 * @fd: the queue
 * @setting: the setting
 * @value: the value, as for tap_local_defer()
 *
 * Returns: false also when the kernel cannot report the setting
 */
bool tap_setting_has(int fd, TapSetting setting, int value);

#endif /* NET_TAP_SETTING_H */
