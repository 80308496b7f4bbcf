// SPDX-License-Identifier: Apache-2.0
// Runs the suite, or skips it as a whole, saying so, where its backend is absent. Catch2 prints the random seed.
#include "subject.hpp"

#include <catch2/catch_session.hpp>

#include <exception>
#include <iostream>

int main(int argc, char **argv) {
    try {
        subject();
    } catch (const std::exception &absent) {
        std::cout << "skipped: " << absent.what() << '\n';
        return 77; // Meson's and Automake's code for a skipped test
    }
    return Catch::Session().run(argc, argv);
}
