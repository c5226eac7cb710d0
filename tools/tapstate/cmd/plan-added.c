// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Find what the source got over QMP, and the target would not have: netdevs,
 * chardevs, exports, bitmaps and limits of disks
 */
#include <string.h>

#include "plan.h"

static JsonArray *ask(const Plan *plan, const char *command)
{
    return qmp_list(plan->source->qmp, command, NULL, NULL);
}

/* Chardevs that options other than -chardev make, such as serial0 */
static bool is_implied(const char *label)
{
    static const char *const names[] = {
        "serial", "parallel", "compat_monitor", "gdb", "debugcon", "vc", "#"
    };

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        if (g_str_has_prefix(label, names[i])) {
            return true;
        }
    }
    return false;
}

static void check_chardevs(Plan *plan)
{
    g_autoptr(JsonArray) list = ask(plan, "query-chardev");

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *chardev = array_object(list, i);
        const char *label = chardev ? member_string(chardev, "label") : NULL;

        if (label && !is_implied(label) &&
            !plan_in_line(plan, "chardev", label)) {
            plan_find_added(plan, "chardev", label);
        }
    }
}

/* QEMU calls a netdev without id "#net001" */
static void check_netdevs(Plan *plan)
{
    g_auto(GStrv) ids = netdevs_ids(plan->source->netdevs);

    for (char **id = ids; *id; id++) {
        if (**id != '#' && !plan_in_line(plan, "netdev", *id) &&
            !plan_in_line(plan, "nic", *id)) {
            plan_find_added(plan, "netdev", *id);
        }
    }
}

/* No option makes an export */
static void check_exports(Plan *plan)
{
    g_autoptr(JsonArray) list = ask(plan, "query-block-exports");

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *export = array_object(list, i);
        const char *id = export ? member_string(export, "id") : NULL;
        g_autofree char *item = g_strdup_printf("export %s", id ? id : "");

        plan_find(plan, FINDING_NO, item, "the target would not have it; "
                  "'block-export-del' it, and add it again afterwards");
    }
}

/* One that the image keeps moves with it */
static void check_bitmaps(Plan *plan, const char *item, JsonObject *inserted)
{
    JsonNode *node = json_object_get_member(inserted, "dirty-bitmaps");
    JsonArray *list = node && JSON_NODE_HOLDS_ARRAY(node) ?
                      json_node_get_array(node) : NULL;

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *bitmap = array_object(list, i);

        if (bitmap && !member_bool(bitmap, "persistent")) {
            plan_find(plan, FINDING_NO, item, "the target would not have the "
                      "bitmap '%s', which is not persistent; "
                      "'block-dirty-bitmap-remove' it, and make a full backup "
                      "afterwards", member_string(bitmap, "name"));
        }
    }
}

static bool line_limits(const Plan *plan)
{
    for (guint i = 0; i < plan->source->options->len; i++) {
        const Option *o = plan->source->options->pdata[i];

        if (o->value && (strstr(o->value, "throttl") ||
                         strstr(o->value, "bps") || strstr(o->value, "iops"))) {
            return true;
        }
    }
    return false;
}

/* Limits in the command line may be others: that is not for an update to judge */
static void check_limits(Plan *plan, const char *item, JsonObject *inserted)
{
    static const char *const limits[] = {
        "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"
    };

    for (guint i = 0; i < G_N_ELEMENTS(limits); i++) {
        if (member_int(inserted, limits[i]) && !line_limits(plan)) {
            plan_find(plan, FINDING_NO, item, "its limit %s was set after the "
                      "start; add it to -drive by --target-arg OLD=NEW, or "
                      "remove it by 'block_set_io_throttle'", limits[i]);
            return;
        }
    }
}

static void check_disks(Plan *plan)
{
    g_autoptr(JsonArray) blocks = ask(plan, "query-block");

    for (guint i = 0; blocks && i < json_array_get_length(blocks); i++) {
        JsonObject *block = array_object(blocks, i);
        JsonObject *inserted = block ? member_object(block, "inserted") : NULL;
        const char *device = inserted ? member_string(block, "device") : NULL;
        g_autofree char *item = g_strdup_printf("disk %s",
            device && *device ? device :
            inserted && member_string(block, "qdev") ?
            member_string(block, "qdev") : "");

        if (inserted) {
            check_bitmaps(plan, item, inserted);
            check_limits(plan, item, inserted);
        }
    }
}

void plan_check_added(Plan *plan)
{
    check_chardevs(plan);
    check_netdevs(plan);
    check_exports(plan);
    check_disks(plan);
}
