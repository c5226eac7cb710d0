/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE: report and restore the state of a tun/tap
 * device through one of its queue file descriptors.
 *
 * See include/uapi/linux/if_tun_state.h for the contract. Each group of
 * struct tun_state has an entry in tun_state_groups[]; everything that is
 * common to the groups is at the end of this file.
 */
#ifndef TUN_STATE_H
#define TUN_STATE_H

#include <linux/if_tun_state.h>

/* Differences between kernel versions */

#ifdef TUN_F_USO4
#define TUN_STATE_F_USO		(TUN_F_USO4 | TUN_F_USO6)
#define TUN_STATE_NETIF_F_USO	NETIF_F_GSO_UDP_L4
#else
#define TUN_STATE_F_USO		0
#define TUN_STATE_NETIF_F_USO	0
#endif

/* Everything else */

#define TUN_STATE_HEADER_SIZE	offsetof(struct tun_state, identity)

/* What TUNGETIFF reports of the device */
#define TUN_STATE_IFF		(TUN_FEATURES | IFF_PERSIST | IFF_TUN | IFF_TAP)
#define TUN_STATE_IFF_FIXED	(IFF_TUN | IFF_TAP | IFF_MULTI_QUEUE)

#define TUN_STATE_F_TSO		(TUN_F_TSO4 | TUN_F_TSO6)
#define TUN_STATE_OFFLOADS	(TUN_F_CSUM | TUN_STATE_F_TSO | TUN_F_TSO_ECN | \
				 TUN_F_UFO | TUN_STATE_F_USO)

#define TUN_STATE_QUEUE_FLAGS	(TUN_STATE_QUEUE_ATTACHED | \
				 TUN_STATE_QUEUE_NAPI | \
				 TUN_STATE_QUEUE_NAPI_FRAGS | \
				 TUN_STATE_QUEUE_SOCKFILTER | \
				 TUN_STATE_QUEUE_SELF)

/* One TUNGETSTATE or TUNSETSTATE */
struct tun_state_call {
	struct file *file;
	struct tun_file *tfile;
	struct tun_struct *tun;		/* under RTNL only */
	struct tun_state req;		/* what the caller passed */
	struct tun_state cur;		/* what is in force, and the answer */
	struct tun_state_queue *req_queues;
	struct tun_state_queue *cur_queues;
	u32 nr_queues;			/* entries in both of them */
	struct tun_prog *steering;	/* what will replace the current ones */
	struct tun_prog *filter;
	bool notify;			/* RTM_NEWLINK has something new */
};

/**
 * struct tun_state_group - how to handle one group of struct tun_state
 * @bit: its bit in tun_state.mask
 * @offset: of the group in struct tun_state
 * @size: of the group
 * @get_only: passed over by TUNSETSTATE, compared by TUN_STATE_F_CHECK
 * @prepare: TUNGETSTATE, without locks: allocate room for what goes to a user
 *	buffer
 * @get: under RTNL: fill in the group from the device; without it the group
 *	is not supported
 * @copy_out: TUNGETSTATE, without locks: fill in the user buffer
 * @parse: TUNSETSTATE, without locks: refuse what no device can have, take
 *	what must be allocated or looked up
 * @differs: under RTNL: whether the caller's group is another than the current
 *	one; a plain comparison by default
 * @validate: under RTNL: refuse what this device or this caller cannot have;
 *	only for a group that differs
 * @apply: under RTNL: put a group in force, cannot fail
 */
struct tun_state_group {
	u64 bit;
	u16 offset;
	u16 size;
	bool get_only;

	int (*prepare)(struct tun_state_call *call);
	int (*get)(struct tun_state_call *call);
	int (*copy_out)(struct tun_state_call *call);
	int (*parse)(struct tun_state_call *call);
	bool (*differs)(struct tun_state_call *call);
	int (*validate)(struct tun_state_call *call);
	void (*apply)(struct tun_state_call *call);
};

/* identity */

static int tun_state_identity_get(struct tun_state_call *call)
{
	struct tun_state_identity *cur = &call->cur.identity;
	const struct net_device *dev = call->tun->dev;

	cur->netns = dev_net(dev)->ns.inum;
	cur->ifindex = dev->ifindex;
	cur->mtu = dev->mtu;
	cur->type = dev->type;
	cur->addr_len = min_t(size_t, dev->addr_len, sizeof(cur->addr));
	strscpy_pad(cur->name, dev->name, sizeof(cur->name));
	memcpy(cur->addr, dev->dev_addr, cur->addr_len);
	return 0;
}

static int tun_state_identity_parse(struct tun_state_call *call)
{
	const struct tun_state_identity *req = &call->req.identity;

	return memchr_inv(req->reserved, 0, sizeof(req->reserved)) ? -EINVAL : 0;
}

static int tun_state_identity_validate(struct tun_state_call *call)
{
	return -EXDEV;
}

/* flags */

static int tun_state_flags_get(struct tun_state_call *call)
{
	call->cur.device.flags = tun_flags(call->tun);
	return 0;
}

static int tun_state_flags_parse(struct tun_state_call *call)
{
	const struct tun_state_flags *req = &call->req.device;

	if (req->reserved || req->flags & ~TUN_STATE_IFF)
		return -EINVAL;
	return 0;
}

static int tun_state_flags_validate(struct tun_state_call *call)
{
	u32 req = call->req.device.flags;
	u32 changed = req ^ call->cur.device.flags;

	if (changed & TUN_STATE_IFF_FIXED)
		return -EINVAL;

	/* TUNSETPERSIST asks for nothing, the rest is up to TUNSETIFF */
	if (!(changed & ~IFF_PERSIST))
		return 0;
	if (tun_not_capable(call->tun))
		return -EPERM;
	if (req & IFF_NAPI_FRAGS) {
		if (changed & IFF_NAPI_FRAGS && !capable(CAP_NET_ADMIN))
			return -EPERM;
		if (!(req & IFF_NAPI) || !(req & IFF_TAP))
			return -EINVAL;
	}
	return 0;
}

static void tun_state_flags_apply(struct tun_state_call *call)
{
	struct tun_struct *tun = call->tun;
	u32 req = call->req.device.flags;

	if ((req ^ tun->flags) & IFF_PERSIST) {
		if (req & IFF_PERSIST)
			__module_get(THIS_MODULE);
		else
			module_put(THIS_MODULE);
	}
	WRITE_ONCE(tun->flags, (tun->flags & ~TUN_STATE_IFF) | req);
	call->notify = true;
}

/* owner */

static int tun_state_owner_get(struct tun_state_call *call)
{
	struct user_namespace *ns = current_user_ns();
	struct tun_struct *tun = call->tun;

	call->cur.owner.uid = uid_valid(tun->owner) ?
			      from_kuid_munged(ns, tun->owner) : (uid_t)-1;
	call->cur.owner.gid = gid_valid(tun->group) ?
			      from_kgid_munged(ns, tun->group) : (gid_t)-1;
	return 0;
}

/* An owner that this user namespace does not know reads as the overflow uid,
 * which may be somebody else's: what reads the same must be left alone.
 */
static int tun_state_owner_validate(struct tun_state_call *call)
{
	const struct tun_state_owner *req = &call->req.owner;
	const struct tun_state_owner *cur = &call->cur.owner;
	struct user_namespace *ns = current_user_ns();

	if (req->uid != cur->uid && req->uid != (uid_t)-1 &&
	    !uid_valid(make_kuid(ns, req->uid)))
		return -EINVAL;
	if (req->gid != cur->gid && req->gid != (gid_t)-1 &&
	    !gid_valid(make_kgid(ns, req->gid)))
		return -EINVAL;
	return 0;
}

static void tun_state_owner_apply(struct tun_state_call *call)
{
	const struct tun_state_owner *req = &call->req.owner;
	const struct tun_state_owner *cur = &call->cur.owner;
	struct user_namespace *ns = current_user_ns();

	/* make_kuid(-1) is INVALID_UID */
	if (req->uid != cur->uid)
		call->tun->owner = make_kuid(ns, req->uid);
	if (req->gid != cur->gid)
		call->tun->group = make_kgid(ns, req->gid);
	call->notify = true;
}

/* vnet */

static int tun_state_vnet_get(struct tun_state_call *call)
{
	struct tun_struct *tun = call->tun;

	call->cur.vnet.hdr_size = tun->vnet_hdr_sz;
	if (tun->flags & TUN_VNET_LE)
		call->cur.vnet.flags |= TUN_STATE_VNET_LE;
	if (tun->flags & TUN_VNET_BE)
		call->cur.vnet.flags |= TUN_STATE_VNET_BE;
	return 0;
}

static int tun_state_vnet_parse(struct tun_state_call *call)
{
	const struct tun_state_vnet *req = &call->req.vnet;
	u32 known = TUN_STATE_VNET_LE;

	if (IS_ENABLED(CONFIG_TUN_VNET_CROSS_LE))
		known |= TUN_STATE_VNET_BE;
	if (req->flags & ~known)
		return -EINVAL;
	if (req->hdr_size < sizeof(struct virtio_net_hdr) ||
	    req->hdr_size > INT_MAX)
		return -EINVAL;
	return 0;
}

static void tun_state_vnet_apply(struct tun_state_call *call)
{
	const struct tun_state_vnet *req = &call->req.vnet;
	struct tun_struct *tun = call->tun;
	unsigned int flags = tun->flags & ~(TUN_VNET_LE | TUN_VNET_BE);

	if (req->flags & TUN_STATE_VNET_LE)
		flags |= TUN_VNET_LE;
	if (req->flags & TUN_STATE_VNET_BE)
		flags |= TUN_VNET_BE;
	WRITE_ONCE(tun->flags, flags);
	WRITE_ONCE(tun->vnet_hdr_sz, req->hdr_size);
}

/* offload */

static int tun_state_offload_get(struct tun_state_call *call)
{
	struct tun_state_offload *cur = &call->cur.offload;
	netdev_features_t features = call->tun->set_features;

	if (features & NETIF_F_HW_CSUM)
		cur->enabled |= TUN_F_CSUM;
	if (features & NETIF_F_TSO)
		cur->enabled |= TUN_F_TSO4;
	if (features & NETIF_F_TSO6)
		cur->enabled |= TUN_F_TSO6;
	if (features & NETIF_F_TSO_ECN)
		cur->enabled |= TUN_F_TSO_ECN;
	if (features & TUN_STATE_NETIF_F_USO)
		cur->enabled |= TUN_STATE_F_USO;
	cur->supported = TUN_STATE_OFFLOADS;
	return 0;
}

/* The combinations that set_offload() takes, and what it makes of them */
static int tun_state_offload_parse(struct tun_state_call *call)
{
	struct tun_state_offload *req = &call->req.offload;
	u32 uso = req->enabled & TUN_STATE_F_USO;

	if (req->enabled & ~TUN_STATE_OFFLOADS)
		return -EINVAL;
	if (req->enabled && !(req->enabled & TUN_F_CSUM))
		return -EINVAL;
	if (req->enabled & TUN_F_TSO_ECN && !(req->enabled & TUN_STATE_F_TSO))
		return -EINVAL;
	if (uso && uso != TUN_STATE_F_USO)
		return -EINVAL;

	req->enabled &= ~TUN_F_UFO;
	req->supported = TUN_STATE_OFFLOADS;
	return 0;
}

static void tun_state_offload_apply(struct tun_state_call *call)
{
	WARN_ON_ONCE(set_offload(call->tun, call->req.offload.enabled));
}

/* sndbuf */

static int tun_state_sndbuf_get(struct tun_state_call *call)
{
	call->cur.sndbuf.device = call->tun->sndbuf;
	call->cur.sndbuf.queue = call->tfile->sk.sk_sndbuf;
	return 0;
}

static int tun_state_sndbuf_parse(struct tun_state_call *call)
{
	const struct tun_state_sndbuf *req = &call->req.sndbuf;

	return req->device <= 0 || req->queue <= 0 ? -EINVAL : 0;
}

static void tun_state_sndbuf_apply(struct tun_state_call *call)
{
	call->tun->sndbuf = call->req.sndbuf.device;
	WRITE_ONCE(call->tfile->sk.sk_sndbuf, call->req.sndbuf.queue);
}

/* link */

static int tun_state_link_get(struct tun_state_call *call)
{
	struct tun_struct *tun = call->tun;

	call->cur.link.carrier = netif_carrier_ok(tun->dev);
	call->cur.link.msg_enable = tun->msg_enable;
	call->cur.link.rx_batched = tun->rx_batched;
	return 0;
}

static int tun_state_link_parse(struct tun_state_call *call)
{
	const struct tun_state_link *req = &call->req.link;

	if (req->reserved || req->carrier > 1)
		return -EINVAL;

	/* ethtool -C stores no more than this */
	return req->rx_batched > NAPI_POLL_WEIGHT ? -EINVAL : 0;
}

/* The number of attached queues that this call will leave behind */
static unsigned int tun_state_link_queues(struct tun_state_call *call)
{
	unsigned int n = call->tun->numqueues;

	if (call->req.mask & TUN_STATE_QUEUE) {
		n -= !call->tfile->detached;
		n += !!(call->req.queue.flags & TUN_STATE_QUEUE_ATTACHED);
	}
	return n;
}

static int tun_state_link_validate(struct tun_state_call *call)
{
	const struct tun_state_link *req = &call->req.link;
	const struct tun_state_link *cur = &call->cur.link;

	if (req->carrier && !cur->carrier && !tun_state_link_queues(call))
		return -EPERM;
	/* Unlike the other two this is ethtool's, not the file holder's */
	if (req->rx_batched != cur->rx_batched &&
	    !ns_capable(dev_net(call->tun->dev)->user_ns, CAP_NET_ADMIN))
		return -EPERM;
	return 0;
}

static void tun_state_link_apply(struct tun_state_call *call)
{
	const struct tun_state_link *req = &call->req.link;
	struct tun_struct *tun = call->tun;

	tun->msg_enable = req->msg_enable;
	tun->rx_batched = req->rx_batched;
	if (req->carrier != call->cur.link.carrier)
		tun_net_change_carrier(tun->dev, req->carrier);
}

/* steering and filter */

static void tun_state_prog_get(struct tun_prog __rcu *attached,
			       struct tun_state_prog *cur)
{
	struct tun_prog *prog = rtnl_dereference(attached);

	if (!prog)
		return;
	cur->id = prog->prog->aux->id;
	cur->type = prog->prog->type;
	memcpy(cur->tag, prog->prog->tag, sizeof(cur->tag));
}

static int tun_state_prog_parse(const struct tun_state_prog *req,
				struct tun_prog **new)
{
	struct bpf_prog *prog;

	switch (req->action) {
	case TUN_STATE_PROG_ID:
		if (!req->id &&
		    (req->type || memchr_inv(req->tag, 0, sizeof(req->tag))))
			return -EINVAL;
		break;
	case TUN_STATE_PROG_KEEP:
		break;
	case TUN_STATE_PROG_FD:
		prog = bpf_prog_get_type(req->fd, BPF_PROG_TYPE_SOCKET_FILTER);
		if (IS_ERR(prog))
			return PTR_ERR(prog);
		*new = kmalloc(sizeof(**new), GFP_KERNEL);
		if (!*new) {
			bpf_prog_put(prog);
			return -ENOMEM;
		}
		(*new)->prog = prog;
		return 0;
	default:
		return -EINVAL;
	}
	return req->fd ? -EINVAL : 0;
}

static bool tun_state_prog_differs(const struct tun_state_prog *req,
				   const struct tun_state_prog *cur,
				   const struct tun_prog *new,
				   struct tun_prog __rcu *attached)
{
	struct tun_prog *prog = rtnl_dereference(attached);

	switch (req->action) {
	case TUN_STATE_PROG_KEEP:
		return false;
	case TUN_STATE_PROG_FD:
		return !prog || prog->prog != new->prog;
	default:
		return req->id != cur->id || req->type != cur->type ||
		       memcmp(req->tag, cur->tag, sizeof(req->tag));
	}
}

static int tun_state_prog_validate(const struct tun_state_prog *req)
{
	return req->action == TUN_STATE_PROG_ID && req->id ? -EBADF : 0;
}

static void tun_state_prog_apply(struct tun_struct *tun,
				 struct tun_prog __rcu **attached,
				 struct tun_prog **new)
{
	struct tun_prog *old;

	spin_lock_bh(&tun->lock);
	old = rcu_replace_pointer(*attached, *new, lockdep_is_held(&tun->lock));
	spin_unlock_bh(&tun->lock);
	*new = NULL;

	if (old)
		call_rcu(&old->rcu, tun_prog_free);
}

static int tun_state_steering_get(struct tun_state_call *call)
{
	tun_state_prog_get(call->tun->steering_prog, &call->cur.steering);
	return 0;
}

static int tun_state_steering_parse(struct tun_state_call *call)
{
	return tun_state_prog_parse(&call->req.steering, &call->steering);
}

static bool tun_state_steering_differs(struct tun_state_call *call)
{
	return tun_state_prog_differs(&call->req.steering, &call->cur.steering,
				      call->steering, call->tun->steering_prog);
}

static int tun_state_steering_validate(struct tun_state_call *call)
{
	return tun_state_prog_validate(&call->req.steering);
}

static void tun_state_steering_apply(struct tun_state_call *call)
{
	tun_state_prog_apply(call->tun, &call->tun->steering_prog,
			     &call->steering);
}

static int tun_state_filter_get(struct tun_state_call *call)
{
	tun_state_prog_get(call->tun->filter_prog, &call->cur.filter);
	return 0;
}

static int tun_state_filter_parse(struct tun_state_call *call)
{
	return tun_state_prog_parse(&call->req.filter, &call->filter);
}

static bool tun_state_filter_differs(struct tun_state_call *call)
{
	return tun_state_prog_differs(&call->req.filter, &call->cur.filter,
				      call->filter, call->tun->filter_prog);
}

static int tun_state_filter_validate(struct tun_state_call *call)
{
	return tun_state_prog_validate(&call->req.filter);
}

static void tun_state_filter_apply(struct tun_state_call *call)
{
	tun_state_prog_apply(call->tun, &call->tun->filter_prog, &call->filter);
}

/* xdp */

static int tun_state_xdp_get(struct tun_state_call *call)
{
	struct bpf_prog *prog = rtnl_dereference(call->tun->xdp_prog);

	call->cur.xdp.id = prog ? prog->aux->id : 0;
	return 0;
}

static int tun_state_xdp_parse(struct tun_state_call *call)
{
	return call->req.xdp.reserved ? -EINVAL : 0;
}

/* queue and queues */

static u32 tun_state_ring_len(struct ptr_ring *ring)
{
	int len;

	spin_lock_bh(&ring->consumer_lock);
	spin_lock(&ring->producer_lock);
	len = ring->producer - ring->consumer_head;
	if (len < 0 || (!len && !__ptr_ring_empty(ring)))
		len += ring->size;
	spin_unlock(&ring->producer_lock);
	spin_unlock_bh(&ring->consumer_lock);

	return len;
}

static void tun_state_fill_queue(struct tun_state_call *call,
				 struct tun_file *tfile, u32 index,
				 struct tun_state_queue *queue)
{
	queue->index = index;
	queue->flags = 0;
	if (!tfile->detached)
		queue->flags |= TUN_STATE_QUEUE_ATTACHED;
	if (tfile->napi_enabled)
		queue->flags |= TUN_STATE_QUEUE_NAPI;
	if (tfile->napi_frags_enabled)
		queue->flags |= TUN_STATE_QUEUE_NAPI_FRAGS;
	if (rcu_access_pointer(tfile->sk.sk_filter))
		queue->flags |= TUN_STATE_QUEUE_SOCKFILTER;
	if (tfile == call->tfile)
		queue->flags |= TUN_STATE_QUEUE_SELF;
	queue->ring_size = tfile->tx_ring.size;
	queue->ring_len = tun_state_ring_len(&tfile->tx_ring);
	queue->sndbuf = tfile->sk.sk_sndbuf;
}

static int tun_state_queue_get(struct tun_state_call *call)
{
	struct tun_file *tfile = call->tfile, *other;
	u32 index = 0;

	if (!tfile->detached) {
		index = tfile->queue_index;
	} else {
		list_for_each_entry(other, &call->tun->disabled, next) {
			if (other == tfile)
				break;
			index++;
		}
	}
	tun_state_fill_queue(call, tfile, index, &call->cur.queue);
	return 0;
}

static int tun_state_queue_parse(struct tun_state_call *call)
{
	const struct tun_state_queue *req = &call->req.queue;

	if (req->reserved || req->flags & ~TUN_STATE_QUEUE_FLAGS)
		return -EINVAL;
	return 0;
}

static u32 tun_state_queue_changes(const struct tun_state_queue *a,
				   const struct tun_state_queue *b)
{
	return (a->flags ^ b->flags) & ~TUN_STATE_QUEUE_SELF;
}

static bool tun_state_queue_differs(struct tun_state_call *call)
{
	const struct tun_state_queue *req = &call->req.queue;
	const struct tun_state_queue *cur = &call->cur.queue;

	return req->index != cur->index || tun_state_queue_changes(req, cur);
}

static int tun_state_queue_validate(struct tun_state_call *call)
{
	const struct tun_state_queue *req = &call->req.queue;
	struct tun_struct *tun = call->tun;

	if (tun_state_queue_changes(req, &call->cur.queue) !=
	    TUN_STATE_QUEUE_ATTACHED)
		return -EINVAL;

	/* A queue goes to the end of the attached or of the detached ones */
	if (req->flags & TUN_STATE_QUEUE_ATTACHED) {
		if (req->index != tun->numqueues)
			return -EINVAL;
		return security_tun_dev_attach_queue(tun->security);
	}
	if (!(tun->flags & IFF_MULTI_QUEUE) || req->index != tun->numdisabled)
		return -EINVAL;
	return 0;
}

/* The one step of TUNSETSTATE that changes something and can fail */
static int tun_state_queue_move(struct tun_state_call *call)
{
	struct tun_file *tfile = call->tfile;
	struct tun_struct *tun = call->tun;
	int err;

	if (!tfile->detached) {
		__tun_detach(tfile, false);
	} else {
		/* The queue has kept its socket filter: not to be attached
		 * again, which would read the program from the caller's memory.
		 */
		err = tun_attach(tun, call->file, true, tun->flags & IFF_NAPI,
				 tun->flags & IFF_NAPI_FRAGS, true);
		if (err < 0)
			return err;
		if (tfile->detached)
			return -EINVAL;
	}
	call->notify = true;
	return 0;
}

static int tun_state_queues_prepare(struct tun_state_call *call)
{
	const struct tun_state_queues *req = &call->req.queues;

	if (req->entry_size != sizeof(struct tun_state_queue))
		return -EINVAL;

	call->nr_queues = min_t(u32, req->count, MAX_TAP_QUEUES);
	call->cur_queues = kcalloc(call->nr_queues, sizeof(*call->cur_queues),
				   GFP_KERNEL);
	return call->cur_queues ? 0 : -ENOMEM;
}

static int tun_state_queues_get(struct tun_state_call *call)
{
	struct tun_state_queues *cur = &call->cur.queues;
	struct tun_state_queue *queue = call->cur_queues;
	struct tun_struct *tun = call->tun;
	struct tun_file *tfile;
	u32 i;

	cur->queues = call->req.queues.queues;
	cur->entry_size = sizeof(*queue);
	cur->attached = tun->numqueues;
	cur->detached = tun->numdisabled;
	cur->count = cur->attached + cur->detached;
	if (cur->count > call->nr_queues)
		return -ENOSPC;

	for (i = 0; i < tun->numqueues; i++)
		tun_state_fill_queue(call, rtnl_dereference(tun->tfiles[i]), i,
				     queue++);
	i = 0;
	list_for_each_entry(tfile, &tun->disabled, next)
		tun_state_fill_queue(call, tfile, i++, queue++);
	return 0;
}

static int tun_state_queues_copy_out(struct tun_state_call *call)
{
	const struct tun_state_queues *cur = &call->cur.queues;

	if (copy_to_user(u64_to_user_ptr(cur->queues), call->cur_queues,
			 array_size(cur->count, sizeof(*call->cur_queues))))
		return -EFAULT;
	return 0;
}

static int tun_state_queues_parse(struct tun_state_call *call)
{
	const struct tun_state_queues *req = &call->req.queues;
	struct tun_state_queue *queues;
	int err;
	u32 i;

	err = tun_state_queues_prepare(call);
	if (err)
		return err;
	/* No device has that many, so this differs anyway */
	if (req->count > call->nr_queues)
		return 0;

	queues = memdup_user(u64_to_user_ptr(req->queues),
			     array_size(req->count, sizeof(*queues)));
	if (IS_ERR(queues))
		return PTR_ERR(queues);
	call->req_queues = queues;

	for (i = 0; i < req->count; i++) {
		if (queues[i].reserved ||
		    queues[i].flags & ~TUN_STATE_QUEUE_FLAGS)
			return -EINVAL;
	}
	return 0;
}

static bool tun_state_queues_differs(struct tun_state_call *call)
{
	const struct tun_state_queue *req = call->req_queues;
	const struct tun_state_queue *cur = call->cur_queues;
	u32 i;

	if (call->req.queues.count != call->cur.queues.count)
		return true;

	for (i = 0; i < call->cur.queues.count; i++) {
		if (req[i].index != cur[i].index ||
		    req[i].sndbuf != cur[i].sndbuf ||
		    tun_state_queue_changes(&req[i], &cur[i]))
			return true;
	}
	return false;
}

/* What is common to all groups */

static const struct tun_state_group tun_state_groups[] = {
	{
		/* First, so that nothing is said about the wrong device */
		.bit = TUN_STATE_IDENTITY,
		.offset = offsetof(struct tun_state, identity),
		.size = sizeof_field(struct tun_state, identity),
		.get = tun_state_identity_get,
		.parse = tun_state_identity_parse,
		.validate = tun_state_identity_validate,
	}, {
		.bit = TUN_STATE_FLAGS,
		.offset = offsetof(struct tun_state, device),
		.size = sizeof_field(struct tun_state, device),
		.get = tun_state_flags_get,
		.parse = tun_state_flags_parse,
		.validate = tun_state_flags_validate,
		.apply = tun_state_flags_apply,
	}, {
		.bit = TUN_STATE_OWNER,
		.offset = offsetof(struct tun_state, owner),
		.size = sizeof_field(struct tun_state, owner),
		.get = tun_state_owner_get,
		.validate = tun_state_owner_validate,
		.apply = tun_state_owner_apply,
	}, {
		.bit = TUN_STATE_VNET,
		.offset = offsetof(struct tun_state, vnet),
		.size = sizeof_field(struct tun_state, vnet),
		.get = tun_state_vnet_get,
		.parse = tun_state_vnet_parse,
		.apply = tun_state_vnet_apply,
	}, {
		.bit = TUN_STATE_OFFLOAD,
		.offset = offsetof(struct tun_state, offload),
		.size = sizeof_field(struct tun_state, offload),
		.get = tun_state_offload_get,
		.parse = tun_state_offload_parse,
		.apply = tun_state_offload_apply,
	}, {
		.bit = TUN_STATE_SNDBUF,
		.offset = offsetof(struct tun_state, sndbuf),
		.size = sizeof_field(struct tun_state, sndbuf),
		.get = tun_state_sndbuf_get,
		.parse = tun_state_sndbuf_parse,
		.apply = tun_state_sndbuf_apply,
	}, {
		.bit = TUN_STATE_LINK,
		.offset = offsetof(struct tun_state, link),
		.size = sizeof_field(struct tun_state, link),
		.get = tun_state_link_get,
		.parse = tun_state_link_parse,
		.validate = tun_state_link_validate,
		.apply = tun_state_link_apply,
	}, {
		.bit = TUN_STATE_TXFILTER,
		.offset = offsetof(struct tun_state, txfilter),
		.size = sizeof_field(struct tun_state, txfilter),
	}, {
		.bit = TUN_STATE_SOCKFILTER,
		.offset = offsetof(struct tun_state, sockfilter),
		.size = sizeof_field(struct tun_state, sockfilter),
	}, {
		.bit = TUN_STATE_STEERING,
		.offset = offsetof(struct tun_state, steering),
		.size = sizeof_field(struct tun_state, steering),
		.get = tun_state_steering_get,
		.parse = tun_state_steering_parse,
		.differs = tun_state_steering_differs,
		.validate = tun_state_steering_validate,
		.apply = tun_state_steering_apply,
	}, {
		.bit = TUN_STATE_FILTER,
		.offset = offsetof(struct tun_state, filter),
		.size = sizeof_field(struct tun_state, filter),
		.get = tun_state_filter_get,
		.parse = tun_state_filter_parse,
		.differs = tun_state_filter_differs,
		.validate = tun_state_filter_validate,
		.apply = tun_state_filter_apply,
	}, {
		.bit = TUN_STATE_XDP,
		.offset = offsetof(struct tun_state, xdp),
		.size = sizeof_field(struct tun_state, xdp),
		.get_only = true,
		.get = tun_state_xdp_get,
		.parse = tun_state_xdp_parse,
	}, {
		.bit = TUN_STATE_FLOWS,
		.offset = offsetof(struct tun_state, flows),
		.size = sizeof_field(struct tun_state, flows),
	}, {
		/* In force by tun_state_queue_move() */
		.bit = TUN_STATE_QUEUE,
		.offset = offsetof(struct tun_state, queue),
		.size = sizeof_field(struct tun_state, queue),
		.get = tun_state_queue_get,
		.parse = tun_state_queue_parse,
		.differs = tun_state_queue_differs,
		.validate = tun_state_queue_validate,
	}, {
		.bit = TUN_STATE_QUEUES,
		.offset = offsetof(struct tun_state, queues),
		.size = sizeof_field(struct tun_state, queues),
		.get_only = true,
		.prepare = tun_state_queues_prepare,
		.get = tun_state_queues_get,
		.copy_out = tun_state_queues_copy_out,
		.parse = tun_state_queues_parse,
		.differs = tun_state_queues_differs,
	},
};

/* Iterates over the groups of a mask, starting after @g or with NULL */
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
	u64 mask = 0;

	while ((g = tun_state_next(g, ~0ULL)))
		if (g->get)
			mask |= g->bit;
	return mask;
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
	if (call->tun)
		return 0;
	rtnl_unlock();
	return -EBADFD;
}

/* Mask, flags and room for the groups, before anything else is looked at */
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

static int tun_state_get(struct tun_state_call *call, void __user *argp,
			 size_t size)
{
	u64 mask = call->req.mask & call->cur.supported;
	const struct tun_state_group *g = NULL;
	int err;

	while ((g = tun_state_next(g, mask))) {
		err = g->prepare ? g->prepare(call) : 0;
		if (err)
			return tun_state_fail(call, g->bit, err);
	}

	err = tun_state_lock(call);
	if (err)
		return err;
	while ((g = tun_state_next(g, mask))) {
		err = g->get(call);
		if (err) {
			tun_state_fail(call, g->bit, err);
			break;
		}
	}
	rtnl_unlock();
	if (err)
		return err;

	while ((g = tun_state_next(g, mask))) {
		err = g->copy_out ? g->copy_out(call) : 0;
		if (err)
			return tun_state_fail(call, g->bit, err);
	}
	call->cur.mask = mask;
	if (copy_to_user(argp, &call->cur, min(size, sizeof(call->cur))))
		return -EFAULT;
	return 0;
}

static int tun_state_parse(struct tun_state_call *call, u64 mask)
{
	const struct tun_state_group *g = NULL;
	int err;

	while ((g = tun_state_next(g, mask))) {
		err = g->get ? 0 : -EINVAL;
		if (!err && g->parse)
			err = g->parse(call);
		if (err)
			return tun_state_fail(call, g->bit, err);
	}
	return 0;
}

/* Read the current state and return the groups that the caller's differs in */
static u64 tun_state_compare(struct tun_state_call *call, u64 mask)
{
	const struct tun_state_group *g = NULL;
	u64 diff = 0;
	bool differs;

	while ((g = tun_state_next(g, mask))) {
		/* An error means more entries than the caller's */
		differs = g->get(call);
		if (!differs && g->differs)
			differs = g->differs(call);
		else if (!differs)
			differs = memcmp((u8 *)&call->req + g->offset,
					 (u8 *)&call->cur + g->offset, g->size);
		if (differs)
			diff |= g->bit;
	}
	return diff;
}

static int tun_state_check(struct tun_state_call *call, void __user *argp)
{
	u64 mask = call->req.mask;
	int err;

	err = tun_state_parse(call, mask);
	if (err)
		return err;
	err = tun_state_lock(call);
	if (err)
		return err;
	call->cur.mask = tun_state_compare(call, mask);
	rtnl_unlock();
	return tun_state_put_header(call, argp);
}

static int tun_state_commit(struct tun_state_call *call, u64 mask)
{
	const struct tun_state_group *g = NULL;
	u64 diff;
	int err;

	diff = tun_state_compare(call, mask);
	while ((g = tun_state_next(g, diff))) {
		err = g->validate ? g->validate(call) : 0;
		if (err)
			return tun_state_fail(call, g->bit, err);
	}

	if (diff & TUN_STATE_QUEUE) {
		err = tun_state_queue_move(call);
		if (err)
			return tun_state_fail(call, TUN_STATE_QUEUE, err);
	}
	while ((g = tun_state_next(g, diff)))
		if (g->apply)
			g->apply(call);
	if (call->notify)
		netdev_state_change(call->tun->dev);
	return 0;
}

static int tun_state_set(struct tun_state_call *call, void __user *argp)
{
	u64 mask = call->req.mask;
	const struct tun_state_group *g = NULL;
	int err;

	while ((g = tun_state_next(g, mask)))
		if (g->get_only)
			mask &= ~g->bit;
	err = tun_state_parse(call, mask);
	if (err)
		return err;

	/* The answer of a success is known by now. With it in place there is
	 * nothing left to do after the commit that can fail.
	 */
	call->cur.mask = mask;
	err = tun_state_put_header(call, argp);
	if (err)
		return err;

	err = tun_state_lock(call);
	if (err)
		return err;
	err = tun_state_commit(call, mask);
	rtnl_unlock();
	return err;
}

static bool tun_state_is_ioctl(unsigned int cmd)
{
	return _IOC_TYPE(cmd) == _IOC_TYPE(TUNGETSTATE) &&
	       _IOC_DIR(cmd) == _IOC_DIR(TUNGETSTATE) &&
	       (_IOC_NR(cmd) == _IOC_NR(TUNGETSTATE) ||
		_IOC_NR(cmd) == _IOC_NR(TUNSETSTATE));
}

/* Say which group has failed and, where its buffer was too small, how much it
 * needs. The mask is the caller's, for another try.
 */
static int tun_state_report(struct tun_state_call *call, void __user *argp,
			    int err)
{
	const struct tun_state_group *g = NULL;

	call->cur.mask = call->req.mask;
	if (tun_state_put_header(call, argp))
		return -EFAULT;
	if (err != -ENOSPC)
		return err;

	while ((g = tun_state_next(g, call->cur.failed)))
		if (copy_to_user(argp + g->offset, (u8 *)&call->cur + g->offset,
				 g->size))
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

	call = kzalloc(sizeof(*call), GFP_KERNEL);
	if (!call)
		return -ENOMEM;
	call->file = file;
	call->tfile = file->private_data;

	err = copy_struct_from_user(&call->req, sizeof(call->req), argp, size);
	if (err)
		goto free;
	memcpy(&call->cur, &call->req, TUN_STATE_HEADER_SIZE);
	call->cur.supported = tun_state_supported();
	call->cur.failed = 0;

	err = tun_state_check_header(call, size, get ? 0 : TUN_STATE_F_CHECK);
	if (!err && get)
		err = tun_state_get(call, argp, size);
	else if (!err && call->req.flags & TUN_STATE_F_CHECK)
		err = tun_state_check(call, argp);
	else if (!err)
		err = tun_state_set(call, argp);
	if (err)
		err = tun_state_report(call, argp, err);

	if (call->steering)
		tun_prog_free(&call->steering->rcu);
	if (call->filter)
		tun_prog_free(&call->filter->rcu);
	kfree(call->req_queues);
	kfree(call->cur_queues);
free:
	kfree(call);
	return err;
}

#endif /* TUN_STATE_H */
