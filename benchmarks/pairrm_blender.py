"""llm-blender 0.0.2 at the work of benchmarks/pairrm.py, in an environment of its own: it wants an older transformers.

Reads questions from a file, then batch sizes from its input, one a line; answers each with a line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import llm_blender  # pyright: ignore[reportMissingImports] - not of this environment
import torch


def main(folder: str, questions: str, threads: str, device: str) -> None:
    """Scores all pairs in one order each, as often as it is asked."""
    torch.set_num_threads(int(threads))
    blender = llm_blender.Blender()
    blender.loadranker(folder, device=device, model_name=f"{folder}/backbone")
    prompts, first, second = json.loads(Path(questions).read_text(encoding="utf-8"))
    for line in sys.stdin:
        start = time.perf_counter()
        logits = blender.compare(
            prompts, first, second, batch_size=int(line), return_logits=True, mode="[A,B]", disable_tqdm=True
        )
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "logits": logits.reshape(-1).tolist()}
        print(f"ANSWER {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
