// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The command line of a QEMU, taken apart as QEMU does it
 */
#include <string.h>

#include "cmdline.h"

/* All others have a value */
static const char *const without_value[] = {
    "S", "alt-grab", "ctrl-grab", "daemonize", "enable-kvm", "full-screen", "h",
    "help", "mem-prealloc", "no-acpi", "no-fd-bootchk", "no-hpet", "no-quit",
    "no-reboot", "no-shutdown", "old-param", "no-user-config", "nodefaults", "nographic",
    "only-migratable", "perfmap", "preconfig", "s", "semihosting", "singlestep",
    "snapshot", "usb", "version", "win2k-hack", "xen-attach",
    "xen-domid-restrict", "jitdump", "enable-sync-profile", NULL
};

void option_free(Option *option)
{
    g_free(option->name);
    g_free(option->value);
    g_free(option);
}

GPtrArray *cmdline_parse(char **argv)
{
    GPtrArray *options =
        g_ptr_array_new_with_free_func((GDestroyNotify)option_free);

    for (char **arg = argv + 1; *argv && *arg; arg++) {
        Option *option = g_new0(Option, 1);

        if (**arg != '-' || !(*arg)[1]) {
            option->value = g_strdup(*arg);
        } else {
            option->name = g_strdup(*arg + ((*arg)[1] == '-' ? 2 : 1));
            if (!g_strv_contains(without_value, option->name) && arg[1]) {
                option->value = g_strdup(*++arg);
            }
        }
        g_ptr_array_add(options, option);
    }
    return options;
}

/* Copy up to a comma; a double comma is one. Move @at behind it */
static char *next_member(const char **at)
{
    GString *s = g_string_new(NULL);
    const char *c = *at;

    for (; *c && (*c != ',' || c[1] == ','); c++) {
        g_string_append_c(s, *c);
        c += *c == ',';
    }
    *at = *c ? c + 1 : c;
    return g_string_free(s, false);
}

static void set_flag(JsonObject *object, const char *flag)
{
    bool off = g_str_has_prefix(flag, "no") && flag[2];

    if (off) {
        json_object_set_string_member(object, flag + 2, "off");
    } else {
        json_object_set_string_member(object, flag, "on");
    }
}

Props props_parse(const char *value, const char *implied)
{
    Props props = { .implied = implied };
    g_autoptr(JsonNode) node = *value == '{' ? json_from_string(value, NULL) :
                                               NULL;
    const char *at = value;

    if (node && JSON_NODE_HOLDS_OBJECT(node)) {
        props.json = true;
        props.object = json_node_dup_object(node);
        return props;
    }
    props.object = json_object_new();
    while (*at) {
        bool first = at == value;
        g_autofree char *member = next_member(&at);
        char *equal = strchr(member, '=');

        if (equal) {
            *equal = 0;
            json_object_set_string_member(props.object, member, equal + 1);
        } else if (first && implied) {
            json_object_set_string_member(props.object, implied, member);
        } else {
            set_flag(props.object, member);
        }
    }
    return props;
}

void props_clear(Props *props)
{
    g_clear_pointer(&props->object, json_object_unref);
}

char *props_get(const Props *props, const char *key)
{
    JsonNode *node = json_object_get_member(props->object, key);

    if (!node || !JSON_NODE_HOLDS_VALUE(node)) {
        return NULL;
    }
    switch (json_node_get_value_type(node)) {
    case G_TYPE_STRING:
        return g_strdup(json_node_get_string(node));
    case G_TYPE_BOOLEAN:
        return g_strdup(json_node_get_boolean(node) ? "on" : "off");
    default:
        return g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(node));
    }
}

/* QEMU takes all of these for a Boolean */
static const char *normal_boolean(const char *value)
{
    static const char *const on[] = { "on", "yes", "true", "y", NULL };
    static const char *const off[] = { "off", "no", "false", "n", NULL };

    return g_strv_contains(on, value) ? "on" :
           g_strv_contains(off, value) ? "off" : value;
}

bool props_is(const Props *props, const char *key, const char *value)
{
    g_autofree char *got = props_get(props, key);

    return got && !strcmp(normal_boolean(got), value);
}

bool props_has(const Props *props, const char *key)
{
    return json_object_has_member(props->object, key);
}

/* In JSON, "on" and "off" are Boolean; numbers are those of queues */
void props_set(Props *props, const char *key, const char *value)
{
    bool on = !strcmp(value, "on");

    if (props->json && (on || !strcmp(value, "off"))) {
        json_object_set_boolean_member(props->object, key, on);
    } else if (props->json && !strcmp(key, "queues")) {
        json_object_set_int_member(props->object, key,
                                   g_ascii_strtoll(value, NULL, 10));
    } else {
        json_object_set_string_member(props->object, key, value);
    }
}

void props_remove(Props *props, const char *key)
{
    json_object_remove_member(props->object, key);
}

static void append_member(JsonObject *object, const char *key, JsonNode *node,
                          gpointer opaque)
{
    GString *s = opaque;
    const char *value = json_node_get_string(node);

    (void)object;
    if (*key) {
        g_string_append_printf(s, "%s%s=", s->len ? "," : "", key);
    }
    for (; *value; value++) {
        g_string_append_c(s, *value);
        if (*value == ',') {
            g_string_append_c(s, ',');
        }
    }
}

char *props_text(const Props *props)
{
    g_autoptr(JsonNode) node = NULL;
    g_autoptr(GList) members = NULL;
    GString *s;

    if (props->json) {
        node = json_node_init_object(json_node_alloc(), props->object);
        return json_to_string(node, false);
    }
    s = g_string_new(NULL);
    /* The implied key is first, where it is known to be */
    members = json_object_get_members(props->object);
    if (members && props->implied && !strcmp(members->data, props->implied)) {
        append_member(props->object, "",
                      json_object_get_member(props->object, props->implied), s);
        members = g_list_delete_link(members, members);
    }
    for (GList *m = members; m; m = m->next) {
        append_member(props->object, m->data,
                      json_object_get_member(props->object, m->data), s);
    }
    return g_string_free(s, false);
}
