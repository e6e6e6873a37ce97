// Element types: how they are read into the type that is computed in, and written back.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace {

constexpr int64_t kBlock = 512;        // elements, at most: what a buffer has room for
// Elements of a block of a step. Small, so that the processor, which looks some hundred instructions
// ahead, begins to read the next block while it computes this one.
constexpr int64_t kStepBlock = 128;
constexpr int64_t kChunk = 1 << 14;    // elements a thread takes at a time; norms are summed by it
constexpr int64_t kWorthAThread = 1 << 14;
constexpr int64_t kScaleBlock = 256;   // elements of int8 that share a scale, as in formats.py
static_assert(kChunk % kBlock == 0 && kBlock % kScaleBlock == 0 && kScaleBlock % kStepBlock == 0,
              "blocks must nest");

enum Type : int64_t { kFloat32, kFloat64, kBfloat16, kFloat16, kInt8 };

struct Bfloat16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(Bfloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void narrow(float x, float& out) { out = x; }
inline void narrow(double x, double& out) { out = x; }
inline void narrow(double x, float& out) { out = static_cast<float>(x); }
inline void narrow(float x, Bfloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  uint32_t even = bits + 0x7fffu + ((bits >> 16) & 1u);
  out.bits = static_cast<uint16_t>((x == x ? even : bits | 0x400000u) >> 16);
}
inline void narrow(double x, Bfloat16& out) { narrow(static_cast<float>(x), out); }

#ifdef __FLT16_MANT_DIG__
using Float16 = _Float16;
inline float widen(Float16 x) { return static_cast<float>(x); }
inline void narrow(float x, Float16& out) { out = static_cast<Float16>(x); }
inline void narrow(double x, Float16& out) { out = static_cast<Float16>(static_cast<float>(x)); }
constexpr bool kHasFloat16 = true;
#else
constexpr bool kHasFloat16 = false;
#endif

// The same for numbers that are not NaN.
template <class W, class S> inline void narrow_finite(W x, S& out) { narrow(x, out); }
template <class W> inline void narrow_finite(W wide, Bfloat16& out) {
  const float x = static_cast<float>(wide);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  out.bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The largest number of a format that a wider one must not pass on its way into it.
template <class S> constexpr double largest() { return std::numeric_limits<S>::max(); }
template <> constexpr double largest<Bfloat16>() { return 3.3895313892515355e38; }
#ifdef __FLT16_MANT_DIG__
template <> constexpr double largest<Float16>() { return 65504.0; }
#endif

// No gradient that enters has a larger element: its squares are summed in this type.
template <class W>
constexpr double kLargestElement = std::is_same_v<W, double> ? 1.4e154 : 1.9e19;

template <class P> using Wide = std::conditional_t<std::is_same_v<P, double>, double, float>;

// n elements of type T in the wide type: the array itself where it has that type, else a copy.
template <class T, class W> const W* read(const T* from, int64_t n, W* buffer) {
  if constexpr (std::is_same_v<T, W>) {
    return from;
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) buffer[i] = static_cast<W>(widen(from[i]));
    return buffer;
  }
}

// The same for an array that is changed: written back when it goes out of scope.
template <class T, class W> struct Edited {
  Edited(void* base, int64_t offset, int64_t n) : n(n) {
    target = base ? static_cast<T*>(base) + offset : nullptr;
    data = target ? const_cast<W*>(read<T, W>(target, n, buffer)) : nullptr;
  }
  ~Edited() {
    if constexpr (!std::is_same_v<T, W>) {
      if (!target) return;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) narrow(data[i], target[i]);
    }
  }
  W* data;

 private:
  T* target;
  int64_t n;
  alignas(64) W buffer[std::is_same_v<T, W> ? 1 : kBlock];
};

}  // namespace
