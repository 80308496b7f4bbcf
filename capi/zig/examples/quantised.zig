// SPDX-License-Identifier: Apache-2.0
//! A cache of pages that stores rows as INT8, with a scale for each row. Rows are appended, gathered, and moved.
const std = @import("std");
const kvappend = @import("kvappend");
const c = kvappend.c;

const Plan = kvappend.Plan(f32, i64, i32);

/// The pages of sample 0, and those of sample 1.
const page_table = [4]i32{ 3, 1, 0, 2 };
/// Sample 0 has two rows already.
var offsets = [2]i64{ 2, 0 };
/// Four pages of four rows of eight elements.
var codes: [4 * 4 * 8]u8 = @splat(0);
var scales: [4 * 4]f32 = @splat(0);

fn gather(plan: Plan) ![48]f32 {
    var k_out: [48]f32 = undefined;
    try plan.gather(.{
        .k_stored = &codes,
        .k_scales = std.mem.sliceAsBytes(&scales),
        .k_out = &k_out,
        .page_table = &page_table,
        .cache_offsets = &offsets,
    }, null);
    return k_out;
}

pub fn main() !void {
    var storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_INT8_ROW);
    storage.scale_strides = .{ 4 * 4, 0, 4, 0 }; // in bytes, from page to page and from row to row

    // Two samples with three rows of K for each. There is no V: its rows have no elements.
    var descriptor: c.kvappend_descriptor = .{
        .addressing = c.KVAPPEND_ADDRESSING_PAGED,
        .table_entries = 2,
        .batch = 2,
        .heads = 1,
        .new_rows = 3,
        .cache_blocks = 4,
        .cache_rows = 4,
        .k_dim = 8,
        .k_storage = &storage,
    };
    const appends = try Plan.init(descriptor, null);
    defer appends.deinit();
    descriptor.operation = c.KVAPPEND_OPERATION_GATHER;
    const gathers = try Plan.init(descriptor, null);
    defer gathers.deinit();
    const moves = try Plan.init(.{
        .operation = c.KVAPPEND_OPERATION_MOVE,
        .addressing = c.KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = 1,
        .new_rows = 1,
        .cache_blocks = 4,
        .cache_rows = 4,
        .k_dim = 8,
        .k_storage = &storage,
    }, null);
    defer moves.deinit();

    var k_new: [48]f32 = undefined;
    for (&k_new, 0..) |*element, i| element.* = @as(f32, @floatFromInt(i * 7 % 48)) - 24;
    try appends.run(.{
        .k_new = &k_new,
        .k_stored = &codes,
        .k_scales = std.mem.sliceAsBytes(&scales),
        .page_table = &page_table,
        .cache_offsets = &offsets,
    }, null);
    const k_out = try gather(gathers);
    var largest: f32 = 0;
    for (k_out, k_new) |out, new| largest = @max(largest, @abs(out - new));
    std.debug.print("largest error: {d:.4}\n", .{largest});

    // Row 4 of sample 0 (page 1, row 0) takes the place of its row 2 (page 3, row 2), with its scale.
    try moves.move(.{
        .k_stored = &codes,
        .k_scales = std.mem.sliceAsBytes(&scales),
        .from_slots = &.{4},
        .slots = &.{3 * 4 + 2},
    }, null);
    const moved = try gather(gathers);
    const same = std.mem.eql(f32, moved[0..8], k_out[16..24]);
    std.debug.print("row 4 is now row 2: {}\n", .{same});
}
