// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Ask a QEMU for the ids of its netdevs, by QMP
 */
#include <string.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>

#include "command.h"

#define TIMEOUT 5 /* seconds */

struct Netdevs {
    int pid;
    char *info; /* of "info network" */
};

void netdevs_free(Netdevs *netdevs)
{
    g_free(netdevs->info);
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

/* Skip events; return NULL for all that is not QMP */
static JsonObject *read_answer(GDataInputStream *in, const char *member,
                               GError **errp)
{
    for (int n = 0; n < 1000; n++) {
        g_autofree char *line = g_data_input_stream_read_line(in, NULL, NULL,
                                                              errp);
        g_autoptr(JsonNode) node = line ? json_from_string(line, NULL) : NULL;

        if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
            return NULL;
        }
        if (json_object_has_member(json_node_get_object(node), member)) {
            return json_object_ref(json_node_get_object(node));
        }
        if (!json_object_has_member(json_node_get_object(node), "event")) {
            return NULL;
        }
    }
    return NULL;
}

static JsonObject *command(GIOStream *stream, GDataInputStream *in,
                           const char *text, GError **errp)
{
    return g_output_stream_write_all(g_io_stream_get_output_stream(stream),
                                     text, strlen(text), NULL, NULL, errp) ?
           read_answer(in, "return", errp) : NULL;
}

static char *read_info(GSocketConnection *connection, GError **errp)
{
    GIOStream *stream = G_IO_STREAM(connection);
    g_autoptr(GDataInputStream) in =
        g_data_input_stream_new(g_io_stream_get_input_stream(stream));
    g_autoptr(JsonObject) greeting = NULL, ready = NULL, answer = NULL;

    g_data_input_stream_set_newline_type(in, G_DATA_STREAM_NEWLINE_TYPE_ANY);
    greeting = read_answer(in, "QMP", errp);
    ready = greeting ? command(stream, in,
                               "{'execute': 'qmp_capabilities'}\n", errp) :
                       NULL;
    answer = ready ? command(stream, in,
                             "{'execute': 'human-monitor-command', "
                             "'arguments': {'command-line': 'info network'}}\n",
                             errp) : NULL;
    return answer ? g_strdup(json_object_get_string_member_with_default(
                        answer, "return", "")) : NULL;
}

Netdevs *netdevs_read(const char *path, GError **errp)
{
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GSocketConnection) connection = NULL;
    g_autoptr(GCredentials) peer = NULL;
    g_autoptr(GError) err = NULL;
    g_autofree char *info = NULL;
    Netdevs *netdevs;

    g_socket_client_set_timeout(client, TIMEOUT);
    connection = g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address),
                                         NULL, &err);
    info = connection ? read_info(connection, &err) : NULL;
    if (!info) {
        fail_qmp(errp, path, err);
        return NULL;
    }
    peer = g_socket_get_credentials(g_socket_connection_get_socket(connection),
                                    NULL);
    netdevs = g_new0(Netdevs, 1);
    netdevs->pid = peer ? g_credentials_get_unix_pid(peer, NULL) : 0;
    netdevs->info = g_steal_pointer(&info);
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

const char *netdevs_find(const Netdevs *netdevs, const TapstateQueue *q)
{
    g_autofree char *fd = g_strdup_printf("%d", q->fd);
    g_autofree char *id = NULL;

    if (q->pid != netdevs->pid) {
        return NULL;
    }
    id = netdevs_parse(netdevs->info, "fd", fd);
    if (!id && *q->name) {
        id = netdevs_parse(netdevs->info, "ifname", q->name);
    }
    return id ? g_intern_string(id) : NULL;
}
