/*
 * Hand-over of a TAP to another QEMU on the same host: options and life cycle
 *
 * Both QEMUs share the open files of the queues. Until the target runs, the
 * source may resume: so neither side reads from a queue or changes the device
 * while its VM is stopped. One state a netdev tells who may:
 *
 *   opened here                          incoming-fds=on
 *        |                                      |     the stream is loaded,
 *        v         the VM starts                v     or shared-fds=on
 *      OWNER <-----------------. .----------- WAITING ------------.
 *       | ^                    |  ^ a load fails                  |
 *  save | | the VM starts:     |  '-------------------------------|
 *       | | repair, resume     |                                  v
 *       v |                    '------------------------------ ARRIVED
 *     SUSPENDED <--------------------------------------------------'
 *       |                                  save (before it ran here)
 *  done |
 *       v        the VM starts all the same
 *    HANDED_OVER -----------------> OWNER
 *
 * Only in state OWNER does this QEMU read from the device, while the VM runs,
 * and change it. The QEMU that was OWNER last runs downscript, unless it has
 * HANDED_OVER.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-int.h"

#include "migration/cpr.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qapi/qapi-types-migration.h"
#include "qemu/error-report.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "trace.h"

/* The TAP, vhost, and eventfds from and to the guest, for rx and tx */
#define TAP_FDS_PER_QUEUE 6

union TapLocals tap_locals = QTAILQ_HEAD_INITIALIZER(tap_locals);

static void tap_local_set_state(TapLocal *local, TapHandOver state)
{
    trace_tap_local_state(local->id, TapHandOver_str(local->state),
                          TapHandOver_str(state));
    local->state = state;
}

/*
 * Rights
 */

bool tap_local_may_read(const TapLocalQueue *queue)
{
    return !queue || (tap_local_may_change(queue) && queue->netdev->started &&
                      runstate_is_live(runstate_get()));
}

bool tap_local_may_change(const TapLocalQueue *queue)
{
    return !queue || (queue->netdev->state == TAP_HAND_OVER_OWNER &&
                      !queue->netdev->gone);
}

void tap_local_read_failed(TapLocalQueue *queue)
{
    TapLocal *local = queue ? queue->netdev : NULL;

    /* The file stays readable, and would starve lower priorities for ever */
    if (local && errno == EBADFD && !local->gone) {
        local->gone = true;
        QTAILQ_FOREACH(queue, &local->queues, next) {
            tap_update(queue->s);
        }
    }
}

bool tap_local_owns_device(const TapLocalQueue *queue)
{
    if (!queue || queue->netdev->state == TAP_HAND_OVER_OWNER) {
        return true;
    }
    /* QEMU may quit between the end of the migration and the notification */
    return queue->netdev->state == TAP_HAND_OVER_SUSPENDED &&
           !(queue->netdev->offered && runstate_check(RUN_STATE_POSTMIGRATE));
}

bool tap_local_is_incoming(const TapLocal *local)
{
    return local && local->state == TAP_HAND_OVER_WAITING;
}

bool tap_local_check_arrived(const TapLocal *local, Error **errp)
{
    const TapLocalQueue *queue, *missing = NULL;
    unsigned int arrived = 0;

    if (local->state != TAP_HAND_OVER_WAITING) {
        return true;
    }
    QTAILQ_FOREACH(queue, &local->queues, next) {
        arrived += queue->arrived;
        if (!queue->arrived && !missing) {
            missing = queue;
        }
    }
    if (missing) {
        error_setg(errp, "netdev '%s' queue %u: its file descriptor is not in "
                   "the migration stream, which has %u of the %u queues: on "
                   "the source, use local-migration-supported=on and "
                   "queues=%u, and set migration parameter 'local'",
                   local->id, missing->index, arrived, local->count,
                   local->count);
    }
    return !missing;
}

bool tap_local_check_ready(const TapLocalQueue *queue, bool started,
                           Error **errp)
{
    if (!queue) {
        return true;
    }
    if (!tap_local_check_arrived(queue->netdev, errp)) {
        return false;
    }
    /* Written packets go out before vhost starts */
    if (started && queue->s->vhost_net && queue->s->enabled &&
        queue->pending.received_size) {
        error_setg(errp, "netdev '%s' queue %u: a packet came with the "
                   "migration stream, which vhost cannot deliver: try again "
                   "when the guest is less busy, or use vhost=off as on the "
                   "source", queue->netdev->id, queue->index);
        return false;
    }
    return true;
}

/*
 * Settings
 */

bool tap_local_set(TapLocalQueue *queue, TapSetting setting, int value)
{
    TapLocal *local = queue ? queue->netdev : NULL;

    if (!local) {
        return true;
    }
    local->set |= BIT(setting);
    local->value[setting] = value;
    if (!tap_local_may_change(queue)) {
        local->changed |= BIT(setting);
        trace_tap_local_defer(local->id, setting, value);
        return false;
    }
    if (setting == TAP_SETTING_STEERING) {
        local->steering = value >= 0;
    }
    return true;
}

/*
 * Findings
 */

/* Return true if @text is news */
static bool tap_local_note(char **note, const char *text)
{
    if (!text || !g_strcmp0(*note, text)) {
        return false;
    }
    g_free(*note);
    *note = g_strdup(text);
    return true;
}

void tap_local_set_unverified(TapLocal *local, const char *reason)
{
    if (tap_local_note(&local->unverified, reason)) {
        warn_report("netdev '%s': %s: it is handed over unverified", local->id,
                    reason);
    }
}

void tap_local_observe(TapLocal *local, const char *differences)
{
    if (tap_local_note(&local->observed, differences)) {
        warn_report("netdev '%s': somebody changed the TAP during the "
                    "migration, which does no harm: %s", local->id,
                    differences);
    }
}

void tap_local_forget(TapLocal *local)
{
    g_clear_pointer(&local->unverified, g_free);
    g_clear_pointer(&local->observed, g_free);
}

/*
 * Transitions
 */

/* OWNER, ARRIVED or SUSPENDED before -> SUSPENDED */
bool tap_local_suspend(TapLocal *local, Error **errp)
{
    TapLocalQueue *queue;

    if (!tap_local_check_arrived(local, errp)) {
        return false;
    }
    /* Before it ran here, send the state that the source had */
    if (local->state != TAP_HAND_OVER_ARRIVED || local->shared) {
        if (!tap_local_read(local, TAP_NOW, true, errp)) {
            return false;
        }
        QTAILQ_FOREACH(queue, &local->queues, next) {
            queue->st[TAP_KEPT] = queue->st[TAP_NOW];
        }
    }
    QTAILQ_FOREACH(queue, &local->queues, next) {
        tap_pending_prepare_save(queue);
    }
    local->shared = false;
    local->offered = true;
    tap_local_set_state(local, TAP_HAND_OVER_SUSPENDED);
    return true;
}

/* WAITING -> ARRIVED, or an error */
static bool tap_local_arrive(TapLocal *local, Error **errp)
{
    g_autofree char *differ = NULL;
    TapLocalQueue *queue;
    bool known = true;

    if (!tap_local_check_arrived(local, errp)) {
        return false;
    }
    QTAILQ_FOREACH(queue, &local->queues, next) {
        known &= !!(queue->st[TAP_EXPECTED].mask & TUN_STATE_QUEUE);
    }
    if (known) {
        differ = tap_local_places_differ(local, TAP_EXPECTED, TAP_KEPT);
    }
    if (differ) {
        error_setg(errp, "netdev '%s': the kernel state is not the expected "
                   "one: %s; somebody changed the TAP during the migration",
                   local->id, differ);
        return false;
    }
    tap_local_set_state(local, TAP_HAND_OVER_ARRIVED);
    return true;
}

/* WAITING or ARRIVED -> WAITING: the source resumes, and nobody else may */
static void tap_local_give_back(TapLocal *local)
{
    TapLocalQueue *queue;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        /* The section may have ended behind the file descriptor */
        if (queue->stream.fd >= 0) {
            close(queue->stream.fd);
            queue->stream.fd = -1;
        }
        if (queue->arrived) {
            queue->arrived = false;
            queue->s->fd = -1;
            tap_set_info(queue->s, NULL);
        }
        tap_pending_drop(&queue->pending);
    }
    local->carried = 0;
    tap_local_set_state(local, TAP_HAND_OVER_WAITING);
}

/* ARRIVED, SUSPENDED or HANDED_OVER -> OWNER: the other side does not run */
static void tap_local_take(TapLocal *local)
{
    TapLocalQueue *queue;
    char *failed = NULL;
    Error *err = NULL;

    QTAILQ_FOREACH(queue, &local->queues, next) {
        /* The flag is shared with the other side: a QEMU may clear it */
        g_unix_set_fd_nonblocking(queue->s->fd, true, NULL);
    }
    local->gone = !tap_local_read(local, TAP_NOW, false, &err);
    tap_local_set_state(local, TAP_HAND_OVER_OWNER);
    if (local->gone) {
        /* QEMU aborts when it cannot write a setting */
        tap_local_fail(local, g_strdup(error_get_pretty(err)));
        error_free(err);
        return;
    }
    if (local->shared) {
        tap_shared_start(local);
    } else if (QTAILQ_FIRST(&local->queues)->st[TAP_NOW].supported) {
        failed = tap_local_restore(local);
    }
    if (!local->gone) {
        tap_local_apply(local);
        local->sndbuf = 0;
    }
    tap_local_fail(local, failed);
}

static void tap_local_vm_change(void *opaque, bool running, RunState state)
{
    TapLocal *local = opaque;
    TapLocalQueue *queue;
    Error *err = NULL;

    if (!running) {
        return;
    }
    if (!tap_local_check_arrived(local, &err)) {
        error_report_err(err);
    } else if (local->state != TAP_HAND_OVER_OWNER) {
        tap_local_take(local);
    }
    QTAILQ_FOREACH(queue, &local->queues, next) {
        if (queue->s->vhost_net) {
            /* It would overtake packets that wait */
            tap_pending_flush_all_sent(queue);
        } else {
            tap_pending_flush_sent(queue);
        }
    }
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
    TapLocalQueue *queue;

    local->started = running;
    QTAILQ_FOREACH(queue, &local->queues, next) {
        queue->s->nc.not_moved &= running;
        tap_update(queue->s);
    }
}

/*
 * Events of migrations
 */

static int tap_local_incoming_event(NotifierWithReturn *notifier,
                                    void *loaded, Error **errp)
{
    TapLocal *local = container_of(notifier, TapLocal, incoming);

    if ((local->state != TAP_HAND_OVER_WAITING &&
         local->state != TAP_HAND_OVER_ARRIVED) || local->shared) {
        return 0;
    }
    if (loaded) {
        return tap_local_arrive(local, errp) ? 0 : -EINVAL;
    }
    tap_local_give_back(local);
    return 0;
}

/*
 * Put back settings of this QEMU that somebody has changed under its guest, as
 * another QEMU does that opens the TAP.
 */
static void tap_local_put_back(TapLocal *local)
{
    g_autofree char *changed = NULL;

    if (local->state == TAP_HAND_OVER_SUSPENDED &&
        QTAILQ_FIRST(&local->queues)->st[TAP_NOW].supported) {
        /* After a migration that failed, with the VM still stopped */
        tap_local_fail(local, tap_local_restore(local));
    } else if (local->state == TAP_HAND_OVER_OWNER && tap_local_apply(local)) {
        /* No queue is suspended, so there is no other use of TAP_KEPT */
        if (tap_local_read(local, TAP_KEPT, false, NULL)) {
            changed = tap_local_differences(local, TAP_KEPT, TAP_NOW,
                                            BIT(TAP_KPOLICY_VERIFIED));
        }
        warn_report("netdev '%s': somebody changed the TAP of this guest, "
                    "restored: %s", local->id, changed ?: "?");
    }
}

bool tap_local_is_deleted(const TapLocal *local)
{
    NetClientState *peer = QTAILQ_FIRST(&local->queues)->s->nc.peer;

    return peer && peer->info->type == NET_CLIENT_DRIVER_NIC &&
           qemu_get_nic(peer)->peer_deleted;
}

/* Refuse to begin a migration that cannot succeed */
static bool tap_local_set_up(TapLocal *local, Error **errp)
{
    QIOChannel *ioc = qemu_file_get_ioc(migrate_get_current()->to_dst_file);

    if (!tap_local_check_arrived(local, errp)) {
        return false;
    }
    if (!qio_channel_has_feature(ioc, QIO_CHANNEL_FEATURE_FD_PASS)) {
        error_setg(errp, "netdev '%s' cannot be handed over: parameter 'local' "
                   "and mode cpr-transfer require a channel that passes file "
                   "descriptors: use a UNIX socket without TLS", local->id);
        return false;
    }
    if (!tap_local_read(local, TAP_NOW, false, errp)) {
        return false;
    }
    tap_local_put_back(local);
    return true;
}

/* Point to the log of the target: the channel only shows that it is gone */
static void tap_local_explain_failure(const TapLocal *local)
{
    if (migrate_get_current()->state != MIGRATION_STATUS_CANCELLED) {
        warn_report("netdev '%s': the migration failed with its %u queue(s) in "
                    "the stream: if the target refused them, its log says why, "
                    "and id=, queues=, vnet_hdr= and the NIC have to be the "
                    "same there", local->id, local->count);
    }
}

static int tap_local_outgoing_event(NotifierWithReturn *notifier,
                                    MigrationEvent *e, Error **errp)
{
    TapLocal *local = container_of(notifier, TapLocalNotifier, notifier)->local;

    switch (e->type) {
    case MIG_EVENT_PRECOPY_SETUP:
        /* A QEMU that execs itself has no TAP: neither open nor in the stream */
        if (!strcmp(MigMode_str(migrate_mode()), "cpr-exec")) {
            error_setg(errp, "netdev '%s' has local-migration-supported=on, "
                       "which mode cpr-exec cannot hand over: use "
                       "cpr-transfer", local->id);
            return -EINVAL;
        }
        local->offered = false;
        tap_local_forget(local);
        /* Decided once: parameters may change while the migration runs */
        local->outgoing = (migrate_local() ||
                           migrate_mode() == MIG_MODE_CPR_TRANSFER) &&
                          !tap_local_is_deleted(local);
        if (local->outgoing && !tap_local_set_up(local, errp)) {
            local->outgoing = false;
            return -EINVAL;
        }
        return 0;
    case MIG_EVENT_PRECOPY_DONE:
        if (local->offered && local->state == TAP_HAND_OVER_SUSPENDED) {
            tap_local_set_state(local, TAP_HAND_OVER_HANDED_OVER);
        }
        break;
    case MIG_EVENT_PRECOPY_FAILED:
        if (local->offered) {
            tap_local_explain_failure(local);
        }
        break;
    default:
        return 0;
    }
    local->offered = false;
    local->outgoing = false;
    return 0;
}

/*
 * Objects
 */

static char *tap_local_queue_get_id(VMStateIf *obj)
{
    TapLocalQueue *queue = TAP_LOCAL_QUEUE(obj);

    return g_strdup_printf("%s/%u", queue->netdev->id, queue->index);
}

static void tap_local_queue_finalize(Object *obj)
{
    TapLocalQueue *queue = TAP_LOCAL_QUEUE(obj);

    g_free(queue->ks.data);
    tap_pending_drop(&queue->pending);
}

static const TypeInfo tap_local_queue_info = {
    .name = TYPE_TAP_LOCAL_QUEUE,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(TapLocalQueue),
    .instance_finalize = tap_local_queue_finalize,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_VMSTATE_IF },
        { }
    },
};

/*
 * One object for all netdevs, and for ever: a NIC that is unplugged by a reset
 * removes its netdev, and nobody may unregister during a reset.
 */
#define TYPE_TAP_LOCAL_RESET "tap-local-reset"
OBJECT_DECLARE_SIMPLE_TYPE(TapLocalReset, TAP_LOCAL_RESET)

struct TapLocalReset {
    Object parent_obj;
    ResettableState state;
};

static ResettableState *tap_local_reset_get_state(Object *obj)
{
    return &TAP_LOCAL_RESET(obj)->state;
}

/* With loadvm the guest goes back to a time before its packets came */
static void tap_local_reset_hold(Object *obj, ResetType type)
{
    TapLocalQueue *queue;
    TapLocal *local;

    if (type != RESET_TYPE_SNAPSHOT_LOAD) {
        return;
    }
    QTAILQ_FOREACH(local, &tap_locals, next) {
        QTAILQ_FOREACH(queue, &local->queues, next) {
            tap_pending_drop(&queue->pending);
        }
    }
}

static const TypeInfo tap_local_reset_info = {
    .name = TYPE_TAP_LOCAL_RESET,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(TapLocalReset),
    .interfaces = (InterfaceInfo[]) {
        { TYPE_RESETTABLE_INTERFACE },
        { }
    },
};

/* class_init() has another type in QEMU 10.1 and later: set methods here */
static void tap_local_init_classes(void)
{
    ObjectClass *queue = object_class_by_name(TYPE_TAP_LOCAL_QUEUE);
    ResettableClass *reset =
        RESETTABLE_CLASS(object_class_by_name(TYPE_TAP_LOCAL_RESET));

    VMSTATE_IF_CLASS(queue)->get_id = tap_local_queue_get_id;
    reset->get_state = tap_local_reset_get_state;
    reset->phases.hold = tap_local_reset_hold;
}

/*
 * Options and life cycle
 */

/* Return true if fds come without incoming-fds=on */
static bool tap_local_fds_will_come(void)
{
    if (cpr_is_incoming()) {
        return cpr_get_incoming_mode() == MIG_MODE_CPR_TRANSFER;
    }
    /* Migration parameters do not exist before the machine is ready */
    return phase_check(PHASE_MACHINE_READY) && migrate_local();
}

static bool tap_local_check_options(const NetdevTapOptions *tap, const char *id,
                                    bool supported, bool *shared,
                                    bool *incoming, Error **errp)
{
    bool inmigrate = runstate_check(RUN_STATE_INMIGRATE);

    *shared = tap->has_shared_fds && tap->shared_fds;
    *incoming = tap->has_incoming_fds ? tap->incoming_fds :
                !*shared && supported && inmigrate && tap_local_fds_will_come();

    if (tap->has_kernel_state && !supported) {
        error_setg(errp, "netdev '%s': kernel-state= needs "
                   "local-migration-supported=on", id);
        return false;
    }
    if ((*incoming || *shared) && !supported) {
        error_setg(errp, "netdev '%s': %s=on needs "
                   "local-migration-supported=on", id,
                   *shared ? "shared-fds" : "incoming-fds");
        return false;
    }
    if (*shared && (tap->has_incoming_fds || !!tap->fd == !!tap->fds ||
                    tap->ifname || tap->script || tap->downscript ||
                    tap->has_vnet_hdr || tap->helper || tap->br ||
                    tap->has_queues)) {
        error_setg(errp, "netdev '%s': shared-fds=on needs either fd= or fds=; "
                   "incoming-fds=, ifname=, script=, downscript=, vnet_hdr=, "
                   "helper=, br= and queues= are invalid with it", id);
        return false;
    }
    if (supported && inmigrate && tap->ifname && !tap->has_incoming_fds &&
        !*incoming) {
        error_setg(errp, "netdev '%s': this QEMU waits for a migration, and "
                   "opening TAP '%s' would cut off the guest that uses it: say "
                   "incoming-fds=on to take it from the migration stream, or "
                   "incoming-fds=off to open it", id, tap->ifname);
        return false;
    }
    /* The kernel cannot refuse the number when nothing is opened */
    if (supported && tap->has_queues &&
        (!tap->queues || tap->queues > MAX_QUEUE_NUM)) {
        error_setg(errp, "netdev '%s': queues=%u is not between 1 and %d", id,
                   tap->queues, MAX_QUEUE_NUM);
        return false;
    }
    if (!*incoming && !*shared) {
        return true;
    }
    if (!inmigrate) {
        error_setg(errp, "netdev '%s': %s=on needs a QEMU that waits for a "
                   "migration: use -incoming", id,
                   *shared ? "shared-fds" : "incoming-fds");
        return false;
    }
    if (*incoming && (tap->fd || tap->fds || tap->helper)) {
        error_setg(errp, "netdev '%s': fd=, fds= and helper= are invalid with "
                   "incoming-fds=on: the file descriptors come with the "
                   "migration stream", id);
        return false;
    }
    return true;
}

/*
 * Have the kernel enlarge the table of file descriptors now: it waits for an
 * RCU grace period, which would else be while the guest is stopped.
 */
static void tap_local_reserve_fds(const NetdevTapOptions *tap)
{
    static unsigned int reserved;
    int fd = qemu_open("/dev/null", O_RDWR, NULL);
    int high;

    if (fd < 0) {
        return;
    }
    reserved += TAP_FDS_PER_QUEUE * (tap->has_queues ? tap->queues : 1);
    /* Above RLIMIT_NOFILE it fails, and the table grows when it must */
    high = fcntl(fd, F_DUPFD_CLOEXEC, fd + reserved);
    if (high >= 0) {
        close(high);
    }
    close(fd);
}

bool tap_local_new(const NetdevTapOptions *tap, const char *id,
                   TapLocal **local, Error **errp)
{
    bool supported = (tap->has_local_migration_supported &&
                      tap->local_migration_supported) ||
                     (tap->has_x_permit_local_migration &&
                      tap->x_permit_local_migration) ||
                     (tap->has_cpr && tap->cpr);
    static bool initialized;
    TapLocal *new, *other;
    bool incoming, shared;

    *local = NULL;
    if (!tap_local_check_options(tap, id, supported, &shared, &incoming,
                                 errp)) {
        return false;
    }
    if (!supported) {
        return true;
    }
    QTAILQ_FOREACH(other, &tap_locals, next) {
        if (!strcmp(other->id, id)) {
            error_setg(errp, "netdev '%s': a NIC still uses a deleted netdev "
                       "of this id: unplug the NIC first, or use another id",
                       id);
            return false;
        }
    }
    /* A migration walks the list of sections */
    if (migration_is_running() || migration_incoming_is_loading()) {
        error_setg(errp, "netdev '%s' cannot be added during a migration: wait "
                   "until it ends", id);
        return false;
    }

    new = g_new0(TapLocal, 1);
    new->refs = 1;
    new->id = g_strdup(id);
    QTAILQ_INIT(&new->queues);
    new->state = incoming || shared ? TAP_HAND_OVER_WAITING :
                                      TAP_HAND_OVER_OWNER;
    new->shared = shared;
    new->started = runstate_is_live(runstate_get());
    new->vnet_hdr = !tap->has_vnet_hdr || tap->vnet_hdr;
    new->kernel_state = tap->has_kernel_state ? tap->kernel_state :
                                                ON_OFF_AUTO_AUTO;
    if (incoming) {
        tap_local_reserve_fds(tap);
    }
    if (incoming || shared) {
        new->want_ifname = g_strdup(tap->ifname);
        new->sndbuf = !tap->has_sndbuf ? 0 :
                      MIN(tap->sndbuf ?: INT_MAX, INT_MAX);
    }
    if (!initialized) {
        initialized = true;
        tap_local_init_classes();
        qemu_register_resettable(object_new(TYPE_TAP_LOCAL_RESET));
    }
    QTAILQ_INSERT_TAIL(&tap_locals, new, next);
    new->vmstate = qemu_add_vm_change_state_handler(tap_local_vm_change, new);
    new->vmstate_last =
        qemu_add_vm_change_state_handler_prio(tap_local_vm_change_last, new,
                                              INT_MAX);
    migration_add_incoming_notifier(&new->incoming, tap_local_incoming_event);
    /* The mode may be another one when the migration ends */
    for (int mode = 0; mode < MIG_MODE__MAX; mode++) {
        new->outgoing_notifiers[mode].local = new;
        migration_add_notifier_mode(&new->outgoing_notifiers[mode].notifier,
                                    tap_local_outgoing_event, mode);
    }
    if (shared && !tap_shared_get_fds(new, tap->fd ?: tap->fds, errp)) {
        tap_local_unref(new);
        return false;
    }
    *local = new;
    return true;
}

void tap_local_unref(TapLocal *local)
{
    if (!local || --local->refs) {
        return;
    }
    QTAILQ_REMOVE(&tap_locals, local, next);
    qemu_del_vm_change_state_handler(local->vmstate);
    qemu_del_vm_change_state_handler(local->vmstate_last);
    migration_remove_incoming_notifier(&local->incoming);
    for (int mode = 0; mode < MIG_MODE__MAX; mode++) {
        migration_remove_notifier(&local->outgoing_notifiers[mode].notifier);
    }
    g_free(local->id);
    g_free(local->want_ifname);
    g_clear_pointer(&local->shared_fds, g_array_unref);
    g_free(local->unverified);
    g_free(local->observed);
    g_free(local->restored);
    g_free(local->failed);
    g_free(local);
}

/* Refuse kernel-state=on where it cannot work, and learn the name */
static bool tap_local_check_fd(TapLocal *local, int fd, Error **errp)
{
    g_autofree char *why = NULL;
    struct tun_state st;

    if (!tap_kstate_read(fd, false, &st, &why, errp)) {
        return false;
    }
    if (why && local->kernel_state == ON_OFF_AUTO_ON) {
        error_setg(errp, "kernel-state=on, but %s: load a tun module that "
                   "does, or use kernel-state=auto", why);
        return false;
    }
    snprintf(local->ifname, sizeof(local->ifname), "%.*s", IFNAMSIZ - 1,
             st.netdev.name);
    return true;
}

bool tap_local_add_queue(TapLocal *local, TAPState *s, Error **errp)
{
    ERRP_GUARD();
    TapLocalQueue *queue;

    if (!local) {
        return true;
    }
    if (s->fd >= 0 && !tap_local_check_fd(local, s->fd, errp)) {
        error_prepend(errp, "netdev '%s' queue %u: ", local->id,
                      local->count);
        return false;
    }

    queue = TAP_LOCAL_QUEUE(object_new(TYPE_TAP_LOCAL_QUEUE));
    queue->s = s;
    queue->netdev = local;
    queue->index = local->count;
    queue->stream.fd = -1;
    queue->ks.data = g_malloc0(TAP_KSTATE_MAX_SIZE);
    if (vmstate_register_with_alias_id(VMSTATE_IF(queue),
                                       VMSTATE_INSTANCE_ID_ANY,
                                       &vmstate_net_tap, queue, -1, 0,
                                       errp) < 0) {
        object_unref(OBJECT(queue));
        return false;
    }
    local->refs++;
    local->count++;
    QTAILQ_INSERT_TAIL(&local->queues, queue, next);
    s->local = queue;
    s->nc.local_migration = true;
    if (local->shared) {
        if (!tap_shared_take(queue, errp)) {
            error_prepend(errp, "netdev '%s' queue %u: ", local->id,
                          queue->index);
            return false;
        }
        if (local->count == tap_shared_count(local)) {
            tap_local_set_state(local, TAP_HAND_OVER_ARRIVED);
        }
    }
    return true;
}

void tap_local_remove_queue(TapLocalQueue *queue)
{
    TapLocal *local;

    if (!queue) {
        return;
    }
    local = queue->netdev;
    queue->s->local = NULL;
    if (queue->s->fd < 0 && queue->stream.fd >= 0) {
        close(queue->stream.fd);
    }
    vmstate_unregister(VMSTATE_IF(queue), &vmstate_net_tap, queue);
    local->count--;
    QTAILQ_REMOVE(&local->queues, queue, next);
    object_unref(OBJECT(queue));
    tap_local_unref(local);
}

static void tap_local_register_types(void)
{
    type_register_static(&tap_local_queue_info);
    type_register_static(&tap_local_reset_info);
    vmstate_register_hint(vmstate_net_tap.name,
                          "The source hands over a TAP queue that this QEMU "
                          "does not wait for: use -netdev tap,"
                          "local-migration-supported=on,incoming-fds=on here, "
                          "with the same id= and queues= as on the source");
}

type_init(tap_local_register_types)
