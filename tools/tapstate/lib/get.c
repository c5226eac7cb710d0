// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Read the state of a device with TUNGETSTATE
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>

#include "private.h"

G_DEFINE_QUARK(tapstate-error-quark, tapstate_error)

static void free_holder(gpointer opaque)
{
    Holder *h = opaque;

    g_free(h->comm);
}

TapstateDevice *tapstate__new(void)
{
    TapstateDevice *dev = g_new0(TapstateDevice, 1);

    dev->holders = g_array_new(false, true, sizeof(Holder));
    g_array_set_clear_func(dev->holders, free_holder);
    return dev;
}

/**
 * tapstate_free:
 * @dev: state, or %NULL
 */
void tapstate_free(TapstateDevice *dev)
{
    if (!dev) {
        return;
    }
    for (guint i = 0; i < G_N_ELEMENTS(dev->progs); i++) {
        g_free(dev->progs[i].name);
        g_free(dev->progs[i].pin);
    }
    g_free(dev->queues);
    g_free(dev->insns);
    g_free(dev->flows);
    g_array_unref(dev->holders);
    g_free(dev);
}

/**
 * tapstate_state:
 * @dev: state
 *
 * Groups that are not in the mask are zero. The arrays belong to @dev; the
 * size of an entry is in their entry_size.
 *
 * Returns: the state as the kernel has it
 */
const struct tun_state *tapstate_state(const TapstateDevice *dev)
{
    return &dev->st;
}

/* After a failure, errno is that of the ioctl */
bool tapstate__ioctl_get(int fd, struct tun_state *st, GError **errp)
{
    const char *group;
    int err;

    if (ioctl(fd, TUNGETSTATE, st) == 0) {
        return true;
    }

    err = errno;
    group = tapstate_group_name(st->failed);
    if (err == EBADFD) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "the file descriptor is not attached to a tun/tap device");
    } else if (err == ENOTTY) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NOT_TUN,
                    "the file descriptor is not a tun/tap queue");
    } else if (err == EINVAL && !st->supported) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_KERNEL,
                    "the tun driver of this kernel lacks TUNGETSTATE; "
                    "load the patched tun module or the live patch");
    } else {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "TUNGETSTATE failed%s%s: %s", group ? " for " : "",
                    group ? group : "", g_strerror(err));
    }
    errno = err;
    return false;
}

static struct tun_state_array room(void *entries, guint32 count, guint32 size)
{
    return (struct tun_state_array) {
        .entries = (guintptr)entries,
        .count = count,
        .entry_size = size,
    };
}

/* A later kernel may have more to say about a queue, and fill more of Queue */
static void clear_own(TapstateDevice *dev)
{
    for (guint i = 0; i < dev->st.queues.count; i++) {
        dev->queues[i] = (Queue) { .q = dev->queues[i].q };
    }
}

/* Read all groups in @mask, with arrays as large as the kernel wants them */
static bool read_all(TapstateDevice *dev, int fd, guint64 mask, GError **errp)
{
    struct tun_state *st = &dev->st;
    guint32 n_queues = MAX_QUEUES, n_insns = BPF_MAXINSNS, n_flows = MAX_FLOWS;

    for (;;) {
        g_autoptr(GError) err = NULL;

        dev->queues = g_renew(Queue, dev->queues, n_queues);
        dev->insns = g_renew(struct sock_filter, dev->insns, n_insns);
        dev->flows = g_renew(struct tun_state_flow, dev->flows, n_flows);
        *st = (struct tun_state) {
            .mask = mask,
            .sockfilter = room(dev->insns, n_insns, sizeof(*dev->insns)),
            .flows = room(dev->flows, n_flows, sizeof(*dev->flows)),
            .queues = room(dev->queues, n_queues, sizeof(*dev->queues)),
        };
        if (tapstate__ioctl_get(fd, st, &err)) {
            clear_own(dev);
            return true;
        }
        if (errno == ENOSPC && st->queues.count > n_queues) {
            n_queues = st->queues.count;
        } else if (errno == ENOSPC && st->sockfilter.count > n_insns) {
            n_insns = st->sockfilter.count;
        } else if (errno == ENOSPC && st->flows.count > n_flows) {
            n_flows = st->flows.count;
        } else {
            g_propagate_error(errp, g_steal_pointer(&err));
            return false;
        }
    }
}

/* Add the settings that only the file of a queue reports; @nth counts from 1 */
static bool read_queue(TapstateDevice *dev, int fd, guint nth, GError **errp)
{
    const guint64 flags = TUN_STATE_QUEUE_ATTACHED;
    struct tun_state st = {
        .mask = TUN_STATE_IDENTITY | TUN_STATE_SNDBUF | TUN_STATE_QUEUE,
    };

    if (IS_MACVTAP(&dev->st)) {
        st.mask |= TUN_STATE_IFF | TUN_STATE_VNET;
    }
    if (!tapstate__ioctl_get(fd, &st, errp)) {
        return false;
    }
    if (memcmp(&st.identity, &dev->st.identity, sizeof(st.identity))) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "the file descriptors are queues of several devices");
        return false;
    }
    for (guint i = 0; i < dev->st.queues.count; i++) {
        Queue *q = &dev->queues[i];

        if (q->q.index == st.queue.index &&
            !((q->q.flags ^ st.queue.flags) & flags)) {
            q->nth = nth;
            q->sndbuf = st.sndbuf.size;
            q->iff = st.iff;
            q->vnet = st.vnet;
        }
    }
    return true;
}

/**
 * tapstate_get:
 * @fds: (array length=n): file descriptors of queues of one device
 * @n: their number, at least 1
 * @errp: return location for an error
 *
 * Reads all groups that the kernel has. It lists all queues, but reports the
 * send buffer (and on macvtap flags and header) of those in @fds only. One call
 * of the kernel reads the device, and one more each queue in @fds: only the
 * former is a single snapshot.
 *
 * Returns: (transfer full): the state, or %NULL
 */
TapstateDevice *tapstate_get(const int *fds, unsigned int n, GError **errp)
{
    g_autoptr(TapstateDevice) dev = tapstate__new();
    struct tun_state probe = { 0 };

    if (!n) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "no file descriptor of a queue");
        return NULL;
    }
    if (!tapstate__ioctl_get(fds[0], &probe, errp) ||
        !read_all(dev, fds[0], probe.supported & ALL_GROUPS, errp)) {
        return NULL;
    }
    for (guint i = 0; i < n; i++) {
        if (!read_queue(dev, fds[i], i + 1, errp)) {
            return NULL;
        }
    }
    dev->progs[0].name = tapstate__prog_name(dev->st.steering.id);
    dev->progs[1].name = tapstate__prog_name(dev->st.filter.id);
    return g_steal_pointer(&dev);
}

void tapstate__add_holder(TapstateDevice *dev, const TapstateQueue *q)
{
    Holder h = {
        .pid = q->pid,
        .fd = q->fd,
        .comm = tapstate__escape(q->comm, sizeof(q->comm)),
        .attached = q->attached > 0,
        .index = q->index,
    };

    g_array_append_val(dev->holders, h);
}
