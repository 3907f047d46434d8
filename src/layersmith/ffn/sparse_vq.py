"""Sparse vector quantisation instead of a feed-forward: the input plus its nearest code, refined by a sparse matrix.

    z = W_in x + b_in, cut into heads;   q_h = the row of D_h nearest to z_h (Euclidean)
    y = W_out concat_h( z_h + q_h + S q_h + s ) + b_out

Shapes: x (..., D) -> z (..., heads, d_code) -> y (..., D); codebooks D (heads, codes, d_code); S (d_code, d_code) with
`keep` of its entries, shared by the heads, at places fixed when it is made. With heads * d_code = d_model there are no
maps W_in and W_out.

Training adds, through `aux_losses`, "commitment" = mean (q - z)^2 and "orthogonal" = the mean squared cosine between
codes of a head, less 1 / codes.

Paper: arXiv 2402.05830, Zhao et al. 2024, "Sparse-VQ Transformer". Confirmed in the authors' code
(Yanjun-Zhao/Sparse-VQ, layers/SVQ_block.py, SVQ_backbone.py): one nearest code per head, z + q + S q with a sparse
linear map of sparsity 0.9, 4 heads of width d_model between two projections, loss weights 1 and 0.8, no feed-forward.
(The sibling paper on spatio-temporal forecasting has another SVQ: a two-layer map whose outputs weight all codes.)
Differs from the paper: the whole gradient flows to codes and S, where their code lets the task's loss pass only z;
their commitment loss is mean (q + S q + s)^2, s the bias of S, ours pulls codes and inputs together; each output of S
has as many entries; codes start larger. Their layer puts this before its attention, with one residual around both, and
drops the feed-forward; here it stands in the feed-forward's place. RevIN belongs to a forecasting model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes


class SparseVQ(FeedForward):
    """The input plus its nearest codes, refined by a sparse map.

    d_model        width of the residual stream
    codes          codes in each head's codebook
    heads          codebooks, each reading its own part of z
    d_code         width of a code; None: d_model
    keep           share of the entries of S that exist, in (0, 1]
    commitment, orthogonal   weights of the two losses (0: not reported)
    """

    name = "sparse_vq"

    places: Tensor

    def __init__(
        self,
        d_model: int,
        codes: int,
        heads: int = 4,
        d_code: int | None = None,
        keep: float = 0.1,
        commitment: float = 1.0,
        orthogonal: float = 0.8,
    ):
        super().__init__()
        d_code = d_model if d_code is None else d_code
        require_positive(SparseVQ, d_model=d_model, codes=codes, heads=heads, d_code=d_code)
        if not 0 < keep <= 1:
            raise ValueError(f"SparseVQ: keep must lie in (0, 1], not {keep!r}.")
        if not (commitment >= 0 and orthogonal >= 0):
            raise ValueError(f"SparseVQ: commitment={commitment!r} and orthogonal={orthogonal!r} must be at least 0.")
        self.commitment, self.orthogonal = commitment, orthogonal
        width = heads * d_code
        self.project_in = nn.Identity() if width == d_model else nn.Linear(d_model, width)
        self.project_out = nn.Identity() if width == d_model else nn.Linear(width, d_model)
        self.codebook = nn.Parameter(torch.empty(heads, codes, d_code))
        entries = max(1, round(keep * d_code))
        self.sparse = nn.Parameter(torch.empty(d_code, entries))
        self.shift = nn.Parameter(torch.empty(d_code))
        self.register_buffer("places", torch.rand(d_code, d_code).argsort(1)[:, :entries].sort(1).values)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.project_in, self.project_out):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        bound = self.sparse.shape[0] ** -0.5  # as if all entries were there
        nn.init.uniform_(self.sparse, -bound, bound)
        nn.init.uniform_(self.shift, -bound, bound)
        nn.init.normal_(self.codebook, std=self.codebook.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        heads, codes, d_code = self.codebook.shape
        tokens = x.reshape(-1, x.shape[-1])
        z = self.project_in(tokens).unflatten(-1, (heads, d_code)).transpose(0, 1)
        book = self.codebook.to(z.dtype)
        with torch.no_grad():  # |z - d|^2 = |d|^2 - 2 z.d + what does not depend on d
            distance = book.square().sum(-1)[:, None] - 2 * torch.bmm(z, book.transpose(1, 2))
            nearest = distance.argmin(-1)
        q = book.flatten(0, 1)[nearest + codes * torch.arange(heads, device=x.device)[:, None]]
        if self.training:
            self._report(z, q)
        y = z + q + F.linear(q, self.sparse_map().to(q.dtype), self.shift.to(q.dtype))
        return self.project_out(y.transpose(0, 1).flatten(1)).reshape(x.shape)

    def sparse_map(self) -> Tensor:
        """S as a matrix, (d_code, d_code)."""
        size = self.sparse.shape[0]
        return self.sparse.new_zeros(size, size).scatter(1, self.places, self.sparse)

    def _report(self, z: Tensor, q: Tensor) -> None:
        if self.commitment > 0:
            report_aux(self, "commitment", self.commitment * F.mse_loss(q, z))
        if self.orthogonal > 0:
            heads, codes, _ = self.codebook.shape
            directions = F.normalize(self.codebook, dim=-1)
            cosines = torch.bmm(directions, directions.transpose(1, 2))
            loss = cosines.square().sum() / (heads * codes**2) - 1 / codes
            report_aux(self, "orthogonal", self.orthogonal * loss)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        return Cost(
            params=params,
            active_params=params,  # every code is compared with the input
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
