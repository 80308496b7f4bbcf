// SPDX-License-Identifier: Apache-2.0
//! Appends new K and V rows to the KV caches of LLM runtimes, by libkvappend. Its header, kvappend/kvappend.h, is the
//! manual of what each setting means.
const std = @import("std");
const interface = @import("c");

/// The header. @cImport has a name in c.zig, and what stands for it from Zig 0.17 on is the header itself.
pub const c = if (@hasDecl(interface, "c")) interface.c else interface;

/// The bits of a bfloat16.
pub const Bf16 = enum(u16) { _ };

/// A problem, checked, with the kernel chosen for it. T is the type of the elements of K and V, O that of offsets and
/// slots. A plan never changes: any number of threads may run one plan at once.
pub fn Plan(comptime T: type, comptime O: type) type {
    return struct {
        const Self = @This();

        handle: *c.kvappend_plan,

        /// The buffers of one run, in memory that the plan's backend can reach. What the plan does not ask for is left
        /// empty. The run keeps to the slices' lengths.
        pub const Append = struct {
            k_new: []const T = &.{},
            v_new: []const T = &.{},
            k_cache: []T = &.{},
            v_cache: []T = &.{},
            /// Written by a plan with KVAPPEND_FLAG_ADVANCE, else read.
            cache_offsets: []O = &.{},
            slots: []const O = &.{},
            lengths: []const i32 = &.{},
            left_pads: []const i32 = &.{},
            batch_index: []const i32 = &.{},
            page_table: []const i32 = &.{},
            page_indptr: []const i32 = &.{},
            report: ?*c.kvappend_report = null,
        };

        /// What the descriptor says of types and of its own size does not matter: they are filled in here.
        pub fn init(descriptor: c.kvappend_descriptor, preference: ?*const c.kvappend_preference) !Self {
            var typed = descriptor;
            typed.struct_size = @sizeOf(c.kvappend_descriptor);
            typed.element_type = switch (T) {
                f32 => c.KVAPPEND_ELEMENT_F32,
                f64 => c.KVAPPEND_ELEMENT_F64,
                f16 => c.KVAPPEND_ELEMENT_F16,
                Bf16 => c.KVAPPEND_ELEMENT_BF16,
                else => @compileError(@typeName(T) ++ " is no element type: expected f32, f64, f16 or Bf16"),
            };
            typed.offset_type = switch (O) {
                i64 => c.KVAPPEND_OFFSET_INT64,
                i32 => c.KVAPPEND_OFFSET_INT32,
                else => @compileError(@typeName(O) ++ " is no offset type: expected i64 or i32"),
            };
            var handle: ?*c.kvappend_plan = null;
            try check(c.kvappend_plan_create(&typed, preference, &handle));
            return .{ .handle = handle.? };
        }

        pub fn deinit(self: Self) void {
            _ = c.kvappend_plan_destroy(self.handle);
        }

        /// With the host backend the stream must be null, and the rows are written when this returns; with CUDA the
        /// buffers are the device's, and must last until the stream has come past the run.
        pub fn run(self: Self, append: Append, stream: ?*c.struct_CUstream_st) !void {
            var args = std.mem.zeroes(c.kvappend_args);
            args.struct_size = @sizeOf(c.kvappend_args);
            // To the library 0 bytes are an unknown number: an empty buffer has to be null, as it is by default.
            inline for (comptime std.meta.fieldNames(Append)) |name| {
                const buffer = @field(append, name);
                if (@TypeOf(buffer) == ?*c.kvappend_report) {
                    args.report = buffer;
                    args.report_bytes = @sizeOf(c.kvappend_report);
                } else if (buffer.len != 0) {
                    @field(args, name) = buffer.ptr;
                    @field(args, name ++ "_bytes") = std.mem.sliceAsBytes(buffer).len;
                }
            }
            try check(c.kvappend_plan_run(self.handle, &args, null, 0, stream));
        }
    };
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
        c.KVAPPEND_ERROR_CACHE_OVERLAP => error.CacheOverlap,
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
        else => error.Unknown,
    };
}
