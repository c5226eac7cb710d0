/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * State of a tun/tap device, as reported and restored through one of its
 * queue file descriptors.
 */
#ifndef _UAPI_LINUX_IF_TUN_STATE_H
#define _UAPI_LINUX_IF_TUN_STATE_H

#include <linux/const.h>
#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: TUNGETSTATE and TUNSETSTATE
 *
 * Both ioctls take a &struct tun_state on a tun/tap file descriptor, or on one of
 * macvtap or ipvtap, which has fewer groups. The size of the caller's struct is
 * part of the request number, so the struct can grow: a caller may pass a shorter
 * one, as long as the groups it names lie wholly inside it, and may pass a longer
 * one, as long as the part that the kernel does not know is zero.
 *
 * &tun_state.mask names groups with one ``TUN_STATE_*`` bit each. The layout
 * of a group never changes; later additions become new groups at the end of
 * the struct.
 *
 * TUNGETSTATE reports the named groups as one snapshot, and changes nothing.
 * &tun_state.supported lists the groups that this kernel knows for this kind of
 * device; a mask of 0 is enough to find out.
 *
 * With %TUN_STATE_F_HOLD, TUNGETSTATE makes the file hold the eBPF programs that
 * the call reports, so that TUNSETSTATE can put them back.
 *
 * TUNSETSTATE restores the groups that the ioctls of the file can set one by
 * one, all or none, with the rights of those ioctls. It compares
 * %TUN_STATE_IDENTITY with the device, and ignores %TUN_STATE_NETDEV,
 * %TUN_STATE_COALESCE, %TUN_STATE_XDP, %TUN_STATE_FLOWS and %TUN_STATE_QUEUES,
 * which rtnetlink, ethtool, bpf and the packets themselves change. So the answer
 * of TUNGETSTATE can be set unchanged. A value that is in force already is left
 * alone: it needs no rights and causes no notification.
 *
 * A call is about one queue. To restore a device of N queues takes N calls.
 *
 * TUNSETSTATE writes nothing behind &tun_state.failed. It writes the answer of
 * a success before it changes the device, so ``EFAULT``, too, means that
 * nothing was changed.
 *
 * The errors of both ioctls are:
 *
 * ``EBADFD``
 *	the file is not attached to a device, or has left it during a call with
 *	%TUN_STATE_F_HOLD.
 * ``EINVAL``
 *	an unknown bit in mask or flags, a reserved field that is not zero, a
 *	group that the struct has no room for, an invalid value, a value that
 *	this device cannot have, an invalid classic BPF program, a file that is
 *	not an eBPF program of type ``BPF_PROG_TYPE_SOCKET_FILTER``, or a struct
 *	shorter than its header. A kernel without these ioctls returns it, too,
 *	and leaves &tun_state.supported alone.
 * ``E2BIG``
 *	the struct is longer than the kernel's and not zero behind it, or is
 *	longer than a page.
 * ``ENOSPC``
 *	a user buffer is too small; its count holds the number of entries that
 *	are needed.
 * ``EXDEV``
 *	%TUN_STATE_IDENTITY does not match this device.
 * ``EPERM``
 *	carrier on without an attached queue, as for TUNSETCARRIER; or an owner
 *	is removed without CAP_NET_ADMIN.
 * ``EBADF``
 *	the program fd is not an open file, or the program id belongs neither
 *	to the attached program nor to one that this file holds.
 * ``ENOMEM``, ``EFAULT``
 *	as usual; ENOMEM also for a classic BPF program that does not fit into
 *	net.core.optmem_max in place of the one that the queue has.
 *
 * Attaching a queue may also fail with the error of a security module.
 *
 * After an error, &tun_state.failed holds the bit of the group that has failed,
 * or the unknown bits of the mask, or 0 if the error is about no group, and
 * &tun_state.mask is the caller's. After E2BIG, with a struct shorter than its
 * header, and where the struct itself cannot be read or written, nothing is
 * reported.
 *
 * After an error every field of the device, and every program that the file
 * holds, is as it was.
 */

/* Groups, for tun_state.mask, .supported and .failed */
#define TUN_STATE_IDENTITY	_BITULL(0)	/* guard: the device itself */
#define TUN_STATE_NETDEV	_BITULL(1)	/* report only: rtnetlink's */
#define TUN_STATE_IFF		_BITULL(2)	/* TUNSETIFF, TUNSETPERSIST */
#define TUN_STATE_OWNER		_BITULL(3)	/* TUNSETOWNER, TUNSETGROUP */
#define TUN_STATE_VNET		_BITULL(4)	/* TUNSETVNETHDRSZ, -LE, -BE */
#define TUN_STATE_OFFLOAD	_BITULL(5)	/* TUNSETOFFLOAD */
#define TUN_STATE_SNDBUF	_BITULL(6)	/* TUNSETSNDBUF */
#define TUN_STATE_LINK		_BITULL(7)	/* TUNSETCARRIER, TUNSETDEBUG */
#define TUN_STATE_COALESCE	_BITULL(8)	/* report only: ethtool's */
#define TUN_STATE_TXFILTER	_BITULL(9)	/* TUNSETTXFILTER */
#define TUN_STATE_SOCKFILTER	_BITULL(10)	/* TUNATTACHFILTER */
#define TUN_STATE_STEERING	_BITULL(11)	/* TUNSETSTEERINGEBPF */
#define TUN_STATE_FILTER	_BITULL(12)	/* TUNSETFILTEREBPF */
#define TUN_STATE_XDP		_BITULL(13)	/* report only: bpf's */
#define TUN_STATE_FLOWS		_BITULL(14)	/* report only: learned */
#define TUN_STATE_QUEUE		_BITULL(15)	/* TUNSETQUEUE: this queue */
#define TUN_STATE_QUEUES	_BITULL(16)	/* report only: all queues */

/*
 * List of the groups, for user space that prints or walks them. Each FN() gets
 * the number of the bit, the name of the group, and its member of struct
 * tun_state.
 */
#define __TUN_STATE_GROUPS(FN)			\
	FN(0, IDENTITY, identity)		\
	FN(1, NETDEV, netdev)			\
	FN(2, IFF, iff)				\
	FN(3, OWNER, owner)			\
	FN(4, VNET, vnet)			\
	FN(5, OFFLOAD, offload)			\
	FN(6, SNDBUF, sndbuf)			\
	FN(7, LINK, link)			\
	FN(8, COALESCE, coalesce)		\
	FN(9, TXFILTER, txfilter)		\
	FN(10, SOCKFILTER, sockfilter)		\
	FN(11, STEERING, steering)		\
	FN(12, FILTER, filter)			\
	FN(13, XDP, xdp)			\
	FN(14, FLOWS, flows)			\
	FN(15, QUEUE, queue)			\
	FN(16, QUEUES, queues)			\
	/* */

/* tun_state.flags */
#define TUN_STATE_F_HOLD	0x01	/* TUNGETSTATE: hold eBPF programs */

/**
 * struct tun_state_identity - the device that a queue belongs to
 * @netns: inode number of the device's network namespace, as in
 *	``stat("/proc/self/ns/net")``.
 * @ifindex: interface index.
 * @type: link type, ``ARPHRD_*``, see TUNSETLINK.
 * @reserved: zero.
 *
 * TUNSETSTATE never changes these: a value that differs is EXDEV.
 */
struct tun_state_identity {
	__aligned_u64 netns;
	__u32 ifindex;
	__u16 type;
	__u8 reserved[2];
};

/**
 * struct tun_state_netdev - settings of rtnetlink
 * @mtu: MTU in bytes.
 * @up: 1 if the device is administratively up, otherwise 0.
 * @addr_len: number of bytes of @addr in use.
 * @reserved: zero.
 * @name: interface name, terminated and padded with zero bytes.
 * @addr: hardware address, padded with zero bytes.
 *
 * TUNSETSTATE ignores these.
 */
struct tun_state_netdev {
	__u32 mtu;
	__u8 up;
	__u8 addr_len;
	__u8 reserved[2];
	__u8 name[16];
	__u8 addr[32];
};

/**
 * struct tun_state_iff - flags of the device
 * @flags: %IFF_TUN or %IFF_TAP, %IFF_NO_PI, %IFF_VNET_HDR, %IFF_MULTI_QUEUE,
 *	%IFF_ONE_QUEUE, %IFF_NAPI, %IFF_NAPI_FRAGS, %IFF_BACKPRESSURE and
 *	%IFF_PERSIST, as in TUNGETIFF.
 * @reserved: zero.
 *
 * %IFF_NO_PI is the device's; the same bit in the answer of TUNGETIFF may mean
 * %IFF_NOFILTER. %IFF_NAPI and %IFF_NAPI_FRAGS are the device's; each queue has
 * its own, see &struct tun_state_queue. On macvtap and ipvtap, all flags are the
 * queue's.
 *
 * TUNSETSTATE can change %IFF_PERSIST, as TUNSETPERSIST does. All others are
 * those of TUNSETIFF; a difference is EINVAL.
 */
struct tun_state_iff {
	__u32 flags;
	__u32 reserved;
};

/* tun_state_owner.flags */
#define TUN_STATE_OWNER_UID_UNMAPPED	0x01
#define TUN_STATE_OWNER_GID_UNMAPPED	0x02

/**
 * struct tun_state_owner - user and group that may attach to the device
 * @uid: user, in the caller's user namespace; -1: none.
 * @gid: group, in the caller's user namespace; -1: none.
 * @flags: %TUN_STATE_OWNER_UID_UNMAPPED: there is a user, whom the caller's
 *	user namespace does not know; @uid is the overflow uid.
 *	%TUN_STATE_OWNER_GID_UNMAPPED: there is a group that it does not know;
 *	@gid is the overflow gid.
 * @reserved: zero.
 *
 * With user and group, both must match. With neither, this kernel's TUNSETIFF
 * permits anybody, or nobody without CAP_NET_ADMIN: kernels differ.
 *
 * TUNSETSTATE needs CAP_NET_ADMIN in the user namespace of the device to remove a
 * user or group. An unmapped ID can only be left alone.
 */
struct tun_state_owner {
	__u32 uid;
	__u32 gid;
	__u32 flags;
	__u32 reserved;
};

/* tun_state_vnet.flags */
#define TUN_STATE_VNET_LE	0x01	/* TUNSETVNETLE */
#define TUN_STATE_VNET_BE	0x02	/* TUNSETVNETBE */

/**
 * struct tun_state_vnet - virtio-net header in front of each packet
 * @hdr_size: its size in bytes, as in TUNSETVNETHDRSZ.
 * @flags: byte order, %TUN_STATE_VNET_LE and %TUN_STATE_VNET_BE. The latter is
 *	invalid where TUNSETVNETBE is not supported.
 *
 * On macvtap and ipvtap, both are the queue's, otherwise the device's.
 */
struct tun_state_vnet {
	__u32 hdr_size;
	__u32 flags;
};

/**
 * struct tun_state_offload - offloads that the reader of the device accepts
 * @enabled: ``TUN_F_*`` of the last TUNSETOFFLOAD, in the combinations that it
 *	accepts. %TUN_F_UFO is never reported here: TUNSETOFFLOAD accepts it
 *	without effect.
 * @wanted: ``TUN_F_*`` that ``ethtool -K`` has left wanted, all for a new device.
 *	TUNSETOFFLOAD sets them to @enabled. The device uses an offload that is
 *	in both.
 * @supported: ``TUN_F_*`` that this kernel accepts.
 * @reserved: zero.
 *
 * TUNSETSTATE accepts %TUN_F_UFO in @enabled, without effect, and ignores
 * @supported.
 *
 * On macvtap and ipvtap, ethtool does not change these: @wanted is @enabled, and
 * must be for TUNSETSTATE.
 */
struct tun_state_offload {
	__u32 enabled;
	__u32 wanted;
	__u32 supported;
	__u32 reserved;
};

/**
 * struct tun_state_sndbuf - send buffer of the queue
 * @size: bytes that may be in flight into the host, positive.
 * @reserved: zero.
 *
 * TUNSETSTATE leaves the other queues alone and wakes writers that wait for
 * room, unlike TUNSETSNDBUF.
 */
struct tun_state_sndbuf {
	__s32 size;
	__u32 reserved;
};

/**
 * struct tun_state_link - carrier and messages
 * @carrier: 1 with carrier, 0 without.
 * @msg_enable: debug message mask, as in TUNSETDEBUG.
 */
struct tun_state_link {
	__u32 carrier;
	__u32 msg_enable;
};

/**
 * struct tun_state_coalesce - batching of packets into the host
 * @rx_frames: packets in a batch, as in ``ethtool -c``.
 * @reserved: zero.
 *
 * TUNSETSTATE ignores these.
 */
struct tun_state_coalesce {
	__u32 rx_frames;
	__u32 reserved;
};

#define TUN_STATE_TXFILTER_ADDRS 8

/**
 * struct tun_state_txfilter - addresses that pass to the reader of a TAP
 * @count: number of entries of @addr in use; 0 when the filter is off.
 * @reserved: zero.
 * @hash: bit N is set when multicast addresses with hash N pass, N being the
 *	upper 6 bits of the Ethernet CRC of the address; zero when the filter
 *	is off.
 * @addr: exact addresses; zero from @count on.
 *
 * This is the filter as the kernel holds it, not the list that TUNSETTXFILTER
 * was given: the addresses in @hash cannot be listed any more, and a list with
 * a ninth unicast address leaves the filter off. A TUN has none.
 */
struct tun_state_txfilter {
	__u32 count;
	__u32 reserved;
	__aligned_u64 hash;
	__u8 addr[TUN_STATE_TXFILTER_ADDRS][6];
};

/**
 * struct tun_state_array - entries in a user buffer
 * @entries: address of the buffer.
 * @count: in, entries that fit into the buffer; out, entries that there are.
 * @entry_size: size of an entry in the buffer, from 1 byte to a page.
 *	TUNGETSTATE copies as much of the kernel's entry as fits, and zeroes the
 *	remaining bytes.
 *
 * An array is the member of these groups:
 *
 * %TUN_STATE_SOCKFILTER
 *	&struct sock_filter: the instructions of the classic BPF program of the
 *	device; none without a program. A TUN has no program.
 * %TUN_STATE_FLOWS
 *	&struct tun_state_flow: the automatic steering table, in ascending order
 *	of the hash. There are 4096 at most. It is in use only while no steering
 *	program is attached.
 * %TUN_STATE_QUEUES
 *	&struct tun_state_queue: the attached queues in the order of their
 *	index, and then the detached ones, oldest first. There are 256 at most.
 *
 * TUNSETSTATE reads the @count entries of %TUN_STATE_SOCKFILTER, whose @entry_size
 * must be ``sizeof(struct sock_filter)``. It gives a new program to all queues of
 * the device, as TUNATTACHFILTER does. It leaves out the queue of this fd if the
 * call also sets %TUN_STATE_QUEUE, without %TUN_STATE_QUEUE_SOCKFILTER.
 * TUNGETFILTER returns @entries and @count from then on.
 */
struct tun_state_array {
	__aligned_u64 entries;
	__u32 count;
	__u32 entry_size;
};

/* tun_state_prog.action, for TUNSETSTATE */
#define TUN_STATE_PROG_ID	0	/* the program with this id; id 0: none */
#define TUN_STATE_PROG_FD	1	/* the program of this fd */
#define TUN_STATE_PROG_KEEP	2	/* the attached one or none */

/**
 * struct tun_state_prog - eBPF program of the device
 * @id: program id, 0 without a program.
 * @type: program type, %BPF_PROG_TYPE_SOCKET_FILTER; 0 without a program.
 * @tag: program tag; zero without a program.
 * @action: the program to attach, ``TUN_STATE_PROG_*``. TUNGETSTATE reports
 *	%TUN_STATE_PROG_ID.
 * @fd: program file descriptor for %TUN_STATE_PROG_FD, zero otherwise.
 *
 * An id alone does not give access to a program. With %TUN_STATE_PROG_ID and an
 * @id other than 0, @id, @type and @tag must be those of the attached program,
 * or of the program of this group that the file holds; anything else is EBADF.
 * With an @id of 0, @type and @tag must be zero, too. The other actions ignore
 * all three.
 *
 * TUNGETSTATE with %TUN_STATE_F_HOLD makes the file hold the programs that it
 * reports, and no others: it lets go of the program of a group that &tun_state.mask
 * does not name. They are held until the next such call, until the file is closed,
 * or until the device is deleted. Of concurrent calls, the last to return counts. All who
 * share the file can put them back, without a descriptor of the program and
 * without any capability. ``/proc/PID/fdinfo/FD`` shows their ids as
 * ``steering-held`` and ``filter-held``.
 */
struct tun_state_prog {
	__u32 id;
	__u32 type;
	__u8 tag[8];
	__u32 action;
	__s32 fd;
};

/**
 * struct tun_state_xdp - XDP programs of the device
 * @drv_prog_id: id of the program in driver mode, 0 without.
 * @skb_prog_id: id of the program in generic mode, 0 without.
 *
 * TUNSETSTATE ignores these.
 */
struct tun_state_xdp {
	__u32 drv_prog_id;
	__u32 skb_prog_id;
};

/**
 * struct tun_state_flow - entry of the automatic steering table
 * @rxhash: symmetric hash of the flow, see skb_get_hash().
 * @queue_index: queue that its packets are put on.
 * @age_ms: time since its last packet into the host, in milliseconds. An entry
 *	expires at about 3000.
 */
struct tun_state_flow {
	__u32 rxhash;
	__u32 queue_index;
	__u32 age_ms;
};

/* tun_state_queue.flags */
#define TUN_STATE_QUEUE_ATTACHED	0x01
#define TUN_STATE_QUEUE_NAPI		0x02
#define TUN_STATE_QUEUE_NAPI_FRAGS	0x04
#define TUN_STATE_QUEUE_SOCKFILTER	0x08 /* has the device's filter */
#define TUN_STATE_QUEUE_SELF		0x10 /* is the queue of this fd */

/**
 * struct tun_state_queue - a queue
 * @index: for an attached queue, the number that packets are steered by; for
 *	a detached one its place among the detached ones: on tun the one
 *	detached first comes first, on macvtap and ipvtap the one opened first.
 * @flags: ``TUN_STATE_QUEUE_*``. A queue opened with %IFF_NO_PI starts without the
 *	program of the device.
 * @ring_size: packets that fit into the queue.
 * @ring_len: packets waiting in the queue.
 *
 * TUNSETSTATE swaps the queue with the one at the place @index, so setting all
 * queues in ascending order rebuilds the order of all. There are as many places
 * as queues of the kind; a place beyond is EINVAL. Flows stay with the index. No
 * other ioctl sets the index of an attached queue without detaching it.
 *
 * TUNSETSTATE can change %TUN_STATE_QUEUE_ATTACHED, like TUNSETQUEUE, and
 * %TUN_STATE_QUEUE_SOCKFILTER, if the device has a program. It ignores
 * %TUN_STATE_QUEUE_SELF, @ring_size and @ring_len.
 */
struct tun_state_queue {
	__u32 index;
	__u32 flags;
	__u32 ring_size;
	__u32 ring_len;
};

/**
 * struct tun_state - argument of TUNGETSTATE and TUNSETSTATE
 * @mask: in, groups that are asked for; out, groups that are there
 *	(TUNGETSTATE), or that were restored or compared (TUNSETSTATE).
 * @flags: ``TUN_STATE_F_*``, zero for TUNSETSTATE.
 * @reserved: zero.
 * @supported: out, groups that this kernel knows for this kind of device.
 * @failed: out, the group that an error is about, or 0.
 * @identity: %TUN_STATE_IDENTITY
 * @netdev: %TUN_STATE_NETDEV
 * @iff: %TUN_STATE_IFF
 * @owner: %TUN_STATE_OWNER
 * @vnet: %TUN_STATE_VNET
 * @offload: %TUN_STATE_OFFLOAD
 * @sndbuf: %TUN_STATE_SNDBUF
 * @link: %TUN_STATE_LINK
 * @coalesce: %TUN_STATE_COALESCE
 * @txfilter: %TUN_STATE_TXFILTER
 * @sockfilter: %TUN_STATE_SOCKFILTER
 * @steering: %TUN_STATE_STEERING
 * @filter: %TUN_STATE_FILTER
 * @xdp: %TUN_STATE_XDP
 * @flows: %TUN_STATE_FLOWS
 * @queue: %TUN_STATE_QUEUE
 * @queues: %TUN_STATE_QUEUES
 *
 * Groups that @mask does not name are ignored on the way in. TUNGETSTATE fills
 * them with zero.
 */
struct tun_state {
	__aligned_u64 mask;
	__u32 flags;
	__u32 reserved;
	__aligned_u64 supported;
	__aligned_u64 failed;
	struct tun_state_identity identity;
	struct tun_state_netdev netdev;
	struct tun_state_iff iff;
	struct tun_state_owner owner;
	struct tun_state_vnet vnet;
	struct tun_state_offload offload;
	struct tun_state_sndbuf sndbuf;
	struct tun_state_link link;
	struct tun_state_coalesce coalesce;
	struct tun_state_txfilter txfilter;
	struct tun_state_array sockfilter;
	struct tun_state_prog steering;
	struct tun_state_prog filter;
	struct tun_state_xdp xdp;
	struct tun_state_array flows;
	struct tun_state_queue queue;
	struct tun_state_array queues;
};

#define TUN_STATE_SIZE_VER0	360 /* the first published struct */

#define TUNGETSTATE _IOWR('T', 232, struct tun_state)
#define TUNSETSTATE _IOWR('T', 233, struct tun_state)

#endif /* _UAPI_LINUX_IF_TUN_STATE_H */
