// SPDX-License-Identifier: Apache-2.0
#include "prompts.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <system_error>

Bytes read_text(const std::string &path) {
    const auto fail = [&](const std::string &why) { throw std::runtime_error("cannot read '" + path + "': " + why); };
    const std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (file == nullptr) {
        fail(std::generic_category().message(errno));
    }
    Bytes text(std::size_t{16} << 20);
    text.resize(std::fread(text.data(), 1, text.size(), file.get()));
    if (std::ferror(file.get()) != 0) { // So it is with a directory.
        fail(std::generic_category().message(errno));
    }
    if (text.empty()) {
        fail("the file is empty");
    }
    return text;
}

std::vector<Bytes> cut_prompts(const Bytes &text, std::size_t batch, std::size_t longest) {
    longest = std::min(longest, text.size());
    std::vector<Bytes> prompts;
    for (std::size_t i = 0; i < batch; ++i) {
        const std::size_t length = std::max<std::size_t>(1, longest * (batch - i) / batch);
        const std::size_t start = (text.size() - length) * i / batch;
        const auto first = text.begin() + static_cast<std::ptrdiff_t>(start);
        prompts.emplace_back(first, first + static_cast<std::ptrdiff_t>(length));
    }
    return prompts;
}
