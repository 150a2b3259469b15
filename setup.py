"""The compiled part: one extension in plain C for every Python from 3.11 on. Everything else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "llm_expo.weights._kernel",
            ["llm_expo/weights/_kernel.c"],
            depends=["llm_expo/weights/_kernel_block.h"],
            # Contracting a * b + c into one rounding is the compiler's choice otherwise; where we want it, we say so.
            extra_compile_args=[
                "-std=c11",
                "-O3",
                "-funroll-loops",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-Wall",
                "-Wextra",
            ],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
