/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Groups of struct tun_state that drivers share: identity, netdev, vnet, sndbuf; and
 * parts of offload and queue.
 *
 * The driver provides
 *  - TUN_VNET_LE and TUN_VNET_BE
 *  - tun_state_flags(), tun_state_vnet_hdr_sz(): the flags with these bits, and the
 *    size of the virtio-net header
 *  - tun_state_sk(): the socket of the queue of the caller
 */

static int tun_state_identity_get(struct tun_state_call *call)
{
	struct tun_state_identity *cur = &call->cur.identity;
	const struct net_device *dev = call->dev;

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
	const struct net_device *dev = call->dev;

	cur->mtu = dev->mtu;
	cur->up = !!(dev->flags & IFF_UP);
	cur->addr_len = min_t(size_t, dev->addr_len, sizeof(cur->addr));
	strscpy_pad(cur->name, dev->name, sizeof(cur->name));
	memcpy(cur->addr, dev->dev_addr, cur->addr_len);
	return 0;
}

static const struct tun_state_ops tun_state_netdev_ops = { .get = tun_state_netdev_get };

static int tun_state_vnet_get(struct tun_state_call *call)
{
	unsigned int flags = *tun_state_flags(call);

	call->cur.vnet.hdr_size = *tun_state_vnet_hdr_sz(call);
	if (flags & TUN_VNET_LE)
		call->cur.vnet.flags |= TUN_STATE_VNET_LE;
	if (flags & TUN_VNET_BE)
		call->cur.vnet.flags |= TUN_STATE_VNET_BE;
	return 0;
}

static int tun_state_vnet_parse(struct tun_state_call *call)
{
	const struct tun_state_vnet *req = &call->req.vnet;
	u32 flags = TUN_STATE_VNET_LE;

	if (IS_ENABLED(CONFIG_TUN_VNET_CROSS_LE))
		flags |= TUN_STATE_VNET_BE;
	if (req->flags & ~flags)
		return -EINVAL;
	return req->hdr_size < sizeof(struct virtio_net_hdr) ||
	       req->hdr_size > INT_MAX ? -EINVAL : 0;
}

static void tun_state_vnet_apply(struct tun_state_call *call)
{
	const struct tun_state_vnet *req = &call->req.vnet;
	unsigned int flags = *tun_state_flags(call);

	flags &= ~(TUN_VNET_LE | TUN_VNET_BE);
	if (req->flags & TUN_STATE_VNET_LE)
		flags |= TUN_VNET_LE;
	if (req->flags & TUN_STATE_VNET_BE)
		flags |= TUN_VNET_BE;
	WRITE_ONCE(*tun_state_flags(call), flags);
	WRITE_ONCE(*tun_state_vnet_hdr_sz(call), req->hdr_size);
}

static const struct tun_state_ops tun_state_vnet_ops = {
	.get		= tun_state_vnet_get,
	.parse		= tun_state_vnet_parse,
	.apply		= tun_state_vnet_apply,
};

static int tun_state_sndbuf_get(struct tun_state_call *call)
{
	call->cur.sndbuf.size = tun_state_sk(call)->sk_sndbuf;
	return 0;
}

static int tun_state_sndbuf_parse(struct tun_state_call *call)
{
	const struct tun_state_sndbuf *req = &call->req.sndbuf;

	return req->reserved || req->size <= 0 ? -EINVAL : 0;
}

static void tun_state_sndbuf_apply(struct tun_state_call *call)
{
	struct sock *sk = tun_state_sk(call);

	WRITE_ONCE(sk->sk_sndbuf, call->req.sndbuf.size);
	/* Wake writers that wait for room */
	sk->sk_write_space(sk);
}

static const struct tun_state_ops tun_state_sndbuf_ops = {
	.get		= tun_state_sndbuf_get,
	.parse		= tun_state_sndbuf_parse,
	.apply		= tun_state_sndbuf_apply,
};

/* Bits of TUNSETOFFLOAD, as features of the device; TUN_F_UFO is not stored */
static const struct {
	u32 offload;
	netdev_features_t feature;
} tun_state_offloads[] = {
	{ TUN_F_CSUM, NETIF_F_HW_CSUM },
	{ TUN_F_TSO4, NETIF_F_TSO },
	{ TUN_F_TSO6, NETIF_F_TSO6 },
	{ TUN_F_TSO_ECN, NETIF_F_TSO_ECN },
#ifdef TUN_STATE_HAVE_USO
	{ TUN_F_USO4 | TUN_F_USO6, NETIF_F_GSO_UDP_L4 },
#endif
#ifdef TUN_STATE_HAVE_UDP_TUNNEL
	{ TUN_F_UDP_TUNNEL_GSO, NETIF_F_GSO_UDP_TUNNEL },
	{ TUN_F_UDP_TUNNEL_GSO_CSUM, NETIF_F_GSO_UDP_TUNNEL_CSUM },
#endif
};

static u32 tun_state_offload_bits(netdev_features_t features)
{
	u32 bits = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(tun_state_offloads); i++)
		if (tun_state_offloads[i].feature & features)
			bits |= tun_state_offloads[i].offload;
	return bits;
}

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
