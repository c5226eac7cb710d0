/*
 * Hand-over of a TAP: its section of the migration stream
 *
 * Section net-tap holds the file descriptor of a queue, the part of its kernel
 * state that a target verifies, and pending packets. A target trusts none of it.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include "migration/vmstate.h"
#include "qapi/error.h"
#include "trace.h"

static int tap_stream_fail(TapLocalQueue *queue, Error *err)
{
    error_prepend(&err, "netdev '%s' queue %u: ", queue->netdev->id,
                  queue->index);
    migration_report_error(err);
    return -EINVAL;
}

/* Send settings of the device, not deferred ones: the target compares them */
static int tap_stream_pre_save(void *opaque)
{
    TapLocalQueue *queue = opaque;
    const struct tun_state *st = &queue->st[TAP_KEPT];
    TAPState *s = queue->s;
    Error *err = NULL;

    /* All queues at once: a setting of one may apply to the device */
    if (!queue->netdev->offered && !tap_local_suspend(queue->netdev, &err)) {
        return tap_stream_fail(queue, err);
    }
    queue->stream = (TapStream) {
        .fd = s->fd,
        .using_vnet_hdr = s->using_vnet_hdr,
        .has_ufo = s->has_ufo,
        .has_uso = s->has_uso,
        .has_tunnel = s->has_tunnel,
        .enabled = st->queue.flags & TUN_STATE_QUEUE_ATTACHED,
        .host_vnet_hdr_len = s->host_vnet_hdr_len ? st->vnet.hdr_size : 0,
    };
    queue->steering = queue->netdev->steering;
    queue->ks.size = 0;
    if (st->supported && queue->netdev->kernel_state != ON_OFF_AUTO_OFF) {
        tap_kstate_encode(st, &queue->ks);
    }
    trace_tap_stream_save(queue->netdev->id, queue->index, s->fd,
                          queue->ks.size, queue->pending.received_size,
                          queue->pending.sent_size);
    return 0;
}

static int tap_stream_pre_load(void *opaque)
{
    TapLocalQueue *queue = opaque;
    Error *err = NULL;

    /* A load must not overwrite a queue in use */
    if (queue->netdev->state != TAP_HAND_OVER_WAITING) {
        error_setg(&err, "its file descriptor came with the stream, but this "
                   "QEMU has one: use incoming-fds=on, without shared-fds=");
        return tap_stream_fail(queue, err);
    }
    if (queue->arrived) {
        error_setg(&err, "it is twice in the migration stream");
        return tap_stream_fail(queue, err);
    }
    if (!queue->index) {
        tap_local_forget(queue->netdev);
    }
    queue->stream.fd = -1;
    queue->ks.size = 0;
    tap_pending_drop(&queue->pending);
    return 0;
}

static bool tap_stream_check_name(TapLocalQueue *queue, Error **errp)
{
    TapLocal *local = queue->netdev;
    const char *ifname = (const char *)queue->st[TAP_KEPT].netdev.name;
    const TapLocalQueue *other;

    if (local->want_ifname && strncmp(local->want_ifname, ifname, IFNAMSIZ)) {
        error_setg(errp, "the TAP is '%.*s', this netdev has ifname=%s: use "
                   "the same on both sides, or leave out ifname= here",
                   IFNAMSIZ, ifname, local->want_ifname);
        return false;
    }
    QTAILQ_FOREACH(other, &local->queues, next) {
        if (other->arrived && strncmp(local->ifname, ifname, IFNAMSIZ)) {
            error_setg(errp, "it belongs to TAP '%.*s', queue %u to '%s': on "
                       "the source, use queues of one TAP for this netdev",
                       IFNAMSIZ, ifname, other->index, local->ifname);
            return false;
        }
    }
    snprintf(local->ifname, sizeof(local->ifname), "%.*s", IFNAMSIZ - 1,
             ifname);
    return true;
}

/* Check what would mislead this QEMU, with or without a kernel state */
static bool tap_stream_check_device(TapLocalQueue *queue, Error **errp)
{
    const TapStream *stream = &queue->stream;
    const struct tun_state *st = &queue->st[TAP_KEPT];
    bool vnet_hdr = st->iff.flags & IFF_VNET_HDR;
    uint32_t len = vnet_hdr ? st->vnet.hdr_size : 0;
    TAPState *s = queue->s;

    if ((st->iff.flags & TUN_TYPE_MASK) != IFF_TAP) {
        error_setg(errp, "what came with the stream is not a TAP: it is a TUN "
                   "device; is there anything between this QEMU and the "
                   "source?");
        return false;
    }
    if (vnet_hdr != queue->netdev->vnet_hdr) {
        error_setg(errp, "the TAP has vnet_hdr=%s, this netdev vnet_hdr=%s: "
                   "use the same on both sides", vnet_hdr ? "on" : "off",
                   vnet_hdr ? "off" : "on");
        return false;
    }
    if (stream->host_vnet_hdr_len != len) {
        error_setg(errp, "the TAP has a vnet header of %u bytes, and of %u "
                   "bytes in the stream: somebody changed it, try again", len,
                   stream->host_vnet_hdr_len);
        return false;
    }
    /* Only TUNGETSTATE tells of each driver if a queue is detached */
    if (stream->enabled != !!(st->queue.flags & TUN_STATE_QUEUE_ATTACHED) &&
        (stream->enabled || st->supported)) {
        error_setg(errp, "the queue is %s, and %s in the stream: somebody "
                   "changed it, try again",
                   stream->enabled ? "detached" : "attached",
                   stream->enabled ? "attached" : "detached");
        return false;
    }
    if (queue->pending.received_size &&
        queue->pending.received_size < len + ETH_HLEN) {
        error_setg(errp, "the stream holds a received packet of %u bytes, "
                   "which is less than a vnet header of %u bytes and an "
                   "Ethernet header: it is damaged, try again",
                   queue->pending.received_size, len);
        return false;
    }
    if (s->nc.peer && s->using_vnet_hdr != stream->using_vnet_hdr) {
        error_setg(errp, "the NIC model %s the vnet header itself on the "
                   "source, unlike here: use the same -device on both sides",
                   stream->using_vnet_hdr ? "handles" : "does not handle");
        return false;
    }
    if (len > TAP_MAX_VNET_HDR_LEN) {
        error_setg(errp, "the TAP has a vnet header of %u bytes, and there are "
                   "at most %d: somebody changed it, try again", len,
                   TAP_MAX_VNET_HDR_LEN);
        return false;
    }
    return true;
}

/* Compare the kernel state of the stream with the device */
static bool tap_stream_verify(TapLocalQueue *queue, const char *why,
                              Error **errp)
{
    TapLocal *local = queue->netdev;
    const struct tun_state *actual = &queue->st[TAP_KEPT];
    struct tun_state *expected = &queue->st[TAP_EXPECTED];
    g_autofree char *refused = NULL, *observed = NULL;
    bool unknown, must = local->kernel_state == ON_OFF_AUTO_ON;

    *expected = (struct tun_state) { };
    if (local->kernel_state == ON_OFF_AUTO_OFF) {
        g_free(local->unverified);
        local->unverified = g_strdup("kernel-state=off");
        return true;
    }
    if (local->shared && !(why && must)) {
        g_free(local->unverified);
        local->unverified = g_strdup("shared-fds=on");
        return true;
    }
    if (!why && !queue->ks.size) {
        why = "the migration stream holds no kernel state of the TAP";
    } else if (!why && !tap_kstate_decode(&queue->ks, expected, &unknown,
                                          errp)) {
        return false;
    } else if (!why && (unknown || !tap_kstate_complete(expected, actual))) {
        why = "kernel and source do not know the same parts of the state";
    }
    if (why && must) {
        error_setg(errp, "kernel-state=on, but %s: use kernel-state=on on the "
                   "source, and a kernel with TUNGETSTATE", why);
        return false;
    }
    if (why) {
        tap_local_set_unverified(local, why);
    }

    refused = tap_kstate_differences(expected, actual,
                                     BIT(TAP_KPOLICY_GUARD) |
                                     BIT(TAP_KPOLICY_VERIFIED));
    if (refused) {
        trace_tap_stream_refuse(local->id, queue->index, refused);
        error_setg(errp, "the kernel state is not the expected one: %s; "
                   "somebody changed the TAP during the migration", refused);
        return false;
    }
    observed = tap_kstate_differences(expected, actual,
                                      BIT(TAP_KPOLICY_OBSERVED));
    tap_local_observe(local, observed);
    return true;
}

bool tap_stream_load(TapLocalQueue *queue, Error **errp)
{
    ERRP_GUARD();
    struct tun_state *st = &queue->st[TAP_KEPT];
    g_autofree char *why = NULL;
    TAPState *s = queue->s;

    if (queue->stream.fd < 0) {
        error_setg(errp, "no file descriptor came with the stream: may this "
                   "process have more open files (RLIMIT_NOFILE)?");
        return false;
    }
    if (!g_unix_set_fd_nonblocking(queue->stream.fd, true, NULL)) {
        error_setg_errno(errp, errno, "cannot set O_NONBLOCK");
        return false;
    }
    if (!tap_kstate_read(queue->stream.fd, false, st, &why, errp)) {
        error_prepend(errp, "what came with the stream is not a TAP; is there "
                      "anything between this QEMU and the source? ");
        return false;
    }
    if (!tap_stream_check_device(queue, errp) ||
        !tap_stream_check_name(queue, errp) ||
        !tap_stream_verify(queue, why, errp)) {
        return false;
    }

    queue->netdev->steering = queue->ks.size && queue->steering;
    s->fd = queue->stream.fd;
    s->enabled = queue->stream.enabled;
    s->host_vnet_hdr_len = queue->stream.host_vnet_hdr_len;
    s->has_ufo = queue->stream.has_ufo;
    s->has_uso = queue->stream.has_uso;
    s->has_tunnel = queue->stream.has_tunnel;
    if (st->mask & TUN_STATE_OFFLOAD) {
        uint32_t offloads = st->offload.supported;

        s->has_ufo = offloads & TUN_F_UFO;
        s->has_uso = (offloads & TUN_F_USO4) && (offloads & TUN_F_USO6);
        s->has_tunnel = offloads & TUN_F_UDP_TUNNEL_GSO;
    }
    if (!st->supported) {
        st->queue.flags = s->enabled ? TUN_STATE_QUEUE_ATTACHED : 0;
    }
    queue->arrived = true;
    queue->netdev->carried += tap_pending_count(&queue->pending);
    s->nc.not_moved = true;
    tap_set_info(s, queue->netdev->ifname);
    /* Drop settings that the NIC model made at reset: the guest has its own */
    queue->netdev->set = queue->netdev->changed = 0;
    return true;
}

static int tap_stream_post_load(void *opaque, int version_id)
{
    TapLocalQueue *queue = opaque;
    Error *err = NULL;

    if (!tap_stream_load(queue, &err)) {
        if (queue->stream.fd >= 0) {
            close(queue->stream.fd);
            queue->stream.fd = -1;
        }
        return tap_stream_fail(queue, err);
    }
    trace_tap_stream_load(queue->netdev->id, queue->index, queue->s->fd,
                          queue->ks.size, queue->pending.received_size,
                          queue->pending.sent_size);
    return 0;
}

static bool tap_stream_needed(void *opaque)
{
    TapLocalQueue *queue = opaque;

    return queue->netdev->outgoing;
}

static bool tap_stream_ks_needed(void *opaque)
{
    TapLocalQueue *queue = opaque;

    return queue->ks.size;
}

static bool tap_stream_ks_fits(void *opaque, int version_id)
{
    TapLocalQueue *queue = opaque;
    Error *err = NULL;

    if (queue->ks.size >= offsetof(struct tun_state, identity) &&
        queue->ks.size <= TAP_KSTATE_MAX_SIZE) {
        return true;
    }
    error_setg(&err, "the stream holds a kernel state of %u bytes, which no "
               "kernel reports: it is damaged, or from a newer QEMU",
               queue->ks.size);
    tap_stream_fail(queue, err);
    return false;
}

static const VMStateDescription vmstate_net_tap_kernel_state = {
    .name = "net-tap/kernel-state",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = tap_stream_ks_needed,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(ks.size, TapLocalQueue),
        VMSTATE_VALIDATE("size", tap_stream_ks_fits),
        VMSTATE_VBUFFER_UINT32(ks.data, TapLocalQueue, 1, NULL, ks.size),
        VMSTATE_BOOL(steering, TapLocalQueue),
        VMSTATE_END_OF_LIST()
    }
};

const VMStateDescription vmstate_net_tap = {
    .name = "net-tap",
    .priority = MIG_PRI_NET_BACKEND,
    .needed = tap_stream_needed,
    .pre_save = tap_stream_pre_save,
    .pre_load = tap_stream_pre_load,
    .post_load = tap_stream_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_FD(stream.fd, TapLocalQueue),
        VMSTATE_BOOL(stream.using_vnet_hdr, TapLocalQueue),
        VMSTATE_BOOL(stream.has_ufo, TapLocalQueue),
        VMSTATE_BOOL(stream.has_uso, TapLocalQueue),
        VMSTATE_BOOL(stream.has_tunnel, TapLocalQueue),
        VMSTATE_BOOL(stream.enabled, TapLocalQueue),
        VMSTATE_UINT32(stream.host_vnet_hdr_len, TapLocalQueue),
        VMSTATE_END_OF_LIST()
    },
    .subsections = (const VMStateDescription * const []) {
        &vmstate_net_tap_kernel_state,
        &vmstate_net_tap_pending,
        NULL
    }
};
