// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sockets and files of the source: which the target gets, and how
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "plan.h"

static bool same_path(const Source *source, const char *path)
{
    g_autofree char *there = process_path(source->process, path);
    struct stat a, b;

    return stat(source->socket, &a) == 0 && stat(there, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* The QMP socket that the caller uses is that of the target, too */
static void note_qmp(Plan *plan, const char *path, const char *moved)
{
    g_autofree char *base = unsuffixed(path);

    if (!plan->qmp && same_path(plan->source, base)) {
        plan->qmp = g_strdup(moved);
    }
}

/* A server that waits for a client would not let the target start */
static void move_socket(Plan *plan, const char *item, Props *props)
{
    g_autofree char *path = props_get(props, "path");
    g_autofree char *moved = NULL;

    if (!props_is(props, "server", "on")) {
        plan_find(plan, FINDING_NOTE, item, "both QEMUs connect to %s", path);
        return;
    }
    if (props_is(props, "abstract", "on")) {
        plan_find(plan, FINDING_NO, item, "an abstract socket has no file that "
                  "could move; use a path");
        return;
    }
    moved = plan_move(plan, path);
    note_qmp(plan, path, moved);
    props_set(props, "path", moved);
    props_set(props, "wait", "off");
    plan_find(plan, FINDING_OK, item, "socket %s moves when the target runs",
              ((Move *)plan->moves->pdata[plan->moves->len - 1])->to);
}

/* The caller may give the target a port of its own */
static void refuse_port(Plan *plan, const char *item, const Option *option)
{
    if (!option->given) {
        plan_find(plan, FINDING_NO, item, "two processes cannot listen on one "
                  "port; give the target another one by --target-arg '%s=NEW', "
                  "or use a UNIX socket", option->value);
    }
}

/* A socket that another program has bound, such as libvirt: name its path */
static void name_path(const Plan *plan, Props *props)
{
    g_autofree char *fd = props_get(props, "fd");
    const Process *process = plan->source->process;
    g_autofree char *path = fd ? process_socket_path(process, fd) : NULL;

    if (path) {
        props_remove(props, "fd");
        props_set(props, "path", path);
    }
}

static void plan_socket_chardev(Plan *plan, const char *item, Props *props,
                                const Option *option)
{
    name_path(plan, props);
    if (props_has(props, "path")) {
        move_socket(plan, item, props);
    } else if (props_has(props, "fd")) {
        plan_find(plan, FINDING_NO, item, "the target cannot get this file "
                  "descriptor; use a path");
    } else if (props_is(props, "server", "on")) {
        refuse_port(plan, item, option);
    } else {
        plan_find(plan, FINDING_NOTE, item, "both QEMUs connect to it");
    }
}

void plan_chardev(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, "backend");
    g_autofree char *id = props_get(&props, "id");
    g_autofree char *item = g_strdup_printf("chardev %s", id ? id : "");
    g_autofree char *text = NULL;

    if (props_is(&props, "backend", "socket")) {
        plan_socket_chardev(plan, item, &props, option);
    } else if (props_is(&props, "backend", "file")) {
        props_set(&props, "append", "on");
    } else if (props_is(&props, "backend", "udp") &&
               props_has(&props, "localport")) {
        refuse_port(plan, item, option);
    } else if (props_is(&props, "backend", "pty")) {
        plan_find(plan, FINDING_NOTE, item, "the target has another pty");
    }
    if (props_has(&props, "logfile")) {
        props_set(&props, "logappend", "on");
    }
    text = props_text(&props);
    plan_add(plan, option->name, text);
}

/* "-serial file:PATH" truncates the file; a chardev can append */
static void append_file(Plan *plan, const Option *option, const char *path)
{
    g_autofree char *id = g_strdup_printf("tapstate-%s-%u", option->name,
                                          plan->argv->len);
    g_autofree char *chardev = NULL, *value = NULL;
    g_auto(Props) props = props_parse("file", "backend");

    props_set(&props, "id", id);
    props_set(&props, "path", path);
    props_set(&props, "append", "on");
    chardev = props_text(&props);
    value = g_strconcat("chardev:", id, NULL);
    plan_add(plan, "chardev", chardev);
    plan_add(plan, option->name, value);
}

static void character_socket(Plan *plan, const Option *option, gsize prefix)
{
    g_auto(Props) props = props_parse(option->value + prefix, "path");
    g_autofree char *item = g_strconcat("-", option->name, NULL);
    g_autofree char *text = NULL, *value = NULL;

    move_socket(plan, item, &props);
    text = props_text(&props);
    value = g_strdup_printf("%.*s%s", (int)prefix, option->value, text);
    plan_add(plan, option->name, value);
}

/* Devices of one argument, such as "unix:PATH,server=on" and "tcp::4444" */
void plan_character(Plan *plan, const Option *option)
{
    static const char *const ports[] = { "tcp:", "telnet:", "tn3270:",
                                         "websocket:", "udp:", NULL };
    const char *dev = option->value;
    gsize prefix = g_str_has_prefix(dev, "mon:") ? strlen("mon:") : 0;
    g_autofree char *item = g_strconcat("-", option->name, NULL);

    dev += prefix;
    if (g_str_has_prefix(dev, "unix:")) {
        character_socket(plan, option, prefix + strlen("unix:"));
        return;
    }
    if (g_str_has_prefix(dev, "file:") && !prefix) {
        append_file(plan, option, dev + strlen("file:"));
        return;
    }
    for (guint i = 0; ports[i]; i++) {
        if (g_str_has_prefix(dev, ports[i]) &&
            (strstr(dev, ",server") || strchr(dev, '@') ||
             !strcmp(option->name, "gdb"))) {
            refuse_port(plan, item, option);
        }
    }
    if (!strcmp(dev, "pty")) {
        plan_find(plan, FINDING_NOTE, item, "the target has another pty");
    }
    plan_add(plan, option->name, option->value);
}

/* "-vnc DISPLAY,..." and "-display vnc=DISPLAY,..." */
void plan_vnc(Plan *plan, const Option *option)
{
    bool vnc = !strcmp(option->name, "vnc");
    const char *display = vnc ? option->value :
                          g_str_has_prefix(option->value, "vnc=") ?
                          option->value + strlen("vnc=") : NULL;
    g_auto(Props) props = props_parse(display ? display : "", "display");
    g_autofree char *address = props_get(&props, "display");

    if (props_is(&props, "password", "on") &&
        !props_has(&props, "password-secret")) {
        plan_find(plan, FINDING_NOTE, "-vnc", "a password that was set over QMP "
                  "does not move: set it again");
    }
    if (address && g_str_has_prefix(address, "unix:")) {
        g_autofree char *moved = plan_move(plan, address + strlen("unix:"));
        g_autofree char *value = g_strconcat("unix:", moved, NULL);
        g_autofree char *text = NULL;

        props_set(&props, "display", value);
        text = props_text(&props);
        plan_add(plan, "vnc", text);
        return;
    }
    if (address && strcmp(address, "none")) {
        refuse_port(plan, "-vnc", option);
    }
    plan_add(plan, option->name, option->value);
}

void plan_spice(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, NULL);
    g_autofree char *path = props_get(&props, "addr");
    g_autofree char *moved = NULL, *text = NULL;

    if (!props_is(&props, "disable-ticketing", "on") &&
        !props_has(&props, "password-secret")) {
        plan_find(plan, FINDING_NOTE, "-spice", "a password that was set over "
                  "QMP does not move: set it again");
    }
    if (props_has(&props, "port") || props_has(&props, "tls-port")) {
        refuse_port(plan, "-spice", option);
    } else if (props_is(&props, "unix", "on") && path) {
        moved = plan_move(plan, path);
        props_set(&props, "addr", moved);
        text = props_text(&props);
    }
    plan_add(plan, option->name, text ? text : option->value);
}

/* Path of a UNIX socket with a client, as QEMU describes it, or NULL */
static char *path_with_client(JsonObject *chardev)
{
    const char *text = member_string(chardev, "filename");
    g_autofree char *path = NULL;
    char *end;

    if (!text || !g_str_has_prefix(text, "unix:")) {
        return NULL;
    }
    path = g_strdup(text + strlen("unix:"));
    end = strstr(path, ",server");
    if (end) {
        *end = 0;
    }
    return unsuffixed(path);
}

static bool is_monitor(const Plan *plan, const char *id)
{
    for (guint i = 0; i < plan->source->options->len; i++) {
        const Option *o = plan->source->options->pdata[i];
        g_auto(Props) props = { 0 };

        if (g_strcmp0(o->name, "mon") || !o->value) {
            continue;
        }
        props = props_parse(o->value, "chardev");
        if (props_is(&props, "chardev", id) &&
            props_is(&props, "mode", "control")) {
            return true;
        }
    }
    return false;
}

/* libvirt could start a guest a second time that it takes for shut off */
void plan_check_clients(Plan *plan)
{
    g_autoptr(JsonArray) chardevs = qmp_list(plan->source->qmp, "query-chardev",
                                             NULL, NULL);

    for (guint i = 0; chardevs && i < json_array_get_length(chardevs); i++) {
        JsonObject *chardev = array_object(chardevs, i);
        g_autofree char *path = chardev ? path_with_client(chardev) : NULL;

        if (path && is_monitor(plan, member_string(chardev, "label")) &&
            !same_path(plan->source, path)) {
            plan_find(plan, FINDING_NO, "monitor", "a program that uses %s, "
                      "such as libvirt, would take the guest for ended; stop "
                      "it, and use '--qmp %s --pid %d'", path, path,
                      (int)plan->source->process->pid);
        }
    }
}
