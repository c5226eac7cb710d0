// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Write the state of a device as JSON
 */
#include "private.h"

static JsonNode *object_node(JsonObject *object)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, object);
    return node;
}

static void add_fields(JsonObject *to, const Field *fields, const void *base)
{
    for (const Field *f = fields; f->name; f++) {
        json_object_set_member(to, f->name, f->type->encode(f, base));
    }
}

static void add_object(JsonObject *to, const char *member,
                       const Field *fields, const void *base)
{
    JsonObject *object = json_object_new();

    add_fields(object, fields, base);
    json_object_set_member(to, member, object_node(object));
}

static void add_prog(JsonObject *to, const char *member,
                     const struct tun_state_prog *prog, const Prog *info)
{
    JsonObject *object;

    if (!prog->id) {
        json_object_set_null_member(to, member);
        return;
    }
    object = json_object_new();
    add_fields(object, tapstate__prog_fields, prog);
    if (info->name) {
        json_object_set_string_member(object, "name", info->name);
    }
    if (info->pin) {
        json_object_set_string_member(object, "pinned", info->pin);
    }
    json_object_set_member(to, member, object_node(object));
}

/* An instruction is in the format of tcpdump -ddd and of tc */
static void add_sockfilter(JsonObject *to, const TapstateDevice *dev)
{
    JsonArray *array = json_array_new();

    for (guint i = 0; i < dev->st.sockfilter.count; i++) {
        const struct sock_filter *f = &dev->insns[i];
        g_autofree char *insn = g_strdup_printf("%u %u %u %u", f->code, f->jt,
                                                f->jf, f->k);
        json_array_add_string_element(array, insn);
    }
    json_object_set_array_member(to, "sockfilter", array);
}

static void add_flows(JsonObject *to, const TapstateDevice *dev)
{
    JsonArray *array = json_array_new();

    for (guint i = 0; i < dev->st.flows.count; i++) {
        JsonObject *flow = json_object_new();

        add_fields(flow, tapstate__flow_fields, &dev->flows[i]);
        json_array_add_object_element(array, flow);
    }
    json_object_set_array_member(to, "flows", array);
}

static void add_holders(JsonObject *to, const TapstateDevice *dev,
                        const Queue *q)
{
    JsonArray *array = json_array_new();

    for (guint i = 0; i < dev->holders->len; i++) {
        const Holder *h = &g_array_index(dev->holders, Holder, i);
        JsonObject *holder;

        if (h->index != q->q.index ||
            h->attached != !!(q->q.flags & TUN_STATE_QUEUE_ATTACHED)) {
            continue;
        }
        holder = json_object_new();
        json_object_set_int_member(holder, "pid", h->pid);
        json_object_set_int_member(holder, "fd", h->fd);
        json_object_set_string_member(holder, "comm", h->comm);
        json_array_add_object_element(array, holder);
    }
    json_object_set_array_member(to, "held_by", array);
}

static void add_queues(JsonObject *to, const TapstateDevice *dev)
{
    JsonArray *array = json_array_new();

    for (guint i = 0; i < dev->st.queues.count; i++) {
        const Queue *q = &dev->queues[i];
        JsonObject *queue = json_object_new();

        add_fields(queue, tapstate__queue_fields, q);
        if (q->sndbuf) {
            json_object_set_int_member(queue, "sndbuf", q->sndbuf);
        }
        if (q->sndbuf && IS_MACVTAP(&dev->st)) {
            add_object(queue, "iff", tapstate__own_iff, q);
            add_object(queue, "vnet", tapstate__own_vnet, q);
        }
        add_holders(queue, dev, q);
        json_array_add_object_element(array, queue);
    }
    json_object_set_array_member(to, "queues", array);
}

/* Groups that are not a plain object of fields */
static void add_special(JsonObject *to, const TapstateDevice *dev,
                        const Name *group)
{
    const struct tun_state *st = &dev->st;

    switch (group->bit) {
    case TUN_STATE_SOCKFILTER:
        add_sockfilter(to, dev);
        break;
    case TUN_STATE_STEERING:
        add_prog(to, group->name, &st->steering, &dev->progs[0]);
        break;
    case TUN_STATE_FILTER:
        add_prog(to, group->name, &st->filter, &dev->progs[1]);
        break;
    case TUN_STATE_FLOWS:
        add_flows(to, dev);
        break;
    case TUN_STATE_QUEUES:
        add_queues(to, dev);
        break;
    default:
        /* sndbuf and queue are in "queues" */
        break;
    }
}

JsonNode *tapstate__to_json(const TapstateDevice *dev)
{
    const struct tun_state *st = &dev->st;
    guint64 mask = st->mask;
    JsonObject *to = json_object_new();

    if (IS_MACVTAP(st)) {
        mask &= ~(TUN_STATE_IFF | TUN_STATE_VNET);
    }
    json_object_set_int_member(to, "tapstate", TAPSTATE_FORMAT);
    json_object_set_member(to, "supported",
                           tapstate__bits_node(tapstate__groups,
                                               st->supported));
    for (const Name *n = tapstate__groups; n->bit; n++) {
        const Table *t = tapstate__table(n->bit);

        if (!(mask & n->bit)) {
            continue;
        }
        if (t) {
            add_object(to, n->name, t->fields, st);
        } else {
            add_special(to, dev, n);
        }
    }
    return object_node(to);
}

/**
 * tapstate_encode:
 * @dev: state
 * @pretty: indent it
 *
 * The format has the schema tapstate-2.schema.json.
 *
 * Returns: (transfer full): JSON, to be freed with free() or g_free()
 */
char *tapstate_encode(const TapstateDevice *dev, bool pretty)
{
    g_autoptr(JsonNode) node = tapstate__to_json(dev);

    return json_to_string(node, pretty);
}
