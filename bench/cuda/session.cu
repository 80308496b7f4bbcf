// SPDX-License-Identifier: Apache-2.0
// Compiled against the CUDA runtime, or as plain C++ against the emulated one.
#include "session.hpp"

#include "turns.cuh"

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
    Device(std::size_t new_bytes, std::size_t cache_bytes)
        : track(2 * l2_bytes()), fresh(allocate(new_bytes + slack)), cache(allocate(cache_bytes + slack)),
          new_rows(new_bytes + slack) {
        // No byte is zero, as the caches are before each proof.
        std::generate(new_rows.begin(), new_rows.end(),
                      [this] { return static_cast<unsigned char>(1 + random() % 255); });
        upload(fresh.get(), new_rows);
    }

    void prove(Competitor &competitor, const Call &call, const std::vector<unsigned char> &expected, const char *name) {
        // The bytes around the caches must stay as well.
        require(cudaMemsetAsync(cache.get(), 0, expected.size(), track.stream()), "cudaMemsetAsync");
        competitor.enqueue(track.stream());
        track.wait();
        found.resize(expected.size());
        require(cudaMemcpy(found.data(), cache.get(), found.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
        if (found != expected) {
            const auto at = std::mismatch(found.begin(), found.end(), expected.begin()).first - found.begin();
            throw std::runtime_error(std::string(name) + " wrote wrong bytes: the first is " + std::to_string(at) +
                                     " behind the begin of the caches' memory, which are " +
                                     std::to_string(call.cache - static_cast<std::byte *>(cache.get())) + " behind it");
        }
    }

    Track track;
    Memory fresh, cache;
    std::minstd_rand random;
    std::vector<unsigned char> new_rows, found;
};

Session::Session(const Settings &settings, const std::vector<Case> &cases) : settings_(settings) {
    start();
    std::size_t new_bytes = 0;
    std::size_t cache_bytes = 0;
    for (const Case &c : cases) {
        const Problem problem = make_problem(*c.model, *c.layout, *c.step, settings.cache_bytes);
        new_bytes = std::max(new_bytes, problem.new_bytes);
        cache_bytes = std::max({cache_bytes, problem.cache_bytes, problem.written_bytes});
    }
    device_ = std::make_unique<Device>(new_bytes, cache_bytes);
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

Result Session::measure(const Case &c) {
    Device &device = *device_;
    Problem problem = make_problem(*c.model, *c.layout, *c.step, settings_.cache_bytes);
    problem.descriptor.backend = KVAPPEND_BACKEND_CUDA;
    const Indices indices = make_indices(problem, *c.step, device.random);
    const std::size_t element = c.model->element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2;
    const std::size_t fresh_at = c.aligned ? 0 : element;
    const std::size_t cache_at = c.aligned ? 0 : 2 * element;
    const Call call(problem, indices, static_cast<std::byte *>(device.fresh.get()) + fresh_at,
                    static_cast<std::byte *>(device.cache.get()) + cache_at);

    std::vector<unsigned char> expected(std::max(problem.cache_bytes, problem.written_bytes) + slack);
    std::vector<unsigned char> in_one_piece = expected;
    const auto new_rows = device.new_rows.begin() + static_cast<std::ptrdiff_t>(fresh_at);
    std::size_t bytes = 0;
    for (const Piece &piece : call.pieces) {
        std::copy_n(new_rows + static_cast<std::ptrdiff_t>(piece.from), piece.bytes,
                    expected.begin() + static_cast<std::ptrdiff_t>(cache_at + piece.to));
        bytes += piece.bytes;
    }
    if (bytes != problem.written_bytes) {
        throw std::runtime_error("the pieces are " + std::to_string(bytes) + " bytes, but the problem says " +
                                 std::to_string(problem.written_bytes));
    }
    std::copy_n(new_rows, bytes, in_one_piece.begin() + static_cast<std::ptrdiff_t>(cache_at));

    struct Entrant {
        std::string name;
        std::unique_ptr<Competitor> competitor;
        double appends = 1; // of one call
        int calls = 1;
        GraphExec graph;
    };
    std::vector<Entrant> entrants;
    const auto enter = [&](const char *name, std::unique_ptr<Competitor> competitor) {
        entrants.emplace_back();
        entrants.back().name = name;
        entrants.back().competitor = std::move(competitor);
    };
    auto library = std::make_unique<Library>(call);
    Result result{library->kernel(), bytes, call.pieces.size(), {}, {}};
    enter("library", std::move(library));
    enter("memcpy", std::make_unique<OnePiece>(call));
    enter("elements", std::make_unique<Elements>(call));
    enter("empty", std::make_unique<Nothing>());
    enter("programmatic", std::make_unique<Library>(call, KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH));
    if (!c.cold && Layers::bytes_for(problem) <= most_layers_bytes) {
        enter("layers", std::make_unique<Layers>(call));
        entrants.back().appends = Layers::count;
    }
#if CUDART_VERSION >= 12080
    if (call.pieces.size() <= settings_.most_pieces) {
        auto batch = std::make_unique<Batch>(call);
        bool able = true;
        try {
            batch->enqueue(device.track.stream());
        } catch (const CudaError &) { // A driver may be older than the runtime, and not know it.
            able = false;
        }
        device.track.wait();
        if (able) {
            enter("batch", std::move(batch));
        }
    }
#endif

    for (Entrant &entrant : entrants) {
        Competitor &competitor = *entrant.competitor;
        if (entrant.name != "empty") {
            device.prove(competitor, call, entrant.name == "memcpy" ? in_one_piece : expected, entrant.name.c_str());
        }
        device.track.in_stream(competitor, false, 1); // A first call may be slower.
        const double seconds = device.track.in_stream(competitor, false, std::min(4, settings_.most_calls));
        const int most = c.cold ? std::min(10, settings_.most_calls) : settings_.most_calls;
        entrant.calls = static_cast<int>(std::clamp(settings_.seconds / seconds, 1.0, static_cast<double>(most)));
        try {
            entrant.graph = device.track.capture(competitor, c.cold, entrant.calls);
        } catch (const CudaError &) {
            if (entrant.name != "batch") { // CUDA does not promise that a batch can be captured.
                throw;
            }
        }
    }
    std::vector<std::size_t> order(entrants.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (int repetition = 0; repetition < settings_.repetitions; ++repetition) {
        std::shuffle(order.begin(), order.end(), device.random);
        for (const std::size_t at : order) {
            Entrant &entrant = entrants[at];
            result.in_stream[entrant.name].push_back(
                1e9 / entrant.appends * device.track.in_stream(*entrant.competitor, c.cold, entrant.calls));
            if (entrant.graph.get() != nullptr) {
                result.by_graph[entrant.name].push_back(1e9 / entrant.appends *
                                                        device.track.by_graph(entrant.graph, c.cold, entrant.calls));
            }
        }
    }
    return result;
}
