/*
 * Hand-over of a TAP: bring a device into the state that its guest needs
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include <sys/ioctl.h>

#include "qapi/error.h"
#include "qapi/qapi-events-net.h"
#include "qemu/error-report.h"
#include "trace.h"

/* Return the part of TUN_F_* that takes effect in the kernel */
static unsigned int tap_effective_offload(unsigned int offload,
                                          unsigned int supported)
{
    const unsigned int uso = TUN_F_USO4 | TUN_F_USO6;

    if (!(offload & TUN_F_CSUM)) {
        return 0;
    }
    offload &= supported & ~TUN_F_UFO;
    if (!(offload & (TUN_F_TSO4 | TUN_F_TSO6))) {
        offload &= ~TUN_F_TSO_ECN;
    }
    if ((offload & uso) != uso) {
        offload &= ~uso;
    }
    return offload;
}

static void tap_local_trace_apply(TapLocalQueue *queue, const char *what,
                                  int value)
{
    trace_tap_local_apply(queue->netdev->id, queue->index, what, value);
}

/* Write settings of the whole device that are not in force */
static bool tap_local_apply_device(TapLocalQueue *queue,
                                   const struct tun_state *st)
{
    TapLocal *local = queue->netdev;
    bool offloads = st->mask & TUN_STATE_OFFLOAD, changed = false;
    int value = local->value[TAP_SETTING_OFFLOAD];

    if ((local->set & BIT(TAP_SETTING_OFFLOAD)) &&
        (offloads ? tap_effective_offload(value, st->offload.supported) !=
                    st->offload.enabled :
                    local->changed & BIT(TAP_SETTING_OFFLOAD))) {
        tap_local_trace_apply(queue, "offload", value);
        tap_write_offload(queue->s, value);
        changed = true;
    }
    value = local->set & BIT(TAP_SETTING_STEERING) ?
            local->value[TAP_SETTING_STEERING] : -1;
    /* Replace the program of a source, but leave that of others alone */
    if (value >= 0 ? local->changed & BIT(TAP_SETTING_STEERING) :
                     local->steering) {
        tap_local_trace_apply(queue, "steering", value);
        local->steering = !tap_fd_set_steering_ebpf(queue->s->fd, value) &&
                          value >= 0;
        changed = true;
    }
    return changed;
}

static bool tap_local_apply_endian(TapLocalQueue *queue, TapSetting setting,
                                   const char *what, int now,
                                   int (*get)(int fd, int *value),
                                   int (*set)(int fd, int value))
{
    int value = queue->netdev->value[setting];

    /* Read again: a setting of an earlier queue may apply to the device */
    if (!(queue->netdev->set & BIT(setting)) || now == value ||
        get(queue->s->fd, &now) || now == value) {
        return false;
    }
    tap_local_trace_apply(queue, what, value);
    set(queue->s->fd, value);
    return true;
}

static bool tap_local_apply_vnet(TapLocalQueue *queue,
                                 const struct tun_state *st)
{
    int len = queue->s->host_vnet_hdr_len, now = st->vnet.hdr_size;
    int fd = queue->s->fd;
    bool changed = false;

    if (!len || !(st->mask & TUN_STATE_VNET)) {
        return false;
    }
    if (now != len && !tap_fd_get_vnet_hdr_len(fd, &now) && now != len) {
        tap_local_trace_apply(queue, "vnet header", len);
        tap_fd_set_vnet_hdr_len(fd, len);
        changed = true;
    }
    changed |= tap_local_apply_endian(queue, TAP_SETTING_VNET_LE, "vnet-le",
                                      !!(st->vnet.flags & TUN_STATE_VNET_LE),
                                      tap_fd_get_vnet_le, tap_fd_set_vnet_le);
    changed |= tap_local_apply_endian(queue, TAP_SETTING_VNET_BE, "vnet-be",
                                      !!(st->vnet.flags & TUN_STATE_VNET_BE),
                                      tap_fd_get_vnet_be, tap_fd_set_vnet_be);
    return changed;
}

void tap_local_set_sndbuf(int fd, int sndbuf)
{
    ioctl(fd, TUNSETSNDBUF, &sndbuf);
}

static bool tap_local_apply_queue(TapLocalQueue *queue,
                                  const struct tun_state *st)
{
    bool attached = st->queue.flags & TUN_STATE_QUEUE_ATTACHED;
    int sndbuf = queue->netdev->sndbuf;
    bool changed = tap_local_apply_vnet(queue, st);
    TAPState *s = queue->s;

    if (s->enabled != attached) {
        tap_local_trace_apply(queue, "attached", s->enabled);
        (s->enabled ? tap_fd_enable : tap_fd_disable)(s->fd);
        changed = true;
    }
    if (sndbuf && !((st->mask & TUN_STATE_SNDBUF) &&
                    st->sndbuf.size == sndbuf)) {
        tap_local_trace_apply(queue, "sndbuf", sndbuf);
        tap_local_set_sndbuf(s->fd, sndbuf);
        changed = true;
    }
    return changed;
}

static bool tap_local_knows_attached(const TapLocalQueue *queue)
{
    return tap_local_may_change(queue) ? queue->s->enabled :
           queue->st[TAP_KEPT].queue.flags & TUN_STATE_QUEUE_ATTACHED;
}

bool tap_local_read(TapLocal *local, TapSnapshot to, bool hold, Error **errp)
{
    ERRP_GUARD();
    TapLocalQueue *queue;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        struct tun_state *st = &queue->st[to];
        g_autofree char *why = NULL;

        if (!tap_kstate_read(queue->s->fd, hold && !queue->index, st, &why,
                             errp)) {
            error_prepend(errp, "netdev '%s' queue %u: the TAP is gone: use "
                          "netdev_del, and add one again: ", local->id,
                          queue->index);
            return false;
        }
        /* Without TUNGETSTATE, a detached queue may look like an attached one */
        if (!st->supported && !local->shared &&
            !tap_local_knows_attached(queue)) {
            st->queue.flags = 0;
        }
        if (why && local->kernel_state == ON_OFF_AUTO_ON &&
            local->state == TAP_HAND_OVER_OWNER) {
            error_setg(errp, "netdev '%s' queue %u: kernel-state=on, but %s",
                       local->id, queue->index, why);
            return false;
        }
        if (local->outgoing && why &&
            local->kernel_state != ON_OFF_AUTO_OFF) {
            tap_local_set_unverified(local, why);
        }
    }
    return true;
}

bool tap_local_apply(TapLocal *local)
{
    bool changed = false;
    TapLocalQueue *queue;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        changed |= tap_local_apply_queue(queue, &queue->st[TAP_NOW]);
        if (!queue->index) {
            changed |= tap_local_apply_device(queue, &queue->st[TAP_NOW]);
        }
    }
    local->changed = 0;
    return changed;
}

static int tap_local_compare_places(const void *a, const void *b, void *opaque)
{
    const TapSnapshot *of = opaque;
    uint64_t x = tap_kstate_place(&(*(TapLocalQueue **)a)->st[*of]);
    uint64_t y = tap_kstate_place(&(*(TapLocalQueue **)b)->st[*of]);

    return x < y ? -1 : x > y;
}

/* Return the queues in the order of their places */
static TapLocalQueue **tap_local_order(TapLocal *local, TapSnapshot of)
{
    TapLocalQueue **order = g_new(TapLocalQueue *, local->count), *queue;
    unsigned int i = 0;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        order[i++] = queue;
    }
    g_qsort_with_data(order, local->count, sizeof(*order),
                      tap_local_compare_places, &of);
    return order;
}

/* Exchange queues of this netdev until they are in the order they had */
static void tap_local_restore_places(TapLocal *local)
{
    g_autofree TapLocalQueue **order = tap_local_order(local, TAP_KEPT);

    for (unsigned int i = 0; i < local->count; i++) {
        g_autofree TapLocalQueue **now = tap_local_order(local, TAP_NOW);
        struct tun_state *st = &order[i]->st[TAP_NOW];
        struct tun_state *other = &now[i]->st[TAP_NOW];

        if (st != other &&
            !((st->queue.flags ^ other->queue.flags) &
              TUN_STATE_QUEUE_ATTACHED) &&
            !tap_kstate_set_index(order[i]->s->fd, st, other->queue.index)) {
            uint32_t index = st->queue.index;

            st->queue.index = other->queue.index;
            other->queue.index = index;
        }
    }
}

char *tap_local_places_differ(TapLocal *local, TapSnapshot expected,
                              TapSnapshot actual)
{
    g_autofree TapLocalQueue **before = tap_local_order(local, expected);
    g_autofree TapLocalQueue **now = tap_local_order(local, actual);

    for (unsigned int i = 0; i < local->count; i++) {
        if (i && !tap_local_compare_places(&now[i - 1], &now[i], &actual)) {
            return g_strdup_printf("queues %u and %u are the same",
                                   now[i - 1]->index, now[i]->index);
        }
        if (now[i] != before[i]) {
            return g_strdup_printf("queue %u is in the place of queue %u",
                                   now[i]->index, before[i]->index);
        }
    }
    return NULL;
}

/* All queues tell of a field of the device: add what is not there yet */
static void tap_local_add_differences(GString *out, char *differences)
{
    g_auto(GStrv) fields = g_strsplit(differences ?: "", ", ", -1);

    for (char **field = fields; *field; field++) {
        if (!strstr(out->str, *field)) {
            g_string_append_printf(out, "%s%s", out->len ? ", " : "", *field);
        }
    }
    g_free(differences);
}

char *tap_local_differences(TapLocal *local, TapSnapshot expected,
                            TapSnapshot actual, unsigned int policies)
{
    g_autoptr(GString) out = g_string_new(NULL);
    TapLocalQueue *queue;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        tap_local_add_differences(out, tap_kstate_differences(
            &queue->st[expected], &queue->st[actual], policies));
    }
    if ((policies & BIT(TAP_KPOLICY_VERIFIED)) &&
        QTAILQ_FIRST(&local->queues)->st[expected].supported) {
        tap_local_add_differences(out, tap_local_places_differ(
            local, expected, actual));
    }
    return out->len ? g_string_free(g_steal_pointer(&out), false) : NULL;
}

/*
 * Write all that differs; return errors, or an empty string, for the caller to
 * free. NULL: the state could not be read, and groups were not written
 */
static char *tap_local_write_back(TapLocal *local)
{
    g_autoptr(GString) errors = g_string_new(NULL);
    TapLocalQueue *queue;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        bool attached = queue->st[TAP_KEPT].queue.flags &
                        TUN_STATE_QUEUE_ATTACHED;

        if (attached == !(queue->st[TAP_NOW].queue.flags &
                          TUN_STATE_QUEUE_ATTACHED)) {
            (attached ? tap_fd_enable : tap_fd_disable)(queue->s->fd);
        }
    }
    if (!tap_local_read(local, TAP_NOW, false, NULL)) {
        return NULL;
    }
    if (QTAILQ_FIRST(&local->queues)->st[TAP_KEPT].supported) {
        tap_local_restore_places(local);
    }
    QTAILQ_FOREACH(queue, &local->queues, next) {
        g_autofree char *err = tap_kstate_restore(queue->s->fd,
                                                  &queue->st[TAP_KEPT],
                                                  &queue->st[TAP_NOW]);

        trace_tap_local_restore(local->id, queue->index, err ?: "");
        /* A group of the device fails for each queue: name the first one */
        if (err && !strstr(errors->str, err)) {
            g_string_append_printf(errors, "; queue %u: %s", queue->index, err);
        }
    }
    return g_string_free(g_steal_pointer(&errors), false);
}

char *tap_local_restore(TapLocal *local)
{
    const unsigned int policies = BIT(TAP_KPOLICY_GUARD) |
                                  BIT(TAP_KPOLICY_VERIFIED);
    g_autofree char *observed = NULL, *failed = NULL, *errors = NULL;

    observed = tap_local_differences(local, TAP_KEPT, TAP_NOW,
                                     BIT(TAP_KPOLICY_OBSERVED));
    tap_local_observe(local, observed);
    g_free(local->restored);
    local->restored = tap_local_differences(local, TAP_KEPT, TAP_NOW, policies);
    if (!local->restored) {
        return NULL;
    }
    warn_report("netdev '%s': somebody changed the TAP during the migration, "
                "restoring: %s", local->id, local->restored);
    errors = tap_local_write_back(local);
    if (!tap_local_read(local, TAP_NOW, false, NULL)) {
        local->gone = true;
        return g_strdup("the TAP is gone");
    }
    failed = tap_local_differences(local, TAP_KEPT, TAP_NOW, policies);
    return failed ? g_strconcat(failed, errors, NULL) : NULL;
}

void tap_local_fail(TapLocal *local, char *failed)
{
    g_free(local->failed);
    local->failed = failed;
    if (failed) {
        error_report("netdev '%s': the TAP is not as the guest needs it, and "
                     "cannot be restored: %s", local->id, failed);
        qapi_event_send_netdev_tap_restore_failed(local->id, failed);
    }
}
