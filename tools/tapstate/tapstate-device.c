// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Read the state of a tun/tap device with TUNGETSTATE, and write it as JSON
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/bpf.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>

#include "tapstate-device.h"

G_DEFINE_QUARK(tapstate-error-quark, tapstate_error)

typedef struct Name {
    guint64 bit;
    const char *name;
} Name;

/* In capitals, as in the header; printed in lower case */
#define GROUP_NAME(number, name, member) { TUN_STATE_ ## name, #name },
static const Name group_names[] = {
    __TUN_STATE_GROUPS(GROUP_NAME)
    { 0 }
};

/* IFF_BACKPRESSURE is a number: older linux/if_tun.h lack its name */
static const Name flag_names[] = {
    { IFF_TUN, "tun" },
    { IFF_TAP, "tap" },
    { IFF_NAPI, "napi" },
    { IFF_NAPI_FRAGS, "napi_frags" },
    { 0x80, "backpressure" },
    { IFF_MULTI_QUEUE, "multi_queue" },
    { IFF_PERSIST, "persist" },
    { IFF_NO_PI, "no_pi" },
    { IFF_ONE_QUEUE, "one_queue" },
    { IFF_VNET_HDR, "vnet_hdr" },
    { 0 }
};

/* Four are numbers: older linux/if_tun.h lack their names */
static const Name offload_names[] = {
    { TUN_F_CSUM, "csum" },
    { TUN_F_TSO4, "tso4" },
    { TUN_F_TSO6, "tso6" },
    { TUN_F_TSO_ECN, "tso_ecn" },
    { TUN_F_UFO, "ufo" },
    { 0x20, "uso4" },
    { 0x40, "uso6" },
    { 0x80, "udp_tunnel_gso" },
    { 0x100, "udp_tunnel_gso_csum" },
    { 0 }
};

#define GROUP_BIT(number, name, member) | TUN_STATE_ ## name
#define ALL_GROUPS (0 __TUN_STATE_GROUPS(GROUP_BIT))

static const char *group_name(guint64 bit)
{
    for (const Name *n = group_names; n->bit; n++) {
        if (n->bit == bit) {
            return n->name;
        }
    }
    return NULL;
}

static bool get_state(int fd, struct tun_state *st, GError **errp)
{
    const char *group;
    int err;

    if (ioctl(fd, TUNGETSTATE, st) == 0) {
        return true;
    }

    err = errno;
    group = group_name(st->failed);
    if (err == EBADFD) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "the file descriptor is not attached to a tun/tap device");
    } else if (err == ENOTTY) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NOT_TUN,
                    "the file descriptor is not a tun/tap queue");
    } else if (err == EINVAL && !group) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_KERNEL,
                    "the tun driver of this kernel lacks TUNGETSTATE; "
                    "load the patched tun module");
    } else {
        g_autofree char *name = g_ascii_strdown(group ? group : "", -1);

        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "TUNGETSTATE failed%s%s: %s", group ? " for " : "", name,
                    g_strerror(err));
    }
    errno = err;
    return false;
}

bool tapstate_device_read_queue(int fd, struct tun_state *st, GError **errp)
{
    memset(st, 0, sizeof(*st));
    st->mask = TUN_STATE_IDENTITY | TUN_STATE_SNDBUF | TUN_STATE_QUEUE;
    return get_state(fd, st, errp);
}

TapstateDevice *tapstate_device_read(int fd, GError **errp)
{
    g_autoptr(TapstateDevice) s = g_new0(TapstateDevice, 1);
    struct tun_state probe = { 0 };
    /* Limits of the driver; a later one may ask for more with ENOSPC */
    guint32 n_queues = 256, n_insns = BPF_MAXINSNS, n_flows = 4096;

    s->holders = g_array_new(false, true, sizeof(TapstateHolder));

    if (!get_state(fd, &probe, errp)) {
        return NULL;
    }

    for (;;) {
        g_autoptr(GError) err = NULL;

        s->queues = g_renew(struct tun_state_queue, s->queues, n_queues);
        s->insns = g_renew(struct sock_filter, s->insns, n_insns);
        s->flows = g_renew(struct tun_state_flow, s->flows, n_flows);

        s->st = (struct tun_state) {
            .mask = probe.supported & ALL_GROUPS,
            .sockfilter = {
                .entries = (guintptr)s->insns,
                .count = n_insns,
                .entry_size = sizeof(*s->insns),
            },
            .flows = {
                .entries = (guintptr)s->flows,
                .count = n_flows,
                .entry_size = sizeof(*s->flows),
            },
            .queues = {
                .entries = (guintptr)s->queues,
                .count = n_queues,
                .entry_size = sizeof(*s->queues),
            },
        };
        if (get_state(fd, &s->st, &err)) {
            return g_steal_pointer(&s);
        }

        if (errno == ENOSPC && s->st.queues.count > n_queues) {
            n_queues = s->st.queues.count;
        } else if (errno == ENOSPC && s->st.sockfilter.count > n_insns) {
            n_insns = s->st.sockfilter.count;
        } else if (errno == ENOSPC && s->st.flows.count > n_flows) {
            n_flows = s->st.flows.count;
        } else {
            g_propagate_error(errp, g_steal_pointer(&err));
            return NULL;
        }
    }
}

void tapstate_device_free(TapstateDevice *s)
{
    g_free(s->queues);
    g_free(s->insns);
    g_free(s->flows);
    g_array_unref(s->holders);
    g_free(s);
}

/* Bits by name, and bits without a name as numbers */
static void add_bits(JsonBuilder *b, const char *member, const Name *names,
                     guint64 bits)
{
    json_builder_set_member_name(b, member);
    json_builder_begin_array(b);
    for (const Name *n = names; n->bit; n++) {
        if (bits & n->bit) {
            g_autofree char *name = g_ascii_strdown(n->name, -1);

            json_builder_add_string_value(b, name);
            bits &= ~n->bit;
        }
    }
    for (int i = 0; i < 64; i++) {
        if (bits & (G_GUINT64_CONSTANT(1) << i)) {
            g_autofree char *s = g_strdup_printf("0x%" G_GINT64_MODIFIER "x",
                                                 G_GUINT64_CONSTANT(1) << i);
            json_builder_add_string_value(b, s);
        }
    }
    json_builder_end_array(b);
}

static void add_int(JsonBuilder *b, const char *member, gint64 value)
{
    json_builder_set_member_name(b, member);
    json_builder_add_int_value(b, value);
}

static void add_bool(JsonBuilder *b, const char *member, bool value)
{
    json_builder_set_member_name(b, member);
    json_builder_add_boolean_value(b, value);
}

static void add_string(JsonBuilder *b, const char *member, const char *value)
{
    json_builder_set_member_name(b, member);
    json_builder_add_string_value(b, value);
}

static void add_hex(JsonBuilder *b, const char *member, const guint8 *bytes,
                    size_t len, const char *separator)
{
    g_autoptr(GString) s = g_string_new(NULL);

    for (size_t i = 0; i < len; i++) {
        g_string_append_printf(s, "%s%02x", i ? separator : "", bytes[i]);
    }
    if (member) {
        json_builder_set_member_name(b, member);
    }
    json_builder_add_string_value(b, s->str);
}

static void begin_object(JsonBuilder *b, const char *member)
{
    json_builder_set_member_name(b, member);
    json_builder_begin_object(b);
}

static void begin_array(JsonBuilder *b, const char *member)
{
    json_builder_set_member_name(b, member);
    json_builder_begin_array(b);
}

/* An id that the caller's user namespace does not know is no number there */
static void add_id(JsonBuilder *b, const char *member, guint32 id,
                   bool unmapped)
{
    if (unmapped) {
        add_string(b, member, "unmapped");
    } else if (id == G_MAXUINT32) {
        json_builder_set_member_name(b, member);
        json_builder_add_null_value(b);
    } else {
        add_int(b, member, id);
    }
}

static void add_owner(JsonBuilder *b, const struct tun_state_owner *owner)
{
    begin_object(b, "owner");
    add_id(b, "uid", owner->uid, owner->flags & TUN_STATE_OWNER_UID_UNMAPPED);
    add_id(b, "gid", owner->gid, owner->flags & TUN_STATE_OWNER_GID_UNMAPPED);
    json_builder_end_object(b);
}

static void add_link_type(JsonBuilder *b, guint16 type)
{
    g_autofree char *number = g_strdup_printf("%u", type);

    add_string(b, "type", type == ARPHRD_ETHER ? "ether" :
                          type == ARPHRD_NONE ? "none" : number);
}

static void add_prog(JsonBuilder *b, const char *member,
                     const struct tun_state_prog *prog)
{
    g_autofree char *number = g_strdup_printf("%u", prog->type);

    if (!prog->id) {
        json_builder_set_member_name(b, member);
        json_builder_add_null_value(b);
        return;
    }
    begin_object(b, member);
    add_int(b, "id", prog->id);
    add_string(b, "type", prog->type == BPF_PROG_TYPE_SOCKET_FILTER ?
                          "socket_filter" : number);
    add_hex(b, "tag", prog->tag, sizeof(prog->tag), "");
    json_builder_end_object(b);
}

static void add_identity(JsonBuilder *b, const struct tun_state_identity *id)
{
    begin_object(b, "identity");
    add_int(b, "ifindex", id->ifindex);
    add_int(b, "netns", id->netns);
    add_link_type(b, id->type);
    json_builder_end_object(b);
}

static void add_netdev(JsonBuilder *b, const struct tun_state_netdev *dev)
{
    g_autofree char *name = g_strndup((const char *)dev->name,
                                      sizeof(dev->name));

    begin_object(b, "netdev");
    add_string(b, "name", name);
    add_int(b, "mtu", dev->mtu);
    add_bool(b, "up", dev->up);
    add_hex(b, "address", dev->addr, MIN(dev->addr_len, sizeof(dev->addr)),
            ":");
    json_builder_end_object(b);
}

static void add_offload(JsonBuilder *b, const struct tun_state_offload *o)
{
    begin_object(b, "offload");
    add_bits(b, "enabled", offload_names, o->enabled);
    add_bits(b, "wanted", offload_names, o->wanted);
    add_bits(b, "supported", offload_names, o->supported);
    json_builder_end_object(b);
}

static void add_link(JsonBuilder *b, const struct tun_state_link *link)
{
    g_autofree char *msg = g_strdup_printf("0x%x", link->msg_enable);

    begin_object(b, "link");
    add_bool(b, "carrier", link->carrier);
    add_string(b, "msg_enable", msg);
    json_builder_end_object(b);
}

static void add_txfilter(JsonBuilder *b, const struct tun_state_txfilter *f)
{
    g_autofree char *hash = g_strdup_printf("0x%016" G_GINT64_MODIFIER "x",
                                            (guint64)f->hash);

    begin_object(b, "txfilter");
    add_int(b, "count", f->count);
    add_string(b, "hash", hash);
    begin_array(b, "addresses");
    for (guint i = 0; i < MIN(f->count, TUN_STATE_TXFILTER_ADDRS); i++) {
        add_hex(b, NULL, f->addr[i], sizeof(f->addr[i]), ":");
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
}

static void add_sockfilter(JsonBuilder *b, const TapstateDevice *s)
{
    begin_array(b, "sockfilter");
    for (guint i = 0; i < s->st.sockfilter.count; i++) {
        const struct sock_filter *f = &s->insns[i];
        /* Format of tcpdump -ddd and of tc */
        g_autofree char *insn = g_strdup_printf("%u %u %u %u", f->code, f->jt,
                                                f->jf, f->k);
        json_builder_add_string_value(b, insn);
    }
    json_builder_end_array(b);
}

static void add_flows(JsonBuilder *b, const TapstateDevice *s)
{
    begin_array(b, "flows");
    for (guint i = 0; i < s->st.flows.count; i++) {
        const struct tun_state_flow *f = &s->flows[i];

        json_builder_begin_object(b);
        add_int(b, "rxhash", f->rxhash);
        add_int(b, "queue", f->queue_index);
        add_int(b, "age_ms", f->age_ms);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

static bool holds(const TapstateHolder *h, const struct tun_state_queue *q)
{
    return h->index == q->index &&
           h->attached == !!(q->flags & TUN_STATE_QUEUE_ATTACHED);
}

/* The kernel reports the send buffer through the queue's own file only */
static void add_sndbuf(JsonBuilder *b, const TapstateDevice *s,
                       const struct tun_state_queue *q)
{
    for (guint i = 0; i < s->holders->len; i++) {
        const TapstateHolder *h = &g_array_index(s->holders, TapstateHolder, i);

        if (holds(h, q)) {
            add_int(b, "sndbuf", h->sndbuf);
            return;
        }
    }
}

static void add_holders(JsonBuilder *b, const TapstateDevice *s,
                        const struct tun_state_queue *q)
{
    begin_array(b, "held_by");
    for (guint i = 0; i < s->holders->len; i++) {
        const TapstateHolder *h = &g_array_index(s->holders, TapstateHolder, i);

        if (!holds(h, q)) {
            continue;
        }
        json_builder_begin_object(b);
        add_int(b, "pid", h->pid);
        add_int(b, "fd", h->fd);
        add_string(b, "comm", h->comm);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

static void add_queues(JsonBuilder *b, const TapstateDevice *s)
{
    begin_array(b, "queues");
    for (guint i = 0; i < s->st.queues.count; i++) {
        const struct tun_state_queue *q = &s->queues[i];

        json_builder_begin_object(b);
        add_int(b, "index", q->index);
        add_bool(b, "attached", q->flags & TUN_STATE_QUEUE_ATTACHED);
        add_bool(b, "napi", q->flags & TUN_STATE_QUEUE_NAPI);
        add_bool(b, "napi_frags", q->flags & TUN_STATE_QUEUE_NAPI_FRAGS);
        add_bool(b, "sockfilter", q->flags & TUN_STATE_QUEUE_SOCKFILTER);
        add_sndbuf(b, s, q);
        add_int(b, "ring_size", q->ring_size);
        add_int(b, "ring_len", q->ring_len);
        add_holders(b, s, q);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
}

JsonNode *tapstate_device_to_json(const TapstateDevice *s)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    const struct tun_state *st = &s->st;

    json_builder_begin_object(b);
    add_int(b, "tapstate", TAPSTATE_FORMAT);
    add_bits(b, "supported", group_names, st->supported);

    if (st->mask & TUN_STATE_IDENTITY) {
        add_identity(b, &st->identity);
    }
    if (st->mask & TUN_STATE_NETDEV) {
        add_netdev(b, &st->netdev);
    }
    if (st->mask & TUN_STATE_IFF) {
        begin_object(b, "iff");
        add_bits(b, "flags", flag_names, st->iff.flags);
        json_builder_end_object(b);
    }
    if (st->mask & TUN_STATE_OWNER) {
        add_owner(b, &st->owner);
    }
    if (st->mask & TUN_STATE_VNET) {
        begin_object(b, "vnet");
        add_int(b, "hdr_size", st->vnet.hdr_size);
        add_bool(b, "le", st->vnet.flags & TUN_STATE_VNET_LE);
        add_bool(b, "be", st->vnet.flags & TUN_STATE_VNET_BE);
        json_builder_end_object(b);
    }
    if (st->mask & TUN_STATE_OFFLOAD) {
        add_offload(b, &st->offload);
    }
    if (st->mask & TUN_STATE_LINK) {
        add_link(b, &st->link);
    }
    if (st->mask & TUN_STATE_COALESCE) {
        begin_object(b, "coalesce");
        add_int(b, "rx_frames", st->coalesce.rx_frames);
        json_builder_end_object(b);
    }
    if (st->mask & TUN_STATE_TXFILTER) {
        add_txfilter(b, &st->txfilter);
    }
    if (st->mask & TUN_STATE_SOCKFILTER) {
        add_sockfilter(b, s);
    }
    if (st->mask & TUN_STATE_STEERING) {
        add_prog(b, "steering", &st->steering);
    }
    if (st->mask & TUN_STATE_FILTER) {
        add_prog(b, "filter", &st->filter);
    }
    if (st->mask & TUN_STATE_XDP) {
        begin_object(b, "xdp");
        add_int(b, "drv_prog_id", st->xdp.drv_prog_id);
        add_int(b, "skb_prog_id", st->xdp.skb_prog_id);
        json_builder_end_object(b);
    }
    if (st->mask & TUN_STATE_FLOWS) {
        add_flows(b, s);
    }
    if (st->mask & TUN_STATE_QUEUES) {
        add_queues(b, s);
    }
    json_builder_end_object(b);
    return json_builder_get_root(b);
}
