// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Journal of a live update, for "tapstate update --resume"
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include "journal.h"
#include "plan.h"

static const char *const phases[] = { "start", "migrate", "run" };

void journal_free(Journal *j)
{
    settings_clear(&j->former);
    g_clear_pointer(&j->moves, g_ptr_array_unref);
    g_free(j->channel);
    g_free(j->path);
    g_free(j);
}

void move_free(Move *move)
{
    g_free(move->from);
    g_free(move->to);
    g_free(move);
}

Journal *journal_new(const char *socket)
{
    Journal *j = g_new0(Journal, 1);

    j->path = g_strconcat(socket, ".tapstate", NULL);
    j->moves = g_ptr_array_new_with_free_func((GDestroyNotify)move_free);
    return j;
}

static JsonObject *to_json(const Journal *j)
{
    JsonObject *o = json_object_new();
    JsonArray *moves = json_array_new();

    for (guint i = 0; i < j->moves->len; i++) {
        const Move *move = j->moves->pdata[i];
        JsonObject *m = json_object_new();

        json_object_set_string_member(m, "from", move->from);
        json_object_set_string_member(m, "to", move->to);
        json_array_add_object_element(moves, m);
    }
    json_object_set_string_member(o, "phase", phases[j->phase]);
    json_object_set_int_member(o, "source", j->source);
    json_object_set_int_member(o, "source-start", j->source_start);
    json_object_set_int_member(o, "target", j->target);
    json_object_set_int_member(o, "target-start", j->target_start);
    json_object_set_array_member(o, "moves", moves);
    json_object_set_string_member(o, "channel", j->channel ? j->channel : "");
    json_object_set_boolean_member(o, "kill-source", j->kill_source);
    if (j->former.capabilities) {
        json_object_set_array_member(o, "capabilities",
                                     json_array_ref(j->former.capabilities));
    }
    if (j->former.parameters) {
        json_object_set_object_member(o, "parameters",
                                      json_object_ref(j->former.parameters));
    }
    return o;
}

/* Neither half a file nor a wait for a disk: the guest may be stopped now */
bool journal_write(const Journal *j, GError **errp)
{
    g_autoptr(JsonObject) object = to_json(j);
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    g_autofree char *text = json_to_string(node, true);
    g_autofree char *new = g_strconcat(j->path, ".new", NULL);

    if (!g_file_set_contents_full(new, text, -1, G_FILE_SET_CONTENTS_NONE, 0600,
                                  errp)) {
        return false;
    }
    if (rename(new, j->path) < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "%s: %s",
                    j->path, g_strerror(errno));
        return false;
    }
    return true;
}

void journal_remove(const Journal *j)
{
    unlink(j->path);
}

static bool read_moves(Journal *j, JsonArray *array)
{
    for (guint i = 0; i < json_array_get_length(array); i++) {
        JsonObject *m = array_object(array, i);
        const char *from = m ? member_string(m, "from") : NULL;
        const char *to = m ? member_string(m, "to") : NULL;
        Move *move;

        if (!from || !to) {
            return false;
        }
        move = g_new0(Move, 1);
        move->from = g_strdup(from);
        move->to = g_strdup(to);
        g_ptr_array_add(j->moves, move);
    }
    return j->moves->len;
}

static bool from_json(Journal *j, JsonObject *o)
{
    const char *phase = member_string(o, "phase");
    const char *channel = member_string(o, "channel");
    JsonNode *moves = json_object_get_member(o, "moves");
    JsonNode *caps = json_object_get_member(o, "capabilities");
    JsonObject *parameters = member_object(o, "parameters");

    while (g_strcmp0(phase, phases[j->phase])) {
        if (++j->phase == G_N_ELEMENTS(phases)) {
            return false;
        }
    }
    j->source = member_int(o, "source");
    j->source_start = member_int(o, "source-start");
    j->target = member_int(o, "target");
    j->target_start = member_int(o, "target-start");
    j->channel = g_strdup(channel);
    j->kill_source = member_bool(o, "kill-source");
    if (caps && JSON_NODE_HOLDS_ARRAY(caps)) {
        j->former.capabilities = json_node_dup_array(caps);
    }
    j->former.parameters = parameters ? json_object_ref(parameters) : NULL;
    return channel && moves && JSON_NODE_HOLDS_ARRAY(moves) &&
           read_moves(j, json_node_get_array(moves));
}

Journal *journal_read(const char *socket, GError **errp)
{
    g_autoptr(Journal) j = journal_new(socket);
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;
    struct stat st;

    if (lstat(j->path, &st) == 0 &&
        (!S_ISREG(st.st_mode) || st.st_mode & 022 ||
         (st.st_uid && st.st_uid != geteuid()))) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "%s: another user may have written it; look which QEMU runs "
                    "the guest, and delete the file", j->path);
        return NULL;
    }
    if (!g_file_get_contents(j->path, &text, NULL, &err)) {
        if (!g_error_matches(err, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
            g_propagate_error(errp, g_steal_pointer(&err));
        }
        return NULL;
    }
    node = json_from_string(text, NULL);
    if (!node || !JSON_NODE_HOLDS_OBJECT(node) ||
        !from_json(j, json_node_get_object(node))) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT,
                    "%s: not the journal of a live update; look which QEMU runs "
                    "the guest, and delete the file", j->path);
        return NULL;
    }
    return g_steal_pointer(&j);
}
