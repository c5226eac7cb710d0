// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Disassemble classic BPF, in the syntax of tcpdump -d
 */
#include "command.h"

static const char *const load_names[] = { "ld", "ldh", "ldb", "unimp" };

static const struct {
    guint16 code;
    const char *name;
} ops[] = {
    { BPF_ADD, "add" }, { BPF_SUB, "sub" }, { BPF_MUL, "mul" },
    { BPF_DIV, "div" }, { BPF_OR, "or" }, { BPF_AND, "and" },
    { BPF_LSH, "lsh" }, { BPF_RSH, "rsh" }, { BPF_NEG, "neg" },
    { BPF_MOD, "mod" }, { BPF_XOR, "xor" },
}, jumps[] = {
    { BPF_JEQ, "jeq" }, { BPF_JGT, "jgt" }, { BPF_JGE, "jge" },
    { BPF_JSET, "jset" },
};

/* Write operator and operand of a load into @x or A */
static const char *load(const struct sock_filter *f, char **operand)
{
    const char *name = load_names[BPF_SIZE(f->code) >> 3];
    bool x = BPF_CLASS(f->code) == BPF_LDX;

    switch (BPF_MODE(f->code)) {
    case BPF_IMM:
        *operand = g_strdup_printf("#0x%x", f->k);
        return x ? "ldx" : "ld";
    case BPF_MEM:
        *operand = g_strdup_printf("M[%u]", f->k);
        return x ? "ldx" : "ld";
    case BPF_LEN:
        *operand = g_strdup("#pktlen");
        return x ? "ldx" : "ld";
    case BPF_ABS:
        *operand = g_strdup_printf("[%d]", (int)f->k);
        return x ? NULL : name;
    case BPF_IND:
        *operand = g_strdup_printf("[x + %d]", (int)f->k);
        return x ? NULL : name;
    case BPF_MSH:
        *operand = g_strdup_printf("4*([%u]&0xf)", f->k);
        return x ? "ldxb" : NULL;
    default:
        return NULL;
    }
}

static const char *alu(const struct sock_filter *f, char **operand)
{
    guint16 op = BPF_OP(f->code);

    if (op == BPF_NEG) {
        *operand = g_strdup("");
    } else if (BPF_SRC(f->code) == BPF_X) {
        *operand = g_strdup("x");
    } else {
        bool hex = op == BPF_AND || op == BPF_OR || op == BPF_XOR;

        *operand = g_strdup_printf(hex ? "#0x%x" : "#%u", f->k);
    }
    for (guint i = 0; i < G_N_ELEMENTS(ops); i++) {
        if (ops[i].code == op) {
            return ops[i].name;
        }
    }
    return NULL;
}

static const char *jump(const struct sock_filter *f, guint pc, char **operand)
{
    if (BPF_OP(f->code) == BPF_JA) {
        *operand = g_strdup_printf("%" G_GUINT64_FORMAT,
                                   (guint64)pc + 1 + f->k);
        return "ja";
    }
    *operand = BPF_SRC(f->code) == BPF_X ? g_strdup("x") :
                                           g_strdup_printf("#0x%x", f->k);
    for (guint i = 0; i < G_N_ELEMENTS(jumps); i++) {
        if (jumps[i].code == BPF_OP(f->code)) {
            return jumps[i].name;
        }
    }
    return NULL;
}

static const char *decode(const struct sock_filter *f, guint pc,
                          char **operand)
{
    switch (BPF_CLASS(f->code)) {
    case BPF_LD:
    case BPF_LDX:
        return load(f, operand);
    case BPF_ST:
    case BPF_STX:
        *operand = g_strdup_printf("M[%u]", f->k);
        return BPF_CLASS(f->code) == BPF_ST ? "st" : "stx";
    case BPF_ALU:
        return alu(f, operand);
    case BPF_JMP:
        return jump(f, pc, operand);
    case BPF_RET:
        *operand = BPF_RVAL(f->code) == BPF_A ? g_strdup("") :
                                                g_strdup_printf("#%u", f->k);
        return "ret";
    default:
        *operand = g_strdup("");
        return BPF_MISCOP(f->code) == BPF_TAX ? "tax" : "txa";
    }
}

char *bpf_text(const struct sock_filter *insns, guint n)
{
    g_autoptr(GString) out = g_string_new(NULL);

    for (guint pc = 0; pc < n; pc++) {
        const struct sock_filter *f = &insns[pc];
        g_autofree char *operand = NULL;
        const char *name = decode(f, pc, &operand);

        if (!name) {
            g_string_append_printf(out, "(%03u) unimp    0x%x\n", pc, f->code);
        } else if (BPF_CLASS(f->code) == BPF_JMP &&
                   BPF_OP(f->code) != BPF_JA) {
            g_string_append_printf(out, "(%03u) %-8s %-16s jt %u\tjf %u\n", pc,
                                   name, operand, pc + 1 + f->jt,
                                   pc + 1 + f->jf);
        } else {
            g_string_append_printf(out, *operand ? "(%03u) %-8s %s\n" :
                                                   "(%03u) %s%s\n", pc, name,
                                   operand);
        }
    }
    return g_string_free(g_steal_pointer(&out), false);
}
