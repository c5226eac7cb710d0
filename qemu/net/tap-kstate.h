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

/* A struct tun_state of any length in the migration stream */
typedef struct TapKState {
    uint32_t size;              /* 0 when there is none */
    uint8_t *data;              /* TAP_KSTATE_MAX_SIZE bytes; not trusted */
} TapKState;

/* The meaning of a difference */
typedef enum TapKPolicy {
    TAP_KPOLICY_GUARD,          /* another device, or cannot be set: refuse */
    TAP_KPOLICY_VERIFIED,       /* guests need it: refuse, or restore it */
    TAP_KPOLICY_OBSERVED,       /* an administrator may change it: log it */
} TapKPolicy;

/*
 * Read the state of a queue, and set @st->mask to the groups that are valid;
 * fails if @fd is not a TAP, or its device is gone. Changes nothing else.
 *
 * With @hold, the open file of the queue holds the eBPF programs of the device,
 * instead of those that it held before, so that tap_kstate_restore() can put
 * them back. Source and target share the file: only a source does that.
 *
 * Where the kernel does not report the state, set @why, unless it is NULL, to
 * the reason, for the caller to free, and fill in groups iff, vnet and queue
 * with what the older ioctls tell; @st->supported is 0 then.
 */
bool tap_kstate_read(int fd, bool hold, struct tun_state *st, char **why,
                     Error **errp);

/* Write the guard and verified groups of a state that the kernel reported */
void tap_kstate_encode(const struct tun_state *st, TapKState *ks);

/*
 * Read the groups of the stream that this QEMU knows; set @unknown when there
 * are others. Fails if @ks is malformed.
 */
bool tap_kstate_decode(const TapKState *ks, struct tun_state *st,
                       bool *unknown, Error **errp);

/* Return true if a state of the stream has all groups of this device */
bool tap_kstate_complete(const struct tun_state *expected,
                         const struct tun_state *actual);

/*
 * Compare fields with one of BIT(TapKPolicy)s in groups that both states have;
 * return those that differ, with both values, for the caller to free, or NULL.
 * Leaves out the index of the queue: see tap_kstate_place().
 */
char *tap_kstate_differences(const struct tun_state *expected,
                             const struct tun_state *actual,
                             unsigned int policies);

/*
 * Return a number that orders the queues of a device, attached ones first.
 * Queues of others count, too, so only the order of numbers has a meaning.
 */
uint64_t tap_kstate_place(const struct tun_state *st);

/*
 * Set the verified groups that differ, one by one; return errors for the caller
 * to free, or NULL. @expected was read in this process, never from a stream:
 * the kernel would do what the stream says.
 */
char *tap_kstate_restore(int fd, const struct tun_state *expected,
                         const struct tun_state *actual);

/* Move a queue to a place; return -errno, or 0 */
int tap_kstate_set_index(int fd, const struct tun_state *actual,
                         uint32_t index);

#endif /* NET_TAP_KSTATE_H */
