/*
 * QMP query-tap-state: the hand-over of TAP netdevs
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include "qapi/error.h"
#include "qapi/qapi-commands-net.h"

static TapStateInfo *tap_query_one(const TapLocal *local)
{
    TapStateInfo *info = g_new0(TapStateInfo, 1);
    TapQueueInfoList **tail = &info->queues;
    const TapLocalQueue *queue;

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
    QTAILQ_FOREACH(queue, &local->queues, next) {
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
    TapStateInfoList *list = NULL, **tail = &list;
    TapLocal *local;

    QTAILQ_FOREACH(local, &tap_locals, next) {
        if ((!id || !strcmp(id, local->id)) && !tap_local_is_deleted(local)) {
            QAPI_LIST_APPEND(tail, tap_query_one(local));
        }
    }
    if (id && !list) {
        error_setg(errp, "there is no TAP netdev '%s' that can be handed over",
                   id);
    }
    return list;
}
