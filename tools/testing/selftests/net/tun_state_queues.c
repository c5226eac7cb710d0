// SPDX-License-Identifier: GPL-2.0
/*
 * Queues of a device, and arrays that TUNGETSTATE writes: order, places and
 * flags of queues beside TUNSETQUEUE, packets in a queue, the steering table,
 * and buffers of any size, with entries of any size.
 */
#include "../kselftest_harness.h"
#include "tun_state_util.h"

FIXTURE(queues)
{
	char name[IFNAMSIZ];
	int fd[4];
	struct state st;
};

FIXTURE_VARIANT(queues)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(queues, tap)
{
	.flags = IFF_TAP,
};

FIXTURE_VARIANT_ADD(queues, tun)
{
	.flags = IFF_TUN,
};

/* Every second queue has NAPI */
FIXTURE_SETUP(queues)
{
	const char *why = tun_state_enter();
	int i;

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	for (i = 0; i < 4; i++) {
		self->fd[i] = tun_queue(self->name,
					variant->flags | IFF_MULTI_QUEUE |
					(i & 1 ? IFF_NAPI : 0));
		ASSERT_GE(self->fd[i], 0);
	}
}

FIXTURE_TEARDOWN(queues)
{
	int i;

	for (i = 0; i < 4; i++)
		close(self->fd[i]);
}

#define ATTACHED TUN_STATE_QUEUE_ATTACHED
#define NAPI TUN_STATE_QUEUE_NAPI
#define SELF TUN_STATE_QUEUE_SELF

#define EXPECT_QUEUE(_index, _flags, queue)		\
	do {						\
		struct tun_state_queue _q = (queue);	\
							\
		EXPECT_EQ(_index, _q.index);		\
		EXPECT_EQ(_flags, _q.flags);		\
	} while (0)

/* Detach and attach with TUNSETQUEUE */
#define ATTACH(i) ASSERT_EQ(0, tun_set_queue(self->fd[i], IFF_ATTACH_QUEUE))
#define DETACH(i) ASSERT_EQ(0, tun_set_queue(self->fd[i], IFF_DETACH_QUEUE))

TEST_F(queues, order)
{
	struct tun_state_queue *q = self->st.queues;
	struct link_info li;
	int i;

	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, state_get(self->fd[i], TUN_STATE_QUEUE |
				       TUN_STATE_QUEUES, &self->st));
		EXPECT_QUEUE(i, ATTACHED | SELF | (i & 1 ? NAPI : 0),
			     self->st.s.queue);
		EXPECT_EQ(4, self->st.s.queues.count);
		EXPECT_QUEUE(i, ATTACHED | SELF | (i & 1 ? NAPI : 0), q[i]);
		EXPECT_QUEUE(!i, ATTACHED | (i ? 0 : NAPI), q[!i]);
	}

	/* The last queue takes the place of a detached one */
	DETACH(1);
	DETACH(0);
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_QUEUE | TUN_STATE_QUEUES,
			       &self->st));
	EXPECT_EQ(4, self->st.s.queues.count);
	EXPECT_QUEUE(1, SELF, self->st.s.queue);
	EXPECT_QUEUE(0, ATTACHED, q[0]);
	EXPECT_QUEUE(1, ATTACHED | NAPI, q[1]);
	EXPECT_QUEUE(0, NAPI, q[2]);
	EXPECT_QUEUE(1, SELF, q[3]);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(2, li.queues);
	EXPECT_EQ(2, li.disabled);

	ATTACH(1);
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(0, SELF, self->st.s.queue);
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(2, ATTACHED | SELF | NAPI, self->st.s.queue);
}

TEST_F(queues, set)
{
	struct tun_state_queue *queue = &self->st.s.queue;
	struct link_info li;
	struct ifreq ifr;

	DETACH(3);
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	queue->flags &= ~ATTACHED;
	queue->index = 2;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_EQ(TUN_STATE_QUEUE, self->st.s.failed);
	queue->index = 1;
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(2, li.queues);
	EXPECT_EQ(2, li.disabled);
	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
	EXPECT_TRUE(ifr.ifr_flags & IFF_DETACH_QUEUE);
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));

	queue->flags |= ATTACHED;
	queue->index = 3;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_EQ(TUN_STATE_QUEUE, self->st.s.failed);
	queue->index = 2;
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(3, li.queues);
	EXPECT_EQ(1, li.disabled);
	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
	EXPECT_FALSE(ifr.ifr_flags & IFF_DETACH_QUEUE);
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(2, ATTACHED | NAPI | SELF, *queue);

	/* TUNSETSTATE cannot change the NAPI of a queue */
	queue->flags &= ~NAPI;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
}

#define EXPECT_INDEX(i, _index, attached)				\
	do {								\
		ASSERT_EQ(0, state_get(self->fd[i], TUN_STATE_QUEUE,	\
				       &self->st));			\
		EXPECT_EQ(_index, self->st.s.queue.index);		\
		EXPECT_EQ((attached) ? ATTACHED : 0,			\
			  self->st.s.queue.flags & ATTACHED);		\
	} while (0)

#define PLACE(err, i, _index, attached)					\
	ASSERT_EQ(err, queue_place(self->fd[i], &self->st, _index, attached))

static int queue_place(int fd, struct state *st, unsigned int index,
		       bool attached)
{
	int err;

	err = state_get(fd, TUN_STATE_QUEUE, st);
	if (err)
		return -err;
	st->s.queue.index = index;
	st->s.queue.flags &= ~ATTACHED;
	st->s.queue.flags |= attached ? ATTACHED : 0;
	return state_set(fd, TUN_STATE_QUEUE, st);
}

/* A queue swaps places with the queue at its new index */
TEST_F(queues, place)
{
	PLACE(0, 3, 1, true);
	EXPECT_INDEX(0, 0, true);
	EXPECT_INDEX(1, 3, true);
	EXPECT_INDEX(2, 2, true);
	EXPECT_INDEX(3, 1, true);
	PLACE(EINVAL, 3, 4, true);
	PLACE(EINVAL, 3, 0x10001, true);

	/* Into the middle of the detached ones, and of the attached ones */
	DETACH(0);
	DETACH(1);
	PLACE(EINVAL, 2, 3, false);
	PLACE(0, 2, 0, false);
	EXPECT_INDEX(2, 0, false);
	EXPECT_INDEX(1, 1, false);
	EXPECT_INDEX(0, 2, false);
	EXPECT_INDEX(3, 0, true);
	PLACE(EINVAL, 2, 3, false);
	PLACE(0, 0, 1, false);
	EXPECT_INDEX(2, 0, false);
	EXPECT_INDEX(0, 1, false);
	EXPECT_INDEX(1, 2, false);
	PLACE(EINVAL, 1, 2, true);
	PLACE(0, 1, 0, true);
	EXPECT_INDEX(1, 0, true);
	EXPECT_INDEX(3, 1, true);
	EXPECT_INDEX(2, 0, false);
	EXPECT_INDEX(0, 1, false);
}

/* Any order can be rebuilt, one queue after the other, from any other order */
TEST_F(queues, rebuild)
{
	static const int order[][4] = {
		{ 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 1, 2, 3, 0 }, { 2, 0, 3, 1 },
	};
	unsigned int o, attached, i;

	for (o = 0; o < ARRAY_SIZE(order); o++) {
		for (attached = 0; attached <= 4; attached++) {
			for (i = 0; i < 4; i++)
				PLACE(0, order[o][i], i < attached ?
				      i : i - attached, i < attached);
			for (i = 0; i < 4; i++)
				EXPECT_INDEX(order[o][i], i < attached ?
					     i : i - attached, i < attached);
		}
	}
}

/* Have flow F learned on queue F of four, and read the state. An entry expires
 * after 3 s: try again on a slow machine.
 */
static int flows_learn(const char *name, const int *fd, unsigned int flags,
		       struct state *st)
{
	int i, f;

	if (netdev_up(name))
		return -1;
	for (i = 0; i < 100; i++) {
		for (f = 0; f < 4; f++)
			if (flow_learn(fd[f], flags, f))
				return -1;
		if (state_get(fd[0], ALL_GROUPS, st))
			return -1;
		if (st->s.flows.count == 4)
			return 0;
	}
	return -1;
}

#define LEARN(fds)							\
	ASSERT_EQ(0, flows_learn(self->name, fds, variant->flags, &self->st))

TEST_F(queues, flows)
{
	struct tun_state_flow *flow = self->st.flows;
	unsigned int seen, i;

	EXPECT_EQ(0, self->st.s.flows.count);
	LEARN(self->fd);
	for (i = 0, seen = 0; i < 4; i++) {
		seen |= 1U << flow[i].queue_index;
		EXPECT_LT(flow[i].age_ms, 3000);
		if (i)
			EXPECT_GT(flow[i].rxhash, flow[i - 1].rxhash);
	}
	EXPECT_EQ(0xf, seen);

	/* All of them on one queue, which packets to it decide */
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, flow_learn(self->fd[2], variant->flags, i));
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_FLOWS, &self->st));
	for (i = 0; i < self->st.s.flows.count; i++)
		EXPECT_EQ(2, flow[i].queue_index);
}

/* Remove a queue in one of three ways */
static int queue_leave(int fd, unsigned int how, struct state *st)
{
	switch (how) {
	case 0:
		return tun_set_queue(fd, IFF_DETACH_QUEUE);
	case 1:
		if (state_get(fd, TUN_STATE_QUEUE, st))
			return -1;
		st->s.queue.flags &= ~TUN_STATE_QUEUE_ATTACHED;
		st->s.queue.index = 0;
		return state_set(fd, TUN_STATE_QUEUE, st);
	default:
		return close(fd);
	}
}

/* A queue takes its flows along, and those of the queue that gets its index */
TEST_F(queues, flows_of_detached)
{
	unsigned int how, index, i, seen, want;
	int *fd = self->fd, left;
	uint64_t start;

	if (flows_stay())
		SKIP(return, "%s", flows_stay());
	for (how = 0; how < 3; how++) {
		for (index = 0; index < 4; index++) {
			start = now_ms();
			LEARN(fd);
			left = fd[index];
			ASSERT_EQ(0, queue_leave(left, how, &self->st));
			fd[index] = fd[3];
			fd[3] = left;
			ASSERT_EQ(0, state_get(fd[index == 0], TUN_STATE_FLOWS,
					       &self->st));
			for (i = 0, seen = 0; i < self->st.s.flows.count; i++)
				seen |= 1U << self->st.flows[i].queue_index;
			want = 0xf & ~(1U << index | 1U << 3);
			/* Other flows stay, if they have not expired */
			if (now_ms() - start > 2500)
				seen |= want;
			EXPECT_EQ(want, seen) {
				TH_LOG("index %u, way %u", index, how);
			}

			if (how == 2)
				fd[3] = tun_queue(self->name, variant->flags |
						  IFF_MULTI_QUEUE);
			else
				ASSERT_EQ(0, tun_set_queue(left,
							   IFF_ATTACH_QUEUE));
			ASSERT_GE(fd[3], 0);
		}
	}
}

/* Every other group can be read and set while the queue is detached */
TEST_F(queues, detached)
{
	uint64_t mask = TUN_STATE_IDENTITY | TUN_STATE_IFF |
			TUN_STATE_OWNER | TUN_STATE_VNET | TUN_STATE_OFFLOAD |
			TUN_STATE_SNDBUF | TUN_STATE_LINK | TUN_STATE_QUEUE;
	struct state st;
	int value = 0;

	DETACH(2);
	ASSERT_EQ(0, state_get(self->fd[2], mask, &st));
	EXPECT_EQ(mask, st.s.mask);
	st.s.iff.flags |= IFF_PERSIST;
	st.s.owner.uid = 5;
	st.s.vnet.hdr_size = 12;
	st.s.offload.enabled = TUN_F_CSUM;
	st.s.offload.wanted = TUN_F_CSUM;
	st.s.sndbuf.size = 44444;
	st.s.link.msg_enable = 0x2000;
	ASSERT_EQ(0, state_set(self->fd[2], mask, &st));
	EXPECT_EQ(0, state_compare(self->fd[2], mask, &st));
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETVNETHDRSZ, &value));
	EXPECT_EQ(12, value);
	ASSERT_EQ(0, ioctl(self->fd[2], TUNGETSNDBUF, &value));
	EXPECT_EQ(44444, value);
	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETPERSIST, 0));
}

/* Carrier needs a queue, as for TUNSETCARRIER; the same call may attach it */
TEST_F(queues, carrier_without_queues)
{
	uint64_t mask = TUN_STATE_LINK | TUN_STATE_QUEUE;
	unsigned int carrier = 0;
	struct state st, before;
	int i;

	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETCARRIER, &carrier));
	for (i = 0; i < 4; i++)
		DETACH(i);
	ASSERT_EQ(0, state_snapshot(self->fd[0], &before));
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	st.s.link.carrier = 1;
	ASSERT_EQ(EPERM, state_set(self->fd[0], TUN_STATE_LINK, &st));
	EXPECT_EQ(TUN_STATE_LINK, st.s.failed);
	ASSERT_EQ(EPERM, state_set(self->fd[0], mask, &st));
	EXPECT_TRUE(state_unchanged(self->fd[0], &before));

	st.s.queue.flags |= ATTACHED;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &st));
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	EXPECT_EQ(1, st.s.link.carrier);
	EXPECT_QUEUE(0, ATTACHED | SELF, st.s.queue);

	/* The same call may detach the last queue */
	st.s.link.carrier = 0;
	ASSERT_EQ(0, state_set(self->fd[0], TUN_STATE_LINK, &st));
	st.s.link.carrier = 1;
	st.s.queue.flags &= ~ATTACHED;
	st.s.queue.index = 3;
	ASSERT_EQ(EPERM, state_set(self->fd[0], mask, &st));
	st.s.link.carrier = 0;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &st));
}

/* A buffer that is too small is left alone; the needed size is returned */
TEST_F(queues, room)
{
	struct tun_state_array *queues = &self->st.s.queues;
	static const struct tun_state_queue none;
	unsigned int room;

	DETACH(2);
	for (room = 0; room < 4; room++) {
		memset(&self->st, 0, sizeof(self->st));
		self->st.s.mask = TUN_STATE_QUEUES | TUN_STATE_IFF;
		state_point(&self->st);
		queues->count = room;
		ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
		EXPECT_EQ(ENOSPC, errno);
		EXPECT_EQ(TUN_STATE_QUEUES, self->st.s.failed);
		EXPECT_EQ(TUN_STATE_QUEUES | TUN_STATE_IFF, self->st.s.mask);
		EXPECT_EQ(4, queues->count);
		EXPECT_EQ(sizeof(none), queues->entry_size);
		EXPECT_EQ((uintptr_t)self->st.queues, queues->entries);
		EXPECT_EQ(0, memcmp(&none, self->st.queues, sizeof(none)));
	}
	/* The returned size is enough */
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_QUEUE(0, ATTACHED + SELF, self->st.queues[0]);
	EXPECT_QUEUE(0, 0, self->st.queues[3]);
	EXPECT_EQ(0, memcmp(&none, self->st.queues + 4, sizeof(none)));

	queues->entry_size = 0;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(TUN_STATE_QUEUES, self->st.s.failed);

	/* An absurd size leads to no huge allocation */
	queues->entry_size = sizeof(none);
	queues->count = -1;
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(4, queues->count);
	queues->entries = 8;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(EFAULT, errno);
}

/* Arrays with entries of any size */

struct array_test {
	uint64_t group;
	size_t offset;
	size_t entry;		/* size of the kernel's entry */
	size_t steady;		/* bytes of it that do not change meanwhile */
};

#define ARRAY_OF(_group, member, type, _steady)				\
	{ TUN_STATE_##_group, offsetof(struct tun_state, member),	\
	  sizeof(type), _steady }

static const struct array_test arrays[] = {
	ARRAY_OF(SOCKFILTER, sockfilter, struct sock_filter, 8),
	ARRAY_OF(FLOWS, flows, struct tun_state_flow,
		 offsetof(struct tun_state_flow, age_ms)),
	ARRAY_OF(QUEUES, queues, struct tun_state_queue, 16),
};

/* Read an array into @buf */
static int array_get(int fd, const struct array_test *a, void *buf,
		     uint32_t count, uint32_t entry_size, struct tun_state *s)
{
	struct tun_state_array *array = (void *)s + a->offset;

	memset(s, 0, sizeof(*s));
	s->mask = a->group;
	array->entries = (uintptr_t)buf;
	array->count = count;
	array->entry_size = entry_size;
	return ioctl(fd, TUNGETSTATE, s) ? errno : 0;
}

/* Compare a buffer, which was filled with 0xaa, with an array of entries of
 * @size. Return the place of the first byte that differs, or -1.
 */
static int array_difference(const struct array_test *a,
			    const unsigned char *buf, size_t room,
			    const unsigned char *want, size_t count,
			    size_t size)
{
	size_t i, at;

	for (i = 0; i < room; i++) {
		at = i % size;
		if (i >= count * size) {
			if (buf[i] != 0xaa)
				return i;
		} else if (at >= a->entry) {
			if (buf[i])
				return i;
		} else if (at < a->steady) {
			if (buf[i] != want[i / size * a->entry + at])
				return i;
		}
	}
	return -1;
}

TEST_F(queues, entry_size)
{
	static const unsigned int sizes[] = {
		1, 4, 7, 8, 9, 12, 15, 16, 17, 20, 24, 64
	};
	struct sock_filter pass = { BPF_RET | BPF_K, 0, 0, 0xffff };
	const long page = sysconf(_SC_PAGESIZE);
	unsigned char buf[512], want[256];
	struct tun_state_array *array;
	unsigned int i, j, n, tries;
	struct tun_state s;

	if (variant->flags & IFF_TAP)
		ASSERT_EQ(0, tun_attach_filter(self->fd[0], &pass, 1));
	for (i = 0; i < ARRAY_SIZE(arrays); i++) {
		const struct array_test *a = &arrays[i];

		n = a->group == TUN_STATE_SOCKFILTER ? 1 : 4;
		if (a->group == TUN_STATE_SOCKFILTER &&
		    !(variant->flags & IFF_TAP))
			n = 0;
		array = (void *)&s + a->offset;
		for (j = 0, tries = 0; j < ARRAY_SIZE(sizes); j++) {
			unsigned int size = sizes[j];

			/* Flows expire: try again */
			ASSERT_LT(tries++, 100);
			if (a->group == TUN_STATE_FLOWS)
				LEARN(self->fd);
			ASSERT_EQ(0, array_get(self->fd[0], a, want, 8,
					       a->entry, &s));
			if (a->group == TUN_STATE_FLOWS && array->count != n) {
				j--;
				continue;
			}
			ASSERT_EQ(n, array->count);

			memset(buf, 0xaa, sizeof(buf));
			ASSERT_EQ(0, array_get(self->fd[0], a, buf, n, size, &s));
			if (a->group == TUN_STATE_FLOWS && array->count != n) {
				j--;
				continue;
			}
			EXPECT_EQ(n, array->count);
			EXPECT_EQ(size, array->entry_size);
			EXPECT_EQ((uintptr_t)buf, array->entries);
			EXPECT_EQ(-1, array_difference(a, buf, sizeof(buf),
						       want, n, size)) {
				TH_LOG("group %#llx, entry size %u",
				       (long long)a->group, size);
			}
		}

		/* Too little room: the count that is needed, and no entry */
		memset(buf, 0xaa, sizeof(buf));
		if (a->group == TUN_STATE_FLOWS)
			LEARN(self->fd);
		for (j = 0; j < n; j++) {
			EXPECT_EQ(ENOSPC, array_get(self->fd[0], a, buf, j, 64,
						    &s));
			EXPECT_EQ(a->group, s.failed);
			EXPECT_EQ(n, array->count);
			EXPECT_EQ(64, array->entry_size);
		}
		EXPECT_EQ(-1, array_difference(a, buf, sizeof(buf), want, 0,
					       1));

		/* From 1 byte to a page */
		EXPECT_EQ(EINVAL, array_get(self->fd[0], a, buf, 8, 0, &s));
		EXPECT_EQ(a->group, s.failed);
		EXPECT_EQ(EINVAL, array_get(self->fd[0], a, buf, 8, page + 1,
					    &s));
		EXPECT_EQ(EINVAL, array_get(self->fd[0], a, buf, 8, -1, &s));
		if (n)
			EXPECT_EQ(EFAULT, array_get(self->fd[0], a, NULL, 8,
						    64, &s));
	}
}

/* No entry needs no buffer */
TEST_F(queues, empty_arrays)
{
	struct tun_state s;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, array_get(self->fd[0], &arrays[i], NULL, 0, 1,
				       &s));
		EXPECT_EQ(EINVAL, array_get(self->fd[0], &arrays[i], NULL, 0, 0,
					    &s));
		EXPECT_EQ(arrays[i].group, s.failed);
	}
}

/* An instruction has one size, and TUNSETSTATE reads no other */
TEST_F(queues, sockfilter_entry_size)
{
	static const uint32_t bad[] = { 0, 1, 4, 7, 9, 12, 16, 0x80000008, -1 };
	struct state before;
	unsigned int i, count;

	ASSERT_EQ(0, state_snapshot(self->fd[0], &before));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		for (count = 0; count < 2; count++) {
			self->st = before;
			state_point(&self->st);
			self->st.insns[0] = (struct sock_filter){
				BPF_RET | BPF_K, 0, 0, 0xffff
			};
			self->st.s.sockfilter.count = count;
			self->st.s.sockfilter.entry_size = bad[i];
			EXPECT_EQ(EINVAL, state_set(self->fd[0],
						    TUN_STATE_SOCKFILTER,
						    &self->st)) {
				TH_LOG("entry size %u, count %u", bad[i],
				       count);
			}
			EXPECT_EQ(TUN_STATE_SOCKFILTER, self->st.s.failed);
		}
	}
	EXPECT_TRUE(state_unchanged(self->fd[0], &before));
}

/* Queues with and without the filter of the device, and one that gets it */
TEST_F(queues, sockfilter)
{
	struct sock_filter pass = { BPF_RET | BPF_K, 0, 0, 0xffff };
	const uint32_t has = TUN_STATE_QUEUE_SOCKFILTER;
	struct tun_state_queue *queue = &self->st.s.queue;
	struct ifreq ifr;
	int i;

	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	if (!(variant->flags & IFF_TAP))
		return;
	/* A queue cannot have a filter if the device has none */
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	queue->flags |= has;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));

	DETACH(3);
	ASSERT_EQ(0, tun_attach_filter(self->fd[0], &pass, 1));
	DETACH(1);
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_QUEUES, &self->st));
	EXPECT_QUEUE(0, ATTACHED | SELF | has, self->st.queues[0]);
	EXPECT_QUEUE(1, ATTACHED | has, self->st.queues[1]);
	EXPECT_QUEUE(0, NAPI | has, self->st.queues[2]);
	EXPECT_QUEUE(1, NAPI | has, self->st.queues[3]);

	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	queue->flags |= ATTACHED;
	queue->index = 2;
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(2, ATTACHED | SELF | NAPI | has, *queue);
	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
	EXPECT_FALSE(ifr.ifr_flags & (IFF_DETACH_QUEUE | IFF_NOFILTER));

	/* Change this queue only, with and without a move */
	for (i = 0; i < 2; i++) {
		queue->flags &= ~has;
		ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		EXPECT_QUEUE(i ? 0 : 2, ATTACHED | SELF | NAPI, *queue);
		ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
		EXPECT_TRUE(ifr.ifr_flags & IFF_NOFILTER);
		ASSERT_EQ(0, ioctl(self->fd[0], TUNGETIFF, &ifr));
		EXPECT_FALSE(ifr.ifr_flags & IFF_NOFILTER);
		queue->flags |= has;
		queue->index = 0;
		ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		EXPECT_QUEUE(0, ATTACHED | SELF | NAPI | has, *queue);
	}

	ASSERT_EQ(0, tun_detach_filter(self->fd[0]));
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(0, ATTACHED | SELF | NAPI, *queue);
}

/* A call with both groups decides about its own queue */
TEST_F(queues, sockfilter_and_queue)
{
	const uint64_t mask = TUN_STATE_SOCKFILTER | TUN_STATE_QUEUE;
	const uint32_t has = TUN_STATE_QUEUE_SOCKFILTER;
	struct state with, without, st;

	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	if (!(variant->flags & IFF_TAP))
		return;
	ASSERT_EQ(0, state_get(self->fd[0], mask, &without));
	state_point(&without);
	with = without;
	state_point(&with);
	with.s.sockfilter.count = 1;
	with.insns[0] = (struct sock_filter){ BPF_RET | BPF_K, 0, 0, 0xffff };

	/* All other queues get it */
	ASSERT_EQ(0, state_set(self->fd[0], mask, &with));
	ASSERT_EQ(0, state_get(self->fd[0], ALL_GROUPS, &st));
	EXPECT_EQ(1, st.s.sockfilter.count);
	EXPECT_QUEUE(0, ATTACHED | SELF, st.queues[0]);
	EXPECT_QUEUE(1, ATTACHED | NAPI | has, st.queues[1]);
	EXPECT_QUEUE(3, ATTACHED | NAPI | has, st.queues[3]);

	/* The same program, and this queue gets it, too */
	with.s.queue.flags |= has;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &with));
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	EXPECT_QUEUE(0, ATTACHED | SELF | has, st.s.queue);

	/* No program, but this queue has it: refused */
	without.s.queue.flags |= has;
	ASSERT_EQ(EINVAL, state_set(self->fd[0], mask, &without));
	EXPECT_EQ(TUN_STATE_SOCKFILTER, without.s.failed);
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	EXPECT_EQ(1, st.s.sockfilter.count);
	without.s.queue.flags &= ~has;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &without));
	ASSERT_EQ(0, state_get(self->fd[0], ALL_GROUPS, &st));
	EXPECT_EQ(0, st.s.sockfilter.count);
	EXPECT_QUEUE(0, ATTACHED | SELF, st.queues[0]);
	EXPECT_QUEUE(1, ATTACHED | NAPI, st.queues[1]);
}

/* Packets in the ring of a queue: none, some, a full ring */

FIXTURE(ring)
{
	char name[IFNAMSIZ];
	int fd;
	struct state st;
};

FIXTURE_SETUP(ring)
{
	const char *why = tun_state_enter();
	struct ifreq ifr = { .ifr_qlen = 4 };

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, netdev_ioctl(self->name, SIOCSIFTXQLEN, &ifr));
	ASSERT_EQ(0, netdev_up(self->name));
}

FIXTURE_TEARDOWN(ring)
{
	close(self->fd);
}

#define GET(group) ASSERT_EQ(0, state_get(self->fd, (group), &self->st))
#define SET(group) ASSERT_EQ(0, state_set(self->fd, (group), &self->st))

TEST_F(ring, length)
{
	struct tun_state_queue *queue = &self->st.s.queue;
	char buf[128];
	int i, n;

	/* Each round starts at another place of the ring */
	for (i = 0; i < 6; i++) {
		GET(TUN_STATE_QUEUE);
		EXPECT_EQ(4, queue->ring_size);
		EXPECT_EQ(0, queue->ring_len);
		for (n = 1; n <= 5; n++) {
			ASSERT_EQ(1, send_packets(self->name, 1));
			GET(TUN_STATE_QUEUE | TUN_STATE_QUEUES);
			EXPECT_EQ(n > 4 ? 4 : n, queue->ring_len);
			EXPECT_EQ(n > 4 ? 4 : n, self->st.queues[0].ring_len);
		}
		for (n = 3; n >= 0; n--) {
			ASSERT_EQ(64, read(self->fd, buf, sizeof(buf)));
			GET(TUN_STATE_QUEUE);
			EXPECT_EQ(n, queue->ring_len);
		}
		ASSERT_EQ(1, send_packets(self->name, 1));
		ASSERT_EQ(64, read(self->fd, buf, sizeof(buf)));
	}

	/* Reading and setting the state leave the packets alone */
	ASSERT_EQ(3, send_packets(self->name, 3));
	ASSERT_EQ(0, state_snapshot(self->fd, &self->st));
	state_point(&self->st);
	ASSERT_EQ(0, state_set(self->fd, self->st.s.mask, &self->st));
	GET(TUN_STATE_QUEUE);
	EXPECT_EQ(3, queue->ring_len);
	/* A queue that is detached loses its packets, as with TUNSETQUEUE */
	queue->flags &= ~ATTACHED;
	SET(TUN_STATE_QUEUE);
	GET(TUN_STATE_QUEUE);
	EXPECT_EQ(0, queue->ring_len);
}

TEST_HARNESS_MAIN
