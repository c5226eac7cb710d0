/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE: report and restore the state of a tun/tap
 * device through one of its queue file descriptors.
 *
 * See include/uapi/linux/if_tun_state.h for the contract. Each group of
 * struct tun_state has an entry in tun_state_groups[]; code common to all
 * groups is at the end of this file.
 */
#ifndef TUN_STATE_H
#define TUN_STATE_H

#include <linux/bsearch.h>
#include <linux/if_tun_state.h>
#include <linux/sort.h>

#include "tun_state_compat.h"

#define TUN_STATE_HEADER_SIZE	offsetof(struct tun_state, identity)

/* Flags that TUNGETIFF reports for the device */
#define TUN_STATE_IFF		(TUN_FEATURES | IFF_PERSIST | IFF_TUN | IFF_TAP)
#define TUN_STATE_IFF_FIXED	(IFF_TUN | IFF_TAP | IFF_MULTI_QUEUE)

#define TUN_STATE_QUEUE_FLAGS	(TUN_STATE_QUEUE_ATTACHED | \
				 TUN_STATE_QUEUE_NAPI | \
				 TUN_STATE_QUEUE_NAPI_FRAGS | \
				 TUN_STATE_QUEUE_SOCKFILTER | \
				 TUN_STATE_QUEUE_SELF)

/* Indexes of tun_file.state_progs */
enum {
	TUN_STATE_STEERING_PROG,
	TUN_STATE_FILTER_PROG,
	TUN_STATE_NR_PROGS,
};

/* An eBPF program of the device */
struct tun_state_slot {
	struct bpf_prog *captured;	/* by this TUNGETSTATE */
	struct tun_prog *new;		/* replaces the attached one */
};

/* One TUNGETSTATE or TUNSETSTATE */
struct tun_state_call {
	struct file *file;
	struct tun_file *tfile;
	struct tun_struct *tun;		/* under RTNL only */
	struct tun_state req;		/* argument of the caller */
	struct tun_state cur;		/* state in force, and the answer */
	struct sock_filter *cur_insns;
	struct sk_filter *sockfilter;	/* replaces the current one */
	struct tun_state_slot slots[TUN_STATE_NR_PROGS];
	struct tun_state_flow *req_flows;
	struct tun_state_flow *cur_flows;
	struct hlist_head spare_flows;	/* struct tun_flow_entry */
	struct tun_state_queue *req_queues;
	struct tun_state_queue *cur_queues;
	u32 nr_insns;			/* entries in the user buffers, */
	u32 nr_flows;			/* capped at the kernel's limits */
	u32 nr_queues;
	bool capture;			/* take references to programs */
	bool notify;			/* send RTM_NEWLINK */
};

/**
 * struct tun_state_group - how to handle one group of struct tun_state
 * @bit: its bit in tun_state.mask
 * @offset: of the group in struct tun_state
 * @size: of the group
 * @get_only: passed over by TUNSETSTATE, compared by TUN_STATE_F_CHECK
 * @prepare: TUNGETSTATE, without locks: allocate the content of a user buffer
 * @get: under RTNL: fill in the group from the device
 * @copy_out: TUNGETSTATE, without locks: fill in the user buffer
 * @parse: TUNSETSTATE, without locks: refuse values that no device can have;
 *	allocate and look up
 * @differs: under RTNL: compare the caller's group with the current one;
 *	memcmp() by default
 * @validate: under RTNL, if the group differs: refuse values that this device
 *	cannot have or that this caller must not set
 * @apply: under RTNL: put the group in force; cannot fail
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

#ifdef TUN_STATE_HAVE_BACKPRESSURE
/* Wake every transmit queue. A full ring with IFF_BACKPRESSURE stops its queue,
 * and a reader of the ring wakes it. Once the queue has another ring, or the
 * device has lost the flag, no reader does. Wait for packets in flight first:
 * they may still stop a queue.
 */
static void tun_state_wake_queues(struct tun_struct *tun)
{
	int i;

	synchronize_net();
	for (i = 0; i < tun->numqueues; i++)
		tun_force_wake_queue(tun, rtnl_dereference(tun->tfiles[i]));
}
#endif

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

	/* TUNSETPERSIST needs no rights; all other flags need TUNSETIFF's */
	if (!(changed & ~IFF_PERSIST))
		return 0;
	if (!tun_permitted(call->tun))
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
	u32 changed = req ^ call->cur.device.flags;

	if (changed & IFF_PERSIST) {
		if (req & IFF_PERSIST)
			__module_get(THIS_MODULE);
		else
			module_put(THIS_MODULE);
	}
	WRITE_ONCE(tun->flags, (tun->flags & ~TUN_STATE_IFF) | req);
#ifdef TUN_STATE_HAVE_BACKPRESSURE
	if (changed & IFF_BACKPRESSURE)
		tun_state_wake_queues(tun);
#endif
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
 * which may belong to another user: leave an ID alone if it reads the same.
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

#define TUN_STATE_F_TSO		(TUN_F_TSO4 | TUN_F_TSO6)

/* Offloads in the combinations that set_offload() takes */
static const struct {
	u32 offload;			/* bits that are set together */
	u32 needs;			/* at least one of these bits, too */
	netdev_features_t feature;	/* in set_features; 0: not stored */
} tun_state_offloads[] = {
	{ TUN_F_CSUM, 0, NETIF_F_HW_CSUM },
	{ TUN_F_TSO4, TUN_F_CSUM, NETIF_F_TSO },
	{ TUN_F_TSO6, TUN_F_CSUM, NETIF_F_TSO6 },
	{ TUN_F_TSO_ECN, TUN_STATE_F_TSO, NETIF_F_TSO_ECN },
	{ TUN_F_UFO, TUN_F_CSUM, 0 },
#ifdef TUN_STATE_HAVE_USO
	{ TUN_F_USO4 | TUN_F_USO6, TUN_F_CSUM, NETIF_F_GSO_UDP_L4 },
#endif
#ifdef TUN_STATE_HAVE_UDP_TUNNEL
	{ TUN_F_UDP_TUNNEL_GSO, TUN_STATE_F_TSO | TUN_F_USO4 | TUN_F_USO6,
	  NETIF_F_GSO_UDP_TUNNEL },
	{ TUN_F_UDP_TUNNEL_GSO_CSUM, TUN_F_UDP_TUNNEL_GSO,
	  NETIF_F_GSO_UDP_TUNNEL_CSUM },
#endif
};

static int tun_state_offload_get(struct tun_state_call *call)
{
	struct tun_state_offload *cur = &call->cur.offload;
	int i;

	for (i = 0; i < ARRAY_SIZE(tun_state_offloads); i++) {
		cur->supported |= tun_state_offloads[i].offload;
		if (call->tun->set_features & tun_state_offloads[i].feature)
			cur->enabled |= tun_state_offloads[i].offload;
	}
	return 0;
}

static int tun_state_offload_parse(struct tun_state_call *call)
{
	struct tun_state_offload *req = &call->req.offload;
	u32 has, needs, supported = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(tun_state_offloads); i++) {
		supported |= tun_state_offloads[i].offload;
		has = req->enabled & tun_state_offloads[i].offload;
		if (!has)
			continue;
		if (has != tun_state_offloads[i].offload)
			return -EINVAL;
		needs = tun_state_offloads[i].needs;
		if (needs && !(req->enabled & needs))
			return -EINVAL;
	}
	if (req->enabled & ~supported)
		return -EINVAL;

	req->enabled &= ~TUN_F_UFO;
	req->supported = supported;
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

/* Number of attached queues after this call */
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
	/* Batching needs the rights of ethtool, not just the file */
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

/* txfilter */

static int tun_state_txfilter_get(struct tun_state_call *call)
{
	struct tun_state_txfilter *cur = &call->cur.txfilter;
	const struct tap_filter *filter = &call->tun->txflt;

	/* Without a count, ignore the remains of an earlier filter */
	if (!filter->count)
		return 0;
	cur->count = filter->count;
	cur->hash = filter->mask[0] | (u64)filter->mask[1] << 32;
	memcpy(cur->addr, filter->addr, filter->count * ETH_ALEN);
	return 0;
}

static int tun_state_txfilter_parse(struct tun_state_call *call)
{
	const struct tun_state_txfilter *req = &call->req.txfilter;
	size_t used;

	BUILD_BUG_ON(FLT_EXACT_COUNT != TUN_STATE_TXFILTER_ADDRS);

	if (req->reserved || req->count > TUN_STATE_TXFILTER_ADDRS)
		return -EINVAL;
	used = req->count * ETH_ALEN;
	if (memchr_inv((u8 *)req->addr + used, 0, sizeof(req->addr) - used))
		return -EINVAL;
	return !req->count && req->hash ? -EINVAL : 0;
}

static int tun_state_txfilter_validate(struct tun_state_call *call)
{
	return (call->tun->flags & TUN_TYPE_MASK) == IFF_TAP ? 0 : -EINVAL;
}

static void tun_state_txfilter_apply(struct tun_state_call *call)
{
	const struct tun_state_txfilter *req = &call->req.txfilter;
	struct tap_filter *filter = &call->tun->txflt;

	/* Packets are checked meanwhile: as in update_filter(), unwanted
	 * ones may pass.
	 */
	WRITE_ONCE(filter->count, 0);
	smp_wmb(); /* off before the addresses change */
	filter->mask[0] = req->hash;
	filter->mask[1] = req->hash >> 32;
	memcpy(filter->addr, req->addr, sizeof(filter->addr));
	smp_wmb(); /* on after the addresses have changed */
	WRITE_ONCE(filter->count, req->count);
}

/* sockfilter */

static const struct sock_fprog_kern *
tun_state_insns(const struct sk_filter *filter)
{
	return filter ? filter->prog->orig_prog : NULL;
}

static const struct sock_fprog_kern *
tun_state_device_insns(const struct tun_struct *tun)
{
	return tun_state_insns(tun->filter_attached ? tun->filter : NULL);
}

static int tun_state_sockfilter_prepare(struct tun_state_call *call)
{
	call->nr_insns = min_t(u32, call->req.sockfilter.count, BPF_MAXINSNS);
	call->cur_insns = kvcalloc(call->nr_insns, sizeof(*call->cur_insns),
				   GFP_KERNEL);
	return call->cur_insns ? 0 : -ENOMEM;
}

static int tun_state_sockfilter_get(struct tun_state_call *call)
{
	const struct sock_fprog_kern *insns = tun_state_device_insns(call->tun);
	struct tun_state_sockfilter *cur = &call->cur.sockfilter;

	cur->insns = call->req.sockfilter.insns;
	if (!insns)
		return 0;
	cur->count = insns->len;
	/* TUNSETSTATE needs no copy of the program */
	if (!call->cur_insns)
		return 0;
	if (cur->count > call->nr_insns)
		return -ENOSPC;
	memcpy(call->cur_insns, insns->filter, bpf_classic_proglen(insns));
	return 0;
}

static int tun_state_sockfilter_copy_out(struct tun_state_call *call)
{
	const struct tun_state_sockfilter *cur = &call->cur.sockfilter;

	if (copy_to_user(u64_to_user_ptr(cur->insns), call->cur_insns,
			 array_size(cur->count, sizeof(*call->cur_insns))))
		return -EFAULT;
	return 0;
}

static int tun_state_sockfilter_parse(struct tun_state_call *call)
{
	const struct tun_state_sockfilter *req = &call->req.sockfilter;
	struct sk_filter *filter;
	struct sock_fprog fprog;
	int err;

	if (req->reserved || req->count > BPF_MAXINSNS)
		return -EINVAL;
	if (!req->count)
		return 0;

	filter = kzalloc(sizeof(*filter), GFP_KERNEL);
	if (!filter)
		return -ENOMEM;
	fprog.len = req->count;
	fprog.filter = u64_to_user_ptr(req->insns);
	err = bpf_prog_create_from_user(&filter->prog, &fprog, NULL, true);
	if (err) {
		kfree(filter);
		return err;
	}
	refcount_set(&filter->refcnt, 1);
	call->sockfilter = filter;
	return 0;
}

static bool tun_state_sockfilter_differs(struct tun_state_call *call)
{
	const struct sock_fprog_kern *cur = tun_state_device_insns(call->tun);
	const struct sock_fprog_kern *req = tun_state_insns(call->sockfilter);

	if (!cur || !req)
		return cur != req;
	return cur->len != req->len ||
	       memcmp(cur->filter, req->filter, bpf_classic_proglen(cur));
}

/* Try to charge the socket for a filter, as sk_attach_filter() does */
static bool tun_state_can_charge(struct sock *sk, const struct bpf_prog *prog)
{
	int size = bpf_prog_size(prog->len);
	void *mem;

	lock_sock(sk);
	mem = sock_kmalloc(sk, size, GFP_KERNEL);
	if (mem)
		sock_kfree_s(sk, mem, size);
	release_sock(sk);
	return mem;
}

/* True if the caller's own queue is to have the filter of the device */
static bool tun_state_queue_filter(struct tun_state_call *call)
{
	return call->req.mask & TUN_STATE_QUEUE &&
	       call->req.queue.flags & TUN_STATE_QUEUE_SOCKFILTER;
}

static int tun_state_sockfilter_validate(struct tun_state_call *call)
{
	const struct sk_filter *filter = call->sockfilter;

	if ((call->tun->flags & TUN_TYPE_MASK) != IFF_TAP)
		return -EINVAL;
	if (!filter)
		return tun_state_queue_filter(call) ? -EINVAL : 0;
	if (!tun_state_can_charge(&call->tfile->sk, filter->prog))
		return -ENOMEM;
	return 0;
}

static void tun_state_sockfilter_apply(struct tun_state_call *call)
{
	const struct tun_state_sockfilter *req = &call->req.sockfilter;
	struct tun_struct *tun = call->tun;

	/* The answer of TUNGETFILTER */
	if (req->count) {
		tun->fprog.len = req->count;
		tun->fprog.filter = u64_to_user_ptr(req->insns);
	}
	tun_set_filter(tun, call->sockfilter);
	call->sockfilter = NULL;
	if (call->req.mask & TUN_STATE_QUEUE && !tun_state_queue_filter(call))
		tun_set_queue_filter(call->tfile, NULL);
}

/* steering and filter */

static bool tun_state_prog_is(const struct bpf_prog *prog,
			      const struct tun_state_prog *desc)
{
	return prog->aux->id == desc->id && prog->type == desc->type &&
	       !memcmp(prog->tag, desc->tag, sizeof(desc->tag));
}

static int tun_state_prog_get(struct tun_state_call *call, int nr,
			      struct tun_prog __rcu *attached,
			      struct tun_state_prog *cur)
{
	struct tun_prog *prog = rtnl_dereference(attached);

	if (!prog)
		return 0;
	cur->id = prog->prog->aux->id;
	cur->type = prog->prog->type;
	memcpy(cur->tag, prog->prog->tag, sizeof(cur->tag));
	if (call->capture) {
		bpf_prog_inc(prog->prog);
		call->slots[nr].captured = prog->prog;
	}
	return 0;
}

/* Get the program that TUNGETSTATE has captured on this file, if it is the one
 * requested. Another thread may replace it meanwhile.
 */
static struct bpf_prog *
tun_state_prog_captured(struct tun_state_call *call, int nr,
			const struct tun_state_prog *req)
{
	struct bpf_prog *prog;

	rcu_read_lock();
	prog = READ_ONCE(call->tfile->state_progs[nr]);
	if (prog) {
		prog = bpf_prog_inc_not_zero(prog);
		if (IS_ERR(prog))
			prog = NULL;
	}
	rcu_read_unlock();

	if (prog && !tun_state_prog_is(prog, req)) {
		bpf_prog_put(prog);
		prog = NULL;
	}
	return prog;
}

static int tun_state_prog_parse(struct tun_state_call *call, int nr,
				const struct tun_state_prog *req)
{
	struct bpf_prog *prog = NULL;
	struct tun_prog *new;

	if (req->fd && req->action != TUN_STATE_PROG_FD)
		return -EINVAL;

	switch (req->action) {
	case TUN_STATE_PROG_ID:
		if (req->id)
			prog = tun_state_prog_captured(call, nr, req);
		else if (req->type ||
			 memchr_inv(req->tag, 0, sizeof(req->tag)))
			return -EINVAL;
		break;
	case TUN_STATE_PROG_FD:
		prog = bpf_prog_get_type(req->fd, BPF_PROG_TYPE_SOCKET_FILTER);
		if (IS_ERR(prog))
			return PTR_ERR(prog);
		break;
	case TUN_STATE_PROG_KEEP:
		break;
	default:
		return -EINVAL;
	}
	if (!prog)
		return 0;

	new = kmalloc(sizeof(*new), GFP_KERNEL);
	if (!new) {
		bpf_prog_put(prog);
		return -ENOMEM;
	}
	new->prog = prog;
	call->slots[nr].new = new;
	return 0;
}

static bool tun_state_prog_differs(struct tun_state_call *call, int nr,
				   struct tun_prog __rcu *attached,
				   const struct tun_state_prog *req)
{
	struct tun_prog *prog = rtnl_dereference(attached);

	switch (req->action) {
	case TUN_STATE_PROG_KEEP:
		return false;
	case TUN_STATE_PROG_FD:
		return !prog || prog->prog != call->slots[nr].new->prog;
	default:
		return prog ? !tun_state_prog_is(prog->prog, req) : req->id;
	}
}

/* A program requested by its id must have been found */
static int tun_state_prog_validate(struct tun_state_call *call, int nr,
				   const struct tun_state_prog *req)
{
	return req->id && !call->slots[nr].new ? -EBADF : 0;
}

static void tun_state_prog_apply(struct tun_state_call *call, int nr,
				 struct tun_prog __rcu **attached)
{
	struct tun_struct *tun = call->tun;
	struct tun_prog *old;

	spin_lock_bh(&tun->lock);
	old = rcu_replace_pointer(*attached, call->slots[nr].new,
				  lockdep_is_held(&tun->lock));
	spin_unlock_bh(&tun->lock);
	call->slots[nr].new = NULL;

	if (old)
		call_rcu(&old->rcu, tun_prog_free);
}

static int tun_state_steering_get(struct tun_state_call *call)
{
	return tun_state_prog_get(call, TUN_STATE_STEERING_PROG,
				  call->tun->steering_prog,
				  &call->cur.steering);
}

static int tun_state_steering_parse(struct tun_state_call *call)
{
	return tun_state_prog_parse(call, TUN_STATE_STEERING_PROG,
				    &call->req.steering);
}

static bool tun_state_steering_differs(struct tun_state_call *call)
{
	return tun_state_prog_differs(call, TUN_STATE_STEERING_PROG,
				      call->tun->steering_prog,
				      &call->req.steering);
}

static int tun_state_steering_validate(struct tun_state_call *call)
{
	return tun_state_prog_validate(call, TUN_STATE_STEERING_PROG,
				       &call->req.steering);
}

static void tun_state_steering_apply(struct tun_state_call *call)
{
	tun_state_prog_apply(call, TUN_STATE_STEERING_PROG,
			     &call->tun->steering_prog);
}

static int tun_state_filter_get(struct tun_state_call *call)
{
	return tun_state_prog_get(call, TUN_STATE_FILTER_PROG,
				  call->tun->filter_prog, &call->cur.filter);
}

static int tun_state_filter_parse(struct tun_state_call *call)
{
	return tun_state_prog_parse(call, TUN_STATE_FILTER_PROG,
				    &call->req.filter);
}

static bool tun_state_filter_differs(struct tun_state_call *call)
{
	return tun_state_prog_differs(call, TUN_STATE_FILTER_PROG,
				      call->tun->filter_prog,
				      &call->req.filter);
}

static int tun_state_filter_validate(struct tun_state_call *call)
{
	return tun_state_prog_validate(call, TUN_STATE_FILTER_PROG,
				       &call->req.filter);
}

static void tun_state_filter_apply(struct tun_state_call *call)
{
	tun_state_prog_apply(call, TUN_STATE_FILTER_PROG,
			     &call->tun->filter_prog);
}

/* Keep the programs that TUNGETSTATE has reported: from now on any holder of
 * this file can restore them, even after their own files are closed.
 */
static void tun_state_keep_progs(struct tun_state_call *call, u64 mask)
{
	static const u64 groups[] = { TUN_STATE_STEERING, TUN_STATE_FILTER };
	struct tun_state_slot *slot = call->slots;
	struct bpf_prog *old;
	int i;

	BUILD_BUG_ON(ARRAY_SIZE(groups) != TUN_STATE_NR_PROGS);

	for (i = 0; i < TUN_STATE_NR_PROGS; i++, slot++) {
		if (!(mask & groups[i]))
			continue;
		old = xchg(&call->tfile->state_progs[i], slot->captured);
		slot->captured = NULL;
		if (old)
			bpf_prog_put(old);
	}
}

/* Put the captured programs when the file is closed */
static void tun_state_release(struct tun_file *tfile)
{
	int i;

	BUILD_BUG_ON(ARRAY_SIZE(tfile->state_progs) != TUN_STATE_NR_PROGS);

	for (i = 0; i < TUN_STATE_NR_PROGS; i++) {
		if (tfile->state_progs[i])
			bpf_prog_put(tfile->state_progs[i]);
	}
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

/* flows */

static int tun_state_flow_cmp(const void *a, const void *b)
{
	const struct tun_state_flow *x = a, *y = b;

	return x->rxhash < y->rxhash ? -1 : x->rxhash > y->rxhash;
}

static int tun_state_flows_prepare(struct tun_state_call *call)
{
	const struct tun_state_flows *req = &call->req.flows;

	if (req->entry_size != sizeof(struct tun_state_flow))
		return -EINVAL;

	call->nr_flows = min_t(u32, req->count, MAX_TAP_FLOWS);
	call->cur_flows = kvcalloc(call->nr_flows, sizeof(*call->cur_flows),
				   GFP_KERNEL);
	return call->cur_flows ? 0 : -ENOMEM;
}

static int tun_state_flows_get(struct tun_state_call *call)
{
	struct tun_state_flow *flow = call->cur_flows;
	struct tun_state_flows *cur = &call->cur.flows;
	struct tun_struct *tun = call->tun;
	const struct tun_flow_entry *e;
	int i, err = 0;

	cur->flows = call->req.flows.flows;
	cur->entry_size = sizeof(*flow);

	spin_lock_bh(&tun->lock);
	cur->count = tun->flow_count;
	if (cur->count > call->nr_flows) {
		err = -ENOSPC;
		goto unlock;
	}
	for (i = 0; i < TUN_NUM_FLOW_ENTRIES; i++) {
		hlist_for_each_entry(e, &tun->flows[i], hash_link) {
			flow->rxhash = e->rxhash;
			flow->queue_index = READ_ONCE(e->queue_index);
			flow->age_ms = jiffies_to_msecs(jiffies -
							READ_ONCE(e->updated));
			flow++;
		}
	}
unlock:
	spin_unlock_bh(&tun->lock);

	if (!err)
		sort(call->cur_flows, cur->count, sizeof(*flow),
		     tun_state_flow_cmp, NULL);
	return err;
}

static int tun_state_flows_copy_out(struct tun_state_call *call)
{
	const struct tun_state_flows *cur = &call->cur.flows;

	if (copy_to_user(u64_to_user_ptr(cur->flows), call->cur_flows,
			 array_size(cur->count, sizeof(*call->cur_flows))))
		return -EFAULT;
	return 0;
}

static int tun_state_flows_parse(struct tun_state_call *call)
{
	const struct tun_state_flows *req = &call->req.flows;
	struct tun_state_flow *flows;
	struct tun_flow_entry *e;
	int err;
	u32 i;

	err = tun_state_flows_prepare(call);
	if (err)
		return err;
	if (req->count > MAX_TAP_FLOWS)
		return -EINVAL;

	flows = vmemdup_user(u64_to_user_ptr(req->flows),
			     array_size(req->count, sizeof(*flows)));
	if (IS_ERR(flows))
		return PTR_ERR(flows);
	call->req_flows = flows;

	sort(flows, req->count, sizeof(*flows), tun_state_flow_cmp, NULL);
	for (i = 0; i < req->count; i++) {
		if (flows[i].reserved || flows[i].queue_index >= MAX_TAP_QUEUES)
			return -EINVAL;
		if (i && flows[i].rxhash == flows[i - 1].rxhash)
			return -EINVAL;
	}

	if (call->req.flags & TUN_STATE_F_CHECK)
		return 0;
	for (i = 0; i < req->count; i++) {
		e = kmalloc(sizeof(*e), GFP_KERNEL);
		if (!e)
			return -ENOMEM;
		hlist_add_head(&e->hash_link, &call->spare_flows);
	}
	return 0;
}

/* Ignore the age: it changes all the time */
static bool tun_state_flows_differs(struct tun_state_call *call)
{
	const struct tun_state_flow *req = call->req_flows;
	const struct tun_state_flow *cur = call->cur_flows;
	u32 i;

	if (call->req.flows.count != call->cur.flows.count)
		return true;

	for (i = 0; i < call->cur.flows.count; i++) {
		if (req[i].rxhash != cur[i].rxhash ||
		    req[i].queue_index != cur[i].queue_index)
			return true;
	}
	return false;
}

static void tun_state_flow_set(struct tun_flow_entry *e,
			       struct tun_state_flow *flow)
{
	unsigned long age = msecs_to_jiffies(flow->age_ms);

	/* A flow beyond the ageing time expires as soon */
	age = min(age, e->tun->ageing_time);
	WRITE_ONCE(e->queue_index, flow->queue_index);
	WRITE_ONCE(e->updated, jiffies - age);
	flow->reserved = 1;	/* done */
}

/* Packets are steered meanwhile: update a flow in place, or its packets would
 * take another queue for a moment.
 */
static void tun_state_flows_apply(struct tun_state_call *call)
{
	struct tun_state_flow key, *flow = call->req_flows;
	u32 i, count = call->req.flows.count;
	struct tun_struct *tun = call->tun;
	struct tun_flow_entry *e;
	struct hlist_node *n;

	spin_lock_bh(&tun->lock);
	for (i = 0; i < TUN_NUM_FLOW_ENTRIES; i++) {
		hlist_for_each_entry_safe(e, n, &tun->flows[i], hash_link) {
			key.rxhash = e->rxhash;
			flow = bsearch(&key, call->req_flows, count,
				       sizeof(key), tun_state_flow_cmp);
			if (flow)
				tun_state_flow_set(e, flow);
			else
				tun_flow_delete(tun, e);
		}
	}
	for (i = 0; i < count; i++) {
		flow = &call->req_flows[i];
		if (flow->reserved)
			continue;
		e = hlist_entry(call->spare_flows.first, struct tun_flow_entry,
				hash_link);
		hlist_del(&e->hash_link);
		e->rxhash = flow->rxhash;
		e->rps_rxhash = 0;
		e->tun = tun;
		tun_state_flow_set(e, flow);
		hlist_add_head_rcu(&e->hash_link,
				   &tun->flows[tun_hashfn(e->rxhash)]);
		++tun->flow_count;
	}
	if (count && !timer_pending(&tun->flow_gc_timer))
		mod_timer(&tun->flow_gc_timer,
			  round_jiffies_up(jiffies + tun->ageing_time));
	spin_unlock_bh(&tun->lock);
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

/* True if the device has a filter after this call */
static bool tun_state_filter_after(struct tun_state_call *call)
{
	if (call->req.mask & TUN_STATE_SOCKFILTER)
		return call->req.sockfilter.count;
	return call->tun->filter_attached;
}

static int tun_state_queue_validate(struct tun_state_call *call)
{
	const struct tun_state_queue *req = &call->req.queue;
	const struct tun_state_queue *cur = &call->cur.queue;
	u32 changes = tun_state_queue_changes(req, cur);
	struct tun_struct *tun = call->tun;
	u32 others;

	if (changes & ~(TUN_STATE_QUEUE_ATTACHED | TUN_STATE_QUEUE_SOCKFILTER))
		return -EINVAL;
	if (changes & req->flags & TUN_STATE_QUEUE_SOCKFILTER &&
	    !tun_state_filter_after(call))
		return -EINVAL;

	/* There are as many places as queues */
	if (req->flags & TUN_STATE_QUEUE_ATTACHED)
		others = tun->numqueues - !call->tfile->detached;
	else
		others = tun->numdisabled - !!call->tfile->detached;
	if (req->index > others)
		return -EINVAL;

	if (!(changes & TUN_STATE_QUEUE_ATTACHED))
		return 0;
	if (req->flags & TUN_STATE_QUEUE_ATTACHED)
		return security_tun_dev_attach_queue(tun->security);
	return tun->flags & IFF_MULTI_QUEUE ? 0 : -EINVAL;
}

/* Attach or detach: the only change by TUNSETSTATE that can fail */
static int tun_state_queue_move(struct tun_state_call *call)
{
	struct tun_file *tfile = call->tfile;
	struct tun_struct *tun = call->tun;
	int err;

	if (!tfile->detached) {
		__tun_detach(tfile, false);
	} else {
		err = tun_attach(tun, call->file, true, tun->flags & IFF_NAPI,
				 tun->flags & IFF_NAPI_FRAGS, true);
		if (err < 0)
			return err;
	}
	call->notify = true;
	return 0;
}

static void tun_state_queue_put(struct tun_struct *tun, struct tun_file *tfile,
				u16 index)
{
	/* A reader that wakes the queue reads the index under this lock */
	spin_lock_bh(&tfile->tx_ring.consumer_lock);
	rcu_assign_pointer(tun->tfiles[index], tfile);
	tfile->queue_index = index;
	tfile->xdp_rxq.queue_index = index;
	spin_unlock_bh(&tfile->tx_ring.consumer_lock);
}

/* Swap with the queue that has the index now */
static void tun_state_queue_place(struct tun_state_call *call)
{
	struct tun_file *tfile = call->tfile, *other;
	u32 index = call->req.queue.index;
	struct tun_struct *tun = call->tun;

	if (tfile->detached) {
		list_for_each_entry(other, &tun->disabled, next) {
			if (index--)
				continue;
			if (other != tfile)
				list_swap(&tfile->next, &other->next);
			break;
		}
		return;
	}

	other = rtnl_dereference(tun->tfiles[index]);
	if (other == tfile)
		return;
	tun_state_queue_put(tun, other, tfile->queue_index);
	tun_state_queue_put(tun, tfile, index);
#ifdef TUN_STATE_HAVE_BACKPRESSURE
	tun_state_wake_queues(tun);
#endif
}

static void tun_state_queue_apply(struct tun_state_call *call)
{
	u32 has = call->req.queue.flags & TUN_STATE_QUEUE_SOCKFILTER;

	tun_state_queue_place(call);
	tun_set_queue_filter(call->tfile, has ? call->tun->filter : NULL);
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
	/* No device has that many queues: the group differs */
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

/* Code common to all groups */

static const struct tun_state_group tun_state_groups[] = {
	{
		/* First: validate no other group on the wrong device */
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
		.get = tun_state_txfilter_get,
		.parse = tun_state_txfilter_parse,
		.validate = tun_state_txfilter_validate,
		.apply = tun_state_txfilter_apply,
	}, {
		.bit = TUN_STATE_SOCKFILTER,
		.offset = offsetof(struct tun_state, sockfilter),
		.size = sizeof_field(struct tun_state, sockfilter),
		.prepare = tun_state_sockfilter_prepare,
		.get = tun_state_sockfilter_get,
		.copy_out = tun_state_sockfilter_copy_out,
		.parse = tun_state_sockfilter_parse,
		.differs = tun_state_sockfilter_differs,
		.validate = tun_state_sockfilter_validate,
		.apply = tun_state_sockfilter_apply,
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
		.prepare = tun_state_flows_prepare,
		.get = tun_state_flows_get,
		.copy_out = tun_state_flows_copy_out,
		.parse = tun_state_flows_parse,
		.differs = tun_state_flows_differs,
		.apply = tun_state_flows_apply,
	}, {
		/* tun_state_commit() has attached or detached it before */
		.bit = TUN_STATE_QUEUE,
		.offset = offsetof(struct tun_state, queue),
		.size = sizeof_field(struct tun_state, queue),
		.get = tun_state_queue_get,
		.parse = tun_state_queue_parse,
		.differs = tun_state_queue_differs,
		.validate = tun_state_queue_validate,
		.apply = tun_state_queue_apply,
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
	u64 mask = 0;

	while ((g = tun_state_next(g, ~0ULL)))
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

/* Check the mask, the flags, and that the struct holds the groups */
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
	u64 mask = call->req.mask;
	const struct tun_state_group *g = NULL;
	int err;

	while ((g = tun_state_next(g, mask))) {
		err = g->prepare ? g->prepare(call) : 0;
		if (err)
			return tun_state_fail(call, g->bit, err);
	}

	call->capture = true;
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
	tun_state_keep_progs(call, mask);
	return 0;
}

static int tun_state_parse(struct tun_state_call *call, u64 mask)
{
	const struct tun_state_group *g = NULL;
	int err;

	while ((g = tun_state_next(g, mask))) {
		err = g->parse ? g->parse(call) : 0;
		if (err)
			return tun_state_fail(call, g->bit, err);
	}
	return 0;
}

/* Read the current state and return the groups that differ from it */
static u64 tun_state_compare(struct tun_state_call *call, u64 mask)
{
	const struct tun_state_group *g = NULL;
	u64 diff = 0;
	bool differs;

	while ((g = tun_state_next(g, mask))) {
		/* get() fails on more entries than the caller passed */
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

	if (diff & TUN_STATE_QUEUE &&
	    tun_state_queue_changes(&call->req.queue, &call->cur.queue) &
	    TUN_STATE_QUEUE_ATTACHED) {
		err = tun_state_queue_move(call);
		if (err)
			return tun_state_fail(call, TUN_STATE_QUEUE, err);
		/* Detaching a queue deletes flows */
		diff |= mask & TUN_STATE_FLOWS;
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

	/* Write the answer of a success now: nothing after the commit may
	 * fail.
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

/* Report the group that failed and, after ENOSPC, how many entries it needs.
 * Leave the caller's mask in place for another try.
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

/* Free everything that the call has not handed to the device */
static void tun_state_free(struct tun_state_call *call)
{
	struct tun_state_slot *slot = call->slots;
	struct tun_flow_entry *e;
	struct hlist_node *n;
	int i;

	for (i = 0; i < TUN_STATE_NR_PROGS; i++, slot++) {
		if (slot->captured)
			bpf_prog_put(slot->captured);
		if (slot->new)
			tun_prog_free(&slot->new->rcu);
	}
	hlist_for_each_entry_safe(e, n, &call->spare_flows, hash_link)
		kfree(e);
	tun_filter_put(call->sockfilter);
	kvfree(call->cur_insns);
	kvfree(call->req_flows);
	kvfree(call->cur_flows);
	kfree(call->req_queues);
	kfree(call->cur_queues);
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

	tun_state_free(call);
free:
	kfree(call);
	return err;
}

#endif /* TUN_STATE_H */
