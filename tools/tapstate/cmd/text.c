// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Text of tapstate show and tapstate diff
 */
#include <string.h>

#include "command.h"

/* Names of NETIF_MSG_*, as ethtool prints them */
static const char *const messages[] = {
    "drv", "probe", "link", "timer", "ifdown", "ifup", "rx_err", "tx_err",
    "tx_queued", "intr", "tx_done", "rx_status", "pktdata", "hw", "wol",
};

static char *message_names(const char *value)
{
    g_autoptr(GString) s = g_string_new(value);
    guint64 mask = g_ascii_strtoull(value, NULL, 16);

    for (guint i = 0; i < G_N_ELEMENTS(messages); i++) {
        if (mask & (1u << i)) {
            g_string_append_printf(s, " %s", messages[i]);
        }
    }
    return g_string_free(g_steal_pointer(&s), false);
}

typedef struct Show {
    const TapstateDevice *dev;
    JsonObject *json;
    GPtrArray *rows;
    char *group; /* of the last row */
} Show;

static char *value_of(Show *show, const TapstateField *f)
{
    if (!strcmp(f->name, "link.msg_enable")) {
        return message_names(f->a);
    }
    if (!strcmp(f->name, "sockfilter")) {
        guint n = tapstate_state(show->dev)->sockfilter.count;

        return n ? g_strdup_printf("%u instructions", n) : g_strdup("none");
    }
    return f->unit ? g_strdup_printf("%s %s", f->a, f->unit) : g_strdup(f->a);
}

static void add_lines(GPtrArray *rows, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **l = lines; *l && **l; l++) {
        table_add(rows, "", "", *l, NULL);
    }
}

/* Lines below a filter or a program */
static void add_details(Show *show, const TapstateField *f)
{
    JsonNode *node = json_object_get_member(show->json, f->name);
    const struct tun_state *st = tapstate_state(show->dev);

    if (!strcmp(f->name, "sockfilter")) {
        g_autofree char *text = bpf_text(
            (struct sock_filter *)(guintptr)st->sockfilter.entries,
            st->sockfilter.count);

        add_lines(show->rows, text);
    } else if (node && JSON_NODE_HOLDS_OBJECT(node)) {
        JsonObject *prog = json_node_get_object(node);
        const char *name = json_object_get_string_member_with_default(
            prog, "name", NULL);

        if (name) {
            table_add(show->rows, "", "name", name, NULL);
        }
    }
}

static void show_field(const TapstateField *f, void *data)
{
    Show *show = data;
    const char *dot = strchr(f->name, '.');
    g_autofree char *group = dot ? g_strndup(f->name, dot - f->name) :
                                   g_strdup(f->name);
    g_autofree char *value = NULL;
    bool again = show->group && !strcmp(group, show->group);

    if (!strcmp(group, "queues")) {
        return;
    }
    value = value_of(show, f);
    table_add(show->rows, again ? "" : group, dot ? dot + 1 : "", value, NULL);
    if (!dot) {
        add_details(show, f);
    }
    g_free(show->group);
    show->group = g_steal_pointer(&group);
}

static const char *yes_no(JsonObject *object, const char *member)
{
    return json_object_get_boolean_member(object, member) ? "yes" : "no";
}

static char *held_by(JsonObject *q)
{
    JsonArray *array = json_object_get_array_member(q, "held_by");
    g_autoptr(GString) held = g_string_new(NULL);

    for (guint i = 0; i < json_array_get_length(array); i++) {
        JsonObject *h = json_array_get_object_element(array, i);

        g_string_append_printf(held, "%s%s[%" G_GINT64_FORMAT "]:%"
                               G_GINT64_FORMAT, i ? " " : "",
                               json_object_get_string_member(h, "comm"),
                               json_object_get_int_member(h, "pid"),
                               json_object_get_int_member(h, "fd"));
    }
    return g_string_free(g_steal_pointer(&held), false);
}

static void add_queue(JsonArray *array, guint i, JsonNode *node, gpointer rows)
{
    JsonObject *q = json_node_get_object(node);
    g_autofree char *number = g_strdup_printf("%" G_GINT64_FORMAT,
        json_object_get_int_member(q, "index"));
    g_autofree char *sndbuf = !json_object_has_member(q, "sndbuf") ?
        g_strdup("-") : g_strdup_printf("%" G_GINT64_FORMAT,
        json_object_get_int_member(q, "sndbuf"));
    g_autofree char *ring = g_strdup_printf("%" G_GINT64_FORMAT "/%"
        G_GINT64_FORMAT, json_object_get_int_member(q, "ring_len"),
        json_object_get_int_member(q, "ring_size"));
    g_autofree char *held = held_by(q);

    (void)array, (void)i;
    table_add(rows, number, json_object_get_boolean_member(q, "attached") ?
              "attached" : "detached", yes_no(q, "napi"),
              yes_no(q, "napi_frags"), yes_no(q, "sockfilter"), sndbuf, ring,
              held, NULL);
}

char *show_text(const TapstateDevice *dev)
{
    g_autofree char *text = tapstate_encode(dev, false);
    g_autoptr(JsonNode) root = json_from_string(text, NULL);
    g_autoptr(GPtrArray) rows = table_new(), queues = table_new();
    Show show = {
        .dev = dev, .json = json_node_get_object(root), .rows = rows,
    };
    g_autofree char *fields = NULL, *table = NULL;

    tapstate_foreach(dev, show_field, &show);
    g_free(show.group);
    fields = table_text(rows, 3);
    if (!json_object_has_member(show.json, "queues")) {
        return g_steal_pointer(&fields);
    }
    table_add(queues, "queue", "state", "napi", "napi_frags", "sockfilter",
              "sndbuf/bytes", "ring/packets", "held by (process:fd)", NULL);
    json_array_foreach_element(
        json_object_get_array_member(show.json, "queues"), add_queue, queues);
    table = table_text(queues, 8);
    return g_strconcat(fields, "\n", table, NULL);
}

typedef struct Diff {
    GPtrArray *rows;
    bool all;
    bool device;
    guint fields;
} Diff;

static void diff_field(const TapstateField *f, void *data)
{
    Diff *d = data;
    bool same = !g_strcmp0(f->a, f->b);
    bool counts = f->kind == TAPSTATE_KIND_RESTORABLE ||
                  (f->kind == TAPSTATE_KIND_DEVICE && d->device);
    const char *note = same ? "" :
                       f->kind == TAPSTATE_KIND_VOLATILE ? "(volatile)" :
                       counts ? "" : "(device)";

    d->fields += counts;
    if (same && !d->all) {
        return;
    }
    table_add(d->rows, f->name, f->a ? f->a : "-", same ? "=" : "!=",
              f->b ? f->b : "-", note, NULL);
}

char *diff_text(const TapstateDevice *a, const TapstateDevice *b, bool all,
                bool device, guint *differ)
{
    g_autoptr(GPtrArray) rows = table_new();
    Diff d = { .rows = rows, .all = all, .device = device };
    g_autofree char *table = NULL;

    *differ = tapstate_compare(a, b, device, diff_field, &d);
    table = table_text(rows, 5);
    return g_strdup_printf("%s%u fields equal, %u differ\n", table,
                           d.fields - *differ, *differ);
}
