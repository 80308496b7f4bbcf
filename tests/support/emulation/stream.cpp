// SPDX-License-Identifier: Apache-2.0
// Streams: queues whose work waits until something synchronises with them.
#include "handles.hpp"
#include "internal.hpp"

#include <array>

namespace emulation {

namespace {

struct Streams {
    internal::Handles<cudaStream_t, internal::Stream> created;
    std::array<std::shared_ptr<internal::Stream>, device_limit> defaults;
    Streams() {
        for (std::size_t index = 0; index < defaults.size(); ++index) {
            defaults[index] = std::make_shared<internal::Stream>(static_cast<int>(index), true);
        }
    }
};

Streams &streams() {
    static Streams &instance = *new Streams; // never destroyed, as destructors of other objects use it
    return instance;
}

void run_front(internal::Stream &stream) {
    const internal::Work work = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    std::atomic<cudaError_t> &broken = internal::device(work.device).broken;
    if (broken == cudaSuccess) {
        if (const cudaError_t error = work.run(); error != cudaSuccess) {
            cudaError_t expected = cudaSuccess;
            broken.compare_exchange_strong(expected, error);
        }
    }
}

cudaError_t drain(internal::Stream &stream) {
    const std::lock_guard lock(stream.mutex);
    while (!stream.waiting.empty()) {
        run_front(stream);
    }
    return internal::device(stream.device).broken;
}

// For calls that wait for a stream: one that is captured never runs.
cudaError_t refuse_on_captured(internal::Stream &stream) {
    cudaStreamCaptureStatus expected = cudaStreamCaptureStatusActive;
    stream.capture.compare_exchange_strong(expected, cudaStreamCaptureStatusInvalidated);
    return expected == cudaStreamCaptureStatusNone ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

cudaError_t create(cudaStream_t *handle, unsigned int flags) {
    if (handle == nullptr || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking)) {
        return cudaErrorInvalidValue;
    }
    *handle = streams().created.add(
        std::make_shared<internal::Stream>(internal::this_thread().device, flags == cudaStreamDefault));
    return cudaSuccess;
}

} // namespace

bool internal::is_default_stream(cudaStream_t handle) {
    return handle == nullptr || handle == cudaStreamLegacy;
}

cudaError_t internal::find_stream(cudaStream_t handle, std::shared_ptr<Stream> &stream) {
    if (is_default_stream(handle)) {
        const int current = this_thread().device;
        stream = streams().defaults.at(static_cast<std::size_t>(current));
        return refuse_default_stream_during_capture(current);
    }
    stream = streams().created.find(handle);
    return stream == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess;
}

cudaError_t internal::submit(Stream &stream, Work work) {
    const std::lock_guard lock(stream.mutex);
    switch (stream.capture.load()) {
    case cudaStreamCaptureStatusNone:
        stream.waiting.push_back(std::move(work));
        return cudaSuccess;
    case cudaStreamCaptureStatusActive:
        stream.captured.push_back(std::move(work));
        return cudaSuccess;
    case cudaStreamCaptureStatusInvalidated:
        break;
    }
    return cudaErrorStreamCaptureInvalidated;
}

cudaError_t internal::drain_device(int index) {
    drain(*streams().defaults.at(static_cast<std::size_t>(index)));
    for (const auto &stream : streams().created.all()) {
        if (stream->device == index) {
            drain(*stream);
        }
    }
    return device(index).broken;
}

void internal::forget_work() {
    auto all = streams().created.all();
    all.insert(all.end(), streams().defaults.begin(), streams().defaults.end());
    for (const auto &stream : all) {
        const std::lock_guard lock(stream->mutex);
        stream->waiting.clear();
        stream->captured.clear();
    }
}

std::size_t live_streams() {
    return streams().created.all().size();
}

} // namespace emulation

using namespace emulation;
using namespace emulation::internal;

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return perform(Call::StreamCreate, Needs::Device, [&] { return create(stream, cudaStreamDefault); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
    return perform(Call::StreamCreateWithFlags, Needs::Device, [&] { return create(stream, flags); });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    // Like memory, a stream of a broken device can be given back.
    return perform(Call::StreamDestroy, Needs::Driver, [&] {
        std::shared_ptr<Stream> stream;
        if (is_default_stream(handle) || find_stream(handle, stream) != cudaSuccess) {
            return cudaErrorInvalidResourceHandle;
        }
        if (const cudaError_t refused = refuse_on_captured(*stream); refused != cudaSuccess) {
            return refused;
        }
        const cudaError_t error = drain(*stream);
        streams().created.remove(handle);
        return error;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    return perform(Call::StreamSynchronize, Needs::Device, [&] {
        std::shared_ptr<Stream> stream;
        if (const cudaError_t error = find_stream(handle, stream); error != cudaSuccess) {
            return error;
        }
        if (const cudaError_t refused = refuse_on_captured(*stream); refused != cudaSuccess) {
            return refused;
        }
        // The default stream is behind everything that came before it in the others.
        return is_default_stream(handle) ? drain_device(stream->device) : drain(*stream);
    });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    return perform(Call::StreamQuery, Needs::Device, [&] {
        std::shared_ptr<Stream> stream;
        if (const cudaError_t error = find_stream(handle, stream); error != cudaSuccess) {
            return error;
        }
        if (const cudaError_t refused = refuse_on_captured(*stream); refused != cudaSuccess) {
            return refused;
        }
        const std::lock_guard lock(stream->mutex);
        if (stream->waiting.empty()) {
            return device(stream->device).broken.load();
        }
        run_front(*stream); // so that asking again and again comes to an end
        return cudaErrorNotReady;
    });
}
