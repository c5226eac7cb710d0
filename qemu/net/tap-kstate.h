/*
 * Kernel state of a TAP queue, as TUNGETSTATE reports it
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NET_TAP_KSTATE_H
#define NET_TAP_KSTATE_H

#include <linux/if_tun_state.h>

#define TAP_KSTATE_MAX_SIZE 4096

/**
 * TapKState: a struct tun_state of any length in the migration stream
 *
 * @size: bytes in use; 0 when there is none
 * @data: %TAP_KSTATE_MAX_SIZE bytes; not trusted
 */
typedef struct TapKState {
    uint32_t size;
    uint8_t *data;
} TapKState;

/**
 * TapKPolicy: what a difference of a field means
 *
 * @TAP_KPOLICY_GUARD: this is another device, or cannot be changed: refuse it
 * @TAP_KPOLICY_VERIFIED: the guest's network depends on it: refuse the TAP. A
 *                        source that resumes restores it.
 * @TAP_KPOLICY_OBSERVED: an administrator may change it: log it
 */
typedef enum TapKPolicy {
    TAP_KPOLICY_GUARD,
    TAP_KPOLICY_VERIFIED,
    TAP_KPOLICY_OBSERVED,
} TapKPolicy;

/**
 * tap_kstate_read: read the state of a queue
 *
 * Changes nothing but the programs that @hold asks for. Where the kernel does
 * not report the state, fill in groups iff, vnet and queue with what the older
 * ioctls tell; @st->supported is 0 then.
 *
 * @fd: the queue
 * @hold: have the open file of the queue hold the eBPF programs of the device,
 *        instead of those that it held before, so that tap_kstate_restore() can
 *        put them back. Source and target share the file: only a source does.
 * @st: set to the state, with the groups that are valid in its mask
 * @why: set to the reason when the kernel does not report the state, for the
 *       caller to free; may be NULL
 * @errp: set if @fd is not a TAP, or its device is gone
 *
 * Returns: false and sets @errp on error
 */
bool tap_kstate_read(int fd, bool hold, struct tun_state *st, char **why,
                     Error **errp);

/**
 * tap_kstate_encode: write the part of a state that is compared for the stream
 *
 * @st: a state that the kernel reported
 * @ks: set to its guard and verified groups
 */
void tap_kstate_encode(const struct tun_state *st, TapKState *ks);

/**
 * tap_kstate_decode: read a state of the stream
 *
 * @ks: not trusted
 * @st: set to the groups that this QEMU knows; others are left out
 * @unknown: set to true when there are others
 * @errp: set if @ks is malformed
 *
 * Returns: false and sets @errp on error
 */
bool tap_kstate_decode(const TapKState *ks, struct tun_state *st,
                       bool *unknown, Error **errp);

/* Return true if a state of the stream has all groups of this device */
bool tap_kstate_complete(const struct tun_state *expected,
                         const struct tun_state *actual);

/**
 * tap_kstate_differences: compare the groups that two states have
 *
 * @expected: a state
 * @actual: a state of the same queue
 * @policies: BIT(TapKPolicy)s of the fields to compare
 *
 * The index of the queue is not compared: see tap_kstate_place().
 *
 * Returns: the fields that differ, with both values, for the caller to free;
 * NULL if none differs
 */
char *tap_kstate_differences(const struct tun_state *expected,
                             const struct tun_state *actual,
                             unsigned int policies);

/**
 * tap_kstate_place: return a number that orders the queues of a device
 *
 * Attached queues come first. Queues that belong to others count, too, so only
 * the order of numbers has a meaning.
 */
uint64_t tap_kstate_place(const struct tun_state *st);

/**
 * tap_kstate_restore: set the verified groups that differ, one by one
 *
 * @fd: the queue
 * @expected: a state that tap_kstate_read() returned in this process, never
 *            one of a migration stream: the kernel would do what the stream says
 * @actual: the present state
 *
 * Returns: errors for the caller to free, or NULL
 */
char *tap_kstate_restore(int fd, const struct tun_state *expected,
                         const struct tun_state *actual);

/**
 * tap_kstate_set_index: move a queue to a place
 *
 * Returns: -errno, or 0
 */
int tap_kstate_set_index(int fd, const struct tun_state *actual,
                         uint32_t index);

#endif /* NET_TAP_KSTATE_H */
