/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The classic filter that the queues of a device share: TUNSETSTATE sets it, and
 * gives it to the queue of the caller.
 *
 * tun.c provides tun_set_filter() and tun_set_queue_filter().
 */

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

/* The classic filter that the device has after this call */
static struct sk_filter *tun_state_filter_after(struct tun_state_call *call)
{
	return call->req.mask & TUN_STATE_SOCKFILTER ?
	       call->sockfilter : tun_state_sockfilter(call->tun);
}

/* Refuse a queue that wants the filter of a device without one */
static int tun_state_queue_filter_validate(struct tun_state_call *call,
					   u32 changes)
{
	return changes & call->req.queue.flags & TUN_STATE_QUEUE_SOCKFILTER &&
	       !tun_state_filter_after(call) ? -EINVAL : 0;
}

/* Let no packet pass ahead of the filter when the queue is attached */
static void tun_state_queue_filter_begin(struct tun_state_call *call)
{
	if (call->req.queue.flags & TUN_STATE_QUEUE_SOCKFILTER)
		tun_set_queue_filter(call->tfile, tun_state_filter_after(call));
}

static void tun_state_queue_filter_undo(struct tun_state_call *call)
{
	tun_set_queue_filter(call->tfile,
			     call->cur.queue.flags & TUN_STATE_QUEUE_SOCKFILTER ?
			     tun_state_sockfilter(call->tun) : NULL);
}

/* Give the caller's queue the filter of the device, or none, as its group asks */
static void tun_state_queue_filter_apply(struct tun_state_call *call)
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
		tun_state_queue_filter_apply(call);
}
