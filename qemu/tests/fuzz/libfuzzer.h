/*
 * Functions of a fuzzer, called by libFuzzer or by run-inputs.c
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_FUZZ_LIBFUZZER_H
#define TESTS_FUZZ_LIBFUZZER_H

/* Inputs that the code under test did not refuse */
extern unsigned int fuzz_accepted;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif /* TESTS_FUZZ_LIBFUZZER_H */
