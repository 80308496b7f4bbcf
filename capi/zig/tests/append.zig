// SPDX-License-Identifier: Apache-2.0
//! Appends, gathers and moves by the module kvappend. Every byte of the caches and of the memory around them is
//! compared.
const std = @import("std");
const kvappend = @import("kvappend");
const c = kvappend.c;

const batch = 4;
const heads = 2;
const new_rows = 3;
const cache_rows = 6;
const k_dim = 5;
const v_dim = 3;
/// Elements before and behind each cache.
const guard = 7;

/// One sample in the middle of its cache, one at its end, one with no row, one that begins before its cache.
const offsets = [batch]i64{ 1, 4, 2, -1 };
const lengths = [batch]i32{ 3, 3, 0, 2 };

/// Contiguous tensors but for v_new, whose tokens are outside heads.
const ragged_batch = std.mem.zeroInit(c.kvappend_descriptor, .{
    .lengths = c.KVAPPEND_LENGTHS_PER_SAMPLE,
    .batch = batch,
    .heads = heads,
    .new_rows = new_rows,
    .cache_rows = cache_rows,
    .k_dim = k_dim,
    .v_dim = v_dim,
    .v_new_strides = [3]i64{ new_rows * heads * v_dim, v_dim, heads * v_dim },
});

/// The memory of a call, the caches' with their guards.
fn Case(comptime T: type) type {
    return struct {
        const Self = @This();
        const Plan = kvappend.Plan(T, i64, i32);

        k_new: [batch * heads * new_rows * k_dim]T,
        v_new: [batch * heads * new_rows * v_dim]T,
        k_memory: [guard + batch * heads * cache_rows * k_dim + guard]T,
        v_memory: [guard + batch * heads * cache_rows * v_dim + guard]T,

        /// Arbitrary bits, NaNs among them.
        fn init(seed: u64) Self {
            var self: Self = undefined;
            var random = std.Random.DefaultPrng.init(seed);
            inline for (.{ "k_new", "v_new", "k_memory", "v_memory" }) |name| {
                random.random().bytes(std.mem.sliceAsBytes(&@field(self, name)));
            }
            return self;
        }

        fn args(self: *Self, cache_offsets: []i64) Plan.Append {
            return .{
                .k_new = &self.k_new,
                .v_new = &self.v_new,
                .k_cache = self.k_memory[guard .. self.k_memory.len - guard],
                .v_cache = self.v_memory[guard .. self.v_memory.len - guard],
                .cache_offsets = cache_offsets,
                .lengths = &lengths,
            };
        }

        /// The same memory after an append by the header's words.
        fn expected(self: Self) Self {
            var after = self;
            for (offsets, lengths, 0..) |offset, length, b| {
                for (0..@intCast(length)) |l| {
                    const position = offset + @as(i64, @intCast(l));
                    if (position < 0 or position >= cache_rows) continue;
                    for (0..heads) |h| {
                        const row = (b * heads + h) * cache_rows + @as(usize, @intCast(position));
                        const k_new = self.k_new[((b * heads + h) * new_rows + l) * k_dim ..][0..k_dim];
                        const v_new = self.v_new[((b * new_rows + l) * heads + h) * v_dim ..][0..v_dim];
                        @memcpy(after.k_memory[guard + row * k_dim ..][0..k_dim], k_new);
                        @memcpy(after.v_memory[guard + row * v_dim ..][0..v_dim], v_new);
                    }
                }
            }
            return after;
        }

        fn expectEqual(self: Self, other: Self) !void {
            inline for (.{ "k_memory", "v_memory" }) |name| {
                const wanted = std.mem.sliceAsBytes(&@field(self, name));
                try std.testing.expectEqualSlices(u8, wanted, std.mem.sliceAsBytes(&@field(other, name)));
            }
        }
    };
}

fn expectMessage(words: []const u8) !void {
    const message = kvappend.lastErrorMessage();
    if (std.mem.indexOf(u8, message, words) == null) {
        std.debug.print("\"{s}\": expected \"{s}\"\n", .{ message, words });
        return error.WrongMessage;
    }
}

test "a ragged batch of each type" {
    // In the order of the header's numbers.
    const types = .{ f32, f64, f16, kvappend.Bf16, kvappend.E4m3, kvappend.E5m2, i8, u8 };
    inline for (types, 0..) |T, element_type| {
        const plan = try kvappend.Plan(T, i64, i32).init(ragged_batch, null);
        defer plan.deinit();
        try std.testing.expectEqual(@as(i32, element_type), (try plan.sku()).element_type);
        var case = Case(T).init(1);
        var cache_offsets = offsets;
        const expected = case.expected();
        try plan.run(case.args(&cache_offsets), null);
        try expected.expectEqual(case);
        try std.testing.expectEqual(offsets, cache_offsets);
    }
}

const Shared = struct {
    plan: kvappend.Plan(f32, i64, i32),
    failures: std.atomic.Value(usize) = .init(0),

    fn run(self: *Shared, thread: usize) void {
        for (0..300) |step| {
            self.one(thread, step) catch |err| {
                std.debug.print("thread {}, step {}: {}\n", .{ thread, step, err });
                _ = self.failures.fetchAdd(1, .monotonic);
                return;
            };
        }
    }

    fn one(self: *Shared, thread: usize, step: usize) !void {
        var case = Case(f32).init(thread * 1000 + step);
        var cache_offsets = offsets;
        const expected = case.expected();
        var args = case.args(&cache_offsets);
        try self.plan.run(args, null);
        try expected.expectEqual(case);
        try std.testing.expectEqual([batch]i64{ 4, 7, 2, 1 }, cache_offsets);
        // The message is the thread's own.
        args.k_new = args.k_new[0 .. thread + 1];
        try std.testing.expectError(error.BufferTooSmall, self.plan.run(args, null));
        var words: [64]u8 = undefined;
        try expectMessage(try std.fmt.bufPrint(&words, "args.k_new_bytes is {}:", .{@sizeOf(f32) * (thread + 1)}));
    }
};

test "threads share a plan" {
    var descriptor = ragged_batch;
    descriptor.flags = c.KVAPPEND_FLAG_ADVANCE;
    var shared = Shared{ .plan = try .init(descriptor, null) };
    defer shared.plan.deinit();
    var threads: [8]std.Thread = undefined;
    for (&threads, 0..) |*thread, i| {
        thread.* = try std.Thread.spawn(.{}, Shared.run, .{ &shared, i });
    }
    for (threads) |thread| thread.join();
    try std.testing.expectEqual(0, shared.failures.load(.monotonic));
}

test "an error says what was expected, and nothing is written" {
    const plan = try kvappend.Plan(f64, i64, i32).init(ragged_batch, null);
    defer plan.deinit();
    var case = Case(f64).init(2);
    const before = case;
    var cache_offsets = offsets;
    var args = case.args(&cache_offsets);
    args.v_cache = args.v_cache[1..];
    try std.testing.expectError(error.BufferTooSmall, plan.run(args, null));
    try expectMessage("args.v_cache_bytes is 1144: expected at least 1152");
    // An empty slice is not one of unknown size.
    try std.testing.expectError(error.NullBuffer, plan.run(case.args(&.{}), null));
    try expectMessage("args.cache_offsets is NULL");
    args = case.args(&cache_offsets);
    args.k_new = args.k_cache;
    try std.testing.expectError(error.Alias, plan.run(args, null));
    // A stream is for devices.
    const stream: *c.struct_CUstream_st = @ptrFromInt(0x1000);
    try std.testing.expectError(error.Stream, plan.run(case.args(&cache_offsets), stream));
    try before.expectEqual(case);

    var descriptor = ragged_batch;
    descriptor.v_dim = -1;
    try std.testing.expectError(error.Extent, kvappend.Plan(f64, i64, i32).init(descriptor, null));
    try expectMessage("v_dim is -1");
}

/// K caches of blocks of four rows of one byte, and no V.
fn oneByteRows(samples: i64, rows: i64, blocks: i64) c.kvappend_descriptor {
    return std.mem.zeroInit(c.kvappend_descriptor, .{
        .batch = samples,
        .heads = 1,
        .new_rows = rows,
        .cache_rows = 4,
        .cache_blocks = blocks,
        .k_dim = 1,
    });
}

test "tokens with positions, by indices of each type" {
    inline for (.{ .{ i64, i32 }, .{ i64, i64 }, .{ i32, i32 }, .{ i32, i64 } }) |types| {
        var descriptor = oneByteRows(2, 6, 3);
        descriptor.addressing = c.KVAPPEND_ADDRESSING_PAGED;
        descriptor.table_entries = 2;
        descriptor.lengths = c.KVAPPEND_LENGTHS_PER_TOKEN;
        descriptor.skip_policy = c.KVAPPEND_SKIP_REPORT;
        descriptor.flags = c.KVAPPEND_FLAG_TOKEN_COUNT | c.KVAPPEND_FLAG_RESERVED_PAGE | c.KVAPPEND_FLAG_COUNT_WRITTEN;
        descriptor.reserved_page = 0;
        const plan = try kvappend.Plan(u8, types[0], types[1]).init(descriptor, null);
        defer plan.deinit();
        var cache: [12]u8 = @splat(0);
        var report = std.mem.zeroes(c.kvappend_report);
        // A token of no sample, one on the reserved page, one beyond its table, and one after the count.
        try plan.run(.{
            .k_new = &.{ 1, 2, 3, 4, 5, 6 },
            .k_cache = &cache,
            .token_samples = &.{ 1, 0, -1, 1, 0, 0 },
            .token_positions = &.{ 5, 2, 0, 0, 8, 3 },
            .token_count = &.{5},
            .page_table = &.{ 2, 0, 0, 1 },
            .report = &report,
        }, null);
        try std.testing.expectEqual([12]u8{ 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0 }, cache);
        try std.testing.expectEqual([3]i64{ 2, 3, 1 }, .{ report.rows_written, report.rows_padding, report.rows_above });
        try std.testing.expectEqual([2]i64{ 4, 8 }, .{ report.first_row, report.first_position });
    }
}

test "samples share an offset" {
    var descriptor = oneByteRows(2, 2, 2);
    descriptor.flags = c.KVAPPEND_FLAG_SHARED_OFFSET | c.KVAPPEND_FLAG_ADVANCE;
    const plan = try kvappend.Plan(u8, i64, i32).init(descriptor, null);
    defer plan.deinit();
    var cache: [8]u8 = @splat(0);
    var offset = [1]i64{1};
    try plan.run(.{ .k_new = &.{ 1, 2, 3, 4 }, .k_cache = &cache, .cache_offsets = &offset }, null);
    try std.testing.expectEqual([8]u8{ 0, 1, 2, 0, 0, 3, 4, 0 }, cache);
    try std.testing.expectEqual([1]i64{3}, offset);
}

test "offsets from the end" {
    var descriptor = oneByteRows(2, 2, 2);
    descriptor.lengths = c.KVAPPEND_LENGTHS_PER_SAMPLE;
    descriptor.flags = c.KVAPPEND_FLAG_END_OFFSETS;
    const plan = try kvappend.Plan(u8, i32, i64).init(descriptor, null);
    defer plan.deinit();
    var cache: [8]u8 = @splat(0);
    var ends = [2]i32{ 4, 1 };
    try plan.run(.{
        .k_new = &.{ 1, 2, 3, 4 },
        .k_cache = &cache,
        .cache_offsets = &ends,
        .lengths = &.{ 2, 1 },
    }, null);
    try std.testing.expectEqual([8]u8{ 0, 0, 1, 2, 3, 0, 0, 0 }, cache);
}

test "offsets on the last page" {
    var descriptor = oneByteRows(2, 2, 3);
    descriptor.addressing = c.KVAPPEND_ADDRESSING_PAGED_CSR;
    descriptor.table_entries = 3;
    descriptor.flags = c.KVAPPEND_FLAG_LAST_PAGE_LENGTHS | c.KVAPPEND_FLAG_RESERVED_PAGE;
    descriptor.reserved_page = 1;
    const plan = try kvappend.Plan(u8, i32, i64).init(descriptor, null);
    defer plan.deinit();
    var cache: [12]u8 = @splat(0);
    var last_page_lengths = [2]i32{ 1, 3 };
    try plan.run(.{
        .k_new = &.{ 1, 2, 3, 4 },
        .k_cache = &cache,
        .cache_offsets = &last_page_lengths,
        .page_table = &.{ 2, 0, 1 },
        .page_indptr = &.{ 0, 2, 3 },
    }, null);
    try std.testing.expectEqual([12]u8{ 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 }, cache);
}

test "layers advance their offsets once" {
    var descriptor = oneByteRows(1, 1, 1);
    descriptor.skip_policy = c.KVAPPEND_SKIP_REPORT;
    descriptor.flags = c.KVAPPEND_FLAG_ADVANCE | c.KVAPPEND_FLAG_COUNT_WRITTEN | c.KVAPPEND_FLAG_RESET_REPORT;
    const Plan = kvappend.Plan(u8, i64, i32);
    const plan = try Plan.init(descriptor, null);
    defer plan.deinit();
    const news = [3][1]u8{ .{1}, .{2}, .{3} };
    var caches: [3][4]u8 = @splat(@splat(0));
    var offsets_of_all = [1]i64{2};
    var report = std.mem.zeroes(c.kvappend_report);
    var layers: [3]Plan.Layer = undefined;
    for (&layers, &news, &caches) |*layer, *new, *cache| {
        layer.* = .{ .plan = plan, .append = .{
            .k_new = new,
            .k_cache = cache,
            .cache_offsets = &offsets_of_all,
            .report = &report,
        } };
    }
    const expected = [3][4]u8{ .{ 0, 0, 1, 0 }, .{ 0, 0, 2, 0 }, .{ 0, 0, 3, 0 } };
    try Plan.runLayers(std.testing.allocator, &layers, null);
    try std.testing.expectEqual(expected, caches);
    try std.testing.expectEqual([1]i64{3}, offsets_of_all);
    try std.testing.expectEqual(3, report.rows_written);
    try Plan.runLayers(std.testing.allocator, &.{}, null);

    // A refused layer is named, and none is written.
    layers[2].append.cache_offsets = &.{};
    try std.testing.expectError(error.NullBuffer, Plan.runLayers(std.testing.allocator, &layers, null));
    try expectMessage("layer 2: args.cache_offsets is NULL");
    try std.testing.expectEqual(expected, caches);
    try std.testing.expectEqual([1]i64{3}, offsets_of_all);
    const stream: *c.struct_CUstream_st = @ptrFromInt(0x1000);
    try std.testing.expectError(error.Stream, Plan.runLayers(std.testing.allocator, layers[0..1], stream));
    const sku = try plan.sku();
    try std.testing.expectEqual([2]i32{ c.KVAPPEND_BACKEND_HOST, 0 }, .{ sku.backend, sku.device });
}

test "slots are counted in a report" {
    var descriptor = ragged_batch;
    descriptor.addressing = c.KVAPPEND_ADDRESSING_SLOTS;
    descriptor.lengths = c.KVAPPEND_LENGTHS_FIXED;
    descriptor.batch = 1;
    descriptor.new_rows = batch;
    descriptor.cache_blocks = batch;
    descriptor.v_new_strides = .{ 0, 0, 0 };
    descriptor.skip_policy = c.KVAPPEND_SKIP_REPORT;
    descriptor.flags = c.KVAPPEND_FLAG_COUNT_WRITTEN | c.KVAPPEND_FLAG_RESET_REPORT;
    const plan = try kvappend.Plan(f16, i32, i32).init(descriptor, null);
    defer plan.deinit();
    // Contiguous caches [N, H, R, D], so that a token's row lies once in each of a block's heads.
    const slots = [batch]i32{ 5, -1, batch * cache_rows, batch * cache_rows - 1 };
    var case = Case(f16).init(3);
    var expected = case;
    for ([_]usize{ 0, 3 }) |token| {
        const slot: usize = @intCast(slots[token]);
        for (0..heads) |h| {
            const from = token * heads + h;
            const to = (slot / cache_rows * heads + h) * cache_rows + slot % cache_rows;
            @memcpy(expected.k_memory[to * k_dim ..][0..k_dim], case.k_new[from * k_dim ..][0..k_dim]);
            @memcpy(expected.v_memory[to * v_dim ..][0..v_dim], case.v_new[from * v_dim ..][0..v_dim]);
        }
    }
    var report = std.mem.zeroes(c.kvappend_report);
    try plan.run(.{
        .k_new = &case.k_new,
        .v_new = &case.v_new,
        .k_cache = &case.k_memory,
        .v_cache = &case.v_memory,
        .slots = &slots,
        .report = &report,
    }, null);
    try expected.expectEqual(case);
    try std.testing.expectEqual(2, report.rows_written);
    try std.testing.expectEqual(1, report.rows_padding);
    try std.testing.expectEqual(1, report.rows_above);
    try std.testing.expectEqual(2, report.first_row);
}

/// The rows of a ragged batch after a gather: those without a place have `rest` in all bytes.
fn gathered(case: anytype, rest: u8) @TypeOf(case) {
    var after = case;
    @memset(std.mem.sliceAsBytes(&after.k_new), rest);
    @memset(std.mem.sliceAsBytes(&after.v_new), rest);
    for (offsets, lengths, 0..) |offset, length, b| {
        for (0..@intCast(length)) |l| {
            const position = offset + @as(i64, @intCast(l));
            if (position < 0 or position >= cache_rows) continue;
            for (0..heads) |h| {
                const k = ((b * heads + h) * new_rows + l) * k_dim;
                const v = ((b * new_rows + l) * heads + h) * v_dim;
                @memcpy(after.k_new[k..][0..k_dim], case.k_new[k..][0..k_dim]);
                @memcpy(after.v_new[v..][0..v_dim], case.v_new[v..][0..v_dim]);
            }
        }
    }
    return after;
}

test "the rows that were appended are gathered" {
    inline for (.{ f32, f64, kvappend.Bf16, u8 }) |T| {
        const Plan = kvappend.Plan(T, i64, i32);
        const appends = try Plan.init(ragged_batch, null);
        defer appends.deinit();
        var case = Case(T).init(1);
        var cache_offsets = offsets;
        try appends.run(case.args(&cache_offsets), null);
        const before = case;
        var descriptor = ragged_batch;
        descriptor.operation = c.KVAPPEND_OPERATION_GATHER;
        for ([_]u8{ 0xee, 0 }) |rest| {
            if (rest == 0) descriptor.flags = c.KVAPPEND_FLAG_ZERO_SKIPPED;
            const plan = try Plan.init(descriptor, null);
            defer plan.deinit();
            var out = case;
            @memset(std.mem.sliceAsBytes(&out.k_new), 0xee);
            @memset(std.mem.sliceAsBytes(&out.v_new), 0xee);
            const buffers: Plan.Gather = .{
                .k_cache = case.k_memory[guard .. case.k_memory.len - guard],
                .v_cache = case.v_memory[guard .. case.v_memory.len - guard],
                .k_out = &out.k_new,
                .v_out = &out.v_new,
                .cache_offsets = &offsets,
                .lengths = &lengths,
            };
            try plan.gather(buffers, null);
            const expected = gathered(case, rest);
            inline for (.{ "k_new", "v_new" }) |name| {
                const wanted = std.mem.sliceAsBytes(&@field(expected, name));
                try std.testing.expectEqualSlices(u8, wanted, std.mem.sliceAsBytes(&@field(out, name)));
            }
            try before.expectEqual(case);
            const sku = try plan.sku();
            const operation = [2]i32{ c.KVAPPEND_OPERATION_GATHER, c.KVAPPEND_ADDRESSING_DENSE };
            try std.testing.expectEqual(operation, .{ sku.operation, sku.addressing });
            // Buffers of the other operation.
            try std.testing.expectError(error.NullBuffer, plan.run(case.args(&cache_offsets), null));
            try expectMessage("args.k_out is NULL");
            try std.testing.expectError(error.NullBuffer, appends.gather(buffers, null));
            try expectMessage("args.k_new is NULL");
        }
    }
}

test "layers are gathered as one" {
    var descriptor = oneByteRows(1, 2, 1);
    const Plan = kvappend.Plan(u8, i64, i32);
    const appends = try Plan.init(descriptor, null);
    defer appends.deinit();
    descriptor.operation = c.KVAPPEND_OPERATION_GATHER;
    const plan = try Plan.init(descriptor, null);
    defer plan.deinit();
    const caches = [2][4]u8{ .{ 1, 2, 3, 4 }, .{ 5, 6, 7, 8 } };
    var outs: [2][2]u8 = @splat(@splat(0));
    var layers: [2]Plan.GatherLayer = undefined;
    for (&layers, &caches, &outs) |*layer, *cache, *out| {
        layer.* = .{ .plan = plan, .gather = .{ .k_cache = cache, .k_out = out, .cache_offsets = &.{1} } };
    }
    try Plan.gatherLayers(std.testing.allocator, &layers, null);
    try std.testing.expectEqual([2][2]u8{ .{ 2, 3 }, .{ 6, 7 } }, outs);
    layers[1].plan = appends;
    try std.testing.expectError(error.Operation, Plan.gatherLayers(std.testing.allocator, &layers, null));
    try expectMessage("layer 1: ");
    descriptor.operation = 3;
    try std.testing.expectError(error.Operation, Plan.init(descriptor, null));
    // Rows that lie over each other.
    descriptor = oneByteRows(1, 2, 1);
    descriptor.v_dim = 1;
    descriptor.operation = c.KVAPPEND_OPERATION_GATHER;
    const both = try Plan.init(descriptor, null);
    defer both.deinit();
    try std.testing.expectError(error.Overlap, both.gather(.{
        .k_cache = &caches[0],
        .v_cache = &caches[1],
        .k_out = &outs[0],
        .v_out = &outs[0],
        .cache_offsets = &.{1},
    }, null));
}

/// Moves within three blocks of four rows of one byte.
fn oneByteMoves(rows: i64) c.kvappend_descriptor {
    var descriptor = oneByteRows(1, rows, 3);
    descriptor.operation = c.KVAPPEND_OPERATION_MOVE;
    descriptor.addressing = c.KVAPPEND_ADDRESSING_SLOTS;
    return descriptor;
}

const numbered = [12]u8{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 };

test "rows are moved in a chain" {
    inline for (.{ .{ i64, i32 }, .{ i32, i64 } }) |types| {
        const plan = try kvappend.Plan(u8, types[0], types[1]).init(oneByteMoves(3), null);
        defer plan.deinit();
        var cache = numbered;
        try plan.move(.{ .k_cache = &cache, .from_slots = &.{ 0, 1, 2 }, .slots = &.{ 1, 2, 3 } }, null);
        try std.testing.expectEqual([12]u8{ 0, 0, 0, 0, 4, 5, 6, 7, 8, 9, 10, 11 }, cache);
        const sku = try plan.sku();
        const operation = [2]i32{ c.KVAPPEND_OPERATION_MOVE, c.KVAPPEND_ADDRESSING_SLOTS };
        try std.testing.expectEqual(operation, .{ sku.operation, sku.addressing });
    }
}

/// Two samples: a chain from slot 0 on, and a swap of rows 5 and 9 by way of row 11. -1 is padding on either side.
const from_slots = [8]i64{ 0, 1, 2, -1, 5, 9, 11, 7 };
const to_slots = [8]i64{ 1, 2, 3, 4, 11, 5, 9, -1 };

test "faults of indices" {
    var cache: [8]u8 = @splat(0);
    const Bytes = kvappend.Plan(u8, i64, i32);
    var descriptor: c.kvappend_descriptor = .{
        .addressing = c.KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = 1,
        .new_rows = 2,
        .cache_blocks = 2,
        .cache_rows = 4,
        .k_dim = 1,
    };
    const appends = try Bytes.init(descriptor, null);
    defer appends.deinit();
    var rows = Bytes.Append{ .k_new = &.{ 1, 2 }, .k_cache = &cache, .slots = &.{ 5, 5 } };
    try std.testing.expectError(error.Duplicate, appends.validate(rows, null));
    try expectMessage("both go to row 1 of block 1");
    rows.slots = &.{ 5, 6 };
    try appends.validate(rows, null);

    descriptor.operation = c.KVAPPEND_OPERATION_GATHER;
    const gathers = try Bytes.init(descriptor, null);
    defer gathers.deinit();
    var k_out: [2]u8 = undefined;
    const out = Bytes.Gather{ .k_cache = &cache, .k_out = &k_out, .slots = &.{ 5, 8 } };
    try std.testing.expectError(error.Skipped, gathers.validateGather(out, null));

    descriptor.operation = c.KVAPPEND_OPERATION_MOVE;
    const moves = try Bytes.init(descriptor, null);
    defer moves.deinit();
    const moved = Bytes.Move{ .k_cache = &cache, .from_slots = &.{ 0, 8 }, .slots = &.{ 1, 2 } };
    try std.testing.expectError(error.Skipped, moves.validateMove(moved, null));
    try std.testing.expectEqual(@as([8]u8, @splat(0)), cache);
}

test "rows of two samples are moved" {
    inline for (.{ f32, f64, kvappend.Bf16, u8 }) |T| {
        var descriptor = oneByteMoves(8);
        descriptor.lengths = c.KVAPPEND_LENGTHS_PACKED;
        descriptor.batch = 2;
        descriptor.heads = heads;
        descriptor.k_dim = k_dim;
        descriptor.v_dim = v_dim;
        descriptor.v_cache_strides = .{ 4 * heads * v_dim, v_dim, heads * v_dim }; // tokens outside heads
        const plan = try kvappend.Plan(T, i64, i32).init(descriptor, null);
        defer plan.deinit();
        var case = Case(T).init(1);
        var expected = case;
        for (from_slots, to_slots) |from_slot, to_slot| {
            if (from_slot < 0 or to_slot < 0) continue;
            const from: usize = @intCast(from_slot);
            const to: usize = @intCast(to_slot);
            for (0..heads) |h| {
                const k = expected.k_memory[guard..];
                const k_from = ((from / 4 * heads + h) * 4 + from % 4) * k_dim;
                const k_to = ((to / 4 * heads + h) * 4 + to % 4) * k_dim;
                @memcpy(k[k_to..][0..k_dim], k[k_from..][0..k_dim]);
                const v = expected.v_memory[guard..];
                @memcpy(v[(to * heads + h) * v_dim ..][0..v_dim], v[(from * heads + h) * v_dim ..][0..v_dim]);
            }
        }
        try plan.move(.{
            .k_cache = case.k_memory[guard..][0 .. 12 * heads * k_dim],
            .v_cache = case.v_memory[guard..][0 .. 12 * heads * v_dim],
            .from_slots = &from_slots,
            .slots = &to_slots,
            .lengths = &.{ 0, 4, 8 },
        }, null);
        try expected.expectEqual(case);
    }
}

test "moved rows without a place" {
    var descriptor = oneByteMoves(5);
    descriptor.flags = c.KVAPPEND_FLAG_RESERVED_SLOT | c.KVAPPEND_FLAG_TOKEN_COUNT | c.KVAPPEND_FLAG_COUNT_WRITTEN;
    descriptor.reserved_slot = 7;
    descriptor.skip_policy = c.KVAPPEND_SKIP_REPORT;
    const plan = try kvappend.Plan(u8, i64, i32).init(descriptor, null);
    defer plan.deinit();
    var cache = numbered;
    var report = std.mem.zeroes(c.kvappend_report);
    try plan.move(.{
        .k_cache = &cache,
        .from_slots = &.{ 0, 7, 12, 3, 1 },
        .slots = &.{ 5, 6, 8, -1, 2 },
        .token_count = &.{4},
        .report = &report,
    }, null);
    try std.testing.expectEqual([12]u8{ 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 10, 11 }, cache);
    const counts = [3]i64{ report.rows_written, report.rows_padding, report.rows_above };
    try std.testing.expectEqual([3]i64{ 1, 3, 1 }, counts);
    try std.testing.expectEqual([2]i64{ 2, 12 }, .{ report.first_row, report.first_position });
}

test "layers are moved as one, and other plans are refused" {
    const Plan = kvappend.Plan(u8, i64, i32);
    var descriptor = oneByteMoves(2);
    const plan = try Plan.init(descriptor, null);
    defer plan.deinit();
    descriptor.operation = c.KVAPPEND_OPERATION_APPEND;
    const appends = try Plan.init(descriptor, null);
    defer appends.deinit();
    descriptor.operation = c.KVAPPEND_OPERATION_GATHER;
    const gathers = try Plan.init(descriptor, null);
    defer gathers.deinit();
    var caches: [2][12]u8 = @splat(numbered);
    var layers: [2]Plan.MoveLayer = undefined;
    for (&layers, &caches) |*layer, *cache| {
        layer.* = .{ .plan = plan, .move = .{ .k_cache = cache, .from_slots = &.{ 0, 5 }, .slots = &.{ 5, 4 } } };
    }
    try Plan.moveLayers(std.testing.allocator, &layers, null);
    const expected = [12]u8{ 0, 1, 2, 3, 0, 0, 6, 7, 8, 9, 10, 11 };
    try std.testing.expectEqual([2][12]u8{ expected, expected }, caches);
    layers[1].plan = appends;
    try std.testing.expectError(error.Operation, Plan.moveLayers(std.testing.allocator, &layers, null));
    try expectMessage("layer 1: ");
    try std.testing.expectError(error.NullBuffer, appends.move(layers[0].move, null));
    try expectMessage("args.k_new is NULL");
    try std.testing.expectError(error.NullBuffer, gathers.move(layers[0].move, null));
    try expectMessage("args.k_out is NULL");
    const slots = [2]i64{ 5, 4 };
    const new: Plan.Append = .{ .k_new = &.{ 9, 9 }, .k_cache = &caches[0], .slots = &slots };
    try std.testing.expectError(error.NullBuffer, plan.run(new, null));
    try expectMessage("args.from_slots is NULL");
    var out: [2]u8 = @splat(9);
    const read: Plan.Gather = .{ .k_out = &out, .k_cache = &caches[0], .slots = &slots };
    try std.testing.expectError(error.NullBuffer, plan.gather(read, null));
    try expectMessage("args.from_slots is NULL");
    layers[0].move.from_slots = &.{0};
    try std.testing.expectError(error.BufferTooSmall, plan.move(layers[0].move, null));
    try expectMessage("args.from_slots_bytes");
    try std.testing.expectEqual([2][12]u8{ expected, expected }, caches);
    descriptor = oneByteMoves(2);
    descriptor.k_new_strides[c.KVAPPEND_AXIS_ROW] = 1;
    try std.testing.expectError(error.Conflict, Plan.init(descriptor, null));
    try expectMessage("k_new_strides[2] is 1");
}

/// K caches of two rows for each of two samples. The new row of sample 0 goes to row 1, that of sample 1 to row 0.
fn storedRows(dim: i64, storage: *const c.kvappend_storage) c.kvappend_descriptor {
    return std.mem.zeroInit(c.kvappend_descriptor, .{
        .batch = 2,
        .heads = 1,
        .new_rows = 1,
        .cache_rows = 2,
        .k_dim = dim,
        .k_storage = storage,
    });
}

const stored_at = [2]i64{ 1, 0 };

test "E4M3 with given scales" {
    const k_storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_E4M3_DIVIDE);
    var v_storage = k_storage;
    v_storage.scale_strides[c.KVAPPEND_AXIS_BATCH] = @sizeOf(f32); // a scale for each sample
    var descriptor = storedRows(4, &k_storage);
    descriptor.v_dim = 2;
    descriptor.v_storage = &v_storage;
    const plan = try kvappend.Plan(f32, i64, i32).init(descriptor, null);
    defer plan.deinit();
    var cache_offsets = stored_at;
    var k_scales = [1]f32{2};
    var v_scales = [2]f32{ 4, 2 };
    var k_cache: [16]u8 = @splat(0xee);
    var v_cache: [8]u8 = @splat(0xee);
    try plan.run(.{
        .k_new = &.{ 2, -3, 896, 0.5, 1000, 0, -0.0, 2.125 },
        .v_new = &.{ 4, -6, 2, 1 },
        .k_stored = &k_cache,
        .v_stored = &v_cache,
        .k_scales = std.mem.sliceAsBytes(&k_scales),
        .v_scales = std.mem.sliceAsBytes(&v_scales),
        .cache_offsets = &cache_offsets,
    }, null);
    try std.testing.expectEqual([16]u8{
        0xee, 0xee, 0xee, 0xee, 0x38, 0xbc, 0x7e, 0x28, // 1, -1.5, 448, 0.25
        0x7e, 0x00, 0x80, 0x38, 0xee, 0xee, 0xee, 0xee, // 500, 0, -0, 1.0625
    }, k_cache);
    try std.testing.expectEqual([8]u8{ 0xee, 0xee, 0x38, 0xbc, 0x38, 0x30, 0xee, 0xee }, v_cache); // 1, -1.5; 1, 0.5

    const guarantee = try plan.precisionGuarantee();
    try std.testing.expectEqual(0, guarantee.k_bit_exact);
    try std.testing.expectEqual(1, guarantee.same_on_all_backends);
    try std.testing.expectEqual(0.0625, guarantee.v_error);
}

// Rows of four codes and the scale of the row.
test "INT8 with scales in the same rows" {
    var storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_INT8_ROW);
    storage.scale_strides = .{ 16, 0, 8, 0 };
    var descriptor = storedRows(4, &storage);
    descriptor.k_cache_strides = .{ 16, 0, 8 };
    const plan = try kvappend.Plan(f32, i64, i32).init(descriptor, null);
    defer plan.deinit();
    var cache_offsets = stored_at;
    var cache: [32]u8 align(@alignOf(f32)) = @splat(0xee);
    try plan.run(.{
        .k_new = &.{ 127, -63.5, 1, 0.5, 254, 1, -3, 5 },
        .k_stored = &cache,
        .k_scales = cache[4..],
        .cache_offsets = &cache_offsets,
    }, null);
    var expected: [32]u8 = @splat(0xee);
    expected[8..16].* = .{ 0x7f, 0xc0, 0x01, 0x01, 0x00, 0x00, 0x80, 0x3f }; // 127, -64, 1, 1; 1.0
    expected[16..24].* = .{ 0x7f, 0x01, 0xfe, 0x03, 0x00, 0x00, 0x00, 0x40 }; // 127, 1, -2, 3; 2.0
    try std.testing.expectEqual(expected, cache);
}

test "NVFP4 with a global scale" {
    var storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_NVFP4);
    storage.scale_strides = .{ 2, 0, 1, 0 };
    const plan = try kvappend.Plan(f32, i64, i32).init(storedRows(16, &storage), null);
    defer plan.deinit();
    var cache_offsets = stored_at;
    var cache: [32]u8 = @splat(0xee);
    var scales: [4]u8 = @splat(0xee);
    var k_new: [32]f32 = @splat(0);
    k_new[0..16].* = .{ 0, 1, 2, 3, 4, 6, 8, 12, -1, -2, -3, -4, -6, -8, -12, 0.5 }; // by 4 * 0.5
    k_new[16..24].* = .{ 6, 5, -0.25, 2.5, 1.75, -3.5, 0.75, std.math.nan(f32) }; // by 2 * 0.5
    try plan.run(.{
        .k_new = &k_new,
        .k_stored = &cache,
        .k_scales = &scales,
        .k_global_scale = &.{0.5},
        .cache_offsets = &cache_offsets,
    }, null);
    var expected: [32]u8 = @splat(0xee);
    expected[8..16].* = .{ 0x10, 0x32, 0x54, 0x76, 0xa9, 0xcb, 0xed, 0x0f };
    expected[16..24].* = .{ 0x67, 0x48, 0xe4, 0x02, 0x00, 0x00, 0x00, 0x00 };
    try std.testing.expectEqual(expected, cache);
    try std.testing.expectEqual([4]u8{ 0xee, 0x48, 0x40, 0xee }, scales); // 4 and 2
}

// Each element is a code times its scale: INT8 codes followed by the scale of the row, and E4M3 codes.
test "stored rows are gathered" {
    var k_storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_INT8_ROW);
    k_storage.scale_strides = .{ 16, 0, 8, 0 };
    const v_storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_E4M3_DIVIDE);
    var descriptor = storedRows(4, &k_storage);
    descriptor.k_cache_strides = .{ 16, 0, 8 };
    descriptor.v_dim = 4;
    descriptor.v_storage = &v_storage;
    const Plan = kvappend.Plan(f32, i64, i32);
    const appends = try Plan.init(descriptor, null);
    defer appends.deinit();
    descriptor.operation = c.KVAPPEND_OPERATION_GATHER;
    const plan = try Plan.init(descriptor, null);
    defer plan.deinit();
    var cache_offsets = stored_at;
    var v_scales = [1]f32{2};
    var k_cache: [32]u8 align(@alignOf(f32)) = @splat(0xee);
    var v_cache: [16]u8 = @splat(0xee);
    try appends.run(.{
        .k_new = &.{ 127, -63.5, 1, 0.5, 254, 1, -3, 5 },
        .v_new = &.{ 2, -3, 896, 0.5, 1000, 0, -0.0, 2.125 },
        .k_stored = &k_cache,
        .v_stored = &v_cache,
        .k_scales = k_cache[4..],
        .v_scales = std.mem.sliceAsBytes(&v_scales),
        .cache_offsets = &cache_offsets,
    }, null);
    var k_out: [8]f32 = @splat(7);
    var v_out: [8]f32 = @splat(7);
    try plan.gather(.{
        .k_stored = &k_cache,
        .v_stored = &v_cache,
        .k_scales = k_cache[4..],
        .v_scales = std.mem.sliceAsBytes(&v_scales),
        .k_out = &k_out,
        .v_out = &v_out,
        .cache_offsets = &stored_at,
    }, null);
    const k_expected = [8]f32{ 127, -64, 1, 1, 254, 2, -4, 6 };
    const v_expected = [8]f32{ 2, -3, 896, 0.5, 896, 0, -0.0, 2 };
    try std.testing.expectEqualSlices(u8, std.mem.sliceAsBytes(&k_expected), std.mem.sliceAsBytes(&k_out));
    try std.testing.expectEqualSlices(u8, std.mem.sliceAsBytes(&v_expected), std.mem.sliceAsBytes(&v_out));
}

test "the scales of stored rows are moved with them" {
    var k_storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_INT8_ROW);
    k_storage.scale_strides = .{ 0, 0, 8, 0 };
    const v_storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_E4M3_DIVIDE); // one scale, which need not be given
    var descriptor = oneByteMoves(1);
    descriptor.cache_blocks = 1;
    descriptor.cache_rows = 2;
    descriptor.k_dim = 4;
    descriptor.k_cache_strides = .{ 16, 0, 8 };
    descriptor.k_storage = &k_storage;
    descriptor.v_dim = 2;
    descriptor.v_storage = &v_storage;
    const plan = try kvappend.Plan(f32, i64, i32).init(descriptor, null);
    defer plan.deinit();
    var k_cache: [16]u8 align(@alignOf(f32)) = .{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    var v_cache = [4]u8{ 1, 2, 3, 4 };
    try plan.move(.{
        .k_stored = &k_cache,
        .v_stored = &v_cache,
        .k_scales = k_cache[4..],
        .from_slots = &.{1},
        .slots = &.{0},
    }, null);
    try std.testing.expectEqual([16]u8{ 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15 }, k_cache);
    try std.testing.expectEqual([4]u8{ 3, 4, 3, 4 }, v_cache);
}

test "storages that are refused" {
    try std.testing.expectError(error.Storage, kvappend.storagePreset(99));
    try expectMessage("preset is 99");
    const storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_E4M3_DIVIDE);
    const plan = try kvappend.Plan(f32, i64, i32).init(storedRows(4, &storage), null);
    defer plan.deinit();
    var cache_offsets = stored_at;
    var cache: [16]u8 = @splat(0xee);
    const append: kvappend.Plan(f32, i64, i32).Append = .{
        .k_new = &@as([8]f32, @splat(1)),
        .k_stored = &cache,
        .cache_offsets = &cache_offsets,
    };
    try std.testing.expectError(error.NullBuffer, plan.run(append, null));
    try expectMessage("args.k_scales is NULL");
    try std.testing.expectEqual(@as([16]u8, @splat(0xee)), cache);
}

const Plain = kvappend.Plan(f32, i64, i32);

/// Two tokens in slots: one head of K, and two of Q.
const rotated_tokens = std.mem.zeroInit(c.kvappend_descriptor, .{
    .addressing = c.KVAPPEND_ADDRESSING_SLOTS,
    .flags = c.KVAPPEND_FLAG_POSITIONS,
    .batch = 1,
    .heads = 1,
    .new_rows = 2,
    .cache_rows = 2,
    .cache_blocks = 1,
    .k_dim = 4,
});

/// By one table [positions, cos | sin].
const rotary_of_tokens = std.mem.zeroInit(c.kvappend_rotary, .{
    .struct_size = @sizeOf(c.kvappend_rotary),
    .dim = 4,
    .table_rows = 2,
    .table_stride = 4,
    .q_heads = 2,
    .q_dim = 4,
});

/// The buffers of one run. The second token is rotated by a quarter turn.
fn tokensOf(k_cache: []f32) Plain.Append {
    const table = comptime std.mem.sliceAsBytes(&[8]f32{ 1, 1, 0, 0, 0, 0, 1, 1 });
    return .{
        .k_new = &.{ 1, 2, 3, 4, 5, 6, 7, 8 },
        .k_cache = k_cache,
        .slots = &.{ 1, 0 },
        .positions = &.{ 0, 1 },
        .rotary_cos = table,
        .rotary_sin = table[8..],
        .q = &q_of_tokens,
    };
}

const q_of_tokens = [16]f32{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

test "rows of K and of Q are rotated" {
    const rotated = [16]f32{ 1, 2, 3, 4, 5, 6, 7, 8, -11, -12, 9, 10, -15, -16, 13, 14 };
    var descriptor = rotated_tokens;
    descriptor.rotary = &rotary_of_tokens;
    const plan = try Plain.init(descriptor, null);
    defer plan.deinit();
    var k_cache: [8]f32 = undefined;
    var q_out: [16]f32 = undefined;
    var args = tokensOf(&k_cache);
    args.q_out = &q_out;
    try plan.run(args, null);
    try std.testing.expectEqual([8]f32{ -7, -8, 5, 6, 1, 2, 3, 4 }, k_cache);
    try std.testing.expectEqual(rotated, q_out);
    var q = q_of_tokens;
    args.q = &q; // in place
    args.q_out = &q;
    try Plain.runLayers(std.testing.allocator, &.{.{ .plan = plan, .append = args }}, null);
    try std.testing.expectEqual(rotated, q);
    args.q_out = q_out[1..];
    try std.testing.expectError(error.BufferTooSmall, plan.run(args, null));
    try expectMessage("q_out_bytes is 60");
}

test "rotated rows of Q in E4M3" {
    // As [H, T, D], with a scale for each head.
    var storage = try kvappend.storagePreset(c.KVAPPEND_PRESET_E4M3_DIVIDE);
    storage.scale_strides[c.KVAPPEND_AXIS_HEAD] = 4;
    var rotary = rotary_of_tokens;
    rotary.q_out_strides = .{ 16, 8, 4 };
    rotary.q_storage = &storage;
    var descriptor = rotated_tokens;
    descriptor.rotary = &rotary;
    const plan = try Plain.init(descriptor, null);
    defer plan.deinit();
    var k_cache: [8]f32 = undefined;
    var codes: [16]u8 = undefined;
    var args = tokensOf(&k_cache);
    args.q_stored = &codes;
    args.q_scales = std.mem.sliceAsBytes(&[2]f32{ 2, 4 });
    try plan.run(args, null);
    try std.testing.expectEqualSlices(u8, &.{
        0x30, 0x38, 0x3c, 0x40, 0xcb, 0xcc, 0x49, 0x4a, // 0.5, 1, 1.5, 2; -5.5, -6, 4.5, 5
        0x3a, 0x3c, 0x3e, 0x40, 0xc7, 0xc8, 0x45, 0x46, // 1.25, 1.5, 1.75, 2; -3.75, -4, 3.25, 3.5
    }, &codes);
}
