// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of the output of tapstate show and tapstate diff
 */
#include <stdbool.h>
#include <string.h>

#include "../tapstate-device.h"
#include "../tapstate-fields.h"

#define STATE "{\"tapstate\":2,\"supported\":[\"identity\"]," \
    "\"identity\":{\"ifindex\":7}," \
    "\"netdev\":{\"name\":\"tap0\",\"mtu\":1500}," \
    "\"iff\":{\"flags\":[\"tap\",\"vnet_hdr\"]}," \
    "\"owner\":{\"uid\":null,\"gid\":5}," \
    "\"coalesce\":{\"rx_frames\":0}," \
    "\"steering\":null," \
    "\"xdp\":{\"drv_prog_id\":0,\"skb_prog_id\":4}," \
    "\"sockfilter\":[\"40 0 0 12\",\"6 0 0 0\"]," \
    "\"flows\":[{\"rxhash\":1}]," \
    "\"queues\":[" \
    "{\"index\":0,\"attached\":true,\"sndbuf\":9,\"ring_size\":500," \
    "\"ring_len\":3,\"held_by\":[{\"pid\":1,\"fd\":2,\"comm\":\"vm\"}]}," \
    "{\"index\":0,\"attached\":false,\"ring_size\":500," \
    "\"ring_len\":0,\"held_by\":[]}]}"

static char *replace(const char *from, const char *to)
{
    g_auto(GStrv) parts = g_strsplit(STATE, from, 2);

    g_assert_cmpuint(g_strv_length(parts), ==, 2);
    return g_strjoinv(to, parts);
}

static char *diff(const char *after, bool device, guint *differ)
{
    g_autoptr(JsonNode) a = json_from_string(STATE, NULL);
    g_autoptr(JsonNode) b = json_from_string(after, NULL);
    GError *err = NULL;
    char *text = tapstate_fields_diff(a, b, device, differ, &err);

    g_assert_no_error(err);
    return text;
}

static void test_show(void)
{
    g_autoptr(JsonNode) root = json_from_string(STATE, NULL);
    GError *err = NULL;
    g_autofree char *text = tapstate_fields_show(root, &err);

    g_assert_no_error(err);
    g_assert_cmpstr(text, ==,
        "identity.ifindex    7\n"
        "netdev.name         tap0\n"
        "netdev.mtu          1500\n"
        "iff.flags           tap vnet_hdr\n"
        "owner.uid           none\n"
        "owner.gid           5\n"
        "coalesce.rx_frames  0\n"
        "steering            none\n"
        "xdp.drv_prog_id     0\n"
        "xdp.skb_prog_id     4\n"
        "sockfilter          40 0 0 12, 6 0 0 0\n"
        "flows               1 entries\n"
        "\n"
        "queue  state     napi  napi_frags  sockfilter  sndbuf  ring   "
        "held by (process:fd)\n"
        "0      attached  no    no          no          9       3/500  "
        "vm[1]:2\n"
        "0      detached  no    no          no          -       0/500  \n");
}

static void test_same(void)
{
    guint differ = 99;
    g_autofree char *text = diff(STATE, true, &differ);

    g_assert_cmpuint(differ, ==, 0);
    g_assert_nonnull(strstr(text, "\n18 fields equal, 0 differ\n"));
    g_assert_null(strstr(text, "≠"));
    g_assert_null(strstr(text, "held_by"));
}

static void test_differ(void)
{
    static const struct {
        const char *from, *to;
        guint differ, differ_device;
        const char *row;
    } cases[] = {
        { "\"gid\":5", "\"gid\":6", 1, 1, "owner.gid" },
        { "\"uid\":null", "\"uid\":0", 1, 1, "owner.uid" },
        { "\"uid\":null", "\"uid\":\"unmapped\"", 1, 1, "owner.uid" },
        { "\"vnet_hdr\"", "\"napi\",\"vnet_hdr\"", 1, 1, "iff.flags" },
        { ",\"6 0 0 0\"", "", 1, 1, "sockfilter" },
        { "\"sockfilter\":[\"40 0 0 12\",\"6 0 0 0\"]", "\"sockfilter\":[]",
          1, 1, "sockfilter" },
        { "\"steering\":null", "\"steering\":{\"id\":3,\"type\":"
          "\"socket_filter\",\"tag\":\"ab\"}", 1, 1, "steering" },
        { "\"attached\":false", "\"attached\":true", 1, 1,
          "queues.1.attached" },
        { "\"sndbuf\":9", "\"sndbuf\":8", 1, 1, "queues.0.sndbuf" },
        { "\"steering\":null,", "", 1, 1, "steering" },
        { "\"steering\":null", "\"steering\":null,\"later\":1", 1, 1, "later" },
        { "\"ifindex\":7", "\"ifindex\":8", 0, 1, "identity.ifindex" },
        { "\"mtu\":1500", "\"mtu\":1400", 0, 1, "netdev.mtu" },
        { "\"rx_frames\":0", "\"rx_frames\":9", 0, 1, "coalesce.rx_frames" },
        { "\"skb_prog_id\":4", "\"skb_prog_id\":0", 0, 1, "xdp.skb_prog_id" },
        { "\"ring_size\":500", "\"ring_size\":600", 0, 1,
          "queues.0.ring_size" },
        { "\"ring_len\":3", "\"ring_len\":4", 0, 0, "queues.0.ring_len" },
        { "\"flows\":[{\"rxhash\":1}]", "\"flows\":[]", 0, 0, "flows" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *after = replace(cases[i].from, cases[i].to);

        for (int device = 0; device <= 1; device++) {
            guint differ = 99;
            g_autofree char *text = diff(after, device, &differ);
            g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
            guint marked = 0;

            g_test_message("%s -> %s:\n%s", cases[i].from, cases[i].to, text);
            g_assert_cmpuint(differ, ==, device ? cases[i].differ_device :
                                                  cases[i].differ);
            /* Differences that do not count are shown, too */
            for (char **l = lines; *l; l++) {
                if (strstr(*l, "≠")) {
                    marked++;
                    g_assert_true(g_str_has_prefix(*l, cases[i].row));
                }
            }
            g_assert_cmpuint(marked, ==, 1);
        }
    }
}

/* A missing queue is a difference in each of its fields */
static void test_queue_missing(void)
{
    g_autofree char *after = replace(
        "{\"index\":0,\"attached\":false,\"ring_size\":500,"
        "\"ring_len\":0,\"held_by\":[]}", "");
    guint differ;
    g_autofree char *text = NULL;

    g_strdelimit(strstr(after, "},]"), ",", ' ');
    text = diff(after, false, &differ);
    g_assert_cmpuint(differ, ==, 2);
    g_assert_nonnull(strstr(text, "queues.1.attached"));
}

static void test_bad_input(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "[]", "not the state of a device" },
        { "1", "not the state of a device" },
        { "null", "not the state of a device" },
        { "{}", "not the state of a device" },
        { "{\"tapstate\":1}", "format 1" },
        { "{\"tapstate\":3}", "format 3" },
        { "{\"tapstate\":\"x\"}", "format 0" },
        { "{\"tapstate\":{}}", "format 0" },
        { "{\"tapstate\":null}", "format 0" },
    };
    g_autoptr(JsonNode) good = json_from_string(STATE, NULL);

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonNode) bad = json_from_string(cases[i].text, NULL);
        g_autoptr(GError) err = NULL;
        guint differ;

        g_assert_null(tapstate_fields_diff(good, bad, false, &differ, &err));
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT);
        g_assert_nonnull(strstr(err->message, cases[i].message));
    }
}

/* Unexpected types are differences, and do no harm */
static void test_strange_types(void)
{
    static const char *const cases[] = {
        "{\"tapstate\":2,\"queues\":3}",
        "{\"tapstate\":2,\"queues\":[3,{}]}",
        "{\"tapstate\":2,\"queues\":[{},3,[[]],null]}",
        "{\"tapstate\":2,\"queues\":[{\"held_by\":{}}]}",
        "{\"tapstate\":2,\"steering\":{\"tag\":[],\"id\":{}}}",
        "{\"tapstate\":2,\"flows\":{},\"identity\":[],\"iff\":1.5}",
        "{\"tapstate\":2,\"sockfilter\":[{\"a\":1}]}",
        "{\"tapstate\":2}",
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        guint differ = 0;
        g_autofree char *text = diff(cases[i], false, &differ);

        g_assert_cmpuint(differ, >, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fields/show", test_show);
    g_test_add_func("/fields/diff/same", test_same);
    g_test_add_func("/fields/diff/differ", test_differ);
    g_test_add_func("/fields/diff/queue-missing", test_queue_missing);
    g_test_add_func("/fields/diff/bad-input", test_bad_input);
    g_test_add_func("/fields/diff/strange-types", test_strange_types);
    return g_test_run();
}
