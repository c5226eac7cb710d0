// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of the decoder, with files that are whole, damaged or of another
 * version
 */
#include <string.h>
#include <linux/if_tun.h>

#include "../lib/private.h"
#include "samples.h"

static char *replace(const char *text, const char *from, const char *to)
{
    g_auto(GStrv) parts = g_strsplit(text, from, 2);

    g_assert_cmpuint(g_strv_length(parts), ==, 2);
    return g_strjoinv(to, parts);
}

static TapstateDevice *decode(const char *text)
{
    GError *err = NULL;
    TapstateDevice *dev = tapstate_decode(text, strlen(text), &err);

    g_assert_no_error(err);
    return dev;
}

/* Each member survives a round, in the same text */
static void test_round(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(samples); i++) {
        g_autoptr(TapstateDevice) dev = decode(samples[i]), again = NULL;
        g_autofree char *text = tapstate_encode(dev, false), *second = NULL;
        g_autoptr(JsonNode) a = json_from_string(samples[i], NULL);
        g_autoptr(JsonNode) b = json_from_string(text, NULL);

        g_assert_true(json_node_equal(a, b));
        again = decode(text);
        second = tapstate_encode(again, false);
        g_assert_cmpstr(text, ==, second);
    }
}

static void test_values(void)
{
    g_autoptr(TapstateDevice) dev = decode(SAMPLE_TAP);
    const struct tun_state *st = tapstate_state(dev);
    const struct sock_filter *insns = (void *)(guintptr)st->sockfilter.entries;

    g_assert_cmphex(st->iff.flags, ==, IFF_TAP | IFF_VNET_HDR);
    g_assert_cmphex(st->owner.uid, ==, G_MAXUINT32);
    g_assert_cmphex(st->offload.wanted, ==, TUN_F_CSUM | 0x10000);
    g_assert_cmpuint(st->netdev.addr_len, ==, 6);
    g_assert_cmphex(st->txfilter.addr[0][5], ==, 0x56);
    g_assert_cmpuint(st->sockfilter.count, ==, 2);
    g_assert_cmpuint(insns[1].k, ==, 65535);
    g_assert_cmpuint(st->queues.entry_size, ==, sizeof(Queue));
    g_assert_cmphex(st->mask & (TUN_STATE_QUEUE | TUN_STATE_SNDBUF), ==, 0);
}

static void test_bad(void)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        { "\"tapstate\":2", "\"tapstate\":1", "format 1, but" },
        { "\"tapstate\":2", "\"tapstate\":3", "format 3, but" },
        { "\"tapstate\":2", "\"tapstate\":\"x\"", "format 0, but" },
        { "\"tapstate\":2", "\"tapstate\":2.5", "format 0, but" },
        { "\"tapstate\":2", "\"tapstate\":[]", "format 0, but" },
        { "\"tapstate\":2,", "", "not the state of a device" },
        { "\"mtu\":1500", "\"mtu\":-1", "netdev.mtu is not a number" },
        { "\"mtu\":1500", "\"mtu\":4294967296", "netdev.mtu is not a number" },
        { "\"mtu\":1500", "\"mtu\":1.5", "netdev.mtu is not a number" },
        { "\"mtu\":1500", "\"mtu\":null", "netdev.mtu is not a number" },
        { "\"mtu\":1500,", "", "netdev.mtu is missing" },
        { "\"mtu\":", "\"mtV\":", "netdev.mtV is not known" },
        { "\"coalesce\":", "\"later\":", "later is not known" },
        { "\"coalesce\":{", "\"sndbuf\":{},\"coalesce\":{",
          "sndbuf is not known" },
        { "\"coalesce\",", "", "supported lacks a group" },
        { "\"supported\":[", "\"supported\":[\"x\",", "supported is not" },
        { "\"name\":\"tap0\"", "\"name\":\"0123456789abcdef\"",
          "netdev.name is not a name" },
        { "\"name\":\"tap0\"", "\"name\":\"\\u0000\"", "not " },
        { "52:54:00:12:34:56\"},\"iff", "52:54:0\"},\"iff",
          "netdev.address is not" },
        { "\"vnet_hdr\"", "\"vnet\"", "iff.flags is not a list" },
        { "\"vnet_hdr\"", "\"0x3\"", "iff.flags is not a list" },
        { "\"vnet_hdr\"", "\"0x100000000\"", "iff.flags is not a list" },
        { "\"uid\":null", "\"uid\":4294967295", "owner.uid is not" },
        { "\"le\":true", "\"le\":1", "vnet.le is not true" },
        { "\"0x5\"", "\"0x100000000\"", "link.msg_enable is not" },
        { "\"0x5\"", "\"5\"", "link.msg_enable is not" },
        { "\"count\":1", "\"count\":2", "txfilter.addresses is not" },
        { "\"count\":1", "\"count\":9", "txfilter.addresses is not" },
        { "\"40 0 0 12\"", "\"40 0 0\"", "sockfilter.0 is not" },
        { "\"40 0 0 12\"", "\"65536 0 0 0\"", "sockfilter.0 is not" },
        { "\"40 0 0 12\"", "7", "sockfilter.0 is not" },
        { "\"id\":12", "\"id\":0", "steering.id is 0" },
        { "dead00000000beef", "dead00000000bee", "steering.tag is not" },
        { "\"pinned\":\"/p\"", "\"pinned\":3", "steering.pinned is not" },
        { "\"filter\":null", "\"filter\":[]", "filter is not an object" },
        { "\"rxhash\":1", "\"rxhash\":\"\"", "flows.0.rxhash is not" },
        { "\"sndbuf\":9", "\"sndbuf\":0", "queues.0.sndbuf is not" },
        { "\"sndbuf\":9", "\"sndbuf\":2147483648", "queues.0.sndbuf is not" },
        { "\"index\":0,\"attached\":false", "\"index\":1,\"attached\":false",
          "queues.1 is not in its place" },
        { "\"index\":0,\"attached\":true", "\"index\":1,\"attached\":true",
          "queues.0 is not in its place" },
        { "\"index\":0,\"attached\":true", "\"index\":0,\"attached\":false",
          "queues.1 is not in its place" },
        { ",\"held_by\":[]", "", "queues.1.held_by is missing" },
        { "\"comm\":\"vm\"", "\"comm\":1", "queues.0.held_by.comm is not" },
        { "\"comm\":\"vm\"", "\"comm\":\"vm\",\"x\":1", "members that are" },
        { "\"mtu\":", "\"m\\u001b\\n\":1,\"mtu\":",
          "netdev.m\\x1b\\x0a is not known" },
        { "\"sndbuf\":9", "\"sndbuf\":9,\"vnet\":{}",
          "queues.0.vnet is not of this kind" },
        { "[\"tap\"", "[[[[[[[[\"tap\"", "nested deeper" },
        /* Quotes that would hide brackets from the check of their depth */
        { "[\"tap\"", "/*\"*/[[[[[[[[\"tap\"", "not JSON: byte" },
        { "[\"tap\"", "['\"',[[[[[[[[\"tap\"", "not JSON: byte" },
        { "[\"tap\"", "#\"\n[[[[[[[[\"tap\"", "not JSON: byte" },
        { "\"tap0\"", "\"\xff\"", "not text in UTF-8" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = replace(SAMPLE_TAP, cases[i].from,
                                        cases[i].to);
        g_autoptr(GError) err = NULL;

        g_assert_null(tapstate_decode(text, strlen(text), &err));
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT);
        g_test_message("%s -> %s: %s", cases[i].from, cases[i].to,
                       err->message);
        g_assert_nonnull(strstr(err->message, cases[i].message));
        g_assert_null(strchr(err->message, '\n'));
    }
}

/* On macvtap, a queue that was open has flags and header, not the device */
static void test_bad_macvtap(void)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        { "\"iff\":{\"flags\":[\"tap\",\"no_pi\"]},", "",
          "queues.0.iff is missing" },
        { "\"sndbuf\":1,", "", "queues.0.iff is not of this kind" },
        { "\"queues\":[{", "\"iff\":{\"flags\":[]},\"queues\":[{",
          "iff is not of this kind of device, but" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = replace(SAMPLE_MACVTAP, cases[i].from,
                                        cases[i].to);
        g_autoptr(GError) err = NULL;

        g_assert_null(tapstate_decode(text, strlen(text), &err));
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT);
        g_test_message("%s", err->message);
        g_assert_nonnull(strstr(err->message, cases[i].message));
    }
}

/* Quotes, brackets and backslashes in a string */
static void test_quotes(void)
{
    g_autofree char *text = replace(SAMPLE_TAP, "\"comm\":\"vm\"",
                                    "\"comm\":\"[{\\\"'\\\\\"");
    g_autoptr(TapstateDevice) dev = NULL;
    g_autofree char *back = NULL;
    g_autoptr(GError) err = NULL;

    dev = tapstate_decode(text, strlen(text), &err);
    g_assert_no_error(err);
    back = tapstate_encode(dev, false);
    g_assert_cmpstr(back, ==, text);

    /* No byte behind an end in the middle of one is read */
    for (size_t len = 0; len < strlen(text); len++) {
        g_autofree char *part = g_memdup2(text, len);

        g_assert_null(tapstate_decode(part ?: "", len, NULL));
    }
}

/* Every length but the whole is an error */
static void test_truncated(void)
{
    for (size_t len = 0; len < strlen(SAMPLE_TAP); len++) {
        g_autoptr(GError) err = NULL;

        g_assert_null(tapstate_decode(SAMPLE_TAP, len, &err));
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT);
    }
}

static void test_other_files(void)
{
    static const char *const cases[] = { "", "[]", "1", "null", "{}", "x\ny" };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) err = NULL;

        g_assert_null(tapstate_decode(cases[i], strlen(cases[i]), &err));
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT);
    }
}

/* The parser would take two values, or a value and garbage */
static void test_more_text(void)
{
    static const char *const cases[] = { " {}", "[", SAMPLE_TAP, "\n\"" };
    g_autofree char *spaces = g_strconcat(SAMPLE_TAP, " \n\t\r\n", NULL);
    g_autoptr(TapstateDevice) dev = decode(spaces);

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = g_strconcat(SAMPLE_TAP, cases[i], NULL);
        g_autoptr(GError) err = NULL;

        g_assert_null(tapstate_decode(text, strlen(text), &err));
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT);
        g_assert_nonnull(strstr(err->message, "more text behind"));
    }
}

static void test_too_long(void)
{
    size_t len = 17 * 1024 * 1024;
    g_autofree char *text = g_strnfill(len, ' ');
    g_autoptr(GError) err = NULL;

    g_assert_null(tapstate_decode(text, len, &err));
    g_assert_nonnull(strstr(err->message, "more than"));
}

/* The schema has each field of the table, and no other */
static void check_fields(JsonObject *schema, const Field *fields)
{
    JsonObject *properties;
    guint n = 0;

    properties = json_object_get_object_member(schema, "properties");
    for (const Field *f = fields; f->name; f++, n++) {
        g_assert_true(json_object_has_member(properties, f->name));
    }
    g_assert_cmpuint(json_object_get_size(properties), ==, n);
}

static void test_schema(void)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *properties;

    g_assert_true(json_parser_load_from_file(parser, SCHEMA, NULL));
    properties = json_object_get_object_member(
        json_node_get_object(json_parser_get_root(parser)), "properties");
    for (const Table *t = tapstate__tables; t->fields; t++) {
        check_fields(json_object_get_object_member(properties,
                         tapstate_group_name(t->group)), t->fields);
    }
    for (const Name *n = tapstate__groups; n->bit; n++) {
        bool inside = n->bit & (TUN_STATE_QUEUE | TUN_STATE_SNDBUF);

        g_assert_true(json_object_has_member(properties, n->name) != inside);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/decode/round", test_round);
    g_test_add_func("/decode/values", test_values);
    g_test_add_func("/decode/bad", test_bad);
    g_test_add_func("/decode/bad-macvtap", test_bad_macvtap);
    g_test_add_func("/decode/quotes", test_quotes);
    g_test_add_func("/decode/truncated", test_truncated);
    g_test_add_func("/decode/other-files", test_other_files);
    g_test_add_func("/decode/more-text", test_more_text);
    g_test_add_func("/decode/too-long", test_too_long);
    g_test_add_func("/decode/schema", test_schema);
    return g_test_run();
}
