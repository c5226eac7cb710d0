/*
 * Take-over of a TAP from a QEMU that does not hand it over
 *
 * The file descriptors are duplicates of those of the source, which may be any
 * QEMU, and which uses them until it has stopped for the migration. Its stream
 * has no section for the TAP: the device itself tells about the queues.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include <linux/kcmp.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "monitor/monitor.h"
#include "qapi/error.h"

unsigned int tap_shared_count(const TapLocal *local)
{
    return local && local->shared_fds ? local->shared_fds->len : 0;
}

static void tap_shared_close(void *fd)
{
    if (*(int *)fd >= 0) {
        close(*(int *)fd);
    }
}

bool tap_shared_get_fds(TapLocal *local, const char *names, Error **errp)
{
    ERRP_GUARD();
    g_auto(GStrv) name = g_strsplit(names, ":", -1);

    local->shared_fds = g_array_new(false, false, sizeof(int));
    g_array_set_clear_func(local->shared_fds, tap_shared_close);
    if (g_strv_length(name) > MAX_QUEUE_NUM) {
        error_setg(errp, "netdev '%s': fds= has %u file descriptors, and a TAP "
                   "at most %d queues", local->id, g_strv_length(name),
                   MAX_QUEUE_NUM);
        return false;
    }
    for (int i = 0; name[i]; i++) {
        int fd = monitor_fd_param(monitor_cur(), name[i], errp);

        if (fd < 0) {
            error_prepend(errp, "netdev '%s' queue %d: ", local->id, i);
            return false;
        }
        g_array_append_val(local->shared_fds, fd);
    }
    return true;
}

/*
 * The only way to ask stock kernels is to set offloads, which nobody may do to
 * a queue in use: ask a TAP that nobody uses. If this QEMU may not make one, let
 * the NIC model offer everything: what the guest uses has worked on the source.
 */
static void tap_shared_probe(TapStream *stream)
{
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    stream->has_ufo = stream->has_uso = stream->has_tunnel = true;
    if (fd >= 0 && !ioctl(fd, TUNSETIFF, &ifr)) {
        stream->has_ufo = !ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_UFO);
        stream->has_uso = !ioctl(fd, TUNSETOFFLOAD,
                                 TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6);
        stream->has_tunnel = !ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 |
                                    TUN_F_TSO6 | TUN_F_UDP_TUNNEL_GSO);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static bool tap_shared_same_file(int a, int b)
{
    pid_t pid = getpid();

    return !syscall(SYS_kcmp, pid, pid, KCMP_FILE, a, b);
}

bool tap_shared_take(TapLocalQueue *queue, Error **errp)
{
    ERRP_GUARD();
    TapLocal *local = queue->netdev;
    int *fd = &g_array_index(local->shared_fds, int, queue->index);
    struct tun_state *st = &queue->st[TAP_KEPT];
    g_autofree char *why = NULL;
    const TapLocalQueue *other;

    QTAILQ_FOREACH(other, &local->queues, next) {
        if (other != queue && tap_shared_same_file(*fd, other->s->fd)) {
            error_setg(errp, "its file descriptor is that of queue %u: pass "
                       "each queue of the source once", other->index);
            return false;
        }
    }
    if (!tap_kstate_read(*fd, false, st, &why, errp)) {
        error_prepend(errp, "its file descriptor is not a queue of a TAP: "
                      "duplicate those of the source, in its order: ");
        return false;
    }
    if (!queue->index) {
        local->vnet_hdr = st->iff.flags & IFF_VNET_HDR;
    }
    queue->stream = (TapStream) {
        .fd = *fd,
        .using_vnet_hdr = queue->s->using_vnet_hdr,
        .enabled = st->queue.flags & TUN_STATE_QUEUE_ATTACHED,
        .host_vnet_hdr_len = local->vnet_hdr ? st->vnet.hdr_size : 0,
    };
    if (!(st->mask & TUN_STATE_OFFLOAD)) {
        tap_shared_probe(&queue->stream);
    }
    if (!tap_stream_load(queue, errp)) {
        queue->stream.fd = -1;
        return false;
    }
    *fd = -1;
    return true;
}

/* Without TUNGETSTATE, a macvtap does not tell if a queue is detached */
static bool tap_shared_tells_attached(const TapLocalQueue *queue)
{
    struct stat st;

    return queue->st[TAP_NOW].supported || fstat(queue->s->fd, &st) ||
           st.st_rdev == makedev(MISC_MAJOR, 200);
}

/*
 * The guest has run on the source until now. Its NIC may have changed settings
 * that the NIC model makes, here as there: those are no news.
 */
void tap_shared_start(TapLocal *local)
{
    g_autofree char *differences = NULL;
    TapLocalQueue *queue;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        struct tun_state *kept = &queue->st[TAP_KEPT];
        struct tun_state *now = &queue->st[TAP_NOW];

        kept->vnet = now->vnet;
        kept->offload = now->offload;
        kept->queue = now->queue;
        kept->steering = now->steering;
    }
    differences = tap_local_differences(local, TAP_KEPT, TAP_NOW,
                                        BIT(TAP_KPOLICY_GUARD) |
                                        BIT(TAP_KPOLICY_VERIFIED) |
                                        BIT(TAP_KPOLICY_OBSERVED));
    tap_local_observe(local, differences);
    QTAILQ_FOREACH(queue, &local->queues, next) {
        if (!tap_shared_tells_attached(queue)) {
            queue->st[TAP_NOW].queue.flags =
                queue->s->enabled ? 0 : TUN_STATE_QUEUE_ATTACHED;
        }
    }
    local->shared = false;
}
