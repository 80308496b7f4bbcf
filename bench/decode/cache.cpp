// SPDX-License-Identifier: Apache-2.0
#include "cache.hpp"

#include "stopwatch.hpp"

#include <stdexcept>
#include <utility>

namespace {

void require(kvappend_status status) {
    if (status != KVAPPEND_SUCCESS) {
        throw std::runtime_error(std::string(kvappend_status_name(status)) + ": " + kvappend_last_error_message());
    }
}

void set_strides(std::int64_t (&strides)[3], std::size_t batch, std::size_t head, std::size_t row) {
    strides[KVAPPEND_AXIS_BATCH] = static_cast<std::int64_t>(batch);
    strides[KVAPPEND_AXIS_HEAD] = static_cast<std::int64_t>(head);
    strides[KVAPPEND_AXIS_ROW] = static_cast<std::int64_t>(row);
}

} // namespace

Cache::Cache(Memory &memory, const Decoder &decoder, std::unique_ptr<Placement> placement, AxisOrder layout)
    : memory_(memory), shape_(decoder.shape()), width_(decoder.element().width), placement_(std::move(placement)),
      descriptor_(placement_->descriptor()) {
    const std::size_t heads = shape_.kv_heads;
    const auto rows = static_cast<std::size_t>(descriptor_.cache_rows);
    descriptor_.backend = memory.backend();
    descriptor_.element_type = decoder.element().type;
    descriptor_.offset_type = KVAPPEND_OFFSET_INT64;
    descriptor_.heads = static_cast<std::int64_t>(heads);
    descriptor_.k_dim = static_cast<std::int64_t>(shape_.k_dim);
    descriptor_.v_dim = static_cast<std::int64_t>(shape_.v_dim);
    const auto set_cache_strides = [&](std::int64_t(&strides)[3], std::size_t dim) {
        set_strides(strides, heads * rows * dim, layout == AxisOrder::bhsd ? rows * dim : dim,
                    layout == AxisOrder::bhsd ? dim : heads * dim);
    };
    set_cache_strides(descriptor_.k_cache_strides, shape_.k_dim);
    set_cache_strides(descriptor_.v_cache_strides, shape_.v_dim);

    const std::size_t bytes = static_cast<std::size_t>(descriptor_.cache_blocks) * heads * rows * width_;
    for (std::size_t i = 0; i < shape_.layers; ++i) {
        layers_.push_back({allocate(bytes * shape_.k_dim), allocate(bytes * shape_.v_dim)});
    }
    memcpy_target_ = allocate(shape_.layers * bytes * (shape_.k_dim + shape_.v_dim));
}

// All bits set are a NaN of every element type: attention cannot read a row that was never written without it showing
// in the logits. It also means that no append is the first to touch a page.
Cache::Buffer Cache::allocate(std::size_t bytes) const {
    Buffer buffer{{static_cast<std::byte *>(memory_.allocate(bytes)), Release{&memory_}}, bytes, {}};
    std::vector<std::byte> unset(bytes, std::byte{0xff});
    memory_.upload(buffer.memory.get(), unset.data(), bytes);
    if (memory_.backend() != KVAPPEND_BACKEND_HOST) {
        buffer.copy = std::move(unset);
    }
    return buffer;
}

void Cache::plan(std::size_t rows) {
    pass_rows_ = rows;
    // What is addressed by token has no batch axis: it is packed, or a batch of 1.
    const std::size_t new_rows = packed() ? rows : rows / static_cast<std::size_t>(descriptor_.batch);
    descriptor_.new_rows = static_cast<std::int64_t>(new_rows);
    // K and V are read where the projection put them.
    set_strides(descriptor_.k_new_strides, new_rows * shape_.fused(), shape_.k_dim, shape_.fused());
    set_strides(descriptor_.v_new_strides, new_rows * shape_.fused(), shape_.v_dim, shape_.fused());
    kvappend_plan *plan = nullptr;
    require(kvappend_plan_create(&descriptor_, nullptr, &plan));
    plan_.reset(plan);
    fused_ = allocate(rows * shape_.fused() * width_);
    appended_ = {};
}

void Cache::place(std::span<const Feed> feeds) {
    const Indices indices = placement_->place(feeds, pass_rows_);
    upload(offsets_, std::as_bytes(std::span(indices.offsets)));
    upload(lengths_, std::as_bytes(std::span(indices.lengths)));
    upload(page_table_, std::as_bytes(std::span(indices.page_table)));
    upload(slots_, std::as_bytes(std::span(indices.slots)));

    written_rows_ = 0;
    for (std::size_t i = 0; i < feeds.size(); ++i) {
        // Only the dense cache takes padding in, as far as it has rows for it.
        const bool padded = descriptor_.addressing == KVAPPEND_ADDRESSING_DENSE;
        const std::size_t count = padded ? static_cast<std::size_t>(descriptor_.new_rows) : feeds[i].tokens.size();
        for (std::size_t row = 0; row < count; ++row) {
            written_rows_ += placement_->find(i, feeds[i].position + row) ? shape_.kv_heads : 0;
        }
    }
}

void Cache::upload(Buffer &to, std::span<const std::byte> bytes) const {
    if (bytes.empty()) {
        return;
    }
    if (to.bytes != bytes.size()) {
        to = allocate(bytes.size());
    }
    memory_.upload(to.memory.get(), bytes.data(), bytes.size());
}

void Cache::append(std::size_t layer, std::span<const std::byte> fused) {
    // With a model on the device the projection would be there already. Here the model runs on the host, and carrying
    // its rows to the device and the caches back is no part of the append, nor of its time.
    memory_.upload(fused_.memory.get(), fused.data(), fused.size());
    Layer &to = layers_[layer];
    const std::size_t k_begin = shape_.k_begin() * width_;
    const std::size_t v_begin = shape_.v_begin() * width_;

    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = fused_.memory.get() + k_begin;
    args.k_new_bytes = fused_.bytes - k_begin;
    args.v_new = fused_.memory.get() + v_begin;
    args.v_new_bytes = fused_.bytes - v_begin;
    args.k_cache = to.k.memory.get();
    args.k_cache_bytes = to.k.bytes;
    args.v_cache = to.v.memory.get();
    args.v_cache_bytes = to.v.bytes;
    args.cache_offsets = offsets_.memory.get();
    args.cache_offsets_bytes = offsets_.bytes;
    args.slots = slots_.memory.get();
    args.slots_bytes = slots_.bytes;
    args.lengths = reinterpret_cast<const std::int32_t *>(lengths_.memory.get());
    args.lengths_bytes = lengths_.bytes;
    args.page_table = reinterpret_cast<const std::int32_t *>(page_table_.memory.get());
    args.page_table_bytes = page_table_.bytes;
    const Stopwatch stopwatch;
    const kvappend_status status = kvappend_plan_run(plan_.get(), &args, nullptr, 0, memory_.stream());
    memory_.synchronize();
    appended_.seconds.push_back(stopwatch.seconds());
    require(status);

    const std::size_t bytes = written_rows_ * (shape_.k_dim + shape_.v_dim) * width_;
    appended_.rows += 2 * written_rows_;
    appended_.bytes += bytes;
    run_memcpy(bytes);
    if (memory_.backend() != KVAPPEND_BACKEND_HOST) {
        for (Buffer *const buffer : {&to.k, &to.v}) {
            memory_.download(buffer->copy.data(), buffer->memory.get(), buffer->bytes);
        }
    }
}

// To be measured beside the append: bytes that were written as recently, to a buffer as large as all caches together,
// of which a later call writes a later part.
void Cache::run_memcpy(std::size_t bytes) {
    if (bytes > memcpy_target_.bytes - memcpy_position_) {
        memcpy_position_ = 0;
    }
    const Stopwatch stopwatch;
    memory_.copy(memcpy_target_.memory.get() + memcpy_position_, fused_.memory.get(), bytes);
    memory_.synchronize();
    appended_.memcpy_seconds.push_back(stopwatch.seconds());
    memcpy_position_ += bytes;
}

std::optional<KeyAndValue> Cache::row(std::size_t layer, std::size_t sample, std::size_t position) const {
    const std::optional<CacheRow> place = placement_->find(sample, position);
    if (!place) {
        return std::nullopt;
    }
    const auto at_place = [&](const Buffer &buffer, const std::int64_t(&strides)[3]) {
        const std::byte *const base = buffer.copy.empty() ? buffer.memory.get() : buffer.copy.data();
        const auto stride = [&](int axis) { return static_cast<std::size_t>(strides[axis]); };
        const std::size_t element = place->block * stride(KVAPPEND_AXIS_BATCH) + place->row * stride(KVAPPEND_AXIS_ROW);
        return Row{base + element * width_, stride(KVAPPEND_AXIS_HEAD)};
    };
    return KeyAndValue{at_place(layers_[layer].k, descriptor_.k_cache_strides),
                       at_place(layers_[layer].v, descriptor_.v_cache_strides)};
}

std::string Cache::kernel() const {
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    require(kvappend_plan_get_sku(plan_.get(), &sku));
    return sku.kernel_name;
}
