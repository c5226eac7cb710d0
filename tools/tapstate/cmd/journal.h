/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Journal of a live update: a file beside the QMP socket
 */
#ifndef TAPSTATE_JOURNAL_H
#define TAPSTATE_JOURNAL_H

#include "migration.h"
#include "process.h"

/* In this order; PHASE_RUN is written before the target is told to run */
typedef enum { PHASE_START, PHASE_MIGRATE, PHASE_RUN } Phase;

typedef struct Journal {
    char *path;
    Phase phase;
    pid_t source, target;
    guint64 source_start, target_start; /* as in struct Process */
    GPtrArray *moves; /* of Move; the target's QMP socket is the first */
    char *channel; /* socket of the migration */
    bool kill_source;
    Settings former; /* of the source */
} Journal;

Journal *journal_new(const char *socket);
/* NULL with an error if it is damaged, without one if there is none */
Journal *journal_read(const char *socket, GError **errp);
bool journal_write(const Journal *journal, GError **errp);
void journal_remove(const Journal *journal);
void journal_free(Journal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Journal, journal_free)

#endif
