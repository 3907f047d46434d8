"""A writer on this machine: a causal language model of transformers, whose likeliest answer is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from layersmith import checkpoint
from layersmith.anatomy.limits import longest_input
from layersmith.errors import UserError
from layersmith.explaining.wording.writer import Unanswered, Writer
from layersmith.measuring.inputs import is_causal_lm
from layersmith.names import shown_name
from layersmith.runs.identity import tokenizer_digest, weights_digest

#: Tokens of prompt and answer together that a writer has to take.
LEAST_CONTEXT = 1024


class Local(Writer):
    """
    folder             what `layersmith.load` takes; weights stay in the dtype they are stored in
    trust_remote_code  run Python code that comes with it: never unasked
    """

    def __init__(self, folder: str, trust_remote_code: bool, device: str | None, tell: Callable[[str], None]):
        tell(f"loading {folder}, which puts features into words")
        found = checkpoint.load(folder, trust_remote_code=trust_remote_code, dtype="auto", device=device, tell=tell)
        self.model: Any = found[0]
        self.tokenizer: Any = found[1]
        self.name, self.address = shown_name(folder), None
        self.identity = {"weights": weights_digest(self.model), "tokenizer": tokenizer_digest(self.tokenizer)}

    def check(self) -> None:
        if not is_causal_lm(self.model) or self.tokenizer is None:
            raise UserError(
                f"{self.name!r} cannot put features into words: it is a {type(self.model).__name__}"
                f"{' without a tokenizer' if self.tokenizer is None else ''}, and a writer is a causal language model "
                f"with its tokenizer. Name one of these."
            )
        longest = longest_input(self.model)
        if longest is not None and longest < LEAST_CONTEXT:
            raise UserError(
                f"{self.name!r} cannot put features into words: it takes {longest} tokens at most, and a prompt with "
                f"its answer may need {LEAST_CONTEXT}. Name a model that takes more."
            )

    @torch.no_grad()
    def ask(self, prompt: str, most: int) -> str:
        inputs = self._tokens(prompt).to(self.model.device)
        length = inputs["input_ids"].shape[1]
        longest = longest_input(self.model)
        if longest is not None and length + most > longest:
            raise Unanswered(f"the prompt is too long: with its answer {length + most} tokens, and it takes {longest}")
        written = self.model.generate(**inputs, max_new_tokens=most, do_sample=False)
        return str(self.tokenizer.decode(written[0, length:], skip_special_tokens=True))

    def _tokens(self, prompt: str) -> Any:
        """The prompt as this model is used to be asked: by its chat template, where it has one."""
        if not self.tokenizer.chat_template:
            return self.tokenizer(prompt, return_tensors="pt")
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            enable_thinking=False,  # a variable of some templates; others do not know it
        )
