// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Table of the fields in the JSON: place in struct tun_state, and type
 */
#include <string.h>
#include <linux/bpf.h>
#include <linux/if_arp.h>

#include "private.h"

static guint64 load(const Field *f, const void *base)
{
    const void *p = (const char *)base + f->offset;

    switch (f->size) {
    case 1:
        return *(const guint8 *)p;
    case 2:
        return *(const guint16 *)p;
    case 4:
        return *(const guint32 *)p;
    default:
        return *(const guint64 *)p;
    }
}

static bool store(const Field *f, void *base, guint64 value)
{
    void *p = (char *)base + f->offset;

    if (f->size < 8 && value >> (8 * f->size)) {
        return false;
    }
    switch (f->size) {
    case 1:
        *(guint8 *)p = value;
        break;
    case 2:
        *(guint16 *)p = value;
        break;
    case 4:
        *(guint32 *)p = value;
        break;
    default:
        *(guint64 *)p = value;
    }
    return true;
}

static JsonNode *string_node(const char *text)
{
    return json_node_init_string(json_node_alloc(), text);
}

static JsonNode *array_node(JsonArray *array)
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    json_node_take_array(node, array);
    return node;
}

static bool is(JsonNode *node, GType type)
{
    return JSON_NODE_HOLDS_VALUE(node) &&
           json_node_get_value_type(node) == type;
}

static JsonNode *number_encode(const Field *f, const void *base)
{
    return json_node_init_int(json_node_alloc(), load(f, base));
}

static bool number_decode(const Field *f, void *base, JsonNode *node)
{
    return is(node, G_TYPE_INT64) && json_node_get_int(node) >= 0 &&
           store(f, base, json_node_get_int(node));
}

static const FieldType number = {
    number_encode, number_decode, "a number in the range of the kernel"
};

static JsonNode *boolean_encode(const Field *f, const void *base)
{
    return json_node_init_boolean(json_node_alloc(), load(f, base) != 0);
}

static bool boolean_decode(const Field *f, void *base, JsonNode *node)
{
    return is(node, G_TYPE_BOOLEAN) &&
           store(f, base, json_node_get_boolean(node));
}

static const FieldType boolean = {
    boolean_encode, boolean_decode, "true or false"
};

/* One bit of a member */
static JsonNode *flag_encode(const Field *f, const void *base)
{
    return json_node_init_boolean(json_node_alloc(),
                                  (load(f, base) & f->flag) != 0);
}

static bool flag_decode(const Field *f, void *base, JsonNode *node)
{
    return is(node, G_TYPE_BOOLEAN) &&
           (!json_node_get_boolean(node) ||
            store(f, base, load(f, base) | f->flag));
}

static const FieldType flag = { flag_encode, flag_decode, "true or false" };

/* "0x...", with at least @width digits */
static JsonNode *hex_node(guint64 value, int width)
{
    g_autofree char *s = g_strdup_printf("0x%0*" G_GINT64_MODIFIER "x", width,
                                         value);

    return string_node(s);
}

static bool hex_value(JsonNode *node, guint64 *value)
{
    const char *s = is(node, G_TYPE_STRING) ? json_node_get_string(node) : "";

    return g_str_has_prefix(s, "0x") &&
           g_ascii_string_to_unsigned(s + 2, 16, 0, G_MAXUINT64, value, NULL);
}

static JsonNode *hex_encode(const Field *f, const void *base)
{
    return hex_node(load(f, base), f->flag);
}

static bool hex_decode(const Field *f, void *base, JsonNode *node)
{
    guint64 value;

    return hex_value(node, &value) && store(f, base, value);
}

static const FieldType hex = {
    hex_encode, hex_decode, "a string with a hexadecimal number, \"0x...\""
};

/* Bits by name, and bits without a name as numbers */
JsonNode *tapstate__bits_node(const Name *names, guint64 bits)
{
    JsonArray *array = json_array_new();

    for (const Name *n = names; n->bit; n++) {
        if (bits & n->bit) {
            json_array_add_string_element(array, n->name);
            bits &= ~n->bit;
        }
    }
    for (int i = 0; i < 64; i++) {
        if (bits & (G_GUINT64_CONSTANT(1) << i)) {
            json_array_add_element(array,
                                   hex_node(G_GUINT64_CONSTANT(1) << i, 1));
        }
    }
    return array_node(array);
}

static bool bit_value(const Name *names, JsonNode *node, guint64 *bit)
{
    const char *name = is(node, G_TYPE_STRING) ? json_node_get_string(node) :
                                                 "";

    for (const Name *n = names; n->bit; n++) {
        if (!strcmp(n->name, name)) {
            *bit = n->bit;
            return true;
        }
    }
    return hex_value(node, bit) && *bit && !(*bit & (*bit - 1));
}

bool tapstate__bits_value(const Name *names, JsonNode *node, guint64 *bits)
{
    JsonArray *array;
    guint64 bit;

    *bits = 0;
    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        return false;
    }
    array = json_node_get_array(node);
    for (guint i = 0; i < json_array_get_length(array); i++) {
        if (!bit_value(names, json_array_get_element(array, i), &bit)) {
            return false;
        }
        *bits |= bit;
    }
    return true;
}

static JsonNode *bits_encode(const Field *f, const void *base)
{
    return tapstate__bits_node(f->names, load(f, base));
}

static bool bits_decode(const Field *f, void *base, JsonNode *node)
{
    guint64 bits;

    return tapstate__bits_value(f->names, node, &bits) && store(f, base, bits);
}

static const FieldType bits = {
    bits_encode, bits_decode, "a list of names that this tapstate knows"
};

/* A value with a name, or its number in a string */
static JsonNode *value_encode(const Field *f, const void *base)
{
    g_autofree char *digits = NULL;
    guint64 value = load(f, base);

    for (const Name *n = f->names; n->name; n++) {
        if (n->bit == value) {
            return string_node(n->name);
        }
    }
    digits = g_strdup_printf("%u", (guint)value);
    return string_node(digits);
}

static bool value_decode(const Field *f, void *base, JsonNode *node)
{
    const char *s = is(node, G_TYPE_STRING) ? json_node_get_string(node) : "";
    guint64 value;

    for (const Name *n = f->names; n->name; n++) {
        if (!strcmp(n->name, s)) {
            return store(f, base, n->bit);
        }
    }
    return g_ascii_string_to_unsigned(s, 10, 0, G_MAXUINT32, &value, NULL) &&
           store(f, base, value);
}

static const FieldType value = {
    value_encode, value_decode, "a name that this tapstate knows"
};

/* User or group: an unmapped one is no number in the caller's user namespace */
static JsonNode *owner_encode(const Field *f, const void *base)
{
    const struct tun_state *st = base;
    guint32 id = load(f, base);

    if (st->owner.flags & f->flag) {
        return string_node("unmapped");
    }
    return id == G_MAXUINT32 ? json_node_new(JSON_NODE_NULL) :
                               number_encode(f, base);
}

static bool owner_decode(const Field *f, void *base, JsonNode *node)
{
    struct tun_state *st = base;

    if (JSON_NODE_HOLDS_NULL(node)) {
        return store(f, base, G_MAXUINT32);
    }
    if (is(node, G_TYPE_STRING) &&
        !strcmp(json_node_get_string(node), "unmapped")) {
        st->owner.flags |= f->flag;
        return store(f, base, 65534);
    }
    return number_decode(f, base, node) && load(f, base) != G_MAXUINT32;
}

static const FieldType owner = {
    owner_encode, owner_decode, "a number, null or \"unmapped\""
};

static JsonNode *name_encode(const Field *f, const void *base)
{
    g_autofree char *s = tapstate__escape((const char *)base + f->offset,
                                          f->size);

    return string_node(s);
}

static bool name_decode(const Field *f, void *base, JsonNode *node)
{
    return is(node, G_TYPE_STRING) &&
           tapstate__unescape(json_node_get_string(node),
                              (char *)base + f->offset, f->size);
}

static const FieldType name = {
    name_encode, name_decode, "a name of at most 15 bytes"
};

/* Bytes in hexadecimal, with @separator between them */
static JsonNode *bytes_node(const guint8 *bytes, size_t len,
                            const char *separator)
{
    g_autoptr(GString) s = g_string_new(NULL);

    for (size_t i = 0; i < len; i++) {
        g_string_append_printf(s, "%s%02x", i ? separator : "", bytes[i]);
    }
    return string_node(s->str);
}

/* Return the number of bytes, or -1 */
static int bytes_value(JsonNode *node, guint8 *bytes, size_t max,
                       const char *separator)
{
    const char *s = is(node, G_TYPE_STRING) ? json_node_get_string(node) : "x";
    size_t len = 0;

    memset(bytes, 0, max);
    for (; *s; len++, s += 2) {
        if (len && !g_str_has_prefix(s, separator)) {
            return -1;
        }
        s += len ? strlen(separator) : 0;
        if (len == max || !g_ascii_isxdigit(s[0]) || !g_ascii_isxdigit(s[1])) {
            return -1;
        }
        bytes[len] = g_ascii_xdigit_value(s[0]) << 4 |
                     g_ascii_xdigit_value(s[1]);
    }
    return len;
}

static JsonNode *address_encode(const Field *f, const void *base)
{
    const struct tun_state *st = base;
    const struct tun_state_netdev *dev = &st->netdev;

    (void)f;
    return bytes_node(dev->addr, MIN(dev->addr_len, sizeof(dev->addr)), ":");
}

static bool address_decode(const Field *f, void *base, JsonNode *node)
{
    struct tun_state *st = base;
    struct tun_state_netdev *dev = &st->netdev;
    int len = bytes_value(node, dev->addr, sizeof(dev->addr), ":");

    (void)f;
    dev->addr_len = MAX(len, 0);
    return len >= 0;
}

static const FieldType address = {
    address_encode, address_decode, "an address like \"52:54:00:12:34:56\""
};

static JsonNode *tag_encode(const Field *f, const void *base)
{
    return bytes_node((const guint8 *)base + f->offset, f->size, "");
}

static bool tag_decode(const Field *f, void *base, JsonNode *node)
{
    return bytes_value(node, (guint8 *)base + f->offset, f->size, "") ==
           f->size;
}

static const FieldType tag = {
    tag_encode, tag_decode, "a tag of 16 hexadecimal digits"
};

static JsonNode *addresses_encode(const Field *f, const void *base)
{
    const struct tun_state *st = base;
    const struct tun_state_txfilter *t = &st->txfilter;
    JsonArray *array = json_array_new();

    (void)f;
    for (guint i = 0; i < MIN(t->count, TUN_STATE_TXFILTER_ADDRS); i++) {
        json_array_add_element(array, bytes_node(t->addr[i],
                                                 sizeof(t->addr[i]), ":"));
    }
    return array_node(array);
}

static bool addresses_decode(const Field *f, void *base, JsonNode *node)
{
    struct tun_state *st = base;
    struct tun_state_txfilter *t = &st->txfilter;
    JsonArray *array;

    (void)f;
    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        return false;
    }
    array = json_node_get_array(node);
    if (json_array_get_length(array) != t->count ||
        t->count > TUN_STATE_TXFILTER_ADDRS) {
        return false;
    }
    for (guint i = 0; i < t->count; i++) {
        if (bytes_value(json_array_get_element(array, i), t->addr[i],
                        sizeof(t->addr[i]), ":") != sizeof(t->addr[i])) {
            return false;
        }
    }
    return true;
}

static const FieldType addresses = {
    addresses_encode, addresses_decode,
    "a list of \"count\" addresses, 8 at most"
};

static const Name link_types[] = {
    { ARPHRD_ETHER, "ether" },
    { ARPHRD_NONE, "none" },
    { 0 }
};

static const Name prog_types[] = {
    { BPF_PROG_TYPE_SOCKET_FILTER, "socket_filter" },
    { 0 }
};

#define AT(type, member) \
    .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)
#define STATE(member) AT(struct tun_state, member)

static const Field identity_fields[] = {
    { "ifindex", &number, STATE(identity.ifindex) },
    { "netns", &number, STATE(identity.netns) },
    { "type", &value, STATE(identity.type), .names = link_types },
    { 0 }
};

static const Field netdev_fields[] = {
    { "name", &name, STATE(netdev.name) },
    { "mtu", &number, STATE(netdev.mtu) },
    { "up", &boolean, STATE(netdev.up) },
    { "address", &address, STATE(netdev.addr) },
    { 0 }
};

static const Field iff_fields[] = {
    { "flags", &bits, STATE(iff.flags), .names = tapstate__flags },
    { 0 }
};

static const Field owner_fields[] = {
    { "uid", &owner, STATE(owner.uid), .flag = TUN_STATE_OWNER_UID_UNMAPPED },
    { "gid", &owner, STATE(owner.gid), .flag = TUN_STATE_OWNER_GID_UNMAPPED },
    { 0 }
};

static const Field vnet_fields[] = {
    { "hdr_size", &number, STATE(vnet.hdr_size) },
    { "le", &flag, STATE(vnet.flags), .flag = TUN_STATE_VNET_LE },
    { "be", &flag, STATE(vnet.flags), .flag = TUN_STATE_VNET_BE },
    { 0 }
};

static const Field offload_fields[] = {
    { "enabled", &bits, STATE(offload.enabled), .names = tapstate__offloads },
    { "wanted", &bits, STATE(offload.wanted), .names = tapstate__offloads },
    { "supported", &bits, STATE(offload.supported),
      .names = tapstate__offloads },
    { 0 }
};

static const Field link_fields[] = {
    { "carrier", &boolean, STATE(link.carrier) },
    { "msg_enable", &hex, STATE(link.msg_enable), .flag = 1 },
    { 0 }
};

static const Field coalesce_fields[] = {
    { "rx_frames", &number, STATE(coalesce.rx_frames) },
    { 0 }
};

/* "addresses" needs "count" ahead of it */
static const Field txfilter_fields[] = {
    { "count", &number, STATE(txfilter.count) },
    { "hash", &hex, STATE(txfilter.hash), .flag = 16 },
    { "addresses", &addresses, STATE(txfilter.addr) },
    { 0 }
};

static const Field xdp_fields[] = {
    { "drv_prog_id", &number, STATE(xdp.drv_prog_id) },
    { "skb_prog_id", &number, STATE(xdp.skb_prog_id) },
    { 0 }
};

const Table tapstate__tables[] = {
    { TUN_STATE_IDENTITY, identity_fields },
    { TUN_STATE_NETDEV, netdev_fields },
    { TUN_STATE_IFF, iff_fields },
    { TUN_STATE_OWNER, owner_fields },
    { TUN_STATE_VNET, vnet_fields },
    { TUN_STATE_OFFLOAD, offload_fields },
    { TUN_STATE_LINK, link_fields },
    { TUN_STATE_COALESCE, coalesce_fields },
    { TUN_STATE_TXFILTER, txfilter_fields },
    { TUN_STATE_XDP, xdp_fields },
    { 0 }
};

const Field tapstate__prog_fields[] = {
    { "id", &number, AT(struct tun_state_prog, id) },
    { "type", &value, AT(struct tun_state_prog, type), .names = prog_types },
    { "tag", &tag, AT(struct tun_state_prog, tag) },
    { 0 }
};

const Field tapstate__queue_fields[] = {
    { "index", &number, AT(Queue, q.index) },
    { "attached", &flag, AT(Queue, q.flags),
      .flag = TUN_STATE_QUEUE_ATTACHED },
    { "napi", &flag, AT(Queue, q.flags), .flag = TUN_STATE_QUEUE_NAPI },
    { "napi_frags", &flag, AT(Queue, q.flags),
      .flag = TUN_STATE_QUEUE_NAPI_FRAGS },
    { "sockfilter", &flag, AT(Queue, q.flags),
      .flag = TUN_STATE_QUEUE_SOCKFILTER },
    { "ring_size", &number, AT(Queue, q.ring_size) },
    { "ring_len", &number, AT(Queue, q.ring_len) },
    { 0 }
};

/* Settings of a queue that not every state knows */
const Field tapstate__own_iff[] = {
    { "flags", &bits, AT(Queue, iff.flags), .names = tapstate__flags },
    { 0 }
};

const Field tapstate__own_vnet[] = {
    { "hdr_size", &number, AT(Queue, vnet.hdr_size) },
    { "le", &flag, AT(Queue, vnet.flags), .flag = TUN_STATE_VNET_LE },
    { "be", &flag, AT(Queue, vnet.flags), .flag = TUN_STATE_VNET_BE },
    { 0 }
};

const Field tapstate__flow_fields[] = {
    { "rxhash", &number, AT(struct tun_state_flow, rxhash) },
    { "queue", &number, AT(struct tun_state_flow, queue_index) },
    { "age_ms", &number, AT(struct tun_state_flow, age_ms) },
    { 0 }
};

const Table *tapstate__table(guint64 group)
{
    for (const Table *t = tapstate__tables; t->fields; t++) {
        if (t->group == group) {
            return t;
        }
    }
    return NULL;
}
