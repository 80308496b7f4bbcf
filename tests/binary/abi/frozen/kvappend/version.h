/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers of this release and of its binary interface. The build reads both from here. */
#ifndef KVAPPEND_VERSION_H
#define KVAPPEND_VERSION_H

/* The release, by semantic versioning. */
#define KVAPPEND_VERSION_MAJOR 0
#define KVAPPEND_VERSION_MINOR 1
#define KVAPPEND_VERSION_PATCH 0

/* The release as one number that grows with it: 10203 is 1.2.3. */
#define KVAPPEND_VERSION (KVAPPEND_VERSION_MAJOR * 10000 + KVAPPEND_VERSION_MINOR * 100 + KVAPPEND_VERSION_PATCH)

/* The binary interface, which is also the number in the SONAME. It changes only when a program built against an
 * older header would no longer run; new functions and new fields at the end of a struct do not change it. */
#define KVAPPEND_ABI_VERSION 1

#endif
