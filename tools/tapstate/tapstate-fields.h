/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The JSON of a device as a flat list of fields, to print and to compare
 */
#ifndef TAPSTATE_FIELDS_H
#define TAPSTATE_FIELDS_H

#include <json-glib/json-glib.h>

typedef enum {
    TAPSTATE_FIELD_RESTORABLE,
    TAPSTATE_FIELD_DEVICE,       /* belongs to the device and stays as it is */
    TAPSTATE_FIELD_VOLATILE,     /* changes with the traffic */
} TapstateFieldKind;

typedef struct TapstateField {
    char *name;
    char *value;
    TapstateFieldKind kind;
} TapstateField;

/* Fields of @root, without who holds the queues; GPtrArray of TapstateField */
GPtrArray *tapstate_fields_from_json(JsonNode *root, GError **errp);

/* What 'tapstate show' prints */
char *tapstate_fields_show(JsonNode *root, GError **errp);

/*
 * What 'tapstate diff' prints, and in @differ how many fields that count are
 * not the same. TAPSTATE_FIELD_DEVICE counts if @device.
 */
char *tapstate_fields_diff(JsonNode *before, JsonNode *after, gboolean device,
                           guint *differ, GError **errp);

#endif
