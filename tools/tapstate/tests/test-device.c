// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of the JSON of a device, and of the search for it
 */
#include <stdint.h>
#include <string.h>
#include <linux/bpf.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>

#include "../lib/private.h"

typedef struct Fixture {
    TapstateDevice s;
    Queue queues[3];
    struct sock_filter insns[2];
    struct tun_state_flow flows[1];
    JsonNode *node;
} Fixture;

static void setup(Fixture *f, gconstpointer opaque)
{
    (void)opaque;
    f->s.queues = f->queues;
    f->s.insns = f->insns;
    f->s.flows = f->flows;
    f->s.st.supported = TUN_STATE_OWNER;
    f->s.holders = g_array_new(false, true, sizeof(Holder));
}

static void teardown(Fixture *f, gconstpointer opaque)
{
    (void)opaque;
    g_array_unref(f->s.holders);
    g_clear_pointer(&f->node, json_node_unref);
}

static JsonObject *convert(Fixture *f)
{
    f->node = tapstate__to_json(&f->s);
    return json_node_get_object(f->node);
}

static char *text(JsonObject *object, const char *member)
{
    return json_to_string(json_object_get_member(object, member), false);
}

#define assert_member(object, member, expected) do { \
        g_autofree char *text_ = text(object, member); \
        g_assert_cmpstr(text_, ==, expected); \
    } while (0)

static void test_only_what_is_there(Fixture *f, gconstpointer opaque)
{
    g_autoptr(GList) members = NULL;
    JsonObject *o;

    (void)opaque;
    f->s.st.supported = TUN_STATE_OWNER | TUN_STATE_VNET;
    f->s.st.mask = TUN_STATE_OWNER;
    f->s.st.owner.uid = -1;
    f->s.st.owner.gid = 100;
    o = convert(f);
    members = json_object_get_members(o);
    g_assert_cmpuint(g_list_length(members), ==, 3);
    assert_member(o, "tapstate", "2");
    assert_member(o, "supported", "[\"owner\",\"vnet\"]");
    assert_member(o, "owner", "{\"uid\":null,\"gid\":100}");
}

static void test_unknown_bits(Fixture *f, gconstpointer opaque)
{
    JsonObject *o;

    (void)opaque;
    f->s.st.supported = TUN_STATE_IFF | TUN_STATE_OWNER | UINT64_C(1) << 63;
    f->s.st.mask = TUN_STATE_IFF | TUN_STATE_OFFLOAD;
    f->s.st.iff.flags = IFF_TAP | IFF_VNET_HDR | IFF_MULTI_QUEUE |
                        IFF_PERSIST | 0x80 | 0x80000000;
    f->s.st.offload.enabled = TUN_F_CSUM | TUN_F_TSO4 | 0x40 | 0x10000;
    f->s.st.offload.wanted = TUN_F_TSO4;
    f->s.st.offload.supported = TUN_F_CSUM;
    o = convert(f);
    assert_member(o, "supported", "[\"iff\",\"owner\",\"0x8000000000000000\"]");
    assert_member(o, "iff", "{\"flags\":[\"tap\",\"backpressure\","
                            "\"multi_queue\",\"persist\",\"vnet_hdr\","
                            "\"0x80000000\"]}");
    assert_member(o, "offload",
                  "{\"enabled\":[\"csum\",\"tso4\",\"uso6\",\"0x10000\"],"
                  "\"wanted\":[\"tso4\"],\"supported\":[\"csum\"]}");
}

static void test_identity(Fixture *f, gconstpointer opaque)
{
    struct tun_state_identity *id = &f->s.st.identity;
    JsonObject *o;

    (void)opaque;
    f->s.st.mask = TUN_STATE_IDENTITY;
    id->netns = 4026531840;
    id->ifindex = 7;
    id->type = ARPHRD_ETHER;
    o = convert(f);
    assert_member(o, "identity",
                  "{\"ifindex\":7,\"netns\":4026531840,\"type\":\"ether\"}");
    g_assert_false(json_object_has_member(o, "netdev"));
}

static void test_netdev(Fixture *f, gconstpointer opaque)
{
    struct tun_state_netdev *dev = &f->s.st.netdev;
    JsonObject *o;

    (void)opaque;
    f->s.st.mask = TUN_STATE_NETDEV;
    dev->mtu = 1400;
    dev->up = 1;
    dev->addr_len = 6;
    /* No terminator, against the promise of the kernel */
    memset(dev->name, 'x', sizeof(dev->name));
    memcpy(dev->addr, "\x52\x54\x00\xfe\x00\x01", 6);
    o = convert(f);
    assert_member(o, "netdev",
                  "{\"name\":\"xxxxxxxxxxxxxxxx\",\"mtu\":1400,\"up\":true,"
                  "\"address\":\"52:54:00:fe:00:01\"}");
}

/*
 * An address that is longer than its field, against the promise of the kernel
 */
static void test_long_address(Fixture *f, gconstpointer opaque)
{
    JsonObject *o;

    (void)opaque;
    f->s.st.mask = TUN_STATE_NETDEV;
    f->s.st.netdev.addr_len = 255;
    o = json_object_get_object_member(convert(f), "netdev");
    g_assert_cmpuint(strlen(json_object_get_string_member(o, "address")), ==,
                     3 * sizeof(f->s.st.netdev.addr) - 1);
    assert_member(o, "up", "false");
}

static void test_owner(Fixture *f, gconstpointer opaque)
{
    static const struct {
        struct tun_state_owner owner;
        const char *text;
    } cases[] = {
        { { .uid = 0, .gid = UINT32_MAX }, "{\"uid\":0,\"gid\":null}" },
        { { .uid = 65534, .gid = 65534 }, "{\"uid\":65534,\"gid\":65534}" },
        { { .uid = 65534, .gid = 65534, .flags = TUN_STATE_OWNER_UID_UNMAPPED },
          "{\"uid\":\"unmapped\",\"gid\":65534}" },
        { { .uid = 65534, .gid = 65534, .flags = TUN_STATE_OWNER_GID_UNMAPPED },
          "{\"uid\":65534,\"gid\":\"unmapped\"}" },
    };

    (void)opaque;
    f->s.st.mask = TUN_STATE_OWNER;
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        f->s.st.owner = cases[i].owner;
        assert_member(convert(f), "owner", cases[i].text);
        g_clear_pointer(&f->node, json_node_unref);
    }
}

static void test_settings(Fixture *f, gconstpointer opaque)
{
    JsonObject *o;

    (void)opaque;
    f->s.st.mask = TUN_STATE_VNET | TUN_STATE_LINK | TUN_STATE_COALESCE;
    f->s.st.vnet.hdr_size = 12;
    f->s.st.vnet.flags = TUN_STATE_VNET_LE;
    f->s.st.link.carrier = 1;
    f->s.st.link.msg_enable = 0x1f;
    f->s.st.coalesce.rx_frames = 64;
    o = convert(f);
    assert_member(o, "vnet", "{\"hdr_size\":12,\"le\":true,\"be\":false}");
    assert_member(o, "link", "{\"carrier\":true,\"msg_enable\":\"0x1f\"}");
    assert_member(o, "coalesce", "{\"rx_frames\":64}");
}

static void test_programs(Fixture *f, gconstpointer opaque)
{
    JsonObject *o;

    (void)opaque;
    f->s.st.mask = TUN_STATE_STEERING | TUN_STATE_FILTER | TUN_STATE_XDP;
    f->s.st.steering = (struct tun_state_prog) {
        .id = 12,
        .type = BPF_PROG_TYPE_SOCKET_FILTER,
        .tag = { 0xde, 0xad, 0, 0, 0, 0, 0xbe, 0xef },
    };
    f->s.st.xdp.skb_prog_id = 13;
    o = convert(f);
    assert_member(o, "steering", "{\"id\":12,\"type\":\"socket_filter\","
                                 "\"tag\":\"dead00000000beef\"}");
    assert_member(o, "filter", "null");
    assert_member(o, "xdp", "{\"drv_prog_id\":0,\"skb_prog_id\":13}");
}

static void test_filters(Fixture *f, gconstpointer opaque)
{
    JsonObject *o;

    (void)opaque;
    f->s.st.mask = TUN_STATE_TXFILTER | TUN_STATE_SOCKFILTER | TUN_STATE_FLOWS;
    f->s.st.txfilter.count = 1;
    f->s.st.txfilter.hash = UINT64_C(1) << 40;
    memcpy(f->s.st.txfilter.addr[0], "\x52\x54\x00\x12\x34\x56", 6);
    f->s.st.sockfilter.count = 2;
    f->insns[0] = (struct sock_filter) { 0x28, 0, 0, 12 };
    f->insns[1] = (struct sock_filter) { 0x6, 0, 0, UINT32_MAX };
    f->s.st.flows.count = 1;
    f->flows[0] = (struct tun_state_flow) { .rxhash = 9, .queue_index = 3 };
    o = convert(f);
    assert_member(o, "txfilter",
                  "{\"count\":1,\"hash\":\"0x0000010000000000\","
                  "\"addresses\":[\"52:54:00:12:34:56\"]}");
    assert_member(o, "sockfilter",
                  "[\"40 0 0 12\",\"6 0 0 4294967295\"]");
    assert_member(o, "flows", "[{\"rxhash\":9,\"queue\":3,\"age_ms\":0}]");
}

/* A queue that source and target QEMU share is one queue with two holders */
static void test_holders(Fixture *f, gconstpointer opaque)
{
    Holder holders[] = {
        { .pid = 10, .fd = 4, .comm = "old", .attached = true, .index = 0 },
        { .pid = 20, .fd = 5, .comm = "new", .attached = true, .index = 0 },
        { .pid = 10, .fd = 6, .comm = "old", .attached = false, .index = 0 },
    };
    g_autofree char *all = NULL;
    JsonArray *a;

    (void)opaque;
    f->s.st.mask = TUN_STATE_QUEUES;
    f->s.st.queues.count = 3;
    f->queues[0].q = (struct tun_state_queue) {
        .index = 0, .flags = TUN_STATE_QUEUE_ATTACHED, .ring_size = 1000,
    };
    f->queues[0].sndbuf = 4096;
    f->queues[2].q = (struct tun_state_queue) { .index = 1 };
    f->queues[1].q = (struct tun_state_queue) {
        .index = 0, .flags = TUN_STATE_QUEUE_SOCKFILTER, .ring_size = 1000,
    };
    f->queues[1].sndbuf = 8192;
    g_array_append_vals(f->s.holders, holders, G_N_ELEMENTS(holders));
    a = json_object_get_array_member(convert(f), "queues");
    g_assert_cmpuint(json_array_get_length(a), ==, 3);
    assert_member(json_array_get_object_element(a, 0), "held_by",
                  "[{\"pid\":10,\"fd\":4,\"comm\":\"old\"},"
                  "{\"pid\":20,\"fd\":5,\"comm\":\"new\"}]");
    assert_member(json_array_get_object_element(a, 0), "attached", "true");
    assert_member(json_array_get_object_element(a, 1), "held_by",
                  "[{\"pid\":10,\"fd\":6,\"comm\":\"old\"}]");
    assert_member(json_array_get_object_element(a, 1), "attached", "false");
    assert_member(json_array_get_object_element(a, 1), "sockfilter", "true");
    assert_member(json_array_get_object_element(a, 0), "sndbuf", "4096");
    assert_member(json_array_get_object_element(a, 1), "sndbuf", "8192");
    assert_member(json_array_get_object_element(a, 2), "held_by", "[]");
    g_assert_false(json_object_has_member(json_array_get_object_element(a, 2),
                                          "sndbuf"));
}

/* Names that a terminal or JSON cannot have, back and forth */
static void test_escape(void)
{
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        { "tap0", "tap0" },
        { "t\xc3\xa4p", "t\xc3\xa4p" },
        { "\xff\x01\x1b[m", "\\xff\\x01\\x1b[m" },
        { "a\\b\"", "a\\x5cb\"" },
        { "", "" },
    };
    char bytes[16];

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = tapstate__escape(cases[i].bytes, 15);

        g_assert_cmpstr(text, ==, cases[i].text);
        g_assert_true(tapstate__unescape(text, bytes, sizeof(bytes)));
        g_assert_cmpstr(bytes, ==, cases[i].bytes);
    }
    g_assert_false(tapstate__unescape("0123456789abcdef", bytes, 16));
    g_assert_false(tapstate__unescape("\\x4", bytes, 16));
    g_assert_false(tapstate__unescape("\\x00", bytes, 16));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *path;
        void (*run)(Fixture *f, gconstpointer opaque);
    } tests[] = {
        { "/device/only-what-is-there", test_only_what_is_there },
        { "/device/unknown-bits", test_unknown_bits },
        { "/device/identity", test_identity },
        { "/device/netdev", test_netdev },
        { "/device/long-address", test_long_address },
        { "/device/owner", test_owner },
        { "/device/settings", test_settings },
        { "/device/programs", test_programs },
        { "/device/filters", test_filters },
        { "/device/holders", test_holders },
    };

    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add(tests[i].path, Fixture, NULL, setup, tests[i].run, teardown);
    }
    g_test_add_func("/device/escape", test_escape);
    return g_test_run();
}
