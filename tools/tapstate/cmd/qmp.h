/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client of QMP
 */
#ifndef TAPSTATE_QMP_H
#define TAPSTATE_QMP_H

#include <stdbool.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>

/* QEMU answered a command with an error, or the connection does not work */
typedef enum { QMP_ERROR_ANSWER, QMP_ERROR_CONNECTION } QmpError;
#define QMP_ERROR qmp_error_quark()
GQuark qmp_error_quark(void);

typedef struct Qmp Qmp;

/* Connect, and leave negotiation mode */
Qmp *qmp_open(const char *path, GError **errp);
/* The same of a socket that is connected; takes @fd. Errors call it @name */
Qmp *qmp_open_fd(int fd, const char *name, GError **errp);
void qmp_close(Qmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qmp, qmp_close)

/* The process that listens on the socket, or 0 */
int qmp_pid(const Qmp *qmp);
int qmp_fd(const Qmp *qmp);
bool qmp_is_closed(const Qmp *qmp);

/* Run a command; takes @args, or NULL. Return the member "return" */
JsonNode *qmp_run(Qmp *qmp, const char *command, JsonObject *args,
                  GError **errp);
/* Run a command of which the answer says nothing */
bool qmp_do(Qmp *qmp, const char *command, JsonObject *args, GError **errp);
/* Run a command that answers with an object */
JsonObject *qmp_query(Qmp *qmp, const char *command, JsonObject *args,
                      GError **errp);
/* Run a command that answers with an array; also NULL for an error */
JsonArray *qmp_list(Qmp *qmp, const char *command, JsonObject *args,
                    GError **errp);

/* The oldest event that was not taken yet, or NULL; does not wait */
JsonObject *qmp_next_event(Qmp *qmp);

/* Return NULL for a member that is missing, or of another type */
const char *member_string(JsonObject *from, const char *member);
JsonObject *member_object(JsonObject *from, const char *member);
gint64 member_int(JsonObject *from, const char *member);
bool member_bool(JsonObject *from, const char *member);
/* Return NULL unless the element is an object */
JsonObject *array_object(JsonArray *array, guint i);

#endif
