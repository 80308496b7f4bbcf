// SPDX-License-Identifier: Apache-2.0
// Takes the time of a competitor by events on the device: put in a stream call by call, or as a graph that is replayed.
#pragma once

#include "competitors.cuh"
#include "device.cuh"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

// The stream in which all is timed.
class Track {
public:
    // Fills so many bytes to drive all else from the cache.
    explicit Track(std::size_t flush_bytes)
        : flush_bytes_(flush_bytes), flush_(allocate(flush_bytes)), stream_(make_stream()) {}

    cudaStream_t stream() const { return stream_.get(); }
    void wait() const { require(cudaStreamSynchronize(stream()), "cudaStreamSynchronize"); }

    // Seconds of one call. Warm: of so many calls one behind the other, in between two events. Cold: the median of
    // calls each of which has two events of its own, behind a flush.
    double in_stream(Competitor &competitor, bool cold, int calls) {
        need_events(calls);
        if (cold) {
            put_cold(competitor, calls, cudaEventRecordDefault);
            return median_of_events(calls);
        }
        return between_events(calls, [&] { put_warm(competitor, calls); });
    }

    // All that in a graph. Throws CudaError where a call cannot be captured.
    GraphExec capture(Competitor &competitor, bool cold, int calls) {
        need_events(calls);
        require(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
        cudaGraph_t graph = nullptr;
        try {
            if (cold) {
                put_cold(competitor, calls, cudaEventRecordExternal);
            } else {
                put_warm(competitor, calls);
            }
        } catch (...) {
            cudaStreamEndCapture(stream(), &graph);
            cudaGetLastError();
            throw;
        }
        require(cudaStreamEndCapture(stream(), &graph), "cudaStreamEndCapture");
        const Graph captured(graph);
        cudaGraphExec_t executable = nullptr;
        require(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
        GraphExec result(executable);
        replay(result); // Its first launch does more than later ones.
        wait();
        return result;
    }

    double by_graph(const GraphExec &graph, bool cold, int calls) {
        if (cold) {
            replay(graph);
            return median_of_events(calls);
        }
        return between_events(calls, [&] { replay(graph); });
    }

private:
    struct Pair {
        Event begin = make_event();
        Event end = make_event();
    };

    void need_events(int calls) {
        while (events_.size() < static_cast<std::size_t>(calls)) {
            events_.emplace_back();
        }
    }

    void record(const Event &event, unsigned flags = cudaEventRecordDefault) {
        require(cudaEventRecordWithFlags(event.get(), stream(), flags), "cudaEventRecordWithFlags");
    }

    void replay(const GraphExec &graph) { require(cudaGraphLaunch(graph.get(), stream()), "cudaGraphLaunch"); }

    void put_warm(Competitor &competitor, int calls) {
        for (int call = 0; call < calls; ++call) {
            competitor.enqueue(stream());
        }
    }

    void put_cold(Competitor &competitor, int calls, unsigned flags) {
        for (int call = 0; call < calls; ++call) {
            const Pair &events = events_[static_cast<std::size_t>(call)];
            require(cudaMemsetAsync(flush_.get(), call, flush_bytes_, stream()), "cudaMemsetAsync");
            record(events.begin, flags);
            competitor.enqueue(stream());
            record(events.end, flags);
        }
    }

    static double seconds_of(const Pair &events) {
        float milliseconds = 0;
        require(cudaEventElapsedTime(&milliseconds, events.begin.get(), events.end.get()), "cudaEventElapsedTime");
        return static_cast<double>(milliseconds) * 1e-3;
    }

    double median_of_events(int calls) {
        wait();
        std::vector<double> seconds;
        for (int call = 0; call < calls; ++call) {
            seconds.push_back(seconds_of(events_[static_cast<std::size_t>(call)]));
        }
        std::sort(seconds.begin(), seconds.end());
        return seconds[seconds.size() / 2];
    }

    template <class Put>
    double between_events(int calls, const Put &put) {
        record(events_[0].begin);
        put();
        record(events_[0].end);
        wait();
        return seconds_of(events_[0]) / calls;
    }

    std::size_t flush_bytes_;
    Memory flush_;
    Stream stream_;
    std::vector<Pair> events_;
};
