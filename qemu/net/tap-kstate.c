/*
 * Kernel state of a TAP queue, as TUNGETSTATE reports it
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-kstate.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <linux/if_tun.h>

#include "qapi/error.h"
#include "qemu/bitops.h"
#include "tap_int.h"

/* Groups of which a difference is logged, and which stay on this side */
#define TAP_KSTATE_OBSERVED                                                 \
    (TUN_STATE_NETDEV | TUN_STATE_OWNER | TUN_STATE_COALESCE | TUN_STATE_XDP)

/*
 * Groups in the migration stream: those with a guard or verified field, but for
 * user buffers, whose address is meaningless in another process
 */
#define TAP_KSTATE_VERIFIED                                                 \
    (TUN_STATE_IDENTITY | TUN_STATE_IFF | TUN_STATE_VNET |                  \
     TUN_STATE_OFFLOAD | TUN_STATE_SNDBUF | TUN_STATE_LINK |                \
     TUN_STATE_TXFILTER | TUN_STATE_STEERING | TUN_STATE_FILTER |           \
     TUN_STATE_QUEUE)

#define TAP_KSTATE_GROUPS (TAP_KSTATE_VERIFIED | TAP_KSTATE_OBSERVED)

#define TAP_KSTATE_QUEUE_GUARD                                              \
    (TUN_STATE_QUEUE_NAPI | TUN_STATE_QUEUE_NAPI_FRAGS)
#define TAP_KSTATE_QUEUE_VERIFIED                                           \
    (TUN_STATE_QUEUE_ATTACHED | TUN_STATE_QUEUE_SOCKFILTER)

typedef enum TapKFieldType {
    TAP_KFIELD_UINT,
    TAP_KFIELD_HEX,
    TAP_KFIELD_STRING,
    TAP_KFIELD_MAC,
    TAP_KFIELD_BYTES,
} TapKFieldType;

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

#define KBITS(_group, _field, _policy, _type, _bits)                        \
    { TUN_STATE_ ## _group, #_field, offsetof(struct tun_state, _field),    \
      sizeof_field(struct tun_state, _field), TAP_KFIELD_ ## _type,         \
      TAP_KPOLICY_ ## _policy, _bits }
#define KFIELD(_group, _field, _policy, _type)                              \
    KBITS(_group, _field, _policy, _type, 0)

/* Fields that are absent here change by themselves, or are reserved */
static const TapKField tap_kfields[] = {
    KFIELD(IDENTITY, identity.netns, OBSERVED, UINT),
    KFIELD(IDENTITY, identity.ifindex, GUARD, UINT),
    KFIELD(IDENTITY, identity.type, GUARD, UINT),

    KFIELD(NETDEV, netdev.name, OBSERVED, STRING),
    KFIELD(NETDEV, netdev.mtu, OBSERVED, UINT),
    KFIELD(NETDEV, netdev.up, OBSERVED, UINT),
    KFIELD(NETDEV, netdev.addr, OBSERVED, MAC),

    KBITS(IFF, iff.flags, GUARD, HEX, (uint32_t)~IFF_PERSIST),
    KBITS(IFF, iff.flags, OBSERVED, HEX, IFF_PERSIST),

    KFIELD(OWNER, owner.uid, OBSERVED, UINT),
    KFIELD(OWNER, owner.gid, OBSERVED, UINT),

    KFIELD(VNET, vnet.hdr_size, VERIFIED, UINT),
    KFIELD(VNET, vnet.flags, VERIFIED, HEX),

    KFIELD(OFFLOAD, offload.enabled, VERIFIED, HEX),
    KFIELD(OFFLOAD, offload.wanted, OBSERVED, HEX),

    KFIELD(SNDBUF, sndbuf.size, VERIFIED, UINT),

    KFIELD(LINK, link.carrier, VERIFIED, UINT),
    KFIELD(LINK, link.msg_enable, OBSERVED, HEX),

    KFIELD(COALESCE, coalesce.rx_frames, OBSERVED, UINT),

    KFIELD(TXFILTER, txfilter.count, VERIFIED, UINT),
    KFIELD(TXFILTER, txfilter.hash, VERIFIED, HEX),
    KFIELD(TXFILTER, txfilter.addr, VERIFIED, BYTES),

    KFIELD(STEERING, steering.id, VERIFIED, UINT),
    KFIELD(STEERING, steering.tag, VERIFIED, BYTES),
    KFIELD(STEERING, steering.type, VERIFIED, UINT),

    KFIELD(FILTER, filter.id, VERIFIED, UINT),
    KFIELD(FILTER, filter.tag, VERIFIED, BYTES),
    KFIELD(FILTER, filter.type, VERIFIED, UINT),

    KFIELD(XDP, xdp.drv_prog_id, OBSERVED, UINT),
    KFIELD(XDP, xdp.skb_prog_id, OBSERVED, UINT),

    KBITS(QUEUE, queue.flags, GUARD, HEX, TAP_KSTATE_QUEUE_GUARD),
    KBITS(QUEUE, queue.flags, VERIFIED, HEX, TAP_KSTATE_QUEUE_VERIFIED),
};

static int tap_kstate_ioctl(int fd, unsigned long request, struct tun_state *st)
{
    return RETRY_ON_EINTR(ioctl(fd, request, st)) < 0 ? -errno : 0;
}

static int tap_kstate_get(int fd, uint64_t groups, uint32_t flags,
                          struct tun_state *st)
{
    *st = (struct tun_state) { .mask = groups, .flags = flags };

    return tap_kstate_ioctl(fd, TUNGETSTATE, st);
}

/* What a kernel without TUNGETSTATE tells */
static bool tap_kstate_read_old(int fd, struct tun_state *st, Error **errp)
{
    unsigned int flags;
    int value;

    *st = (struct tun_state) { };
    if (tap_fd_get_iff(fd, (char *)st->netdev.name, &flags)) {
        error_setg_errno(errp, errno, "TUNGETIFF failed");
        return false;
    }
    st->mask = TUN_STATE_IFF | TUN_STATE_QUEUE;
    st->iff.flags = flags & ~IFF_DETACH_QUEUE;
    st->queue.flags = flags & IFF_DETACH_QUEUE ? 0 : TUN_STATE_QUEUE_ATTACHED;
    if (!tap_fd_get_vnet_hdr_len(fd, &value)) {
        st->mask |= TUN_STATE_VNET;
        st->vnet.hdr_size = value;
        st->vnet.flags =
            (!tap_fd_get_vnet_le(fd, &value) && value ? TUN_STATE_VNET_LE : 0) |
            (!tap_fd_get_vnet_be(fd, &value) && value ? TUN_STATE_VNET_BE : 0);
    }
    return true;
}

bool tap_kstate_read(int fd, bool hold, struct tun_state *st, char **why,
                     Error **errp)
{
    uint32_t flags = hold ? TUN_STATE_F_HOLD : 0;
    int ret = tap_kstate_get(fd, TAP_KSTATE_GROUPS, flags, st);

    /* macvtap and ipvtap have fewer groups */
    if (ret == -EINVAL && (TAP_KSTATE_GROUPS & st->supported)) {
        ret = tap_kstate_get(fd, TAP_KSTATE_GROUPS & st->supported, flags, st);
    }
    if (!ret) {
        return true;
    }
    if (why) {
        /* Kernels without the ioctl return EINVAL and leave the struct alone */
        *why = ret == -EINVAL && !st->supported ?
               g_strdup("this kernel does not report TAP state (TUNGETSTATE)") :
               g_strdup_printf("TUNGETSTATE failed: %s", strerror(-ret));
    }
    if (tap_kstate_read_old(fd, st, errp)) {
        return true;
    }
    if (why) {
        g_clear_pointer(why, g_free);
    }
    return false;
}

void tap_kstate_encode(const struct tun_state *st, TapKState *ks)
{
    struct tun_state out = { .mask = st->mask & TAP_KSTATE_VERIFIED };

    QEMU_BUILD_BUG_ON(sizeof(out) > TAP_KSTATE_MAX_SIZE);

    for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
        const TapKField *field = &tap_kfields[i];

        if (field->group & out.mask) {
            memcpy((uint8_t *)&out + field->offset,
                   (const uint8_t *)st + field->offset, field->size);
        }
    }
    out.queue.index = st->queue.index;
    memcpy(ks->data, &out, sizeof(out));
    ks->size = sizeof(out);
}

bool tap_kstate_decode(const TapKState *ks, struct tun_state *st,
                       bool *unknown, Error **errp)
{
    *st = (struct tun_state) { };
    memcpy(st, ks->data, MIN(ks->size, sizeof(*st)));
    *unknown = st->mask & ~TAP_KSTATE_VERIFIED;
    st->mask &= TAP_KSTATE_VERIFIED;

    for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
        const TapKField *field = &tap_kfields[i];

        if ((st->mask & field->group) &&
            field->offset + field->size > ks->size) {
            error_setg(errp, "the kernel state of %u bytes is damaged: %s is "
                       "missing; try again, or use kernel-state=off", ks->size,
                       field->name);
            return false;
        }
    }
    return true;
}

bool tap_kstate_complete(const struct tun_state *expected,
                         const struct tun_state *actual)
{
    return !((expected->mask ^ actual->supported) & TAP_KSTATE_VERIFIED);
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
    size_t size = field->size;

    switch (field->type) {
    case TAP_KFIELD_UINT:
        g_string_append_printf(out, "%" PRIu64, tap_kfield_uint(field, st));
        break;
    case TAP_KFIELD_HEX:
        g_string_append_printf(out, "0x%" PRIx64, tap_kfield_uint(field, st));
        break;
    case TAP_KFIELD_STRING:
        for (size_t i = 0; i < size && p[i]; i++) {
            g_string_append_c(out, g_ascii_isgraph(p[i]) ? p[i] : '?');
        }
        break;
    case TAP_KFIELD_MAC:
        size = MIN(size, st->netdev.addr_len);
        /* fall through */
    case TAP_KFIELD_BYTES:
        for (size_t i = 0; i < size; i++) {
            g_string_append_printf(out, "%s%02x",
                                   i && field->type == TAP_KFIELD_MAC ? ":" :
                                   "", p[i]);
        }
        break;
    }
}

/* A device that moves to another network namespace may get another index */
static TapKPolicy tap_kfield_policy(const TapKField *field,
                                    const struct tun_state *a,
                                    const struct tun_state *b)
{
    return field->offset == offsetof(struct tun_state, identity.ifindex) &&
           a->identity.netns != b->identity.netns ? TAP_KPOLICY_OBSERVED :
                                                    field->policy;
}

char *tap_kstate_differences(const struct tun_state *expected,
                             const struct tun_state *actual,
                             unsigned int policies)
{
    g_autoptr(GString) out = g_string_new(NULL);
    const TapKField *last = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
        const TapKField *field = &tap_kfields[i];

        if (!(expected->mask & actual->mask & field->group) ||
            !(BIT(tap_kfield_policy(field, expected, actual)) & policies) ||
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

uint64_t tap_kstate_place(const struct tun_state *st)
{
    return st->queue.index + (st->queue.flags & TUN_STATE_QUEUE_ATTACHED ?
                              0 : 1ULL << 32);
}

char *tap_kstate_restore(int fd, const struct tun_state *expected,
                         const struct tun_state *actual)
{
    g_autoptr(GString) out = g_string_new(NULL);
    uint64_t groups = expected->mask & actual->supported & TAP_KSTATE_VERIFIED;

    while (groups) {
        uint64_t group = BIT_ULL(ctz64(groups));
        struct tun_state st = *actual;
        const char *name = NULL;
        int ret;

        groups &= ~group;
        st.mask = 0;
        st.flags = 0;
        for (size_t i = 0; i < ARRAY_SIZE(tap_kfields); i++) {
            const TapKField *field = &tap_kfields[i];

            if (field->group == group &&
                field->policy == TAP_KPOLICY_VERIFIED &&
                tap_kfield_differs(field, expected, actual)) {
                tap_kfield_copy(field, &st, expected);
                st.mask = group;
                name = field->name;
            }
        }
        if (!name) {
            continue;
        }
        /* TUNSETOFFLOAD, which changed enabled, has overwritten wanted, too */
        if (group == TUN_STATE_OFFLOAD) {
            st.offload.wanted = expected->offload.wanted;
        }
        ret = tap_kstate_ioctl(fd, TUNSETSTATE, &st);
        if (ret) {
            g_string_append_printf(out, "%s%.*s: %s", out->len ? ", " : "",
                                   (int)strcspn(name, "."), name,
                                   strerror(-ret));
        }
    }
    return out->len ? g_string_free(g_steal_pointer(&out), false) : NULL;
}

int tap_kstate_set_index(int fd, const struct tun_state *actual,
                         uint32_t index)
{
    struct tun_state st = *actual;

    st.mask = TUN_STATE_QUEUE;
    st.flags = 0;
    st.queue.index = index;
    return tap_kstate_ioctl(fd, TUNSETSTATE, &st);
}
