// SPDX-License-Identifier: GPL-2.0
/*
 * Both places of a device for an eBPF program: a program is attached by its fd
 * or its id, or kept. Also programs that a file holds, to the end of the hold,
 * and the lifetime of each program.
 */
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

/* Two programs for either place, and their ids */
static int load_progs(int *prog, uint32_t *id)
{
	struct tun_state_prog desc;
	int i;

	for (i = 0; i < 2; i++) {
		prog[i] = prog_load_desc(64 + i, &desc);
		if (prog[i] < 0)
			return -1;
		id[i] = desc.id;
	}
	return 0;
}

FIXTURE(prog)
{
	char name[IFNAMSIZ];
	int fd;
	int prog[2];
	uint32_t id[2];
	struct state st;
	struct tun_state_prog *p;
};

FIXTURE_VARIANT(prog)
{
	uint64_t group;
	size_t offset;
	unsigned long request;
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(prog, steering)
{
	.group = TUN_STATE_STEERING,
	.offset = offsetof(struct tun_state, steering),
	.request = TUNSETSTEERINGEBPF,
	.flags = IFF_TAP | IFF_MULTI_QUEUE,
};

FIXTURE_VARIANT_ADD(prog, filter)
{
	.group = TUN_STATE_FILTER,
	.offset = offsetof(struct tun_state, filter),
	.request = TUNSETFILTEREBPF,
	.flags = IFF_TAP,
};

FIXTURE_VARIANT_ADD(prog, filter_tun)
{
	.group = TUN_STATE_FILTER,
	.offset = offsetof(struct tun_state, filter),
	.request = TUNSETFILTEREBPF,
	.flags = IFF_TUN,
};

FIXTURE_SETUP(prog)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, load_progs(self->prog, self->id));
	self->p = (void *)&self->st + offsetof(struct state, s) +
		  variant->offset;
}

FIXTURE_TEARDOWN(prog)
{
	close(self->fd);
	close(self->prog[0]);
	close(self->prog[1]);
}

#define GET(group) ASSERT_EQ(0, state_get(self->fd, (group), &self->st))
#define HOLD(group) ASSERT_EQ(0, state_hold(self->fd, (group), &self->st))
#define SET(group) ASSERT_EQ(0, state_set(self->fd, (group), &self->st))
#define SET_FAILS(err, group)						\
	STATE_SET_FAILS(err, self->fd, group, &self->st)

#define BOTH (TUN_STATE_STEERING | TUN_STATE_FILTER)
/* Attach a program with the older ioctl, or none with -1 */
#define ATTACH(prog_fd)							\
	do {								\
		int _prog = (prog_fd);					\
									\
		ASSERT_EQ(0, ioctl(self->fd, variant->request, &_prog)); \
	} while (0)

/* Close both program fds of the test */
#define CLOSE_PROGS()							\
	do {								\
		close(self->prog[0]);					\
		close(self->prog[1]);					\
		self->prog[0] = -1;					\
		self->prog[1] = -1;					\
	} while (0)

TEST_F(prog, get)
{
	struct bpf_prog_info info;

	GET(variant->group);
	EXPECT_EQ(0, self->p->id);
	EXPECT_EQ(0, self->p->type);
	ATTACH(self->prog[0]);
	ASSERT_EQ(0, prog_info(self->prog[0], &info));
	GET(BOTH);
	EXPECT_EQ(info.id, self->p->id);
	EXPECT_EQ(BPF_PROG_TYPE_SOCKET_FILTER, self->p->type);
	EXPECT_EQ(0, memcmp(info.tag, self->p->tag, sizeof(info.tag)));
	EXPECT_EQ(TUN_STATE_PROG_ID, self->p->action);
	EXPECT_EQ(0, self->p->fd);
	/* A call for one of the two programs leaves the other alone */
	EXPECT_EQ(info.id, self->st.s.steering.id + self->st.s.filter.id);

	ATTACH(-1);
	GET(variant->group);
	EXPECT_EQ(0, self->p->id);
}

TEST_F(prog, set_fd)
{
	self->p->action = TUN_STATE_PROG_FD;
	self->p->fd = self->prog[0];
	SET(variant->group);
	GET(BOTH);
	EXPECT_EQ(self->id[0], self->p->id);
	EXPECT_EQ(self->id[0], self->st.s.steering.id + self->st.s.filter.id);

	/* Replace the program by another, and by itself */
	self->p->action = TUN_STATE_PROG_FD;
	self->p->fd = self->prog[1];
	SET(variant->group);
	EXPECT_EQ(variant->group, self->st.s.mask);
	SET(variant->group);
	GET(variant->group);
	EXPECT_EQ(self->id[1], self->p->id);
}

TEST_F(prog, set_id)
{
	ATTACH(self->prog[0]);
	GET(variant->group);
	SET(variant->group);
	GET(variant->group);
	EXPECT_EQ(self->id[0], self->p->id);

	/* A program other than the attached one */
	self->p->id = self->id[1];
	SET_FAILS(EBADF, variant->group);
	GET(variant->group);
	self->p->tag[7]++;
	SET_FAILS(EBADF, variant->group);
	GET(variant->group);
	self->p->type++;
	SET_FAILS(EBADF, variant->group);

	/* None */
	self->p->id = 0;
	SET_FAILS(EINVAL, variant->group);
	GET(variant->group);
	self->p->id = 0;
	self->p->type = 0;
	SET_FAILS(EINVAL, variant->group);
	GET(variant->group);
	EXPECT_EQ(self->id[0], self->p->id);
	memset(self->p, 0, sizeof(*self->p));
	SET(variant->group);
	GET(variant->group);
	EXPECT_EQ(0, self->p->id);
}

TEST_F(prog, keep)
{
	int i;

	for (i = 0; i < 2; i++) {
		self->p->action = TUN_STATE_PROG_KEEP;
		self->p->id = 12345;
		SET(variant->group);
		EXPECT_EQ(variant->group, self->st.s.mask);
		GET(variant->group);
		EXPECT_EQ(i ? self->id[0] : 0, self->p->id);
		ATTACH(self->prog[0]);
	}
}

TEST_F(prog, bad)
{
	struct state before;
	int null, wrong;

	ATTACH(self->prog[0]);
	ASSERT_EQ(0, state_snapshot(self->fd, &before));
	null = open("/dev/null", O_RDONLY);
	wrong = prog_load(BPF_PROG_TYPE_XDP, XDP_PASS);
	ASSERT_GE(wrong, 0);

	self->p->action = TUN_STATE_PROG_FD;
	self->p->fd = -1;
	SET_FAILS(EBADF, variant->group);
	self->p->fd = 1000;
	SET_FAILS(EBADF, variant->group);
	self->p->fd = null;
	SET_FAILS(EINVAL, variant->group);
	self->p->fd = wrong;
	SET_FAILS(EINVAL, variant->group);
	self->p->fd = self->prog[1];
	close(self->prog[1]);
	SET_FAILS(EBADF, variant->group);

	self->p->action = TUN_STATE_PROG_KEEP;
	SET_FAILS(EINVAL, variant->group);
	self->p->action = 3;
	self->p->fd = 0;
	SET_FAILS(EINVAL, variant->group);
	self->p->action = TUN_STATE_PROG_ID;
	self->p->id = self->id[0];
	self->p->fd = 1;
	SET_FAILS(EINVAL, variant->group);
	EXPECT_TRUE(state_unchanged(self->fd, &before));
	close(null);
	close(wrong);
}

/* Each reference is put once, also when a call fails */
TEST_F(prog, lifetime)
{
	int i;

	for (i = 0; i < 2; i++) {
		self->p->action = TUN_STATE_PROG_FD;
		self->p->fd = self->prog[i];
		SET(variant->group);
		SET(variant->group);
		self->st.s.sndbuf.size = -1;
		ASSERT_EQ(EINVAL, state_set(self->fd, variant->group |
					    TUN_STATE_SNDBUF, &self->st));
	}
	close(self->prog[0]);
	EXPECT_TRUE(prog_gone(self->id[0]));
	close(self->prog[1]);
	self->prog[0] = -1;
	self->prog[1] = -1;
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[1]));
	memset(self->p, 0, sizeof(*self->p));
	SET(variant->group);
	EXPECT_TRUE(prog_gone(self->id[1]));
}

/* TUNGETSTATE alone takes no reference: an id is worth nothing without */
TEST_F(prog, get_holds_nothing)
{
	ATTACH(self->prog[0]);
	GET(BOTH);
	EXPECT_EQ(self->id[0], self->p->id);
	ATTACH(-1);
	/* Not even while another one keeps the program alive */
	SET_FAILS(EBADF, variant->group);
	close(self->prog[0]);
	self->prog[0] = -1;
	EXPECT_TRUE(prog_gone(self->id[0]));
	SET_FAILS(EBADF, variant->group);
}

/* The id in a line of /proc/PID/fdinfo/FD; 0 without, -1 on an error */
static long held_id(int fd, const char *key)
{
	char path[64], line[128], format[64];
	long id = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	/* Name, colon, tab, as other lines of that file have it */
	snprintf(format, sizeof(format), "%s:\t", key);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		/* Once, and with an id */
		if (id || strncmp(line, format, strlen(format)) ||
		    sscanf(line + strlen(format), "%ld", &id) != 1 || !id)
			id = -1;
	}
	fclose(f);
	return id;
}

/* See no_sockfilter() */
static const char *held_not_shown(void)
{
	char name[IFNAMSIZ] = "probe";
	const char *why = NULL;
	struct state st;
	int fd, prog;

	fd = tun_queue(name, IFF_TAP | IFF_NO_PI);
	prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64);
	if (prog < 0 || ioctl(fd, TUNSETFILTEREBPF, &prog) ||
	    state_hold(fd, TUN_STATE_FILTER, &st))
		why = "cannot hold a program";
	else if (!held_id(fd, "filter-held"))
		why = "this driver does not show held programs in fdinfo";
	close(prog);
	close(fd);
	return why;
}

#define EXPECT_HELD(steering, filter)					\
	do {								\
		EXPECT_EQ(steering, held_id(self->fd, "steering-held"));	\
		EXPECT_EQ(filter, held_id(self->fd, "filter-held"));	\
	} while (0)
/* The program in the place of this variant */
#define EXPECT_HELD_HERE(id)						\
	do {								\
		long _id = (id);					\
									\
		if (variant->group == TUN_STATE_STEERING)		\
			EXPECT_HELD(_id, 0);				\
		else							\
			EXPECT_HELD(0, _id);				\
	} while (0)

/* A caller with nothing but the file can restore programs that it holds */
static int restore_without_rights(int fd, uint64_t mask, struct state *st)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct none[2] = {};

	if (syscall(__NR_capset, &hdr, none) ||
	    prog_load(BPF_PROG_TYPE_XDP, XDP_PASS) >= 0)
		return 255;
	return state_set(fd, mask, st);
}

#define RESTORE_WITHOUT_RIGHTS(result)					\
	do {								\
		int _status;						\
		pid_t _pid = fork();					\
									\
		ASSERT_GE(_pid, 0);					\
		if (!_pid)						\
			_exit(restore_without_rights(self->fd,		\
						     variant->group,	\
						     &self->st));	\
		ASSERT_EQ(_pid, waitpid(_pid, &_status, 0));		\
		ASSERT_TRUE(WIFEXITED(_status));			\
		EXPECT_EQ(result, WEXITSTATUS(_status));		\
	} while (0)

TEST_F(prog, held)
{
	struct state other;
	int i;

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	ATTACH(self->prog[0]);
	EXPECT_HELD(0, 0);
	HOLD(variant->group);
	EXPECT_EQ(self->id[0], self->p->id);
	EXPECT_EQ(TUN_STATE_F_HOLD, self->st.s.flags);
	EXPECT_HELD_HERE(self->id[0]);
	ATTACH(self->prog[1]);
	CLOSE_PROGS();
	for (i = 0; i < 3; i++) {
		RESTORE_WITHOUT_RIGHTS(0);
		EXPECT_EQ(0, state_compare(self->fd, variant->group,
					   &self->st));
		ATTACH(-1);
	}
	/* The other program has gone with its last user */
	EXPECT_TRUE(prog_gone(self->id[1]));
	EXPECT_HELD_HERE(self->id[0]);

	/* Id, type and tag must all match */
	self->p->tag[7]++;
	RESTORE_WITHOUT_RIGHTS(EBADF);
	self->p->tag[7]--;
	self->p->type++;
	RESTORE_WITHOUT_RIGHTS(EBADF);
	self->p->type--;
	self->p->id++;
	RESTORE_WITHOUT_RIGHTS(EBADF);
	self->p->id--;

	/* A steering program is not held as a filter */
	memset(&other, 0, sizeof(other));
	other.s.steering = *self->p;
	other.s.filter = *self->p;
	EXPECT_EQ(EBADF, state_set(self->fd, BOTH ^ variant->group, &other));
	RESTORE_WITHOUT_RIGHTS(0);
}

/* The next call with TUN_STATE_F_HOLD replaces the hold */
TEST_F(prog, held_until_next_hold)
{
	int i;

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	ATTACH(self->prog[0]);
	HOLD(BOTH);
	ATTACH(self->prog[1]);
	CLOSE_PROGS();
	EXPECT_HELD_HERE(self->id[0]);
	/* A program that is attached still is the next one */
	for (i = 0; i < 100; i++)
		HOLD(BOTH);
	EXPECT_HELD_HERE(self->id[1]);
	EXPECT_TRUE(prog_gone(self->id[0]));
	ATTACH(-1);
	RESTORE_WITHOUT_RIGHTS(0);
	ATTACH(-1);

	/* No program is held where none is attached */
	HOLD(variant->group);
	EXPECT_EQ(0, self->p->id);
	EXPECT_HELD(0, 0);
	EXPECT_TRUE(prog_gone(self->id[1]));
}

/* A call that reports other groups lets go of the program */
TEST_F(prog, held_by_mask)
{
	static const uint64_t others[] = {
		0, TUN_STATE_SNDBUF, ALL_GROUPS & ~BOTH,
	};
	struct state st;
	unsigned int i;

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	for (i = 0; i < ARRAY_SIZE(others) + 1; i++) {
		ATTACH(self->prog[0]);
		HOLD(variant->group);
		ATTACH(-1);
		EXPECT_HELD_HERE(self->id[0]);
		ASSERT_EQ(0, state_hold(self->fd, i ? others[i - 1] :
					BOTH ^ variant->group, &st));
		EXPECT_HELD(0, 0);
		SET_FAILS(EBADF, variant->group);
	}
	CLOSE_PROGS();
	EXPECT_TRUE(prog_gone(self->id[0]));
}

/* Neither TUNGETSTATE without the flag, nor TUNSETSTATE, lets go */
TEST_F(prog, held_through_other_calls)
{
	struct state st;

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	ATTACH(self->prog[0]);
	HOLD(variant->group);
	ATTACH(-1);
	CLOSE_PROGS();
	ASSERT_EQ(0, state_get(self->fd, 0, &st));
	ASSERT_EQ(0, state_get(self->fd, variant->group, &st));
	ASSERT_EQ(0, state_get(self->fd, ALL_GROUPS, &st));
	ASSERT_EQ(0, state_set(self->fd, ALL_GROUPS, &st));
	EXPECT_HELD_HERE(self->id[0]);
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[0]));
	RESTORE_WITHOUT_RIGHTS(0);
}

/* A call that fails, early or late, leaves the earlier hold */
TEST_F(prog, held_through_failed_hold)
{
	const uint64_t mask = BOTH | TUN_STATE_QUEUES;
	struct state st;

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	ATTACH(self->prog[0]);
	HOLD(variant->group);
	ATTACH(self->prog[1]);
	CLOSE_PROGS();

#define HOLD_FAILS(err)							\
	do {								\
		ASSERT_EQ(-1, ioctl(self->fd, TUNGETSTATE, &st.s));	\
		EXPECT_EQ(err, errno);					\
		EXPECT_HELD_HERE(self->id[0]);				\
	} while (0)
	memset(&st, 0, sizeof(st));
	state_point(&st);
	st.s.mask = mask;
	st.s.flags = TUN_STATE_F_HOLD;
	HOLD_FAILS(ENOSPC);
	EXPECT_EQ(TUN_STATE_QUEUES, st.s.failed);
	st.s.queues.count = MAX_QUEUES;
	st.s.queues.entries = 8;
	HOLD_FAILS(EFAULT);
	st.s.queues.entry_size = 0;
	HOLD_FAILS(EINVAL);
	state_point(&st);
	st.s.mask |= 1ULL << 63;
	HOLD_FAILS(EINVAL);
	st.s.mask = mask;
	st.s.flags |= 2;
	HOLD_FAILS(EINVAL);
	st.s.flags = TUN_STATE_F_HOLD;
	st.s.reserved = 1;
	HOLD_FAILS(EINVAL);
#undef HOLD_FAILS

	/* Neither has the program that those calls saw a new user */
	ATTACH(-1);
	EXPECT_TRUE(prog_gone(self->id[1]));
	RESTORE_WITHOUT_RIGHTS(0);
}

/* The answer cannot be written behind the header: the call has failed */
TEST_F(prog, held_through_read_only)
{
	struct tun_state *s;
	long page = sysconf(_SC_PAGESIZE);

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	s = mmap(NULL, page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)s);
	ATTACH(self->prog[0]);
	HOLD(variant->group);
	ATTACH(self->prog[1]);
	CLOSE_PROGS();
	s->mask = variant->group;
	s->flags = TUN_STATE_F_HOLD;
	ASSERT_EQ(0, mprotect(s, page, PROT_READ));
	ASSERT_EQ(-1, ioctl(self->fd, TUNGETSTATE, s));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_HELD_HERE(self->id[0]);
	ATTACH(-1);
	EXPECT_TRUE(prog_gone(self->id[1]));
	RESTORE_WITHOUT_RIGHTS(0);
	munmap(s, page);
}

/* A file, not an fd, holds a program, until the last fd is closed */
TEST_F(prog, held_until_close)
{
	int fd;

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	ATTACH(self->prog[0]);
	HOLD(variant->group);
	ATTACH(-1);
	CLOSE_PROGS();
	fd = dup(self->fd);
	ASSERT_GE(fd, 0);
	close(self->fd);
	self->fd = fd;
	EXPECT_HELD_HERE(self->id[0]);
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[0]));
	RESTORE_WITHOUT_RIGHTS(0);
	ATTACH(-1);
	close(self->fd);
	self->fd = -1;
	EXPECT_TRUE(prog_gone(self->id[0]));
}

/* A program is for the device that it was attached to */
TEST_F(prog, held_until_device_is_deleted)
{
	char name[IFNAMSIZ] = "dev1";
	struct ifreq ifr = { .ifr_flags = variant->flags };

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	ATTACH(self->prog[0]);
	HOLD(variant->group);
	EXPECT_HELD_HERE(self->id[0]);
	ASSERT_EQ(0, netdev_delete(self->name));
	EXPECT_HELD(0, 0);
	EXPECT_EQ(EBADFD, state_set(self->fd, variant->group, &self->st));
	close(self->prog[0]);
	self->prog[0] = -1;
	EXPECT_TRUE(prog_gone(self->id[0]));

	/* The open file can make another device, which gets nothing of it */
	memcpy(ifr.ifr_name, name, IFNAMSIZ);
	ASSERT_EQ(0, ioctl(self->fd, TUNSETIFF, &ifr));
	SET_FAILS(EBADF, variant->group);
	EXPECT_HELD(0, 0);

	/* With a program that lives on elsewhere, too */
	ATTACH(self->prog[1]);
	HOLD(variant->group);
	ASSERT_EQ(0, netdev_delete(name));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETIFF, &ifr));
	EXPECT_TRUE(prog_there(self->id[1]));
	SET_FAILS(EBADF, variant->group);
	EXPECT_HELD(0, 0);
	/* The new device has nothing that it could not hold itself */
	ATTACH(self->prog[1]);
	HOLD(variant->group);
	EXPECT_HELD_HERE(self->id[1]);
}

/* A detached queue remains with its device, and so does its hold */
TEST_F(prog, held_while_detached)
{
	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	if (!(variant->flags & IFF_MULTI_QUEUE))
		return;
	ATTACH(self->prog[0]);
	HOLD(variant->group);
	ATTACH(-1);
	CLOSE_PROGS();
	ASSERT_EQ(0, tun_set_queue(self->fd, IFF_DETACH_QUEUE));
	EXPECT_HELD_HERE(self->id[0]);
	RESTORE_WITHOUT_RIGHTS(0);
	ATTACH(-1);
	ASSERT_EQ(0, netdev_delete(self->name));
	EXPECT_TRUE(prog_gone(self->id[0]));
}

/* Another queue of the device holds nothing */
TEST_F(prog, held_by_file)
{
	int fd;

	if (!(variant->flags & IFF_MULTI_QUEUE))
		return;
	fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(fd, 0);
	ATTACH(self->prog[0]);
	HOLD(variant->group);
	ATTACH(-1);
	EXPECT_EQ(EBADF, state_set(fd, variant->group, &self->st));
	EXPECT_EQ(variant->group, self->st.s.failed);
	EXPECT_EQ(0, held_id(fd, "steering-held") | held_id(fd, "filter-held"));
	SET(variant->group);
	close(fd);
}

/* TUNSETSTATE has no flags */
TEST_F(prog, flags)
{
	uint32_t flag;

	ATTACH(self->prog[0]);
	GET(variant->group);
	for (flag = 1; flag; flag <<= 1) {
		self->st.s.mask = variant->group;
		self->st.s.flags = flag;
		ASSERT_EQ(-1, ioctl(self->fd, TUNSETSTATE, &self->st.s));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(0, self->st.s.failed);
		EXPECT_HELD(0, 0);
	}
}

/* Programs in both places, and a second process with the file */

#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif

FIXTURE(both)
{
	char name[IFNAMSIZ];
	int fd;
	int prog[2];
	uint32_t id[2];
	struct state st;
};

FIXTURE_SETUP(both)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, load_progs(self->prog, self->id));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETSTEERINGEBPF, &self->prog[0]));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETFILTEREBPF, &self->prog[1]));
}

FIXTURE_TEARDOWN(both)
{
	close(self->fd);
	close(self->prog[0]);
	close(self->prog[1]);
}

#define DETACH_BOTH()							\
	do {								\
		int _none = -1;						\
									\
		ASSERT_EQ(0, ioctl(self->fd, TUNSETSTEERINGEBPF, &_none)); \
		ASSERT_EQ(0, ioctl(self->fd, TUNSETFILTEREBPF, &_none)); \
	} while (0)

/* Each place has its own slot */
TEST_F(both, slots)
{
	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	HOLD(BOTH);
	EXPECT_EQ(self->id[0], self->st.s.steering.id);
	EXPECT_EQ(self->id[1], self->st.s.filter.id);
	EXPECT_HELD(self->id[0], self->id[1]);
	DETACH_BOTH();
	CLOSE_PROGS();
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[0]));
	EXPECT_TRUE(prog_there(self->id[1]));
	SET(BOTH);
	EXPECT_EQ(0, state_compare(self->fd, BOTH, &self->st));

	/* A call for one of them lets go of the other */
	HOLD(TUN_STATE_STEERING);
	EXPECT_HELD(self->id[0], 0);
	DETACH_BOTH();
	EXPECT_TRUE(prog_gone(self->id[1]));
	SET(TUN_STATE_STEERING);
	HOLD(TUN_STATE_FILTER);
	EXPECT_HELD(0, 0);
	DETACH_BOTH();
	EXPECT_TRUE(prog_gone(self->id[0]));
}

/* Both programs in one place after the other are two references to one */
TEST_F(both, same_program)
{
	struct state st;

	if (held_not_shown())
		SKIP(return, "%s", held_not_shown());
	ASSERT_EQ(0, ioctl(self->fd, TUNSETFILTEREBPF, &self->prog[0]));
	HOLD(BOTH);
	EXPECT_HELD(self->id[0], self->id[0]);
	DETACH_BOTH();
	CLOSE_PROGS();
	st = self->st;
	SET(BOTH);
	HOLD(TUN_STATE_STEERING);
	DETACH_BOTH();
	EXPECT_HELD(self->id[0], 0);
	EXPECT_EQ(EBADF, state_set(self->fd, BOTH, &st));
	EXPECT_EQ(TUN_STATE_FILTER, st.s.failed);
	/* The call was refused as a whole */
	GET(BOTH);
	EXPECT_EQ(0, self->st.s.steering.id);
	HOLD(0);
	EXPECT_TRUE(prog_gone(self->id[0]));
}

/* Read everything, by a process that takes the file with pidfd_getfd(2), as a
 * tool does, and by one that inherited it
 */
static int read_all(int fd, bool inherited)
{
	int pidfd, i, err = 0;
	struct state st;

	if (!inherited) {
		pidfd = syscall(__NR_pidfd_open, getppid(), 0);
		if (pidfd < 0)
			return 10;
		fd = syscall(__NR_pidfd_getfd, pidfd, fd, 0);
		if (fd < 0)
			return 11;
	}
	for (i = 0; i < 10 && !err; i++) {
		err = state_get(fd, ALL_GROUPS, &st);
		if (!err && (st.s.steering.id || st.s.filter.id))
			return 12;
		if (!err)
			err = state_get(fd, 0, &st);
	}
	return err;
}

TEST_F(both, read_by_another_process)
{
	const uint64_t mask = ALL_GROUPS;
	struct state before, held;
	int status, i;
	pid_t pid;

	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, state_snapshot(self->fd, &before));
		ASSERT_EQ(0, state_hold(self->fd, mask, &held));

		/* All that a user of the file may change meanwhile */
		DETACH_BOTH();
		if (!i)
			CLOSE_PROGS();
		self->st = before;
		state_point(&self->st);
		state_alternate(&self->st, i);
		memset(&self->st.s.steering, 0, sizeof(self->st.s.steering));
		memset(&self->st.s.filter, 0, sizeof(self->st.s.filter));
		SET(mask & ~GET_ONLY);

		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid)
			_exit(read_all(self->fd, i));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		ASSERT_TRUE(WIFEXITED(status));
		ASSERT_EQ(0, WEXITSTATUS(status));

		EXPECT_HELD(self->id[0], self->id[1]);
		state_point(&held);
		ASSERT_EQ(0, state_set(self->fd, mask, &held));
		EXPECT_TRUE(state_unchanged(self->fd, &before));
	}
}

TEST_HARNESS_MAIN
