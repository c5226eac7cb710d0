/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Search for a device among the open files of all processes
 */
#ifndef TAPSTATE_FIND_H
#define TAPSTATE_FIND_H

#include "tapstate-device.h"

/* Read the state of @dev through any process that has it open */
TapstateDevice *tapstate_find_device(const char *dev, GError **errp);

/* Read the state of the device that process @pid has open as @fd */
TapstateDevice *tapstate_find_fd(pid_t pid, int fd, GError **errp);

/* Return the name of the device from a /proc/PID/fdinfo/FD, or NULL */
char *tapstate_find_parse_fdinfo(const char *fdinfo);

#endif
