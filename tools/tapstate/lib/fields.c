// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Fields of a state as a flat list, and the comparison of two, from their JSON
 */
#include <string.h>

#include "private.h"

/* Fields other than TAPSTATE_KIND_RESTORABLE */
static const struct {
    const char *pattern;
    TapstateKind kind;
} kinds[] = {
    { "identity.*", TAPSTATE_KIND_DEVICE },
    { "netdev.*", TAPSTATE_KIND_DEVICE },
    { "coalesce.*", TAPSTATE_KIND_DEVICE },
    { "xdp.*", TAPSTATE_KIND_DEVICE },
    { "offload.supported", TAPSTATE_KIND_DEVICE },
    { "queues.*.ring_size", TAPSTATE_KIND_DEVICE },
    { "queues.*.ring_len", TAPSTATE_KIND_VOLATILE },
    { "flows", TAPSTATE_KIND_VOLATILE },
};

static const struct {
    const char *pattern;
    const char *unit;
} units[] = {
    { "netdev.mtu", "bytes" },
    { "*vnet.hdr_size", "bytes" },
    { "*.sndbuf", "bytes" },
    { "coalesce.rx_frames", "packets" },
    { "*.ring_size", "packets" },
    { "*.ring_len", "packets" },
    { "flows", "entries" },
};

/* A field whose strings are its own */
typedef struct Owned {
    TapstateField f;
    char *name;
    char *value;
} Owned;

static void owned_free(gpointer opaque)
{
    Owned *o = opaque;

    g_free(o->name);
    g_free(o->value);
    g_free(o);
}

const char *tapstate__unit(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        if (g_pattern_match_simple(units[i].pattern, name)) {
            return units[i].unit;
        }
    }
    return NULL;
}

static void add_field(GPtrArray *fields, const char *name, char *value)
{
    Owned *o = g_new0(Owned, 1);

    o->f.name = o->name = g_strdup(name);
    o->f.a = o->value = value;
    o->f.unit = tapstate__unit(name);
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_pattern_match_simple(kinds[i].pattern, name)) {
            o->f.kind = kinds[i].kind;
        }
    }
    g_ptr_array_add(fields, o);
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

        /* Neither belongs to the program; both take rights to find out */
        if (!strcmp(member, "name") || !strcmp(member, "pinned")) {
            continue;
        }
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

        /*
         * No state: format of the file, abilities of the kernel, holders, pins
         */
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
        add_field(fields, name, g_strdup_printf("%u", len));
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

static GPtrArray *fields_of(const TapstateDevice *dev)
{
    GPtrArray *fields = g_ptr_array_new_with_free_func(owned_free);
    g_autoptr(JsonNode) root = tapstate__to_json(dev);

    flatten_object(fields, NULL, json_node_get_object(root));
    return fields;
}

/**
 * tapstate_foreach:
 * @dev: state
 * @func: called for each field, whose strings are valid during the call
 * @data: passed to @func
 *
 * Walks all fields but the holders, in the order of the JSON. An array of
 * numbers or strings is one field, and so is a program; "flows" is their
 * number.
 */
void tapstate_foreach(const TapstateDevice *dev, TapstateFieldFunc func,
                      void *data)
{
    g_autoptr(GPtrArray) fields = fields_of(dev);

    for (guint i = 0; i < fields->len; i++) {
        func(fields->pdata[i], data);
    }
}

static GHashTable *by_name(GPtrArray *fields)
{
    GHashTable *table = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < fields->len; i++) {
        Owned *o = fields->pdata[i];

        g_hash_table_insert(table, o->name, o);
    }
    return table;
}

/* Return 1 for a difference that counts */
static guint report(TapstateField f, const Owned *b, bool device,
                    TapstateFieldFunc func, void *data)
{
    f.b = b ? b->value : NULL;
    if (func) {
        func(&f, data);
    }
    return g_strcmp0(f.a, f.b) &&
           (f.kind == TAPSTATE_KIND_RESTORABLE ||
            (f.kind == TAPSTATE_KIND_DEVICE && device));
}

/**
 * tapstate_compare:
 * @a: state
 * @b: other state
 * @device: count fields of kind %TAPSTATE_KIND_DEVICE, too
 * @func: (nullable): called for each field, whether it differs or not
 * @data: passed to @func
 *
 * Returns: number of fields that differ and count
 */
unsigned int tapstate_compare(const TapstateDevice *a, const TapstateDevice *b,
                              bool device, TapstateFieldFunc func, void *data)
{
    g_autoptr(GPtrArray) of_a = fields_of(a), of_b = fields_of(b);
    g_autoptr(GHashTable) in_a = by_name(of_a), in_b = by_name(of_b);
    guint differ = 0;

    for (guint i = 0; i < of_a->len; i++) {
        Owned *o = of_a->pdata[i];

        differ += report(o->f, g_hash_table_lookup(in_b, o->name), device,
                         func, data);
    }
    for (guint i = 0; i < of_b->len; i++) {
        Owned *o = of_b->pdata[i];

        if (!g_hash_table_contains(in_a, o->name)) {
            TapstateField f = o->f;

            f.a = NULL;
            differ += report(f, o, device, func, data);
        }
    }
    return differ;
}
