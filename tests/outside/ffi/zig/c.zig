// SPDX-License-Identifier: Apache-2.0
//! The C interface, as Zig translates it from the installed header. Zig 0.17 has no @cImport any more: from there on
//! what `zig translate-c` makes of the header takes the place of this file.
pub const c = @cImport(@cInclude("kvappend/kvappend.h"));
