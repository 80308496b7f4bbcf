// SPDX-License-Identifier: Apache-2.0
// A test's own array in the memory of the subject, with a guard before and after it.
#pragma once

#include "plan.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

template <class T>
class Held {
public:
    explicit Held(const std::vector<T> &contents)
        : count_(contents.size()), block_(static_cast<unsigned char *>(subject().allocate(2 * guard + bytes()))) {
        const std::vector<unsigned char> image = image_of(contents);
        subject().upload(block_, image.data(), image.size());
    }
    Held(const Held &) = delete;
    Held &operator=(const Held &) = delete;
    ~Held() { subject().release(block_); }

    T *data() const { return reinterpret_cast<T *>(block_ + guard); }
    std::size_t bytes() const { return count_ * sizeof(T); }

    void set(const std::vector<T> &contents) {
        REQUIRE(contents.size() == count_);
        subject().upload(data(), contents.data(), bytes());
    }
    // Whether every byte, those of the guards too, is what it would be with these contents.
    bool holds(const std::vector<T> &contents) const {
        subject().synchronize();
        std::vector<unsigned char> found(2 * guard + bytes());
        subject().download(found.data(), block_, found.size());
        return found == image_of(contents);
    }

private:
    static constexpr std::size_t guard = 256;
    static constexpr unsigned char guard_byte = 0xa5;

    static std::vector<unsigned char> image_of(const std::vector<T> &contents) {
        std::vector<unsigned char> image(2 * guard + contents.size() * sizeof(T), guard_byte);
        const auto *const from = reinterpret_cast<const unsigned char *>(contents.data());
        for (std::size_t i = 0; i < contents.size() * sizeof(T); ++i) {
            image[guard + i] = from[i];
        }
        return image;
    }

    std::size_t count_;
    unsigned char *block_;
};

// An element stands for itself as bits.
template <class T>
constexpr std::int32_t element_type_of = sizeof(T) == 8   ? KVAPPEND_ELEMENT_F64
                                         : sizeof(T) == 4 ? KVAPPEND_ELEMENT_F32
                                                          : KVAPPEND_ELEMENT_BF16;

template <class T>
std::vector<T> random_elements(std::mt19937_64 &random, std::int64_t count) {
    std::vector<T> out(static_cast<std::size_t>(count));
    std::ranges::generate(out, [&] { return static_cast<T>(random()); });
    return out;
}

inline std::int64_t random_between(std::mt19937_64 &random, std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random);
}
