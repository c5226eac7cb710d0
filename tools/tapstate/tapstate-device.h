/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * State of a tun/tap device: as read from the kernel, and as JSON
 */
#ifndef TAPSTATE_DEVICE_H
#define TAPSTATE_DEVICE_H

#include <stdbool.h>
#include <sys/types.h>
#include <glib.h>
#include <json-glib/json-glib.h>
#include <linux/filter.h>
#include <linux/if_tun_state.h>

#define TAPSTATE_ERROR tapstate_error_quark()
GQuark tapstate_error_quark(void);

typedef enum {
    TAPSTATE_ERROR_NO_DEVICE,
    TAPSTATE_ERROR_NOT_TUN,
    TAPSTATE_ERROR_NO_HOLDER,
    TAPSTATE_ERROR_NO_KERNEL,
    TAPSTATE_ERROR_PERMISSION,
    TAPSTATE_ERROR_FORMAT,
    TAPSTATE_ERROR_SYSTEM,
} TapstateError;

/* File descriptor of a process that has a queue open */
typedef struct TapstateHolder {
    pid_t pid;
    int fd;
    char comm[16];
    bool attached;
    guint32 index; /* like tun_state_queue.index */
    gint32 sndbuf;
} TapstateHolder;

typedef struct TapstateDevice {
    struct tun_state st;
    struct tun_state_queue *queues;
    struct sock_filter *insns;
    struct tun_state_flow *flows;
    GArray *holders; /* of TapstateHolder */
} TapstateDevice;

/* Read all groups through the queue @fd */
TapstateDevice *tapstate_device_read(int fd, GError **errp);

/* Read identity, send buffer and queue only, which are cheap */
bool tapstate_device_read_queue(int fd, struct tun_state *st, GError **errp);

void tapstate_device_free(TapstateDevice *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapstateDevice, tapstate_device_free)

/* Version of the JSON, which is its member "tapstate" */
#define TAPSTATE_FORMAT 2

JsonNode *tapstate_device_to_json(const TapstateDevice *s);

#endif
