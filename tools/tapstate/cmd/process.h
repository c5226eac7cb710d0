/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU process: its surroundings, and starting another one in these
 */
#ifndef TAPSTATE_PROCESS_H
#define TAPSTATE_PROCESS_H

#include <stdbool.h>
#include <glib.h>
#include <sys/resource.h>
#include <sys/types.h>

typedef struct Process {
    pid_t pid;
    guint64 start; /* time of its start, in clock ticks: a pid may come again */
    int pidfd;
    int root, cwd; /* O_PATH */
    char **argv, **envp;
    char *exe; /* path of its binary */
} Process;

Process *process_open(pid_t pid, GError **errp);
void process_free(Process *process);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Process, process_free)

/* Return whether process @pid, which started at @start, still runs */
bool process_runs(pid_t pid, guint64 start);
guint64 process_start_time(pid_t pid);
/* Wait for the end of the process; return whether it has ended */
bool process_wait(const Process *process, int seconds);
void process_kill(const Process *process, int signal);

/* Other than prlimit(), it takes no right over a process of another user */
bool process_limit(pid_t pid, int resource, struct rlimit *limit);

/*
 * Path of the UNIX socket that the process listens on with file descriptor @fd,
 * as it has it in its command line, or NULL
 */
char *process_socket_path(const Process *process, const char *fd);

/*
 * Write a path of the command line as one that this process can use. It stays
 * valid after the process has ended.
 */
char *process_path(const Process *process, const char *path);

/**
 * process_launch:
 * @like: process whose surroundings it gets
 * @argv: command line; the binary is looked up in these surroundings
 * @as_caller: keep the caller's user and root directory: QEMU itself changes
 *             them
 * @err_fd: its standard error, or -1 for that of @like
 * @errp: return location for an error
 *
 * Starts a program with the cgroup, limits, namespaces, root and working
 * directory, user, environment, and standard files of @like. All other file
 * descriptors without FD_CLOEXEC are inherited.
 *
 * Returns: the process, or %NULL
 */
Process *process_launch(const Process *like, char **argv, bool as_caller,
                        int err_fd, GError **errp);

#endif
