// SPDX-License-Identifier: Apache-2.0
//
// libkvappend for C++17 and later. This header wraps kvappend.h; a program links nothing but the library. kvappend.h
// documents each call under the name of its C function. This header documents only what differs in C++.
//
//     std::vector<float> k_new(B * H * D), k_cache(B * H * R * D), ...;         or std::span, std::array, device memory
//     std::vector<std::int64_t> offsets(B);
//
//     kvappend::buffers<float> b;                                               the element type is float
//     b.k_new = k_new;                                                          contiguous: [B, H, L_new, D_k]
//     b.v_new = {qkv.data() + at, count, kvappend::strides{L * W, D, W}};       any strides
//     b.k_cache = {k_cache, kvappend::strides::bshd(R, H, D)};                  tokens outside, heads inside
//     b.v_cache = v_cache;
//     b.cache_offsets = offsets;
//
//     kvappend::descriptor d;                                                   zero except for its size
//     d.batch = B, d.heads = H, d.new_rows = 1;
//     d.cache_rows = R, d.k_dim = d.v_dim = D;
//     b.fill(d);                                                                types of elements and indices, strides
//     kvappend::plan plan = kvappend::plan::create(d).value();
//
//     kvappend::args a;
//     b.fill(a);                                                                pointers and sizes
//     if (const auto done = plan.run(a, stream); !done) {
//         std::fprintf(stderr, "%s\n", done.message());
//     }
//
// GATHERS. A plan with KVAPPEND_OPERATION_GATHER reads rows from the caches. Its buffers have k_out and v_out instead
// of k_new and v_new, and its caches may be const:
//
//     kvappend::buffers<float, const std::int64_t, std::int32_t, const float> b;
//     b.k_out = k_rows, b.v_out = v_rows;                                       contiguous: [B, H, L_new, D_k]
//     b.k_cache = k_cache, b.v_cache = v_cache, b.cache_offsets = offsets;
//     ...
//     d.operation = KVAPPEND_OPERATION_GATHER;                                  before fill, which depends on it
//     b.fill(d);
//
// MOVES. A plan with KVAPPEND_OPERATION_MOVE moves rows within the caches. Its buffers have slots and from_slots, and
// no rows:
//
//     b.k_cache = k_cache, b.v_cache = v_cache;
//     b.slots = slots, b.from_slots = from_slots;                               from_slots[t] to slots[t]
//     ...
//     d.operation = KVAPPEND_OPERATION_MOVE;
//     b.fill(d);
//
// ERRORS. A call that can fail returns a result<T>: a value or a status, like std::expected. No function of this header
// throws by itself. Only value() throws: it throws kvappend::error if there is no value. A program that is compiled
// without exceptions has everything except value(). If memory runs out, layers::add and result::error behave like the
// containers of the standard library.
//
// COST. The header adds no cost. Every function is one call of the C function with the same arguments. A result<void>
// is the status of that call, and a plan is its pointer.
//
// STRUCTS. descriptor, storage, rotary, preference, args, report, fault, sku and precision_guarantee derive from the
// structs of C. Their constructors do what the init functions do. All functions take the structs of C, too. The
// constants are those of C, such as KVAPPEND_ADDRESSING_RING.
//
// STORAGE FORMATS. A storage is a value. The descriptor points to it, so it must exist until plan::create returns:
//
//     const kvappend::storage e4m3 = kvappend::storage_preset(KVAPPEND_PRESET_E4M3_DIVIDE).value();
//     kvappend::buffers<float, std::int64_t, std::int32_t, std::uint8_t> b;     floats, stored in caches of bytes
//     b.k_scales = k_scale, b.v_scales = v_scale;                               float k_scale[1], v_scale[1]
//     ...
//     d.k_storage = d.v_storage = &e4m3;
//     b.fill(d);
//
// ROTARY EMBEDDING. A rotary is a value like a storage. The tables have numbers of type float or of 16 bits:
//
//     kvappend::rotary rotary;
//     rotary.dim = rotary.table_stride = D, rotary.table_rows = P;              one table [P, cos | sin]
//     d.rotary = &rotary;
//     b.rotary_cos = table, b.rotary_sin = {table.data() + D / 2, table.size() - D / 2};
//
// A run can also rotate Q, from q to q_out, which may be the same memory:
//
//     rotary.q_heads = H_q, rotary.q_dim = D;
//     b.q = q, b.q_out = q;
//     b.fill(rotary);                                                           the strides of q and of q_out
//
// LOADING BY HAND. These functions call the library with which the program is linked. A program that loads the library
// by dlopen calls through the table kvappend_api. It can use the views, buffers and structs of this header.
#ifndef KVAPPEND_KVAPPEND_HPP
#define KVAPPEND_KVAPPEND_HPP

#include "kvappend.h"

#if __cplusplus < 201703L
#error "kvappend.hpp needs C++17; kvappend.h works with any C++"
#endif

#if defined(__GNUC__)
#define KVAPPEND_VISIBLE __attribute__((visibility("default")))
#else
#define KVAPPEND_VISIBLE
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace kvappend {

// This namespace is part of every symbol's name, so that one program can use this header and a later one.
inline namespace v1 {

// ---- errors ----

// kvappend_status_name. The result is static text, such as "KVAPPEND_ERROR_ALIAS".
inline const char *status_name(kvappend_status status) noexcept {
    return kvappend_status_name(status);
}

// kvappend_last_error_message: why the latest failing call of this thread failed.
inline const char *last_error_message() noexcept {
    return kvappend_last_error_message();
}

// A failed call, to throw or to keep. what() is the name of the status and the message. The class is visible, so that
// all parts of a program that hide their symbols throw and catch the same type.
class KVAPPEND_VISIBLE error : public std::runtime_error {
public:
    // Takes the last message of the calling thread, so construct it before the next failing call of that thread.
    explicit error(kvappend_status status)
        : std::runtime_error(std::string(status_name(status)) + ": " + last_error_message()), status_(status) {}

    kvappend_status status() const noexcept { return status_; }

private:
    kvappend_status status_;
};

// Success, or the status of a failed call. The status is all that it holds: message(), error() and value() read the
// text of the calling thread's latest failing call. Use them in the thread that made the call, before its next failing
// call.
template <class T>
class result;

template <>
class [[nodiscard]] result<void> {
public:
    explicit result(kvappend_status status) noexcept : status_(status) {}

    bool has_value() const noexcept { return status_ == KVAPPEND_SUCCESS; }
    explicit operator bool() const noexcept { return has_value(); }
    kvappend_status status() const noexcept { return status_; }
    // "" if the call succeeded.
    const char *message() const noexcept { return has_value() ? "" : last_error_message(); }
    // Returns an exception object with its own copy of the text.
    kvappend::error error() const { return kvappend::error(status_); }
#if defined(__cpp_exceptions)
    // Throws kvappend::error if the call failed.
    void value() const {
        if (!has_value()) {
            throw kvappend::error(status_);
        }
    }
#endif

private:
    kvappend_status status_;
};

// A T, or the status of a failed call. After a failure, * and -> give an empty T.
template <class T>
class [[nodiscard]] result : private result<void> {
public:
    result(kvappend_status status, T value) noexcept : result<void>(status), value_(std::move(value)) {}

    using result<void>::has_value;
    using result<void>::operator bool;
    using result<void>::status;
    using result<void>::message;
    using result<void>::error;

    T &operator*() &noexcept { return value_; }
    const T &operator*() const &noexcept { return value_; }
    T &&operator*() &&noexcept { return std::move(value_); }
    T *operator->() noexcept { return &value_; }
    const T *operator->() const noexcept { return &value_; }
#if defined(__cpp_exceptions)
    T &value() & {
        return result<void>::value(), value_;
    }
    const T &value() const & {
        return result<void>::value(), value_;
    }
    T &&value() && {
        return result<void>::value(), std::move(value_);
    }
#endif

private:
    T value_;
};

// ---- structs ----

// Each constructor does what the init function of its struct does: every field except struct_size is zero.
struct descriptor : kvappend_descriptor {
    constexpr descriptor() noexcept : kvappend_descriptor() { struct_size = sizeof(kvappend_descriptor); }
};
struct storage : kvappend_storage {
    constexpr storage() noexcept : kvappend_storage() { struct_size = sizeof(kvappend_storage); }
};
struct rotary : kvappend_rotary {
    constexpr rotary() noexcept : kvappend_rotary() { struct_size = sizeof(kvappend_rotary); }
};
struct preference : kvappend_preference {
    constexpr preference() noexcept : kvappend_preference() { struct_size = sizeof(kvappend_preference); }
};
struct args : kvappend_args {
    constexpr args() noexcept : kvappend_args() { struct_size = sizeof(kvappend_args); }
};
struct report : kvappend_report {
    constexpr report() noexcept : kvappend_report() { struct_size = sizeof(kvappend_report); }
};
struct fault : kvappend_fault {
    constexpr fault() noexcept : kvappend_fault() { struct_size = sizeof(kvappend_fault); }
};
struct sku : kvappend_sku {
    constexpr sku() noexcept : kvappend_sku() { struct_size = sizeof(kvappend_sku); }
};
struct precision_guarantee : kvappend_precision_guarantee {
    constexpr precision_guarantee() noexcept : kvappend_precision_guarantee() {
        struct_size = sizeof(kvappend_precision_guarantee);
    }
};

// kvappend_storage_preset.
inline result<storage> storage_preset(std::int32_t preset) noexcept {
    storage filled;
    const kvappend_status status = kvappend_storage_preset(preset, &filled, sizeof(kvappend_storage));
    return {status, filled};
}

// ---- views ----

// The KVAPPEND_ELEMENT_* of a C++ type. Any type of 16 bits (std::uint16_t, __half, __nv_bfloat16) counts as F16. Any
// type of 8 bits except std::int8_t (std::byte, __nv_fp8_e4m3) counts as UINT8. The copy is the same, and kvappend_sku
// then reports F16 or UINT8. Specialise this variable to get the exact name, or for another type:
//
//     template <> inline constexpr std::int32_t kvappend::element_type<__nv_bfloat16> = KVAPPEND_ELEMENT_BF16;
template <class T>
inline constexpr std::int32_t element_type = [] {
    static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 2 || sizeof(T) == 1),
                  "an element is a float, a double, a type of 16 or 8 bits, or one for which kvappend::element_type is "
                  "specialised");
    return sizeof(T) == 2 ? KVAPPEND_ELEMENT_F16 : KVAPPEND_ELEMENT_UINT8;
}();
template <>
inline constexpr std::int32_t element_type<float> = KVAPPEND_ELEMENT_F32;
template <>
inline constexpr std::int32_t element_type<double> = KVAPPEND_ELEMENT_F64;
template <>
inline constexpr std::int32_t element_type<std::int8_t> = KVAPPEND_ELEMENT_INT8;

namespace detail {

// Whether memory of Us may be viewed as memory of Ts: the two types may differ only in const.
template <class U, class T>
inline constexpr bool same_memory = std::is_convertible_v<U (*)[], T (*)[]>;

template <class Range>
using element_of = std::remove_pointer_t<decltype(std::data(std::declval<Range &>()))>;

// Whether a range holds its elements, or its elements end with the expression. If its elements are const, such a range
// has all other properties of a view, so is_view must rule it out.
template <class Range>
inline constexpr bool holds_elements = std::is_array_v<Range>;
template <class T, std::size_t N>
inline constexpr bool holds_elements<std::array<T, N>> = true;
template <class T>
inline constexpr bool holds_elements<std::initializer_list<T>> = true;

// Whether a range is a view of memory that it does not own, such as a span. A view has no destructor to run. Its
// elements can be written even if the view itself is const.
template <class Range, class = void>
inline constexpr bool is_view = false;
template <class Range>
inline constexpr bool is_view<Range, std::void_t<element_of<const Range>>> =
    std::is_trivially_destructible_v<Range> &&std::is_same_v<element_of<Range>, element_of<const Range>> &&
    !holds_elements<std::remove_cv_t<Range>>;

// Whether the elements of an argument of type Range && still exist when they are used. A temporary must be a view,
// because the elements of any other temporary end with it.
template <class Range>
inline constexpr bool lasts = std::is_lvalue_reference_v<Range> || is_view<Range>;

} // namespace detail

// A pointer to Ts and their number. It owns nothing and never accesses the memory, which may be device memory.
template <class T>
class array_view {
public:
    // No array.
    constexpr array_view() noexcept = default;
    // With size 0 the view has no array, because in kvappend_args a size of 0 means that the size is unknown.
    constexpr array_view(T *data, std::size_t size) noexcept
        : data_(size == 0 ? nullptr : data), bytes_(size * sizeof(T)) {}
    // Any contiguous container, span or array of T. A temporary must be a span or another view.
    template <class Range, class U = detail::element_of<Range>,
              class = std::enable_if_t<detail::lasts<Range> && detail::same_memory<U, T>>>
    constexpr array_view(Range &&range) noexcept : array_view(std::data(range), std::size(range)) {}
    template <class U, class = std::enable_if_t<detail::same_memory<U, T>>>
    constexpr array_view(const array_view<U> &other) noexcept : data_(other.data_), bytes_(other.bytes_) {}

    // An array of unknown size. The library does not check the size.
    static constexpr array_view unchecked(T *data) noexcept {
        array_view view;
        view.data_ = data;
        return view;
    }

    // In the form that kvappend_args takes.
    constexpr T *pointer() const noexcept { return data_; }
    constexpr std::size_t bytes() const noexcept { return bytes_; }

private:
    template <class U>
    friend class array_view;

    T *data_ = nullptr;
    std::size_t bytes_ = 0;
};

// The scales of a cache, as floats or as any type of 16 or 8 bits. They are a view like an array_view. They may be
// const if no run writes them: no append with KVAPPEND_SCALING_COMPUTED, and no move of rows with scales of their own.
class scales_view {
public:
    constexpr scales_view() noexcept = default;
    template <class T>
    constexpr scales_view(array_view<T> scales) noexcept : data_(scales.pointer()), bytes_(scales.bytes()) {
        static_assert(std::is_same_v<std::remove_cv_t<T>, float> || sizeof(T) <= 2,
                      "a scale is a float or a type of 16 or 8 bits");
    }
    template <class T>
    constexpr scales_view(T *data, std::size_t size) noexcept : scales_view(array_view<T>(data, size)) {}
    template <class Range, class T = detail::element_of<Range>, class = std::enable_if_t<detail::lasts<Range>>>
    constexpr scales_view(Range &&range) noexcept : scales_view(array_view<T>(range)) {}

    constexpr const void *pointer() const noexcept { return data_; }
    constexpr std::size_t bytes() const noexcept { return bytes_; }

private:
    const void *data_ = nullptr;
    std::size_t bytes_ = 0;
};

// A rotary table, of floats or of any type of 16 bits. It is a view like an array_view.
class table_view {
public:
    constexpr table_view() noexcept = default;
    template <class T>
    constexpr table_view(array_view<T> table) noexcept : data_(table.pointer()), bytes_(table.bytes()) {
        static_assert(std::is_same_v<std::remove_cv_t<T>, float> || sizeof(T) == 2,
                      "a number of a rotary table is a float or a type of 16 bits");
    }
    template <class T>
    constexpr table_view(T *data, std::size_t size) noexcept : table_view(array_view<T>(data, size)) {}
    template <class Range, class T = detail::element_of<Range>, class = std::enable_if_t<detail::lasts<Range>>>
    constexpr table_view(Range &&range) noexcept : table_view(array_view<T>(range)) {}

    constexpr const void *pointer() const noexcept { return data_; }
    constexpr std::size_t bytes() const noexcept { return bytes_; }

private:
    const void *data_ = nullptr;
    std::size_t bytes_ = 0;
};

// Strides in elements, by KVAPPEND_AXIS_*. All zero means contiguous.
struct strides {
    std::int64_t batch = 0; // of a cache: of the block, which is a sample's cache or a page
    std::int64_t head = 0;
    std::int64_t row = 0;

    // The strides of a tensor [B, rows, heads, dim]. For caches this layout is known as NHD.
    static constexpr strides bshd(std::int64_t rows, std::int64_t heads, std::int64_t dim) noexcept {
        return {rows * heads * dim, dim, heads * dim};
    }
};

// An array with the strides of a tensor. The array begins at element [0, 0, 0, 0] of the tensor.
template <class T>
class tensor_view : public array_view<T> {
public:
    constexpr tensor_view() noexcept = default;
    constexpr tensor_view(T *data, std::size_t size, kvappend::strides by = {}) noexcept
        : array_view<T>(data, size), by_(by) {}
    template <class Range, class U = detail::element_of<Range>,
              class = std::enable_if_t<detail::lasts<Range> && detail::same_memory<U, T>>>
    constexpr tensor_view(Range &&range, kvappend::strides by = {}) noexcept
        : array_view<T>(std::data(range), std::size(range)), by_(by) {}
    constexpr tensor_view(array_view<T> array, kvappend::strides by = {}) noexcept : array_view<T>(array), by_(by) {}
    template <class U, class = std::enable_if_t<detail::same_memory<U, T>>>
    constexpr tensor_view(const tensor_view<U> &other) noexcept : array_view<T>(other), by_(other.strides()) {}

    constexpr kvappend::strides strides() const noexcept { return by_; }

private:
    kvappend::strides by_;
};

// The buffers of an append, of a gather or of a move. All tensors have elements of type T; offsets, slots and positions
// are of type Offset, and all other indices of type Index. Both are std::int64_t or std::int32_t. Offset may be const
// if no run advances the offsets (KVAPPEND_FLAG_ADVANCE), and KCache and VCache if no run writes the caches
// (KVAPPEND_OPERATION_GATHER).
//
// A cache with a storage consists of KCache or VCache instead. This is the type of its codes, or a type of bytes if
// codes are smaller than a byte or share their memory with scales. The strides of the view count elements of that type.
// The same holds for QOut and the storage of rotated rows of Q.
template <class T, class Offset = std::int64_t, class Index = std::int32_t, class KCache = T, class VCache = KCache,
          class QOut = std::remove_cv_t<T>>
struct buffers {
    static_assert(sizeof(Offset) == 8 || sizeof(Offset) == 4, "offsets are of 64 or 32 bits");
    static_assert(std::is_signed_v<Offset> && std::is_integral_v<Offset>, "offsets are signed integers");
    static_assert(sizeof(Index) == 8 || sizeof(Index) == 4, "indices are of 64 or 32 bits");
    static_assert(std::is_signed_v<Index> && std::is_integral_v<Index>, "indices are signed integers");
    static_assert(std::is_same_v<std::remove_const_t<KCache>, T> ||
                      std::is_same_v<std::remove_const_t<KCache>, float> || sizeof(KCache) <= 2,
                  "a code is a float or a type of 16 or 8 bits");
    static_assert(std::is_same_v<std::remove_const_t<VCache>, T> ||
                      std::is_same_v<std::remove_const_t<VCache>, float> || sizeof(VCache) <= 2,
                  "a code is a float or a type of 16 or 8 bits");
    static_assert(std::is_same_v<QOut, std::remove_cv_t<T>> || std::is_same_v<QOut, float> || sizeof(QOut) <= 2,
                  "a code is a float or a type of 16 or 8 bits");

    tensor_view<const T> k_new; // of an append
    tensor_view<const T> v_new;
    tensor_view<KCache> k_cache;
    tensor_view<VCache> v_cache;
    tensor_view<std::remove_cv_t<T>> k_out; // of a gather
    tensor_view<std::remove_cv_t<T>> v_out;
    array_view<Offset> cache_offsets;
    array_view<const Offset> slots;
    array_view<const Offset> from_slots; // of a move
    array_view<const Index> lengths;
    array_view<const Index> left_pads;
    array_view<const Index> batch_index;
    array_view<const Index> page_table;
    array_view<const Index> page_indptr;
    array_view<const Index> token_samples;
    array_view<const Offset> token_positions;
    array_view<const Index> token_count;
    scales_view k_scales;
    scales_view v_scales;
    array_view<const float> k_global_scale; // one element
    array_view<const float> v_global_scale;
    table_view rotary_cos;
    table_view rotary_sin;
    array_view<const Offset> positions;
    tensor_view<const T> q; // of a rotation
    tensor_view<QOut> q_out;
    scales_view q_scales;
    kvappend_report *report = nullptr;

    // Sets the fields of a descriptor that the buffers determine: the types of elements, offsets and indices, and all
    // strides except the piece strides. The descriptor must have its operation and its storages already. The operation
    // says whether the strides of the rows are those of k_new and v_new, those of k_out and v_out, or 0 because there
    // are no rows. With a storage, the descriptor has the strides of a cache in bytes. The strides of scales are those
    // of the storage.
    void fill(kvappend_descriptor &d) const noexcept {
        d.element_type = element_type<std::remove_cv_t<T>>;
        d.offset_type = sizeof(Offset) == 8 ? KVAPPEND_OFFSET_INT64 : KVAPPEND_OFFSET_INT32;
        d.index_type = sizeof(Index) == 8 ? KVAPPEND_INDEX_INT64 : KVAPPEND_INDEX_INT32;
        put(strides_of_rows(d, k_new.strides(), k_out.strides()), d.k_new_strides);
        put(strides_of_rows(d, v_new.strides(), v_out.strides()), d.v_new_strides);
        put(k_cache.strides(), d.k_cache_strides, unit<KCache>(d.k_storage));
        put(v_cache.strides(), d.v_cache_strides, unit<VCache>(d.v_storage));
    }

    // Sets the strides of Q. The rotary must have its storage already, if it has one.
    void fill(kvappend_rotary &r) const noexcept {
        put(q.strides(), r.q_strides);
        put(q_out.strides(), r.q_out_strides, unit<QOut>(r.q_storage));
    }

    // Sets every field of the arguments of a run except struct_size.
    void fill(kvappend_args &a) const noexcept {
        a.k_new = k_new.pointer(), a.k_new_bytes = k_new.bytes();
        a.v_new = v_new.pointer(), a.v_new_bytes = v_new.bytes();
        // A run writes the caches except with KVAPPEND_OPERATION_GATHER.
        a.k_cache = const_cast<std::remove_const_t<KCache> *>(k_cache.pointer()), a.k_cache_bytes = k_cache.bytes();
        a.v_cache = const_cast<std::remove_const_t<VCache> *>(v_cache.pointer()), a.v_cache_bytes = v_cache.bytes();
        a.k_out = k_out.pointer(), a.k_out_bytes = k_out.bytes();
        a.v_out = v_out.pointer(), a.v_out_bytes = v_out.bytes();
        // A run writes the offsets only with KVAPPEND_FLAG_ADVANCE.
        a.cache_offsets = const_cast<std::remove_const_t<Offset> *>(cache_offsets.pointer());
        a.cache_offsets_bytes = cache_offsets.bytes();
        a.slots = slots.pointer(), a.slots_bytes = slots.bytes();
        a.from_slots = from_slots.pointer(), a.from_slots_bytes = from_slots.bytes();
        a.lengths = lengths.pointer(), a.lengths_bytes = lengths.bytes();
        a.left_pads = left_pads.pointer(), a.left_pads_bytes = left_pads.bytes();
        a.batch_index = batch_index.pointer(), a.batch_index_bytes = batch_index.bytes();
        a.page_table = page_table.pointer(), a.page_table_bytes = page_table.bytes();
        a.page_indptr = page_indptr.pointer(), a.page_indptr_bytes = page_indptr.bytes();
        a.token_samples = token_samples.pointer(), a.token_samples_bytes = token_samples.bytes();
        a.token_positions = token_positions.pointer(), a.token_positions_bytes = token_positions.bytes();
        a.token_count = token_count.pointer(), a.token_count_bytes = token_count.bytes();
        // A run writes the scales only in an append with KVAPPEND_SCALING_COMPUTED, and in a move.
        a.k_scales = const_cast<void *>(k_scales.pointer()), a.k_scales_bytes = k_scales.bytes();
        a.v_scales = const_cast<void *>(v_scales.pointer()), a.v_scales_bytes = v_scales.bytes();
        a.k_global_scale = k_global_scale.pointer(), a.k_global_scale_bytes = k_global_scale.bytes();
        a.v_global_scale = v_global_scale.pointer(), a.v_global_scale_bytes = v_global_scale.bytes();
        a.rotary_cos = rotary_cos.pointer(), a.rotary_cos_bytes = rotary_cos.bytes();
        a.rotary_sin = rotary_sin.pointer(), a.rotary_sin_bytes = rotary_sin.bytes();
        a.positions = positions.pointer(), a.positions_bytes = positions.bytes();
        a.q = q.pointer(), a.q_bytes = q.bytes();
        a.q_out = q_out.pointer(), a.q_out_bytes = q_out.bytes();
        a.q_scales = q_scales.pointer(), a.q_scales_bytes = q_scales.bytes();
        a.report = report, a.report_bytes = report == nullptr ? 0 : sizeof *report;
    }

private:
    static strides strides_of_rows(const kvappend_descriptor &d, strides appended, strides gathered) noexcept {
        return d.operation == KVAPPEND_OPERATION_MOVE     ? strides{}
               : d.operation == KVAPPEND_OPERATION_GATHER ? gathered
                                                          : appended;
    }
    // What one element of a view of Ts counts in the descriptor.
    template <class Element>
    static std::int64_t unit(const kvappend_storage *storage) noexcept {
        return storage == nullptr || storage->type == KVAPPEND_STORED_AS_IS ? 1 : std::int64_t{sizeof(Element)};
    }
    static void put(strides from, std::int64_t (&to)[3], std::int64_t unit = 1) noexcept {
        to[KVAPPEND_AXIS_BATCH] = from.batch * unit;
        to[KVAPPEND_AXIS_HEAD] = from.head * unit;
        to[KVAPPEND_AXIS_ROW] = from.row * unit;
    }
};

// ---- plans ----

// A plan, or no plan. The destructor destroys the plan. Every function refuses an empty plan, as the C functions refuse
// NULL.
//
// As in C, a plan never changes, so any number of threads may call its const functions at once. For what the functions
// do with the device, under stream capture, and with the structs and the stream, see kvappend.h.
class plan {
public:
    // kvappend_plan_create.
    static result<plan> create(const kvappend_descriptor &descriptor,
                               const kvappend_preference *preference = nullptr) noexcept {
        kvappend_plan *made = nullptr;
        const kvappend_status status = kvappend_plan_create(&descriptor, preference, &made);
        return {status, plan(made)};
    }
    static result<plan> create(const kvappend_descriptor &descriptor, const kvappend_preference &preference) noexcept {
        return create(descriptor, &preference);
    }

    plan() noexcept = default;
    // Takes ownership of a plan that kvappend_plan_create returned.
    explicit plan(kvappend_plan *owned) noexcept : owned_(owned) {}
    plan(plan &&other) noexcept : owned_(other.release()) {}
    plan &operator=(plan &&other) noexcept {
        plan(std::move(other)).swap(*this);
        return *this;
    }
    ~plan() { reset(); }

    // kvappend_plan_destroy, if there is a plan.
    void reset() noexcept {
        if (owned_ != nullptr) {
            kvappend_plan_destroy(release());
        }
    }
    // Returns the plan and gives up its ownership: the caller destroys it.
    kvappend_plan *release() noexcept { return std::exchange(owned_, nullptr); }
    void swap(plan &other) noexcept { std::swap(owned_, other.owned_); }
    kvappend_plan *get() const noexcept { return owned_; }
    explicit operator bool() const noexcept { return owned_ != nullptr; }

    // kvappend_plan_workspace_size.
    result<std::size_t> workspace_size() const noexcept {
        std::size_t bytes = 0;
        const kvappend_status status = kvappend_plan_workspace_size(owned_, &bytes);
        return {status, bytes};
    }
    // kvappend_plan_can_implement.
    result<void> can_implement(const kvappend_args &args) const noexcept {
        return result<void>(kvappend_plan_can_implement(owned_, &args));
    }
    // kvappend_plan_run. A cudaStream_t is a CUstream_st *.
    result<void> run(const kvappend_args &args, CUstream_st *stream = nullptr, void *workspace = nullptr,
                     std::size_t workspace_bytes = 0) const noexcept {
        return result<void>(kvappend_plan_run(owned_, &args, workspace, workspace_bytes, stream));
    }
    // kvappend_plan_validate. `where`, if given, receives the first fault.
    result<void> validate(const kvappend_args &args, kvappend_fault *where = nullptr, CUstream_st *stream = nullptr,
                          void *workspace = nullptr, std::size_t workspace_bytes = 0) const noexcept {
        return result<void>(kvappend_plan_validate(owned_, &args, workspace, workspace_bytes, stream, where));
    }
    // kvappend_plan_get_sku.
    result<sku> get_sku() const noexcept {
        sku filled;
        const kvappend_status status = kvappend_plan_get_sku(owned_, &filled);
        return {status, filled};
    }
    // kvappend_plan_get_precision_guarantee.
    result<precision_guarantee> get_precision_guarantee() const noexcept {
        precision_guarantee filled;
        const kvappend_status status = kvappend_plan_get_precision_guarantee(owned_, &filled);
        return {status, filled};
    }

private:
    kvappend_plan *owned_ = nullptr;
};

// Several appends, gathers or moves that are done as one, such as those of all layers. Build it once and run it at
// each step. It holds pointers to the args and to the plans (the pointers that plan::get returns). These must stay
// where they are. The contents of the args may change between runs.
class layers {
public:
    void add(const plan &plan, const kvappend_args &args) {
        plans_.push_back(plan.get());
        args_.push_back(&args);
    }
    // Temporaries would not live until the run.
    void add(const plan &plan, const kvappend_args &&args) = delete;
    void add(const plan &&plan, const kvappend_args &args) = delete;
    void add(const plan &&plan, const kvappend_args &&args) = delete;

    std::size_t size() const noexcept { return plans_.size(); }

    // kvappend_plan_run_layers.
    result<void> run(CUstream_st *stream = nullptr, void *workspace = nullptr,
                     std::size_t workspace_bytes = 0) const noexcept {
        return result<void>(
            kvappend_plan_run_layers(plans_.data(), args_.data(), plans_.size(), workspace, workspace_bytes, stream));
    }

private:
    std::vector<const kvappend_plan *> plans_;
    std::vector<const kvappend_args *> args_;
};

// ---- the library ----

// kvappend_kernel_name. The result is nullptr past the end of the table.
inline const char *kernel_name(std::size_t index) noexcept {
    return kvappend_kernel_name(index);
}

// kvappend_version: the version of the library. KVAPPEND_VERSION is the version of the header.
inline std::uint32_t version() noexcept {
    return kvappend_version();
}

// kvappend_get_api: all functions as a table, which can be passed on.
inline result<const kvappend_api *> get_api(std::uint32_t abi_version = KVAPPEND_ABI_VERSION) noexcept {
    const kvappend_api *api = nullptr;
    const kvappend_status status = kvappend_get_api(abi_version, &api);
    return {status, api};
}

} // namespace v1

} // namespace kvappend

#undef KVAPPEND_VISIBLE

#endif
