/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of a tun/tap device as TUNGETSTATE reports it, and as JSON
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

/* An open queue: a file descriptor of some process */
typedef struct TapstateHolder {
    pid_t pid;
    int fd;
    char comm[16];
    bool attached;
    guint32 index; /* like tun_state_queue.index */
} TapstateHolder;

typedef struct TapstateDevice {
    struct tun_state st;
    struct tun_state_queue *queues;
    struct sock_filter *insns;
    struct tun_state_flow *flows;
    GArray *holders; /* of TapstateHolder */
} TapstateDevice;

/* All that the kernel reports, or only which device and queue @fd is */
TapstateDevice *tapstate_device_read(int fd, GError **errp);
bool tapstate_device_read_queue(int fd, struct tun_state *st, GError **errp);

void tapstate_device_free(TapstateDevice *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapstateDevice, tapstate_device_free)

JsonNode *tapstate_device_to_json(const TapstateDevice *s);

#endif
