// SPDX-License-Identifier: Apache-2.0
#include "placement.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

namespace {

std::vector<std::int64_t> positions(std::span<const Feed> feeds) {
    std::vector<std::int64_t> result;
    for (const Feed &feed : feeds) {
        result.push_back(static_cast<std::int64_t>(feed.position));
    }
    return result;
}

// Each sample has a cache of its own, with a row for each position. Padding is appended like all else; nothing reads it
// before the rows of generated tokens overwrite it.
class Dense final : public Placement {
public:
    explicit Dense(const CacheSize &size) : rows_(size.rows) {
        descriptor_.addressing = KVAPPEND_ADDRESSING_DENSE;
        descriptor_.lengths = KVAPPEND_LENGTHS_FIXED;
        descriptor_.batch = descriptor_.cache_blocks = static_cast<std::int64_t>(size.batch);
        descriptor_.cache_rows = static_cast<std::int64_t>(size.rows);
    }

    Indices place(std::span<const Feed> feeds, std::size_t /*rows*/) override { return {.offsets = positions(feeds)}; }

    std::optional<CacheRow> find(std::size_t sample, std::size_t position) const override {
        return position < rows_ ? std::optional(CacheRow{sample, position}) : std::nullopt;
    }

private:
    std::size_t rows_;
};

// The first rows of a sample's cache stay, and later positions go round in the others. Here padding would replace rows
// that are needed, so each sample says its length.
class Ring final : public Placement {
public:
    explicit Ring(const CacheSize &size) : sinks_(size.sinks), window_(size.rows - size.sinks), fed_(size.batch) {
        descriptor_.addressing = KVAPPEND_ADDRESSING_RING;
        descriptor_.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        descriptor_.batch = descriptor_.cache_blocks = static_cast<std::int64_t>(size.batch);
        descriptor_.cache_rows = static_cast<std::int64_t>(size.rows);
        descriptor_.sink_rows = static_cast<std::int64_t>(size.sinks);
    }

    Indices place(std::span<const Feed> feeds, std::size_t /*rows*/) override {
        Indices indices{.offsets = positions(feeds)};
        for (std::size_t i = 0; i < feeds.size(); ++i) {
            indices.lengths.push_back(static_cast<std::int32_t>(feeds[i].tokens.size()));
            fed_[i] = feeds[i].position + feeds[i].tokens.size();
        }
        return indices;
    }

    // In a prompt longer than the window, early tokens attend to rows that later ones have replaced by then. The cache
    // never had those, and attention takes them from the pass itself (see RowStore::row). In the passes of one token
    // which follow, what the window reaches is what the ring holds.
    std::optional<CacheRow> find(std::size_t sample, std::size_t position) const override {
        if (position < sinks_) {
            return CacheRow{sample, position};
        }
        if (position + window_ < fed_[sample]) {
            return std::nullopt;
        }
        return CacheRow{sample, sinks_ + (position - sinks_) % window_};
    }

private:
    std::size_t sinks_;
    std::size_t window_;
    std::vector<std::size_t> fed_; // positions of each sample
};

// All samples share one pool of pages, and get them one by one as they grow. The free ones are shuffled: no neighbour
// of a page is likely to be of the same sample.
class Pool : public Placement {
public:
    std::optional<CacheRow> find(std::size_t sample, std::size_t position) const override {
        const std::int32_t page = table_[sample * entries_ + position / page_rows_];
        return CacheRow{static_cast<std::size_t>(page), position % page_rows_};
    }

protected:
    explicit Pool(const CacheSize &size)
        : page_rows_(size.page_rows), entries_((size.rows + size.page_rows - 1) / size.page_rows),
          table_(size.batch * entries_, -1), free_(table_.size()) {
        if (free_.size() > std::numeric_limits<std::int32_t>::max()) {
            throw std::length_error("there are more pages than a page table can name");
        }
        std::iota(free_.begin(), free_.end(), 0);
        std::shuffle(free_.begin(), free_.end(), std::minstd_rand());
        descriptor_.cache_blocks = static_cast<std::int64_t>(free_.size());
        descriptor_.cache_rows = static_cast<std::int64_t>(page_rows_);
    }

    void grow(std::span<const Feed> feeds) {
        for (std::size_t i = 0; i < feeds.size(); ++i) {
            const std::size_t fed = feeds[i].position + feeds[i].tokens.size();
            for (std::size_t n = 0; n * page_rows_ < fed; ++n) {
                std::int32_t &page = table_[i * entries_ + n];
                if (page < 0) {
                    page = free_.back();
                    free_.pop_back();
                }
            }
        }
    }

    std::size_t page_rows_;
    std::size_t entries_;             // of a sample
    std::vector<std::int32_t> table_; // [batch, entries]; -1 where there is no page yet

private:
    std::vector<std::int32_t> free_;
};

class Paged final : public Pool {
public:
    explicit Paged(const CacheSize &size) : Pool(size) {
        descriptor_.addressing = KVAPPEND_ADDRESSING_PAGED;
        descriptor_.lengths = KVAPPEND_LENGTHS_PACKED;
        descriptor_.batch = static_cast<std::int64_t>(size.batch);
        descriptor_.table_entries = static_cast<std::int64_t>(entries_);
    }

    Indices place(std::span<const Feed> feeds, std::size_t rows) override {
        grow(feeds);
        Indices indices{.offsets = positions(feeds), .page_table = table_};
        for (const Feed &feed : feeds) {
            indices.lengths.push_back(static_cast<std::int32_t>(feed.row));
        }
        indices.lengths.push_back(static_cast<std::int32_t>(rows));
        return indices;
    }
};

// The library sees neither samples nor tables here, but a slot for each row of the pass.
class Slots final : public Pool {
public:
    explicit Slots(const CacheSize &size) : Pool(size) {
        descriptor_.addressing = KVAPPEND_ADDRESSING_SLOTS;
        descriptor_.batch = 1;
    }

    Indices place(std::span<const Feed> feeds, std::size_t rows) override {
        grow(feeds);
        std::vector<std::int64_t> slots(rows, -1); // Which is padding.
        std::vector<std::int64_t> positions(rows);
        for (std::size_t i = 0; i < feeds.size(); ++i) {
            for (std::size_t token = 0; token < feeds[i].tokens.size(); ++token) {
                const CacheRow place = *find(i, feeds[i].position + token);
                slots[feeds[i].row + token] = static_cast<std::int64_t>(place.block * page_rows_ + place.row);
                positions[feeds[i].row + token] = static_cast<std::int64_t>(feeds[i].position + token);
            }
        }
        return {.slots = std::move(slots), .positions = std::move(positions)};
    }
};

} // namespace

std::unique_ptr<Placement> placement_named(std::string_view kind, const CacheSize &size) {
    if (kind == "dense") {
        return std::make_unique<Dense>(size);
    }
    if (kind == "ring") {
        return std::make_unique<Ring>(size);
    }
    if (kind == "paged") {
        return std::make_unique<Paged>(size);
    }
    if (kind == "slots") {
        return std::make_unique<Slots>(size);
    }
    throw std::invalid_argument("no such kind of cache: " + std::string(kind));
}
