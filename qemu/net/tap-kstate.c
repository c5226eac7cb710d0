/*
 * Kernel state of a TAP queue, as TUNGETSTATE reports it
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local.h"
#include "tap-kstate.h"

#include <sys/ioctl.h>
#include <linux/if_tun.h>
#include <linux/if_tun_state.h>

#include "qapi/error.h"

/* Linux 6.17; system headers may be older */
#ifndef TUN_F_UDP_TUNNEL_GSO
#define TUN_F_UDP_TUNNEL_GSO 0x080
#endif

/*
 * Groups in the migration stream: all but those with a user buffer, whose
 * address is meaningless in another process.
 */
#define TAP_KSTATE_GROUPS                                                   \
    (TUN_STATE_IDENTITY | TUN_STATE_FLAGS | TUN_STATE_OWNER |               \
     TUN_STATE_VNET | TUN_STATE_OFFLOAD | TUN_STATE_SNDBUF |                \
     TUN_STATE_LINK | TUN_STATE_TXFILTER | TUN_STATE_STEERING |             \
     TUN_STATE_FILTER | TUN_STATE_XDP | TUN_STATE_QUEUE)

typedef enum TapKFieldType {
    TAP_KFIELD_UINT,
    TAP_KFIELD_STRING,
    TAP_KFIELD_BYTES,
} TapKFieldType;

typedef struct TapKField {
    uint64_t group;
    const char *name;
    size_t offset;
    size_t size;
    TapKFieldType type;
} TapKField;

#define KFIELD(_group, _field, _type)                                       \
    { TUN_STATE_ ## _group, #_field, offsetof(struct tun_state, _field),    \
      sizeof_field(struct tun_state, _field), TAP_KFIELD_ ## _type }

static const TapKField tap_kfields[] = {
    KFIELD(IDENTITY, identity.netns, UINT),
    KFIELD(IDENTITY, identity.ifindex, UINT),
    KFIELD(IDENTITY, identity.mtu, UINT),
    KFIELD(IDENTITY, identity.type, UINT),
    KFIELD(IDENTITY, identity.name, STRING),
    KFIELD(IDENTITY, identity.addr, BYTES),
    KFIELD(FLAGS, device.flags, UINT),
    KFIELD(OWNER, owner.uid, UINT),
    KFIELD(OWNER, owner.gid, UINT),
    KFIELD(VNET, vnet.hdr_size, UINT),
    KFIELD(VNET, vnet.flags, UINT),
    KFIELD(OFFLOAD, offload.enabled, UINT),
    KFIELD(SNDBUF, sndbuf.device, UINT),
    KFIELD(SNDBUF, sndbuf.queue, UINT),
    KFIELD(LINK, link.carrier, UINT),
    KFIELD(LINK, link.msg_enable, UINT),
    KFIELD(LINK, link.rx_batched, UINT),
    KFIELD(TXFILTER, txfilter.count, UINT),
    KFIELD(TXFILTER, txfilter.hash, UINT),
    KFIELD(TXFILTER, txfilter.addr, BYTES),
    KFIELD(STEERING, steering.id, UINT),
    KFIELD(FILTER, filter.id, UINT),
    KFIELD(XDP, xdp.id, UINT),
    KFIELD(QUEUE, queue.index, UINT),
    KFIELD(QUEUE, queue.flags, UINT),
};

static int tap_kstate_ioctl(int fd, unsigned int nr, void *data, size_t size)
{
    unsigned int request = _IOC(_IOC_READ | _IOC_WRITE, _IOC_TYPE(TUNGETSTATE),
                                nr, size);

    return RETRY_ON_EINTR(ioctl(fd, request, data));
}

static int tap_kstate_get_groups(int fd, uint64_t groups, struct tun_state *st)
{
    *st = (struct tun_state) { .mask = groups };

    return tap_kstate_ioctl(fd, _IOC_NR(TUNGETSTATE), st, sizeof(*st));
}

bool tap_kstate_get(int fd, TapKState *ks, Error **errp)
{
    struct tun_state st;

    QEMU_BUILD_BUG_ON(sizeof(st) > TAP_KSTATE_MAX_SIZE);

    ks->size = 0;
    if (tap_kstate_get_groups(fd, TAP_KSTATE_GROUPS, &st) < 0) {
        /* Kernels without the ioctl return EINVAL and leave st.failed alone */
        if (errno == EINVAL && !st.failed) {
            return true;
        }
        error_setg_errno(errp, errno, "TUNGETSTATE failed");
        return false;
    }

    memcpy(ks->data, &st, sizeof(st));
    ks->size = sizeof(st);
    return true;
}

static void tap_kfield_append(GString *out, const struct tun_state *st,
                              const TapKField *field)
{
    const uint8_t *p = (const uint8_t *)st + field->offset;
    uint64_t value = 0;

    switch (field->type) {
    case TAP_KFIELD_UINT:
#if HOST_BIG_ENDIAN
        memcpy((uint8_t *)&value + sizeof(value) - field->size, p,
               field->size);
#else
        memcpy(&value, p, field->size);
#endif
        g_string_append_printf(out, "0x%" PRIx64, value);
        break;
    case TAP_KFIELD_STRING:
        for (size_t i = 0; i < field->size && p[i]; i++) {
            g_string_append_c(out, g_ascii_isgraph(p[i]) ? p[i] : '?');
        }
        break;
    case TAP_KFIELD_BYTES:
        for (size_t i = 0; i < field->size; i++) {
            g_string_append_printf(out, "%02x", p[i]);
        }
        break;
    }
}

/* List the fields of @groups that differ, with both values */
static char *tap_kstate_explain(uint64_t groups,
                                const struct tun_state *expected,
                                const struct tun_state *actual)
{
    GString *out = g_string_new(NULL);

    for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
        const TapKField *field = &tap_kfields[i];

        if (!(groups & field->group) ||
            !memcmp((const uint8_t *)expected + field->offset,
                    (const uint8_t *)actual + field->offset, field->size)) {
            continue;
        }
        g_string_append_printf(out, "%s%s is ", out->len ? ", " : "",
                               field->name);
        tap_kfield_append(out, actual, field);
        g_string_append(out, " instead of ");
        tap_kfield_append(out, expected, field);
    }
    if (!out->len) {
        g_string_append_printf(out, "groups 0x%" PRIx64, groups);
    }
    return g_string_free(out, false);
}

static bool tap_kstate_valid(const TapKState *ks, Error **errp)
{
    uint64_t mask;

    if (ks->size < offsetof(struct tun_state, identity) ||
        ks->size > TAP_KSTATE_MAX_SIZE) {
        error_setg(errp, "the kernel state has %u bytes, which no kernel "
                   "reports: try again, or use kernel-state=off", ks->size);
        return false;
    }
    memcpy(&mask, ks->data, sizeof(mask));
    if (!mask || (mask & ~TAP_KSTATE_GROUPS)) {
        error_setg(errp, "the kernel state holds groups 0x%" PRIx64
                   ", of which 0x%" PRIx64 " are known: use a QEMU as new as "
                   "the source's, or kernel-state=off", mask,
                   (uint64_t)TAP_KSTATE_GROUPS);
        return false;
    }
    return true;
}

/* Call TUNSETSTATE with a copy of @ks; @result is the copy after the call */
static int tap_kstate_set(int fd, const TapKState *ks, uint64_t mask,
                          uint32_t flags, struct tun_state *result)
{
    g_autofree uint8_t *copy = g_malloc0(TAP_KSTATE_MAX_SIZE);
    int ret;

    memcpy(copy, ks->data, ks->size);
    memcpy(copy + offsetof(struct tun_state, mask), &mask, sizeof(mask));
    memcpy(copy + offsetof(struct tun_state, flags), &flags, sizeof(flags));

    ret = tap_kstate_ioctl(fd, _IOC_NR(TUNSETSTATE), copy, ks->size);
    memcpy(result, copy, sizeof(*result));
    return ret;
}

static bool tap_kstate_differs(int fd, const TapKState *ks, uint64_t *groups,
                               Error **errp)
{
    struct tun_state result;
    uint64_t mask;

    memcpy(&mask, ks->data, sizeof(mask));
    if (tap_kstate_set(fd, ks, mask, TUN_STATE_F_CHECK, &result) < 0) {
        if (result.failed) {
            error_setg_errno(errp, errno, "the kernel refuses the state: group "
                             "0x%" PRIx64 " is invalid; use kernel-state=off "
                             "to go without", (uint64_t)result.failed);
        } else {
            error_setg_errno(errp, errno, "the kernel refuses the state as a "
                             "whole; use kernel-state=off to go without");
        }
        return false;
    }
    *groups = result.mask;
    return true;
}

bool tap_kstate_check(int fd, const TapKState *ks, Error **errp)
{
    g_autofree char *explanation = NULL;
    struct tun_state expected = { }, actual;
    uint64_t groups;

    if (!tap_kstate_valid(ks, errp) ||
        !tap_kstate_differs(fd, ks, &groups, errp)) {
        return false;
    }
    if (!groups) {
        return true;
    }

    memcpy(&expected, ks->data, MIN(ks->size, sizeof(expected)));
    if (tap_kstate_get_groups(fd, groups, &actual) < 0) {
        error_setg_errno(errp, errno, "TUNGETSTATE failed");
        return false;
    }
    explanation = tap_kstate_explain(groups, &expected, &actual);
    error_setg(errp, "the kernel state is not the expected one: %s; somebody "
               "changed the TAP during the migration", explanation);
    return false;
}

bool tap_kstate_restore(int fd, const TapKState *ks, Error **errp)
{
    struct tun_state result;
    uint64_t groups;

    if (!tap_kstate_valid(ks, errp) ||
        !tap_kstate_differs(fd, ks, &groups, errp)) {
        return false;
    }
    /* Identity cannot be set; restore the other groups without it */
    groups &= ~TUN_STATE_IDENTITY;
    if (groups && tap_kstate_set(fd, ks, groups, 0, &result) < 0) {
        error_setg_errno(errp, errno, "cannot restore the kernel state, group "
                         "0x%" PRIx64, (uint64_t)result.failed);
        return false;
    }
    return true;
}

bool tap_kstate_get_offload(int fd, int *offload)
{
    struct tun_state st;

    if (tap_kstate_get_groups(fd, TUN_STATE_OFFLOAD, &st)) {
        return false;
    }
    *offload = st.offload.enabled;
    return true;
}

bool tap_kstate_get_supported(int fd, bool *ufo, bool *uso, bool *tunnel)
{
    struct tun_state st;

    if (tap_kstate_get_groups(fd, TUN_STATE_OFFLOAD, &st)) {
        return false;
    }
    *ufo = st.offload.supported & TUN_F_UFO;
    *uso = (st.offload.supported & TUN_F_USO4) &&
           (st.offload.supported & TUN_F_USO6);
    *tunnel = st.offload.supported & TUN_F_UDP_TUNNEL_GSO;
    return true;
}
