// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Plan of a live update
 *
 * The target gets the source's options. Those that two processes cannot share
 * are replaced, and those that cannot be replaced are reasons against it.
 */
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"

#define LOG_SUFFIX ".after-"

static void finding_free(Finding *finding)
{
    g_free(finding->item);
    g_free(finding->text);
    g_free(finding);
}

void plan_free(Plan *plan)
{
    for (guint i = 0; i < plan->fds->len; i++) {
        close(g_array_index(plan->fds, int, i));
    }
    g_array_unref(plan->fds);
    g_ptr_array_unref(plan->findings);
    g_ptr_array_unref(plan->argv);
    g_ptr_array_unref(plan->moves);
    g_ptr_array_unref(plan->devices);
    g_free(plan->binary);
    g_free(plan->qmp);
    g_free(plan);
}

void plan_find(Plan *plan, FindingLevel level, const char *item,
               const char *format, ...)
{
    Finding *finding = g_new0(Finding, 1);
    va_list ap;

    va_start(ap, format);
    finding->level = level;
    finding->item = g_strdup(item);
    finding->text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_ptr_array_add(plan->findings, finding);
}

guint plan_refusals(const Plan *plan)
{
    guint n = 0;

    for (guint i = 0; i < plan->findings->len; i++) {
        const Finding *finding = plan->findings->pdata[i];

        n += finding->level == FINDING_NO;
    }
    return n;
}

void plan_add(Plan *plan, const char *name, const char *value)
{
    if (name) {
        g_ptr_array_add(plan->argv, g_strconcat("-", name, NULL));
    }
    if (value) {
        g_ptr_array_add(plan->argv, g_strdup(value));
    }
}

char *unsuffixed(const char *path)
{
    gsize len = strlen(path), end = strlen(SUFFIX_1);

    return g_strndup(path, g_str_has_suffix(path, SUFFIX_1) ||
                     g_str_has_suffix(path, SUFFIX_2) ? len - end : len);
}

char *plan_move(Plan *plan, const char *path)
{
    Move *move = g_new0(Move, 1);

    move->to = unsuffixed(path);
    move->from = g_strconcat(move->to, plan->suffix, NULL);
    g_ptr_array_add(plan->moves, move);
    return g_strdup(move->from);
}

static void plan_machine(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, "type");
    g_autofree char *text = NULL;

    if (props_has(&props, "type")) {
        props_set(&props, "type", plan->source->machine);
        plan->machine = true;
    }
    text = props_text(&props);
    plan_add(plan, "machine", text);
}

static void plan_pidfile(Plan *plan, const Option *option)
{
    g_autofree char *path = plan_move(plan, option->value);

    plan_add(plan, "pidfile", path);
}

/* Length of a name without the ".after-PID" of an earlier update */
static gsize log_length(const char *path)
{
    const char *end = g_strrstr(path, LOG_SUFFIX);
    const char *digits = end ? end + strlen(LOG_SUFFIX) : "";

    return *digits && !digits[strspn(digits, "0123456789")] ?
           (gsize)(end - path) : strlen(path);
}

/* QEMU truncates a log when it starts. "%d" is its pid: such a name is new */
static void plan_log(Plan *plan, const Option *option)
{
    g_autofree char *path = NULL;

    if (strstr(option->value, "%d")) {
        plan_add(plan, "D", option->value);
        return;
    }
    path = g_strdup_printf("%.*s" LOG_SUFFIX "%d",
                           (int)log_length(option->value), option->value,
                           (int)plan->source->process->pid);
    plan_find(plan, FINDING_NOTE, "log", "the target writes to %s", path);
    plan_add(plan, "D", path);
}

static void plan_drop(Plan *plan, const Option *option)
{
    (void)plan;
    (void)option;
}

static void plan_refuse(Plan *plan, const Option *option)
{
    static const struct {
        const char *name, *why;
    } reasons[] = {
        { "snapshot", "the target would not have what the guest has written" },
        { "readconfig", "options in a file are not read; start the guest with "
          "them on the command line" },
        { "add-fd", "the target cannot get this file descriptor; use paths" },
        { "preconfig", "such a QEMU cannot be updated" },
        { "s", "two processes cannot listen on one port; remove it by "
          "--target-arg -s=" },
        { "net", "the hub of -net cannot be handed over; start the guest with "
          "-netdev and -device, or -nic" },
        { "tpmdev", "the TPM emulator serves one QEMU" },
        { "incoming", "QEMU waits for a migration" },
    };
    g_autofree char *item = g_strconcat("-", option->name, NULL);

    for (guint i = 0; i < G_N_ELEMENTS(reasons); i++) {
        if (!strcmp(reasons[i].name, option->name)) {
            plan_find(plan, FINDING_NO, item, "%s", reasons[i].why);
        }
    }
}

static void plan_net(Plan *plan, const Option *option)
{
    if (!strcmp(option->value, "none")) {
        plan_add(plan, option->name, option->value);
    } else {
        plan_refuse(plan, option);
    }
}

static void plan_run_with(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, NULL);

    if (props_is(&props, "exit-with-parent", "on")) {
        plan_find(plan, FINDING_NO, "-run-with exit-with-parent",
                  "the target would end with tapstate; remove it by "
                  "--target-arg -run-with=");
    }
    plan->as_caller |= props_has(&props, "user") || props_has(&props, "chroot");
    plan_add(plan, option->name, option->value);
}

static void plan_user(Plan *plan, const Option *option)
{
    plan->as_caller = true;
    plan_add(plan, option->name, option->value);
}

static void plan_daemonize(Plan *plan, const Option *option)
{
    plan->daemonize = true;
    plan_add(plan, option->name, NULL);
}

/* A shared file is not copied; see migration capability x-ignore-shared */
static void plan_object(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, "qom-type");

    if (props_is(&props, "qom-type", "memory-backend-file") &&
        props_is(&props, "share", "on")) {
        if (props_is(&props, "discard-data", "on")) {
            plan_find(plan, FINDING_NO, "memory", "discard-data=on: the source "
                      "would erase the guest's memory when it ends; start the "
                      "guest without it");
        }
        plan->ignore_shared = true;
    }
    plan_add(plan, option->name, option->value);
}

static void plan_drive(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, NULL);

    if (props_is(&props, "snapshot", "on")) {
        plan_find(plan, FINDING_NO, "disk", "snapshot=on: the target would not "
                  "have what the guest has written");
    }
    plan_add(plan, option->name, option->value);
}

static const struct {
    const char *name;
    void (*plan)(Plan *plan, const Option *option);
} rules[] = {
    { "netdev", plan_netdev }, { "nic", plan_nic }, { "net", plan_net },
    { "chardev", plan_chardev }, { "qmp", plan_character },
    { "qmp-pretty", plan_character }, { "monitor", plan_character },
    { "serial", plan_character }, { "parallel", plan_character },
    { "debugcon", plan_character }, { "gdb", plan_character },
    { "vnc", plan_vnc }, { "display", plan_vnc }, { "spice", plan_spice },
    { "pidfile", plan_pidfile }, { "D", plan_log },
    { "machine", plan_machine }, { "M", plan_machine },
    { "object", plan_object }, { "drive", plan_drive },
    { "S", plan_drop }, { "incoming", plan_drop }, { "loadvm", plan_drop },
    { "runas", plan_user }, { "chroot", plan_user },
    { "run-with", plan_run_with }, { "daemonize", plan_daemonize },
    { "snapshot", plan_refuse }, { "readconfig", plan_refuse },
    { "add-fd", plan_refuse }, { "preconfig", plan_refuse },
    { "s", plan_refuse }, { "tpmdev", plan_refuse },
};

static void plan_option(Plan *plan, const Option *option)
{
    for (guint i = 0; i < G_N_ELEMENTS(rules); i++) {
        if (!g_strcmp0(option->name, rules[i].name)) {
            rules[i].plan(plan, option);
            return;
        }
    }
    if (option->value && strstr(option->value, "/dev/fdset/")) {
        plan_find(plan, FINDING_NO, option->name, "the target cannot get the "
                  "file descriptors of '%s'; use paths", option->value);
    }
    plan_add(plan, option->name, option->value);
}

/* Whether @change is "-NAME=" or "VALUE=NEW" of this option */
static bool is_changed(const Option *o, const char *change)
{
    g_autofree char *name = g_strdup_printf("-%s=", o->name);
    g_autofree char *value = g_strdup_printf("%s=", o->value);

    return (o->name && !strcmp(change, name)) ||
           (o->value && g_str_has_prefix(change, value));
}

/* Replace a value, or remove an option */
static bool apply_change(GPtrArray *options, const char *change, GError **errp)
{
    Option *found = NULL;
    const char *new;
    guint n = 0;

    for (guint i = options->len; i-- > 0;) {
        if (is_changed(options->pdata[i], change)) {
            found = options->pdata[i];
            n++;
        }
    }
    if (!n) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "--target-arg '%s': the source has no such argument; "
                    "see --dry-run", change);
        return false;
    }
    new = found->value && g_str_has_prefix(change, found->value) ?
          change + strlen(found->value) + 1 : "";
    if (!*new && n > 1) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "--target-arg '%s': the source has %u of these; name one "
                    "by its value: --target-arg VALUE=", change, n);
        return false;
    }
    if (*new) {
        g_free(found->value);
        found->value = g_strdup(new);
        found->given = true;
    } else {
        g_ptr_array_remove(options, found);
    }
    return true;
}

/* Those without OLD are a command line that goes behind the source's */
static bool apply_changes(GPtrArray *options, char **changes, GError **errp)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GPtrArray) added = NULL;

    g_ptr_array_add(argv, (gpointer)"");
    for (char **c = changes; c && *c; c++) {
        if (**c == '=' && (*c)[1]) {
            g_ptr_array_add(argv, *c + 1);
        } else if (!apply_change(options, *c, errp)) {
            return false;
        }
    }
    g_ptr_array_add(argv, NULL);
    added = cmdline_parse((char **)argv->pdata);
    for (guint i = 0; i < added->len; i++) {
        ((Option *)added->pdata[i])->given = true;
    }
    g_ptr_array_extend_and_steal(options, g_steal_pointer(&added));
    return true;
}

static const char *free_suffix(GPtrArray *options)
{
    for (guint i = 0; i < options->len; i++) {
        const Option *o = options->pdata[i];

        if (o->value && strstr(o->value, SUFFIX_1)) {
            return SUFFIX_2;
        }
    }
    return SUFFIX_1;
}

/* A QMP socket that the source does not have by its command line */
static void add_qmp(Plan *plan)
{
    g_autofree char *full = g_canonicalize_filename(plan->source->socket, NULL);
    g_autofree char *path = plan_move(plan, full);
    g_auto(GStrv) parts = g_strsplit(path, ",", -1);
    g_autofree char *escaped = g_strjoinv(",,", parts);
    g_autofree char *value = g_strdup_printf("unix:%s,server=on,wait=off",
                                             escaped);

    plan_add(plan, "qmp", value);
    plan->qmp = g_steal_pointer(&path);
}

static void check_paths(Plan *plan)
{
    for (guint i = 0; i < plan->moves->len; i++) {
        const Move *move = plan->moves->pdata[i];

        if (strlen(move->from) > 107) {
            plan_find(plan, FINDING_NO, "socket", "'%s' would be longer than "
                      "107 bytes; use a shorter path", move->from);
        }
    }
}

static void plan_all(Plan *plan)
{
    plan_add(plan, NULL, plan->binary);
    for (guint i = 0; i < plan->source->options->len; i++) {
        plan_option(plan, plan->source->options->pdata[i]);
    }
    if (!plan->machine) {
        plan_add(plan, "machine", plan->source->machine);
    }
    if (!plan->qmp) {
        add_qmp(plan);
    }
    plan_add(plan, "S", NULL);
    plan_add(plan, "incoming", "defer");
    check_paths(plan);
    plan_check_clients(plan);
    plan_check_vm(plan);
    plan_check_host(plan);
}

/* The target has another working directory than the caller */
static char *find_binary(const char *binary, GError **errp)
{
    g_autofree char *found = strchr(binary, '/') ?
                             g_canonicalize_filename(binary, NULL) :
                             g_find_program_in_path(binary);

    if (!found) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "there is no program '%s' in PATH; name a QEMU", binary);
    }
    return g_steal_pointer(&found);
}

Plan *plan_new(Source *source)
{
    Plan *plan = g_new0(Plan, 1);

    plan->source = source;
    plan->findings =
        g_ptr_array_new_with_free_func((GDestroyNotify)finding_free);
    plan->argv = g_ptr_array_new_with_free_func(g_free);
    plan->moves = g_ptr_array_new_with_free_func((GDestroyNotify)move_free);
    plan->devices = g_ptr_array_new_with_free_func(g_free);
    plan->fds = g_array_new(false, false, sizeof(int));
    return plan;
}

Plan *plan_make(Source *source, const char *binary, char **changes,
                GError **errp)
{
    g_autofree char *found = find_binary(binary ? binary : source->process->exe,
                                         errp);
    Plan *plan;

    if (!found ||
        (source && !apply_changes(source->options, changes, errp))) {
        return NULL;
    }
    plan = plan_new(source);
    plan->binary = g_steal_pointer(&found);
    plan->named = binary;
    if (source) {
        plan->suffix = free_suffix(source->options);
        plan_all(plan);
    } else {
        plan_check_host(plan);
    }
    return plan;
}
