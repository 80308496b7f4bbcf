// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

#include "plan.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

namespace {

// Memory of the subject that ends with its scope.
class Block {
public:
    explicit Block(std::size_t bytes) : pointer_(static_cast<unsigned char *>(subject().allocate(bytes))) {}
    Block(const Block &) = delete;
    Block(Block &&other) noexcept : pointer_(std::exchange(other.pointer_, nullptr)) {}
    Block &operator=(const Block &) = delete;
    Block &operator=(Block &&) = delete;
    ~Block() {
        if (pointer_ != nullptr) {
            subject().release(pointer_);
        }
    }
    unsigned char *data() const { return pointer_; }

private:
    unsigned char *pointer_;
};

void fill(std::vector<unsigned char> &bytes, std::mt19937_64 &random) {
    std::size_t i = 0;
    for (; i + 8 <= bytes.size(); i += 8) {
        const std::uint64_t word = random();
        std::memcpy(&bytes[i], &word, 8);
    }
    for (; i < bytes.size(); ++i) {
        bytes[i] = static_cast<unsigned char>(random());
    }
}

void put_offsets(const Case &c, std::vector<unsigned char> &block) {
    const std::size_t width = offset_bytes(c.descriptor.offset_type);
    for (std::size_t b = 0; b < c.offsets.size(); ++b) {
        // Little-endian, as every machine with CUDA: the low bytes of an int64 are the int32.
        std::memcpy(block.data() + c.places[offsets_index].start + b * width, &c.offsets[b], width);
    }
}

std::size_t buffer_bytes(const Case &c, std::size_t buffer) {
    return buffer == offsets_index ? c.offsets.size() * offset_bytes(c.descriptor.offset_type)
                                   : tensor_bytes(c.descriptor, static_cast<TensorIndex>(buffer));
}

std::string list(const std::int64_t (&values)[3]) {
    std::ostringstream out;
    out << '{' << values[0] << ", " << values[1] << ", " << values[2] << '}';
    return out.str();
}

} // namespace

std::mt19937_64 seeded_random() {
    return std::mt19937_64(Catch::getSeed());
}

std::string Case::text() const {
    std::ostringstream out;
    const kvappend_descriptor &d = descriptor;
    out << "element type " << d.element_type << ", offset type " << d.offset_type << ", B " << d.batch << ", H "
        << d.heads << ", L_new " << d.new_rows << ", L_max " << d.cache_rows << ", D_k " << d.k_dim << ", D_v "
        << d.v_dim << ", strides k_new " << list(d.k_new_strides) << " v_new " << list(d.v_new_strides) << " k_cache "
        << list(d.k_cache_strides) << " v_cache " << list(d.v_cache_strides) << ", kernel \"" << kernel << "\", starts";
    for (const Place &place : places) {
        out << ' ' << place.block << ':' << place.start;
    }
    out << ", offsets";
    for (const std::int64_t offset : offsets) {
        out << ' ' << offset;
    }
    return out.str();
}

void place_apart(Case &c, std::size_t before, std::size_t after) {
    c.block_bytes.clear();
    for (std::size_t buffer = 0; buffer < buffer_count; ++buffer) {
        c.places[buffer] = {buffer, before};
        c.block_bytes.push_back(before + buffer_bytes(c, buffer) + after);
    }
}

void check_case(const Case &c, std::mt19937_64 &random, int runs) {
    INFO(c.text());
    kvappend_descriptor descriptor = c.descriptor;
    descriptor.backend = subject().backend();
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    preference.kernel_name = c.kernel.empty() ? nullptr : c.kernel.c_str();
    const PlanPointer plan = make_plan(descriptor, &preference);

    std::vector<Block> memory;
    for (const std::size_t bytes : c.block_bytes) {
        memory.emplace_back(bytes);
    }
    const auto address = [&](std::size_t buffer) {
        return memory[c.places[buffer].block].data() + c.places[buffer].start;
    };
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = address(k_new);
    args.v_new = address(v_new);
    args.k_cache = address(k_cache);
    args.v_cache = address(v_cache);
    args.cache_offsets = address(offsets_index);
    if (c.pass_sizes) {
        args.k_new_bytes = buffer_bytes(c, k_new);
        args.v_new_bytes = buffer_bytes(c, v_new);
        args.k_cache_bytes = buffer_bytes(c, k_cache);
        args.v_cache_bytes = buffer_bytes(c, v_cache);
        args.cache_offsets_bytes = buffer_bytes(c, offsets_index);
    }

    for (int run = 0; run < runs; ++run) {
        std::vector<std::vector<unsigned char>> expected;
        for (const std::size_t bytes : c.block_bytes) {
            fill(expected.emplace_back(bytes), random);
        }
        put_offsets(c, expected[c.places[offsets_index].block]);
        for (std::size_t i = 0; i < memory.size(); ++i) {
            subject().upload(memory[i].data(), expected[i].data(), expected[i].size());
        }
        REQUIRE(told(kvappend_plan_can_implement(plan.get(), &args)) == "KVAPPEND_SUCCESS");
        REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();

        reference_append(c, expected);
        for (std::size_t i = 0; i < memory.size(); ++i) {
            std::vector<unsigned char> found(expected[i].size());
            subject().download(found.data(), memory[i].data(), found.size());
            const auto [e, f] = std::ranges::mismatch(expected[i], found);
            INFO("block " << i << " of " << memory.size() << ", first difference at byte " << e - expected[i].begin()
                          << " of " << found.size());
            REQUIRE((e == expected[i].end() && f == found.end()));
        }
    }
}
