// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate update --resume: end an update whose tapstate was killed
 *
 * Both QEMUs tell how far it got. Only if the target has ended does the
 * journal decide: the guest may have run there.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "update.h"

#define END_SECONDS 5

static Process *open_if_runs(pid_t pid, guint64 start)
{
    return process_runs(pid, start) ? process_open(pid, NULL) : NULL;
}

/* The socket leads to the target when the files have moved */
static Qmp *connect_source(Update *u)
{
    Qmp *qmp = u->source ? qmp_open(u->socket, NULL) : NULL;

    if (qmp && u->target && qmp_pid(qmp) == u->target->pid) {
        g_clear_pointer(&qmp, qmp_close);
    }
    return qmp;
}

/* A daemon has another pid than the process that was started */
static Qmp *connect_target(Update *u)
{
    const Move *socket = u->journal->moves->pdata[0];
    g_autoptr(GError) err = NULL;
    Qmp *qmp;

    if (!u->place) {
        return NULL;
    }
    qmp = update_connect(u->place, socket->from, &err);
    if (!qmp && u->target) {
        qmp = update_connect(u->place, socket->to, NULL);
        if (qmp && u->source && qmp_pid(qmp) == u->source->pid) {
            g_clear_pointer(&qmp, qmp_close);
        }
    }
    if (qmp && !u->target) {
        u->target = process_open(qmp_pid(qmp), NULL);
    }
    return qmp;
}

static char *status_of(Qmp *qmp)
{
    g_autoptr(JsonObject) status = qmp ? qmp_query(qmp, "query-status", NULL,
                                                   NULL) : NULL;

    return status ? g_strdup(member_string(status, "status")) : NULL;
}

static int finish(Update *u)
{
    update_finish(u);
    summary_print(u);
    return STATUS_OK;
}

static int roll_back(Update *u)
{
    GError *err = NULL;

    if (!update_roll_back(u, &err)) {
        g_prefix_error(&err, "the source does not run the guest: ");
        return summary_fail(u, STATUS_STOPPED, err);
    }
    g_set_error(&err, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                "not updated, process %d still runs the guest",
                (int)u->source->pid);
    return summary_fail(u, STATUS_REFUSED, err);
}

static int stopped(const Update *u, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

static int stopped(const Update *u, const char *format, ...)
{
    GError *err;
    va_list ap;

    va_start(ap, format);
    err = g_error_new_valist(TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, format, ap);
    va_end(ap);
    return summary_fail(u, STATUS_STOPPED, err);
}

static int silent(const Update *u, const char *side, const Process *process)
{
    return stopped(u, "the %s, process %d, does not answer on its QMP socket; "
                   "disconnect other clients, and try again", side,
                   (int)process->pid);
}

/* A process that is being killed takes its time */
static bool ends(const Process *process)
{
    return !process || process_wait(process, END_SECONDS);
}

static int without_target(Update *u)
{
    if (!ends(u->target)) {
        return silent(u, "target", u->target);
    }
    if (!u->source) {
        journal_remove(u->journal);
        return stopped(u, "both QEMUs have ended; start the guest again");
    }
    if (!u->migration.source) {
        return silent(u, "source", u->source);
    }
    if (u->journal->phase == PHASE_RUN) {
        return stopped(u, "the guest may have run in the target, which has "
                       "ended; only if you know that it has not, 'cont' the "
                       "source, and delete %s", u->journal->path);
    }
    return roll_back(u);
}

/* Once told to run the guest, a target keeps it */
static int run_target(Update *u)
{
    bool told = u->journal->phase == PHASE_RUN;
    GError *err = NULL;

    if (update_run(u, &err)) {
        return finish(u);
    }
    if (told || u->journal->phase == PHASE_RUN || !u->migration.source) {
        g_prefix_error(&err, "the target does not run the guest: ");
        return summary_fail(u, STATUS_STOPPED, err);
    }
    g_clear_error(&err);
    return roll_back(u);
}

/*
 * Wait for a migration that is under way. Only a source that cannot resume by
 * itself any more lets the target run: query-migrate is not enough, it may tell
 * how the source has once got the guest.
 */
static bool is_ready(Update *u)
{
    static const char *const active[] = {
        "setup", "active", "pre-switchover", "device", "wait-unplug", NULL
    };
    Migration *m = &u->migration;
    g_autofree char *source = NULL;

    migration_refresh(m);
    if (m->source && m->source_status &&
        g_strv_contains(active, m->source_status)) {
        return migration_wait(m, u->timeout, &update_interrupted, NULL);
    }
    source = status_of(m->source);
    return !g_strcmp0(m->target_status, "completed") &&
           (!u->source || !g_strcmp0(source, "postmigrate"));
}

static int go_on(Update *u)
{
    g_autofree char *status = NULL;

    u->place = u->target ? u->target : u->source;
    u->migration.target = connect_target(u);
    u->migration.source = connect_source(u);
    if (!u->migration.target) {
        return without_target(u);
    }
    u->place = u->target;
    status = status_of(u->migration.target);
    if (!status) {
        return silent(u, "target", u->target);
    }
    if (!strcmp(status, "running") ||
        (u->journal->phase == PHASE_RUN && strcmp(status, "paused"))) {
        return finish(u);
    }
    if (is_ready(u)) {
        return run_target(u);
    }
    if (u->journal->phase == PHASE_RUN) {
        return stopped(u, "the target was told to run the guest, and is paused; "
                       "'cont' it, and try again");
    }
    if (u->migration.source) {
        return roll_back(u);
    }
    if (u->source) {
        return silent(u, "source", u->source);
    }
    return stopped(u, "the source has ended before the target had the guest; "
                   "start the guest again");
}

int update_resume(Update *u)
{
    GError *err = NULL;

    u->journal = journal_read(u->socket, &err);
    if (!u->journal) {
        if (!err) {
            g_set_error(&err, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                        "%s.tapstate: there is no update to resume; see "
                        "'tapstate check --qmp %s'", u->socket, u->socket);
        }
        return summary_fail(u, STATUS_ERROR, err);
    }
    if (!update_lock(u->journal, &err)) {
        return summary_fail(u, STATUS_ERROR, err);
    }
    u->source = open_if_runs(u->journal->source, u->journal->source_start);
    u->target = open_if_runs(u->journal->target, u->journal->target_start);
    return go_on(u);
}
