// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Ask a QEMU for the ids of its netdevs
 */
#include <string.h>

#include "command.h"
#include "qmp.h"

struct Netdevs {
    int pid;
    char *info; /* of "info network" */
    JsonArray *states; /* answer of query-tap-state; stock QEMU has none */
    const TapstateQueue *other; /* a queue of the device that is left, */
    char *other_id; /* and its netdev */
};

void netdevs_free(Netdevs *netdevs)
{
    if (netdevs->states) {
        json_array_unref(netdevs->states);
    }
    g_free(netdevs->info);
    g_free(netdevs->other_id);
    g_free(netdevs);
}

/* Ask for the netdevs, and where QEMU is patched, for their devices */
Netdevs *netdevs_ask(Qmp *qmp, GError **errp)
{
    JsonObject *args = json_object_new();
    g_autoptr(JsonNode) info = NULL;
    g_autoptr(GError) err = NULL;
    Netdevs *netdevs;

    json_object_set_string_member(args, "command-line", "info network");
    info = qmp_run(qmp, "human-monitor-command", args, errp);
    if (!info) {
        return NULL;
    }
    netdevs = g_new0(Netdevs, 1);
    netdevs->pid = qmp_pid(qmp);
    netdevs->info = g_strdup(JSON_NODE_HOLDS_VALUE(info) ?
                             json_node_get_string(info) : NULL);
    if (!netdevs->info) {
        netdevs->info = g_strdup("");
    }
    netdevs->states = qmp_list(qmp, "query-tap-state", NULL, &err);
    if (err && err->code == QMP_ERROR_CONNECTION) {
        g_propagate_error(errp, g_steal_pointer(&err));
        netdevs_free(netdevs);
        return NULL;
    }
    return netdevs;
}

Netdevs *netdevs_read(const char *path, GError **errp)
{
    g_autoptr(Qmp) qmp = qmp_open(path, errp);

    return qmp ? netdevs_ask(qmp, errp) : NULL;
}

/* Return the id in a line like " \ hn0: index=0,type=tap,ifname=tap0,..." */
char *netdevs_parse(const char *info, const char *key, const char *value)
{
    g_auto(GStrv) lines = g_strsplit_set(info, "\r\n", -1);
    g_autofree char *wanted = g_strdup_printf(",%s=%s,", key, value);

    for (char **l = lines; *l; l++) {
        const char *type = strstr(*l, ": index=");
        g_autofree char *args = type ? g_strdup_printf("%s,", type) : NULL;
        const char *id = *l + strspn(*l, " \\");

        if (args && strstr(args, ",type=tap,") && strstr(args, wanted)) {
            return g_strndup(id, type - id);
        }
    }
    return NULL;
}

/* Return the id of the only tap that names neither device nor descriptor */
char *netdevs_parse_other(const char *info)
{
    g_auto(GStrv) lines = g_strsplit_set(info, "\r\n", -1);
    g_autofree char *found = NULL;

    for (char **l = lines; *l; l++) {
        const char *type = strstr(*l, ": index=");
        const char *id = *l + strspn(*l, " \\");

        if (!type || !strstr(type, ",type=tap,") ||
            strstr(type, ",ifname=") || strstr(type, ",fd=")) {
            continue;
        }
        (*l)[type - *l] = 0;
        if (found && strcmp(found, id)) {
            return NULL;
        }
        g_free(found);
        found = g_strdup(id);
    }
    return g_steal_pointer(&found);
}

/* Queues of a netdev follow each other, and NICs have its id, too */
char **netdevs_ids(const Netdevs *netdevs)
{
    g_auto(GStrv) lines = g_strsplit_set(netdevs->info, "\r\n", -1);
    g_autoptr(GStrvBuilder) ids = g_strv_builder_new();
    g_autofree char *last = NULL;

    for (char **l = lines; *l; l++) {
        char *type = strstr(*l, ": index=");
        const char *id = *l + strspn(*l, " \\");

        if (!type || strstr(type, ",type=nic,") ||
            strstr(type, ",type=hubport")) {
            continue;
        }
        *type = 0;
        if (g_strcmp0(last, id)) {
            g_strv_builder_add(ids, id);
            g_free(last);
            last = g_strdup(id);
        }
    }
    return g_strv_builder_end(ids);
}

/* Return the id in an answer of query-tap-state, or NULL */
const char *netdevs_of_states(JsonArray *states, const char *name)
{
    for (guint i = 0; states && i < json_array_get_length(states); i++) {
        JsonObject *tap = array_object(states, i);

        if (tap && !g_strcmp0(member_string(tap, "ifname"), name)) {
            return member_string(tap, "id");
        }
    }
    return NULL;
}

static const char *find_named(const Netdevs *netdevs, const TapstateQueue *q)
{
    g_autofree char *fd = g_strdup_printf("%d", q->fd);
    g_autofree char *id = netdevs_parse(netdevs->info, "fd", fd);
    const char *state = *q->name ?
                        netdevs_of_states(netdevs->states, q->name) : NULL;

    if (!id && *q->name) {
        id = state ? g_strdup(state) :
                     netdevs_parse(netdevs->info, "ifname", q->name);
    }
    return id ? g_intern_string(id) : NULL;
}

static bool same_device(const TapstateQueue *a, const TapstateQueue *b)
{
    return *a->name && a->netns == b->netns && a->ifindex == b->ifindex &&
           !strcmp(a->name, b->name);
}

/*
 * If only one device and only one netdev are left, they belong together. QEMU
 * does not say which device a helper has opened.
 */
void netdevs_match(Netdevs *netdevs, int pid, TapstateQueue *const *queues)
{
    const TapstateQueue *other = NULL;

    netdevs->pid = pid ? pid : netdevs->pid;
    for (; *queues; queues++) {
        const TapstateQueue *q = *queues;

        if (q->pid != netdevs->pid || find_named(netdevs, q)) {
            continue;
        }
        if (!same_device(other ? other : q, q)) {
            return;
        }
        other = q;
    }
    netdevs->other = other;
    netdevs->other_id = netdevs_parse_other(netdevs->info);
}

const char *netdevs_find(const Netdevs *netdevs, const TapstateQueue *q)
{
    const char *id;

    if (q->pid != netdevs->pid) {
        return NULL;
    }
    id = find_named(netdevs, q);
    return id || !netdevs->other || !same_device(netdevs->other, q) ? id :
                                                            netdevs->other_id;
}
