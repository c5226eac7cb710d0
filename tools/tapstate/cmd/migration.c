// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A migration between two QEMUs on this host, by QMP
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "migration.h"

#define CANCEL_SECONDS 60
#define REFRESH_MS 200

void settings_clear(Settings *settings)
{
    g_clear_pointer(&settings->capabilities, json_array_unref);
    g_clear_pointer(&settings->parameters, json_object_unref);
}

static bool set_capabilities(Qmp *qmp, JsonArray *array, GError **errp)
{
    JsonObject *args = json_object_new();

    json_object_set_array_member(args, "capabilities", json_array_ref(array));
    return qmp_do(qmp, "migrate-set-capabilities", args, errp);
}

/* All others off: those of an earlier migration may need another channel */
static bool change_capabilities(Qmp *qmp, bool shared, JsonArray *former,
                                GError **errp)
{
    g_autoptr(JsonArray) wanted = json_array_new();

    for (guint i = 0; i < json_array_get_length(former); i++) {
        JsonObject *was = array_object(former, i);
        const char *name = was ? member_string(was, "capability") : NULL;
        JsonObject *now = json_object_new();

        json_object_set_string_member(now, "capability", name ? name : "");
        json_object_set_boolean_member(now, "state",
            !g_strcmp0(name, "events") ||
            (shared && !g_strcmp0(name, "x-ignore-shared")));
        json_array_add_object_element(wanted, now);
    }
    return set_capabilities(qmp, wanted, errp);
}

static void keep(JsonObject *former, JsonObject *all, const char *name)
{
    json_object_set_member(former, name,
                           json_node_copy(json_object_get_member(all, name)));
}

bool settings_read(Qmp *qmp, bool local, Settings *former, GError **errp)
{
    g_autoptr(JsonObject) all = qmp_query(qmp, "query-migrate-parameters", NULL,
                                          errp);
    const char *mode = all ? member_string(all, "mode") : NULL;
    const char *tls = all ? member_string(all, "tls-creds") : NULL;

    former->capabilities = all ? qmp_list(qmp, "query-migrate-capabilities",
                                          NULL, errp) : NULL;
    if (!former->capabilities) {
        return false;
    }
    former->parameters = json_object_new();
    keep(former->parameters, all, "max-bandwidth");
    if (mode && strcmp(mode, "normal")) {
        keep(former->parameters, all, "mode");
    }
    if (tls && *tls) {
        keep(former->parameters, all, "tls-creds");
    }
    if (json_object_has_member(all, "local")) {
        keep(former->parameters, all, "local");
    } else if (local) {
        json_object_set_boolean_member(former->parameters, "local", false);
    }
    return true;
}

/* Without a limit of the bandwidth; the channel is a UNIX socket without TLS */
bool settings_change(Qmp *qmp, bool shared, bool local, const Settings *former,
                     GError **errp)
{
    JsonObject *args;

    if (!change_capabilities(qmp, shared, former->capabilities, errp)) {
        return false;
    }
    args = json_object_new();
    json_object_set_int_member(args, "max-bandwidth", 0);
    if (json_object_has_member(former->parameters, "mode")) {
        json_object_set_string_member(args, "mode", "normal");
    }
    if (json_object_has_member(former->parameters, "tls-creds")) {
        json_object_set_string_member(args, "tls-creds", "");
    }
    if (json_object_has_member(former->parameters, "local")) {
        json_object_set_boolean_member(args, "local", local);
    }
    return qmp_do(qmp, "migrate-set-parameters", args, errp);
}

bool settings_restore(Qmp *qmp, const Settings *former, GError **errp)
{
    return (!former->capabilities ||
            set_capabilities(qmp, former->capabilities, errp)) &&
           (!former->parameters ||
            !json_object_get_size(former->parameters) ||
            qmp_do(qmp, "migrate-set-parameters",
                   json_object_ref(former->parameters), errp));
}

void migration_clear(Migration *migration)
{
    g_clear_pointer(&migration->source_status, g_free);
    g_clear_pointer(&migration->target_status, g_free);
}

static JsonObject *uri_of(const char *path)
{
    JsonObject *args = json_object_new();
    g_autofree char *uri = g_strconcat("unix:", path, NULL);

    json_object_set_string_member(args, "uri", uri);
    return args;
}

/* A target that stays after a failure can be asked for the reason */
static bool listen_on(Qmp *target, const char *path, GError **errp)
{
    JsonObject *args = uri_of(path);

    json_object_set_boolean_member(args, "exit-on-error", false);
    if (qmp_do(target, "migrate-incoming", args, NULL)) {
        return true;
    }
    return qmp_do(target, "migrate-incoming", uri_of(path), errp);
}

bool migration_start(Migration *migration, const char *path, GError **errp)
{
    return listen_on(migration->target, path, errp) &&
           qmp_do(migration->source, "migrate", uri_of(path), errp);
}

gint64 event_time(JsonObject *event)
{
    JsonObject *time = member_object(event, "timestamp");

    return time ? member_int(time, "seconds") * G_USEC_PER_SEC +
                  member_int(time, "microseconds") : 0;
}

static void set_status(char **status, const char *now)
{
    if (now) {
        g_free(*status);
        *status = g_strdup(now);
    }
}

/* Return whether there was one */
static bool take_event(Migration *m, Qmp *qmp, char **status)
{
    g_autoptr(JsonObject) event = qmp_next_event(qmp);
    const char *name = event ? member_string(event, "event") : NULL;
    JsonObject *data = event ? member_object(event, "data") : NULL;

    if (!g_strcmp0(name, "MIGRATION") && data) {
        set_status(status, member_string(data, "status"));
    } else if (!g_strcmp0(name, "STOP") && qmp == m->source) {
        m->stop = event_time(event);
    }
    return event;
}

static void take_events(Migration *m)
{
    while (take_event(m, m->source, &m->source_status)) {
    }
    while (take_event(m, m->target, &m->target_status)) {
    }
}

static void print_progress(JsonObject *info)
{
    JsonObject *ram = member_object(info, "ram");

    if (ram && isatty(STDOUT_FILENO)) {
        printf("\rmigrating: %s, %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT
               " MiB left  ", member_string(info, "status"),
               member_int(ram, "remaining") >> 20,
               member_int(ram, "total") >> 20);
        fflush(stdout);
    }
}

void migration_refresh(Migration *m)
{
    g_autoptr(JsonObject) source = NULL, target = NULL;

    if (m->source && !qmp_is_closed(m->source)) {
        source = qmp_query(m->source, "query-migrate", NULL, NULL);
    }
    if (m->target && !qmp_is_closed(m->target)) {
        target = qmp_query(m->target, "query-migrate", NULL, NULL);
    }
    if (source) {
        set_status(&m->source_status, member_string(source, "status"));
        if (m->progress) {
            print_progress(source);
        }
    }
    if (target) {
        set_status(&m->target_status, member_string(target, "status"));
    }
}

bool migration_completed(const Migration *m)
{
    return !g_strcmp0(m->source_status, "completed") &&
           !g_strcmp0(m->target_status, "completed");
}

static bool has_failed(const char *status)
{
    return !g_strcmp0(status, "failed") || !g_strcmp0(status, "cancelled");
}

/* The target knows best why it refused the stream */
static void set_reason(Migration *m, GError **errp)
{
    Qmp *sides[] = { m->target, m->source };

    for (guint i = 0; i < G_N_ELEMENTS(sides); i++) {
        g_autoptr(JsonObject) info = qmp_is_closed(sides[i]) ? NULL :
            qmp_query(sides[i], "query-migrate", NULL, NULL);
        const char *desc = info ? member_string(info, "error-desc") : NULL;

        if (desc) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                        "the migration failed: %s", desc);
            return;
        }
    }
    g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "the migration "
                "failed: the source says '%s', the target '%s'",
                m->source_status ? m->source_status : "nothing",
                m->target_status ? m->target_status : "nothing");
}

static bool check_sides(Migration *m, GError **errp)
{
    if (has_failed(m->source_status) || has_failed(m->target_status)) {
        set_reason(m, errp);
        return false;
    }
    if (qmp_is_closed(m->target)) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "the target has ended");
        return false;
    }
    /* The target of a source that has ended may have received everything. */
    return true;
}

/* A source that has sent everything may end: nobody needs it any more */
static bool has_arrived(const Migration *m)
{
    return migration_completed(m) ||
           (!g_strcmp0(m->target_status, "completed") &&
            qmp_is_closed(m->source));
}

bool migration_wait(Migration *m, int seconds, const volatile int *give_up,
                    GError **errp)
{
    gint64 end = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
    struct pollfd fds[] = {
        { .fd = qmp_fd(m->source), .events = POLLIN },
        { .fd = qmp_fd(m->target), .events = POLLIN },
    };

    for (;;) {
        take_events(m);
        if (has_arrived(m)) {
            return true;
        }
        if (!check_sides(m, errp)) {
            return false;
        }
        if (*give_up || g_get_monotonic_time() > end) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                        *give_up ? "interrupted" : "the migration has not "
                        "ended in %d s; give it more with --timeout", seconds);
            return false;
        }
        if (qmp_is_closed(m->source)) {
            fds[0].fd = -1;
        }
        if (poll(fds, G_N_ELEMENTS(fds), REFRESH_MS) == 0) {
            migration_refresh(m);
        }
    }
}

void migration_cancel(Migration *m)
{
    static const char *const ended[] = { "none", "completed", "cancelled",
                                         "failed", NULL };
    gint64 end = g_get_monotonic_time() + CANCEL_SECONDS * G_USEC_PER_SEC;

    do {
        g_autoptr(JsonObject) info = qmp_query(m->source, "query-migrate", NULL,
                                               NULL);
        const char *status = info ? member_string(info, "status") : NULL;

        if (!info || !status || g_strv_contains(ended, status)) {
            return;
        }
        qmp_do(m->source, "migrate_cancel", NULL, NULL);
        g_usleep(20000);
    } while (g_get_monotonic_time() < end);
}
