// SPDX-License-Identifier: Apache-2.0
// The plan's functions: structs in, statuses out.
#include "../src/plan.hpp"
#include "structs.hpp"

#include <cinttypes>
#include <memory>
#include <new>

struct kvappend_plan {
    kvappend::Plan plan;
};

namespace {

using kvappend::fail;

kvappend_status need(const void *pointer, const char *name) {
    return pointer != nullptr ? KVAPPEND_SUCCESS
                              : fail(KVAPPEND_ERROR_NULL_ARGUMENT, "%s is NULL: expected a pointer", name);
}

// Clears the result, so that a call which fails leaves nothing behind, and then fills it if there is a plan.
template <class Struct, class Fill>
kvappend_status answer(const char *name, const kvappend_plan *plan, Struct *result, Fill fill) {
    if (const auto status = need(result, name); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const auto status = kvappend::check_struct_size(name, kvappend::struct_size_of(result));
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    Struct local{};
    kvappend::write_struct(local, result);
    if (const auto status = need(plan, "plan"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    fill(local);
    kvappend::write_struct(local, result);
    return KVAPPEND_SUCCESS;
}

// The appends of one call, read from the caller's arrays again and again.
class Layers final : public kvappend::Appends {
public:
    Layers(const kvappend_plan *const *plans, const kvappend_args *const *args, std::size_t count)
        : plans_(plans), args_(args), count_(count) {}

    std::size_t count() const override { return count_; }
    kvappend::LayerAppend at(std::size_t index) override {
        const kvappend::Plan &plan = plans_[index]->plan;
        const kvappend_args *args = args_[index];
        // It was read once already, and found fit.
        static_cast<void>(kvappend::view_struct("args", args, copy_, args));
        return {&plan.problem(), &plan.target(), &plan.kernel(), args};
    }

    // What a run of one layer's plan would refuse, and plans that do not go together.
    kvappend_status admit(std::size_t index, void *workspace, std::size_t workspace_bytes, CUstream_st *stream) {
        if (const auto status = need(plans_[index], "plan"); status != KVAPPEND_SUCCESS) {
            return status;
        }
        const kvappend_args *args = nullptr;
        if (const auto status = kvappend::view_struct("args", args_[index], copy_, args); status != KVAPPEND_SUCCESS) {
            return status;
        }
        const kvappend::Plan &plan = plans_[index]->plan;
        if (&plan.backend() != &plans_[0]->plan.backend()) {
            return fail(KVAPPEND_ERROR_BACKEND,
                        "the plan's backend is %" PRId32 ": expected %" PRId32 ", that of the first layer's plan",
                        plan.problem().backend, plans_[0]->plan.problem().backend);
        }
        return plan.admit(*args, workspace, workspace_bytes, stream);
    }

private:
    const kvappend_plan *const *plans_;
    const kvappend_args *const *args_;
    std::size_t count_;
    kvappend_args copy_ = KVAPPEND_ARGS_INIT;
};

std::int32_t operation_of(std::int32_t addressing) {
    switch (addressing) {
    case KVAPPEND_ADDRESSING_RING:
        return KVAPPEND_OPERATION_RING_APPEND;
    case KVAPPEND_ADDRESSING_PAGED:
    case KVAPPEND_ADDRESSING_PAGED_CSR:
        return KVAPPEND_OPERATION_PAGED_APPEND;
    case KVAPPEND_ADDRESSING_SLOTS:
        return KVAPPEND_OPERATION_SLOT_APPEND;
    default:
        return KVAPPEND_OPERATION_DENSE_APPEND;
    }
}

} // namespace

KVAPPEND_API kvappend_status kvappend_plan_create(const kvappend_descriptor *descriptor,
                                                  const kvappend_preference *preference, kvappend_plan **plan) {
    if (const auto status = need(static_cast<const void *>(plan), "plan"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    *plan = nullptr;
    kvappend_descriptor d;
    if (const auto status = kvappend::read_struct("descriptor", descriptor, d); status != KVAPPEND_SUCCESS) {
        return status;
    }
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    if (preference != nullptr) {
        if (const auto status = kvappend::read_struct("preference", preference, p); status != KVAPPEND_SUCCESS) {
            return status;
        }
    }
    auto created = std::unique_ptr<kvappend_plan>(new (std::nothrow) kvappend_plan);
    if (created == nullptr) {
        return fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "plan: there is no memory for its %zu bytes", sizeof(kvappend_plan));
    }
    if (const auto status = kvappend::Plan::create(d, p, created->plan); status != KVAPPEND_SUCCESS) {
        return status;
    }
    *plan = created.release();
    return KVAPPEND_SUCCESS;
}

KVAPPEND_API kvappend_status kvappend_plan_workspace_size(const kvappend_plan *plan, size_t *bytes) {
    if (const auto status = need(bytes, "bytes"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    *bytes = 0;
    if (const auto status = need(plan, "plan"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    *bytes = kvappend::Plan::needed_workspace;
    return KVAPPEND_SUCCESS;
}

KVAPPEND_API kvappend_status kvappend_plan_can_implement(const kvappend_plan *plan, const kvappend_args *args) {
    if (const auto status = need(plan, "plan"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    kvappend_args copy;
    if (const auto status = kvappend::view_struct("args", args, copy, args); status != KVAPPEND_SUCCESS) {
        return status;
    }
    return plan->plan.can_implement(*args);
}

KVAPPEND_API kvappend_status kvappend_plan_run(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                               size_t workspace_bytes, struct CUstream_st *stream) {
    if (const auto status = need(plan, "plan"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    kvappend_args copy;
    if (const auto status = kvappend::view_struct("args", args, copy, args); status != KVAPPEND_SUCCESS) {
        return status;
    }
    return plan->plan.run(*args, workspace, workspace_bytes, stream);
}

KVAPPEND_API kvappend_status kvappend_plan_run_layers(const kvappend_plan *const *plans,
                                                      const kvappend_args *const *args, size_t layers, void *workspace,
                                                      size_t workspace_bytes, struct CUstream_st *stream) {
    if (layers == 0) {
        return KVAPPEND_SUCCESS;
    }
    if (const auto status = need(plans, "plans"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const auto status = need(args, "args"); status != KVAPPEND_SUCCESS) {
        return status;
    }
    Layers appends(plans, args, layers);
    for (std::size_t i = 0; i < layers; ++i) {
        if (const auto status = appends.admit(i, workspace, workspace_bytes, stream); status != KVAPPEND_SUCCESS) {
            return kvappend::fail_in_layer(status, i);
        }
    }
    return kvappend::Plan::run_all(plans[0]->plan.backend(), appends, stream);
}

KVAPPEND_API kvappend_status kvappend_plan_validate(const kvappend_plan *plan, const kvappend_args *args,
                                                    void *workspace, size_t workspace_bytes, struct CUstream_st *stream,
                                                    kvappend_fault *fault) {
    kvappend_fault found{};
    const auto run = [&]() -> kvappend_status {
        if (const auto status = need(plan, "plan"); status != KVAPPEND_SUCCESS) {
            return status;
        }
        kvappend_args a;
        if (const auto status = kvappend::read_struct("args", args, a); status != KVAPPEND_SUCCESS) {
            return status;
        }
        return plan->plan.validate(a, workspace, workspace_bytes, stream, found);
    };
    if (fault == nullptr) {
        return run();
    }
    if (const auto status = kvappend::check_struct_size("fault", kvappend::struct_size_of(fault));
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    const kvappend_status status = run();
    kvappend::write_struct(found, fault);
    return status;
}

KVAPPEND_API kvappend_status kvappend_plan_destroy(kvappend_plan *plan) {
    delete plan;
    return KVAPPEND_SUCCESS;
}

KVAPPEND_API kvappend_status kvappend_plan_get_sku(const kvappend_plan *plan, kvappend_sku *sku) {
    return answer("sku", plan, sku, [plan](kvappend_sku &s) {
        const kvappend::Plan &p = plan->plan;
        const auto access = [&p](const kvappend::TensorCopy &copy) {
            return copy.empty() ? 0 : static_cast<std::int32_t>(std::min(copy.alignment, p.kernel().access_bytes));
        };
        s.operation = operation_of(p.problem().addressing.kind);
        s.backend = p.problem().backend;
        s.element_type = p.problem().element_type;
        s.architecture = p.target().architecture;
        s.k_vector_bytes = access(p.problem().k);
        s.v_vector_bytes = access(p.problem().v);
        s.kernel_name = p.kernel().name;
    });
}

KVAPPEND_API kvappend_status kvappend_plan_get_precision_guarantee(const kvappend_plan *plan,
                                                                   kvappend_precision_guarantee *guarantee) {
    return answer("guarantee", plan, guarantee, [](kvappend_precision_guarantee &g) {
        g.bit_exact = 1;
        g.deterministic = 1;
    });
}

KVAPPEND_API const char *kvappend_kernel_name(size_t index) {
    const kvappend::Kernel *const kernel = kvappend::kernel_at(index);
    return kernel != nullptr ? kernel->name : nullptr;
}
