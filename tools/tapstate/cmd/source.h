/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QEMU that runs the guest
 */
#ifndef TAPSTATE_SOURCE_H
#define TAPSTATE_SOURCE_H

#include "command.h"
#include "process.h"
#include "qmp.h"

typedef struct Source {
    char *socket; /* path of its QMP socket, as the caller sees it */
    Qmp *qmp;
    Process *process;
    GPtrArray *options; /* of Option */
    TapstateQueue **queues;
    Netdevs *netdevs;
    JsonArray *tap_states; /* of query-tap-state; NULL on stock QEMU */
    char *machine; /* type with its version, such as pc-q35-10.0 */
    char *status; /* of query-status */
} Source;

/* @pid is that of QEMU, or 0 for the process that listens on the socket */
Source *source_open(const char *socket, pid_t pid, GError **errp);
void source_close(Source *source);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Source, source_close)

/* The member "id" is @id; NULL if QEMU has no hand-over for this netdev */
JsonObject *source_tap_state(const Source *source, const char *id);
/* Queues of a netdev, in its own order; ends in NULL */
TapstateQueue **source_queues(const Source *source, const char *id,
                              const char *fds);
/* QMP socket in the command line of process @pid, or NULL */
char *source_find_socket(pid_t pid, GError **errp);

#endif
