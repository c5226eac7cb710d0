/*
 * Kernel state of a TAP queue, as TUNGETSTATE reports it
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_TAP_KSTATE_H
#define NET_TAP_KSTATE_H

#include "tap-local.h"

#define TAP_KSTATE_MAX_SIZE 4096

/**
 * TapKState: a struct tun_state of any length
 *
 * @size: bytes in use; 0 when there is none
 * @data: %TAP_KSTATE_MAX_SIZE bytes. When they come from a migration stream
 *        nothing is known about them.
 */
typedef struct TapKState {
    uint32_t size;
    uint8_t *data;
} TapKState;

/**
 * tap_kstate_get: read the state of a queue
 *
 * @fd: the queue
 * @ks: where to; its size is 0 when this kernel cannot report the state
 * @errp: set on error
 *
 * Returns: false and sets @errp on error; that the kernel does not have
 * TUNGETSTATE is none
 */
bool tap_kstate_get(int fd, TapKState *ks, Error **errp);

/**
 * tap_kstate_check: compare a state with what a queue has now
 *
 * Changes nothing.
 *
 * @fd: the queue
 * @ks: the expected state; not trusted
 * @errp: says what differs, with both values
 *
 * Returns: false and sets @errp when they differ, or when @ks is not a state
 */
bool tap_kstate_check(int fd, const TapKState *ks, Error **errp);

/**
 * tap_kstate_restore: bring a queue back to a state
 *
 * @fd: the queue
 * @ks: a state that tap_kstate_get() returned in this process
 * @errp: set on error, with the part that could not be restored
 *
 * Returns: false and sets @errp on error
 */
bool tap_kstate_restore(int fd, const TapKState *ks, Error **errp);

/**
 * tap_kstate_get_offload: read which kinds of packets are to be given out
 *
 * @fd: the queue
 * @offload: where to put it, as TUN_F_*
 *
 * Returns: false when this kernel cannot tell
 */
bool tap_kstate_get_offload(int fd, int *offload);

/**
 * tap_kstate_get_supported: read which kinds of packets a device accepts
 *
 * @fd: the queue
 * @ufo: where to put whether it takes UFO packets
 * @uso: where to put whether it takes USO packets
 * @tunnel: where to put whether it takes GSO packets in UDP tunnels
 *
 * Returns: false when this kernel cannot tell without a change of the device
 */
bool tap_kstate_get_supported(int fd, bool *ufo, bool *uso, bool *tunnel);

#endif /* NET_TAP_KSTATE_H */
