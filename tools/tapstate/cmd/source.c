// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is known of the QEMU that runs the guest
 */
#include <stdlib.h>
#include <string.h>

#include "cmdline.h"
#include "source.h"

void source_close(Source *source)
{
    g_clear_pointer(&source->qmp, qmp_close);
    g_clear_pointer(&source->process, process_free);
    g_clear_pointer(&source->options, g_ptr_array_unref);
    g_clear_pointer(&source->queues, tapstate_list_free);
    g_clear_pointer(&source->netdevs, netdevs_free);
    g_clear_pointer(&source->tap_states, json_array_unref);
    g_free(source->socket);
    g_free(source->machine);
    g_free(source->status);
    g_free(source);
}

JsonObject *source_tap_state(const Source *source, const char *id)
{
    for (guint i = 0; source->tap_states &&
         i < json_array_get_length(source->tap_states); i++) {
        JsonObject *tap = array_object(source->tap_states, i);

        if (tap && !g_strcmp0(member_string(tap, "id"), id)) {
            return tap;
        }
    }
    return NULL;
}

/* The machine of the command line may be an alias, which moves on */
static char *read_machine(Qmp *qmp, GError **errp)
{
    JsonObject *args = json_object_new();
    g_autoptr(JsonNode) type = NULL;
    const char *text;

    json_object_set_string_member(args, "path", "/machine");
    json_object_set_string_member(args, "property", "type");
    type = qmp_run(qmp, "qom-get", args, errp);
    if (!type) {
        return NULL;
    }
    text = JSON_NODE_HOLDS_VALUE(type) ? json_node_get_string(type) : NULL;
    if (!text || !g_str_has_suffix(text, "-machine")) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "QEMU does not tell its machine type; is this QEMU?");
        return NULL;
    }
    return g_strndup(text, strlen(text) - strlen("-machine"));
}

static bool read_qmp(Source *source, GError **errp)
{
    g_autoptr(JsonObject) status = NULL;
    g_autoptr(GError) err = NULL;

    status = qmp_query(source->qmp, "query-status", NULL, errp);
    source->machine = status ? read_machine(source->qmp, errp) : NULL;
    source->netdevs = source->machine ? netdevs_ask(source->qmp, errp) : NULL;
    if (!source->netdevs) {
        return false;
    }
    source->status = g_strdup(member_string(status, "status"));
    source->tap_states = qmp_list(source->qmp, "query-tap-state", NULL, &err);
    return true;
}

/* libvirt, for example, makes the socket, and gives it to QEMU */
static bool check_process(const Source *source, bool named, GError **errp)
{
    g_autofree char *name = g_path_get_basename(source->process->exe);

    if (named || strstr(name, "qemu") || strstr(name, "kvm")) {
        return true;
    }
    g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                "%s: process %d (%s), which made this socket, is not QEMU; name "
                "the process of QEMU with --pid", source->socket,
                (int)source->process->pid, name);
    return false;
}

Source *source_open(const char *socket, pid_t pid, GError **errp)
{
    g_autoptr(Source) source = g_new0(Source, 1);
    unsigned int closed;

    source->socket = g_strdup(socket);
    source->qmp = qmp_open(socket, errp);
    if (!source->qmp) {
        return NULL;
    }
    source->process = process_open(pid ? pid : qmp_pid(source->qmp), errp);
    if (!source->process || !check_process(source, pid, errp) ||
        !read_qmp(source, errp)) {
        return NULL;
    }
    source->options = cmdline_parse(source->process->argv);
    source->queues = tapstate_list(source->process->pid, &closed, errp);
    if (!source->queues) {
        return NULL;
    }
    netdevs_match(source->netdevs, source->process->pid, source->queues);
    return g_steal_pointer(&source);
}

/* QEMU opens the queues of a netdev one after the other */
static int by_fd(const void *a, const void *b)
{
    const TapstateQueue *x = *(TapstateQueue *const *)a;
    const TapstateQueue *y = *(TapstateQueue *const *)b;

    return x->fd - y->fd;
}

/* Where all are attached, the kernel knows their order */
static int by_index(const void *a, const void *b)
{
    const TapstateQueue *x = *(TapstateQueue *const *)a;
    const TapstateQueue *y = *(TapstateQueue *const *)b;

    return x->index - y->index;
}

static TapstateQueue *find_fd(const Source *source, const char *fd)
{
    for (TapstateQueue **q = source->queues; *q; q++) {
        g_autofree char *text = g_strdup_printf("%d", (*q)->fd);

        if (!strcmp(text, fd)) {
            return *q;
        }
    }
    return NULL;
}

/* Take the order of "fd=" and "fds=" if these are numbers of its queues */
static bool add_named(const Source *source, const char *fds, GPtrArray *found)
{
    g_auto(GStrv) names = g_strsplit(fds, ":", -1);

    for (char **name = names; *name; name++) {
        TapstateQueue *q = find_fd(source, *name);

        if (!q) {
            g_ptr_array_set_size(found, 0);
            return false;
        }
        g_ptr_array_add(found, q);
    }
    return true;
}

TapstateQueue **source_queues(const Source *source, const char *id,
                              const char *fds)
{
    GPtrArray *found = g_ptr_array_new();
    bool known = true;

    if (!fds || !add_named(source, fds, found)) {
        for (TapstateQueue **q = source->queues; *q; q++) {
            if (!g_strcmp0(netdevs_find(source->netdevs, *q), id)) {
                g_ptr_array_add(found, *q);
                known &= (*q)->patched > 0 && (*q)->attached > 0;
            }
        }
        if (found->len) {
            qsort(found->pdata, found->len, sizeof(*found->pdata),
                  known ? by_index : by_fd);
        }
    }
    g_ptr_array_add(found, NULL);
    return (TapstateQueue **)g_ptr_array_free(found, false);
}

/* Path of a server socket in "-qmp unix:PATH,server=on", or NULL */
static char *path_of_qmp(const char *value)
{
    g_auto(Props) props = { 0 };

    if (!g_str_has_prefix(value, "unix:")) {
        return NULL;
    }
    props = props_parse(value + strlen("unix:"), "path");
    return props_is(&props, "server", "on") ? props_get(&props, "path") : NULL;
}

/* Path of the server socket of a chardev, or NULL */
static char *path_of_chardev(const Process *process, GPtrArray *options,
                             const char *id)
{
    for (guint i = 0; i < options->len; i++) {
        const Option *o = options->pdata[i];
        g_auto(Props) props = { 0 };

        if (g_strcmp0(o->name, "chardev") || !o->value) {
            continue;
        }
        props = props_parse(o->value, "backend");
        if (props_is(&props, "id", id)) {
            g_autofree char *fd = props_get(&props, "fd");

            return fd ? process_socket_path(process, fd) :
                        props_get(&props, "path");
        }
    }
    return NULL;
}

static char *path_of_mon(const Process *process, GPtrArray *options,
                         const char *value)
{
    g_auto(Props) props = props_parse(value, "chardev");
    g_autofree char *id = props_get(&props, "chardev");

    return id && props_is(&props, "mode", "control") ?
           path_of_chardev(process, options, id) : NULL;
}

char *source_find_socket(pid_t pid, GError **errp)
{
    g_autoptr(Process) process = process_open(pid, errp);
    g_autoptr(GPtrArray) options = process ? cmdline_parse(process->argv) :
                                             NULL;
    g_autofree char *path = NULL, *moved = NULL, *there = NULL;

    for (guint i = 0; options && !path && i < options->len; i++) {
        const Option *o = options->pdata[i];

        if (o->value && !g_strcmp0(o->name, "qmp")) {
            path = path_of_qmp(o->value);
        } else if (o->value && !g_strcmp0(o->name, "mon")) {
            path = path_of_mon(process, options, o->value);
        }
    }
    if (!process) {
        return NULL;
    }
    if (!path) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "process %d: its command line has no QMP socket with a "
                    "path; name one with --qmp", (int)pid);
        return NULL;
    }
    moved = unsuffixed(path);
    there = process_path(process, moved);
    return g_file_test(there, G_FILE_TEST_EXISTS) ?
           g_strdup_printf("/proc/%d/%s/%s", (int)pid,
                           *moved == '/' ? "root" : "cwd", moved) :
           g_strdup_printf("/proc/%d/%s/%s", (int)pid,
                           *path == '/' ? "root" : "cwd", path);
}
