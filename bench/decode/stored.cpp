// SPDX-License-Identifier: Apache-2.0
#include "stored.hpp"

#include "number.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace {

struct Store {
    std::string_view name;
    std::int32_t preset;
    std::int32_t type;
    float given; // the scale, or the global scale
    bool blocks; // a scale before the codes of its group
};

// The magnitudes of this decoder's K and V are below 8, which is what the given scales are for.
constexpr Store stores[] = {
    {"f16", KVAPPEND_PRESET_F16, KVAPPEND_STORED_F16, 0, false},
    {"bf16", KVAPPEND_PRESET_BF16, KVAPPEND_STORED_BF16, 0, false},
    {"e4m3", KVAPPEND_PRESET_E4M3_DIVIDE, KVAPPEND_STORED_E4M3, 8.0F / 448, false},
    {"e4m3-row", KVAPPEND_PRESET_E4M3_ROW, KVAPPEND_STORED_E4M3, 0, false},
    {"e5m2", KVAPPEND_PRESET_F16, KVAPPEND_STORED_E5M2, 0, false}, // without scales
    {"int8", KVAPPEND_PRESET_INT8_ROW, KVAPPEND_STORED_INT8, 0, false},
    {"q8_0", KVAPPEND_PRESET_Q8_0, KVAPPEND_STORED_INT8, 0, true},
    {"nvfp4", KVAPPEND_PRESET_NVFP4, KVAPPEND_STORED_E2M1, 8.0F / (448 * 6), false},
};

const Store &store_named(std::string_view name) {
    const auto *const found = std::ranges::find(stores, name, &Store::name);
    if (found == std::end(stores)) {
        throw std::invalid_argument("no such store: " + std::string(name));
    }
    return *found;
}

kvappend_storage storage_of(const Store &store) {
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    if (kvappend_storage_preset(store.preset, &storage, sizeof storage) != KVAPPEND_SUCCESS) {
        throw std::runtime_error(kvappend_last_error_message());
    }
    storage.type = store.type;
    return storage;
}

// Of 1, 2 or 4 bytes, on a machine that puts the lowest byte first.
std::uint32_t read(const std::byte *from, std::size_t bytes) {
    std::uint32_t code = 0;
    std::memcpy(&code, from, bytes);
    return code;
}

} // namespace

std::vector<std::string> store_names() {
    std::vector<std::string> names;
    for (const Store &store : stores) {
        names.emplace_back(store.name);
    }
    return names;
}

StoredRows::StoredRows(std::string_view name, std::size_t dim, std::size_t rows)
    : storage_(storage_of(store_named(name))), given_(store_named(name).given), rows_(rows),
      group_(storage_.group == 0 ? dim : static_cast<std::size_t>(storage_.group)) {
    const bool blocks = store_named(name).blocks;
    const Number &type = number_of_stored_type(storage_.type);
    const std::size_t groups = dim / group_;
    const std::size_t code_bytes = group_ * type.bits() / 8;
    const std::size_t scale_bytes = computed() ? number_of_scale_type(storage_.scale_type).bits() / 8 : 0;
    const std::size_t block_bytes = code_bytes + scale_bytes;
    row_bytes_ = groups * block_bytes;
    pack_ = blocks ? group_ : 0;
    codes_ = blocks ? Part{scale_bytes, row_bytes_, block_bytes} : Part{0, groups * code_bytes, code_bytes};
    scales_ =
        blocks ? Part{0, row_bytes_, block_bytes} : Part{rows * groups * code_bytes, groups * scale_bytes, scale_bytes};
    for (std::uint32_t code = 0; code < 1U << type.bits(); ++code) {
        numbers_.push_back(type.decode(code));
    }
}

void StoredRows::decode(const std::byte *buffer, std::size_t row, std::span<float> to) const {
    const std::size_t bits = number_of_stored_type(storage_.type).bits();
    for (std::size_t group = 0; group * group_ < to.size(); ++group) {
        const std::byte *const codes = buffer + codes_.begin + row * codes_.row + group * codes_.group;
        float scale = given_ == 0 ? 1 : given_;
        if (computed()) {
            const Number &type = number_of_scale_type(storage_.scale_type);
            const std::byte *const stored = buffer + scales_.begin + row * scales_.row + group * scales_.group;
            scale *= type.decode(read(stored, type.bits() / 8));
        }
        for (std::size_t i = 0; i < group_; ++i) {
            const std::uint32_t code =
                bits == 4 ? read(codes + i / 2, 1) >> i % 2 * 4 & 15U : read(codes + i * bits / 8, bits / 8);
            to[group * group_ + i] = numbers_[code] * scale;
        }
    }
}

void StoredRows::round(std::span<float> row) const {
    for (std::size_t begin = 0; begin < row.size(); begin += group_) {
        round_group(row.subspan(begin, group_));
    }
}

void StoredRows::round_group(std::span<float> group) const {
    const Number &type = number_of_stored_type(storage_.type);
    float scale = given_ == 0 ? 1 : given_;
    float divisor = scale;
    if (computed()) {
        const Number &scale_type = number_of_scale_type(storage_.scale_type);
        float largest = storage_.amax_floor;
        for (const float x : group) {
            largest = std::fmax(largest, std::fabs(x)); // NaN does not count.
        }
        const float exact = std::fmax(largest / (static_cast<float>(type.greatest) * scale), storage_.scale_floor);
        scale *= std::min(scale_type.round(exact), static_cast<float>(scale_type.greatest));
        divisor = storage_.scale_use == KVAPPEND_SCALE_UNROUNDED_RECIPROCAL ? exact : scale;
    }
    for (float &x : group) {
        const float quotient = storage_.scale_use == KVAPPEND_SCALE_DIVIDE ? x / divisor : x * (1 / divisor);
        x = type.round(divisor == 0 ? 0 : quotient) * scale;
    }
}

RoundedPass::RoundedPass(const Shape &shape, const Element &element, std::string_view store)
    : shape_(shape), element_(element), k_(store, shape.k_dim, 0), v_(store, shape.v_dim, 0) {}

void RoundedPass::take(std::span<const std::byte> fused) {
    rows_.resize(fused.size() / element_.width);
    element_.widen(fused.data(), rows_);
    for (std::size_t begin = 0; begin < rows_.size(); begin += shape_.fused()) {
        const auto row = std::span(rows_).subspan(begin, shape_.fused());
        for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
            k_.round(row.subspan(shape_.k_begin() + head * shape_.k_dim, shape_.k_dim));
            v_.round(row.subspan(shape_.v_begin() + head * shape_.v_dim, shape_.v_dim));
        }
    }
}

KeyAndValue RoundedPass::row(std::size_t row) const {
    const Element *const element = &element_named("f32");
    const auto *const base = reinterpret_cast<const std::byte *>(rows_.data() + row * shape_.fused());
    return {{element, base + shape_.k_begin() * sizeof(float), shape_.k_dim},
            {element, base + shape_.v_begin() * sizeof(float), shape_.v_dim}};
}
