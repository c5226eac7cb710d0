/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One call of TUNGETSTATE or TUNSETSTATE, and the operations of a group.
 *
 * The driver that includes these files provides
 *  - struct tun_struct, struct tun_file, struct tun_prog, struct tap_filter and
 *    their constants, as in tun.c
 *  - tun_attach(), __tun_detach(), tun_net_change_carrier(), tun_prog_free() and
 *    tun_flags()
 *  - tun_offload_features(): the parser of TUNSETOFFLOAD
 *  - tun_set_filter(), tun_set_queue_filter(), tun_filter_put(): the classic
 *    filter that the queues of a device share
 *  - tun_state_sockfilter(): the classic filter of a device, or NULL
 *  - tun_state_held(): the struct tun_state_held of an open file
 *  - file_operations.owner: the module that a persistent device pins
 */
#ifndef TUN_STATE_CALL_H
#define TUN_STATE_CALL_H

#include <linux/filter.h>
#include <linux/if_tun_state.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/overflow.h>
#include <linux/sort.h>

#include "tun_state.h"
#include "tun_state_config.h"

struct tun_state_call;

#define TUN_STATE_NR_GROUPS	17

/**
 * struct tun_state_ops - operations of a group
 * @entry_size: size of an entry of the array in a user buffer; 0 without an array
 * @cmp: order of the entries, if @get does not sort them
 * @get: under RTNL: fill in the group from the device, and its entries
 * @parse: TUNSETSTATE, without locks: refuse values that no device can have;
 *	allocate and look up
 * @differs: under RTNL: compare the caller's group with the current one;
 *	memcmp() by default
 * @validate: under RTNL, if the group differs: refuse values that this device
 *	cannot have or that this caller must not set
 * @apply: under RTNL: put the group in force; cannot fail
 *
 * A group without @validate and @apply is only reported.
 */
struct tun_state_ops {
	u32 entry_size;
	int (*cmp)(const void *a, const void *b);
	int (*get)(struct tun_state_call *call);
	int (*parse)(struct tun_state_call *call);
	bool (*differs)(struct tun_state_call *call);
	int (*validate)(struct tun_state_call *call);
	void (*apply)(struct tun_state_call *call);
};

/**
 * struct tun_state_group - one group of struct tun_state
 * @bit: bit in tun_state.mask
 * @offset: offset in struct tun_state
 * @size: size in struct tun_state
 * @ops: operations
 */
struct tun_state_group {
	u64 bit;
	u16 offset;
	u16 size;
	const struct tun_state_ops *ops;
};

/**
 * struct tun_state_call - one TUNGETSTATE or TUNSETSTATE
 * @file: file of the caller
 * @tfile: the queue of @file
 * @tun: the device, under RTNL only
 * @group: group whose operation runs
 * @req: argument of the caller
 * @cur: state in force, and the answer
 * @entries: TUNGETSTATE: entries of each group for the user buffer
 * @features: TUNSETSTATE: offloads enabled by the caller, as features
 * @sockfilter: TUNSETSTATE: replaces the current one
 * @progs: TUNSETSTATE: each replaces the attached one
 * @hold: TUNGETSTATE: references to the programs reported
 * @left: held->left of @tfile at the time of the snapshot
 * @notify: send RTM_NEWLINK
 */
struct tun_state_call {
	struct file *file;
	struct tun_file *tfile;
	struct tun_struct *tun;
	const struct tun_state_group *group;
	struct tun_state req;
	struct tun_state cur;
	void *entries[TUN_STATE_NR_GROUPS];
	netdev_features_t features;
	struct sk_filter *sockfilter;
	struct tun_prog *progs[TUN_STATE_PROGS];
	struct bpf_prog *hold[TUN_STATE_PROGS];
	unsigned int left;
	bool notify;
};

/* The group in the caller's struct, and in the answer */
static void *tun_state_req(struct tun_state_call *call)
{
	return (void *)&call->req + call->group->offset;
}

static void *tun_state_cur(struct tun_state_call *call)
{
	return (void *)&call->cur + call->group->offset;
}

static bool tun_state_is_tap(const struct tun_state_call *call)
{
	return (call->tun->flags & TUN_TYPE_MASK) == IFF_TAP;
}

/* Allocate @count entries, if the caller has room for them, or return an error */
static void *tun_state_entries(struct tun_state_call *call, u32 count)
{
	const struct tun_state_array *req = tun_state_req(call);
	struct tun_state_array *cur = tun_state_cur(call);
	void *entries;

	*cur = *req;
	if (!req->entry_size || req->entry_size > PAGE_SIZE)
		return ERR_PTR(-EINVAL);
	cur->count = count;
	if (count > req->count)
		return ERR_PTR(-ENOSPC);
	entries = kvmalloc_array(count, call->group->ops->entry_size,
				 GFP_KERNEL_ACCOUNT);
	call->entries[ilog2(call->group->bit)] = entries;
	return entries ?: ERR_PTR(-ENOMEM);
}

#endif /* TUN_STATE_CALL_H */
