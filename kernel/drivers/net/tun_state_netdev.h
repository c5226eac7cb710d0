/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Groups of struct tun_state that the network device has: the identity, and
 * settings of rtnetlink, ethtool and bpf, which are only reported.
 */

static int tun_state_identity_get(struct tun_state_call *call)
{
	struct tun_state_identity *cur = &call->cur.identity;
	const struct net_device *dev = call->tun->dev;

	cur->netns = dev_net(dev)->ns.inum;
	cur->ifindex = dev->ifindex;
	cur->type = dev->type;
	return 0;
}

static int tun_state_identity_validate(struct tun_state_call *call)
{
	const struct tun_state_identity *req = &call->req.identity;

	return memchr_inv(req->reserved, 0, sizeof(req->reserved)) ? -EINVAL :
								     -EXDEV;
}

static const struct tun_state_ops tun_state_identity_ops = {
	.get		= tun_state_identity_get,
	.validate	= tun_state_identity_validate,
};

static int tun_state_netdev_get(struct tun_state_call *call)
{
	struct tun_state_netdev *cur = &call->cur.netdev;
	const struct net_device *dev = call->tun->dev;

	cur->mtu = dev->mtu;
	cur->up = !!(dev->flags & IFF_UP);
	cur->addr_len = min_t(size_t, dev->addr_len, sizeof(cur->addr));
	strscpy_pad(cur->name, dev->name, sizeof(cur->name));
	memcpy(cur->addr, dev->dev_addr, cur->addr_len);
	return 0;
}

static const struct tun_state_ops tun_state_netdev_ops = { .get = tun_state_netdev_get };

static int tun_state_coalesce_get(struct tun_state_call *call)
{
	call->cur.coalesce.rx_frames = call->tun->rx_batched;
	return 0;
}

static const struct tun_state_ops tun_state_coalesce_ops = { .get = tun_state_coalesce_get };

static int tun_state_xdp_get(struct tun_state_call *call)
{
	const struct bpf_prog *drv = rtnl_dereference(call->tun->xdp_prog);
	const struct bpf_prog *skb = rtnl_dereference(call->tun->dev->xdp_prog);

	call->cur.xdp.drv_prog_id = drv ? drv->aux->id : 0;
	call->cur.xdp.skb_prog_id = skb ? skb->aux->id : 0;
	return 0;
}

static const struct tun_state_ops tun_state_xdp_ops = { .get = tun_state_xdp_get };
