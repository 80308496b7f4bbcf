// SPDX-License-Identifier: Apache-2.0
#include "competitor.hpp"

#include "by_rows.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace {

// The steps, layers and new rows, or outputs, of successive calls.
class Walk {
public:
    explicit Walk(const Course &course) : course_(course), gathers_(course.workload->gathers()) {
        if (gathers_) {
            step_ = static_cast<std::size_t>(course.first_source / course.layers);
            layer_ = course.first_source % course.layers;
            cache_at_ = static_cast<std::size_t>(layer_) * course.cache_stride;
        } else {
            fresh_ = course.first_source;
            fresh_at_ = static_cast<std::size_t>(fresh_) * course.fresh_stride;
        }
    }

    template <class Copy>
    void go(std::byte *arena, std::int64_t calls, const Copy &copy) {
        std::byte *const target = arena + course_.target_at;
        for (std::int64_t call = 0; call < calls; ++call) {
            copy(course_.steps[step_], course_.source + (gathers_ ? cache_at_ : fresh_at_),
                 target + (gathers_ ? fresh_at_ : cache_at_));
            fresh_at_ += course_.fresh_stride;
            if (++fresh_ == course_.fresh_count) {
                fresh_ = 0;
                fresh_at_ = 0;
            }
            cache_at_ += course_.cache_stride;
            if (++layer_ == course_.layers) {
                layer_ = 0;
                cache_at_ = 0;
                step_ = step_ + 1 == course_.steps.size() ? 0 : step_ + 1;
            }
        }
    }

private:
    const Course course_;
    const bool gathers_;
    std::size_t step_ = 0;
    std::int64_t layer_ = 0;
    std::size_t cache_at_ = 0;
    std::int64_t fresh_ = 0;
    std::size_t fresh_at_ = 0;
};

bool same_target(const Course &course, const std::byte *arena, const std::byte *like) {
    return std::memcmp(arena + course.target_at, like + course.target_at, course.workload->target_bytes()) == 0;
}

void require(kvappend_status status) {
    if (status != KVAPPEND_SUCCESS) {
        throw std::runtime_error(kvappend_last_error_message());
    }
}

struct DestroyPlan {
    void operator()(kvappend_plan *plan) const { kvappend_plan_destroy(plan); }
};
using Plan = std::unique_ptr<kvappend_plan, DestroyPlan>;

Plan make_plan(const Workload &workload, std::int32_t threads = 1, const char *kernel = nullptr) {
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    preference.host_threads = threads;
    preference.kernel_name = kernel;
    const kvappend_descriptor descriptor = workload.described();
    kvappend_plan *plan = nullptr;
    require(kvappend_plan_create(&descriptor, &preference, &plan));
    return Plan(plan);
}

// All arguments but those that change from call to call.
kvappend_args make_args(const Workload &workload) {
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.page_table = workload.page_table.data();
    args.page_table_bytes = workload.page_table.size() * sizeof(std::int32_t);
    args.page_indptr = workload.page_indptr.data();
    args.page_indptr_bytes = workload.page_indptr.size() * sizeof(std::int32_t);
    return args;
}

void set_call(const Workload &workload, const Indices &indices, const std::byte *source, std::byte *target,
              kvappend_args &args) {
    workload.set_buffers(source, target, args);
    args.slots = indices.places.data();
    args.cache_offsets = const_cast<std::int64_t *>(indices.places.data()); // No case asks for FLAG_ADVANCE.
    args.cache_offsets_bytes = args.slots_bytes = indices.places.size() * sizeof(std::int64_t);
    args.lengths = indices.lengths.data();
    args.lengths_bytes = indices.lengths.size() * sizeof(std::int32_t);
}

constexpr bool any_processor = true;

template <std::int32_t Threads, bool AnyProcessor = false>
class Library final : public Competitor {
public:
    explicit Library(const Course &course)
        : course_(course), walk_(course),
          plan_(make_plan(*course.workload, Threads, AnyProcessor ? "host_convert" : nullptr)),
          args_(make_args(*course.workload)) {}

    void run(std::byte *arena, std::int64_t calls) override {
        walk_.go(arena, calls, [this](const Indices &indices, const std::byte *source, std::byte *target) {
            set_call(*course_.workload, indices, source, target, args_);
            status_ |= kvappend_plan_run(plan_.get(), &args_, nullptr, 0, nullptr);
        });
    }

    bool proves(const std::byte *arena, const std::byte *like) const override {
        require(status_);
        return same_target(course_, arena, like);
    }

private:
    const Course course_;
    Walk walk_;
    const Plan plan_;
    kvappend_args args_;
    kvappend_status status_ = KVAPPEND_SUCCESS;
};

class ByRows final : public Competitor {
public:
    explicit ByRows(const Course &course) : course_(course), walk_(course) {}

    void run(std::byte *arena, std::int64_t calls) override {
        walk_.go(arena, calls, [this](const Indices &indices, const std::byte *source, std::byte *target) {
            copy_by_rows(*course_.workload, indices, source, target);
        });
    }

    // No byte of the source is zero, so as many as were to be written can be told from the others.
    bool proves(const std::byte *arena, const std::byte *like) const override {
        const std::byte *const target = arena + course_.target_at;
        const std::size_t bytes = course_.workload->target_bytes();
        const auto zeros = std::count(target, target + bytes, std::byte{0});
        return static_cast<std::size_t>(zeros) + course_.workload->written_bytes == bytes &&
               same_target(course_, arena, like);
    }

private:
    const Course course_;
    Walk walk_;
};

// The limit: as many bytes in one piece.
class OnePiece final : public Competitor {
public:
    explicit OnePiece(const Course &course) : course_(course), source_(course.first_source % course.piece_sources) {}

    void run(std::byte *arena, std::int64_t calls) override {
        for (std::int64_t call = 0; call < calls; ++call) {
            std::memcpy(arena + course_.target_at + static_cast<std::size_t>(piece_) * course_.piece_stride,
                        course_.source + static_cast<std::size_t>(source_) * course_.piece_source_stride,
                        course_.workload->written_bytes);
            source_ = source_ + 1 == course_.piece_sources ? 0 : source_ + 1;
            piece_ += course_.pieces_jump;
            piece_ -= piece_ < course_.pieces ? 0 : course_.pieces;
        }
    }

    bool proves(const std::byte *arena, const std::byte * /*like*/) const override {
        return std::memcmp(arena + course_.target_at, course_.source, course_.workload->written_bytes) == 0;
    }

private:
    const Course course_;
    std::int64_t source_;
    std::int64_t piece_ = 0;
};

template <class Kind>
std::unique_ptr<Competitor> make(const Course &course) {
    return std::make_unique<Kind>(course);
}

} // namespace

std::span<const Entry> entries() {
    static constexpr Entry all[] = {{"library", make<Library<1>>, true, true},
                                    {"library, 2 threads", make<Library<2>>, true, true},
                                    {"memcpy", make<OnePiece>, true, true},
                                    {"loop", make<ByRows>, true, false},
                                    {"plain C++", make<Library<1, any_processor>>, false, true}};
    return all;
}

std::string kernel_of(const Workload &workload) {
    const Plan plan = make_plan(workload);
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    require(kvappend_plan_get_sku(plan.get(), &sku));
    return sku.kernel_name;
}

void require_valid(const Course &course, std::byte *arena) {
    const Plan plan = make_plan(*course.workload);
    kvappend_args args = make_args(*course.workload);
    for (const Indices &indices : course.steps) {
        set_call(*course.workload, indices, course.source, arena + course.target_at, args);
        require(kvappend_plan_validate(plan.get(), &args, nullptr, 0, nullptr, nullptr));
    }
}
