/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One call of TUNGETSTATE or TUNSETSTATE on a file of tun.c.
 *
 * The driver that includes these files provides
 *  - struct tun_struct, struct tun_file, struct tun_prog, struct tap_filter and
 *    their constants, as in tun.c
 *  - tun_attach(), __tun_detach(), tun_net_change_carrier(), tun_prog_free() and
 *    tun_flags()
 *  - tun_offload_features(): the parser of TUNSETOFFLOAD
 *  - tun_filter_put(): drop a classic filter, or NULL
 *  - tun_state_sockfilter(): the classic filter of a device, NULL, or an error
 *  - tun_state_sockfilter_validate(), tun_state_sockfilter_apply(), and
 *    tun_state_queue_filter_validate() to _apply(): set that of the device and
 *    of the queue, as in tun_state_sockfilter.h
 *  - tun_state_held(): the struct tun_state_held of an open file, or NULL if there
 *    is no memory for it
 *  - file_operations.owner: the module that a persistent device pins
 */
#ifndef TUN_STATE_CALL_H
#define TUN_STATE_CALL_H

#include <linux/filter.h>

#include "tun_state.h"
#include "tun_state_group.h"

/**
 * struct tun_state_call - one TUNGETSTATE or TUNSETSTATE
 * @file: file of the caller
 * @tfile: the queue of @file
 * @tun: the device, under RTNL only
 * @dev: its network device, under RTNL only
 * @group: group whose operation runs
 * @req: argument of the caller
 * @cur: state in force, and the answer
 * @entries: TUNGETSTATE: entries of each group for the user buffer
 * @features: TUNSETSTATE: offloads enabled by the caller, as features
 * @sockfilter: TUNSETSTATE: replaces the current one
 * @progs: TUNSETSTATE: each replaces the attached one
 * @held: programs that @file holds
 * @hold: TUNGETSTATE: references to the programs reported
 * @left: @held->left at the time of the snapshot
 * @notify: send RTM_NEWLINK
 */
struct tun_state_call {
	struct file *file;
	struct tun_file *tfile;
	struct tun_struct *tun;
	struct net_device *dev;
	const struct tun_state_group *group;
	struct tun_state req;
	struct tun_state cur;
	void *entries[TUN_STATE_NR_GROUPS];
	netdev_features_t features;
	struct sk_filter *sockfilter;
	struct tun_prog *progs[TUN_STATE_PROGS];
	struct tun_state_held *held;
	struct bpf_prog *hold[TUN_STATE_PROGS];
	unsigned int left;
	bool notify;
};

/* Accessors for tun_state_common.h */
static unsigned int *tun_state_flags(const struct tun_state_call *call)
{
	return &call->tun->flags;
}

static int *tun_state_vnet_hdr_sz(const struct tun_state_call *call)
{
	return &call->tun->vnet_hdr_sz;
}

static struct sock *tun_state_sk(const struct tun_state_call *call)
{
	return &call->tfile->sk;
}

static bool tun_state_is_tap(const struct tun_state_call *call)
{
	return (call->tun->flags & TUN_TYPE_MASK) == IFF_TAP;
}

#endif /* TUN_STATE_CALL_H */
