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
 * Both ioctls take a &struct tun_state on a tun/tap file descriptor. The size
 * of the caller's struct is part of the request number, so the struct can
 * grow: a caller may pass a shorter one, as long as the groups it names lie
 * wholly inside it, and may pass a longer one, as long as the part that the
 * kernel does not know is zero.
 *
 * &tun_state.mask names groups with one ``TUN_STATE_*`` bit each. The layout
 * of a group never changes; later additions become new groups at the end of
 * the struct.
 *
 * TUNGETSTATE reports the groups that are asked for, as one snapshot, and
 * changes nothing. &tun_state.supported says which groups there are to ask for;
 * a mask of 0 is enough to find out.
 *
 * TUNSETSTATE restores the groups, all or none. It passes over groups that can
 * only be read, so the answer of TUNGETSTATE can be set unchanged. It leaves a
 * value alone that is in force already, which needs no rights.
 *
 * With %TUN_STATE_F_CHECK, TUNSETSTATE compares instead, changes nothing, and
 * reports in &tun_state.mask the groups of the argument that differ from the
 * device. A value that this device cannot have differs; a value that no device
 * can have is an error, as without the flag.
 *
 * TUNSETSTATE writes nothing behind &tun_state.failed. It writes the answer of
 * a success before it changes the device, so ``EFAULT``, too, means that
 * nothing was changed.
 *
 * The errors of both ioctls are:
 *
 * ``EBADFD``
 *	the file is not attached to a device.
 * ``EINVAL``
 *	an unknown bit in mask or flags, a reserved field that is not zero, a
 *	group that the struct has no room for, an invalid value, an invalid
 *	classic BPF program, a file that is not an eBPF program of type
 *	``BPF_PROG_TYPE_SOCKET_FILTER``, or a struct shorter than its header.
 *	A kernel without these ioctls returns it, too, and leaves
 *	&tun_state.supported alone.
 * ``E2BIG``
 *	the struct is longer than the kernel's and not zero behind it, or is
 *	longer than a page.
 * ``ENOSPC``
 *	a user buffer is too small; its count holds the number of entries that
 *	are needed.
 * ``EXDEV``
 *	%TUN_STATE_IDENTITY does not match this device.
 * ``EPERM``
 *	flags of a device that TUNSETIFF would refuse, or %IFF_NAPI_FRAGS on,
 *	without CAP_NET_ADMIN; batching without CAP_NET_ADMIN, as for
 *	``ethtool -C``; or carrier on without an attached queue, as for
 *	TUNSETCARRIER.
 * ``EBADF``
 *	the program fd is not an open file, or the program id belongs neither
 *	to the attached program nor to the one that TUNGETSTATE reported last
 *	on this file.
 * ``ENOMEM``, ``EFAULT``
 *	as usual; ENOMEM also for a classic BPF program that does not fit into
 *	net.core.optmem_max, as for TUNATTACHFILTER.
 *
 * Attaching a queue may also fail with the error of a security module.
 *
 * After an error, &tun_state.failed holds the bit of the group that has failed,
 * or the unknown bits of the mask, or 0 if the error is about no group, and
 * &tun_state.mask is the caller's. After E2BIG, with a struct shorter than its
 * header, and where the struct itself cannot be read or written, nothing is
 * reported. After an error of TUNSETSTATE every field of the device is as it was.
 */

/* Groups, for tun_state.mask, .supported and .failed */
#define TUN_STATE_IDENTITY	_BITULL(0)	/* which device this is */
#define TUN_STATE_FLAGS		_BITULL(1)	/* IFF_* of the device */
#define TUN_STATE_OWNER		_BITULL(2)	/* user and group */
#define TUN_STATE_VNET		_BITULL(3)	/* virtio-net header */
#define TUN_STATE_OFFLOAD	_BITULL(4)	/* TUN_F_* */
#define TUN_STATE_SNDBUF	_BITULL(5)	/* send buffer sizes */
#define TUN_STATE_LINK		_BITULL(6)	/* carrier, debug, batching */
#define TUN_STATE_TXFILTER	_BITULL(7)	/* receive address filter */
#define TUN_STATE_SOCKFILTER	_BITULL(8)	/* classic BPF program */
#define TUN_STATE_STEERING	_BITULL(9)	/* eBPF queue selection */
#define TUN_STATE_FILTER	_BITULL(10)	/* eBPF packet filter */
#define TUN_STATE_XDP		_BITULL(11)	/* XDP program, get only */
#define TUN_STATE_FLOWS		_BITULL(12)	/* automatic steering table */
#define TUN_STATE_QUEUE		_BITULL(13)	/* the queue of this fd */
#define TUN_STATE_QUEUES	_BITULL(14)	/* all queues, get only */

/*
 * List of the groups, for user space that prints or walks them. Each FN() gets
 * the number of the bit, the name of the group, and its member of struct
 * tun_state.
 */
#define __TUN_STATE_GROUPS(FN)			\
	FN(0, IDENTITY, identity)		\
	FN(1, FLAGS, device)			\
	FN(2, OWNER, owner)			\
	FN(3, VNET, vnet)			\
	FN(4, OFFLOAD, offload)			\
	FN(5, SNDBUF, sndbuf)			\
	FN(6, LINK, link)			\
	FN(7, TXFILTER, txfilter)		\
	FN(8, SOCKFILTER, sockfilter)		\
	FN(9, STEERING, steering)		\
	FN(10, FILTER, filter)			\
	FN(11, XDP, xdp)			\
	FN(12, FLOWS, flows)			\
	FN(13, QUEUE, queue)			\
	FN(14, QUEUES, queues)			\
	/* */

/* tun_state.flags */
#define TUN_STATE_F_CHECK	0x01	/* TUNSETSTATE: compare only */

/**
 * struct tun_state_identity - which device a queue belongs to
 * @netns: inode number of the device's network namespace, as in
 *	``stat("/proc/self/ns/net")``.
 * @ifindex: interface index.
 * @mtu: MTU in bytes.
 * @type: link type, ``ARPHRD_*``.
 * @addr_len: number of bytes of @addr in use.
 * @reserved: zero.
 * @name: interface name, terminated and padded with zero bytes.
 * @addr: hardware address, padded with zero bytes.
 *
 * TUNSETSTATE never changes these: a value that differs is EXDEV.
 */
struct tun_state_identity {
	__aligned_u64 netns;
	__u32 ifindex;
	__u32 mtu;
	__u16 type;
	__u8 addr_len;
	__u8 reserved[5];
	__u8 name[16];
	__u8 addr[32];
};

/**
 * struct tun_state_flags - flags of the device
 * @flags: %IFF_TUN or %IFF_TAP, %IFF_NO_PI, %IFF_VNET_HDR, %IFF_MULTI_QUEUE,
 *	%IFF_ONE_QUEUE, %IFF_NAPI, %IFF_NAPI_FRAGS, %IFF_BACKPRESSURE and
 *	%IFF_PERSIST, as in TUNGETIFF.
 * @reserved: zero.
 *
 * %IFF_TUN, %IFF_TAP and %IFF_MULTI_QUEUE are fixed when a device is made.
 * %IFF_NO_PI is that of the device, even where TUNGETIFF reports %IFF_NOFILTER,
 * which is the same bit. %IFF_NAPI and %IFF_NAPI_FRAGS are the device's; each
 * queue has its own, see &tun_state_queue.
 */
struct tun_state_flags {
	__u32 flags;
	__u32 reserved;
};

/**
 * struct tun_state_owner - who may attach to the device
 * @uid: user, in the caller's user namespace.
 * @gid: group, in the caller's user namespace.
 *
 * -1: not set; what that permits is up to this kernel's TUNSETIFF.
 * An owner that the caller's user namespace does not know reads as the
 * overflow uid; setting that same value leaves the owner as it is.
 */
struct tun_state_owner {
	__u32 uid;
	__u32 gid;
};

/* tun_state_vnet.flags */
#define TUN_STATE_VNET_LE	0x01	/* TUNSETVNETLE */
#define TUN_STATE_VNET_BE	0x02	/* TUNSETVNETBE */

/**
 * struct tun_state_vnet - virtio-net header in front of each packet
 * @hdr_size: its size in bytes, as in TUNSETVNETHDRSZ.
 * @flags: byte order, %TUN_STATE_VNET_LE and %TUN_STATE_VNET_BE. The latter is
 *	invalid where TUNSETVNETBE is not supported.
 */
struct tun_state_vnet {
	__u32 hdr_size;
	__u32 flags;
};

/**
 * struct tun_state_offload - offloads that the reader of the device accepts
 * @enabled: ``TUN_F_*`` in force, in the combinations that TUNSETOFFLOAD
 *	accepts. %TUN_F_UFO is accepted here and never reported, as
 *	TUNSETOFFLOAD accepts it without effect.
 * @supported: ``TUN_F_*`` that this kernel accepts. Ignored by TUNSETSTATE.
 */
struct tun_state_offload {
	__u32 enabled;
	__u32 supported;
};

/**
 * struct tun_state_sndbuf - bytes that may be in flight into the host
 * @device: last value of TUNSETSNDBUF on the device.
 * @queue: the value in force for the queue of this fd.
 *
 * TUNSETSTATE leaves the other queues alone, unlike TUNSETSNDBUF.
 */
struct tun_state_sndbuf {
	__s32 device;
	__s32 queue;
};

/**
 * struct tun_state_link - link state and tuning
 * @carrier: 1 with carrier, 0 without.
 * @msg_enable: debug message mask, as in TUNSETDEBUG.
 * @rx_batched: packets that are batched on their way into the host, as in
 *	``ethtool -C DEV rx-frames``; 64 at most.
 * @reserved: zero.
 */
struct tun_state_link {
	__u32 carrier;
	__u32 msg_enable;
	__u32 rx_batched;
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
 * struct tun_state_sockfilter - classic BPF program of the device
 * @insns: user buffer of &struct sock_filter.
 * @count: TUNGETSTATE: in, entries in the buffer; out, instructions of the
 *	program. TUNSETSTATE: instructions. 0 without a program.
 * @reserved: zero.
 *
 * TUNSETSTATE gives a new program to all queues of the device, as
 * TUNATTACHFILTER does. It leaves out the queue of this fd if the call also sets
 * %TUN_STATE_QUEUE, without %TUN_STATE_QUEUE_SOCKFILTER. TUNGETFILTER returns
 * @insns and @count from then on. A TUN has no program.
 */
struct tun_state_sockfilter {
	__aligned_u64 insns;
	__u32 count;
	__u32 reserved;
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
 * or of the program that the last successful TUNGETSTATE of this group has
 * reported on this file; anything else is EBADF. So the holder of the file can
 * restore a program that was read through it, without a file descriptor of the
 * program and without any capability. The file holds a reference to that program
 * until TUNGETSTATE reads the group again, or the file is closed. The other
 * actions ignore @id, @type and @tag.
 */
struct tun_state_prog {
	__u32 id;
	__u32 type;
	__u8 tag[8];
	__u32 action;
	__s32 fd;
};

/**
 * struct tun_state_xdp - XDP program of the device
 * @id: program id, 0 without a program.
 * @reserved: zero.
 */
struct tun_state_xdp {
	__u32 id;
	__u32 reserved;
};

/**
 * struct tun_state_flow - entry of the automatic steering table
 * @rxhash: symmetric hash of the flow, see skb_get_hash().
 * @queue_index: queue that its packets are put on, 255 at most. If that queue
 *	has gone, packets go to queue 0.
 * @age_ms: time since its last packet into the host, in milliseconds. An entry
 *	expires at about 3000. %TUN_STATE_F_CHECK does not compare it.
 * @reserved: zero.
 */
struct tun_state_flow {
	__u32 rxhash;
	__u32 queue_index;
	__u32 age_ms;
	__u32 reserved;
};

/**
 * struct tun_state_flows - automatic steering table
 * @flows: user buffer of &struct tun_state_flow, each with its own @rxhash;
 *	TUNGETSTATE reports them in ascending order, TUNSETSTATE takes any.
 * @count: TUNGETSTATE: in, entries in the buffer; out, flows. TUNSETSTATE:
 *	flows. There are 4096 at most.
 * @entry_size: size of an entry, ``sizeof(struct tun_state_flow)``.
 *
 * The table goes on learning: it may change as soon as it has been read or set.
 * It is in use only while no steering program is attached.
 */
struct tun_state_flows {
	__aligned_u64 flows;
	__u32 count;
	__u32 entry_size;
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
 *	a detached one its place among the detached ones, oldest first.
 *	TUNSETSTATE swaps the queue with the one at this place, so setting all
 *	queues in ascending order rebuilds the order of all. There are as many
 *	places as queues of the kind; a place beyond is EINVAL.
 * @flags: ``TUN_STATE_QUEUE_*``. TUNSETSTATE can change
 *	%TUN_STATE_QUEUE_ATTACHED, like TUNSETQUEUE, and
 *	%TUN_STATE_QUEUE_SOCKFILTER, if the device has a program; it ignores
 *	%TUN_STATE_QUEUE_SELF. A queue opened with %IFF_NO_PI does not get the
 *	program that the device has at the time.
 * @ring_size: packets that fit into the queue. Ignored by TUNSETSTATE.
 * @ring_len: packets waiting in the queue. Ignored by TUNSETSTATE.
 * @sndbuf: send buffer size in bytes. Ignored by TUNSETSTATE, which restores
 *	it with %TUN_STATE_SNDBUF.
 * @reserved: zero.
 */
struct tun_state_queue {
	__u32 index;
	__u32 flags;
	__u32 ring_size;
	__u32 ring_len;
	__s32 sndbuf;
	__u32 reserved;
};

/**
 * struct tun_state_queues - all queues of the device
 * @queues: user buffer of &struct tun_state_queue, the attached queues in the
 *	order of their index and then the detached ones, oldest first.
 * @count: in, entries in the buffer; out, queues.
 * @entry_size: size of an entry, ``sizeof(struct tun_state_queue)``.
 * @attached: out, number of attached queues.
 * @detached: out, number of detached queues.
 *
 * %TUN_STATE_F_CHECK compares @count and, in each entry, the index, the flags
 * other than %TUN_STATE_QUEUE_SELF, and the send buffer size.
 */
struct tun_state_queues {
	__aligned_u64 queues;
	__u32 count;
	__u32 entry_size;
	__u32 attached;
	__u32 detached;
};

/**
 * struct tun_state - argument of TUNGETSTATE and TUNSETSTATE
 * @mask: in, groups that are asked for; out, groups that are there
 *	(TUNGETSTATE), were set (TUNSETSTATE), or differ (%TUN_STATE_F_CHECK).
 * @flags: ``TUN_STATE_F_*``, zero for TUNGETSTATE.
 * @reserved: zero.
 * @supported: out, groups that this kernel knows.
 * @failed: out, the group that an error is about, or 0.
 * @identity: %TUN_STATE_IDENTITY
 * @device: %TUN_STATE_FLAGS
 * @owner: %TUN_STATE_OWNER
 * @vnet: %TUN_STATE_VNET
 * @offload: %TUN_STATE_OFFLOAD
 * @sndbuf: %TUN_STATE_SNDBUF
 * @link: %TUN_STATE_LINK
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
	struct tun_state_flags device;
	struct tun_state_owner owner;
	struct tun_state_vnet vnet;
	struct tun_state_offload offload;
	struct tun_state_sndbuf sndbuf;
	struct tun_state_link link;
	struct tun_state_txfilter txfilter;
	struct tun_state_sockfilter sockfilter;
	struct tun_state_prog steering;
	struct tun_state_prog filter;
	struct tun_state_xdp xdp;
	struct tun_state_flows flows;
	struct tun_state_queue queue;
	struct tun_state_queues queues;
};

#define TUNGETSTATE _IOWR('T', 232, struct tun_state)
#define TUNSETSTATE _IOWR('T', 233, struct tun_state)

#endif /* _UAPI_LINUX_IF_TUN_STATE_H */
