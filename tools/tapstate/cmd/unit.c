// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The systemd unit that a process belongs to
 */
#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

#define NOTIFY_SECONDS 10
/* QEMU has it in $NOTIFY_SOCKET only if its unit had NotifyAccess= at its start */
#define NOTIFY_SOCKET "NOTIFY_SOCKET=/run/systemd/notify"

/* Path in the hierarchy of systemd: lines are "HIERARCHY:CONTROLLERS:PATH" */
static char *cgroup_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cgroup", (int)pid);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return NULL;
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        g_auto(GStrv) part = g_strsplit(*line, ":", 3);

        if (g_strv_length(part) == 3 &&
            (!*part[1] || !strcmp(part[1], "name=systemd"))) {
            return g_strdup(part[2]);
        }
    }
    return NULL;
}

char *unit_of(pid_t pid)
{
    g_autofree char *cgroup = cgroup_of(pid);
    g_auto(GStrv) parts = g_strsplit(cgroup ? cgroup : "", "/", -1);

    for (char **part = parts; *part; part++) {
        if (g_str_has_prefix(*part, "user@")) {
            return NULL;
        }
        if (g_str_has_suffix(*part, ".service")) {
            return g_strdup(*part);
        }
    }
    return NULL;
}

bool unit_main(const char *unit, pid_t pid, char **notify_access)
{
    g_autoptr(GSubprocess) show =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE |
                         G_SUBPROCESS_FLAGS_STDERR_SILENCE, NULL, "systemctl",
                         "show", "--property=MainPID",
                         "--property=NotifyAccess", "--", unit, NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    bool main = false;

    if (!show || !g_subprocess_communicate_utf8(show, NULL, NULL, &text, NULL,
                                                NULL)) {
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        const char *value = strchr(*line, '=');

        if (g_str_has_prefix(*line, "MainPID=")) {
            main = atoi(value + 1) == pid;
        } else if (g_str_has_prefix(*line, "NotifyAccess=")) {
            g_free(*notify_access);
            *notify_access = g_strdup(value + 1);
        }
    }
    return main;
}

bool unit_notify(const Process *before, pid_t now)
{
    g_autofree char *pid = g_strdup_printf("--pid=%d", (int)now);
    g_autofree char *unit = unit_of(before->pid);
    g_autofree char *access = NULL;
    char *argv[] = { (char *)"/usr/bin/env", (char *)NOTIFY_SOCKET,
                     (char *)"/usr/bin/systemd-notify", pid, NULL };
    bool known = g_environ_getenv(before->envp, "NOTIFY_SOCKET");
    g_autoptr(Process) notify = NULL;

    if (!known && (!unit || !unit_main(unit, before->pid, &access))) {
        return true;
    }
    notify = process_launch(before, known ? argv + 2 : argv, false, -1, NULL);
    /* It waits until systemd has read the message. */
    return notify && process_wait(notify, NOTIFY_SECONDS);
}
