// SPDX-License-Identifier: GPL-2.0
/*
 * Automatic steering while queues come and go, with packets and older ioctls
 * only: flows of a queue that is detached, and of the queue that takes its
 * index, go where an unknown flow goes.
 *
 * A kernel without TUNGETSTATE has the bug tested here, so the test is skipped
 * there; TUN_FLOW_FORCE=1 runs it nevertheless.
 */
#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define QUEUES 3
#define FLAGS (IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE)

struct tap {
	char name[IFNAMSIZ];
	int fd[QUEUES];		/* in the order of the queues' indexes */
	int sock;
};

/* Send a packet of a flow to the device. Return the index of the queue that it
 * is put on, or -1.
 */
static int steered(struct tap *tap, uint16_t flow)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = netdev_index(tap->name),
	};
	unsigned char sent[FRAME_SIZE], got[2 * FRAME_SIZE];
	int i, at = -1;

	flow_frame_make(sent, true, flow, true);
	if (sendto(tap->sock, sent, sizeof(sent), 0, (void *)&sll,
		   sizeof(sll)) != sizeof(sent))
		return -1;
	for (i = 0; i < QUEUES; i++)
		while (read(tap->fd[i], got, sizeof(got)) > 0)
			if (!memcmp(got, sent, sizeof(sent)))
				at = i;
	return at;
}

/* Remove the queue at an index; the last queue takes its place */
static int leave(struct tap *tap, int index, bool detach)
{
	int fd = tap->fd[index];

	tap->fd[index] = tap->fd[QUEUES - 1];
	tap->fd[QUEUES - 1] = detach ? fd : -1;
	return detach ? tun_set_queue(fd, IFF_DETACH_QUEUE) : close(fd);
}

/* Bring it back as the last one */
static int back(struct tap *tap)
{
	int *fd = &tap->fd[QUEUES - 1];

	if (*fd >= 0)
		return tun_set_queue(*fd, IFF_ATTACH_QUEUE);
	*fd = tun_queue(tap->name, FLAGS);
	return *fd < 0 ? -1 : 0;
}

FIXTURE(tap)
{
	struct tap tap;
	/* A flow for each queue but the last, where its packets go while it is
	 * unknown and the last queue is away
	 */
	int flow[QUEUES - 1];
};

FIXTURE_VARIANT(tap)
{
	bool detach;
};

FIXTURE_VARIANT_ADD(tap, detached)
{
	.detach = true,
};

FIXTURE_VARIANT_ADD(tap, closed)
{
	.detach = false,
};

FIXTURE_SETUP(tap)
{
	const char *why = getenv("TUN_FLOW_FORCE") ? tun_enter() :
						     tun_state_enter();
	struct tap *tap = &self->tap;
	int i, at, one = 1;

	if (why)
		SKIP(return, "%s", why);
	memcpy(tap->name, "dev0", 5);
	for (i = 0; i < QUEUES; i++) {
		tap->fd[i] = tun_queue(tap->name, FLAGS);
		ASSERT_GE(tap->fd[i], 0);
	}
	ASSERT_EQ(0, netdev_up(tap->name));
	ASSERT_TRUE(netdev_running(tap->name, true));
	tap->sock = socket(AF_PACKET, SOCK_RAW, 0);
	/* The packet is in the ring when send() returns */
	ASSERT_EQ(0, setsockopt(tap->sock, SOL_PACKET, PACKET_QDISC_BYPASS,
				&one, sizeof(one)));

	ASSERT_EQ(0, leave(tap, QUEUES - 1, variant->detach));
	self->flow[0] = -1;
	self->flow[1] = -1;
	for (i = 0; i < 1000 && (self->flow[0] < 0 || self->flow[1] < 0); i++) {
		at = steered(tap, i);
		ASSERT_GE(at, 0);
		ASSERT_LT(at, QUEUES - 1);
		self->flow[at] = i;
	}
	ASSERT_LT(i, 1000);
	ASSERT_EQ(0, back(tap));
}

FIXTURE_TEARDOWN(tap)
{
	int i;

	netdev_delete(self->tap.name);
	for (i = 0; i < QUEUES; i++)
		close(self->tap.fd[i]);
	close(self->tap.sock);
}

/* Have a queue learn the flow @f */
#define LEARN(index, f)							\
	do {								\
		int _index = (index), _flow = self->flow[f];		\
									\
		ASSERT_EQ(0, flow_learn(self->tap.fd[_index], FLAGS,	\
					_flow));			\
		EXPECT_EQ(_index, steered(&self->tap, _flow));		\
	} while (0)
#define LEAVE(index) ASSERT_EQ(0, leave(&self->tap, index, variant->detach))
#define BACK() ASSERT_EQ(0, back(&self->tap))

/* The flow of a queue in the middle: another queue has its index now */
TEST_F(tap, own_flow)
{
	LEARN(1, 0);
	LEAVE(1);
	EXPECT_EQ(0, steered(&self->tap, self->flow[0]));
	BACK();
	LEARN(0, 1);
	LEAVE(0);
	EXPECT_EQ(1, steered(&self->tap, self->flow[1]));
}

/* The flow of the last queue: no queue has its index now */
TEST_F(tap, own_flow_of_last)
{
	LEARN(2, 1);
	LEAVE(2);
	EXPECT_EQ(1, steered(&self->tap, self->flow[1]));
}

/* The flow of the queue that moves: no queue has its old index */
TEST_F(tap, flow_of_moved_queue)
{
	LEARN(2, 1);
	LEAVE(0);
	EXPECT_EQ(1, steered(&self->tap, self->flow[1]));
	BACK();
	LEARN(2, 1);
	LEAVE(1);
	EXPECT_EQ(1, steered(&self->tap, self->flow[1]));
}

/* Flows of other queues stay. They expire after 3 s: try again on a slow
 * machine.
 */
TEST_F(tap, flow_of_other_queue)
{
	uint64_t start;
	int i, at;

	for (i = 0; i < 20; i++) {
		start = now_ms();
		ASSERT_EQ(0, flow_learn(self->tap.fd[0], FLAGS, self->flow[1]));
		LEAVE(1);
		at = steered(&self->tap, self->flow[1]);
		if (now_ms() - start < 2500)
			break;
		BACK();
	}
	EXPECT_EQ(0, at);
	EXPECT_LT(i, 20);
}

TEST_HARNESS_MAIN
