// SPDX-License-Identifier: Apache-2.0
const std = @import("std");
const kvappend = @import("kvappend");

pub fn main() !void {
    // Two samples with one head: one new row for each, for caches of four rows of three elements.
    const plan = try kvappend.Plan(f32, i64, i32).init(.{
        .batch = 2,
        .heads = 1,
        .new_rows = 1,
        .cache_rows = 4,
        .k_dim = 3,
        .v_dim = 3,
    }, null);
    defer plan.deinit();

    var k_cache: [24]f32 = @splat(0);
    var v_cache: [24]f32 = @splat(0);
    var offsets = [2]i64{ 2, 0 }; // the first sample has two rows already
    try plan.run(.{
        .k_new = &.{ 1, 2, 3, 4, 5, 6 },
        .v_new = &.{ -1, -2, -3, -4, -5, -6 },
        .k_cache = &k_cache,
        .v_cache = &v_cache,
        .cache_offsets = &offsets,
    }, null);
    std.debug.print("K of sample 0: {any}\n", .{k_cache[0..12]});
    std.debug.print("V of sample 1: {any}\n", .{v_cache[12..24]});
}
