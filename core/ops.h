// The contract of every op: its arguments, their dtypes and shapes, which of them it writes, and what it computes. This
// is the only place that defines an op. Each device implements the whole list (Stream in device.h has one virtual
// function for each op), the binding reads and checks arguments by walking fields(), and scripts/generate-ops.mjs turns
// the structs and their comments into the TypeScript declarations of lib/ops.ts.
//
// A specification is "access dtype[dimension, ...]". Access is = for a tensor that is overwritten, + for one that is
// read and written, nothing for one that is read. A dtype is f32, i32, any, or a letter: A is float32 or bfloat16, the
// same for every A of the call; G likewise, chosen independently of A. A dimension is a number, or a sum of symbols
// such as T, or H+2K; a symbol has one value in a call.
//
//   T tokens of a packed batch   C hidden size      H, K query and key/value heads   D head size
//   F intermediate size          V vocabulary       B sequences being decoded        P positions (of a table, a cache)
//
// All shapes are row-major. Sums are in float32 whatever the storage. Every op is deterministic: the same operands give
// the same bits, whatever the number of threads.
#pragma once

#include "core/tensor.h"

namespace openalpaca {

// x = value, everywhere.
struct Fill {
  static constexpr const char* name = "fill";
  Tensor x;
  double value = 0;
  template <class V>
  void fields(V& v) {
    v("x", x, "=any[...]");
    v("value", value);  // rounded to x's dtype
  }
};

// dst = src, converted to dst's dtype (round to nearest even). Both have the same number of elements.
struct Cast {
  static constexpr const char* name = "cast";
  Tensor dst, src;
  template <class V>
  void fields(V& v) {
    v("dst", dst, "=any[...]");
    v("src", src, "any[...]");
    v.same_length("dst", dst, "src", src);
  }
};

// out[t] = w[ids[t]]. Also used to gather rows of any matrix. An id outside [0, V) is an error.
struct EmbeddingForward {
  static constexpr const char* name = "embedding_forward";
  Tensor out, ids, w;
  template <class V>
  void fields(V& v) {
    v("out", out, "=A[T, C]");
    v("ids", ids, "i32[T]");  // rows of w
    v("w", w, "A[V, C]");
  }
};

// dw[ids[t]] += dout[t], in the order of t. Also used to scatter rows.
struct EmbeddingBackward {
  static constexpr const char* name = "embedding_backward";
  Tensor dw, dout, ids;
  template <class V>
  void fields(V& v) {
    v("dw", dw, "+G[V, C]");
    v("dout", dout, "A[T, C]");
    v("ids", ids, "i32[T]");
  }
};

// rstd[t] = rsqrt(mean(x[t]²) + eps);  y[t] = x[t] · rstd[t] · w          (Zhang & Sennrich 2019, arXiv:1910.07467)
struct RmsNormForward {
  static constexpr const char* name = "rmsnorm_forward";
  Tensor y, rstd, x, w;
  double eps = 0;
  template <class V>
  void fields(V& v) {
    v("y", y, "=A[T, C]");
    v("rstd", rstd, "=f32[T]");  // for the backward pass
    v("x", x, "A[T, C]");
    v("w", w, "A[C]");
    v("eps", eps);  // added to the mean of the squares
  }
};

// sum = x + delta, rounded to its dtype;  y and rstd as rmsnorm_forward of sum. sum may be x itself.
struct AddRmsNormForward {
  static constexpr const char* name = "add_rmsnorm_forward";
  Tensor y, rstd, sum, x, delta, w;
  double eps = 0;
  template <class V>
  void fields(V& v) {
    v("y", y, "=A[T, C]");
    v("rstd", rstd, "=f32[T]");  // for the backward pass
    v("sum", sum, "=A[T, C]");   // may be x
    v("x", x, "A[T, C]");
    v("delta", delta, "A[T, C]");
    v("w", w, "A[C]");
    v("eps", eps);  // added to the mean of the squares
  }
};

// With g = dy · w and x̂ = x · rstd:  dx += rstd · (g − x̂ · mean(g · x̂));  dw += Σ_t dy · x̂
struct RmsNormBackward {
  static constexpr const char* name = "rmsnorm_backward";
  Tensor dx, dw, dy, x, w, rstd;
  template <class V>
  void fields(V& v) {
    v("dx", dx, "+A[T, C]");
    v("dw", dw, "+G[C]");
    v("dy", dy, "A[T, C]");
    v("x", x, "A[T, C]");  // as in the forward pass
    v("w", w, "A[C]");
    v("rstd", rstd, "f32[T]");  // of the forward pass
  }
};

// c = alpha · op(a) · op(b) + beta · c, float32 accumulation. op transposes when its flag is set: a is [m, k], or
// [k, m] transposed; b is [k, n], or [n, k] transposed.
struct MatMul {
  static constexpr const char* name = "matmul";
  Tensor c, a, b;
  bool transpose_a = false, transpose_b = false;
  double alpha = 1, beta = 0;
  template <class V>
  void fields(V& v) {
    v.optional("transpose_a", transpose_a);
    v.optional("transpose_b", transpose_b);
    v("c", c, "=G[m, n]");  // read as well unless beta is 0
    v("a", a, transpose_a ? "A[k, m]" : "A[m, k]");
    v("b", b, transpose_b ? "A[n, k]" : "A[k, n]");
    v.optional("alpha", alpha);
    v.optional("beta", beta);  // 0 overwrites c, 1 adds to it
  }
};

// Rotates the query and key heads in place by the angle of each token's position; the value heads stay. Pairs are
// (i, i + D/2), as in Hugging Face's rotate_half: x1' = x1·cos − x2·sin, x2' = x2·cos + x1·sin (Su et al.,
// arXiv:2104.09864). A position outside the table is an error.
struct RopeForward {
  static constexpr const char* name = "rope_forward";
  Tensor qkv, cos, sin, positions;
  int64_t num_heads = 0, num_kv_heads = 0;
  template <class V>
  void fields(V& v) {
    v("num_heads", num_heads, "H");
    v("num_kv_heads", num_kv_heads, "K");
    v("cos", cos, "f32[P, R]");  // the cosine of every position and frequency
    v("sin", sin, "f32[P, R]");
    v("qkv", qkv, "+A[T, H+2K, 2R]");     // each token's query heads, then its key and its value heads
    v("positions", positions, "i32[T]");  // rows of cos and sin
  }
};

// The inverse rotation, applied to the gradient of the rotated heads in place.
struct RopeBackward : RopeForward {
  static constexpr const char* name = "rope_backward";
};

// Causal attention over packed sequences: sequence s is the tokens cu_seqlens[s] … cu_seqlens[s+1]−1 (0 first, T last,
// rising). Query head h uses key/value head h / (H/K).
//   out = softmax(scale · q kᵀ) v;   lse[h, t] = log Σ exp(scale · q kᵀ)
// Scores never exist as a whole (Dao et al., arXiv:2205.14135).
struct AttentionForward {
  static constexpr const char* name = "attention_forward";
  Tensor out, lse, qkv, cu_seqlens;
  int64_t num_heads = 0, num_kv_heads = 0;
  double scale = 0;
  template <class V>
  void fields(V& v) {
    v("num_heads", num_heads, "H");
    v("num_kv_heads", num_kv_heads, "K");  // query head h uses key/value head ⌊h / (H/K)⌋
    v.multiple("num_heads", num_heads, "num_kv_heads", num_kv_heads);
    v("qkv", qkv, "A[T, H+2K, D]");  // each token's query heads, then its key and its value heads
    v("out", out, "=A[T, H, D]");
    v("lse", lse, "=f32[H, T]");            // log-sum-exp of the scores, for the backward pass
    v("cu_seqlens", cu_seqlens, "i32[N]");  // the first token of each sequence, and T at the end
    v("scale", scale);                      // multiplies the scores; usually 1/√D
  }
};

// Recomputes P = exp(scale · q kᵀ − lse), then with delta = rowsum(dout · out), which it writes:
//   dv = Pᵀ dout;  dS = P · (dout vᵀ − delta);  dq = scale · dS k;  dk = scale · dSᵀ q       (dqkv is overwritten)
struct AttentionBackward {
  static constexpr const char* name = "attention_backward";
  Tensor dqkv, delta, dout, out, lse, qkv, cu_seqlens;
  int64_t num_heads = 0, num_kv_heads = 0;
  double scale = 0;
  template <class V>
  void fields(V& v) {
    v("num_heads", num_heads, "H");
    v("num_kv_heads", num_kv_heads, "K");  // query head h uses key/value head ⌊h / (H/K)⌋
    v.multiple("num_heads", num_heads, "num_kv_heads", num_kv_heads);
    v("dqkv", dqkv, "=A[T, H+2K, D]");
    v("delta", delta, "=f32[H, T]");  // rowsum(dout · out)
    v("dout", dout, "A[T, H, D]");
    v("out", out, "A[T, H, D]");            // of the forward pass
    v("lse", lse, "f32[H, T]");             // of the forward pass
    v("qkv", qkv, "A[T, H+2K, D]");         // each token's query heads, then its key and its value heads
    v("cu_seqlens", cu_seqlens, "i32[N]");  // the first token of each sequence, and T at the end
    v("scale", scale);                      // multiplies the scores; usually 1/√D
  }
};

// k_cache[sequences[t], positions[t]] = the key heads of token t, and the values likewise. A token whose sequence is
// negative is skipped (padding); a position outside the cache is an error.
struct KvCacheWrite {
  static constexpr const char* name = "kv_cache_write";
  Tensor k_cache, v_cache, qkv, sequences, positions;
  int64_t num_heads = 0, num_kv_heads = 0;
  template <class V>
  void fields(V& v) {
    v("num_heads", num_heads, "H");
    v("num_kv_heads", num_kv_heads, "K");
    v("k_cache", k_cache, "=A[B, P, K, D]");  // only the rows of the tokens
    v("v_cache", v_cache, "=A[B, P, K, D]");  // only the rows of the tokens
    v("qkv", qkv, "A[T, H+2K, D]");
    v("sequences", sequences, "i32[T]");  // from 0 to B − 1; a token with a negative one is skipped
    v("positions", positions, "i32[T]");  // each token's position, from 0 to P − 1
  }
};

// One new token of each sequence: its query heads attend to the cache's positions 0 … positions[b], its own included,
// which kv_cache_write has stored before.
struct AttentionDecode {
  static constexpr const char* name = "attention_decode";
  Tensor out, qkv, k_cache, v_cache, positions;
  int64_t num_heads = 0, num_kv_heads = 0;
  double scale = 0;
  template <class V>
  void fields(V& v) {
    v("num_heads", num_heads, "H");
    v("num_kv_heads", num_kv_heads, "K");
    v.multiple("num_heads", num_heads, "num_kv_heads", num_kv_heads);
    v("out", out, "=A[B, H, D]");
    v("qkv", qkv, "A[B, H+2K, D]");
    v("k_cache", k_cache, "A[B, P, K, D]");
    v("v_cache", v_cache, "A[B, P, K, D]");
    v("positions", positions, "i32[B]");  // the position of each sequence's new token
    v("scale", scale);                    // multiplies the scores; usually 1/√D
  }
};

// h = silu(gate) · up, where each row of gate_up is F gates and then F ups     (Shazeer 2020, arXiv:2002.05202)
struct SwigluForward {
  static constexpr const char* name = "swiglu_forward";
  Tensor h, gate_up;
  template <class V>
  void fields(V& v) {
    v("h", h, "=A[T, F]");
    v("gate_up", gate_up, "A[T, 2F]");  // a row is F gates, then F ups
  }
};

// Replaces gate_up by its gradient.
struct SwigluBackward {
  static constexpr const char* name = "swiglu_backward";
  Tensor gate_up, dh;
  template <class V>
  void fields(V& v) {
    v("dh", dh, "A[T, F]");
    v("gate_up", gate_up, "+A[T, 2F]");  // replaced by its gradient
  }
};

// losses[t] = logsumexp(logits[t]) − logits[t, labels[t]];  correct[t] = 1 where the first largest logit is the label.
// With write_gradient, logits[t] becomes weights[t] · (softmax(logits[t]) − onehot(labels[t])). A negative label is
// ignored: its loss, correct and gradient are 0, and its logits are not read. A label of V or more is an error.
struct CrossEntropy {
  static constexpr const char* name = "cross_entropy";
  Tensor logits, losses, correct, labels, weights;
  bool write_gradient = true;
  template <class V>
  void fields(V& v) {
    v("logits", logits, "+A[T, V]");  // with write_gradient replaced by its gradient, else only read
    v("losses", losses, "=f32[T]");
    v("correct", correct, "=i32[T]");     // 1 where the most likely token is the label
    v("labels", labels, "i32[T]");        // a negative one is ignored
    v("weights", weights, "f32[T]");      // factor of each token's loss in the gradient, such as 1/T for the mean
    v("write_gradient", write_gradient);  // whether logits are replaced by their gradient
  }
};

// AdamW as torch.optim.AdamW computes it (Loshchilov & Hutter, arXiv:1711.05101), with g = grad_scale · grad:
//   master *= 1 − lr·weight_decay;  m = β1·m + (1−β1)·g;  v = β2·v + (1−β2)·g²
//   master −= lr / (1−β1^step) · m / (√(v / (1−β2^step)) + eps);  weights = master, rounded to nearest even
// weights is left out when the model computes with master (float32 training).
struct AdamW {
  static constexpr const char* name = "adamw";
  Tensor weights, master, m, v, grad;
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, grad_scale = 1;
  int64_t step = 1;
  template <class V>
  void fields(V& visit) {
    visit.optional("weights", weights, "=A[n]");  // master, rounded; left out where the model computes with master
    visit("master", master, "+f32[n]");
    visit("m", m, "+f32[n]");  // first moment, 0 before the first step
    visit("v", v, "+f32[n]");  // second moment, 0 before the first step
    visit("grad", grad, "G[n]");
    visit("lr", lr);                      // learning rate of this step
    visit("beta1", beta1);                // decay of the first moment
    visit("beta2", beta2);                // decay of the second moment
    visit("eps", eps);                    // added to the root of the second moment
    visit("weight_decay", weight_decay);  // decoupled: master is multiplied by 1 − lr · weight_decay
    visit("grad_scale", grad_scale);      // multiplies grad first, such as max_norm / norm to clip it
    visit("step", step);                  // counts from 1
  }
};

// out[0] = Σ x², summed in a fixed order.
struct GlobalNorm {
  static constexpr const char* name = "global_norm";
  Tensor out, x;
  template <class V>
  void fields(V& v) {
    v("out", out, "=f32[1]");
    v("x", x, "A[n]");
  }
};

// Chooses the next token of each sequence from its logits, in Transformers' order: the repetition penalty on every
// token of history[b, 0 … positions[b]] (Keskar et al., arXiv:1909.05858), temperature, top_k, top_p, then a draw.
// temperature 0 is greedy: the first largest logit, after the penalty. The random number is a counter-based function
// (Philox 4x32-10, Salmon et al. 2011) of seeds[b], sequence_seeds[b], and the position, so a seed gives the same text
// on every run and in every batch. Then, so that a recorded graph can run on:
//   positions[b] += 1;  ids[b] = token;  history[b, positions[b]] = token
// A sequence whose position is P − 1 or negative is finished, and does not change.
struct Sample {
  static constexpr const char* name = "sample";
  Tensor ids, positions, history, logits, temperature, top_p, top_k, repetition_penalty, seeds, sequence_seeds, scratch;
  template <class V>
  void fields(V& v) {
    v("ids", ids, "=i32[B]");              // the new tokens
    v("positions", positions, "+i32[B]");  // of the last token; one more afterwards
    v("history", history, "+i32[B, P]");   // the tokens so far; the new one is added
    v("logits", logits, "A[B, V]");
    v("temperature", temperature, "f32[B]");  // divides the logits; 0 takes the most likely token
    v("top_p", top_p,
      "f32[B]");  // keeps the smallest set of most likely tokens that reaches this probability; 1 disables
    v("top_k", top_k, "i32[B]");  // keeps only the k most likely tokens; 0 disables
    v("repetition_penalty", repetition_penalty,
      "f32[B]");                                    // above 1 makes tokens of the history less likely; 1 disables
    v("seeds", seeds, "i32[B, 2]");                 // 64 bits, the low word first
    v("sequence_seeds", sequence_seeds, "i32[B]");  // distinguishes sequences that have one seed
    v("scratch", scratch, "=f32[B, 2V]");           // working memory
  }
};

// x[i] = std · (a draw from the normal distribution), a function of seed, stream_id and i alone.
struct RandomNormal {
  static constexpr const char* name = "random_normal";
  Tensor x;
  double std = 1;
  int64_t seed = 0, stream_id = 0;
  template <class V>
  void fields(V& v) {
    v("x", x, "=A[n]");
    v("std", std);              // standard deviation
    v("seed", seed);            // an integer
    v("stream_id", stream_id);  // an integer that distinguishes the tensors drawn with one seed
  }
};

// Every op, as X(arguments, function). A new op is a struct above and a line here; the compiler then asks each device
// for it.
#define OPENALPACA_OPS(X)                   \
  X(Fill, fill)                             \
  X(Cast, cast)                             \
  X(EmbeddingForward, embedding_forward)    \
  X(EmbeddingBackward, embedding_backward)  \
  X(RmsNormForward, rmsnorm_forward)        \
  X(AddRmsNormForward, add_rmsnorm_forward) \
  X(RmsNormBackward, rmsnorm_backward)      \
  X(MatMul, matmul)                         \
  X(RopeForward, rope_forward)              \
  X(RopeBackward, rope_backward)            \
  X(AttentionForward, attention_forward)    \
  X(AttentionBackward, attention_backward)  \
  X(KvCacheWrite, kv_cache_write)           \
  X(AttentionDecode, attention_decode)      \
  X(SwigluForward, swiglu_forward)          \
  X(SwigluBackward, swiglu_backward)        \
  X(CrossEntropy, cross_entropy)            \
  X(AdamW, adamw)                           \
  X(GlobalNorm, global_norm)                \
  X(Sample, sample)                         \
  X(RandomNormal, random_normal)

}  // namespace openalpaca
