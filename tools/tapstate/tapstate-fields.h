/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The JSON of a device as a flat list of fields, to print and to compare
 */
#ifndef TAPSTATE_FIELDS_H
#define TAPSTATE_FIELDS_H

#include <json-glib/json-glib.h>

typedef enum {
    FIELD_RESTORABLE,
    FIELD_DEVICE,       /* belongs to the device and stays as it is */
    FIELD_VOLATILE,     /* changes with the traffic */
} FieldKind;

typedef struct Field {
    char *name;
    char *value;
    FieldKind kind;
} Field;

/* Fields of @root, without who holds the queues; GPtrArray of Field */
GPtrArray *fields_from_json(JsonNode *root, GError **errp);

/* What 'tapstate show' prints */
char *fields_show(JsonNode *root, GError **errp);

/*
 * What 'tapstate diff' prints, and in @differ how many fields that count are
 * not the same. FIELD_DEVICE counts if @device.
 */
char *fields_diff(JsonNode *before, JsonNode *after, gboolean device,
                  guint *differ, GError **errp);

#endif
