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
 * TapLocalQueue: what section net-tap of the migration stream holds
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

/* What a NIC model may set on its TAP, and a QEMU on a TAP of its own */
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
 * @get_queue: fill in what the stream is to hold
 * @set_queue: take over what the stream held; @ifname is the device's name
 * @update: tap_local_may_read() may have changed
 * @apply: write a setting to the device
 * @transmit: write a packet to the device; false when it has to wait
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
 * tap_local_incoming: whether a TAP gets its fds from the migration stream
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
 * tap_local_new: make a TAP queue fit for hand-over
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
 * tap_local_free: end what tap_local_new() began
 *
 * @local: may be NULL
 */
void tap_local_free(TapLocal *local);

/**
 * tap_local_may_read: whether packets may be taken from the queue
 *
 * A packet that is read while the VM is stopped can no longer be read by the
 * QEMU that will run it. The VM counts as stopped before TapLocalOps.update is
 * called, as it takes time until the last vCPU has come to a halt; and as running
 * once the NIC, and vhost with it, has started.
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_may_read(const TapLocal *local);

/**
 * tap_local_defer: put off a change while the device is not ours
 *
 * From the moment when the fd is in the stream until one side runs, either
 * side may be the one that does, so neither may touch the device. What the NIC
 * model asks for meanwhile is applied at start, where it differs from what the
 * device then has.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @setting: what is to be changed
 * @value: its new value
 *
 * Returns: false when the caller is to change it right away
 */
bool tap_local_defer(TapLocal *local, TapSetting setting, int value);

/**
 * tap_local_keep_received: keep a packet that the stopped VM cannot take
 *
 * It was read from the device, so nobody can read it again. When the VM
 * starts, here or on the other side, it is the first to be delivered. Does
 * nothing while the VM runs.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @data: the packet as it was read
 * @size: its bytes
 */
void tap_local_keep_received(TapLocal *local, const uint8_t *data, size_t size);

/**
 * tap_local_has_received: whether there is a packet that was kept, and a VM
 * that runs and can take it
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_has_received(const TapLocal *local);

/**
 * tap_local_take_received: take the packet that was kept
 *
 * @local: NULL for a TAP that cannot be handed over
 * @buf: where to, %NET_BUFSIZE bytes
 *
 * Returns: bytes of the packet, 0 when none was kept
 */
size_t tap_local_take_received(TapLocal *local, uint8_t *buf);

/**
 * tap_local_keep_sent: keep a packet that the device does not take yet
 *
 * The NIC model counts it as sent. It is written before any other when the VM
 * starts, here or on the other side. This is for a VM that is being stopped:
 * while it runs, the NIC model itself keeps the packet until there is room.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @iov: the packet as it is to be written
 * @iovcnt: number of elements of @iov
 *
 * Returns: false when the NIC model is to keep it
 */
bool tap_local_keep_sent(TapLocal *local, const struct iovec *iov, int iovcnt);

/**
 * tap_local_flush_sent: write what tap_local_keep_sent() kept
 *
 * @local: NULL for a TAP that cannot be handed over
 *
 * Returns: false when some of it still waits for the device, so nothing else
 * may be written
 */
bool tap_local_flush_sent(TapLocal *local);

/**
 * tap_local_is_held: whether the device is not ours at the moment
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_is_held(const TapLocal *local);

/**
 * tap_local_owns_device: whether it is up to this QEMU to run downscript
 *
 * @local: NULL for a TAP that cannot be handed over
 */
bool tap_local_owns_device(const TapLocal *local);

/**
 * tap_local_check_ready: whether the queue has its file descriptor
 *
 * @local: NULL for a TAP that cannot be handed over
 * @errp: set when the fd did not arrive
 */
bool tap_local_check_ready(const TapLocal *local, Error **errp);

/**
 * tap_local_check_none_kept: whether no packet waits, on either way
 *
 * For a queue that vhost is to serve. It takes packets from the kernel only, and
 * what came with the stream would be delivered after all others, if ever.
 *
 * @local: NULL for a TAP that cannot be handed over
 * @errp: set when one does
 */
bool tap_local_check_none_kept(const TapLocal *local, Error **errp);

/* Provided by the TAP backend: NULL for a TAP that cannot be handed over */
TapLocal *tap_get_local(NetClientState *nc);

#endif /* NET_TAP_LOCAL_H */
