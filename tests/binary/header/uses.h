/* SPDX-License-Identifier: Apache-2.0 */
/* Every macro of the header, and a cudaStream_t as CUDA's own header declares it: compiled as C and as C++. */
#include <kvappend/kvappend.h>

typedef struct CUstream_st *cudaStream_t;

kvappend_status uses(const kvappend_plan *plan, cudaStream_t stream);

kvappend_status uses(const kvappend_plan *plan, cudaStream_t stream) {
    kvappend_descriptor descriptor = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    kvappend_precision_guarantee guarantee = KVAPPEND_PRECISION_GUARANTEE_INIT;
    kvappend_report report = KVAPPEND_REPORT_INIT;
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    kvappend_status status = kvappend_plan_run(plan, &args, NULL, 0, stream);
    status += (int32_t)(descriptor.struct_size + preference.struct_size + sku.struct_size + guarantee.struct_size);
    status += (int32_t)(report.struct_size + fault.struct_size + storage.struct_size);
    return status + KVAPPEND_VERSION + KVAPPEND_ABI_VERSION;
}
