// SPDX-License-Identifier: Apache-2.0
// Graphs: capturing them from a stream, what must not be done meanwhile, and replaying them.
#include "handles.hpp"
#include "internal.hpp"

#include <algorithm>

namespace emulation {

namespace {

using Graph = std::vector<internal::Work>;

struct Captures {
    std::mutex mutex;
    std::vector<std::shared_ptr<internal::Stream>> active;
    std::atomic<std::size_t> count{0}; // of the active ones, to be read without the mutex
};

Captures &captures() {
    static Captures &instance = *new Captures; // never destroyed, as destructors of other objects use it
    return instance;
}

internal::Handles<cudaGraph_t, Graph> &graphs() {
    static auto &instance = *new internal::Handles<cudaGraph_t, Graph>;
    return instance;
}

internal::Handles<cudaGraphExec_t, const Graph> &executables() {
    static auto &instance = *new internal::Handles<cudaGraphExec_t, const Graph>;
    return instance;
}

// Invalidates the captures that `concerned` picks; answers whether there were any.
template <typename Predicate>
bool invalidate(Predicate concerned) {
    Captures &all = captures();
    if (all.count == 0) {
        return false;
    }
    const std::lock_guard lock(all.mutex);
    bool any = false;
    for (const auto &stream : all.active) {
        if (concerned(*stream)) {
            stream->capture = cudaStreamCaptureStatusInvalidated;
            any = true;
        }
    }
    return any;
}

} // namespace

cudaError_t internal::refuse_during_capture() {
    const bool any = invalidate([](const Stream &stream) {
        return stream.capture_mode == cudaStreamCaptureModeGlobal ||
               (stream.capture_mode == cudaStreamCaptureModeThreadLocal &&
                stream.capture_thread == std::this_thread::get_id());
    });
    return any ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t internal::refuse_default_stream_during_capture(int index) {
    const bool any = invalidate([&](const Stream &stream) { return stream.blocking && stream.device == index; });
    return any ? cudaErrorStreamCaptureImplicit : cudaSuccess;
}

void internal::forget_captures() {
    Captures &all = captures();
    const std::lock_guard lock(all.mutex);
    for (const auto &stream : all.active) {
        stream->capture = cudaStreamCaptureStatusNone;
    }
    all.active.clear();
    all.count = 0;
}

} // namespace emulation

using namespace emulation;
using namespace emulation::internal;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    return perform(Call::StreamBeginCapture, Needs::Device, [&] {
        std::shared_ptr<Stream> stream;
        if (is_default_stream(handle)) {
            return cudaErrorStreamCaptureUnsupported;
        }
        if (const cudaError_t error = find_stream(handle, stream); error != cudaSuccess) {
            return error;
        }
        if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed) {
            return cudaErrorInvalidValue;
        }
        Captures &all = captures();
        const std::lock_guard lock(all.mutex);
        if (stream->capture != cudaStreamCaptureStatusNone) {
            return cudaErrorIllegalState;
        }
        stream->capture_mode = mode;
        stream->capture_thread = std::this_thread::get_id();
        stream->capture = cudaStreamCaptureStatusActive;
        all.active.push_back(stream);
        all.count = all.active.size();
        return cudaSuccess;
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph) {
    return perform(Call::StreamEndCapture, Needs::Device, [&] {
        if (graph == nullptr) {
            return cudaErrorInvalidValue;
        }
        *graph = nullptr;
        std::shared_ptr<Stream> stream;
        if (const cudaError_t error = find_stream(handle, stream); error != cudaSuccess) {
            return error;
        }
        Captures &all = captures();
        const std::lock_guard lock(all.mutex);
        if (stream->capture == cudaStreamCaptureStatusNone) {
            return cudaErrorIllegalState;
        }
        if (stream->capture_mode != cudaStreamCaptureModeRelaxed &&
            stream->capture_thread != std::this_thread::get_id()) {
            return cudaErrorStreamCaptureWrongThread;
        }
        all.active.erase(std::find(all.active.begin(), all.active.end(), stream));
        all.count = all.active.size();
        const std::lock_guard stream_lock(stream->mutex);
        auto captured = std::make_shared<Graph>(std::move(stream->captured));
        stream->captured.clear();
        if (stream->capture.exchange(cudaStreamCaptureStatusNone) == cudaStreamCaptureStatusInvalidated) {
            return cudaErrorStreamCaptureInvalidated;
        }
        *graph = graphs().add(std::move(captured));
        return cudaSuccess;
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status) {
    return perform(Call::StreamIsCapturing, Needs::Device, [&] {
        std::shared_ptr<Stream> stream;
        if (const cudaError_t error = find_stream(handle, stream); error != cudaSuccess) {
            return error;
        }
        if (status == nullptr) {
            return cudaErrorInvalidValue;
        }
        *status = stream->capture;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t handle, unsigned long long flags) {
    return perform(Call::GraphInstantiate, Needs::Device, [&] {
        const std::shared_ptr<Graph> graph = graphs().find(handle);
        if (executable == nullptr || graph == nullptr || flags != 0) {
            return cudaErrorInvalidValue;
        }
        *executable = executables().add(graph);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
    return perform(Call::GraphLaunch, Needs::Device, [&] {
        const std::shared_ptr<const Graph> graph = executables().find(executable);
        if (graph == nullptr) {
            return cudaErrorInvalidValue;
        }
        std::shared_ptr<Stream> stream;
        cudaError_t error = find_stream(handle, stream);
        for (auto work = graph->begin(); error == cudaSuccess && work != graph->end(); ++work) {
            error = submit(*stream, *work);
        }
        return error;
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return perform(Call::GraphDestroy, Needs::Driver,
                   [&] { return graphs().remove(graph) ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    return perform(Call::GraphExecDestroy, Needs::Driver,
                   [&] { return executables().remove(executable) ? cudaSuccess : cudaErrorInvalidValue; });
}
