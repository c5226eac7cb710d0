// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate update --all: the guests of a host, a process for each
 */
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "qmp.h"
#include "update.h"

typedef struct Guest {
    const char *socket;
    int pid; /* which listens on it, or 0 */
    GSubprocess *process;
    bool ended;
    int status;
} Guest;

typedef struct Run {
    const Fleet *fleet;
    GArray *guests; /* of Guest */
    guint next, running, failed;
    GMainLoop *loop;
} Run;

static void skip(const char *path, const char *why)
{
    g_autofree char *name = printable(path, false);

    printf("%-40s  skipped   %s\n", name, why);
}

static bool is_known(GArray *guests, int pid)
{
    for (guint i = 0; i < guests->len; i++) {
        if (pid && g_array_index(guests, Guest, i).pid == pid) {
            return true;
        }
    }
    return false;
}

/* A directory has other sockets, too, and a QEMU may have several for QMP */
static void add_guest(GArray *guests, const char *path, bool must)
{
    g_autoptr(Qmp) qmp = qmp_open(path, NULL);
    Guest guest = { .socket = path, .pid = qmp ? qmp_pid(qmp) : 0 };

    if (!qmp && !must) {
        skip(path, "no QMP server, or another client is connected");
    } else if (is_known(guests, guest.pid)) {
        skip(path, "another socket of a QEMU above");
    } else {
        g_array_append_val(guests, guest);
    }
}

/* Sockets only: logs and pidfiles may be beside them */
static bool find_sockets(const Fleet *fleet, glob_t *found, GArray *guests)
{
    g_autofree char *inside = g_file_test(fleet->pattern, G_FILE_TEST_IS_DIR) ?
                              g_strconcat(fleet->pattern, "/*", NULL) : NULL;

    glob(inside ? inside : fleet->pattern, 0, NULL, found);
    for (size_t i = 0; i < found->gl_pathc; i++) {
        const char *path = found->gl_pathv[i];
        struct stat st;

        if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode) &&
            !strstr(path, SUFFIX_1) && !strstr(path, SUFFIX_2)) {
            add_guest(guests, path, !inside);
        }
    }
    return guests->len;
}

static void print_row(const Guest *guest, JsonObject *result)
{
    const char *word = result ? member_string(result, "result") : NULL;
    const char *reason = result ? member_string(result, "reason") : NULL;
    g_autofree char *path = printable(guest->socket, false);
    g_autofree char *why = reason ? printable(reason, false) : NULL;

    if (!word) {
        word = guest->status ? "refused" : "ready";
    }
    printf("%-40s  %-8s", path, word);
    if (result && json_object_has_member(result, "target")) {
        printf("  %" G_GINT64_FORMAT " -> %" G_GINT64_FORMAT "  %.1f ms",
               member_int(result, "source"), member_int(result, "target"),
               json_object_get_double_member_with_default(result,
                                                          "downtime-ms", 0));
    }
    printf("%s%s\n", why ? "  " : "", why ? why : "");
    fflush(stdout);
}

static void start_some(Run *run);

static void ended(GObject *process, GAsyncResult *result, gpointer opaque)
{
    Run *run = opaque;
    g_autofree char *out = NULL;
    g_autoptr(JsonNode) node = NULL;
    Guest *guest = NULL;

    for (guint i = 0; i < run->guests->len; i++) {
        Guest *g = &g_array_index(run->guests, Guest, i);

        guest = g->process == G_SUBPROCESS(process) ? g : guest;
    }
    g_subprocess_communicate_utf8_finish(guest->process, result, &out, NULL,
                                         NULL);
    guest->ended = true;
    guest->status = g_subprocess_get_if_exited(guest->process) ?
                    g_subprocess_get_exit_status(guest->process) :
                    STATUS_STOPPED;
    node = json_from_string(out ? out : "", NULL);
    print_row(guest, node && JSON_NODE_HOLDS_OBJECT(node) ?
                     json_node_get_object(node) : NULL);
    run->running--;
    run->failed += guest->status != STATUS_OK;
    start_some(run);
}

static void start(Run *run, Guest *guest)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) err = NULL;

    g_ptr_array_add(argv, (char *)"/proc/self/exe");
    g_ptr_array_add(argv, (char *)"update");
    g_ptr_array_add(argv, (char *)"--json");
    g_ptr_array_add(argv, (char *)"--qmp");
    g_ptr_array_add(argv, (char *)guest->socket);
    for (char **arg = run->fleet->args; *arg; arg++) {
        g_ptr_array_add(argv, *arg);
    }
    g_ptr_array_add(argv, NULL);
    guest->process = g_subprocess_newv((const char *const *)argv->pdata,
                                       G_SUBPROCESS_FLAGS_STDOUT_PIPE, &err);
    if (!guest->process) {
        g_prefix_error(&err, "%s: ", guest->socket);
        guest->ended = true;
        guest->status = fail(g_steal_pointer(&err));
        print_row(guest, NULL);
        run->failed++;
        return;
    }
    run->running++;
    g_subprocess_communicate_utf8_async(guest->process, NULL, NULL, ended, run);
}

static bool may_start(const Run *run)
{
    return run->next < run->guests->len && !update_interrupted &&
           (!run->failed || run->fleet->keep_going);
}

static void start_some(Run *run)
{
    while (may_start(run) && (int)run->running < run->fleet->parallel) {
        start(run, &g_array_index(run->guests, Guest, run->next++));
    }
    if (!run->running) {
        g_main_loop_quit(run->loop);
    }
}

static void print_sum(const Run *run)
{
    guint ended = 0;

    for (guint i = 0; i < run->guests->len; i++) {
        ended += g_array_index(run->guests, Guest, i).ended;
    }
    printf("%u guests: %u done, %u failed, %u not tried\n", run->guests->len,
           ended - run->failed, run->failed,
           run->guests->len - run->next);
}

int fleet_update(const Fleet *fleet)
{
    Run run = {
        .fleet = fleet, .guests = g_array_new(false, false, sizeof(Guest)),
    };
    glob_t found = { 0 };
    int status = STATUS_ERROR;

    update_catch_signals();
    if (!find_sockets(fleet, &found, run.guests)) {
        GError *err = g_error_new(TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                                  "%s: no QMP sockets; name their directory, or "
                                  "a pattern", fleet->pattern);

        fail(err);
    } else {
        run.loop = g_main_loop_new(NULL, false);
        start_some(&run);
        if (run.running) {
            g_main_loop_run(run.loop);
        }
        g_main_loop_unref(run.loop);
        print_sum(&run);
        status = run.failed || run.next < run.guests->len ? STATUS_REFUSED :
                                                            STATUS_OK;
    }
    for (guint i = 0; i < run.guests->len; i++) {
        g_clear_object(&g_array_index(run.guests, Guest, i).process);
    }
    g_array_unref(run.guests);
    globfree(&found);
    return status;
}
