# SPDX-License-Identifier: Apache-2.0
"""The library as a Conan 2 package, of the tree that this file lies in: `conan create capi/packaging`. It is built with
the Meson and Ninja, and for the option `cuda` the CUDA toolkit, that the machine has."""

import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout
from conan.tools.meson import Meson, MesonToolchain


class Kvappend(ConanFile):
    name = "kvappend"
    description = "Appends K and V rows to the KV caches of LLM runtimes"
    license = "Apache-2.0"
    package_type = "shared-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"cuda": [True, False]}
    default_options = {"cuda": False}

    def _root(self):
        return os.path.join(self.recipe_folder, "../..")

    def set_version(self):
        # meson.build states the same, or does not configure.
        text = load(self, os.path.join(self._root(), "include/kvappend/version.h"))
        self.version = ".".join(re.findall(r"^#define KVAPPEND_VERSION_[MP][A-Z]* (\d+)$", text, re.MULTILINE))

    def export_sources(self):
        copy(self, "*", self._root(), self.export_sources_folder, excludes=("build*", ".git", ".git/*"))

    def configure(self):
        # Programs meet the C interface only, so their standard and their C++ library do not matter.
        self.settings.rm_safe("compiler.cppstd")
        self.settings.rm_safe("compiler.libcxx")

    def validate(self):
        if self.settings.os != "Linux" or self.settings.arch not in ("x86_64", "armv8"):
            raise ConanInvalidConfiguration("kvappend is for Linux on 64-bit processors")

    def layout(self):
        basic_layout(self)

    def generate(self):
        toolchain = MesonToolchain(self)
        toolchain.project_options.update({"tests": "disabled", "bench": "disabled", "docs": "disabled",
                                          "cuda": "enabled" if self.options.cuda else "disabled"})
        toolchain.generate()

    def build(self):
        meson = Meson(self)
        meson.configure()
        meson.build()

    def package(self):
        Meson(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.libs = ["kvappend"]
        self.cpp_info.set_property("cmake_file_name", "kvappend")
        self.cpp_info.set_property("cmake_target_name", "kvappend::kvappend")
        self.cpp_info.set_property("pkg_config_name", "kvappend")
