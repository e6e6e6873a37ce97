// What a step is given, and the slots: how the formats are read, and how a gradient takes one.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "numbers.h"

namespace {

// What stays from step to step of one parameter. Mirrored, field by field, in native.py.
struct Tensor {
  int64_t size;
  void* param;
  void* total;      // running sum S, float or double
  void* slots;      // (capacity, size)
  float* scales;    // (capacity, scale blocks) for int8, else null
  void* state[3];   // the rule's own; null where it has none
  void* step;       // its count of steps, raised here; or null
  int64_t step_is_double;
  int64_t row;      // which ledger it belongs to
};

// What one ledger does in this step.
struct Move {
  double current, stored;
  const double* weights;  // of each slot in u; null if S has them all
  int64_t capacity;
  int64_t slot;           // that the gradient enters, or -1
  int64_t update;         // whether the parameters take their step
};

// What changes from step to step, by tensor, and the moves by row.
struct Call {
  const void* const* grads;  // or what else is offered to the memory
  const Move* moves;
  void* const* updates;      // take u, for an observer; or null
  const uint8_t* fresh;      // whose state was made just now; or null
  double* squares;           // take the squared norm of each gradient; or null
};


// One block of one slot: read gives the values that it stands for; exchange puts others there, and
// takes the sum from what was read before to what will be read.
template <class S, class W> struct FloatSlot {
  static constexpr int64_t kAtOnce = kStepBlock;
  static S* at(const Tensor& t, int64_t slot, int64_t from) {
    return static_cast<S*>(t.slots) + slot * t.size + from;
  }
  static const W* read_slot(const Tensor& t, int64_t slot, int64_t from, int64_t n, W* buffer) {
    return read<S, W>(at(t, slot, from), n, buffer);
  }
  static void exchange(const Tensor& t, int64_t slot, int64_t from, int64_t n,
                       const W* __restrict g, W* __restrict total) {
    S* __restrict to = at(t, slot, from);
    if constexpr (std::is_same_v<S, W>) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        total[i] = (total[i] - to[i]) + g[i];
        to[i] = g[i];
      }
    } else {  // in loops of their own: mixed widths in one are not vectorized well
      alignas(64) W old[kBlock], clamped[kBlock];
      const W* from_g = g;
      if constexpr (largest<S>() < kLargestElement<W>) {
        const W limit = static_cast<W>(largest<S>());
#pragma omp simd
        for (int64_t i = 0; i < n; i++) clamped[i] = std::min(std::max(g[i], -limit), limit);
        from_g = clamped;
      }
#pragma omp simd
      for (int64_t i = 0; i < n; i++) old[i] = static_cast<W>(widen(to[i]));
#pragma omp simd
      for (int64_t i = 0; i < n; i++) narrow_finite(from_g[i], to[i]);
#pragma omp simd
      for (int64_t i = 0; i < n; i++) total[i] = (total[i] - old[i]) + static_cast<W>(widen(to[i]));
    }
  }
};

template <class W> struct Int8Slot {
  static constexpr int64_t kAtOnce = kScaleBlock;
  static float* scales(const Tensor& t, int64_t slot, int64_t from) {
    return t.scales + slot * ((t.size + kScaleBlock - 1) / kScaleBlock) + from / kScaleBlock;
  }
  static const W* read_slot(const Tensor& t, int64_t slot, int64_t from, int64_t n, W* buffer) {
    const int8_t* codes = static_cast<const int8_t*>(t.slots) + slot * t.size + from;
    const float* scale = scales(t, slot, from);
    for (int64_t b = 0; b < n; b += kScaleBlock, scale++) {
      const float s = *scale;
      const int64_t end = std::min(n, b + kScaleBlock);
#pragma omp simd
      for (int64_t i = b; i < end; i++) buffer[i] = static_cast<float>(codes[i]) * s;
    }
    return buffer;
  }
  static void exchange(const Tensor& t, int64_t slot, int64_t from, int64_t n,
                       const W* __restrict g, W* __restrict total) {
    int8_t* __restrict codes = static_cast<int8_t*>(t.slots) + slot * t.size + from;
    float* scale = scales(t, slot, from);
    const W limit = static_cast<W>(std::numeric_limits<float>::max() * (1 - 0x1p-23));
    for (int64_t b = 0; b < n; b += kScaleBlock, scale++) {
      const int64_t end = std::min(n, b + kScaleBlock);
      W most = 0;
#pragma omp simd reduction(max : most)
      for (int64_t i = b; i < end; i++) most = std::max(most, std::abs(g[i]));
      const float before = *scale;
      const float now = std::max(static_cast<float>(std::min(most, limit) / 127),
                                 std::numeric_limits<float>::min());
      *scale = now;
#pragma omp simd
      for (int64_t i = b; i < end; i++) {
        const W code = std::min(std::max(std::nearbyint(g[i] / now), W(-127)), W(127));
        const float old = static_cast<float>(codes[i]) * before;
        codes[i] = static_cast<int8_t>(static_cast<int32_t>(code));
        total[i] = (total[i] - old) + static_cast<float>(code) * now;
      }
    }
  }
};

template <class Slot, class W>
void add_slots(const Tensor& t, const Move& move, int64_t from, int64_t n, W* __restrict u) {
  alignas(64) W buffer[kBlock];
  for (int64_t k = 0; k < move.capacity; k++) {
    const W weight = static_cast<W>(move.weights[k]);
    if (weight == 0) continue;
    const W* slot = Slot::read_slot(t, k, from, n, buffer);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] += weight * slot[i];
  }
}

// A function called with the slot class of a format.
template <class W, class F> void with_slot(int64_t type, F&& f) {
  switch (type) {
    case kFloat32: return f(FloatSlot<float, W>{});
    case kFloat64:  // of double parameters alone
      if constexpr (std::is_same_v<W, double>) return f(FloatSlot<double, W>{});
      break;
    case kBfloat16: return f(FloatSlot<Bfloat16, W>{});
#ifdef __FLT16_MANT_DIG__
    case kFloat16: return f(FloatSlot<Float16, W>{});
#endif
    case kInt8: return f(Int8Slot<W>{});
  }
}

}  // namespace
