// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of the output of tapstate show and diff, and of the parser of QEMU's
 * netdevs
 */
#include <string.h>

#include "../cmd/command.h"
#include "samples.h"

static TapstateDevice *decode(const char *text, GError **errp)
{
    return tapstate_decode(text, strlen(text), errp);
}

static TapstateDevice *changed(const char *from, const char *to)
{
    g_auto(GStrv) parts = g_strsplit(SAMPLE_TAP, from, 2);
    g_autofree char *text = NULL;
    GError *err = NULL;
    TapstateDevice *dev;

    g_assert_cmpuint(g_strv_length(parts), ==, 2);
    text = g_strjoinv(to, parts);
    dev = decode(text, &err);
    g_assert_no_error(err);
    return dev;
}

static void test_show(void)
{
    g_autoptr(TapstateDevice) dev = decode(SAMPLE_TAP, NULL);
    g_autofree char *text = show_text(dev);

    g_assert_cmpstr(text, ==,
        "identity    ifindex      7\n"
        "            netns        4026531840\n"
        "            type         ether\n"
        "netdev      name         tap0\n"
        "            mtu          1500 bytes\n"
        "            up           yes\n"
        "            address      52:54:00:12:34:56\n"
        "iff         flags        tap vnet_hdr\n"
        "owner       uid          none\n"
        "            gid          5\n"
        "vnet        hdr_size     12 bytes\n"
        "            le           yes\n"
        "            be           no\n"
        "offload     enabled      csum\n"
        "            wanted       csum 0x10000\n"
        "            supported    csum tso4\n"
        "link        carrier      yes\n"
        "            msg_enable   0x5 drv link\n"
        "coalesce    rx_frames    8 packets\n"
        "txfilter    count        1\n"
        "            hash         0x0000010000000000\n"
        "            addresses    52:54:00:12:34:56\n"
        "sockfilter               2 instructions\n"
        "                         (000) ldh      [12]\n"
        "                         (001) ret      #65535\n"
        "steering                 id 12 type socket_filter tag "
        "dead00000000beef\n"
        "            name         s\n"
        "filter                   none\n"
        "xdp         drv_prog_id  0\n"
        "            skb_prog_id  4\n"
        "flows                    1 entries\n"
        "\n"
        "queue  state     napi  napi_frags  sockfilter  sndbuf/bytes  "
        "ring/packets  held by (process:fd)\n"
        "0      attached  no    no          yes         9             3/500"
        "         vm[1]:2\n"
        "0      detached  yes   no          no          -             0/500\n");
}

static void test_same(void)
{
    g_autoptr(TapstateDevice) dev = decode(SAMPLE_TAP, NULL);
    guint differ = 99;
    g_autofree char *text = diff_text(dev, dev, false, true, &differ);
    g_autofree char *all = diff_text(dev, dev, true, true, &differ);

    g_assert_cmpuint(differ, ==, 0);
    g_assert_cmpstr(text, ==, "40 fields equal, 0 differ\n");
    g_assert_true(g_str_has_prefix(all, "identity.ifindex"));
    g_assert_nonnull(strstr(all, "  7  "));
    g_assert_null(strstr(all, "!="));
    g_assert_null(strstr(all, "held_by"));
}

static void test_differ(void)
{
    static const struct {
        const char *from, *to;
        guint differ, differ_device;
        const char *row;
    } cases[] = {
        { "\"gid\":5", "\"gid\":6", 1, 1, "owner.gid  5  !=  6\n" },
        { "\"uid\":null", "\"uid\":0", 1, 1, "owner.uid  none  !=  0\n" },
        { "\"uid\":null", "\"uid\":\"unmapped\"", 1, 1, "owner.uid" },
        { "\"vnet_hdr\"", "\"napi\",\"vnet_hdr\"", 1, 1, "iff.flags" },
        { ",\"6 0 0 65535\"", "", 1, 1, "sockfilter" },
        { "\"filter\":null", "\"filter\":{\"id\":3,\"type\":"
          "\"socket_filter\",\"tag\":\"0123456789abcdef\"}", 1, 1, "filter" },
        { "\"sndbuf\":9", "\"sndbuf\":8", 1, 1, "queues.0.sndbuf" },
        { "\"filter\":null,", "", 1, 1, "filter  none  !=  -\n" },
        { "\"name\":\"s\"", "\"name\":\"t\"", 0, 0, NULL },
        { "\"comm\":\"vm\"", "\"comm\":\"v\"", 0, 0, NULL },
        { "\"ifindex\":7", "\"ifindex\":8", 0, 1, "identity.ifindex" },
        { "\"mtu\":1500", "\"mtu\":1400", 0, 1, "netdev.mtu" },
        { "\"rx_frames\":8", "\"rx_frames\":9", 0, 1, "coalesce.rx_frames" },
        { "\"skb_prog_id\":4", "\"skb_prog_id\":0", 0, 1, "xdp.skb_prog_id" },
        { "\"csum\",\"tso4\"]", "\"csum\"]", 0, 1, "offload.supported" },
        { "\"ring_size\":500", "\"ring_size\":600", 0, 1,
          "queues.0.ring_size" },
        { "\"ring_len\":3", "\"ring_len\":4", 0, 0, "queues.0.ring_len" },
        { "{\"rxhash\":1,\"queue\":0,\"age_ms\":30}", "", 0, 0,
          "flows  1  !=  0  (volatile)\n" },
    };
    g_autoptr(TapstateDevice) before = decode(SAMPLE_TAP, NULL);

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(TapstateDevice) after = changed(cases[i].from, cases[i].to);

        for (int device = 0; device <= 1; device++) {
            guint differ = 99;
            g_autofree char *text = diff_text(before, after, false, device,
                                              &differ);

            g_test_message("%s -> %s:\n%s", cases[i].from, cases[i].to, text);
            g_assert_cmpuint(differ, ==, device ? cases[i].differ_device :
                                                  cases[i].differ);
            /* Differences that do not count are shown, too */
            if (cases[i].row) {
                g_assert_true(g_str_has_prefix(text, cases[i].row));
            }
            g_assert_true(!!strstr(text, "!=") == !!cases[i].row);
            g_assert_true(!!strstr(text, "(device)") ==
                          (!device && cases[i].differ_device >
                           cases[i].differ));
        }
    }
}

/* A missing queue is a difference in each of its fields */
static void test_queue_missing(void)
{
    g_autoptr(TapstateDevice) before = decode(SAMPLE_TAP, NULL);
    g_autoptr(TapstateDevice) after = changed(
        ",{\"index\":0,\"attached\":false,\"napi\":true,\"napi_frags\":false,"
        "\"sockfilter\":false,\"ring_size\":500,\"ring_len\":0,\"held_by\":[]}",
        "");
    guint differ;
    g_autofree char *text = diff_text(before, after, false, false, &differ);
    g_autofree char *back = diff_text(after, before, false, false, &differ);

    g_assert_cmpuint(differ, ==, 5);
    g_assert_nonnull(strstr(text, "queues.1.attached"));
    g_assert_nonnull(strstr(back, "queues.1.attached"));
}

/* Each line is that of tcpdump -d for the same program */
static void test_bpf(void)
{
    static const struct {
        struct sock_filter insn;
        const char *text;
    } cases[] = {
        { { 0x28, 0, 0, 12 }, "(000) ldh      [12]\n" },
        { { 0x15, 0, 8, 0x86dd },
          "(000) jeq      #0x86dd          jt 1\tjf 9\n" },
        { { 0x30, 0, 0, 20 }, "(000) ldb      [20]\n" },
        { { 0x20, 0, 0, 26 }, "(000) ld       [26]\n" },
        { { 0x45, 4, 0, 0x1fff },
          "(000) jset     #0x1fff          jt 5\tjf 1\n" },
        { { 0xb1, 0, 0, 14 }, "(000) ldxb     4*([14]&0xf)\n" },
        { { 0x48, 0, 0, 16 }, "(000) ldh      [x + 16]\n" },
        { { 0x80, 0, 0, 0 }, "(000) ld       #pktlen\n" },
        { { 0x35, 0, 1, 100 },
          "(000) jge      #0x64            jt 1\tjf 2\n" },
        { { 0x54, 0, 0, 0xf0 }, "(000) and      #0xf0\n" },
        { { 0x74, 0, 0, 2 }, "(000) rsh      #2\n" },
        { { 0x0c, 0, 0, 0 }, "(000) add      x\n" },
        { { 0x84, 0, 0, 0 }, "(000) neg\n" },
        { { 0x02, 0, 0, 1 }, "(000) st       M[1]\n" },
        { { 0x61, 0, 0, 1 }, "(000) ldx      M[1]\n" },
        { { 0x05, 0, 0, 3 }, "(000) ja       4\n" },
        { { 0x07, 0, 0, 0 }, "(000) tax\n" },
        { { 0x87, 0, 0, 0 }, "(000) txa\n" },
        { { 0x16, 0, 0, 0 }, "(000) ret\n" },
        { { 0x06, 0, 0, 262144 }, "(000) ret      #262144\n" },
        { { 0xe0, 0, 0, 0 }, "(000) unimp    0xe0\n" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = bpf_text(&cases[i].insn, 1);

        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

static void test_netdevs(void)
{
    const char *info =
        "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci\r\n"
        " \\ hn0: index=0,type=tap,ifname=tap1,script=no,downscript=no\r\n"
        " \\ hn0: index=1,type=tap,fd=12\r\n"
        "hub: index=0,type=hubport,ifname=tap9,\r\n"
        "hn1: index=0,type=tap,fd=1\r\n";
    static const struct {
        const char *key, *value, *id;
    } cases[] = {
        { "ifname", "tap1", "hn0" },
        { "fd", "12", "hn0" },
        { "fd", "1", "hn1" },
        { "fd", "2", NULL },
        { "ifname", "tap", NULL },
        { "ifname", "tap9", NULL },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *id = netdevs_parse(info, cases[i].key,
                                            cases[i].value);

        g_assert_cmpstr(id, ==, cases[i].id);
    }
}

static void test_netdevs_other(void)
{
    static const struct {
        const char *info, *id;
    } cases[] = {
        { "hn0: index=0,type=tap,fd=1\r\n", NULL },
        { "hn0: index=0,type=tap,fd=1\r\n"
          " \\ hn1: index=0,type=tap,helper=/h,br=br0\r\n"
          "hn2: index=0,type=tap,ifname=a,script=,downscript=\r\n"
          "hn3: index=0,type=user,net=10.0.2.0\r\n", "hn1" },
        { "hn1: index=0,type=tap,incoming-fds=on\r\n"
          " \\ hn1: index=1,type=tap,incoming-fds=on\r\n", "hn1" },
        { "hn1: index=0,type=tap,helper=/h\r\n"
          "hn2: index=0,type=tap,helper=/h\r\n", NULL },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *id = netdevs_parse_other(cases[i].info);

        g_assert_cmpstr(id, ==, cases[i].id);
    }
}

static void test_netdevs_states(void)
{
    static const struct {
        const char *answer, *id;
    } cases[] = {
        { "[{\"id\":\"a\"},{\"id\":\"b\",\"ifname\":\"t0\"}]", "b" },
        { "[{\"id\":7,\"ifname\":\"t0\"}]", NULL },
        { "[7,null,{\"id\":\"a\",\"ifname\":[]}]", NULL },
        { "[]", NULL },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonNode) node = json_from_string(cases[i].answer, NULL);

        g_assert_cmpstr(netdevs_of_states(json_node_get_array(node), "t0"),
                        ==, cases[i].id);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/text/show", test_show);
    g_test_add_func("/text/diff/same", test_same);
    g_test_add_func("/text/diff/differ", test_differ);
    g_test_add_func("/text/diff/queue-missing", test_queue_missing);
    g_test_add_func("/text/bpf", test_bpf);
    g_test_add_func("/text/netdevs/named", test_netdevs);
    g_test_add_func("/text/netdevs/other", test_netdevs_other);
    g_test_add_func("/text/netdevs/states", test_netdevs_states);
    return g_test_run();
}
