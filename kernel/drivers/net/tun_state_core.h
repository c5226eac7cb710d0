/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE, for any driver: report and restore the state of a
 * device through one of its queue file descriptors, as a table of groups says.
 *
 * include/uapi/linux/if_tun_state.h is the contract. The driver defines struct
 * tun_state_call ahead of this file, for one call of an ioctl, with these members:
 *  - file: file of the caller
 *  - dev: the device, under RTNL only
 *  - group: group whose operation runs
 *  - req, cur: argument of the caller; state in force, and the answer
 *  - entries[]: TUNGETSTATE: entries of each group for the user buffer
 *  - notify: send RTM_NEWLINK
 *
 * It defines the table of its groups and the functions below behind this file.
 */
#ifndef TUN_STATE_CORE_H
#define TUN_STATE_CORE_H

#include "tun_state_group.h"

/* Groups at the number of their bit, without those that the driver does not have */
static const struct tun_state_group tun_state_groups[TUN_STATE_NR_GROUPS];

/* Without locks: set up further members. EBADFD: the file has no device. */
static int tun_state_open(struct tun_state_call *call);

/* Under RTNL: look up the device, or return NULL */
static struct net_device *tun_state_dev(struct tun_state_call *call);

/* Without locks, after TUNGETSTATE: obey TUN_STATE_F_HOLD */
static int tun_state_hold(struct tun_state_call *call);

/* Free everything in further members that the device or the file has not taken */
static void tun_state_release(struct tun_state_call *call);

#define TUN_STATE_HEADER_SIZE	offsetof(struct tun_state, identity)

/* The group in the caller's struct, and in the answer */
static void *tun_state_req(struct tun_state_call *call)
{
	return (void *)&call->req + call->group->offset;
}

static void *tun_state_cur(struct tun_state_call *call)
{
	return (void *)&call->cur + call->group->offset;
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

static u64 tun_state_supported(void)
{
	const struct tun_state_group *g = NULL;
	u64 groups = 0;

	while ((g = tun_state_next(g, ~0ULL)))
		groups |= g->bit;
	return groups;
}

static int tun_state_fail(struct tun_state_call *call, u64 groups, int err)
{
	call->cur.failed = groups;
	return err;
}

static int tun_state_lock(struct tun_state_call *call)
{
	rtnl_lock();
	call->dev = tun_state_dev(call);
	if (call->dev)
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
	while (!err && (g = tun_state_next(g, diff)))
		err = tun_state_run(call, g, g->ops->begin);
	if (err)
		return err;

	while ((g = tun_state_next(g, diff))) {
		call->group = g;
		if (g->ops->apply)
			g->ops->apply(call);
	}
	if (call->notify)
		netdev_state_change(call->dev);
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

	err = copy_struct_from_user(&call->req, sizeof(call->req), argp, size);
	if (err)
		goto free;
	memcpy(&call->cur, &call->req, TUN_STATE_HEADER_SIZE);
	call->cur.supported = tun_state_supported();
	call->cur.failed = 0;

	err = tun_state_check_header(call, size, get ? TUN_STATE_F_HOLD : 0);
	if (!err)
		err = tun_state_open(call);
	if (!err)
		err = get ? tun_state_get(call, argp, size) :
			    tun_state_set(call, argp);
	if (err)
		err = tun_state_report(call, argp, get, err);
free:
	tun_state_release(call);
	tun_state_free_entries(call);
	kfree(call);
	return err;
}

#endif /* TUN_STATE_CORE_H */
