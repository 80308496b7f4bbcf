// SPDX-License-Identifier: Apache-2.0
// The functions of a plan: structs in, statuses out.
#include "../../src/plan.hpp"
#include "../../src/layers.hpp"
#include "structs.hpp"

#include <memory>
#include <new>

struct kvappend_plan {
    kvappend::Plan plan;
};

namespace {

using kvappend::fail;
using kvappend::Status;

Status need(const void *pointer, const char *name) {
    return pointer != nullptr ? KVAPPEND_SUCCESS
                              : fail(KVAPPEND_ERROR_NULL_ARGUMENT, "%s is NULL: expected a pointer", name);
}

// Clears the result, so that a call that fails leaves zeros, and then fills it if there is a plan.
template <class Struct, class Fill>
Status answer(const char *name, const kvappend_plan *plan, Struct *result, Fill fill) {
    TRY(need(result, name));
    TRY(kvappend::check_struct_size(name, kvappend::struct_size_of(result)));
    Struct local{};
    kvappend::write_struct(local, result);
    TRY(need(plan, "plan"));
    fill(local);
    kvappend::write_struct(local, result);
    return KVAPPEND_SUCCESS;
}

// Reads a struct that the descriptor names, unless it names none, and replaces the pointer.
template <class Struct>
Status read_optional(const char *name, const Struct *&pointer, Struct &copy) {
    if (pointer == nullptr) {
        return KVAPPEND_SUCCESS;
    }
    TRY(kvappend::read_struct(name, pointer, copy));
    pointer = &copy;
    return KVAPPEND_SUCCESS;
}

// The plans and arguments of kvappend_plan_run_layers.
struct LayerArrays {
    const kvappend_plan *const *plans;
    const kvappend_args *const *args;
    std::size_t count;

    // Calls act(plan, args) for each layer until one fails.
    template <class Act>
    Status for_each(Act act) const {
        for (std::size_t i = 0; i < count; ++i) {
            TRY(at(i, act));
        }
        return KVAPPEND_SUCCESS;
    }

    // Calls act(plan, args) for layer i.
    template <class Act>
    Status at(std::size_t i, Act act) const {
        const Status status = visit(i, act);
        return status == KVAPPEND_SUCCESS ? status : kvappend::fail_in_layer(status, i);
    }

    // Whether test(plan, args) holds for one of the layers from `first` on and before `end`.
    template <class Test>
    bool any(std::size_t first, std::size_t end, Test test) const {
        bool found = false;
        for (std::size_t i = first; i < end && !found; ++i) {
            visit(i, [&](const kvappend::Plan &plan, const kvappend_args &a) -> Status {
                found = test(plan, a);
                return KVAPPEND_SUCCESS;
            });
        }
        return found;
    }

private:
    template <class Act>
    Status visit(std::size_t i, Act act) const {
        TRY(need(plans[i], "plan"));
        kvappend_args copy;
        const kvappend_args *view = nullptr;
        TRY(kvappend::view_struct("args", args[i], copy, view));
        return act(plans[i]->plan, *view);
    }
};

// Counts the rows of all layers. A report that several layers share is reset once, before any of them counts in it.
Status count(const LayerArrays &arrays, const kvappend::Layers &layers) {
    for (std::size_t i = 0; i < arrays.count; ++i) {
        TRY(arrays.at(i, [&](const kvappend::Plan &plan, const kvappend_args &args) -> Status {
            if (!plan.counts()) {
                return KVAPPEND_SUCCESS;
            }
            const auto shares = [&](const kvappend::Plan &other, const kvappend_args &other_args) {
                return other.reports() && other_args.report == args.report;
            };
            const auto resets = [&](const kvappend::Plan &other, const kvappend_args &other_args) {
                return other.resets() && other_args.report == args.report;
            };
            const bool reset = plan.reports() && !arrays.any(0, i, shares) && arrays.any(i, arrays.count, resets);
            return layers.after(plan, args, {.counts = true, .resets = reset, .advances = false});
        }));
    }
    return KVAPPEND_SUCCESS;
}

// Advances the offsets of all layers. An array that several layers share advances once.
Status advance(const LayerArrays &arrays, const kvappend::Layers &layers) {
    for (std::size_t i = 0; i < arrays.count; ++i) {
        TRY(arrays.at(i, [&](const kvappend::Plan &plan, const kvappend_args &args) -> Status {
            const auto shares = [&](const kvappend::Plan &other, const kvappend_args &other_args) {
                return other.advances() && other_args.cache_offsets == args.cache_offsets;
            };
            return plan.advances() && !arrays.any(0, i, shares)
                       ? layers.after(plan, args, {.counts = false, .resets = false, .advances = true})
                       : KVAPPEND_SUCCESS;
        }));
    }
    return KVAPPEND_SUCCESS;
}

Status run_layers(const LayerArrays &arrays, const kvappend::RunContext &context) {
    using kvappend::Plan;
    TRY(need(arrays.plans, "plans"));
    TRY(need(arrays.args, "args"));
    if (arrays.plans[0] == nullptr) {
        return kvappend::fail_in_layer(need(nullptr, "plan"), 0);
    }
    kvappend::Layers layers(arrays.plans[0]->plan, context);
    TRY(arrays.for_each([&](const Plan &plan, const kvappend_args &args) { return layers.check(plan, args); }));
    layers.begin();
    TRY(arrays.for_each([&](const Plan &plan, const kvappend_args &args) { return layers.add(plan, args); }));
    TRY(layers.finish());
    if (!layers.has_more_than_copies()) {
        return KVAPPEND_SUCCESS;
    }
    TRY(count(arrays, layers));
    return advance(arrays, layers);
}

} // namespace

KVAPPEND_API kvappend_status kvappend_plan_create(const kvappend_descriptor *descriptor,
                                                  const kvappend_preference *preference, kvappend_plan **plan) {
    TRY(need(static_cast<const void *>(plan), "plan"));
    *plan = nullptr;
    kvappend_descriptor d;
    TRY(kvappend::read_struct("descriptor", descriptor, d));
    kvappend_storage k_storage;
    kvappend_storage v_storage;
    kvappend_rotary rotary;
    kvappend_storage q_storage;
    TRY(read_optional("descriptor.k_storage", d.k_storage, k_storage));
    TRY(read_optional("descriptor.v_storage", d.v_storage, v_storage));
    TRY(read_optional("descriptor.rotary", d.rotary, rotary));
    if (d.rotary != nullptr && rotary.q_heads > 0) { // Else the field is ignored.
        TRY(read_optional("descriptor.rotary->q_storage", rotary.q_storage, q_storage));
    }
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    if (preference != nullptr) {
        TRY(kvappend::read_struct("preference", preference, p));
    }
    auto created = std::unique_ptr<kvappend_plan>(new (std::nothrow) kvappend_plan);
    if (created == nullptr) {
        return fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "plan: there is no memory for its %zu bytes", sizeof(kvappend_plan));
    }
    TRY(kvappend::Plan::create(d, p, created->plan));
    *plan = created.release();
    return KVAPPEND_SUCCESS;
}

KVAPPEND_API kvappend_status kvappend_plan_workspace_size(const kvappend_plan *plan, size_t *bytes) {
    TRY(need(bytes, "bytes"));
    *bytes = 0;
    TRY(need(plan, "plan"));
    *bytes = kvappend::Plan::needed_workspace;
    return KVAPPEND_SUCCESS;
}

KVAPPEND_API kvappend_status kvappend_plan_can_implement(const kvappend_plan *plan, const kvappend_args *args) {
    TRY(need(plan, "plan"));
    kvappend_args copy;
    TRY(kvappend::view_struct("args", args, copy, args));
    return plan->plan.can_implement(*args);
}

KVAPPEND_API kvappend_status kvappend_plan_run(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                               size_t workspace_bytes, struct CUstream_st *stream) {
    TRY(need(plan, "plan"));
    kvappend_args copy;
    TRY(kvappend::view_struct("args", args, copy, args));
    return plan->plan.run(*args, {workspace, workspace_bytes, stream});
}

KVAPPEND_API kvappend_status kvappend_plan_run_layers(const kvappend_plan *const *plans,
                                                      const kvappend_args *const *args, size_t layers, void *workspace,
                                                      size_t workspace_bytes, struct CUstream_st *stream) {
    return layers == 0 ? KVAPPEND_SUCCESS : run_layers({plans, args, layers}, {workspace, workspace_bytes, stream});
}

KVAPPEND_API kvappend_status kvappend_plan_validate(const kvappend_plan *plan, const kvappend_args *args,
                                                    void *workspace, size_t workspace_bytes, struct CUstream_st *stream,
                                                    kvappend_fault *fault) {
    kvappend_fault found{};
    const auto run = [&]() -> Status {
        TRY(need(plan, "plan"));
        kvappend_args a;
        TRY(kvappend::read_struct("args", args, a));
        return plan->plan.validate(a, {workspace, workspace_bytes, stream}, found);
    };
    if (fault == nullptr) {
        return run();
    }
    TRY(kvappend::check_struct_size("fault", kvappend::struct_size_of(fault)));
    const Status status = run();
    kvappend::write_struct(found, fault);
    return status;
}

KVAPPEND_API kvappend_status kvappend_plan_destroy(kvappend_plan *plan) {
    delete plan;
    return KVAPPEND_SUCCESS;
}

KVAPPEND_API kvappend_status kvappend_plan_get_sku(const kvappend_plan *plan, kvappend_sku *sku) {
    return answer("sku", plan, sku, [plan](kvappend_sku &s) { plan->plan.describe(s); });
}

KVAPPEND_API kvappend_status kvappend_plan_get_precision_guarantee(const kvappend_plan *plan,
                                                                   kvappend_precision_guarantee *guarantee) {
    return answer("guarantee", plan, guarantee, [plan](kvappend_precision_guarantee &g) { plan->plan.guarantee(g); });
}

KVAPPEND_API const char *kvappend_kernel_name(size_t index) {
    return kvappend::Plan::kernel_name(index);
}
