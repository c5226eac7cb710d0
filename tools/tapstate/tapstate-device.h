/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of a tun/tap device as TUNGETSTATE reports it, and as JSON
 */
#ifndef TAPSTATE_STATE_H
#define TAPSTATE_STATE_H

#include <stdbool.h>
#include <sys/types.h>
#include <glib.h>
#include <json-glib/json-glib.h>
#include <linux/filter.h>
#include <linux/if_tun_state.h>

#define TAP_ERROR tap_error_quark()
GQuark tap_error_quark(void);

typedef enum {
    TAP_ERROR_NO_DEVICE,
    TAP_ERROR_NOT_TUN,
    TAP_ERROR_NO_HOLDER,
    TAP_ERROR_NO_KERNEL,
    TAP_ERROR_PERMISSION,
    TAP_ERROR_FORMAT,
    TAP_ERROR_SYSTEM,
} TapError;

/* An open queue: a file descriptor of some process */
typedef struct TapHolder {
    pid_t pid;
    int fd;
    char comm[16];
    bool attached;
    guint32 index; /* like tun_state_queue.index */
} TapHolder;

typedef struct TapState {
    struct tun_state st;
    struct tun_state_queue *queues;
    struct sock_filter *insns;
    struct tun_state_flow *flows;
    GArray *holders; /* of TapHolder */
} TapState;

/* All that the kernel reports, or only which device and queue @fd is */
TapState *tap_state_get(int fd, GError **errp);
bool tap_state_get_queue(int fd, struct tun_state *st, GError **errp);

void tap_state_free(TapState *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapState, tap_state_free)

JsonNode *tap_state_to_json(const TapState *s);

#endif
