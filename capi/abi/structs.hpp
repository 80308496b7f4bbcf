// SPDX-License-Identifier: Apache-2.0
// The rule by which structs of older and newer headers are read and written. The suite `abi` guards their layout.
#pragma once

#include "../../src/status.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace kvappend {

// More than any struct will have. It limits how much memory is read if the size is garbage.
inline constexpr std::size_t largest_struct = 4096;

inline Status check_struct_size(const char *name, std::size_t size) {
    if (size < sizeof(std::size_t) || size > largest_struct || size % 8 != 0) {
        return fail(
            KVAPPEND_ERROR_STRUCT_SIZE,
            "%s.struct_size is %zu: expected a multiple of 8 from 8 to %zu, as the struct's _INIT macro or init "
            "function sets it",
            name, size, largest_struct);
    }
    return KVAPPEND_SUCCESS;
}

// Reads struct_size alone, because the caller's struct may be shorter than this library's.
inline std::size_t struct_size_of(const void *s) {
    std::size_t size = 0;
    std::memcpy(&size, s, sizeof size);
    return size;
}

// Reads the caller's struct into this library's: missing fields become zero, and unknown fields must be zero.
template <class Struct>
Status read_struct(const char *name, const Struct *from, Struct &to) {
    to = {};
    if (from == nullptr) {
        return fail(KVAPPEND_ERROR_NULL_ARGUMENT, "%s is NULL: expected a struct", name);
    }
    const std::size_t size = struct_size_of(from);
    TRY(check_struct_size(name, size));
    const auto *const bytes = reinterpret_cast<const unsigned char *>(from);
    for (std::size_t i = sizeof(Struct); i < size; ++i) {
        if (bytes[i] != 0) {
            return fail(KVAPPEND_ERROR_STRUCT_SIZE,
                        "%s.struct_size is %zu and byte %zu of it is not zero: expected zero in all but the first %zu "
                        "bytes, which are what this library knows",
                        name, size, i, sizeof(Struct));
        }
    }
    std::memcpy(&to, from, std::min(size, sizeof(Struct)));
    to.struct_size = sizeof(Struct);
    return KVAPPEND_SUCCESS;
}

// The same without a copy if the caller's struct has this library's size. Only programs that were built with an older
// or newer header need the copy. `copy` must live as long as the view.
template <class Struct>
Status view_struct(const char *name, const Struct *from, Struct &copy, const Struct *&view) {
    if (from != nullptr && struct_size_of(from) == sizeof(Struct)) {
        view = from;
        return KVAPPEND_SUCCESS;
    }
    view = &copy;
    return read_struct(name, from, copy);
}

// Writes this library's struct into the caller's. Fields that this library does not know become zero, and struct_size
// keeps the caller's value.
template <class Struct>
void write_struct(const Struct &from, Struct *to) {
    const std::size_t size = struct_size_of(to);
    auto *const bytes = reinterpret_cast<unsigned char *>(to);
    constexpr std::size_t head = sizeof(std::size_t);
    const std::size_t known = std::min(size, sizeof(Struct));
    std::memcpy(bytes + head, reinterpret_cast<const unsigned char *>(&from) + head, known - head);
    std::memset(bytes + known, 0, size - known);
}

} // namespace kvappend
