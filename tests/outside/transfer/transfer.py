#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a prefill process and a decode process on the loopback interface, in both formats. The bytes and the logits must
be those of one process. If either process dies, the other process must report it and end, and no row may be appended.
Prints the throughput."""

import os
import re
import signal
import subprocess
import sys

ADDRESS = "127.0.0.1"
# 4 layers, 8 heads, 300 rows: K and V of 64 bfloat16 elements, or of 64 codes and a scale of 4 bytes.
BYTES = {"bf16": 4 * 8 * 300 * 2 * 128, "e4m3": 4 * 8 * 300 * 2 * 68}
# TCP works everywhere. The memory hooks of UCX conflict with those of sanitizers, and TCP does not need them.
ENVIRONMENT = dict(os.environ, UCX_TLS="tcp", UCX_NET_DEVICES="lo", UCX_MEM_EVENTS="no")
SECONDS = 240  # Each wait of a process ends after 60 seconds, and a process has few waits.


def start(*arguments):
    return subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_decode(program, mode, *arguments):
    process = start(program, "decode", mode, ADDRESS, *arguments)
    for line in process.stdout:
        if line.startswith("port "):
            return process, line.split()[1]
    raise AssertionError(process.communicate())


def end(process):
    try:
        out, error = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{process.args} hangs: {process.communicate()}") from None
    return process.returncode, out, error


def check_transfer(program, mode):
    decode, port = start_decode(program, mode)
    prefill = end(start(program, "prefill", mode, ADDRESS, port))
    decode = end(decode)
    assert prefill[0] == 0 and decode[0] == 0, (prefill, decode)
    arrived = f"{mode}: {BYTES[mode]} bytes arrived, and the caches and the logits of 20 steps are those of one process"
    assert arrived in decode[1].splitlines(), decode
    rates = re.search(rf"^{mode}: .* GB/s .*, ratio [\d.]+$", prefill[1], re.MULTILINE)
    assert rates, prefill
    print(arrived, rates.group(), sep="\n")


def check_death_of_prefill(program, mode):
    """When it dies, all rows of the first rank are in the staging buffer, and half of those of the second rank."""
    decode, port = start_decode(program, mode)
    prefill = end(start(program, "prefill", mode, ADDRESS, port, "dies"))
    assert prefill[0] == -signal.SIGKILL, prefill
    status, out, error = end(decode)
    assert status == 1 and "arrived" not in out, (status, out, error)
    failure = re.search(r"^transfer failed: there is no connection to the other process: .*; nothing was appended$",
                        error, re.MULTILINE)
    assert failure, error
    print(f"{mode}, after the death of prefill: {failure.group()}")


def check_death_of_decode(program, mode):
    decode, port = start_decode(program, mode)
    decode.send_signal(signal.SIGSTOP)  # It does not answer before it dies.
    prefill = start(program, "prefill", mode, ADDRESS, port)
    try:
        prefill.wait(timeout=3)
    except subprocess.TimeoutExpired:
        pass
    decode.kill()
    end(decode)
    status, _, error = end(prefill)
    failure = re.search(r"^transfer failed: .*$", error, re.MULTILINE)
    assert status == 1 and failure, (status, error)
    print(f"{mode}, after the death of decode: {failure.group()}")


def check_death_of_decode_in_put(program, mode):
    """It dies when it has the first bytes of the put."""
    decode, port = start_decode(program, mode, "dies")
    status, out, error = end(start(program, "prefill", mode, ADDRESS, port))
    decode = end(decode)
    assert decode[0] == -signal.SIGKILL, decode
    failure = re.search(r"^transfer failed: there is no connection to the other process: .*$", error, re.MULTILINE)
    assert status == 1 and failure and "GB/s" not in out, (status, out, error)
    print(f"{mode}, after the death of decode in a put: {failure.group()}")


def main():
    program = sys.argv[1]
    for mode in BYTES:
        check_transfer(program, mode)
        check_death_of_prefill(program, mode)
        check_death_of_decode_in_put(program, mode)
    check_death_of_decode(program, "bf16")


if __name__ == "__main__":
    main()
