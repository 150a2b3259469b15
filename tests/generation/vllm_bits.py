"""Run under vLLM's Python by test_vllm.py: hashes of what vLLM holds, as it loads a model and after moves of it.

On a CPU, vLLM packs the weights of linear layers and lets go of them; so they are hashed as they are packed.
"""

import hashlib
import importlib.util
import json
import os
import sys


def main():
    child, model, kernel, dtype, moves = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("vllm_child", child)
    vllm_child = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vllm_child)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import torch
    from vllm.model_executor.layers import utils

    def digest(tensor):
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        return f"{list(tensor.shape)} {tensor.dtype} {hashlib.sha256(raw.data).hexdigest()}"

    packed, pack = {}, utils.dispatch_cpu_unquantized_gemm

    def noted(layer, remove_weight):
        packed[layer] = digest(layer.weight)
        pack(layer, remove_weight)

    def held(worker):
        loaded = worker.model_runner.get_model()
        names = {name: packed[layer] for name, layer in loaded.named_modules() if layer in packed}
        whole = {name: digest(tensor) for name, tensor in loaded.named_parameters() if tensor.numel()}
        return {**names, **whole}

    utils.dispatch_cpu_unquantized_gemm = noted
    engine = vllm_child.Engine(model, kernel, {"dtype": dtype, "max_model_len": 256})
    found = []
    for steps in json.loads(sys.stdin.read()) if moves == "moves" else [None]:
        if steps is not None:
            packed.clear()
            engine.move(steps)
        found += engine._llm.collective_rpc(held)
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
