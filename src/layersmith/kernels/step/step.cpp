// A whole pre-norm layer for one token: see __init__.py. What stands between the products stays in the nearest cache.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <vector>

#include "attend.h"
#include "gate_row.h"
#include "rms_row.h"
#include "rows_of.h"

namespace layersmith {
namespace {

// The tensors of a norm or of a linear map; the last is the bias, if there is one.
using Held = c10::List<std::optional<at::Tensor>>;

// The numbers of `kernels/row_form.py`.
enum Form { FLOATS, BYTES, HALVES, HALVES_INT8, INT8 };

// A linear map as it is given, and how many numbers it takes and gives.
struct Map {
  Form form;
  std::vector<at::Tensor> stored;
  std::optional<at::Tensor> bias;
  int64_t in, out;

  Map(int64_t form_, const Held& held) : form(static_cast<Form>(form_)), bias(held.get(held.size() - 1)) {
    TORCH_CHECK(FLOATS <= form_ && form_ <= INT8, "series_step: there is no form ", form_);
    const size_t wanted = form == FLOATS ? 2 : form == INT8 ? 3 : 4;
    TORCH_CHECK(held.size() == wanted, "series_step: a map of form ", form_, " consists of ", wanted, " tensors");
    for (size_t i = 0; i + 1 < held.size(); ++i) stored.push_back(held.get(i).value());
    out = stored[0].size(0), in = stored[0].size(1) * (form == HALVES || form == HALVES_INT8 ? 2 : 1);
  }

  // y = W x + b, and with `onto` that added to it.
  void operator()(const float* x, const float* onto, float* y) const {
    switch (form) {
      case FLOATS: return product(FloatRows(stored[0]), x, bias, onto, y);
      case BYTES: return product(ByteRows(stored[0], stored[1], stored[2]), x, bias, onto, y);
      case HALVES: return product(HalfRows(stored[0], stored[1], stored[2]), x, bias, onto, y);
      case HALVES_INT8: return product(HalfRowsInt8(stored[0], stored[1], stored[2]), x, bias, onto, y);
      case INT8: return product(Int8Rows(stored[0], stored[1]), x, bias, onto, y);
    }
  }
};

struct Norm {
  at::Tensor weight;
  std::optional<at::Tensor> bias;
  double eps;
  float added;

  Norm(const Held& held, double eps_, bool offset)
      : weight(held.get(0).value()), bias(held.get(1)), eps(eps_), added(offset ? 1.0f : 0.0f) {}

  void operator()(const float* x, std::vector<float>& y) const {
    const int64_t channels = y.size();
    TORCH_CHECK(weight.numel() == channels && (!bias || bias->numel() == channels), "series_step: a norm's sizes");
    const float* pb = bias ? bias->const_data_ptr<float>() : nullptr;
    rms_row(x, weight.const_data_ptr<float>(), pb, eps, added, channels, y.data());
  }
};

at::Tensor series_step(
    const at::Tensor& x,
    const Held& norm_,
    const Held& qkv_,
    const Held& o_,
    const Held& ffn_norm_,
    const Held& gate_up_,
    const Held& down_,
    at::IntArrayRef forms,
    at::ArrayRef<double> eps,
    std::array<bool, 2> offset,
    const std::optional<at::Tensor>& table,
    int64_t position,
    const at::Tensor& keys,
    const at::Tensor& values,
    int64_t slots,
    int64_t heads,
    double scale,
    bool interleaved) {
  TORCH_CHECK(forms.size() == 4 && eps.size() == 2, "series_step: four forms and two eps");
  const Norm norm(norm_, eps[0], offset[0]), ffn_norm(ffn_norm_, eps[1], offset[1]);
  const Map qkv(forms[0], qkv_), o(forms[1], o_), gate_up(forms[2], gate_up_), down(forms[3], down_);
  const int64_t width = x.numel(), head = keys.size(3);
  TORCH_CHECK(qkv.in == width && qkv.out == (heads + 2 * keys.size(1)) * head, "series_step: sizes of q, k, v");
  TORCH_CHECK(o.in == heads * head && o.out == width, "series_step: sizes of the attention's output");
  TORCH_CHECK(gate_up.in == width && gate_up.out == 2 * down.in && down.out == width, "series_step: sizes of the GLU");
  at::Tensor y = at::empty_like(x);
  const float* px = x.const_data_ptr<float>();
  std::vector<float> normed(width), row(std::max(qkv.out, gate_up.out)), inner(std::max(o.in, down.in)), h(width);

  norm(px, normed);
  qkv(normed.data(), nullptr, row.data());
  attend(row.data(), table, position, keys, values, slots, heads, scale, interleaved, inner.data());
  o(inner.data(), px, h.data());

  ffn_norm(h.data(), normed);
  gate_up(normed.data(), nullptr, row.data());
  silu_gate_row(row.data(), down.in, inner.data());
  down(inner.data(), h.data(), y.mutable_data_ptr<float>());
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("series_step", series_step);
}

}  // namespace layersmith
