// SPDX-License-Identifier: Apache-2.0
// What FlashInfer's append_paged_kv_cache does by its documentation, stated anew here, is what the same call does
// through the header.
#include "held.hpp"
#include "scenario.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <numeric>

namespace {

using std::size_t;

// The cache of pages, as the caller of FlashInfer has it.
struct PagedCache {
    std::int64_t heads, dim, page_size, pages;
    bool hnd;  // [pages, heads, page_size, dim], and not [pages, page_size, heads, dim]
    bool pool; // K and V of a page side by side in one tensor [pages, 2, ...], and not a tensor for each

    std::int64_t page_elements() const { return page_size * heads * dim; }
    std::int64_t tensor_elements() const { return pages * page_elements() * (pool ? 2 : 1); }
    std::int64_t page_stride() const { return page_elements() * (pool ? 2 : 1); }
    std::int64_t head_stride() const { return hnd ? page_size * dim : dim; }
    std::int64_t entry_stride() const { return hnd ? dim : heads * dim; }
    // Of V in the pool.
    std::int64_t v_start() const { return pool ? page_elements() : 0; }

    // In the tensor of K, and with v_start added in that of V.
    size_t element(std::int64_t page, std::int64_t entry, std::int64_t head, std::int64_t d) const {
        return static_cast<size_t>(page * page_stride() + entry * entry_stride() + head * head_stride() + d);
    }
};

// The requests, whose tables already have the pages of the tokens to be appended, as FlashInfer wants it.
struct Requests {
    std::vector<std::int32_t> append_indptr{0};
    std::vector<std::int32_t> kv_indptr{0};
    std::vector<std::int32_t> kv_indices;
    std::vector<std::int32_t> kv_last_page_len;

    std::int64_t count() const { return static_cast<std::int64_t>(kv_last_page_len.size()); }
    std::int64_t tokens() const { return append_indptr.back(); }
};

// Each request gets a length and some of that as new, which may be all of it or none. There are fewer where the pages
// run out.
Requests draw_requests(std::mt19937_64 &random, const PagedCache &paged, std::int64_t count, bool decode) {
    std::vector<std::int32_t> free_pages(static_cast<size_t>(paged.pages));
    std::iota(free_pages.begin(), free_pages.end(), 0);
    std::ranges::shuffle(free_pages, random);
    Requests requests;
    for (std::int64_t b = 0; b < count && !free_pages.empty(); ++b) {
        const auto most_pages = std::min<std::int64_t>(3, static_cast<std::int64_t>(free_pages.size()));
        const std::int64_t length = random_between(random, decode ? 1 : 0, most_pages * paged.page_size);
        const std::int64_t appended = decode ? 1 : random_between(random, 0, length);
        const std::int64_t pages = (length + paged.page_size - 1) / paged.page_size;
        for (std::int64_t i = 0; i < pages; ++i) {
            requests.kv_indices.push_back(free_pages.back());
            free_pages.pop_back();
        }
        requests.append_indptr.push_back(requests.append_indptr.back() + static_cast<std::int32_t>(appended));
        requests.kv_indptr.push_back(static_cast<std::int32_t>(requests.kv_indices.size()));
        requests.kv_last_page_len.push_back(
            static_cast<std::int32_t>(pages == 0 ? 0 : length - (pages - 1) * paged.page_size));
    }
    return requests;
}

// get_seq_lens: how many tokens a request's pages hold.
std::vector<std::int64_t> seq_lens(const Requests &requests, std::int64_t page_size) {
    std::vector<std::int64_t> lengths;
    for (size_t b = 0; b < requests.kv_last_page_len.size(); ++b) {
        const std::int64_t pages = requests.kv_indptr[b + 1] - requests.kv_indptr[b];
        lengths.push_back(std::max<std::int64_t>(pages - 1, 0) * page_size + requests.kv_last_page_len[b]);
    }
    return lengths;
}

struct Token {
    size_t batch_index;
    std::int64_t position;
};

// get_batch_indices_positions: the new tokens of a request are the last ones of its sequence.
std::vector<Token> batch_indices_positions(const Requests &requests, const std::vector<std::int64_t> &lengths) {
    std::vector<Token> tokens;
    for (size_t b = 0; b < lengths.size(); ++b) {
        const std::int64_t begin = requests.append_indptr[b];
        const std::int64_t end = requests.append_indptr[b + 1];
        for (std::int64_t i = begin; i < end; ++i) {
            tokens.push_back({b, lengths[b] - (end - begin) + (i - begin)});
        }
    }
    return tokens;
}

std::int32_t page_of(const Requests &requests, const Token &token, std::int64_t page_size) {
    return requests.kv_indices[static_cast<size_t>(requests.kv_indptr[token.batch_index] + token.position / page_size)];
}

// append_paged_kv_cache, for K or for V. `token_stride` is that of the source.
template <class T>
void append_paged(const PagedCache &paged, const Requests &requests, const std::vector<Token> &tokens,
                  const std::vector<T> &source, std::int64_t source_start, std::int64_t token_stride,
                  std::vector<T> &cache, std::int64_t cache_start) {
    for (size_t i = 0; i < tokens.size(); ++i) {
        const std::int64_t page = page_of(requests, tokens[i], paged.page_size);
        const std::int64_t entry = tokens[i].position % paged.page_size;
        for (std::int64_t head = 0; head < paged.heads; ++head) {
            for (std::int64_t d = 0; d < paged.dim; ++d) {
                const auto from = source_start + static_cast<std::int64_t>(i) * token_stride + head * paged.dim + d;
                cache[paged.element(page, entry, head, d) + static_cast<size_t>(cache_start)] =
                    source[static_cast<size_t>(from)];
            }
        }
    }
}

// Whether the tokens lie as [tokens, heads, dim], or as K and V of a fused projection with so many heads of queries.
constexpr std::int64_t apart = -1;

enum class Way {
    csr,       // By the requests: packed lengths, tables one after the other, and offsets.
    last_page, // The same, with kv_last_page_len instead of offsets.
    per_token, // By batch_indices and positions as they are. The tokens may come in any order.
    slots      // By a slot for each token, as the tokens may come in any order.
};

bool by_token(Way way) {
    return way == Way::per_token || way == Way::slots;
}

kvappend_descriptor descriptor_of(const PagedCache &paged, const Requests &requests, Way way) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.heads = paged.heads;
    d.new_rows = requests.tokens();
    d.cache_rows = paged.page_size;
    d.cache_blocks = paged.pages;
    d.k_dim = d.v_dim = paged.dim;
    for (auto *const strides : {&d.k_cache_strides, &d.v_cache_strides}) {
        (*strides)[KVAPPEND_AXIS_BATCH] = paged.page_stride();
        (*strides)[KVAPPEND_AXIS_HEAD] = paged.head_stride();
        (*strides)[KVAPPEND_AXIS_ROW] = paged.entry_stride();
    }
    d.offset_type = KVAPPEND_OFFSET_INT32;
    if (way == Way::slots) {
        d.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d.batch = 1;
        return d;
    }
    d.addressing = KVAPPEND_ADDRESSING_PAGED_CSR;
    d.lengths = way == Way::per_token ? KVAPPEND_LENGTHS_PER_TOKEN : KVAPPEND_LENGTHS_PACKED;
    d.flags = way == Way::last_page ? KVAPPEND_FLAG_LAST_PAGE_LENGTHS : 0;
    d.batch = requests.count();
    d.table_entries = static_cast<std::int64_t>(requests.kv_indices.size());
    return d;
}

// The length of each request before its new tokens.
std::vector<std::int32_t> offsets_of(const Requests &requests, std::int64_t page_size) {
    const std::vector<std::int64_t> lengths = seq_lens(requests, page_size);
    std::vector<std::int32_t> offsets;
    for (size_t b = 0; b < lengths.size(); ++b) {
        const std::int32_t appended = requests.append_indptr[b + 1] - requests.append_indptr[b];
        offsets.push_back(static_cast<std::int32_t>(lengths[b]) - appended);
    }
    return offsets;
}

std::vector<std::int32_t> slots_of(const Requests &requests, const std::vector<Token> &tokens, std::int64_t page_size) {
    std::vector<std::int32_t> slots;
    for (const Token &token : tokens) {
        const std::int64_t page = page_of(requests, token, page_size);
        slots.push_back(static_cast<std::int32_t>(page * page_size + token.position % page_size));
    }
    return slots;
}

// All arrays of indices of a call.
class HeldIndices {
public:
    HeldIndices(const Requests &requests, const std::vector<Token> &tokens, std::int64_t page_size)
        : offsets_(offsets_of(requests, page_size)), slots_(slots_of(requests, tokens, page_size)),
          batch_indices_(of_tokens(tokens, [](const Token &token) { return token.batch_index; })),
          positions_(of_tokens(tokens, [](const Token &token) { return token.position; })),
          kv_last_page_len_(requests.kv_last_page_len), append_indptr_(requests.append_indptr),
          kv_indptr_(requests.kv_indptr), kv_indices_(requests.kv_indices) {}

    // Gives a run all of them. It ignores those that its plan does not use.
    void fill(kvappend_args &args, Way way) const {
        const Held<std::int32_t> &offsets = way == Way::last_page ? kv_last_page_len_ : offsets_;
        args.cache_offsets = offsets.data(), args.cache_offsets_bytes = offsets.bytes();
        args.lengths = append_indptr_.data(), args.lengths_bytes = append_indptr_.bytes();
        args.page_indptr = kv_indptr_.data(), args.page_indptr_bytes = kv_indptr_.bytes();
        args.page_table = kv_indices_.data(), args.page_table_bytes = kv_indices_.bytes();
        args.token_samples = batch_indices_.data(), args.token_samples_bytes = batch_indices_.bytes();
        args.token_positions = positions_.data(), args.token_positions_bytes = positions_.bytes();
        args.slots = slots_.data(), args.slots_bytes = slots_.bytes();
    }

private:
    template <class Get>
    static std::vector<std::int32_t> of_tokens(const std::vector<Token> &tokens, Get get) {
        std::vector<std::int32_t> values;
        for (const Token &token : tokens) {
            values.push_back(static_cast<std::int32_t>(get(token)));
        }
        return values;
    }

    Held<std::int32_t> offsets_;
    Held<std::int32_t> slots_;
    Held<std::int32_t> batch_indices_;
    Held<std::int32_t> positions_;
    Held<std::int32_t> kv_last_page_len_;
    Held<std::int32_t> append_indptr_;
    Held<std::int32_t> kv_indptr_;
    Held<std::int32_t> kv_indices_;
};

template <class T>
void check_append(std::mt19937_64 &random, const PagedCache &paged, const Requests &requests, std::vector<Token> tokens,
                  Way way, std::int64_t query_heads) {
    const std::int64_t count = requests.tokens();
    if (by_token(way)) {
        std::ranges::shuffle(tokens, random);
    }
    // The source: one tensor for each, or one for both, after the queries of each token.
    const bool fused = query_heads != apart;
    const std::int64_t row = paged.heads * paged.dim;
    const std::int64_t token_stride = fused ? (query_heads + 2 * paged.heads) * paged.dim : row;
    const std::int64_t k_source_start = fused ? query_heads * paged.dim : 0;
    const std::int64_t v_source_start = fused ? k_source_start + row : 0;
    const auto key = random_elements<T>(random, count * token_stride);
    const auto value = fused ? key : random_elements<T>(random, count * token_stride);
    // A pool is one tensor, and stands here for K; the one for V is then without elements.
    auto first = random_elements<T>(random, paged.tensor_elements());
    auto second = random_elements<T>(random, paged.pool ? 0 : paged.tensor_elements());
    const Held<T> held_key(key);
    const Held<T> held_value(value);
    const Held<T> held_first(first);
    const Held<T> held_second(second);
    const T *const v_source = fused ? held_key.data() : held_value.data();
    T *const v_cache = paged.pool ? held_first.data() : held_second.data();

    kvappend_descriptor d = descriptor_of(paged, requests, way);
    d.element_type = element_type_of<T>;
    for (auto *const strides : {&d.k_new_strides, &d.v_new_strides}) {
        (*strides)[KVAPPEND_AXIS_HEAD] = fused ? paged.dim : 0;
        (*strides)[KVAPPEND_AXIS_ROW] = fused ? token_stride : 0;
    }
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = held_key.data() + k_source_start;
    args.v_new = v_source + v_source_start;
    args.k_cache = held_first.data();
    args.v_cache = v_cache + paged.v_start();

    const HeldIndices indices(requests, tokens, paged.page_size);
    indices.fill(args, way);
    const PlanPointer plan = make_plan(d);
    CHECK(told(kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), nullptr)) ==
          "KVAPPEND_SUCCESS");
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");

    append_paged(paged, requests, tokens, key, k_source_start, token_stride, first, 0);
    append_paged(paged, requests, tokens, value, v_source_start, token_stride, paged.pool ? first : second,
                 paged.v_start());
    CHECK(held_first.holds(first));
    CHECK(held_second.holds(second));
    CHECK(held_key.holds(key));
    CHECK(held_value.holds(value));
}

} // namespace

TEMPLATE_TEST_CASE("FlashInfer's append_paged_kv_cache", "[semantics]", std::uint16_t, std::uint32_t, std::uint64_t) {
    auto random = seeded_random();
    const bool hnd = GENERATE(false, true);
    const bool pool = GENERATE(false, true);
    const Way way = GENERATE(Way::csr, Way::last_page, Way::per_token, Way::slots);
    const struct {
        std::int64_t heads, dim, page_size, pages, requests;
    } shapes[] = {{1, 8, 1, 12, 5}, {4, 64, 16, 20, 5}, {3, 40, 5, 30, 9}, {8, 128, 16, 4, 1}, {2, 7, 3, 64, 17}};
    for (const auto &shape : shapes) {
        const PagedCache paged{shape.heads, shape.dim, shape.page_size, shape.pages, hnd, pool};
        for (const bool decode : {false, true}) {
            const Requests requests = draw_requests(random, paged, shape.requests, decode);
            const auto tokens = batch_indices_positions(requests, seq_lens(requests, paged.page_size));
            for (const std::int64_t query_heads : {apart, 2 * shape.heads}) {
                INFO("heads " << shape.heads << ", dim " << shape.dim << ", page_size " << shape.page_size
                              << ", requests " << shape.requests << ", tokens " << tokens.size() << ", decode "
                              << decode << ", queries' heads " << query_heads);
                check_append<TestType>(random, paged, requests, tokens, way, query_heads);
            }
        }
    }
}

TEST_CASE("FlashInfer's decoding steps fill pages one by one", "[semantics]") {
    // kv_last_page_len goes up to page_size, and then a request gets another page.
    auto random = seeded_random();
    const PagedCache paged{2, 16, 4, 10, false, true};
    Requests requests;
    requests.append_indptr = {0, 1, 2};
    requests.kv_indptr = {0, 1, 2};
    requests.kv_indices = {7, 2};
    requests.kv_last_page_len = {1, 3};
    for (int step = 0; step < 9; ++step) {
        const auto tokens = batch_indices_positions(requests, seq_lens(requests, paged.page_size));
        REQUIRE(tokens[0].position == step);
        for (const Way way : {Way::csr, Way::last_page, Way::per_token}) {
            check_append<std::uint16_t>(random, paged, requests, tokens, way, apart);
        }
        static constexpr std::int32_t more[2][2] = {{0, 9}, {4, 5}};
        for (size_t b = 0; b < 2; ++b) {
            if (++requests.kv_last_page_len[b] <= paged.page_size) {
                continue;
            }
            const auto pages = static_cast<size_t>(requests.kv_indptr[b + 1] - requests.kv_indptr[b]);
            if (pages == 3) {
                return;
            }
            requests.kv_indices.insert(requests.kv_indices.begin() + requests.kv_indptr[b + 1], more[b][pages - 1]);
            for (size_t later = b + 1; later < requests.kv_indptr.size(); ++later) {
                ++requests.kv_indptr[later];
            }
            requests.kv_last_page_len[b] = 1;
        }
    }
}
