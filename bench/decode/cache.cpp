// SPDX-License-Identifier: Apache-2.0
#include "cache.hpp"

#include "stopwatch.hpp"

#include <limits>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace {

void require(kvappend_status status) {
    if (status != KVAPPEND_SUCCESS) {
        throw std::runtime_error(std::string(kvappend_status_name(status)) + ": " + kvappend_last_error_message());
    }
}

std::span<std::byte> whole(const auto &buffer) {
    return {buffer.memory.get(), buffer.bytes};
}

std::string kernel_of(const kvappend_plan &plan) {
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    require(kvappend_plan_get_sku(&plan, &sku));
    return sku.kernel_name;
}

// On the host.
const std::byte *readable(const auto &buffer) {
    return buffer.copy.empty() ? buffer.memory.get() : buffer.copy.data();
}

void set_strides(std::int64_t (&strides)[3], std::size_t batch, std::size_t head, std::size_t row) {
    strides[KVAPPEND_AXIS_BATCH] = static_cast<std::int64_t>(batch);
    strides[KVAPPEND_AXIS_HEAD] = static_cast<std::int64_t>(head);
    strides[KVAPPEND_AXIS_ROW] = static_cast<std::int64_t>(row);
}

// The fields of the descriptor that say how K, or V, lies in its cache.
struct CacheFields {
    std::int64_t (&strides)[3];
    std::int64_t &pack;
    std::int64_t &piece_stride;
    const kvappend_storage *&storage;
};

// Multiplies strides in rows of one head by what such a row takes: elements, or bytes if there is a store.
void describe(const std::int64_t (&rows)[3], const std::optional<StoredRows> &stored, std::size_t dim,
              kvappend_storage &storage, const CacheFields &fields) {
    for (int axis = 0; axis < 3; ++axis) {
        fields.strides[axis] = rows[axis] * static_cast<std::int64_t>(stored ? stored->codes().row : dim);
        storage.scale_strides[axis] = rows[axis] * static_cast<std::int64_t>(stored ? stored->scales().row : 0);
    }
    if (stored) {
        storage.scale_strides[3] = static_cast<std::int64_t>(stored->scales().group);
        fields.pack = static_cast<std::int64_t>(stored->pack());
        fields.piece_stride = static_cast<std::int64_t>(stored->pack() != 0 ? stored->codes().group : 0);
        fields.storage = &storage;
    }
}

} // namespace

Cache::Cache(Memory &memory, const Decoder &decoder, std::unique_ptr<Placement> placement, AxisOrder layout,
             std::string_view store)
    : memory_(memory), decoder_(decoder), shape_(decoder.shape()), element_(decoder.element()),
      placement_(std::move(placement)), descriptor_(placement_->descriptor()), k_(make_part(shape_.k_dim, store)),
      v_(make_part(shape_.v_dim, store)) {
    const std::size_t heads = shape_.kv_heads;
    const auto block_rows = static_cast<std::size_t>(descriptor_.cache_rows);
    descriptor_.backend = memory.backend();
    descriptor_.element_type = element_.type;
    descriptor_.offset_type = KVAPPEND_OFFSET_INT64;
    descriptor_.heads = static_cast<std::int64_t>(heads);
    descriptor_.k_dim = static_cast<std::int64_t>(shape_.k_dim);
    descriptor_.v_dim = static_cast<std::int64_t>(shape_.v_dim);
    if (decoder.rotary().description() != nullptr) {
        rotary_ = *decoder.rotary().description();
        rotary_.q_heads = static_cast<std::int64_t>(shape_.query_heads);
        rotary_.q_dim = static_cast<std::int64_t>(shape_.k_dim);
        descriptor_.rotary = &rotary_;
        if (descriptor_.addressing == KVAPPEND_ADDRESSING_SLOTS) {
            descriptor_.flags |= KVAPPEND_FLAG_POSITIONS;
        }
    }
    set_strides(strides_, heads * block_rows, layout == AxisOrder::bhsd ? block_rows : 1,
                layout == AxisOrder::bhsd ? 1 : heads);
    describe(strides_, k_.stored, k_.dim, k_.storage,
             {descriptor_.k_cache_strides, descriptor_.k_pack, descriptor_.k_piece_stride, descriptor_.k_storage});
    describe(strides_, v_.stored, v_.dim, v_.storage,
             {descriptor_.v_cache_strides, descriptor_.v_pack, descriptor_.v_piece_stride, descriptor_.v_storage});

    for (std::size_t i = 0; i < shape_.layers; ++i) {
        layers_.push_back({allocate(rows() * k_.row_bytes), allocate(rows() * v_.row_bytes)});
    }
    upload(rotary_cos_, std::as_bytes(decoder.rotary().cos()));
    upload(rotary_sin_, std::as_bytes(decoder.rotary().sin()));
    if (k_.stored) {
        const float given = k_.stored->given();
        upload(given_scale_, std::as_bytes(std::span(&given, 1)));
        pass_.emplace(shape_, element_, store);
    }
}

Cache::Part Cache::make_part(std::size_t dim, std::string_view store) const {
    if (store == "as-is") {
        return {dim, dim * element_.width, std::nullopt, KVAPPEND_STORAGE_INIT};
    }
    const StoredRows stored(store, dim, rows());
    return {dim, stored.row_bytes(), stored, stored.storage()};
}

std::size_t Cache::rows() const {
    return static_cast<std::size_t>(descriptor_.cache_blocks * descriptor_.cache_rows) * shape_.kv_heads;
}

// All bits set are a NaN of every element type: attention cannot read a row that was never written without it showing
// in the logits. It also means that no append is the first to touch a page.
Cache::Buffer Cache::allocate(std::size_t bytes) const {
    Buffer buffer{{static_cast<std::byte *>(memory_.allocate(bytes)), Release{&memory_}}, bytes, {}, {}};
    std::vector<std::byte> unset(bytes, std::byte{0xff});
    memory_.upload(buffer.memory.get(), unset.data(), bytes);
    if (memory_.backend() != KVAPPEND_BACKEND_HOST) {
        buffer.copy = std::move(unset);
    }
    return buffer;
}

void Cache::plan_unlike(const std::string &kernel_name, std::size_t rows) {
    pass_rows_ = rows;
    // What is addressed by token has no batch axis: it is packed, or a batch of 1.
    const std::size_t new_rows = packed() ? rows : rows / static_cast<std::size_t>(descriptor_.batch);
    descriptor_.new_rows = static_cast<std::int64_t>(new_rows);
    // K and V are read where the projection put them, and Q is rotated there.
    set_strides(descriptor_.k_new_strides, new_rows * shape_.fused(), shape_.k_dim, shape_.fused());
    set_strides(descriptor_.v_new_strides, new_rows * shape_.fused(), shape_.v_dim, shape_.fused());
    set_strides(rotary_.q_strides, new_rows * shape_.fused(), shape_.k_dim, shape_.fused());
    set_strides(rotary_.q_out_strides, new_rows * shape_.fused(), shape_.k_dim, shape_.fused());
    kvappend_plan *plan = nullptr;
    require(kvappend_plan_create(&descriptor_, nullptr, &plan));
    plan_.reset(plan);
    for (std::size_t i = 0; kernel() == kernel_name && kvappend_kernel_name(i) != nullptr; ++i) {
        kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
        preference.kernel_name = kvappend_kernel_name(i);
        if (preference.kernel_name != kernel_name &&
            kvappend_plan_create(&descriptor_, &preference, &plan) == KVAPPEND_SUCCESS) {
            plan_.reset(plan);
        }
    }
    fused_ = allocate(rows * shape_.fused() * element_.width);
    appended_ = {};
    if (second_ != nullptr) {
        second_->plan_unlike(kernel(), rows);
    }
}

void Cache::place(std::span<const Feed> feeds) {
    upload_indices(placement_->place(feeds, pass_rows_));
    feeds_.assign(feeds.begin(), feeds.end());
    written_rows_ = 0;
    for (std::size_t i = 0; i < feeds.size(); ++i) {
        // Only the dense cache takes padding in, as far as it has rows for it.
        const bool padded = descriptor_.addressing == KVAPPEND_ADDRESSING_DENSE;
        const std::size_t count = padded ? static_cast<std::size_t>(descriptor_.new_rows) : feeds[i].tokens.size();
        for (std::size_t row = 0; row < count; ++row) {
            written_rows_ += placement_->find(i, feeds[i].position + row) ? shape_.kv_heads : 0;
        }
    }
    if (second_ != nullptr) {
        second_->place(feeds);
    }
}

void Cache::upload_indices(const Indices &indices) {
    upload(offsets_, std::as_bytes(std::span(indices.offsets)));
    upload(lengths_, std::as_bytes(std::span(indices.lengths)));
    upload(page_table_, std::as_bytes(std::span(indices.page_table)));
    upload(slots_, std::as_bytes(std::span(indices.slots)));
    upload(positions_, std::as_bytes(std::span(indices.positions)));
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

void Cache::append(std::size_t layer, std::span<const Feed> batch, std::span<std::byte> fused) {
    run(layer, fused);
    const std::size_t bytes = written_rows_ * (k_.row_bytes + v_.row_bytes);
    appended_.rows += 2 * written_rows_;
    appended_.bytes += bytes;
    if (second_ != nullptr) {
        second_->run(layer, fused);
    }
    memory_.download(fused.data(), fused_.memory.get(), fused.size()); // Its Q is rotated, and its K is not.
    decoder_.rotate_keys(batch, fused); // Attention reads these rows where the cache has not kept them.
    Layer &to = layers_[layer];
    for (Buffer *const buffer : {&to.k, &to.v}) {
        if (memory_.backend() != KVAPPEND_BACKEND_HOST) {
            memory_.download(buffer->copy.data(), buffer->memory.get(), buffer->bytes);
        }
    }
    if (pass_) {
        pass_->take(fused);
        decode(k_, to.k);
        decode(v_, to.v);
    }
}

void Cache::run(std::size_t layer, std::span<const std::byte> fused) {
    // With a model on the device the projection would be there already. Here the model runs on the host, and carrying
    // its rows to the device and the caches back is no part of the append, nor of its time.
    memory_.upload(fused_.memory.get(), fused.data(), fused.size());
    const std::size_t k_begin = shape_.k_begin() * element_.width;
    const std::size_t v_begin = shape_.v_begin() * element_.width;

    kvappend_args args = cache_args(layers_[layer]);
    args.k_new = fused_.memory.get() + k_begin;
    args.k_new_bytes = fused_.bytes - k_begin;
    args.v_new = fused_.memory.get() + v_begin;
    args.v_new_bytes = fused_.bytes - v_begin;
    args.q = args.q_out = fused_.memory.get();
    args.q_bytes = args.q_out_bytes = fused_.bytes;
    const Stopwatch stopwatch;
    const kvappend_status status = kvappend_plan_run(plan_.get(), &args, nullptr, 0, memory_.stream());
    memory_.synchronize();
    appended_.seconds.push_back(stopwatch.seconds());
    require(status);
}

kvappend_args Cache::cache_args(const Layer &layer) const {
    kvappend_args args = KVAPPEND_ARGS_INIT;
    const auto give = [](std::span<std::byte> bytes, auto *&pointer, std::size_t &size) {
        pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(bytes.data());
        size = bytes.size();
    };
    give(codes(k_, layer.k), args.k_cache, args.k_cache_bytes);
    give(codes(v_, layer.v), args.v_cache, args.v_cache_bytes);
    give(scales(k_, layer.k), args.k_scales, args.k_scales_bytes);
    give(scales(v_, layer.v), args.v_scales, args.v_scales_bytes);
    if (k_.storage.global_scale != 0) {
        give(whole(given_scale_), args.k_global_scale, args.k_global_scale_bytes);
        give(whole(given_scale_), args.v_global_scale, args.v_global_scale_bytes);
    }
    args.cache_offsets = offsets_.memory.get();
    args.cache_offsets_bytes = offsets_.bytes;
    args.slots = slots_.memory.get();
    args.slots_bytes = slots_.bytes;
    args.positions = positions_.memory.get();
    args.positions_bytes = positions_.bytes;
    args.rotary_cos = rotary_cos_.memory.get();
    args.rotary_cos_bytes = rotary_cos_.bytes;
    args.rotary_sin = rotary_sin_.memory.get();
    args.rotary_sin_bytes = rotary_sin_.bytes;
    args.lengths = reinterpret_cast<const std::int32_t *>(lengths_.memory.get());
    args.lengths_bytes = lengths_.bytes;
    args.page_table = reinterpret_cast<const std::int32_t *>(page_table_.memory.get());
    args.page_table_bytes = page_table_.bytes;
    return args;
}

Gathered Cache::gather(std::span<const Feed> feeds, std::size_t rows) {
    upload_indices(placement_->place(feeds, rows));
    Gathered result;
    result.shape = &shape_;
    result.element = k_.stored ? &element_named("f32") : &element_;
    for (const Feed &feed : feeds) {
        result.first_rows.push_back(feed.row);
    }
    result.first_rows.push_back(rows);

    kvappend_descriptor descriptor = descriptor_;
    descriptor.operation = KVAPPEND_OPERATION_GATHER;
    descriptor.rotary = nullptr; // The rows lie rotated in the cache.
    descriptor.element_type = result.element->type;
    descriptor.new_rows = static_cast<std::int64_t>(rows);
    const std::size_t heads = shape_.kv_heads;
    set_strides(descriptor.k_new_strides, rows * heads * k_.dim, k_.dim, heads * k_.dim);
    set_strides(descriptor.v_new_strides, rows * heads * v_.dim, v_.dim, heads * v_.dim);
    kvappend_plan *created = nullptr;
    require(kvappend_plan_create(&descriptor, nullptr, &created));
    const std::unique_ptr<kvappend_plan, Destroy> plan(created);
    result.kernel = kernel_of(*plan);

    for (const Layer &layer : layers_) {
        const Buffer k_out = allocate(rows * heads * k_.dim * result.element->width);
        const Buffer v_out = allocate(rows * heads * v_.dim * result.element->width);
        kvappend_args args = cache_args(layer);
        args.k_out = k_out.memory.get();
        args.k_out_bytes = k_out.bytes;
        args.v_out = v_out.memory.get();
        args.v_out_bytes = v_out.bytes;
        const Stopwatch stopwatch;
        const kvappend_status status = kvappend_plan_run(plan.get(), &args, nullptr, 0, memory_.stream());
        memory_.synchronize();
        result.seconds += stopwatch.seconds();
        require(status);
        result.bytes += k_out.bytes + v_out.bytes;
        result.layers.push_back({downloaded(k_out), downloaded(v_out)});
    }
    return result;
}

std::span<std::byte> Cache::codes(const Part &part, const Buffer &buffer) const {
    return whole(buffer).subspan(part.stored ? part.stored->codes().begin : 0);
}

std::span<std::byte> Cache::scales(const Part &part, const Buffer &buffer) const {
    switch (part.storage.scaling) {
    case KVAPPEND_SCALING_COMPUTED:
        return whole(buffer).subspan(part.stored->scales().begin);
    case KVAPPEND_SCALING_GIVEN:
        return whole(given_scale_);
    default:
        return {};
    }
}

// Anew each time, so that attention notices what an append did to other rows. The rest stays NaN.
void Cache::decode(const Part &part, Buffer &buffer) const {
    buffer.decoded.resize(rows() * part.dim, std::numeric_limits<float>::quiet_NaN());
    for (std::size_t sample = 0; sample < feeds_.size(); ++sample) {
        for (std::size_t position = 0; position < feeds_[sample].position + feeds_[sample].tokens.size(); ++position) {
            const std::optional<CacheRow> place = placement_->find(sample, position);
            for (std::size_t head = 0; place && head < shape_.kv_heads; ++head) {
                const std::size_t row = row_number(*place) + head * head_rows();
                part.stored->decode(readable(buffer), row, std::span(buffer.decoded).subspan(row * part.dim, part.dim));
            }
        }
    }
}

std::optional<KeyAndValue> Cache::row(std::size_t layer, std::size_t sample, std::size_t position) const {
    if (position < computed_from(sample)) {
        return prefix_->row(layer, sample, position);
    }
    const std::optional<CacheRow> place = placement_->find(sample, position);
    if (!place && pass_ && position >= feeds_[sample].position) {
        return pass_->row(feeds_[sample].row + position - feeds_[sample].position);
    }
    if (!place) {
        return std::nullopt;
    }
    const auto at_place = [&](const Part &part, const Buffer &buffer) {
        const Element &element = part.stored ? element_named("f32") : element_;
        const std::byte *const base = part.stored ? std::as_bytes(std::span(buffer.decoded)).data() : readable(buffer);
        return Row{&element, base + row_number(*place) * part.dim * element.width, head_rows() * part.dim};
    };
    return KeyAndValue{at_place(k_, layers_[layer].k), at_place(v_, layers_[layer].v)};
}

// Counted in rows of one head.
std::size_t Cache::row_number(const CacheRow &place) const {
    const auto stride = [&](int axis) { return static_cast<std::size_t>(strides_[axis]); };
    return place.block * stride(KVAPPEND_AXIS_BATCH) + place.row * stride(KVAPPEND_AXIS_ROW);
}

std::size_t Cache::head_rows() const {
    return static_cast<std::size_t>(strides_[KVAPPEND_AXIS_HEAD]);
}

std::size_t Cache::token_bytes() const {
    return shape_.layers * shape_.kv_heads * (k_.row_bytes + v_.row_bytes);
}

std::vector<std::byte> Cache::downloaded(const Buffer &buffer) const {
    std::vector<std::byte> result(buffer.bytes);
    memory_.download(result.data(), buffer.memory.get(), buffer.bytes);
    return result;
}

std::vector<std::byte> Cache::contents() const {
    std::vector<std::byte> result;
    for (const Layer &layer : layers_) {
        for (const Buffer *const buffer : {&layer.k, &layer.v}) {
            const std::vector<std::byte> bytes = downloaded(*buffer);
            result.insert(result.end(), bytes.begin(), bytes.end());
        }
    }
    return result;
}

std::string Cache::kernel() const {
    return kernel_of(*plan_);
}
