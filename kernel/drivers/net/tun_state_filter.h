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
	const struct sock_fprog_kern *insns =
		tun_state_insns(tun_state_sockfilter(call->tun));
	struct sock_filter *copy;

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

static bool tun_state_sockfilter_differs(struct tun_state_call *call)
{
	const struct sock_fprog_kern *req = tun_state_insns(call->sockfilter);
	const struct sock_fprog_kern *cur =
		tun_state_insns(tun_state_sockfilter(call->tun));

	if (!cur || !req)
		return cur != req;
	return cur->len != req->len ||
	       memcmp(cur->filter, req->filter, bpf_classic_proglen(cur));
}

/* Ask if the socket may be charged for @prog in place of its filter. sock_kmalloc()
 * knows optmem_max, which kernels keep in different places: have it allocate one byte
 * on top of the charge.
 */
static bool tun_state_can_charge(struct sock *sk, const struct bpf_prog *prog)
{
	int size = bpf_prog_size(prog->len) - 1;
	struct sk_filter *old;
	void *byte;

	lock_sock(sk);
	old = rcu_dereference_protected(sk->sk_filter,
					lockdep_sock_is_held(sk));
	if (old)
		size -= bpf_prog_size(old->prog->len);
	atomic_add(size, &sk->sk_omem_alloc);
	byte = sock_kmalloc(sk, 1, GFP_KERNEL_ACCOUNT);
	if (byte)
		sock_kfree_s(sk, byte, 1);
	atomic_sub(size, &sk->sk_omem_alloc);
	release_sock(sk);
	return byte;
}

/* Give the caller's queue the filter of the device, or none, as its group asks */
static void tun_state_queue_set_filter(struct tun_state_call *call)
{
	tun_set_queue_filter(call->tfile,
			     call->req.queue.flags & TUN_STATE_QUEUE_SOCKFILTER ?
			     tun_state_sockfilter(call->tun) : NULL);
}

static int tun_state_sockfilter_validate(struct tun_state_call *call)
{
	const struct sk_filter *filter = call->sockfilter;

	if (!tun_state_is_tap(call))
		return -EINVAL;
	if (!filter)
		return call->req.mask & TUN_STATE_QUEUE &&
		       call->req.queue.flags & TUN_STATE_QUEUE_SOCKFILTER ?
		       -EINVAL : 0;
	return tun_state_can_charge(&call->tfile->sk, filter->prog) ? 0 : -ENOMEM;
}

static void tun_state_sockfilter_apply(struct tun_state_call *call)
{
	const struct tun_state_array *req = &call->req.sockfilter;
	struct tun_struct *tun = call->tun;

	/* The answer of TUNGETFILTER */
	if (req->count) {
		tun->fprog.len = req->count;
		tun->fprog.filter = u64_to_user_ptr(req->entries);
	}
	tun_set_filter(tun, call->sockfilter,
		       call->req.mask & TUN_STATE_QUEUE ? call->tfile : NULL);
	call->sockfilter = NULL;
	if (call->req.mask & TUN_STATE_QUEUE)
		tun_state_queue_set_filter(call);
}

static const struct tun_state_ops tun_state_sockfilter_ops = {
	.entry_size	= sizeof(struct sock_filter),
	.get		= tun_state_sockfilter_get,
	.parse		= tun_state_sockfilter_parse,
	.differs	= tun_state_sockfilter_differs,
	.validate	= tun_state_sockfilter_validate,
	.apply		= tun_state_sockfilter_apply,
};
