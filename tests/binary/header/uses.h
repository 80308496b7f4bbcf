/* SPDX-License-Identifier: Apache-2.0 */
/* Every macro of the header, and a cudaStream_t as CUDA's own header declares it: compiled as C and as C++. */
#include <kvappend/kvappend.h>

typedef struct CUstream_st *cudaStream_t;

kvappend_status uses(const kvappend_plan *plan, cudaStream_t stream);

kvappend_status uses(const kvappend_plan *plan, cudaStream_t stream) {
    kvappend_descriptor descriptor = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    kvappend_rotary rotary = KVAPPEND_ROTARY_INIT;
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    kvappend_precision_guarantee guarantee = KVAPPEND_PRECISION_GUARANTEE_INIT;
    kvappend_report report = KVAPPEND_REPORT_INIT;
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    kvappend_status status = kvappend_plan_run(plan, &args, NULL, 0, stream);
    status += (int32_t)(descriptor.struct_size + preference.struct_size + sku.struct_size + guarantee.struct_size);
    status += (int32_t)(report.struct_size + fault.struct_size + storage.struct_size + rotary.struct_size);
    return status + KVAPPEND_VERSION + KVAPPEND_ABI_VERSION;
}

#if !defined(__cplusplus) || __cplusplus >= 202002L
kvappend_status designated(kvappend_plan **plan, void *buffer);

kvappend_status designated(kvappend_plan **plan, void *buffer) {
    const kvappend_storage storage = KVAPPEND_STORAGE(.type = KVAPPEND_STORED_E4M3, .scale_strides = {0, 4, 0, 0});
    const kvappend_rotary rotary = KVAPPEND_ROTARY(.dim = 64, .table_rows = 4096);
    const kvappend_descriptor descriptor =
        KVAPPEND_DESCRIPTOR(.batch = 2, .k_new_strides = {1, 2, 3}, .k_storage = &storage, .rotary = &rotary);
    const kvappend_preference none = KVAPPEND_PREFERENCE();
    const kvappend_preference preference = KVAPPEND_PREFERENCE(.host_threads = 2);
    const kvappend_args args = KVAPPEND_ARGS(.k_new = buffer, .k_new_bytes = sizeof(float));
    const kvappend_status status = kvappend_plan_create(&descriptor, &none, plan);
    return status + kvappend_plan_create(&descriptor, &preference, plan) + kvappend_plan_can_implement(*plan, &args);
}
#endif
