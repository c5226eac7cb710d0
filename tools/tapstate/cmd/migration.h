/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration between two QEMUs on this host, by QMP
 */
#ifndef TAPSTATE_MIGRATION_H
#define TAPSTATE_MIGRATION_H

#include "qmp.h"

/* Capabilities and parameters as they were */
typedef struct Settings {
    JsonArray *capabilities;
    JsonObject *parameters;
} Settings;

void settings_clear(Settings *settings);

/* Read those that settings_change() changes */
bool settings_read(Qmp *qmp, bool local, Settings *former, GError **errp);
/*
 * Set all that a migration here needs. @shared: do not copy memory in shared
 * files; @local: hand over TAPs.
 */
bool settings_change(Qmp *qmp, bool shared, bool local, const Settings *former,
                     GError **errp);
/* Go back; an error is of no use to the caller */
bool settings_restore(Qmp *qmp, const Settings *former, GError **errp);

typedef struct Migration {
    Qmp *source, *target;
    char *source_status, *target_status; /* of events and query-migrate */
    gint64 stop; /* time of the source's last event STOP, in us, or 0 */
    bool progress; /* print it */
} Migration;

void migration_clear(Migration *migration);
bool migration_start(Migration *migration, const char *path, GError **errp);
/* Wait until both sides have completed; @stop tells that it is to give up */
bool migration_wait(Migration *migration, int seconds,
                    const volatile int *give_up, GError **errp);
/* Ask both sides for their status */
void migration_refresh(Migration *migration);
bool migration_completed(const Migration *migration);
/* Wait until the source has ended the migration one way or the other */
void migration_cancel(Migration *migration);
/* Time of an event in us */
gint64 event_time(JsonObject *event);

#endif
