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
 * @data: %TAP_KSTATE_MAX_SIZE bytes; not trusted when they come from a
 *        migration stream
 */
typedef struct TapKState {
    uint32_t size;
    uint8_t *data;
} TapKState;

/**
 * tap_kstate_get: read the state of a queue, and change nothing
 *
 * @fd: the queue
 * @ks: set to the state; its size is 0 on a kernel without TUNGETSTATE, which
 *      is not an error
 * @errp: set on error
 *
 * Returns: false and sets @errp on error
 */
bool tap_kstate_get(int fd, TapKState *ks, Error **errp);

/**
 * tap_kstate_hold: read the state of a queue that tap_kstate_restore() may
 * restore
 *
 * Like tap_kstate_get(). In addition, the open file of the queue holds the eBPF
 * programs of the device, instead of those that it held before, so that they can
 * be attached again. Source and target share the file: only a source calls this.
 *
 * @fd: the queue
 * @ks: set to the state, as by tap_kstate_get()
 * @errp: set on error
 *
 * Returns: false and sets @errp on error
 */
bool tap_kstate_hold(int fd, TapKState *ks, Error **errp);

/**
 * tap_kstate_check: compare a state with the present state of a queue
 *
 * Changes nothing.
 *
 * @fd: the queue
 * @ks: the expected state; not trusted
 * @observed: set to the fields that differ although an administrator may change
 *            them, with both values, for the caller to free; NULL without
 * @errp: set to the fields that differ and must not, with both values
 *
 * Returns: false and sets @errp when such a field differs, or @ks is malformed
 */
bool tap_kstate_check(int fd, const TapKState *ks, char **observed,
                      Error **errp);

/**
 * tap_kstate_restore: set a queue to an earlier state
 *
 * Changes the fields that tap_kstate_check() refuses, if they differ, and no
 * others.
 *
 * @fd: the queue
 * @ks: a state that tap_kstate_hold() returned in this process. Never one of a
 *      migration stream: the kernel would do what the stream says.
 * @errp: set to the fields that still differ, with both values
 *
 * Returns: false and sets @errp on error
 */
bool tap_kstate_restore(int fd, const TapKState *ks, Error **errp);

/**
 * tap_kstate_get_offload: read the offloads in force
 *
 * @fd: the queue
 * @offload: set to TUN_F_*
 *
 * Returns: false when this kernel cannot tell
 */
bool tap_kstate_get_offload(int fd, int *offload);

/**
 * tap_kstate_get_supported: read the offloads that a device supports
 *
 * @fd: the queue
 * @ufo: set to true if it supports UFO
 * @uso: set to true if it supports USO
 * @tunnel: set to true if it supports GSO in UDP tunnels
 *
 * Returns: false when the kernel cannot report them
 */
bool tap_kstate_get_supported(int fd, bool *ufo, bool *uso, bool *tunnel);

#endif /* NET_TAP_KSTATE_H */
