// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compare the command line with the guest that QEMU runs
 *
 * Devices, disks and memory may have changed since QEMU was started.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "plan.h"

/* Bytes a second that a guess of the time to copy memory starts from */
#define COPY_RATE (500.0 * (1 << 20))

static void check_status(Plan *plan)
{
    const char *status = plan->source->status;

    if (!g_strcmp0(status, "running")) {
        plan_find(plan, FINDING_OK, "guest", "runs, machine %s",
                  plan->source->machine);
    } else if (!g_strcmp0(status, "postmigrate") ||
               !g_strcmp0(status, "finish-migrate")) {
        plan_find(plan, FINDING_NO, "guest", "was migrated from this QEMU "
                  "(%s); if no other QEMU has run it, 'cont' it first", status);
    } else if (!g_strcmp0(status, "inmigrate")) {
        plan_find(plan, FINDING_NO, "guest", "this QEMU waits for a migration; "
                  "name the socket of the QEMU that runs the guest");
    } else {
        plan_find(plan, FINDING_NO, "guest", "does not run (%s); 'cont' it "
                  "first", status);
    }
}

static void check_blockers(Plan *plan, JsonObject *info)
{
    JsonNode *node = json_object_get_member(info, "blocked-reasons");
    JsonArray *array = node && JSON_NODE_HOLDS_ARRAY(node) ?
                       json_node_get_array(node) : NULL;

    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonNode *reason = json_array_get_element(array, i);

        if (JSON_NODE_HOLDS_VALUE(reason)) {
            plan_find(plan, FINDING_NO, "migration", "%s",
                      json_node_get_string(reason));
        }
    }
}

static void check_migration(Plan *plan)
{
    static const char *const idle[] = { "none", "completed", "cancelled",
                                        "failed", NULL };
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonObject) info = qmp_query(plan->source->qmp, "query-migrate",
                                           NULL, &err);
    const char *status;

    if (!info) {
        plan_find(plan, FINDING_NO, "migration", "%s", err->message);
        return;
    }
    status = member_string(info, "status");
    if (status && !g_strv_contains(idle, status)) {
        plan_find(plan, FINDING_NO, "migration", "one is under way (%s); wait "
                  "for it, or 'migrate_cancel' it", status);
    }
    check_blockers(plan, info);
}

/* Return names of the children of a QOM object, and their types */
static JsonArray *qom_list(Plan *plan, const char *path)
{
    JsonObject *args = json_object_new();
    g_autoptr(GError) err = NULL;
    JsonArray *list;

    json_object_set_string_member(args, "path", path);
    list = qmp_list(plan->source->qmp, "qom-list", args, &err);
    if (!list && err->code == QMP_ERROR_CONNECTION) {
        plan_find(plan, FINDING_NO, "devices", "%s", err->message);
    }
    return list;
}

static bool is_child(JsonObject *property)
{
    const char *type = member_string(property, "type");

    return type && g_str_has_prefix(type, "child<");
}

bool plan_in_line(const Plan *plan, const char *name, const char *id)
{
    for (guint i = 0; i < plan->source->options->len; i++) {
        const Option *o = plan->source->options->pdata[i];
        g_auto(Props) props = { 0 };

        if (!o->value || g_strcmp0(o->name, name)) {
            continue;
        }
        props = props_parse(o->value, "driver");
        if (props_is(&props, "id", id)) {
            return true;
        }
    }
    return false;
}

static bool has_child(JsonArray *list, const char *id)
{
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *property = array_object(list, i);

        if (property && !g_strcmp0(member_string(property, "name"), id)) {
            return true;
        }
    }
    return false;
}

void plan_find_added(Plan *plan, const char *option, const char *id)
{
    plan_find(plan, FINDING_NO, id, "was added after the start; give its "
              "arguments by --target-arg =-%s --target-arg =ARGUMENTS", option);
}

/* Devices and objects with an id that came after the start */
static void check_added(Plan *plan, JsonArray *list, const char *option)
{
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *property = array_object(list, i);
        const char *name = property ? member_string(property, "name") : NULL;

        if (!name || !is_child(property) || plan_in_line(plan, option, name)) {
            continue;
        }
        if (g_str_has_suffix(name, ".ram") ||
            strstr(member_string(property, "type"), "throttle-group")) {
            continue;
        }
        plan_find_added(plan, option, name);
    }
}

static void check_removed(Plan *plan, JsonArray *list, const char *option,
                          guint *unnamed)
{
    for (guint i = 0; i < plan->source->options->len; i++) {
        const Option *o = plan->source->options->pdata[i];
        g_auto(Props) props = { 0 };
        g_autofree char *id = NULL;

        if (g_strcmp0(o->name, option) || !o->value || o->given) {
            continue;
        }
        props = props_parse(o->value, "driver");
        id = props_get(&props, "id");
        *unnamed += !id;
        if (id && !has_child(list, id)) {
            plan_find(plan, FINDING_NO, id, "was removed after the start; "
                      "remove it by --target-arg");
        }
    }
}

/* Devices without id of other options than -device */
static guint count_implied(const Plan *plan)
{
    guint n = 0;

    for (guint i = 0; i < plan->source->options->len; i++) {
        const Option *o = plan->source->options->pdata[i];
        g_auto(Props) props = { 0 };

        if (!o->value) {
            continue;
        }
        props = props_parse(o->value, NULL);
        n += (!g_strcmp0(o->name, "drive") && props_is(&props, "if", "virtio"))
             || !g_strcmp0(o->name, "usbdevice") ||
             !g_strcmp0(o->name, "virtfs");
    }
    return n;
}

static void check_devices(Plan *plan)
{
    g_autoptr(JsonArray) named = qom_list(plan, "/machine/peripheral");
    g_autoptr(JsonArray) others = qom_list(plan, "/machine/peripheral-anon");
    guint expected = 0, found = 0, implied = count_implied(plan);

    if (!named || !others) {
        return;
    }
    check_added(plan, named, "device");
    check_removed(plan, named, "device", &expected);
    for (guint i = 0; i < json_array_get_length(others); i++) {
        JsonObject *property = array_object(others, i);

        found += property && is_child(property);
    }
    if (found < expected || found > expected + implied) {
        plan_find(plan, FINDING_NO, "devices", "%u devices without id, and the "
                  "command line has %u: they were added or removed after the "
                  "start; give devices an id", found, expected + implied);
    }
}

static void check_objects(Plan *plan)
{
    g_autoptr(JsonArray) list = qom_list(plan, "/objects");
    guint unnamed = 0;

    if (list) {
        check_added(plan, list, "object");
        check_removed(plan, list, "object", &unnamed);
    }
}

static bool find_in_line(const Plan *plan, const char *file)
{
    for (guint i = 0; i < plan->source->options->len; i++) {
        const Option *o = plan->source->options->pdata[i];
        const char *at = o->value ? strstr(o->value, file) : NULL;

        for (; at; at = strstr(at + 1, file)) {
            char before = at == o->value ? '=' : at[-1];
            char after = at[strlen(file)];

            if (strchr("=:\",", before) && (!after || strchr(",\"", after))) {
                return true;
            }
        }
    }
    return false;
}

/* Whether an argument names the file, as a whole or as a member */
static bool file_in_line(const Plan *plan, const char *name)
{
    g_auto(GStrv) parts = g_strsplit(name, ",", -1);
    g_autofree char *escaped = g_strjoinv(",,", parts);

    return find_in_line(plan, name) || find_in_line(plan, escaped);
}

/* Files in a description of an image that has no simple name */
static bool files_in_line(const Plan *plan, JsonNode *node)
{
    g_autoptr(GList) members = NULL;
    JsonObject *object;

    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        return true;
    }
    object = json_node_get_object(node);
    members = json_object_get_members(object);
    for (GList *m = members; m; m = m->next) {
        JsonNode *member = json_object_get_member(object, m->data);
        const char *text = member_string(object, m->data);

        if ((!strcmp(m->data, "filename") && text &&
             !file_in_line(plan, text)) || !files_in_line(plan, member)) {
            return false;
        }
    }
    return true;
}

static bool image_in_line(const Plan *plan, const char *file)
{
    g_autoptr(JsonNode) node = g_str_has_prefix(file, "json:") ?
        json_from_string(file + strlen("json:"), NULL) : NULL;

    return node ? files_in_line(plan, node) : file_in_line(plan, file);
}

static void check_disk(Plan *plan, JsonObject *block)
{
    JsonObject *inserted = member_object(block, "inserted");
    JsonObject *image = inserted ? member_object(inserted, "image") : NULL;
    const char *file = image ? member_string(image, "filename") : NULL;
    const char *device = member_string(block, "device");
    const char *name = device && *device ? device :
                       member_string(block, "qdev");
    g_autofree char *item = g_strdup_printf("disk %s", name ? name : "");

    if (!file) {
        return;
    }
    if (image_in_line(plan, file)) {
        plan_find(plan, FINDING_OK, item, "%s: moves when the guest stops",
                  file);
    } else {
        plan_find(plan, FINDING_NO, item, "QEMU uses %s, which its command "
                  "line does not name: a snapshot or a new medium; name it by "
                  "--target-arg OLD=NEW", file);
    }
}

static void check_disks(Plan *plan)
{
    g_autoptr(JsonArray) blocks = qmp_list(plan->source->qmp, "query-block",
                                           NULL, NULL);
    g_autoptr(JsonArray) jobs = qmp_list(plan->source->qmp, "query-block-jobs",
                                         NULL, NULL);

    for (guint i = 0; blocks && i < json_array_get_length(blocks); i++) {
        JsonObject *block = array_object(blocks, i);

        if (block) {
            check_disk(plan, block);
        }
    }
    if (jobs && json_array_get_length(jobs)) {
        plan_find(plan, FINDING_NO, "disks", "a block job runs; wait for it, "
                  "or cancel it");
    }
}

/* On btrfs and overlayfs, "maps" has another device than stat() */
static bool maps_file(pid_t pid, const char *line, const struct stat *st)
{
    g_autofree char *range = g_strndup(line, strcspn(line, " "));
    g_autofree char *path = g_strdup_printf("/proc/%d/map_files/%s", (int)pid,
                                            range);
    struct stat mapped;

    return stat(path, &mapped) == 0 && mapped.st_dev == st->st_dev &&
           mapped.st_ino == st->st_ino;
}

/* Whether the source has mapped the file that this path names now */
static bool is_mapped(const Plan *plan, const struct stat *st)
{
    pid_t pid = plan->source->process->pid;
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)pid);
    g_autofree char *maps = NULL;
    g_autofree char *wanted =
        g_strdup_printf(" %02x:%02x %lu ", major(st->st_dev),
                        minor(st->st_dev), (unsigned long)st->st_ino);
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(path, &maps, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(maps, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (strstr(*line, wanted) ||
            (strchr(*line, '/') && maps_file(pid, *line, st))) {
            return true;
        }
    }
    return false;
}

static bool check_memory_file(Plan *plan, const char *file)
{
    g_autofree char *path = process_path(plan->source->process, file);
    struct stat st;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        return false;
    }
    if (stat(path, &st) < 0 || !is_mapped(plan, &st)) {
        plan_find(plan, FINDING_NO, "memory", "%s is not the file that QEMU "
                  "has mapped: it was deleted or replaced; restart the guest",
                  file);
    }
    return true;
}

/* In a directory each QEMU makes a file of its own */
static void check_memory_files(Plan *plan)
{
    guint shared = 0, own = 0;

    for (guint i = 0; i < plan->source->options->len; i++) {
        const Option *o = plan->source->options->pdata[i];
        g_auto(Props) props = { 0 };
        g_autofree char *file = NULL;

        if (g_strcmp0(o->name, "object") || !o->value) {
            continue;
        }
        props = props_parse(o->value, "qom-type");
        file = props_get(&props, "mem-path");
        if (!file || !props_is(&props, "share", "on") ||
            !props_is(&props, "qom-type", "memory-backend-file")) {
            continue;
        }
        *(check_memory_file(plan, file) ? &shared : &own) += 1;
    }
    if (shared && own) {
        plan_find(plan, FINDING_NO, "memory", "mem-path= is a directory for "
                  "one memory backend, and a file for another; use files");
    }
    plan->ignore_shared = shared;
}

static void check_memory(Plan *plan)
{
    g_autoptr(JsonObject) sizes = qmp_query(plan->source->qmp,
                                            "query-memory-size-summary", NULL,
                                            NULL);
    gint64 bytes = sizes ? member_int(sizes, "base-memory") +
                           member_int(sizes, "plugged-memory") : 0;
    gint64 mib = bytes >> 20;

    check_memory_files(plan);
    if (plan->ignore_shared) {
        plan_find(plan, FINDING_OK, "memory", "%" G_GINT64_FORMAT " MiB, in a "
                  "shared file: not copied", mib);
    } else {
        plan_find(plan, FINDING_NOTE, "memory", "%" G_GINT64_FORMAT " MiB: "
                  "copied while the guest runs, in about %.0f s", mib,
                  1 + bytes / COPY_RATE);
    }
}

void plan_check_vm(Plan *plan)
{
    check_status(plan);
    check_migration(plan);
    check_devices(plan);
    check_objects(plan);
    check_disks(plan);
    check_memory(plan);
    plan_check_added(plan);
}
