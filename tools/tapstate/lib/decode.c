// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Read the state of a device from JSON, which may be hostile
 */
#include <stdarg.h>
#include <string.h>

#include "private.h"

/* A device with 256 queues, all flows and the longest program takes 1 MB */
#define MAX_TEXT (16 * 1024 * 1024)
#define MAX_DEPTH 8

G_GNUC_PRINTF(2, 3)
static bool fail(GError **errp, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_propagate_error(errp, g_error_new_valist(TAPSTATE_ERROR,
                                               TAPSTATE_ERROR_FORMAT, format,
                                               ap));
    va_end(ap);
    return false;
}

/* Fail, as every member has to be understood to be restored */
static bool fail_unknown(GError **errp, const char *where, const char *member)
{
    g_autofree char *shown = tapstate__escape(member, strlen(member));

    return fail(errp, "%s%s%s is not known; the file was edited, or is of a "
                "later tapstate", where, *where ? "." : "", shown);
}

static JsonObject *as_object(JsonNode *node, const char *where, GError **errp)
{
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        fail(errp, "%s is not an object", where);
        return NULL;
    }
    return json_node_get_object(node);
}

static JsonArray *as_array(JsonNode *node, const char *where, guint max,
                           GError **errp)
{
    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        fail(errp, "%s is not a list", where);
        return NULL;
    }
    if (json_array_get_length(json_node_get_array(node)) > max) {
        fail(errp, "%s has more than %u entries", where, max);
        return NULL;
    }
    return json_node_get_array(node);
}

static bool is_field(const Field *fields, const char *name)
{
    for (const Field *f = fields; f->name; f++) {
        if (!strcmp(f->name, name)) {
            return true;
        }
    }
    return false;
}

/* Decode all @fields, and refuse members that are neither these nor in @more */
static bool get_fields(JsonObject *from, const char *where,
                       const Field *fields, const char *const *more,
                       void *base, GError **errp)
{
    g_autoptr(GList) members = json_object_get_members(from);

    for (GList *m = members; m; m = m->next) {
        if (!is_field(fields, m->data) &&
            !(more && g_strv_contains(more, m->data))) {
            return fail_unknown(errp, where, m->data);
        }
    }
    for (const Field *f = fields; f->name; f++) {
        JsonNode *node = json_object_get_member(from, f->name);

        if (!node) {
            return fail(errp, "%s.%s is missing", where, f->name);
        }
        if (!f->type->decode(f, base, node)) {
            return fail(errp, "%s.%s is not %s", where, f->name,
                        f->type->expected);
        }
    }
    return true;
}

static bool get_object(JsonNode *node, const char *where, const Field *fields,
                       void *base, GError **errp)
{
    JsonObject *object = as_object(node, where, errp);

    return object && get_fields(object, where, fields, NULL, base, errp);
}

/* An optional string */
static bool get_string(JsonObject *from, const char *where, const char *member,
                       char **text, GError **errp)
{
    JsonNode *node = json_object_get_member(from, member);

    if (!node) {
        return true;
    }
    if (!JSON_NODE_HOLDS_VALUE(node) ||
        json_node_get_value_type(node) != G_TYPE_STRING) {
        return fail(errp, "%s.%s is not a string", where, member);
    }
    g_free(*text);
    *text = json_node_dup_string(node);
    return true;
}

static bool get_prog(JsonNode *node, const char *where,
                     struct tun_state_prog *prog, Prog *info, GError **errp)
{
    static const char *const more[] = { "name", "pinned", NULL };
    JsonObject *from;

    if (JSON_NODE_HOLDS_NULL(node)) {
        return true;
    }
    from = as_object(node, where, errp);
    if (!from ||
        !get_fields(from, where, tapstate__prog_fields, more, prog, errp) ||
        !get_string(from, where, "name", &info->name, errp) ||
        !get_string(from, where, "pinned", &info->pin, errp)) {
        return false;
    }
    return prog->id || fail(errp, "%s.id is 0; no program is null", where);
}

static bool get_insn(JsonNode *node, struct sock_filter *insn)
{
    static const guint64 max[] = { G_MAXUINT16, G_MAXUINT8, G_MAXUINT8,
                                   G_MAXUINT32 };
    g_auto(GStrv) parts = NULL;
    guint64 v[4];

    if (!JSON_NODE_HOLDS_VALUE(node) ||
        json_node_get_value_type(node) != G_TYPE_STRING) {
        return false;
    }
    parts = g_strsplit(json_node_get_string(node), " ", 5);
    if (g_strv_length(parts) != 4) {
        return false;
    }
    for (guint i = 0; i < 4; i++) {
        if (!g_ascii_string_to_unsigned(parts[i], 10, 0, max[i], &v[i],
                                        NULL)) {
            return false;
        }
    }
    *insn = (struct sock_filter) { v[0], v[1], v[2], v[3] };
    return true;
}

static struct tun_state_array array_of(void *entries, guint32 count,
                                       guint32 size)
{
    return (struct tun_state_array) { (guintptr)entries, count, size };
}

static bool get_sockfilter(TapstateDevice *dev, JsonNode *node, GError **errp)
{
    JsonArray *from = as_array(node, "sockfilter", BPF_MAXINSNS, errp);
    guint n;

    if (!from) {
        return false;
    }
    n = json_array_get_length(from);
    dev->insns = g_new0(struct sock_filter, n);
    dev->st.sockfilter = array_of(dev->insns, n, sizeof(*dev->insns));
    for (guint i = 0; i < n; i++) {
        if (!get_insn(json_array_get_element(from, i), &dev->insns[i])) {
            return fail(errp, "sockfilter.%u is not an instruction like "
                        "\"6 0 0 65535\"", i);
        }
    }
    return true;
}

static bool get_flows(TapstateDevice *dev, JsonNode *node, GError **errp)
{
    JsonArray *from = as_array(node, "flows", MAX_FLOWS, errp);
    guint n;

    if (!from) {
        return false;
    }
    n = json_array_get_length(from);
    dev->flows = g_new0(struct tun_state_flow, n);
    dev->st.flows = array_of(dev->flows, n, sizeof(*dev->flows));
    for (guint i = 0; i < n; i++) {
        g_autofree char *where = g_strdup_printf("flows.%u", i);

        if (!get_object(json_array_get_element(from, i), where,
                        tapstate__flow_fields, &dev->flows[i], errp)) {
            return false;
        }
    }
    return true;
}

static const Field holder_fields[] = {
    { .name = "pid" }, { .name = "fd" }, { .name = "comm" }, { 0 }
};

static bool get_holder(TapstateDevice *dev, JsonNode *node, const char *where,
                       const Queue *q, GError **errp)
{
    JsonObject *from = as_object(node, where, errp);
    Holder h = {
        .index = q->q.index,
        .attached = q->q.flags & TUN_STATE_QUEUE_ATTACHED,
    };

    if (!from) {
        return false;
    }
    for (const Field *f = holder_fields; f->name; f++) {
        JsonNode *value = json_object_get_member(from, f->name);
        bool text = !strcmp(f->name, "comm");

        if (!value || !JSON_NODE_HOLDS_VALUE(value) ||
            json_node_get_value_type(value) !=
            (text ? G_TYPE_STRING : G_TYPE_INT64)) {
            return fail(errp, "%s.%s is not a %s", where, f->name,
                        text ? "string" : "number");
        }
    }
    if (json_object_get_size(from) != 3) {
        return fail(errp, "%s has members that are not known", where);
    }
    h.pid = json_object_get_int_member(from, "pid");
    h.fd = json_object_get_int_member(from, "fd");
    h.comm = g_strdup(json_object_get_string_member(from, "comm"));
    g_array_append_val(dev->holders, h);
    return true;
}

static bool get_holders(TapstateDevice *dev, JsonNode *node, const char *where,
                        const Queue *q, GError **errp)
{
    g_autofree char *name = g_strdup_printf("%s.held_by", where);
    JsonArray *from = node ? as_array(node, name, G_MAXUINT16, errp) : NULL;

    if (!from) {
        return node ? false : fail(errp, "%s is missing", name);
    }
    for (guint i = 0; i < json_array_get_length(from); i++) {
        if (!get_holder(dev, json_array_get_element(from, i), name, q,
                        errp)) {
            return false;
        }
    }
    return true;
}

static bool get_sndbuf(JsonNode *node, const char *where, Queue *q,
                       GError **errp)
{
    if (!node) {
        return true;
    }
    if (!JSON_NODE_HOLDS_VALUE(node) ||
        json_node_get_value_type(node) != G_TYPE_INT64 ||
        json_node_get_int(node) <= 0 ||
        json_node_get_int(node) > G_MAXINT32) {
        return fail(errp, "%s.sndbuf is not a positive number of 31 bits",
                    where);
    }
    q->sndbuf = json_node_get_int(node);
    return true;
}

/* Settings that only an open queue of macvtap has: it must have them then */
static bool get_own(const TapstateDevice *dev, JsonObject *from,
                    const char *where, const char *member,
                    const Field *fields, Queue *q, GError **errp)
{
    bool own = IS_MACVTAP(&dev->st) && q->sndbuf;
    g_autofree char *name = g_strdup_printf("%s.%s", where, member);
    JsonNode *node = json_object_get_member(from, member);

    if (!node != !own) {
        return fail(errp, "%s is %s", name, node ?
                    "not of this kind of device" : "missing");
    }
    return !node || get_object(node, name, fields, q, errp);
}

static bool get_queue(TapstateDevice *dev, JsonNode *node, guint i,
                      GError **errp)
{
    static const char *const more[] = { "sndbuf", "held_by", "iff", "vnet",
                                        NULL };
    g_autofree char *where = g_strdup_printf("queues.%u", i);
    JsonObject *from = as_object(node, where, errp);
    Queue *q = &dev->queues[i];

    return from &&
           get_fields(from, where, tapstate__queue_fields, more, q, errp) &&
           get_sndbuf(json_object_get_member(from, "sndbuf"), where, q,
                      errp) &&
           get_own(dev, from, where, "iff", tapstate__own_iff, q, errp) &&
           get_own(dev, from, where, "vnet", tapstate__own_vnet, q, errp) &&
           get_holders(dev, json_object_get_member(from, "held_by"), where, q,
                       errp);
}

/* Queues are in order: attached ones by index, and then the detached ones */
static bool check_order(const TapstateDevice *dev, GError **errp)
{
    guint next = 0;
    bool detached = false;

    for (guint i = 0; i < dev->st.queues.count; i++) {
        const struct tun_state_queue *q = &dev->queues[i].q;

        if (!detached && !(q->flags & TUN_STATE_QUEUE_ATTACHED)) {
            detached = true;
            next = 0;
        }
        if (detached == !!(q->flags & TUN_STATE_QUEUE_ATTACHED) ||
            q->index != next++) {
            return fail(errp, "queues.%u is not in its place: attached ones "
                        "come first, in the order of their index", i);
        }
    }
    return true;
}

static bool get_queues(TapstateDevice *dev, JsonNode *node, GError **errp)
{
    JsonArray *from = as_array(node, "queues", MAX_QUEUES, errp);
    guint n;

    if (!from) {
        return false;
    }
    n = json_array_get_length(from);
    dev->queues = g_new0(Queue, n);
    dev->st.queues = array_of(dev->queues, n, sizeof(*dev->queues));
    for (guint i = 0; i < n; i++) {
        if (!get_queue(dev, json_array_get_element(from, i), i, errp)) {
            return false;
        }
    }
    return check_order(dev, errp);
}

static bool get_special(TapstateDevice *dev, guint64 group, JsonNode *node,
                        GError **errp)
{
    switch (group) {
    case TUN_STATE_SOCKFILTER:
        return get_sockfilter(dev, node, errp);
    case TUN_STATE_STEERING:
        return get_prog(node, "steering", &dev->st.steering, &dev->progs[0],
                        errp);
    case TUN_STATE_FILTER:
        return get_prog(node, "filter", &dev->st.filter, &dev->progs[1],
                        errp);
    case TUN_STATE_FLOWS:
        return get_flows(dev, node, errp);
    case TUN_STATE_QUEUES:
        return get_queues(dev, node, errp);
    default:
        return fail_unknown(errp, "", tapstate_group_name(group));
    }
}

static bool get_group(TapstateDevice *dev, const char *member, JsonNode *node,
                      GError **errp)
{
    guint64 group = tapstate_group_bit(member);
    const Table *t = tapstate__table(group);
    bool ok;

    if (!group) {
        return fail_unknown(errp, "", member);
    }
    if (IS_MACVTAP(&dev->st) && group & (TUN_STATE_IFF | TUN_STATE_VNET)) {
        return fail(errp, "%s is not of this kind of device, but of its "
                    "queues", member);
    }
    ok = t ? get_object(node, member, t->fields, &dev->st, errp) :
             get_special(dev, group, node, errp);
    dev->st.mask |= group;
    return ok;
}

static bool check_version(JsonObject *from, GError **errp)
{
    JsonNode *node = json_object_get_member(from, "tapstate");
    gint64 version = 0;

    if (JSON_NODE_HOLDS_VALUE(node) &&
        json_node_get_value_type(node) == G_TYPE_INT64) {
        version = json_node_get_int(node);
    }
    if (version == TAPSTATE_FORMAT) {
        return true;
    }
    return fail(errp, "format %" G_GINT64_FORMAT ", but this tapstate reads "
                "format %d only; use the tapstate that wrote the file",
                version, TAPSTATE_FORMAT);
}

static bool get_groups(TapstateDevice *dev, JsonObject *from, GError **errp)
{
    g_autoptr(GList) members = json_object_get_members(from);
    JsonNode *node = json_object_get_member(from, "supported");
    guint64 supported;

    if (!node || !tapstate__bits_value(tapstate__groups, node, &supported)) {
        return fail(errp, "supported is not a list of groups");
    }
    dev->st.supported = supported;
    for (GList *m = members; m; m = m->next) {
        if (strcmp(m->data, "tapstate") && strcmp(m->data, "supported") &&
            !get_group(dev, m->data, json_object_get_member(from, m->data),
                       errp)) {
            return false;
        }
    }
    if (dev->st.mask & ~supported) {
        return fail(errp, "supported lacks a group that is there");
    }
    return true;
}

/*
 * The parser takes comments and other quotes, too, in which check_text() would
 * misread brackets and quotes
 */
static bool is_json(char c)
{
    return g_ascii_isalnum(c) || strchr(" \t\r\n{}[]:,\"+-.", c);
}

/* The parser takes several values in a row, and drops all but one */
static bool check_end(const char *text, size_t len, GError **errp)
{
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isspace(text[i])) {
            return fail(errp, "more text behind the state of a device");
        }
    }
    return true;
}

/* Keep the recursion of older parsers small */
static bool check_text(const char *text, size_t len, GError **errp)
{
    bool string = false;
    int depth = 0;

    if (len > MAX_TEXT) {
        return fail(errp, "more than %d bytes", MAX_TEXT);
    }
    if (!g_utf8_validate(text, len, NULL) ||
        g_strstr_len(text, len, "\\u0000")) {
        return fail(errp, "not text in UTF-8, or with a zero byte");
    }
    for (size_t i = 0; i < len; i++) {
        if (string) {
            if (text[i] == '\\') {
                i++;
            } else {
                string = text[i] != '"';
            }
            continue;
        }
        if (!is_json(text[i])) {
            return fail(errp, "not JSON: byte %zu is neither in a string nor "
                        "part of the syntax", i);
        }
        string = text[i] == '"';
        depth += text[i] == '{' || text[i] == '[';
        depth -= text[i] == '}' || text[i] == ']';
        if (depth > MAX_DEPTH) {
            return fail(errp, "nested deeper than the state of a device");
        }
        if (text[i] == '}' && !depth) {
            return check_end(text + i + 1, len - i - 1, errp);
        }
    }
    return true;
}

static JsonNode *parse(const char *text, size_t len, GError **errp)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) err = NULL;
    JsonNode *root;

    if (!check_text(text, len, errp)) {
        return NULL;
    }
    if (!json_parser_load_from_data(parser, text, len, &err)) {
        g_autofree char *shown = tapstate__escape(err->message,
                                                  strlen(err->message));

        fail(errp, "not JSON, or cut off: %s", shown);
        return NULL;
    }
    root = json_parser_get_root(parser);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root) ||
        !json_object_has_member(json_node_get_object(root), "tapstate")) {
        fail(errp, "not the state of a device; make the file with "
             "'tapstate save'");
        return NULL;
    }
    return json_parser_steal_root(parser);
}

/**
 * tapstate_decode:
 * @text: JSON of tapstate_encode()
 * @len: its length in bytes
 * @errp: return location for an error
 *
 * Refuses any text that tapstate_encode() would not write, such as one with a
 * member that it does not know: nothing is dropped silently.
 *
 * Returns: (transfer full): the state, or %NULL
 */
TapstateDevice *tapstate_decode(const char *text, size_t len, GError **errp)
{
    g_autoptr(TapstateDevice) dev = tapstate__new();
    g_autoptr(JsonNode) root = parse(text, len, errp);
    JsonObject *from;

    if (!root) {
        return NULL;
    }
    from = json_node_get_object(root);
    if (!check_version(from, errp) || !get_groups(dev, from, errp)) {
        return NULL;
    }
    return g_steal_pointer(&dev);
}
