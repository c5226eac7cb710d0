// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a live update has done
 */
#include <stdio.h>
#include <string.h>

#include "update.h"

/* State of a device through a queue of process @pid, or NULL */
static TapstateDevice *state_in(pid_t pid, const char *name)
{
    unsigned int closed;
    TapstateQueue **queues = tapstate_list(pid, &closed, NULL);
    TapstateDevice *dev = NULL;

    for (TapstateQueue **q = queues; q && *q && !dev; q++) {
        if (!strcmp((*q)->name, name) && (*q)->patched > 0) {
            dev = tapstate_get_fd(pid, (*q)->fd, NULL);
        }
    }
    if (queues) {
        tapstate_list_free(queues);
    }
    return dev;
}

static void free_state(void *dev)
{
    if (dev) {
        tapstate_free(dev);
    }
}

void summary_before(Update *u)
{
    u->before = g_ptr_array_new_with_free_func(free_state);
    for (guint i = 0; u->devices && i < u->devices->len; i++) {
        g_ptr_array_add(u->before,
                        state_in(u->source->pid, u->devices->pdata[i]));
    }
}

static void add_field(const TapstateField *field, void *data)
{
    GString *text = data;

    if (field->kind == TAPSTATE_KIND_RESTORABLE &&
        g_strcmp0(field->a, field->b)) {
        g_string_append_printf(text, "%s%s %s != %s", text->len ? ", " : "",
                               field->name, field->a ? field->a : "-",
                               field->b ? field->b : "-");
    }
}

/* Fields that differ now, or NULL where that is not known */
static char *compare(const Update *u, guint i)
{
    const TapstateDevice *a = u->before ? u->before->pdata[i] : NULL;
    g_autoptr(TapstateDevice) b = a ? state_in(u->target->pid,
                                               u->devices->pdata[i]) : NULL;
    GString *text;

    if (!b) {
        return NULL;
    }
    text = g_string_new(NULL);
    tapstate_compare(a, b, false, add_field, text);
    return g_string_free(text, false);
}

static void add_states(const Update *u, JsonObject *to)
{
    JsonArray *array = json_array_new();

    for (guint i = 0; u->devices && i < u->devices->len; i++) {
        JsonObject *o = json_object_new();
        g_autofree char *differ = compare(u, i);

        json_object_set_string_member(o, "device", u->devices->pdata[i]);
        if (differ) {
            json_object_set_string_member(o, "differ", differ);
        } else {
            json_object_set_null_member(o, "differ");
        }
        json_array_add_object_element(array, o);
    }
    json_object_set_array_member(to, "devices", array);
}

static void print_json(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    g_autofree char *text = json_to_string(node, false);

    puts(text);
}

static void print_netdevs(const Update *u, JsonArray *netdevs)
{
    for (guint i = 0; netdevs && i < json_array_get_length(netdevs); i++) {
        JsonObject *tap = array_object(netdevs, i);
        const char *why = member_string(tap, "unverified");

        update_say(u, "netdev %s: %s%s, %" G_GINT64_FORMAT " packets carried",
                   member_string(tap, "id"),
                   why ? "not verified: " : "verified", why ? why : "",
                   member_int(tap, "carried"));
    }
}

static void print_devices(const Update *u, JsonObject *summary)
{
    JsonArray *array = json_object_get_array_member(summary, "devices");

    for (guint i = 0; i < json_array_get_length(array); i++) {
        JsonObject *o = array_object(array, i);
        const char *differ = member_string(o, "differ");

        update_say(u, "device %s: %s%s", member_string(o, "device"),
                   !differ ? "the kernel does not report its state" :
                   *differ ? "its state differs: " :
                             "its state is as before", differ ? differ : "");
    }
}

void summary_print(Update *u)
{
    g_autoptr(JsonObject) o = json_object_new();
    JsonArray *netdevs = qmp_list(u->migration.target, "query-tap-state", NULL,
                                  NULL);
    int source = u->journal->source;

    json_object_set_string_member(o, "socket", u->socket);
    json_object_set_string_member(o, "result", "updated");
    json_object_set_int_member(o, "source", source);
    json_object_set_int_member(o, "target", u->target->pid);
    if (u->downtime >= 0) {
        json_object_set_double_member(o, "downtime-ms", u->downtime / 1e3);
    } else {
        json_object_set_null_member(o, "downtime-ms");
    }
    if (netdevs) {
        json_object_set_array_member(o, "netdevs", netdevs);
    }
    add_states(u, o);
    if (u->json) {
        print_json(o);
        return;
    }
    print_netdevs(u, netdevs);
    print_devices(u, o);
    if (u->downtime >= 0) {
        update_say(u, "updated: process %d now runs the guest of process %d; it "
                   "was stopped for %.1f ms", (int)u->target->pid, source,
                   u->downtime / 1e3);
    } else {
        update_say(u, "updated: process %d now runs the guest of process %d",
                   (int)u->target->pid, source);
    }
}

int summary_fail(const Update *u, int status, GError *err)
{
    g_autoptr(JsonObject) o = NULL;

    if (!u->json) {
        fail(err);
        return status;
    }
    o = json_object_new();
    json_object_set_string_member(o, "socket", u->socket);
    json_object_set_string_member(o, "result",
                                  status == STATUS_STOPPED ? "stopped" :
                                  status == STATUS_REFUSED ? "refused" :
                                                             "error");
    json_object_set_string_member(o, "reason", err->message);
    print_json(o);
    g_error_free(err);
    return status;
}
