#include "kernels/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <Eigen/Core>

namespace rehearse::kernels {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Strided = Eigen::Map<Matrix, 0, Eigen::OuterStride<>>;
using ConstStrided = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;

constexpr int64_t kRows = 64;  // query rows at a time: the causal half above them is never computed

// One head of one sequence: where its pieces lie.
struct Head {
  Head(const AttentionShape& s, int64_t sequence, int64_t head)
      : first(sequence * s.length),
        q_offset(first * s.heads * s.qk() + head * s.qk()),
        kv_offset(first * s.kv_width() + head / (s.heads / s.keys()) * (s.qk_nope + s.v_head)),
        o_offset(first * s.heads * s.v_head + head * s.v_head),
        q_stride(s.heads * s.qk()),
        kv_stride(s.kv_width()),
        o_stride(s.heads * s.v_head) {}
  int64_t first;
  int64_t q_offset, kv_offset, o_offset;
  Eigen::OuterStride<> q_stride, kv_stride, o_stride;
};

// keys[length, qk] = [k_nope, k_rope] of the head.
void gather_keys(
    const AttentionShape& s, const Head& head, const float* kv, const float* k_rope, Matrix& keys) {
  for (int64_t t = 0; t < s.length; ++t) {
    const float* nope = kv + head.kv_offset + t * head.kv_stride.outer();
    float* key = keys.data() + t * s.qk();
    std::copy(nope, nope + s.qk_nope, key);
    if (s.qk_rope == 0) continue;
    const float* rope = k_rope + (head.first + t) * s.k_rope_stride;
    std::copy(rope, rope + s.qk_rope, key + s.qk_nope);
  }
}

float scale_of(const AttentionShape& s) {
  return static_cast<float>(s.softmax_factor) / std::sqrt(static_cast<float>(s.qk()));
}

}  // namespace

void attention(const AttentionShape& s,
               const float* q,
               const float* kv,
               const float* k_rope,
               float* o,
               float* lse) {
  const float scale = scale_of(s);
  Matrix keys(s.length, s.qk());
  Matrix scores(std::min(kRows, s.length), s.length);
  for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const Head head(s, sequence, h);
      gather_keys(s, head, kv, k_rope, keys);
      for (int64_t begin = 0; begin < s.length; begin += kRows) {
        const int64_t rows = std::min(kRows, s.length - begin);
        const int64_t seen = begin + rows;  // keys that some row of the block attends to
        const ConstStrided queries(
            q + head.q_offset + begin * head.q_stride.outer(), rows, s.qk(), head.q_stride);
        const ConstStrided values(kv + head.kv_offset + s.qk_nope, seen, s.v_head, head.kv_stride);
        Strided p(scores.data(), rows, seen, Eigen::OuterStride<>(s.length));
        p.noalias() = queries * keys.topRows(seen).transpose();
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t visible = begin + i + 1;
          auto row = p.row(i).head(visible).array();
          const float most = row.maxCoeff() * scale;
          row = (row * scale - most).exp();
          const float sum = row.sum();
          row *= 1.0f / sum;
          p.row(i).tail(seen - visible).setZero();
          lse[(head.first + begin + i) * s.heads + h] = most + std::log(sum);
        }
        Strided(o + head.o_offset + begin * head.o_stride.outer(), rows, s.v_head, head.o_stride)
            .noalias() = p * values;
      }
    }
  }
}

void attention_backward(const AttentionShape& s,
                        const float* d_o,
                        const float* q,
                        const float* kv,
                        const float* k_rope,
                        const float* o,
                        const float* lse,
                        const AttentionGradients& out) {
  const float scale = scale_of(s);
  Matrix keys(s.length, s.qk());
  Matrix d_keys(s.length, s.qk());
  Matrix d_values(s.length, s.v_head);
  Matrix p_buffer(std::min(kRows, s.length), s.length);
  Matrix ds_buffer(std::min(kRows, s.length), s.length);
  for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const Head head(s, sequence, h);
      const int64_t sharing = s.heads / s.keys();  // query heads of a key and value head
      if (h % sharing == 0) {
        gather_keys(s, head, kv, k_rope, keys);
        d_keys.setZero();
        d_values.setZero();
      }
      for (int64_t begin = 0; begin < s.length; begin += kRows) {
        const int64_t rows = std::min(kRows, s.length - begin);
        const int64_t seen = begin + rows;
        const auto at =
            [&](const float* base, int64_t offset, Eigen::OuterStride<> stride, int64_t width) {
              return ConstStrided(base + offset + begin * stride.outer(), rows, width, stride);
            };
        const ConstStrided queries = at(q, head.q_offset, head.q_stride, s.qk());
        const ConstStrided outputs = at(o, head.o_offset, head.o_stride, s.v_head);
        const ConstStrided d_outputs = at(d_o, head.o_offset, head.o_stride, s.v_head);
        const ConstStrided values(kv + head.kv_offset + s.qk_nope, seen, s.v_head, head.kv_stride);
        const Eigen::OuterStride<> stride(s.length);
        Strided p(p_buffer.data(), rows, seen, stride);
        Strided ds(ds_buffer.data(), rows, seen, stride);
        p.noalias() = queries * keys.topRows(seen).transpose();
        ds.noalias() = d_outputs * values.transpose();
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t visible = begin + i + 1;
          auto row = p.row(i).head(visible).array();
          row = (row * scale - lse[(head.first + begin + i) * s.heads + h]).exp();
          p.row(i).tail(seen - visible).setZero();
          // sum_u P dP = o . do
          const float delta = outputs.row(i).dot(d_outputs.row(i));
          auto d_row = ds.row(i).head(visible).array();
          d_row = row * (d_row - delta) * scale;
          ds.row(i).tail(seen - visible).setZero();
        }
        d_values.topRows(seen).noalias() += p.transpose() * d_outputs;
        d_keys.topRows(seen).noalias() += ds.transpose() * queries;
        Strided(out.dq + head.q_offset + begin * head.q_stride.outer(), rows, s.qk(), head.q_stride)
            .noalias() = ds * keys.topRows(seen);
      }
      if ((h + 1) % sharing != 0) continue;
      for (int64_t t = 0; t < s.length; ++t) {
        float* d_kv = out.dkv + head.kv_offset + t * head.kv_stride.outer();
        const float* d_key = d_keys.data() + t * s.qk();
        std::copy(d_key, d_key + s.qk_nope, d_kv);
        const float* d_value = d_values.data() + t * s.v_head;
        std::copy(d_value, d_value + s.v_head, d_kv + s.qk_nope);
        if (s.qk_rope == 0) continue;
        float* d_rope = out.dk_rope + (head.first + t) * s.k_rope_stride;
        for (int64_t j = 0; j < s.qk_rope; ++j) {
          d_rope[j] = (h < sharing ? 0.0f : d_rope[j]) + d_key[s.qk_nope + j];
        }
      }
    }
  }
}

}  // namespace rehearse::kernels
