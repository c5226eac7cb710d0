/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The classic filter, which is only reported: the unpatched driver has a filter for each
 * queue, and a pointer to the memory of the process that set it.
 */
static bool tun_state_same_insns(const struct sk_filter *a,
				 const struct sk_filter *b);

static bool tun_live_same_filter(const struct tun_file *tfile,
				 struct sk_filter **filter)
{
	struct sk_filter *this = rtnl_dereference(tfile->sk.sk_filter);

	if (!this)
		return true;
	if (*filter && !tun_state_same_insns(*filter, this))
		return false;
	*filter = this;
	return true;
}

/* The filter of the queues that have one; an error if they disagree among themselves,
 * or with the device
 */
static struct sk_filter *tun_state_sockfilter(struct tun_struct *tun)
{
	struct sk_filter *filter = NULL;
	struct tun_file *tfile;
	bool same = true;
	int i;

	for (i = 0; i < tun->numqueues; i++)
		same &= tun_live_same_filter(rtnl_dereference(tun->tfiles[i]),
					     &filter);
	list_for_each_entry(tfile, &tun->disabled, next)
		same &= tun_live_same_filter(tfile, &filter);
	return same && !filter == !tun->filter_attached ? filter :
							  ERR_PTR(-EINVAL);
}

/* A filter that TUNSETSTATE has compiled to compare it */
static void tun_filter_put(struct sk_filter *filter)
{
	if (!filter)
		return;
	bpf_prog_destroy(filter->prog);
	kfree(filter);
}

static int tun_state_sockfilter_validate(struct tun_state_call *call)
{
	return -EINVAL;
}

#define tun_state_sockfilter_apply	NULL

/* A queue keeps its filter */
static int tun_state_queue_filter_validate(struct tun_state_call *call,
					   u32 changes)
{
	return changes & TUN_STATE_QUEUE_SOCKFILTER ? -EINVAL : 0;
}

static void tun_state_queue_filter_begin(struct tun_state_call *call) { }
static void tun_state_queue_filter_undo(struct tun_state_call *call) { }
static void tun_state_queue_filter_apply(struct tun_state_call *call) { }
