// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate list
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static const char *netdev_of(GPtrArray *sockets, const TapstateQueue *q)
{
    for (guint i = 0; i < sockets->len; i++) {
        const char *id = netdevs_find(sockets->pdata[i], q);

        if (id) {
            return id;
        }
    }
    return NULL;
}

/* Values that are not known are null */
static void set_number(JsonObject *to, const char *member, gint64 value,
                       bool known)
{
    if (known) {
        json_object_set_int_member(to, member, value);
    } else {
        json_object_set_null_member(to, member);
    }
}

static void set_boolean(JsonObject *to, const char *member, int value)
{
    if (value >= 0) {
        json_object_set_boolean_member(to, member, value);
    } else {
        json_object_set_null_member(to, member);
    }
}

static void set_string(JsonObject *to, const char *member, const char *value)
{
    if (value) {
        json_object_set_string_member(to, member, value);
    } else {
        json_object_set_null_member(to, member);
    }
}

/* Only an ioctl tells a tap from a tun: both are files of /dev/net/tun */
static const char *type_of(const TapstateQueue *q)
{
    return q->patched < 0 && !strcmp(q->type, "tun") ? NULL : q->type;
}

static JsonObject *to_json(const TapstateQueue *q, const char *netdev)
{
    JsonObject *to = json_object_new();
    g_autofree char *name = printable(q->name, true);
    g_autofree char *comm = printable(q->comm, true);

    json_object_set_string_member(to, "device", name);
    set_string(to, "type", type_of(q));
    set_number(to, "ifindex", q->ifindex, q->ifindex);
    set_number(to, "netns", q->netns, q->netns);
    set_number(to, "queue", q->index, q->index >= 0);
    set_boolean(to, "attached", q->attached);
    json_object_set_int_member(to, "pid", q->pid);
    json_object_set_int_member(to, "fd", q->fd);
    json_object_set_string_member(to, "comm", comm);
    set_boolean(to, "patched", q->patched);
    set_string(to, "netdev", netdev);
    return to;
}

static void print_json(TapstateQueue **queues, GPtrArray *sockets)
{
    JsonArray *array = json_array_new();
    JsonNode *node = json_node_init_array(json_node_alloc(), array);
    g_autofree char *text = NULL;

    for (TapstateQueue **q = queues; *q; q++) {
        json_array_add_object_element(array,
                                      to_json(*q, netdev_of(sockets, *q)));
    }
    text = json_to_string(node, false);
    puts(text);
    json_node_unref(node);
    json_array_unref(array);
}

static char *number_or_dash(gint64 value, bool known)
{
    return known ? g_strdup_printf("%" G_GINT64_FORMAT, value) :
                   g_strdup("-");
}

static void print_text(TapstateQueue **queues, GPtrArray *sockets)
{
    static const char *const patched[] = { "-", "no", "yes" };
    static const char *const state[] = { "-", "detached", "attached" };
    g_autoptr(GPtrArray) rows = table_new();
    g_autofree char *text = NULL;

    table_add(rows, "device", "type", "queue", "state", "process", "pid", "fd",
              "netns", "patched", "netdev", NULL);
    for (TapstateQueue **p = queues; *p; p++) {
        const TapstateQueue *q = *p;
        const char *netdev = netdev_of(sockets, q), *type = type_of(q);
        g_autofree char *name = printable(q->name, true);
        g_autofree char *comm = printable(q->comm, true);
        g_autofree char *index = number_or_dash(q->index, q->index >= 0);
        g_autofree char *netns = number_or_dash(q->netns, q->netns);
        g_autofree char *pid = number_or_dash(q->pid, true);
        g_autofree char *fd = number_or_dash(q->fd, true);

        table_add(rows, *name ? name : "-", type ? type : "-", index,
                  state[q->attached + 1], comm, pid, fd, netns,
                  patched[q->patched + 1], netdev ? netdev : "-", NULL);
    }
    text = table_text(rows, 10);
    fputs(text, stdout);
}

static int by_device(const void *a, const void *b)
{
    const TapstateQueue *x = *(TapstateQueue *const *)a;
    const TapstateQueue *y = *(TapstateQueue *const *)b;
    int order = strcmp(x->name, y->name);

    if (!order) {
        order = (x->netns > y->netns) - (x->netns < y->netns);
    }
    if (!order) {
        order = y->attached - x->attached;
    }
    if (!order) {
        order = x->index - y->index;
    }
    return order ? order : x->pid - y->pid;
}

static bool read_sockets(char **paths, GPtrArray *sockets, GError **errp)
{
    for (char **p = paths; p && *p; p++) {
        Netdevs *netdevs = netdevs_read(*p, errp);

        if (!netdevs) {
            return false;
        }
        g_ptr_array_add(sockets, netdevs);
    }
    return true;
}

int cmd_list(int argc, char **argv, const char *usage)
{
    gboolean json = false;
    g_auto(GStrv) qmp = NULL;
    const GOptionEntry entries[] = {
        { "json", 'j', 0, G_OPTION_ARG_NONE, &json, "print JSON", NULL },
        { "qmp", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &qmp,
          "ask this QEMU for the ids of its netdevs; may be repeated",
          "SOCKET" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(GPtrArray) sockets =
        g_ptr_array_new_with_free_func((GDestroyNotify)netdevs_free);
    TapstateQueue **queues;
    unsigned int closed;
    GError *err = NULL;
    guint n;

    if (!parse_options(&argc, &argv, entries, usage)) {
        return STATUS_ERROR;
    }
    if (argc != 1) {
        return fail_usage("list takes no device", usage);
    }
    queues = read_sockets(qmp, sockets, &err) ?
             tapstate_list(0, &closed, &err) : NULL;
    if (!queues) {
        return fail(err);
    }
    for (n = 0; n < sockets->len; n++) {
        netdevs_match(sockets->pdata[n], 0, queues);
    }
    for (n = 0; queues[n]; n++) {
    }
    qsort(queues, n, sizeof(*queues), by_device);
    (json ? print_json : print_text)(queues, sockets);
    if (closed) {
        fprintf(stderr, "tapstate: processes closed to you: %u; run as root "
                "or with CAP_SYS_PTRACE to see their queues, too\n", closed);
    }
    tapstate_list_free(queues);
    return STATUS_OK;
}
