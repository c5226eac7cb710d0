// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate save and tapstate restore
 */
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <glib/gstdio.h>
#include <linux/if_tun.h>

#include "command.h"

/* Rename a temporary file, but never over /dev/null or a link */
static bool write_file(const char *path, const char *text, GError **errp)
{
    GStatBuf st;

    if (!strcmp(path, "-")) {
        fputs(text, stdout);
        return true;
    }
    if (g_lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "%s: not a regular file; '-o -' writes to standard output",
                    path);
        return false;
    }
    return g_file_set_contents_full(path, text, -1,
                                    G_FILE_SET_CONTENTS_CONSISTENT |
                                    G_FILE_SET_CONTENTS_DURABLE, 0600, errp);
}

int cmd_save(int argc, char **argv, const char *usage)
{
    g_autofree char *path = NULL, *text = NULL, *lines = NULL;
    const GOptionEntry entries[] = {
        { "output", 'o', 0, G_OPTION_ARG_FILENAME, &path,
          "file to write; one that is there is replaced; - is standard "
          "output", "FILE" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(TapstateDevice) dev = NULL;
    GError *err = NULL;

    if (!parse_options(&argc, &argv, entries, usage)) {
        return STATUS_ERROR;
    }
    if (argc != 2 || !path) {
        return fail_usage("name one device, or PID:FD, and -o FILE", usage);
    }
    dev = load_device(argv[1], &err);
    if (!dev) {
        return fail(err);
    }
    tapstate_find_pins(dev);
    text = tapstate_encode(dev, true);
    lines = g_strconcat(text, "\n", NULL);
    return write_file(path, lines, &err) ? STATUS_OK : fail(err);
}

static bool parse_groups(const char *text, guint64 *groups, GError **errp)
{
    g_auto(GStrv) names = g_strsplit(text, ",", -1);

    *groups = 0;
    if (!*text) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT,
                    "--groups names no group; see tapstate(8)");
        return false;
    }
    for (char **n = names; *n; n++) {
        guint64 bit = tapstate_group_bit(*n);

        if (!(bit & TAPSTATE_RESTORED)) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT,
                        bit ? "TUNSETSTATE never sets the group '%s'; see "
                              "tapstate(8)" :
                              "there is no group '%s'; see tapstate(8)", *n);
            return false;
        }
        *groups |= bit;
    }
    return true;
}

/* One run of tapstate restore */
typedef struct Restore {
    TapstateDevice *want;
    TapstateDevice *now;
    guint64 groups;
    bool create;
    bool check; /* of a device that is there */
    bool trial; /* check of a device to make, which takes making one */
    guint64 left_out; /* groups */
    bool differs; /* in a group that was not left out */
    GPtrArray *rows; /* fields that differ */
} Restore;

static void report(uint64_t group, const char *why, void *data)
{
    Restore *r = data;
    g_autofree char *text = printable(why, false);

    r->left_out |= group;
    printf("not restored: %s: %s\n", tapstate_group_name(group), text);
}

static const char *owner_of(const char *field)
{
    static const struct {
        const char *prefix, *remedy;
    } owners[] = {
        { "netdev.", "set it with 'ip link'" },
        { "coalesce.", "set it with 'ethtool -C'" },
        { "xdp.", "attach it with 'ip link set DEV xdp'" },
        { "queues.", "see the queue's process, and 'ip link ... txqueuelen'" },
        { "offload.supported", "it is the kernel's" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(owners); i++) {
        if (g_str_has_prefix(field, owners[i].prefix)) {
            return owners[i].remedy;
        }
    }
    return "";
}

static bool in_groups(const char *field, guint64 groups)
{
    g_autofree char *name = g_strndup(field, strcspn(field, "."));
    guint64 bit = tapstate_group_bit(name);

    return bit == TUN_STATE_QUEUES ?
           groups & (g_str_has_suffix(field, ".sndbuf") ? TUN_STATE_SNDBUF :
                                                          TUN_STATE_QUEUE) :
           groups & bit;
}

static void add_row(Restore *r, const TapstateField *f, bool would_set)
{
    table_add(r->rows, would_set ? "would set" : "not restored", f->name,
              f->a ? f->a : "-", would_set ? "->" : "!=", f->b ? f->b : "-",
              f->kind == TAPSTATE_KIND_RESTORABLE ? "" : owner_of(f->name),
              NULL);
}

/* A program that was loaded again has another id */
static bool same_program(const TapstateField *f)
{
    const char *a = f->a ? strstr(f->a, " type ") : NULL;
    const char *b = f->b ? strstr(f->b, " type ") : NULL;

    return (!strcmp(f->name, "steering") || !strcmp(f->name, "filter")) && a &&
           b && !strcmp(a, b);
}

/* Ignore traffic, and the identity and name of a device that was made */
static void collect(const TapstateField *f, void *data)
{
    Restore *r = data;
    bool ours = f->kind == TAPSTATE_KIND_RESTORABLE;

    if (!g_strcmp0(f->a, f->b) || f->kind == TAPSTATE_KIND_VOLATILE ||
        (!r->check && same_program(f)) ||
        g_str_has_prefix(f->name, "identity.") ||
        (r->create && !strcmp(f->name, "netdev.name")) ||
        (ours && !in_groups(f->name, r->groups))) {
        return;
    }
    if (r->check) {
        /* The value that was saved comes second, after the present one */
        TapstateField saved_first = *f;

        saved_first.a = f->b;
        saved_first.b = f->a;
        ours = ours && !in_groups(f->name, r->left_out);
        add_row(r, ours ? f : &saved_first, ours);
    } else {
        add_row(r, f, false);
        r->differs |= ours;
    }
}

/* List what a restore would set, or what it did not */
static int finish(Restore *r)
{
    g_autofree char *text = NULL;

    tapstate_compare(r->check ? r->now : r->want, r->check ? r->want : r->now,
                     false, collect, r);
    text = table_text(r->rows, 6);
    fputs(text, stdout);
    return r->left_out || r->differs ? STATUS_NO : STATUS_OK;
}

/* Make no device but in a network namespace that ends with this process */
static bool enter_trial(const char *name, GError **errp)
{
    if (if_nametoindex(name)) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                    "there is a device '%s': check it without --create", name);
        return false;
    }
    if (unshare(CLONE_NEWNET) < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "no network namespace to try it in: %s; run as root or "
                    "with CAP_SYS_ADMIN", g_strerror(errno));
        return false;
    }
    return true;
}

/* Nobody else has the new device open, so it would end with this process */
static bool keep_device(const Restore *r, int fd, GError **errp)
{
    if (r->trial) {
        printf("would make the device, with %u queues\n",
               tapstate_state(r->now)->queues.count);
        return true;
    }
    if (ioctl(fd, TUNSETPERSIST, 1) < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                    "TUNSETPERSIST: %s; the new device is gone",
                    g_strerror(errno));
        return false;
    }
    puts("the device is persistent; send buffers, the order of queues and "
         "detached queues end with their descriptors");
    return true;
}

static int *apply(Restore *r, const char *name, unsigned int *n,
                  GError **errp)
{
    int *fds;
    bool ok;

    if (r->create) {
        return tapstate_rebuild(r->want, name, r->groups, n, report, r, errp);
    }
    fds = tapstate_borrow_device(name, r->want, n, errp);
    if (!fds) {
        return NULL;
    }
    if (r->check) {
        g_autoptr(GError) why = NULL;

        ok = tapstate_check(r->want, fds, *n, r->groups, report, r, &why) ||
             r->left_out;
        if (!ok) {
            g_propagate_error(errp, g_steal_pointer(&why));
        }
    } else {
        ok = tapstate_set(r->want, fds, *n, r->groups, report, r, errp);
    }
    if (!ok) {
        tapstate_close(fds, *n);
        return NULL;
    }
    return fds;
}

static int run(Restore *r, const char *name)
{
    unsigned int n = 0;
    GError *err = NULL;
    int *fds = NULL;
    bool done;
    int status;

    if (!r->trial || enter_trial(name, &err)) {
        fds = apply(r, name, &n, &err);
    }
    r->now = fds ? tapstate_get(fds, n, &err) : NULL;
    done = r->now && (!r->create || keep_device(r, fds[0], &err));
    tapstate_close(fds, n);
    status = done ? finish(r) : fail(err);
    tapstate_free(r->now);
    return status;
}

static bool use_program(Restore *r, guint64 group, const char *program,
                        GError **errp)
{
    if (program) {
        r->groups |= group;
    }
    return !program || tapstate_use_program(r->want, group, program, errp);
}

int cmd_restore(int argc, char **argv, const char *usage)
{
    Restore r = { .groups = TAPSTATE_RESTORED };
    gboolean create = false, check = false;
    g_autofree char *names = NULL, *steering = NULL, *filter = NULL;
    const GOptionEntry entries[] = {
        { "create", 0, 0, G_OPTION_ARG_NONE, &create,
          "make the device, which must not be there", NULL },
        { "check", 0, 0, G_OPTION_ARG_NONE, &check,
          "change nothing: print differences, and reasons to fail", NULL },
        { "groups", 0, 0, G_OPTION_ARG_STRING, &names,
          "restore only these groups", "G,..." },
        { "steering", 0, 0, G_OPTION_ARG_FILENAME, &steering,
          "attach this program instead of the saved one", "PIN|ID" },
        { "filter", 0, 0, G_OPTION_ARG_FILENAME, &filter,
          "attach this program instead of the saved one", "PIN|ID" },
        G_OPTION_ENTRY_NULL
    };
    GError *err = NULL;
    int status;

    if (!parse_options(&argc, &argv, entries, usage)) {
        return STATUS_ERROR;
    }
    if (names && !parse_groups(names, &r.groups, &err)) {
        return fail(err);
    }
    if (argc != 3) {
        return fail_usage("name a file and a device", usage);
    }
    r.create = create;
    r.check = check && !create;
    r.trial = check && create;
    r.want = load_file(argv[1], &err);
    if (!r.want) {
        return fail(err);
    }
    r.rows = table_new();
    status = use_program(&r, TUN_STATE_STEERING, steering, &err) &&
             use_program(&r, TUN_STATE_FILTER, filter, &err) ?
             run(&r, argv[2]) : fail(err);
    g_ptr_array_unref(r.rows);
    tapstate_free(r.want);
    return status;
}
