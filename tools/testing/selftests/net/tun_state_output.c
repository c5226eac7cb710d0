// SPDX-License-Identifier: GPL-2.0
/*
 * Bytes that TUNGETSTATE and TUNSETSTATE write to user space: all of the answer
 * and nothing else, for each size of the struct, on success and on an error.
 * tun_state_input is about the argument that they read.
 */
#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define HEADER offsetof(struct tun_state, identity)
#define NR_FDS 4

#define SLACK 4

/* An argument with its user buffers and the memory behind them, all filled with
 * one byte
 */
struct call {
	struct tun_state s;
	unsigned char behind[256];
	struct sock_filter insns[4 + SLACK];
	struct tun_state_flow flows[4 + SLACK];
	struct tun_state_queue queues[NR_FDS + SLACK];
};

static void call_init(struct call *c, int byte, uint64_t mask)
{
	memset(c, byte, sizeof(*c));
	memset(c, 0, HEADER);
	c->s.mask = mask;
	c->s.sockfilter.entries = (uintptr_t)c->insns;
	c->s.sockfilter.count = ARRAY_SIZE(c->insns);
	c->s.sockfilter.entry_size = sizeof(c->insns[0]);
	c->s.flows.entries = (uintptr_t)c->flows;
	c->s.flows.count = ARRAY_SIZE(c->flows);
	c->s.flows.entry_size = sizeof(c->flows[0]);
	c->s.queues.entries = (uintptr_t)c->queues;
	c->s.queues.count = ARRAY_SIZE(c->queues);
	c->s.queues.entry_size = sizeof(c->queues[0]);
}

/* The groups that a struct of this size holds in full */
static uint64_t groups_within(size_t size)
{
	uint64_t mask = 0;
	unsigned int i;

	for (i = 0; i < NR_GROUPS; i++)
		if (state_groups[i].offset + state_groups[i].size <= size)
			mask |= state_groups[i].bit;
	return mask;
}

/* Make ages comparable, if they have been written */
static void flatten(struct call *c, unsigned int flows)
{
	unsigned int i;

	for (i = 0; i < flows; i++)
		if (c->flows[i].age_ms < 60000)
			c->flows[i].age_ms = 0;
}

/* The result to expect of TUNGETSTATE with this size, from a full answer */
static void expect_get(struct call *want, const struct call *all,
		       uint64_t mask, size_t size)
{
	size_t end = size < sizeof(want->s) ? size : sizeof(want->s), i;
	struct tun_state s = {};

	s.mask = mask;
	s.supported = all->s.supported;
	for (i = 0; i < NR_GROUPS; i++) {
		size_t at = state_groups[i].offset;

		if (mask & state_groups[i].bit)
			memcpy((char *)&s + at, (const char *)&all->s + at,
			       state_groups[i].size);
	}
	/* Pointers remain the caller's */
	if (mask & TUN_STATE_SOCKFILTER)
		s.sockfilter.entries = want->s.sockfilter.entries;
	if (mask & TUN_STATE_FLOWS)
		s.flows.entries = want->s.flows.entries;
	if (mask & TUN_STATE_QUEUES)
		s.queues.entries = want->s.queues.entries;
	memcpy(&want->s, &s, end);

	if (mask & TUN_STATE_SOCKFILTER)
		memcpy(want->insns, all->insns,
		       all->s.sockfilter.count * sizeof(all->insns[0]));
	if (mask & TUN_STATE_FLOWS)
		memcpy(want->flows, all->flows,
		       all->s.flows.count * sizeof(all->flows[0]));
	if (mask & TUN_STATE_QUEUES)
		memcpy(want->queues, all->queues,
		       all->s.queues.count * sizeof(all->queues[0]));
}

/* The offset of the first difference, or -1 */
static long difference(const struct call *a, const struct call *b)
{
	size_t i;

	for (i = 0; i < sizeof(*a); i++)
		if (((const char *)a)[i] != ((const char *)b)[i])
			return i;
	return -1;
}

FIXTURE(written)
{
	char name[IFNAMSIZ];
	int fd[2], prog;
	struct call c, want, all;
};

FIXTURE_SETUP(written)
{
	const char *why = tun_state_enter();
	int i;

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	for (i = 0; i < 2; i++) {
		self->fd[i] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
		ASSERT_GE(self->fd[i], 0);
	}
	self->prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64);
	ASSERT_GE(self->prog, 0);
	ASSERT_EQ(0, netdev_up(self->name));
}

FIXTURE_TEARDOWN(written)
{
	close(self->fd[0]);
	close(self->fd[1]);
}

/* Give every group something to report, and read it into a zeroed struct. Flows
 * are learned last: they expire after 3 s.
 */
static int fill(struct _test_data_written *w)
{
	struct state st = {};
	int i;

	state_point(&st);
	st.s.txfilter.count = 3;
	memset(st.s.txfilter.addr, 0x50, 3 * sizeof(st.s.txfilter.addr[0]));
	for (i = 0; i < 3; i++)
		st.insns[i].code = BPF_RET | BPF_K;
	if (tun_attach_filter(w->fd[0], st.insns, 3))
		return -1;
	st.s.filter.action = TUN_STATE_PROG_FD;
	st.s.filter.fd = w->prog;
	if (state_set(w->fd[0], TUN_STATE_TXFILTER | TUN_STATE_FILTER, &st))
		return -1;
	for (i = 0; i < 3; i++)
		if (flow_learn(w->fd[0], IFF_TAP, i))
			return -1;
	call_init(&w->all, 0, ALL_GROUPS);
	if (ioctl(w->fd[0], TUNGETSTATE, &w->all.s))
		return -1;
	flatten(&w->all, 3);
	return 0;
}

TEST_F(written, get)
{
	static const int bytes[] = { 0xaa, 0x55 };
	unsigned int i, size;
	uint64_t mask;

	ASSERT_EQ(0, fill(self));
	ASSERT_EQ(3, self->all.s.sockfilter.count);
	ASSERT_EQ(3, self->all.s.flows.count);
	ASSERT_EQ(2, self->all.s.queues.count);
	for (i = 0; i < ARRAY_SIZE(bytes); i++) {
		for (size = HEADER; size <= sizeof(struct tun_state) + 8;
		     size++) {
			mask = groups_within(size);
			call_init(&self->c, bytes[i], mask);
			self->want = self->c;
			memset(self->c.behind, 0, 8);
			memset(self->want.behind, 0, 8);
			ASSERT_EQ(0, ioctl(self->fd[0], TUNGETSTATE_SIZE(size),
					   &self->c.s)) {
				TH_LOG("size %u", size);
			}
			/* Flows expire: try again */
			if (mask & TUN_STATE_FLOWS &&
			    self->c.s.flows.count != 3) {
				ASSERT_EQ(0, fill(self));
				size--;
				continue;
			}
			flatten(&self->c, mask & TUN_STATE_FLOWS ? 3 : 0);
			expect_get(&self->want, &self->all, mask, size);
			EXPECT_EQ(-1, difference(&self->want, &self->c)) {
				TH_LOG("size %u", size);
			}
		}
	}
}

/* An error is reported in the header, and nothing else is written */
TEST_F(written, get_errors)
{
	unsigned int size;

	ASSERT_EQ(0, fill(self));
	for (size = HEADER; size < sizeof(struct tun_state); size++) {
		call_init(&self->c, 0xaa, ALL_GROUPS);
		self->want = self->c;
		ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE_SIZE(size),
				    &self->c.s));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(groups_within(size) + 1, self->c.s.failed);
		self->want.s.failed = self->c.s.failed;
		self->want.s.supported = self->all.s.supported;
		EXPECT_EQ(-1, difference(&self->want, &self->c));
	}

	/* A struct that is too long is left alone */
	call_init(&self->c, 0xaa, ALL_GROUPS);
	self->want = self->c;
	for (size = sizeof(struct tun_state) + 1;
	     size <= sizeof(struct tun_state) + 8; size++) {
		ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE_SIZE(size),
				    &self->c.s));
		EXPECT_EQ(E2BIG, errno);
		ASSERT_EQ(-1, ioctl(self->fd[0], TUNSETSTATE_SIZE(size),
				    &self->c.s));
		EXPECT_EQ(E2BIG, errno);
		EXPECT_EQ(-1, difference(&self->want, &self->c));
	}
}

/* A user buffer is too small: the group reports the size it needs */
TEST_F(written, get_too_small)
{
	static const uint64_t groups[] = {
		TUN_STATE_SOCKFILTER, TUN_STATE_FLOWS, TUN_STATE_QUEUES,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(groups); i++) {
		ASSERT_EQ(0, fill(self));
		call_init(&self->c, 0xaa, ALL_GROUPS);
		self->want = self->c;
		self->want.s.supported = self->all.s.supported;
		self->want.s.failed = groups[i];
		switch (groups[i]) {
		case TUN_STATE_SOCKFILTER:
			self->c.s.sockfilter.count = 2;
			self->want.s.sockfilter.count = 3;
			break;
		case TUN_STATE_FLOWS:
			self->c.s.flows.count = 2;
			self->want.s.flows.count = 3;
			break;
		case TUN_STATE_QUEUES:
			self->c.s.queues.count = 1;
			self->want.s.queues.count = 2;
			break;
		}
		ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->c.s));
		EXPECT_EQ(ENOSPC, errno);
		EXPECT_EQ(-1, difference(&self->want, &self->c));
	}
}

/* TUNSETSTATE writes nothing behind the header, on success and on an error */
TEST_F(written, set)
{
	uint64_t mask, bad[] = { 0, TUN_STATE_SNDBUF, TUN_STATE_QUEUE };
	unsigned int i, size;

	ASSERT_EQ(0, fill(self));
	for (size = HEADER; size <= sizeof(struct tun_state) + 8; size++) {
		for (i = 0; i < ARRAY_SIZE(bad); i++) {
			mask = groups_within(size);
			if (bad[i] & ~mask)
				continue;
			memset(&self->c, 0x55, sizeof(self->c));
			self->c.s = self->all.s;
			memcpy(self->c.insns, self->all.insns, 24);
			self->c.s.sockfilter.entries = (uintptr_t)self->c.insns;
			/* Ignored, and so are their buffers */
			self->c.s.flows.entries = (uintptr_t)self->c.flows;
			self->c.s.queues.entries = (uintptr_t)self->c.queues;
			memset(self->c.behind, 0, 8);
			/* Groups outside the mask have content, too */
			self->c.s.mask = mask;
			if (bad[i] == TUN_STATE_SNDBUF)
				self->c.s.sndbuf.size = -1;
			if (bad[i] == TUN_STATE_QUEUE)
				self->c.s.queue.flags |= 0x80000000;
			self->want = self->c;

			ASSERT_EQ(bad[i] ? -1 : 0,
				  ioctl(self->fd[0], TUNSETSTATE_SIZE(size),
					&self->c.s)) {
				TH_LOG("size %u", size);
			}
			EXPECT_EQ(bad[i], self->c.s.failed);
			memcpy(&self->want.s, &self->c.s, HEADER);
			EXPECT_EQ(-1, difference(&self->want, &self->c));
		}
	}
}

/* A user buffer reaches into unmapped memory: the mapped part holds the program
 * or is left alone, and so is everything else
 */
TEST_F(written, get_fault)
{
	long page = sysconf(_SC_PAGESIZE);
	char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sock_filter *insns;
	unsigned int i;

	ASSERT_NE(MAP_FAILED, (void *)map);
	ASSERT_EQ(0, fill(self));
	munmap(map + page, page);
	memset(map, 0xaa, page);
	insns = (void *)(map + page);
	insns -= 2;
	call_init(&self->c, 0xaa, ALL_GROUPS);
	self->c.s.sockfilter.entries = (uintptr_t)insns;
	self->want = self->c;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->c.s));
	EXPECT_EQ(EFAULT, errno);
	memcpy(&self->want.s, &self->c.s, HEADER);
	EXPECT_EQ(-1, difference(&self->want, &self->c));
	for (i = 0; i < 2 * sizeof(*insns); i++)
		EXPECT_TRUE(map[page - 1 - i] == (char)0xaa ||
			    map[page - 1 - i] ==
			    ((char *)(self->all.insns + 2))[-1 - (int)i]);
	munmap(map, page);
}

TEST_HARNESS_MAIN
