// SPDX-License-Identifier: Apache-2.0
// The calls of direct.cpp, written against the C++ header: they compile to the same instructions, or to fewer.
#include <kvappend/kvappend.hpp>

extern "C" kvappend_status run(const kvappend::plan &plan, const kvappend::args &args, CUstream_st *stream) {
    return plan.run(args, stream).status();
}

extern "C" kvappend_status can_implement(const kvappend::plan &plan, const kvappend::args &args) {
    return plan.can_implement(args).status();
}

extern "C" kvappend_status validate(const kvappend::plan &plan, const kvappend::args &args, kvappend::fault &fault) {
    return plan.validate(args, &fault).status();
}

extern "C" bool step(const kvappend::plan &plan, const float *rows, std::size_t count, CUstream_st *stream) {
    kvappend::buffers<float> buffers;
    buffers.k_new = {rows, count};
    kvappend::args args;
    buffers.fill(args);
    return plan.run(args, stream).has_value();
}
