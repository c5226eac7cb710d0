// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A QEMU process, as /proc describes it
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "command.h"
#include "process.h"

void process_free(Process *process)
{
    const int fds[] = { process->pidfd, process->root, process->cwd };

    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    g_strfreev(process->argv);
    g_strfreev(process->envp);
    g_free(process->exe);
    g_free(process);
}

static char *proc_path(pid_t pid, const char *file)
{
    return g_strdup_printf("/proc/%d/%s", (int)pid, file);
}

/* Read strings that end in 0 each */
static char **read_strings(pid_t pid, const char *file, GError **errp)
{
    g_autofree char *path = proc_path(pid, file), *text = NULL;
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    gsize len;

    if (!g_file_get_contents(path, &text, &len, errp)) {
        return NULL;
    }
    for (gsize i = 0; i < len; i += strlen(text + i) + 1) {
        g_strv_builder_add(b, text + i);
    }
    return g_strv_builder_end(b);
}

/* Field 22 of stat, after a name that may have any character */
guint64 process_start_time(pid_t pid)
{
    g_autofree char *path = proc_path(pid, "stat"), *text = NULL;
    const char *at;

    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        !(at = strrchr(text, ')'))) {
        return 0;
    }
    for (int field = 2; at && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at ? g_ascii_strtoull(at, NULL, 10) : 0;
}

bool process_runs(pid_t pid, guint64 start)
{
    g_autofree char *path = proc_path(pid, "stat"), *text = NULL;
    const char *at;

    if (!start || process_start_time(pid) != start ||
        !g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    at = strrchr(text, ')');
    return at && at[1] && !strchr("ZX", at[2]);
}

static int open_path(pid_t pid, const char *file)
{
    g_autofree char *path = proc_path(pid, file);

    return open(path, O_PATH | O_CLOEXEC);
}

/*
 * The path of a binary that a package has replaced names the new one. Of a
 * process in another mount namespace it may begin with its root directory.
 */
static char *read_exe(pid_t pid)
{
    g_autofree char *path = proc_path(pid, "exe");
    g_autofree char *root_path = proc_path(pid, "root");
    g_autofree char *exe = g_file_read_link(path, NULL);
    g_autofree char *root = g_file_read_link(root_path, NULL);
    gsize len = root && strcmp(root, "/") ? strlen(root) : 0;

    if (exe && g_str_has_suffix(exe, " (deleted)")) {
        exe[strlen(exe) - strlen(" (deleted)")] = 0;
    }
    return exe && len && g_str_has_prefix(exe, root) && exe[len] == '/' ?
           g_strdup(exe + len) : g_steal_pointer(&exe);
}

Process *process_open(pid_t pid, GError **errp)
{
    g_autoptr(Process) process = g_new0(Process, 1);
    g_autoptr(GError) err = NULL;
    int saved;

    process->pid = pid;
    process->root = process->cwd = -1;
    process->pidfd = syscall(SYS_pidfd_open, pid, 0);
    if (process->pidfd < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "process %d: %s; name the process of QEMU", (int)pid,
                    g_strerror(errno));
        return NULL;
    }
    process->start = process_start_time(pid);
    process->argv = read_strings(pid, "cmdline", &err);
    process->envp = process->argv ? read_strings(pid, "environ", &err) : NULL;
    process->root = process->envp ? open_path(pid, "root") : -1;
    process->cwd = process->root >= 0 ? open_path(pid, "cwd") : -1;
    saved = errno;
    process->exe = read_exe(pid);
    if (!process->argv || !process->argv[0]) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "process %d has no command line; name the process of QEMU",
                    (int)pid);
        return NULL;
    }
    if (process->cwd < 0 || !process->exe) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "not permitted to inspect process %d: %s; run as root or "
                    "with CAP_SYS_PTRACE", (int)pid,
                    err ? err->message : g_strerror(saved));
        return NULL;
    }
    return g_steal_pointer(&process);
}

bool process_wait(const Process *process, int seconds)
{
    struct pollfd p = { .fd = process->pidfd, .events = POLLIN };
    gint64 end = g_get_monotonic_time() + seconds * G_USEC_PER_SEC, left;
    int ret;

    do {
        left = (end - g_get_monotonic_time()) / 1000;
        /* A negative time has no end. */
        ret = poll(&p, 1, MAX(0, left));
    } while (ret < 0 && errno == EINTR);
    return ret == 1;
}

void process_kill(const Process *process, int signal)
{
    syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0);
}

/* An abstract socket has a 0 ahead of its name */
static char *path_of_socket(int fd)
{
    struct sockaddr_un address = { 0 };
    socklen_t len = sizeof(address), size = sizeof(int);
    int listens = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 ||
        !listens || getsockname(fd, (struct sockaddr *)&address, &len) < 0 ||
        address.sun_family != AF_UNIX || !*address.sun_path) {
        return NULL;
    }
    return g_strndup(address.sun_path, sizeof(address.sun_path));
}

char *process_socket_path(const Process *process, const char *fd)
{
    guint64 number;
    int copy;
    char *path;

    if (!g_ascii_string_to_unsigned(fd, 10, 0, G_MAXINT, &number, NULL)) {
        return NULL;
    }
    copy = tapstate_borrow(process->pid, number, NULL);
    if (copy < 0) {
        return NULL;
    }
    path = path_of_socket(copy);
    close(copy);
    return path;
}

char *process_path(const Process *process, const char *path)
{
    return g_strdup_printf("/proc/self/fd/%d/%s",
                           *path == '/' ? process->root : process->cwd,
                           path + strspn(path, "/"));
}

static rlim_t parse_limit(const char *text)
{
    return strcmp(text, "unlimited") ? g_ascii_strtoull(text, NULL, 10) :
                                       RLIM_INFINITY;
}

/* The lines have the order of the numbers, and names of 25 columns */
bool process_limit(pid_t pid, int resource, struct rlimit *limit)
{
    g_autofree char *path = proc_path(pid, "limits"), *text = NULL;
    g_auto(GStrv) lines = NULL;
    char soft[32], hard[32];

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    if ((int)g_strv_length(lines) < resource + 2 ||
        strlen(lines[resource + 1]) < 26 ||
        sscanf(lines[resource + 1] + 26, "%31s %31s", soft, hard) != 2) {
        return false;
    }
    limit->rlim_cur = parse_limit(soft);
    limit->rlim_max = parse_limit(hard);
    return true;
}
