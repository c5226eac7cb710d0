// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate show
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "command.h"

#define NOT_GIVEN G_MININT

/* Descriptor of the only device that a process has open, or -1 */
static int find_fd(int pid, GError **errp)
{
    TapstateQueue **queues = tapstate_list(pid, NULL, errp);
    int fd = queues && *queues ? (*queues)->fd : -1;

    if (queues && fd < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "process %d has no tun/tap device open, or is closed to "
                    "you; see 'tapstate list' as root", pid);
    }
    for (TapstateQueue **q = queues; q && *q; q++) {
        if (fd >= 0 && ((*q)->ifindex != (*queues)->ifindex ||
                        (*q)->netns != (*queues)->netns ||
                        strcmp((*q)->name, (*queues)->name))) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                        "process %d has several devices open; choose one with "
                        "--fd, from 'tapstate list'", pid);
            fd = -1;
        }
    }
    tapstate_list_free(queues);
    return fd;
}

static TapstateDevice *read_state(const char *name, int pid, int fd,
                                  GError **errp)
{
    if (name) {
        return tapstate_get_device(name, errp);
    }
    if (fd < 0) {
        fd = find_fd(pid, errp);
    }
    return fd < 0 ? NULL : tapstate_get_fd(pid, fd, errp);
}

static void print(const TapstateDevice *dev, bool json, bool pretty)
{
    g_autofree char *text = json || pretty ? tapstate_encode(dev, pretty) :
                                             show_text(dev);

    fputs(text, stdout);
    if (json || pretty) {
        putchar('\n');
    }
    fflush(stdout);
}

static void count_change(const TapstateField *f, void *data)
{
    *(guint *)data += g_strcmp0(f->a, f->b) != 0;
}

static void print_change(const TapstateField *f, void *data)
{
    g_autoptr(GDateTime) now = NULL;
    g_autofree char *time = NULL;

    (void)data;
    if (g_strcmp0(f->a, f->b)) {
        now = g_date_time_new_now_local();
        time = g_date_time_format(now, "%H:%M:%S");
        printf("%s %s %s -> %s\n", time, f->name, f->a ? f->a : "-",
               f->b ? f->b : "-");
    }
}

/* Hold no queue between two looks: a device lives as long as a queue is open */
static int watch(TapstateDevice *before, const char *name, int pid, int fd,
                 bool json)
{
    GError *err = NULL;

    for (;;) {
        TapstateDevice *now;
        guint changed = 0;

        if (ferror(stdout)) {
            tapstate_free(before);
            return STATUS_ERROR;
        }
        g_usleep(G_USEC_PER_SEC);
        now = read_state(name, pid, fd, &err);
        if (!now) {
            tapstate_free(before);
            return fail(err);
        }
        tapstate_compare(before, now, true, json ? count_change : print_change,
                         &changed);
        if (json && changed) {
            print(now, true, false);
        }
        fflush(stdout);
        tapstate_free(before);
        before = now;
    }
}

int cmd_show(int argc, char **argv, const char *usage)
{
    gboolean json = false, pretty = false, follow = false;
    int pid = NOT_GIVEN, fd = NOT_GIVEN;
    const GOptionEntry entries[] = {
        { "json", 'j', 0, G_OPTION_ARG_NONE, &json, "print JSON", NULL },
        { "pretty", 'p', 0, G_OPTION_ARG_NONE, &pretty,
          "print indented JSON", NULL },
        { "watch", 'w', 0, G_OPTION_ARG_NONE, &follow,
          "print changes, too, until the device is gone; look once a second",
          NULL },
        { "pid", 0, 0, G_OPTION_ARG_INT, &pid,
          "process that has the device open", "PID" },
        { "fd", 0, 0, G_OPTION_ARG_INT, &fd,
          "file descriptor in that process", "FD" },
        G_OPTION_ENTRY_NULL
    };
    TapstateDevice *dev;
    GError *err = NULL;

    if (!parse_options(&argc, &argv, entries, usage)) {
        return STATUS_ERROR;
    }
    if (pid != NOT_GIVEN && pid <= 0) {
        return fail_usage("--pid needs the number of a process", usage);
    }
    if (fd != NOT_GIVEN && (fd < 0 || pid == NOT_GIVEN)) {
        return fail_usage("--fd needs a descriptor of the process in --pid",
                          usage);
    }
    if (argc != (pid != NOT_GIVEN ? 1 : 2)) {
        return fail_usage("name one device, or --pid", usage);
    }
    dev = read_state(argv[1], pid, fd, &err);
    if (!dev) {
        return fail(err);
    }
    print(dev, json, pretty);
    if (follow) {
        return watch(dev, argv[1], pid, fd, json || pretty);
    }
    tapstate_free(dev);
    return STATUS_OK;
}
