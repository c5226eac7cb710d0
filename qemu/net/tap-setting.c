/*
 * Settings of a TAP queue that are in force
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-kstate.h"
#include "tap-setting.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <linux/if_tun.h>

/* Return the part of TUN_F_* that takes effect in the kernel */
static unsigned int tap_effective_offload(unsigned int offload)
{
    const unsigned int uso = TUN_F_USO4 | TUN_F_USO6;

    if (!(offload & TUN_F_CSUM)) {
        return 0;
    }
    offload &= ~TUN_F_UFO;
    if (!(offload & (TUN_F_TSO4 | TUN_F_TSO6))) {
        offload &= ~TUN_F_TSO_ECN;
    }
    if ((offload & uso) != uso) {
        offload &= ~uso;
    }
    return offload;
}

bool tap_is_tap(int fd)
{
    struct ifreq ifr = { };

    return !ioctl(fd, TUNGETIFF, &ifr) && (ifr.ifr_flags & IFF_TAP);
}

bool tap_setting_read(int fd, TapSetting setting, int *value)
{
    struct ifreq ifr = { };

    switch (setting) {
    case TAP_SETTING_ENABLED:
        if (ioctl(fd, TUNGETIFF, &ifr)) {
            return false;
        }
        *value = !(ifr.ifr_flags & IFF_DETACH_QUEUE);
        return true;
    case TAP_SETTING_VNET_HDR_LEN:
        return !ioctl(fd, TUNGETVNETHDRSZ, value);
    case TAP_SETTING_VNET_LE:
        return !ioctl(fd, TUNGETVNETLE, value);
    case TAP_SETTING_VNET_BE:
        return !ioctl(fd, TUNGETVNETBE, value);
    case TAP_SETTING_SNDBUF:
        return !ioctl(fd, TUNGETSNDBUF, value);
    case TAP_SETTING_OFFLOAD:
        return tap_kstate_get_offload(fd, value);
    default:
        return false;
    }
}

bool tap_setting_has(int fd, TapSetting setting, int value)
{
    int actual;

    if (setting == TAP_SETTING_STEERING) {
        /* A NIC model without a program leaves the attached one alone */
        return value < 0;
    }
    if (setting == TAP_SETTING_OFFLOAD) {
        value = tap_effective_offload(value);
    }
    return tap_setting_read(fd, setting, &actual) && actual == value;
}
