// SPDX-License-Identifier: Apache-2.0
#include "calls.hpp"

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace {

void require(kvappend_status status) {
    if (status != KVAPPEND_SUCCESS) {
        throw std::runtime_error(kvappend_last_error_message());
    }
}

// A decoding step of bfloat16, with all that a call of it needs.
class Step {
public:
    explicit Step(kvappend_descriptor d) : d_(d) {
        d_.element_type = KVAPPEND_ELEMENT_BF16;
        d_.cache_rows = 64;
        d_.cache_blocks = d_.addressing == KVAPPEND_ADDRESSING_PAGED ? d_.batch : 0;
        d_.table_entries = d_.addressing == KVAPPEND_ADDRESSING_PAGED ? 1 : 0;
        kvappend_plan *plan = nullptr;
        require(kvappend_plan_create(&d_, nullptr, &plan));
        plan_.reset(plan, kvappend_plan_destroy);
        const auto count = static_cast<std::size_t>(d_.batch * d_.heads);
        row_bytes_ = static_cast<std::size_t>(d_.k_dim) * 2;
        // Room for one pool of both caches.
        new_.resize(2 * count * row_bytes_);
        caches_.resize(2 * count * 64 * row_bytes_);
        indices_.resize(static_cast<std::size_t>(d_.batch));
        args_.k_new = new_.data();
        args_.v_new = new_.data() + count * row_bytes_;
        args_.k_cache = caches_.data();
        args_.v_cache = caches_.data() + count * 64 * row_bytes_;
        args_.cache_offsets = indices_.data();
        args_.page_table = reinterpret_cast<const std::int32_t *>(indices_.data());
    }

    // V behind K in each row of one pool.
    void interleave() { args_.v_cache = caches_.data() + row_bytes_; }

    void run() const { require(kvappend_plan_run(plan_.get(), &args_, nullptr, 0, nullptr)); }
    void check() const { require(kvappend_plan_can_implement(plan_.get(), &args_)); }
    // As often as the layers that were asked for.
    void run_layers() const {
        require(kvappend_plan_run_layers(plans_.data(), layer_args_.data(), plans_.size(), nullptr, 0, nullptr));
    }
    void make_layers(std::size_t layers) {
        plans_.assign(layers, plan_.get());
        layer_args_.assign(layers, &args_);
    }
    // What a run copies, as one writes it by hand.
    void copy() const {
        const auto rows = static_cast<std::size_t>(d_.batch * d_.heads);
        const auto copy_rows = [&](const void *from, void *to) {
            for (std::size_t row = 0; row < rows; ++row) {
                std::memcpy(static_cast<std::byte *>(to) + row * 64 * row_bytes_,
                            static_cast<const std::byte *>(from) + row * row_bytes_, row_bytes_);
            }
        };
        copy_rows(args_.k_new, args_.k_cache);
        copy_rows(args_.v_new, args_.v_cache);
    }

private:
    kvappend_descriptor d_;
    std::shared_ptr<kvappend_plan> plan_;
    std::size_t row_bytes_ = 0;
    std::vector<std::byte> new_;
    std::vector<std::byte> caches_;
    std::vector<std::int64_t> indices_;
    kvappend_args args_ = KVAPPEND_ARGS_INIT;
    std::vector<const kvappend_plan *> plans_;
    std::vector<const kvappend_args *> layer_args_;
};

kvappend_descriptor step(std::int32_t backend, std::int64_t batch, std::int64_t heads, std::int64_t dim) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = backend;
    d.batch = batch;
    d.heads = heads;
    d.new_rows = 1;
    d.k_dim = d.v_dim = dim;
    return d;
}

} // namespace

std::vector<Call> calls() {
    std::vector<Call> all;
    all.push_back({"empty call", [] { kvappend_version(); }});
    const auto add = [&all](const std::string &name, const kvappend_descriptor &d, auto make) {
        auto made = std::make_shared<Step>(d);
        all.push_back({name, [made, make] { make(*made); }});
        return made;
    };
    const auto run = [](const Step &s) { s.run(); };
    const auto check = [](const Step &s) { s.check(); };
    const auto copy = [](const Step &s) { s.copy(); };

    const kvappend_descriptor tiny = step(KVAPPEND_BACKEND_HOST, 1, 1, 1);
    const kvappend_descriptor llama = step(KVAPPEND_BACKEND_HOST, 1, 8, 128);
    add("host, args check alone", tiny, check);
    add("host, one tiny row", tiny, run);
    add("host, one tiny row, copied by hand", tiny, copy);
    add("host, 8 heads of 128", llama, run);
    add("host, 8 heads of 128, copied by hand", llama, copy);

    kvappend_descriptor d = step(KVAPPEND_BACKEND_CUDA, 1, 8, 128);
    kvappend_plan *plan = nullptr;
    if (kvappend_plan_create(&d, nullptr, &plan) != KVAPPEND_SUCCESS) {
        return all;
    }
    kvappend_plan_destroy(plan);
    add("CUDA, dense, 8 heads of 128", d, run);
    add("CUDA, 80 such layers, a call each", d, [](const Step &s) {
        for (int layer = 0; layer < 80; ++layer) {
            s.run();
        }
    });
    add("CUDA, 80 such layers in one call", d, [](const Step &s) { s.run_layers(); })->make_layers(80);
    kvappend_descriptor paged = step(KVAPPEND_BACKEND_CUDA, 64, 8, 128);
    paged.addressing = KVAPPEND_ADDRESSING_PAGED;
    add("CUDA, paged, batch 64", paged, run);
    for (auto *const strides : {&d.k_cache_strides, &d.v_cache_strides}) {
        (*strides)[KVAPPEND_AXIS_HEAD] = 64 * 256;
        (*strides)[KVAPPEND_AXIS_ROW] = 256;
    }
    add("CUDA, K and V in one pool", d, run)->interleave();
    return all;
}
