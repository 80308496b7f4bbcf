# SPDX-License-Identifier: Apache-2.0
"""A project that takes the library from Conan, and finds it as it would find an installed copy: by CMake."""

import os

from conan import ConanFile
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout


class Consumer(ConanFile):
    settings = "os", "arch", "compiler", "build_type"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeToolchain(self, generator="Ninja").generate()
        CMakeDeps(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure(build_script_folder=os.path.join(self.recipe_folder, "../cmake"))
        cmake.build()

    def test(self):
        self.run(f"ctest --test-dir '{self.build_folder}' --output-on-failure --no-tests=error", env="conanrun")
