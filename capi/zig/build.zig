// SPDX-License-Identifier: Apache-2.0
const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{});
    const kvappend = b.addModule("kvappend", .{
        .root_source_file = b.path("src/kvappend.zig"),
        .target = target,
        .optimize = optimize,
        .link_libc = true,
    });
    // pkg-config finds the library.
    kvappend.linkSystemLibrary("kvappend", .{});
    kvappend.addImport("c", interface(b, target, optimize));

    const tests = b.addTest(.{ .root_module = program(b, kvappend, "tests/append.zig") });
    const test_step = b.step("test", "Run the tests");
    test_step.dependOn(&b.addRunArtifact(tests).step);

    const example_step = b.step("example", "Run the example of the README");
    const quantised_step = b.step("quantised", "Run the example of a cache that stores INT8");
    for ([_]*std.Build.Step{ example_step, quantised_step }, [_][]const u8{ "append", "quantised" }) |step, name| {
        const example = b.addExecutable(.{
            .name = name,
            .root_module = program(b, kvappend, b.fmt("examples/{s}.zig", .{name})),
        });
        step.dependOn(&b.addRunArtifact(example).step);
    }
}

/// The declarations of the installed header. Zig 0.15 translates it where c.zig imports it. From Zig 0.16 on this is a
/// step of the build.
fn interface(b: *std.Build, target: std.Build.ResolvedTarget, optimize: std.builtin.OptimizeMode) *std.Build.Module {
    if (!@hasDecl(std.Build.Step.TranslateC, "linkSystemLibrary")) {
        const c = b.createModule(.{
            .root_source_file = b.path("src/c.zig"),
            .target = target,
            .optimize = optimize,
            .link_libc = true,
        });
        c.linkSystemLibrary("kvappend", .{});
        return c;
    }
    const translated = b.addTranslateC(.{
        .root_source_file = b.path("src/c.h"),
        .target = target,
        .optimize = optimize,
    });
    translated.linkSystemLibrary("kvappend", .{});
    return translated.createModule();
}

fn program(b: *std.Build, kvappend: *std.Build.Module, path: []const u8) *std.Build.Module {
    return b.createModule(.{
        .root_source_file = b.path(path),
        .target = kvappend.resolved_target,
        .optimize = kvappend.optimize,
        .imports = &.{.{ .name = "kvappend", .module = kvappend }},
    });
}
