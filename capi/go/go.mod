// SPDX-License-Identifier: Apache-2.0
module kvappend.example/capi/go

go 1.19
