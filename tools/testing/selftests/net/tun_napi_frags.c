// SPDX-License-Identifier: GPL-2.0
/*
 * IFF_NAPI_FRAGS: packets that are written in several pieces, with older ioctls
 * only. The packet that a writer prepares stays its own when the device goes.
 *
 * A kernel without TUNGETSTATE has the bug tested here and would use freed
 * memory, so the test is skipped there; TUN_NAPI_FRAGS_FORCE=1 runs it
 * nevertheless.
 */
#include "../kselftest_harness.h"
#include "tun_state_util.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/uio.h>

#define FLAGS (IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE)
/* MAX_SKB_FRAGS is 17, or configured */
#define PIECES 64

FIXTURE(frags)
{
	char name[IFNAMSIZ];
	int fd;
	int sock;
	long page;
	unsigned char *frame;
};

FIXTURE_SETUP(frags)
{
	const char *why = getenv("TUN_NAPI_FRAGS_FORCE") ? tun_enter() :
							   tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->page = sysconf(_SC_PAGESIZE);
	self->fd = tun_queue(self->name, FLAGS | IFF_NAPI | IFF_NAPI_FRAGS);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, netdev_up(self->name));
	ASSERT_TRUE(netdev_running(self->name, true));
	self->sock = packet_socket(self->name);
	ASSERT_GE(self->sock, 0);
	self->frame = malloc(PIECES * self->page);
	ASSERT_NE(NULL, self->frame);
}

FIXTURE_TEARDOWN(frags)
{
	free(self->frame);
	close(self->sock);
	close(self->fd);
}

/* Write a packet in pieces of these sizes, which end with 0. Return its size, or a
 * negative errno.
 */
static ssize_t write_pieces(int fd, unsigned char *frame, const size_t *sizes)
{
	struct iovec iov[PIECES];
	size_t i, n = 0, size = 0;
	ssize_t ret;

	for (; sizes[n]; n++) {
		iov[n].iov_base = frame + size;
		iov[n].iov_len = sizes[n];
		size += sizes[n];
	}
	for (i = 0; i < size; i++)
		frame[i] = i * 7 + (i >> 8);
	frame_make(frame, true, n);
	ret = writev(fd, iov, n);
	return ret < 0 ? -errno : ret;
}

static bool arrives(int sock, const unsigned char *frame, ssize_t size)
{
	unsigned char *got = malloc(size + 1);
	bool same = got && recv(sock, got, size + 1, 0) == size &&
		    !memcmp(got, frame, size);

	free(got);
	return same;
}

static bool nothing_arrives(int sock)
{
	unsigned char byte;

	return recv(sock, &byte, 1, 0) < 0 && errno == EAGAIN;
}

static const size_t small[] = { FRAME_SIZE, 0 };

TEST_F(frags, pieces)
{
	static const size_t pieces[][6] = {
		{ FRAME_SIZE }, { 14, 50 }, { 64, 1, 1, 1, 1 }, { 1514 },
		{ 64, 4096, 4096 }, { 30000 }, { 60000, 1, 4000 },
	};
	ssize_t size;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pieces); i++) {
		size = write_pieces(self->fd, self->frame, pieces[i]);
		EXPECT_GE(size, FRAME_SIZE);
		EXPECT_TRUE(arrives(self->sock, self->frame, size)) {
			TH_LOG("packet %zu", i);
		}
	}
	EXPECT_TRUE(nothing_arrives(self->sock));
}

TEST_F(frags, refused)
{
	const size_t long_piece[] = { FRAME_SIZE, 1, self->page + 1, 0 };
	size_t many[PIECES] = { FRAME_SIZE };
	int i;

	for (i = 1; i < PIECES - 1; i++)
		many[i] = 1;
	EXPECT_EQ(-EMSGSIZE, write_pieces(self->fd, self->frame, many));
	EXPECT_EQ(-EINVAL, write_pieces(self->fd, self->frame, long_piece));

	/* A detached queue has its NAPI disabled */
	ASSERT_EQ(0, tun_set_queue(self->fd, IFF_DETACH_QUEUE));
	EXPECT_EQ(-EBUSY, write_pieces(self->fd, self->frame, small));
	ASSERT_EQ(0, tun_set_queue(self->fd, IFF_ATTACH_QUEUE));

	EXPECT_TRUE(nothing_arrives(self->sock));
	EXPECT_EQ(FRAME_SIZE, write_pieces(self->fd, self->frame, small));
	EXPECT_TRUE(arrives(self->sock, self->frame, FRAME_SIZE));
}

/* Generic XDP may put the packet into another buffer, or take it */
TEST_F(frags, xdp)
{
	static const size_t pieces[] = { 20, 100, 1000, 0 };
	int pass = prog_load(BPF_PROG_TYPE_XDP, XDP_PASS);
	int drop = prog_load(BPF_PROG_TYPE_XDP, XDP_DROP);
	int i;

	ASSERT_GE(pass, 0);
	ASSERT_GE(drop, 0);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, netdev_xdp(self->name, pass));
		EXPECT_EQ(1120, write_pieces(self->fd, self->frame, pieces));
		EXPECT_TRUE(arrives(self->sock, self->frame, 1120));
		ASSERT_EQ(0, netdev_xdp(self->name, drop));
		EXPECT_EQ(1120, write_pieces(self->fd, self->frame, pieces));
		EXPECT_TRUE(nothing_arrives(self->sock));
	}
	ASSERT_EQ(0, netdev_xdp(self->name, -1));
	EXPECT_EQ(FRAME_SIZE, write_pieces(self->fd, self->frame, small));
	EXPECT_TRUE(arrives(self->sock, self->frame, FRAME_SIZE));
	close(pass);
	close(drop);
}

struct writer {
	int fd;
	void *frame;
	int err;
};

static void *write_frame(void *arg)
{
	struct writer *writer = arg;

	writer->err = write(writer->fd, writer->frame, FRAME_SIZE) < 0 ?
		      errno : 0;
	return NULL;
}

static void *delete_device(void *name)
{
	return (void *)(long)netdev_delete(name);
}

#define MESSAGES 64

/* Have the kernel use again what it freed last */
static void send_messages(int sock)
{
	unsigned char message[FRAME_SIZE];
	int i;

	for (i = 0; i < MESSAGES; i++) {
		memset(message, 0x80 + i, sizeof(message));
		if (send(sock, message, sizeof(message), 0) < 0)
			return;
	}
}

static int intact_messages(int sock)
{
	unsigned char message[FRAME_SIZE], got[FRAME_SIZE];
	int i, n = 0;

	for (i = 0; i < MESSAGES; i++) {
		memset(message, 0x80 + i, sizeof(message));
		n += recv(sock, got, sizeof(got), 0) == sizeof(got) &&
		     !memcmp(got, message, sizeof(got));
	}
	return n;
}

/* The device goes while a writer waits for a page of its packet. Without the fix the
 * writer then fills a freed buffer, which belongs to a message of another socket by
 * now.
 */
TEST_F(frags, device_goes)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage zero = {};
	struct uffdio_api api = { .api = UFFD_API };
	struct writer writer = { .fd = self->fd };
	pthread_t write_thread, delete_thread;
	struct uffd_msg msg;
	char other[IFNAMSIZ] = "lo";
	int uffd, pair[2];
	cpu_set_t cpus;
	void *err;

	/* Each processor keeps what it freed */
	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpus), &cpus));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0,
				pair));
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	writer.frame = mmap(NULL, self->page, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, writer.frame);
	reg.range.start = (uintptr_t)writer.frame;
	reg.range.len = self->page;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));

	ASSERT_EQ(0, pthread_create(&write_thread, NULL, write_frame, &writer));
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));
	/* It ends after the writer, which holds a reference to the device */
	ASSERT_EQ(0, pthread_create(&delete_thread, NULL, delete_device,
				    self->name));
	while (netdev_index(self->name) > 0)
		usleep(1000);
	/* Wait for RTNL, which is held until the queue has left the device */
	ASSERT_EQ(0, netdev_up(other));
	EXPECT_EQ(-1, tun_set_queue(self->fd, IFF_DETACH_QUEUE));
	send_messages(pair[0]);

	zero.range = reg.range;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	pthread_join(write_thread, NULL);
	EXPECT_EQ(EIO, writer.err);
	EXPECT_EQ(MESSAGES, intact_messages(pair[1]));
	pthread_join(delete_thread, &err);
	EXPECT_EQ(NULL, err);
	EXPECT_FALSE(nothing_arrives(self->sock));
	EXPECT_EQ(ENETDOWN, errno);
	EXPECT_TRUE(nothing_arrives(self->sock));
	close(uffd);
	close(pair[0]);
	close(pair[1]);
}

TEST_HARNESS_MAIN
