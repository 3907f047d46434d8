"""A wide dictionary of features of which few are active for each token: transcoder, skip transcoder or autoencoder.

    f = act(W_enc (s x - c) + b_enc),     y = (f W_dec + W_skip s x + b_dec) / t

Shapes: x (..., D) -> codes f (..., F), mostly zeros -> y (..., D); W_dec (F, D), a row for each feature; s, t numbers.
A transcoder is trained to give a feed-forward's outputs from its inputs; with `skip` it has a linear path beside it. A
sparse autoencoder gives back what it reads; `centred` then takes off the decoder's bias first (c = b_dec, else c = 0).
`act` is one of `shared.sparse_codes`.

s and t (`input_scale`, `output_scale`) bring what is read and what is written to a norm of about sqrt(D), which is what
a dictionary is trained at. They are powers of two, so that they can be folded into the weights without rounding, and
they are buffers: no copy, no checkpoint is without them.

With "topk", zeros are skipped: only the rows of the active features are read, and in training only theirs get
gradients, those of the encoder too (the pre-activations are computed without a graph to find the features, then those k
again with one). "batch_topk" mixes the tokens of a batch while it is trained; in evaluation it is a threshold.

Papers: Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", arXiv 2406.11944. Confirmed in its
abstract: a wide, sparse layer trained to imitate an MLP. The linear path is from Paulo et al. 2025, "Transcoders Beat
Sparse Autoencoders for Interpretability", arXiv 2501.18823.
Differs from the paper: any of five activations, where it has ReLU with an L1 penalty; scales are part of the module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.errors import suggest
from layersmith.ffn.shared.sparse_codes import ACTIVATIONS, above, batch_topk, gated, jumprelu, largest
from layersmith.kernels.gather import rows_dot, rows_sum

#: How slowly the threshold of "batch_topk" follows that of the batches it is trained on.
MEMORY = 0.99


class SparseDictionary(FeedForward):
    """Encoder, sparse codes, decoder.

    d_model      width of what is read and of what is written
    d_features   features in the dictionary
    k            active features of each token: exactly so many at most ("topk"), so many on average ("batch_topk");
                 for the others it is what training aims at
    activation   "topk", "batch_topk", "jumprelu", "gated" or "relu"
    skip         add a linear map of the input to the output
    centred      take the decoder's bias off the (scaled) input first: for autoencoders
    bandwidth    width of the kernel in the slope of a "jumprelu" threshold, in units of the pre-activations
    """

    name = "sparse_dictionary"

    input_scale: Tensor
    output_scale: Tensor
    threshold: Tensor

    def __init__(
        self,
        d_model: int,
        d_features: int,
        k: int = 32,
        activation: str = "topk",
        skip: bool = False,
        centred: bool = False,
        bandwidth: float = 0.1,
    ):
        super().__init__()
        require_positive(SparseDictionary, d_model=d_model, d_features=d_features, k=k)
        if k > d_features:
            raise ValueError(f"SparseDictionary: k={k} active features, but there are only d_features={d_features}.")
        if activation not in ACTIVATIONS:
            near = suggest(activation, list(ACTIVATIONS))
            raise ValueError(f"SparseDictionary: unknown activation {activation!r}. {near}")
        if not bandwidth > 0:
            raise ValueError(f"SparseDictionary: bandwidth must be positive, not {bandwidth!r}.")
        self.k, self.activation, self.centred, self.bandwidth = k, activation, centred, bandwidth
        self.encoder = nn.Linear(d_model, d_features)
        self.decoder = nn.Parameter(torch.empty(d_features, d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.skip = nn.Parameter(torch.zeros(d_model, d_model)) if skip else None
        if activation == "jumprelu":
            self.threshold = nn.Parameter(torch.full((d_features,), bandwidth))
        elif activation == "batch_topk":
            self.register_buffer("threshold", torch.zeros(()))
        elif activation == "gated":
            self.log_ratio = nn.Parameter(torch.zeros(d_features))
            self.magnitude_bias = nn.Parameter(torch.zeros(d_features))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("output_scale", torch.ones(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Decoder rows of norm 1 in random directions; the encoder is their transpose, its biases zero."""
        nn.init.normal_(self.decoder)
        with torch.no_grad():
            self.decoder.copy_(F.normalize(self.decoder, dim=-1))
            self.encoder.weight.copy_(self.decoder)
            self.encoder.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        rows = self.read(x)
        if self.activation == "topk":
            values, chosen = self.top(rows)
            y = rows_sum(values, self.decoder, chosen)
        else:
            y = self.codes(rows) @ self.decoder
        return self.written(y, rows).reshape(x.shape)

    def read(self, x: Tensor) -> Tensor:
        """(..., D) as the model has it -> (N, D) as the encoder reads it."""
        return x.reshape(-1, x.shape[-1]) * self.input_scale

    def written(self, y: Tensor, rows: Tensor) -> Tensor:
        """(N, D) sums of decoder rows, and what `read` gave -> (N, D) as the model has it."""
        if self.skip is not None:
            y = y + F.linear(rows, self.skip)
        return (y + self.bias) / self.output_scale

    def top(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """For "topk": the codes that may not be zero, (N, k), and whose they are, int64 (N, k)."""
        rows = self.centre(rows)
        with torch.no_grad():
            best, chosen = largest(self.encoder(rows), self.k)
        if torch.is_grad_enabled():
            best = self.pre_at(rows, chosen)
        return F.relu(best), chosen

    def codes(self, rows: Tensor) -> Tensor:
        """All codes, (N, F), of rows as `read` gives them."""
        if self.activation == "topk":
            values, chosen = self.top(rows)
            return values.new_zeros(len(rows), len(self.decoder)).scatter(1, chosen, values)
        if self.activation == "gated":
            return self._gated(rows)
        pre = self.pre(rows)
        if self.activation == "relu":
            return F.relu(pre)
        if self.activation == "batch_topk" and self.training:
            found, smallest = batch_topk(pre, self.k)
            self._follow(smallest)
            return found
        if self.activation == "jumprelu" and self.training:
            return jumprelu(pre, self.threshold, self.bandwidth)
        return above(pre, self.threshold)

    def pre(self, rows: Tensor) -> Tensor:
        """Pre-activations, (N, F)."""
        return self.encoder(self.centre(rows))

    def pre_at(self, centred_rows: Tensor, chosen: Tensor) -> Tensor:
        """Pre-activations of chosen features only, (N, K), of rows that are centred already."""
        return rows_dot(centred_rows, self.encoder.weight, chosen) + self.encoder.bias[chosen]

    def _gated(self, rows: Tensor) -> Tensor:
        """Gate and magnitude share the encoder's directions; the magnitude has lengths and biases of its own."""
        plain = F.linear(self.centre(rows), self.encoder.weight)
        return gated(plain + self.encoder.bias, plain * self.log_ratio.exp() + self.magnitude_bias)

    def centre(self, rows: Tensor) -> Tensor:
        """What the encoder multiplies: the rows, less the decoder's bias if `centred`."""
        return rows - self.bias if self.centred else rows

    @torch.no_grad()
    def _follow(self, smallest: Tensor) -> None:
        first = self.threshold == 0
        self.threshold.copy_(torch.where(first, smallest, self.threshold.lerp(smallest, 1 - MEMORY)))

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        unread = len(self.decoder) - self.k if self.activation == "topk" else 0
        return Cost(
            params=params,
            active_params=params - unread * self.decoder.shape[1],
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
