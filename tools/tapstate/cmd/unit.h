/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The systemd unit that a process belongs to
 */
#ifndef TAPSTATE_UNIT_H
#define TAPSTATE_UNIT_H

#include "process.h"

/* Name of the service, or NULL for none, or one of a user's own systemd */
char *unit_of(pid_t pid);
/* Return whether the process is the main process of the service */
bool unit_main(const char *unit, pid_t pid, char **notify_access);
/*
 * Tell systemd that @now follows @before, its main process, which must still run:
 * only a process of the service may do that.
 */
bool unit_notify(const Process *before, pid_t now);

#endif
