/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the queues of a device are open
 */
#ifndef TAPSTATE_FIND_H
#define TAPSTATE_FIND_H

#include "tapstate-device.h"

/* The state of @dev, through whichever process has it open */
TapstateDevice *tapstate_find_device(const char *dev, GError **errp);

/* The state of the device behind file descriptor @fd of process @pid */
TapstateDevice *tapstate_find_fd(pid_t pid, int fd, GError **errp);

/* The device that a /proc/PID/fdinfo/FD is about, or NULL */
char *tapstate_find_parse_fdinfo(const char *fdinfo);

#endif
