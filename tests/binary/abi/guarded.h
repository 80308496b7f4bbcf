/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that ends where a struct ends: the page behind it cannot be accessed, so that a library which takes a struct
 * for a longer one is stopped at once. */
#ifndef KVAPPEND_TESTS_GUARDED_H
#define KVAPPEND_TESTS_GUARDED_H

#include <kvappend/kvappend.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #condition,                                \
                    kvappend_last_error_message());                                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void *guarded(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t pages = (bytes + page - 1) / page * page;
    char *const base = (char *)mmap(NULL, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(base != MAP_FAILED);
    REQUIRE(mprotect(base + pages, page, PROT_NONE) == 0);
    return memset(base + pages - bytes, 0xee, bytes);
}

/* Whether the latest failure's message holds the words. */
static int told(const char *words) {
    return strstr(kvappend_last_error_message(), words) != NULL;
}

#endif
