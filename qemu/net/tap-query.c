/*
 * QMP query-tap-state: the hand-over of TAP netdevs
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include "net/tap.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-net.h"

static TapStateInfo *tap_query_one(const TapLocal *local)
{
    TapStateInfo *info = g_new0(TapStateInfo, 1);
    TapQueueInfoList **tail = &info->queues;

    *info = (TapStateInfo) {
        .id = g_strdup(local->id),
        .hand_over = local->state,
        .may_resume = local->state != TAP_HAND_OVER_WAITING &&
                      local->state != TAP_HAND_OVER_HANDED_OVER,
        .may_quit = local->state != TAP_HAND_OVER_OWNER &&
                    local->state != TAP_HAND_OVER_SUSPENDED,
        .ifname = local->ifname[0] ? g_strdup(local->ifname) : NULL,
        .unverified = g_strdup(local->unverified),
        .observed = g_strdup(local->observed),
        .restored = g_strdup(local->restored),
        .restore_failed = g_strdup(local->failed),
        .carried = local->carried,
        .delivered = local->delivered,
    };
    for (unsigned int i = 0; i < local->queues->len; i++) {
        const TapLocalQueue *queue = tap_local_queue(local, i);
        TapQueueInfo *q = g_new0(TapQueueInfo, 1);
        struct tun_state st;

        q->enabled = queue->s->enabled;
        q->gone = queue->s->fd >= 0 &&
                  !tap_kstate_read(queue->s->fd, false, &st, NULL, NULL);
        q->pending_received = queue->pending.received_size;
        q->pending_sent = queue->pending.sent_size;
        QAPI_LIST_APPEND(tail, q);
    }
    return info;
}

TapStateInfoList *qmp_query_tap_state(const char *id, Error **errp)
{
    g_autofree NetClientState **ncs = NULL;
    TapStateInfoList *list = NULL, **tail = &list;
    bool found = false;
    int n;

    n = qemu_find_net_clients_except(id, NULL, NET_CLIENT_DRIVER_NIC, 0);
    ncs = g_new(NetClientState *, n);
    qemu_find_net_clients_except(id, ncs, NET_CLIENT_DRIVER_NIC, n);

    for (int i = 0; i < n; i++) {
        TapLocalQueue *queue;

        if (ncs[i]->info->type != NET_CLIENT_DRIVER_TAP) {
            continue;
        }
        found = true;
        queue = tap_get_local_queue(ncs[i]);
        if (queue && !queue->index) {
            QAPI_LIST_APPEND(tail, tap_query_one(queue->netdev));
        }
    }
    if (id && !found) {
        error_setg(errp, "there is no TAP netdev '%s'", id);
    }
    return list;
}
