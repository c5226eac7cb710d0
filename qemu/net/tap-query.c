/*
 * QMP query-tap-state and HMP info tap-state: kernel state of TAP queues
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local.h"
#include "tap-kstate.h"

#include <linux/if_tun_state.h>

#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "net/tap.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-net.h"
#include "qobject/qdict.h"

static TapKernelState *tap_query_kernel_state(int fd, Error **errp)
{
    TapKernelState *info;
    struct tun_state st;
    char addr[3 * sizeof(st.netdev.addr)] = "";
    TapKState ks = { .data = (uint8_t[TAP_KSTATE_MAX_SIZE]) { } };

    if (!tap_kstate_get(fd, &ks, errp) || !ks.size) {
        return NULL;
    }
    memcpy(&st, ks.data, sizeof(st));

    for (unsigned i = 0; i < MIN(st.netdev.addr_len,
                                 sizeof(st.netdev.addr)); i++) {
        snprintf(addr + strlen(addr), sizeof(addr) - strlen(addr), "%s%02x",
                 i ? ":" : "", st.netdev.addr[i]);
    }

    info = g_new0(TapKernelState, 1);
    *info = (TapKernelState) {
        .ifname = g_strndup((char *)st.netdev.name, sizeof(st.netdev.name)),
        .ifindex = st.identity.ifindex,
        .netns = st.identity.netns,
        .link_type = st.identity.type,
        .mtu = st.netdev.mtu,
        .up = st.netdev.up,
        .address = g_strdup(addr),
        .flags = st.iff.flags,
        .owner = st.owner.uid,
        .owner_unmapped = st.owner.flags & TUN_STATE_OWNER_UID_UNMAPPED,
        .group = st.owner.gid,
        .group_unmapped = st.owner.flags & TUN_STATE_OWNER_GID_UNMAPPED,
        .vnet_hdr_size = st.vnet.hdr_size,
        .vnet_flags = st.vnet.flags,
        .offload = st.offload.enabled,
        .offload_wanted = st.offload.wanted,
        .offload_supported = st.offload.supported,
        .sndbuf = st.sndbuf.size,
        .carrier = st.link.carrier,
        .msg_enable = st.link.msg_enable,
        .rx_frames = st.coalesce.rx_frames,
        .txfilter_count = st.txfilter.count,
        .steering_prog = st.steering.id,
        .filter_prog = st.filter.id,
        .xdp_drv_prog = st.xdp.drv_prog_id,
        .xdp_skb_prog = st.xdp.skb_prog_id,
        .queue_index = st.queue.index,
        .queue_flags = st.queue.flags,
        .ring_size = st.queue.ring_size,
        .ring_len = st.queue.ring_len,
    };
    return info;
}

static TapStateInfo *tap_query_one(NetClientState *nc, int queue, Error **errp)
{
    ERRP_GUARD();
    TapLocal *local = tap_get_local(nc);
    TapStateInfo *info = g_new0(TapStateInfo, 1);
    int fd = tap_get_fd(nc);

    info->id = g_strdup(nc->name);
    info->queue = queue;
    info->hand_over = !local ? TAP_HAND_OVER_UNSUPPORTED :
                      !tap_local_check_ready(local, NULL) ?
                      TAP_HAND_OVER_WAITING :
                      tap_local_is_held(local) ? TAP_HAND_OVER_HELD :
                      TAP_HAND_OVER_OWNER;
    if (fd >= 0) {
        info->kernel_state = tap_query_kernel_state(fd, errp);
        if (*errp) {
            error_prepend(errp, "netdev '%s' queue %d: ", nc->name, queue);
            qapi_free_TapStateInfo(info);
            return NULL;
        }
    }
    return info;
}

TapStateInfoList *qmp_query_tap_state(const char *id, Error **errp)
{
    g_autoptr(TapStateInfoList) list = NULL;
    TapStateInfoList **tail = &list;
    g_autofree NetClientState **ncs = NULL;
    const char *previous = NULL;
    int n, queue = 0;

    n = qemu_find_net_clients_except(id, NULL, NET_CLIENT_DRIVER_NIC, 0);
    ncs = g_new(NetClientState *, n);
    qemu_find_net_clients_except(id, ncs, NET_CLIENT_DRIVER_NIC, n);

    for (int i = 0; i < n; i++) {
        TapStateInfo *info;

        if (ncs[i]->info->type != NET_CLIENT_DRIVER_TAP) {
            continue;
        }
        queue = previous && !strcmp(previous, ncs[i]->name) ? queue + 1 : 0;
        previous = ncs[i]->name;
        info = tap_query_one(ncs[i], queue, errp);
        if (!info) {
            return NULL;
        }
        QAPI_LIST_APPEND(tail, info);
    }

    if (id && !list) {
        error_setg(errp, "there is no TAP netdev '%s'", id);
        return NULL;
    }
    return g_steal_pointer(&list);
}

void hmp_info_tap_state(Monitor *mon, const QDict *qdict)
{
    g_autoptr(TapStateInfoList) list = NULL;
    Error *err = NULL;

    list = qmp_query_tap_state(qdict_get_try_str(qdict, "id"), &err);
    if (hmp_handle_error(mon, err)) {
        return;
    }
    for (TapStateInfoList *l = list; l; l = l->next) {
        const TapStateInfo *info = l->value;
        const TapKernelState *ks = info->kernel_state;

        monitor_printf(mon, "%s queue %" PRId64 ": %s\n", info->id,
                       info->queue, TapHandOver_str(info->hand_over));
        if (!ks) {
            continue;
        }
        monitor_printf(mon, "  device: %s (%u), %s, netns %" PRIu64 ", mtu %u, "
                       "flags 0x%x, %s, carrier %s\n", ks->ifname, ks->ifindex,
                       ks->address, ks->netns, ks->mtu, ks->flags,
                       ks->up ? "up" : "down", ks->carrier ? "on" : "off");
        monitor_printf(mon, "  owner: uid %u%s, gid %u%s\n", ks->owner,
                       ks->owner_unmapped ? " (unmapped)" : "", ks->group,
                       ks->group_unmapped ? " (unmapped)" : "");
        monitor_printf(mon, "  vnet header: %u bytes, flags 0x%x\n",
                       ks->vnet_hdr_size, ks->vnet_flags);
        monitor_printf(mon, "  offload: 0x%x of 0x%x, 0x%x wanted\n",
                       ks->offload, ks->offload_supported, ks->offload_wanted);
        monitor_printf(mon, "  sndbuf: %d\n", ks->sndbuf);
        monitor_printf(mon, "  programs: steering %u, filter %u, xdp %u "
                       "(driver) and %u (generic)\n", ks->steering_prog,
                       ks->filter_prog, ks->xdp_drv_prog, ks->xdp_skb_prog);
        monitor_printf(mon, "  filter: %u addresses, rx-frames %u, "
                       "msg-enable 0x%x\n", ks->txfilter_count, ks->rx_frames,
                       ks->msg_enable);
        monitor_printf(mon, "  queue: index %u, flags 0x%x, %u of %u packets "
                       "wait\n", ks->queue_index, ks->queue_flags, ks->ring_len,
                       ks->ring_size);
    }
}
