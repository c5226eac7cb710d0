// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A client of QMP
 *
 * The server need not be QEMU, and QEMU may hang: each answer has a deadline
 * and a largest size.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <gio/gunixsocketaddress.h>

#include "qmp.h"

#define GREETING_TIMEOUT 5 /* seconds */
#define ANSWER_TIMEOUT 60
#define MAX_LINE (4 << 20)
#define MAX_EVENTS 10000

struct Qmp {
    char *path;
    GSocket *socket;
    gint64 deadline;
    GString *text; /* received, and not read yet */
    GQueue events;
    gint64 id; /* of the last command */
    bool closed;
    int pid;
};

G_DEFINE_QUARK(tapstate-qmp-error-quark, qmp_error)

void qmp_close(Qmp *qmp)
{
    g_clear_object(&qmp->socket);
    g_queue_clear_full(&qmp->events, (GDestroyNotify)json_object_unref);
    g_string_free(qmp->text, true);
    g_free(qmp->path);
    g_free(qmp);
}

int qmp_pid(const Qmp *qmp)
{
    return qmp->pid;
}

int qmp_fd(const Qmp *qmp)
{
    return g_socket_get_fd(qmp->socket);
}

bool qmp_is_closed(const Qmp *qmp)
{
    return qmp->closed;
}

static void set_timeout(Qmp *qmp, int seconds)
{
    qmp->deadline = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
}

/* Wait @left us. Return false without an error at the end */
static bool receive_within(Qmp *qmp, gint64 left, GError **errp)
{
    char buffer[65536];
    gssize n;

    if (!g_socket_condition_timed_wait(qmp->socket, G_IO_IN, left, NULL,
                                       errp)) {
        return false;
    }
    n = g_socket_receive(qmp->socket, buffer, sizeof(buffer), NULL, errp);
    if (n <= 0) {
        qmp->closed = true;
        return false;
    }
    g_string_append_len(qmp->text, buffer, n);
    return true;
}

/* A server that sends without end is late, too */
static bool receive(Qmp *qmp, GError **errp)
{
    gint64 left = qmp->deadline - g_get_monotonic_time();

    if (left <= 0) {
        g_set_error(errp, G_IO_ERROR, G_IO_ERROR_TIMED_OUT, "no answer");
        return false;
    }
    return receive_within(qmp, left, errp);
}

/* Return a line that has been received as a whole, or NULL */
static char *take_line(Qmp *qmp)
{
    const char *end = memchr(qmp->text->str, '\n', qmp->text->len);
    char *line;
    gsize len;

    if (!end) {
        return NULL;
    }
    len = end - qmp->text->str;
    line = g_strndup(qmp->text->str, len);
    g_string_erase(qmp->text, 0, len + 1);
    return line;
}

/* Return NULL without an error at the end, and for a line that is too long */
static char *read_line(Qmp *qmp, GError **errp)
{
    for (;;) {
        char *line = take_line(qmp);

        if (line) {
            return line;
        }
        if (qmp->text->len > MAX_LINE || !receive(qmp, errp)) {
            return NULL;
        }
    }
}

static JsonObject *parse_line(const char *line)
{
    g_autoptr(JsonNode) node = json_from_string(line, NULL);

    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_dup_object(node) :
                                                  NULL;
}

static bool keep_event(Qmp *qmp, JsonObject *message)
{
    if (!json_object_has_member(message, "event")) {
        return false;
    }
    if (g_queue_get_length(&qmp->events) == MAX_EVENTS) {
        json_object_unref(g_queue_pop_head(&qmp->events));
    }
    g_queue_push_tail(&qmp->events, json_object_ref(message));
    return true;
}

/* The answer of a command that was given up may still come */
static bool is_late(const Qmp *qmp, JsonObject *message)
{
    return json_object_has_member(message, "id") &&
           member_int(message, "id") != qmp->id;
}

/* Return NULL for all that is not QMP */
static JsonObject *read_message(Qmp *qmp, const char *member, GError **errp)
{
    for (;;) {
        g_autofree char *line = read_line(qmp, errp);
        g_autoptr(JsonObject) message = line ? parse_line(line) : NULL;

        if (message && (json_object_has_member(message, member) ||
                        json_object_has_member(message, "error"))) {
            if (is_late(qmp, message)) {
                continue;
            }
            return g_steal_pointer(&message);
        }
        if (!message || !keep_event(qmp, message)) {
            return NULL;
        }
    }
}

JsonObject *qmp_next_event(Qmp *qmp)
{
    g_autofree char *line = NULL;

    while (!qmp->closed && qmp->text->len <= MAX_LINE &&
           receive_within(qmp, 0, NULL)) {
    }
    while ((line = take_line(qmp))) {
        g_autoptr(JsonObject) message = parse_line(line);

        if (message) {
            keep_event(qmp, message);
        }
        g_clear_pointer(&line, g_free);
    }
    return g_queue_pop_head(&qmp->events);
}

const char *member_string(JsonObject *from, const char *member)
{
    JsonNode *node = json_object_get_member(from, member);

    return node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) :
                                                 NULL;
}

JsonObject *member_object(JsonObject *from, const char *member)
{
    JsonNode *node = json_object_get_member(from, member);

    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) :
                                                  NULL;
}

gint64 member_int(JsonObject *from, const char *member)
{
    JsonNode *node = json_object_get_member(from, member);

    return node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_int(node) : 0;
}

bool member_bool(JsonObject *from, const char *member)
{
    JsonNode *node = json_object_get_member(from, member);

    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_boolean(node);
}

JsonObject *array_object(JsonArray *array, guint i)
{
    JsonNode *node = json_array_get_element(array, i);

    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static void fail_connection(const Qmp *qmp, GError **errp, const GError *why)
{
    bool late = g_error_matches(why, G_IO_ERROR, G_IO_ERROR_TIMED_OUT) ||
                g_error_matches(why, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK);

    g_set_error(errp, QMP_ERROR, QMP_ERROR_CONNECTION, "%s: %s; %s", qmp->path,
                late ? "no answer of a QMP server" :
                why ? why->message : "not a QMP server",
                late ? "another client may be connected: disconnect it, or use "
                       "another -qmp socket" :
                "use the socket of QEMU's option -qmp");
}

static bool send_command(Qmp *qmp, const char *command, JsonObject *args,
                         GError **errp)
{
    g_autoptr(JsonObject) object = json_object_new();
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    g_autofree char *text = NULL, *line = NULL;
    gsize len, sent = 0;

    json_object_set_string_member(object, "execute", command);
    json_object_set_int_member(object, "id", ++qmp->id);
    if (args) {
        json_object_set_object_member(object, "arguments", args);
    }
    text = json_to_string(node, false);
    line = g_strconcat(text, "\n", NULL);
    len = strlen(line);
    while (sent < len) {
        gssize n = g_socket_send(qmp->socket, line + sent, len - sent, NULL,
                                 errp);

        if (n <= 0) {
            qmp->closed = true;
            return false;
        }
        sent += n;
    }
    return true;
}

JsonNode *qmp_run(Qmp *qmp, const char *command, JsonObject *args,
                  GError **errp)
{
    g_autoptr(JsonObject) answer = NULL;
    g_autoptr(GError) err = NULL;
    JsonObject *error;

    set_timeout(qmp, ANSWER_TIMEOUT);
    if (send_command(qmp, command, args, &err)) {
        answer = read_message(qmp, "return", &err);
    }
    if (!answer && qmp->closed) {
        g_set_error(errp, QMP_ERROR, QMP_ERROR_CONNECTION,
                    "%s: QEMU has closed the connection", qmp->path);
        return NULL;
    }
    if (!answer) {
        fail_connection(qmp, errp, err);
        return NULL;
    }
    error = member_object(answer, "error");
    if (error) {
        const char *desc = member_string(error, "desc");

        g_set_error(errp, QMP_ERROR, QMP_ERROR_ANSWER, "%s: %s", command,
                    desc ? desc : "failed");
        return NULL;
    }
    return json_node_copy(json_object_get_member(answer, "return"));
}

bool qmp_do(Qmp *qmp, const char *command, JsonObject *args, GError **errp)
{
    g_autoptr(JsonNode) node = qmp_run(qmp, command, args, errp);

    return node;
}

static bool check_type(bool right, const char *command, GError **errp)
{
    if (!right) {
        g_set_error(errp, QMP_ERROR, QMP_ERROR_ANSWER,
                    "%s: the answer has another type", command);
    }
    return right;
}

JsonObject *qmp_query(Qmp *qmp, const char *command, JsonObject *args,
                      GError **errp)
{
    g_autoptr(JsonNode) node = qmp_run(qmp, command, args, errp);

    return node && check_type(JSON_NODE_HOLDS_OBJECT(node), command, errp) ?
           json_node_dup_object(node) : NULL;
}

JsonArray *qmp_list(Qmp *qmp, const char *command, JsonObject *args,
                    GError **errp)
{
    g_autoptr(JsonNode) node = qmp_run(qmp, command, args, errp);

    return node && check_type(JSON_NODE_HOLDS_ARRAY(node), command, errp) ?
           json_node_dup_array(node) : NULL;
}

/* The whole greeting has one deadline, the answers after it each their own */
static bool greet(Qmp *qmp, GError **errp)
{
    g_autoptr(JsonObject) greeting = NULL, ready = NULL;
    g_autoptr(GError) err = NULL;

    set_timeout(qmp, GREETING_TIMEOUT);
    greeting = read_message(qmp, "QMP", &err);
    if (greeting && send_command(qmp, "qmp_capabilities", NULL, &err)) {
        ready = read_message(qmp, "return", &err);
    }
    if (!ready || json_object_has_member(ready, "error")) {
        fail_connection(qmp, errp, err);
        return false;
    }
    return true;
}

static Qmp *qmp_new(const char *path)
{
    Qmp *qmp = g_new0(Qmp, 1);

    qmp->path = g_strdup(path);
    qmp->text = g_string_new(NULL);
    g_queue_init(&qmp->events);
    return qmp;
}

Qmp *qmp_open_fd(int fd, const char *name, GError **errp)
{
    g_autoptr(Qmp) qmp = qmp_new(name);

    qmp->socket = g_socket_new_from_fd(fd, errp);
    if (!qmp->socket) {
        close(fd);
        return NULL;
    }
    return greet(qmp, errp) ? g_steal_pointer(&qmp) : NULL;
}

Qmp *qmp_open(const char *path, GError **errp)
{
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GSocketConnection) connection = NULL;
    g_autoptr(GCredentials) peer = NULL;
    g_autoptr(GError) err = NULL;
    g_autoptr(Qmp) qmp = qmp_new(path);

    g_socket_client_set_timeout(client, GREETING_TIMEOUT);
    connection = g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address),
                                         NULL, &err);
    if (!connection) {
        fail_connection(qmp, errp, err);
        return NULL;
    }
    qmp->socket = g_object_ref(g_socket_connection_get_socket(connection));
    g_socket_set_timeout(qmp->socket, 0);
    peer = g_socket_get_credentials(qmp->socket, NULL);
    qmp->pid = peer ? g_credentials_get_unix_pid(peer, NULL) : 0;
    return greet(qmp, errp) ? g_steal_pointer(&qmp) : NULL;
}
