// SPDX-License-Identifier: Apache-2.0
// Handles that are numbers in the guise of pointers. No number is given twice, so a handle that was destroyed is always
// noticed, and nobody can look behind one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

namespace emulation::internal {

template <typename Handle, typename Object>
class Handles {
public:
    Handle add(std::shared_ptr<Object> object) {
        const std::unique_lock lock(mutex_);
        next_ += 16;
        objects_.emplace(next_, std::move(object));
        return reinterpret_cast<Handle>(next_);
    }
    // Empty when there is no such object (any more).
    std::shared_ptr<Object> find(Handle handle) {
        const std::shared_lock lock(mutex_);
        const auto found = objects_.find(reinterpret_cast<std::uintptr_t>(handle));
        return found == objects_.end() ? nullptr : found->second;
    }
    bool remove(Handle handle) {
        const std::unique_lock lock(mutex_);
        return objects_.erase(reinterpret_cast<std::uintptr_t>(handle)) != 0;
    }
    std::vector<std::shared_ptr<Object>> all() {
        const std::shared_lock lock(mutex_);
        std::vector<std::shared_ptr<Object>> objects;
        for (const auto &entry : objects_) {
            objects.push_back(entry.second);
        }
        return objects;
    }

private:
    std::shared_mutex mutex_;
    std::map<std::uintptr_t, std::shared_ptr<Object>> objects_;
    std::uintptr_t next_ = 0x1000;
};

} // namespace emulation::internal
