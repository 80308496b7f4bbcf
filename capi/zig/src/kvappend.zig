// SPDX-License-Identifier: Apache-2.0
//! Writes new K and V rows into the KV caches of LLM runtimes, gathers rows from them, and moves rows within them. This
//! is a wrapper of the C library libkvappend, which must be installed. The header kvappend/kvappend.h is the manual. It
//! says what each setting means.
//!
//! A `c.kvappend_descriptor` says what is the same at every step. `Plan(T, O, I).init` makes a plan of it, which is run
//! at every step with the buffers of that step: `run` appends, `gather` gathers, and `move` moves.
const std = @import("std");
const interface = @import("c");

/// The declarations of the header. With Zig 0.15 they are a member of c.zig, by @cImport. Later they are the module
/// itself.
pub const c = if (@hasDecl(interface, "c")) interface.c else interface;

/// The bits of a bfloat16.
pub const Bf16 = enum(u16) { _ };

/// The bits of an 8-bit float with 4 bits of exponent and 3 of mantissa, without infinities.
pub const E4m3 = enum(u8) { _ };

/// The bits of an 8-bit float with 5 bits of exponent and 2 of mantissa.
pub const E5m2 = enum(u8) { _ };

/// A checked problem, together with the kernel chosen for it. T is the type of the elements of K and V, O that of
/// offsets, slots and positions of tokens, and I that of all other indices. A plan never changes, so any number of
/// threads may run one plan at once.
pub fn Plan(comptime T: type, comptime O: type, comptime I: type) type {
    return struct {
        const Self = @This();

        handle: *c.kvappend_plan,

        /// The buffers of one append, in memory that the plan's backend can reach. Leave empty what the plan does not
        /// use. A run accesses nothing outside the slices.
        pub const Append = struct {
            k_new: []const T = &.{},
            v_new: []const T = &.{},
            k_cache: []T = &.{},
            v_cache: []T = &.{},
            /// Written by a plan with KVAPPEND_FLAG_ADVANCE, else read.
            cache_offsets: []O = &.{},
            slots: []const O = &.{},
            lengths: []const I = &.{},
            left_pads: []const I = &.{},
            batch_index: []const I = &.{},
            page_table: []const I = &.{},
            page_indptr: []const I = &.{},
            token_samples: []const I = &.{},
            token_positions: []const O = &.{},
            /// One element.
            token_count: []const I = &.{},
            /// The caches with a storage, in bytes, instead of k_cache and v_cache.
            k_stored: []u8 = &.{},
            v_stored: []u8 = &.{},
            /// Scales in bytes: std.mem.sliceAsBytes has those of other types. Written by a plan with
            /// KVAPPEND_SCALING_COMPUTED, else read.
            k_scales: []u8 = &.{},
            v_scales: []u8 = &.{},
            /// One element.
            k_global_scale: []const f32 = &.{},
            v_global_scale: []const f32 = &.{},
            /// The tables of a plan that rotates, in bytes, as scales are.
            rotary_cos: []const u8 = &.{},
            rotary_sin: []const u8 = &.{},
            positions: []const O = &.{},
            /// Q is rotated in place if q and q_out are one slice.
            q: []const T = &.{},
            q_out: []T = &.{},
            /// The rotated rows of Q with a storage, in bytes, instead of q_out.
            q_stored: []u8 = &.{},
            q_scales: []const u8 = &.{},
            report: ?*c.kvappend_report = null,
        };

        /// The buffers of one gather, in the same way. The caches and their scales are only read.
        pub const Gather = struct {
            k_cache: []const T = &.{},
            v_cache: []const T = &.{},
            k_out: []T = &.{},
            v_out: []T = &.{},
            cache_offsets: []const O = &.{},
            slots: []const O = &.{},
            lengths: []const I = &.{},
            left_pads: []const I = &.{},
            batch_index: []const I = &.{},
            page_table: []const I = &.{},
            page_indptr: []const I = &.{},
            token_samples: []const I = &.{},
            token_positions: []const O = &.{},
            /// One element.
            token_count: []const I = &.{},
            /// The caches with a storage, in bytes, instead of k_cache and v_cache.
            k_stored: []const u8 = &.{},
            v_stored: []const u8 = &.{},
            /// In bytes, whether they were given or computed.
            k_scales: []const u8 = &.{},
            v_scales: []const u8 = &.{},
            /// One element.
            k_global_scale: []const f32 = &.{},
            v_global_scale: []const f32 = &.{},
            report: ?*c.kvappend_report = null,
        };

        /// The buffers of one move, in the same way.
        pub const Move = struct {
            k_cache: []T = &.{},
            v_cache: []T = &.{},
            /// Where the rows come from, and where they go.
            from_slots: []const O = &.{},
            slots: []const O = &.{},
            lengths: []const I = &.{},
            /// One element.
            token_count: []const I = &.{},
            /// The caches with a storage, in bytes, instead of k_cache and v_cache.
            k_stored: []u8 = &.{},
            v_stored: []u8 = &.{},
            /// In bytes. Written if they differ between rows, else ignored.
            k_scales: []u8 = &.{},
            v_scales: []u8 = &.{},
            report: ?*c.kvappend_report = null,
        };

        /// One append of a call of runLayers.
        pub const Layer = struct { plan: Self, append: Append };

        /// One gather of a call of gatherLayers.
        pub const GatherLayer = struct { plan: Self, gather: Gather };

        /// One move of a call of moveLayers.
        pub const MoveLayer = struct { plan: Self, move: Move };

        /// Checks the descriptor and chooses a kernel. Fields that are not given have their default. The types and the
        /// size of the descriptor are set here, so leave them out. Its storages and its rotary are read here only.
        pub fn init(descriptor: c.kvappend_descriptor, preference: ?*const c.kvappend_preference) !Self {
            var typed = descriptor;
            typed.struct_size = @sizeOf(c.kvappend_descriptor);
            typed.element_type = switch (T) {
                f32 => c.KVAPPEND_ELEMENT_F32,
                f64 => c.KVAPPEND_ELEMENT_F64,
                f16 => c.KVAPPEND_ELEMENT_F16,
                Bf16 => c.KVAPPEND_ELEMENT_BF16,
                E4m3 => c.KVAPPEND_ELEMENT_E4M3,
                E5m2 => c.KVAPPEND_ELEMENT_E5M2,
                i8 => c.KVAPPEND_ELEMENT_INT8,
                u8 => c.KVAPPEND_ELEMENT_UINT8,
                else => @compileError(@typeName(T) ++
                    " is no element type: expected f32, f64, f16, Bf16, E4m3, E5m2, i8 or u8"),
            };
            typed.offset_type = switch (O) {
                i64 => c.KVAPPEND_OFFSET_INT64,
                i32 => c.KVAPPEND_OFFSET_INT32,
                else => @compileError(@typeName(O) ++ " is no offset type: expected i64 or i32"),
            };
            typed.index_type = switch (I) {
                i32 => c.KVAPPEND_INDEX_INT32,
                i64 => c.KVAPPEND_INDEX_INT64,
                else => @compileError(@typeName(I) ++ " is no index type: expected i32 or i64"),
            };
            var handle: ?*c.kvappend_plan = null;
            try check(c.kvappend_plan_create(&typed, preference, &handle));
            return .{ .handle = handle.? };
        }

        /// Destroys the plan.
        pub fn deinit(self: Self) void {
            _ = c.kvappend_plan_destroy(self.handle);
        }

        /// With the host backend the stream must be null, and the rows are written when this returns. With CUDA, the
        /// buffers are in device memory, and must stay valid until the run has finished in the stream.
        pub fn run(self: Self, append: Append, stream: ?*c.struct_CUstream_st) !void {
            const args = inC(append);
            try check(c.kvappend_plan_run(self.handle, &args, null, 0, stream));
        }

        /// Reads rows from the caches, by a plan with KVAPPEND_OPERATION_GATHER. The same holds for the stream and for
        /// device memory.
        pub fn gather(self: Self, buffers: Gather, stream: ?*c.struct_CUstream_st) !void {
            // If the plan appends, it is refused, because there are no new rows. If it moves, it is refused, because
            // there are no from_slots. Therefore nothing that is const is written.
            const args = inC(buffers);
            try check(c.kvappend_plan_run(self.handle, &args, null, 0, stream));
        }

        /// Moves rows within the caches, by a plan with KVAPPEND_OPERATION_MOVE. The same holds for the stream and for
        /// device memory.
        pub fn move(self: Self, buffers: Move, stream: ?*c.struct_CUstream_st) !void {
            const args = inC(buffers);
            try check(c.kvappend_plan_run(self.handle, &args, null, 0, stream));
        }

        /// Looks for faults in the arrays of indices and in the scales of an append: indices out of range, rows without
        /// a place, two rows with the same place. The run itself skips rows without a place. lastErrorMessage() names
        /// the fault. This is meant for development and tests.
        pub fn validate(self: Self, append: Append, stream: ?*c.struct_CUstream_st) !void {
            try self.validateEach(append, stream);
        }

        /// Does the same for a gather.
        pub fn validateGather(self: Self, buffers: Gather, stream: ?*c.struct_CUstream_st) !void {
            try self.validateEach(buffers, stream);
        }

        /// Does the same for a move.
        pub fn validateMove(self: Self, buffers: Move, stream: ?*c.struct_CUstream_st) !void {
            try self.validateEach(buffers, stream);
        }

        fn validateEach(self: Self, buffers: anytype, stream: ?*c.struct_CUstream_st) !void {
            const args = inC(buffers);
            try check(c.kvappend_plan_validate(self.handle, &args, null, 0, stream, null));
        }

        /// Does several appends as one, such as those of all layers. If one of them is refused, nothing is written. All
        /// rows are placed by the offsets from before the call. cache_offsets that several layers share advance once.
        /// The allocator's memory is used during the call only.
        pub fn runLayers(allocator: std.mem.Allocator, layers: []const Layer, stream: ?*c.struct_CUstream_st) !void {
            try runEach(allocator, layers, "append", stream);
        }

        /// Does several gathers as one, in the same way.
        pub fn gatherLayers(
            allocator: std.mem.Allocator,
            layers: []const GatherLayer,
            stream: ?*c.struct_CUstream_st,
        ) !void {
            try runEach(allocator, layers, "gather", stream);
        }

        /// Does several moves as one, in the same way.
        pub fn moveLayers(
            allocator: std.mem.Allocator,
            layers: []const MoveLayer,
            stream: ?*c.struct_CUstream_st,
        ) !void {
            try runEach(allocator, layers, "move", stream);
        }

        fn runEach(
            allocator: std.mem.Allocator,
            layers: anytype,
            comptime buffers: []const u8,
            stream: ?*c.struct_CUstream_st,
        ) !void {
            const args = try allocator.alloc(c.kvappend_args, layers.len);
            defer allocator.free(args);
            const each = try allocator.alloc(?*const c.kvappend_args, layers.len);
            defer allocator.free(each);
            const plans = try allocator.alloc(?*const c.kvappend_plan, layers.len);
            defer allocator.free(plans);
            for (layers, args, each, plans) |layer, *arg, *pointer, *plan| {
                arg.* = inC(@field(layer, buffers));
                pointer.* = arg;
                plan.* = layer.plan.handle;
            }
            try check(c.kvappend_plan_run_layers(plans.ptr, each.ptr, layers.len, null, 0, stream));
        }

        /// What the plan guarantees for the values that it writes.
        pub fn precisionGuarantee(self: Self) !c.kvappend_precision_guarantee {
            var filled = std.mem.zeroes(c.kvappend_precision_guarantee);
            filled.struct_size = @sizeOf(c.kvappend_precision_guarantee);
            try check(c.kvappend_plan_get_precision_guarantee(self.handle, &filled));
            return filled;
        }

        /// What the library chose for the plan, such as its device.
        pub fn sku(self: Self) !c.kvappend_sku {
            var filled = std.mem.zeroes(c.kvappend_sku);
            filled.struct_size = @sizeOf(c.kvappend_sku);
            try check(c.kvappend_plan_get_sku(self.handle, &filled));
            return filled;
        }
    };
}

/// The buffers of an append, a gather or a move.
fn inC(buffers: anytype) c.kvappend_args {
    var args = std.mem.zeroes(c.kvappend_args);
    args.struct_size = @sizeOf(c.kvappend_args);
    // To the library, 0 bytes mean that the size is unknown. An empty buffer must be null, as it is by default.
    inline for (comptime std.meta.fieldNames(@TypeOf(buffers))) |name| {
        const buffer = @field(buffers, name);
        if (@TypeOf(buffer) == ?*c.kvappend_report) {
            args.report = buffer;
            args.report_bytes = @sizeOf(c.kvappend_report);
        } else if (buffer.len != 0) {
            const is_stored = comptime std.mem.endsWith(u8, name, "_stored");
            const in_c = if (is_stored) name[0..2] ++ (if (name[0] == 'q') "out" else "cache") else name;
            // In C, some buffers that are only read are not const.
            @field(args, in_c) = @constCast(buffer.ptr);
            @field(args, in_c ++ "_bytes") = std.mem.sliceAsBytes(buffer).len;
        }
    }
    return args;
}

/// The storage of a known cache, one of KVAPPEND_PRESET_*, for a descriptor's k_storage or v_storage, or for a rotary's
/// q_storage. Change any of its fields, above all scale_strides.
pub fn storagePreset(preset: i32) !c.kvappend_storage {
    var storage = std.mem.zeroes(c.kvappend_storage);
    try check(c.kvappend_storage_preset(preset, &storage, @sizeOf(c.kvappend_storage)));
    return storage;
}

/// Why this thread's latest failing call failed: one sentence that names the argument, its value and what was expected.
/// It is valid until the thread's next failing call.
pub fn lastErrorMessage() []const u8 {
    return std.mem.span(c.kvappend_last_error_message());
}

fn check(status: c.kvappend_status) !void {
    return switch (status) {
        c.KVAPPEND_SUCCESS => {},
        c.KVAPPEND_ERROR_NULL_ARGUMENT => error.NullArgument,
        c.KVAPPEND_ERROR_STRUCT_SIZE => error.StructSize,
        c.KVAPPEND_ERROR_ABI_VERSION => error.AbiVersion,
        c.KVAPPEND_ERROR_BACKEND => error.Backend,
        c.KVAPPEND_ERROR_ELEMENT_TYPE => error.ElementType,
        c.KVAPPEND_ERROR_OFFSET_TYPE => error.OffsetType,
        c.KVAPPEND_ERROR_ADDRESSING => error.Addressing,
        c.KVAPPEND_ERROR_EXTENT => error.Extent,
        c.KVAPPEND_ERROR_STRIDE => error.Stride,
        c.KVAPPEND_ERROR_OVERFLOW => error.Overflow,
        c.KVAPPEND_ERROR_OVERLAP => error.Overlap,
        c.KVAPPEND_ERROR_KERNEL => error.Kernel,
        c.KVAPPEND_ERROR_LENGTHS => error.Lengths,
        c.KVAPPEND_ERROR_UNSUPPORTED => error.Unsupported,
        c.KVAPPEND_ERROR_NO_DEVICE => error.NoDevice,
        c.KVAPPEND_ERROR_DRIVER => error.Driver,
        c.KVAPPEND_ERROR_CUDA => error.Cuda,
        c.KVAPPEND_ERROR_WRONG_DEVICE => error.WrongDevice,
        c.KVAPPEND_ERROR_OUT_OF_MEMORY => error.OutOfMemory,
        c.KVAPPEND_ERROR_NULL_BUFFER => error.NullBuffer,
        c.KVAPPEND_ERROR_BUFFER_TOO_SMALL => error.BufferTooSmall,
        c.KVAPPEND_ERROR_MISALIGNED => error.Misaligned,
        c.KVAPPEND_ERROR_ALIAS => error.Alias,
        c.KVAPPEND_ERROR_WORKSPACE => error.Workspace,
        c.KVAPPEND_ERROR_STREAM => error.Stream,
        c.KVAPPEND_ERROR_FLAGS => error.Flags,
        c.KVAPPEND_ERROR_CONFLICT => error.Conflict,
        c.KVAPPEND_ERROR_SKIP_POLICY => error.SkipPolicy,
        c.KVAPPEND_ERROR_PACK => error.Pack,
        c.KVAPPEND_ERROR_SKIPPED => error.Skipped,
        c.KVAPPEND_ERROR_INDEX_ORDER => error.IndexOrder,
        c.KVAPPEND_ERROR_INDEX_RANGE => error.IndexRange,
        c.KVAPPEND_ERROR_DUPLICATE => error.Duplicate,
        c.KVAPPEND_ERROR_HOST_THREADS => error.HostThreads,
        c.KVAPPEND_ERROR_INDEX_WIDTH => error.IndexWidth,
        c.KVAPPEND_ERROR_INDEX_TYPE => error.IndexType,
        c.KVAPPEND_ERROR_STORAGE => error.Storage,
        c.KVAPPEND_ERROR_SCALE => error.Scale,
        c.KVAPPEND_ERROR_OPERATION => error.Operation,
        c.KVAPPEND_ERROR_ROTARY => error.Rotary,
        else => error.Unknown,
    };
}
