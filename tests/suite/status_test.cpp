// SPDX-License-Identifier: Apache-2.0
// The thread's last error by itself: no call of the library has a message as long as these.
#include "../../src/status.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <string>

TEST_CASE("a message that is too long is cut off after 511 characters", "[status]") {
    for (const std::size_t length : {510U, 511U, 512U, 513U, 5000U}) {
        std::string message;
        for (std::size_t i = 0; i < length; ++i) {
            message += static_cast<char>('a' + i % 23);
        }
        CHECK(kvappend::fail(KVAPPEND_ERROR_EXTENT, "%s", message.c_str()) == KVAPPEND_ERROR_EXTENT);
        const char *const kept = kvappend::last_error_message();
        CHECK(std::memchr(kept, 0, 512) != nullptr);
        CHECK(std::string(kept) == message.substr(0, 511));

        CHECK(kvappend::fail_in_layer(KVAPPEND_ERROR_STRIDE, 7) == KVAPPEND_ERROR_STRIDE);
        CHECK(std::string(kept) == ("layer 7: " + message.substr(0, 511)).substr(0, 511));
    }
    CHECK(kvappend::fail(KVAPPEND_ERROR_EXTENT, "short") == KVAPPEND_ERROR_EXTENT);
    CHECK(std::string(kvappend::last_error_message()) == "short");
}
