/*
 * Hand-over of a TAP: bring a device into the state that its guest needs
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include <linux/if_tun.h>

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

static bool tap_local_is_set(const TapLocal *local, TapSetting setting)
{
    return local->set & BIT(setting);
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

    if (tap_local_is_set(local, TAP_SETTING_OFFLOAD) &&
        (offloads ? tap_effective_offload(value, st->offload.supported) !=
                    st->offload.enabled :
                    local->changed & BIT(TAP_SETTING_OFFLOAD))) {
        tap_local_trace_apply(queue, "offload", value);
        tap_write_offload(queue->s, value);
        changed = true;
    }
    value = tap_local_is_set(local, TAP_SETTING_STEERING) ?
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

/* Read again: a setting of an earlier queue may apply to the device */
static bool tap_local_wants(TapLocalQueue *queue, TapSetting setting, int now,
                            int (*get)(int fd, int *value))
{
    int value = queue->netdev->value[setting];

    return tap_local_is_set(queue->netdev, setting) && now != value &&
           (!get(queue->s->fd, &now) && now != value);
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
    if (tap_local_wants(queue, TAP_SETTING_VNET_LE,
                        !!(st->vnet.flags & TUN_STATE_VNET_LE),
                        tap_fd_get_vnet_le)) {
        len = queue->netdev->value[TAP_SETTING_VNET_LE];
        tap_local_trace_apply(queue, "vnet-le", len);
        tap_fd_set_vnet_le(fd, len);
        changed = true;
    }
    if (tap_local_wants(queue, TAP_SETTING_VNET_BE,
                        !!(st->vnet.flags & TUN_STATE_VNET_BE),
                        tap_fd_get_vnet_be)) {
        len = queue->netdev->value[TAP_SETTING_VNET_BE];
        tap_local_trace_apply(queue, "vnet-be", len);
        tap_fd_set_vnet_be(fd, len);
        changed = true;
    }
    return changed;
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
        tap_set_sndbuf(s->fd, &(NetdevTapOptions) {
            .has_sndbuf = true,
            .sndbuf = sndbuf,
        }, NULL);
        changed = true;
    }
    return changed;
}

static bool tap_local_knows_attached(const TapLocalQueue *queue)
{
    return tap_local_may_change(queue) ? queue->s->enabled :
           queue->state.queue.flags & TUN_STATE_QUEUE_ATTACHED;
}

bool tap_local_read(TapLocal *local, struct tun_state *states, bool hold,
                    Error **errp)
{
    ERRP_GUARD();

    for (unsigned int i = 0; i < local->queues->len; i++) {
        TapLocalQueue *queue = tap_local_queue(local, i);
        g_autofree char *why = NULL;

        if (!tap_kstate_read(queue->s->fd, hold && !i, &states[i], &why,
                             errp)) {
            error_prepend(errp, "netdev '%s' queue %u: the TAP is gone: use "
                          "netdev_del, and add one again: ", local->id, i);
            return false;
        }
        /* Without TUNGETSTATE, a detached queue may look like an attached one */
        if (!states[i].supported && !tap_local_knows_attached(queue)) {
            states[i].queue.flags = 0;
        }
        if (why && local->kernel_state == ON_OFF_AUTO_ON &&
            local->state == TAP_HAND_OVER_OWNER) {
            error_setg(errp, "netdev '%s' queue %u: kernel-state=on, but %s",
                       local->id, i, why);
            return false;
        }
        if (hold && why && local->kernel_state != ON_OFF_AUTO_OFF) {
            tap_local_set_unverified(local, why);
        }
    }
    return true;
}

bool tap_local_apply(TapLocal *local, const struct tun_state *states)
{
    bool changed = false;

    for (unsigned int i = 0; i < local->queues->len; i++) {
        TapLocalQueue *queue = tap_local_queue(local, i);

        changed |= tap_local_apply_queue(queue, &states[i]);
        if (!i) {
            changed |= tap_local_apply_device(queue, &states[i]);
        }
    }
    local->changed = 0;
    return changed;
}

static int tap_local_compare_places(const void *a, const void *b, void *opaque)
{
    const struct tun_state *states = opaque;
    uint64_t x = tap_kstate_place(&states[*(const unsigned int *)a]);
    uint64_t y = tap_kstate_place(&states[*(const unsigned int *)b]);

    return x < y ? -1 : x > y;
}

/* Return the numbers of the queues in the order of their places */
static unsigned int *tap_local_order(TapLocal *local,
                                     const struct tun_state *states)
{
    unsigned int *order = g_new(unsigned int, local->queues->len);

    for (unsigned int i = 0; i < local->queues->len; i++) {
        order[i] = i;
    }
    g_qsort_with_data(order, local->queues->len, sizeof(*order),
                      tap_local_compare_places, (void *)states);
    return order;
}

/* Exchange queues of this netdev until they are in the order they had */
static void tap_local_restore_places(TapLocal *local,
                                     const struct tun_state *before,
                                     struct tun_state *states)
{
    g_autofree unsigned int *order = tap_local_order(local, before);

    for (unsigned int i = 0; i < local->queues->len; i++) {
        g_autofree unsigned int *now = tap_local_order(local, states);
        struct tun_state *st = &states[order[i]], *other = &states[now[i]];

        if (st != other &&
            !((st->queue.flags ^ other->queue.flags) &
              TUN_STATE_QUEUE_ATTACHED) &&
            !tap_kstate_set_index(tap_local_queue(local, order[i])->s->fd, st,
                                  other->queue.index)) {
            uint32_t index = st->queue.index;

            st->queue.index = other->queue.index;
            other->queue.index = index;
        }
    }
}

char *tap_local_places_differ(TapLocal *local,
                              const struct tun_state *expected,
                              const struct tun_state *actual)
{
    g_autofree unsigned int *before = tap_local_order(local, expected);
    g_autofree unsigned int *now = tap_local_order(local, actual);

    for (unsigned int i = 0; i < local->queues->len; i++) {
        if (i && !tap_local_compare_places(&now[i - 1], &now[i],
                                           (void *)actual)) {
            return g_strdup_printf("queues %u and %u are the same", now[i - 1],
                                   now[i]);
        }
        if (now[i] != before[i]) {
            return g_strdup_printf("queue %u is in the place of queue %u",
                                   now[i], before[i]);
        }
    }
    return NULL;
}

/* Return the states when the queues were suspended, or arrived */
struct tun_state *tap_local_states(TapLocal *local)
{
    struct tun_state *states = g_new(struct tun_state, local->queues->len);

    for (unsigned int i = 0; i < local->queues->len; i++) {
        states[i] = tap_local_queue(local, i)->state;
    }
    return states;
}

char *tap_local_differences(TapLocal *local, const struct tun_state *before,
                            const struct tun_state *states,
                            unsigned int policies)
{
    g_autoptr(GString) out = g_string_new(NULL);

    for (unsigned int i = 0; i <= local->queues->len; i++) {
        g_autofree char *differences = NULL;
        g_auto(GStrv) fields = NULL;

        if (i < local->queues->len) {
            differences = tap_kstate_differences(&before[i], &states[i],
                                                 policies);
        } else if ((policies & BIT(TAP_KPOLICY_VERIFIED)) &&
                   before[0].supported) {
            differences = tap_local_places_differ(local, before, states);
        }
        fields = differences ? g_strsplit(differences, ", ", -1) : NULL;
        for (char **field = fields; field && *field; field++) {
            /* All queues tell of a field of the device */
            if (!strstr(out->str, *field)) {
                g_string_append_printf(out, "%s%s", out->len ? ", " : "",
                                       *field);
            }
        }
    }
    return out->len ? g_string_free(g_steal_pointer(&out), false) : NULL;
}

char *tap_local_restore(TapLocal *local, struct tun_state *states)
{
    const unsigned int policies = BIT(TAP_KPOLICY_GUARD) |
                                  BIT(TAP_KPOLICY_VERIFIED);
    g_autofree struct tun_state *before = tap_local_states(local);
    g_autoptr(GString) errors = g_string_new(NULL);
    g_autofree char *observed = NULL, *failed = NULL;

    g_clear_pointer(&local->restored, g_free);
    observed = tap_local_differences(local, before, states,
                                     BIT(TAP_KPOLICY_OBSERVED));
    tap_local_observe(local, observed);
    local->restored = tap_local_differences(local, before, states, policies);
    if (!local->restored) {
        return NULL;
    }
    warn_report("netdev '%s': somebody changed the TAP during the migration, "
                "restoring: %s", local->id, local->restored);

    for (unsigned int i = 0; i < local->queues->len; i++) {
        int fd = tap_local_queue(local, i)->s->fd;
        bool attached = before[i].queue.flags & TUN_STATE_QUEUE_ATTACHED;

        if (attached == !(states[i].queue.flags & TUN_STATE_QUEUE_ATTACHED)) {
            (attached ? tap_fd_enable : tap_fd_disable)(fd);
        }
    }
    if (!tap_local_read(local, states, false, NULL)) {
        local->gone = true;
        return g_strdup("the TAP is gone");
    }
    if (before[0].supported) {
        tap_local_restore_places(local, before, states);
    }
    for (unsigned int i = 0; i < local->queues->len; i++) {
        g_autofree char *err = NULL;

        err = tap_kstate_restore(tap_local_queue(local, i)->s->fd, &before[i],
                                 &states[i]);
        trace_tap_local_restore(local->id, i, err ?: "");
        /* A group of the device fails for each queue: name the first one */
        if (err && !strstr(errors->str, err)) {
            g_string_append_printf(errors, "; queue %u: %s", i, err);
        }
    }
    if (!tap_local_read(local, states, false, NULL)) {
        local->gone = true;
        return g_strdup("the TAP is gone");
    }
    failed = tap_local_differences(local, before, states, policies);
    return failed ? g_strconcat(failed, errors->str, NULL) : NULL;
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
