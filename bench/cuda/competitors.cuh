// SPDX-License-Identifier: Apache-2.0
// The ways to do a call's copy that are measured against each other. Each puts its work in a stream.
#pragma once

#include "device.cuh"
#include "elements.cuh"
#include "pieces.hpp"

#include <kvappend/kvappend.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// A call with its arrays of indices on the device. Source and target are the session's: new rows and caches, or with a
// gather caches and outputs.
struct Call {
    Call(const Workload &of, const Indices &with, std::byte *from, std::byte *to)
        : workload(of), indices(with), source(from), target(to),
          pieces(of.converts ? std::vector<Piece>() : pieces_of(of, with)), places(uploaded(with.places)),
          lengths(uploaded(with.lengths)), samples(uploaded(samples_of_tokens(with))),
          page_table(uploaded(of.page_table)), page_indptr(uploaded(of.page_indptr)) {}

    const Workload &workload;
    const Indices &indices;
    std::byte *const source;
    std::byte *const target;
    const std::vector<Piece> pieces;
    const Memory places, lengths, samples, page_table, page_indptr;
};

class Competitor {
public:
    virtual ~Competitor() = default;
    // Throws where a call fails.
    virtual void enqueue(cudaStream_t stream) = 0;
};

inline void require(kvappend_status status) {
    if (status != KVAPPEND_SUCCESS) {
        throw std::runtime_error(std::string(kvappend_status_name(status)) + ": " + kvappend_last_error_message());
    }
}

class Library final : public Competitor {
public:
    explicit Library(const Call &call, std::int32_t flags = 0) {
        const Workload &workload = call.workload;
        kvappend_descriptor descriptor = workload.described();
        descriptor.flags |= flags;
        kvappend_plan *plan = nullptr;
        require(kvappend_plan_create(&descriptor, nullptr, &plan));
        plan_.reset(plan);
        workload.set_buffers(call.source, call.target, args_);
        args_.slots = args_.cache_offsets = call.places.get();
        args_.cache_offsets_bytes = args_.slots_bytes = call.indices.places.size() * sizeof(std::int64_t);
        args_.lengths = static_cast<const std::int32_t *>(call.lengths.get());
        args_.lengths_bytes = call.indices.lengths.size() * sizeof(std::int32_t);
        args_.page_table = static_cast<const std::int32_t *>(call.page_table.get());
        args_.page_table_bytes = workload.page_table.size() * sizeof(std::int32_t);
        args_.page_indptr = static_cast<const std::int32_t *>(call.page_indptr.get());
        args_.page_indptr_bytes = workload.page_indptr.size() * sizeof(std::int32_t);
    }

    void enqueue(cudaStream_t stream) override { require(kvappend_plan_run(plan_.get(), &args_, nullptr, 0, stream)); }

    const kvappend_plan *plan() const { return plan_.get(); }
    const kvappend_args &args() const { return args_; }
    std::string kernel() const {
        kvappend_sku sku = KVAPPEND_SKU_INIT;
        require(kvappend_plan_get_sku(plan_.get(), &sku));
        return sku.kernel_name;
    }

private:
    struct Destroy {
        void operator()(kvappend_plan *plan) const { kvappend_plan_destroy(plan); }
    };
    std::unique_ptr<kvappend_plan, Destroy> plan_;
    kvappend_args args_ = KVAPPEND_ARGS_INIT;
};

// The library with one launch for several layers, of which the first is the call's and the others have rows and caches
// of their own.
class Layers final : public Competitor {
public:
    static constexpr std::size_t count = 32;

    static std::size_t bytes_for(const Workload &workload) { return (count - 1) * bytes_of_layer(workload); }

    explicit Layers(const Call &call)
        : one_(call), memory_(allocate(bytes_for(call.workload))), plans_(count, one_.plan()),
          args_(count, one_.args()) {
        const Workload &workload = call.workload;
        require(cudaMemset(memory_.get(), 0, bytes_for(workload)), "cudaMemset");
        auto *layer = static_cast<std::byte *>(memory_.get());
        for (std::size_t i = 1; i < count; ++i, layer += bytes_of_layer(workload)) {
            workload.set_buffers(layer, layer + round_up(workload.source_bytes()), args_[i]);
        }
        for (const kvappend_args &args : args_) {
            pointers_.push_back(&args);
        }
    }

    void enqueue(cudaStream_t stream) override {
        require(kvappend_plan_run_layers(plans_.data(), pointers_.data(), count, nullptr, 0, stream));
    }

private:
    static std::size_t round_up(std::size_t bytes) { return (bytes + 255) / 256 * 256; }
    static std::size_t bytes_of_layer(const Workload &workload) {
        return round_up(workload.source_bytes()) + round_up(workload.target_bytes());
    }

    const Library one_;
    const Memory memory_;
    const std::vector<const kvappend_plan *> plans_;
    std::vector<kvappend_args> args_;
    std::vector<const kvappend_args *> pointers_;
};

// The limit: as many bytes in one piece.
class OnePiece final : public Competitor {
public:
    explicit OnePiece(const Call &call) : call_(call) {}
    void enqueue(cudaStream_t stream) override {
        require(cudaMemcpyAsync(call_.target, call_.source, call_.workload.written_bytes, cudaMemcpyDefault, stream),
                "cudaMemcpyAsync");
    }

private:
    const Call &call_;
};

class Elements final : public Competitor {
public:
    explicit Elements(const Call &call) : wide_(call.workload.descriptor.element_type == KVAPPEND_ELEMENT_F32) {
        const kvappend_descriptor &d = call.workload.descriptor;
        copies_[0] = copy_of(call, d.k_dim, d.k_new_strides, d.k_cache_strides, 0, 0);
        copies_[1] = copy_of(call, d.v_dim, d.v_new_strides, d.v_cache_strides, call.workload.v_new_at,
                             call.workload.v_cache_at);
    }

    void enqueue(cudaStream_t stream) override {
        for (const ElementCopy &copy : copies_) {
            cudaLaunchConfig_t config{};
            config.blockDim = dim3(256);
            config.gridDim = dim3(static_cast<unsigned>((copy.elements + 255) / 256));
            config.stream = stream;
            require(
                cudaLaunchKernelEx(&config, wide_ ? copy_elements<unsigned int> : copy_elements<unsigned short>, copy),
                "cudaLaunchKernelEx");
        }
    }

private:
    static ElementCopy copy_of(const Call &call, std::int64_t dim, const std::int64_t (&fresh)[3],
                               const std::int64_t (&cache)[3], std::size_t new_at, std::size_t cache_at) {
        const kvappend_descriptor &d = call.workload.descriptor;
        const bool packed = d.lengths == KVAPPEND_LENGTHS_PACKED;
        ElementCopy copy{};
        copy.gathers = call.workload.gathers();
        copy.from = call.source + (copy.gathers ? cache_at : new_at);
        copy.to = call.target + (copy.gathers ? new_at : cache_at);
        std::copy(std::begin(fresh), std::end(fresh), copy.fresh_strides);
        std::copy(std::begin(cache), std::end(cache), copy.cache_strides);
        copy.elements = (packed ? 1 : d.batch) * d.heads * d.new_rows * dim;
        copy.heads = d.heads;
        copy.rows = d.new_rows;
        copy.dim = dim;
        copy.by_token = fresh[KVAPPEND_AXIS_HEAD] < fresh[KVAPPEND_AXIS_ROW];
        copy.addressing = d.addressing;
        copy.cache_rows = d.cache_rows;
        copy.sink_rows = d.sink_rows;
        copy.table_entries = d.table_entries;
        copy.places = static_cast<const std::int64_t *>(call.places.get());
        if (packed) {
            copy.samples = static_cast<const std::int32_t *>(call.samples.get());
            copy.lengths = static_cast<const std::int32_t *>(call.lengths.get());
        }
        copy.page_table = static_cast<const std::int32_t *>(call.page_table.get());
        copy.page_indptr = static_cast<const std::int32_t *>(call.page_indptr.get());
        return copy;
    }

    const bool wide_;
    ElementCopy copies_[2];
};

#if CUDART_VERSION >= 12080
// What CUDA offers for many copies at once.
class Batch final : public Competitor {
public:
    explicit Batch(const Call &call) {
        for (const Piece &piece : call.pieces) {
            from_.push_back(call.source + piece.from);
            to_.push_back(call.target + piece.to);
            bytes_.push_back(piece.bytes);
        }
    }

    void enqueue(cudaStream_t stream) override {
        cudaMemcpyAttributes attributes{};
        attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
        std::size_t first = 0;
#if CUDART_VERSION >= 13000
        require(cudaMemcpyBatchAsync(to_.data(), from_.data(), bytes_.data(), bytes_.size(), &attributes, &first, 1,
                                     stream),
                "cudaMemcpyBatchAsync");
#else
        std::size_t failed = 0;
        require(cudaMemcpyBatchAsync(to_.data(), from_.data(), bytes_.data(), bytes_.size(), &attributes, &first, 1,
                                     &failed, stream),
                "cudaMemcpyBatchAsync");
#endif
    }

private:
#if CUDART_VERSION >= 13000
    std::vector<const void *> from_;
#else
    std::vector<void *> from_;
#endif
    std::vector<void *> to_;
    std::vector<std::size_t> bytes_;
};
#endif

class Nothing final : public Competitor {
public:
    void enqueue(cudaStream_t stream) override {
        cudaLaunchConfig_t config{};
        config.blockDim = dim3(32);
        config.gridDim = dim3(1);
        config.stream = stream;
        require(cudaLaunchKernelEx(&config, do_nothing, 0), "cudaLaunchKernelEx");
    }
};
