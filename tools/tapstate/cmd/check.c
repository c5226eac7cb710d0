// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate check: find out if a live update will work
 */
#include <stdio.h>
#include <string.h>

#include "findings.h"

static const char *const levels[] = { "ok", "note", "no" };

void findings_print(const Plan *plan, FindingLevel level)
{
    g_autoptr(GPtrArray) rows = table_new();
    g_autofree char *text = NULL;

    for (guint i = 0; i < plan->findings->len; i++) {
        const Finding *f = plan->findings->pdata[i];
        g_autofree char *item = printable(f->item, false);
        g_autofree char *words = printable(f->text, false);

        if (f->level >= level) {
            table_add(rows, levels[f->level], item, words, NULL);
        }
    }
    text = table_text(rows, 3);
    fputs(text, stdout);
}

void findings_print_json(const Plan *plan, FindingLevel level)
{
    g_autoptr(JsonObject) o = json_object_new();
    JsonArray *array = json_array_new();
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), o);
    g_autofree char *text = NULL;

    for (guint i = 0; i < plan->findings->len; i++) {
        const Finding *f = plan->findings->pdata[i];
        JsonObject *finding = json_object_new();
        g_autofree char *item = printable(f->item, true);
        g_autofree char *words = printable(f->text, true);

        if (f->level < level) {
            json_object_unref(finding);
            continue;
        }
        json_object_set_string_member(finding, "level", levels[f->level]);
        json_object_set_string_member(finding, "item", item);
        json_object_set_string_member(finding, "text", words);
        json_array_add_object_element(array, finding);
    }
    json_object_set_boolean_member(o, "ready", !plan_refusals(plan));
    json_object_set_array_member(o, "findings", array);
    text = json_to_string(node, false);
    puts(text);
}

const char *findings_first(const Plan *plan)
{
    for (guint i = 0; i < plan->findings->len; i++) {
        const Finding *f = plan->findings->pdata[i];

        if (f->level == FINDING_NO) {
            return f->text;
        }
    }
    return NULL;
}

static Plan *make_plan(const char *qmp, int pid, const char *qemu,
                       Source **source, GError **errp)
{
    g_autofree char *found = NULL;

    if (!qmp && !pid) {
        return plan_make(NULL, qemu ? qemu : "qemu-system-x86_64", NULL, errp);
    }
    if (!qmp) {
        qmp = found = source_find_socket(pid, errp);
    }
    *source = qmp ? source_open(qmp, pid, errp) : NULL;
    return *source ? plan_make(*source, qemu, NULL, errp) : NULL;
}

int cmd_check(int argc, char **argv, const char *usage)
{
    gboolean json = false;
    g_autofree char *qmp = NULL, *qemu = NULL;
    int pid = 0;
    const GOptionEntry entries[] = {
        { "json", 'j', 0, G_OPTION_ARG_NONE, &json, "print JSON", NULL },
        { "qmp", 0, 0, G_OPTION_ARG_FILENAME, &qmp,
          "check the guest of the QEMU with this QMP socket", "SOCKET" },
        { "pid", 0, 0, G_OPTION_ARG_INT, &pid,
          "check the guest of this QEMU", "PID" },
        { "qemu", 0, 0, G_OPTION_ARG_FILENAME, &qemu,
          "the new QEMU; without it, the path of the running one", "BINARY" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(Source) source = NULL;
    g_autoptr(Plan) plan = NULL;
    GError *err = NULL;

    if (!parse_options(&argc, &argv, entries, usage)) {
        return STATUS_ERROR;
    }
    if (argc != 1 || pid < 0) {
        return fail_usage("check takes --qmp SOCKET or --pid PID", usage);
    }
    plan = make_plan(qmp, pid, qemu, &source, &err);
    if (!plan) {
        return fail(err);
    }
    (json ? findings_print_json : findings_print)(plan, FINDING_OK);
    return plan_refusals(plan) ? STATUS_NO : STATUS_OK;
}
