/*
 * Hand-over of a TAP to another QEMU on the same host, as tap.c sees it
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_TAP_LOCAL_H
#define NET_TAP_LOCAL_H

#include "net/net.h"
#include "qapi/qapi-types-net.h"

/* A netdev, and one of its queues; NULL for a TAP that cannot be handed over */
typedef struct TapLocal TapLocal;
typedef struct TapLocalQueue TapLocalQueue;

typedef struct TAPState TAPState;

/* Settings by a NIC model that TAPState does not hold */
typedef enum TapSetting {
    TAP_SETTING_VNET_LE,        /* 0 or 1 */
    TAP_SETTING_VNET_BE,        /* 0 or 1 */
    TAP_SETTING_OFFLOAD,        /* TUN_F_* */
    TAP_SETTING_STEERING,       /* eBPF program fd, or -1 */
    TAP_SETTING__MAX
} TapSetting;

/*
 * Prepare a netdev for hand-over: set @local to a reference, or to NULL without
 * local-migration-supported=on. Fails when the options contradict each other,
 * or the way that this QEMU was started.
 */
bool tap_local_new(const NetdevTapOptions *tap, const char *id,
                   TapLocal **local, Error **errp);

/* Drop a reference; each queue has one, too */
void tap_local_unref(TapLocal *local);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapLocal, tap_local_unref)

/* Return true if the TAP comes from another QEMU, and is not to be opened */
bool tap_local_is_incoming(const TapLocal *local);

/* Return the number of queues in fd= or fds= with shared-fds=on, else 0 */
unsigned int tap_shared_count(const TapLocal *local);

/*
 * Add the next queue of a netdev, which may be NULL, and set @s->local; @s->fd
 * is -1 when it comes with the stream, or from another QEMU
 */
bool tap_local_add_queue(TapLocal *local, TAPState *s, Error **errp);

/* Undo it; closes a fd that came with the stream, unless @s->fd has it */
void tap_local_remove_queue(TapLocalQueue *queue);

/*
 * Return true if the backend may read from the queue
 *
 * While the VM is stopped nobody reads: the other QEMU could not read the
 * packet again. The VM counts as running once NIC and vhost run, and as stopped
 * before they stop.
 */
bool tap_local_may_read(const TapLocalQueue *queue);

/* Let nobody use a device that was deleted; errno says if it was */
void tap_local_read_failed(TapLocalQueue *queue);

/* Return false while the other QEMU may use the device: do not change it */
bool tap_local_may_change(const TapLocalQueue *queue);

/*
 * Remember a setting by the NIC model; return true when the caller has to write
 * it to the device, false when that is done when the VM starts here
 */
bool tap_local_set(TapLocalQueue *queue, TapSetting setting, int value);

/* Return true if this QEMU has to run downscript */
bool tap_local_owns_device(const TapLocalQueue *queue);

/*
 * Check that the fd has arrived. With @started, the driver of the guest uses
 * the NIC: then vhost cannot deliver a packet that came along, and this fails.
 */
bool tap_local_check_ready(const TapLocalQueue *queue, bool started,
                           Error **errp);

/*
 * Pending packets (tap-pending.c)
 */

/*
 * Keep a packet that was read, as nobody can read it again, and that the
 * stopped VM cannot take. The VM gets it first when it starts, here or on the
 * other side. Does nothing while the VM runs.
 */
void tap_pending_keep_received(TapLocalQueue *queue, const uint8_t *data,
                               size_t size);

/* Return true if a received packet was kept, and the VM can take it */
bool tap_pending_has_received(const TapLocalQueue *queue);

/* Move the packet to @buf of NET_BUFSIZE bytes; return its length, or 0 */
size_t tap_pending_take_received(TapLocalQueue *queue, uint8_t *buf);

/* Drop received packets when somebody sets the link of the netdev down */
void tap_pending_link_changed(TapLocalQueue *queue);

/*
 * Keep a packet that the device does not take yet. It counts as sent for the
 * NIC model, and is written before any other when the VM starts, here or on the
 * other side. Returns false while the VM runs, or when too many wait: the NIC
 * model has to keep the packet.
 */
bool tap_pending_keep_sent(TapLocalQueue *queue, const struct iovec *iov,
                           int iovcnt);

/* Write packets that were kept; false: some still wait, so write no others */
bool tap_pending_flush_sent(TapLocalQueue *queue);

/*
 * Implemented by tap.c
 */

/* Look at tap_local_may_read() and tap_local_may_change() again */
void tap_update(TAPState *s);

/* Write a packet; 0 if the device blocks */
ssize_t tap_write_packet(TAPState *s, const struct iovec *iov, int iovcnt);

/* Write TUN_F_* to the device */
void tap_write_offload(TAPState *s, unsigned int offload);

/* Tell people about the TAP that has come, or is gone (@s->fd is -1) */
void tap_set_info(TAPState *s, const char *ifname);

#endif /* NET_TAP_LOCAL_H */
