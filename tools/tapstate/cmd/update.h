/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Steps of a live update that a new one, and one that goes on, share
 */
#ifndef TAPSTATE_UPDATE_H
#define TAPSTATE_UPDATE_H

#include "journal.h"
#include "plan.h"

/* Exit statuses of "tapstate update" beside STATUS_OK and STATUS_ERROR */
enum { STATUS_REFUSED = 1, STATUS_STOPPED = 3 };

typedef struct Update {
    const char *socket; /* QMP socket of the guest */
    int timeout; /* of the migration, in seconds */
    bool json, quiet;
    Journal *journal;
    Migration migration; /* its connections to both QEMUs */
    Process *source, *target;
    const Process *place; /* with a root and a working directory */
    Settings former; /* of the target */
    GPtrArray *devices; /* names of TAPs, or NULL */
    GPtrArray *before; /* state of each, or NULL where it is not known */
    gint64 downtime; /* in us, or -1 */
} Update;

/* Become 1 by a signal that asks tapstate to end */
extern volatile int update_interrupted;
void update_catch_signals(void);

/* Refuse a second update of one QEMU, for example by another QMP socket */
bool update_lock(const Journal *journal, GError **errp);

/* From a started target to its guest; go back after an error */
bool update_migrate(Update *u, GError **errp);
bool update_run(Update *u, GError **errp);
/* End the target; the source runs the guest */
bool update_roll_back(Update *u, GError **errp);
/* Give the target the place of the source, and end the source */
void update_finish(Update *u);

/* A path of the command line, as one that connect() takes */
Qmp *update_connect(const Process *place, const char *path, GError **errp);
void update_say(const Update *u, const char *format, ...) G_GNUC_PRINTF(2, 3);
void update_clear(Update *u);

/* summary.c */
void summary_before(Update *u);
void summary_print(Update *u);
/* Print the end of an update that has failed, and return @status */
int summary_fail(const Update *u, int status, GError *err);

/* resume.c */
int update_resume(Update *u);

/* fleet.c */
typedef struct Fleet {
    const char *pattern; /* of QMP sockets, or their directory */
    char **args; /* of "tapstate update" for each */
    int parallel;
    bool keep_going;
} Fleet;

int fleet_update(const Fleet *fleet);

#endif
