/*
 * Hand-over of a TAP queue to another QEMU on the same host
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_TAP_LOCAL_H
#define NET_TAP_LOCAL_H

#include "net/net.h"
#include "qapi/qapi-types-net.h"

typedef struct TapLocal TapLocal;

/**
 * TapLocalQueue: fields of section net-tap in the migration stream
 *
 * @fd: the queue, passed as a file descriptor; -1 before it arrived
 * @using_vnet_hdr: the NIC model handles the vnet header
 * @has_ufo: the device accepts UFO packets
 * @has_uso: the device accepts USO packets
 * @has_tunnel: the device accepts GSO packets in UDP tunnels
 * @enabled: the queue is attached to the device
 * @host_vnet_hdr_len: bytes of vnet header in front of a packet, or 0
 */
typedef struct TapLocalQueue {
    int32_t fd;
    bool using_vnet_hdr;
    bool has_ufo;
    bool has_uso;
    bool has_tunnel;
    bool enabled;
    uint32_t host_vnet_hdr_len;
} TapLocalQueue;

/* Settings of a TAP that a NIC model or the netdev changes */
typedef enum TapSetting {
    TAP_SETTING_ENABLED,        /* attach (1) or detach (0) the queue */
    TAP_SETTING_VNET_HDR_LEN,   /* bytes */
    TAP_SETTING_VNET_LE,        /* 0 or 1 */
    TAP_SETTING_VNET_BE,        /* 0 or 1 */
    TAP_SETTING_OFFLOAD,        /* TUN_F_* */
    TAP_SETTING_STEERING,       /* eBPF program fd, or -1 */
    TAP_SETTING_SNDBUF,         /* bytes */
    TAP_SETTING__MAX
} TapSetting;

/**
 * TapLocalOps: how the hand-over reaches the TAP backend
 *
 * @get_queue: fill in the fields for the stream
 * @set_queue: take over the fields of the stream; @ifname names the device
 * @update: look at tap_local_may_read() again
 * @apply: write a setting to the device
 * @transmit: write a packet to the device; false if the device blocks
 */
typedef struct TapLocalOps {
    void (*get_queue)(NetClientState *nc, TapLocalQueue *queue);
    void (*set_queue)(NetClientState *nc, const TapLocalQueue *queue,
                      const char *ifname);
    void (*update)(NetClientState *nc);
    void (*apply)(NetClientState *nc, TapSetting setting, int value);
    bool (*transmit)(NetClientState *nc, const uint8_t *data, uint32_t size);
} TapLocalOps;

/**
 * tap_local_incoming: find out if a TAP gets its fds from the migration stream
 *
 * @tap: options of the netdev
 * @name: id of the netdev
 * @incoming: set to true when the fds come with the stream
 * @errp: set when the options contradict each other or the way that this QEMU
 *        was started
 *
 * Returns: false and sets @errp on error
 */
bool tap_local_incoming(const NetdevTapOptions *tap, const char *name,
                        bool *incoming, Error **errp);

/**
 * tap_local_new: register a TAP queue for hand-over
 *
 * @nc: the queue; its queue_index need not be set yet
 * @tap: options of the netdev
 * @index: number of the queue
 * @fd: file descriptor of the queue, or -1 when it comes with the stream
 * @ops: functions of the backend
 * @errp: set on error
 *
 * Returns: NULL without an error when the netdev does not have
 * local-migration-supported=on
 */
TapLocal *tap_local_new(NetClientState *nc, const NetdevTapOptions *tap,
                        int index, int fd, const TapLocalOps *ops,
                        Error **errp);

/**
 * tap_local_free: undo tap_local_new()
 *
 * @local: may be NULL
 */
void tap_local_free(TapLocal *local);

/**
 * tap_local_may_read: return true if the backend may read from the queue
 *
 * While the VM is stopped nobody reads: the other QEMU could not read the
 * packet again. The VM counts as stopped as soon as TapLocalOps.update is
 * called, before the last vCPU halts, and as running once NIC and vhost run.
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_may_read(const TapLocal *local);

/**
 * tap_local_defer: defer a change while the other QEMU may use the device
 *
 * Once the fd is in the stream, either side may run next, so neither changes
 * the device. Deferred settings are applied when the VM starts here, if they
 * are not in force by then.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @setting: the setting
 * @value: its new value
 *
 * Returns: false when the caller has to apply the setting itself
 */
bool tap_local_defer(TapLocal *local, TapSetting setting, int value);

/**
 * tap_local_keep_received: keep a packet that the stopped VM cannot take
 *
 * The packet was read from the device, so nobody can read it again. The VM gets
 * it first when it starts, here or on the other side. Does nothing while the VM
 * runs.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @data: the packet as it was read
 * @size: its length in bytes
 */
void tap_local_keep_received(TapLocal *local, const uint8_t *data, size_t size);

/**
 * tap_local_has_received: return true if a received packet was kept, and the VM
 * runs and can take it
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_has_received(const TapLocal *local);

/**
 * tap_local_take_received: take the received packet that was kept
 *
 * @local: NULL for a TAP that cannot be handed over
 * @buf: buffer of %NET_BUFSIZE bytes
 *
 * Returns: length of the packet, 0 without one
 */
size_t tap_local_take_received(TapLocal *local, uint8_t *buf);

/**
 * tap_local_keep_sent: keep a packet that the device does not take yet
 *
 * The packet counts as sent for the NIC model. It is written before any other
 * when the VM starts, here or on the other side. This is for a VM that stops:
 * while it runs, the NIC model itself keeps the packet until there is room.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @iov: the packet to be written
 * @iovcnt: number of elements of @iov
 *
 * Returns: false when the NIC model has to keep the packet
 */
bool tap_local_keep_sent(TapLocal *local, const struct iovec *iov, int iovcnt);

/**
 * tap_local_flush_sent: write the packets that tap_local_keep_sent() kept
 *
 * @local: NULL for a TAP that cannot be handed over
 *
 * Returns: false when some of them still wait for the device: write no others
 */
bool tap_local_flush_sent(TapLocal *local);

/**
 * tap_local_is_held: return true while the other QEMU may use the device
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_is_held(const TapLocal *local);

/**
 * tap_local_owns_device: return true if this QEMU has to run downscript
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_owns_device(const TapLocal *local);

/**
 * tap_local_check_ready: check that the queue has its file descriptor
 *
 * @local: NULL for a TAP that cannot be handed over
 * @errp: set when the fd did not arrive
 */
bool tap_local_check_ready(const TapLocal *local, Error **errp);

/**
 * tap_local_check_none_kept: check that no packet is pending, in any direction
 *
 * For a queue that vhost will serve: vhost takes packets from the kernel only,
 * and cannot deliver those of the migration stream.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @errp: set when a packet is pending
 */
bool tap_local_check_none_kept(const TapLocal *local, Error **errp);

/* Implemented by the TAP backend; NULL for a TAP that cannot be handed over */
TapLocal *tap_get_local(NetClientState *nc);

#endif /* NET_TAP_LOCAL_H */
