/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fields of the JSON of a device as a flat list, to print and to compare
 */
#ifndef TAPSTATE_FIELDS_H
#define TAPSTATE_FIELDS_H

#include <json-glib/json-glib.h>

typedef enum {
    TAPSTATE_FIELD_RESTORABLE,
    TAPSTATE_FIELD_DEVICE,      /* TUNSETSTATE never sets it */
    TAPSTATE_FIELD_VOLATILE,    /* changes with the traffic */
} TapstateFieldKind;

typedef struct TapstateField {
    char *name;
    char *value;
    TapstateFieldKind kind;
} TapstateField;

/* Return the fields of @root but for the holders; GPtrArray of TapstateField */
GPtrArray *tapstate_fields_from_json(JsonNode *root, GError **errp);

/* Return the output of 'tapstate show' */
char *tapstate_fields_show(JsonNode *root, GError **errp);

/*
 * Return the output of 'tapstate diff', and the number of differences in
 * @differ. Those of kind TAPSTATE_FIELD_DEVICE count only with @device.
 */
char *tapstate_fields_diff(JsonNode *before, JsonNode *after, gboolean device,
                           guint *differ, GError **errp);

#endif
