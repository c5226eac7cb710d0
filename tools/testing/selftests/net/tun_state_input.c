// SPDX-License-Identifier: GPL-2.0
/*
 * The argument of TUNGETSTATE and TUNSETSTATE as such: size, mask, flags,
 * reserved fields, pointers, and the file. After each test the device has its
 * state from before. tun_state_values is about the content of the groups,
 * tun_state_output about the bytes of the answer.
 */
#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define HEADER offsetof(struct tun_state, identity)
/* The largest size that a request number can hold */
#define MAX_SIZE ((1 << _IOC_SIZEBITS) - 1)

FIXTURE(call)
{
	char name[IFNAMSIZ];
	int fd;
	struct state before;
	struct tun_state *s;	/* in a page between others */
	long page;
};

FIXTURE_SETUP(call)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, state_snapshot(self->fd, &self->before));
	self->page = sysconf(_SC_PAGESIZE);
	self->s = mmap(NULL, 8 * self->page, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->s);
}

FIXTURE_TEARDOWN(call)
{
	EXPECT_TRUE(state_unchanged(self->fd, &self->before));
	close(self->fd);
}

#define OK(request)							\
	ASSERT_EQ(0, ioctl(self->fd, (request), self->s))
#define FAILS(err, request)						\
	do {								\
		EXPECT_EQ(-1, ioctl(self->fd, (request), self->s));	\
		EXPECT_EQ(err, errno);					\
	} while (0)

TEST_F(call, nothing_asked)
{
	OK(TUNGETSTATE);
	EXPECT_EQ(0, self->s->mask);
	EXPECT_EQ(0, self->s->failed);
	EXPECT_EQ(self->before.s.mask, self->s->supported);
	OK(TUNSETSTATE);
	EXPECT_EQ(0, self->s->mask);
	self->s->flags = TUN_STATE_F_HOLD;
	OK(TUNGETSTATE);
	EXPECT_EQ(TUN_STATE_F_HOLD, self->s->flags);
	EXPECT_EQ(self->before.s.mask, self->s->supported);
}

/* The groups that this test knows */
TEST_F(call, supported)
{
	const uint64_t known = TUN_STATE_IDENTITY | TUN_STATE_NETDEV |
		TUN_STATE_IFF | TUN_STATE_OWNER | TUN_STATE_VNET |
		TUN_STATE_OFFLOAD | TUN_STATE_SNDBUF | TUN_STATE_LINK |
		TUN_STATE_COALESCE | TUN_STATE_TXFILTER | TUN_STATE_SOCKFILTER |
		TUN_STATE_STEERING | TUN_STATE_FILTER | TUN_STATE_XDP |
		TUN_STATE_FLOWS | TUN_STATE_QUEUE | TUN_STATE_QUEUES;

	EXPECT_EQ(known, self->before.s.supported & known);
	EXPECT_EQ(0, self->before.s.supported & ~ALL_GROUPS);
}

TEST_F(call, unknown_mask_bit)
{
	static const unsigned int bits[] = { 17, 31, 32, 63 };
	unsigned int i;
	uint64_t bit;

	for (i = 0; i < ARRAY_SIZE(bits); i++) {
		bit = 1ULL << bits[i];
		memset(self->s, 0, sizeof(*self->s));
		self->s->mask = bit | TUN_STATE_SNDBUF;
		self->s->sndbuf.size = 5000;
		FAILS(EINVAL, TUNGETSTATE);
		EXPECT_EQ(bit, self->s->failed);
		FAILS(EINVAL, TUNSETSTATE);
		EXPECT_EQ(bit, self->s->failed);
		EXPECT_EQ(self->before.s.supported, self->s->supported);
		EXPECT_EQ(bit | TUN_STATE_SNDBUF, self->s->mask);
	}
}

/* TUN_STATE_F_HOLD is a flag of TUNGETSTATE only */
TEST_F(call, flags)
{
	uint32_t flag;

	self->s->mask = TUN_STATE_SNDBUF;
	self->s->sndbuf.size = 5000;
	for (flag = 1; flag; flag <<= 1) {
		self->s->failed = 5;
		self->s->flags = flag;
		FAILS(EINVAL, TUNSETSTATE);
		EXPECT_EQ(0, self->s->failed);
		EXPECT_EQ(flag, self->s->flags);
		if (flag != TUN_STATE_F_HOLD)
			FAILS(EINVAL, TUNGETSTATE);
		self->s->flags = flag | TUN_STATE_F_HOLD;
		if (flag != TUN_STATE_F_HOLD)
			FAILS(EINVAL, TUNGETSTATE);
		EXPECT_EQ(0, self->s->failed);
		EXPECT_EQ(5000, self->s->sndbuf.size);
		FAILS(EINVAL, TUNSETSTATE);
	}
}

TEST_F(call, reserved)
{
	static const uint32_t values[] = { 1, 0x80000000 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(values); i++) {
		self->s->mask = TUN_STATE_SNDBUF;
		self->s->sndbuf.size = 5000;
		self->s->reserved = values[i];
		FAILS(EINVAL, TUNGETSTATE);
		FAILS(EINVAL, TUNSETSTATE);
		EXPECT_EQ(0, self->s->failed);
		EXPECT_EQ(values[i], self->s->reserved);
		EXPECT_EQ(TUN_STATE_SNDBUF, self->s->mask);
		/* Of a call about no group, too */
		self->s->mask = 0;
		FAILS(EINVAL, TUNGETSTATE);
		FAILS(EINVAL, TUNSETSTATE);
	}
	/* tun_state_values has the fields of the groups */
}

/* A request number with another direction is no ioctl */
TEST_F(call, direction)
{
	unsigned int nr;

	for (nr = _IOC_NR(TUNGETSTATE); nr <= _IOC_NR(TUNSETSTATE); nr++) {
		self->s->supported = 0;
		FAILS(EINVAL, _IOR('T', nr, struct tun_state));
		FAILS(EINVAL, _IOW('T', nr, struct tun_state));
		FAILS(EINVAL, _IO('T', nr));
		FAILS(EINVAL, _IOWR('U', nr, struct tun_state));
		EXPECT_EQ(0, self->s->supported);
	}
	FAILS(EINVAL, _IOWR('T', 231, struct tun_state));
	FAILS(EINVAL, _IOWR('T', 234, struct tun_state));
	EXPECT_EQ(0, self->s->supported);
}

TEST_F(call, size_of_header)
{
	unsigned int size;

	for (size = 0; size < HEADER; size++) {
		memset(self->s, 0, sizeof(*self->s));
		FAILS(EINVAL, TUNGETSTATE_SIZE(size));
		FAILS(EINVAL, TUNSETSTATE_SIZE(size));
		EXPECT_EQ(0, self->s->supported);
	}
	OK(TUNGETSTATE_SIZE(HEADER));
	EXPECT_EQ(self->before.s.mask, self->s->supported);
	OK(TUNSETSTATE_SIZE(HEADER));
	self->s->mask = TUN_STATE_IDENTITY;
	FAILS(EINVAL, TUNGETSTATE_SIZE(HEADER));
	EXPECT_EQ(TUN_STATE_IDENTITY, self->s->failed);
}

/* A caller with a shorter struct: nothing is written behind it */
TEST_F(call, size_short)
{
	const uint64_t fits = TUN_STATE_IDENTITY | TUN_STATE_IFF;
	const unsigned int size = offsetof(struct tun_state, owner);
	unsigned int i;

	memset(self->s, 0xaa, self->page);
	memset(self->s, 0, HEADER);
	self->s->mask = fits;
	OK(TUNGETSTATE_SIZE(size));
	EXPECT_EQ(fits, self->s->mask);
	EXPECT_EQ(self->before.s.iff.flags, self->s->iff.flags);
	for (i = size; i < self->page; i++)
		ASSERT_EQ(0xaa, ((unsigned char *)self->s)[i]);
	OK(TUNSETSTATE_SIZE(size));
	EXPECT_EQ(fits, self->s->mask);

	/* Groups outside the struct, or only in part inside */
	for (i = size; i < size + sizeof(self->s->owner); i++) {
		self->s->mask = fits | TUN_STATE_OWNER;
		FAILS(EINVAL, TUNGETSTATE_SIZE(i));
		EXPECT_EQ(TUN_STATE_OWNER, self->s->failed);
		FAILS(EINVAL, TUNSETSTATE_SIZE(i));
		EXPECT_EQ(TUN_STATE_OWNER, self->s->failed);
		EXPECT_EQ(fits | TUN_STATE_OWNER, self->s->mask);
	}
	OK(TUNGETSTATE_SIZE(i));
	for (i = size + sizeof(self->s->owner); i < self->page; i++)
		ASSERT_EQ(0xaa, ((unsigned char *)self->s)[i]);
}

/* A struct must hold each group of the mask */
TEST_F(call, size_per_group)
{
	unsigned int i, end;

	for (i = 0; i < NR_GROUPS; i++) {
		uint64_t group = state_groups[i].bit;

		/* Each begins where the one before has ended */
		end = i + 1 < NR_GROUPS ? state_groups[i + 1].offset :
					  TUN_STATE_SIZE_VER0;
		memset(self->s, 0, sizeof(*self->s));
		self->s->mask = group;
		self->s->sockfilter.entry_size = 8;
		self->s->flows.entry_size = 8;
		self->s->queues.entry_size = 8;
		self->s->queues.count = 1;
		self->s->queues.entries = (uintptr_t)self->s + self->page;
		FAILS(EINVAL, TUNGETSTATE_SIZE(end - 1));
		EXPECT_EQ(group, self->s->failed);
		FAILS(EINVAL, TUNSETSTATE_SIZE(end - 1));
		EXPECT_EQ(group, self->s->failed);
		OK(TUNGETSTATE_SIZE(end));
		EXPECT_EQ(group, self->s->mask);
		OK(TUNSETSTATE_SIZE(end));
		EXPECT_EQ(group & ~GET_ONLY, self->s->mask);
	}
}

/* The struct has a size for good */
TEST_F(call, size_of_version)
{
	EXPECT_EQ(360, TUN_STATE_SIZE_VER0);
	EXPECT_GE(sizeof(struct tun_state), TUN_STATE_SIZE_VER0);
	EXPECT_EQ(HEADER, 32);
}

/* A caller with a longer struct, which is zero behind the known part */
TEST_F(call, size_long)
{
	unsigned char *bytes = (void *)self->s;
	unsigned int size;

	self->s->mask = TUN_STATE_SNDBUF;
	for (size = sizeof(*self->s); size <= self->page && size <= MAX_SIZE;
	     size += size % 8 ? 8 - size % 8 : 7) {
		self->s->mask = TUN_STATE_SNDBUF;
		OK(TUNGETSTATE_SIZE(size));
		OK(TUNSETSTATE_SIZE(size));
		EXPECT_EQ(TUN_STATE_SNDBUF, self->s->mask);
		if (size == sizeof(*self->s))
			continue;

		self->s->sndbuf.size = 5000;
		bytes[size - 1] = 1;
		FAILS(E2BIG, TUNGETSTATE_SIZE(size));
		FAILS(E2BIG, TUNSETSTATE_SIZE(size));
		EXPECT_EQ(5000, self->s->sndbuf.size);
		bytes[size - 1] = 0;
		bytes[sizeof(*self->s)] = 1;
		FAILS(E2BIG, TUNGETSTATE_SIZE(size));
		bytes[sizeof(*self->s)] = 0;
		/* Bytes behind the struct are ignored */
		bytes[size] = 1;
		self->s->mask = TUN_STATE_SNDBUF;
		OK(TUNGETSTATE_SIZE(size));
		EXPECT_EQ(1, bytes[size]);
		bytes[size] = 0;
	}
}

TEST_F(call, size_of_page)
{
	if (self->page > MAX_SIZE)
		return;
	OK(TUNGETSTATE_SIZE(self->page));
	self->s->supported = 0;
	FAILS(E2BIG, TUNGETSTATE_SIZE(self->page + 1));
	FAILS(E2BIG, TUNSETSTATE_SIZE(self->page + 1));
	FAILS(E2BIG, TUNGETSTATE_SIZE(MAX_SIZE));
	EXPECT_EQ(0, self->s->supported);
}

/* The answer leaks no memory, of the caller or of the kernel */
TEST_F(call, zeroed)
{
	const unsigned char *bytes = (const void *)self->s;
	unsigned int i;

	memset(self->s, 0xaa, 2 * sizeof(*self->s));
	memset(self->s, 0, HEADER);
	OK(TUNGETSTATE);
	for (i = HEADER; i < sizeof(*self->s); i++)
		EXPECT_EQ(0, bytes[i]);
	EXPECT_EQ(0xaa, bytes[i]);

	/* The unused parts of groups */
	memset(self->s, 0xaa, sizeof(*self->s));
	memset(self->s, 0, HEADER);
	self->s->mask = self->before.s.supported &
			~(TUN_STATE_QUEUES | TUN_STATE_FLOWS |
			  TUN_STATE_SOCKFILTER);
	OK(TUNGETSTATE);
	EXPECT_EQ(0, self->s->iff.reserved);
	EXPECT_EQ(0, self->s->owner.flags);
	EXPECT_EQ(0, self->s->owner.reserved);
	EXPECT_EQ(0, self->s->offload.reserved);
	EXPECT_EQ(0, self->s->sndbuf.reserved);
	EXPECT_EQ(0, self->s->coalesce.reserved);
	EXPECT_EQ(0, self->s->txfilter.reserved);
	EXPECT_EQ(0, self->s->steering.id);
	EXPECT_EQ(0, self->s->steering.fd);
	EXPECT_EQ(0, self->s->filter.action);
	EXPECT_EQ(0, self->s->queues.entries);
	for (i = 0; i < sizeof(self->s->identity.reserved); i++)
		EXPECT_EQ(0, self->s->identity.reserved[i]);
	for (i = 0; i < sizeof(self->s->netdev.reserved); i++)
		EXPECT_EQ(0, self->s->netdev.reserved[i]);
	for (i = ETH_ALEN; i < sizeof(self->s->netdev.addr); i++)
		EXPECT_EQ(0, self->s->netdev.addr[i]);
	for (i = strlen(self->name); i < sizeof(self->s->netdev.name); i++)
		EXPECT_EQ(0, self->s->netdev.name[i]);
}

TEST_F(call, bad_pointer)
{
	char *unmapped = (char *)self->s + 7 * self->page;
	void *bad[] = {
		NULL,
		(void *)8,
		(void *)-8,
		unmapped,
		/* Only the header can be read */
		unmapped - HEADER,
		/* All but the last byte can be read */
		unmapped - sizeof(*self->s) + 1,
	};
	struct tun_state *s;
	unsigned int i;

	for (i = 3; i < ARRAY_SIZE(bad); i++) {
		s = bad[i];
		if (i > 3)
			s->mask = 0;
		if (i == 5) {
			s->mask = TUN_STATE_SNDBUF;
			s->sndbuf.size = 5000;
		}
	}
	munmap(unmapped, self->page);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(-1, ioctl(self->fd, TUNGETSTATE, bad[i]));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(-1, ioctl(self->fd, TUNSETSTATE, bad[i]));
		EXPECT_EQ(EFAULT, errno);
	}
	/* The tail of a longer struct cannot be read */
	s = bad[5];
	EXPECT_EQ(-1, ioctl(self->fd, TUNGETSTATE_SIZE(sizeof(*s) + 8),
			    unmapped - sizeof(*s)));
	EXPECT_EQ(EFAULT, errno);
}

/* The answer cannot be written: nothing has been set */
TEST_F(call, read_only)
{
	self->s->mask = TUN_STATE_SNDBUF;
	self->s->sndbuf.size = 5000;
	ASSERT_EQ(0, mprotect(self->s, self->page, PROT_READ));
	FAILS(EFAULT, TUNGETSTATE);
	FAILS(EFAULT, TUNSETSTATE);
	EXPECT_TRUE(state_unchanged(self->fd, &self->before));
	ASSERT_EQ(0, mprotect(self->s, self->page, PROT_READ | PROT_WRITE));
	self->s->mask |= 1ULL << 63;
	ASSERT_EQ(0, mprotect(self->s, self->page, PROT_READ));
	FAILS(EFAULT, TUNSETSTATE);
	FAILS(EFAULT, TUNGETSTATE);
	ASSERT_EQ(0, mprotect(self->s, self->page, PROT_READ | PROT_WRITE));
}

TEST_F(call, not_attached)
{
	int fd = tun_open();

	ASSERT_GE(fd, 0);
	EXPECT_EQ(-1, ioctl(fd, TUNGETSTATE, self->s));
	EXPECT_EQ(EBADFD, errno);
	self->s->mask = TUN_STATE_SNDBUF;
	EXPECT_EQ(-1, ioctl(fd, TUNGETSTATE, self->s));
	EXPECT_EQ(EBADFD, errno);
	self->s->sndbuf.size = 5000;
	EXPECT_EQ(-1, ioctl(fd, TUNSETSTATE, self->s));
	EXPECT_EQ(EBADFD, errno);
	EXPECT_EQ(TUN_STATE_SNDBUF, self->s->mask);
	EXPECT_EQ(0, self->s->failed);
	self->s->flags = TUN_STATE_F_HOLD;
	EXPECT_EQ(-1, ioctl(fd, TUNGETSTATE, self->s));
	EXPECT_EQ(EBADFD, errno);
	close(fd);
}

TEST_F(call, device_deleted)
{
	char name[IFNAMSIZ] = "dev1";
	int fd[2], i;

	for (i = 0; i < 2; i++) {
		fd[i] = tun_queue(name, IFF_TAP | IFF_MULTI_QUEUE);
		ASSERT_GE(fd[i], 0);
	}
	ASSERT_EQ(0, tun_set_queue(fd[1], IFF_DETACH_QUEUE));
	ASSERT_EQ(0, netdev_delete(name));
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(-1, ioctl(fd[i], TUNGETSTATE, self->s));
		EXPECT_EQ(EBADFD, errno);
		EXPECT_EQ(-1, ioctl(fd[i], TUNSETSTATE, self->s));
		EXPECT_EQ(EBADFD, errno);
		close(fd[i]);
	}
}

#ifdef __x86_64__
/* The ioctl of a 32-bit program, which a 64-bit one can make, too */
static int compat_ioctl(int fd, unsigned int request, void *arg)
{
	long ret = 54;

	asm volatile("int $0x80"
		     : "+a" (ret)
		     : "b" ((long)fd), "c" ((long)request), "d" (arg)
		     : "memory", "r8", "r9", "r10", "r11");
	return ret;
}

TEST_F(call, compat)
{
	struct tun_state *s;
	struct state st;

	s = mmap(NULL, self->page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)s);

	ASSERT_EQ(0, state_get(self->fd, ALL_GROUPS, &st));
	s->mask = ALL_GROUPS;
	s->sockfilter.entry_size = sizeof(struct sock_filter);
	s->flows.entry_size = sizeof(struct tun_state_flow);
	s->queues.entries = (uintptr_t)self->s;
	s->queues.count = MAX_QUEUES;
	s->queues.entry_size = sizeof(struct tun_state_queue);
	ASSERT_EQ(0, compat_ioctl(self->fd, TUNGETSTATE, s));
	st.s.sockfilter.entries = 0;
	st.s.flows.entries = 0;
	st.s.queues.entries = s->queues.entries;
	EXPECT_EQ(0, memcmp(&st.s, s, sizeof(*s)));
	EXPECT_EQ(0, memcmp(st.queues, self->s, sizeof(st.queues[0])));

	ASSERT_EQ(0, compat_ioctl(self->fd, TUNSETSTATE, s));
	EXPECT_EQ(self->before.s.mask & ~GET_ONLY, s->mask);
	s->sndbuf.size = 0;
	EXPECT_EQ(-EINVAL, compat_ioctl(self->fd, TUNSETSTATE, s));
	EXPECT_EQ(TUN_STATE_SNDBUF, s->failed);
}
#endif

TEST_HARNESS_MAIN
