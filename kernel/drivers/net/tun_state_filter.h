/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Groups of struct tun_state for the filters of a TAP: txfilter (addresses) and
 * sockfilter (classic BPF).
 */

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
	return tun_state_is_tap(call) ? 0 : -EINVAL;
}

/* tun_net_xmit() reads the filter meanwhile: it may pass unwanted packets, as during
 * update_filter().
 */
static void tun_state_txfilter_apply(struct tun_state_call *call)
{
	const struct tun_state_txfilter *req = &call->req.txfilter;
	struct tap_filter *filter = &call->tun->txflt;

	WRITE_ONCE(filter->count, 0);
	smp_wmb(); /* off before the addresses change */
	filter->mask[0] = req->hash;
	filter->mask[1] = req->hash >> 32;
	memcpy(filter->addr, req->addr, sizeof(filter->addr));
	smp_wmb(); /* on after the addresses have changed */
	WRITE_ONCE(filter->count, req->count);
}

static const struct tun_state_ops tun_state_txfilter_ops = {
	.get		= tun_state_txfilter_get,
	.parse		= tun_state_txfilter_parse,
	.validate	= tun_state_txfilter_validate,
	.apply		= tun_state_txfilter_apply,
};

static const struct sock_fprog_kern *
tun_state_insns(const struct sk_filter *filter)
{
	return filter ? filter->prog->orig_prog : NULL;
}

static int tun_state_sockfilter_get(struct tun_state_call *call)
{
	const struct sk_filter *filter = tun_state_sockfilter(call->tun);
	const struct sock_fprog_kern *insns;
	struct sock_filter *copy;

	if (IS_ERR(filter))
		return PTR_ERR(filter);
	insns = tun_state_insns(filter);
	copy = tun_state_entries(call, insns ? insns->len : 0);
	if (IS_ERR(copy))
		return PTR_ERR(copy);
	if (insns)
		memcpy(copy, insns->filter, bpf_classic_proglen(insns));
	return 0;
}

/* Compile the program before taking RTNL: it comes from the caller's memory. */
static int tun_state_sockfilter_parse(struct tun_state_call *call)
{
	const struct tun_state_array *req = &call->req.sockfilter;
	struct sk_filter *filter;
	struct sock_fprog fprog;
	int err;

	if (req->entry_size != sizeof(struct sock_filter) ||
	    req->count > BPF_MAXINSNS)
		return -EINVAL;
	if (!req->count)
		return 0;

	filter = kzalloc(sizeof(*filter), GFP_KERNEL_ACCOUNT);
	if (!filter)
		return -ENOMEM;
	fprog.len = req->count;
	fprog.filter = u64_to_user_ptr(req->entries);
	err = bpf_prog_create_from_user(&filter->prog, &fprog, NULL, true);
	if (err) {
		kfree(filter);
		return err;
	}
	refcount_set(&filter->refcnt, 1);
	call->sockfilter = filter;
	return 0;
}

static bool tun_state_same_insns(const struct sk_filter *a,
				 const struct sk_filter *b)
{
	const struct sock_fprog_kern *x = tun_state_insns(a);
	const struct sock_fprog_kern *y = tun_state_insns(b);

	if (!x || !y)
		return x == y;
	return x->len == y->len &&
	       !memcmp(x->filter, y->filter, bpf_classic_proglen(x));
}

static bool tun_state_sockfilter_differs(struct tun_state_call *call)
{
	const struct sk_filter *cur = tun_state_sockfilter(call->tun);

	return IS_ERR(cur) || !tun_state_same_insns(cur, call->sockfilter);
}

static const struct tun_state_ops tun_state_sockfilter_ops = {
	.entry_size	= sizeof(struct sock_filter),
	.get		= tun_state_sockfilter_get,
	.parse		= tun_state_sockfilter_parse,
	.differs	= tun_state_sockfilter_differs,
	.validate	= tun_state_sockfilter_validate,
	.apply		= tun_state_sockfilter_apply,
};
