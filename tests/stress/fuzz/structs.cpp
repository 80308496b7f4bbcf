// SPDX-License-Identifier: Apache-2.0
// Every function with structs of any size and content: a program of calls, drawn from the input. Whatever a struct has
// beyond what the library knows, or lacks, each call must do as with the struct of this header that means the same; no
// byte outside structs and buffers may be touched, and a call that fails writes to no buffer.
#include "../../suite/draw.hpp"
#include "../../suite/plan.hpp"
#include "input.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

namespace {

__extension__ typedef __int128 Wide;

constexpr std::size_t largest = 4096;

class Numbers : public Draw<Input> {
public:
    explicit Numbers(Input &input) : Draw<Input>(input), input_(input) {}

    std::size_t index(std::size_t count) {
        return static_cast<std::size_t>(between(0, static_cast<std::int64_t>(count) - 1));
    }

    // Small ones, those around each power of two, and any.
    std::int64_t any() {
        switch (between(0, 4)) {
        case 0:
            return between(0, 8);
        case 1:
            return between(-8, 200);
        case 2:
            return static_cast<std::int64_t>((std::uint64_t{1} << between(0, 63)) +
                                             static_cast<std::uint64_t>(between(-2, 2)));
        case 3:
            return -(std::int64_t{1} << between(0, 62));
        default:
            return raw();
        }
    }

private:
    std::int64_t raw() {
        std::uint64_t value = 0;
        for (int i = 0; i < 8; ++i) {
            value = value << 8 | input_();
        }
        return static_cast<std::int64_t>(value);
    }

    Input &input_;
};

// Overwrites some fields with any numbers.
template <class Struct>
void patch(Numbers &numbers, Struct &s, std::int64_t most) {
    for (std::int64_t count = numbers.between(0, most); count > 0; --count) {
        const std::size_t at = sizeof(std::size_t) + 4 * numbers.index((sizeof s - sizeof(std::size_t)) / 4);
        const std::int64_t value = numbers.any();
        const bool whole = at % 8 == 0 && numbers.one_in(2);
        std::memcpy(reinterpret_cast<unsigned char *>(&s) + at, &value, whole ? 8 : 4); // little-endian
    }
}

// A struct as a caller of any header, or of none, may have it: in a block that ends where the struct ends.
template <class Struct>
class Foreign {
public:
    // Only sizes that are whole numbers of `step` bytes behind the first 8 cut it.
    Foreign(Numbers &numbers, const Struct &model, std::size_t step = 8) : size_(sizeof(Struct)) {
        std::size_t spoilt = 0; // where a byte is that must be zero and is not
        switch (numbers.between(0, 7)) {
        case 1:
            size_ = 8 + step * numbers.index((sizeof(Struct) - 8) / step + 1);
            break;
        case 2:
            size_ += 8 * numbers.index(30);
            break;
        case 3:
            size_ += 8 + 8 * numbers.index((largest - sizeof(Struct)) / 8);
            spoilt = numbers.one_in(2) ? sizeof(Struct) + numbers.index(size_ - sizeof(Struct)) : 0;
            break;
        case 4:
            size_ = static_cast<std::size_t>(numbers.any());
            if (is_legal() && size_ < sizeof(Struct)) {
                size_ = 8 + (size_ - 8) / step * step;
            }
            break;
        default:
            break;
        }
        readable_ = is_legal() ? size_ : sizeof size_;
        bytes_ = std::make_unique<unsigned char[]>(readable_);
        std::memcpy(bytes_.get(), &model, std::min(readable_, sizeof model));
        std::memcpy(bytes_.get(), &size_, sizeof size_);
        if (spoilt != 0) {
            bytes_[spoilt] = static_cast<unsigned char>(numbers.between(1, 255));
        }
        acceptable_ = is_legal() && spoilt == 0;
        std::memcpy(&meant_, bytes_.get(), std::min(readable_, sizeof meant_));
        meant_.struct_size = sizeof meant_;
    }

    Struct *get() const { return reinterpret_cast<Struct *>(bytes_.get()); }
    std::size_t size() const { return size_; }
    bool is_legal() const { return size_ >= 8 && size_ <= largest && size_ % 8 == 0; }
    bool acceptable() const { return acceptable_; }
    // The struct of this header with the same meaning, if it is acceptable.
    const Struct &meant() const { return meant_; }
    // What lies there, for structs that the library writes.
    std::vector<unsigned char> bytes() const { return {bytes_.get(), bytes_.get() + readable_}; }

private:
    std::size_t size_;
    std::size_t readable_ = 0;
    bool acceptable_ = false;
    std::unique_ptr<unsigned char[]> bytes_;
    Struct meant_{};
};

// The status and its message. Every failure has a name and a sentence.
std::string answer(kvappend_status status) {
    std::string name = kvappend_status_name(status);
    REQUIRE(name.starts_with("KVAPPEND_"));
    if (status == KVAPPEND_SUCCESS) {
        return name;
    }
    const std::string message = kvappend_last_error_message();
    REQUIRE(!message.empty());
    REQUIRE(message.size() <= 511);
    return name + ": " + message;
}

struct Made {
    PlanPointer plan;
    kvappend_descriptor descriptor;
};

// The buffers of a call, most of them large enough for small problems.
class Buffers {
public:
    explicit Buffers(Numbers &numbers) {
        void *kvappend_args::*const mutable_pointers[] = {&kvappend_args::k_cache,       &kvappend_args::v_cache,
                                                          &kvappend_args::cache_offsets, &kvappend_args::k_scales,
                                                          &kvappend_args::v_scales,      &kvappend_args::q_out};
        const float *kvappend_args::*const floats[] = {&kvappend_args::k_global_scale, &kvappend_args::v_global_scale};
        const void *kvappend_args::*const pointers[] = {
            &kvappend_args::k_new,           &kvappend_args::v_new,       &kvappend_args::slots,
            &kvappend_args::lengths,         &kvappend_args::left_pads,   &kvappend_args::batch_index,
            &kvappend_args::page_table,      &kvappend_args::page_indptr, &kvappend_args::token_samples,
            &kvappend_args::token_positions, &kvappend_args::token_count, &kvappend_args::rotary_cos,
            &kvappend_args::rotary_sin,      &kvappend_args::positions,   &kvappend_args::q,
            &kvappend_args::q_scales};
        const auto give_all = [&](const auto &members) {
            for (const auto member : members) {
                give(numbers, args.*member);
            }
        };
        give_all(mutable_pointers);
        give_all(pointers);
        give_all(floats);
        give(numbers, args.report);
    }

    // Each size as it is, and no pointer whose size is not said.
    void be_true() {
        for (const Given &given : given_) {
            std::size_t size = 0;
            auto *const at = reinterpret_cast<unsigned char *>(&args) + given.at + sizeof(void *);
            std::memcpy(&size, at, sizeof size);
            if (size == 0 || size > given.bytes) {
                std::memcpy(at, &given.bytes, sizeof given.bytes);
            }
            std::memcpy(reinterpret_cast<unsigned char *>(&args) + given.at, &given.pointer, sizeof given.pointer);
        }
    }

    std::vector<std::vector<unsigned char>> contents() const {
        std::vector<std::vector<unsigned char>> all;
        for (const Block &block : blocks_) {
            subject().download(all.emplace_back(block.bytes).data(), block.memory.get(), block.bytes);
        }
        return all;
    }

    kvappend_args args = KVAPPEND_ARGS_INIT;

private:
    struct Release {
        void operator()(void *memory) const { subject().release(memory); }
    };
    struct Block {
        std::unique_ptr<void, Release> memory;
        std::size_t bytes;
    };
    struct Given {
        std::size_t at; // in args
        const void *pointer;
        std::size_t bytes;
    };

    template <class Pointer>
    void give(Numbers &numbers, Pointer &pointer) {
        const auto how = numbers.between(0, 15);
        const auto at = static_cast<std::size_t>(reinterpret_cast<unsigned char *>(&pointer) -
                                                 reinterpret_cast<unsigned char *>(&args));
        if (how == 1) { // NULL, of any size
            given_.push_back({at, nullptr, 0});
        } else {
            if (how != 2 || blocks_.empty()) { // Else a part of another's block.
                add_block(numbers);
            }
            const Block &block = how == 2 ? blocks_[numbers.index(blocks_.size())] : blocks_.back();
            const std::size_t start = how == 2 || how == 3 ? numbers.index(std::min<std::size_t>(block.bytes, 64)) : 0;
            given_.push_back({at, static_cast<unsigned char *>(block.memory.get()) + start, block.bytes - start});
        }
        pointer = reinterpret_cast<Pointer>(reinterpret_cast<std::uintptr_t>(given_.back().pointer));
        std::memcpy(reinterpret_cast<unsigned char *>(&pointer) + sizeof(void *), &given_.back().bytes,
                    sizeof(std::size_t));
    }

    // Full of a few numbers, so that indices are likely to lead somewhere.
    void add_block(Numbers &numbers) {
        constexpr std::size_t sizes[] = {1024, 1024, 1024, 1024, 256, 64, 8, 1};
        const std::size_t bytes = sizes[numbers.index(std::size(sizes))];
        std::int64_t pattern[] = {0, 1, 2, 3};
        for (std::int64_t count = numbers.between(0, 4); count > 0; --count) {
            pattern[count - 1] = numbers.any();
        }
        std::vector<unsigned char> contents(bytes);
        for (std::size_t at = 0; at < bytes; at += sizeof pattern) {
            std::memcpy(&contents[at], pattern, std::min(sizeof pattern, bytes - at));
        }
        blocks_.push_back({std::unique_ptr<void, Release>(subject().allocate(bytes)), bytes});
        subject().upload(blocks_.back().memory.get(), contents.data(), bytes);
    }

    std::vector<Block> blocks_;
    std::vector<Given> given_;
};

// A run takes time for each row that the descriptor speaks of, of which there may be 2^62 where a stride is 0.
bool is_long(const kvappend_descriptor &d) {
    return Wide{d.batch} * d.new_rows > 2048 || d.heads > 2048 || (d.rotary != nullptr && d.rotary->q_heads > 2048);
}

// What a trap leaves of an emulated device would end the program.
bool breaks_device(const kvappend_descriptor &d) {
    return subject().backend() == KVAPPEND_BACKEND_CUDA && d.skip_policy == KVAPPEND_SKIP_TRAP;
}

class Program {
public:
    explicit Program(Input &input) : numbers_(input) {}

    void run() {
        create();
        for (std::int64_t calls = numbers_.between(0, 7); calls >= 0; --calls) {
            switch (numbers_.between(0, 9)) {
            case 0:
            case 1:
                create();
                break;
            case 2:
                can_implement();
                break;
            case 3:
            case 4:
                run_one();
                break;
            case 5:
                run_layers();
                break;
            case 6:
                validate();
                break;
            case 7:
                write_structs();
                break;
            case 8:
                init_structs();
                break;
            default:
                ask();
                break;
            }
        }
    }

private:
    // A storage for a descriptor, or NULL.
    const kvappend_storage *storage() {
        if (!numbers_.one_in(3)) {
            return nullptr;
        }
        kvappend_storage &s = *storages_.emplace_back(std::make_unique<kvappend_storage>());
        if (numbers_.one_in(2)) {
            kvappend_storage_preset(static_cast<std::int32_t>(numbers_.between(1, 19)), &s, sizeof s);
            s.group = numbers_.one_in(2) ? s.group : 0;
            for (std::int64_t &stride : s.scale_strides) {
                stride = 4 * numbers_.between(0, 40);
            }
        }
        patch(numbers_, s, 2);
        s.struct_size = sizeof s;
        return &s;
    }

    // A rotation for a descriptor, or NULL.
    const kvappend_rotary *rotary() {
        if (!numbers_.one_in(4)) {
            return nullptr;
        }
        kvappend_rotary &r = *rotaries_.emplace_back(std::make_unique<kvappend_rotary>());
        r.style = static_cast<std::int32_t>(numbers_.between(0, 1));
        r.dim = 2 * numbers_.between(1, 2);
        r.table_rows = numbers_.between(0, 8);
        r.table_stride = numbers_.between(0, 5);
        r.q_heads = numbers_.between(0, 2);
        r.q_dim = numbers_.between(2, 4);
        patch(numbers_, r, 1);
        r.q_storage = storage();
        r.struct_size = sizeof r;
        return &r;
    }

    kvappend_descriptor descriptor() {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.batch = 2;
        d.heads = 2;
        d.new_rows = 2;
        d.cache_rows = 4;
        d.k_dim = d.v_dim = 4;
        d.addressing = static_cast<std::int32_t>(numbers_.between(0, 4));
        if (d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
            d.batch = 1;
        } else {
            d.lengths = static_cast<std::int32_t>(numbers_.between(0, 3));
        }
        if (d.addressing >= KVAPPEND_ADDRESSING_PAGED) {
            d.cache_blocks = 3;
            d.table_entries = d.addressing == KVAPPEND_ADDRESSING_SLOTS ? 0 : 2;
        }
        d.skip_policy = static_cast<std::int32_t>(numbers_.between(0, 2));
        d.flags = numbers_.one_in(2)
                      ? static_cast<std::int32_t>(numbers_.between(0, 255) | numbers_.between(0, 127) << 8)
                      : 0;
        d.index_type = static_cast<std::int32_t>(numbers_.between(0, 1));
        patch(numbers_, d, 5);
        d.k_storage = storage();
        d.v_storage = storage();
        d.rotary = rotary();
        // A wrong backend is refused first of all; the other one than the subject's would be given its memory.
        if (d.backend == KVAPPEND_BACKEND_HOST || d.backend == KVAPPEND_BACKEND_CUDA) {
            d.backend = subject().backend();
        }
        return d;
    }

    // What a cut descriptor means may be the host backend, which works in the memory of the emulated device as well.
    static bool is_subjects(const kvappend_descriptor &d) { return d.backend == subject().backend(); }

    kvappend_preference preference() {
        kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
        patch(numbers_, p, 2);
        if (p.host_threads > 4 && p.host_threads <= 1024) {
            p.host_threads %= 4; // Each is a thread of the system.
        }
        p.kernel_name = nullptr;
        if (numbers_.one_in(4)) {
            const std::vector<std::string> &names = kernels();
            name_ = names.empty() || numbers_.one_in(3) ? std::string(numbers_.index(100), 'k')
                                                        : names[numbers_.index(names.size())];
            name_.shrink_to_fit();
            p.kernel_name = name_.c_str();
        }
        return p;
    }

    static const std::vector<std::string> &kernels() {
        static const std::vector<std::string> names = kernels_of_subject();
        return names;
    }

    static kvappend_status create(const kvappend_descriptor *d, const kvappend_preference *p, PlanPointer &plan) {
        int marker = 0;
        auto *created = reinterpret_cast<kvappend_plan *>(&marker); // must become a plan, or NULL
        const kvappend_status status = kvappend_plan_create(d, p, &created);
        REQUIRE((created != nullptr) == (status == KVAPPEND_SUCCESS));
        plan.reset(created);
        return status;
    }

    void create() {
        const Foreign d(numbers_, descriptor());
        const Foreign p(numbers_, preference());
        const bool wishes = numbers_.one_in(2);
        Made made{nullptr, d.meant()};
        const std::string found = answer(create(d.get(), wishes ? p.get() : nullptr, made.plan));
        if (!d.acceptable() || (wishes && !p.acceptable())) {
            REQUIRE(found.starts_with(d.acceptable() ? "KVAPPEND_ERROR_STRUCT_SIZE: preference.struct_size"
                                                     : "KVAPPEND_ERROR_STRUCT_SIZE: descriptor.struct_size"));
            return;
        }
        PlanPointer alike;
        REQUIRE(found == answer(create(&d.meant(), wishes ? &p.meant() : nullptr, alike)));
        if (made.plan != nullptr) {
            REQUIRE(sku(made.plan.get()) == sku(alike.get()));
            made_.push_back(std::move(made));
        }
    }

    static std::string sku(const kvappend_plan *plan) {
        kvappend_sku s = KVAPPEND_SKU_INIT;
        REQUIRE(kvappend_plan_get_sku(plan, &s) == KVAPPEND_SUCCESS);
        return std::string(s.kernel_name) + ' ' + std::to_string(s.operation) + ' ' + std::to_string(s.k_vector_bytes) +
               ' ' + std::to_string(s.v_vector_bytes);
    }

    const Made *some_plan() {
        return made_.empty() || numbers_.one_in(16) ? nullptr : &made_[numbers_.index(made_.size())];
    }
    static const kvappend_plan *plan_of(const Made *made) { return made != nullptr ? made->plan.get() : nullptr; }

    // It looks at no buffer, so pointers and sizes may be anything.
    void can_implement() {
        Buffers buffers(numbers_);
        patch(numbers_, buffers.args, 6);
        const Foreign args(numbers_, buffers.args);
        const Made *const made = some_plan();
        const auto before = buffers.contents();
        const std::string found = answer(kvappend_plan_can_implement(plan_of(made), args.get()));
        if (made == nullptr) {
            REQUIRE(found.starts_with("KVAPPEND_ERROR_NULL_ARGUMENT"));
        } else if (!args.acceptable()) {
            REQUIRE(found.starts_with("KVAPPEND_ERROR_STRUCT_SIZE"));
        } else {
            REQUIRE(found == answer(kvappend_plan_can_implement(plan_of(made), &args.meant())));
        }
        REQUIRE(before == buffers.contents());
    }

    // Arguments whose sizes are true; sizes that are said to be less are, too.
    Foreign<kvappend_args> true_args(Buffers &buffers) {
        patch(numbers_, buffers.args, 2);
        buffers.be_true();
        return Foreign(numbers_, buffers.args, 16); // a pointer and its size
    }

    CUstream_st *some_stream() {
        const bool host = subject().backend() == KVAPPEND_BACKEND_HOST;
        return numbers_.one_in(8) ? (host ? reinterpret_cast<CUstream_st *>(&numbers_) : nullptr) : subject().stream();
    }

    // A run is refused for what can_implement refuses, for a wrong stream or workspace, and for rows without a place.
    void run_one() {
        Buffers buffers(numbers_);
        const Foreign args = true_args(buffers);
        const Made *const made = some_plan();
        CUstream_st *const stream = some_stream();
        const auto workspace_bytes = static_cast<std::size_t>(numbers_.one_in(8) ? numbers_.any() : 0);
        if (made != nullptr && (is_long(made->descriptor) || breaks_device(made->descriptor))) {
            return;
        }
        if (made != nullptr && !is_subjects(made->descriptor)) {
            return;
        }
        const auto before = buffers.contents();
        const std::string possible = answer(kvappend_plan_can_implement(plan_of(made), args.get()));
        const kvappend_status status = kvappend_plan_run(plan_of(made), args.get(), nullptr, workspace_bytes, stream);
        const std::string found = answer(status);
        const auto after = buffers.contents(); // which waits for all streams
        REQUIRE((status == KVAPPEND_SUCCESS || before == after));
        if (workspace_bytes != 0 && made != nullptr && args.acceptable()) {
            REQUIRE(found.starts_with("KVAPPEND_ERROR_WORKSPACE"));
        } else if (possible != "KVAPPEND_SUCCESS") {
            REQUIRE(found == possible);
        } else if (subject().backend() == KVAPPEND_BACKEND_HOST && stream != nullptr) {
            REQUIRE(found.starts_with("KVAPPEND_ERROR_STREAM"));
        } else {
            REQUIRE((status == KVAPPEND_SUCCESS ||
                     (made->descriptor.skip_policy == KVAPPEND_SKIP_TRAP && status == KVAPPEND_ERROR_SKIPPED)));
        }
    }

    void run_layers() {
        std::vector<const kvappend_plan *> plans;
        std::vector<const kvappend_args *> args;
        std::vector<std::unique_ptr<Buffers>> buffers;
        std::vector<Foreign<kvappend_args>> foreign;
        for (std::int64_t count = numbers_.between(0, 3); count > 0; --count) {
            const Made *const made = some_plan();
            if (made != nullptr &&
                (is_long(made->descriptor) || breaks_device(made->descriptor) || !is_subjects(made->descriptor))) {
                continue;
            }
            plans.push_back(plan_of(made));
            buffers.push_back(std::make_unique<Buffers>(numbers_));
            foreign.push_back(true_args(*buffers.back()));
            args.push_back(numbers_.one_in(16) ? nullptr : foreign.back().get());
        }
        const auto contents = [&] {
            std::vector<std::vector<std::vector<unsigned char>>> all;
            for (const auto &layer : buffers) {
                all.push_back(layer->contents());
            }
            return all;
        };
        const auto before = contents();
        const kvappend_status status =
            kvappend_plan_run_layers(plans.data(), args.data(), plans.size(), nullptr, 0, subject().stream());
        const std::string found = answer(status);
        subject().synchronize();
        if (status != KVAPPEND_SUCCESS) {
            REQUIRE(before == contents());
            REQUIRE(found.find(": layer ") != std::string::npos);
        }
        for (std::size_t i = 0; i < plans.size(); ++i) {
            REQUIRE((status != KVAPPEND_SUCCESS || kvappend_plan_can_implement(plans[i], args[i]) == KVAPPEND_SUCCESS));
        }
    }

    void validate() {
        Buffers buffers(numbers_);
        const Foreign args = true_args(buffers);
        const Made *const made = some_plan();
        const Foreign fault(numbers_, kvappend_fault{});
        if (made != nullptr && (is_long(made->descriptor) || !is_subjects(made->descriptor))) {
            return;
        }
        const auto before = buffers.contents();
        const std::string found =
            answer(kvappend_plan_validate(plan_of(made), args.get(), nullptr, 0, subject().stream(), fault.get()));
        REQUIRE(before == buffers.contents());
        if (!fault.is_legal()) {
            REQUIRE(found.starts_with("KVAPPEND_ERROR_STRUCT_SIZE: fault.struct_size"));
            return;
        }
        kvappend_fault whole = KVAPPEND_FAULT_INIT;
        REQUIRE(found ==
                answer(kvappend_plan_validate(plan_of(made), args.get(), nullptr, 0, subject().stream(), &whole)));
        require_written(fault, whole);
        const std::string possible = answer(kvappend_plan_can_implement(plan_of(made), args.get()));
        REQUIRE((possible == "KVAPPEND_SUCCESS" || possible == found));
    }

    // A struct that the library wrote holds what it holds in this header's size, as far as it goes, and then zero.
    template <class Struct>
    static void require_written(const Foreign<Struct> &foreign, const Struct &whole) {
        std::vector<unsigned char> expected(foreign.size());
        std::memcpy(expected.data(), &whole, std::min(sizeof whole, expected.size()));
        const std::size_t size = foreign.size();
        std::memcpy(expected.data(), &size, sizeof size);
        REQUIRE(foreign.bytes() == expected);
    }

    template <class Struct>
    void write_struct(kvappend_status (*get)(const kvappend_plan *, Struct *)) {
        const Made *const made = some_plan();
        Struct garbage;
        std::memset(&garbage, 0xee, sizeof garbage);
        const Foreign foreign(numbers_, garbage);
        const kvappend_status status = get(plan_of(made), foreign.get());
        answer(status);
        if (!foreign.is_legal()) {
            REQUIRE(status == KVAPPEND_ERROR_STRUCT_SIZE);
            return;
        }
        Struct whole{};
        whole.struct_size = sizeof whole;
        REQUIRE(get(plan_of(made), &whole) == status);
        REQUIRE(status == (made != nullptr ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_NULL_ARGUMENT));
        require_written(foreign, whole);
    }

    void write_structs() {
        write_struct(kvappend_plan_get_sku);
        write_struct(kvappend_plan_get_precision_guarantee);
        const Made *const made = some_plan();
        std::size_t bytes = 1;
        REQUIRE((kvappend_plan_workspace_size(plan_of(made), &bytes) == KVAPPEND_SUCCESS) == (made != nullptr));
        REQUIRE(bytes == 0);
    }

    template <class Struct>
    void init_struct(kvappend_status (*init)(Struct *, std::size_t)) {
        Struct garbage;
        std::memset(&garbage, 0xee, sizeof garbage);
        const Foreign foreign(numbers_, garbage);
        const auto before = foreign.bytes();
        const kvappend_status status = init(foreign.get(), foreign.size());
        answer(status);
        if (foreign.is_legal()) {
            REQUIRE(status == KVAPPEND_SUCCESS);
            require_written(foreign, Struct{});
        } else {
            REQUIRE(status == KVAPPEND_ERROR_STRUCT_SIZE);
            REQUIRE(before == foreign.bytes());
        }
    }

    void init_structs() {
        init_struct(kvappend_descriptor_init);
        init_struct(kvappend_preference_init);
        init_struct(kvappend_rotary_init);
        init_struct(kvappend_args_init);
        init_struct(kvappend_report_init);
        init_struct(kvappend_fault_init);
        init_struct(kvappend_sku_init);
        init_struct(kvappend_precision_guarantee_init);
    }

    void ask() {
        REQUIRE(kvappend_status_name(static_cast<kvappend_status>(numbers_.any())) != nullptr);
        kvappend_kernel_name(static_cast<std::size_t>(numbers_.any()));
        const auto version = static_cast<std::uint32_t>(numbers_.any());
        const kvappend_api *api = nullptr;
        const kvappend_status status = kvappend_get_api(version, &api);
        answer(status);
        REQUIRE(status == (version == KVAPPEND_ABI_VERSION ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_ABI_VERSION));
        REQUIRE((api != nullptr) == (status == KVAPPEND_SUCCESS));
    }

    Numbers numbers_;
    std::vector<std::unique_ptr<kvappend_storage>> storages_; // of all descriptors so far
    std::vector<std::unique_ptr<kvappend_rotary>> rotaries_;  // of all descriptors so far
    std::string name_;
    std::vector<Made> made_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    Input input(data, size);
    Program(input).run();
    return 0;
}
