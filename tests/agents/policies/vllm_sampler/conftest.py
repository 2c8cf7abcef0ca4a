"""vLLM's runner of GPUs without a GPU: if Triton interprets its kernels, vLLM is shown a backend for the CPU."""

import os
from types import SimpleNamespace

if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.backends import backends  # pyright: ignore[reportMissingImports] - comes with vLLM

    backends.setdefault("cpu", SimpleNamespace(driver=object()))
