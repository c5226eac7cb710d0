// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Netdevs of the target: handed over by a patched source, taken over from
 * another one, or opened anew
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"

#define DEFAULT_DOWNSCRIPT "/etc/qemu-ifdown"

/* Options that open a TAP, and those of an earlier update */
static const char *const openers[] = {
    "fd", "fds", "helper", "br", "script", "incoming-fds", "shared-fds",
    "x-permit-local-migration", "cpr", NULL
};

static void remove_all(Props *props, const char *const *keys)
{
    for (; *keys; keys++) {
        props_remove(props, *keys);
    }
}

/* Whether this QEMU runs a downscript when it ends */
static bool has_downscript(const Plan *plan, const Props *props)
{
    g_autofree char *script = props_get(props, "downscript");
    g_autofree char *path = NULL;

    if (script) {
        return *script && strcmp(script, "no");
    }
    if (props_has(props, "fd") || props_has(props, "fds") ||
        props_has(props, "helper") || props_is(props, "type", "bridge") ||
        props_is(props, "incoming-fds", "on")) {
        return false;
    }
    path = process_path(plan->source->process, DEFAULT_DOWNSCRIPT);
    return access(path, X_OK) == 0;
}

/* A QEMU that got its vhost devices may have no right to open them */
static void open_vhost(Plan *plan, const char *item, Props *props, guint n)
{
    bool one = props_has(props, "vhostfd");
    g_autoptr(GString) fds = g_string_new(NULL);

    if (!one && !props_has(props, "vhostfds")) {
        return;
    }
    for (guint i = 0; i < n; i++) {
        int fd = open("/dev/vhost-net", O_RDWR);

        if (fd < 0) {
            plan_find(plan, FINDING_NO, item, "/dev/vhost-net: %s; run as root",
                      g_strerror(errno));
            return;
        }
        g_array_append_val(plan->fds, fd);
        g_string_append_printf(fds, "%s%d", i ? ":" : "", fd);
    }
    props_remove(props, "vhostfd");
    props_remove(props, "vhostfds");
    props_set(props, n == 1 && one ? "vhostfd" : "vhostfds", fds->str);
}

static void hand_over(Plan *plan, const char *item, Props *props,
                      JsonObject *state)
{
    JsonNode *node = json_object_get_member(state, "queues");
    guint n = node && JSON_NODE_HOLDS_ARRAY(node) ?
              json_array_get_length(json_node_get_array(node)) : 0;
    const char *ifname = member_string(state, "ifname");
    g_autofree char *queues = g_strdup_printf("%u", n);
    const char *unverified = member_string(state, "unverified");
    bool down = has_downscript(plan, props) && !props_has(props, "downscript");

    if (g_strcmp0(member_string(state, "hand-over"), "owner")) {
        plan_find(plan, FINDING_NO, item, "this QEMU does not use the TAP now; "
                  "'cont' or 'quit' it");
    }
    remove_all(props, openers);
    if (down) {
        props_set(props, "downscript", DEFAULT_DOWNSCRIPT);
    }
    if (n != 1 || props_has(props, "queues")) {
        props_set(props, "queues", queues);
    }
    open_vhost(plan, item, props, n);
    props_set(props, "local-migration-supported", "on");
    props_set(props, "incoming-fds", "on");
    plan->hand_over = true;
    if (ifname) {
        g_ptr_array_add(plan->devices, g_strdup(ifname));
    }
    plan_find(plan, FINDING_OK, item, "%s, %u queue%s: handed over%s%s",
              ifname ? ifname : "TAP", n, n == 1 ? "" : "s",
              unverified ? "; last time unverified: " : "",
              unverified ? unverified : "");
}

static bool borrow(Plan *plan, const char *item, TapstateQueue **queues,
                   GString *fds)
{
    g_autoptr(GError) err = NULL;

    for (TapstateQueue **q = queues; *q; q++) {
        int fd = tapstate_borrow((*q)->pid, (*q)->fd, &err);

        if (fd < 0 || fcntl(fd, F_SETFD, 0) < 0) {
            plan_find(plan, FINDING_NO, item, "%s",
                      err ? err->message : g_strerror(errno));
            return false;
        }
        g_array_append_val(plan->fds, fd);
        g_string_append_printf(fds, "%s%d", q == queues ? "" : ":", fd);
    }
    return true;
}

static void take_over(Plan *plan, const char *item, Props *props,
                      TapstateQueue **queues)
{
    static const char *const others[] = {
        "ifname", "downscript", "queues", "vnet_hdr", NULL
    };
    g_autoptr(GString) fds = g_string_new(NULL);
    guint n = g_strv_length((char **)queues);
    bool down = has_downscript(plan, props);

    if (!borrow(plan, item, queues, fds)) {
        return;
    }
    if (props_is(props, "type", "bridge")) {
        props_set(props, "type", "tap");
    }
    plan->kill_source |= down;
    remove_all(props, openers);
    remove_all(props, others);
    open_vhost(plan, item, props, n);
    props_set(props, n > 1 ? "fds" : "fd", fds->str);
    props_set(props, "local-migration-supported", "on");
    props_set(props, "shared-fds", "on");
    plan->take_over = true;
    if (*(*queues)->name) {
        g_ptr_array_add(plan->devices, g_strdup((*queues)->name));
    }
    plan_find(plan, FINDING_NOTE, item, "%s, %u queue%s: taken over from a "
              "source that does not hand it over; up to two packets of each "
              "queue to the guest may be lost%s", (*queues)->name, n,
              n == 1 ? "" : "s", down ? "; no QEMU runs its downscript" : "");
}

static void plan_tap(Plan *plan, const char *item, Props *props,
                     const char *id)
{
    g_autofree char *fds = props_get(props, props_has(props, "fds") ? "fds" :
                                            "fd");
    JsonObject *state = source_tap_state(plan->source, id);
    g_autofree TapstateQueue **queues = NULL;

    if (state) {
        hand_over(plan, item, props, state);
        return;
    }
    queues = source_queues(plan->source, id, fds);
    if (!*queues) {
        plan_find(plan, FINDING_NO, item, "no queue of this netdev was found "
                  "in QEMU; if it was deleted, remove it by --target-arg");
        return;
    }
    take_over(plan, item, props, queues);
}

/* Find the id that QEMU gives a "-nic" without one: all its queues have it */
static char *unnamed_id(const Plan *plan, const Props *props)
{
    g_autofree char *ifname = props_get(props, "ifname");
    const char *found = NULL;

    for (TapstateQueue **q = plan->source->queues; *q; q++) {
        const char *id = netdevs_find(plan->source->netdevs, *q);

        if (id && *id == '#' && (!ifname || !strcmp((*q)->name, ifname))) {
            if (found && strcmp(found, id)) {
                return NULL;
            }
            found = id;
        }
    }
    return g_strdup(found);
}

static void plan_other(Plan *plan, const char *item, const char *type,
                       const Props *props, bool given)
{
    static const char *const backends[] = {
        "vhost-user", "vhost-vdpa", "af-xdp", "netmap", NULL
    };

    if (g_strv_contains(backends, type)) {
        plan_find(plan, FINDING_NO, item, "a netdev of type %s serves one QEMU",
                  type);
    } else if (!given && (props_has(props, "hostfwd") ||
                          props_has(props, "listen") ||
                          props_is(props, "server", "on"))) {
        plan_find(plan, FINDING_NO, item, "two processes cannot listen on one "
                  "port; give the target other arguments by --target-arg");
    } else if (strcmp(type, "none")) {
        plan_find(plan, FINDING_NOTE, item, "opened anew: connections through "
                  "a netdev of type %s end", type);
    }
}

void plan_netdev(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, "type");
    g_autofree char *type = props_get(&props, "type");
    g_autofree char *id = props_get(&props, "id");
    g_autofree char *item = NULL, *text = NULL;

    if (!id) {
        id = unnamed_id(plan, &props);
    }
    item = g_strdup_printf("netdev %s", id ? id : "without id");
    if (g_strcmp0(type, "tap") && g_strcmp0(type, "bridge")) {
        plan_other(plan, item, type ? type : "", &props, option->given);
        plan_add(plan, option->name, option->value);
        return;
    }
    plan_tap(plan, item, &props, id);
    text = props_text(&props);
    plan_add(plan, option->name, text);
}

/* The target would make up another id, by which the stream names the TAP */
void plan_nic(Plan *plan, const Option *option)
{
    g_auto(Props) props = props_parse(option->value, "type");
    bool over = plan->hand_over;

    plan->hand_over = false;
    plan_netdev(plan, option);
    if (plan->hand_over && !props_has(&props, "id")) {
        plan_find(plan, FINDING_NO, "-nic", "without an id the TAP cannot be "
                  "handed over; start the guest with -nic ...,id=NAME");
    }
    plan->hand_over |= over;
}
