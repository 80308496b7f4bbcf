// SPDX-License-Identifier: Apache-2.0
// Launches: what a GPU refuses, which kernels are loaded, and what was launched.
#include "internal.hpp"

#include <algorithm>
#include <set>
#include <shared_mutex>
#include <utility>

namespace emulation {

namespace {

struct State {
    std::shared_mutex loaded_mutex;
    std::set<std::pair<int, const void *>> loaded; // device and kernel
    std::mutex last_mutex;
    Launch last;
    std::string fault;
    std::atomic<std::uint64_t> launches{0};
    std::atomic<std::uint64_t> lazy_loads{0};
    std::atomic<bool> discard{false};
    std::atomic<int> code_architecture{0}; // 0: the device's
};

State &state() {
    static State &instance = *new State; // never destroyed, as destructors of other objects use it
    return instance;
}

// Loads the kernel if need be, which must not happen during a capture.
cudaError_t load_kernel(int index, const void *kernel, bool lazily) {
    State &all = state();
    {
        const std::shared_lock lock(all.loaded_mutex);
        if (all.loaded.count({index, kernel}) != 0) {
            return cudaSuccess;
        }
    }
    if (const cudaError_t refused = internal::refuse_during_capture(); refused != cudaSuccess) {
        return refused;
    }
    const std::unique_lock lock(all.loaded_mutex);
    if (all.loaded.emplace(index, kernel).second && lazily) {
        ++all.lazy_loads;
    }
    return cudaSuccess;
}

cudaError_t check_configuration(const cudaLaunchConfig_t &config) {
    const dim3 grid = config.gridDim;
    const dim3 block = config.blockDim;
    const bool empty = grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0;
    if (empty || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || block.x > 1024 || block.y > 1024 ||
        block.z > 64 || block.x * block.y * block.z > 1024) {
        return cudaErrorInvalidConfiguration;
    }
    if (config.dynamicSmemBytes > 48 * 1024 || (config.attrs == nullptr && config.numAttrs != 0)) {
        return cudaErrorInvalidValue;
    }
    const bool known = std::all_of(config.attrs, config.attrs + config.numAttrs, [](const cudaLaunchAttribute &one) {
        return one.id == cudaLaunchAttributeIgnore || one.id == cudaLaunchAttributeProgrammaticStreamSerialization;
    });
    return known ? cudaSuccess : cudaErrorNotSupported;
}

bool is_programmatic(const cudaLaunchConfig_t &config) {
    return std::any_of(config.attrs, config.attrs + config.numAttrs, [](const cudaLaunchAttribute &one) {
        return one.id == cudaLaunchAttributeProgrammaticStreamSerialization &&
               one.val.programmaticStreamSerializationAllowed != 0;
    });
}

} // namespace

cudaError_t detail::launch(const cudaLaunchConfig_t *config, const void *kernel,
                           const std::function<ThreadBody()> &bind) {
    return internal::perform(Call::LaunchKernelEx, internal::Needs::Device, [&] {
        if (config == nullptr || kernel == nullptr) {
            return config == nullptr ? cudaErrorInvalidValue : cudaErrorInvalidDeviceFunction;
        }
        if (const cudaError_t error = check_configuration(*config); error != cudaSuccess) {
            return error;
        }
        const int current = internal::this_thread().device;
        std::shared_ptr<internal::Stream> stream;
        if (const cudaError_t error = internal::find_stream(config->stream, stream); error != cudaSuccess) {
            return error;
        }
        if (stream->device != current) {
            return cudaErrorInvalidResourceHandle;
        }
        if (const cudaError_t error = load_kernel(current, kernel, true); error != cudaSuccess) {
            return error;
        }
        State &all = state();
        if (!all.discard) {
            const cudaError_t error =
                internal::submit(*stream, {current, [current, grid = config->gridDim, block = config->blockDim,
                                                     programmatic = is_programmatic(*config), body = bind()] {
                                               return internal::execute(current, grid, block, programmatic, body);
                                           }});
            if (error != cudaSuccess) {
                return error;
            }
        }
        ++all.launches;
        const std::lock_guard lock(all.last_mutex);
        all.last = {kernel, config->gridDim, config->blockDim, current, config->stream, is_programmatic(*config)};
        return cudaSuccess;
    });
}

void internal::record_fault(const std::string &text) {
    const std::lock_guard lock(state().last_mutex);
    state().fault = text;
}

void internal::forget_launches() {
    State &all = state();
    forget_executions();
    {
        const std::unique_lock lock(all.loaded_mutex);
        all.loaded.clear();
    }
    const std::lock_guard lock(all.last_mutex);
    all.last = {};
    all.fault.clear();
    all.launches = all.lazy_loads = 0;
    all.discard = false;
    all.code_architecture = 0;
}

void set_discard_launches(bool discard) {
    state().discard = discard;
}

void set_code_architecture(int architecture) {
    state().code_architecture = architecture;
}

std::uint64_t launches() {
    return state().launches;
}

Launch last_launch() {
    const std::lock_guard lock(state().last_mutex);
    return state().last;
}

std::uint64_t lazy_loads() {
    return state().lazy_loads;
}

std::string last_fault() {
    const std::lock_guard lock(state().last_mutex);
    return state().fault;
}

} // namespace emulation

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel) {
    using namespace emulation::internal;
    return perform(emulation::Call::FuncGetAttributes, Needs::Device, [&] {
        if (attributes == nullptr || kernel == nullptr) {
            return attributes == nullptr ? cudaErrorInvalidValue : cudaErrorInvalidDeviceFunction;
        }
        const int current = this_thread().device;
        if (const cudaError_t error = emulation::load_kernel(current, kernel, false); error != cudaSuccess) {
            return error;
        }
        const int architecture = device(current).major * 10 + device(current).minor;
        const int code = emulation::state().code_architecture;
        *attributes = {0, 0, 0, 1024, 32, code != 0 ? code : architecture, architecture, 0, 48 * 1024};
        return cudaSuccess;
    });
}
