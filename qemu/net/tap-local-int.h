/*
 * Hand-over of a TAP to another QEMU on the same host: what its files share
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_TAP_LOCAL_INT_H
#define NET_TAP_LOCAL_INT_H

#include <net/if.h>

#include "migration/misc.h"
#include "qapi/qapi-types-migration.h"
#include "qom/object.h"
#include "tap-kstate.h"
#include "tap-local.h"
#include "tap-state.h"
#include "tap_int.h"

/* Fields of section net-tap in the migration stream */
typedef struct TapStream {
    int32_t fd;                 /* the queue; -1 before it arrived */
    bool using_vnet_hdr;        /* the NIC model handles the vnet header */
    bool has_ufo;               /* the device accepts UFO packets */
    bool has_uso;               /* ... USO packets */
    bool has_tunnel;            /* ... GSO packets in UDP tunnels */
    bool enabled;               /* the queue is attached to the device */
    uint32_t host_vnet_hdr_len; /* bytes in front of a packet, or 0 */
} TapStream;

/* Packets read but not delivered, or not yet written */
typedef struct TapPending {
    uint32_t received_size;     /* 0 without a packet */
    uint8_t *received;          /* as it was read */
    uint32_t sent_size;
    uint8_t *sent;              /* each packet behind its length */
} TapPending;

#define TYPE_TAP_LOCAL_QUEUE "tap-local-queue"
OBJECT_DECLARE_SIMPLE_TYPE(TapLocalQueue, TAP_LOCAL_QUEUE)

/* A queue of a netdev */
struct TapLocalQueue {
    Object parent_obj;

    TapLocal *netdev;
    TAPState *s;
    unsigned int index;         /* in the netdev */
    bool arrived;               /* its section was loaded */
    TapStream stream;           /* that section, or the one to be saved */
    TapKState ks;               /* kernel state in the section */
    bool steering;              /* in the section: QEMU's own program */
    struct tun_state state;     /* when it was suspended or arrived */
    struct tun_state expected;  /* in the incoming stream */
    TapPending pending;
};

typedef struct TapLocalNotifier {
    NotifierWithReturn notifier;
    TapLocal *local;
} TapLocalNotifier;

/* A netdev */
struct TapLocal {
    unsigned int refs;
    char *id;
    TapHandOver state;          /* see tap-local.c */
    bool outgoing;              /* the migration that is set up takes it along */
    bool offered;               /* ... and has its fds in the stream */
    bool started;               /* NIC and vhost run */
    bool gone;                  /* the device was deleted: do not touch it */
    char ifname[IFNAMSIZ];
    GPtrArray *queues;          /* TapLocalQueue, in order */

    bool vnet_hdr;              /* options */
    char *want_ifname;          /* ... of a target, or NULL */
    OnOffAuto kernel_state;
    int sndbuf;                 /* ... of a target, or 0 */

    uint32_t set;               /* bits of TapSettings by the NIC model */
    uint32_t changed;           /* ... since the device was suspended */
    int value[TAP_SETTING__MAX];
    bool steering;              /* QEMU attached the steering program */

    char *unverified;           /* reason, or NULL; see query-tap-state */
    char *observed;
    char *restored;
    char *failed;
    uint64_t carried;
    uint64_t delivered;

    VMChangeStateEntry *vmstate;
    VMChangeStateEntry *vmstate_last;
    NotifierWithReturn incoming;
    TapLocalNotifier outgoing_notifiers[MIG_MODE__MAX];
};

static inline TapLocalQueue *tap_local_queue(const TapLocal *local,
                                             unsigned int i)
{
    return g_ptr_array_index(local->queues, i);
}

/* tap-local.c */

/**
 * tap_local_suspend: prepare all queues of a netdev for the outgoing stream
 *
 * Reads the state of the device, and lets nobody on this side read from it or
 * change it. Until the other QEMU runs, either side may go on.
 *
 * @local: the netdev
 * @errp: set on error, and nothing changed then
 *
 * Returns: false and sets @errp on error
 */
bool tap_local_suspend(TapLocal *local, Error **errp);

/* Find the queue without a fd, and say so; false if there is one */
bool tap_local_check_arrived(const TapLocal *local, Error **errp);

/* Forget the findings of an earlier migration */
void tap_local_forget(TapLocal *local);

/* Log harmless differences, once for each set of them */
void tap_local_observe(TapLocal *local, const char *differences);

/* Remember why a device is not verified, and log it */
void tap_local_set_unverified(TapLocal *local, const char *reason);

/* tap-restore.c */

/**
 * tap_local_read: read the state of each queue
 *
 * @local: the netdev; its fds have arrived
 * @states: one for each queue
 * @hold: hold the eBPF programs, to restore them
 * @errp: set when the device is gone
 *
 * Returns: false and sets @errp on error
 */
bool tap_local_read(TapLocal *local, struct tun_state *states, bool hold,
                    Error **errp);

/**
 * tap_local_apply: bring the settings into force that QEMU has made
 *
 * Returns: true if some of them were not
 */
bool tap_local_apply(TapLocal *local, const struct tun_state *states);

/* List the fields of all queues that differ; see tap_kstate_differences() */
char *tap_local_differences(TapLocal *local, const struct tun_state *before,
                            const struct tun_state *states,
                            unsigned int policies);

/**
 * tap_local_restore: undo changes by others since the device was suspended
 *
 * @local: the netdev
 * @states: state of each queue; updated
 *
 * Returns: what could not be undone, for the caller to free, or NULL
 */
char *tap_local_restore(TapLocal *local, struct tun_state *states);

/* Report what could not be undone, and free it; NULL: all is well */
void tap_local_fail(TapLocal *local, char *failed);

/**
 * tap_local_places_differ: compare the order of the queues of a netdev
 *
 * Queues of the device that belong to others do not count.
 *
 * Returns: the first queue out of order, for the caller to free, or NULL
 */
char *tap_local_places_differ(TapLocal *local,
                              const struct tun_state *expected,
                              const struct tun_state *actual);

/* Return the states when the queues were suspended, or arrived; free them */
struct tun_state *tap_local_states(TapLocal *local);

/* tap-stream.c */

extern const VMStateDescription vmstate_net_tap;

/* tap-pending.c */

extern const VMStateDescription vmstate_net_tap_pending;

/*
 * Write the packets that tap_pending_keep_sent() kept before the VM runs. vhost
 * would overtake them: with vhost, write them all, whatever sndbuf allows.
 */
void tap_pending_flush_for_vhost(TapLocalQueue *queue);

/* Return the number of packets */
unsigned int tap_pending_count(const TapPending *pending);

/* Free the packets */
void tap_pending_drop(TapPending *pending);

#endif /* NET_TAP_LOCAL_INT_H */
