/* SPDX-License-Identifier: Apache-2.0 */
/* What follows a header that is compiled alone, because C knows no translation unit without a declaration. */
typedef int declaration;
