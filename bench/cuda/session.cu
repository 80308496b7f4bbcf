// SPDX-License-Identifier: Apache-2.0
// Compiled against the CUDA runtime, or as plain C++ against the emulated one.
#include "session.hpp"

#include "track.cuh"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;
// Between buffers, and for those that begin a little behind an aligned address.
constexpr std::size_t slack = 256;
constexpr std::size_t most_layers_bytes = 2048 * mebibyte;

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Says by NoDevice what of a device, a driver and a context is missing.
void start() {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        throw NoDevice("there is no CUDA driver, so nothing is measured");
    }
    int devices = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess || devices == 0) {
        throw NoDevice(std::string("there is no CUDA device, so nothing is measured (") +
                       cudaGetErrorName(error == cudaSuccess ? cudaErrorNoDevice : error) + ")");
    }
    require(cudaFree(nullptr), "cudaFree");
}

std::size_t l2_bytes() {
    return static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize));
}

} // namespace

struct Session::Device {
    Device(std::size_t source_bytes, std::size_t target_bytes, std::size_t pinned_bytes)
        : track(2 * l2_bytes()), source(allocate(source_bytes + slack)), target(allocate(target_bytes + slack)),
          pinned(allocate_pinned(pinned_bytes + slack)), contents(source_bytes + slack) {
        fill_new_rows(std::span(contents), random); // The target is zero before each proof.
        upload(source.get(), contents);
    }

    // The memory of a configuration's target.
    void *target_of(const Configuration &configuration) const {
        return configuration.pinned ? pinned.get() : target.get();
    }

    // `memory` is that of the call's target.
    void prove(Competitor &competitor, const Call &call, void *memory, const std::vector<unsigned char> &expected,
               const char *name) {
        // The bytes around the target must stay as well.
        found.assign(expected.size(), 0);
        require(cudaMemcpy(memory, found.data(), found.size(), cudaMemcpyDefault), "cudaMemcpy");
        // A copy from pageable memory may return before the last bytes have arrived, and the track's stream does not
        // wait for the default stream (CUDA Runtime API, "API synchronization behavior").
        require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        competitor.enqueue(track.stream());
        track.wait();
        require(cudaMemcpy(found.data(), memory, found.size(), cudaMemcpyDefault), "cudaMemcpy");
        if (found != expected) {
            const auto at = std::mismatch(found.begin(), found.end(), expected.begin()).first - found.begin();
            throw std::runtime_error(std::string(name) + " wrote wrong bytes: the first is " + std::to_string(at) +
                                     " after the begin of the target's memory, and the target is " +
                                     std::to_string(call.target - static_cast<std::byte *>(memory)) + " after it");
        }
    }

    Track track;
    Memory source, target;
    PinnedMemory pinned;
    std::minstd_rand random;
    std::vector<unsigned char> contents; // of the source
    std::vector<unsigned char> found;
};

Session::Session(const Settings &settings, const std::vector<Configuration> &configurations) : settings_(settings) {
    start();
    std::size_t source_bytes = 0;
    std::size_t target_bytes = 0;
    std::size_t pinned_bytes = 0;
    for (const Configuration &configuration : configurations) {
        const Workload workload = make_workload(configuration, settings.cache_bytes);
        source_bytes = std::max(source_bytes, workload.source_bytes());
        std::size_t &bytes = configuration.pinned ? pinned_bytes : target_bytes;
        bytes = std::max({bytes, workload.target_bytes(), workload.written_bytes});
    }
    device_ = std::make_unique<Device>(source_bytes, target_bytes, pinned_bytes);
}

Session::~Session() = default;

std::vector<std::pair<std::string, std::string>> Session::describe() const {
    int device = 0;
    int driver = 0;
    int runtime = 0;
    cudaDeviceProp properties{};
    require(cudaGetDevice(&device), "cudaGetDevice");
    require(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    require(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    require(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    const auto number = [](cudaDeviceAttr which) { return std::to_string(attribute(which)); };
    return {{"device", properties.name},
            {"compute capability",
             number(cudaDevAttrComputeCapabilityMajor) + "." + number(cudaDevAttrComputeCapabilityMinor)},
            {"multiprocessors", number(cudaDevAttrMultiProcessorCount)},
            {"L2", std::to_string(l2_bytes() / 1024) + " KiB"},
            {"clocks, at most", std::to_string(attribute(cudaDevAttrClockRate) / 1000) + " MHz, memory " +
                                    std::to_string(attribute(cudaDevAttrMemoryClockRate) / 1000) + " MHz of " +
                                    number(cudaDevAttrGlobalMemoryBusWidth) + " bits"},
            {"CUDA", "driver " + version_text(driver) + ", runtime of the benchmark " + version_text(runtime)},
            {"libkvappend", std::to_string(kvappend_version() / 10000) + "." +
                                std::to_string(kvappend_version() / 100 % 100) + "." +
                                std::to_string(kvappend_version() % 100)}};
}

double Session::copy_bandwidth() const {
    const std::size_t bytes = std::max(8 * l2_bytes(), 64 * mebibyte);
    const Memory from = allocate(bytes);
    const Memory to = allocate(bytes);
    Track &track = device_->track;
    struct Large final : Competitor {
        void enqueue(cudaStream_t stream) override {
            require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
        }
        void *to = nullptr;
        const void *from = nullptr;
        std::size_t bytes = 0;
    } large;
    large.to = to.get();
    large.from = from.get();
    large.bytes = bytes;
    require(cudaMemsetAsync(from.get(), 1, bytes, track.stream()), "cudaMemsetAsync");
    track.in_stream(large, false, std::min(20, settings_.most_calls)); // so that the clocks have risen
    std::vector<double> seconds;
    for (int repetition = 0; repetition < settings_.repetitions; ++repetition) {
        seconds.push_back(track.in_stream(large, false, std::min(10, settings_.most_calls)));
    }
    std::sort(seconds.begin(), seconds.end());
    return 2 * static_cast<double>(bytes) / seconds[seconds.size() / 2];
}

namespace {

// One that competes in a configuration.
struct Entrant {
    std::string name;
    std::unique_ptr<Competitor> competitor;
    double appends = 1; // of one call
    int calls = 1;
    GraphExec graph;
};

// What a proof compares the target's memory with: the rows in their places, or all of them in one piece.
struct Expected {
    std::vector<unsigned char> in_places;
    std::vector<unsigned char> in_one_piece;
};

// What the host backend makes of the same call.
void convert_on_host(const Call &call, const unsigned char *source, unsigned char *target) {
    const Workload &workload = call.workload;
    kvappend_descriptor descriptor = workload.described();
    descriptor.backend = KVAPPEND_BACKEND_HOST;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    workload.set_buffers(reinterpret_cast<const std::byte *>(source), reinterpret_cast<std::byte *>(target), args);
    std::vector<std::int64_t> places = call.indices.places;
    args.slots = args.cache_offsets = places.data();
    kvappend_plan *plan = nullptr;
    require(kvappend_plan_create(&descriptor, nullptr, &plan));
    const kvappend_status status = kvappend_plan_run(plan, &args, nullptr, 0, nullptr);
    kvappend_plan_destroy(plan);
    require(status);
}

Expected expect(const Call &call, const std::vector<unsigned char> &contents, std::size_t source_at,
                std::size_t target_at) {
    const Workload &workload = call.workload;
    Expected expected;
    expected.in_places.resize(std::max(workload.target_bytes(), workload.written_bytes) + slack);
    expected.in_one_piece = expected.in_places;
    const auto from = contents.begin() + static_cast<std::ptrdiff_t>(source_at);
    if (workload.converts) {
        convert_on_host(call, contents.data() + source_at, expected.in_places.data() + target_at);
        std::copy_n(from, workload.written_bytes,
                    expected.in_one_piece.begin() + static_cast<std::ptrdiff_t>(target_at));
        return expected;
    }
    std::size_t bytes = 0;
    for (const Piece &piece : call.pieces) {
        std::copy_n(from + static_cast<std::ptrdiff_t>(piece.from), piece.bytes,
                    expected.in_places.begin() + static_cast<std::ptrdiff_t>(target_at + piece.to));
        bytes += piece.bytes;
    }
    if (bytes != workload.written_bytes) {
        throw std::runtime_error("the pieces are " + std::to_string(bytes) + " bytes, but the workload says " +
                                 std::to_string(workload.written_bytes));
    }
    std::copy_n(from, bytes, expected.in_one_piece.begin() + static_cast<std::ptrdiff_t>(target_at));
    return expected;
}

// By cudaMemcpyBatchAsync, where the runtime and the driver know it and the pieces are not too many.
std::unique_ptr<Competitor> make_batch([[maybe_unused]] const Call &call, [[maybe_unused]] const Track &track,
                                       [[maybe_unused]] std::size_t most_pieces) {
#if CUDART_VERSION >= 12080
    if (call.pieces.size() <= most_pieces) {
        auto batch = std::make_unique<Batch>(call);
        bool able = true;
        try {
            batch->enqueue(track.stream());
        } catch (const CudaError &) { // A driver may be older than the runtime, and not know it.
            able = false;
        }
        track.wait();
        if (able) {
            return batch;
        }
    }
#endif
    return nullptr;
}

// `with_layers`: also the library with one launch for several layers, in device memory.
std::vector<Entrant> make_entrants(const Call &call, const Track &track, bool with_layers, std::size_t most_pieces) {
    std::vector<Entrant> entrants;
    const bool copies = !call.workload.converts;
    const auto enter = [&](const char *name, std::unique_ptr<Competitor> competitor) {
        entrants.emplace_back();
        entrants.back().name = name;
        entrants.back().competitor = std::move(competitor);
    };
    enter("library", std::make_unique<Library>(call));
    enter("memcpy", std::make_unique<OnePiece>(call));
    if (copies) {
        enter("elements", std::make_unique<Elements>(call));
    }
    enter("empty", std::make_unique<Nothing>());
    enter("programmatic", std::make_unique<Library>(call, KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH));
    if (with_layers && Layers::bytes_for(call.workload) <= most_layers_bytes) {
        enter("layers", std::make_unique<Layers>(call));
        entrants.back().appends = Layers::count;
    }
    if (auto batch = copies ? make_batch(call, track, most_pieces) : nullptr) {
        enter("batch", std::move(batch));
    }
    return entrants;
}

// Chooses how many calls are timed together, and captures them in a graph.
void prepare(Entrant &entrant, Track &track, bool cold, const Settings &settings) {
    Competitor &competitor = *entrant.competitor;
    track.in_stream(competitor, false, 1); // A first call may be slower.
    const double seconds = track.in_stream(competitor, false, std::min(4, settings.most_calls));
    const int most = cold ? std::min(10, settings.most_calls) : settings.most_calls;
    entrant.calls = static_cast<int>(std::clamp(settings.seconds / seconds, 1.0, static_cast<double>(most)));
    try {
        entrant.graph = track.capture(competitor, cold, entrant.calls);
    } catch (const CudaError &) {
        if (entrant.name != "batch") { // CUDA does not promise that a batch can be captured.
            throw;
        }
    }
}

} // namespace

Result Session::measure(const Configuration &configuration) {
    Device &device = *device_;
    Track &track = device.track;
    const bool cold = configuration.cold;
    Workload workload = make_workload(configuration, settings_.cache_bytes);
    workload.descriptor.backend = KVAPPEND_BACKEND_CUDA;
    const Indices indices = make_indices(workload, *configuration.step, device.random);
    const std::size_t element = workload.element_bytes;
    const std::size_t source_at = configuration.aligned ? 0 : element;
    const std::size_t target_at = configuration.aligned ? 0 : 2 * element;
    const Call call(workload, indices, static_cast<std::byte *>(device.source.get()) + source_at,
                    static_cast<std::byte *>(device.target_of(configuration)) + target_at);
    const Expected expected = expect(call, device.contents, source_at, target_at);
    std::vector<Entrant> entrants = make_entrants(call, track, !cold && !configuration.pinned, settings_.most_pieces);
    for (Entrant &entrant : entrants) {
        if (entrant.name != "empty") {
            device.prove(*entrant.competitor, call, device.target_of(configuration),
                         entrant.name == "memcpy" ? expected.in_one_piece : expected.in_places, entrant.name.c_str());
        }
        prepare(entrant, track, cold, settings_);
    }

    const auto &library = static_cast<const Library &>(*entrants.front().competitor);
    Result result{library.kernel(), workload.written_bytes, call.pieces.size(), {}, {}};
    std::vector<std::size_t> order(entrants.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (int repetition = 0; repetition < settings_.repetitions; ++repetition) {
        std::shuffle(order.begin(), order.end(), device.random);
        for (const std::size_t at : order) {
            Entrant &entrant = entrants[at];
            result.in_stream[entrant.name].push_back(1e9 / entrant.appends *
                                                     track.in_stream(*entrant.competitor, cold, entrant.calls));
            if (entrant.graph.get() != nullptr) {
                result.by_graph[entrant.name].push_back(1e9 / entrant.appends *
                                                        track.by_graph(entrant.graph, cold, entrant.calls));
            }
        }
    }
    return result;
}
