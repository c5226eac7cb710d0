// SPDX-License-Identifier: GPL-2.0
/*
 * The classic filter of a TAP device, with the ioctls TUNATTACHFILTER and
 * TUNDETACHFILTER only: each queue has it, and it stays the program that was
 * attached when the memory it was read from changes.
 *
 * A kernel without TUNGETSTATE has the bugs tested here, so the test is skipped
 * there; TUN_FILTER_FORCE=1 runs it nevertheless.
 */
#include <limits.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

/* Devices with many queues are slow to make on a kernel with all its checks */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 120

/* Marks of the packets that are sent, 0 to MARKS - 1 */
#define MARKS 4
#define MARK(mark) (1U << (mark))
#define ALL_MARKS (MARK(MARKS) - 1)

#define QUEUES 3

static const char *enter(void)
{
	return getenv("TUN_FILTER_FORCE") ? tun_enter() : tun_state_enter();
}

/* A program that accepts the packets with one mark */
#define ACCEPT_INSNS 4
static void accept_mark(struct sock_filter *insns, unsigned int mark)
{
	const struct sock_filter prog[ACCEPT_INSNS] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FRAME_MARK),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, mark, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};

	memcpy(insns, prog, sizeof(prog));
}

static int attach_mark(int fd, unsigned int mark)
{
	struct sock_filter insns[ACCEPT_INSNS];

	accept_mark(insns, mark);
	return tun_attach_filter(fd, insns, ACCEPT_INSNS);
}

/* Have the device put all packets on one queue */
static int steer(int fd, int index)
{
	int prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, index);
	int ret;

	if (prog < 0)
		return -1;
	ret = ioctl(fd, TUNSETSTEERINGEBPF, &prog);
	close(prog);
	return ret;
}

/* Send packets to a device; return the marks of those that arrive at one queue.
 * Keep the socket, as closing one takes a while.
 */
static unsigned int arrives(const char *name, int fd)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = netdev_index(name),
	};
	unsigned char buf[2 * FRAME_SIZE];
	unsigned int marks = 0;
	static int sock = -1;
	int mark, n, one = 1;

	if (sock < 0) {
		sock = socket(AF_PACKET, SOCK_RAW, 0);
		/* The packets are in the ring when send() returns */
		if (setsockopt(sock, SOL_PACKET, PACKET_QDISC_BYPASS, &one,
			       sizeof(one)))
			return UINT_MAX;
	}
	for (mark = 0; mark < MARKS; mark++) {
		frame_make(buf, true, mark);
		/* A filtered packet makes send() fail */
		if (sendto(sock, buf, FRAME_SIZE, 0, (void *)&sll,
			   sizeof(sll)) != FRAME_SIZE && errno != ENOBUFS)
			return UINT_MAX;
	}
	/* With struct tun_pi in front or without */
	while ((n = read(fd, buf, sizeof(buf))) >= FRAME_SIZE)
		marks |= MARK(buf[n - FRAME_SIZE + FRAME_MARK] & 31);
	return marks;
}

/* The flags of a queue by TUNGETIFF; all bits are set without a device */
static unsigned int queue_flags(int fd)
{
	struct ifreq ifr;

	if (ioctl(fd, TUNGETIFF, &ifr))
		return UINT_MAX;
	return ifr.ifr_flags & (IFF_DETACH_QUEUE | IFF_NOFILTER);
}

FIXTURE(tap)
{
	char name[IFNAMSIZ];
	int fd[QUEUES];
};

FIXTURE_SETUP(tap)
{
	const char *why = enter();
	int i;

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	for (i = 0; i < QUEUES; i++) {
		self->fd[i] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
		ASSERT_GE(self->fd[i], 0);
	}
	ASSERT_EQ(0, netdev_up(self->name));
}

FIXTURE_TEARDOWN(tap)
{
	int i;

	/* Delete the device: faster than queue by queue */
	netdev_delete(self->name);
	for (i = 0; i < QUEUES; i++)
		close(self->fd[i]);
}

#define DETACH(i)							\
	ASSERT_EQ(0, tun_set_queue(self->fd[i], IFF_DETACH_QUEUE))
#define ATTACH(i)							\
	ASSERT_EQ(0, tun_set_queue(self->fd[i], IFF_ATTACH_QUEUE))
/* The packets that arrive at queue @i, whose index is @index */
#define EXPECT_ARRIVES(marks, i, index)					\
	do {								\
		int _fd = self->fd[i];					\
									\
		ASSERT_TRUE(netdev_running(self->name, true));		\
		ASSERT_EQ(0, steer(_fd, index));			\
		EXPECT_EQ(marks, arrives(self->name, _fd));		\
	} while (0)

TEST_F(tap, attached_queues)
{
	int i;

	for (i = 0; i < QUEUES; i++) {
		EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[i]));
		EXPECT_ARRIVES(ALL_MARKS, i, i);
	}
	/* Attached through any queue, it replaces the filter of all */
	for (i = 0; i < QUEUES; i++) {
		int other = (i + 1) % QUEUES;

		ASSERT_EQ(0, attach_mark(self->fd[i], i));
		EXPECT_EQ(0, queue_flags(self->fd[other]));
		EXPECT_ARRIVES(MARK(i), i, i);
		EXPECT_ARRIVES(MARK(i), other, other);
	}
	ASSERT_EQ(0, tun_detach_filter(self->fd[1]));
	for (i = 0; i < QUEUES; i++) {
		EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[i]));
		EXPECT_ARRIVES(ALL_MARKS, i, i);
	}
}

/* A queue that TUNSETIFF attaches */
TEST_F(tap, new_queue)
{
	struct link_info li;

	close(self->fd[2]);
	ASSERT_EQ(0, attach_mark(self->fd[0], 1));
	self->fd[2] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd[2], 0);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(QUEUES, li.queues);
	EXPECT_EQ(0, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(MARK(1), 2, 2);
}

/* A queue that TUNSETQUEUE attaches again */
TEST_F(tap, detached_and_attached)
{
	struct link_info li;
	int i;

	ASSERT_EQ(0, attach_mark(self->fd[0], 1));
	for (i = 0; i < 3; i++) {
		DETACH(2);
		EXPECT_EQ(IFF_DETACH_QUEUE, queue_flags(self->fd[2]));
		ATTACH(2);
		EXPECT_EQ(0, queue_flags(self->fd[2]));
		ASSERT_EQ(0, netdev_info(self->name, &li));
		EXPECT_EQ(QUEUES, li.queues);
		EXPECT_EQ(0, li.disabled);
		EXPECT_ARRIVES(MARK(1), 2, 2);
	}
}

/* A queue follows the filter of the device while it is detached */
TEST_F(tap, changed_while_detached)
{
	DETACH(2);
	ASSERT_EQ(0, attach_mark(self->fd[0], 1));
	EXPECT_EQ(IFF_DETACH_QUEUE, queue_flags(self->fd[2]));
	ATTACH(2);
	EXPECT_EQ(0, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(MARK(1), 2, 2);

	DETACH(2);
	ASSERT_EQ(0, attach_mark(self->fd[0], 2));
	ATTACH(2);
	EXPECT_ARRIVES(MARK(2), 2, 2);

	DETACH(2);
	ASSERT_EQ(0, tun_detach_filter(self->fd[0]));
	EXPECT_EQ(IFF_DETACH_QUEUE | IFF_NOFILTER, queue_flags(self->fd[2]));
	ATTACH(2);
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(ALL_MARKS, 2, 2);
}

/* A filter attached through a detached queue is the device's, too */
TEST_F(tap, through_detached_queue)
{
	DETACH(2);
	ASSERT_EQ(0, attach_mark(self->fd[2], 1));
	EXPECT_EQ(IFF_DETACH_QUEUE, queue_flags(self->fd[2]));
	EXPECT_EQ(0, queue_flags(self->fd[0]));
	EXPECT_ARRIVES(MARK(1), 0, 0);
	ATTACH(2);
	EXPECT_ARRIVES(MARK(1), 2, 2);

	DETACH(2);
	ASSERT_EQ(0, tun_detach_filter(self->fd[2]));
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[0]));
	EXPECT_EQ(IFF_DETACH_QUEUE | IFF_NOFILTER, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(ALL_MARKS, 1, 1);
}

/* IFF_NO_PI is the same bit as IFF_NOFILTER */
TEST_F(tap, queue_without_filter)
{
	close(self->fd[2]);
	ASSERT_EQ(0, attach_mark(self->fd[0], 1));
	self->fd[2] = tun_queue(self->name,
				IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI);
	ASSERT_GE(self->fd[2], 0);
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(ALL_MARKS, 2, 2);
	EXPECT_ARRIVES(MARK(1), 0, 0);

	DETACH(2);
	EXPECT_EQ(IFF_DETACH_QUEUE | IFF_NOFILTER, queue_flags(self->fd[2]));
	ATTACH(2);
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(ALL_MARKS, 2, 2);

	/* Until the next filter, which all queues get */
	ASSERT_EQ(0, attach_mark(self->fd[0], 2));
	EXPECT_EQ(0, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(MARK(2), 2, 2);
}

/* A queue that moves to another device gets the filter of that device */
TEST_F(tap, deleted_device)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_MULTI_QUEUE };
	int i, fd;

	ASSERT_EQ(0, attach_mark(self->fd[0], 1));
	DETACH(2);
	ASSERT_EQ(0, netdev_delete(self->name));
	EXPECT_EQ(UINT_MAX, queue_flags(self->fd[1]));

	/* A new file: a former queue would ask for its index as ifindex */
	memcpy(self->name, "dev1", 5);
	fd = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, netdev_up(self->name));
	memcpy(ifr.ifr_name, self->name, IFNAMSIZ);
	for (i = 1; i < 3; i++) {
		ASSERT_EQ(0, ioctl(self->fd[i], TUNSETIFF, &ifr));
		EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[i]));
		EXPECT_ARRIVES(ALL_MARKS, i, i);
	}
	/* To a device with another filter */
	ASSERT_EQ(0, attach_mark(fd, 2));
	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETIFF, &ifr));
	EXPECT_EQ(0, queue_flags(self->fd[0]));
	EXPECT_ARRIVES(MARK(2), 0, 3);
	close(fd);
}

/* The device keeps the filter while it has no queue at all */
TEST_F(tap, persistent)
{
	int i, round;

	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETPERSIST, 1));
	ASSERT_EQ(0, attach_mark(self->fd[1], 1));
	for (i = 0; i < QUEUES; i++)
		close(self->fd[i]);
	for (round = 0; round < 2; round++) {
		for (i = 0; i < QUEUES; i++) {
			self->fd[i] = tun_queue(self->name,
						IFF_TAP | IFF_MULTI_QUEUE);
			ASSERT_GE(self->fd[i], 0);
		}
		for (i = 0; i < QUEUES; i++) {
			EXPECT_EQ(round ? IFF_NOFILTER : 0,
				  queue_flags(self->fd[i]));
			EXPECT_ARRIVES(round ? ALL_MARKS : MARK(1), i, i);
		}
		/* Without a filter it stays so */
		ASSERT_EQ(0, tun_detach_filter(self->fd[2]));
		for (i = 0; i < QUEUES; i++)
			close(self->fd[i]);
	}

	/* The filter goes with the device */
	self->fd[0] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd[0], 0);
	ASSERT_EQ(0, attach_mark(self->fd[0], 1));
	close(self->fd[0]);
	ASSERT_EQ(0, netdev_delete(self->name));
	self->fd[0] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd[0], 0);
	ASSERT_EQ(0, netdev_up(self->name));
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[0]));
	EXPECT_ARRIVES(ALL_MARKS, 0, 0);
	self->fd[1] = -1;
	self->fd[2] = -1;
}

/* TUNGETFILTER returns what TUNATTACHFILTER was passed */

#define EXPECT_FILTER(_len, _insns, i)					\
	do {								\
		struct tun_fprog _fprog = { .len = 4711 };		\
									\
		ASSERT_EQ(0, ioctl(self->fd[i], TUN_GET_FILTER,		\
				   &_fprog));				\
		EXPECT_EQ(_len, _fprog.len);				\
		EXPECT_EQ((uintptr_t)(_insns), _fprog.insns);		\
	} while (0)

TEST_F(tap, get_filter)
{
	struct sock_filter insns[2 * ACCEPT_INSNS];

	EXPECT_FILTER(0, NULL, 0);
	accept_mark(insns, 1);
	accept_mark(insns + ACCEPT_INSNS, 2);
	ASSERT_EQ(0, tun_attach_filter(self->fd[0], insns, ACCEPT_INSNS));
	EXPECT_FILTER(ACCEPT_INSNS, insns, 0);
	EXPECT_FILTER(ACCEPT_INSNS, insns, 1);
	ASSERT_EQ(0, tun_attach_filter(self->fd[1], insns + ACCEPT_INSNS,
				       ACCEPT_INSNS));
	EXPECT_FILTER(ACCEPT_INSNS, insns + ACCEPT_INSNS, 0);
	DETACH(2);
	EXPECT_FILTER(ACCEPT_INSNS, insns + ACCEPT_INSNS, 2);

	/* Also after TUNDETACHFILTER */
	ASSERT_EQ(0, tun_detach_filter(self->fd[0]));
	EXPECT_FILTER(ACCEPT_INSNS, insns + ACCEPT_INSNS, 0);
}

TEST(not_for_tun)
{
	const char *why = enter();
	char name[IFNAMSIZ] = "dev0";
	struct tun_fprog fprog;
	int fd;

	if (why)
		SKIP(return, "%s", why);
	fd = tun_queue(name, IFF_TUN);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-1, attach_mark(fd, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, tun_detach_filter(fd));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ioctl(fd, TUN_GET_FILTER, &fprog));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(IFF_NOFILTER, queue_flags(fd));
	close(fd);
}

/* A program that takes much of net.core.optmem_max: each of these instructions
 * becomes many of eBPF, so that the longest program exceeds the default.
 */
static void fill_long(struct sock_filter *insns, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n - 1; i++)
		insns[i] = (struct sock_filter)
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
	insns[n - 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0xffff);
}

static int attach_long(int fd, unsigned int n)
{
	static struct sock_filter insns[BPF_MAXINSNS];

	fill_long(insns, n);
	return tun_attach_filter(fd, insns, n) ? errno : 0;
}

/* A TUNATTACHFILTER that fails leaves everything alone */
static void fail_to_attach(struct __test_metadata *_metadata, const int *fds)
{
	struct sock_filter no_ret = BPF_STMT(BPF_LD | BPF_IMM, 0);
	struct sock_filter bad[2] = {
		{ 0xffff, 0, 0, 0 }, BPF_STMT(BPF_RET | BPF_K, 0xffff),
	};
	/* The end of the program is not mapped */
	char *page = mmap(NULL, 2 * getpagesize(), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sock_filter *cut;
	int i;

	ASSERT_NE(MAP_FAILED, (void *)page);
	ASSERT_EQ(0, munmap(page + getpagesize(), getpagesize()));
	cut = (void *)(page + getpagesize() - sizeof(*cut));
	*cut = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0xffff);

	for (i = 0; i < QUEUES; i++) {
		int fd = fds[i];

		EXPECT_EQ(-1, tun_attach_filter(fd, &no_ret, 1));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, tun_attach_filter(fd, &no_ret, 0));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, tun_attach_filter(fd, bad, 2));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, tun_attach_filter(fd, NULL, 1));
		EXPECT_TRUE(errno == EINVAL || errno == EFAULT);
		EXPECT_EQ(-1, tun_attach_filter(fd, (void *)8, 1));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(-1, tun_attach_filter(fd, cut, 2));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(-1, ioctl(fd, TUN_ATTACH_FILTER, cut + 1));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(ENOMEM, attach_long(fd, BPF_MAXINSNS));
	}
	munmap(page, getpagesize());
}

/* Queues that are detached, have no filter, or come later */
TEST_F(tap, failed_attach)
{
	struct sock_filter insns[ACCEPT_INSNS];

	accept_mark(insns, 1);
	ASSERT_EQ(0, tun_attach_filter(self->fd[0], insns, ACCEPT_INSNS));
	DETACH(1);
	close(self->fd[2]);
	self->fd[2] = tun_queue(self->name,
				IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI);
	ASSERT_GE(self->fd[2], 0);
	fail_to_attach(_metadata, self->fd);

	EXPECT_FILTER(ACCEPT_INSNS, insns, 0);
	EXPECT_FILTER(ACCEPT_INSNS, insns, 1);
	EXPECT_EQ(0, queue_flags(self->fd[0]));
	EXPECT_EQ(IFF_DETACH_QUEUE, queue_flags(self->fd[1]));
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(MARK(1), 0, 0);
	EXPECT_ARRIVES(ALL_MARKS, 2, 1);

	ATTACH(1);
	EXPECT_EQ(0, queue_flags(self->fd[1]));
	EXPECT_ARRIVES(MARK(1), 1, 2);
	close(self->fd[2]);
	self->fd[2] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd[2], 0);
	EXPECT_EQ(0, queue_flags(self->fd[2]));
	EXPECT_ARRIVES(MARK(1), 2, 2);
}

/* After a failure without an earlier filter there is none */
TEST_F(tap, failed_first_attach)
{
	DETACH(1);
	fail_to_attach(_metadata, self->fd);
	EXPECT_FILTER(0, NULL, 0);
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[0]));
	EXPECT_EQ(IFF_NOFILTER | IFF_DETACH_QUEUE, queue_flags(self->fd[1]));
	EXPECT_ARRIVES(ALL_MARKS, 0, 0);
	EXPECT_ARRIVES(ALL_MARKS, 2, 1);
	ATTACH(1);
	EXPECT_EQ(IFF_NOFILTER, queue_flags(self->fd[1]));
	EXPECT_ARRIVES(ALL_MARKS, 1, 2);
}

/* Each queue is charged for the filter exactly while it has it. An error in the
 * charge would change the length of the longest program it takes.
 */

#define ROUNDS 200

FIXTURE(charge)
{
	char name[IFNAMSIZ];
	int fd[QUEUES];
	unsigned int max;	/* instructions of the longest program */
};

FIXTURE_SETUP(charge)
{
	unsigned int low = 1, high = BPF_MAXINSNS, n;
	const char *why = enter();
	int i;

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	for (i = 0; i < QUEUES; i++) {
		self->fd[i] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
		ASSERT_GE(self->fd[i], 0);
	}
	ASSERT_EQ(0, attach_long(self->fd[0], low));
	ASSERT_EQ(0, tun_detach_filter(self->fd[0]));
	ASSERT_EQ(ENOMEM, attach_long(self->fd[0], high));
	while (high - low > 1) {
		n = (low + high) / 2;
		if (attach_long(self->fd[0], n)) {
			ASSERT_EQ(ENOMEM, errno);
			high = n;
		} else {
			ASSERT_EQ(0, tun_detach_filter(self->fd[0]));
			low = n;
		}
	}
	self->max = low;
}

FIXTURE_TEARDOWN(charge)
{
	int i;

	/* The charge is back to its start */
	for (i = 0; i < QUEUES; i++) {
		EXPECT_EQ(0, tun_detach_filter(self->fd[i]));
		EXPECT_EQ(ENOMEM, attach_long(self->fd[i], self->max + 1));
		EXPECT_EQ(0, attach_long(self->fd[i], self->max));
		EXPECT_EQ(0, tun_detach_filter(self->fd[i]));
	}
	netdev_delete(self->name);
	for (i = 0; i < QUEUES; i++)
		close(self->fd[i]);
}

TEST_F_TIMEOUT(charge, attach_and_detach, 300)
{
	int i;

	for (i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(0, attach_long(self->fd[i % QUEUES], self->max));
		ASSERT_EQ(0, tun_detach_filter(self->fd[i / 2 % QUEUES]));
	}
}

/* A replacement is charged while the old filter still is */
TEST_F_TIMEOUT(charge, replace, 300)
{
	int i;

	for (i = 0; i < ROUNDS; i++)
		ASSERT_EQ(0, attach_long(self->fd[i % QUEUES],
					 i % 2 ? self->max / 3 : 1));
	EXPECT_EQ(0, attach_long(self->fd[0], self->max / 3));
	EXPECT_EQ(ENOMEM, attach_long(self->fd[0], self->max));
}

TEST_F_TIMEOUT(charge, queues_come_and_go, 300)
{
	int i, fd;

	ASSERT_EQ(0, attach_long(self->fd[0], self->max));
	for (i = 0; i < ROUNDS; i++) {
		fd = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, queue_flags(fd));
		if (i % 2)
			ASSERT_EQ(0, tun_set_queue(fd, IFF_DETACH_QUEUE));
		close(fd);
		ASSERT_EQ(0, tun_set_queue(self->fd[2], IFF_DETACH_QUEUE));
		ASSERT_EQ(0, tun_set_queue(self->fd[2], IFF_ATTACH_QUEUE));
		if (i % 10)
			continue;
		ASSERT_EQ(0, tun_detach_filter(self->fd[0]));
		ASSERT_EQ(0, attach_long(self->fd[2], self->max));
	}
}

TEST_F_TIMEOUT(charge, devices_come_and_go, 300)
{
	struct ifreq ifr;
	int i;

	for (i = 0; i < 50; i++) {
		ASSERT_EQ(0, attach_long(self->fd[i % 2], self->max));
		if (i % 3)
			ASSERT_EQ(0, tun_set_queue(self->fd[1],
						   IFF_DETACH_QUEUE));
		ASSERT_EQ(0, netdev_delete(self->name));
		ifr.ifr_flags = IFF_TAP | IFF_MULTI_QUEUE;
		memcpy(ifr.ifr_name, self->name, IFNAMSIZ);
		ASSERT_EQ(0, ioctl(self->fd[0], TUNSETIFF, &ifr));
		ASSERT_EQ(0, ioctl(self->fd[1], TUNSETIFF, &ifr));
		ASSERT_EQ(0, ioctl(self->fd[2], TUNSETIFF, &ifr));
	}
}

/* The memory that the program was read from has no effect later */

FIXTURE(memory)
{
	char name[IFNAMSIZ];
	int fd[2];
	struct sock_filter *insns;
};

FIXTURE_VARIANT(memory)
{
	bool child;		/* a process that exits attaches the filter */
	bool unmapped;
	bool garbage;
};

FIXTURE_VARIANT_ADD(memory, overwritten)
{
};

FIXTURE_VARIANT_ADD(memory, overwritten_with_garbage)
{
	.garbage = true,
};

FIXTURE_VARIANT_ADD(memory, unmapped)
{
	.unmapped = true,
};

FIXTURE_VARIANT_ADD(memory, of_another_process)
{
	.child = true,
};

FIXTURE_VARIANT_ADD(memory, of_another_process_unmapped)
{
	.child = true,
	.unmapped = true,
};

FIXTURE_SETUP(memory)
{
	const char *why = enter();
	int status;
	pid_t pid;

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd[0] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	self->fd[1] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd[0], 0);
	ASSERT_GE(self->fd[1], 0);
	ASSERT_EQ(0, netdev_up(self->name));

	self->insns = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->insns);
	pid = variant->child ? fork() : 0;
	ASSERT_GE(pid, 0);
	if (!pid) {
		accept_mark(self->insns, 1);
		status = tun_attach_filter(self->fd[0], self->insns,
					   ACCEPT_INSNS);
		if (variant->child)
			_exit(!!status);
	} else {
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
	}
	ASSERT_EQ(0, status);

	accept_mark(self->insns, 2);
	if (variant->garbage)
		memset(self->insns, 0xff, getpagesize());
	if (variant->unmapped)
		ASSERT_EQ(0, munmap(self->insns, getpagesize()));
}

FIXTURE_TEARDOWN(memory)
{
	netdev_delete(self->name);
	close(self->fd[0]);
	close(self->fd[1]);
}

TEST_F(memory, new_queue)
{
	close(self->fd[1]);
	self->fd[1] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd[1], 0);
	EXPECT_EQ(0, queue_flags(self->fd[1]));
	EXPECT_ARRIVES(MARK(1), 1, 1);
	EXPECT_ARRIVES(MARK(1), 0, 0);
	EXPECT_FILTER(ACCEPT_INSNS, self->insns, 1);
}

TEST_F(memory, detached_and_attached)
{
	DETACH(1);
	ATTACH(1);
	EXPECT_EQ(0, queue_flags(self->fd[1]));
	EXPECT_ARRIVES(MARK(1), 1, 1);
}

TEST_F(memory, persistent)
{
	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETPERSIST, 1));
	close(self->fd[0]);
	close(self->fd[1]);
	self->fd[1] = -1;
	self->fd[0] = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd[0], 0);
	EXPECT_EQ(0, queue_flags(self->fd[0]));
	EXPECT_ARRIVES(MARK(1), 0, 0);
	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETPERSIST, 0));
}

TEST_HARNESS_MAIN
