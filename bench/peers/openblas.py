#!/usr/bin/env python3
"""Measures OpenBLAS's single precision products: the library that NumPy's or SciPy's wheel brings.

usage: openblas.py OP,M,N,K ...

OP is NN, TN or NT: C[M x N] = A B with A and B as they are, A transposed, or B transposed, row-major.
Prints a JSON line for each: op, m, n, k, gflops (the best of several runs, by the processor time of one
thread), core (the kernels that OpenBLAS chose) and version. OPENBLAS_CORETYPE=SkylakeX forces those for
AVX-512, Haswell those for AVX2.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import ctypes
import glob
import importlib.util
import json
import sys
import time

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def library():
    """Returns the loaded library with the prefix and suffix of its names."""
    for package in ("numpy", "scipy"):
        found = importlib.util.find_spec(package)
        if found is None or not found.origin:
            continue
        beside = os.path.dirname(os.path.dirname(found.origin))
        for path in glob.glob(os.path.join(beside, package + ".libs", "lib*openblas*")):
            importlib.import_module(package)  # loads what the library itself needs
            lib = ctypes.CDLL(path)
            for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
                if hasattr(lib, prefix + "cblas_sgemm" + suffix):
                    return lib, prefix, suffix
    sys.exit("openblas.py: no OpenBLAS beside numpy or scipy; install the numpy wheel from PyPI")


def text(lib, name):
    function = getattr(lib, name)
    function.restype = ctypes.c_char_p
    return function().decode()


def main(arguments):
    lib, prefix, suffix = library()
    integer = ctypes.c_int64 if suffix == "64_" else ctypes.c_int
    sgemm = getattr(lib, prefix + "cblas_sgemm" + suffix)
    number, pointer = ctypes.c_float, ctypes.c_void_p
    sgemm.argtypes = [ctypes.c_int] * 3 + [integer] * 3 + [number, pointer, integer, pointer, integer, number, pointer, integer]
    sgemm.restype = None
    core = text(lib, prefix + "openblas_get_corename" + suffix)
    version = " ".join(text(lib, prefix + "openblas_get_config" + suffix).split()[:2])
    for argument in arguments:
        op, *sizes = argument.split(",")
        m, n, k = map(int, sizes)
        if op not in ("NN", "TN", "NT"):
            sys.exit("openblas.py: %s: the product is NN, TN or NT" % argument)
        filled = [(ctypes.c_float * size)(*(((i * 2654435761) % 1000) / 500 - 1 for i in range(size))) for size in (m * k, k * n, m * n)]
        a, b, c = (ctypes.addressof(x) for x in filled)
        ta, lda = (TRANSPOSED, m) if op == "TN" else (PLAIN, k)
        tb, ldb = (TRANSPOSED, k) if op == "NT" else (PLAIN, n)

        def once():
            sgemm(ROW_MAJOR, ta, tb, m, n, k, 1.0, a, lda, b, ldb, 0.0, c, n)

        once()
        flop, best = 2.0 * m * n * k, 0.0
        for _ in range(7):
            runs, began = 0, time.thread_time()
            while time.thread_time() - began < 0.02:
                once()
                runs += 1
            best = max(best, flop * runs / (time.thread_time() - began) / 1e9)
        print(json.dumps({"op": op, "m": m, "n": n, "k": k, "gflops": round(best, 1), "core": core, "version": version}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
