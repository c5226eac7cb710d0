/*
 * Run a fuzzer once on each of the given files, without libFuzzer
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"

#include "libfuzzer.h"

int main(int argc, char **argv)
{
    error_init(argv[0]);
    LLVMFuzzerInitialize(&argc, &argv);
    printf("1..%d\n", argc);
    for (int i = 1; i < argc; i++) {
        g_autofree char *data = NULL;
        size_t size;

        if (!g_file_get_contents(argv[i], &data, &size, NULL)) {
            error_report("cannot read %s", argv[i]);
            return EXIT_FAILURE;
        }
        LLVMFuzzerTestOneInput((uint8_t *)data, size);
        printf("ok %d - %s\n", i, argv[i]);
        fflush(stdout);
    }
    /* Inputs that are all refused test little */
    printf("%s %d - accepted: %u\n", fuzz_accepted ? "ok" : "not ok", argc,
           fuzz_accepted);
    return fuzz_accepted ? EXIT_SUCCESS : EXIT_FAILURE;
}
