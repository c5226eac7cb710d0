// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Print and compare states of devices, field by field, from their JSON
 */
#include <stdbool.h>
#include <string.h>

#include "tapstate-device.h"
#include "tapstate-fields.h"

/* Fields other than TAPSTATE_FIELD_RESTORABLE */
static const struct {
    const char *pattern;
    TapstateFieldKind kind;
} kinds[] = {
    { "identity.*", TAPSTATE_FIELD_DEVICE },
    { "netdev.*", TAPSTATE_FIELD_DEVICE },
    { "coalesce.*", TAPSTATE_FIELD_DEVICE },
    { "xdp.*", TAPSTATE_FIELD_DEVICE },
    { "offload.supported", TAPSTATE_FIELD_DEVICE },
    { "queues.*.ring_size", TAPSTATE_FIELD_DEVICE },
    { "queues.*.ring_len", TAPSTATE_FIELD_VOLATILE },
    { "flows", TAPSTATE_FIELD_VOLATILE },
};

static void field_free(gpointer opaque)
{
    TapstateField *f = opaque;

    g_free(f->name);
    g_free(f->value);
    g_free(f);
}

static void add_field(GPtrArray *fields, const char *name, char *value)
{
    TapstateField *f = g_new0(TapstateField, 1);

    f->name = g_strdup(name);
    f->value = value;
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_pattern_match_simple(kinds[i].pattern, name)) {
            f->kind = kinds[i].kind;
        }
    }
    g_ptr_array_add(fields, f);
}

static char *scalar_to_string(JsonNode *node)
{
    if (!JSON_NODE_HOLDS_VALUE(node)) {
        return g_strdup("none");
    }
    if (json_node_get_value_type(node) == G_TYPE_BOOLEAN) {
        return g_strdup(json_node_get_boolean(node) ? "yes" : "no");
    }
    if (json_node_get_value_type(node) == G_TYPE_STRING) {
        return json_node_dup_string(node);
    }
    return g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(node));
}

/* A list of scalars is one field: a filter without its last line differs */
static char *list_to_string(JsonArray *array, const char *separator)
{
    g_autoptr(GString) s = g_string_new(NULL);
    guint len = json_array_get_length(array);

    for (guint i = 0; i < len; i++) {
        g_autofree char *v = scalar_to_string(json_array_get_element(array, i));

        g_string_append_printf(s, "%s%s", i ? separator : "", v);
    }
    return g_string_free(g_steal_pointer(&s), false);
}

static char *members_to_string(JsonObject *object)
{
    g_autoptr(GString) s = g_string_new(NULL);
    JsonObjectIter iter;
    const char *member;
    JsonNode *node;

    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &member, &node)) {
        g_autofree char *v = scalar_to_string(node);

        g_string_append_printf(s, "%s%s %s", s->len ? " " : "", member, v);
    }
    return g_string_free(g_steal_pointer(&s), false);
}

static void flatten(GPtrArray *fields, const char *name, JsonNode *node);

static void flatten_object(GPtrArray *fields, const char *prefix,
                           JsonObject *object)
{
    JsonObjectIter iter;
    const char *member;
    JsonNode *node;

    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &member, &node)) {
        g_autofree char *name = prefix ?
            g_strdup_printf("%s.%s", prefix, member) : g_strdup(member);

        /* No state: format of the file, abilities of the kernel, holders */
        if (!strcmp(name, "tapstate") || !strcmp(name, "supported") ||
            !strcmp(member, "held_by")) {
            continue;
        }
        flatten(fields, name, node);
    }
}

static void flatten_array(GPtrArray *fields, const char *name, JsonArray *array)
{
    guint len = json_array_get_length(array);

    if (!strcmp(name, "flows")) {
        add_field(fields, name, g_strdup_printf("%u entries", len));
        return;
    }
    if (!strcmp(name, "sockfilter")) {
        add_field(fields, name, len ? list_to_string(array, ", ") :
                                      g_strdup("none"));
        return;
    }
    if (!len || !JSON_NODE_HOLDS_OBJECT(json_array_get_element(array, 0))) {
        add_field(fields, name, len ? list_to_string(array, " ") :
                                      g_strdup("none"));
        return;
    }
    for (guint i = 0; i < len; i++) {
        g_autofree char *element = g_strdup_printf("%s.%u", name, i);

        flatten(fields, element, json_array_get_element(array, i));
    }
}

static void flatten(GPtrArray *fields, const char *name, JsonNode *node)
{
    if (JSON_NODE_HOLDS_ARRAY(node)) {
        flatten_array(fields, name, json_node_get_array(node));
    } else if (!JSON_NODE_HOLDS_OBJECT(node)) {
        add_field(fields, name, scalar_to_string(node));
    } else if (json_object_has_member(json_node_get_object(node), "tag")) {
        /* A program is one field, to be compared with "none" */
        add_field(fields, name, members_to_string(json_node_get_object(node)));
    } else {
        flatten_object(fields, name, json_node_get_object(node));
    }
}

GPtrArray *tapstate_fields_from_json(JsonNode *root, GError **errp)
{
    g_autoptr(GPtrArray) fields = g_ptr_array_new_with_free_func(field_free);
    JsonObject *object;
    gint64 version;

    if (!JSON_NODE_HOLDS_OBJECT(root) ||
        !json_object_has_member(json_node_get_object(root), "tapstate")) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT,
                    "not the state of a device; "
                    "make the file with 'tapstate show -j DEV'");
        return NULL;
    }
    object = json_node_get_object(root);
    version = json_object_get_int_member_with_default(object, "tapstate", 0);
    if (version != TAPSTATE_FORMAT) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT,
                    "format %" G_GINT64_FORMAT ", but this tapstate reads "
                    "format %d only; use the tapstate that wrote the file",
                    version, TAPSTATE_FORMAT);
        return NULL;
    }

    flatten_object(fields, NULL, object);
    return g_steal_pointer(&fields);
}

static void append_cell(GString *out, const char *text, int width, bool last)
{
    if (last) {
        g_string_append_printf(out, "%s\n", text);
    } else {
        g_string_append_printf(out, "%-*s  ", width, text);
    }
}

/* @rows: GPtrArray of string arrays, @columns long */
static void append_table(GString *out, GPtrArray *rows, guint columns)
{
    g_autofree int *width = g_new0(int, columns);

    for (guint i = 0; i < rows->len; i++) {
        char **row = rows->pdata[i];

        for (guint c = 0; c < columns; c++) {
            width[c] = MAX(width[c], (int)strlen(row[c]));
        }
    }
    for (guint i = 0; i < rows->len; i++) {
        char **row = rows->pdata[i];

        for (guint c = 0; c < columns; c++) {
            append_cell(out, row[c], width[c], c == columns - 1);
        }
    }
}

G_GNUC_NULL_TERMINATED
static void add_row(GPtrArray *rows, const char *first, ...)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    va_list ap;

    va_start(ap, first);
    for (const char *s = first; s; s = va_arg(ap, const char *)) {
        g_strv_builder_add(b, s);
    }
    va_end(ap);
    g_ptr_array_add(rows, g_strv_builder_end(b));
}

static const char *yes_no(JsonObject *object, const char *member)
{
    return json_object_get_boolean_member_with_default(object, member, false) ?
           "yes" : "no";
}

static void add_queue_row(GPtrArray *rows, JsonObject *q)
{
    gint64 index = json_object_get_int_member_with_default(q, "index", -1);
    g_autofree char *number = g_strdup_printf("%" G_GINT64_FORMAT, index);
    g_autofree char *sndbuf = !json_object_has_member(q, "sndbuf") ?
        g_strdup("-") : g_strdup_printf("%" G_GINT64_FORMAT,
        json_object_get_int_member_with_default(q, "sndbuf", 0));
    g_autofree char *ring = g_strdup_printf("%" G_GINT64_FORMAT "/%"
        G_GINT64_FORMAT,
        json_object_get_int_member_with_default(q, "ring_len", 0),
        json_object_get_int_member_with_default(q, "ring_size", 0));
    g_autoptr(GString) held = g_string_new(NULL);
    JsonNode *node = json_object_get_member(q, "held_by");

    if (node && JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *a = json_node_get_array(node);

        for (guint i = 0; i < json_array_get_length(a); i++) {
            JsonObject *h = json_array_get_object_element(a, i);

            g_string_append_printf(held, "%s%s[%" G_GINT64_FORMAT "]:%"
                                   G_GINT64_FORMAT, i ? " " : "",
                                   json_object_get_string_member(h, "comm"),
                                   json_object_get_int_member(h, "pid"),
                                   json_object_get_int_member(h, "fd"));
        }
    }

    add_row(rows, number, !strcmp(yes_no(q, "attached"), "yes") ?
            "attached" : "detached", yes_no(q, "napi"), yes_no(q, "napi_frags"),
            yes_no(q, "sockfilter"), sndbuf, ring, held->str, NULL);
}

char *tapstate_fields_show(JsonNode *root, GError **errp)
{
    g_autoptr(GPtrArray) fields = tapstate_fields_from_json(root, errp);
    g_autoptr(GPtrArray) rows = NULL;
    g_autoptr(GString) out = NULL;
    JsonNode *queues;

    if (!fields) {
        return NULL;
    }

    out = g_string_new(NULL);
    rows = g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
    for (guint i = 0; i < fields->len; i++) {
        TapstateField *f = fields->pdata[i];

        if (!g_str_has_prefix(f->name, "queues.")) {
            add_row(rows, f->name, f->value, NULL);
        }
    }
    append_table(out, rows, 2);

    queues = json_object_get_member(json_node_get_object(root), "queues");
    if (queues && JSON_NODE_HOLDS_ARRAY(queues)) {
        JsonArray *array = json_node_get_array(queues);

        g_ptr_array_set_size(rows, 0);
        add_row(rows, "queue", "state", "napi", "napi_frags", "sockfilter",
                "sndbuf", "ring", "held by (process:fd)", NULL);
        for (guint i = 0; i < json_array_get_length(array); i++) {
            JsonNode *q = json_array_get_element(array, i);

            if (JSON_NODE_HOLDS_OBJECT(q)) {
                add_queue_row(rows, json_node_get_object(q));
            }
        }
        g_string_append_c(out, '\n');
        append_table(out, rows, 8);
    }
    return g_string_free(g_steal_pointer(&out), false);
}

static TapstateField *find_field(GPtrArray *fields, const char *name)
{
    for (guint i = 0; i < fields->len; i++) {
        TapstateField *f = fields->pdata[i];

        if (!strcmp(f->name, name)) {
            return f;
        }
    }
    return NULL;
}

typedef struct Diff {
    GPtrArray *rows;
    bool device;
    guint differ;
    guint same;
} Diff;

static void diff_field(Diff *d, const TapstateField *before,
                       const TapstateField *after)
{
    const TapstateField *any = before ? before : after;
    bool same = before && after && !strcmp(before->value, after->value);
    const char *sign = same ? "=" : "≠";
    bool counts = any->kind == TAPSTATE_FIELD_RESTORABLE ||
                  (any->kind == TAPSTATE_FIELD_DEVICE && d->device);

    if (counts) {
        d->same += same;
        d->differ += !same;
    } else if (!same) {
        sign = any->kind == TAPSTATE_FIELD_VOLATILE ? "≠ (volatile)" :
                                                      "≠ (device)";
    }
    add_row(d->rows, any->name, before ? before->value : "-",
            after ? after->value : "-", sign, NULL);
}

char *tapstate_fields_diff(JsonNode *before, JsonNode *after, gboolean device,
                           guint *differ, GError **errp)
{
    g_autoptr(GPtrArray) a = NULL, b = NULL, rows = NULL;
    g_autoptr(GString) out = NULL;
    Diff d = { .device = device };

    a = tapstate_fields_from_json(before, errp);
    b = a ? tapstate_fields_from_json(after, errp) : NULL;
    if (!b) {
        return NULL;
    }

    rows = g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
    d.rows = rows;
    add_row(rows, "field", "before", "after", "", NULL);
    for (guint i = 0; i < a->len; i++) {
        TapstateField *f = a->pdata[i];

        diff_field(&d, f, find_field(b, f->name));
    }
    for (guint i = 0; i < b->len; i++) {
        TapstateField *f = b->pdata[i];

        if (!find_field(a, f->name)) {
            diff_field(&d, NULL, f);
        }
    }

    out = g_string_new(NULL);
    append_table(out, rows, 4);
    g_string_append_printf(out, "%u fields equal, %u differ\n", d.same,
                           d.differ);
    *differ = d.differ;
    return g_string_free(g_steal_pointer(&out), false);
}
