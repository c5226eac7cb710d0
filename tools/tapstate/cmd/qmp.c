// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Ask a QEMU for the ids of its netdevs, by QMP
 */
#include <string.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>

#include "command.h"

#define TIMEOUT 5 /* seconds, for all answers together */
#define MAX_LINE (4 << 20)

struct Netdevs {
    int pid;
    char *info; /* of "info network" */
    JsonObject *states; /* answer of query-tap-state; stock QEMU has none */
    const TapstateQueue *other; /* a queue of the device that is left, */
    char *other_id; /* and its netdev */
};

/* Connection to a server that need not be QMP */
typedef struct Server {
    GSocket *socket;
    gint64 deadline;
    GString *text; /* received, and not read yet */
} Server;

void netdevs_free(Netdevs *netdevs)
{
    if (netdevs->states) {
        json_object_unref(netdevs->states);
    }
    g_free(netdevs->info);
    g_free(netdevs->other_id);
    g_free(netdevs);
}

static void fail_qmp(GError **errp, const char *path, const GError *why)
{
    bool late = g_error_matches(why, G_IO_ERROR, G_IO_ERROR_TIMED_OUT) ||
                g_error_matches(why, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK);

    g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "%s: %s; %s", path,
                late ? "no answer of a QMP server" :
                why ? why->message : "not a QMP server",
                late ? "another client may be connected: disconnect it, or use "
                       "another -qmp socket" :
                "use the socket of QEMU's option -qmp");
}

static bool receive(Server *server, GError **errp)
{
    gint64 left = server->deadline - g_get_monotonic_time();
    char buffer[4096];
    gssize n;

    if (left <= 0) {
        g_set_error(errp, G_IO_ERROR, G_IO_ERROR_TIMED_OUT, "no answer");
        return false;
    }
    if (!g_socket_condition_timed_wait(server->socket, G_IO_IN, left, NULL,
                                       errp)) {
        return false;
    }
    n = g_socket_receive(server->socket, buffer, sizeof(buffer), NULL, errp);
    if (n > 0) {
        g_string_append_len(server->text, buffer, n);
    }
    return n > 0;
}

/* Return NULL without an error at the end, and for a line that is too long */
static char *read_line(Server *server, GError **errp)
{
    const char *end;
    gsize searched = 0, len;
    char *line;

    while (!(end = memchr(server->text->str + searched, '\n',
                          server->text->len - searched))) {
        searched = server->text->len;
        if (searched > MAX_LINE || !receive(server, errp)) {
            return NULL;
        }
    }
    len = end - server->text->str;
    line = g_strndup(server->text->str, len);
    g_string_erase(server->text, 0, len + 1);
    return line;
}

/* Skip events; return NULL for all that is not QMP */
static JsonObject *read_answer(Server *server, const char *member,
                               GError **errp)
{
    for (;;) {
        g_autofree char *line = read_line(server, errp);
        g_autoptr(JsonNode) node = line ? json_from_string(line, NULL) : NULL;
        JsonObject *answer;

        if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
            return NULL;
        }
        answer = json_node_get_object(node);
        if (json_object_has_member(answer, member) ||
            json_object_has_member(answer, "error")) {
            return json_object_ref(answer);
        }
        if (!json_object_has_member(answer, "event")) {
            return NULL;
        }
    }
}

/* The answer may be an error */
static JsonObject *command(Server *server, const char *text, GError **errp)
{
    gssize len = strlen(text);

    return g_socket_send(server->socket, text, len, NULL, errp) == len ?
           read_answer(server, "return", errp) : NULL;
}

static const char *string_member(JsonObject *from, const char *member)
{
    JsonNode *node = json_object_get_member(from, member);

    return node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) :
                                                 NULL;
}

/* Ask for the netdevs, and where QEMU is patched, for their devices */
static bool ask(Server *server, Netdevs *netdevs, GError **errp)
{
    g_autoptr(JsonObject) greeting = NULL, ready = NULL, info = NULL;

    greeting = read_answer(server, "QMP", errp);
    ready = greeting ? command(server, "{'execute': 'qmp_capabilities'}\n",
                               errp) : NULL;
    info = ready ? command(server,
                           "{'execute': 'human-monitor-command', "
                           "'arguments': {'command-line': 'info network'}}\n",
                           errp) : NULL;
    netdevs->info = g_strdup(info ? string_member(info, "return") : NULL);
    netdevs->states = netdevs->info ?
                      command(server, "{'execute': 'query-tap-state'}\n",
                              errp) : NULL;
    return netdevs->states;
}

Netdevs *netdevs_read(const char *path, GError **errp)
{
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GSocketConnection) connection = NULL;
    g_autoptr(GCredentials) peer = NULL;
    g_autoptr(GError) err = NULL;
    Netdevs *netdevs = g_new0(Netdevs, 1);
    Server server = {
        .deadline = g_get_monotonic_time() + TIMEOUT * G_USEC_PER_SEC,
    };
    bool ok;

    g_socket_client_set_timeout(client, TIMEOUT);
    connection = g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address),
                                         NULL, &err);
    server.socket = connection ? g_socket_connection_get_socket(connection) :
                                 NULL;
    server.text = g_string_new(NULL);
    ok = connection && ask(&server, netdevs, &err);
    g_string_free(server.text, true);
    if (!ok) {
        fail_qmp(errp, path, err);
        netdevs_free(netdevs);
        return NULL;
    }
    peer = g_socket_get_credentials(server.socket, NULL);
    netdevs->pid = peer ? g_credentials_get_unix_pid(peer, NULL) : 0;
    return netdevs;
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

/* Return the id in an answer of query-tap-state */
const char *netdevs_of_states(JsonObject *answer, const char *name)
{
    JsonNode *node = json_object_get_member(answer, "return");
    JsonArray *array = node && JSON_NODE_HOLDS_ARRAY(node) ?
                       json_node_get_array(node) : NULL;

    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonNode *state = json_array_get_element(array, i);

        if (JSON_NODE_HOLDS_OBJECT(state)) {
            JsonObject *tap = json_node_get_object(state);

            if (!g_strcmp0(string_member(tap, "ifname"), name)) {
                return string_member(tap, "id");
            }
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
void netdevs_match(Netdevs *netdevs, TapstateQueue *const *queues)
{
    const TapstateQueue *other = NULL;

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
