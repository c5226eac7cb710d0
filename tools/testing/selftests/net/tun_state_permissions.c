// SPDX-License-Identifier: GPL-2.0
/*
 * Rights that TUNGETSTATE and TUNSETSTATE need: those of the ioctls that set
 * the same values, neither more nor fewer. The callers are a process with
 * nothing but the file, and processes in a user namespace of their own.
 */
#include <grp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define NOBODY 4711

/* Drop all rights except for open files */
static int drop_everything(void)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct none[2] = {};
	struct stat st;

	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) ||
	    syscall(__NR_capset, &hdr, none))
		return -1;
	/* Check that the rights are gone */
	return stat("/proc/1/ns/net", &st) ? 0 : -1;
}

struct file {
	char name[IFNAMSIZ];
	int fd;
	int prog;
	struct state st;
	int wrong;		/* line of the first failed check */
};

FIXTURE(file)
{
	struct file f;
};

FIXTURE_SETUP(file)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->f.name, "dev0", 5);
	self->f.fd = tun_queue(self->f.name, IFF_TAP | IFF_MULTI_QUEUE);
	ASSERT_GE(self->f.fd, 0);
	self->f.prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64);
	ASSERT_GE(self->f.prog, 0);
	ASSERT_EQ(0, state_get(self->f.fd, ALL_GROUPS, &self->f.st));
	self->f.st.insns[0] = (struct sock_filter){
		BPF_RET | BPF_K, 0, 0, 0xffff
	};
}

FIXTURE_TEARDOWN(file)
{
	close(self->f.fd);
	close(self->f.prog);
}

/* Run a function in a child; return its result, 0 for success */
#define IN_CHILD(function)						\
	do {								\
		int _status;						\
		pid_t _pid = fork();					\
									\
		ASSERT_GE(_pid, 0);					\
		if (!_pid)						\
			_exit(function(&self->f));			\
		ASSERT_EQ(_pid, waitpid(_pid, &_status, 0));		\
		ASSERT_TRUE(WIFEXITED(_status));			\
		EXPECT_EQ(0, WEXITSTATUS(_status));			\
	} while (0)

/* Set one group that differs */
static void set_group(struct file *self, int err, uint64_t group, int line)
{
	struct tun_state *s = &self->st.s;

	if (self->wrong)
		return;
	if (state_check(self->fd, group, &self->st) || s->mask != group ||
	    state_set(self->fd, group, &self->st) != err ||
	    (err && s->failed != group))
		self->wrong = line;
}

#define EXPECT_SET(err, group) set_group(self, err, group, __LINE__)

/* Each group, beside the ioctl that sets the same value */
static int set_each_group(struct file *self)
{
	struct tun_state *s = &self->st.s;
	struct ifreq ifr = {};
	unsigned int carrier = 0;
	int value = 12345, prog = self->prog;

	if (drop_everything())
		return 1;

	/* TUNSETIFF is for the owner, and not for an attached file */
	s->device.flags ^= IFF_ONE_QUEUE;
	EXPECT_SET(EPERM, TUN_STATE_FLAGS);
	s->device.flags ^= IFF_ONE_QUEUE;
	/* ethtool -C needs a capability */
	s->link.rx_batched = 8;
	EXPECT_SET(EPERM, TUN_STATE_LINK);
	s->link.rx_batched = 0;

	/* All others are for any holder of the file */
	if (ioctl(self->fd, TUNSETPERSIST, 1) ||
	    ioctl(self->fd, TUNSETPERSIST, 0))
		return 2;
	s->device.flags |= IFF_PERSIST;
	EXPECT_SET(0, TUN_STATE_FLAGS);
	s->device.flags &= ~IFF_PERSIST;
	EXPECT_SET(0, TUN_STATE_FLAGS);
	if (ioctl(self->fd, TUNSETVNETHDRSZ, &value))
		return 3;
	s->vnet.hdr_size = 12;
	EXPECT_SET(0, TUN_STATE_VNET);
	if (ioctl(self->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4))
		return 4;
	s->offload.enabled = TUN_F_CSUM;
	EXPECT_SET(0, TUN_STATE_OFFLOAD);
	if (ioctl(self->fd, TUNSETSNDBUF, &value))
		return 5;
	s->sndbuf.queue = 54321;
	EXPECT_SET(0, TUN_STATE_SNDBUF);
	if (ioctl(self->fd, TUNSETCARRIER, &carrier))
		return 6;
	s->link.msg_enable = 0x2000;
	EXPECT_SET(0, TUN_STATE_LINK);
	s->txfilter.count = 1;
	EXPECT_SET(0, TUN_STATE_TXFILTER);
	if (tun_attach_filter(self->fd, self->st.insns, 1) ||
	    tun_detach_filter(self->fd))
		return 7;
	s->sockfilter.count = 1;
	EXPECT_SET(0, TUN_STATE_SOCKFILTER);
	if (ioctl(self->fd, TUNSETSTEERINGEBPF, &prog))
		return 8;
	s->filter.action = TUN_STATE_PROG_FD;
	s->filter.fd = self->prog;
	EXPECT_SET(0, TUN_STATE_FILTER);
	s->flows.count = 1;
	EXPECT_SET(0, TUN_STATE_FLOWS);
	ifr.ifr_flags = IFF_DETACH_QUEUE;
	if (ioctl(self->fd, TUNSETQUEUE, &ifr))
		return 9;
	s->queue.flags |= TUN_STATE_QUEUE_SOCKFILTER;
	EXPECT_SET(0, TUN_STATE_QUEUE);

	/* The owner comes last: now the device is another user's */
	if (ioctl(self->fd, TUNSETOWNER, 0))
		return 10;
	s->owner.uid = NOBODY;
	s->owner.gid = NOBODY;
	EXPECT_SET(0, TUN_STATE_OWNER);
	/* The owner may set the flags, as with TUNSETIFF */
	s->device.flags ^= IFF_ONE_QUEUE;
	EXPECT_SET(0, TUN_STATE_FLAGS);
	s->owner.gid = NOBODY + 1;
	EXPECT_SET(0, TUN_STATE_OWNER);
	s->device.flags ^= IFF_ONE_QUEUE;
	EXPECT_SET(EPERM, TUN_STATE_FLAGS);
	if (self->wrong)
		fprintf(stderr, "# line %d\n", self->wrong);
	return !!self->wrong;
}

TEST_F(file, alone)
{
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETOWNER, 1));
	self->f.st.s.owner.uid = 1;
	IN_CHILD(set_each_group);
}

/* All groups can be read, compared, and set to the values they have */
static int restore_all(struct file *self)
{
	struct state st;

	if (drop_everything() || state_get(self->fd, ALL_GROUPS, &st) ||
	    st.s.mask != ALL_GROUPS)
		return 1;
	if (state_check(self->fd, ALL_GROUPS, &st) || st.s.mask)
		return 2;
	if (state_set(self->fd, ALL_GROUPS, &st))
		return 3;
	return 0;
}

TEST_F(file, read_and_restore)
{
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETOWNER, 1));
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETSTEERINGEBPF, &self->f.prog));
	ASSERT_EQ(0, tun_attach_filter(self->f.fd, self->f.st.insns, 1));
	IN_CHILD(restore_all);
}

/* The device is in another network namespace than the process */
static int in_other_netns(struct file *self)
{
	struct stat here;
	struct state st;

	if (unshare(CLONE_NEWNET) || stat("/proc/self/ns/net", &here))
		return 1;
	if (state_get(self->fd, ALL_GROUPS, &st))
		return 2;
	if (st.s.identity.netns != self->st.s.identity.netns ||
	    st.s.identity.netns == here.st_ino)
		return 3;
	if (state_set(self->fd, ALL_GROUPS, &st))
		return 4;
	/* A capability must be for the namespace of the device */
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return 5;
	st.s.link.rx_batched = 8;
	if (state_set(self->fd, TUN_STATE_LINK, &st) != EPERM)
		return 6;
	return 0;
}

TEST_F(file, other_netns)
{
	IN_CHILD(in_other_netns);
}

/* A device in a user namespace that an unprivileged user has made */
static int in_own_userns(struct file *self)
{
	char name[IFNAMSIZ] = "dev1";
	struct state st;
	char map[64];
	int fd;

	if (setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) || prctl(PR_SET_DUMPABLE, 1))
		return 1;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return 2;
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %d 1", NOBODY);
	write_file("/proc/self/uid_map", map);
	write_file("/proc/self/gid_map", map);
	if (getuid() || getgid())
		return 3;
	fd = tun_queue(name, IFF_TAP | IFF_MULTI_QUEUE);
	if (fd < 0)
		return 4;

	/* Root here is that user; no other user has an id here */
	if (ioctl(fd, TUNSETOWNER, 0) || ioctl(fd, TUNSETGROUP, 0) ||
	    state_get(fd, ALL_GROUPS, &st) ||
	    st.s.owner.uid || st.s.owner.gid)
		return 5;
	st.s.owner.uid = NOBODY;
	if (state_set(fd, TUN_STATE_OWNER, &st) != EINVAL)
		return 6;
	st.s.owner.uid = 0;

	/* A capability for the device's namespace is enough for batching, but
	 * not for IFF_NAPI_FRAGS, as with ethtool and TUNSETIFF
	 */
	st.s.link.rx_batched = 8;
	if (state_set(fd, TUN_STATE_LINK, &st))
		return 7;
	st.s.device.flags |= IFF_NAPI | IFF_NAPI_FRAGS;
	if (state_set(fd, TUN_STATE_FLAGS, &st) != EPERM)
		return 8;
	st.s.device.flags &= ~IFF_NAPI_FRAGS;
	if (state_set(fd, TUN_STATE_FLAGS, &st))
		return 9;

	/* An owner outside has no id here */
	if (state_get(self->fd, TUN_STATE_OWNER, &st) ||
	    st.s.owner.uid != 65534)
		return 10;
	return 0;
}

TEST_F(file, own_userns)
{
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETOWNER, 1));
	IN_CHILD(in_own_userns);
}

/* An owner has different ids inside and outside of a user namespace */
static int owner_in_map(struct file *self)
{
	const char *map = "0 0 1\n1 100001 10\n";
	int ready[2], mapped[2];
	char path[64], c = 0;
	struct state st;
	int status;
	pid_t pid;

	/* Only a process outside may map more than one user */
	if (pipe(ready) || pipe(mapped))
		return 1;
	pid = fork();
	if (pid < 0)
		return 2;
	if (pid) {
		if (read(ready[0], &c, 1) != 1)
			return 3;
		snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
		write_file(path, map);
		snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
		write_file(path, map);
		if (write(mapped[1], &c, 1) != 1 ||
		    waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
			return 4;
		return WEXITSTATUS(status);
	}

	if (unshare(CLONE_NEWUSER) || write(ready[1], &c, 1) != 1 ||
	    read(mapped[0], &c, 1) != 1)
		_exit(5);
	if (state_get(self->fd, TUN_STATE_OWNER, &st) ||
	    st.s.owner.uid != 5 || st.s.owner.gid != 65534)
		_exit(6);
	if (state_check(self->fd, TUN_STATE_OWNER, &st) || st.s.mask)
		_exit(7);
	st.s.owner.uid = 6;
	st.s.owner.gid = 7;
	if (state_set(self->fd, TUN_STATE_OWNER, &st))
		_exit(8);
	_exit(0);
}

TEST_F(file, mapped_owner)
{
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETOWNER, 100005));
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETGROUP, 200005));
	IN_CHILD(owner_in_map);
	ASSERT_EQ(0, state_get(self->f.fd, TUN_STATE_OWNER, &self->f.st));
	EXPECT_EQ(100006, self->f.st.s.owner.uid);
	EXPECT_EQ(100007, self->f.st.s.owner.gid);
}

TEST_HARNESS_MAIN
