// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Steps of a live update
 *
 * Until the target runs the guest, each failure ends the target and leaves the
 * guest to the source. From then on, each step only tidies up.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "unit.h"
#include "update.h"

#define END_SECONDS 30

volatile int update_interrupted;

static void interrupt(int number)
{
    (void)number;
    update_interrupted = 1;
}

void update_catch_signals(void)
{
    struct sigaction action = { .sa_handler = interrupt };

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

void update_say(const Update *u, const char *format, ...)
{
    va_list ap;

    if (u->json || u->quiet) {
        return;
    }
    if (isatty(STDOUT_FILENO)) {
        fputs("\r\033[K", stdout);
    }
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

/* The kernel frees the name when this process ends */
bool update_lock(const Journal *journal, GError **errp)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int n = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1,
                     "tapstate-update-%d-%" G_GUINT64_FORMAT,
                     (int)journal->source, journal->source_start);

    if (fd >= 0 && bind(fd, (struct sockaddr *)&address,
                        offsetof(struct sockaddr_un, sun_path) + 1 + n) == 0) {
        return true;
    }
    g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "another tapstate "
                "updates process %d: %s; wait for it", (int)journal->source,
                g_strerror(errno));
    if (fd >= 0) {
        close(fd);
    }
    return false;
}

void update_clear(Update *u)
{
    g_clear_pointer(&u->migration.source, qmp_close);
    g_clear_pointer(&u->migration.target, qmp_close);
    migration_clear(&u->migration);
    settings_clear(&u->former);
    g_clear_pointer(&u->source, process_free);
    g_clear_pointer(&u->target, process_free);
    g_clear_pointer(&u->journal, journal_free);
    g_clear_pointer(&u->before, g_ptr_array_unref);
}

/* The path of a socket is too long for connect() with a directory ahead */
Qmp *update_connect(const Process *place, const char *path, GError **errp)
{
    g_autofree char *there = process_path(place, path);
    g_autofree char *self = NULL;
    int fd = open(there, O_PATH | O_CLOEXEC);
    Qmp *qmp;

    if (fd < 0) {
        g_set_error(errp, QMP_ERROR, QMP_ERROR_CONNECTION, "%s: %s", path,
                    g_strerror(errno));
        return NULL;
    }
    self = g_strdup_printf("/proc/self/fd/%d", fd);
    qmp = qmp_open(self, errp);
    close(fd);
    return qmp;
}

bool update_migrate(Update *u, GError **errp)
{
    Migration *m = &u->migration;

    u->journal->phase = PHASE_MIGRATE;
    if (!journal_write(u->journal, errp)) {
        return false;
    }
    summary_before(u);
    if (!migration_start(m, u->journal->channel, errp)) {
        /* Another one may be under way: it is not ours to cancel. */
        u->journal->phase = PHASE_START;
        return false;
    }
    return migration_wait(m, u->timeout, &update_interrupted, errp);
}

static bool is_paused(Qmp *qmp)
{
    g_autoptr(JsonObject) status = qmp_query(qmp, "query-status", NULL, NULL);

    return status && !g_strcmp0(member_string(status, "status"), "paused");
}

static void take_downtime(Update *u)
{
    g_autoptr(JsonObject) event = NULL;

    u->downtime = -1;
    while ((event = qmp_next_event(u->migration.target))) {
        if (!g_strcmp0(member_string(event, "event"), "RESUME") &&
            u->migration.stop) {
            u->downtime = event_time(event) - u->migration.stop;
        }
        g_clear_pointer(&event, json_object_unref);
    }
}

/* Write to the journal first: from then on the source must not run the guest */
bool update_run(Update *u, GError **errp)
{
    GError *err = NULL;

    u->journal->phase = PHASE_RUN;
    if (!journal_write(u->journal, errp)) {
        u->journal->phase = PHASE_MIGRATE;
        return false;
    }
    if (!qmp_do(u->migration.target, "cont", NULL, &err)) {
        /* Only a clear "no" lets the source run the guest again. */
        if (err->code == QMP_ERROR_ANSWER && is_paused(u->migration.target)) {
            u->journal->phase = PHASE_MIGRATE;
        }
        g_propagate_error(errp, err);
        return false;
    }
    take_downtime(u);
    return true;
}

static void remove_path(const Update *u, const char *path)
{
    g_autofree char *there = process_path(u->place, path);

    unlink(there);
}

static void end_target(Update *u)
{
    Migration *m = &u->migration;

    if (m->target && !qmp_is_closed(m->target)) {
        qmp_do(m->target, "quit", NULL, NULL);
    }
    if (u->target && !process_wait(u->target, m->target ? END_SECONDS : 0)) {
        process_kill(u->target, SIGKILL);
        process_wait(u->target, END_SECONDS);
    }
}

/* Wait until the source has resumed by itself, or resume it */
static bool resume_source(Update *u, GError **errp)
{
    Qmp *qmp = u->migration.source;
    g_autoptr(JsonObject) status = NULL;

    migration_cancel(&u->migration);
    status = qmp_query(qmp, "query-status", NULL, errp);
    if (!status) {
        return false;
    }
    return member_bool(status, "running") || qmp_do(qmp, "cont", NULL, errp);
}

static void restore_settings(Qmp *qmp, const Settings *former, const char *side)
{
    g_autoptr(GError) err = NULL;

    if (qmp && !settings_restore(qmp, former, &err)) {
        fprintf(stderr, "tapstate: the %s keeps other migration settings than "
                "before: %s; the guest runs, set them with "
                "'migrate-set-capabilities' and 'migrate-set-parameters'\n",
                side, err->message);
    }
}

bool update_roll_back(Update *u, GError **errp)
{
    Migration *m = &u->migration;
    bool migrated = u->journal->phase != PHASE_START, ok;

    if (migrated && m->source && !qmp_is_closed(m->source)) {
        /* It may send right now: let it not wait for a target that is gone. */
        qmp_do(m->source, "migrate_cancel", NULL, NULL);
    }
    end_target(u);
    ok = !migrated || resume_source(u, errp);
    restore_settings(m->source, &u->journal->former, "source");
    for (guint i = 0; i < u->journal->moves->len; i++) {
        remove_path(u, ((Move *)u->journal->moves->pdata[i])->from);
    }
    remove_path(u, u->journal->channel);
    if (ok) {
        journal_remove(u->journal);
    }
    return ok;
}

/* The source removes its files when it ends: keep another link to the new one */
static void publish(const Update *u, const Move *move)
{
    g_autofree char *from = process_path(u->place, move->from);
    g_autofree char *to = process_path(u->place, move->to);
    g_autofree char *link_path = g_strconcat(from, ".link", NULL);

    unlink(link_path);
    if (link(from, link_path) == 0) {
        rename(link_path, to);
        /* rename() leaves both names of a file that has moved before. */
        unlink(link_path);
    }
}

/* Some file systems have no links: then the new file has only its own name */
static void settle(const Update *u, const Move *move)
{
    g_autofree char *from = process_path(u->place, move->from);
    g_autofree char *to = process_path(u->place, move->to);
    struct stat a, b;

    if (lstat(from, &a) < 0) {
        return;
    }
    if (lstat(to, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino) {
        unlink(from);
    } else if (rename(from, to) < 0) {
        g_autofree char *name = printable(move->from, false);

        fprintf(stderr, "tapstate: %s: %s; the guest runs, and the file keeps "
                "this name: rename it\n", name, g_strerror(errno));
    }
}

/* A unit with PIDFile= needs it, too: the source removes that file at its end */
static void notify_systemd(const Update *u)
{
    if (!unit_notify(u->source, u->target->pid)) {
        g_printerr("tapstate: cannot tell systemd the new main process\n");
    }
}

static void end_source(Update *u)
{
    Migration *m = &u->migration;

    if (u->journal->kill_source) {
        process_kill(u->source, SIGKILL);
    } else if (m->source && !qmp_is_closed(m->source)) {
        qmp_do(m->source, "quit", NULL, NULL);
    } else {
        process_kill(u->source, SIGTERM);
    }
    if (!process_wait(u->source, END_SECONDS)) {
        process_kill(u->source, SIGKILL);
        process_wait(u->source, END_SECONDS);
    }
}

void update_finish(Update *u)
{
    GPtrArray *moves = u->journal->moves;

    for (guint i = 0; i < moves->len; i++) {
        publish(u, moves->pdata[i]);
    }
    if (u->source) {
        notify_systemd(u);
        end_source(u);
    }
    for (guint i = 0; i < moves->len; i++) {
        settle(u, moves->pdata[i]);
    }
    remove_path(u, u->journal->channel);
    restore_settings(u->migration.target, u->former.capabilities ? &u->former :
                     &u->journal->former, "target");
    journal_remove(u->journal);
}
