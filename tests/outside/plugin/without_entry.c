/* SPDX-License-Identifier: Apache-2.0 */
/* A library that is not libkvappend. */
int something_else(void);

int something_else(void) {
    return 0;
}
