/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A group of struct tun_state, and its operations.
 */
#ifndef TUN_STATE_GROUP_H
#define TUN_STATE_GROUP_H

#include <linux/if_tun_state.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/overflow.h>
#include <linux/rtnetlink.h>
#include <linux/sort.h>

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
 * @begin: under RTNL, if the group differs: make the change that can fail, ahead of
 *	all others; one group of a driver may have it
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
	int (*begin)(struct tun_state_call *call);
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

/* Entry of a driver's table, see tun_state_core.h */
#define TUN_STATE_GROUP(_nr, _name, _member, _ops)			\
	[_nr] = {							\
		.bit	= BIT_ULL(_nr) +				\
			  BUILD_BUG_ON_ZERO(BIT_ULL(_nr) != TUN_STATE_##_name), \
		.offset	= offsetof(struct tun_state, _member),		\
		.size	= sizeof_field(struct tun_state, _member),	\
		.ops	= _ops,						\
	}

/* Version 1 of the layout, for good: each member begins where the last one ends. */
#define TUN_STATE_ENDS(_member, _end)					\
	static_assert(offsetofend(struct tun_state, _member) == (_end))

TUN_STATE_ENDS(mask, 8);
TUN_STATE_ENDS(flags, 12);
TUN_STATE_ENDS(reserved, 16);
TUN_STATE_ENDS(supported, 24);
TUN_STATE_ENDS(failed, 32);
TUN_STATE_ENDS(identity, 48);
TUN_STATE_ENDS(netdev, 104);
TUN_STATE_ENDS(iff, 112);
TUN_STATE_ENDS(owner, 128);
TUN_STATE_ENDS(vnet, 136);
TUN_STATE_ENDS(offload, 152);
TUN_STATE_ENDS(sndbuf, 160);
TUN_STATE_ENDS(link, 168);
TUN_STATE_ENDS(coalesce, 176);
TUN_STATE_ENDS(txfilter, 240);
TUN_STATE_ENDS(sockfilter, 256);
TUN_STATE_ENDS(steering, 280);
TUN_STATE_ENDS(filter, 304);
TUN_STATE_ENDS(xdp, 312);
TUN_STATE_ENDS(flows, 328);
TUN_STATE_ENDS(queue, 344);
TUN_STATE_ENDS(queues, 360);
static_assert(TUN_STATE_SIZE_VER0 == 360);
static_assert(sizeof(struct tun_state) == TUN_STATE_SIZE_VER0);
static_assert(sizeof(struct tun_state_flow) == 12);

#endif /* TUN_STATE_GROUP_H */
