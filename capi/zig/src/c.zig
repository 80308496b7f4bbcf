// SPDX-License-Identifier: Apache-2.0
//! The C interface, as Zig 0.15 translates it from the installed header. Later versions translate c.h instead.
pub const c = @cImport(@cInclude("kvappend/kvappend.h"));
