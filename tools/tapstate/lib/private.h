/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Types and functions that the files of libtapstate share
 */
#ifndef TAPSTATE_PRIVATE_H
#define TAPSTATE_PRIVATE_H

#include <json-glib/json-glib.h>
#include <linux/filter.h>

#include "tapstate.h"

/* Keeps a function out of the library's symbols */
#define HIDDEN __attribute__((visibility("hidden")))

#define ALL_GROUPS_BIT(number, name, member) | TUN_STATE_ ## name
#define ALL_GROUPS (0 __TUN_STATE_GROUPS(ALL_GROUPS_BIT))

/* macvtap and ipvtap lack this group on every kernel, tun has it */
#define IS_MACVTAP(st) (!((st)->supported & TUN_STATE_OWNER))

/* Limits of the kernel */
#define MAX_QUEUES 256
#define MAX_FLOWS 4096

/*
 * Entry of the array "queues", of which the kernel fills in @q. The file of the
 * queue reports all else.
 */
typedef struct Queue {
    struct tun_state_queue q;
    guint32 nth; /* descriptor of tapstate_get(), from 1; 0: none */
    gint32 sndbuf; /* 0: not known */
    /* On macvtap only: settings of the queue, not of the device */
    struct tun_state_iff iff;
    struct tun_state_vnet vnet;
} Queue;

/* File descriptor of a process that has a queue open */
typedef struct Holder {
    gint64 pid;
    gint64 fd;
    char *comm;
    guint32 index; /* like tun_state_queue.index */
    bool attached;
} Holder;

/* Name and pin of an eBPF program, where they are known, both escaped */
typedef struct Prog {
    char *name;
    char *pin;
} Prog;

struct TapstateDevice {
    struct tun_state st;
    Queue *queues;
    struct sock_filter *insns;
    struct tun_state_flow *flows;
    Prog progs[2]; /* steering, filter */
    GArray *holders; /* of Holder */
};

/* names.c */
typedef struct Name {
    guint64 bit;
    const char *name;
} Name;

HIDDEN extern const Name tapstate__flags[], tapstate__offloads[];
HIDDEN extern const Name tapstate__groups[];
HIDDEN char *tapstate__escape(const char *bytes, size_t max);
HIDDEN bool tapstate__unescape(const char *text, char *bytes, size_t size);

/* table.c */
typedef struct Field Field;
typedef struct FieldType {
    JsonNode *(*encode)(const Field *f, const void *base);
    bool (*decode)(const Field *f, void *base, JsonNode *node);
    const char *expected; /* completes "is not ..." */
} FieldType;

struct Field {
    const char *name;
    const FieldType *type;
    guint16 offset;
    guint16 size;
    guint32 flag;
    const Name *names;
};

typedef struct Table {
    guint64 group; /* 0 for the entries of an array */
    const Field *fields; /* up to one without a name */
} Table;

HIDDEN extern const Table tapstate__tables[]; /* up to one without fields */
HIDDEN extern const Field tapstate__queue_fields[], tapstate__flow_fields[];
HIDDEN extern const Field tapstate__own_iff[], tapstate__own_vnet[];
HIDDEN extern const Field tapstate__prog_fields[];
HIDDEN const Table *tapstate__table(guint64 group);
HIDDEN JsonNode *tapstate__bits_node(const Name *names, guint64 bits);
HIDDEN bool tapstate__bits_value(const Name *names, JsonNode *node,
                                 guint64 *bits);

/* get.c */
HIDDEN TapstateDevice *tapstate__new(void);
HIDDEN bool tapstate__ioctl_get(int fd, struct tun_state *st, GError **errp);
HIDDEN void tapstate__add_holder(TapstateDevice *dev, const TapstateQueue *q);

/* encode.c */
HIDDEN JsonNode *tapstate__to_json(const TapstateDevice *dev);

/* fields.c */
HIDDEN const char *tapstate__unit(const char *name);

/* prog.c: a descriptor of the program, or -1 */
HIDDEN int tapstate__open_prog(const struct tun_state_prog *prog,
                               const Prog *info, GError **errp);
HIDDEN char *tapstate__prog_name(guint32 id);

#endif
