/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE: report and restore the state of a tun/tap device
 * through one of its queue file descriptors.
 *
 * include/uapi/linux/if_tun_state.h is the contract, tun_state_call.h says what
 * the including driver provides, and each of the other files has groups of one
 * theme.
 */
#ifndef TUN_STATE_IOCTL_H
#define TUN_STATE_IOCTL_H

#include "tun_state_call.h"
#include "tun_state_netdev.h"
#include "tun_state_settings.h"
#include "tun_state_filter.h"
#include "tun_state_prog.h"
#include "tun_state_queue.h"

#define TUN_STATE_HEADER_SIZE	offsetof(struct tun_state, identity)

#define TUN_STATE_GROUP(_nr, _name, _member)				\
	{								\
		.bit	= BIT_ULL(_nr) +				\
			  BUILD_BUG_ON_ZERO(BIT_ULL(_nr) != TUN_STATE_##_name), \
		.offset	= offsetof(struct tun_state, _member),		\
		.size	= sizeof_field(struct tun_state, _member),	\
		.ops	= &tun_state_##_member##_ops,			\
	},

/* The identity comes first: no other group is validated on the wrong device. */
static const struct tun_state_group tun_state_groups[TUN_STATE_NR_GROUPS] = {
	__TUN_STATE_GROUPS(TUN_STATE_GROUP)
};

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

/* The next group of a mask after @g; the first one if @g is NULL */
static const struct tun_state_group *
tun_state_next(const struct tun_state_group *g, u64 mask)
{
	const struct tun_state_group *end;

	end = tun_state_groups + ARRAY_SIZE(tun_state_groups);
	for (g = g ? g + 1 : tun_state_groups; g < end; g++) {
		if (g->bit & mask)
			return g;
	}
	return NULL;
}

static int tun_state_fail(struct tun_state_call *call, u64 groups, int err)
{
	call->cur.failed = groups;
	return err;
}

static int tun_state_lock(struct tun_state_call *call)
{
	rtnl_lock();
	call->tun = rtnl_dereference(call->tfile->tun);
	call->left = tun_state_held(call->tfile)->left;
	if (call->tun)
		return 0;
	rtnl_unlock();
	return -EBADFD;
}

/* Check mask and flags; refuse groups beyond the end of the caller's struct */
static int tun_state_check_header(struct tun_state_call *call, size_t size,
				  u32 flags)
{
	const struct tun_state *req = &call->req;
	const struct tun_state_group *g = NULL;
	u64 unknown = req->mask;

	if (req->reserved || req->flags & ~flags)
		return -EINVAL;

	while ((g = tun_state_next(g, req->mask))) {
		unknown &= ~g->bit;
		if (g->offset + g->size > size)
			return tun_state_fail(call, g->bit, -EINVAL);
	}
	return unknown ? tun_state_fail(call, unknown, -EINVAL) : 0;
}

static int tun_state_put_header(struct tun_state_call *call, void __user *argp)
{
	if (copy_to_user(argp, &call->cur, TUN_STATE_HEADER_SIZE))
		return -EFAULT;
	return 0;
}

/* Run an optional operation of a group, and record the group if it fails */
static int tun_state_run(struct tun_state_call *call,
			 const struct tun_state_group *g,
			 int (*op)(struct tun_state_call *call))
{
	int err;

	call->group = g;
	err = op ? op(call) : 0;
	return err ? tun_state_fail(call, g->bit, err) : 0;
}

/* Copy as much of each entry as fits into the caller's, and zero behind it */
static int tun_state_copy_out(struct tun_state_call *call)
{
	void *entries = call->entries[ilog2(call->group->bit)];
	const struct tun_state_array *array = tun_state_cur(call);
	const struct tun_state_ops *ops = call->group->ops;
	void __user *to;
	u32 i, size;

	if (!ops->entry_size)
		return 0;
	if (ops->cmp)
		sort(entries, array->count, ops->entry_size, ops->cmp, NULL);
	to = u64_to_user_ptr(array->entries);
	size = min(ops->entry_size, array->entry_size);
	for (i = 0; i < array->count; i++) {
		if (copy_to_user(to, entries, size) ||
		    clear_user(to + size, array->entry_size - size))
			return -EFAULT;
		entries += ops->entry_size;
		to += array->entry_size;
	}
	return 0;
}

static void tun_state_free_entries(struct tun_state_call *call)
{
	int i;

	for (i = 0; i < TUN_STATE_NR_GROUPS; i++) {
		kvfree(call->entries[i]);
		call->entries[i] = NULL;
	}
}

static int tun_state_get(struct tun_state_call *call, void __user *argp,
			 size_t size)
{
	const struct tun_state_group *g = NULL;
	u64 mask = call->req.mask;
	int err;

	err = tun_state_lock(call);
	if (err)
		return err;
	while (!err && (g = tun_state_next(g, mask)))
		err = tun_state_run(call, g, g->ops->get);
	rtnl_unlock();

	while (!err && (g = tun_state_next(g, mask)))
		err = tun_state_run(call, g, tun_state_copy_out);
	tun_state_free_entries(call);
	if (err)
		return err;
	if (copy_to_user(argp, &call->cur, min(size, sizeof(call->cur))))
		return -EFAULT;
	return call->req.flags & TUN_STATE_F_HOLD ? tun_state_hold(call) : 0;
}

/* Compare the caller's group with the device. A group with an array has a differs()
 * that needs no copy of it.
 */
static bool tun_state_differs(struct tun_state_call *call,
			      const struct tun_state_group *g)
{
	call->group = g;
	if (!g->ops->entry_size)
		g->ops->get(call);
	if (g->ops->differs)
		return g->ops->differs(call);
	return memcmp(tun_state_req(call), tun_state_cur(call), g->size);
}

static int tun_state_commit(struct tun_state_call *call, u64 mask)
{
	const struct tun_state_group *g = NULL;
	u64 diff = 0;
	int err = 0;

	while ((g = tun_state_next(g, mask)))
		if (tun_state_differs(call, g))
			diff |= g->bit;
	while (!err && (g = tun_state_next(g, diff)))
		err = tun_state_run(call, g, g->ops->validate);
	while (!err && (g = tun_state_next(g, diff & TUN_STATE_QUEUE)))
		err = tun_state_run(call, g, tun_state_queue_move);
	if (err)
		return err;

	while ((g = tun_state_next(g, diff))) {
		call->group = g;
		if (g->ops->apply)
			g->ops->apply(call);
	}
	if (call->notify)
		netdev_state_change(call->tun->dev);
	return 0;
}

static int tun_state_set(struct tun_state_call *call, void __user *argp)
{
	const struct tun_state_group *g = NULL;
	u64 mask = call->req.mask;
	int err = 0;

	while ((g = tun_state_next(g, mask)))
		if (!g->ops->validate && !g->ops->apply)
			mask &= ~g->bit;
	while (!err && (g = tun_state_next(g, mask)))
		err = tun_state_run(call, g, g->ops->parse);
	if (err)
		return err;

	/* Write the answer of a success now: nothing after the commit may fail. */
	call->cur.mask = mask;
	err = tun_state_put_header(call, argp) ?: tun_state_lock(call);
	if (err)
		return err;
	err = tun_state_commit(call, mask);
	rtnl_unlock();
	return err;
}

static bool tun_state_is_ioctl(unsigned int cmd)
{
	cmd &= ~IOCSIZE_MASK;
	return cmd == (TUNGETSTATE & ~IOCSIZE_MASK) ||
	       cmd == (TUNSETSTATE & ~IOCSIZE_MASK);
}

/* Report the failed group and, after ENOSPC, the number of entries it needs. Leave the
 * caller's mask in place for another try.
 */
static int tun_state_report(struct tun_state_call *call, void __user *argp,
			    bool get, int err)
{
	const struct tun_state_group *g = NULL;

	call->cur.mask = call->req.mask;
	if (tun_state_put_header(call, argp))
		return -EFAULT;
	if (!get || err != -ENOSPC)
		return err;

	while ((g = tun_state_next(g, call->cur.failed)))
		if (copy_to_user(argp + g->offset,
				 (void *)&call->cur + g->offset, g->size))
			return -EFAULT;
	return err;
}

/* Free everything that the call has not handed to the device or the file */
static void tun_state_free(struct tun_state_call *call)
{
	tun_state_free_progs(call);
	tun_filter_put(call->sockfilter);
	tun_state_free_entries(call);
	kfree(call);
}

static long tun_state_ioctl(struct file *file, unsigned int cmd,
			    void __user *argp)
{
	bool get = _IOC_NR(cmd) == _IOC_NR(TUNGETSTATE);
	size_t size = _IOC_SIZE(cmd);
	struct tun_state_call *call;
	int err;

	if (size > PAGE_SIZE)
		return -E2BIG;
	if (size < TUN_STATE_HEADER_SIZE)
		return -EINVAL;

	call = kzalloc(sizeof(*call), GFP_KERNEL_ACCOUNT);
	if (!call)
		return -ENOMEM;
	call->file = file;
	call->tfile = file->private_data;

	err = copy_struct_from_user(&call->req, sizeof(call->req), argp, size);
	if (err)
		goto free;
	memcpy(&call->cur, &call->req, TUN_STATE_HEADER_SIZE);
	call->cur.supported = GENMASK_ULL(TUN_STATE_NR_GROUPS - 1, 0);
	call->cur.failed = 0;

	err = tun_state_check_header(call, size, get ? TUN_STATE_F_HOLD : 0);
	if (!err && !rcu_access_pointer(call->tfile->tun))
		err = -EBADFD;
	if (!err)
		err = get ? tun_state_get(call, argp, size) :
			    tun_state_set(call, argp);
	if (err)
		err = tun_state_report(call, argp, get, err);
free:
	tun_state_free(call);
	return err;
}

#endif /* TUN_STATE_IOCTL_H */
