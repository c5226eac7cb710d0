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
 * tap_is_tap: whether it is a TAP, not a TUN device
 *
 * @fd: the queue
 */
bool tap_is_tap(int fd);

/**
 * tap_setting_read: read a setting that is in force
 *
 * @fd: the queue
 * @setting: which one
 * @value: where to, as for tap_local_defer()
 *
 * Returns: false when this kernel cannot tell
 */
bool tap_setting_read(int fd, TapSetting setting, int *value);

/**
 * tap_setting_has: whether a setting is in force already
 *
 * @fd: the queue
 * @setting: which one
 * @value: the value asked about, as for tap_local_defer()
 *
 * Returns: false also when this kernel cannot tell
 */
bool tap_setting_has(int fd, TapSetting setting, int value);

#endif /* NET_TAP_SETTING_H */
