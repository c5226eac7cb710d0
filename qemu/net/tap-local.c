/*
 * Hand-over of a TAP queue to another QEMU on the same host
 *
 * Section net-tap of the migration stream holds the file descriptor of the
 * queue, its kernel state, and pending packets. Until the target runs, the
 * source may resume: so neither side reads from the queue or changes the
 * device while the VM is stopped.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local.h"
#include "tap-kstate.h"
#include "tap-setting.h"
#include "tap_int.h"

#include <net/if.h>

#include "hw/qdev-core.h"
#include "hw/vmstate-if.h"
#include "migration/cpr.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "migration/qemu-file.h"
#include "migration/vmstate.h"
#include "net/eth.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "standard-headers/linux/virtio_net.h"
#include "system/runstate.h"

#define TYPE_TAP_LOCAL "tap-local"
OBJECT_DECLARE_SIMPLE_TYPE(TapLocal, TAP_LOCAL)

/* struct virtio_net_hdr_v1_hash_tunnel is the longest that NIC models use */
#define TAP_LOCAL_MAX_VNET_HDR_LEN 24

/* Limit of pending packets of a guest, for a TAP that blocks */
#define TAP_LOCAL_MAX_SENT (16 * MiB)

/* Pending packets: read but not delivered, or not yet written */
typedef struct TapLocalKept {
    uint32_t size;
    uint8_t *data;
} TapLocalKept;

struct TapLocal {
    Object parent_obj;

    NetClientState *nc;
    const TapLocalOps *ops;
    VMChangeStateEntry *vmstate;
    VMChangeStateEntry *vmstate_last;
    NotifierWithReturn incoming;
    NotifierWithReturn normal;
    NotifierWithReturn cpr;
    int index;
    bool vnet_hdr;          /* option vnet_hdr= */
    char *want_ifname;      /* option ifname=, or NULL */
    OnOffAuto kernel_state;

    bool waiting;           /* for the fd from the migration stream */
    bool held;              /* this QEMU must not read or change the TAP */
    bool in_stream;         /* held because an outgoing stream has the fd */
    bool offered;           /* the current migration has the fd */
    bool handed_over;       /* a completed migration has the fd */
    bool started;           /* NIC and vhost run */

    uint32_t deferred;      /* bit per TapSetting */
    int value[TAP_SETTING__MAX];

    TapLocalQueue queue;
    char ifname[IFNAMSIZ];
    TapKState ks;
    char *observed;         /* change of the TAP that was logged, or NULL */

    TapLocalKept received;  /* at most one packet */
    TapLocalKept sent;      /* packets, each behind its length */

    QLIST_ENTRY(TapLocal) next;
};

static QLIST_HEAD(, TapLocal) tap_locals = QLIST_HEAD_INITIALIZER(tap_locals);

static bool tap_local_supported(const NetdevTapOptions *tap)
{
    return (tap->has_local_migration_supported &&
            tap->local_migration_supported) || (tap->has_cpr && tap->cpr);
}

/* True if a migration with the present parameters hands the TAP over */
static bool tap_local_active(void)
{
    return migrate_local() || migrate_mode() == MIG_MODE_CPR_TRANSFER;
}

bool tap_local_incoming(const NetdevTapOptions *tap, const char *name,
                        bool *incoming, Error **errp)
{
    bool supported = tap_local_supported(tap);

    /* Migration parameters do not exist before the machine is ready */
    *incoming = tap->has_incoming_fds ? tap->incoming_fds :
                supported && runstate_check(RUN_STATE_INMIGRATE) &&
                (cpr_is_incoming() ||
                 (phase_check(PHASE_MACHINE_READY) && migrate_local()));

    if (tap->has_kernel_state && !supported) {
        error_setg(errp, "netdev '%s': kernel-state= needs "
                   "local-migration-supported=on", name);
        return false;
    }
    if (!*incoming) {
        return true;
    }

    if (!supported) {
        error_setg(errp, "netdev '%s': incoming-fds=on needs "
                   "local-migration-supported=on", name);
        return false;
    }
    if (!runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "netdev '%s': incoming-fds=on needs a QEMU that "
                   "waits for a migration: use -incoming", name);
        return false;
    }
    /* The kernel cannot refuse the number: nothing is opened */
    if (tap->has_queues && tap->queues > MAX_QUEUE_NUM) {
        error_setg(errp, "netdev '%s': queues=%u is more than the %d that "
                   "are possible", name, tap->queues, MAX_QUEUE_NUM);
        return false;
    }
    if (tap->fd || tap->fds || tap->helper) {
        error_setg(errp, "netdev '%s': fd=, fds= and helper= are invalid with "
                   "incoming-fds=on: the file descriptors come with the "
                   "migration stream", name);
        return false;
    }
    return true;
}

bool tap_local_may_read(const TapLocal *local)
{
    return !local || (!local->waiting && local->started &&
                      runstate_is_live(runstate_get()));
}

bool tap_local_is_held(const TapLocal *local)
{
    return local && local->held;
}

bool tap_local_owns_device(const TapLocal *local)
{
    if (!local) {
        return true;
    }
    /* A target owns the device once it runs, a source until the hand-over */
    if (!local->held) {
        return true;
    }
    return local->in_stream && !local->handed_over &&
           !(local->offered && runstate_check(RUN_STATE_POSTMIGRATE));
}

bool tap_local_defer(TapLocal *local, TapSetting setting, int value)
{
    if (!tap_local_is_held(local)) {
        return false;
    }
    local->deferred |= BIT(setting);
    local->value[setting] = value;
    return true;
}

/* Count the queues of the netdev, and those that have their fd */
static int tap_local_count(const TapLocal *local, int *ready)
{
    const TapLocal *other;
    int count = 0;

    *ready = 0;
    QLIST_FOREACH(other, &tap_locals, next) {
        if (!strcmp(other->nc->name, local->nc->name)) {
            count++;
            *ready += !other->waiting;
        }
    }
    return count;
}

bool tap_local_check_ready(const TapLocal *local, Error **errp)
{
    if (local && local->waiting) {
        int ready, count = tap_local_count(local, &ready);

        error_setg(errp, "netdev '%s' queue %d: its file descriptor is not in "
                   "the migration stream, which has %d of the %d queues: on "
                   "the source, use local-migration-supported=on and "
                   "queues=%d, and set migration parameter 'local'",
                   local->nc->name, local->index, ready, count, count);
        return false;
    }
    return true;
}

bool tap_local_check_none_kept(const TapLocal *local, Error **errp)
{
    if (local && (local->received.size || local->sent.size)) {
        error_setg(errp, "netdev '%s' queue %d: a packet came with the "
                   "migration stream, which vhost cannot deliver: try again "
                   "when the guest is less busy, or use vhost=off as on the "
                   "source", local->nc->name, local->index);
        return false;
    }
    return true;
}

/* Compare the kernel's state; log harmless changes once for all queues */
static bool tap_local_compare(TapLocal *local, Error **errp)
{
    char *observed;
    bool ok = tap_kstate_check(local->queue.fd, &local->ks, &observed, errp);
    const TapLocal *other;
    bool logged = false;

    QLIST_FOREACH(other, &tap_locals, next) {
        if (!strcmp(other->nc->name, local->nc->name)) {
            logged |= !g_strcmp0(other->observed, observed);
        }
    }
    if (observed && !logged) {
        warn_report("netdev '%s' queue %d: somebody changed the TAP during the "
                    "migration, which does no harm: %s", local->nc->name,
                    local->index, observed);
    }
    g_free(local->observed);
    local->observed = observed;
    return ok;
}

/*
 * Undo changes that the target made although it did not run
 *
 * The state of a queue in an outgoing stream is one that this QEMU has read
 * itself: tap_local_post_load() drops those of incoming streams.
 */
static void tap_local_restore(TapLocal *local)
{
    TapLocal *other;
    Error *err = NULL;
    bool changed = false;

    QLIST_FOREACH(other, &tap_locals, next) {
        if (!strcmp(other->nc->name, local->nc->name) && other->in_stream &&
            other->ks.size && !tap_local_compare(other, &err)) {
            warn_reportf_err(err, "netdev '%s' queue %d: restoring what changed "
                             "since the migration: ", other->nc->name,
                             other->index);
            err = NULL;
            changed = true;
            tap_kstate_restore(other->queue.fd, &other->ks, NULL);
        }
    }
    /* The place of a queue may have been free only after others moved */
    QLIST_FOREACH(other, &tap_locals, next) {
        if (strcmp(other->nc->name, local->nc->name)) {
            continue;
        }
        if (changed && other->in_stream && other->ks.size &&
            !tap_kstate_restore(other->queue.fd, &other->ks, &err)) {
            error_reportf_err(err, "netdev '%s' queue %d: ", other->nc->name,
                              other->index);
            err = NULL;
        }
        other->ks.size = 0;
    }
}

/* Let this QEMU use the device; the other side does not run */
static void tap_local_release(TapLocal *local)
{
    int fd = local->queue.fd;
    bool in_stream = local->in_stream;

    /* The flag is shared with the other side: an older QEMU may clear it */
    if (!g_unix_set_fd_nonblocking(fd, true, NULL)) {
        error_report("netdev '%s' queue %d: cannot set O_NONBLOCK: %s",
                     local->nc->name, local->index, strerror(errno));
    }

    /* Restore all queues first: settings below may apply to the device */
    tap_local_restore(local);
    g_clear_pointer(&local->observed, g_free);

    local->held = false;
    local->in_stream = false;
    local->handed_over = false;

    for (int i = 0; i < TAP_SETTING__MAX; i++) {
        /* A source always applies its own steering program */
        if ((local->deferred & BIT(i)) &&
            ((i == TAP_SETTING_STEERING && in_stream) ||
             !tap_setting_has(fd, i, local->value[i]))) {
            local->ops->apply(local->nc, i, local->value[i]);
        }
    }
    local->deferred = 0;
}

static void tap_local_drop_kept(TapLocalKept *kept)
{
    g_clear_pointer(&kept->data, g_free);
    kept->size = 0;
}

void tap_local_keep_received(TapLocal *local, const uint8_t *data, size_t size)
{
    if (!tap_local_may_read(local)) {
        tap_local_drop_kept(&local->received);
        local->received.data = g_memdup2(data, size);
        local->received.size = size;
    }
}

bool tap_local_has_received(const TapLocal *local)
{
    return local && local->received.size && tap_local_may_read(local);
}

size_t tap_local_take_received(TapLocal *local, uint8_t *buf)
{
    size_t size = local ? local->received.size : 0;

    if (size) {
        memcpy(buf, local->received.data, size);
        tap_local_drop_kept(&local->received);
    }
    return size;
}

bool tap_local_keep_sent(TapLocal *local, const struct iovec *iov, int iovcnt)
{
    TapLocalKept *sent;
    size_t size = iov_size(iov, iovcnt);

    if (tap_local_may_read(local)) {
        return false;
    }
    if (!size || size > NET_BUFSIZE) {
        /* Not an Ethernet frame: targets would refuse it */
        return true;
    }

    sent = &local->sent;
    if (sent->size + sizeof(uint32_t) + size > TAP_LOCAL_MAX_SENT) {
        error_report("netdev '%s' queue %d: packets from the guest are lost: "
                     "more than %" PRIu64 " bytes wait for the TAP",
                     local->nc->name, local->index,
                     (uint64_t)TAP_LOCAL_MAX_SENT);
        return false;
    }
    sent->data = g_realloc(sent->data, sent->size + sizeof(uint32_t) + size);
    stl_be_p(sent->data + sent->size, size);
    iov_to_buf(iov, iovcnt, 0, sent->data + sent->size + sizeof(uint32_t),
               size);
    sent->size += sizeof(uint32_t) + size;
    return true;
}

bool tap_local_flush_sent(TapLocal *local)
{
    uint32_t done = 0;

    if (!local || !local->sent.size) {
        return true;
    }
    if (local->held) {
        return false;
    }
    while (done < local->sent.size) {
        const uint8_t *data = local->sent.data + done + sizeof(uint32_t);
        uint32_t size = ldl_be_p(local->sent.data + done);

        if (!local->ops->transmit(local->nc, data, size)) {
            local->sent.size -= done;
            memmove(local->sent.data, local->sent.data + done,
                    local->sent.size);
            return false;
        }
        done += sizeof(uint32_t) + size;
    }
    tap_local_drop_kept(&local->sent);
    return true;
}

static void tap_local_vm_change(void *opaque, bool running, RunState state)
{
    TapLocal *local = opaque;
    Error *err = NULL;

    if (running && local->held) {
        if (tap_local_check_ready(local, &err)) {
            tap_local_release(local);
        } else {
            error_report_err(err);
        }
    }
    if (running && !local->held) {
        tap_local_flush_sent(local);
    }
    local->ops->update(local->nc);
}

/*
 * Start to read after all other handlers, and stop before them
 *
 * Some handlers wait for the vCPUs, and meanwhile run the main loop. A packet
 * that is read then waits for the NIC, which drops it when it starts vhost.
 */
static void tap_local_vm_change_last(void *opaque, bool running, RunState state)
{
    TapLocal *local = opaque;

    local->started = running;
    local->ops->update(local->nc);
}

/* Send what the device has, not deferred values: the target compares them */
static void tap_local_get_actual(TapLocal *local)
{
    TapLocalQueue *queue = &local->queue;
    int value;

    if ((local->deferred & BIT(TAP_SETTING_ENABLED)) &&
        tap_setting_read(queue->fd, TAP_SETTING_ENABLED, &value)) {
        queue->enabled = value;
    }
    if ((local->deferred & BIT(TAP_SETTING_VNET_HDR_LEN)) &&
        tap_setting_read(queue->fd, TAP_SETTING_VNET_HDR_LEN, &value)) {
        queue->host_vnet_hdr_len = value;
    }
}

static bool tap_local_save(TapLocal *local, Error **errp)
{
    TapLocal *other;

    if (!tap_local_check_ready(local, errp)) {
        return false;
    }

    local->ops->get_queue(local->nc, &local->queue);
    tap_local_get_actual(local);
    local->ks.size = 0;
    if (local->kernel_state != ON_OFF_AUTO_OFF) {
        if (!tap_kstate_hold(local->queue.fd, &local->ks, errp)) {
            return false;
        }
        if (!local->ks.size) {
            warn_report_once("this kernel does not report TAP state "
                             "(TUNGETSTATE): it is handed over unverified");
        }
    }

    local->held = true;
    local->in_stream = true;
    local->offered = true;

    /*
     * Hold the other queues, too: a setting of one queue may apply to the
     * device. They may never be saved if the migration fails now.
     */
    QLIST_FOREACH(other, &tap_locals, next) {
        if (!other->held && !strcmp(other->nc->name, local->nc->name)) {
            other->ops->get_queue(other->nc, &other->queue);
            other->ks.size = 0;
            other->held = true;
            other->in_stream = true;
        }
    }
    return true;
}

static void tap_local_report(TapLocal *local, Error *err)
{
    error_prepend(&err, "netdev '%s' queue %d: ", local->nc->name,
                  local->index);
    migration_report_error(err);
}

static int tap_local_pre_save(void *opaque)
{
    TapLocal *local = opaque;
    Error *err = NULL;

    if (!tap_local_save(local, &err)) {
        tap_local_report(local, err);
        return -EINVAL;
    }
    return 0;
}

static int tap_local_pre_load(void *opaque)
{
    TapLocal *local = opaque;
    Error *err = NULL;

    /* A load must not overwrite a queue in use */
    if (!local->waiting) {
        if (local->held && !local->in_stream) {
            error_setg(&err, "it is twice in the migration stream");
        } else {
            error_setg(&err, "its file descriptor came with the stream, but "
                       "this QEMU opened one itself: use incoming-fds=on");
        }
        tap_local_report(local, err);
        return -EINVAL;
    }

    local->queue.fd = -1;
    local->ks.size = 0;
    tap_local_drop_kept(&local->received);
    tap_local_drop_kept(&local->sent);
    return 0;
}

/* Compare the fields of the stream with the device */
static bool tap_local_check_claims(TapLocal *local, Error **errp)
{
    const TapLocalQueue *queue = &local->queue;
    TapLocalQueue here;
    int vnet_hdr_len = 0, enabled, max;
    bool ufo, uso, tunnel;

    if (local->vnet_hdr &&
        !tap_setting_read(queue->fd, TAP_SETTING_VNET_HDR_LEN, &vnet_hdr_len)) {
        error_setg_errno(errp, errno,
                         "cannot read the vnet header length of the TAP");
        return false;
    }
    if (queue->host_vnet_hdr_len != vnet_hdr_len) {
        error_setg(errp, "the TAP has a vnet header of %d bytes, and of %u "
                   "bytes in the stream: somebody changed it, try again",
                   vnet_hdr_len, queue->host_vnet_hdr_len);
        return false;
    }
    if (!tap_setting_read(queue->fd, TAP_SETTING_ENABLED, &enabled)) {
        error_setg_errno(errp, errno,
                         "cannot read whether the queue is attached");
        return false;
    }
    if (enabled != queue->enabled) {
        error_setg(errp, "the queue is %s, and %s in the stream: somebody "
                   "changed it, try again", enabled ? "attached" : "detached",
                   queue->enabled ? "attached" : "detached");
        return false;
    }
    local->ops->get_queue(local->nc, &here);
    if (queue->has_tunnel && !here.has_tunnel) {
        error_setg(errp, "the stream says that the TAP takes GSO packets in "
                   "UDP tunnels, which this QEMU does not know: turn that off "
                   "on the source");
        return false;
    }
    if (tap_kstate_get_supported(queue->fd, &ufo, &uso, &tunnel)) {
        if (ufo != queue->has_ufo || uso != queue->has_uso) {
            error_setg(errp, "the TAP has ufo=%d and uso=%d, and ufo=%d and "
                       "uso=%d in the stream: it does not come from a source "
                       "on this host", ufo, uso, queue->has_ufo,
                       queue->has_uso);
            return false;
        }
        if (queue->has_tunnel && !tunnel) {
            error_setg(errp, "the TAP takes no GSO packets in UDP tunnels, and "
                       "does in the stream: it does not come from a source on "
                       "this host");
            return false;
        }
    }
    if (local->received.size &&
        local->received.size < queue->host_vnet_hdr_len + ETH_HLEN) {
        error_setg(errp, "the stream holds a received packet of %u bytes, "
                   "which is less than a vnet header of %u bytes and an "
                   "Ethernet header: it is damaged, try again",
                   local->received.size, queue->host_vnet_hdr_len);
        return false;
    }
    if (here.using_vnet_hdr != queue->using_vnet_hdr) {
        error_setg(errp, "the NIC model %s the vnet header itself on the "
                   "source, unlike here: use the same -device on both sides",
                   queue->using_vnet_hdr ? "handles" : "does not handle");
        return false;
    }
    /* Without the NIC model's vnet header, the backend adds a short one */
    max = queue->using_vnet_hdr ? TAP_LOCAL_MAX_VNET_HDR_LEN :
                                  sizeof(struct virtio_net_hdr);
    if (vnet_hdr_len > max) {
        error_setg(errp, "the TAP has a vnet header of %d bytes, and with this "
                   "NIC model there are at most %d: somebody changed it, try "
                   "again", vnet_hdr_len, max);
        return false;
    }
    return true;
}

static bool tap_local_check_device(TapLocal *local, Error **errp)
{
    const TapLocal *other;
    int vnet_hdr;

    vnet_hdr = tap_probe_vnet_hdr(local->queue.fd, errp);
    if (vnet_hdr < 0) {
        error_prepend(errp, "what came with the stream is not a TAP; is there "
                      "anything between this QEMU and the source? ");
        return false;
    }
    if (!tap_is_tap(local->queue.fd)) {
        error_setg(errp, "what came with the stream is not a TAP: it is a TUN "
                   "device; is there anything between this QEMU and the "
                   "source?");
        return false;
    }
    if (!!vnet_hdr != local->vnet_hdr) {
        error_setg(errp, "the TAP has vnet_hdr=%s, this netdev vnet_hdr=%s: "
                   "use the same on both sides", vnet_hdr ? "on" : "off",
                   local->vnet_hdr ? "on" : "off");
        return false;
    }
    if (!tap_local_check_claims(local, errp)) {
        return false;
    }
    if (tap_fd_get_ifname(local->queue.fd, local->ifname)) {
        error_setg_errno(errp, errno, "cannot read the name of the TAP");
        return false;
    }
    if (local->want_ifname && strcmp(local->want_ifname, local->ifname)) {
        error_setg(errp, "the TAP is '%s', this netdev has ifname=%s: use the "
                   "same on both sides, or leave out ifname= here",
                   local->ifname, local->want_ifname);
        return false;
    }

    QLIST_FOREACH(other, &tap_locals, next) {
        if (!strcmp(other->nc->name, local->nc->name) && !other->waiting &&
            strcmp(other->ifname, local->ifname)) {
            error_setg(errp, "it belongs to TAP '%s', queue %d to '%s': on the "
                       "source, use queues of one TAP for this netdev",
                       local->ifname, other->index, other->ifname);
            return false;
        }
    }
    return true;
}

static bool tap_local_check_kernel_state(TapLocal *local, Error **errp)
{
    if (local->kernel_state == ON_OFF_AUTO_OFF) {
        return true;
    }
    if (local->ks.size) {
        return tap_local_compare(local, errp);
    }
    if (local->kernel_state == ON_OFF_AUTO_ON) {
        error_setg(errp, "kernel-state=on, but the stream holds no kernel "
                   "state: use kernel-state=on on the source, and a kernel "
                   "with TUNGETSTATE");
        return false;
    }
    warn_report_once("the migration stream holds no kernel state of the TAP: "
                     "it is taken over unverified");
    return true;
}

static bool tap_local_load(TapLocal *local, Error **errp)
{
    if (local->queue.fd < 0) {
        error_setg(errp, "no file descriptor came with the stream: may this "
                   "process have more open files (RLIMIT_NOFILE)?");
        return false;
    }
    if (!g_unix_set_fd_nonblocking(local->queue.fd, true, NULL)) {
        error_setg_errno(errp, errno, "cannot set O_NONBLOCK");
        return false;
    }
    if (!tap_local_check_device(local, errp) ||
        !tap_local_check_kernel_state(local, errp)) {
        return false;
    }

    /* Drop settings that the NIC model made at reset: the guest has its own */
    local->deferred &= BIT(TAP_SETTING_SNDBUF);
    local->waiting = false;
    local->ops->set_queue(local->nc, &local->queue, local->ifname);
    return true;
}

/* Close the fd: the source resumes, and nobody else may use its TAP */
static void tap_local_give_back(TapLocal *local)
{
    if (!local->held || local->in_stream || local->queue.fd < 0) {
        return;
    }
    close(local->queue.fd);
    local->queue.fd = -1;
    if (!local->waiting) {
        local->waiting = true;
        local->ops->set_queue(local->nc, &local->queue, local->ifname);
    }
}

static int tap_local_incoming_event(NotifierWithReturn *notifier,
                                    MigrationIncomingEvent *e, Error **errp)
{
    TapLocal *local = container_of(notifier, TapLocal, incoming);

    switch (e->type) {
    case MIG_INCOMING_LOADED:
        return tap_local_check_ready(local, errp) ? 0 : -EINVAL;
    case MIG_INCOMING_FAILED:
        tap_local_give_back(local);
        return 0;
    default:
        g_assert_not_reached();
    }
}

static int tap_local_post_load(void *opaque, int version_id)
{
    TapLocal *local = opaque;
    Error *err = NULL;
    bool loaded = tap_local_load(local, &err);

    /* Nothing of the stream may reach tap_kstate_restore() */
    local->ks.size = 0;
    if (!loaded) {
        tap_local_report(local, err);
        if (local->queue.fd >= 0) {
            close(local->queue.fd);
            local->queue.fd = -1;
        }
        return -EINVAL;
    }
    return 0;
}

static bool tap_local_needed(void *opaque)
{
    TapLocal *local = opaque;
    NetClientState *peer = local->nc->peer;

    /* After netdev_del, a NIC still uses the TAP of the deleted netdev */
    if (peer && peer->info->type == NET_CLIENT_DRIVER_NIC &&
        qemu_get_nic(peer)->peer_deleted) {
        return false;
    }
    /* A snapshot in an image cannot hold file descriptors */
    return tap_local_active() && !runstate_check(RUN_STATE_SAVE_VM);
}

static bool tap_local_kernel_state_needed(void *opaque)
{
    TapLocal *local = opaque;

    return local->ks.size;
}

/* Name netdev and queue, which vmstate_load_state() does not know */
static bool tap_local_fits(TapLocal *local, const char *what, uint32_t size,
                           uint32_t max)
{
    Error *err = NULL;

    if (size && size <= max) {
        return true;
    }
    error_setg(&err, "the stream holds %s of %u bytes, and there can be 1 to "
               "%u: it is damaged, or from a newer QEMU", what, size, max);
    tap_local_report(local, err);
    return false;
}

static bool tap_local_kernel_state_fits(void *opaque, int version_id)
{
    TapLocal *local = opaque;

    return tap_local_fits(local, "a kernel state", local->ks.size,
                          TAP_KSTATE_MAX_SIZE);
}

static const VMStateDescription vmstate_net_tap_kernel_state = {
    .name = "net-tap/kernel-state",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = tap_local_kernel_state_needed,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(ks.size, TapLocal),
        VMSTATE_VALIDATE("size", tap_local_kernel_state_fits),
        VMSTATE_VBUFFER_UINT32(ks.data, TapLocal, 1, NULL, ks.size),
        VMSTATE_END_OF_LIST()
    }
};

/* The stream may have this subsection more than once */
static int tap_local_received_pre_load(void *opaque)
{
    TapLocal *local = opaque;

    tap_local_drop_kept(&local->received);
    return 0;
}

static bool tap_local_received_needed(void *opaque)
{
    TapLocal *local = opaque;

    return local->received.size;
}

static bool tap_local_received_fits(void *opaque, int version_id)
{
    TapLocal *local = opaque;

    return tap_local_fits(local, "a received packet", local->received.size,
                          NET_BUFSIZE);
}

static const VMStateDescription vmstate_net_tap_received = {
    .name = "net-tap/received",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = tap_local_received_needed,
    .pre_load = tap_local_received_pre_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(received.size, TapLocal),
        VMSTATE_VALIDATE("size", tap_local_received_fits),
        VMSTATE_VBUFFER_ALLOC_UINT32(received.data, TapLocal, 1, NULL,
                                     received.size),
        VMSTATE_END_OF_LIST()
    }
};

/* The stream may have this subsection more than once */
static int tap_local_sent_pre_load(void *opaque)
{
    TapLocal *local = opaque;

    tap_local_drop_kept(&local->sent);
    return 0;
}

static bool tap_local_sent_needed(void *opaque)
{
    TapLocal *local = opaque;

    return local->sent.size;
}

static bool tap_local_sent_fits(void *opaque, int version_id)
{
    TapLocal *local = opaque;

    return tap_local_fits(local, "packets to send", local->sent.size,
                          TAP_LOCAL_MAX_SENT);
}

static bool tap_local_sent_valid(void *opaque, int version_id)
{
    TapLocal *local = opaque;
    uint32_t left = local->sent.size, size = 0;
    const uint8_t *data = local->sent.data;
    Error *err = NULL;

    while (left >= sizeof(size)) {
        left -= sizeof(size);
        size = ldl_be_p(data);
        if (!size || size > NET_BUFSIZE || size > left) {
            break;
        }
        left -= size;
        data += sizeof(size) + size;
        if (!left) {
            return true;
        }
    }
    error_setg(&err, "the stream holds packets to send whose lengths are not "
               "those of the %u bytes that they have: it is damaged",
               local->sent.size);
    tap_local_report(local, err);
    return false;
}

static const VMStateDescription vmstate_net_tap_sent = {
    .name = "net-tap/sent",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = tap_local_sent_needed,
    .pre_load = tap_local_sent_pre_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(sent.size, TapLocal),
        VMSTATE_VALIDATE("size", tap_local_sent_fits),
        VMSTATE_VBUFFER_ALLOC_UINT32(sent.data, TapLocal, 1, NULL, sent.size),
        VMSTATE_VALIDATE("lengths of packets", tap_local_sent_valid),
        VMSTATE_END_OF_LIST()
    }
};

static const VMStateDescription vmstate_net_tap = {
    .name = "net-tap",
    .priority = MIG_PRI_NET_BACKEND,
    .needed = tap_local_needed,
    .pre_save = tap_local_pre_save,
    .pre_load = tap_local_pre_load,
    .post_load = tap_local_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_FD(queue.fd, TapLocal),
        VMSTATE_BOOL(queue.using_vnet_hdr, TapLocal),
        VMSTATE_BOOL(queue.has_ufo, TapLocal),
        VMSTATE_BOOL(queue.has_uso, TapLocal),
        VMSTATE_BOOL(queue.has_tunnel, TapLocal),
        VMSTATE_BOOL(queue.enabled, TapLocal),
        VMSTATE_UINT32(queue.host_vnet_hdr_len, TapLocal),
        VMSTATE_END_OF_LIST()
    },
    .subsections = (const VMStateDescription * const []) {
        &vmstate_net_tap_kernel_state,
        &vmstate_net_tap_received,
        &vmstate_net_tap_sent,
        NULL
    }
};

static bool tap_local_check_channel(const TapLocal *local, Error **errp)
{
    QIOChannel *ioc = qemu_file_get_ioc(migrate_get_current()->to_dst_file);

    if (!qio_channel_has_feature(ioc, QIO_CHANNEL_FEATURE_FD_PASS)) {
        error_setg(errp, "netdev '%s' cannot be handed over through this "
                   "channel: use a UNIX socket without TLS", local->nc->name);
        return false;
    }
    return true;
}

/* Point to the log of the target: the channel only shows that it is gone */
static void tap_local_explain_failure(const TapLocal *local)
{
    int ready, count = tap_local_count(local, &ready);

    if (!local->index &&
        migrate_get_current()->state != MIGRATION_STATUS_CANCELLED) {
        warn_report("netdev '%s': the migration failed with its %d queue(s) in "
                    "the stream: if the target refused them, its log says why, "
                    "and id=, queues=, vnet_hdr= and the NIC have to be the "
                    "same there", local->nc->name, count);
    }
}

static int tap_local_outgoing_event(TapLocal *local, MigrationEvent *e,
                                    Error **errp)
{
    switch (e->type) {
    case MIG_EVENT_PRECOPY_SETUP:
        local->offered = false;
        /* Refuse to begin a migration that cannot succeed */
        if (tap_local_active() && (!tap_local_check_ready(local, errp) ||
                                   !tap_local_check_channel(local, errp))) {
            return -EINVAL;
        }
        break;
    case MIG_EVENT_PRECOPY_DONE:
        if (local->offered && local->in_stream) {
            local->handed_over = true;
        }
        local->offered = false;
        break;
    case MIG_EVENT_PRECOPY_FAILED:
        if (local->offered) {
            local->handed_over = false;
            tap_local_explain_failure(local);
        }
        local->offered = false;
        break;
    default:
        break;
    }
    return 0;
}

static int tap_local_normal_event(NotifierWithReturn *notifier,
                                  MigrationEvent *e, Error **errp)
{
    return tap_local_outgoing_event(container_of(notifier, TapLocal, normal),
                                    e, errp);
}

static int tap_local_cpr_event(NotifierWithReturn *notifier,
                               MigrationEvent *e, Error **errp)
{
    return tap_local_outgoing_event(container_of(notifier, TapLocal, cpr),
                                    e, errp);
}

TapLocal *tap_local_new(NetClientState *nc, const NetdevTapOptions *tap,
                        int index, int fd, const TapLocalOps *ops,
                        Error **errp)
{
    TapLocal *local;

    if (!tap_local_supported(tap)) {
        return NULL;
    }

    QLIST_FOREACH(local, &tap_locals, next) {
        if (!strcmp(local->nc->name, nc->name) && local->index == index) {
            error_setg(errp, "netdev '%s': a NIC still uses a deleted netdev "
                       "of this id: unplug the NIC first, or use another id",
                       nc->name);
            return NULL;
        }
    }

    local = TAP_LOCAL(object_new(TYPE_TAP_LOCAL));
    local->nc = nc;
    local->ops = ops;
    local->index = index;
    local->vnet_hdr = !tap->has_vnet_hdr || tap->vnet_hdr;
    local->want_ifname = fd < 0 ? g_strdup(tap->ifname) : NULL;
    local->kernel_state = tap->has_kernel_state ? tap->kernel_state :
                                                  ON_OFF_AUTO_AUTO;
    local->waiting = fd < 0;
    local->held = local->waiting;
    local->started = runstate_is_live(runstate_get());

    if (fd >= 0) {
        if (tap_fd_get_ifname(fd, local->ifname)) {
            error_setg(errp, "netdev '%s' queue %d: cannot read the name of "
                       "the TAP", nc->name, index);
            goto fail;
        }
        if (local->kernel_state == ON_OFF_AUTO_ON) {
            if (!tap_kstate_get(fd, &local->ks, errp)) {
                error_prepend(errp, "netdev '%s' queue %d: ", nc->name, index);
                goto fail;
            }
            if (!local->ks.size) {
                error_setg(errp, "netdev '%s': kernel-state=on, but this "
                           "kernel does not report TAP state (TUNGETSTATE): "
                           "load a tun module that does, or use "
                           "kernel-state=auto", nc->name);
                goto fail;
            }
        }
    }

    if (vmstate_register_with_alias_id(VMSTATE_IF(local),
                                       VMSTATE_INSTANCE_ID_ANY,
                                       &vmstate_net_tap, local, -1, 0,
                                       errp) < 0) {
        goto fail;
    }
    QLIST_INSERT_HEAD(&tap_locals, local, next);
    local->vmstate = qemu_add_vm_change_state_handler(tap_local_vm_change,
                                                      local);
    local->vmstate_last =
        qemu_add_vm_change_state_handler_prio(tap_local_vm_change_last, local,
                                              INT_MAX);
    migration_add_incoming_notifier(&local->incoming, tap_local_incoming_event);
    migration_add_notifier(&local->normal, tap_local_normal_event);
    migration_add_notifier_mode(&local->cpr, tap_local_cpr_event,
                                MIG_MODE_CPR_TRANSFER);
    return local;

fail:
    object_unref(OBJECT(local));
    return NULL;
}

void tap_local_free(TapLocal *local)
{
    if (!local) {
        return;
    }
    QLIST_REMOVE(local, next);
    vmstate_unregister(VMSTATE_IF(local), &vmstate_net_tap, local);
    qemu_del_vm_change_state_handler(local->vmstate);
    qemu_del_vm_change_state_handler(local->vmstate_last);
    migration_remove_incoming_notifier(&local->incoming);
    migration_remove_notifier(&local->normal);
    migration_remove_notifier(&local->cpr);
    if (local->waiting && local->queue.fd >= 0) {
        close(local->queue.fd);
    }
    object_unref(OBJECT(local));
}

static char *tap_local_get_id(VMStateIf *obj)
{
    TapLocal *local = TAP_LOCAL(obj);

    return g_strdup_printf("%s/%d", local->nc->name, local->index);
}

static void tap_local_instance_init(Object *obj)
{
    TapLocal *local = TAP_LOCAL(obj);

    local->queue.fd = -1;
    local->ks.data = g_malloc0(TAP_KSTATE_MAX_SIZE);
}

static void tap_local_instance_finalize(Object *obj)
{
    TapLocal *local = TAP_LOCAL(obj);

    g_free(local->ks.data);
    g_free(local->observed);
    g_free(local->want_ifname);
    tap_local_drop_kept(&local->received);
    tap_local_drop_kept(&local->sent);
}

static void tap_local_class_init(ObjectClass *oc, void *data)
{
    VMSTATE_IF_CLASS(oc)->get_id = tap_local_get_id;
}

static const TypeInfo tap_local_info = {
    .name = TYPE_TAP_LOCAL,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(TapLocal),
    .instance_init = tap_local_instance_init,
    .instance_finalize = tap_local_instance_finalize,
    /* Cast for QEMU 10.1 and later, where data is const */
    .class_init = (void *)tap_local_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_VMSTATE_IF },
        { }
    },
};

static void tap_local_register_types(void)
{
    type_register_static(&tap_local_info);
    vmstate_register_hint(vmstate_net_tap.name,
                          "The source hands over a TAP queue that this QEMU "
                          "does not wait for: use -netdev tap,"
                          "local-migration-supported=on,incoming-fds=on here, "
                          "with the same id= and queues= as on the source");
}

type_init(tap_local_register_types)
