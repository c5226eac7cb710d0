/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line of a QEMU: its options, and the members of their values
 */
#ifndef TAPSTATE_CMDLINE_H
#define TAPSTATE_CMDLINE_H

#include <stdbool.h>
#include <json-glib/json-glib.h>

/* Option such as "-netdev"; a name of NULL is for a disk image by itself */
typedef struct Option {
    char *name; /* without dashes */
    char *value; /* or NULL */
    bool given; /* by the caller: the source does not have it */
} Option;

void option_free(Option *option);
/* Options of @argv, without the name of the program */
GPtrArray *cmdline_parse(char **argv);

/*
 * Members of a value, "a,b=c" or JSON. @implied is the key of a first member
 * that has none.
 */
typedef struct Props {
    JsonObject *object;
    const char *implied;
    bool json;
} Props;

Props props_parse(const char *value, const char *implied);
void props_clear(Props *props);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Props, props_clear)

/* Return a copy, or NULL; a flag without value is "on", "nowait" is wait=off */
char *props_get(const Props *props, const char *key);
bool props_is(const Props *props, const char *key, const char *value);
bool props_has(const Props *props, const char *key);
void props_set(Props *props, const char *key, const char *value);
void props_remove(Props *props, const char *key);
char *props_text(const Props *props);

#endif
