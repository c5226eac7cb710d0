/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Groups of struct tun_state for queues: the automatic steering table, the queue
 * of the caller, and all queues of the device.
 */

static int tun_state_flow_cmp(const void *a, const void *b)
{
	const struct tun_state_flow *x = a, *y = b;

	return x->rxhash < y->rxhash ? -1 : x->rxhash > y->rxhash;
}

static void tun_state_fill_flow(struct tun_state_flow *flow,
				const struct tun_flow_entry *e)
{
	long age = jiffies - READ_ONCE(e->updated);

	flow->rxhash = e->rxhash;
	flow->queue_index = READ_ONCE(e->queue_index);
	/* A packet may update the entry after jiffies is read */
	flow->age_ms = jiffies_to_msecs(max(age, 0L));
}

static int tun_state_flows_get(struct tun_state_call *call)
{
	struct tun_struct *tun = call->tun;
	const struct tun_flow_entry *e;
	struct tun_state_flow *flow;
	int i, err = 0;

	/* Packets may add flows until the lock is taken: use all of the caller's room */
	flow = tun_state_entries(call, min_t(u32, call->req.flows.count,
					     MAX_TAP_FLOWS));
	if (IS_ERR(flow))
		return PTR_ERR(flow);

	spin_lock_bh(&tun->lock);
	call->cur.flows.count = tun->flow_count;
	if (tun->flow_count > call->req.flows.count)
		err = -ENOSPC;
	for (i = 0; !err && i < TUN_NUM_FLOW_ENTRIES; i++)
		hlist_for_each_entry(e, &tun->flows[i], hash_link)
			tun_state_fill_flow(flow++, e);
	spin_unlock_bh(&tun->lock);
	return err;
}

static const struct tun_state_ops tun_state_flows_ops = {
	.entry_size	= sizeof(struct tun_state_flow),
	.cmp		= tun_state_flow_cmp,
	.get		= tun_state_flows_get,
};

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

#define TUN_STATE_QUEUE_FIXED	(TUN_STATE_QUEUE_NAPI | \
				 TUN_STATE_QUEUE_NAPI_FRAGS)
#define TUN_STATE_QUEUE_SET	(TUN_STATE_QUEUE_ATTACHED | \
				 TUN_STATE_QUEUE_SOCKFILTER)

static int tun_state_queue_parse(struct tun_state_call *call)
{
	return call->req.queue.flags & ~(TUN_STATE_QUEUE_FIXED |
					 TUN_STATE_QUEUE_SET |
					 TUN_STATE_QUEUE_SELF) ? -EINVAL : 0;
}

static u32 tun_state_queue_changes(struct tun_state_call *call)
{
	return (call->req.queue.flags ^ call->cur.queue.flags) &
	       ~TUN_STATE_QUEUE_SELF;
}

static bool tun_state_queue_differs(struct tun_state_call *call)
{
	return call->req.queue.index != call->cur.queue.index ||
	       tun_state_queue_changes(call);
}

static int tun_state_queue_validate(struct tun_state_call *call)
{
	struct tun_state_queue *req = &call->req.queue;
	u32 changes = tun_state_queue_changes(call);
	struct tun_struct *tun = call->tun;
	u32 others;
	int err;

	if (changes & TUN_STATE_QUEUE_FIXED)
		return -EINVAL;
	err = tun_state_queue_filter_validate(call, changes);
	if (err)
		return err;

	/* There are as many places as queues */
	if (req->flags & TUN_STATE_QUEUE_ATTACHED)
		others = tun->numqueues - !call->tfile->detached;
	else
		others = tun->numdisabled - !!call->tfile->detached;
	if (req->index > others)
		return -EINVAL;
	req->index = array_index_nospec(req->index, others + 1);

	if (!(changes & TUN_STATE_QUEUE_ATTACHED))
		return 0;
	if (req->flags & TUN_STATE_QUEUE_ATTACHED)
		return security_tun_dev_attach_queue(tun->security);
	return tun->flags & IFF_MULTI_QUEUE ? 0 : -EINVAL;
}

static int tun_state_queue_attach(struct tun_state_call *call)
{
	struct tun_struct *tun = call->tun;
	int err;

	tun_state_queue_filter_begin(call);
	err = tun_attach(tun, call->file, true, tun->flags & IFF_NAPI,
			 tun->flags & IFF_NAPI_FRAGS, true);
	if (err)
		tun_state_queue_filter_undo(call);
	return err;
}

/* Attach or detach the queue: the only change by TUNSETSTATE that can fail, so it
 * comes first.
 */
static int tun_state_queue_begin(struct tun_state_call *call)
{
	int err = 0;

	if (!(tun_state_queue_changes(call) & TUN_STATE_QUEUE_ATTACHED))
		return 0;
	if (call->tfile->detached)
		err = tun_state_queue_attach(call);
	else
		__tun_detach(call->tfile, false);
	call->notify = true;
	return err;
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
	/* Wake both queues: the reader that would have woken them reads another ring
	 * now. Packets in flight may still stop a queue: wait for them first.
	 */
	if (tun->flags & IFF_BACKPRESSURE) {
		synchronize_net();
		tun_force_wake_queue(tun, other);
		tun_force_wake_queue(tun, tfile);
	}
#endif
}

static void tun_state_queue_apply(struct tun_state_call *call)
{
	tun_state_queue_filter_apply(call);
	tun_state_queue_place(call);
}

static const struct tun_state_ops tun_state_queue_ops = {
	.get		= tun_state_queue_get,
	.parse		= tun_state_queue_parse,
	.differs	= tun_state_queue_differs,
	.validate	= tun_state_queue_validate,
	.begin		= tun_state_queue_begin,
	.apply		= tun_state_queue_apply,
};

static int tun_state_queues_get(struct tun_state_call *call)
{
	struct tun_struct *tun = call->tun;
	struct tun_state_queue *queue;
	struct tun_file *tfile;
	u32 i;

	queue = tun_state_entries(call, tun->numqueues + tun->numdisabled);
	if (IS_ERR(queue))
		return PTR_ERR(queue);
	for (i = 0; i < tun->numqueues; i++)
		tun_state_fill_queue(call, rtnl_dereference(tun->tfiles[i]), i,
				     queue++);
	i = 0;
	list_for_each_entry(tfile, &tun->disabled, next)
		tun_state_fill_queue(call, tfile, i++, queue++);
	return 0;
}

static const struct tun_state_ops tun_state_queues_ops = {
	.entry_size	= sizeof(struct tun_state_queue),
	.get		= tun_state_queues_get,
};
