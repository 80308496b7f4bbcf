// SPDX-License-Identifier: Apache-2.0
// Measures cases on the current CUDA device, one after the other, all in the same memory.
#pragma once

#include "../host/configuration.hpp"

#include <cstddef>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Why nothing can be measured: there is no device, or no driver for it.
class NoDevice : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

struct Settings {
    int repetitions;
    double seconds;          // that calls one behind the other take, about
    int most_calls;          // of them
    std::size_t cache_bytes; // of K and V caches, at most; but at least 64 rows a sample, and those of the step
    std::size_t most_pieces; // for cudaMemcpyBatchAsync
};

// The names of what competes: the library, then those it is compared with.
inline constexpr const char *competitor_names[] = {"library",      "memcpy", "elements", "batch",
                                                   "programmatic", "layers", "empty"};

struct Result {
    std::string kernel;
    std::size_t bytes;  // that are copied
    std::size_t pieces; // in which they lie
    // Of each competitor in each repetition, by the name of the competitor: nanoseconds a call. A competitor that
    // cannot do the case is missing.
    std::map<std::string, std::vector<double>> in_stream, by_graph;
};

class Session {
public:
    // For these cases. Throws NoDevice.
    Session(const Settings &settings, const std::vector<Configuration> &configurations);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    // The device and what belongs to it: names and values.
    std::vector<std::pair<std::string, std::string>> describe() const;
    // Bytes a second, read and written, of copies far larger than the cache.
    double copy_bandwidth() const;
    // Throws std::runtime_error where a call fails, or where a competitor does not write what it should.
    Result measure(const Configuration &configuration);

private:
    struct Device;
    Settings settings_;
    std::unique_ptr<Device> device_;
};
