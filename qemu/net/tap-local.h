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

/**
 * tap_local_new: prepare a netdev for hand-over
 *
 * @tap: options of the netdev
 * @id: id of the netdev
 * @local: set to a reference, or to NULL when the netdev does not have
 *         local-migration-supported=on
 * @errp: set when the options contradict each other, or the way that this QEMU
 *        was started
 *
 * Returns: false and sets @errp on error
 */
bool tap_local_new(const NetdevTapOptions *tap, const char *id,
                   TapLocal **local, Error **errp);

/* Drop a reference; each queue has one, too */
void tap_local_unref(TapLocal *local);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapLocal, tap_local_unref)

/* Return true if the file descriptors come with the migration stream */
bool tap_local_is_incoming(const TapLocal *local);

/**
 * tap_local_add_queue: add the next queue of a netdev
 *
 * @local: the netdev, or NULL
 * @s: the queue; its fd is -1 when it comes with the stream. Sets @s->local.
 * @errp: set on error
 *
 * Returns: false and sets @errp on error
 */
bool tap_local_add_queue(TapLocal *local, TAPState *s, Error **errp);

/* Undo tap_local_add_queue() */
void tap_local_remove_queue(TapLocalQueue *queue);

/**
 * tap_local_may_read: return true if the backend may read from the queue
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

/**
 * tap_local_set: remember a setting by the NIC model
 *
 * Returns: true when the caller has to write it to the device; false when
 * that is done later, when the VM starts here
 */
bool tap_local_set(TapLocalQueue *queue, TapSetting setting, int value);

/* Return true if this QEMU has to run downscript */
bool tap_local_owns_device(const TapLocalQueue *queue);

/**
 * tap_local_check_ready: check that a queue can serve its NIC
 *
 * @queue: may be NULL
 * @started: true if the driver of the guest uses the NIC
 * @errp: set when the fd did not arrive, or a packet came along that vhost
 *        cannot deliver
 *
 * Returns: false and sets @errp if it is not ready
 */
bool tap_local_check_ready(const TapLocalQueue *queue, bool started,
                           Error **errp);

/*
 * Pending packets (tap-pending.c)
 */

/**
 * tap_pending_keep_received: keep a packet that the stopped VM cannot take
 *
 * The packet was read from the device, so nobody can read it again. The VM gets
 * it first when it starts, here or on the other side. Does nothing while the VM
 * runs.
 *
 * @queue: may be NULL
 * @data: the packet as it was read
 * @size: its length in bytes
 */
void tap_pending_keep_received(TapLocalQueue *queue, const uint8_t *data,
                               size_t size);

/* Return true if a received packet was kept, and the VM can take it */
bool tap_pending_has_received(const TapLocalQueue *queue);

/**
 * tap_pending_take_received: take the received packet that was kept
 *
 * @queue: may be NULL
 * @buf: buffer of %NET_BUFSIZE bytes
 *
 * Returns: length of the packet, 0 without one
 */
size_t tap_pending_take_received(TapLocalQueue *queue, uint8_t *buf);

/* Drop received packets when somebody sets the link of the netdev down */
void tap_pending_link_changed(TapLocalQueue *queue);

/**
 * tap_pending_keep_sent: keep a packet that the device does not take yet
 *
 * The packet counts as sent for the NIC model. It is written before any other
 * when the VM starts, here or on the other side. This is for a VM that stops:
 * while it runs, the NIC model itself keeps the packet until there is room.
 *
 * @queue: may be NULL
 * @iov: the packet to be written
 * @iovcnt: number of elements of @iov
 *
 * Returns: false when the NIC model has to keep the packet
 */
bool tap_pending_keep_sent(TapLocalQueue *queue, const struct iovec *iov,
                           int iovcnt);

/**
 * tap_pending_flush_sent: write the packets that tap_pending_keep_sent() kept
 *
 * Returns: false when some of them still wait for the device: write no others
 */
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
