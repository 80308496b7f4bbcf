// SPDX-License-Identifier: Apache-2.0
// A fuzzer's input as a source of random numbers, so that what the random tests draw can be drawn from it. One byte is
// one number, and behind the end all are 0, so that small changes of an input are small changes of the problem.
#pragma once

#include <cstddef>
#include <cstdint>

class Input {
public:
    using result_type = std::uint8_t;

    Input(const std::uint8_t *data, std::size_t size) : next_(data), end_(data + size) {}

    static constexpr result_type min() { return 0; }
    static constexpr result_type max() { return UINT8_MAX; }
    result_type operator()() { return next_ < end_ ? *next_++ : result_type{0}; }

private:
    const std::uint8_t *next_;
    const std::uint8_t *end_;
};
