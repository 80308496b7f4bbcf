// SPDX-License-Identifier: Apache-2.0
module kvappend

go 1.19
