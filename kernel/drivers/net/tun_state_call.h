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

#include <linux/if_tun_state.h>
#include <linux/nospec.h>
#include <linux/sort.h>

#include "tun_state.h"
#include "tun_state_config.h"

struct tun_state_call;

/**
 * struct tun_state_ops - operations of a group
 * @get: under RTNL: fill in the group from the device
 * @copy_out: TUNGETSTATE, without locks: fill in the user buffer
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
	int (*get)(struct tun_state_call *call);
	int (*copy_out)(struct tun_state_call *call);
	int (*parse)(struct tun_state_call *call);
	bool (*differs)(struct tun_state_call *call);
	int (*validate)(struct tun_state_call *call);
	void (*apply)(struct tun_state_call *call);
};

/**
 * struct tun_state_group - one group of struct tun_state
 * @bit: its bit in tun_state.mask
 * @offset: of the group in struct tun_state
 * @size: of the group
 * @ops: its operations
 */
struct tun_state_group {
	u64 bit;
	u16 offset;
	u16 size;
	const struct tun_state_ops *ops;
};

/**
 * struct tun_state_call - one TUNGETSTATE or TUNSETSTATE
 * @file: of the caller
 * @tfile: the queue of @file
 * @tun: the device, under RTNL only
 * @group: whose operation runs
 * @req: argument of the caller
 * @cur: state in force, and the answer
 * @entries: TUNGETSTATE: content of the user buffer of a group
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
	struct {
		struct sock_filter *insns;
		struct tun_state_flow *flows;
		struct tun_state_queue *queues;
	} entries;
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

/* Allocate @max entries of @size bytes, or as many as the caller has room for */
static void *tun_state_alloc(struct tun_state_call *call, u32 max, size_t size)
{
	const struct tun_state_array *req = tun_state_req(call);
	struct tun_state_array *cur = tun_state_cur(call);

	*cur = *req;
	if (!req->entry_size || req->entry_size > PAGE_SIZE)
		return ERR_PTR(-EINVAL);
	return kvcalloc(min(req->count, max), size, GFP_KERNEL_ACCOUNT) ?:
	       ERR_PTR(-ENOMEM);
}

/* Copy entries of @size bytes to entries of the caller's size: as much of each
 * as fits, and zero behind it.
 */
static int tun_state_copy_entries(const struct tun_state_array *array,
				  const void *entries, size_t size)
{
	void __user *to = u64_to_user_ptr(array->entries);
	size_t n = min_t(size_t, size, array->entry_size);
	u32 i;

	if (array->entry_size == size)
		return copy_to_user(to, entries, array_size(array->count, size)) ?
		       -EFAULT : 0;
	for (i = 0; i < array->count; i++) {
		if (copy_to_user(to, entries, n) ||
		    clear_user(to + n, array->entry_size - n))
			return -EFAULT;
		entries += size;
		to += array->entry_size;
	}
	return 0;
}

#endif /* TUN_STATE_CALL_H */
