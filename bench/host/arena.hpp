// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

// Memory that the kernel has backed, so that no measured write is the first to its page.
class Arena {
public:
    explicit Arena(std::size_t bytes)
        : bytes_(bytes & ~std::size_t{63}), data_(static_cast<std::byte *>(std::aligned_alloc(64, bytes_))) {
        if (data_ == nullptr) {
            throw std::bad_alloc();
        }
        std::memset(data_.get(), 1, bytes_);
    }

    std::byte *data() const { return data_.get(); }
    std::size_t bytes() const { return bytes_; }

private:
    struct Free {
        void operator()(std::byte *data) const { std::free(data); }
    };
    std::size_t bytes_;
    std::unique_ptr<std::byte, Free> data_;
};
