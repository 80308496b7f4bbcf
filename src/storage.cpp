// SPDX-License-Identifier: Apache-2.0
#include "storage.hpp"

#include <algorithm>
#include <cinttypes>
#include <cmath>

namespace kvappend {

namespace {

Status check_enumerators(const StorageInput &input) {
    const kvappend_storage &s = *input.storage;
    const struct {
        const char *name;
        std::int32_t value;
        std::int32_t greatest;
        const char *expected;
    } fields[] = {
        {"type", s.type, KVAPPEND_STORED_E2M1, "a KVAPPEND_STORED_* constant"},
        {"scaling", s.scaling, KVAPPEND_SCALING_COMPUTED, "a KVAPPEND_SCALING_* constant"},
        {"scale_use", s.scale_use, KVAPPEND_SCALE_UNROUNDED_RECIPROCAL, "a constant of enum kvappend_scale_use"},
        {"scale_type", s.scale_type, KVAPPEND_SCALE_UE8M0, "a constant of enum kvappend_scale_type"},
        {"scale_rounding", s.scale_rounding, KVAPPEND_SCALE_POWER_OF_TWO, "a constant of enum kvappend_scale_rounding"},
        {"scale_order", s.scale_order, KVAPPEND_SCALE_BY_FOUR_ROWS, "a constant of enum kvappend_scale_order"},
        {"rounding", s.rounding, KVAPPEND_ROUNDING_HALF_AWAY, "a KVAPPEND_ROUNDING_* constant"},
        {"nibbles", s.nibbles, KVAPPEND_NIBBLES_HALVES, "a KVAPPEND_NIBBLES_* constant"},
        {"global_scale", s.global_scale, 1, "0 or 1"},
        {"reserved", s.reserved, 0, "0"}};
    for (const auto &field : fields) {
        if (field.value < 0 || field.value > field.greatest) {
            return fail(KVAPPEND_ERROR_STORAGE, "descriptor.%s->%s is %" PRId32 ": expected %s", input.name, field.name,
                        field.value, field.expected);
        }
    }
    return KVAPPEND_SUCCESS;
}

Status check_numbers(const StorageInput &input) {
    const kvappend_storage &s = *input.storage;
    for (const auto &[name, value] : {std::pair("amax_floor", s.amax_floor), std::pair("scale_floor", s.scale_floor)}) {
        if (!std::isfinite(value) || value < 0) {
            return fail(KVAPPEND_ERROR_STORAGE,
                        "descriptor.%s->%s is %g: expected a finite number that is not negative", input.name, name,
                        static_cast<double>(value));
        }
    }
    if (s.group < 0 || (s.group > 0 && input.dim % s.group != 0)) {
        return fail(KVAPPEND_ERROR_STORAGE,
                    "descriptor.%s->group is %" PRId64 " and the dimension is %" PRId64
                    ": expected 0 or a divisor of the dimension",
                    input.name, s.group, input.dim);
    }
    return KVAPPEND_SUCCESS;
}

// A combination of two fields that has no meaning, and what was expected.
struct Conflict {
    bool when;
    const char *field;
    double value;
    const char *other;
    double other_value;
    const char *expected;
};

template <std::size_t Count>
Status check_each(const char *storage, const Conflict (&conflicts)[Count]) {
    for (const Conflict &c : conflicts) {
        if (c.when) {
            return fail(KVAPPEND_ERROR_CONFLICT, "descriptor.%s->%s is %g and %s is %.17g: expected %s", storage,
                        c.field, c.value, c.other, c.other_value, c.expected);
        }
    }
    return KVAPPEND_SUCCESS;
}

// Refuses a field that the others leave without a meaning, unless it is 0.
Status check_unused_fields(const StorageInput &input) {
    const kvappend_storage &s = *input.storage;
    const bool is_small = s.type >= KVAPPEND_STORED_E4M3;
    const bool is_integer = s.type == KVAPPEND_STORED_INT8 || s.type == KVAPPEND_STORED_INT4;
    const bool is_scaled = s.scaling != KVAPPEND_SCALING_NONE;
    const bool is_computed = s.scaling == KVAPPEND_SCALING_COMPUTED;
    const auto no_scales = [&](const char *field, double value) {
        return Conflict{value != 0 && !is_scaled,        field, value, "scaling", static_cast<double>(s.scaling),
                        "0, because there are no scales"};
    };
    const auto not_computed = [&](const char *field, double value) {
        return Conflict{value != 0 && !is_computed,
                        field,
                        value,
                        "scaling",
                        static_cast<double>(s.scaling),
                        "0, because the scales are not computed"};
    };
    const auto type = static_cast<double>(s.type);
    const Conflict conflicts[] = {{is_scaled && !is_small, "scaling", static_cast<double>(s.scaling), "type", type,
                                   "KVAPPEND_SCALING_NONE, because only types of 8 bits and less have scales"},
                                  {s.rounding != 0 && !is_integer, "rounding", static_cast<double>(s.rounding), "type",
                                   type, "0, because the type is not INT8 or INT4"},
                                  {s.nibbles != 0 && s.type != KVAPPEND_STORED_INT4 && s.type != KVAPPEND_STORED_E2M1,
                                   "nibbles", static_cast<double>(s.nibbles), "type", type,
                                   "0, because the type is not INT4 or E2M1"},
                                  no_scales("nibbles", s.nibbles),
                                  no_scales("scale_use", s.scale_use),
                                  no_scales("scale_type", s.scale_type),
                                  no_scales("scale_order", s.scale_order),
                                  no_scales("global_scale", s.global_scale),
                                  no_scales("group", static_cast<double>(s.group)),
                                  no_scales("scale_strides[0]", static_cast<double>(s.scale_strides[0])),
                                  no_scales("scale_strides[1]", static_cast<double>(s.scale_strides[1])),
                                  no_scales("scale_strides[2]", static_cast<double>(s.scale_strides[2])),
                                  no_scales("scale_strides[3]", static_cast<double>(s.scale_strides[3])),
                                  not_computed("scale_rounding", s.scale_rounding),
                                  not_computed("amax_floor", static_cast<double>(s.amax_floor)),
                                  not_computed("scale_floor", static_cast<double>(s.scale_floor))};
    return check_each(input.name, conflicts);
}

Status check_conflicts(const StorageInput &input) {
    const kvappend_storage &s = *input.storage;
    const kvappend_descriptor &d = input.descriptor;
    const bool computed = s.scaling == KVAPPEND_SCALING_COMPUTED;
    const bool by_four_rows = s.scale_order == KVAPPEND_SCALE_BY_FOUR_ROWS;
    const bool converts = s.type != KVAPPEND_STORED_AS_IS;
    const bool from_float = d.element_type == KVAPPEND_ELEMENT_F32 || d.element_type == KVAPPEND_ELEMENT_F16 ||
                            d.element_type == KVAPPEND_ELEMENT_BF16;
    const std::int64_t group = s.group == 0 ? input.dim : s.group;
    const auto number = [](auto value) { return static_cast<double>(value); };
    const Conflict conflicts[] = {
        {converts && !from_float, "type", number(s.type), "descriptor.element_type", number(d.element_type),
         "KVAPPEND_STORED_AS_IS, or elements of F32, F16 or BF16"},
        {computed && s.scale_use == KVAPPEND_SCALE_MULTIPLY, "scale_use", number(s.scale_use), "scaling",
         number(s.scaling), "another use, because computed scales are not reciprocals"},
        {!computed && s.scale_use == KVAPPEND_SCALE_UNROUNDED_RECIPROCAL, "scale_use", number(s.scale_use), "scaling",
         number(s.scaling), "another use, because given scales are not rounded"},
        {s.scale_rounding == KVAPPEND_SCALE_POWER_OF_TWO && s.scale_type != KVAPPEND_SCALE_F32 &&
             s.scale_type != KVAPPEND_SCALE_UE8M0,
         "scale_rounding", number(s.scale_rounding), "scale_type", number(s.scale_type),
         "KVAPPEND_SCALE_F32 or KVAPPEND_SCALE_UE8M0 with powers of two"},
        {computed && s.scale_type == KVAPPEND_SCALE_UE8M0 && s.scale_rounding != KVAPPEND_SCALE_POWER_OF_TWO,
         "scale_rounding", number(s.scale_rounding), "scale_type", number(s.scale_type),
         "KVAPPEND_SCALE_POWER_OF_TWO, because the scales are powers of two"},
        {by_four_rows && bytes_of_scale(s.scale_type) != 1, "scale_order", number(s.scale_order), "scale_type",
         number(s.scale_type), "scales of 1 byte in this order"},
        {by_four_rows && d.cache_rows % 4 != 0, "scale_order", number(s.scale_order), "descriptor.cache_rows",
         number(d.cache_rows), "a multiple of 4 rows in this order"},
        {by_four_rows && s.scale_strides[KVAPPEND_AXIS_ROW] != 0, "scale_strides[KVAPPEND_AXIS_ROW]",
         number(s.scale_strides[KVAPPEND_AXIS_ROW]), "scale_order", number(s.scale_order),
         "0, because this order says where the scales of a row are"},
        {by_four_rows && s.scale_strides[3] != 0, "scale_strides[3]", number(s.scale_strides[3]), "scale_order",
         number(s.scale_order), "0, because this order says where the scales of a row are"},
        {computed && group % 2 != 0 && group != input.dim, "group", number(s.group), "scaling", number(s.scaling),
         "an even number or the whole row, because the scales are computed"},
        {s.nibbles == KVAPPEND_NIBBLES_HALVES && group % 2 != 0, "nibbles", number(s.nibbles), "group", number(s.group),
         "groups with an even number of elements"},
        {s.nibbles == KVAPPEND_NIBBLES_HALVES && input.pack % std::max<std::int64_t>(group, 1) != 0, "nibbles",
         number(s.nibbles), "the pack", number(input.pack), "pieces that consist of whole groups"}};
    return check_each(input.name, conflicts);
}

Status check_scale_strides(const StorageInput &input, const Format &format, const TensorDescription &scales) {
    const std::int64_t stride = input.storage->scale_strides[3];
    const std::uint32_t bytes = bytes_of_scale(format.scale_type);
    if (stride < 0 || stride % bytes != 0) {
        return fail(KVAPPEND_ERROR_STRIDE,
                    "descriptor.%s->scale_strides[3] is %" PRId64
                    ": expected 0 or more bytes, and a multiple of %" PRIu32,
                    input.name, stride, bytes);
    }
    const struct {
        std::int64_t extent;
        std::int64_t stride;
    } axes[] = {{scales.outer, scales.strides[0]},
                {scales.heads, scales.strides[1]},
                {scales.rows, scales.strides[2]},
                {scales.dim / scales.pack, scales.piece_stride}};
    const bool is_empty = scales.outer == 0 || scales.heads == 0 || scales.rows == 0;
    for (int axis = 0; axis < 4; ++axis) {
        if (format.computed() && !is_empty && axes[axis].extent > 1 && axes[axis].stride == 0) {
            return fail(KVAPPEND_ERROR_STRIDE,
                        "descriptor.%s->scale_strides[%d] is 0 and its axis has %" PRId64
                        " entries: expected a stride, because the scales are computed",
                        input.name, axis, axes[axis].extent);
        }
    }
    return KVAPPEND_SUCCESS;
}

} // namespace

std::uint32_t bits_of_stored_type(std::int32_t stored_type) {
    switch (stored_type) {
    case KVAPPEND_STORED_F32:
        return 32;
    case KVAPPEND_STORED_F16:
    case KVAPPEND_STORED_BF16:
        return 16;
    case KVAPPEND_STORED_INT4:
    case KVAPPEND_STORED_E2M1:
        return 4;
    default:
        return 8;
    }
}

std::int32_t stored_type_of(std::int32_t element_type) {
    switch (element_type) {
    case KVAPPEND_ELEMENT_F32:
        return KVAPPEND_STORED_F32;
    case KVAPPEND_ELEMENT_F16:
        return KVAPPEND_STORED_F16;
    case KVAPPEND_ELEMENT_BF16:
        return KVAPPEND_STORED_BF16;
    default:
        return KVAPPEND_STORED_AS_IS;
    }
}

std::uint32_t bytes_of_scale(std::int32_t scale_type) {
    return scale_type == KVAPPEND_SCALE_F32 ? 4 : scale_type == KVAPPEND_SCALE_F16 ? 2 : 1;
}

float error_of(std::int32_t stored_type) {
    switch (stored_type) {
    case KVAPPEND_STORED_F32:
        return 0;
    case KVAPPEND_STORED_F16:
        return 0x1p-11F;
    case KVAPPEND_STORED_BF16:
        return 0x1p-8F;
    case KVAPPEND_STORED_E4M3:
        return 0x1p-4F;
    case KVAPPEND_STORED_E5M2:
        return 0x1p-3F;
    case KVAPPEND_STORED_E2M1:
        return 0x1p-2F;
    default:
        return 0.5F;
    }
}

Status check_storage(const StorageInput &input, Format &format) {
    format = {};
    if (input.storage == nullptr) {
        return KVAPPEND_SUCCESS;
    }
    TRY(check_enumerators(input));
    TRY(check_numbers(input));
    TRY(check_unused_fields(input));
    TRY(check_conflicts(input));
    const kvappend_storage &s = *input.storage;
    format.type = s.type == stored_type_of(input.descriptor.element_type) ? KVAPPEND_STORED_AS_IS : s.type;
    format.scaling = s.scaling;
    format.scale_use = s.scale_use;
    format.scale_type = s.scale_type;
    format.power_of_two = s.scale_rounding == KVAPPEND_SCALE_POWER_OF_TWO;
    format.by_four_rows = s.scale_order == KVAPPEND_SCALE_BY_FOUR_ROWS;
    format.half_away = s.rounding == KVAPPEND_ROUNDING_HALF_AWAY;
    format.halves = s.nibbles == KVAPPEND_NIBBLES_HALVES;
    format.has_global_scale = s.global_scale != 0;
    format.amax_floor = s.amax_floor;
    format.scale_floor = s.scale_floor;
    format.group = format.scaled() && s.group != 0 ? s.group : input.dim;
    return KVAPPEND_SUCCESS;
}

Status create_scales(const StorageInput &input, const Format &format, const TensorDescription &cache, Tensor &scales) {
    if (!format.scaled() || input.dim == 0) {
        return KVAPPEND_SUCCESS;
    }
    const std::int64_t(&given)[4] = input.storage->scale_strides;
    const std::int64_t groups = input.dim / format.group;
    if (groups > INT64_MAX / 4) {
        return fail(KVAPPEND_ERROR_OVERFLOW,
                    "descriptor.%s->group is %" PRId64 " and the dimension is %" PRId64
                    ": expected at most 2305843009213693951 groups",
                    input.name, input.storage->group, input.dim);
    }
    // Four rows are one row of this tensor, and the scales of a group of them are a piece.
    const std::int64_t together = format.by_four_rows ? 4 : 1;
    const std::int64_t strides[3] = {given[0], given[1], format.by_four_rows ? 4 * groups : given[2]};
    TensorDescription description{input.scales_name,
                                  input.scale_strides_name,
                                  cache.outer,
                                  cache.heads,
                                  cache.rows / together,
                                  groups * together,
                                  strides,
                                  8 * bytes_of_scale(format.scale_type),
                                  1};
    description.repeats = true;
    description.pack = together;
    description.piece_stride = format.by_four_rows ? 4 : given[3];
    TRY(check_scale_strides(input, format, description));
    return Tensor::create(description, scales);
}

} // namespace kvappend
