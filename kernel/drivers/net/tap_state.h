/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE of tap.c, for macvtap and ipvtap: the groups of struct
 * tun_state that a tap device has. tun_state_core.h has the ioctls.
 *
 * tap.c provides
 *  - tap_enable_queue(), tap_disable_queue(): TUNSETQUEUE
 *  - tap_offload_features(), tap_set_features(): parser and effect of TUNSETOFFLOAD
 */
#ifndef TAP_STATE_H
#define TAP_STATE_H

#include "tun_state_group.h"

/**
 * struct tun_state_call - one TUNGETSTATE or TUNSETSTATE
 * @file: file of the caller
 * @q: the queue of @file
 * @tap: the device, under RTNL only
 * @dev: its network device, under RTNL only
 * @group: group whose operation runs
 * @req: argument of the caller
 * @cur: state in force, and the answer
 * @entries: TUNGETSTATE: entries of each group for the user buffer
 * @notify: never set: older ioctls send no RTM_NEWLINK, either
 */
struct tun_state_call {
	struct file *file;
	struct tap_queue *q;
	struct tap_dev *tap;
	struct net_device *dev;
	const struct tun_state_group *group;
	struct tun_state req;
	struct tun_state cur;
	void *entries[TUN_STATE_NR_GROUPS];
	bool notify;
};

/* Accessors for tun_state_common.h */
static unsigned int *tun_state_flags(const struct tun_state_call *call)
{
	return &call->q->flags;
}

static int *tun_state_vnet_hdr_sz(const struct tun_state_call *call)
{
	return &call->q->vnet_hdr_sz;
}

static struct sock *tun_state_sk(const struct tun_state_call *call)
{
	return &call->q->sk;
}

#include "tun_state_core.h"
#include "tun_state_common.h"

static int tap_state_iff_get(struct tun_state_call *call)
{
	call->cur.iff.flags = call->q->flags & (IFF_TAP | IFF_NO_PI |
						TAP_IFFEATURES);
	return 0;
}

static int tap_state_iff_validate(struct tun_state_call *call)
{
	return -EINVAL;
}

static const struct tun_state_ops tap_state_iff_ops = {
	.get		= tap_state_iff_get,
	.validate	= tap_state_iff_validate,
};

static int tap_state_offload_get(struct tun_state_call *call)
{
	struct tun_state_offload *cur = &call->cur.offload;

	cur->enabled = tun_state_offload_bits(call->tap->tap_features);
	cur->wanted = cur->enabled;
	cur->supported = tun_state_offload_bits(tap_offload_features(~0UL)) |
			 TUN_F_UFO;
	return 0;
}

static int tap_state_offload_validate(struct tun_state_call *call)
{
	const struct tun_state_offload *req = &call->req.offload;
	u32 supported = call->cur.offload.supported;
	u32 enabled;

	enabled = tun_state_offload_bits(tap_offload_features(req->enabled));
	return req->reserved || req->enabled & ~supported ||
	       req->wanted != enabled ? -EINVAL : 0;
}

/* Compare the effect: TUNSETOFFLOAD accepts bits that have none */
static bool tap_state_offload_differs(struct tun_state_call *call)
{
	struct tun_state_offload *req = &call->req.offload;

	req->supported = call->cur.offload.supported;
	return memcmp(req, &call->cur.offload, sizeof(*req));
}

static void tap_state_offload_apply(struct tun_state_call *call)
{
	const struct tun_state_offload *cur = &call->cur.offload;
	u32 enabled = call->req.offload.wanted;

	if (enabled != cur->enabled)
		tap_set_features(call->tap, tap_offload_features(enabled));
}

static const struct tun_state_ops tap_state_offload_ops = {
	.get		= tap_state_offload_get,
	.differs	= tap_state_offload_differs,
	.validate	= tap_state_offload_validate,
	.apply		= tap_state_offload_apply,
};

static void tap_state_fill_queue(struct tun_state_call *call,
				 struct tap_queue *q, u32 index,
				 struct tun_state_queue *queue)
{
	queue->index = index;
	queue->flags = 0;
	if (q->enabled)
		queue->flags |= TUN_STATE_QUEUE_ATTACHED;
	if (q == call->q)
		queue->flags |= TUN_STATE_QUEUE_SELF;
	queue->ring_size = q->ring.size;
	queue->ring_len = tun_state_ring_len(&q->ring);
}

static int tap_state_queue_get(struct tun_state_call *call)
{
	struct tap_queue *q = call->q, *other;
	u32 index = 0;

	if (q->enabled) {
		index = q->queue_index;
	} else {
		list_for_each_entry(other, &call->tap->queue_list, next) {
			if (other == q)
				break;
			index += !other->enabled;
		}
	}
	tap_state_fill_queue(call, q, index, &call->cur.queue);
	return 0;
}

static int tap_state_queue_parse(struct tun_state_call *call)
{
	return call->req.queue.flags & ~(TUN_STATE_QUEUE_ATTACHED |
					 TUN_STATE_QUEUE_SELF) ? -EINVAL : 0;
}

static bool tap_state_queue_differs(struct tun_state_call *call)
{
	const struct tun_state_queue *req = &call->req.queue;
	const struct tun_state_queue *cur = &call->cur.queue;

	return req->index != cur->index ||
	       (req->flags ^ cur->flags) & TUN_STATE_QUEUE_ATTACHED;
}

static int tap_state_queue_validate(struct tun_state_call *call)
{
	struct tun_state_queue *req = &call->req.queue;
	struct tap_dev *tap = call->tap;
	u32 others;

	/* There are as many places as queues */
	if (req->flags & TUN_STATE_QUEUE_ATTACHED)
		others = tap->numvtaps - call->q->enabled;
	else
		others = tap->numqueues - tap->numvtaps - !call->q->enabled;
	if (req->index > others)
		return -EINVAL;
	req->index = array_index_nospec(req->index, others + 1);
	return 0;
}

/* Swap with the queue that has the index now */
static void tap_state_queue_place(struct tun_state_call *call)
{
	struct tap_queue *q = call->q, *other;
	u32 index = call->req.queue.index;
	struct tap_dev *tap = call->tap;

	if (!q->enabled) {
		list_for_each_entry(other, &tap->queue_list, next) {
			if (other->enabled || index--)
				continue;
			if (other != q)
				list_swap(&q->next, &other->next);
			break;
		}
		return;
	}

	other = rtnl_dereference(tap->taps[index]);
	if (other == q)
		return;
	rcu_assign_pointer(tap->taps[q->queue_index], other);
	other->queue_index = q->queue_index;
	rcu_assign_pointer(tap->taps[index], q);
	q->queue_index = index;
}

static void tap_state_queue_apply(struct tun_state_call *call)
{
	struct tap_queue *q = call->q;
	bool attach = call->req.queue.flags & TUN_STATE_QUEUE_ATTACHED;

	/* Neither fails if there is a change */
	if (attach && !q->enabled)
		tap_enable_queue(call->tap, call->file, q);
	else if (!attach && q->enabled)
		tap_disable_queue(q);
	tap_state_queue_place(call);
}

static const struct tun_state_ops tap_state_queue_ops = {
	.get		= tap_state_queue_get,
	.parse		= tap_state_queue_parse,
	.differs	= tap_state_queue_differs,
	.validate	= tap_state_queue_validate,
	.apply		= tap_state_queue_apply,
};

static int tap_state_queues_get(struct tun_state_call *call)
{
	struct tap_dev *tap = call->tap;
	struct tun_state_queue *queue;
	struct tap_queue *q;
	u32 i;

	queue = tun_state_entries(call, tap->numqueues);
	if (IS_ERR(queue))
		return PTR_ERR(queue);
	for (i = 0; i < tap->numvtaps; i++)
		tap_state_fill_queue(call, rtnl_dereference(tap->taps[i]), i,
				     queue++);
	i = 0;
	list_for_each_entry(q, &tap->queue_list, next)
		if (!q->enabled)
			tap_state_fill_queue(call, q, i++, queue++);
	return 0;
}

static const struct tun_state_ops tap_state_queues_ops = {
	.entry_size	= sizeof(struct tun_state_queue),
	.get		= tap_state_queues_get,
};

static const struct tun_state_group tun_state_groups[TUN_STATE_NR_GROUPS] = {
	TUN_STATE_GROUP(0, IDENTITY, identity, &tun_state_identity_ops),
	TUN_STATE_GROUP(1, NETDEV, netdev, &tun_state_netdev_ops),
	TUN_STATE_GROUP(2, IFF, iff, &tap_state_iff_ops),
	TUN_STATE_GROUP(4, VNET, vnet, &tun_state_vnet_ops),
	TUN_STATE_GROUP(5, OFFLOAD, offload, &tap_state_offload_ops),
	TUN_STATE_GROUP(6, SNDBUF, sndbuf, &tun_state_sndbuf_ops),
	TUN_STATE_GROUP(15, QUEUE, queue, &tap_state_queue_ops),
	TUN_STATE_GROUP(16, QUEUES, queues, &tap_state_queues_ops),
};

static int tun_state_open(struct tun_state_call *call)
{
	call->q = call->file->private_data;
	return rcu_access_pointer(call->q->tap) ? 0 : -EBADFD;
}

static struct net_device *tun_state_dev(struct tun_state_call *call)
{
	call->tap = rtnl_dereference(call->q->tap);
	return call->tap ? call->tap->dev : NULL;
}

/* There are no programs to hold or to free */
static int tun_state_hold(struct tun_state_call *call)
{
	return 0;
}

static void tun_state_release(struct tun_state_call *call)
{
}

#endif /* TAP_STATE_H */
