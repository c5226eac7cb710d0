/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * States of a tap and of a macvtap, with a value in each field
 */
#ifndef SAMPLES_H
#define SAMPLES_H

#define SAMPLE_TAP "{\"tapstate\":2,\"supported\":[\"identity\",\"netdev\"," \
    "\"iff\",\"owner\",\"vnet\",\"offload\",\"sndbuf\",\"link\"," \
    "\"coalesce\",\"txfilter\",\"sockfilter\",\"steering\",\"filter\"," \
    "\"xdp\",\"flows\",\"queue\",\"queues\"]," \
    "\"identity\":{\"ifindex\":7,\"netns\":4026531840,\"type\":\"ether\"}," \
    "\"netdev\":{\"name\":\"tap0\",\"mtu\":1500,\"up\":true," \
    "\"address\":\"52:54:00:12:34:56\"}," \
    "\"iff\":{\"flags\":[\"tap\",\"vnet_hdr\"]}," \
    "\"owner\":{\"uid\":null,\"gid\":5}," \
    "\"vnet\":{\"hdr_size\":12,\"le\":true,\"be\":false}," \
    "\"offload\":{\"enabled\":[\"csum\"],\"wanted\":[\"csum\",\"0x10000\"]," \
    "\"supported\":[\"csum\",\"tso4\"]}," \
    "\"link\":{\"carrier\":true,\"msg_enable\":\"0x5\"}," \
    "\"coalesce\":{\"rx_frames\":8}," \
    "\"txfilter\":{\"count\":1,\"hash\":\"0x0000010000000000\"," \
    "\"addresses\":[\"52:54:00:12:34:56\"]}," \
    "\"sockfilter\":[\"40 0 0 12\",\"6 0 0 65535\"]," \
    "\"steering\":{\"id\":12,\"type\":\"socket_filter\"," \
    "\"tag\":\"dead00000000beef\",\"name\":\"s\",\"pinned\":\"/p\"}," \
    "\"filter\":null," \
    "\"xdp\":{\"drv_prog_id\":0,\"skb_prog_id\":4}," \
    "\"flows\":[{\"rxhash\":1,\"queue\":0,\"age_ms\":30}]," \
    "\"queues\":[" \
    "{\"index\":0,\"attached\":true,\"napi\":false,\"napi_frags\":false," \
    "\"sockfilter\":true,\"ring_size\":500,\"ring_len\":3,\"sndbuf\":9," \
    "\"held_by\":[{\"pid\":1,\"fd\":2,\"comm\":\"vm\"}]}," \
    "{\"index\":0,\"attached\":false,\"napi\":true,\"napi_frags\":false," \
    "\"sockfilter\":false,\"ring_size\":500,\"ring_len\":0," \
    "\"held_by\":[]}]}"

#define SAMPLE_MACVTAP "{\"tapstate\":2,\"supported\":[\"identity\"," \
    "\"netdev\",\"iff\",\"vnet\",\"offload\",\"sndbuf\",\"queue\"," \
    "\"queues\"]," \
    "\"identity\":{\"ifindex\":8,\"netns\":1,\"type\":\"none\"}," \
    "\"netdev\":{\"name\":\"m\\\\xff\",\"mtu\":1,\"up\":false," \
    "\"address\":\"\"}," \
    "\"offload\":{\"enabled\":[],\"wanted\":[],\"supported\":[]}," \
    "\"queues\":[{\"index\":0,\"attached\":true,\"napi\":false," \
    "\"napi_frags\":false,\"sockfilter\":false,\"ring_size\":1," \
    "\"ring_len\":0,\"sndbuf\":1,\"iff\":{\"flags\":[\"tap\",\"no_pi\"]}," \
    "\"vnet\":{\"hdr_size\":10,\"le\":false,\"be\":false}," \
    "\"held_by\":[]}]}"

static const char *const samples[] = { SAMPLE_TAP, SAMPLE_MACVTAP };

#endif
