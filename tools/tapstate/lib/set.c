// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Restore the state of a device with TUNSETSTATE
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/if_tun.h>

#include "private.h"

/* One call of tapstate_set() or tapstate_check() */
typedef struct Call {
    const TapstateDevice *want;
    TapstateDevice *now;
    guint64 groups;
    guint64 left_out;
    int progs[2]; /* descriptors, or -1 */
    TapstateReport report;
    void *data;
} Call;

G_GNUC_PRINTF(3, 4)
static void leave_out(Call *call, guint64 group, const char *format, ...)
{
    g_autofree char *why = NULL;
    va_list ap;

    if (call->report && !(call->left_out & group)) {
        va_start(ap, format);
        why = g_strdup_vprintf(format, ap);
        va_end(ap);
        call->report(group, why, call->data);
    }
    call->left_out |= group;
}

static bool is_attached(const struct tun_state_prog *a,
                        const struct tun_state_prog *b)
{
    return a->id == b->id && a->type == b->type &&
           !memcmp(a->tag, b->tag, sizeof(a->tag));
}

/* An id will do for the attached program; another takes a descriptor */
static void open_prog(Call *call, int i, guint64 group,
                      const struct tun_state_prog *want,
                      const struct tun_state_prog *now)
{
    g_autoptr(GError) err = NULL;

    if (!(call->groups & group) || !want->id || is_attached(want, now)) {
        return;
    }
    call->progs[i] = tapstate__open_prog(want, &call->want->progs[i], &err);
    if (call->progs[i] < 0) {
        leave_out(call, group, "%s", err->message);
    }
}

/* Leave out groups that no call could set */
static void choose(Call *call)
{
    const struct tun_state *want = &call->want->st, *now = &call->now->st;
    guint64 unknown = call->groups & ~now->supported;

    for (const Name *n = tapstate__groups; n->bit; n++) {
        if (unknown & n->bit) {
            leave_out(call, n->bit, "this device does not have it");
        }
    }
    if (call->groups & TUN_STATE_OWNER && want->owner.flags) {
        leave_out(call, TUN_STATE_OWNER, "unmapped: the user namespace in "
                  "which it was saved has no number for it; set it with "
                  "'ip tuntap'");
    }
    open_prog(call, 0, TUN_STATE_STEERING, &want->steering, &now->steering);
    open_prog(call, 1, TUN_STATE_FILTER, &want->filter, &now->filter);
}

/* A queue without a descriptor means that another has two */
static bool check_all_there(const TapstateDevice *now, GError **errp)
{
    for (guint i = 0; i < now->st.queues.count; i++) {
        if (!now->queues[i].nth) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                        "two of the file descriptors are of one queue; give "
                        "one of each");
            return false;
        }
    }
    return true;
}

static bool open_call(Call *call, const int *fds, guint n, GError **errp)
{
    guint64 saved = call->want->st.mask;

    call->progs[0] = call->progs[1] = -1;
    if (saved & TUN_STATE_QUEUES) {
        saved |= TUN_STATE_QUEUE | TUN_STATE_SNDBUF;
    }
    if (IS_MACVTAP(&call->want->st)) {
        saved |= TUN_STATE_IFF | TUN_STATE_VNET;
    }
    call->groups &= TAPSTATE_RESTORED & saved;
    call->now = tapstate_get(fds, n, errp);
    if (!call->now) {
        return false;
    }
    if (n == call->want->st.queues.count && n == call->now->st.queues.count) {
        if (!check_all_there(call->now, errp)) {
            return false;
        }
        choose(call);
        return true;
    }
    g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                "the device has %u queues, of which %u are there, but the "
                "saved one had %u; open as many", call->now->st.queues.count,
                n, call->want->st.queues.count);
    return false;
}

static void close_call(Call *call)
{
    for (int i = 0; i < 2; i++) {
        if (call->progs[i] >= 0) {
            close(call->progs[i]);
        }
    }
    tapstate_free(call->now);
}

static void use_prog(struct tun_state_prog *prog, int fd)
{
    if (fd >= 0) {
        prog->action = TUN_STATE_PROG_FD;
        prog->fd = fd;
    }
}

/* Argument of TUNSETSTATE for queue @i */
static struct tun_state argument(const Call *call, guint i)
{
    const Queue *q = &call->want->queues[i];
    struct tun_state st = call->want->st;

    st.supported = st.failed = 0;
    st.mask = call->groups & ~call->left_out;
    st.queue = q->q;
    st.queue.flags &= ~TUN_STATE_QUEUE_SELF;
    st.sndbuf.size = q->sndbuf;
    if (!q->sndbuf) {
        st.mask &= ~TUN_STATE_SNDBUF;
    }
    if (IS_MACVTAP(&call->want->st)) {
        st.iff = q->iff;
        st.vnet = q->vnet;
        if (!q->sndbuf) {
            st.mask &= ~(TUN_STATE_IFF | TUN_STATE_VNET);
        }
    }
    use_prog(&st.steering, call->progs[0]);
    use_prog(&st.filter, call->progs[1]);
    return st;
}

static bool set_queue(Call *call, int fd, guint i, GError **errp)
{
    struct tun_state st = argument(call, i);

    while (ioctl(fd, TUNSETSTATE, &st)) {
        int err = errno;
        const char *group = tapstate_group_name(st.failed);

        if (err != EPERM || !group || call->left_out & st.failed) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                        "queue %u%s%s: %s; nothing of this queue was changed, "
                        "%u before it %s", i, group ? ", " : "",
                        group ? group : "", g_strerror(err), i,
                        i == 1 ? "was" : "were");
            return false;
        }
        leave_out(call, st.failed, "%s; %s", g_strerror(err),
                  st.failed == TUN_STATE_LINK ?
                  "carrier takes an attached queue" :
                  "run with CAP_NET_ADMIN");
        st = argument(call, i);
    }
    return true;
}

/**
 * tapstate_set:
 * @dev: state to restore
 * @fds: a descriptor of each queue of the device, in the order of the queues
 *   of @dev
 * @n: their number
 * @groups: TUN_STATE_* groups to restore, such as %TAPSTATE_RESTORED
 * @report: (nullable): called once for each group that cannot be restored
 * @data: passed to @report
 * @errp: return location for an error
 *
 * Restores a device, queue by queue. Each queue gets all groups but those
 * reported, or none. An error leaves the queues before the failed one
 * restored.
 *
 * Returns: %true if all else than the reported groups was restored
 */
bool tapstate_set(const TapstateDevice *dev, const int *fds, unsigned int n,
                  uint64_t groups, TapstateReport report, void *data,
                  GError **errp)
{
    Call call = {
        .want = dev, .groups = groups, .report = report, .data = data,
    };
    bool ok = open_call(&call, fds, n, errp);

    for (guint i = 0; ok && i < n; i++) {
        ok = set_queue(&call, fds[i], i, errp);
    }
    close_call(&call);
    return ok;
}

/*
 * Let the kernel check a classic program on a socket that nobody uses; without
 * a socket, TUNSETSTATE will
 */
static bool is_valid(const TapstateDevice *dev)
{
    struct sock_fprog fprog = {
        .len = dev->st.sockfilter.count,
        .filter = dev->insns,
    };
    int sock, ret;

    if (!fprog.len) {
        return true;
    }
    sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sock < 0) {
        return true;
    }
    ret = setsockopt(sock, SOL_SOCKET, SO_ATTACH_FILTER, &fprog,
                     sizeof(fprog));
    close(sock);
    return ret == 0;
}

/* Each queue is compared with that of its descriptor, which may move it */
static void check_flags(Call *call)
{
    const TapstateDevice *want = call->want, *now = call->now;
    bool own = IS_MACVTAP(&now->st);
    guint32 differ = own ? 0 : want->st.iff.flags ^ now->st.iff.flags;

    for (guint n = 0; n < now->st.queues.count; n++) {
        const Queue *b = &now->queues[n];
        guint i = b->nth - 1;
        const Queue *a = &want->queues[i];

        if (own && a->sndbuf) {
            differ |= a->iff.flags ^ b->iff.flags;
        }
        if ((a->q.flags ^ b->q.flags) &
            (TUN_STATE_QUEUE_NAPI | TUN_STATE_QUEUE_NAPI_FRAGS)) {
            leave_out(call, TUN_STATE_QUEUE, "queue %u has other NAPI flags, "
                      "which a queue gets when it is opened", i);
        }
    }
    if (differ & ~IFF_PERSIST || (own && differ)) {
        leave_out(call, TUN_STATE_IFF, "other flags than 'persist' differ, "
                  "which a device gets when it is made");
    }
}

static void check_values(Call *call)
{
    const struct tun_state *want = &call->want->st, *now = &call->now->st;

    if ((want->offload.enabled | want->offload.wanted) &
        ~now->offload.supported & ~TUN_F_UFO) {
        leave_out(call, TUN_STATE_OFFLOAD,
                  "this kernel does not support all of them");
    }
    if (!(now->iff.flags & IFF_TAP) && want->sockfilter.count) {
        leave_out(call, TUN_STATE_SOCKFILTER, "a tun device has no filter");
    }
    if (!(now->iff.flags & IFF_TAP) && want->txfilter.count) {
        leave_out(call, TUN_STATE_TXFILTER, "a tun device has no filter");
    }
    if (!is_valid(call->want)) {
        leave_out(call, TUN_STATE_SOCKFILTER,
                  "the kernel does not accept this program");
    }
}

/**
 * tapstate_check:
 * @dev: state to restore
 * @fds: a descriptor of each queue of the device, in the order of the queues
 *   of @dev
 * @n: their number
 * @groups: TUN_STATE_* groups to restore
 * @report: (nullable): called once for each group that tapstate_set() could
 *   not set
 * @data: passed to @report
 * @errp: return location for an error
 *
 * Finds out without a change if tapstate_set() would succeed. The kernel may
 * have reasons to refuse that only it knows.
 *
 * Returns: %true if there is no reason known to fail
 */
bool tapstate_check(const TapstateDevice *dev, const int *fds, unsigned int n,
                    uint64_t groups, TapstateReport report, void *data,
                    GError **errp)
{
    Call call = {
        .want = dev, .groups = groups, .report = report, .data = data,
    };
    bool ok = open_call(&call, fds, n, errp);

    if (ok) {
        guint64 other = ~call.groups;

        call.left_out |= other;
        check_flags(&call);
        check_values(&call);
        ok = !(call.left_out & ~other);
        if (!ok) {
            g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                        "not everything can be restored");
        }
    }
    close_call(&call);
    return ok;
}
