/*
 * Hand-over of a TAP: pending packets
 *
 * QEMU has read such a packet but not delivered it, or not yet written it. Only
 * a VM that stops leaves any. They travel along with the queue.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "trace.h"

/* Limit of pending packets of a guest, for a TAP that blocks */
#define TAP_PENDING_MAX_SENT (16 * MiB)

static void tap_pending_drop_part(uint8_t **data, uint32_t *size)
{
    g_clear_pointer(data, g_free);
    *size = 0;
}

static void tap_pending_drop_received(TapPending *pending)
{
    tap_pending_drop_part(&pending->received, &pending->received_size);
}

void tap_pending_drop(TapPending *pending)
{
    tap_pending_drop_received(pending);
    tap_pending_drop_part(&pending->sent, &pending->sent_size);
}

void tap_pending_keep_received(TapLocalQueue *queue, const uint8_t *data,
                               size_t size)
{
    if (tap_local_may_read(queue)) {
        return;
    }
    tap_pending_drop_received(&queue->pending);
    queue->pending.received = g_memdup2(data, size);
    queue->pending.received_size = size;
    trace_tap_pending_keep(queue->netdev->id, queue->index, "received", size);
}

bool tap_pending_has_received(const TapLocalQueue *queue)
{
    return queue && queue->pending.received_size && tap_local_may_read(queue);
}

/* Count a packet that came along, or was kept here */
static void tap_pending_delivered(TapLocalQueue *queue, const char *what,
                                  size_t size)
{
    queue->netdev->delivered++;
    trace_tap_pending_deliver(queue->netdev->id, queue->index, what, size);
}

size_t tap_pending_take_received(TapLocalQueue *queue, uint8_t *buf)
{
    size_t size = queue ? queue->pending.received_size : 0;

    if (size) {
        memcpy(buf, queue->pending.received, size);
        tap_pending_drop_received(&queue->pending);
        tap_pending_delivered(queue, "received", size);
    }
    return size;
}

void tap_pending_link_changed(TapLocalQueue *queue)
{
    TapLocalQueue *other;

    if (!queue || !queue->s->nc.link_down) {
        return;
    }
    QTAILQ_FOREACH(other, &queue->netdev->queues, next) {
        tap_pending_drop_received(&other->pending);
    }
}

bool tap_pending_keep_sent(TapLocalQueue *queue, const struct iovec *iov,
                           int iovcnt)
{
    size_t size = iov_size(iov, iovcnt);
    TapPending *pending;

    if (tap_local_may_read(queue)) {
        return false;
    }
    if (!size || size > NET_BUFSIZE) {
        /* Not an Ethernet frame: targets would refuse it */
        return true;
    }

    pending = &queue->pending;
    if (pending->sent_size + sizeof(uint32_t) + size > TAP_PENDING_MAX_SENT) {
        error_report("netdev '%s' queue %u: packets from the guest are lost: "
                     "more than %" PRIu64 " bytes wait for the TAP",
                     queue->netdev->id, queue->index,
                     (uint64_t)TAP_PENDING_MAX_SENT);
        return false;
    }
    pending->sent = g_realloc(pending->sent,
                              pending->sent_size + sizeof(uint32_t) + size);
    stl_be_p(pending->sent + pending->sent_size, size);
    iov_to_buf(iov, iovcnt, 0,
               pending->sent + pending->sent_size + sizeof(uint32_t), size);
    pending->sent_size += sizeof(uint32_t) + size;
    trace_tap_pending_keep(queue->netdev->id, queue->index, "sent", size);
    return true;
}

bool tap_pending_flush_sent(TapLocalQueue *queue)
{
    TapPending *pending;
    uint32_t done = 0;

    if (!queue || !queue->pending.sent_size) {
        return true;
    }
    if (!tap_local_may_change(queue)) {
        return false;
    }
    pending = &queue->pending;
    while (done < pending->sent_size) {
        uint32_t size = ldl_be_p(pending->sent + done);
        struct iovec iov = {
            .iov_base = pending->sent + done + sizeof(uint32_t),
            .iov_len = size,
        };

        if (!tap_write_packet(queue->s, &iov, 1)) {
            pending->sent_size -= done;
            memmove(pending->sent, pending->sent + done, pending->sent_size);
            return false;
        }
        tap_pending_delivered(queue, "sent", size);
        done += sizeof(uint32_t) + size;
    }
    tap_pending_drop_part(&pending->sent, &pending->sent_size);
    return true;
}

void tap_pending_flush_all_sent(TapLocalQueue *queue)
{
    int fd = queue->s->fd, sndbuf;

    if (tap_pending_flush_sent(queue) || !tap_local_may_change(queue) ||
        tap_fd_get_sndbuf(fd, &sndbuf)) {
        return;
    }
    tap_local_set_sndbuf(fd, INT_MAX);
    tap_pending_flush_sent(queue);
    tap_local_set_sndbuf(fd, sndbuf);
}

unsigned int tap_pending_count(const TapPending *pending)
{
    unsigned int count = !!pending->received_size;

    for (uint32_t at = 0; at < pending->sent_size; count++) {
        at += sizeof(uint32_t) + ldl_be_p(pending->sent + at);
    }
    return count;
}

static bool tap_pending_may_travel(const TapLocalQueue *queue)
{
    return queue->netdev->kernel_state != ON_OFF_AUTO_OFF;
}

void tap_pending_prepare_save(TapLocalQueue *queue)
{
    unsigned int count;

    if (tap_pending_may_travel(queue)) {
        return;
    }
    tap_pending_flush_all_sent(queue);
    count = tap_pending_count(&queue->pending);
    if (count) {
        warn_report("netdev '%s' queue %u: %u pending packet(s) are lost if the "
                    "guest runs on the target: kernel-state=off sends none",
                    queue->netdev->id, queue->index, count);
    }
}

/* The stream may have the subsection more than once */
static int tap_pending_pre_load(void *opaque)
{
    TapLocalQueue *queue = opaque;

    tap_pending_drop(&queue->pending);
    return 0;
}

static bool tap_pending_needed(void *opaque)
{
    TapLocalQueue *queue = opaque;

    return tap_pending_may_travel(queue) &&
           (queue->pending.received_size || queue->pending.sent_size);
}

static char *tap_pending_find_damage(const TapPending *pending)
{
    const uint8_t *data = pending->sent;

    if (pending->received_size > NET_BUFSIZE) {
        return g_strdup_printf("a received packet of %u bytes, and there can "
                               "be %u", pending->received_size, NET_BUFSIZE);
    }
    if (pending->sent_size > TAP_PENDING_MAX_SENT) {
        return g_strdup_printf("packets to send of %u bytes, and there can be "
                               "%u", pending->sent_size,
                               (unsigned int)TAP_PENDING_MAX_SENT);
    }
    for (uint32_t left = data ? pending->sent_size : 0, size; left;) {
        size = left > sizeof(size) ? ldl_be_p(data) : 0;
        if (!size || size > NET_BUFSIZE || size > left - sizeof(size)) {
            return g_strdup_printf("packets to send whose lengths are not "
                                   "those of the %u bytes that they have",
                                   pending->sent_size);
        }
        left -= sizeof(size) + size;
        data += sizeof(size) + size;
    }
    return NULL;
}

/* Check the fields so far: sizes before their data, and sent data at the end */
static bool tap_pending_valid(void *opaque, int version_id)
{
    TapLocalQueue *queue = opaque;
    g_autofree char *damage = tap_pending_find_damage(&queue->pending);
    Error *err = NULL;

    if (damage) {
        /* vmstate_load_state() does not know netdev and queue */
        error_setg(&err, "netdev '%s' queue %u: the stream holds %s: it is "
                   "damaged, or from a newer QEMU", queue->netdev->id,
                   queue->index, damage);
        migration_report_error(err);
    }
    return !damage;
}

const VMStateDescription vmstate_net_tap_pending = {
    .name = "net-tap/pending",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = tap_pending_needed,
    .pre_load = tap_pending_pre_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(pending.received_size, TapLocalQueue),
        VMSTATE_VALIDATE("size", tap_pending_valid),
        VMSTATE_VBUFFER_ALLOC_UINT32(pending.received, TapLocalQueue, 1, NULL,
                                     pending.received_size),
        VMSTATE_UINT32(pending.sent_size, TapLocalQueue),
        VMSTATE_VALIDATE("size", tap_pending_valid),
        VMSTATE_VBUFFER_ALLOC_UINT32(pending.sent, TapLocalQueue, 1, NULL,
                                     pending.sent_size),
        VMSTATE_VALIDATE("lengths of packets", tap_pending_valid),
        VMSTATE_END_OF_LIST()
    }
};
