// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage: fuzz-decode RUNS [SEED]
 *
 * Change valid states at random and decode them, under ASan and UBSan. A text
 * that is accepted must come out the same after another round.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/private.h"
#include "samples.h"

static const char *const words[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\\", "null", "true", "-1", "1e99",
    "0.5", "18446744073709551616", "4294967296", "9223372036854775807", "\"\"",
    "\"0x\"", "\"0xffffffffffffffffff\"", "\"unmapped\"", "\"\\u0000\"", "/*",
    "\"\\\\xff\"", "\"queues\":[]", "{\"a\":{\"a\":", "\xff", "\"1 2 3\"",
};

static guint below(GRand *rand, guint n)
{
    return n ? g_rand_int_range(rand, 0, n) : 0;
}

static void mutate(GString *s, GRand *rand)
{
    const char *word = words[below(rand, G_N_ELEMENTS(words))];
    guint at = below(rand, s->len), n = below(rand, MIN(s->len - at, 40));

    switch (below(rand, 6)) {
    case 0:
        g_string_truncate(s, at);
        break;
    case 1:
        g_string_erase(s, at, n);
        break;
    case 2:
        g_string_insert(s, at, word);
        break;
    case 3:
        g_string_insert_len(s, below(rand, s->len), s->str + at, n);
        break;
    case 4:
        if (s->len) {
            s->str[at] = below(rand, 256);
        }
        break;
    default:
        while (at < s->len && !g_ascii_isdigit(s->str[at])) {
            at++;
        }
        if (at < s->len) {
            s->str[at] = '0' + below(rand, 10);
        }
    }
}

/* Return true if @text is the state of a device */
static bool try(const char *text, size_t len)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(TapstateDevice) dev = tapstate_decode(text, len, &err);
    g_autoptr(TapstateDevice) again = NULL;
    g_autofree char *first = NULL, *second = NULL;

    if (!dev) {
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT);
        return false;
    }
    first = tapstate_encode(dev, false);
    again = tapstate_decode(first, strlen(first), &err);
    g_assert_no_error(err);
    second = tapstate_encode(again, false);
    g_assert_cmpstr(first, ==, second);
    g_assert_cmpuint(tapstate_compare(dev, again, true, NULL, NULL), ==, 0);
    return true;
}

int main(int argc, char **argv)
{
    long runs = argc > 1 ? atol(argv[1]) : 10000, accepted = 0;
    GRand *rand = g_rand_new_with_seed(argc > 2 ? atoi(argv[2]) : 1);

    for (long i = 0; i < runs; i++) {
        const char *sample = samples[below(rand, G_N_ELEMENTS(samples))];
        g_autoptr(GString) s = g_string_new(sample);

        for (guint n = 1 + below(rand, 4); n; n--) {
            mutate(s, rand);
        }
        accepted += try(s->str, s->len);
    }
    g_rand_free(rand);
    printf("%ld inputs, %ld of them accepted\n", runs, accepted);
    /* A fuzzer that only ever meets the parser of JSON tests little */
    return accepted > runs / 100 ? 0 : 1;
}
