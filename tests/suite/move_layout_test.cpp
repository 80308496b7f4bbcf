// SPDX-License-Identifier: Apache-2.0
// The grids of src/cuda/move_layout, without CUDA: whole warps that reach every column, and no grid beyond the limits
// of CUDA.
#include "../../src/cuda/move_layout.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

using kvappend::GeometryInput;
using kvappend::Grid;
using kvappend::MoveGeometryLayout;
using kvappend::MoveLayout;
using kvappend::Problem;

namespace {

// Moves of 7 rows on 4 pages of 16 rows. The heads of a row are adjacent, or the rows of a head.
kvappend_descriptor moves(std::int64_t batch, std::int64_t heads, std::int64_t k_dim, std::int64_t v_dim,
                          bool heads_together) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.operation = KVAPPEND_OPERATION_MOVE;
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.batch = batch;
    d.heads = heads;
    d.new_rows = 7;
    d.cache_rows = 16;
    d.cache_blocks = 4;
    d.k_dim = k_dim;
    d.v_dim = v_dim;
    const auto set = [&](std::int64_t(&strides)[3], std::int64_t dim) {
        strides[KVAPPEND_AXIS_BATCH] = 16 * heads * dim;
        strides[KVAPPEND_AXIS_HEAD] = heads_together ? dim : 16 * dim;
        strides[KVAPPEND_AXIS_ROW] = heads_together ? heads * dim : dim;
    };
    set(d.k_cache_strides, k_dim);
    set(d.v_cache_strides, v_dim);
    return d;
}

struct Launch {
    std::vector<Problem> problems;
    std::vector<GeometryInput> geometries;
    std::vector<MoveGeometryLayout> layouts;
    Grid grid{};

    // All tensors of a geometry have the address.
    Launch(const std::vector<kvappend_descriptor> &descriptors, unsigned layers, std::uintptr_t address = 0,
           std::int32_t multiprocessors = 132)
        : problems(descriptors.size()), layouts(descriptors.size()) {
        std::vector<MoveGeometryLayout *> pointers;
        for (std::size_t i = 0; i < descriptors.size(); ++i) {
            REQUIRE(Problem::create(descriptors[i], problems[i]) == KVAPPEND_SUCCESS);
            GeometryInput input{&problems[i], {}, 1};
            for (kvappend::Addresses &addresses : input.addresses) {
                addresses.cache = address;
            }
            geometries.push_back(input);
            pointers.push_back(&layouts[i]);
        }
        grid = lay_out_moves(geometries.data(), static_cast<unsigned>(geometries.size()), layers, multiprocessors,
                             pointers.data());
    }

    bool operator==(const std::vector<std::uint32_t> &expected) const {
        return std::vector{grid.x, grid.y, grid.z, grid.threads} == expected;
    }
};

} // namespace

TEST_CASE("a grid of moves has a thread for each column, and a block for each sample and tensor", "[layout]") {
    // The rows of a head have 16 vectors in K and 8 in V.
    CHECK(Launch({moves(1, 8, 128, 64, false)}, 1) == std::vector<std::uint32_t>{1, 1, 2, 128});
    CHECK(Launch({moves(5, 9, 128, 64, true)}, 1) == std::vector<std::uint32_t>{2, 5, 2, 128});
    CHECK(Launch({moves(1, 2, 128, 64, false)}, 1) == std::vector<std::uint32_t>{1, 1, 2, 32});
    CHECK(Launch({moves(1, 1, 64, 0, false)}, 1) == std::vector<std::uint32_t>{1, 1, 1, 32});
    CHECK(Launch({moves(1, 3, 128, 0, false)}, 1) == std::vector<std::uint32_t>{1, 1, 1, 64});
    // 80 layers, each with room for the four tensors of a move, but the last one only with those that there are.
    CHECK(Launch({moves(2, 8, 128, 64, false)}, 80) == std::vector<std::uint32_t>{1, 2, 79 * 4 + 2, 128});
}

TEST_CASE("a grid of moves serves its largest geometry", "[layout]") {
    const kvappend_descriptor small = moves(3, 2, 64, 0, false);
    const kvappend_descriptor large = moves(2, 32, 128, 128, false);
    for (const Launch &launch : {Launch({small, large}, 2), Launch({large, small}, 2)}) {
        CHECK(launch == std::vector<std::uint32_t>{4, 3, 4 + 2, 128});
    }
}

TEST_CASE("a grid of moves has fewer threads for a row if samples, tensors and layers fill the device", "[layout]") {
    const auto at = [](std::int64_t batch, unsigned layers, std::int32_t multiprocessors) {
        return Launch({moves(batch, 8, 128, 64, false)}, layers, 0, multiprocessors);
    };
    CHECK(at(59, 1, 30) == std::vector<std::uint32_t>{1, 59, 2, 128});
    CHECK(at(60, 1, 30) == std::vector<std::uint32_t>{1, 60, 2, 64});
    CHECK(at(2, 30, 30) == std::vector<std::uint32_t>{1, 2, 29 * 4 + 2, 64});
    CHECK(Launch({moves(60, 1, 256, 64, false)}, 1, 0, 30) == std::vector<std::uint32_t>{1, 60, 2, 32});
    CHECK(Launch({moves(60, 32, 256, 64, false)}, 1, 0, 30) == std::vector<std::uint32_t>{1, 60, 2, 64});
}

TEST_CASE("a grid of moves keeps to the limits of CUDA", "[layout]") {
    const kvappend_descriptor d = moves(100000, std::int64_t{1} << 30, 8, 8, false);
    const Launch launch({d}, 1, 0, 1 << 20);
    CHECK(launch == std::vector<std::uint32_t>{1U << 21, 65535, 2, 128});
    CHECK(launch.layouts[0].samples == 100000);
    CHECK(launch.layouts[0].tensors[0].columns == std::int64_t{1} << 30);
}

TEST_CASE("the columns of a move are as wide as the addresses and strides allow", "[layout]") {
    const auto layout = [](const kvappend_descriptor &d, std::uintptr_t address) {
        return Launch({d}, 1, address).layouts[0];
    };
    for (const unsigned log2 : {0U, 1U, 2U, 3U, 4U}) {
        const MoveGeometryLayout g = layout(moves(1, 2, 8, 24, false), std::uintptr_t{1} << log2);
        CHECK(g.tensor_count == 2);
        CHECK(g.tensors[0].access_log2 == log2);
        CHECK(g.tensors[0].row_vectors == 16 >> log2);
        CHECK(g.tensors[0].columns == 2 * 16 >> log2);
        CHECK(g.tensors[1].row_vectors == 48 >> log2);
    }
    const MoveLayout odd = layout(moves(1, 2, 3, 0, false), 32).tensors[0];
    CHECK(odd.access_log2 == 1);
    CHECK(odd.columns == 6);
    CHECK(odd.strides.head == 16 * 3 * 2);
    // The adjacent heads of a row count as one head.
    CHECK(layout(moves(1, 4, 3, 0, true), 32).tensors[0].access_log2 == 3);
}

TEST_CASE("the columns of a move lie in the pieces of a row", "[layout]") {
    kvappend_descriptor d = moves(1, 2, 64, 0, false);
    d.k_pack = 16; // 32 bytes, and 4 pieces in a row
    d.k_cache_strides[0] = d.k_cache_strides[1] = d.k_cache_strides[2] = 0;
    const MoveLayout m = Launch({d}, 1).layouts[0].tensors[0];
    CHECK(m.row_vectors == 8);
    CHECK(m.piece_log2 == 1);
    CHECK(m.piece_stride == 16 * 32);
    CHECK(m.columns == 16);
}
