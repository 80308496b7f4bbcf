// SPDX-License-Identifier: Apache-2.0
// Events: when work came to be done, by the CPU's clock.
#include "handles.hpp"
#include "internal.hpp"

#include <chrono>

namespace emulation {

namespace {

using Clock = std::chrono::steady_clock;

struct Event {
    explicit Event(int on_device) : device(on_device) {}
    const int device;
    std::mutex mutex; // of what follows
    bool recorded = false;
    std::uint64_t pending = 0; // recordings that the stream has not reached
    Clock::time_point time;
};

internal::Handles<cudaEvent_t, Event> &events() {
    static auto &instance =
        *new internal::Handles<cudaEvent_t, Event>; // never destroyed, as destructors of other objects use it
    return instance;
}

cudaError_t record(cudaEvent_t handle, cudaStream_t stream_handle, unsigned int flags) {
    if (flags != cudaEventRecordDefault && flags != cudaEventRecordExternal) {
        return cudaErrorInvalidValue;
    }
    const std::shared_ptr<Event> event = events().find(handle);
    if (event == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    std::shared_ptr<internal::Stream> stream;
    if (const cudaError_t error = internal::find_stream(stream_handle, stream); error != cudaSuccess) {
        return error;
    }
    if (stream->device != event->device) {
        return cudaErrorInvalidResourceHandle;
    }
    const bool captured = stream->capture != cudaStreamCaptureStatusNone;
    if (captured != (flags == cudaEventRecordExternal)) {
        // In a capture a plain recording is an edge of the graph, which a single stream has anyway.
        return captured ? cudaSuccess : cudaErrorInvalidValue;
    }
    if (!captured) {
        const std::lock_guard lock(event->mutex);
        event->recorded = true;
        ++event->pending;
    }
    return internal::submit(*stream, {stream->device, [event, captured] {
                                          const std::lock_guard lock(event->mutex);
                                          event->recorded = true;
                                          event->pending -= captured ? 0 : 1;
                                          event->time = Clock::now();
                                          return cudaSuccess;
                                      }});
}

} // namespace

} // namespace emulation

using namespace emulation;
using namespace emulation::internal;

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return perform(Call::EventCreate, Needs::Device, [&] {
        if (event == nullptr) {
            return cudaErrorInvalidValue;
        }
        *event = events().add(std::make_shared<Event>(this_thread().device));
        return cudaSuccess;
    });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return perform(Call::EventDestroy, Needs::Driver,
                   [&] { return events().remove(event) ? cudaSuccess : cudaErrorInvalidResourceHandle; });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return perform(Call::EventRecord, Needs::Device, [&] { return record(event, stream, cudaEventRecordDefault); });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int flags) {
    return perform(Call::EventRecord, Needs::Device, [&] { return record(event, stream, flags); });
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    return perform(Call::EventElapsedTime, Needs::Device, [&] {
        Clock::time_point times[2];
        const cudaEvent_t handles[] = {begin, end};
        for (std::size_t i = 0; i < 2; ++i) {
            const std::shared_ptr<Event> event = events().find(handles[i]);
            if (event == nullptr) {
                return cudaErrorInvalidResourceHandle;
            }
            const std::lock_guard lock(event->mutex);
            if (!event->recorded || event->pending != 0) {
                return event->recorded ? cudaErrorNotReady : cudaErrorInvalidResourceHandle;
            }
            times[i] = event->time;
        }
        if (milliseconds == nullptr) {
            return cudaErrorInvalidValue;
        }
        *milliseconds = std::chrono::duration<float, std::milli>(times[1] - times[0]).count();
        return cudaSuccess;
    });
}
