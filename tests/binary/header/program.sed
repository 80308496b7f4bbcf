# SPDX-License-Identifier: Apache-2.0
# The program in the first comment of the C header.
/^ \*     #include/,/^ \*     }$/s/^ \*\( \{5\}\)\{0,1\}//p
