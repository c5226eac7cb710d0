// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tables of text, with columns as wide as their widest cell
 */
#include <stdarg.h>

#include "command.h"

GPtrArray *table_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
}

void table_add(GPtrArray *rows, const char *first, ...)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    va_list ap;

    va_start(ap, first);
    for (const char *s = first; s; s = va_arg(ap, const char *)) {
        g_strv_builder_add(b, s);
    }
    va_end(ap);
    g_ptr_array_add(rows, g_strv_builder_end(b));
}

static void append_cell(GString *out, const char *text, int width)
{
    g_string_append(out, text);
    for (int n = g_utf8_strlen(text, -1); n < width + 2; n++) {
        g_string_append_c(out, ' ');
    }
}

/* No line ends in blanks */
char *table_text(GPtrArray *rows, guint columns)
{
    g_autofree int *width = g_new0(int, columns);
    g_autoptr(GString) out = g_string_new(NULL);

    for (guint i = 0; i < rows->len; i++) {
        char **row = rows->pdata[i];

        for (guint c = 0; c < columns; c++) {
            width[c] = MAX(width[c], (int)g_utf8_strlen(row[c], -1));
        }
    }
    for (guint i = 0; i < rows->len; i++) {
        char **row = rows->pdata[i];

        for (guint c = 0; c < columns; c++) {
            append_cell(out, row[c], width[c]);
        }
        while (out->len && out->str[out->len - 1] == ' ') {
            g_string_truncate(out, out->len - 1);
        }
        g_string_append_c(out, '\n');
    }
    return g_string_free(g_steal_pointer(&out), false);
}
