/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Groups of struct tun_state with plain values: iff, owner, offload, link,
 * coalesce.
 */

static int tun_state_iff_get(struct tun_state_call *call)
{
	call->cur.iff.flags = tun_flags(call->tun);
	return 0;
}

static int tun_state_iff_validate(struct tun_state_call *call)
{
	const struct tun_state_iff *req = &call->req.iff;
	const struct tun_state_iff *cur = &call->cur.iff;

	return req->reserved || (req->flags ^ cur->flags) & ~IFF_PERSIST ?
	       -EINVAL : 0;
}

static void tun_state_iff_apply(struct tun_state_call *call)
{
	struct module *owner = call->file->f_op->owner;
	struct tun_struct *tun = call->tun;

	if (call->req.iff.flags & IFF_PERSIST)
		__module_get(owner);
	else
		module_put(owner);
	WRITE_ONCE(tun->flags, tun->flags ^ IFF_PERSIST);
	call->notify = true;
}

static const struct tun_state_ops tun_state_iff_ops = {
	.get		= tun_state_iff_get,
	.validate	= tun_state_iff_validate,
	.apply		= tun_state_iff_apply,
};

static int tun_state_owner_get(struct tun_state_call *call)
{
	struct tun_state_owner *cur = &call->cur.owner;
	struct user_namespace *ns = current_user_ns();
	struct tun_struct *tun = call->tun;

	cur->uid = from_kuid(ns, tun->owner);
	if (uid_valid(tun->owner) && cur->uid == (uid_t)-1) {
		cur->uid = from_kuid_munged(ns, tun->owner);
		cur->flags |= TUN_STATE_OWNER_UID_UNMAPPED;
	}
	cur->gid = from_kgid(ns, tun->group);
	if (gid_valid(tun->group) && cur->gid == (gid_t)-1) {
		cur->gid = from_kgid_munged(ns, tun->group);
		cur->flags |= TUN_STATE_OWNER_GID_UNMAPPED;
	}
	return 0;
}

static int tun_state_owner_parse(struct tun_state_call *call)
{
	const struct tun_state_owner *req = &call->req.owner;
	const u32 flags = TUN_STATE_OWNER_UID_UNMAPPED |
			  TUN_STATE_OWNER_GID_UNMAPPED;

	return req->reserved || req->flags & ~flags ? -EINVAL : 0;
}

/* Let an ID stay, or become a @valid one as in TUNSETOWNER and TUNSETGROUP. Removing
 * it needs CAP_NET_ADMIN; an unmapped ID has no number to set.
 */
static int tun_state_owner_id(struct tun_state_call *call, u32 req, u32 cur,
			      u32 unmapped, bool valid)
{
	u32 flags = call->req.owner.flags;

	if (req == cur && !((flags ^ call->cur.owner.flags) & unmapped))
		return 0;
	if (flags & unmapped)
		return -EINVAL;
	if (req == (u32)-1)
		return ns_capable(dev_net(call->tun->dev)->user_ns,
				  CAP_NET_ADMIN) ? 0 : -EPERM;
	return valid ? 0 : -EINVAL;
}

static int tun_state_owner_validate(struct tun_state_call *call)
{
	const struct tun_state_owner *req = &call->req.owner;
	const struct tun_state_owner *cur = &call->cur.owner;
	struct user_namespace *ns = current_user_ns();

	return tun_state_owner_id(call, req->uid, cur->uid,
				  TUN_STATE_OWNER_UID_UNMAPPED,
				  uid_valid(make_kuid(ns, req->uid))) ?:
	       tun_state_owner_id(call, req->gid, cur->gid,
				  TUN_STATE_OWNER_GID_UNMAPPED,
				  gid_valid(make_kgid(ns, req->gid)));
}

static void tun_state_owner_apply(struct tun_state_call *call)
{
	const struct tun_state_owner *req = &call->req.owner;
	struct user_namespace *ns = current_user_ns();

	/* make_kuid(-1) is INVALID_UID; an unmapped ID stays. */
	if (!(req->flags & TUN_STATE_OWNER_UID_UNMAPPED))
		WRITE_ONCE(call->tun->owner, make_kuid(ns, req->uid));
	if (!(req->flags & TUN_STATE_OWNER_GID_UNMAPPED))
		WRITE_ONCE(call->tun->group, make_kgid(ns, req->gid));
	call->notify = true;
}

static const struct tun_state_ops tun_state_owner_ops = {
	.get		= tun_state_owner_get,
	.parse		= tun_state_owner_parse,
	.validate	= tun_state_owner_validate,
	.apply		= tun_state_owner_apply,
};

#define TUN_STATE_OFFLOADS	(tun_state_offload_bits(~0ULL) | TUN_F_UFO)

static netdev_features_t tun_state_offload_features(u32 bits)
{
	netdev_features_t features = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(tun_state_offloads); i++)
		if (tun_state_offloads[i].offload & bits)
			features |= tun_state_offloads[i].feature;
	return features;
}

static int tun_state_offload_get(struct tun_state_call *call)
{
	struct tun_state_offload *cur = &call->cur.offload;

	cur->enabled = tun_state_offload_bits(call->tun->set_features);
	cur->wanted = tun_state_offload_bits(call->tun->dev->wanted_features);
	cur->supported = TUN_STATE_OFFLOADS;
	return 0;
}

static int tun_state_offload_parse(struct tun_state_call *call)
{
	struct tun_state_offload *req = &call->req.offload;
	netdev_features_t wanted = tun_state_offload_features(req->wanted);
	u32 enabled = req->enabled;

	if (req->reserved || tun_state_offload_bits(wanted) != req->wanted)
		return -EINVAL;
	/* Leave differences of effect only */
	req->enabled &= ~TUN_F_UFO;
	req->supported = TUN_STATE_OFFLOADS;
	return tun_offload_features(enabled, &call->features);
}

static void tun_state_offload_apply(struct tun_state_call *call)
{
	struct net_device *dev = call->tun->dev;

	call->tun->set_features = call->features;
	dev->wanted_features &= ~TUN_USER_FEATURES;
	dev->wanted_features |=
		tun_state_offload_features(call->req.offload.wanted);
	netdev_update_features(dev);
}

static const struct tun_state_ops tun_state_offload_ops = {
	.get		= tun_state_offload_get,
	.parse		= tun_state_offload_parse,
	.apply		= tun_state_offload_apply,
};

static int tun_state_link_get(struct tun_state_call *call)
{
	call->cur.link.carrier = netif_carrier_ok(call->tun->dev);
	call->cur.link.msg_enable = call->tun->msg_enable;
	return 0;
}

/* Refuse carrier without an attached queue, like tun_net_change_carrier(); count the
 * queues after this call.
 */
static int tun_state_link_validate(struct tun_state_call *call)
{
	unsigned int queues = call->tun->numqueues;

	if (call->req.link.carrier > 1)
		return -EINVAL;
	if (call->req.mask & TUN_STATE_QUEUE) {
		queues -= !call->tfile->detached;
		queues += !!(call->req.queue.flags & TUN_STATE_QUEUE_ATTACHED);
	}
	return call->req.link.carrier && !call->cur.link.carrier && !queues ?
	       -EPERM : 0;
}

static void tun_state_link_apply(struct tun_state_call *call)
{
	const struct tun_state_link *req = &call->req.link;

	call->tun->msg_enable = req->msg_enable;
	if (req->carrier != call->cur.link.carrier)
		tun_net_change_carrier(call->tun->dev, req->carrier);
}

static const struct tun_state_ops tun_state_link_ops = {
	.get		= tun_state_link_get,
	.validate	= tun_state_link_validate,
	.apply		= tun_state_link_apply,
};

static int tun_state_coalesce_get(struct tun_state_call *call)
{
	call->cur.coalesce.rx_frames = call->tun->rx_batched;
	return 0;
}

static const struct tun_state_ops tun_state_coalesce_ops = { .get = tun_state_coalesce_get };
