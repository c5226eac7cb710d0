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
#include "qemu/cutils.h"

/* Linux 6.17; system headers may be older */
#ifndef TUN_F_UDP_TUNNEL_GSO
#define TUN_F_UDP_TUNNEL_GSO 0x080
#endif

/*
 * Groups in the migration stream: all but those with a user buffer, whose
 * address is meaningless in another process.
 */
#define TAP_KSTATE_GROUPS                                                   \
    (TUN_STATE_IDENTITY | TUN_STATE_NETDEV | TUN_STATE_IFF |                \
     TUN_STATE_OWNER | TUN_STATE_VNET | TUN_STATE_OFFLOAD |                 \
     TUN_STATE_SNDBUF | TUN_STATE_LINK | TUN_STATE_COALESCE |               \
     TUN_STATE_TXFILTER | TUN_STATE_STEERING | TUN_STATE_FILTER |           \
     TUN_STATE_XDP | TUN_STATE_QUEUE)

#define TAP_KSTATE_QUEUE_GUARD                                              \
    (TUN_STATE_QUEUE_NAPI | TUN_STATE_QUEUE_NAPI_FRAGS)
#define TAP_KSTATE_QUEUE_VERIFIED                                           \
    (TUN_STATE_QUEUE_ATTACHED | TUN_STATE_QUEUE_SOCKFILTER)

typedef enum TapKFieldType {
    TAP_KFIELD_UINT,
    TAP_KFIELD_STRING,
    TAP_KFIELD_BYTES,
} TapKFieldType;

/*
 * Policies for a field that is not as expected
 *
 * Guard and verified: the guest's network depends on it, so refuse the TAP. A
 * source that resumes restores what is verified; TUNSETSTATE cannot change what
 * is a guard.
 */
typedef enum TapKPolicy {
    TAP_KPOLICY_GUARD,
    TAP_KPOLICY_VERIFIED,
    TAP_KPOLICY_OBSERVED,   /* an administrator may change it: log it */
    TAP_KPOLICY_IGNORED,    /* it changes by itself */
    TAP_KPOLICY_ZERO,       /* reserved: refuse the whole state */
} TapKPolicy;

/* @bits: the part of the field that the policy is for; 0 for all of it */
typedef struct TapKField {
    uint64_t group;
    const char *name;
    size_t offset;
    size_t size;
    TapKFieldType type;
    TapKPolicy policy;
    uint32_t bits;
} TapKField;

#define KFIELD(_group, _field, _policy, _type, _bits)                       \
    { TUN_STATE_ ## _group, #_field, offsetof(struct tun_state, _field),    \
      sizeof_field(struct tun_state, _field), TAP_KFIELD_ ## _type,         \
      TAP_KPOLICY_ ## _policy, _bits }
#define KUINT(_group, _field, _policy)                                      \
    KFIELD(_group, _field, _policy, UINT, 0)
#define KBITS(_group, _field, _policy, _bits)                               \
    KFIELD(_group, _field, _policy, UINT, _bits)
#define KBYTES(_group, _field, _policy)                                     \
    KFIELD(_group, _field, _policy, BYTES, 0)
#define KSTRING(_group, _field, _policy)                                    \
    KFIELD(_group, _field, _policy, STRING, 0)

/* Every byte of the groups */
static const TapKField tap_kfields[] = {
    KUINT(IDENTITY, identity.netns, GUARD),
    KUINT(IDENTITY, identity.ifindex, GUARD),
    KUINT(IDENTITY, identity.type, GUARD),
    KBYTES(IDENTITY, identity.reserved, ZERO),

    KUINT(NETDEV, netdev.mtu, OBSERVED),
    KUINT(NETDEV, netdev.up, OBSERVED),
    KUINT(NETDEV, netdev.addr_len, OBSERVED),
    KBYTES(NETDEV, netdev.reserved, ZERO),
    KSTRING(NETDEV, netdev.name, OBSERVED),
    KBYTES(NETDEV, netdev.addr, OBSERVED),

    KBITS(IFF, iff.flags, GUARD, (uint32_t)~IFF_PERSIST),
    KBITS(IFF, iff.flags, OBSERVED, IFF_PERSIST),
    KUINT(IFF, iff.reserved, ZERO),

    KUINT(OWNER, owner.uid, OBSERVED),
    KUINT(OWNER, owner.gid, OBSERVED),
    KUINT(OWNER, owner.flags, OBSERVED),
    KUINT(OWNER, owner.reserved, ZERO),

    KUINT(VNET, vnet.hdr_size, VERIFIED),
    KUINT(VNET, vnet.flags, VERIFIED),

    KUINT(OFFLOAD, offload.enabled, VERIFIED),
    KUINT(OFFLOAD, offload.wanted, OBSERVED),
    KUINT(OFFLOAD, offload.supported, OBSERVED),
    KUINT(OFFLOAD, offload.reserved, ZERO),

    KUINT(SNDBUF, sndbuf.size, VERIFIED),
    KUINT(SNDBUF, sndbuf.reserved, ZERO),

    KUINT(LINK, link.carrier, VERIFIED),
    KUINT(LINK, link.msg_enable, OBSERVED),

    KUINT(COALESCE, coalesce.rx_frames, OBSERVED),
    KUINT(COALESCE, coalesce.reserved, ZERO),

    KUINT(TXFILTER, txfilter.count, VERIFIED),
    KUINT(TXFILTER, txfilter.reserved, ZERO),
    KUINT(TXFILTER, txfilter.hash, VERIFIED),
    KBYTES(TXFILTER, txfilter.addr, VERIFIED),

    KUINT(STEERING, steering.id, VERIFIED),
    KUINT(STEERING, steering.type, VERIFIED),
    KBYTES(STEERING, steering.tag, VERIFIED),
    KUINT(STEERING, steering.action, ZERO),
    KUINT(STEERING, steering.fd, ZERO),

    KUINT(FILTER, filter.id, VERIFIED),
    KUINT(FILTER, filter.type, VERIFIED),
    KBYTES(FILTER, filter.tag, VERIFIED),
    KUINT(FILTER, filter.action, ZERO),
    KUINT(FILTER, filter.fd, ZERO),

    KUINT(XDP, xdp.drv_prog_id, OBSERVED),
    KUINT(XDP, xdp.skb_prog_id, OBSERVED),

    KUINT(QUEUE, queue.index, VERIFIED),
    KBITS(QUEUE, queue.flags, GUARD, TAP_KSTATE_QUEUE_GUARD),
    KBITS(QUEUE, queue.flags, VERIFIED, TAP_KSTATE_QUEUE_VERIFIED),
    KBITS(QUEUE, queue.flags, OBSERVED,
          (uint32_t)~(TAP_KSTATE_QUEUE_GUARD | TAP_KSTATE_QUEUE_VERIFIED)),
    KUINT(QUEUE, queue.ring_size, OBSERVED),
    KUINT(QUEUE, queue.ring_len, IGNORED),
};

static const char *tap_kstate_group_name(uint64_t group)
{
    static const struct {
        uint64_t group;
        const char *name;
    } groups[] = {
#define KGROUP(_number, _name, _member) { TUN_STATE_ ## _name, #_member },
        __TUN_STATE_GROUPS(KGROUP)
#undef KGROUP
    };

    for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
        if (group == groups[i].group) {
            return groups[i].name;
        }
    }
    return "?";
}

static int tap_kstate_ioctl(int fd, unsigned long request, struct tun_state *st)
{
    return RETRY_ON_EINTR(ioctl(fd, request, st));
}

static int tap_kstate_get_groups(int fd, uint64_t groups, uint32_t flags,
                                 struct tun_state *st)
{
    *st = (struct tun_state) { .mask = groups, .flags = flags };

    return tap_kstate_ioctl(fd, TUNGETSTATE, st);
}

static bool tap_kstate_get_flags(int fd, TapKState *ks, uint32_t flags,
                                 Error **errp)
{
    struct tun_state st;
    int ret;

    QEMU_BUILD_BUG_ON(sizeof(st) > TAP_KSTATE_MAX_SIZE);

    ks->size = 0;
    ret = tap_kstate_get_groups(fd, TAP_KSTATE_GROUPS, flags, &st);
    /* macvtap and ipvtap have fewer groups */
    if (ret < 0 && errno == EINVAL && (TAP_KSTATE_GROUPS & st.supported) &&
        (TAP_KSTATE_GROUPS & ~st.supported)) {
        ret = tap_kstate_get_groups(fd, TAP_KSTATE_GROUPS & st.supported,
                                    flags, &st);
    }
    if (ret < 0) {
        /* Kernels without the ioctl return EINVAL and leave the struct alone */
        if (errno == EINVAL && !st.supported) {
            return true;
        }
        error_setg_errno(errp, errno, "TUNGETSTATE failed");
        return false;
    }

    st.flags = 0;
    memcpy(ks->data, &st, sizeof(st));
    ks->size = sizeof(st);
    return true;
}

bool tap_kstate_get(int fd, TapKState *ks, Error **errp)
{
    return tap_kstate_get_flags(fd, ks, 0, errp);
}

bool tap_kstate_hold(int fd, TapKState *ks, Error **errp)
{
    return tap_kstate_get_flags(fd, ks, TUN_STATE_F_HOLD, errp);
}

static const uint8_t *tap_kfield_bytes(const TapKField *field,
                                       const struct tun_state *st)
{
    return (const uint8_t *)st + field->offset;
}

static uint64_t tap_kfield_uint(const TapKField *field,
                                const struct tun_state *st)
{
    const uint8_t *p = tap_kfield_bytes(field, st);
    uint64_t value = 0;

#if HOST_BIG_ENDIAN
    memcpy((uint8_t *)&value + sizeof(value) - field->size, p, field->size);
#else
    memcpy(&value, p, field->size);
#endif
    return value;
}

static bool tap_kfield_differs(const TapKField *field,
                               const struct tun_state *a,
                               const struct tun_state *b)
{
    if (field->bits) {
        return (tap_kfield_uint(field, a) ^ tap_kfield_uint(field, b)) &
               field->bits;
    }
    return memcmp(tap_kfield_bytes(field, a), tap_kfield_bytes(field, b),
                  field->size);
}

static void tap_kfield_copy(const TapKField *field, struct tun_state *to,
                            const struct tun_state *from)
{
    uint8_t *p = (uint8_t *)to + field->offset;

    if (field->bits) {
        uint32_t value = (tap_kfield_uint(field, to) & ~field->bits) |
                         (tap_kfield_uint(field, from) & field->bits);

        g_assert(field->size == sizeof(value));
        memcpy(p, &value, sizeof(value));
    } else {
        memcpy(p, tap_kfield_bytes(field, from), field->size);
    }
}

static void tap_kfield_append(GString *out, const struct tun_state *st,
                              const TapKField *field)
{
    const uint8_t *p = tap_kfield_bytes(field, st);

    switch (field->type) {
    case TAP_KFIELD_UINT:
        g_string_append_printf(out, "0x%" PRIx64, tap_kfield_uint(field, st));
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

/*
 * List the fields that differ, with both values: those that are observed, or
 * those that are guards or verified
 *
 * Returns: NULL if none differs
 */
static char *tap_kstate_explain(const struct tun_state *expected,
                                const struct tun_state *actual, bool observed)
{
    g_autoptr(GString) out = g_string_new(NULL);
    const TapKField *last = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
        const TapKField *field = &tap_kfields[i];

        if (!(expected->mask & field->group) ||
            (observed ? field->policy != TAP_KPOLICY_OBSERVED :
                        field->policy > TAP_KPOLICY_VERIFIED) ||
            !tap_kfield_differs(field, expected, actual) ||
            (last && last->offset == field->offset)) {
            continue;
        }
        g_string_append_printf(out, "%s%s is ", last ? ", " : "", field->name);
        tap_kfield_append(out, actual, field);
        g_string_append(out, " instead of ");
        tap_kfield_append(out, expected, field);
        last = field;
    }
    return last ? g_string_free(g_steal_pointer(&out), false) : NULL;
}

static bool tap_kstate_damaged(const TapKState *ks, const char *field,
                               const char *what, Error **errp)
{
    error_setg(errp, "the kernel state of %u bytes is damaged: %s %s; try "
               "again, or use kernel-state=off", ks->size, field, what);
    return false;
}

/* Check the format of @ks, and copy it to @st; unnamed groups are zero */
static bool tap_kstate_parse(const TapKState *ks, struct tun_state *st,
                             Error **errp)
{
    static const struct tun_state zero;

    if (ks->size < offsetof(struct tun_state, identity) ||
        ks->size > TAP_KSTATE_MAX_SIZE) {
        error_setg(errp, "the kernel state has %u bytes, which no kernel "
                   "reports: try again, or use kernel-state=off", ks->size);
        return false;
    }
    *st = zero;
    memcpy(st, ks->data, MIN(ks->size, sizeof(*st)));
    if (!st->mask || (st->mask & ~TAP_KSTATE_GROUPS)) {
        error_setg(errp, "the kernel state holds groups 0x%" PRIx64
                   ", of which 0x%" PRIx64 " are known: use a QEMU as new as "
                   "the source's, or kernel-state=off", (uint64_t)st->mask,
                   (uint64_t)TAP_KSTATE_GROUPS);
        return false;
    }

    if (st->flags) {
        return tap_kstate_damaged(ks, "flags", "is not zero", errp);
    }
    if (st->reserved) {
        return tap_kstate_damaged(ks, "reserved", "is not zero", errp);
    }
    if (ks->size > sizeof(*st) &&
        !buffer_is_zero(ks->data + sizeof(*st), ks->size - sizeof(*st))) {
        return tap_kstate_damaged(ks, "the part behind the groups",
                                  "is not zero", errp);
    }
    for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
        const TapKField *field = &tap_kfields[i];

        if (!(st->mask & field->group)) {
            continue;
        }
        if (field->offset + field->size > ks->size) {
            return tap_kstate_damaged(ks, field->name, "is missing", errp);
        }
        if (field->policy == TAP_KPOLICY_ZERO &&
            tap_kfield_differs(field, st, &zero)) {
            return tap_kstate_damaged(ks, field->name, "is not zero", errp);
        }
    }
    return true;
}

/* Read without TUN_STATE_F_HOLD: leave to the source what it holds */
static bool tap_kstate_read(int fd, uint64_t groups, struct tun_state *st,
                            Error **errp)
{
    if (tap_kstate_get_groups(fd, groups, 0, st) < 0) {
        error_setg_errno(errp, errno, "TUNGETSTATE failed, and the kernel "
                         "state cannot be compared; use kernel-state=off to go "
                         "without");
        return false;
    }
    return true;
}

bool tap_kstate_check(int fd, const TapKState *ks, char **observed,
                      Error **errp)
{
    g_autofree char *explanation = NULL;
    struct tun_state expected, actual;

    *observed = NULL;
    if (!tap_kstate_parse(ks, &expected, errp) ||
        !tap_kstate_read(fd, expected.mask, &actual, errp)) {
        return false;
    }
    *observed = tap_kstate_explain(&expected, &actual, true);
    explanation = tap_kstate_explain(&expected, &actual, false);
    if (explanation) {
        error_setg(errp, "the kernel state is not the expected one: %s; "
                   "somebody changed the TAP during the migration",
                   explanation);
        return false;
    }
    return true;
}

/* Set the verified fields that differ, and nothing else */
static bool tap_kstate_set(int fd, const struct tun_state *expected,
                           const struct tun_state *actual, Error **errp)
{
    struct tun_state st = *actual;

    st.mask = 0;
    for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
        const TapKField *field = &tap_kfields[i];

        if (field->policy == TAP_KPOLICY_VERIFIED &&
            (expected->mask & field->group) &&
            tap_kfield_differs(field, expected, actual)) {
            tap_kfield_copy(field, &st, expected);
            st.mask |= field->group;
        }
    }
    /* TUNSETOFFLOAD, which changed enabled, has overwritten wanted, too */
    if (st.mask & TUN_STATE_OFFLOAD) {
        st.offload.wanted = expected->offload.wanted;
    }

    if (st.mask && tap_kstate_ioctl(fd, TUNSETSTATE, &st) < 0) {
        error_setg_errno(errp, errno, "TUNSETSTATE failed%s%s",
                         st.failed ? " at group " : "",
                         st.failed ? tap_kstate_group_name(st.failed) : "");
        return false;
    }
    return true;
}

bool tap_kstate_restore(int fd, const TapKState *ks, Error **errp)
{
    g_autofree char *explanation = NULL;
    struct tun_state expected, actual;
    Error *err = NULL;

    if (!tap_kstate_parse(ks, &expected, errp) ||
        !tap_kstate_read(fd, expected.mask, &actual, errp)) {
        return false;
    }
    tap_kstate_set(fd, &expected, &actual, &err);

    if (!tap_kstate_read(fd, expected.mask, &actual, errp)) {
        error_free(err);
        return false;
    }
    explanation = tap_kstate_explain(&expected, &actual, false);
    if (explanation) {
        error_setg(errp, "cannot restore the kernel state: %s%s%s", explanation,
                   err ? "; " : "", err ? error_get_pretty(err) : "");
    }
    error_free(err);
    return !explanation;
}

bool tap_kstate_get_offload(int fd, int *offload)
{
    struct tun_state st;

    if (tap_kstate_get_groups(fd, TUN_STATE_OFFLOAD, 0, &st)) {
        return false;
    }
    *offload = st.offload.enabled;
    return true;
}

bool tap_kstate_get_supported(int fd, bool *ufo, bool *uso, bool *tunnel)
{
    struct tun_state st;

    if (tap_kstate_get_groups(fd, TUN_STATE_OFFLOAD, 0, &st)) {
        return false;
    }
    *ufo = st.offload.supported & TUN_F_UFO;
    *uso = (st.offload.supported & TUN_F_USO4) &&
           (st.offload.supported & TUN_F_USO6);
    *tunnel = st.offload.supported & TUN_F_UDP_TUNNEL_GSO;
    return true;
}
