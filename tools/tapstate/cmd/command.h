/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Functions that the commands of tapstate share
 */
#ifndef TAPSTATE_COMMAND_H
#define TAPSTATE_COMMAND_H

#include <stdbool.h>
#include <json-glib/json-glib.h>
#include <linux/filter.h>

#include "../lib/tapstate.h"

/* Exit statuses; a command names its own meaning of 1 */
enum { STATUS_OK = 0, STATUS_NO = 1, STATUS_ERROR = 2 };

typedef int CommandFunc(int argc, char **argv, const char *usage);

CommandFunc cmd_list, cmd_show, cmd_diff, cmd_save, cmd_restore, cmd_check,
            cmd_update;

/* Print an error in one line, free it, and return STATUS_ERROR */
int fail(GError *err);
int fail_usage(const char *problem, const char *usage);
/* Write bytes that a terminal cannot show as "\xNN", and "\" if @backslash */
char *printable(const char *text, bool backslash);
bool parse_options(int *argc, char ***argv, const GOptionEntry *entries,
                   const char *usage);

/* The state of a device or of PID:FD; load_source() takes a file, too */
TapstateDevice *load_device(const char *source, GError **errp);
TapstateDevice *load_source(const char *source, GError **errp);
TapstateDevice *load_file(const char *path, GError **errp);

/*
 * Ends of the names of files that a target has until it takes the place of the
 * source; a target that is the source of the next update may still have one
 */
#define SUFFIX_1 ".tapstate-1"
#define SUFFIX_2 ".tapstate-2"
/* plan.c: without such an end */
char *unsuffixed(const char *path);

/* table.c: rows of @columns strings */
GPtrArray *table_new(void);
void table_add(GPtrArray *rows, const char *first, ...)
    G_GNUC_NULL_TERMINATED;
char *table_text(GPtrArray *rows, guint columns);

/* bpf.c: a classic BPF program, in lines as tcpdump -d prints it */
char *bpf_text(const struct sock_filter *insns, guint n);

/* text.c */
char *show_text(const TapstateDevice *dev);
char *diff_text(const TapstateDevice *a, const TapstateDevice *b, bool all,
                bool device, guint *differ);

/* netdevs.c: netdev ids of a QEMU */
typedef struct Netdevs Netdevs;
typedef struct Qmp Qmp;

Netdevs *netdevs_ask(Qmp *qmp, GError **errp);
/* Of the QEMU at a QMP socket */
Netdevs *netdevs_read(const char *path, GError **errp);
/*
 * Learn from all queues; call it before netdevs_find(). @pid is that of QEMU,
 * or 0 for the process that listens on the socket.
 */
void netdevs_match(Netdevs *netdevs, int pid, TapstateQueue *const *queues);
const char *netdevs_find(const Netdevs *netdevs, const TapstateQueue *q);
/* Ids of all netdevs, also of those that are not TAPs */
char **netdevs_ids(const Netdevs *netdevs);
char *netdevs_parse(const char *info, const char *key, const char *value);
char *netdevs_parse_other(const char *info);
const char *netdevs_of_states(JsonArray *states, const char *name);
void netdevs_free(Netdevs *netdevs);

#endif
