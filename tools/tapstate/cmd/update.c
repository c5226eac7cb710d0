// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate update: replace the QEMU of a running guest
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/close_range.h>
#include <sys/mman.h>

#include "findings.h"
#include "update.h"

#define START_SECONDS 60

static bool wait_socket(Update *u, const Plan *plan, GError **errp)
{
    gint64 end = g_get_monotonic_time() + START_SECONDS * G_USEC_PER_SEC;
    g_autoptr(GError) err = NULL;
    /* A daemon has its socket before its parent ends: look in this order. */
    bool ended = process_wait(u->target, 0);

    while (!(u->migration.target = update_connect(u->place, plan->qmp, &err))) {
        if (ended) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                        "the target has ended at its start");
            return false;
        }
        if (update_interrupted || g_get_monotonic_time() > end) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "%s",
                        update_interrupted ? "interrupted" : err->message);
            return false;
        }
        g_clear_error(&err);
        g_usleep(20000);
        ended = process_wait(u->target, 0);
    }
    if (plan->daemonize) {
        process_free(u->target);
        u->target = process_open(qmp_pid(u->migration.target), errp);
    }
    return u->target;
}

static bool launch(Update *u, const Plan *plan, int err_fd, GError **errp)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_copy(plan->argv, NULL, NULL);

    g_ptr_array_set_free_func(argv, NULL);
    g_ptr_array_add(argv, NULL);
    u->target = process_launch(u->source, (char **)argv->pdata,
                               plan->as_caller, err_fd, errp);
    return u->target;
}

/* The target writes errors to a file of the source: try again, and read them */
static char *explain_start(Update *u, const Plan *plan)
{
    int fd = memfd_create("errors", MFD_CLOEXEC);
    g_autofree char *text = g_malloc0(1024);

    g_clear_pointer(&u->target, process_free);
    if (fd >= 0 && launch(u, plan, fd, NULL)) {
        if (!process_wait(u->target, 2)) {
            process_kill(u->target, SIGKILL);
            process_wait(u->target, 10);
        }
        if (pread(fd, text, 1023, 0) > 0) {
            close(fd);
            return g_strstrip(g_steal_pointer(&text));
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return NULL;
}

static bool start_target(Update *u, const Plan *plan, GError **errp)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *why = NULL;

    if (!launch(u, plan, -1, errp)) {
        return false;
    }
    u->journal->target = u->target->pid;
    u->journal->target_start = u->target->start;
    if (!journal_write(u->journal, errp)) {
        return false;
    }
    if (wait_socket(u, plan, &err)) {
        u->journal->target = u->target->pid;
        u->journal->target_start = u->target->start;
        return true;
    }
    /* A target that only hangs is ended by the way back. */
    why = u->target && process_wait(u->target, 0) ? explain_start(u, plan) :
                                                    NULL;
    g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "%s%s%s",
                err->message, why ? ": " : "", why ? why : "");
    return false;
}

/* The journal has the former settings before they change */
static bool set_up(Update *u, const Plan *plan, GError **errp)
{
    Settings *former = &u->journal->former;

    return settings_read(u->migration.source, plan->hand_over, former, errp) &&
           settings_read(u->migration.target, plan->hand_over, &u->former,
                         errp) &&
           journal_write(u->journal, errp) &&
           settings_change(u->migration.source, plan->ignore_shared,
                           plan->hand_over, former, errp) &&
           settings_change(u->migration.target, plan->ignore_shared,
                           plan->hand_over, &u->former, errp);
}

/* Take the parts of the plan that steps need; they outlive it */
static void begin(Update *u, Plan *plan)
{
    Journal *j = journal_new(u->socket);
    Source *source = plan->source;

    for (guint i = 0; i < plan->moves->len; i++) {
        const Move *move = plan->moves->pdata[i];
        Move *copy = g_new0(Move, 1);

        copy->from = g_strdup(move->from);
        copy->to = g_strdup(move->to);
        g_ptr_array_insert(j->moves, strcmp(move->from, plan->qmp) ? -1 : 0,
                           copy);
    }
    j->channel = g_strconcat(plan->qmp, ".m", NULL);
    j->kill_source = plan->kill_source;
    j->source = source->process->pid;
    j->source_start = source->process->start;
    u->journal = j;
    u->source = g_steal_pointer(&source->process);
    u->place = u->source;
    u->migration.source = g_steal_pointer(&source->qmp);
    u->migration.progress = !u->json && !u->quiet;
    u->devices = plan->devices;
}

/* The guest runs in the source, or in neither QEMU */
static int give_up(Update *u, GError *err)
{
    g_autoptr(GError) why = NULL;

    if (u->journal->phase == PHASE_RUN) {
        g_prefix_error(&err, "the guest may run, or have run, in the target, "
                       "process %d; if it has ended, and only if you know that "
                       "the guest has not run there, 'cont' the source, and "
                       "delete %s: ", (int)u->journal->target,
                       u->journal->path);
        return summary_fail(u, STATUS_STOPPED, err);
    }
    if (update_roll_back(u, &why)) {
        g_prefix_error(&err, "not updated, process %d still runs the guest: ",
                       (int)u->source->pid);
        return summary_fail(u, STATUS_REFUSED, err);
    }
    g_prefix_error(&err, "the source does not run the guest (%s); ",
                   why->message);
    return summary_fail(u, STATUS_STOPPED, err);
}

static int do_update(Update *u, Plan *plan)
{
    GError *err = NULL;

    begin(u, plan);
    if (!update_lock(u->journal, &err)) {
        return summary_fail(u, STATUS_ERROR, err);
    }
    if (!journal_write(u->journal, &err)) {
        return summary_fail(u, STATUS_ERROR, err);
    }
    update_say(u, "process %d runs the guest; starting %s",
               (int)u->source->pid, plan->binary);
    if (!start_target(u, plan, &err) || !set_up(u, plan, &err) ||
        !update_migrate(u, &err) || !update_run(u, &err)) {
        return give_up(u, err);
    }
    update_finish(u);
    summary_print(u);
    return STATUS_OK;
}

/* A journal of processes that have ended is of no use */
static bool check_journal(const char *socket, GError **errp)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(Journal) j = journal_read(socket, &err);

    if (err) {
        g_propagate_error(errp, g_steal_pointer(&err));
        return false;
    }
    if (j && (process_runs(j->source, j->source_start) ||
              process_runs(j->target, j->target_start))) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "%s: an update of this guest was interrupted; use "
                    "'tapstate update --resume --qmp %s'", j->path, socket);
        return false;
    }
    return true;
}

static void print_line(const Plan *plan)
{
    for (guint i = 0; i < plan->argv->len; i++) {
        g_autofree char *quoted = g_shell_quote(plan->argv->pdata[i]);
        const char *next = i + 1 < plan->argv->len ? plan->argv->pdata[i + 1] :
                                                     "";

        printf("%s%s", strcspn(quoted, "\\'") == 0 &&
               strcspn(quoted + 1, " \t\n\"\\'$&|;<>(){}*?[]#~`!") ==
               strlen(quoted) - 2 ? (char *)plan->argv->pdata[i] : quoted,
               i + 1 == plan->argv->len ? "\n" :
               *next == '-' ? " \\\n    " : " ");
    }
}

typedef struct Options {
    char *qmp, *qemu, *all;
    char **changes;
    int pid, timeout, parallel;
    gboolean dry_run, resume, json, quiet, keep_going;
} Options;

static int run_plan(Update *u, Source *source, const Options *o)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(Plan) plan = plan_make(source, o->qemu, o->changes, &err);

    if (!plan) {
        return summary_fail(u, STATUS_ERROR, g_steal_pointer(&err));
    }
    if (o->dry_run) {
        (o->json ? findings_print_json : findings_print)(plan, FINDING_OK);
        if (!o->json) {
            print_line(plan);
        }
        return plan_refusals(plan) ? STATUS_REFUSED : STATUS_OK;
    }
    if (plan_refusals(plan)) {
        if (o->json) {
            g_set_error(&err, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "%s",
                        findings_first(plan));
            return summary_fail(u, STATUS_REFUSED, g_steal_pointer(&err));
        }
        findings_print(plan, FINDING_NO);
        return STATUS_REFUSED;
    }
    if (!o->json && !o->quiet) {
        findings_print(plan, FINDING_NOTE);
    }
    return do_update(u, plan);
}

static int update_one(const Options *o)
{
    Update u = {
        .socket = o->qmp, .timeout = o->timeout, .json = o->json,
        .quiet = o->quiet, .downtime = -1,
    };
    g_autoptr(Source) source = NULL;
    GError *err = NULL;
    int status;

    update_catch_signals();
    /* The target lives on: let it not keep files of the caller open. */
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    if (o->resume) {
        status = update_resume(&u);
    } else if ((!o->dry_run && !check_journal(o->qmp, &err)) ||
               !(source = source_open(o->qmp, o->pid, &err))) {
        status = summary_fail(&u, STATUS_ERROR, err);
    } else {
        status = run_plan(&u, source, o);
    }
    update_clear(&u);
    return status;
}

static int update_all(const Options *o)
{
    g_autoptr(GPtrArray) args = g_ptr_array_new();
    Fleet fleet = {
        .pattern = o->all, .parallel = o->parallel,
        .keep_going = o->keep_going,
    };
    g_autofree char *timeout = g_strdup_printf("--timeout=%d", o->timeout);
    g_autofree char *qemu = g_strdup_printf("--qemu=%s", o->qemu);
    int status;

    g_ptr_array_add(args, timeout);
    if (o->qemu) {
        g_ptr_array_add(args, qemu);
    }
    if (o->dry_run) {
        g_ptr_array_add(args, (char *)"--dry-run");
    }
    for (char **c = o->changes; c && *c; c++) {
        g_ptr_array_add(args, (char *)"--target-arg");
        g_ptr_array_add(args, *c);
    }
    g_ptr_array_add(args, NULL);
    fleet.args = (char **)args->pdata;
    status = fleet_update(&fleet);
    return status;
}

static const char *check_options(const Options *o, int argc)
{
    if (argc != 1) {
        return "update takes no other arguments";
    }
    if (!!o->qmp + !!o->all != 1) {
        return "name the guest by --qmp SOCKET, or guests by --all PATTERN";
    }
    if (o->timeout < 1 || o->parallel < 1) {
        return "--timeout and --parallel are numbers from 1";
    }
    if (o->resume && (o->all || o->dry_run || o->changes || o->qemu)) {
        return "--resume takes only --qmp";
    }
    return NULL;
}

int cmd_update(int argc, char **argv, const char *usage)
{
    Options o = { .timeout = 300, .parallel = 1 };
    const GOptionEntry entries[] = {
        { "qmp", 0, 0, G_OPTION_ARG_FILENAME, &o.qmp,
          "QMP socket of the guest's QEMU", "SOCKET" },
        { "pid", 0, 0, G_OPTION_ARG_INT, &o.pid,
          "process of that QEMU, if another one made the socket", "PID" },
        { "qemu", 0, 0, G_OPTION_ARG_FILENAME, &o.qemu,
          "the new QEMU; without it, the path of the running one", "BINARY" },
        { "dry-run", 'n', 0, G_OPTION_ARG_NONE, &o.dry_run,
          "print what would be done, and the new command line", NULL },
        { "timeout", 0, 0, G_OPTION_ARG_INT, &o.timeout,
          "give up a migration that takes longer (300)", "SECONDS" },
        { "target-arg", 0, 0, G_OPTION_ARG_STRING_ARRAY, &o.changes,
          "replace an argument; =NEW adds one; OLD= or -NAME= removes an "
          "option",
          "OLD=NEW" },
        { "resume", 0, 0, G_OPTION_ARG_NONE, &o.resume,
          "end an update that was interrupted", NULL },
        { "all", 0, 0, G_OPTION_ARG_FILENAME, &o.all,
          "update the guests of all these QMP sockets", "DIR|PATTERN" },
        { "parallel", 0, 0, G_OPTION_ARG_INT, &o.parallel,
          "with --all: so many at once (1)", "N" },
        { "keep-going", 0, 0, G_OPTION_ARG_NONE, &o.keep_going,
          "with --all: go on after a failure", NULL },
        { "json", 'j', 0, G_OPTION_ARG_NONE, &o.json,
          "print the result as JSON", NULL },
        { "quiet", 'q', 0, G_OPTION_ARG_NONE, &o.quiet,
          "print errors only", NULL },
        G_OPTION_ENTRY_NULL
    };
    const char *problem;
    int status;

    if (!parse_options(&argc, &argv, entries, usage)) {
        return STATUS_ERROR;
    }
    problem = check_options(&o, argc);
    status = problem ? fail_usage(problem, usage) :
             o.all ? update_all(&o) : update_one(&o);
    g_free(o.qmp);
    g_free(o.qemu);
    g_free(o.all);
    g_strfreev(o.changes);
    return status;
}
