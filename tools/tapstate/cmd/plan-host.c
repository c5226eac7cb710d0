// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Find out if this host, and the QEMU of the target, can do a live update
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "plan.h"

static void check_kernel(Plan *plan)
{
    g_autoptr(GError) err = NULL;
    uint64_t groups = 0;
    bool live = g_file_test("/sys/module/tun_state_live", G_FILE_TEST_EXISTS);
    bool known = false, patched = false;

    for (TapstateQueue **q = plan->source ? plan->source->queues : NULL;
         q && *q; q++) {
        known |= (*q)->patched >= 0;
        patched |= (*q)->patched > 0;
    }
    if (!known) {
        patched = tapstate_probe(&groups, &err) && groups;
    }
    if (patched) {
        plan_find(plan, FINDING_OK, "kernel", "tun reports its state (%s)",
                  live ? "live patch" : "module");
    } else {
        plan_find(plan, FINDING_NOTE, "kernel", "tun does not report its state: "
                  "TAPs are handed over unverified; load the patched tun "
                  "module or the live patch");
    }
}

static guint count_files(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = 0;

    while (dir && g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

/* The target opens as many files as the source, and inherits some */
static void check_limit(Plan *plan)
{
    pid_t pid = plan->source->process->pid;
    guint need = count_files(pid) + plan->fds->len + 32;
    struct rlimit limit;

    if (!process_limit(pid, RLIMIT_NOFILE, &limit)) {
        plan_find(plan, FINDING_NO, "limits", "/proc/%d/limits cannot be read; "
                  "run as root", (int)pid);
    } else if (limit.rlim_cur < need) {
        plan_find(plan, FINDING_NO, "limits", "the target needs about %u open "
                  "files, and the source may have %lu; use 'prlimit --pid %d "
                  "--nofile=%u:%u'", need, (unsigned long)limit.rlim_cur,
                  (int)pid, 2 * need, 2 * need);
    }
}

/* A QEMU that was broken into could have other arguments run as root */
static void check_user(Plan *plan)
{
    g_autofree char *path = g_strdup_printf("/proc/%d",
                                            (int)plan->source->process->pid);
    struct stat st;

    if (plan->as_caller && (stat(path, &st) < 0 || st.st_uid != geteuid())) {
        plan_find(plan, FINDING_NO, "user", "QEMU has changed its user, and the "
                  "target would be started by yours; start QEMU as its user "
                  "instead of -runas or -run-with user=");
    }
}

/* SCM_RIGHTS, and duplicates, take the right to trace the source */
static void check_rights(Plan *plan)
{
    g_autoptr(GError) err = NULL;
    int fd = tapstate_borrow(plan->source->process->pid, 0, &err);

    if (fd >= 0) {
        close(fd);
    } else if (g_error_matches(err, TAPSTATE_ERROR,
                               TAPSTATE_ERROR_PERMISSION)) {
        plan_find(plan, FINDING_NO, "rights", "%s", err->message);
        return;
    }
    plan_find(plan, FINDING_OK, "rights", "may start a QEMU like process %d",
              (int)plan->source->process->pid);
}

/* Answers of a QEMU without a guest */
typedef struct Probe {
    bool patched, shared, machine;
    char *version;
} Probe;

static bool knows_machine(Qmp *qmp, const char *name, GError **errp)
{
    g_autoptr(JsonArray) machines = qmp_list(qmp, "query-machines", NULL, errp);

    for (guint i = 0; machines && i < json_array_get_length(machines); i++) {
        JsonObject *machine = array_object(machines, i);

        if (machine && !g_strcmp0(member_string(machine, "name"), name)) {
            return true;
        }
    }
    return false;
}

/* The schema has the names of commands and of members */
static bool ask_probe(const Plan *plan, Qmp *qmp, Probe *probe, GError **errp)
{
    g_autoptr(JsonObject) version = qmp_query(qmp, "query-version", NULL, errp);
    JsonObject *qemu = version ? member_object(version, "qemu") : NULL;
    g_autoptr(JsonNode) schema = qemu ? qmp_run(qmp, "query-qmp-schema", NULL,
                                                errp) : NULL;
    g_autofree char *text = schema ? json_to_string(schema, false) : NULL;
    GError *err = NULL;

    if (!text) {
        return false;
    }
    probe->version = g_strdup_printf("%d.%d.%d", (int)member_int(qemu, "major"),
                                     (int)member_int(qemu, "minor"),
                                     (int)member_int(qemu, "micro"));
    probe->patched = strstr(text, "\"query-tap-state\"");
    probe->shared = strstr(text, "\"shared-fds\"");
    probe->machine = !plan->source ||
                     knows_machine(qmp, plan->source->machine, &err);
    g_clear_error(&err);
    return true;
}

static GSubprocess *start_probe(const Plan *plan, int fd, GError **errp)
{
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_SILENCE |
                                  G_SUBPROCESS_FLAGS_STDERR_SILENCE);

    g_subprocess_launcher_take_fd(launcher, fd, 3);
    return g_subprocess_launcher_spawn(launcher, errp, plan->binary, "-machine",
        "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
        "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
        NULL);
}

static bool run_probe(const Plan *plan, Probe *probe, GError **errp)
{
    g_autoptr(GSubprocess) qemu = NULL;
    g_autoptr(Qmp) qmp = NULL;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "socketpair: %s", g_strerror(errno));
        return false;
    }
    qemu = start_probe(plan, fds[1], errp);
    if (!qemu) {
        close(fds[0]);
        return false;
    }
    qmp = qmp_open_fd(fds[0], "is this QEMU?", errp);
    if (qmp && ask_probe(plan, qmp, probe, errp)) {
        qmp_do(qmp, "quit", NULL, NULL);
        g_subprocess_wait(qemu, NULL, NULL);
        return true;
    }
    g_subprocess_force_exit(qemu);
    return false;
}

static void judge(Plan *plan, const Probe *probe)
{
    bool needs = !plan->source || plan->hand_over || plan->take_over;

    if (!probe->patched && needs) {
        plan_find(plan, FINDING_NO, "target", "%s (%s) cannot take a TAP from "
                  "another QEMU; name a patched QEMU with --qemu", plan->binary,
                  probe->version);
    } else if (plan->take_over && !probe->shared) {
        plan_find(plan, FINDING_NO, "target", "%s (%s) does not know "
                  "shared-fds=; name a newer patched QEMU with --qemu",
                  plan->binary, probe->version);
    } else if (!probe->machine) {
        plan_find(plan, FINDING_NO, "target", "%s (%s) does not know machine "
                  "type %s; name another QEMU with --qemu", plan->binary,
                  probe->version, plan->source->machine);
    } else {
        plan_find(plan, FINDING_OK, "target", "%s (%s)", plan->binary,
                  probe->version);
    }
}

/*
 * Whether the caller has this binary, too. The mount namespaces of libvirt have
 * all files of the host but for /dev.
 */
static bool same_binary(const Plan *plan, const char *path)
{
    struct stat a, b;

    return stat(path, &a) == 0 && stat(plan->binary, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Run no program that another user could have put there */
static bool is_trusted(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && (!st.st_uid || st.st_uid == geteuid()) &&
           !(st.st_mode & 022);
}

static void check_target(Plan *plan)
{
    g_autofree char *path = plan->source ?
                            process_path(plan->source->process, plan->binary) :
                            g_strdup(plan->binary);
    g_autoptr(GError) err = NULL;
    Probe probe = { 0 };

    if (access(path, X_OK) < 0) {
        plan_find(plan, FINDING_NO, "target", "%s: %s; name a QEMU with --qemu",
                  plan->binary, g_strerror(errno));
    } else if (plan->source && !plan->named && !is_trusted(path)) {
        plan_find(plan, FINDING_NO, "target", "%s belongs to another user, or "
                  "others may write it; name a QEMU with --qemu", plan->binary);
    } else if (plan->source && !same_binary(plan, path)) {
        plan_find(plan, FINDING_NOTE, "target", "%s was not asked for what it "
                  "can: your mount namespace has another file, or none",
                  plan->binary);
    } else if (!run_probe(plan, &probe, &err)) {
        plan_find(plan, FINDING_NO, "target", "%s: %s", plan->binary,
                  err->message);
    } else {
        judge(plan, &probe);
    }
    g_free(probe.version);
}

void plan_check_host(Plan *plan)
{
    check_kernel(plan);
    if (plan->source) {
        check_user(plan);
        check_rights(plan);
        check_limit(plan);
        plan_check_unit(plan);
    }
    check_target(plan);
}
