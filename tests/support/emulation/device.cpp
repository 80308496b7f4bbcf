// SPDX-License-Identifier: Apache-2.0
// The devices and the driver of the emulated machine, and what of them belongs to a thread.
#include "internal.hpp"

#include <array>
#include <stdexcept>

namespace emulation {

namespace {

std::array<internal::Device, device_limit> devices;
std::atomic<int> count{2};
std::atomic<int> driver{CUDART_VERSION};
std::atomic<std::uint64_t> epoch{0};

int attribute_of(cudaDeviceAttr attribute, const internal::Device &of) {
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
        return 1024;
    case cudaDevAttrMaxBlockDimZ:
        return 64;
    case cudaDevAttrMaxGridDimX:
        return 0x7fffffff;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
        return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return 48 * 1024;
    case cudaDevAttrWarpSize:
        return 32;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
        return 1000 * 1000;
    case cudaDevAttrGlobalMemoryBusWidth:
        return 64;
    case cudaDevAttrL2CacheSize:
        return 1 << 20;
    case cudaDevAttrMultiProcessorCount:
        return of.multiprocessors;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return 2048;
    case cudaDevAttrUnifiedAddressing:
        return 1;
    case cudaDevAttrComputeCapabilityMajor:
        return of.major;
    case cudaDevAttrComputeCapabilityMinor:
        return of.minor;
    }
    return -1;
}

} // namespace

internal::Device &internal::device(int index) {
    return devices.at(static_cast<std::size_t>(index));
}

int internal::device_count() {
    return count;
}

int internal::driver_version() {
    return driver;
}

internal::Thread &internal::this_thread() {
    static thread_local Thread thread;
    if (const std::uint64_t now = epoch; thread.epoch != now) {
        thread = {now, 0, cudaSuccess};
    }
    return thread;
}

void set_device_count(int new_count) {
    if (new_count < 0 || new_count > device_limit) {
        throw std::out_of_range("set_device_count");
    }
    count = new_count;
}

void set_driver_version(int version) {
    driver = version;
}

void set_architecture(int index, int major, int minor) {
    internal::device(index).major = major;
    internal::device(index).minor = minor;
}

void set_multiprocessors(int index, int multiprocessors) {
    internal::device(index).multiprocessors = multiprocessors;
}

void reset() {
    internal::forget_captures();
    internal::forget_work();
    internal::forget_launches();
    internal::forget_calls();
    count = 2;
    driver = CUDART_VERSION;
    for (int index = 0; index < device_limit; ++index) {
        set_architecture(index, 9, 0);
        set_multiprocessors(index, 132);
        internal::device(index).broken = cudaSuccess;
    }
    ++epoch;
}

} // namespace emulation

using namespace emulation;
using namespace emulation::internal;

cudaError_t cudaDriverGetVersion(int *version) {
    return perform(Call::DriverGetVersion, Needs::Nothing, [&] {
        if (version == nullptr) {
            return cudaErrorInvalidValue;
        }
        *version = driver_version();
        return cudaSuccess;
    });
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    return perform(Call::RuntimeGetVersion, Needs::Nothing, [&] {
        if (version == nullptr) {
            return cudaErrorInvalidValue;
        }
        *version = CUDART_VERSION;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceCount(int *result) {
    if (result != nullptr) {
        *result = 0; // also when the call fails
    }
    return perform(Call::GetDeviceCount, Needs::Driver, [&] {
        if (result == nullptr) {
            return cudaErrorInvalidValue;
        }
        *result = device_count();
        return cudaSuccess;
    });
}

cudaError_t cudaGetDevice(int *index) {
    return perform(Call::GetDevice, Needs::Driver, [&] {
        if (index == nullptr) {
            return cudaErrorInvalidValue;
        }
        *index = this_thread().device;
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int index) {
    return perform(Call::SetDevice, Needs::Driver, [&] {
        if (index < 0 || index >= device_count()) {
            return cudaErrorInvalidDevice;
        }
        this_thread().device = index;
        return device(index).broken.load();
    });
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int index) {
    return perform(Call::DeviceGetAttribute, Needs::Driver, [&] {
        if (index < 0 || index >= device_count()) {
            return cudaErrorInvalidDevice;
        }
        const int known = attribute_of(attribute, device(index));
        if (value == nullptr || known < 0) {
            return cudaErrorInvalidValue;
        }
        *value = known;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int index) {
    return perform(Call::GetDeviceProperties, Needs::Driver, [&] {
        if (index < 0 || index >= device_count()) {
            return cudaErrorInvalidDevice;
        }
        if (properties == nullptr) {
            return cudaErrorInvalidValue;
        }
        *properties = {"emulated device"};
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSynchronize() {
    return perform(Call::DeviceSynchronize, Needs::Device, [] {
        const cudaError_t refused = refuse_during_capture();
        return refused != cudaSuccess ? refused : drain_device(this_thread().device);
    });
}
