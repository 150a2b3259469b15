"""As much of vLLM's names as the child calls, without a model: a reply follows from its seed and from the weights.

FAKE_VLLM says what goes wrong: "small" (no memory for the cache), "die" (in the middle of a batch), "hang" (there),
"no adapters" (of this model), "lost" (an adapter's layers have other names).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

TokensPrompt = dict


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    def __init__(self, model, **options):
        print("vLLM talks on standard output, too")
        print(f"started on {model} with {sorted(options.items())}", file=sys.stderr)
        if os.environ.get("FAKE_VLLM") == "small":
            raise ValueError("To serve at least one request,\nmore KV cache is needed")
        if os.environ.get("FAKE_VLLM") == "no adapters" and "enable_lora" in options:
            raise ValueError("FakeForCausalLM does not support LoRA yet.")
        self._weights, self._adapters = 0, {}
        config = SimpleNamespace(max_model_len=256)
        self.llm_engine = SimpleNamespace(model_config=config, add_lora=self._add_adapter)
        held = SimpleNamespace(loras={"model.layers.0.q_proj": None})
        layers = {} if os.environ.get("FAKE_VLLM") == "lost" else held.loras
        manager = SimpleNamespace(get_adapter=lambda number: held, modules=layers)
        runner = SimpleNamespace(
            reload_weights=self._reload,
            get_model=lambda: SimpleNamespace(modules=list),
            lora_manager=SimpleNamespace(_adapter_manager=manager),
        )
        self._worker = SimpleNamespace(model_runner=runner)

    def collective_rpc(self, function, args):
        return [function(self._worker, *args)]

    def _reload(self, weights_iterator):
        import torch

        loaded = (torch.empty_like(tensor).copy_(tensor) for _, tensor in weights_iterator)
        self._weights = sum(int(tensor.view(torch.uint8).sum()) for tensor in loaded)

    def _add_adapter(self, request):
        folder = Path(request.lora_path)
        scale = json.loads((folder / "adapter_config.json").read_text())["lora_alpha"]
        print(f"adapter {sorted(each.name for each in folder.iterdir())}", file=sys.stderr)
        self._adapters[request.lora_int_id] = sum((folder / "adapter_model.safetensors").read_bytes()) + int(7 * scale)

    def generate(self, prompts, sampling_params, use_tqdm, lora_request=None):
        self._adapter = self._adapters[lora_request.lora_int_id] if lora_request else 0
        if os.environ.get("FAKE_VLLM") == "die":
            print("RuntimeError: the device is on fire", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("FAKE_VLLM") == "hang":
            print("hanging", file=sys.stderr, flush=True)
            time.sleep(600)
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        return [self._reply(p["prompt_token_ids"], params) for p, params in zip(prompts, each, strict=True)]

    def _reply(self, prompt, params):
        if hasattr(params, "prompt_logprobs"):
            spoken = [None, *({token: SimpleNamespace(logprob=-float(token))} for token in prompt[1:])]
            return SimpleNamespace(prompt_logprobs=spoken)
        if not hasattr(params, "seed"):  # lm-eval's, which wants a text
            heat = getattr(params, "temperature", 1.0)
            return SimpleNamespace(outputs=[SimpleNamespace(text=f"{params.max_tokens} tokens at {heat}")])
        first = 3 + (params.seed + self._weights + self._adapter) % 20
        tokens = [first, first, first, params.stop_token_ids[0]][: params.max_tokens]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)])
