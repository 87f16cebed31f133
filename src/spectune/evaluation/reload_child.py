"""The reload proof's child: a program that loads an adapter as any user of PEFT would, and generates.

    python -P reload_child.py REQUEST.json

It imports the standard library, torch, transformers and peft, never spectune; what it shares with the live run (how a
base is loaded, how rows are batched) comes from `bases.py` and `decoding.py` beside it, loaded by path. The request and
the answer are JSON (`reload.py` writes the one and reads the other). Any failure ends with one line on standard error
and status 1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


def load_neighbour(name: str) -> ModuleType:
    """`NAME.py` as a module of its own, outside any package."""
    spec = importlib.util.spec_from_file_location(f"shared_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"{name}.py is not beside reload_child.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generate(request: dict[str, Any]) -> list[str]:
    """Predictions of the adapter in `request["adapter"]` for `request["texts"]`, with plain PEFT."""
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoTokenizer, GenerationConfig

    decoding = load_neighbour("decoding")
    torch.set_num_threads(request["threads"])
    torch.set_float32_matmul_precision(request["float32_matmul_precision"])
    adapter, trusted = request["adapter"], request["trust_remote_code"]
    config = PeftConfig.from_pretrained(adapter)
    base = load_neighbour("bases").load_base(
        config.base_model_name_or_path,
        revision=config.revision,
        dtype=getattr(torch, request["dtype"]),
        device=request["device"],
        quantization=request["quantization"],
        trust_remote_code=trusted,
        spread=request["spread"],
    )
    model = PeftModel.from_pretrained(base, adapter, config=config)
    tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=trusted)
    encoded = tokenizer(request["texts"], truncation=True, max_length=request["max_source_length"])
    texts: list[str] = decoding.generate_texts(
        model,
        tokenizer,
        encoded["input_ids"],
        GenerationConfig.from_pretrained(adapter),
        batch_size=request["batch_size"],
    )
    return texts


def spectune_modules() -> list[str]:
    """Names of loaded modules that belong to spectune; must be none."""
    return sorted(name for name in sys.modules if name.split(".")[0] == "spectune")


def summary_line(error: BaseException) -> str:
    """The error on one line: its type and the first line of its message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def main(request_path: str) -> int:
    """Answer the request; 0 when an answer was written."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    try:
        predictions = generate(request)
        intruders = spectune_modules()
        if intruders:
            raise ImportError(f"the reload child imported {', '.join(intruders)}")
    except Exception as error:
        traceback.print_exc()
        print(summary_line(error), file=sys.stderr)
        return 1
    versions = {name: sys.modules[name].__version__ for name in ("torch", "transformers", "peft")}
    answer = {"predictions": predictions, "spectune_modules": intruders, "versions": versions}
    partial = Path(request["answer"] + ".partial")
    partial.write_text(json.dumps(answer, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, request["answer"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
