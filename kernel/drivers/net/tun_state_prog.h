/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Groups of struct tun_state for the eBPF programs of the device: steering,
 * filter and xdp, and the programs that a file holds to put them back.
 */

/* Index of the group among those with a program */
static int tun_state_prog_index(const struct tun_state_call *call)
{
	return call->group->bit == TUN_STATE_FILTER;
}

static struct tun_prog __rcu **
tun_state_prog_slot(const struct tun_state_call *call)
{
	return tun_state_prog_index(call) ? &call->tun->filter_prog :
					    &call->tun->steering_prog;
}

static bool tun_state_prog_is(const struct bpf_prog *prog,
			      const struct tun_state_prog *desc)
{
	return prog->aux->id == desc->id && prog->type == desc->type &&
	       !memcmp(prog->tag, desc->tag, sizeof(desc->tag));
}

static int tun_state_prog_get(struct tun_state_call *call)
{
	struct tun_state_prog *cur = tun_state_cur(call);
	struct tun_prog *attached;
	struct bpf_prog *prog;

	attached = rtnl_dereference(*tun_state_prog_slot(call));
	if (!attached)
		return 0;
	prog = attached->prog;
	cur->id = prog->aux->id;
	cur->type = prog->type;
	memcpy(cur->tag, prog->tag, sizeof(cur->tag));
	if (call->req.flags & TUN_STATE_F_HOLD) {
		bpf_prog_inc(prog);
		call->hold[tun_state_prog_index(call)] = prog;
	}
	return 0;
}

/* Allocate the struct tun_prog. validate() fills in a held program, under RTNL. */
static int tun_state_prog_parse(struct tun_state_call *call)
{
	const struct tun_state_prog *req = tun_state_req(call);
	struct bpf_prog *prog = NULL;
	struct tun_prog *new;

	if (req->action > TUN_STATE_PROG_KEEP ||
	    (req->fd && req->action != TUN_STATE_PROG_FD))
		return -EINVAL;
	if (req->action == TUN_STATE_PROG_KEEP)
		return 0;
	if (req->action == TUN_STATE_PROG_ID && !req->id)
		return req->type || memchr_inv(req->tag, 0, sizeof(req->tag)) ?
		       -EINVAL : 0;
	if (req->action == TUN_STATE_PROG_FD) {
		prog = bpf_prog_get_type(req->fd, BPF_PROG_TYPE_SOCKET_FILTER);
		if (IS_ERR(prog))
			return PTR_ERR(prog);
	}

	new = kmalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	if (!new) {
		if (prog)
			bpf_prog_put(prog);
		return -ENOMEM;
	}
	new->prog = prog;
	call->progs[tun_state_prog_index(call)] = new;
	return 0;
}

static bool tun_state_prog_differs(struct tun_state_call *call)
{
	const struct tun_state_prog *req = tun_state_req(call);
	struct tun_prog *new = call->progs[tun_state_prog_index(call)];
	struct tun_prog *old = rtnl_dereference(*tun_state_prog_slot(call));

	if (req->action == TUN_STATE_PROG_KEEP)
		return false;
	if (req->action == TUN_STATE_PROG_FD)
		return !old || old->prog != new->prog;
	return old ? !tun_state_prog_is(old->prog, req) : req->id;
}

/* Look up a program id among the programs that the file holds */
static int tun_state_prog_validate(struct tun_state_call *call)
{
	const struct tun_state_prog *req = tun_state_req(call);
	int i = tun_state_prog_index(call);
	struct bpf_prog *held = call->held->progs[i];

	if (!call->progs[i] || call->progs[i]->prog)
		return 0;
	if (!held || !tun_state_prog_is(held, req))
		return -EBADF;
	bpf_prog_inc(held);
	call->progs[i]->prog = held;
	return 0;
}

static void tun_state_prog_apply(struct tun_state_call *call)
{
	struct tun_prog **new = &call->progs[tun_state_prog_index(call)];
	struct tun_struct *tun = call->tun;
	struct tun_prog *old;

	spin_lock_bh(&tun->lock);
	old = rcu_replace_pointer(*tun_state_prog_slot(call), *new,
				  lockdep_is_held(&tun->lock));
	spin_unlock_bh(&tun->lock);
	*new = NULL;
	if (old)
		call_rcu(&old->rcu, tun_prog_free);
}

#define TUN_STATE_PROG_OPS {				\
	.get		= tun_state_prog_get,		\
	.parse		= tun_state_prog_parse,		\
	.differs	= tun_state_prog_differs,	\
	.validate	= tun_state_prog_validate,	\
	.apply		= tun_state_prog_apply,		\
}

static const struct tun_state_ops tun_state_steering_ops = TUN_STATE_PROG_OPS;
static const struct tun_state_ops tun_state_filter_ops = TUN_STATE_PROG_OPS;

static int tun_state_xdp_get(struct tun_state_call *call)
{
	const struct bpf_prog *drv = rtnl_dereference(call->tun->xdp_prog);
	const struct bpf_prog *skb = rtnl_dereference(call->tun->dev->xdp_prog);

	call->cur.xdp.drv_prog_id = drv ? drv->aux->id : 0;
	call->cur.xdp.skb_prog_id = skb ? skb->aux->id : 0;
	return 0;
}

static const struct tun_state_ops tun_state_xdp_ops = { .get = tun_state_xdp_get };

/* Give the reported programs to the file, and drop its earlier ones. Fail if the file
 * has left its device since the snapshot.
 */
static int tun_state_hold(struct tun_state_call *call)
{
	struct tun_state_held *held = call->held;
	int i, err = 0;

	rtnl_lock();
	if (held->left == call->left)
		for (i = 0; i < TUN_STATE_PROGS; i++)
			swap(held->progs[i], call->hold[i]);
	else
		err = -EBADFD;
	rtnl_unlock();
	return err;
}

static void tun_state_free_progs(struct tun_state_call *call)
{
	int i;

	tun_state_put_progs(call->hold);
	for (i = 0; i < TUN_STATE_PROGS; i++) {
		if (!call->progs[i])
			continue;
		if (call->progs[i]->prog)
			bpf_prog_put(call->progs[i]->prog);
		kfree(call->progs[i]);
	}
}
