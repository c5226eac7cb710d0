/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plan of a live update: the target's command line, and reasons against it
 */
#ifndef TAPSTATE_PLAN_H
#define TAPSTATE_PLAN_H

#include "cmdline.h"
#include "source.h"

typedef enum { FINDING_OK, FINDING_NOTE, FINDING_NO } FindingLevel;

typedef struct Finding {
    FindingLevel level;
    char *item; /* such as "netdev net0" */
    char *text;
} Finding;

/* File of the target that takes the place of one of the source */
typedef struct Move {
    char *from, *to; /* as in the command line */
} Move;

void move_free(Move *move);

typedef struct Plan {
    Source *source;
    char *binary;
    bool named; /* by the caller, not by the source */
    GPtrArray *findings; /* of Finding */
    GPtrArray *argv; /* of the target, without the NULL at its end */
    GPtrArray *moves; /* of Move */
    GPtrArray *devices; /* names of TAPs that the target gets */
    GArray *fds; /* for the target to inherit */
    const char *suffix; /* of sockets and files until the target runs */
    char *qmp; /* QMP socket of the target */
    bool ignore_shared; /* guest memory is in files of both */
    bool hand_over; /* a patched source hands over a TAP */
    bool take_over; /* a TAP is shared with the source */
    bool kill_source; /* it would run a downscript of a TAP that is in use */
    bool as_caller; /* QEMU changes user or root directory itself */
    bool daemonize;
    bool machine; /* the command line names a type of machine */
} Plan;

/*
 * @source is NULL to look only at this host and at @binary, the QEMU of the
 * target, which is NULL for that of the source. @changes are arguments
 * "OLD=NEW", or NULL.
 */
Plan *plan_make(Source *source, const char *binary, char **changes,
                GError **errp);
/* A plan without anything, for one rule */
Plan *plan_new(Source *source);
void plan_free(Plan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Plan, plan_free)

/* Count the reasons against it */
guint plan_refusals(const Plan *plan);

void plan_find(Plan *plan, FindingLevel level, const char *item,
               const char *format, ...) G_GNUC_PRINTF(4, 5);
void plan_add(Plan *plan, const char *name, const char *value);
/* Name of a file in the target's line; it gets that of the source later */
char *plan_move(Plan *plan, const char *path);

/* plan-chardev.c: options that name sockets and files */
void plan_character(Plan *plan, const Option *option);
void plan_chardev(Plan *plan, const Option *option);
void plan_vnc(Plan *plan, const Option *option);
void plan_spice(Plan *plan, const Option *option);
/* Refuse if another program follows the source by its own monitor */
void plan_check_clients(Plan *plan);

/* plan-netdev.c */
void plan_netdev(Plan *plan, const Option *option);
void plan_nic(Plan *plan, const Option *option);

/* plan-vm.c: compare the command line with what QEMU says */
void plan_check_vm(Plan *plan);
/* Whether the target's command line has this option with this id */
bool plan_in_line(const Plan *plan, const char *name, const char *id);
void plan_find_added(Plan *plan, const char *option, const char *id);

/* plan-added.c: what came over QMP, and no device shows */
void plan_check_added(Plan *plan);

/* plan-unit.c: the systemd unit of the source */
void plan_check_unit(Plan *plan);

/* plan-host.c: rights, limits, and the binary of the target */
void plan_check_host(Plan *plan);

#endif
