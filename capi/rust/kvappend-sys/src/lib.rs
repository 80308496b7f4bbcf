// SPDX-License-Identifier: Apache-2.0
//! Declarations of the C interface of libkvappend. Names, types and numbers are those of the header
//! `kvappend/kvappend.h`, which is also the manual. The crate `kvappend` is a safe wrapper.
//!
//! `Default` gives what the `_INIT` macros of the header give:
//!
//! ```
//! use kvappend_sys::*;
//!
//! let descriptor = kvappend_descriptor {
//!     batch: 2,
//!     heads: 1,
//!     new_rows: 1,
//!     cache_rows: 4,
//!     k_dim: 3,
//!     ..Default::default()
//! };
//! let mut plan = std::ptr::null_mut();
//! // SAFETY: all pointers are valid or NULL.
//! let status = unsafe { kvappend_plan_create(&descriptor, std::ptr::null(), &mut plan) };
//! assert_eq!(status, KVAPPEND_SUCCESS);
//! // SAFETY: nothing else uses the plan.
//! unsafe { kvappend_plan_destroy(plan) };
//! ```
#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_void};
use std::marker::{PhantomData, PhantomPinned};

#[doc(hidden)]
#[macro_use]
pub mod declare;

pub type kvappend_status = i32;

/// A plan. It is only used by pointers.
#[repr(C)]
#[derive(Debug)]
pub struct kvappend_plan {
    unseen: [u8; 0],
    not_ours: PhantomData<(*mut u8, PhantomPinned)>,
}

/// What a `cudaStream_t` or `CUstream` points to.
#[repr(C)]
#[derive(Debug)]
pub struct CUstream_st {
    unseen: [u8; 0],
    not_ours: PhantomData<(*mut u8, PhantomPinned)>,
}

declare_constants! {
    KVAPPEND_ABI_VERSION: u32 = 1;

    KVAPPEND_SUCCESS: kvappend_status = 0;
    KVAPPEND_ERROR_NULL_ARGUMENT: kvappend_status = 1;
    KVAPPEND_ERROR_STRUCT_SIZE: kvappend_status = 2;
    KVAPPEND_ERROR_ABI_VERSION: kvappend_status = 3;
    KVAPPEND_ERROR_BACKEND: kvappend_status = 10;
    KVAPPEND_ERROR_ELEMENT_TYPE: kvappend_status = 11;
    KVAPPEND_ERROR_OFFSET_TYPE: kvappend_status = 12;
    KVAPPEND_ERROR_ADDRESSING: kvappend_status = 13;
    KVAPPEND_ERROR_EXTENT: kvappend_status = 14;
    KVAPPEND_ERROR_STRIDE: kvappend_status = 15;
    KVAPPEND_ERROR_OVERFLOW: kvappend_status = 16;
    KVAPPEND_ERROR_OVERLAP: kvappend_status = 17;
    KVAPPEND_ERROR_KERNEL: kvappend_status = 18;
    KVAPPEND_ERROR_LENGTHS: kvappend_status = 19;
    KVAPPEND_ERROR_UNSUPPORTED: kvappend_status = 20;
    KVAPPEND_ERROR_NO_DEVICE: kvappend_status = 21;
    KVAPPEND_ERROR_DRIVER: kvappend_status = 22;
    KVAPPEND_ERROR_CUDA: kvappend_status = 23;
    KVAPPEND_ERROR_WRONG_DEVICE: kvappend_status = 24;
    KVAPPEND_ERROR_OUT_OF_MEMORY: kvappend_status = 25;
    KVAPPEND_ERROR_NULL_BUFFER: kvappend_status = 30;
    KVAPPEND_ERROR_BUFFER_TOO_SMALL: kvappend_status = 31;
    KVAPPEND_ERROR_MISALIGNED: kvappend_status = 32;
    KVAPPEND_ERROR_ALIAS: kvappend_status = 33;
    KVAPPEND_ERROR_WORKSPACE: kvappend_status = 34;
    KVAPPEND_ERROR_STREAM: kvappend_status = 35;
    KVAPPEND_ERROR_FLAGS: kvappend_status = 40;
    KVAPPEND_ERROR_CONFLICT: kvappend_status = 41;
    KVAPPEND_ERROR_SKIP_POLICY: kvappend_status = 42;
    KVAPPEND_ERROR_PACK: kvappend_status = 43;
    KVAPPEND_ERROR_SKIPPED: kvappend_status = 44;
    KVAPPEND_ERROR_INDEX_ORDER: kvappend_status = 45;
    KVAPPEND_ERROR_INDEX_RANGE: kvappend_status = 46;
    KVAPPEND_ERROR_DUPLICATE: kvappend_status = 47;
    KVAPPEND_ERROR_HOST_THREADS: kvappend_status = 48;
    KVAPPEND_ERROR_INDEX_WIDTH: kvappend_status = 49;
    KVAPPEND_ERROR_INDEX_TYPE: kvappend_status = 50;
    KVAPPEND_ERROR_STORAGE: kvappend_status = 51;
    KVAPPEND_ERROR_SCALE: kvappend_status = 52;
    KVAPPEND_ERROR_OPERATION: kvappend_status = 53;
    KVAPPEND_ERROR_ROTARY: kvappend_status = 54;

    KVAPPEND_OPERATION_APPEND: i32 = 0;
    KVAPPEND_OPERATION_GATHER: i32 = 1;
    KVAPPEND_OPERATION_MOVE: i32 = 2;

    KVAPPEND_BACKEND_HOST: i32 = 0;
    KVAPPEND_BACKEND_CUDA: i32 = 1;

    KVAPPEND_ELEMENT_F32: i32 = 0;
    KVAPPEND_ELEMENT_F64: i32 = 1;
    KVAPPEND_ELEMENT_F16: i32 = 2;
    KVAPPEND_ELEMENT_BF16: i32 = 3;
    KVAPPEND_ELEMENT_E4M3: i32 = 4;
    KVAPPEND_ELEMENT_E5M2: i32 = 5;
    KVAPPEND_ELEMENT_INT8: i32 = 6;
    KVAPPEND_ELEMENT_UINT8: i32 = 7;

    KVAPPEND_OFFSET_INT64: i32 = 0;
    KVAPPEND_OFFSET_INT32: i32 = 1;

    KVAPPEND_INDEX_INT32: i32 = 0;
    KVAPPEND_INDEX_INT64: i32 = 1;

    KVAPPEND_ADDRESSING_DENSE: i32 = 0;
    KVAPPEND_ADDRESSING_RING: i32 = 1;
    KVAPPEND_ADDRESSING_PAGED: i32 = 2;
    KVAPPEND_ADDRESSING_PAGED_CSR: i32 = 3;
    KVAPPEND_ADDRESSING_SLOTS: i32 = 4;

    KVAPPEND_LENGTHS_FIXED: i32 = 0;
    KVAPPEND_LENGTHS_PER_SAMPLE: i32 = 1;
    KVAPPEND_LENGTHS_PACKED: i32 = 2;
    KVAPPEND_LENGTHS_PER_TOKEN: i32 = 3;

    KVAPPEND_FLAG_BATCH_INDEX: i32 = 1;
    KVAPPEND_FLAG_LEFT_PADS: i32 = 2;
    KVAPPEND_FLAG_ZERO_OFFSETS: i32 = 4;
    KVAPPEND_FLAG_RESERVED_SLOT: i32 = 8;
    KVAPPEND_FLAG_ADVANCE: i32 = 16;
    KVAPPEND_FLAG_RESET_REPORT: i32 = 32;
    KVAPPEND_FLAG_COUNT_WRITTEN: i32 = 64;
    KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH: i32 = 128;
    KVAPPEND_FLAG_SHARED_OFFSET: i32 = 256;
    KVAPPEND_FLAG_END_OFFSETS: i32 = 512;
    KVAPPEND_FLAG_LAST_PAGE_LENGTHS: i32 = 1024;
    KVAPPEND_FLAG_TOKEN_COUNT: i32 = 2048;
    KVAPPEND_FLAG_RESERVED_PAGE: i32 = 4096;
    KVAPPEND_FLAG_ZERO_SKIPPED: i32 = 8192;
    KVAPPEND_FLAG_POSITIONS: i32 = 16384;

    KVAPPEND_SKIP_SILENTLY: i32 = 0;
    KVAPPEND_SKIP_REPORT: i32 = 1;
    KVAPPEND_SKIP_TRAP: i32 = 2;

    KVAPPEND_AXIS_BATCH: i32 = 0;
    KVAPPEND_AXIS_HEAD: i32 = 1;
    KVAPPEND_AXIS_ROW: i32 = 2;

    KVAPPEND_STORED_AS_IS: i32 = 0;
    KVAPPEND_STORED_F32: i32 = 1;
    KVAPPEND_STORED_F16: i32 = 2;
    KVAPPEND_STORED_BF16: i32 = 3;
    KVAPPEND_STORED_E4M3: i32 = 4;
    KVAPPEND_STORED_E5M2: i32 = 5;
    KVAPPEND_STORED_INT8: i32 = 6;
    KVAPPEND_STORED_INT4: i32 = 7;
    KVAPPEND_STORED_E2M1: i32 = 8;

    KVAPPEND_SCALING_NONE: i32 = 0;
    KVAPPEND_SCALING_GIVEN: i32 = 1;
    KVAPPEND_SCALING_COMPUTED: i32 = 2;

    KVAPPEND_SCALE_DIVIDE: i32 = 0;
    KVAPPEND_SCALE_RECIPROCAL: i32 = 1;
    KVAPPEND_SCALE_MULTIPLY: i32 = 2;
    KVAPPEND_SCALE_UNROUNDED_RECIPROCAL: i32 = 3;

    KVAPPEND_SCALE_F32: i32 = 0;
    KVAPPEND_SCALE_F16: i32 = 1;
    KVAPPEND_SCALE_E4M3: i32 = 2;
    KVAPPEND_SCALE_UE8M0: i32 = 3;

    KVAPPEND_SCALE_NEAREST: i32 = 0;
    KVAPPEND_SCALE_POWER_OF_TWO: i32 = 1;

    KVAPPEND_SCALE_LINEAR: i32 = 0;
    KVAPPEND_SCALE_BY_FOUR_ROWS: i32 = 1;

    KVAPPEND_ROUNDING_HALF_EVEN: i32 = 0;
    KVAPPEND_ROUNDING_HALF_AWAY: i32 = 1;

    KVAPPEND_NIBBLES_PAIRS: i32 = 0;
    KVAPPEND_NIBBLES_HALVES: i32 = 1;

    KVAPPEND_ROTARY_HALF: i32 = 0;
    KVAPPEND_ROTARY_INTERLEAVED: i32 = 1;

    KVAPPEND_PRESET_F16: i32 = 1;
    KVAPPEND_PRESET_BF16: i32 = 2;
    KVAPPEND_PRESET_E4M3_DIVIDE: i32 = 3;
    KVAPPEND_PRESET_E4M3_RECIPROCAL: i32 = 4;
    KVAPPEND_PRESET_E4M3_MULTIPLY: i32 = 5;
    KVAPPEND_PRESET_INT8_MULTIPLY: i32 = 6;
    KVAPPEND_PRESET_INT8_CHANNEL: i32 = 7;
    KVAPPEND_PRESET_INT4_CHANNEL: i32 = 8;
    KVAPPEND_PRESET_INT8_ROW: i32 = 9;
    KVAPPEND_PRESET_E4M3_ROW: i32 = 10;
    KVAPPEND_PRESET_DEEPSEEK_V3: i32 = 11;
    KVAPPEND_PRESET_DEEPSEEK_V3_POWER_OF_TWO: i32 = 12;
    KVAPPEND_PRESET_DEEPSEEK_V4: i32 = 13;
    KVAPPEND_PRESET_INDEXER: i32 = 14;
    KVAPPEND_PRESET_INDEXER_POWER_OF_TWO: i32 = 15;
    KVAPPEND_PRESET_NVFP4: i32 = 16;
    KVAPPEND_PRESET_NVFP4_BY_FOUR_ROWS: i32 = 17;
    KVAPPEND_PRESET_Q8_0: i32 = 18;
    KVAPPEND_PRESET_Q4_0: i32 = 19;
}

declare_structs! {
    /// What is the same at every run of a plan.
    pub struct kvappend_descriptor {
        pub struct_size: usize,
        pub backend: i32,
        pub element_type: i32,
        pub offset_type: i32,
        pub addressing: i32,
        pub batch: i64,
        pub heads: i64,
        pub new_rows: i64,
        pub cache_rows: i64,
        pub k_dim: i64,
        pub v_dim: i64,
        pub k_new_strides: [i64; 3],
        pub v_new_strides: [i64; 3],
        pub k_cache_strides: [i64; 3],
        pub v_cache_strides: [i64; 3],
        pub lengths: i32,
        pub flags: i32,
        pub cache_blocks: i64,
        pub sink_rows: i64,
        pub table_entries: i64,
        pub table_stride: i64,
        pub reserved_slot: i64,
        pub reserved_page: i64,
        pub k_pack: i64,
        pub v_pack: i64,
        pub k_piece_stride: i64,
        pub v_piece_stride: i64,
        pub skip_policy: i32,
        pub index_type: i32,
        pub k_storage: *const kvappend_storage,
        pub v_storage: *const kvappend_storage,
        pub operation: i32,
        pub reserved: i32,
        pub rotary: *const kvappend_rotary,
    }

    /// How the rows of K, or of V, are stored in their cache.
    pub struct kvappend_storage {
        pub struct_size: usize,
        pub r#type: i32,
        pub scaling: i32,
        pub scale_use: i32,
        pub scale_type: i32,
        pub scale_rounding: i32,
        pub scale_order: i32,
        pub rounding: i32,
        pub nibbles: i32,
        pub global_scale: i32,
        pub amax_floor: f32,
        pub scale_floor: f32,
        pub reserved: i32,
        pub group: i64,
        pub scale_strides: [i64; 4],
    }

    /// How the rows of K are rotated before they are stored, and those of Q with them.
    pub struct kvappend_rotary {
        pub struct_size: usize,
        pub style: i32,
        pub table_type: i32,
        pub dim: i64,
        pub first: i64,
        pub table_rows: i64,
        pub table_stride: i64,
        pub q_heads: i64,
        pub q_dim: i64,
        pub q_first: i64,
        pub q_strides: [i64; 3],
        pub q_out_strides: [i64; 3],
        pub q_storage: *const kvappend_storage,
    }

    /// Wishes about how a plan does its work.
    pub struct kvappend_preference {
        pub struct_size: usize,
        pub kernel_name: *const c_char,
        pub host_threads: i32,
        pub reserved: i32,
    }

    /// The buffers of one run.
    pub struct kvappend_args {
        pub struct_size: usize,
        pub k_new: *const c_void,
        pub k_new_bytes: usize,
        pub v_new: *const c_void,
        pub v_new_bytes: usize,
        pub k_cache: *mut c_void,
        pub k_cache_bytes: usize,
        pub v_cache: *mut c_void,
        pub v_cache_bytes: usize,
        pub cache_offsets: *mut c_void,
        pub cache_offsets_bytes: usize,
        pub slots: *const c_void,
        pub slots_bytes: usize,
        pub from_slots: *const c_void,
        pub from_slots_bytes: usize,
        pub lengths: *const c_void,
        pub lengths_bytes: usize,
        pub left_pads: *const c_void,
        pub left_pads_bytes: usize,
        pub batch_index: *const c_void,
        pub batch_index_bytes: usize,
        pub page_table: *const c_void,
        pub page_table_bytes: usize,
        pub page_indptr: *const c_void,
        pub page_indptr_bytes: usize,
        pub token_samples: *const c_void,
        pub token_samples_bytes: usize,
        pub token_positions: *const c_void,
        pub token_positions_bytes: usize,
        pub token_count: *const c_void,
        pub token_count_bytes: usize,
        pub k_scales: *mut c_void,
        pub k_scales_bytes: usize,
        pub v_scales: *mut c_void,
        pub v_scales_bytes: usize,
        pub k_global_scale: *const f32,
        pub k_global_scale_bytes: usize,
        pub v_global_scale: *const f32,
        pub v_global_scale_bytes: usize,
        pub report: *mut kvappend_report,
        pub report_bytes: usize,
        pub k_out: *mut c_void,
        pub k_out_bytes: usize,
        pub v_out: *mut c_void,
        pub v_out_bytes: usize,
        pub rotary_cos: *const c_void,
        pub rotary_cos_bytes: usize,
        pub rotary_sin: *const c_void,
        pub rotary_sin_bytes: usize,
        pub positions: *const c_void,
        pub positions_bytes: usize,
        pub q: *const c_void,
        pub q_bytes: usize,
        pub q_out: *mut c_void,
        pub q_out_bytes: usize,
        pub q_scales: *const c_void,
        pub q_scales_bytes: usize,
    }

    /// What became of the rows of all runs since the report was zero.
    pub struct kvappend_report {
        pub struct_size: usize,
        pub rows_written: i64,
        pub rows_replaced: i64,
        pub rows_padding: i64,
        pub rows_below: i64,
        pub rows_above: i64,
        pub first_sample: i64,
        pub first_row: i64,
        pub first_position: i64,
        pub state: [i64; 2],
    }

    /// The first fault that `kvappend_plan_validate` found.
    pub struct kvappend_fault {
        pub struct_size: usize,
        pub array: *const c_char,
        pub index: i64,
        pub value: i64,
        pub sample: i64,
        pub row: i64,
        pub position: i64,
        pub other_sample: i64,
        pub other_row: i64,
    }

    /// What the library chose for a plan.
    pub struct kvappend_sku {
        pub struct_size: usize,
        pub operation: i32,
        pub backend: i32,
        pub element_type: i32,
        pub architecture: i32,
        pub k_vector_bytes: i32,
        pub v_vector_bytes: i32,
        pub kernel_name: *const c_char,
        pub device: i32,
        pub addressing: i32,
    }

    /// What a plan guarantees for the values that it writes.
    pub struct kvappend_precision_guarantee {
        pub struct_size: usize,
        pub k_bit_exact: i32,
        pub v_bit_exact: i32,
        pub deterministic: i32,
        pub same_on_all_backends: i32,
        pub k_error: f32,
        pub v_error: f32,
    }

    /// All functions of the library, for programs that load it by hand.
    pub struct kvappend_api {
        pub struct_size: usize,
        pub abi_version: u32,
        pub version: u32,
        pub status_name: Option<unsafe extern "C" fn(kvappend_status) -> *const c_char>,
        pub last_error_message: Option<unsafe extern "C" fn() -> *const c_char>,
        pub descriptor_init: Option<unsafe extern "C" fn(*mut kvappend_descriptor, usize) -> kvappend_status>,
        pub preference_init: Option<unsafe extern "C" fn(*mut kvappend_preference, usize) -> kvappend_status>,
        pub args_init: Option<unsafe extern "C" fn(*mut kvappend_args, usize) -> kvappend_status>,
        pub sku_init: Option<unsafe extern "C" fn(*mut kvappend_sku, usize) -> kvappend_status>,
        pub precision_guarantee_init:
            Option<unsafe extern "C" fn(*mut kvappend_precision_guarantee, usize) -> kvappend_status>,
        pub plan_create: Option<unsafe extern "C" fn(*const kvappend_descriptor, *const kvappend_preference,
                                                     *mut *mut kvappend_plan) -> kvappend_status>,
        pub plan_workspace_size: Option<unsafe extern "C" fn(*const kvappend_plan, *mut usize) -> kvappend_status>,
        pub plan_can_implement:
            Option<unsafe extern "C" fn(*const kvappend_plan, *const kvappend_args) -> kvappend_status>,
        pub plan_run: Option<unsafe extern "C" fn(*const kvappend_plan, *const kvappend_args, *mut c_void, usize,
                                                  *mut CUstream_st) -> kvappend_status>,
        pub plan_destroy: Option<unsafe extern "C" fn(*mut kvappend_plan) -> kvappend_status>,
        pub plan_get_sku: Option<unsafe extern "C" fn(*const kvappend_plan, *mut kvappend_sku) -> kvappend_status>,
        pub plan_get_precision_guarantee:
            Option<unsafe extern "C" fn(*const kvappend_plan, *mut kvappend_precision_guarantee) -> kvappend_status>,
        pub kernel_name: Option<unsafe extern "C" fn(usize) -> *const c_char>,
        pub report_init: Option<unsafe extern "C" fn(*mut kvappend_report, usize) -> kvappend_status>,
        pub fault_init: Option<unsafe extern "C" fn(*mut kvappend_fault, usize) -> kvappend_status>,
        pub plan_validate: Option<unsafe extern "C" fn(*const kvappend_plan, *const kvappend_args, *mut c_void, usize,
                                                       *mut CUstream_st, *mut kvappend_fault) -> kvappend_status>,
        pub plan_run_layers: Option<unsafe extern "C" fn(*const *const kvappend_plan, *const *const kvappend_args,
                                                         usize, *mut c_void, usize, *mut CUstream_st)
                                                         -> kvappend_status>,
        pub storage_init: Option<unsafe extern "C" fn(*mut kvappend_storage, usize) -> kvappend_status>,
        pub storage_preset: Option<unsafe extern "C" fn(i32, *mut kvappend_storage, usize) -> kvappend_status>,
        pub rotary_init: Option<unsafe extern "C" fn(*mut kvappend_rotary, usize) -> kvappend_status>,
    }
}

declare_functions! {
    pub fn kvappend_status_name(status: kvappend_status) -> *const c_char;
    pub fn kvappend_last_error_message() -> *const c_char;
    pub fn kvappend_descriptor_init(s: *mut kvappend_descriptor, struct_size: usize) -> kvappend_status;
    pub fn kvappend_storage_init(s: *mut kvappend_storage, struct_size: usize) -> kvappend_status;
    pub fn kvappend_storage_preset(preset: i32, storage: *mut kvappend_storage,
                                   struct_size: usize) -> kvappend_status;
    pub fn kvappend_rotary_init(s: *mut kvappend_rotary, struct_size: usize) -> kvappend_status;
    pub fn kvappend_preference_init(s: *mut kvappend_preference, struct_size: usize) -> kvappend_status;
    pub fn kvappend_args_init(s: *mut kvappend_args, struct_size: usize) -> kvappend_status;
    pub fn kvappend_report_init(s: *mut kvappend_report, struct_size: usize) -> kvappend_status;
    pub fn kvappend_plan_create(descriptor: *const kvappend_descriptor, preference: *const kvappend_preference,
                                plan: *mut *mut kvappend_plan) -> kvappend_status;
    pub fn kvappend_plan_workspace_size(plan: *const kvappend_plan, bytes: *mut usize) -> kvappend_status;
    pub fn kvappend_plan_can_implement(plan: *const kvappend_plan, args: *const kvappend_args) -> kvappend_status;
    pub fn kvappend_plan_run(plan: *const kvappend_plan, args: *const kvappend_args, workspace: *mut c_void,
                             workspace_bytes: usize, stream: *mut CUstream_st) -> kvappend_status;
    pub fn kvappend_plan_run_layers(plans: *const *const kvappend_plan, args: *const *const kvappend_args,
                                    layers: usize, workspace: *mut c_void, workspace_bytes: usize,
                                    stream: *mut CUstream_st) -> kvappend_status;
    pub fn kvappend_fault_init(s: *mut kvappend_fault, struct_size: usize) -> kvappend_status;
    pub fn kvappend_plan_validate(plan: *const kvappend_plan, args: *const kvappend_args, workspace: *mut c_void,
                                  workspace_bytes: usize, stream: *mut CUstream_st,
                                  fault: *mut kvappend_fault) -> kvappend_status;
    pub fn kvappend_plan_destroy(plan: *mut kvappend_plan) -> kvappend_status;
    pub fn kvappend_sku_init(s: *mut kvappend_sku, struct_size: usize) -> kvappend_status;
    pub fn kvappend_precision_guarantee_init(s: *mut kvappend_precision_guarantee,
                                             struct_size: usize) -> kvappend_status;
    pub fn kvappend_plan_get_sku(plan: *const kvappend_plan, sku: *mut kvappend_sku) -> kvappend_status;
    pub fn kvappend_plan_get_precision_guarantee(plan: *const kvappend_plan,
                                                 guarantee: *mut kvappend_precision_guarantee) -> kvappend_status;
    pub fn kvappend_kernel_name(index: usize) -> *const c_char;
    pub fn kvappend_version() -> u32;
    pub fn kvappend_get_api(abi_version: u32, api: *mut *const kvappend_api) -> kvappend_status;
}
