// The base rules: each is made of its options for one tensor, whose count of steps is t, and applied
// to blocks.

#pragma once

#include <cmath>
#include <cstdint>

#include "numbers.h"

namespace {

// From one number to another by a share of the way, begun at the nearer end, as torch's lerp has it:
// a share of 1 gives the other one, however large the first was.
template <class W> inline W near(W from, W to, W share) {
  const W way = to - from;
  return share < W(0.5) ? from + share * way : to - (1 - share) * way;
}

// Without a decay, an infinite parameter makes no NaN.
template <class W> inline W with_decay(W u, W decay, W p) { return decay == 0 ? u : u + decay * p; }

template <class W> struct Sgd {
  W lr, momentum, keep, weight_decay, sign;
  bool nesterov;
  Sgd(const double* o, double, bool fresh) {
    lr = o[0], momentum = o[1], weight_decay = o[3];
    keep = fresh ? 1 : 1 - o[2];  // without dampening the first time, as torch has it
    nesterov = o[4], sign = o[5] ? -1 : 1;
  }
  void operator()(W* __restrict p, W* const* state, W* __restrict u, int64_t n) const {
    W* __restrict buffer = state[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] = with_decay(sign * u[i], weight_decay, p[i]);
    if (buffer) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        buffer[i] = momentum * buffer[i] + keep * u[i];
        u[i] = nesterov ? u[i] + momentum * buffer[i] : buffer[i];
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) p[i] -= lr * u[i];
  }
};

template <class W> struct RmsProp {
  W lr, alpha, rest, eps, weight_decay, momentum, sign;
  RmsProp(const double* o, double, bool) {
    lr = o[0], alpha = o[1], rest = 1 - o[1], eps = o[2], weight_decay = o[3], momentum = o[4];
    sign = o[5] ? -1 : 1;
  }
  void operator()(W* __restrict p, W* const* state, W* __restrict u, int64_t n) const {
    W* __restrict square = state[0];
    W* __restrict mean = state[1];
    W* __restrict buffer = state[2];
    alignas(64) W variance[kBlock];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      u[i] = with_decay(sign * u[i], weight_decay, p[i]);
      square[i] = alpha * square[i] + rest * u[i] * u[i];
      variance[i] = square[i];
    }
    if (mean) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        mean[i] = near(mean[i], u[i], rest);
        variance[i] -= mean[i] * mean[i];
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] /= std::sqrt(variance[i]) + eps;
    if (buffer) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) u[i] = buffer[i] = momentum * buffer[i] + u[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) p[i] -= lr * u[i];
  }
};

// Adam; of critical momenta, where the momentum is not made here but is what u was made of.
template <class W, bool Critical> struct AdamRule {
  W size, keep, rest1, beta2, rest2, root, eps, l2, sign;
  AdamRule(const double* o, double t, bool) {
    const double lr = o[0], beta1 = o[1], decay = o[4];
    beta2 = o[2], eps = o[3], rest1 = 1 - beta1, rest2 = 1 - o[2];
    size = lr / (1 - std::pow(beta1, t));
    root = 1 / std::sqrt(1 - std::pow(o[2], t));
    keep = o[5] ? 1 - lr * decay : 1;
    l2 = o[5] ? 0 : decay;
    sign = o[6] ? -1 : 1;
  }
  void operator()(W* __restrict p, W* const* state, W* __restrict u, int64_t n) const {
    W* __restrict m = state[0];
    W* __restrict v = state[1];
    W* __restrict most = state[2];
    alignas(64) W second[kBlock];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      p[i] *= keep;
      const W a = with_decay(sign * u[i], l2, p[i]);
      if constexpr (Critical) {
        u[i] = a;
      } else {
        m[i] = near(m[i], a, rest1);
      }
      second[i] = v[i] = beta2 * v[i] + rest2 * a * a;
    }
    if (most) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++)  // NaN stays, as torch has it
        second[i] = most[i] = v[i] <= most[i] || most[i] != most[i] ? most[i] : v[i];
    }
    const W* along = Critical ? u : m;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) p[i] -= size * (along[i] / (std::sqrt(second[i]) * root + eps));
  }
};
template <class W> using Adam = AdamRule<W, false>;
template <class W> using CriticalAdam = AdamRule<W, true>;

}  // namespace
