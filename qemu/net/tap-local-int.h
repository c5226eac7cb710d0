/*
 * Hand-over of a TAP to another QEMU on the same host: what its files share
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_TAP_LOCAL_INT_H
#define NET_TAP_LOCAL_INT_H

#include <linux/if_tun.h>
#include <net/if.h>

#include "migration/misc.h"
#include "qapi/qapi-types-migration.h"
#include "qom/object.h"
#include "tap-kstate.h"
#include "tap-local.h"
#include "tap-state.h"
#include "tap_int.h"

/* Linux 6.17; system headers may be older */
#ifndef TUN_F_UDP_TUNNEL_GSO
#define TUN_F_UDP_TUNNEL_GSO 0x080
#endif

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

/* States of a queue that are compared with each other */
typedef enum TapSnapshot {
    TAP_KEPT,                   /* when it was suspended, or arrived */
    TAP_NOW,                    /* when it was read last */
    TAP_EXPECTED,               /* in the incoming stream */
    TAP_SNAPSHOT__MAX
} TapSnapshot;

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
    struct tun_state st[TAP_SNAPSHOT__MAX];
    TapPending pending;
    QTAILQ_ENTRY(TapLocalQueue) next;
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
    bool shared;                /* the source does not hand it over */
    char ifname[IFNAMSIZ];
    unsigned int count;         /* of queues */
    QTAILQ_HEAD(, TapLocalQueue) queues;
    QTAILQ_ENTRY(TapLocal) next;

    bool vnet_hdr;              /* options */
    char *want_ifname;          /* ... of a target, or NULL */
    OnOffAuto kernel_state;
    int sndbuf;                 /* ... of a target, or 0 */
    GArray *shared_fds;         /* ... or NULL; -1: its queue has it */

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

/* tap-local.c */

/* Netdevs, some of which tap_local_is_deleted() */
extern QTAILQ_HEAD(TapLocals, TapLocal) tap_locals;

/* After netdev_del, a NIC still uses the TAP of the deleted netdev */
bool tap_local_is_deleted(const TapLocal *local);

/*
 * Read the state of the device for the outgoing stream, and let nobody on this
 * side read from it or change it. Until the other QEMU runs, either side may go
 * on. Changes nothing on error.
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

/*
 * Read the state of each queue; fails when the device is gone. With @hold, the
 * kernel holds the eBPF programs, to restore them.
 */
bool tap_local_read(TapLocal *local, TapSnapshot to, bool hold, Error **errp);

/* As tap_set_sndbuf(), whose arguments differ between versions */
void tap_local_set_sndbuf(int fd, int sndbuf);

/* Bring settings by QEMU into force; return true if some of them were not */
bool tap_local_apply(TapLocal *local);

/* List the fields of all queues that differ; see tap_kstate_differences() */
char *tap_local_differences(TapLocal *local, TapSnapshot expected,
                            TapSnapshot actual, unsigned int policies);

/*
 * Undo changes by others since the device was suspended; return what could not
 * be undone, for the caller to free, or NULL
 */
char *tap_local_restore(TapLocal *local);

/* Report what could not be undone, and free it; NULL: all is well */
void tap_local_fail(TapLocal *local, char *failed);

/*
 * Name the first queue that is out of order among those of the netdev, or
 * return NULL; queues of the device that belong to others do not count
 */
char *tap_local_places_differ(TapLocal *local, TapSnapshot expected,
                              TapSnapshot actual);

/* tap-stream.c */

extern const VMStateDescription vmstate_net_tap;

/* Take the queue in @queue->stream; the caller closes its fd on error */
bool tap_stream_load(TapLocalQueue *queue, Error **errp);

/* tap-shared.c */

/* Get the file descriptors of fd= or fds= */
bool tap_shared_get_fds(TapLocal *local, const char *names, Error **errp);

/* Give the queue its file descriptor, and read the state of the device */
bool tap_shared_take(TapLocalQueue *queue, Error **errp);

/* The source has stopped: log changes by others since tap_shared_take() */
void tap_shared_start(TapLocal *local);

/* tap-pending.c */

extern const VMStateDescription vmstate_net_tap_pending;

/*
 * Write the packets that tap_pending_keep_sent() kept, whatever sndbuf allows:
 * nobody else could write them ahead of later ones
 */
void tap_pending_flush_all_sent(TapLocalQueue *queue);

/*
 * With kernel-state=off, the section is to have no subsection, as upstream's
 * QEMU 11.2 refuses it: write packets of the guest, and warn of others
 */
void tap_pending_prepare_save(TapLocalQueue *queue);

/* Return the number of packets */
unsigned int tap_pending_count(const TapPending *pending);

/* Free the packets */
void tap_pending_drop(TapPending *pending);

#endif /* NET_TAP_LOCAL_INT_H */
