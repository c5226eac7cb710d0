// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Start a program in the surroundings of another process
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "command.h"
#include "process.h"

/* Namespaces by their files; a user namespace comes first, as it gives rights */
static const struct {
    const char *file;
    int flag;
} namespaces[] = {
    { "ns/user", CLONE_NEWUSER }, { "ns/mnt", CLONE_NEWNS },
    { "ns/net", CLONE_NEWNET }, { "ns/ipc", CLONE_NEWIPC },
    { "ns/uts", CLONE_NEWUTS }, { "ns/cgroup", CLONE_NEWCGROUP },
    { "ns/pid", CLONE_NEWPID }, { "ns/time", 0x80 /* CLONE_NEWTIME */ },
};

typedef struct Limit {
    bool known;
    struct rlimit limit;
} Limit;

/* All that the child needs, read before it is forked */
typedef struct Launch {
    const Process *like;
    char **argv;
    bool as_caller;
    int fds[3];
    int report; /* pipe for errors; a success closes it */
    int proc; /* /proc/PID */
    char status[8192]; /* its file "status", as its user namespace sees it */
    int namespaces;
    bool other_root;
    GPtrArray *cgroups; /* paths of cgroup.procs */
    Limit limits[RLIM_NLIMITS];
    char *label, *label_file; /* of AppArmor or SELinux */
} Launch;

static void launch_free(Launch *l)
{
    for (guint i = 0; i < G_N_ELEMENTS(l->fds); i++) {
        if (l->fds[i] >= 0) {
            close(l->fds[i]);
        }
    }
    g_ptr_array_unref(l->cgroups);
    if (l->proc >= 0) {
        close(l->proc);
    }
    g_free(l->label);
    g_free(l->label_file);
}

static char *read_file(pid_t pid, const char *file)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, file);
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    return text;
}

/* Numbers of a line of /proc/PID/status, or NULL */
static const char *status_line(const Launch *l, const char *name)
{
    g_autofree char *key = g_strdup_printf("\n%s:\t", name);
    const char *at = strstr(l->status, key);

    return at ? at + strlen(key) : NULL;
}

static bool same_file(pid_t pid, const char *file)
{
    g_autofree char *a = g_strdup_printf("/proc/%d/%s", (int)pid, file);
    g_autofree char *b = g_strdup_printf("/proc/self/%s", file);
    struct stat x, y;

    /* The caller has no namespace that this kernel does not know */
    return stat(a, &x) < 0 || stat(b, &y) < 0 ||
           (x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

/* Lines are "HIERARCHY:CONTROLLERS:PATH"; version 2 has no controllers */
static void read_cgroups(Launch *l)
{
    g_autofree char *text = read_file(l->like->pid, "cgroup");
    g_autofree char *own = read_file(getpid(), "cgroup");
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);

    l->cgroups = g_ptr_array_new_with_free_func(g_free);
    for (char **line = lines; g_strcmp0(text, own) && *line; line++) {
        g_auto(GStrv) part = g_strsplit(*line, ":", 3);

        if (g_strv_length(part) == 3) {
            const char *name = g_str_has_prefix(part[1], "name=") ?
                               part[1] + strlen("name=") : part[1];

            g_ptr_array_add(l->cgroups,
                            g_strdup_printf("/sys/fs/cgroup/%s%s/cgroup.procs",
                                            name, part[2]));
        }
    }
}

static void read_label(Launch *l)
{
    g_autofree char *label = read_file(l->like->pid, "attr/current");
    g_autofree char *own = read_file(getpid(), "attr/current");
    char *mode;

    if (!label || !*label || !g_strcmp0(label, own)) {
        return;
    }
    g_strchomp(label);
    if (g_file_test("/sys/fs/selinux/enforce", G_FILE_TEST_EXISTS)) {
        l->label = g_steal_pointer(&label);
        l->label_file = g_strdup("/proc/self/attr/exec");
        return;
    }
    mode = strstr(label, " (");
    if (mode) {
        *mode = 0;
    }
    l->label = g_strdup_printf("exec %s", label);
    l->label_file = g_strdup("/proc/self/attr/apparmor/exec");
}

static int open_proc(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d", (int)pid);

    return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void prepare(Launch *l, int err_fd)
{
    pid_t pid = l->like->pid;

    for (int i = 0; i < 3; i++) {
        l->fds[i] = i == 2 && err_fd >= 0 ?
                    fcntl(err_fd, F_DUPFD_CLOEXEC, 3) :
                    tapstate_borrow(pid, i, NULL);
    }
    l->proc = open_proc(pid);
    for (guint i = 0; i < G_N_ELEMENTS(namespaces); i++) {
        if (!same_file(pid, namespaces[i].file)) {
            l->namespaces |= namespaces[i].flag;
        }
    }
    /* To enter a mount namespace changes the root directory. */
    l->other_root = !l->as_caller && (l->namespaces & CLONE_NEWNS ||
                                      !same_file(pid, "root/."));
    read_cgroups(l);
    read_label(l);
    for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
        l->limits[i].known = process_limit(pid, i, &l->limits[i].limit);
    }
}

/* Report an error of the child; it must not run without this setting */
static void G_GNUC_NORETURN give_up(const Launch *l, const char *what)
{
    char text[256];
    int n = snprintf(text, sizeof(text), "%s: %s", what, strerror(errno));

    if (write(l->report, text, MIN((size_t)n, sizeof(text) - 1)) < 0) {
        _exit(126);
    }
    _exit(127);
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int ret = fd < 0 ? -1 : write(fd, text, strlen(text)) < 0 ? -1 : 0;
    int err = errno;

    if (fd >= 0) {
        close(fd);
    }
    errno = err;
    return ret;
}

static void set_limits(const Launch *l)
{
    g_autofree char *adj = read_file(l->like->pid, "oom_score_adj");
    cpu_set_t cpus;

    for (guint i = 0; i < l->cgroups->len; i++) {
        if (write_file(l->cgroups->pdata[i], "0") < 0 && geteuid() == 0) {
            give_up(l, l->cgroups->pdata[i]);
        }
    }
    /* The caller keeps limits that it has no right to change. */
    for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
        if (l->limits[i].known) {
            setrlimit(i, &l->limits[i].limit);
        }
    }
    if (adj) {
        write_file("/proc/self/oom_score_adj", adj);
    }
    errno = 0;
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, l->like->pid));
    if (sched_getaffinity(l->like->pid, sizeof(cpus), &cpus) == 0) {
        sched_setaffinity(0, sizeof(cpus), &cpus);
    }
}

static void read_status(Launch *l)
{
    int fd = openat(l->proc, "status", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, l->status, sizeof(l->status) - 1);

    if (n <= 0) {
        give_up(l, "its status");
    }
    l->status[n] = 0;
    close(fd);
}

static void set_umask(const Launch *l)
{
    const char *mask = status_line(l, "Umask");

    if (mask) {
        umask(strtol(mask, NULL, 8));
    }
}

static void enter(const Launch *l)
{
    if (l->namespaces && setns(l->like->pidfd, l->namespaces) < 0) {
        give_up(l, "its namespaces");
    }
    if (l->other_root && (fchdir(l->like->root) < 0 || chroot(".") < 0)) {
        give_up(l, "its root directory");
    }
    if (fchdir(l->like->cwd) < 0) {
        give_up(l, "its working directory");
    }
}

/* Keep from the target all that the source cannot get by an exec of root */
static void drop_capabilities(const Launch *l)
{
    const char *line = status_line(l, "CapBnd");
    guint64 keep = line ? g_ascii_strtoull(line, NULL, 16) : ~0ULL;
    const char *privs = status_line(l, "NoNewPrivs");

    for (int cap = 0; cap < 64; cap++) {
        if (!(keep >> cap & 1) && prctl(PR_CAPBSET_READ, cap) == 1 &&
            prctl(PR_CAPBSET_DROP, cap) < 0) {
            give_up(l, "its capabilities");
        }
    }
    if (privs && *privs == '1' && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        give_up(l, "no_new_privs");
    }
}

static guint64 capabilities(const Launch *l, const char *name)
{
    const char *line = status_line(l, name);

    return line ? g_ascii_strtoull(line, NULL, 16) : 0;
}

/* An exec keeps the ambient capabilities of a user other than root */
static void raise_capabilities(const Launch *l)
{
    guint64 ambient = capabilities(l, "CapAmb");
    guint64 inherit = capabilities(l, "CapInh") | ambient;
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[2];

    if (!ambient) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        data[i].effective = data[i].permitted = ambient >> 32 * i;
        data[i].inheritable = inherit >> 32 * i;
    }
    if (syscall(SYS_capset, &header, data) < 0) {
        give_up(l, "its capabilities");
    }
    for (int cap = 0; cap < 64; cap++) {
        if (ambient >> cap & 1 &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0) {
            give_up(l, "its capabilities");
        }
    }
}

/* Lines are "REAL EFFECTIVE SAVED FILESYSTEM" */
static void set_user(const Launch *l)
{
    const char *uids = status_line(l, "Uid"), *gids = status_line(l, "Gid");
    const char *line = status_line(l, "Groups");
    unsigned int u[3], g[3];
    gid_t groups[NGROUPS_MAX];
    size_t n = 0;
    char *end;

    if (!uids || !gids || !line || sscanf(uids, "%u %u %u", u, u + 1, u + 2) < 3
        || sscanf(gids, "%u %u %u", g, g + 1, g + 2) < 3) {
        errno = EINVAL;
        give_up(l, "its user");
    }
    while (n < G_N_ELEMENTS(groups)) {
        groups[n] = strtoul(line, &end, 10);
        if (end == line || memchr(line, '\n', end - line)) {
            break;
        }
        line = end;
        n++;
    }
    if (!(l->namespaces & CLONE_NEWUSER) && geteuid() == 0 &&
        setgroups(n, groups) < 0) {
        give_up(l, "its groups");
    }
    drop_capabilities(l);
    prctl(PR_SET_KEEPCAPS, !!capabilities(l, "CapAmb"), 0, 0, 0);
    if (setresgid(g[0], g[1], g[2]) < 0 || setresuid(u[0], u[1], u[2]) < 0) {
        give_up(l, "its user");
    }
    raise_capabilities(l);
}

static void G_GNUC_NORETURN run_child(Launch *l)
{
    sigset_t none;

    setsid();
    set_limits(l);
    enter(l);
    read_status(l);
    set_umask(l);
    if (l->label && write_file(l->label_file, l->label) < 0) {
        give_up(l, "its security context");
    }
    if (!l->as_caller) {
        set_user(l);
    }
    for (int i = 0; i < 3; i++) {
        if (l->fds[i] < 0 || dup2(l->fds[i], i) < 0) {
            give_up(l, "its standard files");
        }
    }
    for (int i = 1; i < NSIG; i++) {
        signal(i, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(l->argv[0], l->argv, l->like->envp);
    give_up(l, l->argv[0]);
}

/*
 * The first child of a process that entered a pid namespace is in there. Send
 * its pid ahead of errors.
 */
static void G_GNUC_NORETURN fork_child(Launch *l)
{
    bool entered = !(l->namespaces & CLONE_NEWPID) ||
                   setns(l->like->pidfd, CLONE_NEWPID) == 0;
    pid_t pid = entered ? fork() : -1;
    int err = errno;

    if (pid == 0) {
        l->namespaces &= ~CLONE_NEWPID;
        run_child(l);
    }
    if (write(l->report, &pid, sizeof(pid)) == sizeof(pid) && pid < 0) {
        errno = err;
        give_up(l, entered ? "fork" : "its pid namespace");
    }
    _exit(0);
}

/* It may have ended by now */
static Process *process_of_child(pid_t pid, GError **errp)
{
    Process *process = g_new0(Process, 1);

    process->pid = pid;
    process->start = process_start_time(pid);
    process->root = process->cwd = -1;
    process->pidfd = syscall(SYS_pidfd_open, pid, 0);
    if (process->pidfd < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "the target has ended at once");
        g_clear_pointer(&process, process_free);
    }
    return process;
}

static Process *wait_exec(int report, GError **errp)
{
    char text[256];
    ssize_t n;
    pid_t pid;

    if (read(report, &pid, sizeof(pid)) != sizeof(pid)) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "cannot start the target");
        return NULL;
    }
    n = read(report, text, sizeof(text) - 1);
    if (n > 0) {
        text[n] = 0;
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "cannot start the target with %s; run as root, or as the "
                    "user who started the source", text);
        return NULL;
    }
    return process_of_child(pid, errp);
}

Process *process_launch(const Process *like, char **argv, bool as_caller,
                        int err_fd, GError **errp)
{
    Launch l = { .like = like, .argv = argv, .as_caller = as_caller };
    Process *process = NULL;
    int report[2];
    pid_t middle;

    prepare(&l, err_fd);
    if (pipe2(report, O_CLOEXEC) < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "pipe: %s",
                    g_strerror(errno));
        launch_free(&l);
        return NULL;
    }
    l.report = report[1];
    middle = fork();
    if (middle == 0) {
        fork_child(&l);
    }
    close(report[1]);
    if (middle > 0) {
        waitpid(middle, NULL, 0);
        process = wait_exec(report[0], errp);
    } else {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "fork: %s",
                    g_strerror(errno));
    }
    close(report[0]);
    launch_free(&l);
    return process;
}
